"""The slices of a DICOM series to an archive."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scatflow.archive.axis import Axis
from scatflow.archive.ingest import Ingested, PathName, Progress, extra, input_paths
from scatflow.archive.regular import IrregularError, recognise
from scatflow.archive.stack import Box, Head, write_stack
from scatflow.archive.stores import listed
from scatflow.errors import IngestError

KEPT = {
    "Modality": "modality",
    "SeriesDescription": "long_name",
    "SeriesInstanceUID": "series_instance_uid",
    "StudyDate": "study_date",
    "BodyPartExamined": "body_part",
    "RescaleType": "units",
}
"""What is kept of a header, and under which name: nothing that tells who the patient is."""


@dataclass(frozen=True)
class _Slice:
    path: Path
    header: Any
    place: float
    """Millimetres along the normal of the slices."""


def ingest_dicom(
    inputs: Sequence[PathName] | PathName,
    output: PathName,
    *,
    variable: str = "volume",
    attrs: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Ingested:
    """Write the slices of one series to one archive with the dimensions ``z``, ``y`` and ``x``.

    Slices are ordered along their normal, in millimetres from the first one; ``affine`` takes voxel
    numbers (x, y, z) to the patient's millimetres. Numbers stay as they are stored: slope and
    intercept become ``scale_factor`` and ``add_offset``, which reading applies; where they differ
    from slice to slice they are applied here. Nothing that names the patient is kept.

    Parameters
    ----------
    inputs : paths
        Files of one slice each, and folders in which they are searched for, by content.
    output : path
        The archive to make.
    variable : str
        Name of the array in the archive.
    attrs : mapping, optional
        Further attributes of the variable.
    overwrite : bool
        Replace an archive of that name.
    on_progress : callable, optional
        Is told the bytes done, and of how many.

    Raises
    ------
    IngestError
        A file is no grey slice, files belong to several series or do not lie in one stack, or the
        output exists.
    MissingExtraError
        pydicom is not installed.
    """
    pydicom = extra("pydicom", "DICOM")
    slices = _stacked(_slices(pydicom, input_paths(inputs)))
    scales = [_scale(s.header) for s in slices]
    scaled = len(set(scales)) > 1
    heads = _heads(slices, attrs or {}, None if scaled else scales[0])
    of = {s.path: scale for s, scale in zip(slices, scales, strict=True)}

    @contextmanager
    def open_file(path: Path) -> Iterator[Callable[[Box], NDArray[Any]]]:
        try:
            values = pydicom.dcmread(path).pixel_array
        except (AttributeError, ValueError, RuntimeError, NotImplementedError, OSError) as problem:
            raise IngestError(
                f"{path} cannot be decoded: {' '.join(str(problem).split())} If it names a "
                "plugin, install it (pylibjpeg, for compressed slices); else the file is damaged."
            ) from problem
        slope, offset = of[path]
        yield lambda box: values[box] * slope + offset if scaled else values[box]

    return write_stack(
        [s.path for s in slices],
        heads,
        open_file,
        output,
        along="z",
        variable=variable,
        source="DICOM",
        overwrite=overwrite,
        on_progress=on_progress,
        stacked=True,
    )


def _slices(pydicom: Any, inputs: Sequence[Path]) -> list[_Slice]:
    """Read the headers of all slices among files and in folders."""
    found = []
    for path in inputs:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if not pydicom.misc.is_dicom(file):
                if not path.is_dir():
                    raise IngestError(f"{file} is no DICOM file: leave it out.")
                continue
            header = pydicom.dcmread(file, stop_before_pixels=True)
            if "Rows" in header:
                _check(file, header)
                found.append(_Slice(file, header, _place(header)))
            elif not path.is_dir():
                raise IngestError(f"{file} holds no image: leave it out.")
    if not found:
        raise IngestError(f"There is no DICOM image in {listed(map(str, inputs))}.")
    return found


def _check(path: Path, header: Any) -> None:
    if int(header.get("NumberOfFrames", 1)) > 1 or int(header.get("SamplesPerPixel", 1)) > 1:
        raise IngestError(
            f"{path} holds several frames or colours, and grey slices are read, one a file: "
            "convert it to NIfTI (dcm2niix), which is ingested too."
        )
    if int(header.BitsAllocated) not in (8, 16, 32):
        raise IngestError(f"{path} holds pixels of {header.BitsAllocated} bits: convert it.")


def _axes_of(header: Any) -> NDArray[np.float64]:
    """Return the directions of rising x, y and z, in the patient's system."""
    cosines = [float(v) for v in header.get("ImageOrientationPatient", (1, 0, 0, 0, 1, 0))]
    x, y = np.array(cosines[:3]), np.array(cosines[3:])
    return np.stack([x, y, np.cross(x, y)])


def _place(header: Any) -> float:
    if "ImagePositionPatient" in header:
        position = np.array([float(v) for v in header.ImagePositionPatient])
        return float(_axes_of(header)[2] @ position)
    return float(header.get("InstanceNumber", 0) or 0)


def _stacked(slices: Sequence[_Slice]) -> list[_Slice]:
    """Return the slices of one series in the order of their places."""
    series = {str(s.header.get("SeriesInstanceUID", "")): s.path for s in slices}
    if len(series) > 1:
        raise IngestError(
            f"The files belong to {len(series)} series, as {listed(map(str, series.values()), 3)} "
            "show: ingest one at a time."
        )
    order = sorted(slices, key=lambda s: s.place)
    for before, after in itertools.pairwise(order):
        if after.place == before.place:
            raise IngestError(
                f"{before.path} and {after.path} lie at one place: a volume has one slice there. "
                "Ingest the parts of the series (times, echoes) by themselves."
            )
        if not np.allclose(_axes_of(after.header), _axes_of(before.header), atol=1e-4):
            raise IngestError(f"{after.path} is tilted against {before.path}: ingest it apart.")
    return order


def _scale(header: Any) -> tuple[float, float]:
    return float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))


def _heads(
    slices: Sequence[_Slice], attrs: Mapping[str, Any], scale: tuple[float, float] | None
) -> list[Head]:
    first = slices[0].header
    spaced = "ImagePositionPatient" in first
    places = np.array([s.place for s in slices]) - slices[0].place
    units = {"units": "mm"} if spaced else {}
    axes: dict[str, Axis] = {}
    coords: dict[str, Any] = {}
    try:
        axes["z"] = recognise(lambda a, b: places[a:b], len(places), units)
    except IrregularError:
        coords["z"] = (("z",), places, units)
    told: dict[str, Any] = {n: str(first[k].value) for k, n in KEPT.items() if k in first}
    if scale is not None and scale != (1.0, 0.0):
        told |= {"scale_factor": scale[0], "add_offset": scale[1]}
    told["affine"] = _affine(slices).tolist()
    heads = []
    for s in slices:
        kind = "i" if int(s.header.get("PixelRepresentation", 0)) else "u"
        stored = np.dtype(f"{kind}{int(s.header.BitsAllocated) // 8}")
        own = {name: Axis(0.0, step, "mm") for name, step in _spacing(s.header).items()}
        shape = (int(s.header.Rows), int(s.header.Columns))
        dtype = stored if scale is not None else np.dtype(np.float32)
        every = {**axes, **own}
        heads.append(Head(("y", "x"), shape, dtype, every, coords, {**told, **attrs}, pages=True))
    return heads


def _spacing(header: Any) -> dict[str, Fraction]:
    """Return the millimetres from one row to the next, and from one column."""
    spacing = header.get("PixelSpacing")
    return (
        {} if spacing is None else dict(zip("yx", (Fraction(str(v)) for v in spacing), strict=True))
    )


def _affine(slices: Sequence[_Slice]) -> NDArray[np.float64]:
    """Return what takes voxel numbers (x, y, z) to the patient's millimetres."""
    first = slices[0].header
    steps = {name: float(step) for name, step in _spacing(first).items()}
    if len(slices) > 1:
        steps["z"] = (slices[-1].place - slices[0].place) / (len(slices) - 1)
    affine = np.eye(4)
    for i, (name, direction) in enumerate(zip("xyz", _axes_of(first), strict=True)):
        affine[:3, i] = direction * steps.get(name, 1.0)
    affine[:3, 3] = [float(v) for v in first.get("ImagePositionPatient", (0, 0, 0))]
    return affine
