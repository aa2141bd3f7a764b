"""Images, NetCDF, HDF5, NIfTI and compressed sound: what is in the file is in the archive."""

import h5py
import nibabel
import numpy as np
import pytest
import soundfile
import tifffile
import xarray as xr
from PIL import Image

from scatflow.archive import open_source
from scatflow.archive.ingest import ingest
from scatflow.errors import IngestError

RNG = np.random.default_rng(0)


def everything(out):
    source = open_source(str(out))
    return source, source.read([slice(None)] * len(source.shape))


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "int32"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_stack_of_pages_is_read_page_by_page(tmp_path, dtype, compression):
    pages = (RNG.random((5, 300, 700)) * 200).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", pages, compression=compression, photometric="minisblack")
    told = []
    done = ingest(
        "tiff", tmp_path / "a.tif", tmp_path / "o.zarr", on_progress=lambda *now: told.append(now)
    )
    source, values = everything(tmp_path / "o.zarr")
    assert source.dims == done.dims == ("page", "y", "x")
    assert source.dtype == dtype
    np.testing.assert_array_equal(values, pages.astype(source.read_dtype))
    assert len(told) == 5
    assert told[-1] == (pages.nbytes, pages.nbytes)


@pytest.mark.parametrize(("kind", "suffix"), [("png", ".png"), ("tiff", ".TIF")])
def test_a_folder_of_images_is_stacked_in_the_order_of_names(tmp_path, kind, suffix):
    (tmp_path / "in").mkdir()
    pixels = RNG.integers(0, 255, (3, 20, 30), dtype=np.uint8)
    for name, image in zip(("c", "a", "b"), pixels, strict=True):
        file = tmp_path / "in" / f"{name}{suffix}"
        if kind == "tiff":
            tifffile.imwrite(file, image)
        else:
            Image.fromarray(image).save(file)
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    ingest(kind, [tmp_path / "in"], tmp_path / "o.zarr")
    source, values = everything(tmp_path / "o.zarr")
    assert source.dims == ("file", "y", "x")
    assert source.coords["file"].values.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(values, pixels[[1, 2, 0]])


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colours_are_channels(tmp_path, planar):
    pixels = RNG.integers(0, 255, (3, 24, 40), dtype=np.uint8)
    stored = pixels if planar == "separate" else np.moveaxis(pixels, 0, -1)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar)
    Image.fromarray(np.moveaxis(pixels, 0, -1)).save(tmp_path / "a.png")
    for kind, name in (("tiff", "a.tif"), ("png", "a.png")):
        ingest(kind, tmp_path / name, tmp_path / f"{kind}.zarr")
        source, values = everything(tmp_path / f"{kind}.zarr")
        assert source.dims == ("channel", "y", "x")
        np.testing.assert_array_equal(values, pixels)


def test_a_jpeg_is_what_pillow_decodes(tmp_path):
    smooth = np.add.outer(np.arange(64), np.arange(48)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg")
    ingest("jpeg", tmp_path / "a.jpg", tmp_path / "o.zarr")
    _, values = everything(tmp_path / "o.zarr")
    np.testing.assert_array_equal(values, np.asarray(Image.open(tmp_path / "a.jpg")))
    assert np.abs(values - smooth).max() < 8


def test_giant_images_are_no_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    Image.new("L", (100, 90), 7).save(tmp_path / "a.png")
    assert ingest("png", tmp_path / "a.png", tmp_path / "o.zarr").shape == (90, 100)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_images_that_do_not_go_together_are_refused(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(IngestError, match=r"b.png has .*x: 9.*alike"):
        ingest("png", [tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "o.zarr")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), np.uint8))
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((9, 9), np.uint8), append=True)
    with pytest.raises(IngestError, match="pages of several sizes"):
        ingest("tiff", tmp_path / "a.tif", tmp_path / "o.zarr")
    (tmp_path / "empty").mkdir()
    with pytest.raises(IngestError, match=r"no JPEG images \(.jpg, .jpeg\)"):
        ingest("jpeg", tmp_path / "empty", tmp_path / "o.zarr")
    for kind in ("png", "jpeg", "tiff", "nifti", "netcdf"):
        (tmp_path / "text").write_text("no such file")
        with pytest.raises(IngestError, match="text"):
            ingest(kind, tmp_path / "text", tmp_path / "o.zarr")
    assert not (tmp_path / "o.zarr").exists()


def test_an_image_that_was_cut_short_leaves_nothing(tmp_path):
    Image.fromarray(RNG.integers(0, 255, (200, 200), dtype=np.uint8)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IngestError, match=r"a.png is damaged"):
        ingest("png", tmp_path / "a.png", tmp_path / "o.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png"]


# --- NetCDF and HDF5 ------------------------------------------------------------------------------


def records():
    time = np.datetime64("2010-09-01", "ns") + np.arange(500) * np.timedelta64(250, "ms")
    values = RNG.standard_normal((3, 500))
    values[1, 7:9] = np.nan
    return xr.Dataset(
        {"pressure": (("station", "time"), values, {"units": "Pa", "standard_name": "air"})},
        {
            "time": time,
            "station": ["a", "b", "c"],
            "lat": ("station", [1.0, 2.0, 3.5], {"units": "degrees_north"}),
        },
        {"title": "records"},
    )


@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_variable_keeps_its_labels_units_and_missing_values(tmp_path, engine, packed):
    dataset = records()
    packing = {"dtype": "int16", "scale_factor": 1e-3, "add_offset": 0.5, "_FillValue": -32768}
    encoding = {"pressure": packing} if packed else {}
    dataset.to_netcdf(tmp_path / "a.nc", engine=engine, encoding=encoding)
    ingest("netcdf", tmp_path / "a.nc", tmp_path / "o.zarr")
    source, values = everything(tmp_path / "o.zarr")
    with xr.open_dataset(tmp_path / "a.nc", engine=engine) as expected:
        np.testing.assert_allclose(values, expected.pressure.values, rtol=1e-6)
        assert np.isnan(values[1, 7:9]).all()
    assert source.dims == ("station", "time")
    assert source.axes["time"].rate_hz == 4.0
    assert source.axes["time"].at([0])[0] == np.datetime64("2010-09-01", "ns")
    assert source.coords["station"].values.tolist() == ["a", "b", "c"]
    assert source.coords["lat"].values.tolist() == [1.0, 2.0, 3.5]
    assert source.attrs["units"] == "Pa"


def test_a_plain_hdf5_file_is_read_by_the_name_of_its_array(tmp_path):
    values = RNG.standard_normal((4, 1000)).astype("f4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"], file["y"] = values, values[0]
    with pytest.raises(IngestError, match=r"holds 2 variables .*--variable"):
        ingest("hdf5", tmp_path / "a.h5", tmp_path / "o.zarr")
    with pytest.raises(IngestError, match=r"no variable 'z'"):
        ingest("hdf5", tmp_path / "a.h5", tmp_path / "o.zarr", variable="z")
    ingest("hdf5", tmp_path / "a.h5", tmp_path / "o.zarr", variable="x")
    np.testing.assert_array_equal(everything(tmp_path / "o.zarr")[1], values)


# --- volumes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_volume_keeps_its_voxels_sizes_and_scale(tmp_path, suffix, scaled):
    stored = RNG.integers(0, 200, (20, 24, 30)).astype(np.int16)
    affine = np.diag([0.5, 1.0, 2.0, 1.0])
    image = nibabel.Nifti1Image(stored, affine)
    image.header.set_xyzt_units("mm", "sec")
    if scaled:
        image.header.set_slope_inter(0.25, 10.0)
    nibabel.save(image, tmp_path / f"a{suffix}")
    ingest("nifti", tmp_path / f"a{suffix}", tmp_path / "o.zarr")
    source, values = everything(tmp_path / "o.zarr")
    expected = nibabel.load(tmp_path / f"a{suffix}").get_fdata()
    assert source.dims == ("z", "y", "x")
    np.testing.assert_allclose(values, expected.T, rtol=1e-6)
    steps = {dim: (float(axis.step), axis.units) for dim, axis in source.axes.items()}
    assert steps == {"x": (0.5, "mm"), "y": (1.0, "mm"), "z": (2.0, "mm")}
    assert source.attrs["affine"] == affine.tolist()


def test_a_series_of_volumes_has_its_time_first(tmp_path):
    stored = RNG.standard_normal((4, 5, 6, 7)).astype(np.float32)
    image = nibabel.Nifti1Image(stored, np.eye(4))
    image.header.set_zooms((1, 1, 1, 2.5))
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, tmp_path / "a.nii")
    ingest("nifti", tmp_path / "a.nii", tmp_path / "o.zarr")
    source, values = everything(tmp_path / "o.zarr")
    assert source.dims == ("time", "z", "y", "x")
    assert source.axes["time"].rate_hz == pytest.approx(0.4)
    np.testing.assert_array_equal(values, stored.T)


def test_a_compressed_volume_that_was_cut_short_is_told(tmp_path):
    stored = RNG.integers(0, 2000, (32, 32, 32)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), tmp_path / "a.nii.gz")
    whole = (tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IngestError, match=r"a.nii.gz is damaged"):
        ingest("nifti", tmp_path / "a.nii.gz", tmp_path / "o.zarr")
    assert not (tmp_path / "o.zarr").exists()


# --- sound ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
def test_sound_has_the_samples_that_libsndfile_decodes(tmp_path, kind):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 16000)
    soundfile.write(tmp_path / f"a.{kind}", tone, 16000)
    ingest(kind, tmp_path / f"a.{kind}", tmp_path / "o.zarr")
    source, values = everything(tmp_path / "o.zarr")
    expected, rate = soundfile.read(tmp_path / f"a.{kind}", dtype="float32")
    assert source.axes["time"].rate_hz == rate == 16000
    np.testing.assert_array_equal(values[0], expected)
    assert np.abs(values[0] - tone).max() < (0.1 if kind == "ogg" else 1e-4)


def test_volumes_of_a_folder_are_called_by_their_names_without_suffixes(tmp_path):
    for name in ("a", "b"):
        image = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4))
        nibabel.save(image, tmp_path / f"{name}.nii.gz")
    ingest("nifti", tmp_path, tmp_path / "o.zarr")
    assert everything(tmp_path / "o.zarr")[0].coords["file"].values.tolist() == ["a", "b"]
