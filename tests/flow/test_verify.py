"""What verify finds of planted damage, and what a repair restores."""

import json

import numpy as np
import pytest
import zarr

from scatflow.cli.texts import verify_lines
from scatflow.dataset import checksum
from scatflow.errors import OutputBusyError, OutputError
from scatflow.flow import layout as layout_module
from scatflow.flow.ledger import DamagedLedgerError, Ledger
from scatflow.flow.lock import locked
from scatflow.flow.status import status
from scatflow.flow.verify import TOLERANCE, verify

FRAMES = (
    'kind = "scattering1d"\ndims = ["time"]\nJ = 4\nQ = 2\n'
    'boundary = "frames"\nframe = 512\nhop = 256\n'
)


@pytest.fixture
def done(place, inline, monkeypatch):
    """Two stations with three blocks each."""
    monkeypatch.setattr(layout_module, "share", lambda shape, _: (*[1] * (len(shape) - 1), 4))
    x = np.random.default_rng(0).standard_normal((2, 3000)).astype(np.float32)
    place.archive(x)
    assert place.run(transform=FRAMES)[0] == 0
    return place


def look_over(place, transform=FRAMES, **options):
    said = []
    report = verify(place.plan(transform=transform), say=said.append, seed=0, **options)
    return report, said


def flip(path, at=-9):
    content = bytearray(path.read_bytes())
    content[at] ^= 255
    path.write_bytes(bytes(content))


def test_a_sound_output_is_found_sound_and_not_touched(done):
    before = done.bytes()
    report, _ = look_over(done)
    assert report.sound
    assert (report.blocks, report.done, len(report.sample)) == (6, 6, 4)
    assert report.backend == "plain"
    assert 0 < report.worst < TOLERANCE["float32"]
    assert verify_lines(report)[-1] == "Nothing is wrong."
    assert done.bytes() == before


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ('kind = "scattering1d"\ndims = ["x"]\nJ = 4\nQ = 4\nboundary = "seamless"\n', "float32"),
        ('kind = "scattering1d"\ndims = ["x"]\nJ = 6\n', "float64"),
        ('kind = "scattering2d"\ndims = ["y", "x"]\nJ = 2\nL = 4\n', "float32"),
        ('kind = "scattering2d"\ndims = ["y", "x"]\nJ = 2\nL = 4\n', "float64"),
        ('kind = "scattering3d"\ndims = ["z", "y", "x"]\nJ = 1\nL = 2\n', "float64"),
        ('kind = "timefrequency"\ndims = ["x"]\nJ = 5\nQ = 4\nJ_fr = 2\n', "float32"),
    ],
)
def test_backends_agree_within_the_tolerances(place, inline, kind, dtype):
    dims = ("z", "y", "x") if "3d" in kind else ("y", "x")
    shape = (16, 16, 16) if "3d" in kind else (24, 4096)
    place.archive(np.random.default_rng(0).standard_normal(shape).astype(np.float32), dims)
    assert place.run(transform=kind, dtype=dtype)[0] == 0
    report, _ = verify(place.plan(transform=kind, dtype=dtype), say=lambda _: None), None
    assert report.sound, report.problems
    assert report.worst < TOLERANCE[dtype] / 2


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def empty(path):
    path.write_bytes(b"")


SHARD, OTHER = "scattering/c/1/2/0/0", "scattering/c/0/1/0/0"

DAMAGE = {
    "flipped": (flip, 5, "cannot be read"),
    "truncated": (truncate, 5, "cannot be read"),
    "emptied": (empty, 5, "is not in the store, or empty"),
    "deleted": (lambda path: path.unlink(), 5, "is not in the store, or empty"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_shard_is_named_and_repaired(done, how):
    before = done.bytes()
    damage, block, words = DAMAGE[how]
    damage(done.path / "out.zarr" / SHARD)
    broken = done.bytes()
    report, _ = look_over(done)
    (problem,) = report.problems
    assert (problem.block, problem.object, problem.kind) == (block, SHARD, "coefficients")
    assert words in problem.what
    assert problem.place == "station YA.UV06, time samples 2048 to 2815"
    assert block not in report.sample
    assert done.bytes() == broken
    repaired, said = look_over(done, repair=True)
    assert repaired.sound
    assert repaired.repaired == report.problems
    assert "Resuming: 5 of 6 blocks are done." in said
    assert done.bytes() == before


def test_a_damaged_shard_of_shares_is_named_and_not_that_of_the_coefficients(done):
    before, name = done.bytes(), "valid_fraction/c/1/0/0"
    flip(done.path / "out.zarr" / name)
    report, _ = look_over(done)
    (problem,) = report.problems
    assert (problem.object, problem.what.split(" (")[0]) == (name, "cannot be read")
    look_over(done, repair=True)
    assert done.bytes() == before


def test_swapped_shards_are_named_and_repaired(done):
    before = done.bytes()
    one, two = done.path / "out.zarr/scattering/c/0/0/0/0", done.path / "out.zarr" / OTHER
    a, b = one.read_bytes(), two.read_bytes()
    one.write_bytes(b)
    two.write_bytes(a)
    report, _ = look_over(done)
    assert [p.block for p in report.problems] == [0, 1]
    assert all("the ledger" in p.what for p in report.problems)
    assert look_over(done, repair=True)[0].sound
    assert done.bytes() == before


@pytest.mark.parametrize("name", ["station", "frame", "time", "xi1", "label", "order"])
@pytest.mark.parametrize("how", ["value", "flipped", "deleted"])
def test_a_wrong_coordinate_is_named_and_written_anew(done, name, how):
    before = done.bytes()
    array = zarr.open_array(str(done.path / "out.zarr"), path=name, mode="r+")
    chunk = done.path / f"out.zarr/{name}/c/0"
    if how == "value":
        array[1] = "S9" if array.dtype.kind == "T" else array[1] + 1
    elif how == "flipped":
        flip(chunk, at=8)
    else:
        chunk.unlink()
    report, _ = look_over(done, sample=0)
    (problem,) = report.problems
    assert (problem.kind, problem.object) == ("coordinate", name)
    assert look_over(done, repair=True)[0].sound
    assert done.bytes() == before


@pytest.mark.parametrize("name", ["state", "checksum", "source"])
@pytest.mark.parametrize("how", [flip, truncate])
def test_a_damaged_ledger_is_named_and_its_blocks_computed_again(done, name, how):
    before = done.bytes()
    how(done.path / f"out.zarr/ledger/{name}/c/0")
    for ask in (
        lambda: done.run(transform=FRAMES),
        lambda: status(done.job(transform=FRAMES), str(done.path)),
    ):
        with pytest.raises(OutputError, match=rf"ledger/{name}/c/0 .*verify --repair"):
            ask()
    report, _ = look_over(done)
    assert [p.kind for p in report.problems] == ["ledger", "unfinished"]
    assert report.problems[0].object == f"ledger/{name}/c/0"
    assert look_over(done, repair=True)[0].sound
    assert done.bytes() == before


def test_a_damaged_ledger_is_no_obstacle_to_starting_over(done):
    before = done.bytes()
    flip(done.path / "out.zarr/ledger/state/c/0")
    assert done.run(transform=FRAMES, fresh=True)[0] == 0
    assert done.bytes() == before


@pytest.mark.parametrize("name", ["checksum", "state", "source"])
def test_entries_of_the_ledger_that_were_altered_are_found(done, name):
    before = done.bytes()
    array = zarr.open_array(str(done.path / "out.zarr"), path=f"ledger/{name}", mode="r+")
    array[3] = 0 if name == "state" else array[3] + 1
    report, _ = look_over(done, sample=6)
    (problem,) = report.problems
    assert (
        problem.kind
        == {
            "checksum": "coefficients",
            "state": "unfinished",
            "source": "source",
        }[name]
    )
    if name == "source":
        with pytest.raises(OutputError, match="A repair would mix"):
            look_over(done, sample=6, repair=True)
    else:
        assert look_over(done, repair=True)[0].sound
        assert done.bytes() == before


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("scattering/zarr.json", "scattering/zarr.json: it cannot be read .*verify --repair"),
        ("valid_fraction/zarr.json", "valid_fraction/zarr.json: it cannot be read .*--repair"),
        ("ledger/zarr.json", "scatflow did not write it"),
        ("ledger/state/zarr.json", "ledger/state/zarr.json .*Restore that file, or .* --fresh"),
        ("zarr.json", "its metadata are not those of Zarr"),
    ],
)
def test_damaged_metadata_are_an_error_with_a_remedy(done, file, words):
    (done.path / "out.zarr" / file).write_text("[]" if file == "zarr.json" else "{}")
    with pytest.raises(OutputError, match=words):
        look_over(done)


@pytest.mark.parametrize("name", ["scattering", "valid_fraction"])
@pytest.mark.parametrize("how", ["gone", "emptied", "chunk_grid", "shape"])
def test_an_array_that_cannot_be_opened_is_named_and_gets_its_metadata_back(done, name, how):
    before = done.bytes()
    path = done.path / f"out.zarr/{name}/zarr.json"
    if how == "gone":
        path.unlink()
    elif how == "emptied":
        path.write_text("{}")
    else:
        told = json.loads(path.read_text())
        if how == "shape":
            told["shape"][0] += 1
        else:
            chunks = told["chunk_grid"]["configuration"]["chunk_shape"]
            chunks[-1] *= 2
        path.write_text(json.dumps(told))
    with pytest.raises(OutputError, match=rf"{name}/zarr.json: .*verify --repair writes it anew"):
        look_over(done)
    if how in ("gone", "emptied"):
        with pytest.raises(OutputError, match=rf"{name}/zarr.json: it cannot be read"):
            done.run(transform=FRAMES)
    report, said = look_over(done, repair=True)
    assert report.sound
    assert [p.object for p in report.repaired] == [f"{name}/zarr.json"]
    assert any(f"{name}/zarr.json" in line for line in said)
    assert done.bytes() == before


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *((name, how) for name in ("time", "xi1") for how in ("changed", "removed")),
        *((name, how) for name in ("time", "xi1", "station") for how in ("added", "dimensions")),
    ],
)
def test_attributes_of_a_coordinate_that_were_altered_are_found_and_repaired(done, name, how):
    before = done.bytes()
    path = done.path / f"out.zarr/{name}/zarr.json"
    told = json.loads(path.read_text())
    if how == "dimensions":
        told["dimension_names"] = ["elsewhere"]
    elif how == "removed":
        del told["attributes"]["units"]
    else:
        told["attributes"]["units" if how == "changed" else "scale_factor"] = "furlong"
    path.write_text(json.dumps(told))
    report, _ = look_over(done, sample=0)
    (problem,) = report.problems
    assert (problem.kind, problem.object) == ("coordinate", name)
    assert look_over(done, repair=True)[0].sound
    assert done.bytes() == before


def test_attributes_that_are_not_numbers_are_equal_to_themselves(place, inline):
    x = np.random.default_rng(0).standard_normal((2, 3000)).astype(np.float32)
    place.archive(x)
    for name in ("station", "waveform"):
        array = zarr.open_array(str(place.path / "archive.zarr"), path=name)
        array.attrs["valid_range"] = [0.5, float("nan")]
    assert place.run(transform=FRAMES)[0] == 0
    stored = zarr.open_group(str(place.path / "out.zarr"), mode="r")
    assert np.isnan(stored["station"].attrs["valid_range"][1])
    report, _ = look_over(place)
    assert report.sound, report.problems


@pytest.mark.parametrize("name", ["state", "checksum", "source"])
def test_a_lost_part_of_the_ledger_is_no_change_of_the_source(done, name):
    before = done.bytes()
    (done.path / f"out.zarr/ledger/{name}/c/0").unlink()
    if name != "state":  # Blocks without a state are missing, and a run computes them.
        with pytest.raises(OutputError, match=rf"ledger/{name}/c/0 .*verify --repair"):
            done.run(transform=FRAMES)
        report, _ = look_over(done)
        assert [p.object for p in report.problems] == [f"ledger/{name}/c/0", "ledger/state"]
    assert look_over(done, repair=True)[0].sound
    assert done.bytes() == before


def test_checksums_that_are_zero_are_not_lost(tmp_path):
    ledger = Ledger.create(zarr.open_group(tmp_path / "one.zarr"), {}, "mark", 1)
    ledger.record(0, 0, 0, None)
    ledger.flush(None)
    assert Ledger.open(str(tmp_path / "one.zarr")).counts()["done"] == 1
    (tmp_path / "one.zarr/ledger/checksum/c/0").unlink()
    with pytest.raises(DamagedLedgerError, match=r"ledger/checksum/c/0 .*not in the store"):
        Ledger.open(str(tmp_path / "one.zarr"))


@pytest.mark.parametrize("name", ["state", "checksum", "source"])
def test_a_ledger_without_an_array_is_no_obstacle_to_starting_over(done, name):
    before = done.bytes()
    (done.path / f"out.zarr/ledger/{name}/zarr.json").unlink()
    for ask in (lambda: look_over(done, repair=True), lambda: done.run(transform=FRAMES)):
        with pytest.raises(OutputError, match=rf"ledger/{name}/zarr.json .*Restore that file"):
            ask()
    assert done.run(transform=FRAMES, fresh=True)[0] == 0
    assert done.bytes() == before


def test_metadata_that_were_altered_are_found(done):
    before = done.bytes()
    path = done.path / "out.zarr/zarr.json"
    told = json.loads(path.read_text())
    told["attributes"]["source"] = "elsewhere"
    told["consolidated_metadata"]["metadata"]["time"]["shape"] = [7]
    path.write_text(json.dumps(told))
    report, _ = look_over(done)
    assert [p.object for p in report.problems] == ["zarr.json", "zarr.json"]
    assert look_over(done, repair=True)[0].sound
    assert done.bytes() == before
    ledger = done.path / "out.zarr/ledger/zarr.json"
    ledger.write_text(ledger.read_text().replace('"J": 4', '"J": 5'))
    with pytest.raises(OutputError, match="their hash is not the one beside them"):
        look_over(done)


@pytest.mark.parametrize("name", ["scattering", "valid_fraction"])
def test_metadata_of_an_array_that_were_altered_are_found_and_repaired(done, name):
    before = done.bytes()
    path = done.path / f"out.zarr/{name}/zarr.json"
    told = json.loads(path.read_text())
    told["attributes"]["long_name"] = "something else"
    told["attributes"]["scale_factor"] = 2.0
    codecs = told["codecs"]
    if name == "scattering":
        codecs = codecs[0]["configuration"]["codecs"]
    else:
        told["dimension_names"][-1] = "path"
    codecs[1]["configuration"]["level"] = 7
    path.write_text(json.dumps(told))
    found = {
        p.what.split()[0] for p in look_over(done)[0].problems if p.object == f"{name}/zarr.json"
    }
    expected = {"attributes", "codecs"}
    assert found == (expected if name == "scattering" else {*expected, "dimension_names"})
    assert look_over(done, repair=True)[0].sound
    assert done.bytes() == before


def test_coefficients_that_are_wrong_but_recorded_are_found_by_computing_them(done):
    """As by a broken library: the ledger agrees with what is stored."""
    before = done.bytes()
    array = zarr.open_array(str(done.path / "out.zarr"), path="scattering", mode="r+")
    laid = done.plan(transform=FRAMES).work.layout
    block = laid.region(4)
    values = array[block]
    values[0, 2, 3] *= 1.001
    array[block] = values
    shares = zarr.open_array(str(done.path / "out.zarr"), path="valid_fraction", mode="r")
    before_it = checksum(np.asarray(shares[tuple(block[axis] for axis in laid.windowed)]))
    ledger = Ledger.open(str(done.path / "out.zarr"), "r+")
    ledger.record(4, checksum(values, before_it), int(ledger.source[4]), None)
    ledger.flush(None)
    report, _ = look_over(done, sample=6)
    (problem,) = report.problems
    assert (problem.kind, problem.block) == ("values", 4)
    assert problem.what.startswith("path 3, by backend numpy, is ")
    assert look_over(done, sample=6, repair=True)[0].sound
    assert done.bytes() == before


def test_a_source_that_changed_is_reported(done):
    array = zarr.open_array(str(done.path / "archive.zarr"), path="waveform", mode="r+")
    array[1, 1500] += 1
    report, _ = look_over(done, sample=6)
    assert [(p.kind, p.block) for p in report.problems] == [("source", 4)]


def test_missing_and_failed_blocks_are_told(done):
    ledger = Ledger.open(str(done.path / "out.zarr"), "r+")
    ledger.forget(np.array([2]))
    ledger.flush(None)
    report, _ = look_over(done)
    (problem,) = report.problems
    assert problem.kind == "unfinished"
    assert "1 of 6 blocks are missing and 0 failed" in problem.what
    assert look_over(done, repair=True)[0].sound


def test_what_a_run_on_a_shorter_source_wrote_is_verified_and_repaired_as_it_is(done):
    before = done.bytes()
    x = np.random.default_rng(0).standard_normal((2, 3000)).astype(np.float32)
    done.archive(np.concatenate([x, x], axis=1))
    report, said = look_over(done)
    assert report.sound
    assert "The source has grown since the last run" in said[0]
    flip(done.path / "out.zarr" / SHARD)
    assert not look_over(done)[0].sound
    assert look_over(done, repair=True)[0].sound
    assert done.bytes() == before


def test_a_repair_waits_for_no_other_run(done):
    flip(done.path / "out.zarr" / SHARD)
    with locked(str(done.path / "out.zarr")):
        assert not look_over(done)[0].sound
        with pytest.raises(OutputBusyError):
            look_over(done, repair=True)


def test_there_has_to_be_something_to_verify(place):
    place.archive(np.zeros((1, 600), np.float32))
    with pytest.raises(OutputError, match="Give scatflow run first"):
        look_over(place)


@pytest.mark.parametrize("damage", [truncate, flip, empty])
def test_a_torn_shard_of_a_block_that_is_not_done_is_no_obstacle(done, damage):
    before = done.bytes()
    for shard in (SHARD, OTHER):
        damage(done.path / "out.zarr" / shard)
    ledger = Ledger.open(str(done.path / "out.zarr"), "r+")
    ledger.forget(np.array([1, 5]))
    ledger.flush(None)
    assert done.run(transform=FRAMES)[0] == 0
    assert done.bytes() == before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_offset_is_no_difference_between_backends(place, inline, dtype):
    """Paths are faint beside the mean, whose rounding they carry."""
    x = 2000 + 10 * np.random.default_rng(0).standard_normal((2, 4096))
    place.archive(x.astype(dtype))
    transform = 'kind = "scattering1d"\ndims = ["time"]\nJ = 8\nQ = 8\n'
    assert place.run(transform=transform, dtype=dtype)[0] == 0
    plan = place.plan(transform=transform, dtype=dtype)
    assert verify(plan, say=lambda _: None, seed=0).sound
