"""Workers that a Dask Gateway starts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from scatflow.errors import ClusterError
from scatflow.flow.cluster.ready import Awaited, Cluster

if TYPE_CHECKING:
    from scatflow.flow.job import Job

LOOK = (
    "The gateway's own log says why: limits of your account, no machine that options ask for, "
    "an image that cannot be pulled."
)


@contextlib.contextmanager
def connect(job: Job) -> Iterator[Cluster]:
    """Have a gateway start a cluster, and end it."""
    place: Any = job.profile
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(_cluster(place))
        if place.workers is not None:
            cluster.scale(place.workers)
        else:
            cluster.adapt(minimum=place.minimum, maximum=place.maximum)
        client = stack.enter_context(cluster.get_client(set_as_default=False))
        most = place.workers or place.maximum
        yield Cluster(
            client=client,
            held=most * job.held,
            slots=most * job.slots,
            dashboard=cluster.dashboard_link or "",
            lasting=True,
            coming=True,
            check=Awaited(client, place.arrival, LOOK),
        )


@contextlib.contextmanager
def _cluster(place: Any) -> Iterator[Any]:
    module = _gateway()
    try:
        gateway = module.Gateway(place.address, auth=place.auth)
    except (OSError, ValueError, TypeError) as problem:
        raise ClusterError(_refused(place, problem)) from problem
    try:  # The gateway's client closes itself at its end; once more would be an error of its own.
        cluster = gateway.new_cluster(shutdown_on_close=True, **place.options)
    except (OSError, ValueError, TypeError, module.GatewayServerError) as problem:
        raise ClusterError(_refused(place, problem)) from problem
    except module.GatewayClusterError as problem:
        raise ClusterError(
            f"The gateway at {place.address} could not start a cluster: {problem}. Its own log "
            "says why; look at options in the profile."
        ) from problem
    with cluster:
        yield cluster


def _refused(place: Any, problem: Exception) -> str:
    return (
        f"The gateway at {place.address} cannot be used: {' '.join(str(problem).split())}. Nothing "
        "was started. Look at address, auth and options in the profile."
    )


def _gateway() -> Any:
    try:
        import dask_gateway
    except ImportError as problem:
        raise ClusterError(
            "Profiles of kind gateway need the package dask-gateway, which is not installed: "
            "nothing was started. Install it: pip install 'scatflow[gateway]'"
        ) from problem
    return dask_gateway
