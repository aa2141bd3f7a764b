"""Workers and schedulers that die, hang or run out of memory; disks that are full."""

import contextlib
import datetime
import os
import signal
import subprocess
import sys
import threading
import time

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster, Security

from scatflow.archive.source import Source
from scatflow.dataset import DONE, FAILED
from scatflow.errors import ClusterError, OutputError
from scatflow.flow import cluster as cluster_module
from scatflow.flow import layout, patience
from scatflow.flow.job import parse
from scatflow.flow.ledger import Ledger
from scatflow.flow.plan import prepare
from scatflow.flow.run import run
from scatflow.flow.status import status

BAD = 5

PRELOAD = """
import os, pathlib, signal, time
import numpy as np
from scatflow.flow import block

once = pathlib.Path({once!r})

def instead(real):
    def evaluate(work, index, *more):
        if index == {bad} and not once.exists():
            {what}
        return real(work, index, *more)
    return evaluate

if block.evaluate.__module__ == block.__name__:  # Nanny and worker both load this.
    block.evaluate = instead(block.evaluate)
"""

FATAL = {
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "out of memory": "hoard = np.ones(2**28); time.sleep(30)",
}


@pytest.fixture
def undisturbed(place, records, monkeypatch):
    """Return a place with twenty small blocks, and the bytes that they give."""
    monkeypatch.setattr(layout, "TARGET_SAMPLES", 2**16)
    x = np.concatenate([records] * 2)
    place.archive(x, chunks=(1, 50_000))
    assert place.run()[0] == 0
    place.expected = place.bytes()
    return place


@contextlib.contextmanager
def preloaded(place, what, once="never"):
    """Have workers do something else than to read one block, until a file is there."""
    script = place.path / "preload.py"
    script.write_text(PRELOAD.format(bad=BAD, what=what, once=str(place.path / once)))
    with dask.config.set({"distributed.worker.preload": [str(script)]}):
        yield


@pytest.mark.parametrize("how", FATAL)
def test_a_block_that_ends_its_worker_fails_alone_and_is_named(undisturbed, how):
    place = undisturbed
    with preloaded(place, FATAL[how]):
        code, said = place.run(fresh=True, cluster="local", memory="500 MiB")
    assert code == 1
    assert "3 workers that computed it died" in said
    ledger = Ledger.open(str(place.path / "out.zarr"))
    assert np.flatnonzero(ledger.state == FAILED).tolist() == [BAD]
    assert (np.delete(ledger.state, BAD) == DONE).all()
    told = status(place.job(), str(place.path))
    assert "died" in told["failures"][str(BAD)]
    assert place.run(cluster="local")[0] == 0
    assert place.bytes() == place.expected


def test_a_worker_that_is_stopped_counts_as_dead_and_its_blocks_are_done_elsewhere(
    undisturbed, monkeypatch
):
    place = undisturbed
    monkeypatch.setitem(cluster_module.CONFIG, "distributed.scheduler.worker-ttl", "3s")
    stop = "once.touch(); os.kill(os.getpid(), signal.SIGSTOP)"
    with preloaded(place, stop, once="stopped"):
        code, _ = place.run(fresh=True, cluster="local")
    assert code == 0
    assert place.bytes() == place.expected


def test_a_read_that_never_ends_fails_its_block_and_no_other(undisturbed, monkeypatch):
    place, let_go, real = undisturbed, threading.Event(), Source.load
    (part,) = place.plan().work.layout.parts(BAD)

    def load(self, slices, dtype=None):
        if [(s.start, s.stop) for s in slices] == list(part.slab):
            let_go.wait(60)
        return real(self, slices, dtype)

    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 3)  # Others are read in time.
    monkeypatch.setattr(Source, "load", load)
    code, said = place.run(fresh=True)
    let_go.set()
    assert code == 1
    assert "1 of" in said
    assert "has not ended after" in said
    monkeypatch.undo()
    monkeypatch.setattr(layout, "TARGET_SAMPLES", 2**16)
    monkeypatch.chdir(place.path)
    assert place.run()[0] == 0
    assert place.bytes() == place.expected


@pytest.mark.parametrize("damage", ["emptied", "cut short", "flipped"])
def test_a_damaged_chunk_fails_what_it_touches(undisturbed, damage):
    place = undisturbed
    chunk = place.path / "archive.zarr/waveform/c/1/3"
    good = chunk.read_bytes()
    bad = {"emptied": b"", "cut short": good[:-9], "flipped": good[:9] + b"\xff\x00" + good[11:]}
    chunk.write_bytes(bad[damage])
    code, said = place.run(fresh=True)
    assert code == 1
    assert "waveform" in said
    ledger = Ledger.open(str(place.path / "out.zarr"))
    assert 0 < (ledger.state == FAILED).sum() < 4
    chunk.write_bytes(good)
    assert place.run()[0] == 0
    assert place.bytes() == place.expected


def test_a_full_disk_loses_nothing_and_the_run_goes_on_when_there_is_room(undisturbed):
    """On a file system of its own, which only root can mount."""
    place = undisturbed
    size = sum(len(b) for b in place.expected.values())
    disk = place.path / "disk"
    disk.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size // 2}", "tmpfs", str(disk)], check=True
    )
    try:
        try:
            code, said = place.run(output="disk/out.zarr")
        except OutputError as problem:
            code, said = 2, str(problem)
        assert code in (1, 2)
        assert "No space left" in said
        room = ["mount", "-o", f"remount,size={4 * size}", str(disk)]
        subprocess.run(room, check=True)
        assert place.run(output="disk/out.zarr")[0] == 0
        assert place.bytes("disk/out.zarr") == place.expected
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


# --- schedulers ----------------------------------------------------------------------------------


@contextlib.contextmanager
def scheduler(place, name):
    """Start a scheduler and two workers as processes of their own."""
    told = place.path / f"{name}.json"
    dask_command = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-dashboard"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    file = ["--scheduler-file", str(told)]
    first = subprocess.Popen(
        [*dask_command, "--host", "127.0.0.1", "--port", "0", "--no-dashboard", *file], **quiet
    )
    others = [subprocess.Popen([*worker, "--host", "127.0.0.1", "--nworkers", "2", *file], **quiet)]
    try:
        until = time.monotonic() + 60
        while not told.exists() and time.monotonic() < until:
            time.sleep(0.1)
        with Client(scheduler_file=str(told)) as client:
            client.wait_for_workers(2, timeout=60)
            address = client.scheduler.address
        yield first, address
    finally:
        for process in [*others, first]:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in [*others, first]:
            process.wait(30)


def test_a_scheduler_that_is_killed_leaves_a_ledger_from_which_another_goes_on(
    undisturbed, monkeypatch
):
    place = undisturbed
    real, ended = Ledger.record, []

    with scheduler(place, "first") as (process, address):

        def record(self, *words):
            real(self, *words)
            ended.append(words[0])
            if len(ended) == 4:
                os.kill(process.pid, signal.SIGKILL)

        monkeypatch.setattr(Ledger, "record", record)
        with pytest.raises(ClusterError, match="scheduler went away"):
            place.run(fresh=True, cluster=address)
    monkeypatch.setattr(Ledger, "record", real)
    done = Ledger.open(str(place.path / "out.zarr")).counts()["done"]
    assert 4 <= done < len(place.expected)
    with scheduler(place, "second") as (_, address):
        code, said = place.run(cluster=address)
    assert code == 0
    assert f"Resuming: {done} of" in said
    assert place.bytes() == place.expected


def certificate(folder):
    """Write a certificate for this machine that vouches for itself, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "scatflow test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return map(str, paths)


def test_a_scheduler_behind_tls_is_reached_with_the_certificates_of_dasks_configuration(
    undisturbed,
):
    place = undisturbed
    pem, key = certificate(place.path)
    both = {"cert": pem, "key": key}
    tls = {f"distributed.comm.tls.{who}": both for who in ("scheduler", "worker", "client")}
    tls |= {"distributed.comm.tls.ca-file": pem, "distributed.comm.require-encryption": True}
    with (
        dask.config.set(tls),
        LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=False,
            protocol="tls://",
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            security=Security(),
        ) as cluster,
    ):
        assert cluster.scheduler_address.startswith("tls://127.0.0.1")
        plan = prepare(
            parse(place.text(cluster=cluster.scheduler_address), place.path / "job.toml"),
            str(place.path),
            fresh=True,
        )
        assert run(plan, fresh=True, say=lambda _: None) == 0
    assert place.bytes() == place.expected
