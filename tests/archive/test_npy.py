import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scatflow.archive import open_source
from scatflow.archive.ingest import chunk_shape, ingest, slabs
from scatflow.archive.npy import ingest_npy
from scatflow.errors import IngestError


@pytest.fixture
def npy(tmp_path):
    def make(name, values):
        np.save(tmp_path / name, values)
        return tmp_path / name

    return make


def everything(source):
    return source.read([slice(None)] * len(source.shape))


@pytest.mark.parametrize("dtype", ["bool", "int16", ">i4", "uint8", "float32", ">f8", "int64"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_round_trips_with_its_names_and_steps(npy, tmp_path, dtype, order):
    values = np.asarray(np.arange(12).reshape(3, 4) % 5, dtype=dtype, order=order)
    out = tmp_path / "o.zarr"
    done = ingest_npy(npy("x.npy", values), out, dims="y,x", step="0.5,1/3", units="mm,s")
    source = open_source(str(out))
    assert (done.dims, done.shape) == (source.dims, source.shape) == (("y", "x"), (3, 4))
    assert source.dtype == np.dtype(dtype).newbyteorder("=")
    assert source.axes["y"].step == 0.5
    assert source.axes["x"].rate_hz == 3.0
    assert source.attrs == {"sampling_rate": 3.0}
    np.testing.assert_array_equal(everything(source), values.astype(source.read_dtype))


def test_chunks_of_zeros_are_stored_and_are_no_gaps(npy, tmp_path):
    ingest_npy(npy("x.npy", np.zeros((300, 5000), np.int16)), tmp_path / "o.zarr")
    values, absent = open_source(str(tmp_path / "o.zarr")).load([slice(None)] * 2)
    assert absent == 0
    assert (values == 0).all()


def test_files_stack_along_item_with_their_stems(npy, tmp_path):
    values = np.arange(24.0).reshape(2, 3, 4)
    paths = [npy("b.npy", values[0]), npy("a.npy", values[1])]
    ingest_npy(paths, tmp_path / "o.zarr", dims=["y", "x"], step=0.1, units="m")
    source = open_source(str(tmp_path / "o.zarr"))
    assert source.dims == ("item", "y", "x")
    assert source.coords["item"].values.tolist() == ["b", "a"]
    assert source.axes["x"].exact_step.denominator == 10
    np.testing.assert_array_equal(everything(source), values)


def test_files_of_one_name_are_told_apart_by_their_folders(npy, tmp_path):
    (tmp_path / "sub").mkdir()
    paths = [npy("a.npy", np.ones(3)), npy("sub/a.npy", np.ones(3))]
    ingest_npy(paths, tmp_path / "o.zarr")
    assert open_source(str(tmp_path / "o.zarr")).coords["item"].values.tolist() == ["a", "sub/a"]


def test_infinities_nans_and_zeros_are_kept(npy, tmp_path):
    values = np.array([0.0, np.nan, np.inf, -np.inf])
    ingest_npy(npy("x.npy", values), tmp_path / "o.zarr")
    np.testing.assert_array_equal(everything(open_source(str(tmp_path / "o.zarr"))), values)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.ones(3, np.complex64), "complex64"),
        (np.array(["a"]), "<U1"),
        (np.zeros(3, [("a", "f4")]), "real numbers"),
        (np.array([1, 2], "datetime64[s]"), "datetime64"),
        (np.float64(1), "no samples"),
        (np.ones((0, 3)), "no samples"),
    ],
)
def test_what_is_no_array_of_real_numbers_is_refused(npy, tmp_path, values, reason):
    with pytest.raises(IngestError, match=reason):
        ingest_npy(npy("x.npy", values), tmp_path / "o.zarr")
    assert not list(tmp_path.glob("o.zarr*"))


def test_python_objects_are_never_loaded(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    with pytest.raises(IngestError, match="never loaded"):
        ingest_npy(tmp_path / "x.npy", tmp_path / "o.zarr")


def test_an_npz_archive_is_refused_with_the_remedy(tmp_path):
    np.savez(tmp_path / "x.npy.npz", a=np.ones(3))
    with pytest.raises(IngestError, match="ingest it as npz"):
        ingest_npy(tmp_path / "x.npy.npz", tmp_path / "o.zarr")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_npy_is_refused(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(IngestError, match=r"x\.npy (is|cannot)"):
        ingest_npy(tmp_path / "x.npy", tmp_path / "o.zarr")


def test_a_file_that_was_cut_is_refused(npy, tmp_path):
    path = npy("x.npy", np.ones(1000))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(IngestError, match="cannot be read"):
        ingest_npy(path, tmp_path / "o.zarr")


@pytest.mark.parametrize("other", [np.ones(4), np.ones(3, np.float32)])
def test_files_that_differ_are_refused(npy, tmp_path, other):
    with pytest.raises(IngestError, match="alike"):
        ingest_npy([npy("a.npy", np.ones(3)), npy("b.npy", other)], tmp_path / "o.zarr")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dims": "y"}, "2 dimensions"),
        ({"dims": "y,y"}, "2 dimensions"),
        ({"step": "much"}, "no number"),
        ({"step": 0}, "one place"),
        ({"step": [1, 2, 3]}, "3 values"),
        ({"units": "mm"}, "without a step"),
    ],
)
def test_names_and_steps_that_do_not_fit_are_refused(npy, tmp_path, options, reason):
    with pytest.raises(IngestError, match=reason):
        ingest_npy(npy("x.npy", np.ones((2, 2))), tmp_path / "o.zarr", **options)


def test_a_dimension_called_item_cannot_be_stacked(npy, tmp_path):
    paths = [npy("a.npy", np.ones(3)), npy("b.npy", np.ones(3))]
    with pytest.raises(IngestError, match="rename"):
        ingest_npy(paths, tmp_path / "o.zarr", dims="item")


def test_progress_ends_at_the_total(npy, tmp_path):
    seen = []
    ingest(
        "npy",
        [npy("x.npy", np.ones(10**6))],
        tmp_path / "o.zarr",
        on_progress=lambda *a: seen.append(a),
    )
    assert seen[-1] == (8 * 10**6, 8 * 10**6)
    assert seen == sorted(seen)


@settings(max_examples=200)
@given(
    shape=st.lists(st.integers(1, 5000), min_size=1, max_size=4),
    most=st.integers(1, 10**6),
    itemsize=st.sampled_from([1, 2, 8]),
)
def test_slabs_are_whole_chunks_within_the_limit(shape, most, itemsize):
    chunks = chunk_shape(shape, 4096)
    assert np.prod(chunks) <= 4096
    covered = 0
    for i, slab in enumerate(slabs(shape, chunks, itemsize, most)):
        size = int(np.prod([part.stop - part.start for part in slab]))
        covered += size
        assert all(part.start % c == 0 for part, c in zip(slab, chunks, strict=True))
        assert size * itemsize <= max(most, int(np.prod(chunks)) * itemsize)
        if i > 500:
            return
    assert covered == int(np.prod(shape))
