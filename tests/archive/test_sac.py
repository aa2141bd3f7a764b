"""The files of the folder ``sac`` were written by ObsPy 1.5.1."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from scatflow.archive import open_source
from scatflow.archive.ingest import ingest
from scatflow.errors import IngestError

WRITTEN = Path(__file__).parent / "sac"


def test_files_of_both_byte_orders_lie_on_one_grid_with_their_gaps(tmp_path):
    done = ingest("sac", WRITTEN, tmp_path / "o.zarr")
    source = open_source(str(tmp_path / "o.zarr"))
    whole = np.sin(np.arange(370) * 0.1).astype(np.float32)
    expected = np.full((2, 370), np.nan, np.float32)
    expected[0, :200], expected[0, 250:] = whole[:200], whole[250:]
    expected[1, 37:187] = whole[37:187]
    np.testing.assert_array_equal(source.read([slice(None)] * 2), expected)
    assert source.coords["station"].values.tolist() == ["AAA", "BBB"]
    assert source.coords["channel"].values.tolist() == ["HHZ", "HHZ"]
    assert source.axes["time"].rate_hz == 100.0
    assert source.axes["time"].at([0])[0] == np.datetime64("2010-12-31T23:59:58.500", "ns")
    assert source.attrs["units"] == "nm/s"
    assert done.notes == (
        "XX.AAA.00.HHZ: 50 of 370 samples are missing.",
        "XX.BBB.00.HHZ: 220 of 370 samples are missing.",
    )


def test_a_version_with_a_footer_is_read_by_its_doubles(tmp_path):
    head = bytearray((WRITTEN / "a1.sac").read_bytes())
    np.frombuffer(head, "<i4", 40, 280)[6] = 7
    footer = np.full(22, -12345.0)
    footer[:2] = 1 / 128, 0.25
    (tmp_path / "a.sac").write_bytes(bytes(head) + footer.tobytes())
    ingest("sac", tmp_path / "a.sac", tmp_path / "o.zarr")
    source = open_source(str(tmp_path / "o.zarr"))
    assert source.axes["time"].rate_hz == 128.0
    assert source.axes["time"].at([0])[0] == np.datetime64("2010-12-31T23:59:58.750", "ns")


def test_files_that_are_cut_short_uneven_or_something_else_are_refused(tmp_path):
    data = (WRITTEN / "a1.sac").read_bytes()
    (tmp_path / "cut.sac").write_bytes(data[:-4])
    with pytest.raises(IngestError, match="cut short: its header announces 200"):
        ingest("sac", tmp_path / "cut.sac", tmp_path / "o.zarr")
    uneven = bytearray(data)
    np.frombuffer(uneven, "<i4", 40, 280)[35] = 0
    (tmp_path / "uneven.sac").write_bytes(uneven)
    with pytest.raises(IngestError, match="no evenly spaced"):
        ingest("sac", tmp_path / "uneven.sac", tmp_path / "o.zarr")
    (tmp_path / "text.sac").write_text("no header" * 200)
    with pytest.raises(IngestError, match="no SAC file"):
        ingest("sac", tmp_path / "text.sac", tmp_path / "o.zarr")
    (tmp_path / "empty").mkdir()
    with pytest.raises(IngestError, match="no SAC file in the folder"):
        ingest("sac", tmp_path / "empty", tmp_path / "o.zarr")


def test_files_that_contradict_each_other_are_refused(tmp_path):
    shutil.copy(WRITTEN / "a1.sac", tmp_path / "a.sac")
    data = bytearray((WRITTEN / "a1.sac").read_bytes())
    np.frombuffer(data, "<f4", 200, 632)[17] = 3.0
    (tmp_path / "b.sac").write_bytes(data)
    with pytest.raises(IngestError, match="contradict each other"):
        ingest("sac", [tmp_path / "a.sac", tmp_path / "b.sac"], tmp_path / "o.zarr")
