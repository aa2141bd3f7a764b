"""Regular coordinates of labelled arrays: computed where they are asked for, never held."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from xarray.core.indexing import IndexSelResult
from xarray.indexes import CoordinateTransform, CoordinateTransformIndex, Index, PandasIndex

from scatflow.archive import Axis
from scatflow.archive.selection import LABEL_TOLERANCE, RANGE_TOLERANCE

ROUNDED: dict[str | None, Callable[[Fraction], int]] = {
    None: round,
    "nearest": round,
    **dict.fromkeys(("pad", "ffill"), math.floor),
    **dict.fromkeys(("backfill", "bfill"), math.ceil),
}
"""Which sample a method of selection takes for a label between two."""


class AxisTransform(CoordinateTransform):
    """An axis and its number of samples, as xarray knows coordinates that are computed.

    Parameters
    ----------
    axis : Axis
        Where samples lie.
    dim : str
        Their dimension, whose coordinate has its name.
    size : int
        How many they are.
    """

    def __init__(self, axis: Axis, dim: str, size: int) -> None:
        kind = "datetime64[ns]" if axis.is_time else "int64" if axis.integer else "float64"
        super().__init__([dim], {dim: size}, np.dtype(kind))
        self.axis = axis

    @property
    def size(self) -> int:
        """Number of samples."""
        return self.dim_size[self.dims[0]]

    def forward(self, dim_positions: dict[str, Any]) -> dict[Hashable, Any]:
        """Return the coordinates of samples."""
        return {self.coord_names[0]: self.axis.at(dim_positions[self.dims[0]])}

    def reverse(self, coord_labels: dict[Hashable, Any]) -> dict[str, Any]:
        """Return the (fractional) samples at which labels lie."""
        labels = np.asarray(coord_labels[self.coord_names[0]])
        places = [float(self.place(label)) for label in labels.reshape(-1)]
        return {self.dims[0]: np.reshape(places, labels.shape)}

    def equals(self, other: CoordinateTransform, **_: Any) -> bool:
        """Tell whether samples of both lie at the same coordinates."""
        return isinstance(other, AxisTransform) and self._told() == other._told()

    def _told(self) -> tuple[Any, ...]:
        return self.axis.start, self.axis.exact_step, self.axis.is_time, self.size

    def place(self, label: Any) -> Fraction:
        """Return the (fractional) sample at which a label lies."""
        if self.axis.is_time:
            time = pd.Timestamp(label)
            if time.tzinfo is not None:
                time = time.tz_convert(None)
            return self.axis.place(time.as_unit("ns").value)
        return self.axis.place(label.item() if isinstance(label, np.generic) else label)

    @property
    def slack(self) -> Fraction:
        """How far from a sample a label may lie, in steps, that is rounded to its coordinate."""
        if self.axis.is_time:
            return Fraction(1, 2) / abs(self.axis.exact_step)
        return RANGE_TOLERANCE

    def between(self, start: Any, stop: Any) -> tuple[int, int]:
        """Return the first sample of a range and the one behind its last; both ends count."""
        first, last = 0, self.size
        if start is not None:
            first = math.ceil(self.place(_bound(start, 0)) - self.slack)
        if stop is not None:
            last = math.floor(self.place(_bound(stop, 1)) + self.slack) + 1
        first = min(max(first, 0), self.size)
        return first, max(min(last, self.size), first)

    def sample(self, label: Any, method: str | None) -> int:
        """Return the sample at a label, or the nearest one to it.

        Raises
        ------
        KeyError
            There is none.
        """
        place = self.place(label)
        found = ROUNDED[method](place)
        if method == "nearest":
            return min(max(found, 0), self.size - 1)
        near = method is not None or abs(place - found) <= max(self.slack, LABEL_TOLERANCE)
        if not near or not 0 <= found < self.size:
            raise KeyError(label)
        return found


def _bound(label: Any, end: int) -> Any:
    """Return where the time begins or ends that text names: a day, an hour, a second."""
    if not isinstance(label, str):
        return label
    period = pd.Period(label.removesuffix("Z"))
    return period.end_time if end else period.start_time


class AxisIndex(CoordinateTransformIndex):
    """The index of a regular coordinate: slices of it are regular, and nothing is held."""

    transform: AxisTransform

    @classmethod
    def of(cls, axis: Axis, dim: str, size: int) -> AxisIndex:
        """Return the index of the samples of a dimension."""
        return cls(AxisTransform(axis, dim, size))

    def described(self, attrs: Mapping[Any, Any]) -> Axis:
        """Return the axis, of which a coordinate says more by its attributes."""
        told = {str(key): value for key, value in attrs.items()}
        axis = self.transform.axis
        units = axis.units if axis.is_time else str(told.pop("units", ""))
        return replace(axis, units=units, attrs=told)

    def isel(
        self, indexers: Mapping[Any, int | slice | NDArray[Any] | xr.Variable]
    ) -> Index | None:
        """Select samples by number."""
        (dim,) = self.transform.dims
        wanted = indexers[dim]
        if isinstance(wanted, slice):
            part = range(self.transform.size)[wanted]
            axis = self.transform.axis.every(part.start, part.step)
            return self.of(axis, dim, len(part))
        if np.ndim(cast(Any, wanted)) != 1:
            return None
        numbers = np.asarray(wanted)
        if numbers.dtype.kind == "b":
            numbers = np.flatnonzero(numbers)
        values = self.transform.axis.at(
            np.where(numbers < 0, numbers + self.transform.size, numbers)
        )
        along = wanted.dims[0] if isinstance(wanted, xr.Variable) else dim
        return PandasIndex(pd.Index(values, name=self.transform.coord_names[0]), along)

    def sel(
        self, labels: dict[Any, Any], method: str | None = None, tolerance: Any = None
    ) -> IndexSelResult:
        """Select samples by label, as from other coordinates."""
        if tolerance is not None:
            raise ValueError(
                "A regular coordinate is selected from without a tolerance: leave it out, or give "
                "it values in memory with .assign_coords."
            )
        transform, (dim,) = self.transform, self.transform.dims
        (label,) = labels.values()
        if isinstance(label, slice):
            first, last = transform.between(label.start, label.stop)
            return IndexSelResult({dim: slice(first, last, label.step)})
        if isinstance(label, str) and method is None and self._longer_than_a_step(label):
            first, last = transform.between(label, label)
            if first == last:
                raise KeyError(label)
            return IndexSelResult({dim: slice(first, last)})
        numbers = np.vectorize(lambda one: transform.sample(one, method), otypes=[np.int64])
        if isinstance(label, xr.DataArray | xr.Variable):
            return IndexSelResult({dim: label.copy(data=numbers(label.to_numpy()))})
        if np.ndim(label) == 0:
            return IndexSelResult({dim: transform.sample(label, method)})
        return IndexSelResult({dim: numbers(np.asarray(label))})

    def _longer_than_a_step(self, label: str) -> bool:
        if not self.transform.axis.is_time:
            return False
        length = (_bound(label, 1) - _bound(label, 0)).as_unit("ns").value + 1
        return bool(length > abs(self.transform.axis.exact_step))

    @classmethod
    def concat(  # type: ignore[override]
        cls,
        indexes: Sequence[Index],
        dim: Hashable,
        positions: Iterable[Iterable[int]] | None = None,
    ) -> Index:
        """Join records: those that follow each other stay regular, others are held in memory."""
        parts = [index.transform for index in indexes if isinstance(index, cls)]
        following = all(
            replace(a.axis, first=a.axis.first + a.size).start == b.axis.start
            and a.axis.exact_step == b.axis.exact_step
            for a, b in itertools.pairwise(parts)
        )
        if following and positions is None:
            return cls.of(parts[0].axis, str(dim), sum(part.size for part in parts))
        name = parts[0].coord_names[0]
        held = [PandasIndex(part.generate_coords()[name], dim) for part in parts]
        return PandasIndex.concat(held, dim, positions)

    def to_pandas_index(self) -> pd.Index:
        """Return all values, in memory."""
        (name,) = self.transform.coord_names
        values: pd.Index = pd.Index(self.transform.generate_coords()[name], name=name)
        return values

    def _repr_inline_(self, max_width: int) -> str:
        return repr(self)[:max_width]

    def __repr__(self) -> str:
        axis = self.transform.axis
        start, step = axis.to_dict()["start"], float(axis.exact_step)
        return f"AxisIndex(start={start}, step={step:g} {axis.units}, size={self.transform.size})"
