"""Runs from and to an object store: the same bytes, whatever the store goes through."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import s3fs
import xarray as xr

from scatflow.errors import JobError, OutputBusyError, OutputError, OutputTakenError, SourceError
from scatflow.flow import layout, lock
from scatflow.flow.job import parse
from scatflow.flow.plan import prepare
from scatflow.flow.run import lay_out, run
from scatflow.flow.shares import Share
from scatflow.flow.sight.watch import Listener
from scatflow.flow.status import status

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def remote(s3, place, records, monkeypatch):
    """Return a place whose archive is in the bucket; and the bytes of a local run."""
    monkeypatch.setattr(layout, "TARGET_SAMPLES", 2**17)
    place.archive(records, chunks=(1, 100_000))
    assert place.run()[0] == 0
    place.expected = contents(place.bytes())
    s3.files.put(str(place.path / "archive.zarr"), "bucket/archive.zarr", recursive=True)
    s3.counts.clear()
    return place


def contents(found):
    """Leave out what names the source's store, and the ledger's last words."""
    return {k: v for k, v in found.items() if "/c/" in k}


def text(place, **changes):
    written = place.text(output="s3://bucket/out.zarr", **changes)
    return written.replace('"archive.zarr"', '"s3://bucket/archive.zarr"')


def go(place, fresh=False, **changes):
    said = []
    job = parse(text(place, **changes), place.path / "job.toml")
    code = run(prepare(job, str(place.path), fresh=fresh), fresh=fresh, say=said.append)
    return code, "\n".join(said)


def there(s3):
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    found = files.find("bucket/out.zarr")
    return contents({k.removeprefix("bucket/out.zarr/"): files.cat_file(k) for k in found})


def test_the_bytes_are_those_of_a_local_run_and_no_secret_is_written(s3, remote, capfd):
    code, said = go(remote)
    assert (code, there(s3)) == (0, remote.expected)
    assert "nothing to do" in go(remote)[1]
    told = json.dumps(status(parse(text(remote), remote.path / "job.toml"), str(remote.path)))
    assert '"state": "complete"' in told
    everything = b"".join(s3.files.cat_file(k) for k in s3.files.find("bucket"))
    out, err = capfd.readouterr()
    for word in s3.words:
        assert word not in said + told + out + err
        assert word.encode() not in everything
    assert not s3.files.exists("bucket/out.zarr.lock")
    with xr.open_zarr("s3://bucket/out.zarr") as ds:
        assert np.isfinite(ds.scattering.isel(time=slice(0, 9)).values).all()


def test_a_block_costs_few_requests(s3, remote):
    """Two chunks of the source or three, a look at the ledger, and one object to write."""
    go(remote)
    blocks = remote.plan().n_blocks
    data = [p for m, p in s3.paths if m == "GET" and "archive.zarr/waveform/c/" in p]
    written = [p for m, p in s3.paths if m == "PUT" and "out.zarr/scattering/c/" in p]
    looks = [p for m, p in s3.paths if m == "GET" and p.endswith("out.zarr/ledger/zarr.json")]
    assert len(written) == blocks
    assert len(data) <= 4 * blocks
    assert len(looks) <= blocks + 20


def test_a_store_that_refuses_some_requests_is_asked_again(s3, remote):
    rng = np.random.default_rng(0)
    s3.fault = lambda _method, path: 503 if "/c/" in path and rng.random() < 0.15 else None
    assert go(remote)[0] == 0
    s3.fault = lambda *_: None
    assert there(s3) == remote.expected


def test_a_slow_store_gives_the_same_bytes(s3, remote):
    s3.fault = lambda _method, path: 0.05 if "/c/" in path else None
    assert go(remote)[0] == 0
    assert there(s3) == remote.expected


def test_a_chunk_that_is_refused_for_good_fails_its_blocks_and_no_others(s3, remote, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    bad = "archive.zarr/waveform/c/1/2"
    s3.fault = lambda _method, path: 403 if path.endswith(bad) else None
    code, said = go(remote)
    assert code == 1
    assert "while reading waveform" in said
    failed = status(parse(text(remote), remote.path / "job.toml"), str(remote.path))["failures"]
    assert failed
    s3.fault = lambda *_: None
    assert go(remote)[0] == 0
    assert there(s3) == remote.expected


def test_a_store_that_does_not_answer_is_an_error_of_ours(s3, remote, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3.fault = lambda *_: 503
    with pytest.raises((SourceError, OutputError, FileNotFoundError)):
        go(remote)


def test_a_second_run_is_refused_and_a_dead_one_is_no_obstacle(s3, remote, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(lock, "SILENT_SECONDS", 4)
    monkeypatch.setattr(lock, "LOOK_SECONDS", 0.1)
    with lock.locked("s3://bucket/out.zarr"), pytest.raises(OutputBusyError, match="process"):
        go(remote)
    s3.files.pipe_file("bucket/out.zarr.lock", b'{"host": "elsewhere", "pid": 7, "token": "x"}')
    assert go(remote)[0] == 0
    assert not s3.files.exists("bucket/out.zarr.lock")


def test_a_lock_of_a_dead_process_of_this_machine_is_taken_at_once(s3, remote):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    holder = {**lock.me(), "pid": int(gone.stdout), "token": "x"}
    s3.files.pipe_file("bucket/out.zarr.lock", json.dumps(holder).encode())
    begun = time.monotonic()
    with lock.locked("s3://bucket/out.zarr"):
        assert time.monotonic() - begun < lock.SILENT_SECONDS / 2


class Overtaken:
    """A file system through which another run does something before the first change."""

    def __init__(self, files, meanwhile):
        self.files, self.meanwhile = files, meanwhile

    def __getattr__(self, name):
        if name in ("rm_file", "pipe_file") and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return getattr(self.files, name)


def test_of_two_runs_that_wait_for_a_dead_ones_lock_one_takes_it(s3, monkeypatch):
    monkeypatch.setattr(lock, "_is_silent", lambda _files, _lock, found: b"elsewhere" in found)
    key = "bucket/out.zarr.lock"
    s3.files.pipe_file(key, b'{"host": "elsewhere", "pid": 7, "token": "x"}')
    overtaken = Overtaken(s3.files, lambda: lock._take(s3.files, key, "out.zarr", "first"))
    with pytest.raises(OutputBusyError):
        lock._take(overtaken, key, "out.zarr", "second")
    assert json.loads(s3.files.cat_file(key))["token"] == "first"


def test_clocks_that_jump_do_not_free_a_lock(s3, remote, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(lock, "LOOK_SECONDS", 0.1)
    for jump in (1e9, -1e9):
        with lock.locked("s3://bucket/out.zarr"):
            monkeypatch.setattr(time, "time", lambda now=time.time, jump=jump: now() + jump)
            with (
                pytest.raises(OutputBusyError),
                lock.locked("s3://bucket/out.zarr"),
            ):
                pass
            monkeypatch.undo()
            os.environ["AWS_ENDPOINT_URL"] = s3.url


def test_starting_over_clears_what_is_there_and_nothing_else(s3, remote):
    assert go(remote)[0] == 0
    s3.files.pipe_file("bucket/out.zarr-of-mine", b"kept")
    assert go(remote, fresh=True)[0] == 0
    assert there(s3) == remote.expected
    assert s3.files.cat_file("bucket/out.zarr-of-mine") == b"kept"


@pytest.mark.parametrize("key", ["source", "output"])
def test_a_password_in_a_url_is_refused_without_being_shown(place, key):
    written = place.text(output="s3://me:hush@bucket/out.zarr")
    if key == "source":
        written = place.text().replace('"archive.zarr"', '"s3://me:hush@bucket/archive.zarr"')
    with pytest.raises(JobError, match="password") as caught:
        parse(written, place.path / "job.toml")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("end", ["?sig=hush", "?X-Amz-Signature=hush", "?token=hush"])
def test_a_secret_among_a_urls_parameters_is_refused_without_being_shown(place, end):
    with pytest.raises(JobError, match="password") as caught:
        parse(place.text(output=f"https://host/out.zarr{end}"), place.path / "job.toml")
    assert "hush" not in str(caught.value)


def test_a_place_of_azure_is_no_secret(place):
    url = "abfs://container@account.dfs.core.windows.net/out.zarr"
    assert parse(place.text(output=url), place.path / "job.toml").output.store == url


@pytest.fixture
def fast_locks(monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(lock, "SILENT_SECONDS", 4)
    monkeypatch.setattr(lock, "LOOK_SECONDS", 0.1)


def other_run(s3):
    body = {"host": "elsewhere", "pid": 7, "token": "x"}
    s3.files.pipe_file("bucket/out.zarr.lock", json.dumps(body).encode())


def other_run_that_ended(s3):
    s3.files.rm_file("bucket/out.zarr.lock")


class Asleep(Listener):
    """A machine that sleeps after the first block, while another run takes the lock over."""

    def __init__(self, s3, meanwhile):
        self.s3, self.meanwhile, self.there = s3, meanwhile, None

    def block(self, _receipt):
        if self.there is None:
            self.meanwhile(self.s3)
            time.sleep(3 * lock.BEAT_SECONDS)
            self.there = self.s3.files.cat_file("bucket/out.zarr/ledger/zarr.json")


@pytest.mark.parametrize(
    ("meanwhile", "words"),
    [(other_run, "process 7 on elsewhere goes on"), (other_run_that_ended, "another run had")],
)
def test_a_run_whose_lock_was_taken_over_ends_and_leaves_the_ledger_alone(
    s3, remote, fast_locks, meanwhile, words
):
    plan = prepare(parse(text(remote), remote.path / "job.toml"), str(remote.path))
    asleep = Asleep(s3, meanwhile)
    with pytest.raises(OutputTakenError, match=words):
        run(plan, listeners=[asleep], say=lambda _: None)
    assert s3.files.cat_file("bucket/out.zarr/ledger/zarr.json") == asleep.there
    left = b"".join(map(s3.files.cat_file, s3.files.glob("bucket/*.lock")))
    assert (b"elsewhere" in left) == (meanwhile is other_run)  # It is not this run's.
    assert go(remote)[0] == 0  # The other one is dead, too.
    assert there(s3) == remote.expected


def test_a_run_that_slept_before_it_began_deletes_nothing(s3, remote, fast_locks, monkeypatch):
    def wait_for_workers(*_):
        s3.files.pipe_file("bucket/out.zarr/scattering/c/0/0", b"another run's")
        other_run(s3)
        time.sleep(3 * lock.BEAT_SECONDS)

    monkeypatch.setattr("scatflow.flow.run.check_workers", wait_for_workers)
    with pytest.raises(OutputTakenError):
        go(remote)
    assert there(s3) == {"scattering/c/0/0": b"another run's"}


def test_a_lock_that_was_taken_between_look_and_writing_is_not_written_over(s3):
    s3.files.pipe_file("bucket/out.zarr.lock", lock._holding("mine", 0))
    beat = lock._Beat(s3.files, "bucket/out.zarr.lock", "s3://bucket/out.zarr", "mine")
    version = lock._version(s3.files, "bucket/out.zarr.lock")
    beat._write(version, 1)
    beat.check()
    other_run(s3)
    beat._write(version, 2)
    with pytest.raises(OutputTakenError, match="elsewhere"):
        beat.check()
    assert b"elsewhere" in s3.files.cat_file("bucket/out.zarr.lock")


def test_after_sleep_the_lock_is_looked_at_before_anything_is_written(s3):
    beat = lock._Beat(s3.files, "bucket/out.zarr.lock", "s3://bucket/out.zarr", "mine")
    other_run(s3)
    beat.check()  # It is of no use to ask for each block.
    beat._looked -= 60.0
    with pytest.raises(OutputTakenError, match="elsewhere"):
        beat.check()


def test_shares_see_each_other_in_the_store_alone_and_the_last_one_concludes(s3, remote):
    job = parse(text(remote), remote.path / "job.toml")
    plan = prepare(job, str(remote.path))
    assert lay_out(plan, 3)
    for index in (2, 0):
        assert run(plan, share=Share(index, 3), say=lambda _: None) == 0
    told = status(job, str(remote.path))
    n = plan.n_blocks
    assert (told["state"], told["missing"]) == ("incomplete", 2 * n // 3 - n // 3)
    assert run(plan, share=Share(1, 3), say=lambda _: None) == 0
    assert there(s3) == remote.expected
    left = s3.files.find("bucket/out.zarr/ledger/shares") + s3.files.glob("bucket/*.lock")
    assert left == []
    said = []  # A share that is started again by itself has nothing to do.
    assert run(plan, share=Share(0, 3), say=said.append) == 0
    assert "nothing to do" in said[-1]


def test_a_share_and_a_run_of_everything_refuse_each_other_in_a_store(s3, remote, fast_locks):
    output = "s3://bucket/out.zarr"
    with lock.shared(output, 0), lock.shared(output, 1):
        for other in (lock.locked(output), lock.shared(output, 0)):
            with pytest.raises(OutputBusyError), other:
                pass
    with lock.locked(output), pytest.raises(OutputBusyError), lock.shared(output, 2):
        pass
    assert s3.files.glob("bucket/*.lock") == []


def test_locks_of_dead_shares_are_no_obstacle(s3, remote, fast_locks):
    dead = b'{"host": "elsewhere", "pid": 7, "token": "x"}'
    s3.files.pipe_file("bucket/out.zarr.share-4.lock", dead)
    with lock.locked("s3://bucket/out.zarr"):
        assert s3.files.glob("bucket/*.share-*.lock") == []


def test_a_whole_bucket_is_no_output(s3, remote):
    job = text(remote).replace("s3://bucket/out.zarr", "s3://other")
    s3.files.mkdir("other")
    with pytest.raises(OutputError, match="all of a bucket"):
        run(prepare(parse(job, remote.path / "job.toml"), str(remote.path)), say=lambda _: None)
