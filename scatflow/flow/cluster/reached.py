"""Workers of a scheduler that runs already."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from distributed import Client

from scatflow.errors import ClusterError
from scatflow.flow.answers import ask
from scatflow.flow.block import processors
from scatflow.flow.cluster.ready import Cluster, security
from scatflow.flow.plan import slots

if TYPE_CHECKING:
    from scatflow.flow.job import Job

CONNECT_SECONDS = 10.0


@contextlib.contextmanager
def connect(job: Job) -> Iterator[Cluster]:
    """Reach the scheduler that a job names; its workers stay what they are."""
    place: Any = job.profile
    with _client(place) as client:
        if place.wait:
            with contextlib.suppress(TimeoutError):  # Their number is told below.
                client.wait_for_workers(1, timeout=place.wait)
        yield existing(client, place.address, job.threads)


def existing(client: Client, address: str, threads: int) -> Cluster:
    """Return the workers that a client finds.

    Raises
    ------
    ClusterError
        There are none.
    """
    told = client.scheduler_info(n_workers=-1)["workers"]  # Some versions tell of five.
    found = {
        name: (int(one["nthreads"]), int(one["memory_limit"] or 0)) for name, one in told.items()
    }
    held = sum(n for n, _ in found.values())
    if not held:
        raise ClusterError(
            f"The scheduler at {address} has no workers, so nothing would ever be "
            f"computed. Start some: dask worker {address}"
        )
    usable = ask(client, processors).told
    computing = {name: slots(n, usable.get(name, n), threads) for name, (n, _) in found.items()}
    return Cluster(
        client=client,
        held=held,
        slots=sum(computing.values()),
        dashboard=client.dashboard_link,
        workers=found,
        processors=usable,
        computing=computing,
        lasting=True,
    )


def _client(place: Any) -> Client:
    try:
        secured = security(place.tls)
        words = {} if secured is None else {"security": secured}
        return Client(place.address, timeout=CONNECT_SECONDS, **words)
    except (OSError, ValueError) as problem:
        if isinstance(problem, ClusterError):
            raise
        raise ClusterError(
            f"No scheduler answers at {place.address}: {problem}. "
            'Start one (dask scheduler), or set cluster = "local" in [run].'
        ) from problem
    except TypeError as problem:  # What Dask makes of a protocol for which it has not all it needs.
        raise ClusterError(
            f"{place.address} cannot be reached: {problem}. tls:// and wss:// need certificates, a "
            'table [tls] in a profile of kind "address"; ucx:// needs the package distributed-ucxx.'
        ) from problem
