"""A schedule that fires: Debian's cron, a clock set to five seconds before, and data that grow."""

import contextlib
import fcntl
import shlex
import subprocess
import time

import pytest
import yaml
import zarr
from typer.testing import CliRunner

from scatflow.cli import app
from scatflow.errors import OutputBusyError
from scatflow.flow.job import load
from scatflow.flow.plan import prepare
from scatflow.flow.run import run
from scatflow.flow.schedules import crontab

CLOCK = ["faketime", "-f", "@2026-11-30 02:59:57"]


@contextlib.contextmanager
def daemon(alone):
    process = subprocess.Popen(
        [*alone, *CLOCK, "cron", "-f"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def test_debians_cron_runs_a_job_over_data_that_have_grown(alone, need, home, task, stand_in, grow):
    need("faketime", "faketime")
    stand_in("crontab", f'exec {shlex.join(alone)} /usr/bin/crontab "$@"')
    grow(20_000)
    assert run(prepare(load("job.toml")), say=str) == 0
    grow(30_000)
    crontab.install(task(log="day.log"))
    log, until = home / "day.log", time.monotonic() + 90
    with daemon(alone):
        while time.monotonic() < until and not (log.exists() and "Complete:" in log.read_text()):
            time.sleep(0.2)
    assert "The source grew along time from 20000 to 30000" in log.read_text()
    assert "Complete:" in log.read_text()
    assert zarr.open_group(str(home / "out.zarr"), mode="r")["scattering"].shape[-1] == 1875


def test_a_run_that_finds_another_at_work_does_nothing_and_alarms_nobody(home, grow):
    grow(20_000)
    with open(home / "out.zarr.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        scheduled = ["run", "job.toml", "--unless-running"]
        quiet = CliRunner().invoke(app, scheduled)
        assert quiet.exit_code == 0
        assert "Another run is writing out.zarr" in quiet.stdout
        loud = CliRunner().invoke(app, scheduled[:-1])
        assert isinstance(loud.exception, OutputBusyError)
    assert not (home / "out.zarr").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--as", "at"], "unknown system 'at'"),
        (["--as", "cron", "--image", "x"], "--image has no meaning for cron"),
        (["--as", "kubernetes", "--log", "x"], "--log has no meaning for"),
        (["--as", "cron", "--install", "--remove"], "exclude each other"),
    ],
)
def test_options_that_make_no_sense_are_refused(home, words, problem):
    done = CliRunner().invoke(app, ["schedule", "job.toml", *words])
    assert done.exit_code == 2
    assert problem in done.stderr


def test_the_command_prints_the_unit_alone_and_notes_beside_it(home):
    words = ["schedule", "job.toml", "--as", "kubernetes", "--image", "i", "--claim", "c"]
    done = CliRunner(env={"AWS_SECRET_ACCESS_KEY": "x"}).invoke(app, words)
    assert done.exit_code == 0
    assert [part["kind"] for part in yaml.safe_load_all(done.stdout)] == ["ConfigMap", "CronJob"]
    assert "AWS_SECRET_ACCESS_KEY" in done.stderr
    removed = CliRunner().invoke(app, ["schedule", "job.toml", "--as", "systemd", "--remove"])
    assert "was not among the units" in removed.stdout
