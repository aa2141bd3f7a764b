"""Compare the memory that plans announce with what workers take, over jobs of every kind.

    python benchmarks/memory.py [--case seamless frames ...]

Each job is run by one worker on noise; printed are the most memory that it ever had resident
(VmHWM), what `scatflow plan` announced, and their ratio, also without the 308 MiB that every
worker is granted for libraries and freed memory.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from archive import scatflow, watch

JOB = """
[source]
store = "{folder}/archive.zarr"
variable = "x"
[transform]
{transform}
[output]
store = "{folder}/result.zarr"
dtype = "{dtype}"
[run]
workers = 1
memory = "{memory}"
"""

LENGTH = 2**22
"""Samples of a record: a few blocks."""
SEAMLESS = 'kind = "scattering1d"\ndims = ["time"]\nJ = 10\nQ = [8, 1]\nboundary = "seamless"\n'
FRAMES = (
    'kind = "scattering1d"\ndims = ["time"]\nJ = 8\nQ = 4\nboundary = "frames"\nframe = 16384\n'
)
WHOLE = 'kind = "scattering1d"\ndims = ["time"]\nJ = 8\nQ = 4\n'
IMAGES = 'kind = "scattering2d"\ndims = ["y", "x"]\nJ = 3\nL = 4\n'
VOLUMES = 'kind = "scattering3d"\ndims = ["z", "y", "x"]\nJ = 2\nL = 2\n'
JOINT = 'kind = "timefrequency"\ndims = ["time"]\nJ = 8\nJ_fr = 3\nQ = 8\nboundary = "seamless"\n'


@dataclass(frozen=True)
class Case:
    """A job and how its source is stored."""

    transform: str
    shape: tuple[int, ...] = (1, LENGTH)
    dims: tuple[str, ...] = ("station", "time")
    chunks: tuple[int, ...] = (1, 2**20)
    dtype: str = "float32"
    result: str = "float32"
    memory: str = "2 GiB"
    storage: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


RECORDS = {"shape": (96, 2**16), "chunks": (16, 2**16)}
PICTURES = {"shape": (192, 128, 128), "dims": ("image", "y", "x"), "chunks": (64, 128, 128)}
CUBES = {"shape": (12, 64, 64, 64), "dims": ("k", "z", "y", "x"), "chunks": (1, 64, 64, 64)}

CASES = {
    "seamless": Case(SEAMLESS),
    "seamless64": Case(SEAMLESS, dtype="float64", result="float64"),
    "tight": Case(SEAMLESS, memory="380 MiB"),
    "scaled": Case(SEAMLESS, dtype="int16", attributes={"scale_factor": 0.5, "add_offset": 1.0}),
    "small-chunks": Case(SEAMLESS, chunks=(1, 2**12)),
    "huge-chunks": Case(SEAMLESS, chunks=(1, LENGTH)),
    "sharded": Case(SEAMLESS, chunks=(1, 2**14), storage={"shards": (1, 2**21)}),
    "huge-shards": Case(SEAMLESS, chunks=(1, 2**14), storage={"shards": (1, 2**22)}),
    "plain": Case(SEAMLESS, storage={"compressors": None}),
    "frames": Case(FRAMES),
    "whole": Case(WHOLE, **RECORDS),
    "whole64": Case(WHOLE, **RECORDS, result="float64"),
    "images": Case(IMAGES, **PICTURES),
    "volumes": Case(VOLUMES, **CUBES),
    "volume-maps": Case(
        VOLUMES + 'method = "standard"\n',
        **{**CUBES, "shape": (3, 64, 64, 64)},
    ),
    "joint": Case(JOINT, shape=(1, 2**21)),
}


def make_archive(path: Path, case: Case) -> None:
    """Write noise, a shard or chunk at a time along the first axis."""
    array = zarr.open_group(path, mode="w").create_array(
        "x",
        shape=case.shape,
        chunks=case.chunks,
        dtype=case.dtype,
        dimension_names=case.dims,
        attributes=case.attributes,
        **case.storage,
    )
    rng = np.random.default_rng(0)
    for k in range(0, case.shape[0], case.chunks[0]):
        part = array[k : k + case.chunks[0]].shape
        array[k : k + part[0]] = (100 * rng.standard_normal(part)).astype(case.dtype)


def measure(case: Case, folder: Path) -> tuple[int, dict[str, Any]]:
    """Return the most memory that the worker had, and what the plan says."""
    make_archive(folder / "archive.zarr", case)
    job = folder / "job.toml"
    job.write_text(
        JOB.format(folder=folder, transform=case.transform, dtype=case.result, memory=case.memory)
    )
    told = subprocess.run(scatflow("plan", str(job), "--json"), capture_output=True, text=True)
    if told.returncode:
        sys.exit(told.stderr)
    process = subprocess.Popen(scatflow("run", str(job)), stdout=subprocess.DEVNULL)
    peak = watch(process)["worker"]
    if process.returncode:
        sys.exit(f"the run ended with exit code {process.returncode}")
    return peak, json.loads(told.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    held = True
    print("| job | worker | announced | ratio | announced for |\n| --- | --- | --- | --- | --- |")
    for name in options.case:
        folder = Path(tempfile.mkdtemp(prefix="scatflow-"))
        try:
            peak, told = measure(CASES[name], folder)
        finally:
            shutil.rmtree(folder)
        announced, items = told["peak_bytes_per_worker"], told["memory_per_worker"]
        held &= peak <= announced
        print(
            f"| {name} | {peak / 2**20:.0f} MiB | {announced / 2**20:.0f} MiB | "
            f"{announced / peak:.2f} | "
            f"{', '.join(f'{k} {n / 2**20:.0f}' for k, n in items.items() if n)} |",
            flush=True,
        )
    if not held:
        sys.exit("a plan's peak did not hold")


if __name__ == "__main__":
    main()
