"""Archives opened as labelled arrays: lazy, with coordinates, and transformed as a job does."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import scatflow
from scatflow.archive.ingest import ingest
from scatflow.labelled.axis import AxisIndex
from scatflow.labelled.job import open_job

YEAR = 365 * 86_400 * 100


def archive(store, shape, chunks, axes, dtype="f4", **attrs):
    """Make an archive as `scatflow ingest` does, without its numbers."""
    dims = ("station", "time")[-len(shape) :]
    group = zarr.open_group(store, mode="w")
    attributes = {"axes": axes, **attrs}
    return group.create_array(
        "waveform", shape=shape, chunks=chunks, dtype=dtype, dimension_names=dims,
        attributes=attributes, fill_value=np.nan if dtype[0] == "f" else 0,
    )  # fmt: skip


def of_time(step=(10**7, 1), start="2010-01-01"):
    return {"time": {"start": start, "step": list(step), "units": "ns"}}


@pytest.fixture
def year():
    archive("memory://year.zarr", (YEAR,), (2**20,), of_time())
    return scatflow.open_archive("memory://year.zarr")


def test_a_year_of_samples_behind_a_url_opens_without_its_times(year):
    assert year.sizes["time"] == YEAR
    assert year.time.dtype == "datetime64[ns]"
    assert isinstance(year.xindexes["time"], AxisIndex)
    assert "2010-12-31T23:59:59" in repr(year)
    assert year.time[-1].values == np.datetime64("2010-12-31T23:59:59.99")
    hour = year.sel(time="2010-09-01T07:33")
    ds = scatflow.scatter(hour, scatflow.Scattering1D(J=8, Q=1), boundary="seamless")
    assert ds.xi1.attrs["units"] == "Hz"
    assert ds.time[0] == np.datetime64("2010-09-01T07:33")


def test_times_are_selected_by_days_and_ranges_and_stay_regular(year):
    day = year.sel(time="2010-09-01")
    assert isinstance(day.xindexes["time"], AxisIndex)
    assert day.sizes["time"] == 8_640_000
    held = day.isel(time=slice(0, 6000)).assign_coords(time=day.time[:6000].values)
    lazy = day.isel(time=slice(0, 6000))
    for label in (
        "2010-09-01T00:00:07",
        slice("2010-09-01T00:00:07", "2010-09-01T00:00:09"),
        slice(np.datetime64("2010-09-01T00:00:07.005"), None, 3),
        slice(None, np.datetime64("2010-09-01T00:00:07.01")),
        np.datetime64("2010-09-01T00:00:07.01"),
        held.time.values[[5, 7]],
    ):
        xr.testing.assert_equal(lazy.time.sel(time=label), held.time.sel(time=label))
    off = np.datetime64("2010-09-01T00:00:07.013")
    assert lazy.time.sel(time=off, method="nearest") == held.time[701]
    assert lazy.time.sel(time=off, method="bfill") == held.time[702]
    with pytest.raises(KeyError):
        lazy.sel(time=off)
    with pytest.raises(KeyError):
        lazy.sel(time="2010-09-02")
    with pytest.raises(ValueError, match="tolerance"):
        lazy.sel(time=off, method="nearest", tolerance=np.timedelta64(1, "s"))


def test_selections_by_number_have_the_times_of_the_record():
    archive("memory://third.zarr", (10_000,), (1000,), of_time((10**9, 300)))
    da = scatflow.open_archive("memory://third.zarr")
    held = da.time.values
    for part in (slice(5, 5000), slice(3, None, 300), slice(None, None, 7), [1, -1], -1):
        found = da.isel(time=part).time.values
        assert np.abs(found - held[part]).max() <= np.timedelta64(1, "ns")
    again = xr.concat([da[:4000], da[4000:]], "time")
    assert isinstance(again.xindexes["time"], AxisIndex)
    np.testing.assert_array_equal(again.time.values, held)
    apart = xr.concat([da[:10], da[20:30]], "time")
    np.testing.assert_array_equal(apart.time.values, np.r_[held[:10], held[20:30]])
    assert (da[:10] + da[:10]).xindexes["time"].equals(da[:10].xindexes["time"])
    with pytest.raises(ValueError, match="time"):
        xr.align(da[:10], da[1:11], join="exact")


JOB = """
name = "archive"
[source]
store = "archive.zarr"
[transform]
kind = "scattering1d"
dims = ["time"]
J = 6
Q = 4
boundary = "seamless"
[output]
store = "out.zarr"
"""


def test_an_opened_archive_gives_the_bytes_and_labels_of_its_job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).standard_normal((2, 9000)).astype("f4")
    stored = archive(
        "archive.zarr", x.shape, (1, 1000), of_time((10**9, 300)), long_name="velocity"
    )
    stored[...] = x
    stored[1, 2000:4000] = np.nan  # Whole chunks of missing samples are not written.
    Path("job.toml").write_text(JOB, encoding="utf-8")
    written = open_job("job.toml").compute(scheduler="synchronous")
    da = scatflow.open_archive("archive.zarr", chunks={"time": 1234})
    assert np.isnan(da[1, 2500])
    assert da.attrs == {"long_name": "velocity"}
    engine = scatflow.Scattering1D(J=6, Q=4)
    made = scatflow.scatter(da, engine, boundary="seamless").compute(scheduler="synchronous")
    assert made.scattering.values.tobytes() == written.scattering.values.tobytes()
    for name in written.coords:
        np.testing.assert_array_equal(made[name].values, written[name].values)
    assert set(made.coords) == set(written.coords)


def test_a_folder_of_wav_files_opens_with_seconds(tmp_path):
    from scipy.io import wavfile

    for name in ("a", "b"):
        wavfile.write(tmp_path / f"{name}.wav", 8000, np.arange(4000, dtype=np.int16))
    ingest("wav", sorted(tmp_path.glob("*.wav")), tmp_path / "o.zarr")
    da = scatflow.open_archive(tmp_path / "o.zarr")
    assert da.time.attrs["units"] == "s"
    assert da.recording.values.tolist() == ["a", "b"]
    np.testing.assert_array_equal(da.time.values, np.arange(4000) / 8000)
    assert da.sel(time=slice(0.1, 0.2), recording="b").sizes == {"time": 801}
    ds = da.scat.scattering1d(J=5)
    assert ds.xi1.attrs["units"] == "Hz"
    assert float(ds.xi1.max()) > 2000
