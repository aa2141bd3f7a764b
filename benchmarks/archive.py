"""Run a job over an archive larger than memory and watch the workers from outside.

    python benchmarks/archive.py [--gib 0.1 1 10 40] [--workers 2] [--threads 1] [--memory "1 GiB"]
                                 [--order 2] [--quality 8]

For each size, makes an archive of noise, float32, 100 Hz, runs `scatflow run` on it, and prints the
most memory that any worker process ever had resident (VmHWM) beside what `scatflow plan` announced.
An archive has some chunks of noise that are linked over and over, so that it takes no more room on
disk than those, whatever its size. Archive and result are deleted afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
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

DISTINCT = 16
"""Chunks of noise that all the others are links to."""

JOB = """
name = "archive-benchmark"
[source]
store = "{folder}/archive.zarr"
variable = "waveform"
[transform]
kind = "scattering1d"
dims = ["time"]
J = 10
Q = [{quality}, 1]
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


def job_text(
    folder: object,
    *,
    cluster: str = "local",
    workers: int = 2,
    threads: int = 1,
    memory: str = "1 GiB",
    order: int = 2,
    quality: int = 8,
) -> str:
    """Return a job on the archive of a folder, which other benchmarks run, too."""
    return JOB.format(**locals())


def make_archive(path: Path, gib: float) -> int:
    """Write chunks of noise, link the others to them, and return the bytes of all."""
    samples = max(int(gib * 2**30 / 4 / CHANNELS / CHUNK), 1) * CHUNK
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
    count = samples // CHUNK
    for k in range(min(DISTINCT, count)):
        array[0, k * CHUNK : (k + 1) * CHUNK] = rng.standard_normal(CHUNK, np.float32)
    chunks = path / "waveform" / "c"
    for channel in range(CHANNELS):
        (chunks / str(channel)).mkdir(exist_ok=True)
        for k in range(DISTINCT if channel == 0 else 0, count):
            # A rotation by an odd number keeps channels from being copies of each other.
            noise = (k + 5 * channel) % min(DISTINCT, count)
            os.link(chunks / "0" / str(noise), chunks / str(channel) / str(k))
    return CHANNELS * samples * 4


def scatflow(*words: str) -> list[str]:
    return [sys.executable, "-m", "scatflow.cli", *words]


def high_water(pid: int) -> int:
    """Return the most memory that a process has ever had resident, bytes; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def watch(process: subprocess.Popen) -> dict[str, int]:
    """Look until the run ends: the peak of any worker, and of the client with its scheduler."""
    peak = {"worker": 0, "client": 0}
    client = psutil.Process(process.pid)
    while process.poll() is None:
        peak["client"] = max(peak["client"], high_water(process.pid))
        try:
            for child in client.children(recursive=True):
                if "spawn_main" in " ".join(child.cmdline()):
                    peak["worker"] = max(peak["worker"], high_water(child.pid))
        except psutil.NoSuchProcess:
            pass  # it ended between two looks
        time.sleep(0.1)
    return peak


def measure(gib: float, options: argparse.Namespace) -> bool:
    """Run one size, print its figures, and tell whether the plan's peak held."""
    folder = Path(tempfile.mkdtemp(prefix="scatflow-", dir=options.folder))
    try:
        size = make_archive(folder / "archive.zarr", gib)
        job = folder / "job.toml"
        job.write_text(
            job_text(
                folder,
                workers=options.workers,
                threads=options.threads,
                memory=options.memory,
                order=options.order,
                quality=options.quality,
            )
        )
        told = subprocess.run(
            scatflow("plan", str(job), "--json"), check=True, capture_output=True, text=True
        )
        announced = json.loads(told.stdout)["peak_bytes_per_worker"]
        begun = time.monotonic()
        process = subprocess.Popen(scatflow("run", str(job)), stdout=subprocess.DEVNULL)
        peak = watch(process)
        seconds = time.monotonic() - begun
    finally:
        shutil.rmtree(folder)
    if process.returncode:
        sys.exit(f"the run ended with exit code {process.returncode}")
    mib = {name: value / 2**20 for name, value in peak.items()}
    print(
        f"| {size / 2**30:.2f} GiB | {size / 4 / seconds / 1e6:.2f} million/s | "
        f"{mib['worker']:.0f} MiB | {announced / 2**20:.0f} MiB | {options.memory} | "
        f"{mib['client']:.0f} MiB |",
        flush=True,
    )
    return peak["worker"] <= announced


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gib", type=float, nargs="+", default=[0.1, 1.0, 10.0, 40.0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", default="1 GiB")
    parser.add_argument("--order", type=int, default=2)
    parser.add_argument("--quality", type=int, default=8, help="Q of the first order")
    parser.add_argument("--folder", help="where to put archive and result (default: temporary)")
    options = parser.parse_args()
    print("| archive | samples | peak of a worker | announced | budget | client and scheduler |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    held = [measure(gib, options) for gib in options.gib]
    if not all(held):
        sys.exit("the plan's peak did not hold")


if __name__ == "__main__":
    main()
