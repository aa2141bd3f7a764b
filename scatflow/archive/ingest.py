"""Bring other formats into labelled Zarr archives: what all readers share, and their registry.

An archive is written under another name and renamed at the end (:mod:`scatflow.archive.partial`):
what carries the final name is complete.
"""

from __future__ import annotations

import importlib
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec

from scatflow.archive.axis import Axis
from scatflow.archive.stores import absolute, listed
from scatflow.errors import IngestError, MissingExtraError

CHUNK = 2**18
"""Numbers of one chunk: about 1 MiB, enough for good compression, small enough to hold many."""

SLAB = 16 * 2**20
"""Bytes that are copied at once."""

CONVENTIONS = "CF-1.11"

PathName = str | os.PathLike[str]
"""A file's name, as readers take it."""

Progress = Callable[[int, int], None]
"""Is told how much is done, and of how much."""


@dataclass(frozen=True)
class Ingested:
    """What an ingest wrote."""

    output: str
    variable: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[str]:
        """Yield the lines that tell a person what was written."""
        sizes = ", ".join(f"{dim}: {n}" for dim, n in zip(self.dims, self.shape, strict=True))
        yield f"{self.output}: {self.variable} ({sizes}) {self.dtype}"
        yield from (f"  {note}" for note in self.notes)


@dataclass(frozen=True)
class Layout:
    """The variable of a new archive, before its numbers are known.

    Parameters
    ----------
    fill : int or float
        Value of what is never written: it means missing.
    coords : mapping
        Name to dimensions, values and attributes.
    """

    variable: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: int | float | bool
    axes: Mapping[str, Axis] = field(default_factory=dict)
    coords: Mapping[str, tuple[tuple[str, ...], Any, Mapping[str, Any]]] = field(
        default_factory=dict
    )
    attrs: Mapping[str, Any] = field(default_factory=dict)
    group_attrs: Mapping[str, Any] = field(default_factory=dict)


def create(folder: Path, layout: Layout) -> zarr.Array[Any]:
    """Write the metadata of a new archive, and its coordinates.

    Returns
    -------
    zarr.Array
        The variable, to be filled.
    """
    group_attrs = {"Conventions": CONVENTIONS, **layout.group_attrs}
    group = zarr.open_group(str(folder), mode="w", zarr_format=3, attributes=group_attrs)
    attrs = {**layout.attrs}
    if layout.axes:
        attrs["axes"] = {dim: axis.to_dict() for dim, axis in layout.axes.items()}
    others = [name for name, (dims, _, _) in layout.coords.items() if dims != (name,)]
    if others:
        attrs["coordinates"] = " ".join(others)
    for name, (dims, values, own) in layout.coords.items():
        _write_coord(group, name, dims, np.asarray(values), own)
    return group.create_array(
        layout.variable,
        shape=layout.shape,
        chunks=layout.chunks,
        dtype=layout.dtype,
        fill_value=layout.fill,
        dimension_names=layout.dims,
        serializer=BytesCodec(),
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        attributes=attrs,
        config=writing(layout),
    )


def writing(layout: Layout) -> Any:
    """Return how Zarr writes the variable of an archive."""
    # A chunk that is not there is a gap to whoever reads the archive, not a chunk of zeros.
    missing = layout.fill != layout.fill or layout.attrs.get("_FillValue") == layout.fill
    return {"write_empty_chunks": not missing}


def _write_coord(
    group: zarr.Group, name: str, dims: tuple[str, ...], values: Any, attrs: Mapping[str, Any]
) -> None:
    text = values.dtype.kind == "U"
    array = group.create_array(
        name,
        shape=values.shape,
        # Zarr's text type of variable length is the one that other programs read, too.
        dtype=str if text else values.dtype,
        dimension_names=dims,
        attributes=dict(attrs),
    )
    array[...] = values.astype(object) if text else values


# --- the inputs ------------------------------------------------------------------------------


def input_paths(inputs: Sequence[PathName] | PathName) -> list[Path]:
    """Return the inputs as paths that exist, none of them twice.

    Raises
    ------
    IngestError
        If there are none, or one is missing.
    """
    given = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    if not given:
        raise IngestError("There are no input files: name at least one.")
    paths = [Path(absolute(os.fspath(item))) for item in given]
    for path in paths:
        if not path.exists():
            raise IngestError(f"There is no file {path}: check the name.")
    return list(dict.fromkeys(paths))


def extra(module: str, what: str, name: str = "ingest") -> Any:
    """Import an optional package.

    Raises
    ------
    MissingExtraError
        If it is not installed; the message holds the line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"Reading {what} needs the package {module}, which is not installed ({error}). "
            f'Install it with: pip install "scatflow[{name}]"'
        ) from error


# --- pieces ----------------------------------------------------------------------------------


def chunk_shape(shape: Sequence[int], most: int = CHUNK) -> tuple[int, ...]:
    """Return chunks of at most `most` numbers, as nearly cubes as the shape allows.

    Examples
    --------
    >>> chunk_shape((5400, 10800)), chunk_shape((3, 10**8))
    ((512, 512), (3, 65536))
    """
    chunks = [max(n, 1) for n in shape]
    while math.prod(chunks) > most:
        i = chunks.index(max(chunks))
        chunks[i] = 2 ** ((chunks[i] - 1).bit_length() - 1)
    return tuple(chunks)


def slabs(
    shape: Sequence[int], chunks: Sequence[int], itemsize: int, most: int = SLAB
) -> Iterator[tuple[slice, ...]]:
    """Yield boxes of whole chunks that cover an array, each of at most `most` bytes or one chunk.

    Examples
    --------
    >>> [(s[0].start, s[0].stop) for s in slabs((10,), (4,), 1, 8)]
    [(0, 8), (8, 10)]
    """
    size = list(chunks)
    for i in reversed(range(len(shape))):
        room = most // max(math.prod(size) * itemsize, 1)
        size[i] = min(size[i] * max(room, 1), -(-shape[i] // size[i]) * size[i])
        if size[i] < shape[i]:
            break
    starts = [range(0, n, step) for n, step in zip(shape, size, strict=True)]
    for corner in itertools.product(*starts):
        yield tuple(
            slice(a, min(a + step, n)) for a, step, n in zip(corner, size, shape, strict=True)
        )


# --- the registry ----------------------------------------------------------------------------


def _reader(module: str, name: str) -> Callable[..., Ingested]:
    """Return a reader that is imported when it is called: a format costs nothing until used."""

    def read(inputs: Sequence[PathName] | PathName, output: PathName, **options: Any) -> Ingested:
        function = getattr(importlib.import_module(f"scatflow.archive.{module}"), name)
        result: Ingested = function(inputs, output, **options)
        return result

    read.__name__ = name
    read.__doc__ = f"Call :func:`scatflow.archive.{module}.{name}`."
    return read


READERS: dict[str, Callable[..., Ingested]] = {
    "bdf": _reader("edf", "ingest_edf"),
    "dicom": _reader("dicom", "ingest_dicom"),
    "edf": _reader("edf", "ingest_edf"),
    "flac": _reader("wav", "ingest_flac"),
    "hdf5": _reader("netcdf", "ingest_netcdf"),
    "jpeg": _reader("images", "ingest_jpeg"),
    "mseed": _reader("mseed", "ingest_mseed"),
    "netcdf": _reader("netcdf", "ingest_netcdf"),
    "nifti": _reader("nifti", "ingest_nifti"),
    "npy": _reader("npy", "ingest_npy"),
    "npz": _reader("npz", "ingest_npz"),
    "ome-zarr": _reader("ome_zarr", "ingest_ome_zarr"),
    "ogg": _reader("wav", "ingest_ogg"),
    "png": _reader("images", "ingest_png"),
    "sac": _reader("sac", "ingest_sac"),
    "tiff": _reader("images", "ingest_tiff"),
    "wav": _reader("wav", "ingest_wav"),
}
"""Readers by the name of their format; all take ``(inputs, output, *, overwrite, on_progress)``."""

GROUP = "scatflow.readers"
"""Entry points by which other packages add readers of their own."""


def readers() -> dict[str, Callable[..., Ingested]]:
    """Return all readers by the name of their format, those of other packages included.

    A package names them in its ``pyproject.toml``, and they are imported when they are called::

        [project.entry-points."scatflow.readers"]
        sac = "my_package.sac:ingest_sac"

    They take ``(inputs, output, *, overwrite, on_progress, **options)`` and return
    :class:`Ingested`. None takes the name of one of scatflow's own.
    """
    return {**{point.name: _foreign(point) for point in entry_points(group=GROUP)}, **READERS}


def _foreign(point: EntryPoint) -> Callable[..., Ingested]:
    def read(inputs: Sequence[PathName] | PathName, output: PathName, **options: Any) -> Ingested:
        try:
            function = point.load()
        except (ImportError, AttributeError) as problem:
            raise IngestError(
                f"The reader of {point.name!r}, {point.value}, cannot be imported: {problem}. "
                "Install or repair the package that names it."
            ) from problem
        result: Ingested = function(inputs, output, **options)
        return result

    return read


def ingest(
    format: str, inputs: Sequence[PathName] | PathName, output: PathName, **options: Any
) -> Ingested:
    """Bring files of a format into one archive.

    Raises
    ------
    IngestError
        If the format is unknown, or the files do not fit into one archive.
    """
    known = readers()
    if format not in known:
        raise IngestError(f"There is no reader for {format!r}: known are {listed(known)}.")
    return known[format](inputs, output, **options)
