"""A run that is sent to Kubernetes: its driver, or pods that share its blocks, as one Job.

Its name follows from the output, so that the cluster itself knows whether a run was sent already,
and refuses the second of two that are sent at the same instant.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from scatflow.errors import ClusterError, OutputBusyError
from scatflow.flow.cluster.batch import tag
from scatflow.flow.cluster.kubernetes import GPU, RUN, manifest, run_name, with_volumes
from scatflow.flow.cluster.ready import HEADROOM
from scatflow.flow.job import Job
from scatflow.flow.plan import RunPlan
from scatflow.flow.profiles import POD_SECRET, Kubernetes
from scatflow.flow.schedules.kubernetes import (
    JOB_FOLDER,
    MANAGER,
    PROFILE,
    as_yaml,
    check_stores,
    is_mounted,
    kubectl,
)
from scatflow.flow.tables import memory_bytes, read_toml

CLIENT_BYTES = 512 * 2**20
"""Memory of the client and the scheduler beside the workers, in a pod that has them all."""

TRIES = 6
"""Pods that may fail before a Job has; those that are lost with their node do not count."""

GRACE_SECONDS = 60
"""How long a pod that is told to end has to keep what is done."""

HOPELESS = [2, 3]
"""Exit codes of mistakes in a job, its source or its budget, which no further pod mends."""

ENDED = ("Complete", "Failed")

VOLUMES = (
    ", or have pods see the folder at the same path as this machine does (volumes in the profile)"
)
"""What a store of a run that is sent may be, other than a URL."""

DASK = "kubernetes.dask.org"

RIGHTS = [
    {"apiGroups": [DASK], "resources": [name], "verbs": verbs}
    for name, verbs in {
        "daskclusters": ["get", "list", "watch", "create", "delete"],
        "daskworkergroups": ["get", "list", "watch"],
        "daskworkergroups/scale": ["get", "patch"],
        "daskautoscalers": ["get", "create", "patch", "delete"],
    }.items()
] + [
    {"apiGroups": [""], "resources": ["pods", "services"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
]
"""What the client asks of Kubernetes: workers of the operator's, and how they are."""

OWN_ACCOUNT = "default"
"""The account of pods of which nothing is said; each namespace has one."""


def is_of(job: Job) -> bool:
    """Tell whether a job's profile is Kubernetes'."""
    return isinstance(job.profile, Kubernetes)


def scripts(plan: RunPlan, profile: str | None, array: int | None) -> dict[str, str]:
    """Return the manifests that would be created, by what they are.

    Parameters
    ----------
    plan : RunPlan
        The run.
    profile : str, optional
        The profile of pods that compute by themselves.
    array : int, optional
        Pods that share the blocks, instead of a driver with workers.
    """
    if array is not None:
        array = min(array, plan.n_blocks)
        return {f"shares ({array} pods)": as_yaml(_manifests(plan, profile, array))}
    given = "DaskCluster (the driver gives it to the operator)"
    granted = "rights of the driver (submit does not create them; kubectl apply -f once does)"
    return {
        "driver": as_yaml(_manifests(plan, None, None)),
        given: as_yaml([manifest(plan.job)]),
        granted: as_yaml(rights(plan.job.profile)),
    }


def rights(place: Any) -> list[dict[str, Any]]:
    """Return the driver's account, if it is one of its own, and what it may do: manifests."""
    account = _account(place) or OWN_ACCOUNT
    named: dict[str, Any] = {"name": "scatflow-driver", "labels": dict(MANAGER)}
    where = {} if place.namespace is None else {"namespace": place.namespace}
    # The one field of them that kubectl does not fill in.
    subject = {"kind": "ServiceAccount", "name": account, "namespace": "default", **where}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": named["name"]}
    own = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, **where}}
    return [
        *([] if account == OWN_ACCOUNT else [own]),
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {**named, **where},
            "rules": RIGHTS,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {**named, **where},
            "subjects": [subject],
            "roleRef": role,
        },
    ]


def _account(place: Any) -> str | None:
    """Return the account of the driver's pod."""
    found: str | None = place.driver.service_account or place.service_account
    return found


def _mounted(place: Any) -> list[Path]:
    """Return the folders that pods have of volumes."""
    return [Path(volume.path) for volume in place.volumes]


def create(plan: RunPlan, profile: str | None, array: int | None) -> str:
    """Have Kubernetes start the run, and return the Job's name.

    Raises
    ------
    OutputBusyError
        The run has been sent already and has not ended.
    ClusterError
        kubectl is missing or refuses, or a store is a path of this machine.
    """
    array = None if array is None else min(array, plan.n_blocks)
    text = as_yaml(_manifests(plan, profile, array))
    found = _found(plan.job)
    name = run_name(tag(plan.job))
    if found is not None:
        if not _ended(found):
            raise OutputBusyError(
                f"This run was sent already: Job {name} of Kubernetes waits or runs. Wait for it "
                f"({log(plan.job)}), or cancel it: scatflow cancel {plan.job.path}"
            )
        _delete(plan.job)
    _call(plan.job, ["create", "-f", "-"], text)  # Of two at the same instant it refuses one.
    return name


def at_work(job: Job) -> bool | None:
    """Tell whether the Job of a run waits or runs; None where there is none.

    Raises
    ------
    ClusterError
        kubectl is missing or refuses.
    """
    found = _found(job)
    return None if found is None else not _ended(found)


def cancel(job: Job) -> list[str]:
    """Delete the Job of a run and its workers.

    Returns
    -------
    list of str
        What was done, in words.

    Raises
    ------
    ClusterError
        There is no such Job, or kubectl refuses.
    """
    found, name = _found(job), run_name(tag(job))
    if found is None:
        raise ClusterError(
            f"{job.path} was not sent with {job.run.cluster}, so there is nothing to cancel: "
            f"Kubernetes has no Job {name}."
        )
    if _ended(found):
        return [f"Job {name} of Kubernetes has ended already. Its log: {log(job)}"]
    _delete(job)
    if found["spec"].get("completionMode") != "Indexed":  # The operator may not even be there.
        chosen = f"--selector={RUN}={name}"
        _call(job, ["delete", "--ignore-not-found", "daskclusters", chosen])
    return [
        f"Job {name} of Kubernetes is deleted, and its workers with it. What is done is kept. The "
        f"same command goes on: scatflow submit {job.path} --cluster {job.run.cluster}"
    ]


def log(job: Job) -> str:
    """Return the command that shows what a run says."""
    place: Any = job.profile
    where = [] if place.namespace is None else ["--namespace", place.namespace]
    name = run_name(tag(job))
    return " ".join(["kubectl", *where, "logs", "--prefix", f"--selector=job-name={name}"])


def _call(job: Job, words: list[str], text: str | None = None) -> str:
    place: Any = job.profile
    where = [] if place.namespace is None else [f"--namespace={place.namespace}"]
    return kubectl([*where, *words], text, ClusterError, "With --dry-run")


def _found(job: Job) -> dict[str, Any] | None:
    words = ["get", f"job/{run_name(tag(job))}", "--ignore-not-found", "--output=json"]
    told = _call(job, words)
    return dict(json.loads(told)) if told.strip() else None


def _ended(found: dict[str, Any]) -> bool:
    conditions = found.get("status", {}).get("conditions") or []
    return any(c["type"] in ENDED and c["status"] == "True" for c in conditions)


def _delete(job: Job) -> None:
    name = run_name(tag(job))
    words = ["delete", "--ignore-not-found", "--cascade=foreground"]
    _call(job, [*words, f"job/{name}", f"configmap/{name}"])


def _manifests(plan: RunPlan, profile: str | None, array: int | None) -> list[dict[str, Any]]:
    """Return a ConfigMap with the job and its profile, and a Job."""
    job = plan.job
    mounted = _mounted(job.profile)
    check_stores(job, plan.base, mounted, ClusterError, VOLUMES)
    name = run_name(tag(job))
    metadata: dict[str, Any] = {"name": name, "labels": {**MANAGER, RUN: name}}
    if isinstance(job.profile, Kubernetes) and job.profile.namespace is not None:
        metadata["namespace"] = job.profile.namespace
    text = profile or read_toml(job.run.cluster, "cluster profile")[1]
    files = {"job.toml": job.text, PROFILE: text}
    spec = _driver(job) if array is None else _shares(job, array)
    pod = spec["template"]["spec"] = with_volumes(job.profile, spec["template"]["spec"])
    if is_mounted(plan.base, mounted):  # Relative paths are what they are here.
        pod["containers"][0]["workingDir"] = plan.base
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": files},
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec},
    ]


def _driver(job: Job) -> dict[str, Any]:
    """Return the job with the client, whose workers the operator starts."""
    place: Any = job.profile
    more = []
    if place.workers is not None and place.workers == job.run.workers:
        more = ["--workers", str(place.workers)]  # The profile may say another number.
    memory = memory_bytes(place.driver.memory)
    asked = {"cpu": str(place.driver.cores), "memory": f"{math.ceil(memory / 2**20)}Mi"}
    pod = _pod(job, more, {"requests": asked}, _account(place))
    pod["spec"]["automountServiceAccountToken"] = True
    return {"backoffLimit": TRIES, **_policy("FailJob"), "template": pod}


def _shares(job: Job, array: int) -> dict[str, Any]:
    """Return the job of pods that compute a share of the blocks each."""
    place: Any = job.profile
    mib = math.ceil((job.memory * HEADROOM + CLIENT_BYTES) / 2**20)
    asked = {"cpu": str(job.threads), "memory": f"{mib}Mi"}
    most = {"memory": asked["memory"], **({GPU: "1"} if place.device == "cuda" else {})}
    share = ["--share", f"$(JOB_COMPLETION_INDEX)/{array}"]
    pod = _pod(job, share, {"requests": asked, "limits": most}, place.service_account)
    # Roles of stores have tokens of their own; this one is for Kubernetes, which nobody asks.
    pod["spec"]["automountServiceAccountToken"] = False
    return {
        "completionMode": "Indexed",
        "completions": array,
        "parallelism": array,
        "backoffLimitPerIndex": TRIES,
        **_policy("FailIndex"),
        "template": pod,
    }


def _policy(action: str) -> dict[str, Any]:
    """Return what failures mean: pods that lose their node are replaced, mistakes are not."""
    lost = {"type": "DisruptionTarget", "status": "True"}
    codes = {"containerName": "scatflow", "operator": "In", "values": HOPELESS}
    rules = [
        {"action": "Ignore", "onPodConditions": [lost]},
        {"action": action, "onExitCodes": codes},
    ]
    return {"podFailurePolicy": {"rules": rules}}


def _pod(job: Job, words: list[str], resources: Any, account: str | None) -> dict[str, Any]:
    place: Any = job.profile
    variables = place.environment
    line = ["scatflow", "run", f"{JOB_FOLDER}/job.toml", "--cluster", f"{JOB_FOLDER}/{PROFILE}"]
    container = {
        "name": "scatflow",
        "image": place.image,
        "command": [*line, *words],
        **({"env": [{"name": k, "value": v} for k, v in variables.items()]} if variables else {}),
        "envFrom": [{"secretRef": {"name": POD_SECRET, "optional": True}}],
        "resources": resources,
        "volumeMounts": [{"name": "job", "mountPath": JOB_FOLDER, "readOnly": True}],
    }
    name = run_name(tag(job))
    return {
        "metadata": {"labels": {**MANAGER, RUN: name}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            **({"serviceAccountName": account} if account else {}),
            **({"nodeSelector": dict(place.node_selector)} if place.node_selector else {}),
            "containers": [container],
            "volumes": [{"name": "job", "configMap": {"name": name}}],
        },
    }
