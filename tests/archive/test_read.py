"""Reading any slab of any store equals NumPy on the whole array."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from scatflow.archive import open_source
from scatflow.archive.decoding import Decoding, read_dtype
from scatflow.errors import SourceError

DTYPES = ["bool", "int8", "uint8", "<i2", ">i2", ">u2", "<i4", ">i4", "uint32", "int64", ">u8"]
DTYPES += ["float16", ">f2", "float32", ">f4", "float64", ">f8"]


@st.composite
def arrays(draw):
    """Draw an array as stored: its shape, chunks, dtype, byte order, format, sharding."""
    ndim = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, 9)) for _ in range(ndim))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 100, shape).astype(dtype)
    chunks = tuple(draw(st.integers(1, n)) for n in shape)
    zarr_format = draw(st.sampled_from([2, 3]))
    options = {"order": draw(st.sampled_from("CF"))} if zarr_format == 2 else {}
    if zarr_format == 3 and draw(st.booleans()):
        options["shards"] = tuple(2 * c for c in chunks)
    # Chunks of zeros that are left out would be gaps.
    options["config"] = {"write_empty_chunks": True}
    return values, {"chunks": chunks, "zarr_format": zarr_format, **options}


@st.composite
def ranges(draw, shape):
    """Draw a non-empty range along each dim."""
    starts = [draw(st.integers(0, n - 1)) for n in shape]
    return [[a, draw(st.integers(a + 1, n))] for a, n in zip(starts, shape, strict=True)]


@settings(max_examples=60)
@given(data=st.data())
def test_chunks_that_are_gone_are_nan_and_zeros_that_are_there_are_zeros(data):
    values, options = data.draw(arrays())
    values = values * (values % 3 > 0).astype(values.dtype)
    size = options.get("shards", options["chunks"])
    counts = [-(-n // c) for n, c in zip(values.shape, size, strict=True)]
    gone = data.draw(st.sets(st.tuples(*(st.integers(0, n - 1) for n in counts)), max_size=4))
    expected = values.astype(read_dtype(values.dtype))
    inner = tuple(slice(*r) for r in data.draw(ranges(values.shape)))
    with tempfile.TemporaryDirectory() as folder:
        array = zarr.create_array(f"{folder}/a.zarr", data=values, **options)
        for chunk in gone:
            Path(folder, "a.zarr", array.metadata.encode_chunk_key(chunk)).unlink()
            box = tuple(slice(k * c, (k + 1) * c) for k, c in zip(chunk, size, strict=True))
            expected[box] = np.nan
        dims = [f"d{i}" for i in range(values.ndim)]
        got, absent = open_source(f"{folder}/a.zarr", dims=dims).load(inner)
        fill = open_source(f"{folder}/a.zarr", dims=dims, absent="fill").read(inner)
    np.testing.assert_array_equal(got, expected[inner])
    assert absent == np.isnan(expected[inner]).sum()
    np.testing.assert_array_equal(fill, np.nan_to_num(expected[inner]))


@settings(max_examples=120)
@given(data=st.data())
def test_a_slab_of_a_selection_equals_numpy(data):
    values, options = data.draw(arrays())
    dims = [f"d{i}" for i in range(values.ndim)]
    outer = data.draw(ranges(values.shape))
    picked = values[tuple(slice(*r) for r in outer)]
    inner = tuple(slice(*r) for r in data.draw(ranges(picked.shape)))
    with tempfile.TemporaryDirectory() as folder:
        zarr.create_array(f"{folder}/a.zarr", data=values, **options)
        isel = dict(zip(dims, outer, strict=True))
        source = open_source(f"{folder}/a.zarr", dims=dims, isel=isel)
        got = source.read(inner)
    assert source.shape == picked.shape
    assert got.dtype == source.read_dtype == read_dtype(values.dtype)
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, picked[inner].astype(got.dtype))


@settings(max_examples=80)
@given(data=st.data(), mark=st.integers(0, 20), scale=st.sampled_from([1.0, 0.5, 0.1, -3.0]))
def test_marked_values_become_nan_and_the_others_are_scaled(data, mark, scale):
    values, options = data.draw(arrays())
    if values.dtype.kind == "b":
        mark = 1
    offset = data.draw(st.sampled_from([0.0, -1.5]))
    key = data.draw(st.sampled_from(["_FillValue", "missing_value"]))
    attrs = {key: mark if values.dtype.kind in "iub" else float(mark)}
    attrs |= {"scale_factor": scale, "add_offset": offset}
    out = data.draw(st.sampled_from([np.float32, np.float64]))
    with tempfile.TemporaryDirectory() as folder:
        array = zarr.create_array(f"{folder}/a.zarr", data=values, **options)
        array.attrs.update(attrs)
        dims = [f"d{i}" for i in range(values.ndim)]
        source = open_source(f"{folder}/a.zarr", dims=dims)
        got = source.read([slice(None)] * values.ndim, dtype=out)
    expected = (values.astype(np.float64) * scale + offset).astype(out)
    expected[values == values.dtype.type(mark)] = np.nan
    assert got.dtype == out
    np.testing.assert_array_equal(got, expected)


@settings(max_examples=60)
@given(
    names=st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=7),
    chunk=st.integers(1, 7),
    start=st.integers(0, 6),
    length=st.integers(0, 7),
)
def test_any_list_of_names_reads_in_its_order(names, chunk, start, length):
    values = np.arange(7 * 5, dtype=np.int16).reshape(7, 5)
    with tempfile.TemporaryDirectory() as folder:
        group = zarr.open_group(folder, mode="w")
        options = {"chunks": (chunk, 2), "dimension_names": ("name", "t")}
        group.create_array("x", data=values, **options)
        labels = group.create_array("name", shape=(7,), dtype=str, dimension_names=("name",))
        labels[...] = np.array(list("abcdefg"), dtype=object)
        source = open_source(folder, sel={"name": names})
        got = source.read((slice(start, start + length), slice(1, 4)))
        assert source.coords["name"].values.tolist() == names
    rows = ["abcdefg".index(name) for name in names]
    np.testing.assert_array_equal(got, values[rows][start : start + length, 1:4])


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("fill", [np.nan, -9999.0, 1e20])
def test_float_fill_values_that_xarray_writes_are_understood(tmp_path, zarr_format, fill):
    dataset = xr.Dataset({"x": (("t",), np.array([1.0, np.nan, 3.0], np.float32))})
    encoding = {"x": {"_FillValue": np.float32(fill)}}
    path = str(tmp_path / "x.zarr")
    dataset.to_zarr(path, zarr_format=zarr_format, encoding=encoding, consolidated=False)
    np.testing.assert_array_equal(open_source(path).read((slice(None),)), dataset["x"].values)


def test_the_fill_value_of_a_v2_store_means_missing(tmp_path):
    path = str(tmp_path / "x.zarr")
    array = zarr.create_array(
        path, shape=(6,), chunks=(3,), dtype="i4", fill_value=-1, zarr_format=2
    )
    array[:3] = [5, -1, 7]
    got = open_source(path, dims=["t"]).read((slice(None),))
    np.testing.assert_array_equal(got, [5, np.nan, 7, np.nan, np.nan, np.nan])


def test_chunks_that_were_never_written_are_missing_where_the_store_says_so(tmp_path):
    path = str(tmp_path / "x.zarr")
    options = {"dtype": "i4", "fill_value": -1, "attributes": {"_FillValue": -1}}
    zarr.create_array(path, shape=(6,), chunks=(3,), **options)[:3] = [5, 6, 7]
    got = open_source(path, dims=["t"]).read((slice(None),))
    np.testing.assert_array_equal(got, [5, 6, 7, np.nan, np.nan, np.nan])


def test_unsigned_numbers_stored_as_signed_ones_are_read(tmp_path):
    path = str(tmp_path / "x.zarr")
    array = zarr.create_array(path, data=np.array([1, -1, -2], np.int8))
    array.attrs.update({"_Unsigned": "true", "_FillValue": -1})
    np.testing.assert_array_equal(
        open_source(path, dims=["t"]).read((slice(None),)), [1, np.nan, 254]
    )


def test_numbers_beyond_float32_become_infinite():
    got = Decoding()(np.array([1e300, 1.0]), np.dtype(np.float32))
    assert got.tolist() == [np.inf, 1.0]


@pytest.mark.parametrize("value", ["much", [], {"a": 1}, None])
def test_an_attribute_that_is_no_number_is_refused(tmp_path, value):
    path = str(tmp_path / "x.zarr")
    zarr.create_array(path, data=np.ones(3)).attrs["scale_factor"] = value
    with pytest.raises(SourceError, match="scale_factor"):
        open_source(path, dims=["t"])


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("scale_factor", 0, "is 0, so all samples would be the same"),
        ("scale_factor", "nan", "is not finite"),
        ("add_offset", "inf", "is not finite"),
        ("scale_factor", [1.0, 2.0], "is 2 numbers, and one belongs to the whole variable"),
        ("add_offset", [0.0, 0.0], "is 2 numbers"),
    ],
)
def test_a_scale_that_no_sample_survives_is_refused(tmp_path, key, value, why):
    path = str(tmp_path / "x.zarr")
    zarr.create_array(path, data=np.ones(3)).attrs[key] = value
    with pytest.raises(SourceError, match=f"{key} {why}.*Correct or remove the attribute"):
        open_source(path, dims=["t"])
