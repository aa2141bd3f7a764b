"""Sources that grow: only what sees new samples is computed, and the bytes are those of one run."""

import contextlib
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.storage import LocalStore

from scatflow.dataset import FAILED, finish
from scatflow.errors import OutputError, SourceError
from scatflow.flow import block as block_module
from scatflow.flow import layout as layout_module
from scatflow.flow import patience
from scatflow.flow import run as run_module
from scatflow.flow.ledger import Ledger
from scatflow.flow.output import look
from scatflow.flow.plan import prepare, summary
from scatflow.flow.status import status
from scatflow.flow.verify import verify

SEAMLESS = 'kind = "scattering1d"\ndims = ["time"]\nJ = 3\nQ = 1\nboundary = "seamless"\n'
FRAMES = (
    'kind = "scattering1d"\ndims = ["time"]\nJ = 3\nboundary = "frames"\nframe = 64\nhop = 48\n'
)
IMAGES = (
    'kind = "scattering2d"\ndims = ["y", "x"]\nJ = 2\nL = 2\n'
    'boundary = "frames"\nframe = [16, 16]\nhop = [8, 16]\n'
)
TILES = (
    'kind = "scattering2d"\ndims = ["y", "x"]\nJ = 2\nL = 2\n'
    'pyramid = "fold"\nboundary = "seamless"\n'
)
WHOLE = 'kind = "scattering1d"\ndims = ["time"]\nJ = 3\n'

KINDS = {
    "seamless": (SEAMLESS, ("station", "time")),
    "frames": (FRAMES, ("station", "time")),
    "images": (IMAGES, ("y", "x")),
    "tiles": (TILES, ("y", "x")),
    "whole": (WHOLE, ("station", "time")),
}


class Died(BaseException):
    """A process was killed."""


@pytest.fixture
def tiny(monkeypatch, inline):
    """Canonical blocks of a few hundred samples, a few units in a block of the work."""

    def small(engine, lengths, dtype, _):
        grid = engine.canonical_grid(dtype)
        stride = grid.stride
        grid = replace(grid, halo=8 * stride, block=24 * stride)
        plan = engine.plan((grid.length,) * len(lengths), dtype, boundary="periodic")
        return grid, plan

    monkeypatch.setattr(layout_module, "_canonical", small)
    monkeypatch.setattr(layout_module, "share", lambda shape, _: (*[1] * len(shape), 4)[1:])


def computed_units(monkeypatch):
    """Count what the engine is given."""
    units = []
    real = block_module._apply

    def apply(plan, x):
        units.append(x.size // np.prod(plan.shape))
        return real(plan, x)

    monkeypatch.setattr(block_module, "_apply", apply)
    return units


def from_scratch(place, **changes):
    """Return the bytes of one run on the source as it is, in an output of its own."""
    shutil.rmtree(place.path / "whole", ignore_errors=True)
    (place.path / "whole").mkdir()
    shutil.copytree(place.path / "archive.zarr", place.path / "whole/archive.zarr")
    plan = prepare(place.job(**changes), str(place.path / "whole"))
    assert run_module.run(plan, say=lambda _: None) == 0
    return type(place)(place.path / "whole").bytes()


SIZES = {
    "seamless": st.tuples(st.integers(1, 3), st.integers(20, 1500)),
    "frames": st.tuples(st.integers(1, 3), st.integers(64, 700)),
    "images": st.tuples(st.integers(16, 90), st.integers(16, 90)),
    "tiles": st.tuples(st.integers(40, 600), st.integers(40, 700)),
    "whole": st.tuples(st.integers(1, 7), st.just(128)),
}


@contextlib.contextmanager
def dying_after(writes):
    """Let this process write so many objects, and none after that; None: as many as it likes."""
    left = [writes]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("set", "delete", "delete_dir"):
            real = getattr(LocalStore, name)

            async def guarded(self, *words, real=real, **more):
                if left[0] is not None:
                    left[0] -= 1
                    if left[0] < 0:
                        raise Died
                return await real(self, *words, **more)

            patch.setattr(LocalStore, name, guarded)
        yield


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_source_that_grows_again_and_again_ends_in_the_bytes_of_one_run(place, tiny, kind, data):
    """Whenever the process dies, whatever the chunks, whichever dimension has grown."""
    transform, dims = KINDS[kind]
    sizes = data.draw(st.lists(SIZES[kind], min_size=2, max_size=4), "sizes")
    shapes = np.maximum.accumulate(np.array(sizes))
    x = np.random.default_rng(0).standard_normal(shapes[-1]).astype(np.float32)
    shutil.rmtree(place.path / "out.zarr", ignore_errors=True)
    for a, b in shapes.tolist():
        chunks = (data.draw(st.integers(1, a)), data.draw(st.integers(16, max(16, b))))
        place.archive(x[:a, :b], dims, chunks)
        for _ in range(3):
            writes = data.draw(st.one_of(st.none(), st.integers(0, 60)), "writes")
            with dying_after(writes), contextlib.suppress(Died):
                place.run(transform=transform)
            if look(str(place.path / "out.zarr")).kind == "ours":
                xr.open_zarr(str(place.path / "out.zarr"), chunks=None).close()
    code, _ = place.run(transform=transform)
    assert code == 0
    assert place.bytes() == from_scratch(place, transform=transform)


def test_death_at_any_write_of_a_growth_is_no_obstacle(place, tiny):
    x = np.random.default_rng(0).standard_normal((3, 1400)).astype(np.float32)
    place.archive(x[:2, :900])
    assert place.run(transform=SEAMLESS)[0] == 0
    shutil.copytree(place.path / "out.zarr", place.path / "short.zarr")
    place.archive(x)
    expected = from_scratch(place, transform=SEAMLESS)
    finished = 0
    for writes in range(1000):
        shutil.rmtree(place.path / "out.zarr")
        shutil.copytree(place.path / "short.zarr", place.path / "out.zarr")
        with dying_after(writes), contextlib.suppress(Died):
            place.run(transform=SEAMLESS)
        ledger = look(str(place.path / "out.zarr")).ledger
        finished += ledger.state.size > 4 and not ledger.growing
        seen = xr.open_zarr(str(place.path / "out.zarr"), chunks=None).load()
        assert seen.sizes["time"] in (113, 175)
        assert place.run(transform=SEAMLESS)[0] == 0
        assert place.bytes() == expected
        if finished == 4:
            break
    assert 20 < writes < 200


@pytest.mark.parametrize("kind", ["seamless", "frames"])
def test_only_units_that_see_new_samples_are_computed(place, tiny, monkeypatch, kind):
    transform, dims = KINDS[kind]
    x = np.random.default_rng(0).standard_normal((3, 2000)).astype(np.float32)
    place.archive(x[:2, :900], dims)
    before = place.plan(transform=transform).work.layout
    assert place.run(transform=transform)[0] == 0
    units = computed_units(monkeypatch)
    place.archive(x, dims)
    foreseen = summary(place.plan(transform=transform), None)["notes"]
    code, said = place.run(transform=transform)
    assert foreseen[-1] in said
    assert code == 0
    after = place.plan(transform=transform).work.layout
    assert "The source grew along station from 2 to 3 and along time from 900 to 2000" in said
    if kind == "seamless":
        old = [k for k in range(before.units[0]) if k * 192 + 192 + 64 <= 900]
    else:
        old = range((900 - 64) // 48 + 1)
    assert sum(units) == 3 * after.units[0] - 2 * len(old)
    assert len(old) > 2
    assert place.bytes() == from_scratch(place, transform=transform)


@pytest.mark.parametrize("damage", [None, "other", "torn"])
def test_units_of_a_shard_are_kept_if_it_is_as_it_was_written(place, tiny, monkeypatch, damage):
    """Unit 4 of the block that has units 4 to 6 of the longer record does not see its end."""
    x = np.random.default_rng(0).standard_normal((1, 1200)).astype(np.float32)
    place.archive(x[:, :1100])
    assert place.run(transform=SEAMLESS)[0] == 0
    shards = place.path / "out.zarr/scattering/c/0/0"
    if damage is not None:
        other = (shards / "0").read_bytes()
        (shards / "1").write_bytes(other if damage == "other" else other[:99])
    units = computed_units(monkeypatch)
    place.archive(x)
    assert place.run(transform=SEAMLESS)[0] == 0
    assert sum(units) == (2 if damage is None else 3)
    assert place.bytes() == from_scratch(place, transform=SEAMLESS)


def test_what_is_left_of_a_shorter_source_is_not_waited_for_without_end(place, tiny, monkeypatch):
    """Nor is it taken for damage: the block fails, and the next run tries again."""
    x = np.random.default_rng(0).standard_normal((1, 1200)).astype(np.float32)
    place.archive(x[:, :1100])
    assert place.run(transform=SEAMLESS)[0] == 0
    shard = place.path / "out.zarr/scattering/c/0/0/1"
    shard.unlink()
    os.mkfifo(shard)
    end = os.open(shard, os.O_RDWR)
    try:
        place.archive(x)
        monkeypatch.setattr(patience, "PATIENCE_SECONDS", 2)
        code, said = place.run(transform=SEAMLESS)
    finally:
        os.close(end)
    assert code == 1
    assert "block 1: TimeoutError: reading" in said


def test_labels_of_a_longer_source_have_its_attributes(place, tiny):
    x = np.random.default_rng(0).standard_normal((2, 1200)).astype(np.float32)
    place.archive(x[:, :900])
    assert place.run(transform=SEAMLESS)[0] == 0
    place.archive(x)
    zarr.open_array(str(place.path / "archive.zarr"), path="station").attrs["network"] = "Y"
    assert place.run(transform=SEAMLESS)[0] == 0
    grown = zarr.open_group(str(place.path / "out.zarr"), mode="r")
    assert grown["station"].attrs["network"] == "Y"
    assert place.bytes() == from_scratch(place, transform=SEAMLESS)


def test_a_selection_with_a_stop_does_not_grow_and_an_open_one_does(place, tiny):
    x = np.random.default_rng(0).standard_normal((2, 2000)).astype(np.float32)
    place.archive(x[:, :900])
    fixed = {"transform": SEAMLESS, "source": "isel = { time = [100, 800] }"}
    assert place.run(**fixed)[0] == 0
    place.archive(x)
    assert "nothing to do" in place.run(**fixed)[1]
    longer = {**fixed, "source": 'sel = { time = ["2010-09-01T00:00:01", "2010-09-01T00:00:15"] }'}
    code, said = place.run(**longer)
    assert code == 0
    assert "along time from 700 to 1400" in said
    assert place.bytes() == from_scratch(place, **longer)


def test_a_stop_beyond_the_end_grows_along_and_a_start_counted_from_the_end_is_refused(place, tiny):
    x = np.random.default_rng(0).standard_normal((1, 2000)).astype(np.float32)
    beyond = {"transform": SEAMLESS, "source": "isel = { time = [96, 9999] }"}
    moving = {**beyond, "source": "isel = { time = [-500, 9999] }", "output": "moving.zarr"}
    place.archive(x[:, :900])
    assert place.run(**beyond)[0] == place.run(**moving)[0] == 0
    with pytest.raises(SourceError, match=r"or \[start, stop\]; stop may lie beyond the end"):
        place.run(transform=SEAMLESS, source="isel = { time = [96] }")
    before = place.bytes("moving.zarr")
    place.archive(x)
    assert "along time from 804 to 1904" in place.run(**beyond)[1]
    assert place.bytes() == from_scratch(place, **beyond)
    with pytest.raises(OutputError, match=r"selection.time: \[400, 900\] -> \[1500, 2000\]"):
        place.run(**moving)
    assert place.bytes("moving.zarr") == before


def test_outputs_in_memory_grow_like_others(place, tiny):
    x = np.random.default_rng(0).standard_normal((2, 1100)).astype(np.float32)
    place.archive(x[:, :900])
    remote = {"transform": SEAMLESS, "output": "memory://grow/out.zarr"}
    assert place.run(fresh=True, **remote)[0] == 0
    place.archive(x)
    code, said = place.run(**remote)
    assert code == 0
    assert "along time from 900 to 1100" in said
    assert "nothing to do" in place.run(**remote)[1]
    assert verify(place.plan(**remote), say=print).sound
    grown = zarr.open_array("memory://grow/out.zarr", path="scattering", mode="r")[...]
    assert place.run(fresh=True, **remote)[0] == 0
    whole = zarr.open_array("memory://grow/out.zarr", path="scattering", mode="r")[...]
    assert np.array_equal(grown, whole)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("shrink", r"source.shape: \[2, 900\] -> \[2, 800\]"),
        ("rewrite", r"block 1 \(station YA.UV05, time samples 704 to 899\) differs"),
        ("rename", r"station holds YA.UV05 at \[0\], where T0 belongs"),
        ("start", r"source.selection.time: \[0, 900\] -> \[1, 1000\]"),
    ],
)
def test_other_changes_than_growth_are_refused_and_leave_the_output_alone(
    place, tiny, change, words
):
    x = np.random.default_rng(0).standard_normal((2, 1000)).astype(np.float32)
    place.archive(x[:, :900])
    assert place.run(transform=SEAMLESS)[0] == 0
    before = place.bytes()
    if change == "rewrite":
        x[:, 890] += 1
    place.archive(x[:, :800] if change == "shrink" else x)
    if change == "rename":
        zarr.open_array(str(place.path / "archive.zarr"), path="station", mode="r+")[0] = "T0"
    source = "isel = { time = [1, 1000] }" if change == "start" else ""
    with pytest.raises(OutputError, match=words):
        place.run(transform=SEAMLESS, source=source)
    assert place.bytes() == before


def test_whole_records_that_become_longer_are_refused_with_a_remedy(place, tiny):
    x = np.random.default_rng(0).standard_normal((1, 1000)).astype(np.float32)
    place.archive(x[:, :900])
    assert place.run(transform=WHOLE)[0] == 0
    place.archive(x)
    with pytest.raises(OutputError, match="seamless and frames let one grow"):
        place.run(transform=WHOLE)


def test_a_reader_sees_from_where_on_the_end_is_provisional(place, tiny):
    x = np.random.default_rng(0).standard_normal((1, 1000)).astype(np.float32)
    place.archive(x[:, :900])
    assert place.run(transform=SEAMLESS)[0] == 0
    told = {"time": {"index": 96, "coordinate": "2010-09-01T00:00:07.680000000"}}
    seen = xr.open_zarr(str(place.path / "out.zarr"), chunks=None).load()
    assert json.loads(seen.attrs["provisional_from"]) == told
    assert str(seen.time.values[96]) == told["time"]["coordinate"]
    assert status(place.job(transform=SEAMLESS), str(place.path))["provisional_from"] == told
    place.archive(x)
    assert place.run(transform=SEAMLESS)[0] == 0
    longer = xr.open_zarr(str(place.path / "out.zarr"), chunks=None).load()
    assert np.array_equal(longer.scattering[..., :96], seen.scattering[..., :96])
    assert not np.array_equal(longer.scattering[..., 96:113], seen.scattering[..., 96:113])


def test_what_was_provisional_is_until_it_has_been_computed_again(place, tiny, monkeypatch):
    x = np.random.default_rng(0).standard_normal((1, 1400)).astype(np.float32)
    place.archive(x[:, :900])
    assert place.run(transform=SEAMLESS)[0] == 0
    job, out = place.job(transform=SEAMLESS), str(place.path)
    before = status(job, out)["provisional_from"]
    place.archive(x)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert place.run(transform=SEAMLESS)[0] == 130
    assert xr.open_zarr(str(place.path / "out.zarr")).sizes["time"] == 175
    assert status(job, out)["provisional_from"] == before
    found = verify(place.plan(transform=SEAMLESS), say=print).problems
    assert [p.kind for p in found] == ["unfinished"]
    assert place.run(transform=SEAMLESS)[0] == 0
    assert status(job, out)["provisional_from"]["time"]["index"] > before["time"]["index"]
    assert verify(place.plan(transform=SEAMLESS), say=print).sound
    group = zarr.open_group(str(place.path / "out.zarr"), mode="r+", use_consolidated=False)
    attrs = dict(group.attrs)
    finish(group, {**attrs, "provisional_from": json.dumps(before)})
    assert [p.object for p in verify(place.plan(transform=SEAMLESS), say=print).problems] == [
        "zarr.json"
    ]


def test_reasons_of_many_failures_are_bounded_and_their_blocks_named(place, tiny, monkeypatch):
    monkeypatch.setattr("scatflow.flow.ledger.REASONS_KEPT", 2)
    monkeypatch.setattr(layout_module, "share", lambda *_: (1,))
    place.archive(np.full((5, 128), np.inf, np.float32))
    code, said = place.run(transform=WHOLE)
    assert code == 1
    assert [line for line in said.split("\n") if line.startswith("  block")] == [
        f"  block {b}: station YA.UV{b + 5:02d}: 128 of 128 samples are not finite, the first at "
        "time sample 0 (2010-09-01T00:00:00.000000000)"
        if b < 2
        else f"  block {b}: its reason was not kept; it is told when it fails again"
        for b in range(5)
    ]
    assert len(Ledger.open(str(place.path / "out.zarr")).failures) == 2
    assert len(status(place.job(transform=WHOLE), str(place.path))["failures"]) == 5
    assert look(str(place.path / "out.zarr")).kind == "ours"


def test_a_block_of_a_shorter_record_that_cannot_be_read_anew_holds_nothing_of_it(place, noise):
    """Its old windows see a reflection that is no more."""
    place.archive(noise[:1, :13_000], chunks=(1, 1000))
    assert place.run()[0] == 0
    array = zarr.open_array(str(place.path / "archive.zarr"), path="waveform", mode="r+")
    array.resize((1, 31_000))
    array[0, 13_000:] = noise[0, 13_000:31_000]
    chunk = place.path / "archive.zarr/waveform/c/0/14"
    good = chunk.read_bytes()
    chunk.write_bytes(good[:50])
    assert place.run()[0] == 1
    with xr.open_zarr(str(place.path / "out.zarr")) as ds:
        (failed,) = np.flatnonzero(Ledger.open(str(place.path / "out.zarr")).state == FAILED)
        region = place.plan().work.layout.region(int(failed))
        assert region[-1].start == 0
        assert np.isnan(ds.scattering.values[region]).all()
    chunk.write_bytes(good)
    assert place.run()[0] == 0
    grown = zarr.open_array(str(place.path / "out.zarr"), path="scattering", mode="r")[...]
    assert place.run(fresh=True)[0] == 0
    fresh = zarr.open_array(str(place.path / "out.zarr"), path="scattering", mode="r")[...]
    np.testing.assert_array_equal(grown, fresh)


SUMS = (
    'kind = "scattering3d"\ndims = ["z", "y", "x"]\nJ = 0\nL = 0\nsigma_0 = 1.5\n'
    'boundary = "seamless"\ngaps = "weight"\n'
)


@pytest.mark.parametrize("gone", [0, 70])
def test_sums_over_a_stack_that_grows_keep_those_and_their_shares_that_are_there(
    place, tiny, monkeypatch, gone
):
    """Three volumes of a block of four are read back, and are not divided a second time."""
    x = np.random.default_rng(0).standard_normal((4, 9, 8, 10)).astype(np.float32)
    x[1].flat[:gone] = np.nan
    place.archive(x[:3], ("n", "z", "y", "x"))
    assert place.run(transform=SUMS)[0] == 0
    place.archive(x, ("n", "z", "y", "x"))
    units = computed_units(monkeypatch)
    assert place.run(transform=SUMS)[0] == 0
    assert sum(units) == 1
    assert place.bytes() == from_scratch(place, transform=SUMS)


def test_sums_over_a_volume_that_becomes_longer_are_those_over_all_of_it(place, tiny):
    """Its work is one cell of a grid without axes: none could say that all of it is new."""
    x = np.random.default_rng(0).standard_normal((12, 9, 8)).astype(np.float32)
    place.archive(x[:10], ("z", "y", "x"))
    assert place.run(transform=SUMS)[0] == 0
    place.archive(x, ("z", "y", "x"))
    code, said = place.run(transform=SUMS)
    assert code == 0
    assert "1 of 1 blocks to compute" in said
    assert place.bytes() == from_scratch(place, transform=SUMS)
