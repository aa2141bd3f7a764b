"""Result stores of the layout that a run writes, made without a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

STEP = np.timedelta64(10_240, "ms")
START = np.datetime64("2010-09-01T00:00:00", "ns")


def path_labels() -> dict[str, tuple]:
    """Order 0, eleven paths of order 1 (some spaced linearly), and order 2 at two modulations."""
    xi1 = np.concatenate([np.geomspace(40.0, 1.0, 8), [0.75, 0.5, 0.25]])
    second = [(f, m) for m in (0.5, 0.05) for f in xi1[:8]]
    nan = np.nan
    hertz = {"units": "Hz"}
    first = np.array([nan, *xi1, *(f for f, _ in second)])
    return {
        "order": ("path", np.array([0] + [1] * 11 + [2] * 16)),
        "xi1": ("path", first, hertz),
        "xi2": ("path", np.array([nan] * 12 + [m for _, m in second]), hertz),
        "sigma1": ("path", first / 8, hertz),
        "sigma2": ("path", np.full(28, nan), hertz),
        "j1": ("path", np.array([-1] + [0] * 27)),
        "j2": ("path", np.array([-1] * 12 + [5] * 16)),
    }


def write_store(path: Path, values: np.ndarray, dims: tuple[str, ...], coords: dict) -> str:
    spec = json.dumps({"kind": "scattering1d", "J": 10, "Q": [8, 1]})
    dataset = xr.Dataset({"scattering": (dims, values)}, coords, {"scatflow_spec": spec})
    dataset.to_zarr(path, mode="w", zarr_format=3, consolidated=False)
    return str(path)


def noisy_values(records: int, windows: int, seed: int = 0) -> np.ndarray:
    """Log-normal coefficients that fall with the path's number, (records, 28, windows)."""
    rng = np.random.default_rng(seed)
    noise = 10 ** rng.normal(0.0, 0.1, (records, 28, windows))
    return (noise * np.geomspace(1e3, 1.0, 28)[None, :, None]).astype(np.float32)


@pytest.fixture
def make_signals(tmp_path: Path):
    """Write a store of records over time; `change` may plant something into the values."""

    def make(records: int = 1, windows: int = 200, change=None) -> str:
        values = noisy_values(records, windows)
        if change is not None:
            change(values)
        # Text of fixed length has no specification in Zarr v3.
        names = np.array([f"UV{k:02d}" for k in range(records)], dtype=np.dtypes.StringDType())
        coords = {
            **path_labels(),
            "station": names,
            "time": START + np.arange(windows) * STEP,
        }
        return write_store(tmp_path / "day.zarr", values, ("station", "path", "time"), coords)

    return make


@pytest.fixture
def make_long_signal(tmp_path: Path):
    """Write a store of which only the chunks around one window are written."""

    def make(windows: int, event: int) -> str:
        group = zarr.open_group(tmp_path / "year.zarr", mode="w", zarr_format=3)
        group.attrs["scatflow_spec"] = json.dumps({"kind": "scattering1d", "J": 10, "Q": [8, 1]})
        array = group.create_array(
            "scattering",
            shape=(28, windows),
            chunks=(28, 65_536),
            dtype="float32",
            fill_value=1.0,
            dimension_names=("path", "time"),
        )
        array[:, event] = 100.0
        for name, (_, values, *attrs) in path_labels().items():
            label = group.create_array(name, data=values, dimension_names=("path",))
            label.attrs.update(attrs[0] if attrs else {})
        array.attrs["coordinates"] = " ".join(path_labels())
        seconds = np.arange(windows, dtype=np.int64) * 10_240
        time = group.create_array("time", data=seconds, dimension_names=("time",))
        time.attrs.update(units="milliseconds since 2010-01-01", calendar="proleptic_gregorian")
        return str(tmp_path / "year.zarr")

    return make
