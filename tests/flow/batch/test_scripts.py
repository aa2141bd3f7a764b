"""Scripts of batch systems, against what their manuals say; none of these systems is here."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import zarr

from scatflow.errors import ClusterError
from scatflow.flow.cluster import batch
from scatflow.flow.job import load
from scatflow.flow.plan import prepare
from scatflow.flow.submit import scripts, submit

JOB = """
name = "day"
[source]
store = "archive.zarr"
[transform]
kind = "scattering1d"
dims = ["time"]
J = 4
[output]
store = "out.zarr"
[run]
cluster = "place.toml"
"""

PROFILE = """
kind = "{kind}"
workers = 4
processes = 2
threads = 2
memory = "1 GiB"
walltime = "2-01:30:00"
account = "physics"
host = "127.0.0.1"
environment = {{ GREETING = "it's \\"fine\\"" }}
prologue = ["module load python"]
{more}
"""

DRIVER = '[driver]\nwalltime = "3-00:00:00"\nmemory = "3 GiB"\n'


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    group = zarr.open_group("archive.zarr", mode="w", zarr_format=3)
    group.create_array("x", shape=(256,), dtype="float32", chunks=(256,), dimension_names=["time"])[
        ...
    ] = np.ones(256, "float32")
    Path("job.toml").write_text(JOB)

    def make(kind, more=""):
        Path("place.toml").write_text(PROFILE.format(kind=kind, more=more))
        return load("job.toml")

    return make


DIRECTIVES = {
    "slurm": (
        "#SBATCH",
        'queue = "long"\ndirectives = ["--exclusive"]\n' + DRIVER,
        ["-p long", "-A physics", "--cpus-per-task=4", "--mem=3G", "-t 49:30:00", "--exclusive"],
        ["--time=72:00:00", "--partition=long", "--account=physics", "--mem=3072M", "--requeue"],
    ),
    "pbs": (
        "#PBS",
        'queue = "long"\ndirectives = ["-l place=excl"]\n' + DRIVER,
        ["-q long", "-A physics", "-l select=1:ncpus=4:mem=3072mb", "-l walltime=49:30:00"],
        ["-q long", "-A physics", "-l select=1:ncpus=1:mem=3072mb", "-l walltime=72:00:00", "-r y"],
    ),
    "lsf": (
        "#BSUB",
        'queue = "long"\ndirectives = ["-x"]\n' + DRIVER,
        ["-q long", '-P "physics"', "-n 4", '-R "span[hosts=1]"', "-W 2970", "-x"],
        ["-q long", "-P physics", "-n 1", "-M 3072MB", "-W 4320", "-Q 99", "-r"],
    ),
    "sge": (
        "#$",
        'queue = "long"\nparallel_environment = "smp"\n' + DRIVER,
        ["-q long", "-P physics", "-pe smp 4", "-l h_vmem=768M", "-l h_rt=49:30:00"],
        ["-q long", "-P physics", "-l h_vmem=3072M", "-l h_rt=259200", "-r y", "-S /bin/bash"],
    ),
}


@pytest.mark.parametrize("kind", list(DIRECTIVES))
def test_jobs_ask_for_what_the_profile_states_in_the_words_of_the_system(job, kind):
    mark, more, worker, driver = DIRECTIVES[kind]
    for text, wanted in zip(
        scripts(prepare(job(kind, more))).values(), (driver, worker), strict=True
    ):
        told = [line.removeprefix(f"{mark} ") for line in text.splitlines() if mark in line]
        assert [line for line in wanted if line not in told] == [], told
        assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


@pytest.mark.parametrize("kind", list(DIRECTIVES))
def test_a_worker_has_the_environment_and_the_prologue_of_the_profile(job, kind):
    text = batch.script(job(kind, DIRECTIVES[kind][1]))
    shell = "\n".join(line for line in text.splitlines() if line.startswith("export "))
    said = subprocess.run(
        ["bash", "-c", f'{shell}\necho "$GREETING $OMP_NUM_THREADS"'],
        capture_output=True,
        text=True,
    )
    assert said.stdout == 'it\'s "fine" 1\n'
    assert "\nmodule load python\n" in text
    (line,) = [line for line in text.splitlines() if "distributed.cli.dask_worker" in line]
    assert "tcp://SCHEDULER:PORT" in line
    assert "--nworkers 2" in line
    assert "--nthreads 3" in line or "--nthreads 2" in line
    assert re.search(r"--lifetime 1779\d\ds", line)


@pytest.mark.parametrize("kind", list(DIRECTIVES))
def test_workers_of_a_profile_with_gpus_have_them_as_a_resource(job, kind):
    stated = DIRECTIVES[kind][1]
    assert "--resources GPU=1" in batch.script(job(kind, 'device = "cuda"\n' + stated))
    assert "--resources" not in batch.script(job(kind, stated))


def test_jobs_of_htcondor_ask_for_processors_and_a_group(job):
    text = batch.script(job("htcondor", 'disk = "4 GiB"\ndirectives = ["request_gpus = 1"]'))
    told = dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line)
    assert told["RequestCpus"] == "4"
    assert told["MY.DaskWorkerMemory"] == str(3 * 2**30)
    assert told["MY.DaskWorkerDisk"] == str(4 * 2**30)
    assert told["accounting_group"] == "physics"
    assert told["request_gpus"] == "1"
    assert told["Executable"] == "/bin/sh"
    assert text.rstrip().endswith("Queue")
    # condor_submit's own quoting: '' and "" stand for one inside, spaces hold in single quotes.
    inner = re.fullmatch(r"\"-c '(.*)'\"", told["Arguments"])[1]
    shell = inner.replace("''", "'").replace('""', '"')
    assert subprocess.run(["sh", "-n", "-c", shell]).returncode == 0
    assert "module load python; export OMP_NUM_THREADS=1; " in shell


def test_a_run_is_not_sent_to_htcondor_and_is_told_how_it_goes_on(job):
    plan = prepare(job("htcondor"))
    for ask in (scripts, submit):
        with pytest.raises(ClusterError, match=r'kind "htcondor".*slurm, pbs, lsf, sge.*stays'):
            ask(plan)


def test_the_log_of_a_pbs_job_is_where_it_is_told_to_be(job, tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, says in {"qsub": "12.server", "qstat": ""}.items():
        (folder / name).write_text(f"#!/bin/sh\necho {says}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    sent = submit(prepare(job("pbs", DRIVER)))
    (line,) = [x for x in Path(sent.script).read_text().splitlines() if x.startswith("#PBS -o")]
    assert (sent.number, sent.log) == ("12.server", line.removeprefix("#PBS -o "))


@pytest.mark.parametrize(
    ("kind", "command"),
    [("pbs", "qsub"), ("lsf", "bsub"), ("sge", "qsub"), ("slurm", "sbatch")],
)
def test_a_system_that_is_not_here_is_named_with_its_command(job, kind, command, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterError, match=f"The command {command} is not there"):
        submit(prepare(job(kind, DIRECTIVES[kind][1])))
