import numpy as np
import xarray as xr

from scatflow.archive.ingest import ingest
from scatflow.flow.job import parse
from scatflow.flow.plan import prepare
from scatflow.flow.run import run


def test_a_run_over_a_reference_writes_what_one_over_the_copy_writes(place, inline):
    values = np.random.default_rng(0).standard_normal((2, 30_000)).astype(np.float32)
    times = np.datetime64("2010-09-01", "ns") + np.arange(30_000) * np.timedelta64(10, "ms")
    dataset = xr.Dataset(
        {"waveform": (("station", "time"), values, {"units": "Pa"})}, {"time": times}
    )
    packing = {"waveform": {"chunksizes": (1, 7000), "zlib": True, "shuffle": True}}
    dataset.to_netcdf(place.path / "a.nc", engine="h5netcdf", encoding=packing)
    ingest("netcdf", place.path / "a.nc", place.path / "archive.zarr")
    ingest("netcdf", place.path / "a.nc", place.path / "archive.json", reference=True)
    for store, output in (("archive.zarr", "copy.zarr"), ("archive.json", "pointed.zarr")):
        text = place.text(output=output).replace("archive.zarr", store)
        plan = prepare(parse(text, place.path / "job.toml"), str(place.path))
        assert run(plan, say=[].append) == 0
    chunks = {
        name: {key: value for key, value in place.bytes(name).items() if "/c/" in key}
        for name in ("copy.zarr", "pointed.zarr")
    }
    assert chunks["copy.zarr"]
    assert chunks["copy.zarr"] == chunks["pointed.zarr"]
