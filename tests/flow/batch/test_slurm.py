"""Runs on a real SLURM: from a shell, sent as jobs, with jobs cancelled and nodes lost."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

from scatflow.errors import ClusterError, OutputBusyError
from scatflow.flow import submit as submit_module
from scatflow.flow.job import load
from scatflow.flow.plan import prepare
from scatflow.flow.run import run
from scatflow.flow.status import status
from scatflow.flow.submit import cancel, sent, submit

JOB = """
name = "batch test"
[source]
store = "archive.zarr"
variable = "waveform"
[transform]
kind = "scattering1d"
dims = ["time"]
J = 8
Q = [{Q}, 1]
boundary = "seamless"
[output]
store = "{output}"
[run]
cluster = "{cluster}"
memory = "1 GiB"
"""

PROFILE = """
kind = "slurm"
workers = 2
memory = "1 GiB"
walltime = "00:30:00"
host = "127.0.0.1"
"""

DRIVER = """
[driver]
memory = "1 GiB"
walltime = "00:10:00"
"""


class Site:
    """A folder with an archive, a job and a profile, and the shell of a login node."""

    def __init__(self, path, slurm):
        self.path, self.slurm = path, slurm
        self.archive(2**21)
        self.profile()
        self.write("slurm.zarr", "slurm.toml")

    def archive(self, samples):
        group = zarr.open_group(str(self.path / "archive.zarr"), mode="w", zarr_format=3)
        array = group.create_array(
            "waveform",
            shape=(4, samples),
            dtype="float32",
            chunks=(1, 2**19),
            dimension_names=["station", "time"],
        )
        array[...] = np.random.default_rng(0).standard_normal(array.shape, dtype="float32")

    def write(self, output, cluster, Q=8):
        self.Q = Q
        (self.path / "job.toml").write_text(JOB.format(output=output, cluster=cluster, Q=Q))

    def profile(self, more="", driver=DRIVER):
        (self.path / "slurm.toml").write_text(f"{PROFILE}{more}\n{driver}")

    def scatflow(self, *words):
        """Start the command as a user's shell does."""
        return subprocess.Popen(
            [sys.executable, "-m", "scatflow.cli", *words],
            cwd=self.path,
            env=self.slurm.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def local(self):
        """Run the same job on threads of this process and return its objects."""
        self.write("local.zarr", "threads", self.Q)
        assert run(prepare(load("job.toml")), say=lambda _: None) == 0
        self.write("slurm.zarr", "slurm.toml", self.Q)
        return self.objects("local.zarr")

    def objects(self, store):
        top = self.path / store
        return {str(p.relative_to(top)): p.read_bytes() for p in top.rglob("*") if p.is_file()}

    def done(self):
        return status(load("job.toml"))["done"]

    def suspend_workers(self, driver):
        for number, _ in self.workers():
            if number != driver:
                self.slurm.command("scontrol", "suspend", number)

    def workers(self):
        """Return the worker's jobs that run, with their nodes."""
        return [(j, n) for j, state, n, _ in self.slurm.jobs() if state == "RUNNING"]


@pytest.fixture
def site(tmp_path, slurm, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("SLURM_CONF",):
        monkeypatch.setenv(name, slurm.environment[name])
    yield Site(tmp_path, slurm)
    slurm.command("scancel", "--user=root")
    slurm.until(lambda: not slurm.jobs(), 30, slurm.logs)


def same(site):
    """Compare with a local run all that a run computes: its objects but the record of settings."""
    ours, theirs = site.objects("slurm.zarr"), site.local()
    assert ours.keys() == theirs.keys()
    return [name for name in ours if ours[name] != theirs[name] and "zarr.json" not in name] == []


def test_a_run_goes_on_when_a_job_is_cancelled_and_a_node_dies(site):
    site.archive(2**23)
    site.write("slurm.zarr", "slurm.toml", Q=16)  # Which takes longer than a job to start.
    started = site.scatflow("run", "job.toml")
    site.slurm.until(lambda: len(site.workers()) == 2, 60, site.slurm.logs)
    first, node = site.workers()[0]
    site.slurm.command("scancel", first)
    site.slurm.until(lambda: site.done() >= 1, 90, site.slurm.logs)
    site.slurm.kill_node(node)
    said, _ = started.communicate(timeout=240)
    site.slurm.restart_node(node)
    assert started.returncode == 0, said
    assert "Complete" in said
    assert same(site)
    site.slurm.until(lambda: not site.slurm.jobs(), 30, site.slurm.logs)


def test_a_run_that_is_sent_is_queued_again_at_its_walltime_and_completes(site, monkeypatch):
    monkeypatch.setattr(submit_module, "MARGIN_SHARE", 0.925)
    monkeypatch.setattr(submit_module, "MARGIN_MOST", 600)
    site.archive(2**23)
    site.write("slurm.zarr", "slurm.toml", Q=16)
    record = submit(prepare(load("job.toml")))  # Told to end after 45 seconds.
    with pytest.raises(OutputBusyError, match=f"job {record.number} of SLURM"):
        submit(prepare(load("job.toml")))
    log = Path(record.log)
    site.slurm.until(lambda: site.done() >= 1, 150, site.slurm.logs)
    site.suspend_workers(record.number)  # So that it is not done by then.
    site.slurm.until(lambda: "Interrupted" in log.read_text(), 150, site.slurm.logs)
    site.slurm.until(lambda: site.slurm.jobs() == [], 300, site.slurm.logs)
    said = log.read_text()
    assert "Resuming" in said, said
    assert "Complete" in said, said
    assert same(site)


def test_a_run_that_is_sent_can_be_watched_and_cancelled_from_another_shell(site):
    site.archive(2**23)
    site.write("slurm.zarr", "slurm.toml", Q=16)
    said, _ = site.scatflow("submit", "job.toml").communicate(timeout=60)
    assert "Sent as job" in said
    site.slurm.until(lambda: site.done() >= 1, 90, site.slurm.logs)
    site.suspend_workers(sent(load("job.toml")).number)
    told, _ = site.scatflow("status", "job.toml", "--json").communicate(timeout=60)
    told = json.loads(told)
    assert told["state"] == "running"
    assert told["batch"]["number"] == sent(load("job.toml")).number
    assert "is cancelled" in cancel(load("job.toml"))[0]
    site.slurm.until(lambda: site.slurm.jobs() == [], 60, site.slurm.logs)
    assert "has ended already" in cancel(load("job.toml"))[0]
    done = site.done()
    site.write("slurm.zarr", "threads", Q=16)
    assert run(prepare(load("job.toml")), say=lambda _: None) == 0
    assert done >= 1
    assert same(site)


def test_jobs_of_an_array_share_the_blocks_and_one_that_is_killed_is_made_good(site):
    site.archive(2**22)
    first = site.scatflow("submit", "job.toml", "--array", "3")
    said, _ = first.communicate(timeout=60)
    assert "Sent as job" in said, said
    site.slurm.until(lambda: len(site.workers()) == 3, 30, site.slurm.logs)
    site.slurm.command("scancel", "--signal=KILL", "--full", f"{sent(load('job.toml')).number}_1")
    site.slurm.until(lambda: site.done() >= 1, 90, site.slurm.logs)
    with pytest.raises(OutputBusyError):
        run(prepare(load("job.toml")))
    site.slurm.until(lambda: site.slurm.jobs() == [], 300, site.slurm.logs)
    state = status(load("job.toml"))
    logs = "".join(p.read_text() for p in (site.path / ".scatflow" / "logs").glob("*.log"))
    assert state["state"] == "complete", logs
    assert same(site)


def test_a_system_that_refuses_is_quoted_and_nothing_is_written(site):
    site.profile('queue = "nowhere"')
    with pytest.raises(ClusterError, match="invalid partition specified: nowhere"):
        run(prepare(load("job.toml")))
    with pytest.raises(ClusterError, match="invalid partition specified: nowhere"):
        submit(prepare(load("job.toml")))
    assert not (site.path / "slurm.zarr").exists()


def test_workers_that_never_come_end_the_run_with_the_words_of_their_log(site):
    site.profile('python = "/nowhere/python"')
    begun = time.monotonic()
    with pytest.raises(ClusterError, match=r"(?s)no worker ever came.*/nowhere/python"):
        run(prepare(load("job.toml")))
    assert time.monotonic() - begun < 90
