"""How stored filters are laid out for the kernels."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from scatflow.backends import kernels
from scatflow.backends.protocol import BandFilter, Bank, Grid, Lowpass

Array = NDArray[Any]

SPAN_EPS = {"float32": 1e-7, "float64": 1e-16}
"""Height, relative to a filter's peak, below which the ends of its rows count as zero."""


class Runs(NamedTuple):
    """Filters cut into runs (see :func:`kernels.fold`)."""

    filters: Array
    pieces: Array
    weights: Array


class Cut(NamedTuple):
    """Filters of some stages, which were cut together: their runs lie end to end."""

    filters: Array
    pieces: Array
    weights: Array
    places: list[list[int]]
    """Of each stage: where its runs begin among all of them, and where they end."""

    def runs(self, stage: int) -> Runs:
        """Return the runs of one stage."""
        first, after, piece, last_piece, weight, last_weight = self.places[stage]
        return Runs(
            self.filters[first:after],
            self.pieces[piece:last_piece],
            self.weights[weight:last_weight],
        )

    def nbytes(self, stage: int) -> int:
        """Return the bytes of the runs of one stage."""
        first, after, piece, last_piece, weight, last_weight = self.places[stage]
        ends, pieces = after - first, last_piece - piece
        return 8 * (ends + 5 * pieces) + (last_weight - weight) * int(self.weights.itemsize)


class Boxes(NamedTuple):
    """Filters inside cyclic boxes of one grid, as :mod:`kernels` takes them."""

    table: Array
    """``(filters, 5)``: first row and column, rows, columns, offset of the values."""
    values: Array


class BandStage:
    """A stack of stored filters, with the decimation's mean and the FFT's 1/N inside.

    They are for half spectra, or else for whole ones. They are cut once, and what they were cut
    from is let go.
    """

    def __init__(
        self, boxes: Boxes | None, filters: int, shape: Grid, target: Grid, half: bool = True
    ) -> None:
        self.filters = filters
        self.shape = shape
        self.target = target
        self.half = half
        self._boxes = boxes
        self._cutting = threading.Lock()
        self._cut: tuple[Cut, int] | None = None

    @property
    def rows(self) -> Runs:
        """Runs along the rows of spectra whose last axis is half of the whole one."""
        cut, stage = self.cut
        return cut.runs(stage)

    @property
    def cut(self) -> tuple[Cut, int]:
        """What the filters were cut into together with others, and their number among these."""
        if self._cut is None:
            with self._cutting:  # several threads may need them first at once
                if self._cut is None:
                    self._cut_now()
        assert self._cut is not None
        return self._cut

    def _cut_now(self) -> None:
        cut([self], self.take())

    def take(self) -> Boxes:
        """Return the filters, which are not kept."""
        if self._boxes is None:
            raise RuntimeError("These filters were cut before, and are not kept in two forms.")
        boxes, self._boxes = self._boxes, None
        return boxes

    def settle(self, cut: Cut, stage: int) -> None:
        """Take what the filters were cut into."""
        self._cut = cut, stage

    @property
    def nbytes(self) -> int:
        """Bytes that the stage holds."""
        cut = self._cut[0].nbytes(self._cut[1]) if self._cut else 0
        return cut + sum(a.nbytes for a in self._boxes or ())


FAN_VALUES = 2**18
"""Values that filters of signals have, at most, of which some are cut at a time."""


class Fan:
    """Filters of signals that are applied to moduli of several decimations.

    They are folded, trimmed and cut in one compiled call when the first of them is needed.
    """

    def __init__(self, bank: Bank, eps: float, dtype: np.dtype[Any]) -> None:
        self._bank = bank
        self._eps = eps
        self._dtype = dtype
        self._uses: list[tuple[int, int]] = []
        self._factors: list[float] = []
        self._stages: list[BandStage] = []
        self._cutting = threading.Lock()

    def prepare(self, which: Sequence[int], n: int, target: Grid, factor: float = 1.0) -> BandStage:
        """Return some filters, multiplied by a factor, for moduli of n samples."""
        stage = _FanStage(self, len(which), n, target)
        self._uses += [(band, n) for band in which]
        self._factors += [factor] * len(which)
        self._stages.append(stage)
        return stage

    def cut(self) -> None:
        """Cut all filters asked for so far."""
        with self._cutting:
            stages, self._stages = self._stages, []
            uses, self._uses = self._uses, []
            factors, self._factors = self._factors, []
            if stages:
                self._cut_in_turn(stages, np.array(uses, np.int64), np.array(factors))

    def _cut_in_turn(self, stages: list[BandStage], uses: Array, factors: Array) -> None:
        """Cut some stages at a time: what they are cut from is held twice meanwhile."""
        room = np.minimum(np.diff(self._bank.ends)[uses[:, 0]], uses[:, 1])
        ends = np.cumsum([stage.filters for stage in stages])
        turn = np.cumsum(room)[ends - 1] // FAN_VALUES
        for one in np.unique(turn):
            (some,) = np.nonzero(turn == one)
            where = slice(ends[some[0]] - stages[some[0]].filters, ends[some[-1]])
            boxes = self._folded(uses[where], factors[where], int(room[where].sum()))
            cut([stages[i] for i in some], boxes)

    def _folded(self, uses: Array, factors: Array, room: int) -> Boxes:
        bank = self._bank
        values = np.empty(room, self._dtype)
        table, sums = np.empty((len(uses), 5), np.int64), np.empty(uses[:, 1].max())
        kernels.fold_bands(
            bank.firsts, bank.ends, bank.values, uses, factors, self._eps, values, table, sums
        )
        return Boxes(table, values)


class _FanStage(BandStage):
    """Some filters of a fan."""

    def __init__(self, fan: Fan, filters: int, n: int, target: Grid) -> None:
        super().__init__(None, filters, (n,), target)
        self._fan: Fan | None = fan

    def _cut_now(self) -> None:
        if self._fan is not None:
            self._fan.cut()

    def settle(self, cut: Cut, stage: int) -> None:
        """Take what the filters were cut into, and let the others go."""
        super().settle(cut, stage)
        self._fan = None

    @property
    def nbytes(self) -> int:
        """Bytes that the stage holds once it is cut, which it is for this."""
        cut, stage = self.cut
        return cut.nbytes(stage)


TAP_EPS = {"float32": 1e-8, "float64": 1e-14}
"""Height, relative to its peak, below which a low-pass counts as zero in time."""


def lay_out(
    filters: Sequence[BandFilter], target: Grid, dtype: np.dtype[Any], half: bool = True
) -> BandStage:
    """Take filters over, of the type they are applied in."""
    shape = filters[0].shape
    boxes = _boxes([(band.starts, band.values, shape) for band in filters], dtype)
    return BandStage(boxes, len(filters), shape, target, half)


def lay_out_dense(dense: Array, eps: float, target: Grid, dtype: np.dtype[Any]) -> BandStage:
    """Take what is not negligible of filters on the whole grid."""
    values = np.empty(dense.size, dtype)
    table, used = kernels.box_filters(dense, eps, values)
    boxes = Boxes(table, values if 2 * used > values.size else values[:used].copy())
    return BandStage(boxes, len(dense), dense.shape[1:], target)


def _boxes(filters: Sequence[tuple[Grid, Array, Grid]], dtype: np.dtype[Any]) -> Boxes:
    """Put first bins and values of some filters, on grids, into one table."""
    table, used = [], 0
    for starts, some, _ in filters:
        one = (0,) if len(starts) == 1 else ()
        table.append((*one, *starts, *(1 for _ in one), *some.shape, used))
        used += some.size
    values, ends = np.empty(used, dtype), [row[4] for row in table[1:]] + [used]
    for row, end, (_, some, shape) in zip(table, ends, filters, strict=True):
        np.divide(some.reshape(-1), math.prod(shape), out=values[row[4] : end], casting="same_kind")
    return Boxes(np.array(table, np.int64), values)


def cut(stages: Sequence[BandStage], boxes: Boxes) -> None:
    """Cut the filters of some stages into rows' spans."""
    rows: list[Sequence[int]] = []
    last = 0
    for stage in stages:
        last += stage.filters
        n = stage.shape[-1]
        kept = n // 2 + 1 if stage.half else n
        if len(stage.shape) == 1:
            rows.append((last, 1, n, 1, stage.target[0], 1, kept, stage.half))
        else:
            rows.append((last, *stage.shape, *stage.target, stage.shape[0], kept, stage.half))
    eps = SPAN_EPS[boxes.values.dtype.name]
    ends = np.zeros(last + len(stages), np.int64)
    bounds = np.zeros((len(stages) + 1, 2), np.int64)
    weights = np.empty_like(boxes.values)
    table = np.array(rows, np.int64)
    pieces = kernels.cut_rows(boxes.table, boxes.values, table, eps, ends, bounds, weights)
    pieced, used = bounds[-1].tolist()
    if pieced < len(pieces):
        pieces = pieces[:pieced].copy()
    if used < weights.size:
        weights = weights[:used].copy()
    places = np.empty((len(stages), 6), np.int64)
    places[:, 1] = table[:, 0] + np.arange(1, len(stages) + 1)  # filters have an end more a stage
    places[0, 0], places[1:, 0] = 0, places[:-1, 1]
    places[:, 2::2], places[:, 3::2] = bounds[:-1], bounds[1:]
    found = Cut(ends, pieces, weights, places.tolist())
    for i, stage in enumerate(stages):
        stage.settle(found, i)


Key = tuple[Any, ...]

_LAID_OUT: WeakKeyDictionary[Lowpass, dict[Key, Any]] = WeakKeyDictionary()
"""Low-pass filters as they are applied, as long as their plans live."""

_LAYING_OUT = threading.Lock()


def lowpass(how: Lowpass, shape: Grid, dtype: np.dtype[Any], half: bool = True) -> BandStage:
    """Return a low-pass laid out for moduli on a grid of `shape`."""
    return lowpasses([(how, shape, half)], dtype)[0]


def lowpasses(uses: Sequence[tuple[Lowpass, Grid, bool]], dtype: np.dtype[Any]) -> list[BandStage]:
    """Return low-passes laid out for moduli on grids, and for half or whole spectra.

    Those that were not there before are cut together.
    """
    with _LAYING_OUT:  # low-passes are first needed by several threads at once
        laid = [_LAID_OUT.setdefault(how, {}) for how, _, _ in uses]
        keys = [(shape, dtype, half) for _, shape, half in uses]
        missing = [
            i for i, (known, key) in enumerate(zip(laid, keys, strict=True)) if key not in known
        ]
        if missing:
            stages = _cut_lowpasses([uses[i] for i in missing], dtype)
            for i, stage in zip(missing, stages, strict=True):
                laid[i][keys[i]] = stage
        return [known[key] for known, key in zip(laid, keys, strict=True)]


def _cut_lowpasses(
    uses: Sequence[tuple[Lowpass, Grid, bool]], dtype: np.dtype[Any]
) -> list[BandStage]:
    boxes = _boxes([(*_mirrored(how, shape), shape) for how, shape, _ in uses], dtype)
    stages = [BandStage(None, 1, shape, how.target, half) for how, shape, half in uses]
    cut(stages, boxes)
    return stages


def _mirrored(how: Lowpass, shape: Grid) -> tuple[Grid, Array]:
    """Return first bins and values of a low-pass, which is its own mirror image."""
    starts, factors = [], []
    for factor, n in zip(how.factors, shape, strict=True):
        reach = factor.size - 1
        mirrored = factor[reach - (2 * reach == n) : 0 : -1]  # n/2 is its own mirror image
        starts.append(-mirrored.size % n)
        factors.append(np.concatenate([mirrored, factor]))
    values = factors[0] if len(shape) == 1 else np.multiply.outer(factors[0], factors[1])
    return tuple(starts), values


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
