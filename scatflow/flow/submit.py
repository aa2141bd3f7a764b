"""Send a run itself to a batch system, so that it goes on when the shell is closed."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from scatflow.errors import ClusterError, OutputBusyError
from scatflow.flow.cluster.batch import script as worker_script
from scatflow.flow.cluster.batch import shared_folder, tag
from scatflow.flow.cluster.kubernetes import manifest
from scatflow.flow.job import Job
from scatflow.flow.plan import RunPlan
from scatflow.flow.profiles import Batch, clock_time, seconds
from scatflow.flow.systems import ONE_LOG, SYSTEMS, System, Wanted, script
from scatflow.flow.tables import memory_bytes

MARGIN_SHARE, MARGIN_MOST = 0.2, 300
"""A driver is told to end so much before its walltime (part of it, and seconds at most)."""


@dataclass(frozen=True)
class Sent:
    """A run that a batch system has, as a record beside its log tells."""

    kind: str
    number: str
    log: str
    script: str
    host: str
    time: float


def scripts(plan: RunPlan) -> dict[str, str]:
    """Return the scripts that would be sent, by what they are: the driver's and a worker's.

    Of Kubernetes, it is the manifest that a run gives the operator.

    Raises
    ------
    ClusterError
        The profile is of no batch system.
    """
    if plan.job.profile.kind == "kubernetes":
        text = yaml.safe_dump(manifest(plan.job), sort_keys=False)
        return {"DaskCluster (`scatflow run` gives it to the operator)": text}
    _, system = _system(plan.job)
    path = _places(plan.job).script
    return {
        "driver": _driver(plan, system, path),
        "worker (sent by the driver, as often as there are to be workers)": worker_script(plan.job),
    }


def submit(plan: RunPlan) -> Sent:
    """Send the driver of a run.

    Raises
    ------
    ClusterError
        The profile is of no batch system, or the system refuses.
    OutputBusyError
        The run has been sent already and has not ended.
    """
    place, system = _system(plan.job)
    places = _places(plan.job)
    earlier = sent(plan.job)
    if earlier is not None and system.waits_or_runs(earlier.number):
        raise OutputBusyError(
            f"This run was sent already: job {earlier.number} of {system.kind} waits or runs. Wait "
            f"for it (its log: {earlier.log}), or cancel it: scatflow cancel {plan.job.path}"
        )
    places.script.write_text(_driver(plan, system, places.script))
    number = system.submit(str(places.script))
    log = places.log.replace("{n}", number if system.numbers_logs else ONE_LOG)
    record = Sent(place.kind, number, log, str(places.script), socket.gethostname(), time.time())
    places.record.write_text(json.dumps(asdict(record)))
    return record


def sent(job: Job) -> Sent | None:
    """Return the batch job that a run was sent as last, if it was."""
    if not isinstance(job.profile, Batch):
        return None
    try:
        return Sent(**json.loads(_places(job).record.read_text()))
    except FileNotFoundError:
        return None


def told(job: Job) -> dict[str, Any] | None:
    """Return what is known of the batch job that a run was sent as: JSON-able, None if it was not.

    `at_work` is whether it waits or runs, None where the batch system's commands are not there.
    """
    record = sent(job)
    if record is None:
        return None
    try:
        at_work: bool | None = SYSTEMS[record.kind].waits_or_runs(record.number)
    except ClusterError:  # On another machine than the one that it was sent from.
        at_work = None
    return {**asdict(record), "at_work": at_work}


def _system(job: Job) -> tuple[Batch, System]:
    if not isinstance(job.profile, Batch) or job.profile.kind not in SYSTEMS:
        raise ClusterError(
            f"A run is sent to a batch system, and {job.run.cluster!r} is of kind "
            f'"{job.profile.kind}", which is none that runs can be sent to. Name a profile of kind '
            f"{', '.join(SYSTEMS)} with --cluster, or start `scatflow run` in a shell that stays."
        )
    return job.profile, SYSTEMS[job.profile.kind]


class Places(NamedTuple):
    """Files of a run that is sent."""

    script: Path
    record: Path
    log: str
    """With ``{n}`` where the job's number comes."""


def _places(job: Job) -> Places:
    folder, name = shared_folder(job), tag(job)
    log = str(folder / "logs" / f"{name}-{{n}}.log")
    return Places(folder / f"{name}.sh", folder / f"{name}.json", log)


def _driver(plan: RunPlan, system: System, path: Path) -> str:
    job, place, _ = plan.job, *_system(plan.job)
    driver = place.driver
    limit = seconds(driver.walltime) if driver.walltime else None
    margin = None if limit is None else min(limit * MARGIN_SHARE, MARGIN_MOST)
    wanted = Wanted(
        name=tag(job),
        log=_places(job).log,
        cores=driver.cores,
        memory=memory_bytes(driver.memory),
        walltime=clock_time(driver.walltime) if driver.walltime else None,
        seconds=limit,
        queue=driver.queue or place.queue,
        account=place.account,
        parallel_environment=getattr(place, "parallel_environment", None),
    )
    return script(
        system,
        wanted,
        folder=plan.base,
        commands=place.prologue,
        line=[
            place.python or sys.executable,
            "-m",
            "scatflow.cli",
            "run",
            str(job.path.absolute()),
            "--cluster",
            os.path.abspath(job.run.cluster),
        ],
        stop_after=None if limit is None or margin is None else int(limit - margin),
        path=str(path),
    )


def cancel(job: Job) -> list[str]:
    """Cancel a run that was sent, and its workers' jobs; what is done is kept.

    Returns
    -------
    list of str
        What was done, in words.

    Raises
    ------
    ClusterError
        The profile is of no batch system, the run was not sent, or the system refuses.
    """
    _, system = _system(job)
    record = sent(job)
    if record is None:
        raise ClusterError(
            f"{job.path} was not sent with {job.run.cluster}, so there is nothing to cancel: "
            f"{_places(job).record} is not there."
        )
    if not system.waits_or_runs(record.number):
        return [f"Job {record.number} of {system.kind} has ended already. Its log: {record.log}"]
    system.delete(record.number)
    return [
        f"Job {record.number} of {system.kind} is cancelled; its workers' jobs go with it. What is "
        f"done is kept. The same command goes on: scatflow submit {job.path} --cluster "
        f"{job.run.cluster}"
    ]
