"""What a scheduler knows of the runs on it, in bounded memory, for the panel and the metrics."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scatflow.flow.sight.tally import History, Point, Tally
from scatflow.flow.sight.watch import Run

TOPIC = "scatflow"
"""Of the events that a run logs with the scheduler."""

RUNS = 20
"""Runs that are remembered; the ones that have been silent for longest go first."""

WORKERS = 50
"""Workers of a run that are told of: those with failures, then the slowest."""

FAILURES = 20
"""Failed blocks that are told of, the first ones."""

TEXT = 300
"""Characters of a reason."""

SILENT_SECONDS = 20.0
"""A run that says nothing for so long may be dead."""


@dataclass
class Shown:
    """One run, as its own messages tell."""

    id: str
    job: str
    output: str
    total: int
    slots: int
    began: float
    """Time of the first point, seconds since 1970, by the clock of the run's machine."""
    history: History
    state: str = "running"
    message: str = ""
    left: float | None = None
    workers: Sequence[Mapping[str, Any]] = ()
    failures: Mapping[str, str] = field(default_factory=dict)
    n_workers: int = 0
    heard: float = field(default_factory=time.monotonic)

    @property
    def silent(self) -> float:
        """Seconds since the last message."""
        return time.monotonic() - self.heard


class Board:
    """The runs of one scheduler."""

    def __init__(self) -> None:
        self.runs: OrderedDict[str, Shown] = OrderedDict()

    def take(self, told: Mapping[str, Any]) -> None:
        """Take in a message of a run: see :func:`message`."""
        point = Point(*told["point"])
        run = self.runs.get(told["run"])
        if run is None:
            run = Shown(
                id=told["run"],
                job=told["job"],
                output=told["output"],
                total=told["total"],
                slots=told["slots"],
                began=told["began"],
                history=History(point),
            )
            self.runs[run.id] = run
        else:
            run.history.add(point)
        run.state, run.message, run.left = told["state"], told["message"], told["left"]
        run.workers, run.failures = told["workers"], told["failures"]
        run.n_workers, run.heard = told["n_workers"], time.monotonic()
        self.runs.move_to_end(run.id)
        while len(self.runs) > RUNS:
            self.runs.popitem(last=False)


def message(
    run: Run, tally: Tally, began: float, state: str = "running", words: str = ""
) -> dict[str, Any]:
    """Return what a run tells its scheduler: all there is to know, so that one is enough."""
    return {
        "run": run.id,
        "job": run.job,
        "output": run.output,
        "total": tally.total,
        "slots": tally.slots,
        "began": began,
        "point": list(tally.point()),
        "state": state,
        "message": words[:TEXT],
        "left": tally.left,
        "n_workers": len(tally.workers),
        "workers": [
            {
                "worker": name,
                "blocks": worker.blocks,
                "failed": worker.failed,
                "rate": worker.rate,
                "failure": worker.failure[:TEXT],
            }
            for name, worker in tally.noteworthy(WORKERS)
        ],
        "failures": {
            str(block): why[:TEXT] for block, why in list(tally.failures.items())[:FAILURES]
        },
    }
