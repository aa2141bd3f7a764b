"""Batches of an archive: every valid window once, in the order that is told, in bounded memory."""

import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import IncrementalPCA
from sklearn.linear_model import SGDClassifier

import scatflow
from scatflow.errors import JobError, ParameterError, SourceError, SourceNotFoundError
from scatflow.flow import layout
from scatflow.flow.job import load
from scatflow.flow.plan import prepare
from scatflow.flow.run import run
from scatflow.learning import batches, open_result
from scatflow.learning.rows import Batch, Rows


def whole(found):
    return Batch.joined(list(found))


def sorted_rows(matrix):
    return matrix[np.lexsort(matrix.T)]


def test_each_valid_window_comes_once_in_the_order_of_the_archive(archive):
    found = list(batches(archive.store, size=100))
    expected = archive.rows
    assert [len(b) for b in found[:-1]] == [100] * (len(found) - 1)
    joined = whole(found)
    np.testing.assert_array_equal(joined.X, expected.values)
    np.testing.assert_array_equal(joined.names, expected.feature.values)
    np.testing.assert_array_equal(joined.coords["station"], expected.station.values)
    np.testing.assert_array_equal(joined.coords["time"], expected.time.values)
    assert len(joined) < archive.coefficients.scat.features().shape[0]  # There is a gap.
    assert all(b.X.flags.c_contiguous and b.X.dtype == np.float32 for b in found)


@pytest.mark.parametrize("chunks", [{}, {"station": 3, "path": 7, "time": 100}, {"time": 1000}])
def test_order_does_not_depend_on_chunks_along_time(archive, chunks):
    found = whole(batches(archive.coefficients.chunk({"station": 1, **chunks}), size=77))
    if chunks.get("station") == 3:  # Blocks are boxes of chunks.
        np.testing.assert_array_equal(sorted_rows(found.X), sorted_rows(archive.rows.values))
    else:
        np.testing.assert_array_equal(found.X, archive.rows.values)


def test_coefficients_in_memory_are_batched_too(archive):
    found = whole(batches(archive.coefficients, size=50))
    np.testing.assert_array_equal(found.X, archive.rows.values)


def test_what_scat_selects_and_changes_is_what_is_learned_from(archive):
    chosen = open_result(archive.store).scat.renormalise().scat.order(2).scat.log(floor=1e-3)
    expected = archive.coefficients.scat.renormalise().scat.order(2).scat.log(floor=1e-3)
    matrix = expected.scat.features()
    keep = np.isfinite(matrix.values).all(axis=1)
    np.testing.assert_allclose(whole(batches(chosen)).X, matrix.values[keep], rtol=1e-6)
    with pytest.raises(ParameterError, match=r"each batch would read the whole archive.*State one"):
        batches(open_result(archive.store).scat.log())


def test_a_record_can_be_one_row(archive):
    found = whole(batches(archive.store, samples=["station"]))
    assert found.coords["station"].tolist() == ["UV05", "UV07"]  # The other one has a gap.
    np.testing.assert_array_equal(
        found.X, archive.coefficients.scat.features("station").values[[0, 2]]
    )
    with pytest.raises(ParameterError, match="can be samples"):
        batches(archive.store, samples=["path"])


def test_shuffled_batches_hold_the_same_rows_in_an_order_that_repeats(archive):
    plain = archive.rows.values
    first, again, other = (
        whole(batches(archive.store, size=128, rng=seed, pool=3)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.X, again.X)
    assert (first.X != other.X).any()
    assert (plain != first.X).any()
    np.testing.assert_array_equal(sorted_rows(first.X), sorted_rows(plain))
    # Blocks come at random, and a pool of three is shuffled as one.
    head = whole([first.take(slice(0, 150))])
    places = set(zip(head.coords["station"], head.coords["time"], strict=True))
    assert len(places) == 150
    blocks = {(s, int((t - archive.coefficients.time.values[0]) // (128 * 160_000_000)))
              for s, t in places}  # fmt: skip
    assert len(blocks) == 3


@pytest.mark.parametrize("at_least", [1, 8, 40])
def test_a_short_rest_is_added_to_the_batch_before_it(archive, at_least):
    sizes = [len(b) for b in batches(archive.store, size=50, at_least=at_least)]
    assert sum(sizes) == len(archive.rows)
    assert sizes[:-1] == [50] * (len(sizes) - 1)
    assert at_least <= sizes[-1] < 50 + at_least


def test_windows_that_see_too_little_are_left_out(archive):
    weighted = scatflow.scatter(
        archive.waveform, scatflow.Scattering1D(J=4), boundary="seamless", gaps="weight"
    ).chunk(time=64)
    every, most = (whole(batches(weighted, min_valid=v)) for v in (0.0, 0.9))
    assert len(archive.rows) < len(most) < len(every)
    assert most.coords["valid_fraction"].min() >= 0.9
    with pytest.raises(ParameterError, match="a share"):
        batches(weighted, min_valid=2)


def test_labels_are_found_by_their_coordinates(archive):
    ds = archive.coefficients
    classes = xr.DataArray([7, 5], {"station": ["UV07", "UV05"]}, "station")
    found = whole(batches(archive.store, labels=classes, rng=0, size=30))
    assert dict(zip(found.coords["station"], found.y, strict=True)) == {"UV05": 5, "UV07": 7}
    assert found.y.dtype == classes.dtype
    # Some windows of some stations, in another order and another unit of time.
    times = ds.time.values[[400, 3, 70]].astype("datetime64[us]")
    names = xr.DataArray(
        np.array([["a", None, "b"], ["c", "d", "e"]], object),
        {"station": ["UV07", "UV06"], "time": times},
        ("station", "time"),
    )
    found = whole(batches(archive.store, labels=names, size=30))
    rows = zip(found.coords["station"], found.coords["time"], found.y, strict=True)
    told = {(s, int(np.flatnonzero(ds.time.values == t)[0])): y for s, t, y in rows}
    expected = {("UV07", 400): "a", ("UV07", 70): "b", ("UV06", 400): "c", ("UV06", 3): "d"}
    gap = np.isnan(ds.scattering.sel(station="UV06").values[0])
    assert list(gap[[3, 70]]) == [False, True]
    assert told == expected


def test_windows_in_memory_keep_their_labels_of_text(archive):
    names = np.array(["BK", "CI", "BK"], object)
    named = archive.coefficients.assign_coords(network=("station", names)).load()
    found = whole(batches(named, size=50))
    of = dict(zip(named.station.values, names, strict=True))
    assert found.coords["network"].tolist() == [of[s] for s in found.coords["station"]]


def test_rows_of_a_store_are_read_by_processes_of_another_folder(archive, tmp_path, monkeypatch):
    place = Path(archive.store)
    monkeypatch.chdir(place.parent)
    sent = pickle.dumps(Rows(place.name))
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(pickle.loads(sent).read(0).X, Rows(archive.store).read(0).X)


def test_labels_that_do_not_fit_are_told(archive):
    late = archive.coefficients.time + np.timedelta64(1, "ns")
    shifted = xr.DataArray(np.zeros(late.size), {"time": late.values}, "time")
    with pytest.raises(SourceError, match=r"labels: time from 2010-09-01.*equal coordinates"):
        list(batches(archive.store, labels=shifted))
    with pytest.raises(ParameterError, match="dimensions of samples"):
        batches(archive.store, labels=xr.DataArray([1], dims="day"))
    twice = xr.DataArray([1, 2], {"station": ["UV05", "UV05"]}, "station")
    with pytest.raises(ParameterError, match=r"more than once.*drop_duplicates"):
        batches(archive.store, labels=twice)
    with pytest.raises(ParameterError, match="There are no labels"):
        batches(archive.store, labels=twice[:0])
    with pytest.raises(ParameterError, match="the labels have none"):
        batches(archive.store, labels=xr.DataArray([1, 2, 3], dims="station"))


def test_an_archive_without_a_valid_window_is_not_an_empty_lesson(archive):
    nothing = archive.coefficients * np.nan
    with pytest.raises(SourceError, match="there is nothing to learn from"):
        list(batches(nothing))


@pytest.mark.parametrize("options", [{"size": 0}, {"pool": 0}, {"at_least": 1.5}])
def test_numbers_that_make_no_sense_are_told(archive, options):
    with pytest.raises(ParameterError, match="at least 1"):
        batches(archive.store, **options)


def test_what_is_no_result_is_told(archive, tmp_path):
    with pytest.raises(SourceNotFoundError, match="nothing to learn from"):
        batches(tmp_path / "gone.zarr")
    with pytest.raises(JobError):
        batches(tmp_path / "gone.toml")
    with pytest.raises(SourceError, match="no scattering coefficients"):
        batches(xr.Dataset())
    with pytest.raises(ParameterError, match=r"scatflow\.scatter"):
        batches(archive.waveform)


def test_memory_is_that_of_a_few_blocks(tmp_path):
    store, blocks, windows, paths = str(tmp_path / "long.zarr"), 20, 4096, 64
    group = zarr.open_group(store, mode="w")
    size = windows * paths * 4
    array = group.create_array(
        "scattering",
        shape=(paths, windows * blocks),
        chunks=(32, windows),
        dtype="float32",
        dimension_names=("path", "time"),
    )
    for k in range(blocks):
        array[:, k * windows : (k + 1) * windows] = np.random.default_rng(k).random(
            (paths, windows), np.float32
        )
    list(zip(range(2), batches(store), strict=False))  # What is imported and compiled once.
    tracemalloc.start()
    rows = sum(len(batch) for batch in batches(store, size=1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == windows * blocks
    print(f"peak {peak / size:.1f} of {blocks} blocks")
    assert peak < 8 * size


def test_blocks_that_are_not_computed_are_told(archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(layout, "TARGET_SAMPLES", 2**13)
    assert run(prepare(load(archive.job()), str(tmp_path)), say=lambda _: None) == 0
    found = whole(batches(tmp_path / "out.zarr"))
    np.testing.assert_array_equal(found.X, archive.rows.values)
    np.testing.assert_array_equal(found.coords["time"], archive.rows.time.values)
    ledger = zarr.open_group(str(tmp_path / "out.zarr"), mode="r+", use_consolidated=False)
    ledger["ledger/state"][0] = 2
    with pytest.warns(UserWarning, match=r"Of the \d+ blocks of .*, 1 failed"):
        batches(tmp_path / "out.zarr")


@pytest.mark.parametrize("boundary", ["seamless", "whole"])
def test_a_job_is_computed_as_it_is_read(archive, monkeypatch, tmp_path, boundary):
    engine = scatflow.Scattering1D(J=4)
    expected = scatflow.scatter(archive.waveform, engine, boundary=boundary)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(layout, "TARGET_SAMPLES", 2**13)
    opened = open_result(archive.job(boundary))
    assert opened.scat.n_blocks == 3
    xr.testing.assert_equal(opened.compute(), expected)
    assert set(opened.coords) == set(expected.coords)
    found = whole(batches(archive.job(boundary), size=100))
    matrix = expected.scat.features()
    keep = np.isfinite(matrix.values).all(axis=1)
    np.testing.assert_array_equal(found.X, matrix.values[keep])
    assert not list(tmp_path.iterdir())  # Nothing is written.


def test_scikit_learn_learns_from_batches(archive):
    labels = xr.DataArray(["a", "b"], {"station": ["UV05", "UV07"]}, "station")
    model = SGDClassifier(random_state=0)
    for batch in batches(archive.store, labels=labels, rng=0):
        model.partial_fit(batch.X, batch.y, classes=["a", "b"])
    assert model.predict(batch.X).shape == batch.y.shape
    means = MiniBatchKMeans(3, random_state=0, n_init=1)
    parts = IncrementalPCA(5)
    for batch in batches(archive.store, size=60, at_least=5):
        means.partial_fit(batch.X)
        parts.partial_fit(batch.X)
    assert parts.n_samples_seen_ == len(archive.rows)
    assert means.cluster_centers_.shape == (3, archive.rows.shape[1])


def test_blocks_are_counted_without_reading_coefficients(archive):
    rows = Rows(archive.store, min_valid=1.0)
    counts = [int(rows.kept(k).sum()) for k in range(rows.n_blocks)]
    assert counts == [len(rows.read(k)) for k in range(rows.n_blocks)]
    assert sum(counts) == len(archive.rows) < sum(rows.size(k) for k in range(rows.n_blocks))


@pytest.mark.parametrize(("name", "module"), [("PCA", "sklearn"), ("CoefficientStream", "torch")])
def test_a_missing_extra_is_told_with_its_remedy(name, module):
    program = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "import scatflow.learning as learning\n"
        "from scatflow.errors import MissingExtraError\n"
        f"try: learning.{name}\n"
        "except MissingExtraError as error: print(error)\n"
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert f'pip install "scatflow[{module}]"' in done.stdout
