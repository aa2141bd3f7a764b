"""What of a stored array is used: labels and numbers become integer ranges along each dim."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scatflow.archive.axis import Axis, parse_time
from scatflow.archive.stores import listed
from scatflow.errors import SourceError

LABEL_TOLERANCE = Fraction(1, 1000)
"""A number names the sample that lies within this part of a step of it."""

RANGE_TOLERANCE = Fraction(1, 10**6)
"""A number of a regular axis counts as the end of a range within this part of a step."""


@dataclass(frozen=True)
class Picked:
    """The samples used along one dim: a range, or a list where they are not contiguous."""

    start: int
    stop: int
    listed: tuple[int, ...] | None = None

    @classmethod
    def of(cls, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Picked:
        """Pick samples by number, as a range if they are one."""
        numbers = [int(i) for i in indices]
        if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            return cls(numbers[0], numbers[-1] + 1)
        return cls(min(numbers), max(numbers) + 1, tuple(numbers))

    def __len__(self) -> int:
        return self.stop - self.start if self.listed is None else len(self.listed)

    def part(self, start: int, stop: int) -> slice | list[int]:
        """Return where samples ``[start, stop)`` of the selection are stored."""
        if self.listed is None:
            return slice(self.start + start, self.start + stop)
        part = Picked.of(self.listed[start:stop]) if stop > start else Picked(0, 0)
        if part.listed is None:
            return slice(part.start, part.stop)
        return list(part.listed)

    def to_json(self) -> list[int] | dict[str, list[int]]:
        """Return the selection in a form that JSON keeps."""
        return [self.start, self.stop] if self.listed is None else {"indices": [*self.listed]}


def by_number(dim: str, wanted: Any, n: int) -> Picked:
    """Resolve one entry of ``isel``: an int, or ``[start, stop]``.

    Raises
    ------
    SourceError
        If it is neither, or lies outside of the `n` samples.
    """
    if _is_int(wanted):
        if not -n <= wanted < n:
            raise SourceError(
                f"isel asks for {dim} = {wanted}, but {dim!r} has {n} samples: 0 to {n - 1}."
            )
        return Picked(wanted % n, wanted % n + 1)
    if isinstance(wanted, slice) and wanted.step in (None, 1):
        wanted = [wanted.start, wanted.stop]
    if not isinstance(wanted, list | tuple) or len(wanted) != 2:
        raise SourceError(
            f"isel says {dim} = {wanted!r}: give a number, or [start, stop]; stop "
            "may lie beyond the end."
        )
    if not all(v is None or _is_int(v) for v in wanted):
        raise SourceError(f"isel says {dim} = {wanted!r}: start and stop are whole numbers.")
    start, stop, _ = slice(*wanted).indices(n)
    if stop <= start:
        raise SourceError(
            f"isel = {dim}: {list(wanted)!r} selects nothing of the {n} samples of {dim!r}."
        )
    return Picked(start, stop)


def by_label(dim: str, wanted: Any, n: int, axis: Axis | None, values: Any) -> Picked:
    """Resolve one entry of ``sel`` against a regular axis, or against a coordinate's values.

    Raises
    ------
    SourceError
        If the dim has no labels, a label is not there, or nothing is selected.
    """
    if isinstance(wanted, np.ndarray):
        wanted = wanted.tolist() if wanted.dtype.kind != "M" else list(wanted)
    if axis is not None:
        return _on_axis(dim, wanted, n, axis)
    if values is None:
        raise SourceError(
            f"sel asks for {dim} = {wanted!r}, but {dim!r} has no coordinate. Select by number "
            f"with isel: it has {n} samples."
        )
    if values.dtype.kind in "iufM":
        return _among_numbers(dim, wanted, values)
    return _among_names(dim, wanted, values)


def _on_axis(dim: str, wanted: Any, n: int, axis: Axis) -> Picked:
    # What lies within the rounding of the coordinates counts as equal to a label.
    slack = Fraction(1, 2) / abs(axis.exact_step) if axis.is_time else RANGE_TOLERANCE
    if isinstance(wanted, list | tuple):
        ends = _ends(dim, wanted, axis.is_time)
        start, stop = (None if end is None else axis.place(end) for end in ends)
        if axis.exact_step < 0 and start is not None and stop is not None and start > stop:
            # The values fall along the dim, and the lower end was given first.
            i, j = math.floor(stop + slack) + 1, math.floor(start + slack) + 1
        else:
            i = 0 if start is None else math.ceil(start - slack)
            j = n if stop is None else math.ceil(stop - slack)
        i, j = max(i, 0), min(j, n)
        if j <= i:
            raise SourceError(
                f"sel = {dim}: {_shown(wanted)} selects nothing: {dim!r} runs {_extent(axis, n)}."
            )
        return Picked(i, j)
    place = axis.place(_label(dim, wanted, axis.is_time))
    k = round(place)
    if abs(place - k) > max(slack, LABEL_TOLERANCE) or not 0 <= k < n:
        raise SourceError(
            f"There is no sample at {dim} = {wanted!s}: {dim!r} runs {_extent(axis, n)}. Take one "
            "of its values, or a range [start, stop]."
        )
    return Picked(k, k + 1)


def _among_numbers(dim: str, wanted: Any, values: NDArray[Any]) -> Picked:
    is_time = values.dtype.kind == "M"
    numbers = values.astype("datetime64[ns]").view(np.int64) if is_time else values
    if isinstance(wanted, list | tuple):
        start, stop = _ends(dim, wanted, is_time)
        inside = np.ones(numbers.shape, bool)
        if start is not None:
            inside &= numbers >= start
        if stop is not None:
            inside &= numbers < stop
    else:
        inside = numbers == _label(dim, wanted, is_time)
    if not inside.any():
        raise SourceError(
            f"sel = {dim}: {_shown(wanted)} selects nothing: {dim!r} holds {values.size} values "
            f"from {values.min()} to {values.max()}."
        )
    return Picked.of(np.flatnonzero(inside))


def _among_names(dim: str, wanted: Any, values: NDArray[Any]) -> Picked:
    names = [str(v) for v in values]
    indices: list[int] = []
    for name in wanted if isinstance(wanted, list | tuple) else [wanted]:
        found = [i for i, other in enumerate(names) if other == name]
        if not found:
            raise SourceError(f"There is no {name!r} in {dim!r}, which holds {listed(names)}.")
        indices += found
    if not indices:
        raise SourceError(f"sel = {dim}: [] selects nothing: {dim!r} holds {listed(names)}.")
    return Picked.of(indices)


def _ends(dim: str, wanted: Sequence[Any], is_time: bool) -> tuple[Any, Any]:
    if len(wanted) != 2:
        raise SourceError(
            f"sel = {dim}: {_shown(wanted)} is no range: give [start, stop]; stop is left out, "
            "and may lie beyond the end."
        )
    start, stop = (None if v is None else _label(dim, v, is_time) for v in wanted)
    return start, stop


def _label(dim: str, value: Any, is_time: bool) -> Any:
    """Return a label as nanoseconds since 1970, or as a number."""
    try:
        if is_time:
            return _nanoseconds(value)
        if isinstance(value, bool | str) or not np.isfinite(value):
            raise TypeError("a number is needed")
        return value.item() if isinstance(value, np.generic) else value
    except (TypeError, ValueError, OverflowError) as error:
        kind = "a time such as 2010-09-01T07:30" if is_time else "a number"
        raise SourceError(
            f"sel says {dim} = {value!r}, but {dim!r} needs {kind} ({error})."
        ) from error


def _nanoseconds(value: Any) -> int:
    if isinstance(value, str):
        return parse_time(value)
    if isinstance(value, np.datetime64):
        return int(value.astype("datetime64[ns]").astype(np.int64))
    if isinstance(value, dt.datetime):
        if value.tzinfo is not None:
            value = value.astimezone(dt.UTC).replace(tzinfo=None)
        return int(np.datetime64(value, "ns").astype(np.int64))
    if isinstance(value, dt.date):
        return int(np.datetime64(value, "ns").astype(np.int64))
    raise TypeError(f"{type(value).__name__} is no time")


def _extent(axis: Axis, n: int) -> str:
    first, last = axis.at(np.array([0, n - 1]))
    return f"from {first} to {last} in {n} samples"


def _shown(wanted: Any) -> str:
    return str([str(v) for v in wanted]) if isinstance(wanted, list | tuple) else repr(wanted)


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_dims(name: str, wanted: Mapping[str, Any], dims: Sequence[str]) -> None:
    """Refuse a selection along dims that do not exist."""
    for dim in wanted:
        if dim not in dims:
            raise SourceError(
                f"{name} names {dim!r}, which is no dimension of the variable: it has "
                f"({', '.join(dims)})."
            )


def plain(wanted: Any) -> Any:
    """Return a label, or a list of them, in a form that JSON keeps.

    Examples
    --------
    >>> plain([np.datetime64("2010-09-01"), 2.5, "UV05"])
    ['2010-09-01T00:00:00.000000000', 2.5, 'UV05']
    """
    if isinstance(wanted, np.ndarray):
        wanted = list(wanted)
    if isinstance(wanted, list | tuple):
        return [plain(label) for label in wanted]
    if isinstance(wanted, np.datetime64 | dt.date):
        return str(np.datetime64(_nanoseconds(wanted), "ns"))
    return wanted.item() if isinstance(wanted, np.generic) else wanted
