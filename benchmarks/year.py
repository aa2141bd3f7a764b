"""Run a year of records at once, and compare windows with Kymatio, which sees only what is around.

    python benchmarks/year.py [--days 365] [--channels 3] [--rate 20] [--dtype float32]

Counts of noise, a tide and a burst a day are written day by day, each sample a function of its
number, so that those around any window can be made again without the store. `scatflow run`
transforms the record as one, and stretches of it, some across the seams of blocks, some at its two
ends, are given to Kymatio's own NumPy frontend in float64, reflected by hand where the record
ends. Nothing of scatflow is imported: its output is read with xarray. Printed are the largest gap
of any path, relative to the path's own maximum, whether all times are exact, and the most memory
of a worker beside what `scatflow plan` announced. A year of three channels is 3.5 GiB, and its
result 2.7 GiB; both are deleted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special
import xarray as xr
import zarr
from archive import scatflow, watch

# Kymatio's last release needs a function that SciPy has dropped, here for nothing.
scipy.special.sph_harm = lambda m, n, az, pol: scipy.special.sph_harm_y(n, m, pol, az)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from kymatio.numpy import Scattering1D

J, Q = 10, 8
START = np.datetime64("2023-01-01T00:00:00.000000007", "ns")
SCALE = 0.125
LENGTH = 2**16
"""Samples that Kymatio is given at a time."""
MARGIN = 24
"""Windows to each side that the borders of a stretch may reach: 24 * 2^J leave 2e-14."""
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}

JOB = """
[source]
store = "{folder}/year.zarr"
variable = "counts"
[transform]
kind = "scattering1d"
dims = ["time"]
J = {J}
Q = [{Q}, 1]
boundary = "seamless"
[output]
store = "{folder}/result.zarr"
dtype = "{dtype}"
[run]
workers = {workers}
memory = "1 GiB"
"""


@dataclass(frozen=True)
class Record:
    """A long record whose samples follow from their numbers."""

    channels: int
    days: Fraction
    rate: Fraction

    @property
    def day(self) -> int:
        """Samples of a day, and of a chunk."""
        return int(self.rate * 86400)

    @property
    def n(self) -> int:
        """Samples of a channel."""
        return int(self.rate * 86400 * self.days)

    def of_day(self, channel: int, day: int) -> np.ndarray:
        """Return the counts of one day."""
        rng = np.random.Generator(np.random.Philox(key=[channel, 2023], counter=[0, day, 0, 0]))
        x = rng.standard_normal(self.day, np.float32)
        x *= 300
        period = int(self.rate * 44712)  # the Moon's, in samples
        k = (np.arange(self.day) + day * self.day) % period
        x += np.sin(2 * np.pi / period * k) * 2000
        burst = np.arange(min(8192, self.day // 2))
        at = int(rng.integers(self.day - burst.size))
        x[at : at + burst.size] += 20000 * np.sin(0.7 * burst) * np.exp(-burst / 1000)
        return np.rint(x).astype(np.int16)

    def at(self, channel: int, samples: np.ndarray) -> np.ndarray:
        """Return physical values at some samples; beyond the ends the record is reflected."""
        inside = samples % (2 * (self.n - 1))
        inside = np.minimum(inside, 2 * (self.n - 1) - inside)
        x = np.empty(samples.size)
        for day in np.unique(inside // self.day):
            here = inside // self.day == day
            x[here] = self.of_day(channel, int(day))[inside[here] % self.day]
        return SCALE * x

    def write(self, store: Path) -> None:
        """Lay the record down, a chunk a day."""
        step = Fraction(10**9) / self.rate
        axis = {
            "start": str(START),
            "step": [step.numerator, step.denominator],
            "units": "ns",
        }
        array = zarr.open_group(store, mode="w").create_array(
            "counts",
            shape=(self.channels, self.n),
            chunks=(1, self.day),
            dtype=np.int16,
            compressors=None,
            dimension_names=["channel", "time"],
            attributes={"axes": {"time": axis}, "scale_factor": SCALE},
        )
        for channel in range(self.channels):
            for first in range(0, self.n, self.day):
                day = self.of_day(channel, first // self.day)
                array[channel, first : first + self.day] = day[: self.n - first]

    def times(self, stride: int) -> np.ndarray:
        """Return the times of windows `stride` samples apart, in whole numbers throughout."""
        step = Fraction(10**9) / self.rate * stride
        count = -(-self.n // stride)
        ns = [(2 * k * step.numerator + step.denominator) // (2 * step.denominator)
              for k in range(count)]  # fmt: skip
        return START + np.array(ns, "timedelta64[ns]")


class Around:
    """Kymatio on the stretch around some windows, in the units of its main."""

    def __init__(self) -> None:
        self.scattering = Scattering1D(J=J, shape=LENGTH, Q=Q)
        j = self.scattering.meta()["j"]
        # The last release averages where main sums: 2^-k a time that a spectrum is folded.
        k = np.minimum(np.nan_to_num(j, nan=0.0), J)
        self.sums = 2.0 ** (k[:, 0] + np.where(np.isnan(j[:, 1]), 0.0, k[:, 1]))
        self.inside = slice(MARGIN, LENGTH // 2**J - MARGIN)

    def __call__(self, record: Record, channel: int, window: int) -> np.ndarray:
        """Return ``(paths, windows)``, the windows from `window` on."""
        first = (window - MARGIN) * 2**J
        x = record.at(channel, np.arange(first, first + LENGTH))
        y = self.scattering(x) * self.sums[:, None]
        return y[:, self.inside]


def stretches(record: Record, block: int, count: int) -> list[tuple[int, int]]:
    """Return channels and first windows: both ends, then seams of blocks and others in turn."""
    rng = np.random.default_rng(1)
    last = -(-record.n // 2**J) - (LENGTH // 2**J - 2 * MARGIN)
    found = [(0, 0), (record.channels - 1, last)]
    for k in range(count - 2):
        seam = int(rng.integers(1, max(2, record.n // block))) * block // 2**J - 8
        window = seam if k % 2 else int(rng.integers(last))
        found.append((int(rng.integers(record.channels)), min(max(window, 0), last)))
    return found


def compare(record: Record, store: Path, block: int, count: int) -> tuple[float, bool]:
    """Return the largest gap of any path to its own maximum, and whether all times are exact."""
    result, around = xr.open_zarr(store), Around()
    expected, found = [], []
    for channel, window in stretches(record, block, count):
        expected.append(around(record, channel, window))
        some = slice(window, window + expected[-1].shape[1])
        y = result.scattering.isel(channel=channel, time=some)
        found.append(y.transpose("path", "time").values)
    gap = np.abs(np.stack(found) - np.stack(expected)).max(axis=(0, 2))
    largest = np.abs(np.stack(expected)).max(axis=(0, 2))
    exact = np.array_equal(result.time.values, record.times(2**J))
    return float((gap / largest).max()), exact


def measure(record: Record, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Write, run and compare; return what there is to say."""
    begun = time.monotonic()
    record.write(folder / "year.zarr")
    written = time.monotonic() - begun
    job = folder / "job.toml"
    job.write_text(
        JOB.format(folder=folder, J=J, Q=Q, dtype=options.dtype, workers=options.workers)
    )
    told = subprocess.run(
        scatflow("plan", str(job), "--json"), check=True, capture_output=True, text=True
    )
    plan, begun = json.loads(told.stdout), time.monotonic()
    process = subprocess.Popen(scatflow("run", str(job)), stdout=subprocess.DEVNULL)
    peak = watch(process)
    if process.returncode:
        sys.exit(f"the run ended with exit code {process.returncode}")
    ran = time.monotonic() - begun
    gap, exact = compare(
        record, folder / "result.zarr", plan["seamless"]["block"][0], options.stretches
    )
    return {
        "samples": record.channels * record.n,
        "written": written,
        "ran": ran,
        "gap": gap,
        "exact": exact,
        "worker": peak["worker"],
        "client": peak["client"],
        "announced": plan["peak_bytes_per_worker"],
    }


def main() -> None:
    """Print a line, and exit with 1 where a promise did not hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--days", type=Fraction, default=Fraction(365))
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--rate", type=Fraction, default=Fraction(20), help="Hz, as in 20 or 125/6")
    parser.add_argument("--dtype", default="float32", choices=list(TOLERANCE))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--stretches", type=int, default=24, help="of 16 windows each")
    parser.add_argument("--folder", help="where to put record and result (default: temporary)")
    options = parser.parse_args()
    record = Record(options.channels, options.days, options.rate)
    folder = Path(tempfile.mkdtemp(prefix="scatflow-", dir=options.folder))
    try:
        said = measure(record, folder, options)
    finally:
        shutil.rmtree(folder)
    print(
        f"{said['samples'] / 1e6:.0f} million samples in {said['ran']:.0f} s (written in "
        f"{said['written']:.0f} s): {options.dtype} gap {said['gap']:.1e} of {options.stretches} x "
        f"{LENGTH // 2**J - 2 * MARGIN} windows, times "
        f"{'exact' if said['exact'] else 'NOT exact'}; worker {said['worker'] / 2**20:.0f} of "
        f"{said['announced'] / 2**20:.0f} MiB announced, client and scheduler "
        f"{said['client'] / 2**20:.0f} MiB"
    )
    held = said["gap"] <= TOLERANCE[options.dtype] and said["exact"]
    if not held or said["worker"] > said["announced"]:
        sys.exit("a promise did not hold")


if __name__ == "__main__":
    main()
