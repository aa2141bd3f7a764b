"""Runners: where the blocks are computed."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import resource_tracker

import dask
from distributed import Client, LocalCluster

from scatflow.errors import ClusterError
from scatflow.flow.block import processors
from scatflow.flow.job import Job
from scatflow.flow.plan import slots

LOOPBACK = "127.0.0.1"
DASHBOARD_PORT = 8787
CONNECT_SECONDS = 10.0

ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "NUMBA_NUM_THREADS",
        "ZARR_THREADING__MAX_WORKERS",
    ),
    "1",
)
"""The threads of a run are its workers' and, in each, the engine's: pools of libraries that add
their own (BLAS, FFT, Numba, Zarr's codecs) would have them wait for each other."""

MALLOC = {
    "MALLOC_TRIM_THRESHOLD_": "67108864",
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_ARENA_MAX": "1",
}
"""glibc keeps up to 64 MiB of freed memory, in one arena, and maps only arrays above 32 MiB.

Dask's own setting (trim at 64 KiB) has each temporary array mapped, zeroed and unmapped again. On
a day of two stations (10 blocks, 2 workers) a worker then spent 6.6 s of system time beside 6.4 s
of work and peaked at 223 MiB; with these settings it is 0.2 s and 234 MiB.
"""

HEADROOM = 1.5
"""Dask ends a worker at 95 % of its limit; a limit this much above the budget never meets it."""

CONFIG = {
    "distributed.nanny.pre-spawn-environ": {**ONE_THREAD, **MALLOC},
    # The plan bounds the memory: nothing is to be spilled, and a paused worker would never resume.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.comm.timeouts.connect": "10s",
    # A tenth of the samples that Dask takes of what workers do, and of what it keeps of them: 3600
    # cycles, each with a tree of all stacks.
    "distributed.worker.profile.interval": "100ms",
    "distributed.worker.profile.cycle": "10s",
    # Once somebody has looked at the dashboard, as many tasks are kept for it, not 100 000.
    "distributed.scheduler.dashboard.tasks.task-stream-length": 10_000,
    # Which of a dead worker's blocks it died of is for the window to find out.
    "distributed.scheduler.allowed-failures": 0,
    # A worker that is stopped, or whose machine is gone without a word, counts as dead then.
    "distributed.scheduler.worker-ttl": "60s",
}


@dataclass(frozen=True)
class Cluster:
    """Workers that are ready."""

    client: Client
    held: int
    """Blocks that all workers hold at a time."""
    slots: int
    """Blocks that they compute at a time, while others are read or written."""
    dashboard: str
    workers: Mapping[str, tuple[int, int]]
    """Of a scheduler that ran already: threads and memory limit (bytes, 0: none) per worker."""
    processors: Mapping[str, int]
    """Of the same: processors that each worker may use."""
    lasting: bool
    """Whether a block that is computed goes on when the client lets go of it."""


@contextlib.contextmanager
def connect(job: Job) -> Iterator[Cluster]:
    """Start or reach the workers of a job, and leave nothing behind.

    A worker that is started here has threads for the blocks that it computes and some more, which
    read the next ones and write the last. One that runs already computes as many blocks at a time
    as its processors allow; threads beyond those read and write.

    Parameters
    ----------
    job : Job
        Its `cluster` is ``"local"`` (processes), ``"threads"`` (of this process) or a scheduler's
        address; a scheduler that runs already has its own workers.

    Raises
    ------
    ClusterError
        If the scheduler cannot be reached or has no workers.
    """
    runner = job.run.cluster
    with dask.config.set(CONFIG), _quiet():
        if runner in ("local", "threads"):
            with _start(job) as cluster, Client(cluster) as client:
                processes = job.workers // job.slots
                yield Cluster(
                    client=client,
                    held=processes * job.held,
                    slots=job.workers,
                    dashboard=cluster.dashboard_link,
                    workers={},
                    processors={},
                    lasting=runner == "threads",
                )
        else:
            with _remote(runner) as client:
                told = client.scheduler_info(n_workers=-1)["workers"]  # Some versions tell of five.
                found = {
                    name: (int(one["nthreads"]), int(one["memory_limit"] or 0))
                    for name, one in told.items()
                }
                threads = sum(n for n, _ in found.values())
                if not threads:
                    raise ClusterError(
                        f"The scheduler at {runner} has no workers, so nothing would ever be "
                        f"computed. Start some: dask worker {runner}"
                    )
                usable = client.run(processors, on_error="ignore")
                yield Cluster(
                    client=client,
                    held=threads,
                    slots=sum(
                        slots(n, usable.get(name, n), job.run.threads)
                        for name, (n, _) in found.items()
                    ),
                    dashboard=client.dashboard_link,
                    workers=found,
                    processors=usable,
                    lasting=True,
                )


def _start(job: Job) -> LocalCluster:
    """Start local workers.

    Raises
    ------
    ClusterError
        They die while they start.
    """
    with warnings.catch_warnings():
        # Dask takes another port then; the address that is printed is the right one.
        warnings.filterwarnings("ignore", "Port .* is already in use", UserWarning)
        # A terminal sends Ctrl-C to the workers too, which would die of it with a traceback each;
        # they inherit this mask from the cluster's thread. This process still hears it. (Starting
        # the tracker of multiprocessing lifts such a mask, so it has to be there before.)
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return _local(job)
        except RuntimeError:  # A worker died while it started: once is an accident.
            try:
                return _local(job)
            except RuntimeError as problem:
                raise ClusterError(
                    f"The workers die while they start ({problem}), so nothing was computed. Look "
                    'for what ends them (memory? limits?), or set cluster = "threads".'
                ) from problem
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _local(job: Job) -> LocalCluster:
    processes = job.run.cluster == "local"
    return LocalCluster(
        n_workers=job.workers if processes else 1,
        threads_per_worker=job.held,
        processes=processes,
        memory_limit=int(job.memory * HEADROOM) if processes else 0,
        protocol="tcp://",  # In-process addresses name an outer interface of the machine.
        host=LOOPBACK,
        dashboard_address=f"{LOOPBACK}:{_dashboard_port()}",
        worker_dashboard_address=f"{LOOPBACK}:0",
        silence_logs=logging.CRITICAL,
    )


def _dashboard_port() -> int:
    """Return the usual port of a dashboard, or 0, any, where it is taken.

    Dask finds out by itself, but leaves a socket open then.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, DASHBOARD_PORT))
        except OSError:
            return 0
    return DASHBOARD_PORT


def _remote(address: str) -> Client:
    try:
        return Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as problem:
        raise ClusterError(
            f"No scheduler answers at {address}: {problem}. "
            'Start one (dask scheduler), or set cluster = "local" in [run].'
        ) from problem


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's own log lines off the terminal while a run reports in its own words."""
    parts = ("nanny", "worker", "scheduler", "client", "core", "comm")
    names = ("distributed", *(f"distributed.{part}" for part in parts))
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
