"""References give what a copy gives, as long as the file they point to does not change."""

import os
import pickle

import h5py
import numpy as np
import pytest
import xarray as xr

from scatflow.archive import open_source
from scatflow.archive.ingest import ingest
from scatflow.errors import IngestError, SourceError


@pytest.fixture
def file(tmp_path):
    """Write NetCDF4 as xarray does, packed and compressed."""
    times = np.datetime64("2010-09-01", "ns") + np.arange(5000) * np.timedelta64(250, "ms")
    values = np.random.default_rng(0).standard_normal((3, 5000))
    values[1, 7:9] = np.nan
    dataset = xr.Dataset(
        {"pressure": (("station", "time"), values, {"units": "Pa"}), "other": ("time", values[0])},
        {"time": times, "station": ["a", "b", "c"], "lat": ("station", [1.0, 2.0, 3.5])},
    )
    packing = {"dtype": "int16", "scale_factor": 1e-3, "_FillValue": -32768, "zlib": True}
    encoding = {"pressure": {**packing, "chunksizes": (1, 1000), "shuffle": True}}
    dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf", encoding=encoding)
    return tmp_path / "a.nc"


def test_a_reference_reads_as_the_copy_does(file, tmp_path):
    outputs = str(tmp_path / "o.zarr"), str(tmp_path / "o.json")
    ingest("netcdf", file, outputs[0], variable="pressure")
    done = ingest("netcdf", file, outputs[1], variable="pressure", reference=True)
    copy, pointed = open_source(outputs[0]), pickle.loads(pickle.dumps(open_source(outputs[1])))
    assert (pointed.dims, pointed.shape, pointed.dtype) == (copy.dims, copy.shape, copy.dtype)
    assert done.shape == (3, 5000)
    for box in ([slice(None)] * 2, [slice(1, 2), slice(990, 2010)]):
        np.testing.assert_array_equal(pointed.read(box), copy.read(box))
    assert {**pointed.attrs} == {**copy.attrs}
    assert pointed.axes == copy.axes
    assert pointed.coords["station"].values.tolist() == ["a", "b", "c"]
    assert pointed.coords["lat"].values.tolist() == [1.0, 2.0, 3.5]
    assert (tmp_path / "o.json").stat().st_size < 10_000


def test_a_file_that_changed_after_its_reference_is_refused(file, tmp_path):
    out = tmp_path / "o.json"
    ingest("netcdf", file, out, variable="pressure", reference=True)
    with pytest.raises(IngestError, match="exists"):
        ingest("netcdf", file, out, variable="pressure", reference=True)
    os.utime(file, (1, 1))
    with pytest.raises(SourceError, match=r"a.nc has changed since.*--overwrite"):
        open_source(str(out))
    ingest("netcdf", file, out, variable="pressure", reference=True, overwrite=True)
    assert open_source(str(out)).shape == (3, 5000)
    file.unlink()
    with pytest.raises(SourceError, match=r"a.nc is gone"):
        open_source(str(out))
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(SourceError, match="no reference store"):
        open_source(str(tmp_path / "x.json"))


def test_what_cannot_be_referred_to_is_told_with_the_remedy(file, tmp_path):
    with pytest.raises(IngestError, match=r"called NAME.json"):
        ingest("netcdf", file, tmp_path / "o.zarr", variable="pressure", reference=True)
    with h5py.File(tmp_path / "holes.h5", "w") as holes:
        holes.create_dataset("x", (100,), "f4", chunks=(10,))[:10] = 1
    with pytest.raises(IngestError, match="9 chunks of x were never written"):
        ingest("hdf5", tmp_path / "holes.h5", tmp_path / "o.json", reference=True)
