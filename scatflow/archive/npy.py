"""NumPy's .npy files to an archive."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scatflow.archive.axis import Axis
from scatflow.archive.files import input_files
from scatflow.archive.ingest import Ingested, PathName, Progress
from scatflow.archive.stack import Box, Head, write_stack
from scatflow.errors import IngestError

Step = str | int | float | Fraction

ITEM = "item"
"""The dimension along which several files are stacked."""


def ingest_npy(
    inputs: Sequence[PathName] | PathName,
    output: PathName,
    *,
    dims: Sequence[str] | str | None = None,
    step: Step | Sequence[Step] | None = None,
    units: str | Sequence[str] | None = None,
    variable: str = "data",
    axes: Mapping[str, Axis] | None = None,
    attrs: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Ingested:
    """Write .npy files to one archive; several of equal shape are stacked along ``item``.

    Parameters
    ----------
    inputs : paths
        Files of real numbers.
    output : path
        The archive to make.
    dims : sequence of str, or str with commas, optional
        Names of the dimensions of one file; ``dim_0``, ``dim_1`` ... by default.
    step : number or "1/44100", or one for each dimension, optional
        From one sample to the next. Kept exactly: "0.01" is 1/100.
    units : str, or one for each dimension, optional
        Unit of `step`: "s", "m", "degrees_north" ...
    variable : str
        Name of the array in the archive.
    axes : mapping of str to Axis, optional
        Regular coordinates by dimension, where `step` does not say enough.
    attrs : mapping, optional
        Attributes of the variable.
    overwrite : bool
        Replace an archive of that name.
    on_progress : callable, optional
        Is told the bytes done, and of how many.

    Raises
    ------
    IngestError
        If a file is no .npy file of real numbers, shapes or types differ, names do not fit, or
        the output exists.
    """
    paths = input_files(inputs, (".npy",), ".npy files")
    arrays = [_open(path) for path in paths]
    shapes = [(array.shape, array.dtype) for array in arrays]
    del arrays
    heads = plain_heads(paths, shapes, dims, step, units, axes, attrs)
    return write_stack(
        paths,
        heads,
        _boxes_of,
        output,
        along=ITEM,
        variable=variable,
        source="NumPy .npy",
        overwrite=overwrite,
        on_progress=on_progress,
    )


def plain_heads(
    paths: Sequence[Path],
    shapes: Sequence[tuple[tuple[int, ...], np.dtype[Any]]],
    dims: Sequence[str] | str | None,
    step: Step | Sequence[Step] | None,
    units: str | Sequence[str] | None,
    axes: Mapping[str, Axis] | None,
    attrs: Mapping[str, Any] | None,
) -> list[Head]:
    """Return what files hold whose arrays have no labels of their own.

    Raises
    ------
    IngestError
        If they have unlike dimensions, or the labels given do not fit.
    """
    names = _names(dims, len(shapes[0][0]))
    regular = {**_axes(names, step, units), **(axes or {})}
    told = _attributes(regular, attrs)
    heads = []
    for path, (shape, dtype) in zip(paths, shapes, strict=True):
        if len(shape) != len(names):
            raise IngestError(
                f"{path} holds {shape} {dtype}, but {paths[0]} {shapes[0][0]} {shapes[0][1]}: "
                "files of one archive are alike. Ingest it by itself."
            )
        heads.append(Head(names, shape, dtype.newbyteorder("="), regular, {}, told))
    return heads


def _attributes(axes: Mapping[str, Axis], attrs: Mapping[str, Any] | None) -> dict[str, Any]:
    rates = [axis.rate_hz for axis in axes.values() if axis.rate_hz is not None]
    return {**({"sampling_rate": rates[0]} if len(rates) == 1 else {}), **(attrs or {})}


@contextmanager
def _boxes_of(path: Path) -> Iterator[Callable[[Box], NDArray[Any]]]:
    """Read boxes of a file."""
    # Mapped anew each time: pages of a file that stays mapped would count as memory.
    yield lambda box: np.array(_open(path)[box], order="C")


def _open(path: Path) -> NDArray[Any]:
    """Map a file of real numbers; nothing is read but its header.

    Raises
    ------
    IngestError
        If it is something else.
    """
    with path.open("rb") as file:
        magic = file.read(8)
    if magic.startswith(b"PK"):
        raise IngestError(f"{path} is an .npz archive of several arrays: ingest it as npz.")
    if not magic.startswith(b"\x93NUMPY"):
        what = "empty" if not magic else "no .npy file"
        raise IngestError(f"{path} is {what}: save the array with numpy.save.")
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise IngestError(
            f"{path} cannot be read: {error}. The file may be incomplete, or hold Python objects, "
            "which are never loaded: save plain numbers with numpy.save."
        ) from error
    check_numbers(path, array.shape, array.dtype)
    return array


def check_numbers(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse an array that holds no samples, or other things than real numbers.

    Raises
    ------
    IngestError
        If it does.
    """
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise IngestError(
            f"{path} holds {dtype}, and an archive holds real numbers of up to 64 bits: "
            "convert it first (complex: real and imaginary part, or modulus)."
        )
    if 0 in shape or not shape:
        raise IngestError(f"{path} holds an array of shape {shape}: there are no samples.")


def _names(dims: Sequence[str] | str | None, ndim: int) -> tuple[str, ...]:
    if dims is None:
        return tuple(f"dim_{i}" for i in range(ndim))
    names = tuple(d.strip() for d in (dims.split(",") if isinstance(dims, str) else dims))
    if len(names) != ndim or len(set(names)) != ndim or not all(names):
        raise IngestError(
            f"dims {','.join(names)!r} are {len(names)} names, and the arrays have {ndim} "
            "dimensions: give each its own name."
        )
    return names


def _axes(
    dims: tuple[str, ...],
    step: Step | Sequence[Step] | None,
    units: str | Sequence[str] | None,
) -> dict[str, Axis]:
    """Return the axes that start at 0 with given steps; one step serves all dimensions."""
    if step is None:
        if units is not None:
            raise IngestError(f"units {units!r} say nothing without a step: give both.")
        return {}
    steps = [_step(s) for s in _each("step", step, dims)]
    names = ["" for _ in dims] if units is None else [str(u) for u in _each("units", units, dims)]
    return {d: Axis(0.0, s, u) for d, s, u in zip(dims, steps, names, strict=True)}


def _each(what: str, given: Any, dims: tuple[str, ...]) -> list[Any]:
    values = given.split(",") if isinstance(given, str) else given
    values = list(values) if isinstance(values, Sequence) else [values]
    if len(values) not in (1, len(dims)):
        raise IngestError(
            f"{what} has {len(values)} values for the dimensions {','.join(dims)}: give one, or "
            "one for each."
        )
    return values * len(dims) if len(values) == 1 else values


def _step(value: Step) -> Fraction:
    try:
        # Written in decimals a step is exact; str() gives a float as it was written.
        step = value if isinstance(value, Fraction) else Fraction(str(value).strip())
    except (ValueError, ZeroDivisionError) as error:
        raise IngestError(f'step {value!r} is no number: write 0.01 or "1/100".') from error
    if step == 0:
        raise IngestError("A step of 0 would put all samples in one place.")
    return step
