"""Sums over the receipts of a run: altogether, by worker, and over time in bounded memory."""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from scatflow.flow.block import Receipt

POINTS = 512
"""Points of a history, at most: when there are more, every other one goes."""

RATE_SECONDS, RATE_SHARE, RATE_ROUNDS = 5.0, 1 / 60, 2
"""A rate is a mean over so many seconds, such a part of the run, and so many blocks of each slot
at least: what a block did is known when it ends."""

FAILURES_KEPT = 100
"""Failed blocks, the first ones, that are kept with their reasons."""


class Point(NamedTuple):
    """How far a run was at one moment: all but `done` counts from its beginning."""

    seconds: float
    done: int
    failed: int
    samples: int
    bytes: int
    engine_seconds: float


class Rates(NamedTuple):
    """How fast a run was at the moment of one point."""

    samples: float
    """Per second."""
    bytes: float
    engine: float
    """Part of the workers' time that the engine took, 0 to 1."""


class History:
    """Points of a run of any length, evenly spread over it, the last one always the newest."""

    def __init__(self, first: Point) -> None:
        self.points = [first]
        self._step = 0.0

    def add(self, point: Point) -> None:
        """Add the newest point."""
        points = self.points
        if len(points) > 1 and points[-1].seconds - points[-2].seconds < self._step:
            points[-1] = point
        else:
            points.append(point)
        if len(points) > POINTS:
            del points[1:-1:2]
            self._step = max(2 * self._step, 2 * point.seconds / POINTS)


def rates(points: Sequence[Point], slots: int) -> list[Rates]:
    """Return the rates at each point, over the time before it."""
    found = [Rates(0.0, 0.0, 0.0)]
    window = max(RATE_SECONDS, points[-1].seconds * RATE_SHARE)
    before = 0
    for now, point in enumerate(points[1:], 1):
        latest, most = point.seconds - window, point.done - RATE_ROUNDS * slots
        while (
            before + 1 < now
            and points[before + 1].seconds <= latest
            and points[before + 1].done <= most
        ):
            before += 1
        found.append(between(points[before], point, slots))
    return found


def between(first: Point, last: Point, slots: int) -> Rates:
    """Return the rates between two points of a run with so many slots."""
    seconds = max(last.seconds - first.seconds, 1e-9)
    share = (last.engine_seconds - first.engine_seconds) / (seconds * max(slots, 1))
    return Rates(
        (last.samples - first.samples) / seconds,
        (last.bytes - first.bytes) / seconds,
        min(max(share, 0.0), 1.0),
    )


@dataclass
class WorkerTally:
    """Sums over the receipts of one worker."""

    first: float
    """Seconds into the run at which its first block began."""
    last: float = 0.0
    """The same of the end of its last one."""
    blocks: int = 0
    failed: int = 0
    samples: int = 0
    failure: str = ""
    """Why the last one of its blocks that failed did."""

    @property
    def rate(self) -> float:
        """Samples per second while it was there."""
        return self.samples / max(self.last - self.first, 1e-9)


@dataclass
class Tally:
    """Sums over the receipts of one run.

    Parameters
    ----------
    total : int
        Blocks of the output.
    at_start : int
        Blocks that were done before.
    slots : int
        Blocks that all workers compute at a time.
    """

    total: int
    at_start: int = 0
    slots: int = 1
    began: float = field(default_factory=time.monotonic)
    blocks: int = 0
    failed: int = 0
    seconds: float = 0.0
    engine_seconds: float = 0.0
    samples: int = 0
    bytes_written: int = 0
    gaps: int = 0
    absent: int = 0
    workers: dict[str, WorkerTally] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.history = History(self.point())

    def add(self, receipt: Receipt) -> None:
        """Add one receipt."""
        self.blocks += 1
        self.seconds += receipt.seconds
        self.engine_seconds += receipt.engine_seconds
        self.samples += receipt.samples
        self.bytes_written += receipt.bytes_written
        self.gaps += receipt.gaps
        self.absent += receipt.absent > 0
        if receipt.failure is not None:
            self.failed += 1
            if len(self.failures) < FAILURES_KEPT:
                self.failures[receipt.block] = receipt.failure
        if receipt.worker:
            self._add_worker(receipt)

    def _add_worker(self, receipt: Receipt) -> None:
        now = self.elapsed
        worker = self.workers.get(receipt.worker)
        if worker is None:
            worker = WorkerTally(max(now - receipt.seconds, 0.0))
            self.workers[receipt.worker] = worker
        worker.last = now
        worker.blocks += 1
        worker.samples += receipt.samples
        if receipt.failure is not None:
            worker.failed += 1
            worker.failure = receipt.failure

    @property
    def elapsed(self) -> float:
        """Seconds since the first block was handed out."""
        return time.monotonic() - self.began

    @property
    def done(self) -> int:
        """Blocks that have ended, in this run or before it."""
        return self.at_start + self.blocks

    @property
    def rate(self) -> float:
        """Samples per second so far."""
        return self.samples / max(self.elapsed, 1e-9)

    @property
    def left(self) -> float | None:
        """Seconds that are left, None as long as no block has ended."""
        if not self.blocks:
            return None
        return self.elapsed / self.blocks * (self.total - self.done)

    def point(self) -> Point:
        """Return how far the run is now."""
        return Point(
            self.elapsed,
            self.done,
            self.failed,
            self.samples,
            self.bytes_written,
            self.engine_seconds,
        )

    def noteworthy(self, most: int) -> list[tuple[str, WorkerTally]]:
        """Return some workers: those with failures first, then the slowest."""
        return heapq.nsmallest(
            most, self.workers.items(), key=lambda item: (-item[1].failed, item[1].rate)
        )

    def missing(self, shares: bool) -> str | None:
        """Say in how many blocks samples were missing, None if in none."""
        if not self.gaps:
            return None
        where = "valid_fraction tells where" if shares else "coefficients that saw them are NaN"
        words = f"{self.gaps} of {self.blocks} blocks have gaps: {where}."
        if self.absent:
            words += (
                f" In {self.absent} of them chunks are not in the store; if chunks that were never "
                'written mean the fill value, set absent = "fill" in [source].'
            )
        return words


def clock(seconds: float) -> str:
    """Write a duration.

    Examples
    --------
    >>> clock(7.25), clock(3725)
    ('7.2 s', '1:02:05')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d} min"
