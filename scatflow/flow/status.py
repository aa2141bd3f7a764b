"""How far a job is, as its output's ledger tells."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from scatflow.dataset import FAILED
from scatflow.errors import OutputError
from scatflow.flow.job import Job
from scatflow.flow.ledger import Ledger
from scatflow.flow.lock import alive, held
from scatflow.flow.output import look, provisional
from scatflow.flow.submit import told as batch_job
from scatflow.flow.work import absolute, local_path


def status(job: Job, base: str | None = None) -> dict[str, Any]:
    """Read the ledger of a job's output; the source is not touched.

    Parameters
    ----------
    job : Job
        A checked job file.
    base : str, optional
        Directory that relative paths start from; by default the current one.

    Returns
    -------
    dict
        `job`, `output`, `state` ("not started", "running", "interrupted", "incomplete", "failed",
        "complete"), `blocks`, `done`, `missing`, `failed`, `backends` {name: blocks that are done
        and were computed by it}, `failures` {block: reason}, `run`
        {"id", "host", "pid", "dashboard", "started", "updated", "rate", "left"} of a run at work or
        one that died (times in seconds since 1970), `rate` (samples per second) and `eta_seconds`
        of one at work, `batch` (the batch job that the run was sent as, if it was),
        `provisional_from` {dim: {"index", "coordinate"}}: the first windows, along dimensions that
        are transformed seamlessly, which see the reflection at the end of the record.

    Raises
    ------
    OutputError
        Something else than an output of scatflow lies there.
    """
    output = absolute(job.output.store, base or os.getcwd())
    found = look(output)
    if found.kind == "foreign":
        raise OutputError(
            f"{output} exists, but {found.why}. Name the store that the job writes in [output]."
        )
    if found.kind == "damaged":
        raise OutputError(
            f"{output} exists, but {found.why}. What is done of the job is not known: "
            "scatflow verify --repair finds out."
        )
    counts = {"done": 0, "missing": 0, "failed": 0}
    if found.ledger is None:
        return {
            "job": job.name,
            "output": output,
            "state": "not started",
            "blocks": None,
            **counts,
            "backends": {},
            "failures": {},
            "run": None,
            "batch": batch_job(job),
            "rate": None,
            "eta_seconds": None,
            "provisional_from": {},
        }
    ledger = found.ledger
    counts = ledger.counts()
    at_work = _at_work(output, ledger)
    return {
        "job": job.name,
        "output": output,
        "state": _state(ledger, counts, at_work),
        "blocks": int(ledger.state.size),
        **counts,
        "backends": ledger.computed(),
        "failures": {
            str(block): ledger.reason(block)
            for block in np.flatnonzero(ledger.state == FAILED).tolist()
        },
        "batch": batch_job(job),
        "run": dict(ledger.run) if ledger.run is not None else None,
        **_pace(ledger.run if at_work else None),
        "provisional_from": provisional(output),
    }


def _pace(run: Mapping[str, Any] | None) -> dict[str, float | None]:
    """Return how fast a run at work is, and how long it will take from now on."""
    if run is None:
        return {"rate": None, "eta_seconds": None}
    left = run.get("left")
    if left is not None:
        left = round(max(left - (time.time() - run["updated"]), 0.0), 3)
    return {"rate": run["rate"], "eta_seconds": left}


def _at_work(output: str, ledger: Ledger) -> bool:
    """Ask the kernel about a local output's lock; elsewhere only the heartbeat tells."""
    path = local_path(output)
    if ledger.shares:
        return any(map(alive, ledger.share_runs)) if path is None else held(path)
    if ledger.run is None:
        return False
    return alive(ledger.run) if path is None else held(path)


def _state(ledger: Ledger, counts: dict[str, int], at_work: bool) -> str:
    if at_work:
        return "running"
    if counts["missing"]:
        return "interrupted" if ledger.run is not None else "incomplete"
    return "failed" if counts["failed"] else "complete"
