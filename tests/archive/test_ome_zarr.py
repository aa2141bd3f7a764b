import numpy as np
import pytest
import zarr

from scatflow.archive import open_source
from scatflow.archive.ingest import ingest
from scatflow.errors import IngestError

VALUES = np.random.default_rng(0).integers(0, 999, (2, 3, 20, 30)).astype(np.uint16)


def write(path, version):
    """Write an image of two levels as the specification of that version says."""
    units = {"z": "micrometer", "y": "micrometer", "x": "micrometer"}
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": unit} for name, unit in units.items()]
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for level, factor in enumerate((1, 2)):
        part = VALUES[:, :, ::factor, ::factor]
        group.create_array(str(level), data=part, chunks=(1, 1, 16, 16))
        scale = {"type": "scale", "scale": [1, 2.0, 0.1 * factor, 0.25 * factor]}
        moved = {"type": "translation", "translation": [0, 5, 0, 0]}
        datasets.append({"path": str(level), "coordinateTransformations": [scale, moved]})
    multiscales = [{"name": "cells", "axes": axes, "datasets": datasets}]
    told = {
        "multiscales": multiscales,
        "omero": {"channels": [{"label": "DAPI"}, {"label": "GFP"}]},
    }
    group.attrs.update(told if version == "0.4" else {"ome": {"version": version, **told}})


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("level", [0, 1])
def test_a_level_has_its_axes_steps_units_and_channels(tmp_path, version, level):
    write(tmp_path / "in.zarr", version)
    ingest("ome-zarr", tmp_path / "in.zarr", tmp_path / "o.zarr", level=level)
    source = open_source(str(tmp_path / "o.zarr"))
    factor = 2**level
    assert source.dims == ("channel", "z", "y", "x")
    found = source.read([slice(None)] * 4)
    np.testing.assert_array_equal(found, VALUES[:, :, ::factor, ::factor])
    steps = {dim: (float(axis.step), axis.units) for dim, axis in source.axes.items()}
    expected = {"z": 2.0, "y": 0.1 * factor, "x": 0.25 * factor}
    assert steps == {dim: (step, "micrometer") for dim, step in expected.items()}
    assert source.axes["z"].start == 5
    assert source.coords["channel"].values.tolist() == ["DAPI", "GFP"]


def test_a_group_without_an_image_and_a_level_that_is_not_there_are_refused(tmp_path):
    zarr.open_group(tmp_path / "plain.zarr", mode="w")
    with pytest.raises(IngestError, match="no image of OME-Zarr"):
        ingest("ome-zarr", tmp_path / "plain.zarr", tmp_path / "o.zarr")
    write(tmp_path / "in.zarr", "0.5")
    with pytest.raises(IngestError, match="with a level 2"):
        ingest("ome-zarr", tmp_path / "in.zarr", tmp_path / "o.zarr", level=2)
