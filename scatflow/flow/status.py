"""How far a job is, as its output's ledger tells."""

from __future__ import annotations

import os
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
        `output`, `state` ("not started", "running", "interrupted", "incomplete", "failed",
        "complete"), `blocks`, `done`, `missing`, `failed`, `failures` {block: reason}, `run`,
        `batch` (the batch job that the run was sent as, if it was), `provisional_from` {dim:
        {"index", "coordinate"}}: the first windows, along dimensions that are transformed
        seamlessly, which see the reflection at the end of the record.

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
            "output": output,
            "state": "not started",
            "blocks": None,
            **counts,
            "failures": {},
            "run": None,
            "batch": batch_job(job),
            "provisional_from": {},
        }
    ledger = found.ledger
    counts = ledger.counts()
    return {
        "output": output,
        "state": _state(ledger, counts, _at_work(output, ledger)),
        "blocks": int(ledger.state.size),
        **counts,
        "failures": {
            str(block): ledger.reason(block)
            for block in np.flatnonzero(ledger.state == FAILED).tolist()
        },
        "batch": batch_job(job),
        "run": dict(ledger.run) if ledger.run is not None else None,
        "provisional_from": provisional(output),
    }


def _at_work(output: str, ledger: Ledger) -> bool:
    """Ask the kernel about a local output's lock; elsewhere only the heartbeat tells."""
    if ledger.run is None:
        return False
    path = local_path(output)
    return alive(ledger.run) if path is None else held(path)


def _state(ledger: Ledger, counts: dict[str, int], at_work: bool) -> str:
    if at_work:
        return "running"
    if counts["missing"]:
        return "interrupted" if ledger.run is not None else "incomplete"
    return "failed" if counts["failed"] else "complete"
