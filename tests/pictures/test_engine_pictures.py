import numpy as np
import pytest
import xarray as xr

import scatflow
from scatflow.engines import TimeFrequencyScattering
from scatflow.errors import ParameterError, SourceError
from scatflow.pictures import canvas, show, show_engine


@pytest.fixture
def figures(monkeypatch):
    """Keep the figures that are drawn, with few pixels."""
    monkeypatch.setattr(canvas, "DPI", 50)
    kept = []
    own = canvas.new_figure

    def keep(width, height):
        kept.append(own(width, height))
        return kept[-1]

    for module in ("bank", "support", "availability", "disk"):
        monkeypatch.setattr(f"scatflow.pictures.{module}.new_figure", keep)
    return kept


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Write the coefficients of two stations, of which the second has a gap in its middle."""
    x = np.random.default_rng(0).standard_normal((2, 4096), dtype=np.float32)
    x[1, 1500:2500] = np.nan
    time = np.datetime64("2010-09-01", "ns") + np.arange(4096) * np.timedelta64(10, "ms")
    da = xr.DataArray(x, {"station": [5, 6], "time": time}, ("station", "time"))
    ds = scatflow.scatter(da, scatflow.Scattering1D(J=4), dim="time", boundary="seamless")
    store = tmp_path_factory.mktemp("signals") / "day.zarr"
    ds.to_zarr(store, consolidated=False)
    return str(store), ds["scattering"].values


@pytest.fixture(scope="module")
def imaged(tmp_path_factory):
    """Write the coefficients of stripes whose waves run along columns."""
    stripes = np.tile(np.cos(np.arange(64) * 2 * np.pi / 6), (64, 1))
    noise = 0.01 * np.random.default_rng(0).standard_normal((64, 64))
    da = xr.DataArray(stripes + noise, dims=("y", "x"))
    ds = scatflow.scatter(da, scatflow.Scattering2D(J=3, L=4), dim=("y", "x"))
    store = tmp_path_factory.mktemp("images") / "image.zarr"
    ds.to_zarr(store, consolidated=False)
    return str(store)


def test_the_sum_that_is_drawn_is_that_of_the_filters_that_are_drawn(figures, tmp_path):
    engine = scatflow.Scattering1D(J=5, Q=(4, 2))
    lines = show_engine(engine, "filters", str(tmp_path / "f.png"), rate=100.0)
    first, _, second, _ = figures[0].axes
    for axes in (first, second):
        *wavelets, low, total = [line.get_ydata() for line in axes.lines]
        # Mirrored, a Morlet wavelet is next to nothing, but for the highest near 50 Hz.
        middle = slice(0, total.size // 2)
        expected = low**2 + sum(psi**2 for psi in wavelets) / 2
        np.testing.assert_allclose(total[middle], expected[middle], atol=0.02)
        assert axes.get_xlabel() == "frequency [Hz]"
        assert axes.lines[0].get_xdata()[-1] == pytest.approx(50, rel=1e-3)
    assert len(first.lines) == len(engine.scales()[0]) + 2
    assert "frame bounds" in lines[1]
    assert (tmp_path / "f.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    "engine",
    [
        scatflow.Scattering2D(J=2, L=3),
        scatflow.HarmonicScattering3D(J=1, L=1),
        TimeFrequencyScattering(J=5, J_fr=2, Q=4),
        scatflow.Scattering1D(J=4, max_order=1, T="global"),
    ],
    ids=lambda engine: engine.kind,
)
def test_every_kind_of_engine_has_a_picture_of_its_filters(engine, figures, tmp_path):
    lines = show_engine(engine, "filters", str(tmp_path / "f.png"))
    assert type(engine).__name__ in lines[0]
    assert "cycles/" in " ".join(axes.get_xlabel() for axes in figures[0].axes)


def test_solid_harmonics_are_drawn_at_one_at_their_peak_of_degree_zero(figures, tmp_path):
    show_engine(scatflow.HarmonicScattering3D(J=2, L=1), "filters", str(tmp_path / "f.png"))
    curves = [line.get_ydata() for line in figures[0].axes[0].lines]
    assert [curve.argmax() for curve in curves] == [0, 0, 0]
    assert [curve.max() for curve in curves] == pytest.approx([1, 1, 1], rel=1e-5)


def test_the_support_that_is_drawn_ends_within_the_halo(figures, tmp_path):
    engine = scatflow.Scattering1D(J=6, Q=8)
    show_engine(engine, "support", str(tmp_path / "s.png"), rate=50.0)
    grid = engine.canonical_grid(np.float32)
    away, weight = figures[0].axes[0].lines[0].get_data()
    seen = np.abs(away[weight > grid.tolerance]).max()
    assert 0.8 * grid.halo / 50 < seen <= grid.halo / 50
    bars = figures[0].axes[1].patches
    assert [bar.get_width() for bar in bars[:2]] == [grid.length / 50, grid.block / 50]
    assert bars[3].get_x() == pytest.approx(grid.block / 50)


def test_an_engine_that_cannot_be_cut_has_no_support_to_draw(tmp_path):
    with pytest.raises(ParameterError, match="fold"):
        show_engine(scatflow.Scattering2D(J=2), "support", str(tmp_path / "s.png"))
    assert not (tmp_path / "s.png").exists()


def test_a_store_in_hertz_has_filters_and_support_in_hertz_and_seconds(recorded, figures):
    store, _ = recorded
    lines = show(store, what="filters")
    assert lines[0].startswith(store.removesuffix(".zarr") + "-filters.png: ")
    assert figures[0].axes[0].lines[0].get_xdata()[-1] == pytest.approx(50, rel=1e-3)
    lines = show(store, what="support")
    assert "a window every 0.16 s" in lines[0]


@pytest.mark.parametrize("options", [{"format": "joint"}, {"F": "global"}])
def test_paths_of_no_single_frequency_tell_the_rate_by_their_second_wavelet(
    options, figures, tmp_path
):
    time = np.datetime64("2010-09-01", "ns") + np.arange(1024) * np.timedelta64(10, "ms")
    da = xr.DataArray(np.ones(1024), {"time": time}, ("time",))
    da.scat.timefrequency(J=5, J_fr=2, Q=4, **options).to_zarr(
        tmp_path / "a.zarr", consolidated=False
    )
    show(str(tmp_path / "a.zarr"), what="filters")
    assert figures[0].axes[0].lines[0].get_xdata()[-1] == pytest.approx(50, rel=1e-3)


def test_availability_is_the_share_of_windows_with_values(recorded, figures):
    store, values = recorded
    present = np.isfinite(values).all(axis=1)
    lines = show(store, what="availability")
    assert "2 record(s), 256 windows each" in lines[0]
    assert lines[-1] == f"  station 6: {present[1].mean():.2%}"
    assert 0 < present[1].mean() < 1
    drawn = np.asarray(figures[0].axes[0].collections[0].get_array())
    np.testing.assert_array_equal(drawn.reshape(2, -1), present)


def test_a_long_name_leaves_the_panel_its_width(recorded, figures, tmp_path):
    store, _ = recorded
    with xr.open_zarr(store, consolidated=False) as written:
        names = np.array(["a very long name " * 9, "B"], dtype=np.dtypes.StringDType())
        named = written.load().assign_coords(station=names)
    named.to_zarr(tmp_path / "long.zarr", consolidated=False)
    lines = show(str(tmp_path / "long.zarr"), what="availability")
    assert "a very long name " * 9 in lines[-2]
    assert figures[0].axes[0].get_yticklabels()[0].get_text().endswith("long n…")
    assert figures[0].axes[0].get_position().width > 0.5


def test_columns_of_several_windows_are_shares_also_the_last_one(recorded, figures, monkeypatch):
    store, values = recorded
    monkeypatch.setattr("scatflow.pictures.availability.MAX_COLUMNS", 100)
    show(store, what="availability")
    drawn = np.asarray(figures[0].axes[0].collections[0].get_array()).reshape(2, -1)
    assert drawn.shape[1] == 86  # of three windows, the last of one
    np.testing.assert_allclose(drawn[0], 1)
    missing = np.isfinite(values[1, 0]).reshape(-1)[:255].reshape(85, 3).mean(axis=1)
    np.testing.assert_allclose(drawn[1, :85], missing)


def test_the_disk_has_a_sector_for_every_path_and_its_opposite(imaged, figures):
    lines = show(imaged, what="disk")
    assert "12 paths of order 1, 48 of order 2" in lines[0]
    first, second = (axes for axes in figures[0].axes if axes.name == "polar")
    assert [len(first.patches), len(second.patches)] == [24, 96]
    areas = [sum(p.get_width() * p.get_height() for p in axes.patches) for axes in (first, second)]
    # All around, in three rings; first wavelets of the coarsest scale have no second ones.
    assert areas == pytest.approx([3 * 2 * np.pi, 2 * 2 * np.pi])


def test_the_brightest_sector_points_along_the_wave(imaged, figures):
    show(imaged, what="disk")
    first = next(axes for axes in figures[0].axes if axes.name == "polar")
    brightest = max(first.patches, key=lambda patch: patch.get_facecolor()[1])  # viridis' green
    angle = brightest.get_x() + brightest.get_width() / 2
    assert abs(np.sin(angle)) < 0.01  # horizontal: stripes differ from column to column


@pytest.mark.parametrize(("kind", "what"), [("recorded", "disk"), ("imaged", "availability")])
def test_a_picture_that_a_store_does_not_have_is_refused(kind, what, request):
    found = request.getfixturevalue(kind)
    with pytest.raises(SourceError, match="--what"):
        show(found if isinstance(found, str) else found[0], what=what)


def test_an_unknown_picture_is_refused_with_those_that_there_are(tmp_path):
    with pytest.raises(
        ParameterError, match="results, spectrogram, filters, support, disk, availability"
    ):
        show(str(tmp_path / "nothing.zarr"), what="poster")
    with pytest.raises(ParameterError, match="a job has none by itself"):
        show_engine(scatflow.Scattering1D(J=4), "disk", str(tmp_path / "d.png"))


def test_the_command_draws_the_filters_of_a_job(figures, tmp_path):
    from typer.testing import CliRunner

    from scatflow.cli import app

    output = tmp_path / "filters.png"
    job = "pipelines/seismic_day.toml"
    told = CliRunner().invoke(app, ["show", job, "--what", "filters", "-o", str(output)])
    assert told.exit_code == 0, told.output
    assert output.exists()
    assert len(figures) == 1
    assert "Scattering1D(J=10, Q=[8, 1])" in told.output
