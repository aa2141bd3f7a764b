"""Workers as pods, through Dask's operator for Kubernetes."""

from __future__ import annotations

import contextlib
import math
import re
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from distributed import Client

from scatflow.errors import ClusterError
from scatflow.flow.cluster.batch import tag
from scatflow.flow.cluster.ready import HEADROOM, Awaited, Cluster, resource_words, variables
from scatflow.flow.profiles import POD_SECRET

if TYPE_CHECKING:
    from scatflow.flow.job import Job

SCHEDULER_PORT, DASHBOARD_PORT, WORKER_DASHBOARD_PORT = 8786, 8787, 8788

NAME_LENGTH = 53
"""Of a cluster's name, at most: the operator adds to it, and names of services end at 63."""

GPU = "nvidia.com/gpu"

RUN = "app.kubernetes.io/instance"
"""Label of all that belongs to the runs of one output."""

IDLE_SECONDS = 600
"""After so long the operator removes workers whose client has died: a run always has tasks."""

LOOK = (
    "kubectl get pods and kubectl describe pod say why: an image that cannot be pulled, no node "
    "with the processors and the memory asked for, a quota."
)


@contextlib.contextmanager
def connect(job: Job) -> Iterator[Cluster]:
    """Have the operator start a scheduler and workers, and remove them at the end."""
    place: Any = job.profile
    with _cluster(job) as pods, Client(pods) as client:
        if place.workers is None:
            pods.adapt(minimum=place.least, maximum=place.most)
        yield Cluster(
            client=client,
            held=job.workers * job.held,
            slots=job.workers,
            dashboard=pods.dashboard_link,
            each=job.slots,
            lasting=True,
            coming=True,
            check=Awaited(client, place.arrival, LOOK),
        )


def manifest(job: Job, name: str | None = None) -> dict[str, Any]:
    """Return the DaskCluster that the operator is given.

    Parameters
    ----------
    job : Job
        What runs.
    name : str, optional
        Of the cluster; by default the job's with some random letters.
    """
    place: Any = job.profile
    name = name or _name(job.name)
    scheduler = _container(
        "scheduler",
        place,
        ["dask", "scheduler", "--host", "0.0.0.0"],  # Of the pod: services lead there.
        {"tcp-comm": SCHEDULER_PORT, "http-dashboard": DASHBOARD_PORT},
    )
    probe = {"httpGet": {"port": "http-dashboard", "path": "/health"}}
    scheduler["readinessProbe"] = {**probe, "periodSeconds": 1, "timeoutSeconds": 300}
    scheduler["livenessProbe"] = {**probe, "initialDelaySeconds": 15, "periodSeconds": 20}
    ports = [
        {"name": port["name"], "port": port["containerPort"], "targetPort": port["name"]}
        for port in scheduler["ports"]
    ]
    selector = {"dask.org/cluster-name": name, "dask.org/component": "scheduler"}
    labels = {"app.kubernetes.io/name": "scatflow", RUN: run_name(tag(job))}
    metadata = {"name": name, "labels": labels}
    if place.namespace is not None:
        metadata["namespace"] = place.namespace
    return {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": metadata,
        "spec": {
            "idleTimeout": IDLE_SECONDS,
            "worker": {
                "replicas": place.least,
                "spec": with_volumes(place, _pod(place, _worker(job, place))),
            },
            "scheduler": {
                "spec": _pod(place, scheduler),
                "service": {
                    "type": "ClusterIP",
                    "selector": selector,
                    "ports": [{**port, "protocol": "TCP"} for port in ports],
                },
            },
        },
    }


def _worker(job: Job, place: Any) -> dict[str, Any]:
    limit = math.ceil(job.memory * HEADROOM / 2**20)
    line = ["dask", "worker", "--name", "$(DASK_WORKER_NAME)", "--nthreads", str(job.held)]
    line += ["--memory-limit", f"{limit}MiB"]
    line += ["--dashboard", "--dashboard-address", str(WORKER_DASHBOARD_PORT)]
    line += resource_words(place)
    if place.scratch is not None:
        line += ["--local-directory", place.scratch]
    found = _container("worker", place, line, {"http-dashboard": WORKER_DASHBOARD_PORT})
    asked = {"cpu": str(job.threads), "memory": f"{limit}Mi"}
    # What reads and writes may use processors that nobody else does; memory has an end.
    most = {"memory": asked["memory"], **({GPU: "1"} if place.device == "cuda" else {})}
    return {
        **found,
        "envFrom": [{"secretRef": {"name": POD_SECRET, "optional": True}}],
        "resources": {"requests": asked, "limits": most},
    }


def _container(name: str, place: Any, line: list[str], ports: dict[str, int]) -> dict[str, Any]:
    return {
        "name": name,
        "image": place.image,
        "args": line,
        "env": [{"name": key, "value": text} for key, text in variables(place).items()],
        "ports": [
            {"name": key, "containerPort": number, "protocol": "TCP"}
            for key, number in ports.items()
        ],
    }


def _pod(place: Any, container: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = {"containers": [container]}
    if place.service_account is not None:
        pod["serviceAccountName"] = place.service_account
    if place.node_selector:
        pod["nodeSelector"] = dict(place.node_selector)
    return pod


def with_volumes(place: Any, pod: dict[str, Any]) -> dict[str, Any]:
    """Return a pod that sees the profile's volumes beside its own."""
    if not place.volumes:
        return pod
    (container,) = pod["containers"]
    names = [f"data-{i}" for i in range(len(place.volumes))]
    claims = [
        {"name": name, "persistentVolumeClaim": {"claimName": volume.claim}}
        for name, volume in zip(names, place.volumes, strict=True)
    ]
    mounts = [
        {"name": name, "mountPath": volume.path, **({"readOnly": True} if volume.read_only else {})}
        for name, volume in zip(names, place.volumes, strict=True)
    ]
    seeing = {**container, "volumeMounts": [*container.get("volumeMounts", []), *mounts]}
    return {**pod, "containers": [seeing], "volumes": [*pod.get("volumes", []), *claims]}


def _name(job: str) -> str:
    """Return a name that Kubernetes accepts, and no other run has."""
    letters = secrets.token_hex(3)
    plain = re.sub(r"[^a-z0-9]+", "-", f"scatflow-{job}".lower())[: NAME_LENGTH - len(letters) - 1]
    return f"{plain.strip('-')}-{letters}"


def run_name(tagged: str) -> str:
    """Return a name for all runs of an output that Kubernetes accepts, also with an index behind.

    Examples
    --------
    >>> run_name("scatflow-One_Day-3fa2b1")
    'scatflow-one-day-3fa2b1'
    """
    stem, _, digest = tagged.rpartition("-")
    return f"{re.sub(r'[^a-z0-9]+', '-', stem.lower())[:45].strip('-')}-{digest}"


def _cluster(job: Job) -> Any:
    place: Any = job.profile
    try:
        from dask_kubernetes.operator import KubeCluster
    except ImportError as problem:
        raise ClusterError(
            "Profiles of kind kubernetes need the package dask-kubernetes, which is not installed: "
            "nothing was started. Install it: pip install 'scatflow[kubernetes]'"
        ) from problem
    try:
        return KubeCluster(
            custom_cluster_spec=manifest(job),
            namespace=place.namespace,
            shutdown_on_close=True,
            quiet=True,
        )
    except Exception as problem:  # Of kr8s, httpx and the operator: they share no ancestor.
        said = " ".join(str(problem).split()) or type(problem).__name__
        raise ClusterError(
            f"Kubernetes gives no cluster: {said}. Nothing was computed. Look whether kubectl get "
            "daskclusters works here (context, rights), whether Dask's operator is installed, and "
            f"whether the image {place.image} can be pulled."
        ) from problem
