"""Where the blocks are computed: workers that are started or reached, as a profile says.

One module for each way of having workers; all give a :class:`Cluster`.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import dask

from scatflow.flow.cluster.ready import CONFIG, Cluster

if TYPE_CHECKING:
    from scatflow.flow.job import Job

__all__ = ["Cluster", "connect"]

MODULES = {
    "local": "local",
    "threads": "local",
    "address": "reached",
    "slurm": "batch",
    "pbs": "batch",
    "lsf": "batch",
    "sge": "batch",
    "htcondor": "batch",
}
"""The module that has workers of a kind of profile: its function `connect`."""


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
    with dask.config.set(CONFIG), _quiet(), module.connect(job) as cluster:
        yield cluster


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's own log lines off the terminal while a run reports in its own words."""
    parts = ("nanny", "worker", "scheduler", "client", "core", "comm", "deploy")
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
