"""Workers that are the ranks of an MPI program, through dask-mpi.

Rank 0 has the scheduler and rank 1 is the client; each other one starts a worker and looks after
it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dask
from distributed import Client

from scatflow.errors import ClusterError
from scatflow.flow.cluster.ready import CONFIG, HEADROOM, LOOPBACK, Cluster, quiet, resources

if TYPE_CHECKING:
    from scatflow.flow.job import Job

NOT_WORKERS = 2
"""Ranks that compute nothing: the scheduler's and the client's."""

WAIT_SECONDS = 120.0


def join(job: Job) -> None:
    """Start what is this rank's part; only the client's returns.

    Raises
    ------
    ClusterError
        A package or MPI itself is missing, or there are too few ranks.
    """
    dask_mpi, world = _libraries()
    size = world.Get_size()
    if size <= NOT_WORKERS:
        raise ClusterError(
            f"{size} rank(s) of MPI cannot have a worker: one has the scheduler, one is the client,"
            " and all others compute. Start 3 or more, all with the same command: "
            f"mpirun -n 6 scatflow run {job.path} --cluster {job.run.cluster}"
        )
    calm: Any = {**CONFIG, "logging": {"distributed": "critical"}}
    environment = "distributed.nanny.pre-spawn-environ"
    calm[environment] = {**calm[environment], "DASK_LOGGING__DISTRIBUTED": "critical"}
    with dask.config.set(calm), quiet():
        dask_mpi.initialize(**arguments(job))


def arguments(job: Job) -> dict[str, Any]:
    """Return what dask-mpi is told."""
    place: Any = job.profile
    return {
        "interface": place.interface,
        "nthreads": job.held,
        "memory_limit": int(job.memory * HEADROOM),
        "dashboard_address": f"{LOOPBACK}:0",
        # A process of its own has the environment that a worker needs, and dies alone.
        "worker_class": "distributed.Nanny",
        "worker_options": {
            "dashboard_address": f"{LOOPBACK}:0",
            "resources": resources(place),
        },
    }


def _libraries() -> tuple[Any, Any]:
    try:
        import dask_mpi
        from mpi4py import MPI
    except ImportError as problem:
        raise ClusterError(
            f"Profiles of kind mpi need the packages dask-mpi and mpi4py ({problem}): nothing was "
            "started. Install them on all nodes: pip install 'scatflow[mpi]'"
        ) from problem
    except RuntimeError as problem:  # mpi4py looks for the library when it is imported.
        raise ClusterError(
            f"mpi4py finds no MPI on this machine ({problem}): nothing was started. Install one, "
            "or load its module (module load openmpi)."
        ) from problem
    return dask_mpi, MPI.COMM_WORLD


@contextlib.contextmanager
def connect(job: Job) -> Iterator[Cluster]:
    """Reach the workers that are the other ranks, from the client's.

    Raises
    ------
    ClusterError
        This process has not joined them, or no worker came.
    """
    address = dask.config.get("scheduler-address", None)
    if address is None:
        raise ClusterError(
            "The ranks have not been told apart, so nothing was computed. Start "
            f"mpirun -n 6 scatflow run {job.path}, or call scatflow.flow.cluster.join(job) first "
            "in every rank."
        )
    _, world = _libraries()
    n = world.Get_size() - NOT_WORKERS
    with Client(address) as client:
        try:
            client.wait_for_workers(n, timeout=WAIT_SECONDS)
        except TimeoutError as problem:
            raise ClusterError(
                f"Not all of the {n} workers came within {WAIT_SECONDS:.0f} s ({problem}), so "
                "nothing was computed. Look at interface in the profile: all ranks must reach each "
                "other there."
            ) from problem
        yield Cluster(
            client=client,
            held=n * job.held,
            slots=n * job.slots,
            dashboard=client.dashboard_link,
            each=job.slots,
            lasting=True,
        )
