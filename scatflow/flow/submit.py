"""Send a run itself to a batch system, so that it goes on when the shell is closed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from scatflow.errors import ClusterError, OutputBusyError
from scatflow.flow import pods
from scatflow.flow.cluster.batch import (
    check_folder,
    export_lines,
    make_folder,
    shared_folder,
    tag,
)
from scatflow.flow.cluster.batch import script as worker_script
from scatflow.flow.cluster.kubernetes import run_name
from scatflow.flow.cluster.ready import HEADROOM, security_options
from scatflow.flow.job import Job
from scatflow.flow.lock import locked
from scatflow.flow.plan import RunPlan
from scatflow.flow.profiles import Batch, HtCondor, Tls, clock_time, seconds
from scatflow.flow.run import lay_out
from scatflow.flow.schedules.task import write
from scatflow.flow.systems import NUMBER, SYSTEMS, System, Wanted, script
from scatflow.flow.tables import memory_bytes

MARGIN_SHARE, MARGIN_MOST = 0.2, 300
"""A job is told to end so much before its walltime (part of it, and seconds at most)."""


CLIENT_BYTES = 512 * 2**20
"""Memory of the client and the scheduler beside the workers, in a job that has them all."""


DESCRIPTION = ".sub"
"""What a file of HTCondor's is called that tells of a script."""


class Papers(NamedTuple):
    """What is written of one batch job."""

    script: str
    description: str | None
    """What is sent in place of the script, where a system does not take that."""


@dataclass(frozen=True)
class Sent:
    """A run that a batch system has, as a record beside its log tells."""

    kind: str
    number: str
    numbers: list[str]
    """Of all jobs that are to be waited for, or cancelled."""
    log: str
    script: str
    host: str
    time: float


def scripts(plan: RunPlan, array: int | None = None) -> dict[str, str]:
    """Return the scripts that would be sent, by what they are.

    Parameters
    ----------
    plan : RunPlan
        The run.
    array : int, optional
        Jobs that share its blocks, instead of a driver with workers.

    Of Kubernetes, they are manifests.

    Raises
    ------
    ClusterError
        The profile is of no batch system.
    """
    if pods.is_of(plan.job):
        return pods.scripts(plan, _profile_of_shares(plan.job, array), array)
    place, system = _system(plan.job)
    places = _places(plan.job)
    check_folder(plan.job)
    _check_certificates(place)
    if array is None:
        again = "worker (sent by the driver, as often as there are to be workers)"
        driver = _driver(plan, system, places.script)
        return {**_shown("driver", driver), again: worker_script(plan.job)}
    array = min(array, plan.n_blocks)
    found = _shown(f"shares ({array} jobs)", _shares(plan, system, places, array))
    if system.awaits:
        found |= _shown("end (after all of them)", _end(plan, system, places, "ARRAY"))
    return {**found, f"profile of all jobs, {places.profile.name}": _own_profile(place)}


def _check_certificates(place: Batch) -> None:
    """Look at the profile's own certificates, which the driver needs later and elsewhere."""
    if isinstance(place.tls, Tls):
        security_options(place.tls)


def _shown(what: str, papers: Papers) -> dict[str, str]:
    described = {} if papers.description is None else {f"{what}: what is sent": papers.description}
    return {what: papers.script, **described}


def submit(
    plan: RunPlan, array: int | None = None, say: Callable[[str], None] = print
) -> Sent | None:
    """Send a run: its driver, or jobs that share its blocks and one that concludes.

    Parameters
    ----------
    plan : RunPlan
        The run.
    array : int, optional
        Jobs that share its blocks.
    say : callable
        Prints one line.

    Returns
    -------
    Sent
        None where there is nothing to compute.

    Raises
    ------
    ClusterError
        The profile is of no batch system, or the system refuses.
    OutputBusyError
        The run has been sent already and has not ended.
    """
    if pods.is_of(plan.job):
        return _submit_pods(plan, array, say)
    place, system = _system(plan.job)
    system.check_command()
    _check_certificates(place)
    make_folder(plan.job)
    with _one_at_a_time(plan.job):
        return _submit_jobs(plan, array, say)


@contextlib.contextmanager
def _one_at_a_time(job: Job) -> Iterator[None]:
    """Keep others from sending a run at the same instant: neither would see the other's job."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(str(_places(job).record)))
        except OutputBusyError as problem:
            raise OutputBusyError(
                f"Another command is sending this run at this moment, so nothing was sent. Look at "
                f"what becomes of it: scatflow status {job.path} --cluster {job.run.cluster}"
            ) from problem
        yield


def _submit_jobs(plan: RunPlan, array: int | None, say: Callable[[str], None]) -> Sent | None:
    """Send a run to a batch system."""
    place, system = _system(plan.job)
    places = _places(plan.job)
    earlier = sent(plan.job)
    if earlier is not None and any(system.waits_or_runs(n) for n in earlier.numbers):
        raise OutputBusyError(
            f"This run was sent already: job {earlier.number} of {system.kind} waits or runs. Wait "
            f"for it (its log: {earlier.log}), or cancel it: scatflow cancel {plan.job.path}"
        )
    for file in (places.script, places.end):
        file.with_suffix(NUMBER).unlink(missing_ok=True)
    if array is None:
        number = _send(system, places.script, _driver(plan, system, places.script))
        return _remember(place, system, places, [number], False)
    if not lay_out(plan, array, say):
        return None
    array = min(array, plan.n_blocks)
    places.profile.write_text(_own_profile(place))
    shares = _send(system, places.script, _shares(plan, system, places, array))
    record = _remember(place, system, places, [shares], True)
    if not system.awaits:
        return record
    try:
        end = _send(system, places.end, _end(plan, system, places, shares))
    except ClusterError:
        system.delete(shares)  # Nobody would take over what they do.
        raise
    return _remember(place, system, places, [shares, end], True)


def _send(system: System, path: Path, papers: Papers) -> str:
    """Write what a batch system gets, send it, and return the job's number."""
    path.write_text(papers.script)
    if papers.description is None:
        return system.submit(str(path))
    path.with_suffix(DESCRIPTION).write_text(papers.description)
    return system.submit(str(path.with_suffix(DESCRIPTION)))


def _submit_pods(plan: RunPlan, array: int | None, say: Callable[[str], None]) -> Sent | None:
    """Send a run to Kubernetes, which remembers it."""
    profile = _profile_of_shares(plan.job, array)
    pods.scripts(plan, profile, array)  # What pods cannot do is refused before anything is written.
    if pods.at_work(plan.job) is not True and array is not None and not lay_out(plan, array, say):
        return None
    return _sent_pods(plan.job, pods.create(plan, profile, array))


def _sent_pods(job: Job, name: str) -> Sent:
    return Sent("kubernetes", name, [name], pods.log(job), "", socket.gethostname(), time.time())


def _profile_of_shares(job: Job, array: int | None) -> str | None:
    return None if array is None else _own_profile(job.profile)


def _remember(
    place: Batch, system: System, places: Places, numbers: list[str], array: bool
) -> Sent:
    """Note what was sent, for whoever asks from another shell."""
    log = system.log(places.log, numbers[0], array)
    record = Sent(
        place.kind, numbers[0], numbers, log, str(places.script), socket.gethostname(), time.time()
    )
    write(places.record, json.dumps(asdict(record)))
    return record


def sent(job: Job) -> Sent | None:
    """Return the batch job that a run was sent as last, if it was."""
    if not isinstance(job.profile, Batch):
        return None
    places = _places(job)
    try:
        record = Sent(**json.loads(places.record.read_text()))
    except FileNotFoundError:
        return None
    successors = [_successor(SYSTEMS[record.kind], s) for s in (places.script, places.end)]
    numbers = [number for number in successors if number is not None]
    if not numbers:
        return record
    return replace(record, number=numbers[0], numbers=[*record.numbers, *numbers])


def _successor(system: System, script: Path) -> str | None:
    """Return the number of the job that was queued in place of the first one of a script."""
    if system.same_again:
        return None
    try:
        match = re.search(system.number, script.with_suffix(NUMBER).read_text())
    except FileNotFoundError:
        return None
    return match and match.group(1)


def told(job: Job) -> dict[str, Any] | None:
    """Return what is known of the batch job that a run was sent as: JSON-able, None if it was not.

    `at_work` is whether it waits or runs, None where the batch system's commands are not there.
    """
    if pods.is_of(job):
        return _told_pods(job)
    record = sent(job)
    if record is None:
        return None
    try:
        at_work: bool | None = any(SYSTEMS[record.kind].waits_or_runs(n) for n in record.numbers)
    except ClusterError:  # On another machine than the one that it was sent from.
        at_work = None
    return {**asdict(record), "at_work": at_work}


def _told_pods(job: Job) -> dict[str, Any] | None:
    """Ask Kubernetes; where it does not answer, nothing is known."""
    try:
        at_work = pods.at_work(job)
    except ClusterError:
        return None
    if at_work is None:
        return None
    return {**asdict(_sent_pods(job, run_name(tag(job)))), "at_work": at_work}


def _system(job: Job) -> tuple[Batch, System]:
    if not isinstance(job.profile, Batch) or job.profile.kind not in SYSTEMS:
        raise ClusterError(
            f"A run is sent to a batch system, and {job.run.cluster!r} is of kind "
            f'"{job.profile.kind}", which is none that runs can be sent to. Name a profile of kind '
            f"{', '.join(SYSTEMS)}, kubernetes with --cluster, or start `scatflow run` in a shell "
            "that stays."
        )
    return job.profile, SYSTEMS[job.profile.kind]


class Places(NamedTuple):
    """Files of a run that is sent."""

    script: Path
    end: Path
    profile: Path
    record: Path
    log: str
    """With ``{n}`` where the job's number comes."""


def _places(job: Job) -> Places:
    folder, name = shared_folder(job), tag(job)
    log = str(folder / "logs" / f"{name}-{{n}}.log")
    return Places(
        script=folder / f"{name}.sh",
        end=folder / f"{name}-end.sh",
        profile=folder / f"{name}.toml",
        record=folder / f"{name}.json",
        log=log,
    )


def _driver(plan: RunPlan, system: System, path: Path) -> Papers:
    """Return what is written of the job with the client and the scheduler."""
    place, _ = _system(plan.job)
    line = ["--cluster", os.path.abspath(plan.job.run.cluster)]
    if place.workers is not None and place.workers == plan.job.run.workers:
        line += ["--workers", str(place.workers)]  # The profile may say another number.
    return _papers(plan, system, path, _driver_wanted(plan.job, place), line)


def _driver_wanted(job: Job, place: Batch, **more: Any) -> Wanted:
    driver = place.driver
    return Wanted(
        name=tag(job),
        log=_places(job).log,
        cores=driver.cores,
        memory=memory_bytes(driver.memory),
        walltime=clock_time(driver.walltime) if driver.walltime else None,
        seconds=seconds(driver.walltime) if driver.walltime else None,
        queue=driver.queue or place.queue,
        account=place.account,
        parallel_environment=getattr(place, "parallel_environment", None),
        **more,
    )


def _worker_wanted(job: Job, place: Batch, **more: Any) -> Wanted:
    """Return what a job takes that computes by itself: workers and their client."""
    return Wanted(
        name=tag(job),
        log=_places(job).log,
        cores=place.cores or place.processes * job.threads,
        memory=int(job.memory * HEADROOM * place.processes) + CLIENT_BYTES,
        walltime=clock_time(place.walltime),
        seconds=seconds(place.walltime),
        queue=place.queue,
        account=place.account,
        directives=place.directives,
        parallel_environment=getattr(place, "parallel_environment", None),
        disk=memory_bytes(place.disk) if isinstance(place, HtCondor) else 0,
        **more,
    )


def _shares(plan: RunPlan, system: System, places: Places, array: int) -> Papers:
    """Return what is written of the jobs that compute a share of the blocks each."""
    place, _ = _system(plan.job)
    wanted = _worker_wanted(plan.job, place, array=array)
    share = f"{system.index}/{array}"
    line = ["--cluster", str(places.profile), "--share", share]
    return _papers(plan, system, places.script, wanted, line)


def _end(plan: RunPlan, system: System, places: Places, after: str) -> Papers:
    """Return what is written of the job after the shares, which does what is left."""
    place, _ = _system(plan.job)
    wanted = _worker_wanted(plan.job, place, after=after)
    return _papers(plan, system, places.end, wanted, ["--cluster", str(places.profile)])


def _papers(
    plan: RunPlan, system: System, path: Path, wanted: Wanted, options: list[str]
) -> Papers:
    job, place, _ = plan.job, *_system(plan.job)
    stop = None
    if wanted.seconds is not None:
        stop = int(wanted.seconds - min(wanted.seconds * MARGIN_SHARE, MARGIN_MOST))
    command = [place.python or sys.executable, "-m", "scatflow.cli", "run"]
    text = script(
        system,
        wanted,
        folder=plan.base,
        commands=[*place.prologue, *export_lines(place.environment)],
        line=[*command, str(job.path.absolute()), *options],
        stop_after=stop,
        path=str(path),
    )
    return Papers(text, system.description and system.description(wanted, str(path)))


def _own_profile(place: Any) -> str:
    """Return the profile of a job that computes by itself: processes on its own node."""
    processes = getattr(place, "processes", 1)
    lines = ['kind = "local"', f"workers = {processes}", f"threads = {place.threads or 1}"]
    if place.device != "cpu":
        lines.append(f"device = {_quoted(place.device)}")
    if place.memory is not None:
        lines.append(f"memory = {_quoted(place.memory)}")
    if place.scratch is not None:
        lines.append(f"scratch = {_quoted(place.scratch)}")
    if place.environment:
        lines += ["[environment]", *(f"{k} = {_quoted(v)}" for k, v in place.environment.items())]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return a TOML string: JSON's, but for surrogates and the one control character it leaves."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


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
    if pods.is_of(job):
        return pods.cancel(job)
    _, system = _system(job)
    record = sent(job)
    if record is None:
        raise ClusterError(
            f"{job.path} was not sent with {job.run.cluster}, so there is nothing to cancel: "
            f"{_places(job).record} is not there."
        )
    if not any(system.waits_or_runs(number) for number in record.numbers):
        return [f"Job {record.number} of {system.kind} has ended already. Its log: {record.log}"]
    for number in reversed(record.numbers):  # What waits for another one first.
        system.delete(number)
    system.delete_named(tag(job))
    return [
        f"Job {record.number} of {system.kind} is cancelled; its workers' jobs go with it. What is "
        f"done is kept. The same command goes on: scatflow submit {job.path} --cluster "
        f"{job.run.cluster}"
    ]
