"""Runs in processes of their own: killed, interrupted, watched, measured."""

import contextlib
import dataclasses
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from scatflow.flow.job import parse
from scatflow.flow.output import look
from scatflow.flow.plan import BASELINE_BYTES, prepare
from scatflow.flow.status import status as read_status

LONG = 'kind = "scattering1d"\ndims = ["time"]\nJ = 8\nQ = [24, 3]\nboundary = "seamless"\n'


@pytest.fixture(scope="module")
def archive(shared_place):
    """Return a place with records of a second of work, eight blocks, and a job on them."""
    place = shared_place
    x = np.random.default_rng(0).standard_normal((4, 2_200_000)).astype(np.float32)
    place.archive(x, chunks=(1, 500_000))
    (place.path / "job.toml").write_text(place.text(transform=LONG, cluster="local"))
    return place


@dataclasses.dataclass
class Watched:
    """What was seen while a run was at work, and what it left."""

    announced: int
    peak: int
    listening: set
    status: dict
    pid: int
    bytes: dict


@pytest.fixture(scope="module")
def watched(archive):
    """Watch one uninterrupted run from the outside."""
    shutil.rmtree(archive.path / "out.zarr", ignore_errors=True)
    plan = prepare(parse((archive.path / "job.toml").read_text(), "job.toml"), str(archive.path))
    process = start(archive)
    wait_for(archive, 1, process)
    members = family(process)
    heard = [c.laddr for p in members for c in p.net_connections("inet") if c.status == "LISTEN"]
    seen, peak = status(archive), 0
    while process.poll() is None:
        for member in members[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                peak = max(peak, member.memory_info().rss)
        time.sleep(0.01)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, ""), out + err
    addresses = {address.ip for address in heard}
    return Watched(
        plan.peak_bytes,
        peak,
        addresses,
        seen,
        process.pid,
        archive.bytes(),
    )


def start(place, *options):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "scatflow.cli", "run", "job.toml", *options],
        cwd=place.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(place, *options):
    process = start(place, *options)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err == ""
    return out


def wait_for(place, n, process):
    """Wait until a running process has made the ledger and recorded `n` blocks in it."""
    wait_until(place, lambda found: found.ledger and found.ledger.counts()["done"] >= n, process)


def wait_until(place, condition, process):
    """Wait until the output of a running process is in some state."""
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        if condition(look(str(place.path / "out.zarr"))):
            return
        time.sleep(0.02)
    raise AssertionError(f"The run did not get there: {process.communicate()}")


def family(process):
    return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]


def kill(processes):
    for one in processes:
        one.kill()
    psutil.wait_procs(processes, timeout=10)


def status(place):
    job = parse((place.path / "job.toml").read_text(), place.path / "job.toml")
    return read_status(job, str(place.path))


def test_a_run_that_is_killed_goes_on_to_the_same_bytes(archive, watched):
    """First the whole run dies, then the client alone, which leaves its workers behind."""
    shutil.rmtree(archive.path / "out.zarr")
    process = start(archive)
    wait_for(archive, 1, process)
    kill(family(process))
    process.communicate()
    begun = time.time()
    process = start(archive, "--workers", "3")
    shards = archive.path / "out.zarr/scattering/c"
    wait_until(
        archive,
        lambda _: any(p.is_file() and p.stat().st_mtime > begun for p in shards.rglob("[0-9]")),
        process,
    )
    workers = family(process)[1:]
    process.kill()
    process.communicate()
    assert "Complete: 8 blocks" in finish(archive)
    assert archive.bytes() == watched.bytes
    assert not (archive.path / "out.zarr.lock").exists()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive


def test_a_run_that_is_killed_while_it_starts_over_is_no_obstacle(archive, watched):
    assert archive.bytes() == watched.bytes
    process = start(archive, "--fresh")
    begun = {"absent", "half-made"}
    wait_until(
        archive, lambda f: f.kind in begun or (f.ledger and not f.ledger.counts()["done"]), process
    )
    kill(family(process))
    process.communicate()
    finish(archive)
    assert archive.bytes() == watched.bytes


def test_a_killed_worker_is_replaced(archive, watched):
    shutil.rmtree(archive.path / "out.zarr")
    process = start(archive)
    wait_for(archive, 1, process)
    workers = [p for p in family(process)[1:] if "spawn_main" in " ".join(p.cmdline())]
    workers[0].kill()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert archive.bytes() == watched.bytes


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_resume_and_leaves_no_process(archive, number):
    shutil.rmtree(archive.path / "out.zarr", ignore_errors=True)
    process = start(archive, "--workers", "1")  # which leaves time to interrupt it
    wait_for(archive, 1, process)
    members = family(process)
    # Ctrl-C reaches the whole group of a terminal, and SIGTERM of a batch system, workers included:
    # it is the client that ends them.
    for member in members[1:]:
        member.send_signal(number)
    _, alive = psutil.wait_procs(members, timeout=0.5)
    assert len(alive) == len(members)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "scatflow run job.toml" in out
    assert err == ""
    _, alive = psutil.wait_procs(members, timeout=10)
    assert not alive
    told = status(archive)
    assert told["state"] == "incomplete"
    assert 1 <= told["done"] < 8
    assert told["failures"] == {}
    assert "Complete: 8 blocks" in finish(archive)


def test_workers_stay_below_the_peak_that_the_plan_announced(watched):
    assert BASELINE_BYTES / 2 < watched.peak <= watched.announced


def test_servers_listen_on_loopback_only(watched):
    assert watched.listening == {"127.0.0.1"}


def test_status_tells_of_a_run_at_work(watched):
    assert watched.status["state"] == "running"
    assert watched.status["run"]["pid"] == watched.pid
    assert watched.status["blocks"] == 8
