"""Run a job over an archive larger than memory and watch the workers from outside.

    python benchmarks/archive.py [--gib 8] [--workers 2] [--threads 1] [--memory "1 GiB"]

Makes an archive of noise, float32, 100 Hz, runs `scatflow run` on it, samples the resident memory
of every worker process ten times a second, and prints the highest beside what `scatflow plan`
announced. The archive and the result are deleted afterwards.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import zarr

CHANNELS = 8
CHUNK = 2**20

JOB = """
name = "archive-benchmark"
[source]
store = "{folder}/archive.zarr"
variable = "waveform"
[transform]
kind = "scattering1d"
dims = ["time"]
J = 10
Q = [8, 1]
max_order = {order}
boundary = "seamless"
[output]
store = "{folder}/result.zarr"
[run]
cluster = "{cluster}"
workers = {workers}
threads = {threads}
memory = "{memory}"
"""


def make_archive(path: Path, gib: float) -> int:
    """Write noise, a chunk at a time, and return its bytes."""
    samples = int(gib * 2**30 / 4 / CHANNELS / CHUNK) * CHUNK
    group = zarr.open_group(path, mode="w")
    array = group.create_array(
        "waveform",
        shape=(CHANNELS, samples),
        chunks=(1, CHUNK),
        dtype=np.float32,
        compressors=None,
        dimension_names=["channel", "time"],
        attributes={"axes": {"time": {"start": 0.0, "step": [1, 100], "units": "s"}}},
    )
    rng = np.random.default_rng(0)
    for channel in range(CHANNELS):
        for start in range(0, samples, CHUNK):
            array[channel, start : start + CHUNK] = rng.standard_normal(CHUNK, np.float32)
    return CHANNELS * samples * 4


def scatflow(*words: str) -> list[str]:
    return [sys.executable, "-m", "scatflow.cli", *words]


def watch(process: subprocess.Popen) -> dict[str, int]:
    """Sample until the run ends: the peak of any worker, and of the client with its scheduler."""
    peak = {"worker": 0, "client": 0}
    client = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            peak["client"] = max(peak["client"], client.memory_info().rss)
            for child in client.children(recursive=True):
                if "spawn_main" in " ".join(child.cmdline()):
                    peak["worker"] = max(peak["worker"], child.memory_info().rss)
        except psutil.NoSuchProcess:
            pass  # it ended between two looks
        time.sleep(0.1)
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gib", type=float, default=8.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", default="1 GiB")
    parser.add_argument("--order", type=int, default=2)
    parser.add_argument("--folder", help="where to put archive and result (default: temporary)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="scatflow-", dir=options.folder))
    try:
        begun = time.monotonic()
        size = make_archive(folder / "archive.zarr", options.gib)
        print(f"archive: {size / 2**30:.2f} GiB, made in {time.monotonic() - begun:.0f} s")
        job = folder / "job.toml"
        job.write_text(
            JOB.format(
                folder=folder,
                cluster="local",
                workers=options.workers,
                threads=options.threads,
                memory=options.memory,
                order=options.order,
            )
        )
        told = subprocess.run(
            scatflow("plan", str(job), "--json"), check=True, capture_output=True, text=True
        )
        announced = json.loads(told.stdout)["peak_bytes_per_worker"]
        begun = time.monotonic()
        process = subprocess.Popen(scatflow("run", str(job)))
        peak = watch(process)
        seconds = time.monotonic() - begun
        if process.returncode:
            sys.exit(f"the run ended with exit code {process.returncode}")
        print(
            f"{size / 4 / seconds / 1e6:.2f} million samples/s; peak of a worker "
            f"{peak['worker'] / 2**20:.0f} MiB, announced {announced / 2**20:.0f} MiB, budget "
            f"{options.memory}; client and scheduler {peak['client'] / 2**20:.0f} MiB"
        )
        if peak["worker"] > announced:
            sys.exit("the plan's peak did not hold")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
