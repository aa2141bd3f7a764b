"""Gaps: what a unit of which samples are missing gives, in one, two or three dimensions.

A unit is a signal, image or volume as the engine is given it, NaN where samples are missing. Each
window sees the samples that the filters reach from its centre: its support. Samples beyond the
ends of a unit are those that the engine puts there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from scatflow.engines import Engine, Plan
from scatflow.errors import ParameterError

LEAST = 0.5
"""Share of an averaging window's weight that must lie on valid samples for `gaps = "weight"`."""

Apply = Callable[[Plan, NDArray[Any]], tuple[NDArray[Any], float]]
"""Applies a plan, and tells how long it took."""


class Filtered(NamedTuple):
    """A unit's coefficients, ``(*labelled_shape)``, and what stands behind them."""

    coefficients: NDArray[Any]
    """NaN where too little is valid."""
    fraction: NDArray[Any]
    """Share of valid samples in the support of each window, ``(*windows)``."""
    seconds: float = 0.0
    """That the engine took."""
    overflow: bool = False
    """Whether coefficients left the range of floating point."""


def reach(engine: Engine, plan: Plan, dtype: DTypeLike) -> int | None:
    """Return how many samples to each side of its centre a window sees, as the canonical halo.

    None where it sees the whole unit: integrals and means over it, and filters without an end,
    which no canonical grid has either.
    """
    if plan.tail == "power":
        return None
    try:
        return engine.canonical_grid(dtype).halo
    except ParameterError:
        return None


def transform(plan: Plan, x: NDArray[Any], seen: int | None, how: str, apply: Apply) -> Filtered:
    """Transform a unit of which some samples are missing.

    Parameters
    ----------
    plan : Plan
        For units of this shape.
    x : ndarray
        The unit, NaN where samples are missing.
    seen : int, optional
        Samples to each side that a window sees, see :func:`reach`.
    how : {"nan", "weight"}
        Whether windows that see a gap are NaN, or divided by the share of their weight that lies
        on valid samples, unless that is below :data:`LEAST`.
    apply : callable
        Applies the plan.
    """
    gaps = np.isnan(x)
    valid = ~gaps
    fraction = fractions(plan, valid, seen).astype(plan.dtype, copy=False)
    if how == "nan":
        weights = np.where(fraction == 1, 1.0, np.nan)
    else:
        weights = _weights(plan, valid, fraction)
    weights = weights.astype(plan.dtype, copy=False)
    if np.isnan(weights).all():
        return Filtered(np.full(plan.labelled_shape, np.nan, plan.dtype), fraction)
    y, seconds = apply(plan, filled(x, gaps))
    overflow = not np.isfinite(y).all()
    return Filtered(y.reshape(plan.labelled_shape) / weights, fraction, seconds, overflow)


def _weights(plan: Plan, valid: NDArray[np.bool_], fraction: NDArray[Any]) -> NDArray[Any]:
    """Return what coefficients are divided by, NaN where that is too little."""
    if plan.tail == "power":  # Every sample counts alike.
        return np.where(fraction >= LEAST, fraction, np.nan)
    shares = plan.window_shares(valid)
    # A window that sees no gap is left as it is, whatever the tail of the low-pass holds.
    return np.where(fraction == 1, 1.0, np.where(shares >= LEAST, shares, np.nan))


def summed(
    plan: Plan, x: NDArray[Any], crop: tuple[slice, ...], how: str, apply: Apply
) -> Filtered:
    """Return the sums over a part of a unit of which some samples are missing.

    Sums over the parts of a volume are divided by their valid share when all have been added: see
    :func:`shared`. `fraction` is the number of valid samples here.
    """
    gaps = np.isnan(x)
    count = np.asarray(np.count_nonzero(~gaps[crop]), np.float64)
    if how == "nan" and gaps[crop].any():
        return Filtered(np.full(plan.labelled_shape, np.nan, plan.dtype), count)
    if gaps.all():
        return Filtered(np.zeros(plan.labelled_shape, plan.dtype), count)
    y, seconds = apply(plan, filled(x, gaps))
    return Filtered(y.reshape(plan.labelled_shape), count, seconds, not np.isfinite(y).all())


def shared(
    sums: NDArray[Any], count: NDArray[Any], size: int, how: str, dtype: DTypeLike
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return sums over volumes ``(*records, paths, powers)``, and their valid shares.

    Parameters
    ----------
    sums : ndarray
        Over all parts of each volume.
    count : ndarray
        Valid samples of each, ``(*records)``.
    size : int
        Samples of one.
    how : str
        As in :func:`transform`.
    dtype : dtype
        Of the output.
    """
    share = np.where(np.isnan(count), np.nan, share_of(count, size, dtype))
    if how == "weight":
        sums = sums / np.where(share >= LEAST, share, np.nan)[..., None, None]
    return sums, share


# --- what windows see -------------------------------------------------------------------------


def fractions(plan: Plan, valid: NDArray[np.bool_], seen: int | None) -> NDArray[np.float64]:
    """Return the share of valid samples in the support of each window.

    Samples are counted, so that nothing is rounded but the quotient: it is one only where no
    sample is missing.

    Parameters
    ----------
    plan : Plan
        What gives the windows.
    valid : ndarray of bool
        The unit's samples.
    seen : int, optional
        Samples to each side of a window's centre; None: the whole unit.

    Returns
    -------
    ndarray
        ``(*windows)``, ``(points,)``, or a single number for integrals.
    """
    if plan.tail == "power":
        return share_of(np.asarray(np.count_nonzero(valid)), valid.size, plan.dtype)
    windows = plan.labelled_shape[-1:] if plan.tail == "point" else _windows(plan)
    if seen is None:
        return share_of(np.full(windows, np.count_nonzero(valid)), valid.size, plan.dtype)
    widths = [min(2 * seen + 1, n) for n in plan.padded]
    sizes = zip(plan.padded, plan.shape, plan.before, strict=True)
    around = np.pad(valid, [(b, p - n - b) for p, n, b in sizes], mode="reflect")
    count: NDArray[Any] = around
    if plan.tail == "point":
        count = _around_points(around, _points(plan), seen, widths)
    else:
        for axis, (number, (start, step)) in enumerate(zip(windows, plan.windows, strict=True)):
            centres = plan.before[axis] + start + step * np.arange(number)
            count = _along(count, axis, centres - seen, widths[axis])
    return share_of(count, math.prod(widths), plan.dtype)


def share_of(count: NDArray[Any], size: int, dtype: DTypeLike) -> NDArray[np.float64]:
    """Return the share that a count is of a size; what is below one rounds to no one."""
    share = np.asarray(count) / size
    below = np.nextafter(np.ones((), dtype), np.zeros((), dtype))
    return np.where(np.asarray(count) < size, np.minimum(share, below), 1.0)


def _windows(plan: Plan) -> tuple[int, ...]:
    return plan.labelled_shape[len(plan.labelled_shape) - len(plan.windows) :]


def _along(
    numbers: NDArray[Any], axis: int, firsts: NDArray[np.intp], width: int
) -> NDArray[np.integer[Any]]:
    """Return sums of `width` numbers from each of `firsts` on along one axis, which is a cycle."""
    n = numbers.shape[axis]
    shape = (*numbers.shape[:axis], n + 1, *numbers.shape[axis + 1 :])
    total = np.zeros(shape, np.int32 if numbers.size < 2**30 else np.int64)
    behind = (slice(None),) * axis
    np.cumsum(numbers, axis=axis, out=total[(*behind, slice(1, None))], dtype=total.dtype)
    laps, inside = np.divmod(np.stack([firsts, firsts + width]), n)
    laps = laps.reshape(2, -1, *[1] * (numbers.ndim - axis - 1)).astype(total.dtype)
    whole = total[(*behind, slice(n, n + 1))]
    before, until = (
        np.take(total, where, axis=axis) + lap * whole
        for where, lap in zip(inside, laps, strict=True)
    )
    return np.asarray(until - before)


def _points(plan: Plan) -> NDArray[np.intp]:
    """Return the voxels of which a plan gives values, ``(points, 3)``."""
    where: Any = plan.tree.layers[0].average
    return np.asarray(where.where, np.intp)


def _around_points(
    around: NDArray[np.bool_], points: NDArray[np.intp], seen: int, widths: Sequence[int]
) -> NDArray[np.intp]:
    counts = []
    for point in points:
        box = [
            (c - seen + np.arange(width)) % n
            for c, width, n in zip(point, widths, around.shape, strict=True)
        ]
        counts.append(np.count_nonzero(around[np.ix_(*box)]))
    return np.array(counts, np.intp)


# --- what is put into gaps ----------------------------------------------------------------------


def filled(x: NDArray[Any], gaps: NDArray[np.bool_]) -> NDArray[Any]:
    """Return a unit with its gaps filled: lines between the samples around them.

    Where filters have nearly ended, an offset that a fill lacks would still be seen, and so would
    the steps at the ends of a constant one; a line has neither. In an image or a volume it is the
    mean of the lines along each axis. Beyond the first and the last sample lines go on level.

    Parameters
    ----------
    x : ndarray
        The unit, of which some sample is valid.
    gaps : ndarray of bool
        Where samples are missing.
    """
    x, gaps = x.copy(), gaps.copy()
    while gaps.any():  # Lines without any sample are filled from those beside them, later on.
        where = np.nonzero(gaps)
        sums, lines = np.zeros(where[0].size), np.zeros(where[0].size, np.int8)
        for axis in range(x.ndim):
            found = _interpolated(x, gaps, axis)[where]
            known = ~np.isnan(found)
            sums[known] += found[known]
            lines += known
        some = lines > 0
        here = tuple(index[some] for index in where)
        x[here] = sums[some] / lines[some]
        gaps[here] = False
    return x


def _interpolated(x: NDArray[Any], gaps: NDArray[np.bool_], axis: int) -> NDArray[Any]:
    """Return the samples of a unit with its gaps filled along one axis; NaN on empty lines."""
    out = np.where(gaps, np.nan, x)
    lines, missing = np.moveaxis(out, axis, -1), np.moveaxis(gaps, axis, -1)
    wanted = missing.any(axis=-1) & ~missing.all(axis=-1)
    for line in map(tuple, np.argwhere(wanted)):
        at, known = np.flatnonzero(missing[line]), _beside(missing[line])
        lines[line][at] = np.interp(at, known, lines[line][known])
    return out


def _beside(missing: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the samples of a line beside its gaps: lines need no others."""
    beside = ~missing
    beside[1:-1] &= missing[:-2] | missing[2:]
    return np.flatnonzero(beside)
