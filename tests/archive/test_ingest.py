import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import zarr

from scatflow.archive import open_source
from scatflow.archive.ingest import READERS, ingest
from scatflow.archive.partial import new_archive
from scatflow.errors import IngestError


@pytest.fixture
def npy(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(6.0))
    return tmp_path / "x.npy"


def test_the_readers_are_those_of_the_command_line():
    assert {"mseed", "npy", "wav"} <= set(READERS)


def test_an_unknown_format_is_answered_with_the_known_ones(npy, tmp_path):
    with pytest.raises(IngestError, match=r"no reader for 'gif'.*'mseed', .*'npy', .*'wav'"):
        ingest("gif", npy, tmp_path / "o.zarr")


def test_what_was_written_is_told_in_lines(npy, tmp_path):
    lines = list(ingest("npy", npy, tmp_path / "o.zarr", dims="time"))
    assert lines == [f"{tmp_path / 'o.zarr'}: data (time: 6) float64"]


def test_the_archive_names_its_conventions_source_and_dims(npy, tmp_path):
    ingest("npy", [npy], tmp_path / "o.zarr", dims="time")
    group = zarr.open_group(str(tmp_path / "o.zarr"), mode="r")
    assert group.attrs["Conventions"] == "CF-1.11"
    assert group.attrs["source"] == "NumPy .npy"
    assert group["data"].metadata.dimension_names == ("time",)
    codecs = [type(codec).__name__ for codec in group["data"].metadata.codecs]
    assert codecs[-2:] == ["ZstdCodec", "Crc32cCodec"]


def test_the_same_input_gives_the_same_bytes(npy, tmp_path):
    for name in ("a.zarr", "b.zarr"):
        ingest("npy", npy, tmp_path / name)
    files = [
        sorted(p.relative_to(tmp_path / n) for p in (tmp_path / n).rglob("*") if p.is_file())
        for n in ("a.zarr", "b.zarr")
    ]
    assert files[0] == files[1]
    for file in files[0]:
        assert (tmp_path / "a.zarr" / file).read_bytes() == (
            tmp_path / "b.zarr" / file
        ).read_bytes()


@pytest.mark.parametrize("what", ["folder", "file", "archive", "dangling link"])
def test_an_output_that_exists_is_refused_and_kept(npy, tmp_path, what):
    out = tmp_path / "o.zarr"
    if what == "folder":
        out.mkdir()
    elif what == "file":
        out.write_text("kept")
    elif what == "archive":
        ingest("npy", npy, out)
    else:
        out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(IngestError, match=r"exists.*--overwrite"):
        ingest("npy", npy, out)
    assert os.path.lexists(out)
    assert not list(tmp_path.glob("*.partial"))


def test_overwrite_replaces_an_archive(npy, tmp_path):
    ingest("npy", npy, tmp_path / "o.zarr")
    np.save(npy, np.zeros(9))
    ingest("npy", npy, tmp_path / "o.zarr", overwrite=True)
    assert open_source(str(tmp_path / "o.zarr"), "data").shape == (9,)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.zarr", "x.npy"]


def test_overwrite_removes_nothing_that_is_no_archive(npy, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("kept")
    with pytest.raises(IngestError, match="no Zarr store"):
        ingest("npy", npy, tmp_path / "precious", overwrite=True)
    assert (tmp_path / "precious" / "thesis.txt").exists()


def test_an_archive_is_kept_when_its_replacement_fails(npy, tmp_path):
    ingest("npy", npy, tmp_path / "o.zarr")

    def fail(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest("npy", npy, tmp_path / "o.zarr", overwrite=True, on_progress=fail)
    assert open_source(str(tmp_path / "o.zarr"), "data").shape == (6,)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("out", ["x.npy", "."])
def test_an_output_on_top_of_an_input_is_refused(npy, tmp_path, out):
    with pytest.raises(IngestError, match="would replace the input"):
        ingest("npy", npy, tmp_path / out, overwrite=True)
    assert npy.exists()


def test_missing_inputs_and_folders_without_files_are_refused(npy, tmp_path):
    with pytest.raises(IngestError, match=r"no file .*none\.npy"):
        ingest("npy", tmp_path / "none.npy", tmp_path / "o.zarr")
    with pytest.raises(IngestError, match="no input"):
        ingest("npy", [], tmp_path / "o.zarr")
    (tmp_path / "empty").mkdir()
    with pytest.raises(IngestError, match=r"empty holds no \.npy files"):
        ingest("npy", tmp_path / "empty", tmp_path / "o.zarr")


def test_outputs_are_local(npy, tmp_path):
    with pytest.raises(IngestError, match="not a local path"):
        ingest("npy", npy, "s3://bucket/o.zarr")
    ingest("npy", npy, f"file://{tmp_path}/o.zarr")
    assert open_source(str(tmp_path / "o.zarr")).shape == (6,)


def test_what_a_killed_ingest_left_is_cleared_away(npy, tmp_path):
    left = tmp_path / "o.zarr.partial" / "data"
    left.mkdir(parents=True)
    (left / "old").write_text("old")
    ingest("npy", npy, tmp_path / "o.zarr")
    assert not list((tmp_path / "o.zarr").rglob("old"))
    assert not list(tmp_path.glob("*.partial"))


def test_two_ingests_of_one_output_exclude_each_other(npy, tmp_path):
    with new_archive(tmp_path / "o.zarr", [npy], overwrite=False) as partial:
        (partial.folder / "mine").write_text("")
        with pytest.raises(IngestError, match="Another ingest"):
            ingest("npy", npy, tmp_path / "o.zarr")
        assert (partial.folder / "mine").exists()


def test_an_ingest_that_is_killed_never_looks_complete(npy, tmp_path):
    code = (
        "import sys, time; from scatflow.archive.ingest import ingest;"
        "ingest('npy', sys.argv[1], sys.argv[2], on_progress=lambda *a: time.sleep(60))"
    )
    out = tmp_path / "o.zarr"
    process = subprocess.Popen([sys.executable, "-c", code, str(npy), str(out)])
    deadline = time.monotonic() + 30
    while not (tmp_path / "o.zarr.partial" / "data" / "c").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    ingest("npy", npy, out)
    assert open_source(str(out)).shape == (6,)


def test_other_packages_add_readers_and_replace_none(npy, tmp_path, monkeypatch):
    from importlib.metadata import EntryPoint

    points = [
        EntryPoint("mine", "scatflow.archive.npy:ingest_npy", "scatflow.readers"),
        EntryPoint("wav", "scatflow.archive.npy:ingest_npy", "scatflow.readers"),
        EntryPoint("gone", "no_such_package:read", "scatflow.readers"),
    ]
    monkeypatch.setattr(
        "scatflow.archive.ingest.entry_points", lambda group: {"scatflow.readers": points}[group]
    )
    assert ingest("mine", npy, tmp_path / "o.zarr").shape == np.load(npy).shape
    with pytest.raises(IngestError, match="no sound file"):
        ingest("wav", npy, tmp_path / "p.zarr")
    with pytest.raises(IngestError, match=r"no_such_package:read, cannot be imported"):
        ingest("gone", npy, tmp_path / "p.zarr")
