"""Workers on this machine, one for each GPU, through dask-cuda."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from distributed import Client
from distributed.diagnostics import nvml

from scatflow.errors import ClusterError
from scatflow.flow.cluster.local import settings
from scatflow.flow.cluster.ready import (
    HEADROOM,
    LOOPBACK,
    Cluster,
    check_scratch,
    dashboard_port,
    resources,
    security,
)

if TYPE_CHECKING:
    from scatflow.flow.job import Job


@contextlib.contextmanager
def connect(job: Job) -> Iterator[Cluster]:
    """Start a worker on each GPU of the profile."""
    place: Any = job.profile
    check_scratch(place)
    kind = _library()
    gpus = devices(place)
    with (
        settings(place, own=False),
        _start(kind, arguments(job, gpus)) as cluster,
        Client(cluster) as client,
    ):
        yield Cluster(
            client=client,
            held=len(gpus) * job.held,
            slots=len(gpus) * job.slots,
            dashboard=cluster.dashboard_link,
            each=job.slots,
            lasting=False,
        )


def devices(place: Any) -> Sequence[int | str]:
    """Return the GPUs that get a worker: numbers, or names as CUDA_VISIBLE_DEVICES has them.

    Raises
    ------
    ClusterError
        There is none, or not the ones that the profile names.
    """
    n = nvml.device_get_count()  # 0 where there is no driver, too.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if n == 0 or visible == "":
        why = (
            "no GPU of NVIDIA's, or no driver for it" if n == 0 else "CUDA_VISIBLE_DEVICES is empty"
        )
        raise ClusterError(
            f'There is no GPU here ({why}), so no worker of kind "cuda" was started. Run where '
            'nvidia-smi lists one, or choose another profile, such as cluster = "local".'
        )
    found: Sequence[int | str] = range(n)
    if place.gpus is not None:
        absent = [gpu for gpu in place.gpus if gpu >= n]
        if absent:
            raise ClusterError(
                f"gpus = {place.gpus}: this machine has GPU 0 to {n - 1}, and not {absent}. "
                "Nothing was started. nvidia-smi lists them."
            )
        found = place.gpus
    elif visible is not None:
        found = visible.split(",")
    if place.workers is not None and place.workers > len(found):
        raise ClusterError(
            f"workers = {place.workers}, and there are {len(found)} GPU(s), each of which gets one "
            "worker. Leave workers out of the profile."
        )
    return found[: place.workers]


def arguments(job: Job, gpus: Sequence[int | str]) -> dict[str, Any]:
    """Return what dask-cuda's LocalCUDACluster is told."""
    place: Any = job.profile
    secured = security(place.tls)
    return {
        "CUDA_VISIBLE_DEVICES": list(gpus),
        "threads_per_worker": job.held,
        "memory_limit": int(job.memory * HEADROOM),
        "device_memory_limit": place.device_memory or "default",
        "rmm_pool_size": place.rmm_pool,
        "local_directory": place.scratch,
        "protocol": "ucx" if place.protocol == "ucx" else "tls" if secured else "tcp",
        # Handed on to LocalCluster.
        "security": secured,
        "host": LOOPBACK,
        "dashboard_address": f"{LOOPBACK}:{dashboard_port()}",
        "worker_dashboard_address": f"{LOOPBACK}:0",
        "resources": resources(place),
        "silence_logs": logging.CRITICAL,
    }


def _library() -> Any:
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as problem:
        raise ClusterError(
            f"Profiles of kind cuda need the package dask-cuda ({problem}): nothing was started. "
            "Install it: pip install 'scatflow[cuda12]', or 'scatflow[cuda13]' (nvidia-smi tells "
            "the version of CUDA)."
        ) from problem
    return LocalCUDACluster


def _start(kind: Any, words: dict[str, Any]) -> Any:
    try:
        return kind(**words)
    except (RuntimeError, ValueError, OSError) as problem:
        raise ClusterError(
            f"The workers on the GPUs cannot be started: {problem}. Nothing was computed. Look at "
            "rmm_pool, device_memory and protocol in the profile, and at who else uses the GPUs "
            "(nvidia-smi)."
        ) from problem
