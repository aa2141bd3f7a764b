"""Kubernetes' unit: a CronJob, and the job file in a ConfigMap."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from scatflow.errors import ScatflowError, ScheduleError
from scatflow.flow.job import Job
from scatflow.flow.profiles import POD_SECRET
from scatflow.flow.schedules.cron import plain_line
from scatflow.flow.schedules.environment import portable
from scatflow.flow.schedules.task import LOCAL, Task
from scatflow.flow.tables import read_toml
from scatflow.flow.work import absolute, local_path

JOB_FOLDER = "/etc/scatflow"
KUBECTL_SECONDS = 120
PROFILE = "cluster.toml"
CLAIM = (
    ", or the name of a volume claim that holds the current folder and the store in it "
    "(--claim NAME)"
)
"""What a store of a scheduled job may be, other than a URL."""

MANAGER = {"app.kubernetes.io/managed-by": "scatflow"}


def text(task: Task) -> str:
    """Return the manifests as YAML.

    Raises
    ------
    ScheduleError
        No image is given, stores would not outlive the pod, or the schedule cannot be said.
    """
    return as_yaml(manifests(task))


def install(task: Task) -> list[str]:
    """Apply the manifests to the cluster and namespace that kubectl is set to."""
    return kubectl(["apply", "-f", "-"], text(task)).splitlines()


def remove(name: str) -> list[str]:
    """Delete a unit from the cluster and namespace that kubectl is set to."""
    objects = [f"cronjob/{name}", f"configmap/{name}"]
    told = kubectl(["delete", "--ignore-not-found", *objects]).splitlines()
    return told or [f"{name} was not in the cluster"]


def manifests(task: Task) -> list[dict[str, Any]]:
    """Return a ConfigMap and a CronJob; see :func:`text`."""
    if task.image is None:
        raise ScheduleError(
            "A pod needs an image with scatflow in it, and none is given. Give one with --image, "
            "such as --image registry.example.org/scatflow:0.1."
        )
    mounted = [task.folder] if task.claim else []
    check_stores(task.job, str(task.folder), mounted, ScheduleError, CLAIM)
    files = {"job.toml": task.job.text, **_profile(task)}
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _named(task), "data": files},
        {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "metadata": _named(task),
            "spec": {
                "schedule": _schedule(task),
                **_zone(),
                "concurrencyPolicy": "Forbid",
                "jobTemplate": {"spec": _job_spec(task)},
            },
        },
    ]


def _profile(task: Task) -> dict[str, str]:
    """Return the profile that the job names, if it is a file: a pod has it beside the job.

    Raises
    ------
    ScheduleError
        A pod cannot start such workers.
    """
    place = task.job.run.cluster
    if task.job.profile.kind not in (*LOCAL, "address", "gateway"):
        raise ScheduleError(
            f"{place} is of kind {task.job.profile.kind!r}, whose workers a pod cannot start: it "
            "has neither the commands nor the rights. Give a profile of kind local, threads, "
            "address or gateway with --cluster."
        )
    if not place.endswith(".toml"):
        return {}
    return {PROFILE: read_toml(place, "cluster profile")[1]}


def _named(task: Task) -> dict[str, Any]:
    return {"name": task.name, "labels": dict(MANAGER)}


def _job_spec(task: Task) -> dict[str, Any]:
    """Return the job: tried again after a failed block or a lost pod, not after a mistake in it."""
    hopeless = {"containerName": "scatflow", "operator": "In", "values": [2, 3]}
    volumes = [{"name": "job", "configMap": {"name": task.name}}]
    if task.claim:
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": task.claim}})
    return {
        "backoffLimit": 2,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": hopeless}]},
        "template": {
            "metadata": {"labels": dict(MANAGER)},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "containers": [_container(task)],
                "volumes": volumes,
            },
        },
    }


def _container(task: Task) -> dict[str, Any]:
    words = ["scatflow", "run", f"{JOB_FOLDER}/job.toml", "--unless-running"]
    if _profile(task):
        words += ["--cluster", f"{JOB_FOLDER}/{PROFILE}"]
    elif task.cluster is not None:
        words += ["--cluster", task.cluster]
    words += task.one_worker
    processors, memory = task.resources
    variables = [{"name": n, "value": v} for n, v in portable(task.variables).items()]
    mounts: list[dict[str, Any]] = [{"name": "job", "mountPath": JOB_FOLDER, "readOnly": True}]
    place = {}
    if task.claim:
        mounts.append({"name": "data", "mountPath": str(task.folder)})
        place = {"workingDir": str(task.folder)}
    return {
        "name": "scatflow",
        "image": task.image,
        "command": words,
        **place,
        **({"env": variables} if variables else {}),
        "envFrom": [{"secretRef": {"name": POD_SECRET, "optional": True}}],
        "resources": {
            "requests": {"cpu": str(processors), "memory": f"{-(-memory // 2**20)}Mi"},
        },
        "volumeMounts": mounts,
    }


def _schedule(task: Task) -> str:
    line = plain_line(task.cron)
    if line is None:
        raise ScheduleError(
            f"The schedule {task.cron.text!r} asks for a day of the month and a day of the week "
            "at once, which cron grants as one of them begins with *, but Kubernetes would take "
            "either. Leave one of them *, or use --as cron or systemd."
        )
    return line


def is_mounted(path: str, mounted: Sequence[Path]) -> bool:
    """Tell whether a path lies in one of the folders that pods have of volumes."""
    return any(Path(os.path.normpath(path)).is_relative_to(folder) for folder in mounted)


def check_stores(
    job: Job, folder: str, mounted: Sequence[Path], error: type[ScatflowError], otherwise: str
) -> None:
    """Refuse stores that a pod would look for in its own file system, which ends with it.

    Parameters
    ----------
    job : Job
        Whose stores.
    folder : str
        What relative paths start from.
    mounted : sequence of Path
        What pods have of volumes.
    error : type
        What is raised.
    otherwise : str
        What a store may be, other than a URL.
    """
    for key, store in (("[source]", job.source.store), ("[output]", job.output.store)):
        path = local_path(absolute(store, folder))
        if path is None or is_mounted(path, mounted):
            continue
        raise error(
            f"{key} store = {store!r} is a path, which a pod does not have. Give URLs "
            f"(s3://...){otherwise}."
        )


def _zone() -> dict[str, str]:
    """Return this machine's time zone, in which the other schedulers read the line."""
    given = os.environ.get("TZ", "").removeprefix(":")
    name = given or os.path.realpath("/etc/localtime").partition("zoneinfo/")[2] or "Etc/UTC"
    return {"timeZone": name}


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML has no types.
    """Writes texts of several lines as they are."""


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent)


def as_yaml(found: list[dict[str, Any]]) -> str:
    """Return manifests as YAML."""
    return str(yaml.dump_all(found, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def kubectl(
    words: list[str],
    text: str | None = None,
    error: type[ScatflowError] = ScheduleError,
    instead: str = "Without --install",
) -> str:
    """Call kubectl, and return what it says.

    Parameters
    ----------
    words : list of str
        Its words.
    text : str, optional
        Its input.
    error : type
        What is raised where it is missing or refuses.
    instead : str
        How manifests are printed.
    """
    if shutil.which("kubectl") is None:
        raise error(
            "There is no program kubectl on this machine, so nothing was changed. "
            f"{instead} the manifests are printed; kubectl apply -f takes them anywhere."
        )
    try:
        answer = subprocess.run(
            ["kubectl", *words],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=KUBECTL_SECONDS,
        )
    except subprocess.TimeoutExpired as problem:
        raise error(
            f"kubectl has not answered for {KUBECTL_SECONDS} s. Does the cluster of its context?"
        ) from problem
    if answer.returncode:
        raise error(
            f"kubectl {' '.join(words)} ended with exit code {answer.returncode}: "
            f"{answer.stderr.strip()}"
        )
    return answer.stdout
