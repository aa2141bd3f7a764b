"""Runs on GPUs, over a stand-in for CuPy on the host: no GPU is needed, and none is tested."""

import asyncio
import contextlib
import json
import threading
import time

import numpy as np
import pytest
import zarr
from distributed import Client, Scheduler, SpecCluster, Worker
from host_cupy import instead_of_cupy

from scatflow.backends import choose
from scatflow.cli.texts import status_lines
from scatflow.engines import HarmonicScattering3D
from scatflow.errors import ClusterError, OutputError
from scatflow.flow import answers, layout
from scatflow.flow import run as run_module
from scatflow.flow.cluster.reached import existing
from scatflow.flow.devices import choose_workers
from scatflow.flow.ledger import Ledger
from scatflow.flow.run import lay_out, run
from scatflow.flow.shares import Share
from scatflow.flow.status import status
from scatflow.flow.verify import TOLERANCE, apart, verify

GPU = {"GPU": 1}

WHOLE = """kind = "scattering1d"
dims = ["time"]
J = 4
Q = [2, 1]
"""


@pytest.fixture(scope="module")
def gpu():
    """CuPy's stand-in in this process."""
    with instead_of_cupy() as machine:
        yield machine


@contextlib.contextmanager
def cluster(*workers):
    """Start workers in this process, each with some resources; yields the scheduler's address."""
    quiet = {"dashboard": False, "dashboard_address": ":0", "host": "127.0.0.1"}
    made = {
        number: {
            "cls": Worker,
            "options": {"nthreads": 1, "resources": resources, "dashboard": False},
        }
        for number, resources in enumerate(workers)
    }
    with SpecCluster(made, {"cls": Scheduler, "options": {**quiet, "port": 0}}) as started:
        yield started.scheduler_address


@pytest.fixture(scope="module")
def both(gpu):
    """A scheduler with a worker that has a GPU and one that has none."""
    with cluster(GPU, {}) as address:
        yield address


@pytest.fixture(scope="module")
def without():
    """A scheduler with two workers, none of which has a GPU."""
    with cluster({}, {}) as address:
        yield address


def with_backend(address, backend):
    return f'{address}"\nbackend = "{backend}'


def coefficients(place, output):
    return zarr.open_group(str(place.path / output), mode="r")["scattering"][...]


@pytest.fixture
def records(monkeypatch):
    """Eight records of 8192 samples, one a block."""
    monkeypatch.setattr(layout, "TARGET_SAMPLES", 2**13)
    return np.random.default_rng(0).standard_normal((8, 8192)).astype(np.float32)


def test_workers_with_and_without_a_gpu_serve_one_run(place, both, records):
    place.archive(records)
    code, said = place.run(transform=WHOLE, cluster=with_backend(both, "any"))
    assert code == 0
    assert " by cupy, " in said
    assert " by numpy: the same but for rounding" in said
    assert place.run(transform=WHOLE, output="host.zarr")[0] == 0
    found, expected = coefficients(place, "out.zarr"), coefficients(place, "host.zarr")
    assert 0 < apart(found, expected, 1).max() <= TOLERANCE["float32"]


def test_seamless_records_are_computed_on_workers_with_a_gpu_alone(place, both, noise):
    place.archive(noise[:1])
    code, said = place.run(cluster=with_backend(both, "cupy"))
    assert (code, "by numpy" in said) == (0, False)
    assert place.run(output="host.zarr")[0] == 0
    found, expected = coefficients(place, "out.zarr"), coefficients(place, "host.zarr")
    assert 0 < apart(found, expected, 1).max() <= TOLERANCE["float32"]


def test_plans_of_volumes_have_gpus_sum_over_a_part_and_give_other_points(gpu, rng):
    x = rng.standard_normal((2, 12, 10, 8)).astype(np.float32)
    words = {"J": 1, "L": 1, "sigma_0": 0.7}
    crop = (slice(2, 9), slice(0, 10), slice(3, 8))
    points = np.array([[1, 2, 3], [11, 9, 0], [4, 4, 4]])
    for method, changed in (
        ({}, lambda plan: plan.summing(crop)),
        ({"method": "local", "points": ((0, 0, 0),)}, lambda plan: plan.at(points)),
    ):
        S = HarmonicScattering3D(**words, **method)
        host = changed(S.plan(x.shape[1:], boundary="periodic"))
        device = changed(S.plan(x.shape[1:], boundary="periodic", delegate="cupy"))
        found, expected = device.apply(x), host.apply(x)
        assert found.shape == expected.shape
        assert 0 < np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
        assert S.canonical_plan(delegate="cupy").delegate is not None


def test_each_block_of_a_log_says_what_computed_it(place, both, records):
    place.archive(records)
    plan = place.plan(transform=WHOLE, cluster=with_backend(both, "any"))
    log = place.path / "log.jsonl"
    assert run(plan, log=str(log), say=lambda _: None) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = {line["block"]: line["backend"] for line in lines if line["event"] == "block_done"}
    assert sorted(told) == list(range(8))
    assert set(told.values()) == {"numpy", "cupy"}


def test_a_run_without_gpus_that_may_use_them_gives_the_bytes_of_numpy(place, without, records):
    place.archive(records)
    assert place.run(transform=WHOLE, cluster=with_backend(without, "any"))[0] == 0
    assert place.run(transform=WHOLE, output="host.zarr")[0] == 0
    assert np.array_equal(coefficients(place, "out.zarr"), coefficients(place, "host.zarr"))


@pytest.mark.parametrize("backend", ["any", "cupy"])
def test_results_of_gpus_are_verified_against_the_reference(place, both, records, backend):
    place.archive(records)
    words = {"transform": WHOLE, "cluster": with_backend(both, backend)}
    assert place.run(**words)[0] == 0
    report = verify(place.plan(**words), sample=8, say=lambda _: None)
    assert report.sound
    assert (report.backend, len(report.sample)) == ("plain", 8)
    assert 0 < report.worst <= TOLERANCE["float32"]


@pytest.fixture
def mixed(place, both, records):
    """A run on both kinds of workers; returns what the job is, and who computed each block."""
    place.archive(records)
    words = {"transform": WHOLE, "cluster": with_backend(both, "any")}
    assert place.run(**words)[0] == 0
    ledger = Ledger.open("out.zarr")
    by = [ledger.computed_by(block) for block in range(8)]
    assert set(by) == {"numpy", "cupy"}
    return words, by


def test_a_ledger_tells_who_computed_each_block_of_a_mixed_run(place, mixed):
    words, by = mixed
    told = status(place.job(**words), str(place.path))
    assert told["backends"] == {name: by.count(name) for name in ("numpy", "cupy")}
    assert f"{by.count('cupy')} by cupy, {by.count('numpy')} by numpy" in status_lines(told)[1]
    report = verify(place.plan(**words), sample=8, say=lambda _: None)
    assert report.computed == told["backends"]
    assert report.worst_by.keys() == {"numpy", "cupy"}
    assert 0 < max(report.worst_by.values()) == report.worst <= TOLERANCE["float32"]


def test_a_repair_brings_back_the_bytes_of_each_backend(place, mixed):
    words, by = mixed
    before = place.bytes()
    for block in (by.index("numpy"), by.index("cupy")):
        (place.path / f"out.zarr/scattering/c/{block}/0/0").write_bytes(b"torn")
    report = verify(place.plan(**words), repair=True, say=lambda _: None)
    assert (report.sound, len(report.repaired)) == (True, 2)
    assert place.bytes() == before


def test_blocks_that_are_gone_are_computed_by_what_did_before_and_the_others_anywhere(place, mixed):
    words, _ = mixed
    before = place.bytes()
    ledger = Ledger.open("out.zarr", "r+")
    ledger.forget(np.arange(8))
    ledger.flush(None)
    code, said = place.run(**words)
    assert (code, "no worker is there" in said) == (0, False)
    assert place.bytes() == before


def test_without_gpus_their_blocks_are_computed_by_numpy_and_a_run_says_so(place, mixed, without):
    words, by = mixed
    ledger = Ledger.open("out.zarr", "r+")
    ledger.forget(np.flatnonzero(np.array(by) == "cupy")[:1])
    ledger.flush(None)
    code, said = place.run(**{**words, "cluster": with_backend(without, "any")})
    assert code == 0
    assert "no worker is there for 1 block(s) that cupy computed: the same again but for" in said
    assert Ledger.open("out.zarr").computed()["cupy"] == by.count("cupy") - 1


def test_shares_and_growth_keep_who_computed_each_block(place, noise, without, small_blocks):
    place.archive(noise[:2, :200_000])
    words = {"cluster": with_backend(without, "any")}
    plan = place.plan(**words)
    assert lay_out(plan, 2, say=lambda _: None)
    for index in range(2):
        assert run(plan, share=Share(index, 2), say=lambda _: None) == 0
    assert place.run(**words)[0] == 0
    first = Ledger.open("out.zarr")
    assert first.computed() == {"numpy": first.state.size}
    place.archive(noise[:2])
    assert place.run(**words)[0] == 0
    grown = Ledger.open("out.zarr")
    assert grown.state.size > first.state.size
    assert grown.computed() == {"numpy": grown.state.size}


def test_a_ledger_of_one_backend_has_nothing_to_tell_blocks_apart(place, records, inline):
    place.archive(records)
    assert place.run(transform=WHOLE)[0] == 0
    assert not [name for name in place.bytes() if name.startswith("ledger/backend")]
    assert Ledger.open("out.zarr").computed() == {"numpy": 8}


def test_results_of_one_backend_are_not_continued_with_another(place, both, records):
    place.archive(records)
    assert place.run(transform=WHOLE, cluster=with_backend(both, "any"))[0] == 0
    with pytest.raises(OutputError, match=r"engine\.backend: \"any\" -> \"numpy\""):
        place.run(transform=WHOLE)


@pytest.mark.parametrize(
    ("backend", "workers", "words"),
    [
        ("cupy", ({}, {}), r"cannot be had on 2 worker\(s\); nothing was written"),
        ("any", (GPU, {}), r"cannot be had on 1 worker\(s\)(?s:.*)without --resources GPU=1"),
    ],
)
def test_missing_gpus_are_told_before_anything_is_written(
    place, records, backend, workers, words, monkeypatch
):
    place.archive(records)
    with instead_of_cupy() as machine, cluster(*workers) as address:
        monkeypatch.setattr(machine, "devices", 0)
        with pytest.raises(ClusterError, match=words) as told:
            place.run(transform=WHOLE, cluster=with_backend(address, backend))
        assert "it counts no devices" in str(told.value)
    assert not (place.path / "out.zarr").exists()


def test_a_missing_cupy_is_told_before_anything_is_written(place, without, records, monkeypatch):
    there = choose.installed
    monkeypatch.setattr(choose, "installed", lambda name: name != "cupy" and there(name))
    place.archive(records)
    with pytest.raises(ClusterError, match=r'needs cupy(?s:.*)pip install "scatflow.cuda12'):
        place.run(transform=WHOLE, cluster=with_backend(without, "cupy"))
    assert not (place.path / "out.zarr").exists()


LET_GO = threading.Event()


async def hang(*_words, dask_worker):
    """Take longer than anybody waits, on one of two workers; threads of a worker go on."""
    for _ in range(600 * (dask_worker.name == 0)):
        if LET_GO.is_set():
            break
        await asyncio.sleep(0.1)
    return "here"


@pytest.fixture
def patient(monkeypatch):
    """Wait long enough for the one that answers, and end the other afterwards."""
    monkeypatch.setattr(answers, "ANSWER_SECONDS", 4)
    LET_GO.clear()
    yield
    LET_GO.set()


def test_who_asks_workers_does_not_wait_for_one_that_hangs(without, patient):
    with Client(without) as client:
        begun = time.monotonic()
        found = answers.ask(client, hang)
        assert time.monotonic() - begun < 40
    assert (list(found.told.values()), len(found.late)) == (["here"], 1)
    assert f"no answer within 4 s from {found.late[0]}: the run goes on" in found.silence()


def test_a_run_goes_on_without_a_worker_that_does_not_warm_up(
    place, without, records, monkeypatch, patient
):
    monkeypatch.setattr(run_module, "warm_up", hang)
    place.archive(records)
    code, said = place.run(transform=WHOLE, cluster=without)
    assert code == 0
    assert said.count("note: no answer within 4 s from tcp://127.0.0.1:") == 1


def test_a_run_on_gpus_counts_no_other_workers(both, gpu):
    with Client(both) as client:
        cluster = existing(client, both, 1)
        for asked, n in (("numpy", 2), ("any", 2), ("cupy", 1)):
            mine = choose_workers(cluster, asked, print)[asked].cluster
            assert (mine.held, mine.slots, len(mine.workers)) == (n, n, n)


def test_a_plan_says_that_bytes_differ_between_backends(place, records):
    place.archive(records)
    (note,) = [n for n in place.plan(cluster=with_backend("threads", "any")).notes if "GPU" in n]
    assert "the output's bytes do, from run to run" in note
    assert not [n for n in place.plan().notes if "GPU" in n]


def test_processes_of_a_profile_with_gpus_compute_with_cupy(place, records, monkeypatch):
    place.archive(records[:2])
    stand_in = place.path / "library" / "cupy" / "__init__.py"
    stand_in.parent.mkdir(parents=True)
    stand_in.write_text(
        "import sys\nfrom host_cupy import modules\nsys.modules.update(modules())\n"
    )
    monkeypatch.syspath_prepend(stand_in.parents[1])  # Workers begin with the same path.
    (place.path / "gpus.toml").write_text('kind = "local"\nworkers = 1\ndevice = "cuda"\n')
    log = place.path / "log.jsonl"
    plan = place.plan(transform=WHOLE, cluster=with_backend("gpus.toml", "any"))
    assert run(plan, log=str(log), say=lambda _: None) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["backend"] for line in lines if "block" in line] == ["cupy", "cupy"]
