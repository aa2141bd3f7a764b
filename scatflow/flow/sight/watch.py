"""What a run tells of itself, to whoever listens."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scatflow.flow.block import Receipt
from scatflow.flow.sight.tally import Tally

POINT_SECONDS = 1.0
"""Between two points of the history."""


@dataclass(frozen=True)
class Run:
    """Which run it is."""

    id: str
    job: str
    """The job's name."""
    path: str
    """The job file."""
    output: str
    settings: Mapping[str, Any]
    """What the job asks for, JSON-able."""
    place: Callable[[int], str]
    """Says which records and samples a block reads."""
    threads: int = 1
    """Threads that the engine keeps busy for one block."""
    dashboard: str = ""
    """Of the scheduler, once there is one."""


@dataclass(frozen=True)
class End:
    """How a run ended."""

    state: str
    """"complete", "failed" (some blocks), "interrupted" or "error"."""
    message: str
    counts: Mapping[str, int] | None = None
    """Blocks of the output that are done, missing and failed, where that is known."""


class Listener:
    """Hears what happens in a run; each method may be left as it is."""

    @property
    def called(self) -> str:
        """What people are told of it where it cannot do its work."""
        return type(self).__name__

    def started(self, run: Run, tally: Tally) -> None:
        """Workers are ready; `tally` is kept up to date from now on."""

    def block(self, receipt: Receipt) -> None:
        """Hear that a block has ended for good; the tally has it already."""

    def tick(self) -> None:
        """Do what is due: called several times a second, between blocks."""

    def stopped(self) -> None:
        """Hear that no more blocks will end, and that the workers are about to go."""

    def ended(self, run: Run, end: End) -> None:
        """Hear how the run ended, whether it started or not."""


class Watch:
    """Adds up the receipts of a run and tells listeners what happens.

    A listener that cannot do its work (a full disk, a scheduler that has gone) is told of and let
    go: no run ends because somebody watched.

    Parameters
    ----------
    run : Run
        Which run it is.
    listeners : sequence of Listener
        In the order in which they are told.
    say : callable
        Prints one line.
    """

    def __init__(self, run: Run, listeners: Sequence[Listener], say: Callable[[str], None]) -> None:
        self.run = run
        self.say = say
        self.tally = Tally(0)
        self.counts: Mapping[str, int] | None = None
        """Blocks of the output that are done, missing and failed, once that is known."""
        self._listeners = list(listeners)
        self._end = End("error", "")

    def add(self, listener: Listener) -> None:
        """Have one more listener, before the run starts."""
        self._listeners.append(listener)

    def started(self, tally: Tally, dashboard: str) -> None:
        """Tell that workers are ready."""
        self.tally, self.run = tally, replace(self.run, dashboard=dashboard)
        self._tell(lambda listener: listener.started(self.run, tally))

    def block(self, receipt: Receipt) -> None:
        """Add up a receipt and pass it on."""
        self.tally.add(receipt)
        self._tell(lambda listener: listener.block(receipt))

    def tick(self) -> None:
        """Let listeners do what is due."""
        history = self.tally.history
        if self.tally.elapsed - history.points[-1].seconds >= POINT_SECONDS:
            history.add(self.tally.point())
        self._tell(lambda listener: listener.tick())

    def stopped(self) -> None:
        """Tell that no more blocks will end in this run."""
        self.tally.history.add(self.tally.point())
        self._tell(lambda listener: listener.stopped())

    def ends(self, end: End) -> None:
        """Note how the run ended; listeners hear of it when all is put away."""
        self._end = end

    @contextlib.contextmanager
    def until_the_end(self) -> Iterator[None]:
        """Tell listeners at the end how the run ended, by an error if by nothing else."""
        try:
            yield
        except BaseException as problem:
            self._end = End("error", str(problem) or type(problem).__name__)
            raise
        finally:
            end = replace(self._end, counts=self.counts)
            self._tell(lambda listener: listener.ended(self.run, end), "is not whole")

    def _tell(
        self, call: Callable[[Listener], None], lost: str = "stopped, the run goes on"
    ) -> None:
        for listener in list(self._listeners):
            try:
                call(listener)
            except Exception as problem:  # Whatever it is, it is not the run's.
                self._listeners.remove(listener)
                self.say(f"note: {listener.called} {lost}: {type(problem).__name__}: {problem}")


def new_id() -> str:
    """Return a name for a run: the time in UTC, and something that no other has."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"
