"""Browsing a long result: what a zoom reads and draws."""

import sys

import holoviews as hv
import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from scatflow.cli import app
from scatflow.errors import MissingExtraError, SourceError
from scatflow.pictures import browse
from scatflow.pictures.browser import COLUMNS, make_browser


def values_of(store):
    with xr.open_zarr(store, consolidated=False) as written:
        return written.load()


def test_a_zoom_shows_the_windows_inside_and_one_at_least(make_signals):
    browser = make_browser(make_signals(windows=500))
    time = browser.grid.positions
    assert browser.span(None) == slice(0, 500)
    assert browser.span((time[10], time[20])) == slice(10, 21)
    milliseconds = [float(t.astype("datetime64[ms]").astype(int)) for t in time[[20, 10]]]
    assert browser.span(tuple(milliseconds)) == slice(10, 21)
    between = time[30] + np.timedelta64(3, "s")
    assert browser.span((between, between + np.timedelta64(1, "s"))) == slice(30, 31)


def test_far_out_each_column_is_the_largest_of_its_windows_and_close_up_each_is_one(make_signals):
    store = make_signals(records=2, windows=3000)
    browser = make_browser(store)
    own = values_of(store).scattering[1].values[browser.bands.first]
    far = browser.strip("UV01", slice(0, 3000))
    assert far.factor == 3
    assert far.values.shape[1] == 1000 <= COLUMNS
    np.testing.assert_allclose(far.values, np.log10(own.reshape(11, 1000, 3).max(axis=2)))
    near = browser.strip("UV01", slice(100, 200))
    np.testing.assert_allclose(near.values, np.log10(own[:, 100:200]))


def test_a_long_stretch_is_read_in_pieces(make_signals, monkeypatch):
    browser = make_browser(make_signals(windows=3000))
    whole = browser.strip("UV00", slice(0, 3000)).values
    monkeypatch.setattr("scatflow.pictures.browser.PIECE_BYTES", 28 * 4 * 100)
    np.testing.assert_array_equal(browser.strip("UV00", slice(0, 3000)).values, whole)


def test_images_cannot_be_browsed(tmp_path):
    image = xr.DataArray(np.zeros((16, 16)), dims=("y", "x"))
    image.scat.scattering2d(J=1, L=2).to_zarr(tmp_path / "a.zarr", consolidated=False)
    with pytest.raises(SourceError, match="only scalograms"):
        make_browser(str(tmp_path / "a.zarr"))


def test_without_holoviews_the_line_that_installs_it_is_named(make_signals, monkeypatch):
    monkeypatch.setitem(sys.modules, "holoviews", None)
    with pytest.raises(MissingExtraError, match=r'pip install "scatflow\[browse\]"'):
        browse(make_signals())


def test_browsing_writes_no_picture(make_signals, tmp_path):
    words = ["show", make_signals(), "--interactive", "-o", str(tmp_path / "a.png")]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 2
    assert "writes no picture" in told.output


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_plot_is_drawn_anew_for_a_zoom_and_goes_to_html(make_signals, tmp_path):
    plot = browse(make_signals(records=2, windows=3000))
    assert list(plot.kdims[0].values) == ["UV00", "UV01"]
    whole = plot["UV01"]
    time = whole.dimension_values(0, expanded=False)
    assert (whole.opts.get().kwargs["title"], time.size) == (
        "UV01  ·  largest of 3 windows",
        1000,
    )
    assert str(whole.kdims[1]) == "frequency"
    assert whole.kdims[1].unit == "Hz"
    plot.event(x_range=(time[10], time[20]))
    assert "each window" in plot["UV01"].opts.get().kwargs["title"]
    hv.save(plot["UV00"], tmp_path / "plot.html", backend="bokeh")
    assert b"frequency" in (tmp_path / "plot.html").read_bytes()
