"""A job to be scheduled, the user's folders out of the way, and Debian's programs."""

import os
import shutil
import subprocess

import numpy as np
import platformdirs
import pytest
import zarr

from scatflow.flow.job import load
from scatflow.flow.schedules.task import make_task

JOB = """
[source]
store = "archive.zarr"
variable = "waveform"
[transform]
kind = "scattering1d"
dims = ["time"]
J = 4
boundary = "seamless"
[output]
store = "out.zarr"
[run]
cluster = "threads"
workers = 1
memory = "1 GiB"
schedule = "0 3 * * *"
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Return a home whose path has whatever units give a meaning to, and where a job lies."""
    home = tmp_path / "it's 100% $HOME"
    home.mkdir()
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    (home / "job.toml").write_text(JOB)
    assert platformdirs.user_config_path("scatflow").is_relative_to(home)
    return home


@pytest.fixture
def grow(home):
    """Return a function that makes the archive so many samples long; those that were there stay."""

    def to(samples):
        group = zarr.open_group(str(home / "archive.zarr"), mode="a", zarr_format=3)
        values = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
        if "waveform" not in group:
            group.create_array(
                "waveform", shape=(0,), chunks=(4096,), dtype="float32", dimension_names=["time"]
            )
        group["waveform"].resize((samples,))
        group["waveform"][...] = values

    return to


@pytest.fixture
def task(home):
    def make(job="job.toml", schedule=None, cluster=None, **options):
        loaded = load(job).override(schedule=schedule, cluster=cluster)
        return make_task(loaded, cluster=cluster, **options)

    return make


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Put a shell script before all programs of its name; it records its words and its input."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(name, answer=""):
        program = folder / name
        record = folder / f"{name}.calls"
        program.write_text(f'#!/bin/sh\necho "$@" >> "{record}"\n{answer}\n')
        program.chmod(0o755)
        return record

    return make


@pytest.fixture(scope="session")
def need():
    """Return a function that sees to it that a program is there."""
    return _need


def _need(program, package):
    """Install Debian's package of a program, or say why a test is not run."""
    if shutil.which(program):
        return
    if os.geteuid() or not shutil.which("apt-get"):
        pytest.skip(
            f"{program} is not installed, and only root can do so: apt-get install {package}"
        )
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    words = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
    done = subprocess.run(words, env=quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{package} cannot be installed: {done.stderr.strip()[-300:]}")


@pytest.fixture
def alone(tmp_path, need):
    """Return what a command begins with that has a cron of its own: no crontab but its spool's."""
    need("cron", "cron")
    names = ("spool", "cron.d", "run")
    for name in names:
        (tmp_path / name).mkdir()
    enter = (
        'mount --bind "$1/spool" /var/spool/cron/crontabs && mount --bind "$1/cron.d" /etc/cron.d '
        '&& mount --bind "$1/run" /run && mount --bind /dev/null /etc/crontab && shift && exec "$@"'
    )
    words = ["unshare", "--mount", "sh", "-c", enter, "sh", str(tmp_path)]
    tried = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no mount namespace can be made here: {tried.stderr.strip()}")
    return words
