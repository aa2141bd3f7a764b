"""Labelled arrays as what blocks of a run read: the same interface as a store's source."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scatflow.archive import Axis, Coord
from scatflow.archive.regular import IrregularError, recognise
from scatflow.engines.engine import working_dtype
from scatflow.errors import InputTypeError

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
        self.dims = tuple(map(str, dims))
        self.shape = tuple(int(n) for n in shape)
        self.dtype = dtype.newbyteorder("=")
        self.axes: dict[str, Axis] = {}
        self.coords: dict[str, Coord] = {}
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
            values = index.to_numpy()  # Of an index, which is in memory.
            values = values.astype("datetime64[ns]") if values.dtype.kind == "M" else values
            axis = _axis(values, dict(index.attrs))
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


def _axis(values: NDArray[Any], attrs: dict[str, Any]) -> Axis | None:
    """Return a coordinate as a regular axis, None if it is none."""
    try:
        return recognise(lambda start, stop: values[start:stop], values.size, attrs)
    except IrregularError:
        return None
