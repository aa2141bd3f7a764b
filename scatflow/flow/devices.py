"""What blocks are computed with: NumPy's backend on processors, CuPy's on GPUs, or either."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from distributed import Worker, get_worker
from numpy.typing import NDArray

from scatflow.backends import choose
from scatflow.errors import BackendError, ClusterError
from scatflow.flow.settings import ANY

if TYPE_CHECKING:  # Workers have no profiles to check.
    from scatflow.flow.cluster import Cluster
    from scatflow.flow.ledger import Ledger

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


Resources = Mapping[str, float]
"""Of Dask's: what workers have, and tasks ask for."""


def choose_workers(cluster: Cluster, asked: str) -> dict[str, Resources]:
    """Return what tasks ask of workers, by the backend that computes them.

    Those of a run with CuPy whose cluster has workers with the resource GPU ask for it; no task
    does where none has it. What computes a run is among the backends, with "any" also those that
    are there. Nothing has been written before; the first worker is waited for.

    Raises
    ------
    ClusterError
        Workers that the run would go to lack CuPy or a GPU, or no worker will ever come.
    """
    if asked not in (ANY, CUPY):
        return {asked: {}}
    while cluster.coming and not cluster.client.scheduler_info(n_workers=-1)["workers"]:
        cluster.check()
        time.sleep(TICK_SECONDS)
    told = cluster.client.run(ability, asked, on_error="ignore")
    with_gpu = {name for name, (has, _) in told.items() if has}
    only = with_gpu if asked == CUPY else set()
    unable = {name: why for name, (_, why) in told.items() if why and (name in only or not only)}
    if unable:
        _refuse(asked, unable)
    on_gpus = {GPU: PART_OF_A_GPU} if with_gpu else {}
    if asked == CUPY:
        return {CUPY: on_gpus}
    return {ANY: {}, "numpy": {}, **({CUPY: on_gpus} if with_gpu else {})}


class Lot(NamedTuple):
    """Blocks of a run that are computed alike."""

    blocks: NDArray[np.int64]
    backend: str
    """With what, or "any"."""
    resources: Resources


def lots(ledger: Ledger, asked: str, there: Mapping[str, Resources]) -> list[Lot]:
    """Return the blocks that are to be computed, those that have been before by what they were.

    Parameters
    ----------
    ledger : Ledger
        Of the run.
    asked : str
        The run's backend, or "any".
    there : mapping
        See :func:`choose_workers`; blocks of a backend that is not there are computed as others.
    """
    pending = ledger.pending()
    before = {name: 1 + number for number, name in enumerate(ledger.backends) if name in there}
    again = {name: pending[ledger.backend[pending] == n] for name, n in before.items()}
    new = pending[~np.isin(ledger.backend[pending], list(before.values()))]
    found = [Lot(blocks, name, there[name]) for name, blocks in again.items()]
    return [lot for lot in (*found, Lot(new, asked, there[asked])) if lot.blocks.size]


def elsewhere(ledger: Ledger, there: Mapping[str, Resources]) -> str | None:
    """Say which blocks are computed again by another backend than before, if any are."""
    numbers = ledger.backend[ledger.pending()]
    gone = {
        name: int(np.sum(numbers == number))
        for number, name in enumerate(ledger.backends, 1)
        if name not in there
    }
    some = " and ".join(f"{n} block(s) that {name} computed" for name, n in gone.items() if n)
    return f"no worker is there for {some}: the same again but for rounding" if some else None


def _refuse(asked: str, unable: Mapping[str, Any]) -> None:
    some = "".join(f"\n  {name}: {why}" for name, why in sorted(unable.items())[:NAMED])
    more = f"\n  and {len(unable) - NAMED} more" if len(unable) > NAMED else ""
    remedy = (
        "Install CuPy where the GPUs are, or start these workers without --resources GPU=1."
        if asked == ANY
        else "Install CuPy where the GPUs are and start their workers with --resources GPU=1, "
        'which leaves the others out; or set backend = "any" or "numpy" in [run].'
    )
    raise ClusterError(
        f'backend = "{asked}" cannot be had on {len(unable)} worker(s); nothing was written.'
        f"{some}{more}\n{remedy}"
    )


def mixed(computed: Mapping[str, int]) -> str | None:
    """Say how many blocks each backend computed, where there is more than one."""
    if len(computed) < 2:
        return None
    return (
        f"Blocks were computed {listed(computed)}: the same but for rounding, and not to the byte."
    )


def listed(computed: Mapping[str, int]) -> str:
    """Say how many blocks each backend computed.

    Examples
    --------
    >>> listed({"numpy": 5, "cupy": 3})
    '3 by cupy, 5 by numpy'
    """
    return ", ".join(f"{n} by {name}" for name, n in sorted(computed.items()))
