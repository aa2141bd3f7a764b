"""Time whole runs that keep as many threads busy in different ways, alternating.

    python benchmarks/threads.py [--gib 0.25] [--repeat 3] [--output docs/benchmarks]

Makes an archive of noise, float32, 8 channels at 100 Hz, and runs `scatflow run` on it at J=10, Q=8
with one worker of one thread, two of one, one of two engine threads, and one process that computes
two blocks at a time; each in turn, as often as asked. Prints samples per second of each thread
(medians, from the first block to the last; the start of the workers is counted apart), the engine's
share of the workers' time, and the processor time of all processes together, which other programs
on the machine disturb least. All give the same bytes, which is checked. With --output it writes
JSON and a page.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from archive import job_text, make_archive, scatflow

from scatflow.backends import fft
from scatflow.cli.texts import cpu

ARRANGEMENTS = {
    "1 worker x 1 thread": {"cluster": "local", "workers": 1, "threads": 1},
    "2 workers x 1 thread": {"cluster": "local", "workers": 2, "threads": 1},
    "1 worker x 2 threads": {"cluster": "local", "workers": 1, "threads": 2},
    "1 process x 2 blocks": {"cluster": "threads", "workers": 2, "threads": 1},
}
"""The second and the third keep two threads busy, in two processes and in one; the fourth takes
two blocks at a time instead of two parts of one."""

READY = re.compile(r"ready after ([\d.]+) s")
SAID = re.compile(r"([\d,]+) samples/s, ([\d,]+) per thread.*engine took (\d+)%")


def run(folder: Path, settings: dict) -> dict:
    """Run the job once and return what it said of itself."""
    job = folder / "job.toml"
    job.write_text(job_text(folder, memory="2 GiB", **settings))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.monotonic()
    ran = subprocess.run(
        scatflow("run", str(job), "--fresh"), capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    ready, said = READY.search(ran.stdout), SAID.search(ran.stdout)
    if ran.returncode or ready is None or said is None:
        sys.exit(f"the run ended with exit code {ran.returncode}:\n{ran.stdout}{ran.stderr}")
    rate, each = (float(said[k].replace(",", "")) for k in (1, 2))
    return {
        "samples_per_second": rate,
        "samples_per_second_and_thread": each,
        "engine_share": int(said[3]) / 100,
        "start_seconds": float(ready[1]),
        "total_seconds": seconds,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def digest(store: Path) -> str:
    """Return a hash of the coefficients' objects."""
    total = hashlib.sha256()
    for path in sorted(p for p in (store / "scattering").rglob("*") if p.is_file()):
        total.update(str(path.relative_to(store)).encode() + path.read_bytes())
    return total.hexdigest()


def measure(gib: float, repeat: int, folder: Path) -> dict:
    """Return the medians of all arrangements, and the range of what one thread does."""
    size = make_archive(folder / "archive.zarr", gib)
    runs: dict[str, list[dict]] = {name: [] for name in ARRANGEMENTS}
    seen = set()
    run(folder, ARRANGEMENTS["1 worker x 1 thread"])  # The first run may compile.
    for _ in range(repeat):
        for name, settings in ARRANGEMENTS.items():
            runs[name].append(run(folder, settings))
            seen.add(digest(folder / "result.zarr"))
    if len(seen) != 1:
        sys.exit("the arrangements gave different bytes")
    results = {}
    for name, found in runs.items():
        results[name] = {key: statistics.median(one[key] for one in found) for key in found[0]}
        each = [one["samples_per_second_and_thread"] for one in found]
        results[name]["range"] = [min(each), max(each)]
    return {"samples": size // 4, "repetitions": repeat, "results": results}


def lines(told: dict) -> list[str]:
    """Return the results as a table."""
    rows = [
        "| arrangement | samples/s | per thread (range) | engine | processor time | start |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in told["results"].items():
        low, high = (n / 1e6 for n in one["range"])
        rows.append(
            f"| {name} | {one['samples_per_second'] / 1e6:.2f} million "
            f"| {one['samples_per_second_and_thread'] / 1e6:.2f} million ({low:.2f} to {high:.2f}) "
            f"| {one['engine_share']:.0%} | {one['cpu_seconds']:.1f} s "
            f"| {one['start_seconds']:.1f} s |"
        )
    return rows


def page(told: dict) -> str:
    return "\n".join(
        [
            "# Whole runs: workers against threads",
            "",
            f"Taken on {told['date']} by `{told['command']}`: {told['machine']}.",
            "",
            f"An archive of {told['samples'] / 1e6:.0f} million samples (8 channels, float32, not "
            "compressed) from store to store at J=10, Q=8, seamless; medians of "
            f"{told['repetitions']} alternating repetitions. The rate is from the first block to "
            "the last, reading and writing included; the engine's share is of the workers' time; "
            "processor time is that of all processes from start to end. All results are the same "
            "to the byte. Where other programs share the machine, arrangements with two threads "
            "lose most: the range tells how steady the rates were.",
            "",
            *lines(told),
            "",
        ]
    )


def publish(
    name: str,
    about: str | None,
    gib: float,
    measure: Callable[[float, int, Path], dict],
    lines: Callable[[dict], list[str]],
    page: Callable[[dict], str],
) -> None:
    """Measure what the command line asks for, print a table, and write JSON and a page."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n")[0])
    parser.add_argument("--gib", type=float, default=gib, help="of the (short) archive")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", help="where to put archives and results (default: temporary)")
    parser.add_argument("--output", type=Path, help="folder for JSON and page")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="scatflow-", dir=options.folder))
    try:
        told = measure(options.gib, options.repeat, folder)
    finally:
        shutil.rmtree(folder)
    told["machine"] = (
        f"{cpu()}, {os.cpu_count()} processors, Python {platform.python_version()}, "
        f"NumPy {np.__version__}, FFT by {fft.library()}"
    )
    script = Path(sys.argv[0]).name
    told["command"] = f"python benchmarks/{script} --gib {options.gib:g} --repeat {options.repeat}"
    told["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    print("\n".join(lines(told)))
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / f"{name}.json").write_text(json.dumps(told, indent=2) + "\n")
        (options.output / f"{name}.md").write_text(page(told))


if __name__ == "__main__":
    publish("runs", __doc__, 0.25, measure, lines, page)
