"""What blocks are computed with: NumPy's backend on processors, CuPy's on GPUs, or either."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distributed import Worker, get_worker

from scatflow.backends import choose
from scatflow.errors import BackendError, ClusterError
from scatflow.flow.settings import ANY

if TYPE_CHECKING:  # Workers have no profiles to check.
    from scatflow.flow.cluster import Cluster

CUPY = "cupy"

GPU = "GPU"
"""The resource of Dask's that workers with a GPU have."""

PART_OF_A_GPU = 1e-3
"""What a task takes of it. A worker holds more blocks than it computes, so that tasks only choose
workers by it and never wait for one another."""

TICK_SECONDS = 0.25

NAMED = 3
"""Workers that an error names; the others are counted."""


def delegate(asked: str, worker: Worker | None = None) -> str | None:
    """Return the backend that a worker has compute instead of NumPy's, if any.

    Parameters
    ----------
    asked : str
        Of the run.
    worker : distributed.Worker, optional
        By default the one whose task this is.
    """
    return CUPY if asked == CUPY or (asked == ANY and has_gpu(worker)) else None


def has_gpu(worker: Worker | None = None) -> bool:
    """Tell whether a worker, by default the one whose task this is, has the resource GPU."""
    try:
        return GPU in (worker or get_worker()).state.total_resources
    except ValueError:  # Called without a worker.
        return False


def ability(asked: str, dask_worker: Worker) -> tuple[bool, str | None]:
    """Return whether a worker has the resource GPU, and why it cannot compute for a run."""
    try:
        if delegate(asked, dask_worker) is not None:
            choose.module(CUPY).device()
    except BackendError as problem:
        return has_gpu(dask_worker), str(problem)
    return has_gpu(dask_worker), None


def choose_workers(cluster: Cluster, asked: str) -> Mapping[str, float] | None:
    """Return the resources of Dask's that tasks of a run ask for, before anything is written.

    A run with CuPy whose cluster has workers with the resource GPU goes to these, and to all
    workers otherwise. The first worker is waited for.

    Raises
    ------
    ClusterError
        Workers that the run would go to lack CuPy or a GPU, or no worker will ever come.
    """
    if asked not in (ANY, CUPY):
        return None
    while cluster.coming and not cluster.client.scheduler_info(n_workers=-1)["workers"]:
        cluster.check()
        time.sleep(TICK_SECONDS)
    told = cluster.client.run(ability, asked, on_error="ignore")
    with_gpu = {name for name, (has, _) in told.items() if has}
    only = with_gpu if asked == CUPY else set()
    unable = {name: why for name, (_, why) in told.items() if why and (name in only or not only)}
    if unable:
        _refuse(asked, unable)
    return {GPU: PART_OF_A_GPU} if only else None


def _refuse(asked: str, unable: Mapping[str, Any]) -> None:
    listed = "".join(f"\n  {name}: {why}" for name, why in sorted(unable.items())[:NAMED])
    more = f"\n  and {len(unable) - NAMED} more" if len(unable) > NAMED else ""
    remedy = (
        "Install CuPy where the GPUs are, or start these workers without --resources GPU=1."
        if asked == ANY
        else "Install CuPy where the GPUs are and start their workers with --resources GPU=1, "
        'which leaves the others out; or set backend = "any" or "numpy" in [run].'
    )
    raise ClusterError(
        f'backend = "{asked}" cannot be had on {len(unable)} worker(s); nothing was written.'
        f"{listed}{more}\n{remedy}"
    )


def mixed(computed: Mapping[str, int]) -> str | None:
    """Say how many blocks each backend computed, where there is more than one."""
    if len(computed) < 2:
        return None
    listed = ", ".join(f"{n} by {name}" for name, n in sorted(computed.items()))
    return f"Blocks were computed {listed}: the same but for rounding, and not to the byte."
