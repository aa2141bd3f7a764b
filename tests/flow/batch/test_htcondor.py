"""What is sent to HTCondor, read by HTCondor's own library, which makes the jobs of it."""

import platform
import re
import subprocess
import sys

import numpy as np
import pytest

from scatflow.flow.cluster import batch
from scatflow.flow.plan import prepare
from scatflow.flow.submit import scripts

pytestmark = [
    pytest.mark.ways,
    pytest.mark.skipif(
        sys.platform != "linux" or platform.machine() != "x86_64" or sys.version_info >= (3, 14),
        reason="not run: there is no htcondor for this machine",
    ),
]

PROFILE = """
kind = "htcondor"
workers = 4
threads = 2
memory = "1 GiB"
disk = "3 GiB"
walltime = "01:00:00"
account = "group_physics.me"
scratch = "/my data"
directives = ["+MaxRuntime = 7200"]
prologue = ["source $(dirname /opt/x)/activate"]
environment = { GREETING = "it's \\"fine\\"" }
[driver]
walltime = "24:00:00"
memory = "2 GiB"
"""


@pytest.fixture
def jobs(monkeypatch):
    """Return the jobs that condor_submit would queue of a description."""
    monkeypatch.setenv("CONDOR_CONFIG", "/dev/null")  # There is none here.
    import htcondor

    return lambda text: list(htcondor.Submit(text).jobs(clusterid=41))


@pytest.fixture
def plan(place, small_blocks):
    place.archive(np.zeros((2, 2**18), "float32"))
    (place.path / "site.toml").write_text(PROFILE)
    return prepare(place.job(cluster="site.toml"))


def asked(job):
    return job.eval("RequestCpus"), job.eval("RequestMemory"), job["AcctGroup"]


def words(job):
    """Return the arguments that the program would get."""
    pieces = re.findall(r"(?:[^\s']|'(?:[^']|'')*')+", job["Arguments"])
    return [
        re.sub(r"'((?:[^']|'')*)'", lambda quoted: quoted[1].replace("''", "'"), piece)
        for piece in pieces
    ]


def test_the_driver_is_a_job_beside_the_queue_and_runs_again_after_its_walltime(plan, jobs):
    script, described, _ = scripts(plan).values()
    (job,) = jobs(described)
    assert job["JobUniverse"] == 12  # local
    assert asked(job) == (1, 2048, "group_physics.me")
    assert job["JobBatchName"] == batch.tag(plan.job)
    for code, leaves in ((0, True), (1, True), (99, False)):
        job["ExitCode"] = code
        assert job.eval("OnExitRemove") is leaves
    assert "\n    code=99\n" in script
    assert " 86100 " in script
    said = subprocess.run(
        ["bash", "-c", f'{script.splitlines()[1]}\necho "$HOME"'],
        env={},
        capture_output=True,
        text=True,
    )
    assert said.stdout.startswith("/")


def test_jobs_of_an_array_are_one_cluster_with_an_index_and_a_log_each(plan, jobs):
    script, described, _ = scripts(plan, 2).values()
    found = jobs(described)
    assert [job["JobUniverse"] for job in found] == [5, 5]  # vanilla
    assert asked(found[0]) == (2, 1536 + 512, "group_physics.me")
    assert found[0].eval("RequestDisk") == 3 * 2**20  # KiB
    assert found[0]["MaxRuntime"] == 7200
    for index, job in enumerate(found):
        option, line = words(job)
        told = re.fullmatch(r"exec /bin/bash \S+\.sh (\d) >>\S+-41-(\d)\.log 2>&1", line)
        assert (option, told.groups()) == ("-c", (str(index), str(index)))
    assert '--share "$1/2"' in script


def test_workers_have_their_lines_of_shell_as_they_are_and_can_be_cancelled_by_name(plan, jobs):
    (job,) = jobs(batch.script(plan.job))
    assert job["JobBatchName"] == batch.tag(plan.job)
    assert (job.eval("RequestCpus"), job.eval("RequestMemory")) == (2, 1536)
    option, line = words(job)
    assert option == "-c"
    assert line.startswith("source $(dirname /opt/x)/activate; export ")
    assert "--local-directory '/my data' " in line
    (greeting,) = re.findall("export GREETING=.*?; ", line)
    told = subprocess.run(
        ["sh", "-c", f'{greeting} echo "$GREETING"'], capture_output=True, text=True
    )
    assert told.stdout == 'it\'s "fine"\n'
