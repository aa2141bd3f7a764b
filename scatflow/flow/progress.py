"""Progress of a run, for people: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 10.0


class Reporter:
    """Shows blocks done, samples per second and time left."""

    def __init__(self, total: int, done: int, console: Console | None = None) -> None:
        self.total, self.done = total, done
        self.samples = 0
        self.failed = 0
        self._at_start = done
        self._begun = self._said = time.monotonic()
        self._console = console or Console(file=sys.stdout, soft_wrap=True, highlight=False)
        self._bar: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> Reporter:
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("blocks  {task.fields[rate]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task(
                "running", total=self.total, completed=self.done, rate=""
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False)

    @property
    def rate(self) -> float:
        """Samples per second so far."""
        return self.samples / max(time.monotonic() - self._begun, 1e-9)

    def advance(self, samples: int, failed: bool) -> None:
        """Note that a block has ended."""
        self.done += 1
        self.failed += failed
        self.samples += samples
        if self._bar is not None:
            rate = f"{self.rate:,.0f} samples/s{self._failures()}"
            self._bar.update(self._task, completed=self.done, rate=rate)

    def tick(self) -> None:
        """Say where the run is, if it is time to and there is no bar."""
        now = time.monotonic()
        if self._bar is None and now - self._said >= LINE_SECONDS:
            self._said = now
            self.say(
                f"{self.done}/{self.total} blocks{self._failures()}, "
                f"{self.rate:,.0f} samples/s, {self._left(now)} left"
            )

    def _failures(self) -> str:
        return f", {self.failed} failed" if self.failed else ""

    def _left(self, now: float) -> str:
        fresh = self.done - self._at_start
        if not fresh:
            return "unknown time"
        return clock((now - self._begun) / fresh * (self.total - self.done))


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
