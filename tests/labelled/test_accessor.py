"""Coefficients by what they mean: selected, spread, changed, handed on."""

import numpy as np
import pytest
import xarray as xr

import scatflow
from scatflow.errors import ParameterError, SourceError

RNG = np.random.default_rng(1)


@pytest.fixture(scope="module", params=[False, True], ids=["numpy", "dask"])
def signals(request):
    x = xr.DataArray(RNG.standard_normal((2, 4096)) ** 3, dims=("file", "time"))
    return (x.chunk(file=1) if request.param else x).scat.scattering1d(J=6, Q=4)


@pytest.fixture(scope="module")
def images():
    x = xr.DataArray(RNG.standard_normal((3, 32, 32)), dims=("file", "y", "x"))
    return x.scat.scattering2d(J=2, L=4)


def same(found, expected):
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-12, atol=1e-300)


def test_paths_are_a_table(signals):
    table = signals.scat.paths
    assert list(table["order"]) == list(signals.order.values)
    assert table.query("order == 2 and j1 == 1").shape[0] == int(
        ((signals.order == 2) & (signals.j1 == 1)).sum()
    )


def test_paths_are_selected_by_their_labels(signals):
    assert set(signals.scat.order(2).order.values) == {2}
    assert set(signals.scat.sel(j1=[1, 2], order=1).j1.values) == {1, 2}
    band = signals.scat.sel(xi1=slice(0.1, 0.2)).xi1
    assert ((band >= 0.1) & (band <= 0.2)).all()
    one = float(signals.xi1[5])
    assert (signals.scat.sel(xi1=one * (1 + 1e-9), order=1).sizes["path"]) == 1
    with pytest.raises(ParameterError, match="No path has j1=99"):
        signals.scat.sel(j1=99)
    with pytest.raises(ParameterError, match="no label 'f'"):
        signals.scat.sel(f=1)


@pytest.mark.parametrize("wanted", [{"xi1": "a"}, {"label": 3}, {"label": slice(1, None)}])
def test_numbers_and_text_are_not_mixed_up_in_a_selection(signals, wanted):
    with pytest.raises(ParameterError, match="holds"):
        signals.scat.sel(**wanted)
    assert signals.scat.sel(label="S0").sizes["path"] == 1


def test_octaves_halve_the_frequency(signals):
    octave = signals.scat.octave()
    assert octave[0] == -1
    top = float(signals.xi1.max())
    for k in range(int(octave.max()) + 1):
        xi1 = signals.scat.octave(k).xi1
        assert ((xi1 > top / 2 ** (k + 1) * (1 - 1e-6)) & (xi1 <= top / 2**k * (1 + 1e-6))).all()


def test_paths_without_a_frequency_have_no_octave():
    x = xr.DataArray(RNG.standard_normal((16, 16, 16)), dims=("z", "y", "x"))
    made = x.scat.scattering3d(J=1, L=1)
    assert set(made.scat.octave().values[made.l == 0]) == {-1}  # Blobs have none.
    assert set(made.scat.octave().values[made.l == 1]) == {0, 1}
    with pytest.raises(ParameterError, match="there are -1, 0, 1"):
        made.scat.octave(7)


@pytest.mark.parametrize("order", [1, 2])
def test_a_grid_holds_each_path_once_and_nan_elsewhere(signals, order):
    part, grid = signals.scat.order(order), signals.scat.unstack(order)
    names = [f"xi{i}" for i in range(1, order + 1)]
    assert grid.dims == ("file", *names, "time")
    for i in range(part.sizes["path"]):
        at = {name: float(part[name][i]) for name in names}
        same(grid.sel(at, method="nearest"), part.scattering.isel(path=i))
    assert int(grid.notnull().sum()) == part.scattering.size


def test_images_are_spread_over_scales_and_angles(images):
    grid = images.scat.unstack(2)
    assert grid.dims == ("file", "j1", "theta1", "j2", "theta2", "y", "x")
    part = images.scat.order(2).isel(path=7)
    at = {name: part[name].item() for name in ("j1", "theta1", "j2", "theta2")}
    same(grid.sel(at, method="nearest"), part.scattering)


def test_means_over_angles_are_spread_over_what_is_left_of_the_labels(images):
    means = images.scat.mean_theta()
    assert means.scat.unstack(1).dims == ("file", "j1", "y", "x")
    assert means.scat.unstack(2).dims == ("file", "j1", "j2", "theta2", "y", "x")
    assert int(means.scat.unstack(2).notnull().sum()) == means.scat.order(2).scattering.size


@pytest.mark.parametrize(
    ("options", "first", "second"),
    [
        ({"format": "time"}, ("xi1", "xi_fr"), ("xi1", "xi2", "xi_fr")),
        ({"format": "joint"}, ("xi_fr",), ("xi2", "xi_fr")),
        ({"F": "global"}, ("xi_fr",), ("xi2", "xi_fr")),
    ],
)
def test_time_and_frequency_are_spread_over_the_labels_that_tell_paths_apart(
    options, first, second
):
    x = xr.DataArray(RNG.standard_normal(1024), dims="time")
    made = x.scat.timefrequency(J=5, J_fr=2, Q=4, **options)
    for order, names in ((1, first), (2, second)):
        grid = made.scat.unstack(order)
        assert grid.dims == (*names, *made.scattering.dims[1:])
        assert int(grid.notnull().sum()) == made.scat.order(order).scattering.size


def test_order_two_is_divided_by_its_parent(signals):
    made = signals.scat.renormalise().scattering.values
    values, table = signals.scattering.values, signals.scat.paths
    for i, row in table.iterrows():
        expected = values[:, i]
        if row.order == 2:
            parent = np.flatnonzero((table.order == 1) & np.isclose(table.xi1, row.xi1))
            expected = expected / values[:, parent[0]]
        np.testing.assert_allclose(made[:, i], expected, rtol=1e-9)


def test_renormalising_makes_order_two_independent_of_loudness():
    x = xr.DataArray(RNG.standard_normal(2048), dims="time")
    once, louder = (y.scat.scattering1d(J=5).scat.renormalise() for y in (x, 7 * x))
    same(once.scat.order(2).scattering, louder.scat.order(2).scattering)
    silent = (0 * x).scat.scattering1d(J=5).scat.renormalise()
    assert (silent.scattering == 0).all()


@pytest.mark.parametrize("form", ["time", "joint"])
def test_order_two_of_time_and_frequency_is_divided_by_what_is_smooth_along_frequency(form):
    x = xr.DataArray(RNG.standard_normal(2048), dims="time")
    before = x.scat.timefrequency(J=5, J_fr=2, Q=4, format=form)
    after, table = before.scat.renormalise(), before.scat.paths
    for i in np.flatnonzero(table.order == 2)[::7]:
        smooth = (table.order == 1) & (table.xi_fr == 0)
        if form == "time":
            smooth &= table.xi1 == table.xi1[i]
        (parent,) = np.flatnonzero(smooth)
        here, there = before.scattering.isel(path=i), before.scattering.isel(path=parent)
        heard = np.asarray(there > 1e-9)  # Rows below the last wavelet hold next to nothing.
        np.testing.assert_allclose(
            after.scattering.isel(path=i).values[heard], (here / there).values[heard], rtol=1e-6
        )


def test_parents_that_are_gone_are_told(signals):
    with pytest.raises(ParameterError, match="before selecting"):
        signals.scat.order(2).scat.renormalise()


def test_a_logarithm_states_its_floor(signals):
    made = signals.scat.log(1e-3).scattering
    assert made.attrs["floor"] == 1e-3
    same(made, np.log(np.maximum(signals.scattering, 1e-3)))
    assert np.isfinite((0 * signals).scat.log().scattering).all()
    assert "1e-6" in signals.scat.log().scattering.attrs["floor"]
    with pytest.raises(ParameterError, match="positive"):
        signals.scat.log(0.0)


def test_means_over_angles_do_not_change_when_the_image_is_turned():
    stripes = np.repeat(RNG.standard_normal((64, 16)), 4, axis=1)
    made, single = [], []
    for turned in (stripes, np.rot90(stripes).copy()):
        found = xr.DataArray(turned, dims=("y", "x")).scat.scattering2d(J=2, L=4)
        single.append(found.scat.order(1).scattering.mean(("y", "x")))
        made.append(found.scat.mean_theta().scattering[1:].mean(("y", "x")))
    assert made[0].sizes["path"] == 2 + 4
    np.testing.assert_allclose(made[0], made[1], rtol=0.05)
    assert abs(single[0] / single[1] - 1).max() > 0.5
    with pytest.raises(ParameterError, match="no orientations"):
        xr.DataArray(np.zeros(64), dims="time").scat.scattering1d(J=3).scat.mean_theta()


def test_means_over_angles_are_those_of_a_loop(images):
    found, table = images.scat.mean_theta(), images.scat.paths
    for k in range(found.sizes["path"]):
        path = found.isel(path=k)
        rows = (table.order == int(path.order)) & (table.j1 == int(path.j1))
        rows &= table.j2 == int(path.j2)
        if int(path.order) == 2:
            turn = np.mod(table.theta2 - table.theta1, np.pi)
            rows &= np.isclose(turn, float(path.theta2)) | np.isclose(
                turn, float(path.theta2) + np.pi
            )
        assert rows.sum() == (1 if int(path.order) == 0 else 4)
        same(path.scattering, images.scattering.values[:, rows.to_numpy()].mean(axis=1))


def test_windows_are_joined(signals):
    made = signals.scat.downsample(time=5)
    same(made.scattering[..., 1], signals.scattering[..., 5:10].mean("time"))
    assert float(made.time[1]) == float(signals.time[5:10].mean())
    assert "mean over neighbouring windows: 5 along time" in made.attrs["history"]
    with pytest.raises(ParameterError, match="downsample takes"):
        signals.scat.downsample(path=2)
    with pytest.raises(ParameterError, match="at most 64"):
        signals.scat.downsample(time=65)
    named = signals.assign_coords(file=["a", "b"])
    with pytest.raises(ParameterError, match=r"windows \(time\)"):
        named.scat.downsample(file=2)


def test_what_is_changed_several_times_says_so(signals):
    made = signals.scat.renormalise().scat.log()
    assert made.scattering.attrs["long_name"].endswith(
        "order 2 divided by order 1, natural logarithm"
    )


def test_coefficients_whose_path_dimension_is_gone_are_told(signals):
    for changed in (signals.rename(path="p"), signals.isel(path=3)):
        with pytest.raises(SourceError, match="no dimension 'path'"):
            changed.scat.order(1)


def test_features_are_a_named_matrix(signals):
    matrix = signals.scat.features("file")
    assert matrix.dims == ("sample", "feature")
    assert matrix.shape == (2, signals.sizes["path"] * signals.sizes["time"])
    assert str(matrix.feature.values[0]).startswith("S0, time ")
    same(matrix[1], signals.scattering[1].values.reshape(-1))
    each = signals.scat.features()
    assert each.shape == (2 * signals.sizes["time"], signals.sizes["path"])
    same(each[3], signals.scattering[0, :, 3])
    assert list(each.file.values[[0, -1]]) == [0, 1]


def test_samples_keep_what_is_known_of_them():
    text = np.array(["a", "b", "a"], np.dtypes.StringDType())  # What Zarr gives.
    folders = xr.DataArray(text, dims="file")
    da = xr.DataArray(
        np.random.default_rng(0).standard_normal((3, 512), dtype=np.float32),
        {"file": [1, 2, 3], "folder": folders},
        ("file", "time"),
    ).chunk(file=1)
    ds = da.scat.scattering1d(J=5)
    matrix = ds.scat.log(floor=1e-6).scat.features()
    assert matrix.name == "features"
    assert matrix.dtype == np.float32
    assert matrix.folder.values.tolist() == np.repeat(["a", "b", "a"], ds.sizes["time"]).tolist()
    folder = ds.scat.features("file").folder
    assert folder.values.tolist() == ["a", "b", "a"]
    assert folder.dtype.kind == "U"  # scikit-learn takes no other text as classes.


def test_rows_of_frequency_and_powers_are_features_of_a_sample():
    x = xr.DataArray(RNG.standard_normal(1024), dims="time")
    made = x.scat.timefrequency(J=5, J_fr=2, Q=4, format="joint")
    assert made.scat.features().shape == (made.sizes["time"], made.path.size * made.q.size)


@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
def test_results_go_to_zarr_and_back(signals, tmp_path):
    signals.to_zarr(tmp_path / "a.zarr")
    with xr.open_zarr(tmp_path / "a.zarr") as back:
        assert back.scat.engine == signals.scat.engine == scatflow.Scattering1D(J=6, Q=4)
        xr.testing.assert_equal(back.compute(), signals.compute())


def test_results_go_to_netcdf_and_back(signals, tmp_path):
    signals.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as back:
        assert back.scat.engine == signals.scat.engine
        xr.testing.assert_equal(back.compute(), signals.compute())
        assert back.scat.order(1).sizes == signals.scat.order(1).sizes


def test_records_of_several_rates_are_a_tree():
    rates = {"slow": 1.0, "fast": 4.0}
    tree = xr.DataTree.from_dict(
        {
            name: xr.Dataset(
                {"x": ("time", RNG.standard_normal(1024))}, {"time": np.arange(1024) / rate}
            )
            for name, rate in rates.items()
        }
    )
    made = tree.map_over_datasets(lambda d: d.x.scat.scattering1d(J=4) if "x" in d else d)
    for name, rate in rates.items():
        expected = scatflow.scatter(tree[name].x, scatflow.Scattering1D(J=4))
        xr.testing.assert_identical(made[name].to_dataset(), expected)
        assert rate > 0
