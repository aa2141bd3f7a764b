"""Workers as jobs of a batch system, through dask-jobqueue."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import ipaddress
import math
import os
import re
import shlex
import socket
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distributed import Client

from scatflow.errors import ClusterError
from scatflow.flow.cluster.ready import (
    HEADROOM,
    LOOPBACK,
    Cluster,
    dashboard_port,
    resource_words,
    security,
    variables,
)
from scatflow.flow.profiles import Batch, HtCondor, Lsf, Pbs, Sge, Slurm, clock_time, seconds
from scatflow.flow.systems import SYSTEMS
from scatflow.flow.work import absolute, local_path

if TYPE_CHECKING:
    from scatflow.flow.job import Job

CLUSTERS = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "lsf": "LSFCluster",
    "sge": "SGECluster",
    "htcondor": "HTCondorCluster",
}

LEAVE_SHARE, LEAVE_MOST = 0.1, 300
"""Workers end by themselves so much before their walltime (part of it, and seconds at most): what
they compute then is given to others, and their neighbours do not end in the same moment."""

IN_VAIN = 3
"""Batch jobs, per job that is wanted, that may end before any worker has ever come."""

LOOK_SECONDS, LOOKED_AT = 5.0, 20
"""How often the batch system is asked about jobs without a worker, and about how many of them."""

LOG_LINES = 12

UNFIT = re.compile(r"[^\w./+=@,~-]")
"""What some batch system takes for an end, a host or a number in the name of a log."""

ENTRY_WAIT = 60
"""Seconds that a worker looks for the scheduler before it gives its processors back."""


@contextlib.contextmanager
def connect(job: Job) -> Iterator[Cluster]:
    """Have a batch system start the workers; those that are cancelled or die are replaced."""
    place: Any = job.profile
    make_folder(job)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="dask_jobqueue")
        # Dask takes another port then; the address that is printed is the right one.
        warnings.filterwarnings("ignore", "Port .* is already in use", UserWarning)
        jobs = _cluster(job)
    with jobs, Client(jobs) as client:
        watch = _Arrivals(jobs, place, Path(jobs._job_kwargs["log_directory"]))
        _first_jobs(jobs, place)
        jobs.adapt(minimum=place.least, maximum=place.most, interval="2s")
        yield Cluster(
            client=client,
            held=job.workers * job.held,
            slots=job.workers,
            dashboard=jobs.dashboard_link,
            each=job.slots,
            lasting=True,
            coming=True,
            check=watch.check,
        )


def script(job: Job) -> str:
    """Return the script of a worker's batch job, as it would be sent; nothing is started.

    Raises
    ------
    ClusterError
        The package dask-jobqueue is missing.
    """
    module = _jobqueue()
    check_folder(job)
    kind = getattr(module, CLUSTERS[job.profile.kind])
    place: Any = job.profile
    words = _words(job, place, secured=False)
    words.pop("scheduler_options"), words.pop("shared_temp_directory")
    logs = str(words.pop("log_directory"))
    with tempfile.TemporaryDirectory() as other:  # dask-jobqueue would make the folder of logs.
        unit = kind.job_cls("tcp://SCHEDULER:PORT", name="scatflow-0", log_directory=other, **words)
    return str(unit.job_script()).replace(other, logs)


def _jobqueue() -> Any:
    try:
        import dask_jobqueue
    except ImportError as problem:
        raise ClusterError(
            "Profiles of batch systems need the package dask-jobqueue, which is not installed: "
            "nothing was sent. Install it: pip install 'scatflow[hpc]'"
        ) from problem
    return dask_jobqueue


def _cluster(job: Job) -> Any:
    place: Any = job.profile
    module = _jobqueue()
    _check_host(place.host)
    words = _words(job, place, secured=place.tls != "off")
    secured = security(place.tls)
    try:
        return getattr(module, CLUSTERS[place.kind])(
            n_workers=0, security=secured, protocol="tls://" if secured else "tcp://", **words
        )
    except (OSError, ValueError, RuntimeError) as problem:
        raise ClusterError(
            f"The scheduler for the batch jobs cannot be started: {problem}. Look at host, "
            "interface and shared in the profile."
        ) from problem


def _check_host(host: str | None) -> None:
    """Refuse an address for the scheduler that is another machine's: Dask would not say so."""
    try:
        for *_, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM) if host else ():
            with socket.socket(socket.AF_INET6 if len(address) == 4 else socket.AF_INET) as probe:
                probe.bind(address)
    except OSError as problem:
        raise ClusterError(
            f"host = {host!r} in the profile is no address of this machine ({problem.strerror}): "
            "the scheduler cannot be there, and nothing was started. ip addr lists its addresses; "
            "where the driver's machine is not known before, give interface instead."
        ) from problem


def _words(job: Job, place: Any, *, secured: bool) -> dict[str, Any]:
    """Return what dask-jobqueue is told."""
    folder = shared_folder(job)
    scheduler: dict[str, Any] = {"dashboard_address": f"{LOOPBACK}:{dashboard_port()}"}
    if place.host is not None:
        scheduler["host"] = place.host
    elif place.interface is not None:
        scheduler["interface"] = place.interface
    words: dict[str, Any] = {
        "cores": place.processes * job.held,
        "processes": place.processes,
        "memory": f"{_mib(job)} MiB",
        "interface": place.interface,
        "death_timeout": ENTRY_WAIT,
        "local_directory": _word(place.scratch or str(folder / "scratch")),
        "log_directory": str(folder / "logs"),
        "worker_extra_args": _worker_arguments(place),
        "job_script_prologue": [*place.prologue, *_exports(place)],
        "job_extra_directives": list(place.directives),
        "job_name": tag(job),
        "python": shlex.quote(place.python) if place.python else None,
        "scheduler_options": scheduler,
        "shared_temp_directory": str(folder) if secured else None,
    }
    return words | _peculiar(job, place)


def _word(path: str) -> str:
    """Return a path as a word of shell, in which the node's variables count, as in $TMPDIR."""
    if "$" not in path:
        return shlex.quote(path)
    return '"' + re.sub(r'([\\"`])', r"\\\1", path) + '"'


def _mib(job: Job) -> int:
    """Return the memory of one batch job, MiB."""
    place: Any = job.profile
    memory: float = job.memory * HEADROOM * place.processes
    return math.ceil(memory / 2**20)


def _peculiar(job: Job, place: Batch) -> dict[str, Any]:
    """Return what one batch system is told in its own way.

    A worker has more threads than it asks processors for: some read and write. dask-jobqueue asks
    for memory by itself only where it is not told of processors, and never on Grid Engine; and it
    hands a walltime on as it is, which each system writes in its own way.
    """
    cores = place.cores or place.processes * job.threads
    usual = {"queue": place.queue, "walltime": clock_time(place.walltime)}
    if isinstance(place, Slurm):
        return usual | {"account": place.account, "job_cpu": cores}
    if isinstance(place, Pbs):
        asked = f"select=1:ncpus={cores}:mem={_mib(job)}mb"
        return usual | {"account": place.account, "resource_spec": asked}
    if isinstance(place, Lsf):
        minutes = str(math.ceil(seconds(place.walltime) / 60))
        return usual | {"project": place.account, "ncpus": cores, "walltime": minutes}
    if isinstance(place, Sge):
        several = [f"-pe {place.parallel_environment} {cores}"] if cores > 1 else []
        return usual | {
            "project": place.account,
            "resource_spec": f"h_vmem={math.ceil(_mib(job) / cores)}M",  # of each core
            "job_extra_directives": ["-S /bin/bash", *several, *place.directives],
        }
    if isinstance(place, HtCondor):  # No queues and no walltimes: workers leave by themselves.
        group = {} if place.account is None else {"accounting_group": place.account}
        own = {k.strip(): v.strip() for k, _, v in (d.partition("=") for d in place.directives)}
        return {
            "disk": place.disk,
            "job_extra_directives": {
                "RequestCpus": str(cores),
                "batch_name": tag(job),
                **group,
                **own,
            },
            # What begins so is a macro of condor_submit's, and here it is the shell's.
            "job_script_prologue": [
                line.replace("$(", "$(DOLLAR)(") for line in (*place.prologue, *_exports(place))
            ],
        }
    raise TypeError(f"{place.kind} is no batch system")


def _worker_arguments(place: Any) -> list[str]:
    margin = min(seconds(place.walltime) * LEAVE_SHARE, LEAVE_MOST)
    given = [
        "--lifetime",
        f"{seconds(place.walltime) - margin:.0f}s",
        "--lifetime-stagger",
        f"{margin / 2:.0f}s",
        "--dashboard-address",
        f"{LOOPBACK}:0",
        *resource_words(place),
    ]
    if place.host is not None and _is_loopback(place.host):
        given += ["--host", LOOPBACK]
    return given


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _exports(place: Any) -> list[str]:
    """Return lines that set a worker's environment."""
    return export_lines(variables(place))


def export_lines(given: Mapping[str, str]) -> list[str]:
    """Return lines of shell that set some variables."""
    return [f"export {name}={shlex.quote(value)}" for name, value in given.items()]


def shared_folder(job: Job) -> Path:
    """Return the folder that batch jobs share for logs and certificates; it may not be there."""
    place: Any = job.profile
    if place.shared is not None:
        return Path(place.shared).absolute()
    output = local_path(absolute(job.output.store, os.getcwd()))
    return (Path(output).parent if output else Path.cwd()) / ".scatflow"


def check_folder(job: Job) -> None:
    """Refuse a shared folder that options of batch systems cannot name.

    Raises
    ------
    ClusterError
        It has blanks or other signs that they read in their own way, or is a file.
    """
    folder = str(shared_folder(job))
    if found := sorted(set(UNFIT.findall(folder))):
        signs = ", ".join(repr(sign) for sign in found)
        raise ClusterError(
            f"Logs of batch jobs would be in {folder!r}, and options of batch systems cannot hold "
            f"{signs}: nothing was sent. Name another folder that all nodes see, as shared in the "
            "profile."
        )
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise ClusterError(
            f"Logs of batch jobs would be in {folder}, which is no folder: nothing was sent. Name "
            "one that all nodes see, as shared in the profile."
        )


def make_folder(job: Job) -> Path:
    """Make the folder that batch jobs share, if it is missing, for this user alone.

    Raises
    ------
    ClusterError
        It cannot be made, or has a name that batch systems would not understand.
    """
    check_folder(job)
    folder = shared_folder(job)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "logs").mkdir(exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as problem:
        raise ClusterError(
            f"The folder {folder} cannot be made: {problem.strerror}. Name one that all nodes see "
            "and that can be written, as shared in the profile."
        ) from problem
    return folder


def tag(job: Job) -> str:
    """Return a name for batch jobs of one output, with which they can be found."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "-", job.name)[:40]
    output = absolute(job.output.store, os.getcwd())
    return f"scatflow-{plain}-{hashlib.sha256(output.encode()).hexdigest()[:6]}"


def _first_jobs(jobs: Any, place: Any) -> None:
    """Send the first batch jobs, so that a system that refuses them is heard.

    Raises
    ------
    ClusterError
        It refuses them, or is not there.
    """

    async def send() -> None:  # `scale` would do the same and keep the answer to itself.
        while len(jobs.worker_spec) * place.processes < max(place.least, 1):
            jobs.worker_spec.update(jobs.new_worker_spec())
        try:
            await jobs._correct_state()
        except Exception:
            for known in (jobs.worker_spec, jobs.workers, jobs._created):
                known.clear()  # Closing would wait for jobs that have never been sent.
            raise

    try:
        jobs.sync(send)
    except FileNotFoundError as problem:
        raise ClusterError(
            f"The command {problem.filename} is not there, so no batch job could be sent. Run on a "
            f"machine that has the commands of {place.kind}, or choose another profile."
        ) from problem
    except RuntimeError as problem:
        raise ClusterError(
            f"The batch system refuses a worker's job: {_said(problem)}. Look at queue, account, "
            "walltime, memory and directives in the profile; --dry-run prints the script."
        ) from problem


def _said(problem: Exception) -> str:
    """Return the batch system's own words of a failed command."""
    text = str(problem)
    for mark in ("stderr:", "stdout:"):
        _, _, rest = text.partition(mark)
        lines = [line.strip() for line in rest.splitlines() if line.strip()]
        lines = [line for line in lines if line not in ("stdout:", "stderr:")]
        if lines and not lines[0].startswith("command:"):
            return lines[0]
    return " ".join(text.split())


class _Arrivals:
    """Find out which batch jobs ended before their workers came, and have others sent for them.

    dask-jobqueue replaces workers that were lost, and waits for ever for those of jobs that died,
    or were cancelled, before.
    """

    def __init__(self, jobs: Any, place: Any, logs: Path) -> None:
        self._jobs, self._place, self._logs = jobs, place, logs
        self._before = set(logs.glob("*"))
        self._in_vain = 0
        self._came = False
        self._next = time.monotonic() + LOOK_SECONDS

    def check(self) -> None:
        """Look after the batch jobs now and then.

        Raises
        ------
        ClusterError
            No worker has ever come of many of them; with the last lines of one's log.
        """
        self._came = self._came or bool(self._jobs.scheduler.workers)
        if time.monotonic() < self._next:
            return
        ended = self._ended()
        self._next = time.monotonic() + LOOK_SECONDS
        if ended:
            self._in_vain += len(ended)
            self._jobs.sync(self._forget, ended)
        wanted = math.ceil(max(self._place.least, 1) / self._place.processes)
        if self._came or self._in_vain < IN_VAIN * wanted:
            return
        raise ClusterError(
            f"{self._in_vain} batch jobs were sent, and no worker ever came of them: "
            f"nothing was computed. {self._last_words()}"
        )

    def _ended(self) -> list[Any]:
        """Return the jobs that have ended and have no worker, of some that are looked at."""
        system = SYSTEMS[self._place.kind]
        there = {str(one.name) for one in self._jobs.scheduler.workers.values()}
        absent = [
            (name, unit.job_id)
            for name, unit in list(self._jobs.workers.items())
            if unit.job_id and not there & {str(name), f"{name}-0"}
        ]
        try:
            return [name for name, job in absent[:LOOKED_AT] if not system.waits_or_runs(str(job))]
        except ClusterError:  # It does not answer, and the run needs it not: later, then.
            return []

    async def _forget(self, names: list[Any]) -> None:
        for name in names:
            self._jobs.worker_spec.pop(name, None)
        await self._jobs._correct_state()

    def _last_words(self) -> str:
        written = [p for p in self._logs.glob("*") if p not in self._before and p.stat().st_size]
        if not written:
            return f"They left no log in {self._logs}: is that folder shared with the nodes?"
        last = max(written, key=lambda path: path.stat().st_mtime)
        lines = last.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join([f"One says ({last}):", *(f"  {line}" for line in lines)])
