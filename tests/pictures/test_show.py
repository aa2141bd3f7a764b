import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from scatflow.errors import MissingExtraError, ParameterError, SourceError, SourceNotFoundError
from scatflow.pictures import show


def read_png(path: str) -> np.ndarray:
    from matplotlib.image import imread

    return imread(path)


def test_a_picture_is_a_png_of_the_announced_size_that_is_not_blank(make_signals):
    store = make_signals(records=2)
    lines = show(store)
    picture = Path(store).with_suffix(".png")
    assert lines[0].startswith(f"{picture}: 2 records (UV00, UV01); 200 windows, 10.24 s apart")
    header = picture.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", header[16:24])
    pixels = read_png(str(picture))
    assert pixels.shape[:2] == (height, width)
    assert width >= 1500
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1])[::7], axis=0)) > 200


def test_the_picture_goes_where_it_is_asked_to_go(make_signals, tmp_path):
    output = tmp_path / "new" / "folder" / "picture.png"
    lines = show(make_signals(), str(output))
    assert output.exists()
    assert lines[0].startswith(str(output))


@pytest.mark.parametrize(("ending", "begins"), [("pdf", b"%PDF"), ("SVG", b"<?xml")])
def test_a_file_has_the_format_that_its_name_says(make_signals, tmp_path, ending, begins):
    output = tmp_path / f"picture.{ending}"
    show(make_signals(), str(output), what="availability")
    assert output.read_bytes().startswith(begins)


def test_a_picture_of_an_unknown_format_is_refused_before_it_is_drawn(make_signals, tmp_path):
    output = tmp_path / "picture.xyz"
    with pytest.raises(ParameterError, match=r"written as 'xyz'.*\.png, \.pdf, \.svg"):
        show(make_signals(), str(output))
    assert not output.exists()


def test_a_missing_store_is_named(tmp_path):
    with pytest.raises(SourceNotFoundError, match=r"no Zarr group at .*nothing\.zarr"):
        show(str(tmp_path / "nothing.zarr"))


def test_a_store_by_another_hand_is_refused_with_what_it_holds(tmp_path):
    path = tmp_path / "other.zarr"
    xr.Dataset({"pressure": ("time", np.arange(3.0))}).to_zarr(path, consolidated=False)
    with pytest.raises(SourceError, match=r"not a result of scatflow.*pressure"):
        show(str(path))
    assert not path.with_suffix(".png").exists()


def test_without_matplotlib_the_line_that_installs_it_is_named(make_signals, monkeypatch):
    store = make_signals()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r'pip install "scatflow\[plot\]"'):
        show(store)


def test_drawing_leaves_matplotlibs_settings_and_pyplot_alone(make_signals):
    import matplotlib

    before = dict(matplotlib.rcParams)
    loaded = "matplotlib.pyplot" in sys.modules
    show(make_signals())
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_a_store_whose_arrays_have_no_named_dimensions_is_refused(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("x", data=np.arange(3.0))
    with pytest.raises(SourceError, match="do not name their dimensions"):
        show(str(tmp_path / "a.zarr"))
