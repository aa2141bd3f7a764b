"""How stored filters are laid out for the kernels."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from scatflow.backends import kernels
from scatflow.backends.protocol import BandFilter, Grid, Lowpass

Array = NDArray[Any]

SPAN_EPS = {"float32": 1e-7, "float64": 1e-16}
"""Height, relative to a filter's peak, below which the ends of its rows count as zero."""


class Runs(NamedTuple):
    """Filters cut into runs (see :func:`kernels.fold`)."""

    filters: Array
    pieces: Array
    weights: Array


class BandStage:
    """A stack of stored filters, with the decimation's mean and the FFT's 1/N inside.

    They are for half spectra, or else for whole ones. They are cut once, and what they were cut
    from is let go.
    """

    def __init__(self, boxes: Sequence[_Box], target: Grid, half: bool = True) -> None:
        self.target = target
        self._half = half
        self._boxes = tuple(boxes)
        self._cutting = threading.Lock()
        self._rows: Runs | None = None

    @property
    def rows(self) -> Runs:
        """Runs along the rows of spectra whose last axis is half of the whole one."""
        with self._cutting:  # low-passes are first needed by several threads at once
            if self._rows is None:
                self._rows = self._cut()
            return self._rows

    def _cut(self) -> Runs:
        boxes = self.take()
        n = boxes[0].shape[-1]
        kept = (math.prod(boxes[0].shape[:-1]), n // 2 + 1 if self._half else n)
        return _cut(boxes, self.target, kept)

    def take(self) -> list[_Box]:
        """Return the filters, which are not kept, turned towards the half spectrum if it is one."""
        if not self._boxes:
            raise RuntimeError("These filters were cut before, and are not kept in two forms.")
        boxes, self._boxes = self._boxes, ()
        return [_towards_the_half(box) if self._half else box for box in boxes]

    @property
    def nbytes(self) -> int:
        """Bytes that the stage holds."""
        return sum(a.nbytes for a in (*(self._rows or ()), *(box.values for box in self._boxes)))


TAP_EPS = {"float32": 1e-8, "float64": 1e-14}
"""Height, relative to its peak, below which a low-pass counts as zero in time."""


@dataclass(frozen=True, eq=False)
class _Box:
    """A filter inside a cyclic box."""

    starts: Grid
    values: Array
    shape: Grid


def lay_out(
    filters: Sequence[BandFilter], target: Grid, dtype: np.dtype[Any], half: bool = True
) -> BandStage:
    """Take filters over, of the type they are applied in."""
    boxes = (
        _Box(band.starts, (band.values / math.prod(band.shape)).astype(dtype), band.shape)
        for band in filters
    )
    return BandStage(tuple(boxes), target, half)


def _cut(boxes: Sequence[_Box], target: Grid, kept: tuple[int, int]) -> Runs:
    """Cut filters into rows' spans."""
    ends, pieces, weights, used = [0], [], [], 0
    for box in boxes:
        values, starts, shape, goal = box.values, box.starts, box.shape, target
        if len(shape) == 1:
            values, starts, shape, goal = values[None], (0, *starts), (1, *shape), (1, *goal)
        eps = SPAN_EPS[values.dtype.name]
        found, count, w, size = kernels.cut_rows(
            np.ascontiguousarray(values), starts, shape, goal, eps, kept
        )
        some = found[:count]
        some[:, 3] += used
        used += size
        pieces.append(some)
        weights.append(w[:size].copy())
        ends.append(ends[-1] + count)
    return Runs(np.array(ends, np.int64), np.concatenate(pieces), np.concatenate(weights))


def _towards_the_half(band: _Box) -> _Box:
    """Return a filter or its mirror image, whichever lies more in the half spectrum.

    The mirror image gives the conjugate field of a real signal, hence the same modulus, and the
    bins outside the half are the slower ones to read.
    """
    n, width = band.shape[-1], band.values.shape[-1]
    outside = (band.starts[-1] + np.arange(width)) % n > n // 2
    mass = np.abs(band.values).reshape(-1, width).sum(axis=0)
    if mass[outside].sum() <= mass.sum() / 2:
        return band
    starts = tuple(
        (1 - start - w) % n
        for start, w, n in zip(band.starts, band.values.shape, band.shape, strict=True)
    )
    return _Box(starts, np.flip(band.values), band.shape)


Key = tuple[Any, ...]

_LAID_OUT: WeakKeyDictionary[Lowpass, dict[Key, Any]] = WeakKeyDictionary()
"""Low-pass filters as they are applied, as long as their plans live."""


def lowpass(how: Lowpass, shape: Grid, dtype: np.dtype[Any], half: bool = True) -> BandStage:
    """Return a low-pass laid out for moduli on a grid of `shape`."""
    laid: dict[Key, Any] = _LAID_OUT.setdefault(how, {})
    key = (shape, dtype, half)
    if key not in laid:
        laid[key] = _lay_out_lowpass(how, shape, dtype, half)
    stage: BandStage = laid[key]
    return stage


def _lay_out_lowpass(how: Lowpass, shape: Grid, dtype: np.dtype[Any], half: bool) -> BandStage:
    starts, factors = [], []
    for factor, n in zip(how.factors, shape, strict=True):
        reach = factor.size - 1
        mirrored = factor[1 : reach if 2 * reach == n else reach + 1]  # n/2 is its own mirror image
        starts.append(-mirrored.size % n)
        factors.append(np.concatenate([mirrored[::-1], factor]))
    values = factors[0] if len(shape) == 1 else np.multiply.outer(factors[0], factors[1])
    return lay_out([_Box(tuple(starts), values, shape)], how.target, dtype, half)


class Taps(NamedTuple):
    """A low-pass as sums over windows (see :func:`kernels.windows`)."""

    taps: Array
    first: int
    step: int
    windows: int

    @property
    def span(self) -> int:
        """Samples from the first window's first to the last one's last."""
        return (self.windows - 1) * self.step + self.taps.size


def taps(how: Lowpass, n: int, dtype: np.dtype[Any]) -> Taps:
    """Return a low-pass laid out for moduli of n samples that need no transform otherwise."""
    laid: dict[Key, Any] = _LAID_OUT.setdefault(how, {})
    key = (n, dtype)
    if key not in laid:
        laid[key] = _lay_out_taps(how, n, dtype)
    found: Taps = laid[key]
    return found


def _lay_out_taps(how: Lowpass, n: int, dtype: np.dtype[Any]) -> Taps:
    half = np.zeros(n // 2 + 1)
    half[: how.factors[0].size] = how.factors[0]
    response = scipy.fft.irfft(half, n) if n > 1 else half
    heights = np.abs(response[: n // 2 + 1])
    reach = int(np.flatnonzero(heights > TAP_EPS[dtype.name] * heights.max())[-1])
    reach, count = (reach, 2 * reach + 1) if 2 * reach + 1 < n else ((n - 1) // 2, n)
    kept = range(*how.crop[0].indices(how.target[0]))
    step = n // how.target[0]
    weights = np.roll(response, reach)[:count].astype(dtype)
    return Taps(weights, kept.start * step - reach, step, len(kept))
