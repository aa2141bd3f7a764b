"""The output's template opens in xarray without a warning and holds its labels."""

import math

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from scatflow.dataset import (
    Coordinate,
    Ruler,
    Template,
    create,
    finish,
    frequency_units,
    inner_chunks,
    open_arrays,
    path_coordinates,
    shards,
    write,
    write_region,
)
from scatflow.dataset.template import CHUNK_BYTES

MARKER = "unfinished"


def template(**changes):
    times = np.datetime64("2010-09-01", "ns") + np.arange(6) * np.timedelta64(10_240, "ms")
    columns = {
        "order": np.array([0, 1, 1, 2, 2]),
        "xi1": np.array([np.nan, 0.4, 0.2, 0.4, 0.4]),
        "xi2": np.array([np.nan, np.nan, np.nan, 0.1, 0.05]),
        "label": np.array(["S0", "S1 n1=0", "S1 n1=1", "S2 a", "S2 bb"]),
    }
    given = {
        "dims": ("station", "path", "time"),
        "shape": (2, 5, 6),
        "dtype": np.dtype(np.float32),
        "shards": (1, 5, 4),
        "cut": (True, False, True),
        "path_axis": 1,
        "coordinates": [
            Coordinate.of("station", ["station"], np.array(["YA.UV05", "YA.UV06"])),
            Coordinate.of("elevation", ["station"], np.array([0.0, 2000.0]), {"units": "m"}),
            Coordinate.of("network", [], np.array("YA")),
            *path_coordinates(columns, [Ruler("time", 0.01, "s", True)]),
            Coordinate.along("time", 6, lambda k: times[k]),
        ],
        "attrs": {"units": "count"},
        "dataset_attrs": {"Conventions": "CF-1.11", "scatflow_version": "0"},
    }
    return Template(**{**given, **changes})


def written(path, made=None):
    made = made or template()
    root = create(str(path), made, MARKER)
    finish(root, made.dataset_attrs)
    return made


def test_xarray_opens_the_template_and_shows_every_label(tmp_path):
    written(tmp_path / "a.zarr")
    with xr.open_zarr(str(tmp_path / "a.zarr")) as ds:
        assert ds.scattering.dims == ("station", "path", "time")
        assert set(ds.scattering.coords) == {
            *("station", "elevation", "network", "order", "xi1", "xi2", "label", "time"),
        }
        assert ds.station.values.tolist() == ["YA.UV05", "YA.UV06"]
        assert ds.label.values.tolist()[:2] == ["S0", "S1: 40 Hz"]
        assert ds.label.values[4] == "S2: 40 Hz, 5 Hz"
        assert str(ds.network.values) == "YA"
        assert ds.elevation.values.tolist() == [0.0, 2000.0]
        assert ds.time.values[1] == np.datetime64("2010-09-01T00:00:10.240", "ns")
        assert ds.xi1.attrs["units"] == "Hz"
        assert ds.scattering.attrs["units"] == "count"
        assert ds.attrs == {"Conventions": "CF-1.11", "scatflow_version": "0"}
        assert np.isnan(ds.scattering.values).all()
        assert ds.sel(station="YA.UV06").scattering.shape == (5, 6)


def test_a_region_is_one_shard_and_reads_back(tmp_path):
    written(tmp_path / "a.zarr")
    array = open_arrays(str(tmp_path / "a.zarr"), ["scattering"])["scattering"]
    values = np.random.default_rng(0).standard_normal((1, 5, 2)).astype(np.float32)
    checksum, size = write_region(array, (slice(1, 2), slice(0, 5), slice(4, 6)), values)
    files = [p for p in (tmp_path / "a.zarr/scattering/c").rglob("*") if p.is_file()]
    assert [str(p.relative_to(tmp_path / "a.zarr/scattering/c")) for p in files] == ["1/0/1"]
    assert size == values.nbytes
    assert checksum > 0
    np.testing.assert_array_equal(array[1:2, :, 4:6], values)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_small_objects_have_the_bytes_that_zarr_gives_them(tmp_path, monkeypatch, dtype):
    """Whole ones, one at the array's end, one of nothing but NaN; written once and again."""
    shares = {"fraction": {"units": "1"}, "windowed": (0, 2)}
    made = template(dtype=np.dtype(dtype), **shares)
    rng, encoded, found = np.random.default_rng(0), [], []
    values = rng.standard_normal((2, 5, 6)).astype(dtype)
    values[1, :, :4] = np.nan

    def encode(*given):
        encoded.append(shards.encode(*given))
        return encoded[-1]

    for name, way in (("here", encode), ("zarr", lambda *_: None)):
        monkeypatch.setattr(write, "encode", way)
        written(tmp_path / name, made)
        arrays = open_arrays(str(tmp_path / name), ["scattering", "valid_fraction"])
        for factor in (2, 1):
            for station in (0, 1):
                for times in (slice(0, 4), slice(4, 6)):
                    where = (slice(station, station + 1), slice(0, 5), times)
                    block = factor * values[where]
                    write_region(arrays["scattering"], where, block)
                    write_region(arrays["valid_fraction"], where[::2], block[:, 0])
        np.testing.assert_array_equal(arrays["scattering"][...], values)
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        found.append({str(p.relative_to(tmp_path / name)): p.read_bytes() for p in files})
    assert None not in encoded
    assert found[0] == found[1]


def test_shards_of_several_chunks_are_left_to_zarr(tmp_path):
    array = zarr.create_array(
        str(tmp_path / "a.zarr"), shape=(4, 4), chunks=(2, 2), shards=(4, 4), dtype="f4"
    )
    assert shards.encode(array, np.ones((4, 4), np.float32)) is None
    values = np.arange(16, dtype=np.float32).reshape(4, 4)
    write_region(array, (slice(0, 4), slice(0, 4)), values)
    np.testing.assert_array_equal(array[...], values)


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    written(tmp_path / "a.zarr")
    array = open_arrays(str(tmp_path / "a.zarr"), ["scattering"])["scattering"]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_region(array, (slice(0, 1), slice(0, 5), slice(0, 4)), np.zeros((1, 5, 4), "f4"))
    assert not [p for p in (tmp_path / "a.zarr/scattering/c").rglob("*") if p.is_file()]


def test_a_flipped_bit_in_a_shard_is_an_error_on_reading(tmp_path):
    written(tmp_path / "a.zarr")
    array = open_arrays(str(tmp_path / "a.zarr"), ["scattering"])["scattering"]
    values = np.random.default_rng(0).standard_normal((1, 5, 4)).astype(np.float32)
    write_region(array, (slice(0, 1), slice(0, 5), slice(0, 4)), values)
    file = tmp_path / "a.zarr/scattering/c/0/0/0"
    damaged = bytearray(file.read_bytes())
    damaged[10] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match="checksum"):
        array[0]


def test_a_template_is_marked_until_it_is_finished(tmp_path):
    made = template()
    root = create(str(tmp_path / "a.zarr"), made, MARKER)
    assert zarr.open_group(str(tmp_path / "a.zarr"), mode="r").attrs[MARKER]
    finish(root, made.dataset_attrs)
    assert MARKER not in zarr.open_group(str(tmp_path / "a.zarr"), mode="r").attrs


def test_long_coordinates_are_made_piece_by_piece(tmp_path):
    asked = []

    def at(k):
        asked.append(k.size)
        return k * 0.5

    made = template(
        shape=(2, 5, 3_000_000),
        shards=(1, 5, 2**20),
        coordinates=[Coordinate.along("time", 3_000_000, at, {"units": "m"})],
    )
    written(tmp_path / "a.zarr", made)
    assert max(asked) == 2**16
    with xr.open_zarr(str(tmp_path / "a.zarr")) as ds:
        assert float(ds.time[-1]) == 1_499_999.5


def test_the_same_template_gives_the_same_bytes(tmp_path):
    for name in ("a.zarr", "b.zarr"):
        written(tmp_path / name)
    a, b = (
        {
            p.relative_to(tmp_path / n): p.read_bytes()
            for p in (tmp_path / n).rglob("*")
            if p.is_file()
        }
        for n in ("a.zarr", "b.zarr")
    )
    assert a == b


@settings(max_examples=300)
@given(st.lists(st.integers(1, 9000), min_size=1, max_size=4), st.integers(1, 900), st.data())
def test_inner_chunks_divide_the_shard_and_are_large_enough(others, paths, data):
    axis = data.draw(st.integers(0, len(others)))
    shard = (*others[:axis], paths, *others[axis:])
    rounded, chunks = inner_chunks(shard, (False,) * len(shard), axis, 4)
    assert all(n % c == 0 for n, c in zip(rounded, chunks, strict=True))
    assert all(n <= r < n + r // c for n, r, c in zip(shard, rounded, chunks, strict=True))
    assert 4 * math.prod(chunks) >= CHUNK_BYTES // 4 or chunks == rounded == shard
    assert 4 * math.prod(chunks) <= CHUNK_BYTES


@pytest.mark.parametrize("paths", [2, 10, 30, 234, 374])
def test_shards_side_by_side_keep_their_size_and_get_chunks_of_use(paths):
    for windows in (54, 98, 214, 228, 486, 994, 8162, 16369, 32738, 65510):
        for blocks in (1, 2, 4, 8, 16, 32):
            shard = (1, paths, windows * blocks)
            rounded, chunks = inner_chunks(shard, (True, False, True), 1, 4)
            assert rounded[2] == shard[2]
            assert shard[2] % chunks[2] == 0
            assert 4 * math.prod(chunks) >= CHUNK_BYTES // 4 or chunks == shard
            assert 4 * math.prod(chunks) <= 16 * CHUNK_BYTES


@pytest.mark.parametrize(
    ("rulers", "expected"),
    [
        ([Ruler("time", 0.01, "s", True)], (100.0, "Hz")),
        ([Ruler("depth", -0.5, "m", False)], (2.0, "cycles/m")),
        ([Ruler("x", 2.0, "", False)], (0.5, "cycles per unit of x")),
        ([Ruler("x", None, "", False)], (1.0, "cycles/sample")),
        (
            [Ruler("y", 0.1, "degree", False), Ruler("x", 0.1, "degree", False)],
            (10.0, "cycles/degree"),
        ),
        (
            [Ruler("y", 0.1, "degree", False), Ruler("x", 0.2, "degree", False)],
            (1.0, "cycles/sample"),
        ),
    ],
)
def test_frequencies_have_physical_units_where_they_can(rulers, expected):
    assert frequency_units(rulers) == expected
