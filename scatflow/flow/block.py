"""One block: read its slab, apply the plan to each unit, write its region, say how it went.

This is the only place where archive, blocks, engines and dataset meet.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
import secrets
import socket
import textwrap
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from dask.system import CPU_COUNT
from distributed import Worker, get_worker
from numpy.typing import NDArray

from scatflow.backends.scratch import SCRATCH
from scatflow.blocks import Tiles
from scatflow.dataset import (
    FRACTION,
    checksum,
    erase_region,
    open_arrays,
    write_region,
)
from scatflow.engines import Plan
from scatflow.errors import OutputError, ScatflowError
from scatflow.flow.devices import delegate
from scatflow.flow.earlier import (
    Arrays,
    Earlier,
    Kept,
    holds,
    n_held,
    partial_blocks,
    regions,
    restore,
)
from scatflow.flow.gaps import Filtered, shared, summed, transform
from scatflow.flow.groups import TASK_SECONDS
from scatflow.flow.layout import Layout, Part
from scatflow.flow.ledger import Ledger, Unreplaced, heading
from scatflow.flow.output import check_reachable
from scatflow.flow.patience import ROOM, within
from scatflow.flow.reading import Ahead, Read, read
from scatflow.flow.receipts import send
from scatflow.flow.sight import metrics
from scatflow.flow.work import Work, from_settings, written

REASON = 2000
"""Characters of the reason why a block failed, at most."""

SMALL_SCRATCH = 2**20
"""Bytes of buffers that a turn may leave to the next one: to make them anew takes small blocks
longer than to use them."""

REASONS = 3
"""Units that a failed block names; the others are counted."""


@dataclass(frozen=True)
class Receipt:
    """How one block went: all that travels back."""

    block: int
    seconds: float = 0.0
    engine_seconds: float = 0.0
    bytes_written: int = 0
    samples: int = 0
    units: int = 0
    """Units that were computed: all but those that a shorter source has left."""
    checksum: int = 0
    source_checksum: int = 0
    gaps: bool = False
    """Whether samples were missing."""
    absent: int = 0
    """Samples that were missing because their chunk is not in the store."""
    failure: str | None = None
    retry: bool = False
    """Whether another attempt may end otherwise."""
    worker: str = ""
    """Who computed it: host and port of a Dask worker; nothing where it died of it."""
    backend: str = ""
    """What computed it; nothing where its run could not be opened."""


@dataclass(frozen=True)
class Key:
    """Which run a task belongs to: with a block's index, all that travels to a worker."""

    output: str
    base: str
    """Directory that relative paths of the job start from."""
    fingerprint: str
    threads: int = 1
    """Threads that the engine keeps busy for one block."""
    slots: int = 0
    """Blocks that one process computes at a time; 0: as many as its processors allow."""
    job: str = ""
    """The job's name, for the metrics of workers."""
    backend: str = "numpy"
    """What the run is computed with, or "any"."""
    token: str = field(default_factory=lambda: secrets.token_hex(4))
    """A later run of the same job opens its source anew."""


class Opened(NamedTuple):
    """A run, as a worker has opened it."""

    work: Work
    arrays: Arrays
    """The output's variables."""
    turn: threading.Semaphore
    """Whose blocks are computed now; those that wait for it have been read."""
    earlier: Mapping[int, Earlier]
    """Blocks of which a shorter source has left some units."""
    backend: str
    """What computes here."""
    mine: Unreplaced
    """Raises once the output is another run's."""


class OpenWork:
    """Opened runs of this process, each opened once, the least recently used forgotten first."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[Key, str | None], Opened] = OrderedDict()

    def get(self, key: Key, worker: Worker | None = None) -> Opened:
        """Return the run that a key stands for, as a worker, by default this one, computes it."""
        mine = key, delegate(key.backend, worker)
        with self._lock:
            if mine not in self._open:
                self._open[mine] = _open(*mine)
                while len(self._open) > self.bound:
                    self._open.popitem(last=False)
            self._open.move_to_end(mine)
            return self._open[mine]


OPEN = OpenWork(bound=4)


def _open(key: Key, other: str | None) -> Opened:
    check_reachable(key.output)
    head = heading(key.output)
    if head.fingerprint != key.fingerprint:
        raise OutputError(
            f"The output {key.output} was replaced by that of another run while this one wrote it."
        )
    work = from_settings(head.settings, key.base).on(key.threads)
    slots = key.slots or max(1, processors() // key.threads)
    # Else nothing is read of the ledger's arrays, which are as long as there are blocks.
    earlier = partial_blocks(work, Ledger.open(key.output)) if head.partial else {}
    arrays = open_arrays(key.output, written(work))
    mine = Unreplaced(key.output, key.fingerprint)
    if other is not None:
        work = work.by(other)
    return Opened(work, arrays, _turn(slots), earlier, other or str(work.engine.backend), mine)


@functools.lru_cache
def _turn(slots: int) -> threading.Semaphore:
    """Return what so many blocks of this process, of whatever run, hold while they are computed."""
    return threading.Semaphore(slots)


ACTIVE: Counter[str] = Counter()
"""Blocks that this process computes at this moment, by the token of their run."""

ACTIVE_LOCK = threading.Lock()


def active(key: Key) -> int:
    """Return how many blocks of a run this process computes at this moment."""
    return ACTIVE[key.token]


def processors() -> int:
    """Return how many processors this process may use."""
    return int(CPU_COUNT)


def _held() -> int:
    """Return how many blocks this process holds at a time: one in each of its worker's threads."""
    try:
        return int(get_worker().state.nthreads)
    except ValueError:  # Called without a worker.
        return processors()


def warm_up(key: Key, dask_worker: Worker | None = None) -> None:
    """Open a run in a worker, so that its first block does not wait for imports and plans."""
    OPEN.get(key, dask_worker)


def process(key: Key, index: int, ahead: Ahead | None = None) -> Receipt:
    """Compute block `index` of a run and write it; what a block may suffer from is not raised.

    Parameters
    ----------
    key : Key
        The run.
    index : int
        The block.
    ahead : Ahead, optional
        Reads it together with its neighbours.

    Returns
    -------
    Receipt
        With the reason in `failure` where something went wrong.

    Raises
    ------
    OutputError
        The output is another run's: no block can be written.
    """
    begun = time.perf_counter()
    with ACTIVE_LOCK:
        ACTIVE[key.token] += 1
    try:
        with ROOM.block(_held()):
            work, arrays, turn, earlier, backend, mine = OPEN.get(key)
            reads = (ahead or Ahead([])).read
            receipt = compute(work, arrays, index, mine, turn, earlier.get(index), reads)
            return replace(receipt, backend=backend)
    except OutputError:
        raise
    except Exception as problem:  # As a receipt: one bad block must not end the run.
        kind = "" if isinstance(problem, ScatflowError) else f"{type(problem).__name__}: "
        seconds = time.perf_counter() - begun
        reason = textwrap.shorten(f"{kind}{problem}", REASON, placeholder=" ...")
        return Receipt(index, seconds=seconds, failure=reason, retry=True)
    finally:
        with ACTIVE_LOCK:
            ACTIVE[key.token] -= 1


def process_all(key: Key, blocks: list[int]) -> list[Receipt]:
    """Compute some blocks, one after the other, until a task has lasted long enough.

    See :func:`process`; blocks without a receipt have not been computed.
    """
    begun, receipts, here, ahead = time.monotonic(), [], _here(), Ahead(blocks)
    with ACTIVE_LOCK:  # None of the moments between two blocks is the end.
        ACTIVE[key.token] += 1
    try:
        for block in blocks:
            receipts.append(replace(process(key, block, ahead), worker=here))
            metrics.count(key.job, receipts[-1])
            if time.monotonic() - begun > TASK_SECONDS:
                break
    finally:
        with ACTIVE_LOCK:
            ACTIVE[key.token] -= 1
    if (worker := _worker()) is not None:
        send(worker, key.token, receipts)
    return receipts


def _worker() -> Worker | None:
    """Return the Dask worker that runs this task, None where it is not one of Dask's."""
    try:
        return get_worker()
    except ValueError:
        return None


def _here() -> str:
    """Return what the worker that runs this task is called."""
    if (worker := _worker()) is not None:
        return str(worker.address).rpartition("://")[2]
    return f"{socket.gethostname()}:{os.getpid()}"


def compute(
    work: Work,
    arrays: Arrays,
    index: int,
    before_writing: Callable[[], None] = lambda: None,
    turn: AbstractContextManager[Any] | None = None,
    earlier: Earlier | None = None,
    read: Read = read,
) -> Receipt:
    """Read one block, compute it and write its region.

    Units with infinite values (with gaps, too, if the job says so) are left NaN and make the block
    a failed one; its other units are written.

    Parameters
    ----------
    work : Work
        What is to be done.
    arrays : mapping
        The output's variables that blocks write.
    index : int
        The block.
    before_writing : callable
        Raises where the output must not be written any more.
    turn : context manager, optional
        Held while the engine is at work, so that other threads read and write meanwhile.
    earlier : Earlier, optional
        The block as it was when the source was shorter: units that still hold are taken from it.
    read : callable
        Reads what a block needs at a time.
    """
    begun = time.perf_counter()
    laid = work.layout
    before = (arrays, earlier) if earlier is not None else None
    made = evaluate(work, index, turn, before, read)
    size = made.kept.values.nbytes + made.kept.fraction.nbytes
    written_checksum, n_written = within(
        size, f"writing block {index}", lambda: _write(work, arrays, index, made, before_writing)
    )
    return Receipt(
        index,
        seconds=time.perf_counter() - begun,
        engine_seconds=made.engine_seconds,
        bytes_written=n_written,
        samples=laid.samples(index),
        units=made.units,
        checksum=written_checksum,
        source_checksum=made.source_checksum,
        gaps=made.gaps,
        absent=made.absent,
        failure=made.failure,
    )


def _write(
    work: Work, arrays: Arrays, index: int, made: Evaluated, before: Callable[[], None]
) -> tuple[int, int]:
    """Write what a block gives, the coefficients last; return the checksum and bytes of all."""
    before()
    found, n_written = 0, 0
    for name, where in regions(work, arrays, index):
        if made.damaged:  # Zarr reads a shard at the array's end before it writes what lies inside.
            erase_region(arrays[name], where)
        values = made.kept.fraction if name == FRACTION else made.kept.values
        found, n = write_region(arrays[name], where, values, found)
        n_written += n
    return found, n_written


class Evaluated(NamedTuple):
    """What a block gives, not written yet."""

    kept: Kept
    source_checksum: int
    engine_seconds: float
    units: int
    """Units that were computed."""
    gaps: bool
    absent: int
    failure: str | None
    damaged: bool
    """Whether the store has something else there than was written."""


def evaluate(
    work: Work,
    index: int,
    turn: AbstractContextManager[Any] | None = None,
    before: tuple[Arrays, Earlier] | None = None,
    read: Read = read,
) -> Evaluated:
    """Read one block and compute it; nothing is written.

    Parameters
    ----------
    work, index, turn, read
        As :func:`compute` has them.
    before : tuple, optional
        The output's variables, and the block as it was when the source was shorter.
    """
    laid = work.layout
    region = laid.region(index)
    take = _seamless if laid.seamless else _separate
    kept: Kept | None = None
    there: tuple[int, ...] | None = ()
    read_checksum, engine_seconds, units, absent, gaps = 0, 0.0, 0, 0, False
    bad: list[str] = []
    for part in laid.parts(index):
        stored, n_absent = read(work, part)
        read_checksum = checksum(stored, read_checksum)
        with turn or contextlib.nullcontext():
            if kept is None:
                kept = _blank(work, region)
                there = restore(work, before[0], index, before[1], kept) if before else ()
            held = there or ()
            data = stored.transpose(laid.order)
            seconds, wrong, missing = take(work, index, part, data, kept, held)
            # The memory that a plan states counts on what one turn leaves to the next: the thread
            # that has it next may be another one, with buffers of its own.
            del stored, data
            if turn is not None:
                SCRATCH.clear(beyond=SMALL_SCRATCH)
        engine_seconds, absent, gaps = engine_seconds + seconds, absent + n_absent, gaps or missing
        units += math.prod(b - a for a, b in (*part.untouched, *part.units))
        units -= n_held(held, (*part.untouched, *part.units))
        bad += wrong
    assert kept is not None  # A block has a part at least.
    return Evaluated(
        _finished(work, index, kept, bad, there or ()),
        read_checksum,
        engine_seconds,
        units,
        gaps,
        absent,
        _summary(bad, absent),
        there is None,
    )


class Partial(NamedTuple):
    """What one part of a block gives of its record: see :func:`total`."""

    record: tuple[Any, ...]
    """Which record of the block it belongs to."""
    kept: Kept
    bad: list[str]


def evaluate_part(work: Work, index: int, part: Part, stored: NDArray[Any]) -> Partial:
    """Compute what one part gives of a block that has several: sums, or values at some points."""
    laid = work.layout
    kept = _blank(work, laid.region(index))
    _, bad, _ = _seamless(work, index, part, stored.transpose(laid.order), kept, ())
    cells = zip(part.untouched, laid.cuts.cells(index), strict=False)
    record: tuple[Any, ...] = (*(a - first for (a, _), (first, _) in cells), ...)
    return Partial(record, Kept(kept.values[record].copy(), kept.fraction[record].copy()), bad)


def total(work: Work, index: int, partials: Iterable[Partial]) -> tuple[Kept, str | None]:
    """Put a block together from its parts in their order, to the bytes of :func:`evaluate`.

    Returns
    -------
    Kept, str or None
        The block, and why it failed.
    """
    kept = _blank(work, work.layout.region(index))
    bad: list[str] = []
    for record, part, wrong in partials:
        for whole, own in zip(kept, part, strict=True):
            if work.layout.summed:
                whole[record] += own
            else:  # What other parts give is NaN.
                np.copyto(whole[record], own, where=~np.isnan(own))
        bad += wrong
    return _finished(work, index, kept, bad, ()), _summary(bad, 0)


def _blank(work: Work, region: tuple[slice, ...]) -> Kept:
    """Return what a block gives before any is computed; sums begin at zero, in float64."""
    shape = [s.stop - s.start for s in region]
    windows = [shape[axis] for axis in work.layout.windowed]
    if work.layout.summed:
        return Kept(np.zeros(shape), np.zeros(windows))
    return Kept(np.full(shape, np.nan, work.dtype), np.full(windows, np.nan, work.dtype))


def _finished(work: Work, index: int, kept: Kept, bad: list[str], held: tuple[int, ...]) -> Kept:
    """Return what a block gives in the precision of the output, sums divided by their share."""
    if not work.layout.summed:
        return kept
    size, how = math.prod(work.layout.lengths), work.layout.transform.gaps
    sums, share = shared(*kept, size, how, work.dtype)
    if held:  # Records that were read back have been divided before.
        cells = work.layout.cuts.cells(index)
        there = tuple(slice(0, max(0, n - a)) for n, (a, _) in zip(held, cells, strict=False))
        sums[there], share[there] = kept.values[there], kept.fraction[there]
    with np.errstate(over="ignore"):
        values = sums.astype(work.dtype, copy=False)
    if np.isinf(values).any():
        values[np.isinf(values)] = np.nan
        bad.append(f"sums overflow {work.dtype}")
    return Kept(values, share.astype(work.dtype, copy=False))


def _apply(plan: Plan, x: NDArray[Any]) -> tuple[NDArray[Any], float]:
    begun = time.perf_counter()
    with np.errstate(over="ignore", invalid="ignore"):  # Overflow is told by the reason below.
        y = plan.apply(x)
    return y, time.perf_counter() - begun


# --- whole signals and frames --------------------------------------------------------------------


def _separate(
    work: Work,
    index: int,  # noqa: ARG001 - seamless transforms need it
    part: Part,
    data: NDArray[Any],
    kept: Kept,
    held: tuple[int, ...],
) -> tuple[float, list[str], bool]:
    """Transform units that know nothing of each other, some at a time; those held are there."""
    laid, engine_seconds, gaps = work.layout, 0.0, False
    bad: list[str] = []
    out = kept.values.reshape(-1, *laid.plan.labelled_shape)
    fraction = kept.fraction.reshape(-1, *laid.unit_windows)
    units = (u for u in enumerate(_units(work, part, data)) if not holds(held, u[1][0]))
    while some := list(itertools.islice(units, laid.batch)):
        batch = np.stack([x for _, (_, x) in some])
        ok = np.isfinite(batch).reshape(len(some), -1).all(axis=1)
        rows = np.array([row for row, _ in some])[ok]
        if rows.size:
            y, seconds = _apply(laid.plan, batch if ok.all() else batch[ok])
            engine_seconds += seconds
            out[rows] = y.reshape(-1, *laid.plan.labelled_shape)
            fraction[rows] = 1.0
        for good, (row, (cell, x)) in zip(ok, some, strict=True):
            overflow = good and not np.isfinite(out[row]).all()
            if not good and _treated(work, x):
                gaps = True
                found = transform(laid.plan, x, work.seen, laid.transform.gaps, _apply)
                engine_seconds += found.seconds
                out[row], fraction[row], overflow = (
                    found.coefficients,
                    found.fraction,
                    found.overflow,
                )
            elif not good:
                bad.append(_non_finite(work, cell, x))
            if overflow:
                out[row] = fraction[row] = np.nan
                bad.append(f"{_name(work, cell)}: coefficients overflow {work.dtype}")
    return engine_seconds, bad, gaps


def _treated(work: Work, x: NDArray[Any]) -> bool:
    """Tell whether what is not finite in a unit are gaps that the job treats."""
    return work.layout.transform.gaps != "raise" and not np.isinf(x).any()


def _units(
    work: Work, part: Part, data: NDArray[Any]
) -> Iterator[tuple[tuple[int, ...], NDArray[Any]]]:
    """Yield the units of a block in the order of its output, each with its cell."""
    laid = work.layout
    spans = (*part.untouched, *part.units)
    ranges = [range(a, b) for a, b in spans]
    n = laid.n_untouched
    firsts = [a for a, _ in spans]
    for cell in itertools.product(*ranges):
        here = tuple(c - f for c, f in zip(cell, firsts, strict=True))
        where: list[int | slice] = list(here[:n])
        for k, step, unit in zip(here[n:], laid.step, laid.unit, strict=True):
            where.append(slice(k * step, k * step + unit))
        yield cell, data[tuple(where)]


# --- seamless ------------------------------------------------------------------------------------


def _seamless(
    work: Work,
    index: int,
    part: Part,
    data: NDArray[Any],
    kept: Kept,
    held: tuple[int, ...],
) -> tuple[float, list[str], bool]:
    """Transform canonical tiles, one at a time: what a tile gives has no companions."""
    laid, engine_seconds, gaps = work.layout, 0.0, False
    bad: list[str] = []
    for cell, x in _tiles(laid, part, data):
        if holds(held, cell):
            continue
        own = _own(laid, index, cell)
        views: Any = (*own.record, ...)  # of a number without axes, too
        values, fraction = kept.values[views], kept.fraction[views]
        finite = bool(np.isfinite(x).all())
        if not finite and not _treated(work, x):
            bad.append(_non_finite(work, cell, x))
            values[own.where] = fraction[own.where] = np.nan
            continue
        gaps = gaps or not finite
        found = _tile(work, own, x, finite)
        engine_seconds += found.seconds
        if found.overflow:
            bad.append(f"{_name(work, cell)}: coefficients overflow {work.dtype}")
            values[own.where] = fraction[own.where] = np.nan
        elif own.crop:
            values[...] += found.coefficients
            fraction[...] += found.fraction
        else:
            values[own.where] = found.coefficients[own.keep]
            fraction[own.where] = found.fraction[own.keep]
    return engine_seconds, bad, gaps


def _tile(work: Work, own: Own, x: NDArray[Any], finite: bool) -> Filtered:
    """Transform one tile, without gaps or with some."""
    how = work.layout.transform.gaps
    if not finite and own.crop:
        return summed(own.plan, x, own.crop, how, _apply)
    if not finite:
        return transform(own.plan, x, work.seen, how, _apply)
    y, seconds = _apply(own.plan, x)
    y = y.reshape(own.plan.labelled_shape)
    count: NDArray[Any] = np.ones(y.shape[y.ndim - len(work.layout.unit_windows) :])
    if own.crop:
        count = np.asarray(x[own.crop].size, np.float64)
    # Windows of the halo may overflow: they are those of other tiles.
    return Filtered(y, count, seconds, not np.isfinite(y[own.keep]).all())


class Own(NamedTuple):
    """What a tile gives, and where in a block it goes."""

    plan: Plan
    keep: tuple[Any, ...]
    """Which of its coefficients are its own."""
    record: tuple[int, ...]
    """Index of the untouched axes in the block."""
    where: tuple[Any, ...]
    """Index of the other axes."""
    crop: tuple[slice, ...] = ()
    """Samples of the tile over which sums go; these are added to those of other tiles."""


def _own(laid: Layout, index: int, cell: tuple[int, ...]) -> Own:
    """Work out what the tile in a cell gives, and where in block `index` it goes."""
    n, cells = laid.n_untouched, laid.cuts.cells(index)
    record = tuple(i - a for i, (a, _) in zip(cell[:n], cells, strict=False))
    tile = cell[n:]
    if laid.points is not None:
        some = laid.points[slice(*cells[-1])]
        mine = np.flatnonzero((some // laid.unit == tile).all(axis=1))
        inside = some[mine] - np.multiply(tile, laid.unit) + laid.halo
        return Own(laid.plan.at(inside), (...,), record, (..., mine))
    if laid.plan.tail == "power":
        crop = tuple(t.inside(k) for t, k in zip(laid.tiles, tile, strict=True))
        return Own(laid.plan.summing(crop), (...,), record, (...,), crop)
    keep: list[Any] = [...]
    where: list[Any] = [...]
    for t, k, (first, _) in zip(laid.tiles, tile, cells[n:], strict=True):
        count = min(t.width, t.windows - k * t.width)
        keep.append(slice(t.keep.start, t.keep.start + count))
        where.append(slice((k - first) * t.width, (k - first) * t.width + count))
    return Own(laid.plan, tuple(keep), record, tuple(where))


def _tiles(
    laid: Layout, part: Part, data: NDArray[Any]
) -> Iterator[tuple[tuple[int, ...], NDArray[Any]]]:
    """Yield the canonical tiles of what was read, halos included, each with its cell."""
    n = laid.n_untouched
    lows = [a for a, _ in part.slab[n:]]
    for record in itertools.product(*(range(a, b) for a, b in part.untouched)):
        here = tuple(i - a for i, (a, _) in zip(record, part.untouched, strict=True))
        for tile in itertools.product(*(range(a, b) for a, b in part.units)):
            x = data[here]
            for axis, (t, k, low) in enumerate(zip(laid.tiles, tile, lows, strict=True)):
                x = _along(x, axis, t, k, low)
            yield (*record, *tile), np.ascontiguousarray(x)


def _along(x: NDArray[Any], axis: int, tiles: Tiles, k: int, low: int) -> NDArray[Any]:
    """Return what tile `k` sees along one axis, of samples read from `low` on."""
    runs = list(tiles.runs(k))
    if len(runs) == 1:
        first = (runs[0].first - low) % tiles.n
        return x[(*[slice(None)] * axis, slice(first, first + runs[0].count))]
    samples = np.concatenate([run.first + run.step * np.arange(run.count) for run in runs])
    return np.take(x, (samples - low) % tiles.n, axis=axis)


def place(work: Work, index: int) -> str:
    """Say which records and samples a block reads."""
    laid = work.layout
    words = []
    names = (*laid.untouched, *laid.transform.dims)
    for k, (dim, (a, b)) in enumerate(zip(names, laid.slab(index), strict=True)):
        if k >= laid.n_untouched:
            words.append(f"{dim} samples {a} to {(b - 1) % laid.lengths[k - laid.n_untouched]}")
        else:
            first, last = _label(work, dim, a), _label(work, dim, b - 1)
            words.append(f"{dim} {first}" + (f" to {last}" if b - a > 1 else ""))
    return ", ".join(words)


# --- reasons -------------------------------------------------------------------------------------


def _name(work: Work, cell: tuple[int, ...]) -> str:
    """Name a unit by the labels of its untouched dimensions and its place along the others."""
    laid = work.layout
    words = []
    for dim, i in zip(laid.untouched, cell, strict=False):
        words.append(f"{dim} {_label(work, dim, i)}")
    rest = cell[laid.n_untouched :]
    for dim, k, step, count in zip(laid.transform.dims, rest, laid.step, laid.units, strict=True):
        if laid.seamless or count > 1:
            words.append(f"{dim} from sample {k * step}")
    return ", ".join(words) or "the only unit"


def _label(work: Work, dim: str, i: int) -> str:
    coordinate = work.source.coords.get(dim)
    return str(i) if coordinate is None else str(coordinate.values[i])


def _non_finite(work: Work, cell: tuple[int, ...], x: NDArray[Any]) -> str:
    """Say which samples of a unit are not finite."""
    laid = work.layout
    wrong = ~np.isfinite(x)
    first = np.unravel_index(int(np.argmax(wrong)), x.shape)
    places = []
    units = zip(cell[laid.n_untouched :], laid.step, strict=True)
    for i, (dim, at, (k, step)) in enumerate(zip(laid.transform.dims, first, units, strict=True)):
        sample = laid.tiles[i].source(k, int(at)) if laid.seamless else k * step + int(at)
        axis = work.source.axes.get(dim)
        value = "" if axis is None else f" ({axis.at(np.array([sample]))[0]})"
        places.append(f"{dim} sample {sample}{value}")
    share = f"{int(wrong.sum())} of {math.prod(x.shape)} samples are not finite"
    return f"{_name(work, cell)}: {share}, the first at {', '.join(places)}"


def _summary(bad: list[str], absent: int) -> str | None:
    if not bad:
        return None
    more = f"; and {len(bad) - REASONS} more" if len(bad) > REASONS else ""
    chunks = f" ({absent} samples lie in chunks that are not in the store)" if absent else ""
    return "; ".join(bad[:REASONS]) + more + chunks
