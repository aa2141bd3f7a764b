"""Runs on threads of this process: resumable, refused where in doubt, the same bytes always."""

import json
import os
import sys
import threading
import time

import numpy as np
import pytest
import zarr
from dask.system import CPU_COUNT
from distributed import LocalCluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scatflow.cli.texts import plan_lines
from scatflow.dataset import DONE, FAILED
from scatflow.engines import scattering1d
from scatflow.errors import (
    BudgetError,
    ClusterError,
    JobError,
    MissingExtraError,
    OutputBusyError,
    OutputError,
)
from scatflow.flow import block as block_module
from scatflow.flow import output as output_module
from scatflow.flow import reading as reading_module
from scatflow.flow import run as run_module
from scatflow.flow.cluster import connect
from scatflow.flow.job import parse
from scatflow.flow.ledger import CHUNK, STALE_SECONDS, Ledger
from scatflow.flow.lock import locked
from scatflow.flow.output import look
from scatflow.flow.plan import (
    _chunk_bytes,
    check_workers,
    crowded_machines,
    peak_bytes,
    prepare,
    summary,
)
from scatflow.flow.status import status
from scatflow.flow.window import Window

WHOLE = 'kind = "scattering1d"\ndims = ["time"]\nJ = 4\nQ = 1\n'


def local_scheduler(**options):
    """Start a scheduler with a worker, as somebody else would."""
    return LocalCluster(
        n_workers=1,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
        **options,
    )


@pytest.fixture
def done(place, small_blocks, noise):
    """A finished run, and its bytes."""
    place.archive(noise[:2], chunks=(1, 100_000))
    code, said = place.run()
    assert code == 0
    assert "Complete" in said
    return place


def test_a_finished_run_does_nothing_and_says_so(done):
    before = done.bytes()
    code, said = done.run()
    assert code == 0
    assert "nothing to do" in said
    assert "Dashboard" not in said
    assert done.bytes() == before


def test_workers_do_not_matter_to_the_bytes(done):
    before = done.bytes()
    for workers in (1, 3):
        code, _ = done.run(fresh=True, workers=workers)
        assert code == 0
        assert done.bytes() == before


ROWS = 'kind = "scattering1d"\ndims = ["x"]\nJ = 4\nQ = 1\n'
IMAGES = 'kind = "scattering2d"\ndims = ["y", "x"]\nJ = 2\nL = 4\n'


@pytest.mark.parametrize(
    ("transform", "chunks"),
    [
        (ROWS, (1, 1000)),
        (ROWS + 'boundary = "frames"\nframe = 300\nhop = 200\n', (2, 3000)),
        (IMAGES + 'boundary = "frames"\nframe = [16, 64]\nhop = [16, 64]\n', (7, 500)),
    ],
    ids=["whole", "frames", "images"],
)
def test_threads_do_not_matter_to_the_bytes(place, noise, transform, chunks):
    data = noise.reshape(-1)[: 32 * 4096].reshape(32, 4096)
    place.archive(data, dims=("y", "x"), chunks=chunks)
    assert place.run(transform=transform)[0] == 0
    before = place.bytes()
    for threads in (2, 5):
        code, _ = place.run(fresh=True, transform=transform, workers=1, threads=threads)
        assert code == 0
        assert place.bytes() == before


def test_threads_do_not_matter_to_a_seamless_record(done):
    before = done.bytes()
    for threads in (2, 3):
        assert done.run(fresh=True, workers=1, threads=threads)[0] == 0
        opened = next(reversed(block_module.OPEN._open.values()))
        assert opened.work.layout.plan.threads == threads
        assert done.bytes() == before
    assert "nothing to do" in done.run(threads=4)[1]


def test_threads_of_the_engine_take_their_memory(place, noise):
    place.archive(noise)
    one, three = (place.plan(workers=1, threads=n) for n in (1, 3))
    assert three.work.fingerprint == one.work.fingerprint
    own = one.work.layout.plan.peak_bytes(1)
    assert own > 0
    assert three.work.layout.plan.peak_bytes(1) == 3 * own
    shown = summary(three, None)
    assert (shown["workers"], shown["threads"]) == (1, 3)
    assert "1 worker(s) with 3 thread(s) each" in "\n".join(plan_lines(shown))


def test_more_threads_than_processors_are_told(place, noise, monkeypatch):
    monkeypatch.setattr("scatflow.flow.plan.CPU_COUNT", 4)
    place.archive(noise[:1, :4096])
    for workers, threads, remedy in ((2, 2, None), (3, 2, "workers = 2"), (1, 5, "threads = 4")):
        for cluster in ("local", "threads"):
            plan = place.plan(transform=WHOLE, cluster=cluster, workers=workers, threads=threads)
            told = [note for note in plan.notes if "take turns" in note]
            assert len(told) == (remedy is not None)
            assert remedy is None or f"Set {remedy}" in told[0]
    assert place.plan(transform=WHOLE, cluster="tcp://h:1", workers=9, threads=9).notes == ()


def test_running_workers_with_more_threads_than_processors_are_told(place, noise):
    place.archive(noise[:1, :4096])
    workers = {"tcp://10.0.0.1:1": (4, 0), "tcp://10.0.0.1:2": (4, 0), "tcp://[::1]:3": (2, 0)}
    usable = {"tcp://10.0.0.1:1": 16, "tcp://10.0.0.1:2": 16, "tcp://[::1]:3": 4}
    plan = place.plan(transform=WHOLE, threads=2)
    assert crowded_machines(plan, workers, usable) == []
    (first,) = crowded_machines(place.plan(transform=WHOLE, threads=3), workers, usable)
    assert "the workers on 10.0.0.1 compute 8 block(s) at a time with 3 thread(s) each" in first
    with local_scheduler(threads_per_worker=2) as cluster:
        address = cluster.scheduler_address
        code, said = place.run(transform=WHOLE, cluster=address, threads=1 + CPU_COUNT)
    assert code == 0
    assert f"may use {CPU_COUNT} processor(s)" in said


def test_blocks_are_read_and_written_while_another_is_computed(done, monkeypatch):
    """Each waits for the other; one after the other, they would wait for ever."""
    before = done.bytes()
    lock, read, second = threading.Lock(), threading.Semaphore(0), threading.Event()
    met, busy, most = [], [], []
    real = {name: getattr(block_module, name) for name in ("_seamless", "write_region")}
    real["read"] = reading_module.read

    def reading(*words):
        stored = real["read"](*words)
        read.release()
        return stored

    def computing(*words):
        with lock:
            busy.append(words)
            most.append(len(busy))
            first = len(most) == 1
        if first:  # Its own samples and those of another block.
            met.append(read.acquire(timeout=30) and read.acquire(timeout=30))
        else:
            second.set()
        found = real["_seamless"](*words)
        with lock:
            busy.pop()
        return found

    def writing(*words):
        with lock:
            met.append(None)
            first = met.count(None) == 1
        if first:
            met.append(second.wait(30))
        return real["write_region"](*words)

    monkeypatch.setattr(reading_module, "read", reading)
    for name, stand_in in (("_seamless", computing), ("write_region", writing)):
        monkeypatch.setattr(block_module, name, stand_in)
    assert done.run(fresh=True, workers=1)[0] == 0
    assert [m for m in met if m is not None] == [True, True]
    assert set(most) == {1}
    assert done.bytes() == before


def test_a_worker_that_runs_already_computes_what_its_processors_allow(place, noise):
    place.archive(noise[:2, :4096])
    with local_scheduler(threads_per_worker=2 * CPU_COUNT) as cluster:
        for threads in (1, CPU_COUNT + 1):
            code, _ = place.run(
                transform=WHOLE, fresh=True, cluster=cluster.scheduler_address, threads=threads
            )
            opened = next(reversed(block_module.OPEN._open.values()))
            assert code == 0
            assert opened.turn._value == max(1, CPU_COUNT // threads)


def test_workers_have_no_pools_of_threads_besides_their_own(place):
    def pools():
        import os

        import numba
        import zarr

        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        return (
            *(os.environ.get(name) for name in names),
            numba.get_num_threads(),
            zarr.config.get("threading.max_workers"),
        )

    before = dict(os.environ)
    with connect(place.job(cluster="local", workers=1)) as cluster:
        assert list(cluster.client.run(pools).values()) == [("1", "1", "1", 1, 1)]
    assert dict(os.environ) == before, "Dask's nannies change it for the processes they start"


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_resumed_run_gives_the_same_bytes(done, data):
    before = done.bytes()
    ledger = Ledger.open(str(done.path / "out.zarr"), "r+")
    lost = data.draw(
        st.lists(st.integers(0, ledger.state.size - 1), min_size=1, unique=True), "blocks"
    )
    ledger.forget(np.array(lost))
    ledger.flush({"host": "elsewhere", "pid": 1, "updated": 0.0, "rate": 0.0})
    leftover = done.path / "out.zarr/scattering/c/0.deadbeef.partial"
    leftover.write_bytes(b"torn")
    code, said = done.run()
    assert code == 0
    assert len(lost) == ledger.state.size or "Resuming" in said
    assert done.bytes() == before


def test_a_worker_opens_a_run_without_reading_what_the_ledger_has_of_each_block(done, monkeypatch):
    """Ten thousand workers would else each read it: nine bytes for each of all blocks."""
    plan = done.plan()
    monkeypatch.setattr(Ledger, "_load", None)  # Not to be called.
    key = block_module.Key(plan.output, plan.base, plan.work.fingerprint)
    assert block_module.process(key, 0).failure is None


def test_a_flush_looks_at_no_more_of_the_ledger_than_has_changed(tmp_path):
    ledger = Ledger.create(zarr.open_group(tmp_path / "one.zarr"), {}, "mark", 9 * CHUNK)
    seen = 0

    class Watched(np.ndarray):
        def __getitem__(self, where):
            nonlocal seen
            found = super().__getitem__(where)
            seen += found.size
            return found

        def __ge__(self, other):
            raise AssertionError("all blocks are compared")

    ledger.state = ledger.state.view(Watched)
    ledger.record(CHUNK + 1, 7, 8, None)
    ledger.flush(None)
    assert 0 < seen <= 4 * CHUNK
    assert Ledger.open(str(tmp_path / "one.zarr")).state[CHUNK + 1] == DONE


def test_a_shard_that_someone_deleted_is_computed_again(done):
    before = done.bytes()
    (done.path / "out.zarr/scattering/c/1/0/1").unlink()
    code, said = done.run()
    assert code == 0
    assert "1 blocks that were done are gone" in said
    assert done.bytes() == before


def test_an_empty_shard_counts_as_lost_and_a_stray_file_as_nothing(done):
    before = done.bytes()
    stray = done.path / "out.zarr/scattering/c/7/0/0"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"stray")
    (done.path / "out.zarr/scattering/c/1/0/1").write_bytes(b"")
    code, said = done.run()
    assert code == 0
    assert "1 blocks that were done are gone" in said
    stray.unlink()
    assert done.bytes() == before


def test_a_source_that_was_rewritten_in_place_is_refused(done, noise):
    before = done.bytes()
    done.archive(noise[:2], chunks=(2, 70_000))
    assert done.run()[0] == 0  # The same samples in other chunks.
    changed = noise[:2].copy()
    changed[1, -1] += 1
    done.archive(changed, chunks=(1, 100_000))
    words = r"block 9 \(station YA.UV06, time samples \d+ to 300000\) differs .* --fresh"
    with pytest.raises(OutputError, match=words):
        done.run()
    ledger = Ledger.open(str(done.path / "out.zarr"), "r+")
    ledger.forget(np.array([2]))
    ledger.flush(None)
    with pytest.raises(OutputError, match=words):
        done.run()
    done.archive(noise[:2])
    assert done.run()[0] == 0
    assert done.bytes() == before


def test_the_source_is_read_again_within_bounds_but_one_block_in_any_case(done, monkeypatch):
    read = []
    monkeypatch.setattr(run_module, "CHECKED_BYTES", 1)
    real = run_module.source_checksum
    monkeypatch.setattr(
        run_module, "source_checksum", lambda work, block: read.append(block) or real(work, block)
    )
    assert "nothing to do" in done.run()[1]
    assert read == [0]


def test_other_versions_of_the_libraries_are_told(done):
    path = done.path / "out.zarr/ledger/zarr.json"
    told = json.loads(path.read_text())
    assert sorted(told["attributes"]["versions"]) == ["numpy", "scipy"]
    told["attributes"]["versions"]["numpy"] = "1.0"
    path.write_text(json.dumps(told))
    code, said = done.run()
    assert code == 0
    assert "note: blocks were computed with numpy 1.0, scipy" in said


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("zarr.json", "[]"),
        ("zarr.json", '{"zarr_format": 3, "node_type": "group", "attributes": 3}'),
        ("ledger/zarr.json", "[]"),
        ("ledger/zarr.json", {"failures": {"one": "x"}}),
        ("ledger/zarr.json", {"fingerprint": ""}),
    ],
)
def test_an_output_with_damaged_metadata_is_refused(place, noise, file, content):
    place.archive(noise[:1, :4096])
    assert place.run(transform=WHOLE)[0] == 0
    path = place.path / "out.zarr" / file
    if isinstance(content, dict):
        told = json.loads(path.read_text())
        told["attributes"].update(content)
        content = json.dumps(told)
    path.write_text(content)
    for fresh in (False, True):
        with pytest.raises(OutputError, match="exists, but"):
            place.run(transform=WHOLE, fresh=fresh)
    with pytest.raises(OutputError, match="exists, but"):
        status(place.job(transform=WHOLE), str(place.path))
    assert path.read_text() == content


def test_other_settings_are_refused_and_named(done):
    before = done.bytes()
    with pytest.raises(OutputError, match=r"engine.J: 4 -> 5") as caught:
        done.run(
            transform=done.job()
            .text.split("[transform]")[1]
            .split("[output]")[0]
            .replace("J = 4", "J = 5")
        )
    assert "--fresh" in str(caught.value)
    with pytest.raises(OutputError, match=r'output.dtype: "float32" -> "float64"'):
        done.run(dtype="float64")
    assert done.bytes() == before


def test_fresh_starts_over(done):
    code, _ = done.run(fresh=True, dtype="float64")
    assert code == 0
    assert zarr.open_array(str(done.path / "out.zarr"), path="scattering").dtype == np.float64


def test_fresh_never_deletes_what_scatflow_did_not_write(place, noise):
    place.archive(noise[:1, :4096])
    other = place.path / "out.zarr"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    for fresh in (False, True):
        with pytest.raises(OutputError, match="scatflow did not write it"):
            place.run(fresh=fresh, transform=WHOLE)
    zarr.open_group(str(place.path / "group.zarr"), mode="w")
    with pytest.raises(OutputError, match="scatflow did not write it"):
        place.run(fresh=True, transform=WHOLE, output="group.zarr")
    assert (other / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("archive.zarr", "is the source"),
        ("archive.zarr/waveform", "lies inside"),
        (".", "contains"),
        ("link.zarr/x", "lies inside"),
    ],
)
def test_an_output_in_its_source_is_refused(place, noise, output, words):
    place.archive(noise[:1, :4096])
    (place.path / "link.zarr").symlink_to(place.path / "archive.zarr")
    before = place.bytes("archive.zarr")
    with pytest.raises(JobError, match=words):
        place.run(transform=WHOLE, output=output)
    assert place.bytes("archive.zarr") == before


@pytest.mark.parametrize("step", ["create", "ledger", "finish"])
def test_a_template_that_was_not_finished_is_made_again(place, noise, monkeypatch, step):
    place.archive(noise[:1, :4096])
    owner = Ledger if step == "ledger" else output_module

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, "create" if step == "ledger" else step, die)
        assert place.run(transform=WHOLE)[0] == 130
    kind = look(str(place.path / "out.zarr")).kind
    assert kind == ("absent" if step == "create" else "half-made")
    assert place.run(transform=WHOLE)[0] == 0
    made = place.bytes()
    assert place.run(transform=WHOLE, fresh=True)[0] == 0
    assert place.bytes() == made


def test_a_corrupt_chunk_fails_its_block_and_a_repaired_one_is_tried_again(
    place, small_blocks, noise
):
    place.archive(noise[:2], chunks=(1, 20_000), shards=(1, 320_000))
    good, _ = place.run(output="good.zarr")
    assert good == 0
    file = place.path / "archive.zarr/waveform/c/1/0"
    content = file.read_bytes()
    damaged = bytearray(content)
    damaged[:50] = bytes(50)  # The header of the first chunk.
    file.write_bytes(damaged)
    code, said = place.run()
    assert code == 1
    assert "while reading waveform at station 1:2, time 0:" in said
    assert "The same command tries them again" in said
    told = status(place.job(), str(place.path))
    assert told["state"] == "failed"
    assert told["done"] + told["failed"] == told["blocks"]
    assert all("while reading" in reason for reason in told["failures"].values())
    file.write_bytes(content)
    code, _ = place.run()
    assert code == 0
    assert place.bytes()["scattering/c/1/0/0"] == place.bytes("good.zarr")["scattering/c/1/0/0"]
    assert json.loads(place.bytes()["ledger/zarr.json"])["attributes"]["failures"] == {}


def test_a_record_with_nan_ends_in_exit_code_1(place, noise):
    x = noise[:3, :4096].copy()
    x[1, 7] = np.nan
    place.archive(x)
    code, said = place.run(transform=WHOLE + 'gaps = "raise"\n')
    assert code == 1
    assert "station YA.UV06: 1 of 4096 samples are not finite" in said
    values = zarr.open_array(str(place.path / "out.zarr"), path="scattering")[...]
    assert np.isnan(values[1]).all()
    assert np.isfinite(values[[0, 2]]).all()
    ledger = Ledger.open(str(place.path / "out.zarr"))
    assert ledger.state.tolist() == [FAILED]


def test_a_budget_too_small_names_the_line_to_change(place, noise):
    place.archive(noise)
    with pytest.raises(
        BudgetError, match=r"line 21, change memory = \"100 MiB\" to memory = \""
    ) as caught:
        place.run(memory="100 MiB")
    assert not (place.path / "out.zarr").exists()
    wanted = str(caught.value).rsplit('"', 2)[1]
    assert place.run(memory=wanted)[0] == 0


def test_blocks_shrink_to_the_budget_and_give_the_same_coefficients(place, noise, monkeypatch):
    monkeypatch.setattr("scatflow.flow.layout.TARGET_SAMPLES", 2**23)
    place.archive(noise)
    large = place.plan()
    budget = f"{large.peak_bytes - 2**20} B"
    small = place.plan(memory=budget)
    assert small.n_blocks > large.n_blocks
    assert small.peak_bytes <= large.peak_bytes - 2**20
    one, _ = place.compute(output="large.zarr")
    two, _ = place.compute(output="small.zarr", memory=budget)
    assert one.tobytes() == two.tobytes()


def test_an_output_keeps_its_blocks_under_another_budget(place, noise, monkeypatch):
    monkeypatch.setattr("scatflow.flow.layout.TARGET_SAMPLES", 2**23)
    place.archive(noise)
    budget = f"{place.plan().peak_bytes - 2**20} B"
    assert place.run(memory=budget)[0] == 0
    before = place.bytes()
    code, said = place.run(memory="2 GiB")
    assert code == 0
    assert "nothing to do" in said
    assert place.run(memory="2 GiB", fresh=True)[0] == 0
    assert len(place.bytes()) < len(before)


def test_a_second_run_is_refused_with_the_name_of_the_first(done):
    with locked(str(done.path / "out.zarr")), pytest.raises(OutputBusyError, match="process"):
        done.run()
    assert done.run()[0] == 0
    assert not (done.path / "out.zarr.lock").exists()


def test_a_full_disk_is_an_output_error(place, noise, monkeypatch):
    place.archive(noise[:1, :4096])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Ledger, "_write", full)
    with pytest.raises(OutputError, match=r"No space left on device.* the same command"):
        place.run(transform=WHOLE)


def test_a_long_flush_does_not_make_a_run_look_dead(done, monkeypatch):
    ledger = Ledger.open(str(done.path / "out.zarr"))
    ledger._cost = 1000.0
    assert not ledger.due()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + STALE_SECONDS / 4 + 1)
    assert ledger.due()


def test_an_output_that_another_run_replaced_is_left_alone(place, noise, monkeypatch):
    place.archive(noise[:1, :4096])
    before = {}

    def transform(*_):
        """Let another run start over while this one computes."""
        plan = place.plan(transform=WHOLE, dtype="float64")
        output_module.make(plan.output, plan.work, plan.template)
        before.update(place.bytes())
        return 0.0, [], False

    monkeypatch.setattr(block_module, "_separate", transform)
    with pytest.raises(OutputError, match="was replaced by another run"):
        place.run(transform=WHOLE)
    assert place.bytes() == before


def test_a_run_that_stops_waits_for_its_last_blocks(place, noise, monkeypatch):
    place.archive(noise[:1, :4096])
    write, written = block_module.write_region, []

    def slow(*given):
        time.sleep(0.6)
        written.append(1)
        return write(*given)

    def interrupt(*_):
        while not block_module.ACTIVE.total():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(block_module, "write_region", slow)
    monkeypatch.setattr(Window, "ended", interrupt)
    with local_scheduler() as cluster:
        code, _ = place.run(transform=WHOLE, cluster=cluster.scheduler_address)
        assert code == 130
        assert written == [1, 1]  # the shares and the coefficients
    assert not block_module.ACTIVE.total()


def test_a_dead_runs_lock_is_no_obstacle(done):
    (done.path / "out.zarr.lock").write_text('{"host": "here", "pid": 1}')
    assert done.run()[0] == 0


def test_memory_stores_are_outputs_like_others(place, noise):
    place.archive(noise[:2, :4096])
    code, _ = place.run(transform=WHOLE, output="memory://tests/out.zarr")
    assert code == 0
    code, said = place.run(transform=WHOLE, output="memory://tests/out.zarr")
    assert (code, "nothing to do" in said) == (0, True)
    assert place.run(transform=WHOLE, output="memory://tests/out.zarr", fresh=True)[0] == 0
    with pytest.raises(OutputError, match=r"engine.J: 4 -> 3"):
        place.run(transform=WHOLE.replace("4", "3"), output="memory://tests/out.zarr")


def test_outputs_that_cannot_be_reached_are_told_apart(place, noise, monkeypatch):
    place.archive(noise[:1, :4096])
    with pytest.raises(OutputError, match=r"foo://x/y\.zarr cannot be opened: Protocol not known"):
        place.run(transform=WHOLE, output="foo://x/y.zarr")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    # What was imported before is remembered.
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(MissingExtraError, match=r'pip install "scatflow\[s3\]"'):
        place.run(transform=WHOLE, output="s3://bucket/y.zarr")


def test_file_urls_are_sources_and_outputs_alike(place, noise):
    place.archive(noise[:1, :4096])
    url = f"file://{place.path}/my%20out.zarr"
    assert place.run(transform=WHOLE, output=url)[0] == 0
    assert (place.path / "my out.zarr/zarr.json").is_file()
    (place.path / "archive.zarr").rename(place.path / "my archive.zarr")
    text = place.text(transform=WHOLE, output=url, dtype="float64")
    text = text.replace('"archive.zarr"', f'"file://{place.path}/my%20archive.zarr"')
    plan = prepare(parse(text, place.path / "job.toml"), str(place.path))
    assert plan.output == str(place.path / "my out.zarr")
    assert run_module.run(plan, fresh=True, say=lambda _: None) == 0


def test_a_scheduler_that_does_not_answer_is_a_cluster_error(place, noise, monkeypatch):
    monkeypatch.setattr("scatflow.flow.cluster.reached.CONNECT_SECONDS", 0.5)
    place.archive(noise[:1, :4096])
    with pytest.raises(ClusterError, match=r"No scheduler answers at tcp://127\.0\.0\.1:9"):
        place.run(transform=WHOLE, cluster="tcp://127.0.0.1:9")
    assert not (place.path / "out.zarr").exists()


def test_a_store_in_memory_is_refused_where_other_processes_work(place, noise):
    place.archive(noise[:1, :4096])
    with pytest.raises(JobError, match=r"\[output\] store = 'memory://o.zarr' lives in the memory"):
        place.plan(transform=WHOLE, output="memory://o.zarr", cluster="local")


def test_results_on_another_canonical_grid_are_not_mixed(place, noise, monkeypatch):
    place.archive(noise[:1])
    assert place.run()[0] == 0
    monkeypatch.setitem(scattering1d.HALO_TOLERANCE, "float32", 1e-3)
    with pytest.raises(OutputError, match=r"block\.halo"):
        place.run()


def test_a_scheduler_that_runs_already_computes_the_same_bytes(place, noise):
    place.archive(noise[:2, :4096])
    assert place.run(transform=WHOLE)[0] == 0
    expected = place.bytes()
    with local_scheduler() as cluster:
        code, _ = place.run(transform=WHOLE, fresh=True, cluster=cluster.scheduler_address)
    assert code == 0
    assert place.bytes() == expected


def test_workers_of_a_scheduler_need_the_memory(place, noise):
    place.archive(noise[:1, :4096])
    with (
        local_scheduler(memory_limit="128 MiB") as cluster,
        pytest.raises(BudgetError, match=r"need \d+ MiB .* tcp://.* a limit of 128 MiB"),
    ):
        place.run(transform=WHOLE, cluster=cluster.scheduler_address)
    plan = place.plan(transform=WHOLE)
    check_workers(plan, {"a": (4, 0), "b": (1, peak_bytes(plan.work, 1, 1))}, {})
    with pytest.raises(BudgetError, match=r"b with 4 thread\(s\)"):
        check_workers(plan, {"b": (4, peak_bytes(plan.work, 1, 1))}, {})


def test_a_scheduler_without_workers_is_a_cluster_error(place, noise):
    place.archive(noise[:1, :4096])
    with (
        LocalCluster(
            n_workers=0,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            processes=False,
            protocol="tcp://",
        ) as cluster,
        pytest.raises(ClusterError, match="has no workers"),
    ):
        place.run(transform=WHOLE, cluster=cluster.scheduler_address)


def test_status_before_during_and_after(place, noise):
    place.archive(noise[:1, :4096])
    base = str(place.path)
    assert status(place.job(transform=WHOLE), base)["state"] == "not started"
    place.run(transform=WHOLE)
    assert status(place.job(transform=WHOLE), base)["state"] == "complete"
    ledger = Ledger.open(str(place.path / "out.zarr"), "r+")
    ledger.forget(np.array([0]))
    ledger.flush({"host": "node7", "pid": 1, "updated": time.time(), "rate": 5.0})
    assert status(place.job(transform=WHOLE), base)["state"] == "interrupted"
    with locked(str(place.path / "out.zarr")):
        assert status(place.job(transform=WHOLE), base)["state"] == "running"


def test_chunks_that_reach_beyond_a_block_are_counted_and_told(place, noise):
    place.archive(noise[:, :8192], chunks=(4, 8192))
    selected = "isel = { station = [1, 2], time = [4096, 6144] }"
    plan = place.plan(transform=WHOLE, source=selected)
    assert plan.bytes_read == 4 * 4 * 8192
    assert "blocks decode 16.0 times the samples that they use" in plan.notes[0]
    place.archive(noise[:, :8192], chunks=(1, 1024))
    small = place.plan(transform=WHOLE, source="isel = { time = [512, 7680] }")
    assert small.notes == ()
    assert small.bytes_read == 4 * 4 * 7680


def test_flying_chunks_are_counted_along_each_axis(place, noise):
    place.archive(np.tile(noise[:, :8192], (4, 4)), dims=("y", "x"), chunks=(16, 2048))
    tall = 'kind = "scattering1d"\ndims = ["x"]\nJ = 4\nboundary = "frames"\nframe = 4096\n'
    assert _chunk_bytes(place.plan(transform=tall).work) == 2 * 10 * 16 * 2048 * 4
