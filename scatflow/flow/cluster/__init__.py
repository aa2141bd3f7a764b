"""Where the blocks are computed: workers that are started or reached, as a profile says.

One module for each way of having workers; all give a :class:`Cluster`.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import dask

from scatflow.flow.cluster.ready import CONFIG, Cluster, quiet

if TYPE_CHECKING:
    from scatflow.flow.job import Job

__all__ = ["Cluster", "connect", "join"]

MODULES = {
    "local": "local",
    "threads": "local",
    "address": "reached",
    "slurm": "batch",
    "pbs": "batch",
    "lsf": "batch",
    "sge": "batch",
    "htcondor": "batch",
    "cuda": "cuda",
    "kubernetes": "kubernetes",
    "gateway": "gateway",
    "mpi": "mpi",
}
"""The module that has workers of a kind of profile: its function `connect`."""


def join(job: Job) -> None:
    """Become a scheduler or a worker where this process was started to be one.

    The ranks of an MPI program all begin alike: this returns in the one that is the client, before
    it has looked at anything, and ends the others when the client has ended. Of all other kinds of
    profile, it returns at once.

    Raises
    ------
    ClusterError
        A package is missing, or there are too few ranks.
    """
    if job.profile.kind == "mpi":
        importlib.import_module("scatflow.flow.cluster.mpi").join(job)


@contextlib.contextmanager
def connect(job: Job) -> Iterator[Cluster]:
    """Start or reach the workers of a job, and leave nothing behind.

    A worker that is started here has threads for the blocks that it computes and some more, which
    read the next ones and write the last. One that runs already computes as many blocks at a time
    as its processors allow; threads beyond those read and write.

    Parameters
    ----------
    job : Job
        Its `profile` says where.

    Raises
    ------
    ClusterError
        The workers cannot be had: no scheduler answers, a package or a device is missing, or a
        batch system refuses.
    """
    module = importlib.import_module(f"scatflow.flow.cluster.{MODULES[job.profile.kind]}")
    with dask.config.set(CONFIG), quiet(), module.connect(job) as cluster:
        yield cluster
