import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from matplotlib.image import imread

from scatflow.pictures import show
from scatflow.pictures.unusual import pick_peaks


def ranked(lines: list[str]) -> list[str]:
    return [line for line in lines if "score" in line and line.lstrip()[0].isdigit()]


def test_the_planted_event_comes_first_at_its_time_and_frequency(make_signals):
    def plant(values):
        values[:, 3:6, 2658] *= [20.0, 50.0, 20.0]
        values[:, 4, 100] *= 4.0

    lines = show(make_signals(records=2, windows=4000, change=plant))
    header = next(line for line in lines if line.startswith("UV00: most unusual"))
    assert "± 5.12 s" in header
    tops = [line for line in ranked(lines) if line.split()[0] == "1"]
    assert len(tops) == 2
    expected = np.geomspace(40.0, 1.0, 8)[3]
    for line in tops:
        assert "2010-09-01 07:33:38" in line
        assert f"{expected:.3g} Hz" in line
    assert len(ranked(lines)) == 20


def test_neighbours_of_a_peak_are_one_event():
    scores = np.ones(100)
    scores[40:45] = [3.0, 8.0, 10.0, 8.0, 3.4]
    scores[70] = 5.0
    peaks = pick_peaks(scores, count=3, reach=2)
    assert peaks[:2] == [42, 70]
    assert all(abs(a - b) > 2 for a, b in pairwise(sorted(peaks)))


def test_windows_without_values_have_no_rank():
    scores = np.array([np.nan, 2.0, np.nan])
    assert pick_peaks(scores, count=10, reach=1) == [1]
    assert pick_peaks(np.full(5, np.nan), count=10, reach=1) == []


def test_blocks_that_are_not_computed_are_counted_and_drawn_grey(make_signals):
    def remove(values):
        values[:, :, 50:150] = np.nan

    store = make_signals(change=remove)
    ledger = zarr.open_group(store).create_group("ledger")
    ledger.create_array("state", data=np.array([1, 0, 0, 1], np.uint8))
    lines = show(store)
    assert any("2 of 4 blocks are not computed" in line for line in lines)
    assert any("100 of 200 windows hold no values" in line for line in lines)
    pixels = imread(Path(store).with_suffix(".png"))[..., :3]
    grey = np.isclose(pixels, 0.82, atol=0.01).all(axis=-1)
    assert grey.mean() > 0.1


def test_a_store_in_which_nothing_is_computed_yet_is_drawn(make_signals):
    def remove(values):
        values[...] = np.nan

    lines = show(make_signals(change=remove))
    assert any("200 of 200 windows hold no values" in line for line in lines)
    assert not ranked(lines)


def test_a_dead_channel_is_not_an_event(make_signals):
    def silence(values):
        values[:, :, 20:60] *= 1e-9
        values[:, 4, 150] *= 100.0

    lines = show(make_signals(change=silence))
    first = ranked(lines)[0]
    assert "00:25:36" in first
    for line in ranked(lines):
        hours, minutes, seconds = map(int, line.split()[2].split(":"))
        assert not 20 <= (3600 * hours + 60 * minutes + seconds) / 10.24 < 60


def test_a_single_window_is_drawn_without_a_ranking(make_signals):
    lines = show(make_signals(records=2, windows=1))
    assert "1 window at 2010-09-01 00:00:00" in lines[0]
    assert any("none can be called unusual" in line for line in lines)


def test_of_many_records_six_are_drawn_and_named(make_signals):
    lines = show(make_signals(records=30, windows=40))
    assert "6 of 30 records drawn and listed (UV00, UV01, UV02, UV03, UV04, UV05)" in lines[0]
    assert sum("most unusual" in line for line in lines) == 6


def test_a_store_without_order_one_is_drawn_empty(tmp_path):
    data = xr.DataArray(
        np.ones((1, 20), np.float32), dims=("path", "time"), coords={"order": ("path", [0])}
    )
    data.to_dataset(name="scattering").to_zarr(tmp_path / "zero.zarr", consolidated=False)
    lines = show(str(tmp_path / "zero.zarr"))
    assert any("no order-1" in line for line in lines)


def test_frames_that_overlap_are_drawn_once(make_signals, tmp_path):
    with xr.open_zarr(make_signals(windows=200), consolidated=False) as day:
        whole = day.load()
    values = whole.scattering.values[0].copy()
    values[3, 101] *= 200.0
    starts = np.arange(0, 200 - 40 + 1, 20)
    frames = np.stack([values[:, s : s + 40] for s in starts])
    labels = {name: whole[name] for name in ("order", "xi1", "xi2")}
    framed = xr.Dataset(
        {"scattering": (("frame", "path", "time"), frames)},
        coords={
            **{name: ("path", label.values, label.attrs) for name, label in labels.items()},
            "frame": whole.time.values[starts],
            "time": ("time", np.arange(40) * 10.24, {"units": "s"}),
        },
        attrs=whole.attrs,
    )
    framed.to_zarr(tmp_path / "framed.zarr", consolidated=False)
    lines = show(str(tmp_path / "framed.zarr"))
    assert "180 windows, 10.24 s apart" in lines[0]
    assert any("frames overlap" in line for line in lines)
    assert "2010-09-01 00:17:14" in ranked(lines)[0]


def test_a_year_of_windows_is_drawn_in_bounded_memory(make_long_signal):
    windows, event = 3_079_688, 2_000_003  # 365 days, one window each 10.24 s
    store = make_long_signal(windows, event)
    tracemalloc.start()
    lines = show(store)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert windows * 28 * 4 > 320 * 2**20
    assert peak < 200 * 2**20
    when = np.datetime64("2010-01-01", "ms") + np.timedelta64(event * 10_240, "ms")
    rounded = (when + np.timedelta64(500, "ms")).astype("datetime64[s]")
    assert str(rounded).replace("T", " ") in ranked(lines)[0]
    assert len(ranked(lines)) == 1
