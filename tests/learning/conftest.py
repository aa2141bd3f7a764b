"""A small archive with a gap, its coefficients, and its job."""

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import scatflow

JOB = """
name = "learning"
[source]
store = "archive.zarr"
variable = "waveform"
[transform]
kind = "scattering1d"
dims = ["time"]
J = 4
boundary = "{boundary}"
[output]
store = "out.zarr"
[run]
cluster = "threads"
"""

N = 8192


@dataclasses.dataclass
class Archive:
    """Three stations, of which one has a gap."""

    path: Path
    store: str
    """Their coefficients, in 12 blocks of one station and 128 windows."""
    coefficients: xr.Dataset
    """The same, in memory."""
    waveform: xr.DataArray

    @property
    def rows(self):
        """All windows that are valid: the matrix, and where they are."""
        matrix = self.coefficients.scat.features()
        return matrix[np.isfinite(matrix.values).all(axis=1)]

    def job(self, boundary="seamless"):
        """Write the job that computes them."""
        file = self.path / f"{boundary}.toml"
        file.write_text(JOB.format(boundary=boundary).replace('"archive', f'"{self.path}/archive'))
        return file


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("learning")
    x = np.random.default_rng(0).standard_normal((3, N)).astype(np.float32) + 3
    x *= 1 + np.sin(np.arange(N) / 300)
    x[1, 1000:1100] = np.nan
    time = np.datetime64("2010-09-01", "ns") + np.arange(N) * np.timedelta64(10, "ms")
    names = np.array(["UV05", "UV06", "UV07"], object)
    dims = ("station", "time")
    waveform = xr.DataArray(x, {"station": names, "time": time}, dims, "waveform")
    made = scatflow.scatter(waveform, scatflow.Scattering1D(J=4), boundary="seamless")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Zarr's text has no specification yet.
        waveform.to_dataset().chunk(station=1).to_zarr(path / "archive.zarr")
        chunked = made.chunk(station=1, path=5, time=128)
        chunked.to_zarr(path / "out.zarr")
    return Archive(path, str(path / "out.zarr"), made, waveform)
