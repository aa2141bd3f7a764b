"""What blocks are computed with: NumPy's backend on processors, CuPy's on GPUs, or either."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from distributed import Worker, get_worker
from numpy.typing import NDArray

from scatflow.backends import choose
from scatflow.errors import BackendError, ClusterError
from scatflow.flow.answers import NAMED, ask
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


def unable(asked: str, dask_worker: Worker) -> str | None:
    """Say why a worker cannot compute for a run, if it cannot."""
    try:
        if delegate(asked, dask_worker) is not None:
            choose.module(CUPY).device()
    except BackendError as problem:
        return str(problem)
    return None


Resources = Mapping[str, float]
"""Of Dask's: what workers have, and tasks ask for."""


class Staff(NamedTuple):
    """Workers that tasks go to."""

    cluster: Cluster
    resources: Resources
    """What tasks ask for, so that they go there."""


def choose_workers(cluster: Cluster, asked: str, say: Callable[[str], None]) -> dict[str, Staff]:
    """Return the workers that blocks of a run go to, by the backend that computes them.

    Those of a run with CuPy whose cluster has workers with the resource GPU go to these, and to all
    others otherwise. What computes a run is among the backends, with "any" also those that are
    there. Nothing has been written before; the first worker is waited for.

    Parameters
    ----------
    cluster : Cluster
        All workers.
    asked : str
        The run's backend, or "any".
    say : callable
        Prints one line, about workers that do not answer.

    Raises
    ------
    ClusterError
        Workers that the run would go to lack CuPy or a GPU, or no worker will ever come.
    """
    if asked not in (ANY, CUPY):
        return {asked: Staff(cluster, {})}
    while cluster.coming and not cluster.client.scheduler_info(n_workers=-1)["workers"]:
        cluster.check()
        time.sleep(TICK_SECONDS)
    workers = cluster.client.scheduler_info(n_workers=-1)["workers"]
    with_gpu = {name for name, worker in workers.items() if GPU in worker["resources"]}
    answers = ask(cluster.client, unable, asked)
    if silence := answers.silence():
        say(f"note: {silence}")
    only = with_gpu if asked == CUPY else set()
    lacking = {
        name: why for name, why in answers.told.items() if why and (name in only or not only)
    }
    if lacking:
        _refuse(asked, lacking)
    everywhere = Staff(cluster, {})
    on_gpus = Staff(cluster.only(with_gpu), {GPU: PART_OF_A_GPU}) if with_gpu else None
    if asked == CUPY:
        return {CUPY: on_gpus or everywhere}
    both = {ANY: everywhere, "numpy": everywhere}
    return both if on_gpus is None else {**both, CUPY: on_gpus}


class Lot(NamedTuple):
    """Blocks of a run that are computed alike."""

    blocks: NDArray[np.int64]
    backend: str
    """With what, or "any"."""
    staff: Staff
    """By whom."""


def lots(ledger: Ledger, asked: str, there: Mapping[str, Staff]) -> list[Lot]:
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
    if not before:
        return [Lot(pending, asked, there[asked])]
    again = {name: pending[ledger.backend[pending] == n] for name, n in before.items()}
    new = pending[~np.isin(ledger.backend[pending], list(before.values()))]
    found = [Lot(blocks, name, there[name]) for name, blocks in again.items()]
    return [lot for lot in (*found, Lot(new, asked, there[asked])) if lot.blocks.size]


def elsewhere(ledger: Ledger, there: Mapping[str, Staff]) -> str | None:
    """Say which blocks are computed again by another backend than before, if any are."""
    away = {n: name for n, name in enumerate(ledger.backends, 1) if name not in there}
    numbers = ledger.backend[ledger.pending()] if away else np.zeros(0, np.uint8)
    gone = {name: int(np.sum(numbers == number)) for number, name in away.items()}
    some = " and ".join(f"{n} block(s) that {name} computed" for name, n in gone.items() if n)
    return f"no worker is there for {some}: the same again but for rounding" if some else None


def _refuse(asked: str, lacking: Mapping[str, Any]) -> None:
    some = "".join(f"\n  {name}: {why}" for name, why in sorted(lacking.items())[:NAMED])
    more = f"\n  and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
    remedy = (
        "Install CuPy where the GPUs are, or start these workers without --resources GPU=1."
        if asked == ANY
        else "Install CuPy where the GPUs are and start their workers with --resources GPU=1, "
        'which leaves the others out; or set backend = "any" or "numpy" in [run].'
    )
    raise ClusterError(
        f'backend = "{asked}" cannot be had on {len(lacking)} worker(s); nothing was written.'
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
