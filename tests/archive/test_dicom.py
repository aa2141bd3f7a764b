import numpy as np
import pydicom
import pytest

from scatflow.archive import open_source
from scatflow.archive.ingest import ingest
from scatflow.errors import IngestError

UID = "1.2.826.0.1.3680043.8.498."
VOXELS = np.random.default_rng(0).integers(-1000, 3000, (4, 20, 30)).astype(np.int16)


def write(folder, number, pixels, z, series="1", **tags):
    """Write one CT slice, as pydicom does it."""
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = pydicom.uid.CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"{UID}{number + 1}"
    ds.SeriesInstanceUID, ds.Modality, ds.PatientName = UID + series, "CT", "Doe^Jane"
    ds.InstanceNumber, ds.PixelSpacing, ds.RescaleType = number, [0.5, 0.25], "HU"
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-7, -5, z], [1, 0, 0, 0, 1, 0]
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PixelRepresentation, ds.PixelData = 1, pixels.tobytes()
    for tag, value in tags.items():
        setattr(ds, tag, value)
    folder.mkdir(exist_ok=True)
    ds.save_as(folder / f"{number}.dcm", enforce_file_format=True)


def test_slices_are_ordered_by_place_and_keep_millimetres_and_units(tmp_path):
    for number, k in enumerate((2, 0, 3, 1)):
        write(tmp_path / "in", number, VOXELS[k], 10 + 2.5 * k)
    (tmp_path / "in" / "notes.txt").write_text("no slice")
    ingest("dicom", tmp_path / "in", tmp_path / "o.zarr")
    source = open_source(str(tmp_path / "o.zarr"))
    assert source.dims == ("z", "y", "x")
    np.testing.assert_array_equal(source.read([slice(None)] * 3), VOXELS - 1024.0)
    steps = {dim: (float(axis.step), axis.units) for dim, axis in source.axes.items()}
    assert steps == {"z": (2.5, "mm"), "y": (0.5, "mm"), "x": (0.25, "mm")}
    affine = np.array(source.attrs["affine"])
    np.testing.assert_allclose(affine @ [4, 2, 1, 1], [-6, -4, 12.5, 1])
    assert source.attrs["units"] == "HU"
    assert "Jane" not in "".join(p.read_text() for p in tmp_path.rglob("zarr.json"))


def test_slopes_that_differ_are_applied_and_uneven_places_kept(tmp_path):
    for k in range(3):
        write(tmp_path / "in", k, VOXELS[k], k**2, RescaleSlope=k + 1, RescaleIntercept=0)
    ingest("dicom", tmp_path / "in", tmp_path / "o.zarr")
    source = open_source(str(tmp_path / "o.zarr"))
    expected = VOXELS[:3] * np.arange(1, 4)[:, None, None]
    np.testing.assert_array_equal(source.read([slice(None)] * 3), expected)
    assert source.coords["z"].values.tolist() == [0, 1, 4]


def test_slices_that_make_no_volume_are_refused(tmp_path):
    write(tmp_path / "in", 0, VOXELS[0], 0)
    write(tmp_path / "in", 1, VOXELS[1], 0)
    with pytest.raises(IngestError, match="lie at one place"):
        ingest("dicom", tmp_path / "in", tmp_path / "o.zarr")
    write(tmp_path / "in", 1, VOXELS[1], 1, series="2")
    with pytest.raises(IngestError, match="2 series"):
        ingest("dicom", tmp_path / "in", tmp_path / "o.zarr")
    write(tmp_path / "in", 1, VOXELS[1], 1, NumberOfFrames=2)
    with pytest.raises(IngestError, match="several frames"):
        ingest("dicom", tmp_path / "in", tmp_path / "o.zarr")
    (tmp_path / "in" / "notes.txt").write_text("no slice")
    with pytest.raises(IngestError, match=r"notes.txt is no DICOM"):
        ingest("dicom", tmp_path / "in" / "notes.txt", tmp_path / "o.zarr")
