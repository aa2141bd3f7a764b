"""What is sent to batch systems, as text; nothing here needs one."""

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from scatflow.errors import ClusterError, OutputBusyError
from scatflow.flow.plan import prepare
from scatflow.flow.submit import cancel, scripts, submit
from scatflow.flow.systems import SYSTEMS

PROFILE = """
kind = "{kind}"
workers = 4
processes = 2
memory = "1 GiB"
walltime = "02:00:00"
queue = "long"
account = "project"
prologue = ["module load x"]
environment = {{ AWS_PROFILE = "it's mine" }}
{more}
[driver]
walltime = "10:00:00"
"""

MARKS = {"slurm": "#SBATCH", "pbs": "#PBS", "lsf": "#BSUB", "sge": "#$"}


@pytest.fixture
def planned(place):
    place.archive(np.zeros((2, 2**14), "float32"))

    def make(kind):
        more = 'parallel_environment = "smp"' if kind == "sge" else ""
        (place.path / "site.toml").write_text(PROFILE.format(kind=kind, more=more))
        return prepare(place.job(cluster="site.toml"))

    return make


def run_by_bash(script, path, stand_in):
    """Run a script whose scatflow command is another one, with the batch system's variables set."""
    text = re.sub(r"timeout .*? &$", f"{stand_in} &", script, flags=re.M)
    text = text.replace("module load x", "true")
    (path / "script.sh").write_text(text)
    return subprocess.run(
        ["bash", str(path / "script.sh")],
        capture_output=True,
        text=True,
        timeout=20,
        env={**os.environ, "SLURM_JOB_ID": "7", "PATH": f"{path}:{os.environ['PATH']}"},
    )


@pytest.mark.parametrize("kind", SYSTEMS)
def test_scripts_ask_for_what_the_profile_says_and_printing_them_writes_nothing(
    kind, planned, place
):
    plan = planned(kind)
    before = sorted(place.path.rglob("*"))
    for array in (None, 3):
        for what, text in scripts(plan, array).items():
            if "profile" in what:
                continue
            assert text.startswith("#!"), what
            head = "\n".join(line for line in text.splitlines() if line.startswith(MARKS[kind]))
            assert "long" in head
            assert "project" in head
            assert "module load x" in text
            assert """export AWS_PROFILE='it'"'"'s mine'""" in text
            checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
            assert checked.returncode == 0, checked.stderr
    assert sorted(place.path.rglob("*")) == before


@pytest.mark.parametrize(
    ("kind", "index"), [("slurm", "0"), ("pbs", "0"), ("lsf", "1"), ("sge", "1")]
)
def test_each_job_of_an_array_has_its_share(kind, index, planned, place):
    text = scripts(planned(kind), 3)["shares (3 jobs)"]
    share = re.search(r'--share (".*?")', text).group(1)
    names = ("SLURM_ARRAY_TASK_ID", "PBS_ARRAY_INDEX", "LSB_JOBINDEX", "SGE_TASK_ID")
    told = subprocess.run(
        ["bash", "-c", f"echo {share}"],
        env={**os.environ, **dict.fromkeys(names, index)},
        capture_output=True,
        text=True,
    )
    assert told.stdout == "0/3\n"


@pytest.mark.parametrize(("slept", "code", "again"), [(0, 0, False), (0, 1, False), (2, 124, True)])
def test_a_job_is_queued_again_only_when_its_time_was_up(slept, code, again, planned, place):
    text = scripts(planned("slurm"))["driver"]
    text = re.sub(r"-ge \d+", "-ge 2", text)
    scontrol = place.path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho again: $*\n")
    scontrol.chmod(0o755)
    done = run_by_bash(text, place.path, f"(sleep {slept}; exit {code})")
    assert ("again: requeue 7" in done.stdout) == again, done
    assert done.returncode == code


ANSWERS = {
    "slurm": ("sbatch", "41", "41"),
    "pbs": ("qsub", "41.server", "41.server"),
    "lsf": ("bsub", "Job <41> is submitted to queue <long>.", "41"),
    "sge": ("qsub", "41", "41"),
}


@pytest.mark.parametrize("kind", SYSTEMS)
def test_what_is_sent_is_remembered_watched_and_cancelled(kind, planned, place, monkeypatch):
    plan = planned(kind)
    command, answer, number = ANSWERS[kind]
    system = SYSTEMS[kind]
    for name, said in ((command, answer), (system.state[0], "RUNNING"), (system.cancel[0], "")):
        stand_in = place.path / name
        calls = place.path / f"{name}.calls"
        stand_in.write_text(f"#!/bin/sh\necho $* >> '{calls}'\necho '{said}'\n")
        stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place.path}:{os.environ['PATH']}")
    record = submit(plan)
    assert record.number == number
    head = {
        "slurm": f"--output={record.log.replace('-41.log', '-%j.log')}",
        "pbs": f"-o {record.log}",
    }
    assert head.get(kind, "") in Path(record.script).read_text()
    with pytest.raises(OutputBusyError, match=number):
        submit(plan)
    assert "is cancelled" in cancel(plan.job)[0]
    assert number in (place.path / f"{system.cancel[0]}.calls").read_text()


def test_a_system_whose_commands_are_missing_is_named(planned, monkeypatch, place):
    plan = planned("lsf")
    monkeypatch.setenv("PATH", str(place.path))
    with pytest.raises(ClusterError, match="command bsub is not there"):
        submit(plan)
    with pytest.raises(ClusterError, match="was not sent"):
        cancel(plan.job)


def test_only_batch_systems_take_a_run(place):
    place.archive(np.zeros((2, 2**14), "float32"))
    with pytest.raises(ClusterError, match='of kind "threads"'):
        submit(place.plan(cluster="threads"))
