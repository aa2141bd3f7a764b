"""Labelled arrays as what blocks of a run read: the same interface as a store's source."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scatflow.archive import Axis, Coord
from scatflow.archive.regular import IrregularError, recognise
from scatflow.engines.engine import working_dtype
from scatflow.errors import InputShapeError, InputTypeError, ParameterError
from scatflow.labelled.axis import AxisIndex

if TYPE_CHECKING:
    import xarray as xr


class ArraySource:
    """What is known of an array without its samples: dimensions, axes, coordinates.

    Parameters
    ----------
    dims, shape : tuple
        Of the array.
    dtype : dtype
        Real numbers of at most 64 bits.
    array : DataArray, optional
        Whose coordinates and attributes count; where blocks are computed they are not needed.
    """

    def __init__(
        self,
        dims: Sequence[Hashable],
        shape: Sequence[int],
        dtype: np.dtype[Any],
        array: xr.DataArray | None = None,
    ) -> None:
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            raise InputTypeError(
                f"The array should be real, in at most 64 bits, but it has dtype {dtype}. "
                "Take its real part, its modulus or convert it first."
            )
        self.dims = _names(dims)
        self.shape = _sizes(shape)
        self.dtype = dtype.newbyteorder("=")
        self.axes: dict[str, Axis] = {}
        self.coords: dict[str, Coord] = {}
        self.durations: list[str] = []
        """Dimensions whose axis counts the nanoseconds of a timedelta64."""
        self.attrs: dict[str, Any] = {}
        self.variable = "array"
        if array is not None:
            self._describe(array)

    def _describe(self, array: xr.DataArray) -> None:
        self.attrs = {str(k): v for k, v in array.attrs.items()}
        self.variable = "array" if array.name is None else str(array.name)
        for dim in self.dims:
            if dim not in array.coords:
                continue
            index = array.coords[dim]
            regular = array.xindexes.get(dim)
            if isinstance(regular, AxisIndex):
                self.axes[dim] = regular.described(index.attrs)
                continue
            values = index.to_numpy()  # Of an index, which is in memory.
            values = values.astype("datetime64[ns]") if values.dtype.kind == "M" else values
            axis = _axis(values, dict(index.attrs))
            if axis is not None and values.dtype.kind == "m":
                self.durations.append(dim)
            if axis is None:
                self.coords[dim] = Coord((dim,), values, dict(index.attrs))
            else:
                self.axes[dim] = axis

    @property
    def read_dtype(self) -> np.dtype[Any]:
        """Precision in which the array is transformed."""
        return working_dtype(self.dtype)

    @property
    def may_have_gaps(self) -> bool:
        """Whether samples can be missing."""
        return self.dtype.kind == "f"


def _names(dims: Sequence[Hashable]) -> tuple[str, ...]:
    """Return the names of dimensions, which a store can hold if they are text."""
    other = [dim for dim in dims if not isinstance(dim, str)]
    if other:
        raise ParameterError(
            f"The dimension {other[0]!r} is named by a {type(other[0]).__name__}: coefficients "
            "have dimensions with names of text. Rename it (.rename)."
        )
    return tuple(map(str, dims))


def _sizes(shape: Sequence[Any]) -> tuple[int, ...]:
    """Return the shape, which has to be known before anything is computed."""
    if any(n != n for n in shape):
        raise InputShapeError(
            f"The array's shape {tuple(shape)} is not known before it is computed, so it cannot "
            "be cut into blocks. Call .data.compute_chunk_sizes() first, or .compute()."
        )
    return tuple(int(n) for n in shape)


def _axis(values: NDArray[Any], attrs: dict[str, Any]) -> Axis | None:
    """Return a coordinate as a regular axis, None if it is none; durations in nanoseconds."""
    if values.dtype.kind == "m":
        values, attrs = values.astype("timedelta64[ns]").astype(np.int64), {**attrs, "units": "ns"}
    try:
        return recognise(lambda start, stop: values[start:stop], values.size, attrs)
    except IrregularError:
        return None
