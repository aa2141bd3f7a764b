"""What an ingest or a read holds in memory depends on no length."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MIB = 2**20

INGEST = """
import sys, threading, psutil
from scatflow.archive.ingest import ingest
format, out, *paths = sys.argv[1:]
# Imports and the machinery of the store are paid once, whatever the length.
ingest(format, paths[:1], out + ".warm")
process, peak, done = psutil.Process(), [0], threading.Event()
before = process.memory_info().rss
def watch():
    while not done.wait(0.002):
        peak[0] = max(peak[0], process.memory_info().rss)
thread = threading.Thread(target=watch)
thread.start()
ingest(format, paths[1:], out)
done.set()
thread.join()
print(peak[0] - before)
"""


def grown(format, out, *paths):
    """Return by how many bytes a process grows at most over an ingest."""
    command = [sys.executable, "-c", INGEST, format, str(out), *map(str, paths)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_a_long_npy_file_is_never_held(tmp_path):
    np.save(tmp_path / "short.npy", np.zeros(1000))
    long = np.lib.format.open_memmap(tmp_path / "long.npy", "w+", np.float64, (40 * MIB,))
    long[:: 2**10] = 1.0
    long.flush()
    del long
    assert (
        grown("npy", tmp_path / "o.zarr", tmp_path / "short.npy", tmp_path / "long.npy") < 120 * MIB
    )


def test_a_long_miniseed_file_is_never_held(tmp_path, record):
    # One block of records, repeated with times that follow each other: 200 MiB of samples.
    samples = np.random.default_rng(0).integers(-50, 50, 2**20).astype(np.int32)
    day = np.datetime64("2010-09-01", "ns")
    short = record(samples[:1000])
    (tmp_path / "short").write_bytes(short)
    with (tmp_path / "long").open("wb") as file:
        for i in range(50):
            start = f"{day + np.timedelta64(i * 2**20 * 10, 'ms')}Z"
            file.write(record(samples, start=start, length=4096))
    assert grown("mseed", tmp_path / "o.zarr", tmp_path / "short", tmp_path / "long") < 60 * MIB


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_decoding_a_slab_holds_the_slab_as_stored_and_as_read_only(dtype):
    import tracemalloc

    from scatflow.archive.decoding import Decoding

    stored = np.arange(4 * MIB, dtype=np.int32)
    decode = Decoding(missing=(5,), scale=0.5, offset=1.0)
    tracemalloc.start()
    try:
        decode(stored, np.dtype(dtype))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * MIB * np.dtype(dtype).itemsize + 4 * MIB


def test_a_long_array_of_an_npz_file_is_never_held(tmp_path):
    np.savez(tmp_path / "short.npz", x=np.zeros(1000))
    np.savez(tmp_path / "long.npz", x=np.zeros(16 * MIB))
    found = grown("npz", tmp_path / "o.zarr", tmp_path / "short.npz", tmp_path / "long.npz")
    assert found < 100 * MIB


def test_a_long_sac_file_is_never_held(tmp_path):
    short = Path(__file__).parent / "sac" / "a1.sac"
    head = bytearray(short.read_bytes()[:632])
    order = "<" if 6 in np.frombuffer(head, "<i4", 40, 280)[6:7] else ">"
    np.frombuffer(head, f"{order}i4", 40, 280)[9] = 32 * MIB
    with (tmp_path / "long.sac").open("wb") as file:
        file.write(head)
        file.truncate(len(head) + 128 * MIB)
    assert grown("sac", tmp_path / "o.zarr", short, tmp_path / "long.sac") < 60 * MIB
