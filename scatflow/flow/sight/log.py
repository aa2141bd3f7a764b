"""A log of JSON lines: one object for each block and for the run's beginning and end."""

from __future__ import annotations

import datetime
import json
import os
from typing import Any

from scatflow.flow.block import Receipt
from scatflow.flow.lock import me
from scatflow.flow.sight.tally import Tally
from scatflow.flow.sight.watch import End, Listener, Run

DIGITS = 6
"""Of seconds."""


class Log(Listener):
    """Appends lines to a file; each is one write, so that several runs may share a file.

    ``docs/watching.md`` has the fields.

    Parameters
    ----------
    path : str
        The file; what is in it stays.
    """

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._path = path
        self._run: Run | None = None

    @property
    def called(self) -> str:
        """Name the file."""
        return f"Log {self._path}"

    def started(self, run: Run, tally: Tally) -> None:
        """Say who computes what, and how much of it there is."""
        self._run = run
        self._write(
            run,
            "run_started",
            job=run.job,
            job_file=run.path,
            output=run.output,
            **me(),
            dashboard=run.dashboard,
            blocks=tally.total,
            blocks_done=tally.at_start,
            slots=tally.slots,
            threads=run.threads,
            settings=dict(run.settings),
        )

    def block(self, receipt: Receipt) -> None:
        """Say how a block went."""
        assert self._run is not None
        self._write(
            self._run,
            "block_done" if receipt.failure is None else "block_failed",
            block=receipt.block,
            place=self._run.place(receipt.block),
            worker=receipt.worker or None,
            backend=receipt.backend or None,
            seconds=round(receipt.seconds, DIGITS),
            engine_seconds=round(receipt.engine_seconds, DIGITS),
            samples=receipt.samples,
            units=receipt.units,
            bytes=receipt.bytes_written,
            gaps=bool(receipt.gaps),
            failure=receipt.failure,
        )

    def ended(self, run: Run, end: End) -> None:
        """Say how the run ended."""
        counts = end.counts or {}
        self._write(
            run,
            "run_ended",
            job=run.job,
            output=run.output,
            state=end.state,
            message=end.message,
            **{f"blocks_{name}": counts.get(name) for name in ("done", "missing", "failed")},
        )
        os.close(self._file)

    def _write(self, run: Run, event: str, **facts: Any) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        told = {"time": now.replace("+00:00", "Z"), "run": run.id, "event": event, **facts}
        line = (json.dumps(told, default=str) + "\n").encode()
        if os.write(self._file, line) != len(line):
            raise OSError("a line was written in part, as on a full disk")
