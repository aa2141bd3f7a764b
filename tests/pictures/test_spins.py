"""Pictures of time-frequency scattering."""

import json

import numpy as np
import pytest
import xarray as xr

from scatflow.errors import SourceError
from scatflow.pictures import show
from scatflow.pictures.results import open_results
from scatflow.pictures.spins import find_bands, make_panel

XI1 = np.array([40.0, 20.0, 10.0])
START, STEP = np.datetime64("2010-09-01T00:00:00", "ns"), np.timedelta64(10, "s")


def paths(format):
    """Order 0, and per band an averaged path, a wavelet of order 1 and both spins of order 2."""
    kinds = [(1, 0, 0.0), (1, 1, 0.35), (2, 1, 0.35), (2, -1, -0.35)]
    if format == "joint":
        return [(order, spin, xi, None) for order, spin, xi in kinds]
    rows = [(order, spin, xi, f) for order, spin, xi in kinds for f in XI1]
    return [(0, 0, np.nan, np.nan), *rows]


@pytest.fixture(params=["time", "joint"])
def make_store(request, tmp_path):
    """Write a store of two records; `change` may plant something in one band and spin."""

    def make(windows=60, framed=False, change=None):
        table = paths(request.param)
        joint = request.param == "joint"
        values = {}  # (record, order, spin, band, window) of what is not 1
        if change:
            change(values)
        shape = (2, len(table), *([len(XI1) + 1] if joint else []), windows)
        data = np.ones(shape, np.float32)
        for (record, order, spin, band, window), value in values.items():
            for i, (o, s, xi, f) in enumerate(table):
                if (o, s) == (order, spin) and xi != 0.35 * (o == 1):
                    if joint:
                        data[record, i, band, window] = value
                    elif f == XI1[band]:
                        data[record, i, window] = value
        columns = list(zip(*table, strict=True))
        coords = {
            "order": ("path", np.array(columns[0])),
            "spin": ("path", np.array(columns[1])),
            "xi_fr": ("path", np.array(columns[2], float)),
            "time": START + np.arange(windows) * STEP,
            "station": np.array(["A", "B"], dtype=np.dtypes.StringDType()),
        }
        if joint:
            coords["xi1"] = ("q", np.append(XI1, np.nan), {"units": "Hz"})
        else:
            coords["xi1"] = ("path", np.array(columns[3], float), {"units": "Hz"})
        dims = ("station", "path", *(["q"] if joint else []), "time")
        if framed:
            data = np.moveaxis(data.reshape(*data.shape[:-1], 6, windows // 6), -2, 1)
            dims = ("station", "frame", *dims[1:])
            coords["frame"] = ("frame", START + np.arange(6) * 10 * STEP, {"dim": "time"})
            coords["time"] = ("time", 10.0 * np.arange(windows // 6), {"units": "s"})
        spec = json.dumps({"kind": "timefrequency", "J": 5, "J_fr": 2, "Q": [1, 1]})
        dataset = xr.Dataset({"scattering": (dims, data)}, coords, {"scatflow_spec": spec})
        path = tmp_path / "spins.zarr"
        dataset.to_zarr(path, mode="w", zarr_format=3, consolidated=False)
        return str(path)

    return make


def planted(values):
    values[0, 2, 1, 1, 12] = 8.0  # station A, 20 Hz: rises at window 12,
    values[0, 2, -1, 2, 40] = 4.0  # 10 Hz: falls at window 40
    values[1, 1, 0, 0, 5] = 100.0  # station B: loud at 40 Hz


@pytest.mark.parametrize("framed", [False, True])
def test_what_rises_and_falls_is_found_where_it_is(make_store, framed):
    store = make_store(framed=framed, change=planted)
    lines = show(store)
    assert lines[0].endswith("2 records; 60 windows")
    assert "A: patterns rise most at 2010-09-01 00:02:00, 20 Hz (8 times)" in lines[1]
    assert "fall most at 2010-09-01 00:06:40, 10 Hz (4 times)" in lines[1]


def test_levels_are_those_of_averaged_paths(make_store):
    results = open_results(make_store(change=planted))
    grid, bands = results.grid("time"), find_bands(results)
    np.testing.assert_array_equal(bands.xi1, XI1[::-1])
    _, where = list(results.records())[1]
    panel = make_panel(results, "B", where, grid, bands, 1)
    expected = np.ones((3, 60))
    expected[2, 5] = 100.0
    np.testing.assert_array_equal(panel.level, expected)
    halved = make_panel(results, "B", where, grid, bands, 7)
    assert halved.level.shape == (3, 9)
    assert halved.level[2, 0] == pytest.approx((6 + 100) / 7)
    np.testing.assert_array_equal(halved.level[:, -1], 1)


def test_a_run_shows_its_gaps(make_store):
    def holes(values):
        for band in range(3):
            for order, spin in ((1, 0), (2, 1), (2, -1)):
                values[0, order, spin, band, 3] = np.nan

    lines = show(make_store(change=holes))
    assert any("A: 1 columns hold no values" in line for line in lines)


def test_one_row_for_all_frequencies_cannot_be_drawn(tmp_path):
    spec = json.dumps({"kind": "timefrequency"})
    coords = {"order": ("path", [1, 2]), "xi1": ("path", [np.nan, np.nan])}
    data = xr.Dataset({"scattering": (("path", "time"), np.ones((2, 5)))}, coords)
    data.assign_attrs(scatflow_spec=spec).to_zarr(tmp_path / "a.zarr", consolidated=False)
    with pytest.raises(SourceError, match="names no frequency of the first order"):
        show(str(tmp_path / "a.zarr"))
