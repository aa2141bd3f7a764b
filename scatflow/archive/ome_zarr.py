"""Images of OME-Zarr (NGFF 0.4 and 0.5) to an archive, with their axes and steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from scatflow.archive.axis import Axis
from scatflow.archive.ingest import Ingested, PathName, Progress, input_paths
from scatflow.archive.stack import Box, Head, write_stack
from scatflow.archive.stores import Address
from scatflow.errors import IngestError

NAMES = {"t": "time", "c": "channel"}
"""What axes are called here, where it is not what they are called there."""


@dataclass(frozen=True)
class _Image:
    array: zarr.Array[Any]
    head: Head


def ingest_ome_zarr(
    inputs: Sequence[PathName] | PathName,
    output: PathName,
    *,
    level: int = 0,
    variable: str = "image",
    attrs: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Ingested:
    """Write OME-Zarr images to one archive, with the dimensions, steps and units they name.

    Axes ``t`` and ``c`` are called ``time`` and ``channel``. Several images are stacked along
    ``file``.

    Parameters
    ----------
    inputs : paths
        Groups that hold a multiscale image each.
    output : path
        The archive to make.
    level : int
        Which resolution: 0 is the finest.
    variable : str
        Name of the array in the archive.
    attrs : mapping, optional
        Attributes of the variable.
    overwrite : bool
        Replace an archive of that name.
    on_progress : callable, optional
        Is told the bytes done, and of how many.

    Raises
    ------
    IngestError
        An input is no image of OME-Zarr or has no such level, images differ, or the output exists.
    SourceError
        An input is no Zarr group that can be opened.
    """
    paths = input_paths(inputs)
    images = {path: _image(path, level, attrs or {}) for path in paths}

    @contextmanager
    def open_file(path: Path) -> Iterator[Callable[[Box], NDArray[Any]]]:
        yield lambda box: np.asarray(images[path].array[box])

    return write_stack(
        paths,
        [image.head for image in images.values()],
        open_file,
        output,
        along="file",
        variable=variable,
        source="OME-Zarr",
        overwrite=overwrite,
        on_progress=on_progress,
        level=level,
    )


def _image(path: Path, level: int, attrs: Mapping[str, Any]) -> _Image:
    group = Address(str(path)).open()
    told: Any = dict(group.attrs)
    told = told.get("ome", told)  # Version 0.5 has a key of its own.
    try:
        scales = told["multiscales"][0]
        dataset = scales["datasets"][level]
        array = Address(str(path), str(dataset["path"])).open()
        axes = scales["axes"]
        shifts = [*dataset.get("coordinateTransformations", ())]
        shifts += scales.get("coordinateTransformations", ())
    except (KeyError, IndexError, TypeError) as problem:
        raise IngestError(
            f"{path} is no image of OME-Zarr 0.4 or 0.5 with a level {level}: its attributes lack "
            f"{problem}. A job opens other Zarr arrays as they are; of a plate, ingest its images."
        ) from problem
    if (
        not isinstance(array, zarr.Array)
        or array.ndim != len(axes)
        or array.dtype.kind not in "biuf"
    ):
        raise IngestError(
            f"{path} has axes {axes} and holds {array}: these are no real numbers on them."
        )
    dims = tuple(NAMES.get(axis["name"], str(axis["name"])) for axis in axes)
    places = _places(axes, shifts)
    dtype = array.dtype.newbyteorder("=")
    coords = _channels(told, dims, array.shape)
    about = {"long_name": scales["name"]} if scales.get("name") else {}
    regular = {dim: axis for dim, axis in zip(dims, places, strict=True) if axis is not None}
    return _Image(array, Head(dims, array.shape, dtype, regular, coords, {**about, **attrs}))


def _places(
    axes: Sequence[Mapping[str, Any]], shifts: Sequence[Mapping[str, Any]]
) -> list[Axis | None]:
    """Return the axes of space and time: all scales and translations, one after the other."""
    steps, starts = [Fraction(1)] * len(axes), [Fraction(0)] * len(axes)
    for shift in shifts:
        given = [Fraction(str(v)) for v in shift.get(shift["type"], ())]
        if shift["type"] == "scale":
            steps = [step * v for step, v in zip(steps, given, strict=True)]
            starts = [start * v for start, v in zip(starts, given, strict=True)]
        elif shift["type"] == "translation":
            starts = [start + v for start, v in zip(starts, given, strict=True)]
    return [
        Axis(float(start), step, str(axis.get("unit", "")))
        if axis.get("type") in ("space", "time") and step
        else None
        for axis, step, start in zip(axes, steps, starts, strict=True)
    ]


def _channels(
    told: Mapping[str, Any], dims: tuple[str, ...], shape: tuple[int, ...]
) -> dict[str, Any]:
    names = [str(c.get("label", "")) for c in told.get("omero", {}).get("channels", ())]
    if "channel" not in dims or len(names) != shape[dims.index("channel")] or not all(names):
        return {}
    return {"channel": (("channel",), np.array(names), {})}
