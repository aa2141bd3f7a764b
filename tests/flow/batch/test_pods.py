"""Runs that are sent to Kubernetes: manifests against its schema, and what kubectl is told."""

import json
import os
import tomllib
from pathlib import Path

import kubernetes_validate
import numpy as np
import pytest
import yaml

from scatflow.errors import ClusterError, OutputBusyError
from scatflow.flow import pods
from scatflow.flow.job import parse
from scatflow.flow.plan import prepare
from scatflow.flow.profiles import parse_profile
from scatflow.flow.status import status
from scatflow.flow.submit import cancel, scripts, submit

PROFILE = """
kind = "kubernetes"
image = "scatflow:0.1.0"
workers = 3
threads = 2
namespace = "archive"
service_account = "reader"
node_selector = { pool = "big" }
environment = { AWS_REGION = "eu-central-1" }
device = "cuda"
[driver]
memory = "3 GiB"
service_account = "driver"
"""

NAME = "scatflow-test-"

CLUSTER = Path(__file__).parents[3] / "cluster"


@pytest.fixture
def plan(place, monkeypatch):
    """Return a plan whose folder pods are taken to have."""
    place.archive(np.zeros((2, 2**14), "float32"))
    (place.path / "pods.toml").write_text(PROFILE)
    monkeypatch.setattr(pods, "check_stores", lambda *_: None)
    text = place.text(cluster="pods.toml")
    return prepare(parse(text, place.path / "job.toml"), str(place.path))


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    """Stand in for kubectl: it keeps what it is given, and says what `answer` holds for a Job."""
    folder = tmp_path / "programs"
    folder.mkdir()
    program = folder / "kubectl"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/calls\n'
        f'case "$*" in *" create "*) cat > {folder}/created;; '
        f'*" get "*) cat {folder}/answer 2>/dev/null || true;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


def answer(kubectl, mode="NonIndexed", ended=None):
    conditions = [{"type": ended, "status": "True"}] if ended else []
    found = {"spec": {"completionMode": mode}, "status": {"conditions": conditions}}
    (kubectl / "answer").write_text(json.dumps(found))


def parts(text):
    file, job = yaml.safe_load_all(text)
    assert (file["kind"], job["kind"]) == ("ConfigMap", "Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return file, job, container


def test_the_driver_has_the_job_and_its_profile_and_starts_again_where_it_ended(plan):
    driver, cluster, _ = scripts(plan).values()
    file, job, container = parts(driver)
    assert file["data"] == {"job.toml": plan.job.text, "cluster.toml": PROFILE}
    name = job["metadata"]["name"]
    assert name.startswith(NAME)
    assert job["metadata"]["namespace"] == "archive"
    pod = job["spec"]["template"]["spec"]
    assert (pod["serviceAccountName"], pod["restartPolicy"]) == ("driver", "Never")
    assert container["command"][:2] == ["scatflow", "run"]
    assert container["resources"] == {"requests": {"cpu": "1", "memory": "3072Mi"}}
    lost, hopeless = job["spec"]["podFailurePolicy"]["rules"]
    assert (lost["action"], hopeless["onExitCodes"]["values"]) == ("Ignore", [2, 3])
    told = yaml.safe_load(cluster)
    assert told["kind"] == "DaskCluster"
    assert told["metadata"]["labels"]["app.kubernetes.io/instance"] == name
    assert told["spec"]["idleTimeout"] > 0


def test_an_array_is_an_indexed_job_whose_pods_have_workers_of_their_own(plan):
    n = plan.n_blocks
    ((what, text),) = scripts(plan, 1000).items()
    assert what == f"shares ({n} pods)"
    file, job, container = parts(text)
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", n, n)
    assert container["command"][-2:] == ["--share", f"$(JOB_COMPLETION_INDEX)/{n}"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    own = file["data"]["cluster.toml"]
    assert tomllib.loads(own)["device"] == "cuda"
    assert parse_profile(own, Path("own.toml")).workers == 1
    assert spec["template"]["spec"]["automountServiceAccountToken"] is False


def test_workers_of_the_command_line_reach_the_driver(plan):
    given = prepare(plan.job.override(workers=6))
    _, _, container = parts(scripts(given)["driver"])
    assert container["command"][-2:] == ["--workers", "6"]


def test_stores_that_a_pod_does_not_have_are_refused_before_anything_is_sent(
    plan, kubectl, monkeypatch
):
    monkeypatch.undo()
    for ask in (scripts, submit, lambda plan: submit(plan, 2)):
        with pytest.raises(ClusterError, match=r"is a path, which a pod does not have"):
            ask(plan)
    assert not (kubectl / "calls").exists()
    assert not Path(plan.output).exists()


def test_a_run_is_created_watched_and_deleted_by_name(plan, kubectl):
    record = submit(plan)
    assert (kubectl / "created").read_text() == scripts(plan)["driver"]
    assert record.number.startswith(NAME)
    assert status(plan.job)["batch"] is None  # Kubernetes has none yet.
    answer(kubectl)
    assert status(plan.job)["batch"]["at_work"] is True
    with pytest.raises(OutputBusyError, match=f"Job {record.number} of Kubernetes waits or runs"):
        submit(plan)
    assert "is deleted" in cancel(plan.job)[0]
    calls = (kubectl / "calls").read_text()
    assert f"delete --ignore-not-found --cascade=foreground job/{record.number} configmap/" in calls
    assert f"daskclusters --selector=app.kubernetes.io/instance={record.number}" in calls


def test_a_run_that_has_ended_makes_room_for_the_next(plan, kubectl):
    answer(kubectl, ended="Failed")
    assert status(plan.job)["batch"]["at_work"] is False
    assert "has ended already" in cancel(plan.job)[0]
    submit(plan)
    calls = [line.split()[1] for line in (kubectl / "calls").read_text().splitlines()]
    assert calls[-3:] == ["get", "delete", "create"]


def test_an_array_is_laid_out_before_it_is_sent_and_has_no_workers_of_the_operator(plan, kubectl):
    assert submit(plan, 2) is not None
    assert status(plan.job)["done"] == 0
    answer(kubectl, mode="Indexed")
    cancel(plan.job)
    assert "daskclusters" not in (kubectl / "calls").read_text()


def test_what_kubectl_refuses_is_told(plan, kubectl):
    (kubectl / "kubectl").write_text("#!/bin/sh\necho already exists >&2\nexit 1\n")
    for ask in (lambda: submit(plan), lambda: cancel(plan.job)):
        with pytest.raises(ClusterError, match="already exists"):
            ask()
    assert status(plan.job)["batch"] is None


def test_the_driver_may_do_what_the_shipped_manifest_says(plan):
    account, role, binding = yaml.safe_load_all([*scripts(plan).values()][-1])
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "driver", "namespace": "archive"}
    ]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert {found["metadata"]["namespace"] for found in (account, role, binding)} == {"archive"}
    shipped = list(yaml.safe_load_all((CLUSTER / "kubernetes-driver.yaml").read_text()))
    plain = 'kind = "kubernetes"\nimage = "scatflow"\nworkers = 1\n'
    named = plain + '[driver]\nservice_account = "scatflow-driver"'
    assert shipped == pods.rights(parse_profile(named, Path("p.toml")))
    role, binding = pods.rights(parse_profile(plain, Path("p.toml")))
    assert binding["subjects"][0]["name"] == "default"


def test_workers_and_driver_see_the_same_credentials_and_volumes(plan, place):
    text = PROFILE.replace(
        "[driver]",
        f'volumes = [{{ claim = "archive", path = "{place.path}" }}, '
        '{ claim = "more", path = "/more/", read_only = true }]\n[driver]',
    )
    (place.path / "pods.toml").write_text(text)
    plan = prepare(plan.job.override(cluster=str(place.path / "pods.toml")), str(place.path))
    driver, cluster, _ = scripts(plan).values()
    (array,) = scripts(plan, 2).values()
    spec = yaml.safe_load(cluster)["spec"]
    worker = spec["worker"]["spec"]
    for pod in (
        parts(driver)[1]["spec"]["template"]["spec"],
        parts(array)[1]["spec"]["template"]["spec"],
        worker,
    ):
        (container,) = pod["containers"]
        assert container["envFrom"] == [
            {"secretRef": {"name": "scatflow-credentials", "optional": True}}
        ]
        mounts = {m["name"]: (m["mountPath"], m.get("readOnly")) for m in container["volumeMounts"]}
        seen = {
            v["persistentVolumeClaim"]["claimName"]: mounts[v["name"]]
            for v in pod["volumes"]
            if "persistentVolumeClaim" in v
        }
        assert seen == {"archive": (str(place.path), None), "more": ("/more", True)}
    assert container.get("workingDir") is None
    assert parts(driver)[2]["workingDir"] == str(place.path)
    assert "volumes" not in spec["scheduler"]["spec"]
    alone = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "w"}, "spec": worker}
    kubernetes_validate.validate(alone, "1.33", strict=True)


def test_a_store_may_be_a_path_that_pods_see_of_a_volume(plan, place, monkeypatch):
    monkeypatch.undo()
    volume = f'volumes = [{{ claim = "archive", path = "{place.path}" }}]\n[driver]'
    (place.path / "pods.toml").write_text(PROFILE.replace("[driver]", volume))
    job = plan.job.override(cluster=str(place.path / "pods.toml"))
    assert scripts(prepare(job, str(place.path)))
    (place.path / "pods.toml").write_text(PROFILE)
    job = plan.job.override(cluster=str(place.path / "pods.toml"))
    with pytest.raises(ClusterError, match=r"is a path, .*volumes in the profile"):
        scripts(prepare(job, str(place.path)))


@pytest.mark.parametrize("array", [None, 2])
def test_manifests_keep_to_the_schema_of_kubernetes(plan, array):
    texts = list(scripts(plan, array).values())
    for text in (*texts[:1], *texts[2:]):  # The second one is the operator's.
        for found in yaml.safe_load_all(text):
            kubernetes_validate.validate(found, "1.33", strict=True)
    found = list(yaml.safe_load_all(texts[0]))[-1]
    found["spec"]["completionsMode"] = "Indexed"  # It would see this.
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(found, "1.33", strict=True)
