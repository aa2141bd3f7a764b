"""TIFF stacks, with what OME and GeoTIFF say of their coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scatflow.archive.axis import Axis
from scatflow.archive.ingest import extra
from scatflow.archive.stack import Box, Head
from scatflow.errors import IngestError

OME_NAMES = {"T": "time", "C": "channel", "Z": "z", "Y": "y", "X": "x"}
"""What the axes of OME-TIFF are called here; files that have others are read page by page."""

FEET = {9001: "m", 9002: "ft", 9003: "US_survey_foot"}
"""Units of length by their EPSG code."""

USER_DEFINED = 32767
"""A coordinate system without a code."""

NODATA = 42113
"""Tag by which GDAL tells what stands for a missing pixel."""


def shaped(samples: int, pages: int, height: int, width: int) -> tuple[tuple[str, ...], Any]:
    """Return the dimensions of an image; those of one entry are left out."""
    dims: list[str] = []
    shape: list[int] = []
    for name, n in (("page", pages), ("channel", samples)):
        if n > 1:
            dims.append(name)
            shape.append(n)
    return (*dims, "y", "x"), (*shape, height, width)


def check(path: Path, dtype: np.dtype[Any]) -> None:
    """Refuse pixels that are no real numbers.

    Raises
    ------
    IngestError
        If they are not.
    """
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise IngestError(f"{path} holds {dtype}, and an archive holds real numbers: convert it.")


class Tiff:
    """Stacks of pages, by tifffile."""

    def __init__(self) -> None:
        self._tifffile = extra("tifffile", "TIFF")

    @contextmanager
    def _file(self, path: Path) -> Iterator[Any]:
        try:
            file = self._tifffile.TiffFile(path)
        except (self._tifffile.TiffFileError, OSError, ValueError) as problem:
            raise IngestError(f"{path} is no TIFF that can be read: {problem}.") from problem
        with file:
            yield file

    def head(self, path: Path) -> Head:
        """Return what a file holds."""
        with self._file(path) as file:
            pages = [(p.shape, p.dtype) for p in file.pages]
            first = file.pages[0]
            if any(page != pages[0] for page in pages):
                raise IngestError(
                    f"{path} holds pages of several sizes or types ({pages[0]}, "
                    f"{next(p for p in pages if p != pages[0])}): save those of one kind apart."
                )
            _check_whole(path, file)
            dtype = np.dtype(first.dtype).newbyteorder("=")
            samples = int(first.samplesperpixel)
            height, width = int(first.imagelength), int(first.imagewidth)
            check(path, dtype)
            if _is_ome(file):
                return self._ome(file, dtype)
            dims, shape = shaped(samples, len(pages), height, width)
            return Head(dims, shape, dtype, *_located(file.geotiff_metadata or {}, first))

    def _ome(self, file: Any, dtype: np.dtype[Any]) -> Head:
        series = file.series[0]
        dims = tuple(OME_NAMES[axis] for axis in series.axes)
        image = self._tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]
        told = (image[0] if isinstance(image, list) else image)["Pixels"]
        axes = {}
        sizes = {"x": "PhysicalSizeX", "y": "PhysicalSizeY", "z": "PhysicalSizeZ"}
        for dim, key in {**sizes, "time": "TimeIncrement"}.items():
            if dim in dims and float(told.get(key, 0)) > 0:
                unit = str(told.get(f"{key}Unit", "s" if dim == "time" else "µm"))
                axes[dim] = Axis(0.0, Fraction(str(told[key])), unit)
        channels = told.get("Channel", [])
        names = [c.get("Name") for c in (channels if isinstance(channels, list) else [channels])]
        coords: dict[str, Any] = {}
        if "channel" in dims and len(names) == series.shape[dims.index("channel")] and all(names):
            coords["channel"] = (("channel",), np.array([str(name) for name in names]), {})
        return Head(dims, tuple(map(int, series.shape)), dtype, axes, coords)

    @contextmanager
    def open(self, path: Path) -> Iterator[Callable[[Box], NDArray[Any]]]:
        """Open a file, whose channels are decoded together where a page holds several."""
        with self._file(path) as file:
            samples = int(file.pages[0].samplesperpixel)
            series = file.series[0] if _is_ome(file) else None
            shape = () if len(file.pages) == 1 else (len(file.pages),)
            pages = file.pages
            if series is not None:
                shape, pages = series.shape[:-2], series.pages
            kept: dict[int, NDArray[Any]] = {}

            def read(box: Box) -> NDArray[Any]:
                first, rest = box[: len(shape)], box[len(shape) :]
                page = int(np.ravel_multi_index([s.start for s in first], shape)) if shape else 0
                if page not in kept:
                    kept.clear()
                    kept[page] = self._page(path, pages[page], samples)
                return kept[page][rest].reshape([s.stop - s.start for s in box])

            yield read

    def _page(self, path: Path, page: Any, samples: int) -> NDArray[Any]:
        try:
            values = np.asarray(page.asarray())
        except (ValueError, OSError, RuntimeError, KeyError) as problem:
            raise IngestError(
                f"{path} cannot be decoded: {problem}. If it names a codec, pip install "
                "imagecodecs; else the file is damaged: fetch it again."
            ) from problem
        if samples > 1 and values.shape[-1] == samples and values.shape[0] != samples:
            values = np.moveaxis(values, -1, 0)
        return values


def _check_whole(path: Path, file: Any) -> None:
    """Refuse a file that ends before its pixels do, before any is read."""
    ends = [
        offset + count
        for page in file.pages
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
    ]
    if max(ends, default=0) > file.filehandle.size:
        raise IngestError(
            f"{path} is cut short: its pixels reach to byte {max(ends)}, and it has "
            f"{file.filehandle.size}. Fetch it again, or leave it out."
        )


def _is_ome(file: Any) -> bool:
    """Tell whether a file holds one OME image, all of it, on axes that have names here."""
    if not file.is_ome or len(file.series) != 1:
        return False
    series = file.series[0]
    whole = len(file.pages) == math.prod(series.shape[:-2])
    return whole and series.axes.endswith("YX") and set(series.axes) <= set(OME_NAMES)


# --- GeoTIFF ---------------------------------------------------------------------------------


def _located(
    geo: Mapping[str, Any], page: Any
) -> tuple[dict[str, Axis], dict[str, Any], dict[str, Any]]:
    """Return axes, coordinates and attributes of a page by its geographic keys."""
    attrs: dict[str, Any] = {}
    if NODATA in page.tags and float(page.nodata) == np.array(page.nodata).astype(page.dtype):
        attrs["_FillValue"] = np.array(page.nodata).astype(page.dtype).item()
    if not geo:
        return {}, {}, attrs
    projected = geo.get("ProjectedCSTypeGeoKey", geo.get("ProjectedCRSGeoKey"))
    geographic = geo.get("GeographicTypeGeoKey", geo.get("GeodeticCRSGeoKey"))
    code = projected if projected is not None else geographic
    if code is not None and int(code) != USER_DEFINED:
        attrs["crs"] = f"EPSG:{int(code)}"
    if citation := geo.get("GTCitationGeoKey"):
        attrs["crs_name"] = str(citation)
    transform = _transform(geo)
    if transform is None:
        return {}, {}, attrs
    attrs["geo_transform"] = [float(v) for v in transform]
    x0, sx, across, y0, along, sy = transform
    if across or along or not sx or not sy:
        return {}, {}, attrs  # Turned: neither axis is a coordinate.
    metres = FEET.get(int(geo.get("ProjLinearUnitsGeoKey", 0)), "")
    degrees = projected is None and geographic is not None
    units = ("degrees_east", "degrees_north") if degrees else (metres, metres)
    x = Axis(float(x0 + sx / 2), sx, units[0])
    return {"x": x, "y": Axis(float(y0 + sy / 2), sy, units[1])}, {}, attrs


def _transform(geo: Mapping[str, Any]) -> tuple[Fraction, ...] | None:
    """Return what takes columns and rows to x and y, in GDAL's order; pixel 0 begins at 0."""
    if "ModelTransformation" in geo:
        given = np.reshape(geo["ModelTransformation"], (4, 4))
        m = [[Fraction(str(float(v))) for v in row] for row in given]
        x0, sx, across, y0, along, sy = m[0][3], m[0][0], m[0][1], m[1][3], m[1][0], m[1][1]
    elif "ModelPixelScale" in geo and "ModelTiepoint" in geo:
        tie = [Fraction(str(float(v))) for v in np.ravel(geo["ModelTiepoint"])[:6]]
        sx, sy = (Fraction(str(float(v))) for v in geo["ModelPixelScale"][:2])
        sy, across, along = -sy, Fraction(0), Fraction(0)
        x0, y0 = tie[3] - tie[0] * sx, tie[4] - tie[1] * sy
    else:
        return None
    if int(geo.get("GTRasterTypeGeoKey", 1)) == 2:  # Of points.
        x0, y0 = x0 - (sx + across) / 2, y0 - (sy + along) / 2
    return x0, sx, across, y0, along, sy


def apart(heads: Sequence[Head]) -> list[Head]:
    """Return tiles such that they are alike: where they lie in several places, each from 0 on."""
    located = [head for head in heads if {"x", "y"} <= set(head.axes)]
    if len(located) < len(heads) or all(head.axes == heads[0].axes for head in heads):
        return list(heads)
    coords = dict(heads[0].coords)
    for dim in ("y", "x"):
        origins = np.array([head.axes[dim].origin for head in heads])
        coords[f"{dim}_origin"] = (("file",), origins, {"units": heads[0].axes[dim].units})
    found = []
    for head in heads:
        axes = {**head.axes, **{dim: replace(head.axes[dim], origin=0.0) for dim in ("y", "x")}}
        attrs = {key: value for key, value in head.attrs.items() if key != "geo_transform"}
        found.append(replace(head, axes=axes, coords=coords, attrs=attrs))
    return found
