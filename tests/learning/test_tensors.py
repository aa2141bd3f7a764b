"""Windows for PyTorch: each once an epoch, in an order that repeats, whoever reads them."""

import pickle

import numpy as np
import pytest
import torch
import xarray as xr
from torch.utils.data import DataLoader

import scatflow
from scatflow.errors import ParameterError, SourceError
from scatflow.learning import BlockSampler, CoefficientDataset, CoefficientStream, StandardScaler

# A forked worker warns that its parent has threads; torch, that two are as many as there are.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]

LABELS = xr.DataArray([3, 1], {"station": ["UV07", "UV05"]}, "station")


def sorted_rows(matrix):
    return matrix[np.lexsort(matrix.T)]


def read(dataset, **options):
    """Return all that a loader gives as a matrix, or as one and its labels."""
    items = list(DataLoader(dataset, **options))
    if isinstance(items[0], list):
        return tuple(torch.cat(each).numpy() for each in zip(*items, strict=True))
    return torch.cat(items).numpy()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_each_window_comes_once_to_any_number_of_workers(archive, workers):
    expected = archive.rows.values
    stream = CoefficientStream(archive.store, size=100)
    found = read(stream, batch_size=None, num_workers=workers)
    np.testing.assert_array_equal(sorted_rows(found), sorted_rows(expected))
    if workers < 2:
        np.testing.assert_array_equal(found, expected)
    windows = CoefficientDataset(archive.store)
    np.testing.assert_array_equal(read(windows, batch_size=90, num_workers=workers), expected)


def test_labels_that_no_window_has_are_told_before_an_epoch_without_any(archive):
    others = LABELS.assign_coords(station=["UV01", "UV02"])
    with pytest.raises(SourceError, match="equal coordinates"):
        CoefficientStream(archive.store, labels=others)


def test_labels_of_another_byte_order_are_numbers_like_others(archive):
    stream = CoefficientStream(archive.store, size=100, labels=LABELS.astype(">f8"))
    assert set(read(stream, batch_size=None)[1].tolist()) == {1.0, 3.0}


def test_single_windows_are_put_together_by_the_loader(archive):
    first = next(iter(DataLoader(CoefficientStream(archive.store), batch_size=32)))
    np.testing.assert_array_equal(first, archive.rows.values[:32])
    assert first.dtype == torch.float32


def test_epochs_are_shuffled_anew_and_repeat(archive):
    stream = CoefficientStream(archive.store, size=64, shuffle=True, seed=5, pool=2)
    options = {"batch_size": None, "num_workers": 2, "persistent_workers": True}
    loader = DataLoader(stream, **options)
    epochs = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)  # The workers last.
        epochs.append(torch.cat(list(loader)).numpy())
    np.testing.assert_array_equal(epochs[0], epochs[2])
    assert (epochs[0] != epochs[1]).any()
    for found in epochs:
        np.testing.assert_array_equal(sorted_rows(found), sorted_rows(archive.rows.values))


def test_labels_come_with_their_windows(archive):
    rows = archive.rows
    known = np.isin(rows.station.values, ["UV05", "UV07"])
    expected = np.where(rows.station.values[known] == "UV07", 3, 1)
    for dataset in (
        CoefficientStream(archive.store, labels=LABELS),
        CoefficientDataset(archive.store, labels=LABELS),
    ):
        x, y = read(dataset, batch_size=64)
        np.testing.assert_array_equal(x, rows.values[known])
        np.testing.assert_array_equal(y, expected)
    with pytest.raises(ParameterError, match="Number them"):
        CoefficientStream(archive.store, labels=LABELS.astype(str))


@pytest.mark.parametrize("kind", ["job", "array"])
def test_forked_workers_compute_what_they_read(archive, kind):
    engine = scatflow.Scattering1D(J=4)
    lazy = archive.waveform.chunk(station=1)
    source = archive.job() if kind == "job" else scatflow.scatter(lazy, engine, boundary="seamless")
    stream = CoefficientStream(source, size=100)
    here = read(stream, batch_size=None)  # With the parent's threads.
    np.testing.assert_array_equal(sorted_rows(here), sorted_rows(archive.rows.values))
    there = read(stream, batch_size=None, num_workers=2, multiprocessing_context="fork")
    np.testing.assert_array_equal(sorted_rows(there), sorted_rows(here))


def test_spawned_workers_compute_what_they_read(archive):
    stream = CoefficientStream(archive.job(), size=100)
    options = {"batch_size": None, "num_workers": 1, "multiprocessing_context": "spawn"}
    np.testing.assert_array_equal(read(stream, **options), archive.rows.values)


def test_data_sets_travel_without_what_they_have_read(archive):
    windows = CoefficientDataset(archive.store)
    windows[0]
    again = pickle.loads(pickle.dumps(windows))
    assert len(pickle.dumps(windows)) < 20_000
    np.testing.assert_array_equal(again[77], archive.rows.values[77])


def test_any_window_is_found_by_its_number(archive):
    windows = CoefficientDataset(archive.store, cache=1)
    assert len(windows) == len(archive.rows)
    numbers = np.random.default_rng(0).integers(-len(windows), len(windows), 50)
    found = torch.stack(windows.__getitems__(numbers.tolist()))
    np.testing.assert_array_equal(found, archive.rows.values[numbers])
    with pytest.raises(IndexError, match="numbered from 0"):
        windows[len(windows)]


def test_a_sampler_goes_block_by_block_and_shuffles(archive):
    windows = CoefficientDataset(archive.store, cache=2)
    sampler = BlockSampler(windows, pool=2, seed=3)
    first, again = list(sampler), list(sampler)
    sampler.set_epoch(1)
    other = list(sampler)
    assert first == again != other
    assert sorted(first) == sorted(other) == list(range(len(windows))) != first
    blocks = np.searchsorted(windows.ends, first[:100], side="right")
    assert len(set(blocks.tolist())) == 2
    found = read(windows, batch_size=64, sampler=sampler)
    np.testing.assert_array_equal(found, archive.rows.values[other])
    assert list(BlockSampler(windows, shuffle=False)) == list(range(len(windows)))
    with pytest.raises(ParameterError, match="cache=3"):
        BlockSampler(windows, pool=3)


def test_tensors_own_contiguous_memory_that_can_be_pinned(archive):
    for dataset in (CoefficientStream(archive.store, size=64), CoefficientDataset(archive.store)):
        x = next(iter(dataset)) if isinstance(dataset, CoefficientStream) else dataset[3]
        assert x.is_contiguous()
        assert x.device.type == "cpu"
        x += 1  # Nobody else's.
    np.testing.assert_array_equal(dataset[3], archive.rows.values[3])


def test_windows_are_changed_where_they_are_read(archive):
    scaler = StandardScaler().fit_store(archive.store)
    stream = CoefficientStream(archive.store, size=200, transform=scaler.transform)
    found = read(stream, batch_size=None)
    np.testing.assert_allclose(found, scaler.transform(archive.rows.values), rtol=1e-6)


def test_windows_that_are_not_finite_are_told(archive):
    windows = CoefficientDataset(archive.store, min_valid=0.0)
    with pytest.raises(SourceError, match=r"station UV06.*min_valid=1\.0"):
        read(windows, batch_size=512)


def test_an_empty_data_set_is_told(archive):
    with pytest.raises(SourceError, match="nothing to learn from"):
        CoefficientDataset(archive.store, labels=LABELS.assign_coords(station=["A", "B"]))
