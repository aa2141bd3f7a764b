"""Spectrograms beside scalograms: levels, gaps, and where the samples come from."""

import shutil

import numpy as np
import pytest
import xarray as xr
import zarr
from typer.testing import CliRunner

import scatflow
from scatflow.archive import open_source
from scatflow.cli import app
from scatflow.errors import ParameterError, SourceError, SourceNotFoundError
from scatflow.flow.ledger import Ledger
from scatflow.flow.origin import open_origin
from scatflow.pictures import canvas, show

RATE, TONE, LOUDNESS = 100.0, 12.0, 3.0

PART = {"time": ["2010-09-01T00:00:10", "2010-09-01T00:01:50"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write two stations and what a run makes of a part: one has a tone, the other a gap."""
    place = tmp_path_factory.mktemp("tones")
    n = 12_000
    noise = np.random.default_rng(0).standard_normal((2, n))
    noise[0] = LOUDNESS * np.sin(2 * np.pi * TONE * np.arange(n) / RATE)
    noise[1, 5000:7000] = np.nan
    time = np.datetime64("2010-09-01", "ns") + np.arange(n) * np.timedelta64(10, "ms")
    labels = {"station": [5, 6], "time": time}
    array = xr.DataArray(noise, labels, ("station", "time"), "velocity", {"units": "m/s"})
    array.to_dataset().to_zarr(place / "archive.zarr", zarr_format=3, consolidated=False)
    source = open_source(str(place / "archive.zarr"), sel=PART)
    part = array[:, 1000:11_000]
    made = part.scat.scattering1d(J=6, Q=4, boundary="seamless")
    made.to_zarr(place / "out.zarr", zarr_format=3, consolidated=False)
    root = zarr.open_group(place / "out.zarr", mode="r+")
    ledger = Ledger.create(root, {"open": {**source.to_spec(), "store": "archive.zarr"}}, "run", 1)
    ledger.record(0, 1, 1, None)
    ledger.flush(None)
    return place


@pytest.fixture
def figures(monkeypatch):
    """Keep the figures that are drawn, with few pixels."""
    monkeypatch.setattr(canvas, "DPI", 50)
    kept = []
    own = canvas.new_figure

    def keep(width, height):
        kept.append(own(width, height))
        return kept[-1]

    monkeypatch.setattr("scatflow.pictures.spectrogram.new_figure", keep)
    return kept


def meshes(figure):
    """Return the panels of a figure: times, frequencies and values of each."""
    found = []
    for axes in figure.axes:
        if axes.get_ylabel().startswith("frequency"):
            mesh = axes.collections[0]
            edges = mesh.get_coordinates()
            values = np.ma.filled(mesh.get_array(), np.nan)
            found.append((edges[0, :, 0], edges[:, 0, 1], values))
    return found


def test_the_power_of_a_tone_is_drawn_at_its_frequency_and_sums_to_its_variance(
    folder, figures, monkeypatch
):
    monkeypatch.chdir(folder)
    told = CliRunner().invoke(app, ["show", "out.zarr", "--what", "spectrogram"])
    assert told.exit_code == 0, told.output
    assert (folder / "out-spectrogram.png").exists()
    assert "segments of 256 samples (2.56 s, Hann)" in told.output
    (_, edges, power), (_, bands, first), *_ = meshes(figures[0])
    loudest = power.mean(axis=1).argmax()
    assert edges[loudest] <= TONE <= edges[loudest + 1]
    variance = (10 ** (power / 10) * np.diff(edges)[:, None]).sum(axis=0)
    np.testing.assert_allclose(variance, LOUDNESS**2 / 2, rtol=0.02)
    band = first[:, 10:-10].mean(axis=1).argmax()
    assert bands[band] <= TONE <= bands[band + 1]
    assert "dB of (m/s)²/Hz" in figures[0].axes[-4].get_ylabel() + figures[0].axes[4].get_ylabel()


def test_both_panels_have_one_axis_of_time_and_gaps_are_empty_in_both(folder, figures, monkeypatch):
    monkeypatch.chdir(folder)
    show("out.zarr", what="spectrogram", samples=lambda: open_origin("out.zarr"))
    *_, (times, _, power), (same, _, first) = meshes(figures[0])
    np.testing.assert_array_equal(times, same)
    centres = (times[1:] + times[:-1]) / 2 * 86_400 % 86_400
    inside = (centres > 52) & (centres < 68)
    assert np.isnan(power[:, inside]).all()
    assert np.isnan(first[:, inside]).all()
    outside = (centres < 45) | (centres > 75)
    assert np.isfinite(power[:, outside]).all()


@pytest.mark.parametrize("pieces", [2**8, 2**12])
def test_powers_do_not_depend_on_how_samples_are_read(folder, figures, monkeypatch, pieces):
    monkeypatch.chdir(folder)
    for size in (2**21, pieces):
        monkeypatch.setattr("scatflow.pictures.spectrogram.PIECE_SAMPLES", size)
        show("out.zarr", what="spectrogram", samples=lambda: open_origin("out.zarr"))
    whole, parts = (meshes(figure)[0][2] for figure in figures)
    np.testing.assert_array_equal(whole, parts)


def test_samples_that_are_gone_are_told_with_where_they_were(folder, tmp_path, monkeypatch):
    shutil.copytree(folder / "out.zarr", tmp_path / "out.zarr")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceNotFoundError, match=r"were read from archive\.zarr"):
        open_origin("out.zarr")


def test_results_that_no_run_wrote_do_not_know_their_samples(tmp_path):
    signal = xr.DataArray(np.zeros(1024), dims="time")
    signal.scat.scattering1d(J=5).to_zarr(tmp_path / "a.zarr", consolidated=False)
    with pytest.raises(SourceError, match="no `scatflow run` wrote it"):
        open_origin(str(tmp_path / "a.zarr"))
    with pytest.raises(ParameterError, match="pass samples"):
        show(str(tmp_path / "a.zarr"), what="spectrogram")


def test_samples_of_other_records_are_refused(folder, tmp_path):
    def first():
        return open_source(str(folder / "archive.zarr"), isel={"station": [0, 1]})

    with pytest.raises(SourceError, match="laid side by side"):
        show(str(folder / "out.zarr"), str(tmp_path / "p.png"), "spectrogram", first)


def test_images_have_no_spectrogram(tmp_path):
    image = xr.DataArray(np.zeros((16, 16)), dims=("y", "x"))
    scatflow.scatter(image, scatflow.Scattering2D(J=1, L=2)).to_zarr(
        tmp_path / "a.zarr", consolidated=False
    )
    with pytest.raises(SourceError, match="no Scattering1D of signals"):
        show(str(tmp_path / "a.zarr"), what="spectrogram", samples=lambda: None)
