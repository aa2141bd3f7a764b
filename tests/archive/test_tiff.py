import numpy as np
import pytest
import tifffile
import xarray as xr

from scatflow.archive import open_source
from scatflow.archive.ingest import ingest
from scatflow.errors import IngestError

RNG = np.random.default_rng(0)
KEYS = (34735, "H", 12, (1, 1, 0, 2, 1024, 0, 1, 2, 2048, 0, 1, 4326), True)
METRES = (34735, "H", 16, (1, 1, 0, 3, 1024, 0, 1, 1, 3072, 0, 1, 32633, 3076, 0, 1, 9001), True)


def opened(out):
    source = open_source(str(out))
    return source, source.read([slice(None)] * len(source.shape))


def write_geo(path, values, corner=(10.0, 50.0), keys=KEYS, more=()):
    where = [(33550, "d", 3, (0.25, 0.1, 0.0), True), (33922, "d", 6, (0, 0, 0, *corner, 0), True)]
    tifffile.imwrite(path, values, photometric="minisblack", extratags=[*where, keys, *more])


def test_ome_axes_have_their_names_steps_and_channels(tmp_path):
    values = RNG.integers(0, 999, (3, 2, 4, 16, 20)).astype(np.uint16)
    told = {
        "axes": "TCZYX", "PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5,
        "PhysicalSizeZ": 2.0, "TimeIncrement": 0.5, "Channel": {"Name": ["DAPI", "GFP"]},
    }  # fmt: skip
    tifffile.imwrite(tmp_path / "a.ome.tif", values, metadata=told)
    ingest("tiff", tmp_path / "a.ome.tif", tmp_path / "o.zarr")
    source, found = opened(tmp_path / "o.zarr")
    assert source.dims == ("time", "channel", "z", "y", "x")
    np.testing.assert_array_equal(found, values)
    steps = {dim: (float(axis.step), axis.units) for dim, axis in source.axes.items()}
    assert steps == {"time": (0.5, "s"), "z": (2, "µm"), "y": (0.5, "µm"), "x": (0.25, "µm")}
    assert source.coords["channel"].values.tolist() == ["DAPI", "GFP"]


@pytest.mark.parametrize(
    ("keys", "units", "crs"),
    [(KEYS, ("degrees_north", "degrees_east"), "EPSG:4326"), (METRES, ("m", "m"), "EPSG:32633")],
)
def test_a_geotiff_has_the_coordinates_of_its_pixels_centres(tmp_path, keys, units, crs):
    values = RNG.standard_normal((20, 30)).astype(np.float32)
    values[3, 4] = -9999
    write_geo(tmp_path / "a.tif", values, keys=keys, more=[(42113, "s", 0, "-9999", True)])
    ingest("tiff", tmp_path / "a.tif", tmp_path / "o.zarr")
    source, found = opened(tmp_path / "o.zarr")
    assert np.isnan(found[3, 4])
    assert np.isnan(found).sum() == 1
    np.testing.assert_allclose(source.axes["x"].at([0, 29]), [10.125, 17.375])
    np.testing.assert_allclose(source.axes["y"].at([0, 19]), [49.95, 48.05])
    assert (source.axes["y"].units, source.axes["x"].units) == units
    assert source.attrs["crs"] == crs
    assert source.attrs["geo_transform"] == [10, 0.25, 0, 50, 0, -0.1]


def test_pixels_that_are_points_lie_where_their_numbers_say(tmp_path):
    points = (34735, "H", 12, (1, 1, 0, 2, 1025, 0, 1, 2, 2048, 0, 1, 4326), True)
    write_geo(tmp_path / "a.tif", np.zeros((5, 6), np.uint8), keys=points)
    ingest("tiff", tmp_path / "a.tif", tmp_path / "o.zarr")
    source, _ = opened(tmp_path / "o.zarr")
    assert (source.axes["x"].start, source.axes["y"].start) == (10, 50)


def test_tiles_of_several_places_are_stacked_with_their_origins(tmp_path):
    tiles = RNG.integers(0, 99, (2, 5, 6)).astype(np.int16)
    for i, tile in enumerate(tiles):
        write_geo(tmp_path / f"{i}.tif", tile, corner=(10 + i, 50))
    ingest("tiff", [tmp_path / "0.tif", tmp_path / "1.tif"], tmp_path / "o.zarr")
    source, found = opened(tmp_path / "o.zarr")
    np.testing.assert_array_equal(found, tiles)
    assert source.coords["x_origin"].values.tolist() == [10.125, 11.125]
    assert float(source.axes["x"].step) == 0.25


def test_zeros_beside_another_missing_value_are_no_gap(tmp_path):
    told = {"_FillValue": np.int16(-1)}
    zeros = xr.Dataset({"v": (("y", "x"), np.zeros((4, 5), np.int16), told)})
    zeros.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    ingest("netcdf", tmp_path / "a.nc", tmp_path / "o.zarr")
    np.testing.assert_array_equal(opened(tmp_path / "o.zarr")[1], np.zeros((4, 5)))


def test_a_file_that_ends_before_its_pixels_is_refused_before_anything_is_written(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((64, 64), np.uint8))
    tifffile.imwrite(tmp_path / "b.tif", np.ones((64, 64), np.uint8))
    (tmp_path / "b.tif").write_bytes((tmp_path / "b.tif").read_bytes()[:2000])
    with pytest.raises(IngestError, match=r"b\.tif is cut short"):
        ingest("tiff", tmp_path, tmp_path / "o.zarr")
    done = ingest("tiff", tmp_path, tmp_path / "o.zarr", skip=True)
    assert done.shape == (1, 64, 64)
    assert "b.tif is cut short" in done.notes[0]


def test_images_of_several_folders_say_which(tmp_path):
    for name in ("bark", "weave"):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "1.tif", np.ones((8, 8), np.uint8))
    ingest("tiff", tmp_path, tmp_path / "o.zarr")
    source = open_source(str(tmp_path / "o.zarr"))
    assert source.coords["folder"].values.tolist() == ["bark", "weave"]
    assert source.coords["file"].values.tolist() == ["bark/1", "weave/1"]
