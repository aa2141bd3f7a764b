"""Runs on threads of this process: resumable, refused where in doubt, the same bytes always."""

import json

import numpy as np
import pytest
import zarr
from distributed import LocalCluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scatflow.errors import BudgetError, ClusterError, JobError, OutputBusyError, OutputError
from scatflow.flow import output as output_module
from scatflow.flow.ledger import FAILED, Ledger
from scatflow.flow.lock import locked
from scatflow.flow.output import look
from scatflow.flow.status import status

WHOLE = 'kind = "scattering1d"\ndims = ["time"]\nJ = 4\nQ = 1\n'


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


def test_a_shard_that_someone_deleted_is_computed_again(done):
    before = done.bytes()
    (done.path / "out.zarr/scattering/c/1/0/1").unlink()
    code, said = done.run()
    assert code == 0
    assert "1 blocks that were done are gone" in said
    assert done.bytes() == before


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


def test_a_source_that_grew_is_refused(done, noise):
    done.archive(noise[:3])
    with pytest.raises(OutputError, match=r"source.shape: \[2, 300001\] -> \[3, 300001\]"):
        done.run()


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
    code, said = place.run(transform=WHOLE)
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
        BudgetError, match=r"line 20, change memory = \"100 MiB\" to memory = \""
    ) as caught:
        place.run(memory="100 MiB")
    assert not (place.path / "out.zarr").exists()
    wanted = str(caught.value).rsplit('"', 2)[1]
    assert place.run(memory=wanted)[0] == 0


def test_a_second_run_is_refused_with_the_name_of_the_first(done):
    with locked(str(done.path / "out.zarr")), pytest.raises(OutputBusyError, match="process"):
        done.run()
    assert done.run()[0] == 0
    assert not (done.path / "out.zarr.lock").exists()


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


def test_a_remote_output_with_a_fresh_heartbeat_is_refused(place, noise):
    import time

    place.archive(noise[:2, :4096])
    url = "memory://tests/busy.zarr"
    assert place.run(transform=WHOLE, output=url)[0] == 0
    ledger = Ledger.open(url, "r+")
    ledger.flush({"host": "node7", "pid": 42, "updated": time.time(), "rate": 1.0})
    with pytest.raises(OutputBusyError, match="process 42 on node7"):
        place.run(transform=WHOLE, output=url)
    ledger.flush({"host": "node7", "pid": 42, "updated": time.time() - 3600, "rate": 1.0})
    assert place.run(transform=WHOLE, output=url)[0] == 0


def test_a_scheduler_that_does_not_answer_is_a_cluster_error(place, noise, monkeypatch):
    monkeypatch.setattr("scatflow.flow.cluster.CONNECT_SECONDS", 0.5)
    place.archive(noise[:1, :4096])
    with pytest.raises(ClusterError, match=r"No scheduler answers at tcp://127\.0\.0\.1:9"):
        place.run(transform=WHOLE, cluster="tcp://127.0.0.1:9")


def test_a_scheduler_that_runs_already_computes_the_same_bytes(place, noise):
    place.archive(noise[:2, :4096])
    assert place.run(transform=WHOLE)[0] == 0
    expected = place.bytes()
    with LocalCluster(
        n_workers=1,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
    ) as cluster:
        code, _ = place.run(transform=WHOLE, fresh=True, cluster=cluster.scheduler_address)
    assert code == 0
    assert place.bytes() == expected


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
    ledger.flush({"host": "node7", "pid": 1, "updated": 0.0, "rate": 5.0})
    assert status(place.job(transform=WHOLE), base)["state"] == "interrupted"
