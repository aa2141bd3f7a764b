"""A schedule that fires: Debian's cron, a clock set to five seconds before, and data that grow."""

import contextlib
import fcntl
import subprocess
import sys
import time

import numpy as np
import zarr

SCATFLOW = [sys.executable, "-m", "scatflow.cli"]
CLOCK = ["faketime", "-f", "@2026-11-30 02:59:57"]


def grow(folder, samples):
    """Make the archive so many samples long; those that were there stay."""
    group = zarr.open_group(str(folder / "archive.zarr"), mode="a", zarr_format=3)
    values = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    if "waveform" not in group:
        group.create_array(
            "waveform", shape=(0,), chunks=(4096,), dtype="float32", dimension_names=["time"]
        )
    group["waveform"].resize((samples,))
    group["waveform"][...] = values


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


def test_debians_cron_runs_a_job_over_data_that_have_grown(alone, need, home):
    need("faketime", "faketime")
    grow(home, 20_000)
    by_hand = subprocess.run([*SCATFLOW, "run", "job.toml"], capture_output=True, check=False)
    assert by_hand.returncode == 0
    grow(home, 30_000)
    install = [*SCATFLOW, "schedule", "job.toml", "--as", "cron", "--install", "--log", "day.log"]
    assert subprocess.run([*alone, *install], capture_output=True, check=False).returncode == 0
    log, until = home / "day.log", time.monotonic() + 60
    with daemon(alone):
        while time.monotonic() < until and not (log.exists() and "complete" in log.read_text()):
            time.sleep(0.2)
    assert "complete" in log.read_text()
    told = subprocess.run([*SCATFLOW, "status", "job.toml"], capture_output=True, check=True).stdout
    assert b"complete" in told
    assert zarr.open_group(str(home / "out.zarr"), mode="r")["scattering"].shape[-1] == 1875


def test_a_run_that_finds_another_at_work_does_nothing_and_alarms_nobody(home):
    grow(home, 20_000)
    with open(home / "out.zarr.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        scheduled = [*SCATFLOW, "run", "job.toml", "--unless-running"]
        quiet = subprocess.run(scheduled, capture_output=True, text=True, check=False)
        assert (quiet.returncode, quiet.stderr) == (0, "")
        assert "Another run is writing out.zarr" in quiet.stdout
        loud = subprocess.run(scheduled[:-1], capture_output=True, text=True, check=False)
        assert (loud.returncode, loud.stdout) == (2, "")
        assert "Another run is writing out.zarr" in loud.stderr
    assert not (home / "out.zarr").exists()


def test_options_that_make_no_sense_are_refused(home):
    for words, problem in (
        (["--as", "at"], "unknown system 'at'"),
        (["--as", "cron", "--image", "x"], "--image has no meaning for cron"),
        (["--as", "cron", "--install", "--remove"], "exclude each other"),
    ):
        done = subprocess.run(
            [*SCATFLOW, "schedule", "job.toml", *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert problem in done.stderr
