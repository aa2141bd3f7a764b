"""Workers on this machine: processes, or threads of this one."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import warnings
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

import dask
from distributed import Client, LocalCluster
from distributed.system import MEMORY_LIMIT

from scatflow.errors import ClusterError
from scatflow.flow.cluster.ready import (
    HEADROOM,
    LOOPBACK,
    MALLOC,
    ONE_THREAD,
    UNSPILLED,
    Cluster,
    check_scratch,
    dashboard_port,
    resources,
    security,
)
from scatflow.flow.profiles import Threads

if TYPE_CHECKING:
    from scatflow.flow.job import Job

PROCESS_BYTES = 100 * 2**20
"""What a worker takes that does nothing yet, at least."""

NANNYS = ("PYTHONHASHSEED", "__DASK_PARENT_PID")
"""What nannies set in the environment beyond what they are asked to."""


@contextlib.contextmanager
def connect(job: Job) -> Iterator[Cluster]:
    """Start workers on this machine."""
    place: Any = job.profile
    own = isinstance(place, Threads)
    with settings(place, own), _start(job, own) as cluster, Client(cluster) as client:
        if not own and place.maximum is not None:
            cluster.adapt(minimum=place.minimum, maximum=place.maximum)
        yield Cluster(
            client=client,
            held=job.workers // job.slots * job.held,
            slots=job.workers,
            dashboard=cluster.dashboard_link,
            each=job.slots,
            lasting=own,
        )


@contextlib.contextmanager
def settings(place: Any, own: bool) -> Iterator[None]:
    """Tell Dask what a profile says of the environment of workers on this machine."""
    key = "distributed.nanny.pre-spawn-environ"
    config: dict[str, Any] = {}
    if not own:
        config[key] = {**ONE_THREAD, **MALLOC, **place.environment}
    if not own and place.spill:
        defaults = dask.config.merge(*dask.config.defaults)
        config |= {name: dask.config.get(name, config=defaults) for name in UNSPILLED}
    before = dict(os.environ)
    try:
        with dask.config.set(config):
            yield
    finally:  # Dask's nannies set it in this process for those that they start, and leave it so.
        for name in {*config.get(key, ()), *NANNYS}:
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)


def _start(job: Job, own: bool) -> LocalCluster:
    """Start local workers.

    Raises
    ------
    ClusterError
        They die while they start.
    """
    with warnings.catch_warnings():
        # Dask takes another port then; the address that is printed is the right one.
        warnings.filterwarnings("ignore", "Port .* is already in use", UserWarning)
        # A terminal sends Ctrl-C to the workers too, and a batch system SIGTERM: they would die of
        # it, with a traceback each or as if their blocks were to blame. They inherit this mask from
        # the cluster's thread; this process still hears both, and ends them. (Starting the tracker
        # of multiprocessing lifts such a mask, so it has to be there before.)
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            return _local(job, own)
        except ClusterError:
            raise
        except RuntimeError:  # A worker died while it started: once is an accident.
            try:
                return _local(job, own)
            except RuntimeError as problem:
                raise ClusterError(
                    f"The workers die while they start ({problem}), so nothing was computed. Look "
                    'for what ends them (memory? limits?), or set cluster = "threads".'
                ) from problem
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _check_number(workers: int) -> None:
    """Refuse workers that would fill the memory before they compute anything."""
    if workers * PROCESS_BYTES > MEMORY_LIMIT:
        raise ClusterError(
            f"{workers} workers would take {workers * PROCESS_BYTES / 2**30:.0f} GiB of this "
            f"machine's {MEMORY_LIMIT / 2**30:.0f} GiB before they compute anything, so none was "
            "started. Give fewer of them, or leave workers out: there are as many as fit then."
        )


def _local(job: Job, own: bool) -> LocalCluster:
    place: Any = job.profile
    if not own:
        check_scratch(place)
        _check_number(job.workers)
    secured = None if own else security(place.tls)
    n_processes = job.workers if own or place.least is None else place.least
    return LocalCluster(
        n_workers=1 if own else n_processes,
        threads_per_worker=job.held,
        processes=not own,
        memory_limit=0 if own else int(job.memory * HEADROOM),
        # In-process addresses name an outer interface of the machine.
        protocol="tls://" if secured else "tcp://",
        security=secured,
        host=LOOPBACK,
        local_directory=None if own else place.scratch,
        resources=resources(place),
        dashboard_address=f"{LOOPBACK}:{dashboard_port()}",
        worker_dashboard_address=f"{LOOPBACK}:0",
        silence_logs=logging.CRITICAL,
    )
