"""An ingest that was killed goes on where it stood, and gives the bytes of an undisturbed one."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import zarr

from scatflow.archive import partial, stack, traces, wav
from scatflow.archive.ingest import ingest
from scatflow.errors import IngestError

RNG = np.random.default_rng(0)
KILLED = """
import os, signal, sys
from scatflow.archive import ingest as shared, partial, stack, traces, wav
format, out, calls, *paths = sys.argv[1:]
partial.SECONDS = traces.REPORT = 0
os.sync = lambda: None
traces.CHUNK = wav.CHUNK = 1000
stack.slabs.__defaults__ = (8000,)
stack.chunk_shape.__defaults__ = (1000,)
left = int(calls)
def progress(done, total):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
shared.ingest(format, paths, out, on_progress=progress)
"""


@pytest.fixture
def small(monkeypatch):
    """Make chunks so small that there are many, and note each of them."""
    monkeypatch.setattr(partial, "SECONDS", 0)
    monkeypatch.setattr(os, "sync", lambda: None)  # It matters when the machine fails, not here.
    monkeypatch.setattr(traces, "REPORT", 0)
    monkeypatch.setattr(traces, "CHUNK", 1000)
    monkeypatch.setattr(wav, "CHUNK", 1000)
    monkeypatch.setattr(stack.slabs, "__defaults__", (8000,))
    monkeypatch.setattr(stack.chunk_shape, "__defaults__", (1000,))


@pytest.fixture
def files(tmp_path, record):
    """Return a maker of the files of a format."""

    def make(form):
        folder = tmp_path / "in"
        folder.mkdir()
        paths = [folder / f"{i}.{form}" for i in range(3)]
        for i, path in enumerate(paths):
            if form == "npy":
                np.save(path, RNG.standard_normal(3500))
            elif form == "mseed":
                # Records that overlap those of the file before, and gaps.
                start = np.datetime64("2010-09-01", "ns") + i * np.timedelta64(25, "s")
                samples = np.arange(2700, dtype=np.int32) + 2500 * i
                path.write_bytes(record(samples[:1500], start=f"{start}Z"))
                later = start + np.timedelta64(17, "s")
                with path.open("ab") as file:
                    file.write(record(samples[1700:], start=f"{later}Z"))
            else:
                soundfile.write(path, RNG.uniform(-0.5, 0.5, (3500 - i, 2)), 8000)
        return paths

    return make


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("form", "calls"), [("npy", 5), ("mseed", 22), ("wav", 6)])
def test_killed_and_given_again_it_goes_on_to_the_same_bytes(tmp_path, files, small, form, calls):
    paths = files(form)
    whole = ingest(form, paths, tmp_path / "whole.zarr")
    out = tmp_path / "o.zarr"
    command = [sys.executable, "-c", KILLED, form, str(out), str(calls), *map(str, paths)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not out.exists()
    told = []
    done = ingest(form, paths, out, on_progress=lambda *now: told.append(now))
    assert done.notes == ("It went on where an interrupted ingest stood.", *whole.notes)
    assert contents(out) == contents(tmp_path / "whole.zarr")
    assert not list(tmp_path.glob("*.partial"))
    assert told[-1][0] == told[-1][1]
    assert form == "mseed" or told[0][0] > told[0][1] / 4


@pytest.mark.parametrize("form", ["npy", "mseed", "flac", "ogg"])
def test_interrupted_over_and_over_it_ends_with_the_same_bytes(tmp_path, files, small, form):
    paths = files(form)
    whole = ingest(form, paths, tmp_path / "whole.zarr")
    out, most, done = tmp_path / "o.zarr", 0, None

    def once_more(done, total):
        nonlocal most
        if done > most and (form != "mseed" or done > total / 2):
            most = done
            raise KeyboardInterrupt

    times = 0
    while done is None:
        times += 1
        try:
            done = ingest(form, paths, out, on_progress=once_more)
        except KeyboardInterrupt:
            assert not out.exists()
    assert times > 6
    assert done.notes[1:] == whole.notes
    assert contents(out) == contents(tmp_path / "whole.zarr")


def stop(done, total):
    if 2 * done > total:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda paths: os.utime(paths[0], (1, 1)), "0.npy has changed"),
        (lambda paths: paths.pop(), "2.npy is no longer among its files"),
        (lambda paths: paths.reverse(), "its files had another order"),
        (lambda paths: paths.append(paths[0].rename(paths[0].with_name("x.npy"))), "0.npy is no"),
    ],
)
def test_what_changed_since_is_told_and_all_is_new(tmp_path, files, small, change, why):
    paths = files("npy")
    with pytest.raises(KeyboardInterrupt):
        ingest("npy", paths, tmp_path / "o.zarr", on_progress=stop)
    change(paths)
    paths = [path for path in paths if path.exists()]
    done = ingest("npy", paths, tmp_path / "o.zarr")
    assert len(done.notes) == 1
    assert why in done.notes[0]
    assert done.notes[0].endswith("all is new.")
    ingest("npy", paths, tmp_path / "whole.zarr")
    assert contents(tmp_path / "o.zarr") == contents(tmp_path / "whole.zarr")


def test_other_options_start_over(tmp_path, files, small):
    paths = files("npy")
    with pytest.raises(KeyboardInterrupt):
        ingest("npy", paths, tmp_path / "o.zarr", on_progress=stop, step=2)
    done = ingest("npy", paths, tmp_path / "o.zarr", step=3)
    assert "its axes differed" in done.notes[0]
    assert zarr.open_group(tmp_path / "o.zarr")["data"].attrs["axes"]["dim_0"]["step"] == [3, 1]


def test_what_a_killed_clearing_has_deleted_is_not_taken_for_done(
    tmp_path, files, small, monkeypatch
):
    paths = files("npy")
    with pytest.raises(KeyboardInterrupt):
        ingest("npy", paths, tmp_path / "o.zarr", on_progress=stop)

    def killed(path, **_):
        if path.name == "data":  # What else there is has not been reached.
            for chunk in [p for p in (path / "c").rglob("*") if p.is_file()]:
                chunk.unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(partial.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            ingest("npy", paths, tmp_path / "o.zarr", step=3)
    ingest("npy", paths, tmp_path / "o.zarr")
    ingest("npy", paths, tmp_path / "whole.zarr")
    assert contents(tmp_path / "o.zarr") == contents(tmp_path / "whole.zarr")


def test_files_that_cannot_be_ingested_leave_nothing_to_go_on_with(tmp_path, files, small):
    paths = files("flac")
    paths[1].write_bytes(paths[1].read_bytes()[:-3000])
    with pytest.raises(IngestError, match=r"1\.flac"):
        ingest("flac", paths, tmp_path / "o.zarr")
    assert not list(tmp_path.glob("*.partial"))


def test_zeros_that_were_written_are_written_after_going_on(tmp_path, small):
    np.save(tmp_path / "z.npy", np.zeros(9000, np.int16))
    with pytest.raises(KeyboardInterrupt):
        ingest("npy", tmp_path / "z.npy", tmp_path / "o.zarr", on_progress=stop)
    ingest("npy", tmp_path / "z.npy", tmp_path / "o.zarr")
    assert len(list((tmp_path / "o.zarr/data/c").iterdir())) == 18
