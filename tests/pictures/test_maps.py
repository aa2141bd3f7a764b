import json

import numpy as np
import pytest
import xarray as xr

from scatflow.pictures import show
from scatflow.pictures.results import Grid, open_results


def write(path, values, dims, coords, kind) -> str:
    attrs = {"scatflow_spec": json.dumps({"kind": kind})}
    dataset = xr.Dataset({"scattering": (dims, values)}, coords, attrs)
    dataset.to_zarr(path, consolidated=False)
    return str(path)


def image_labels(scales: int = 3, angles: int = 4) -> dict:
    j1 = np.repeat(np.arange(scales), angles)
    theta = np.tile(np.arange(angles) * np.pi / angles, scales)
    return {
        "order": ("path", np.array([0, *[1] * j1.size, 2])),
        "j1": ("path", np.array([-1, *j1, 0])),
        "xi1": ("path", np.array([np.nan, *(0.375 / 2**j1), 0.375]), {"units": "cycles/sample"}),
        "theta1": ("path", np.array([np.nan, *theta, 0.0])),
    }


@pytest.fixture
def tiles(tmp_path):
    values = np.random.default_rng(1).uniform(0.5, 2.0, (3, 4, 14, 8, 8)).astype(np.float32)
    values[1, 2] = np.nan
    coords = {
        **image_labels(),
        "frame_lat": ("frame_lat", 90 - 60.0 * np.arange(3), {"units": "degrees_north"}),
        "frame_lon": ("frame_lon", -180 + 90.0 * np.arange(4), {"units": "degrees_east"}),
        "lat": ("lat", -7.5 * np.arange(8), {"units": "degrees_north"}),
        "lon": ("lon", 11.25 * np.arange(8), {"units": "degrees_east"}),
    }
    dims = ("frame_lat", "frame_lon", "path", "lat", "lon")
    return write(tmp_path / "tiles.zarr", values, dims, coords, "scattering2d")


def test_tiles_are_put_together_on_the_map(tiles):
    lines = show(tiles)
    assert "3 x 4 tiles, 24 x 32 windows, 14 paths" in lines[0]
    assert any("64 of 768 windows hold no values" in line for line in lines)
    grid = open_results(tiles).grid("lat")
    assert isinstance(grid, Grid)
    np.testing.assert_allclose(grid.positions, 90 - 7.5 * np.arange(24))


@pytest.mark.parametrize(("paths", "shape"), [(14, (1, 1)), (1, (5, 6)), (1, (1, 1))])
def test_one_window_or_order_zero_alone_is_drawn(tmp_path, paths, shape):
    labels = {name: (d, v[:paths], *a) for name, (d, v, *a) in image_labels().items()}
    values = np.ones((2, paths, *shape), np.float32)
    store = write(tmp_path / "i.zarr", values, ("image", "path", "y", "x"), labels, "scattering2d")
    assert "1 of 2 images drawn (image 0)" in show(store)[0]


def test_an_image_larger_than_the_picture_is_averaged_into_cells(tmp_path):
    values = np.ones((14, 700, 20), np.float32)
    store = write(
        tmp_path / "tall.zarr", values, ("path", "y", "x"), image_labels(), "scattering2d"
    )
    assert "700 x 20 windows" in show(store)[0]


def volume_labels() -> dict:
    j1, degree = np.repeat([0, 1], 3), np.tile([0, 1, 2], 2)
    return {
        "order": ("path", np.array([1] * 6 + [2])),
        "j1": ("path", np.array([*j1, 0])),
        "l": ("path", np.array([*degree, 0])),
    }


def test_volumes_are_drawn_by_degree_and_over_the_middle_slice(tmp_path):
    values = np.random.default_rng(2).uniform(1, 2, (3, 4, 5, 7, 2)).astype(np.float32)
    values[0, 0, 0] = np.nan
    frames = {
        f"frame_{d}": (f"frame_{d}", 32.0 * np.arange(n))
        for d, n in zip("zyx", (3, 4, 5), strict=True)
    }
    dims = ("frame_z", "frame_y", "frame_x", "path", "power")
    coords = {**volume_labels(), **frames, "power": [0.5, 1.0]}
    lines = show(write(tmp_path / "v.zarr", values, dims, coords, "scattering3d"))
    assert "3 x 4 x 5 positions, 7 paths, integral power 1" in lines[0]
    assert any("1 of 60 positions hold no values" in line for line in lines)


@pytest.mark.parametrize(
    ("dims", "shape"),
    [
        (("path", "power"), (7, 3)),
        (("molecule", "path", "power"), (2, 7, 1)),
        (("path", "point"), (7, 9)),
        (("path", "z", "y", "x"), (7, 4, 4, 4)),
        (("frame", "path", "power"), (6, 7, 1)),
        (("frame_y", "frame_x", "path", "z", "y", "x"), (2, 3, 7, 2, 2, 2)),
    ],
)
def test_volumes_of_every_layout_are_drawn(tmp_path, dims, shape):
    values = np.full(shape, 2.0, np.float32)
    store = write(tmp_path / "v.zarr", values, dims, volume_labels(), "scattering3d")
    assert "7 paths" in show(store)[0]
