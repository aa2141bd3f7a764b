"""Recognise coordinates that other programs stored value by value as regular ones.

They are read in pieces of bounded size, twice: no coordinate is ever held as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scatflow.archive.axis import NS, Axis

PIECE = 2**18
"""Values of a coordinate that are read at once."""

TOLERANCE = Fraction(1, 1000)
"""A value may lie this part of a step away from the regular grid."""

COARSEST = Fraction(1, 10)
"""Stored values must be finer than this part of a step, or nothing can be told from them."""

Read = Callable[[int, int], NDArray[Any]]
"""Reads values ``[start, stop)``."""


class IrregularError(Exception):
    """A coordinate is no affine map; the message says where and how."""


def simplest(low: Fraction, high: Fraction) -> Fraction:
    """Return the fraction of smallest denominator in ``[low, high]``, both positive.

    A walk down the Stern-Brocot tree by continued fractions.

    Examples
    --------
    >>> simplest(Fraction(99999, 10_000_000), Fraction(100001, 10_000_000))
    Fraction(1, 100)
    """
    whole = -(-low.numerator // low.denominator)
    if whole <= high:
        return Fraction(whole)
    floor = whole - 1
    return floor + 1 / simplest(1 / (high - floor), 1 / (low - floor))


def recognise(read: Read, n: int, attrs: Mapping[str, Any]) -> Axis:
    """Return the axis of a coordinate of `n` values, if it is regular.

    A coordinate counts as regular if every value lies within :data:`TOLERANCE` of a step (or the
    resolution of its own numbers, if that is coarser) of an exact affine map. Of the maps that
    fit, the one with the simplest step is taken: 1/100 rather than 0.010000000000001.

    Parameters
    ----------
    read : callable
        ``read(start, stop)`` gives decoded values: datetime64[ns], integers or floats.
    n : int
        Number of values.
    attrs : mapping
        Attributes of the coordinate; ``units`` is the axis' unit.

    Raises
    ------
    IrregularError
        If it is not.
    """
    if n < 2:
        raise IrregularError("a single value has no step")
    ends = np.concatenate([read(0, 1), read(n - 1, n)])
    if ends.dtype.kind not in "iufM":
        raise IrregularError(f"values of type {ends.dtype} have no step")
    if np.isnat(ends).any() if ends.dtype.kind == "M" else not np.isfinite(ends).all():
        raise IrregularError("it begins or ends with a missing value")
    is_time = ends.dtype.kind == "M"
    first, last = (Fraction(v.item()) for v in (ends.view(np.int64) if is_time else ends))
    if first == last:
        raise IrregularError("its values do not change")
    mean_step = (last - first) / (n - 1)
    grain = _resolution(ends)
    if grain > COARSEST * abs(mean_step):
        raise IrregularError("its numbers are too coarse for its step")
    tolerance = max(TOLERANCE * abs(mean_step), grain)
    units = "ns" if is_time else str(attrs.get("units", ""))
    origin = int(first) if is_time or ends.dtype.kind in "iu" else float(first)
    rest = {k: v for k, v in attrs.items() if k not in ("units", "calendar", "_FillValue")}
    steps = [_simple_step(mean_step, slack / (n - 1), is_time) for slack in (grain, tolerance)]
    axes = []
    for step in dict.fromkeys(steps):
        whole = ends.dtype.kind in "iu" and step.denominator == 1
        axes.append(Axis(origin, step, units, is_time, 0, whole, rest))
    if not all(axis.holds(n) for axis in axes):
        raise IrregularError("its values or steps are too large or too small to compute with")
    return _best(axes, read, n, tolerance)


def _resolution(ends: NDArray[Any]) -> Fraction:
    """Return the step between neighbouring numbers of the type, at the largest value."""
    if ends.dtype.kind != "f":
        return Fraction(1) if ends.dtype.kind == "M" else Fraction(0)
    return Fraction(float(np.spacing(np.abs(ends).max())))


def _simple_step(mean: Fraction, slack: Fraction, is_time: bool) -> Fraction:
    """Return the simplest step within `slack` of the mean one, in seconds for time."""
    unit = NS if is_time else 1
    low, high = (abs(mean) - slack) / unit, (abs(mean) + slack) / unit
    step = simplest(low, high) * unit
    return step if mean > 0 else -step


def _best(axes: list[Axis], read: Read, n: int, slack: Fraction) -> Axis:
    """Return the first axis whose values lie within `slack` of the stored ones."""
    worst = [(0.0, 0)] * len(axes)
    for start in range(0, n, PIECE):
        stored = read(start, min(start + PIECE, n))
        samples = np.arange(start, start + stored.size)
        for i, axis in enumerate(axes):
            difference: NDArray[Any] = axis.at(samples) - stored
            if difference.dtype.kind == "m":
                difference = difference.view(np.int64)
            off = np.abs(difference.astype(np.float64))
            # A missing time is the most negative integer, a missing number is NaN: both stick out.
            off[~np.isfinite(off)] = np.inf
            if off.max() > worst[i][0]:
                worst[i] = (float(off.max()), start + int(off.argmax()))
    for axis, (furthest, _) in zip(axes, worst, strict=True):
        if furthest <= slack:
            return axis
    furthest, where = worst[-1]
    part = furthest / abs(float(axes[-1].exact_step))
    raise IrregularError(
        f"value {where} lies {part:.3g} steps off a regular grid, and {float(TOLERANCE)} is allowed"
    )
