"""Kill a long run again and again, and compare its bytes with those of an undisturbed one.

    python benchmarks/soak.py [--kills 100] [--gib 8] [--seed 0] [--folder DIR]

A run is killed without warning (SIGKILL) at random moments: one of its workers, or the client with
the scheduler that lives in it, in which case the same command is given again. When so many kills
are done, it is left alone; then every object of the output is compared with that of a run that
nobody disturbed. Exit code 1 where any differs.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from archive import job_text, make_archive, scatflow

WORKER = "multiprocessing.spawn"
"""What the command line of a worker's process holds."""


def hashes(store: Path) -> dict[str, str]:
    """Return a hash of every object of a store."""
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }


def start(job: Path, words: Path) -> subprocess.Popen:
    with words.open("w") as file:
        return subprocess.Popen(
            scatflow("run", str(job)), stdout=file, stderr=subprocess.PIPE, text=True
        )


def workers(process: subprocess.Popen) -> list[psutil.Process]:
    """Return the processes that compute blocks."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if WORKER in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def one_life(job: Path, rng: random.Random, most: int, counts: dict[str, int]) -> bool:
    """Start the run and kill about until it or its client dies; tell whether it is complete."""
    words = job.with_suffix(".txt")
    process = start(job, words)
    family: set[psutil.Process] = set()
    try:
        # Of workers that die before they are ready a run says so, and ends: that is no fault.
        while process.poll() is None and "ready" not in words.read_text():
            time.sleep(0.05)
        while sum(counts.values()) < most and process.poll() is None:
            time.sleep(rng.uniform(0.1, 4.0))
            if process.poll() is not None:
                break
            living = workers(process)
            family.update(living)
            if rng.random() < 0.6 and living:
                rng.choice(living).send_signal(signal.SIGKILL)
                counts["workers"] += 1
                continue
            process.send_signal(signal.SIGKILL)
            counts["clients"] += 1
        _, said = process.communicate()
    except psutil.NoSuchProcess:
        _, said = process.communicate()
    # Workers of a dead scheduler end by themselves; the next run must not wait for it.
    psutil.wait_procs(family, timeout=30)
    if process.returncode not in (0, 1, -signal.SIGKILL):
        sys.exit(f"the run ended with exit code {process.returncode}: {said}")
    return process.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--gib", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where to put archive and results (default: temporary)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="scatflow-", dir=options.folder))
    rng, counts, lives = random.Random(options.seed), {"workers": 0, "clients": 0}, 0
    job = folder / "job.toml"
    job.write_text(job_text(folder))
    try:
        make_archive(folder / "archive.zarr", options.gib)
        begun = time.monotonic()
        while True:
            lives += 1
            complete = one_life(job, rng, options.kills, counts)
            if complete and sum(counts.values()) < options.kills:
                sys.exit(f"complete after {counts}: take a larger --gib")
            if complete:
                break
        disturbed = time.monotonic() - begun
        (folder / "result.zarr").rename(folder / "disturbed.zarr")
        subprocess.run(scatflow("run", str(job)), check=True, stdout=subprocess.DEVNULL)
        one, two = hashes(folder / "disturbed.zarr"), hashes(folder / "result.zarr")
    finally:
        shutil.rmtree(folder)
    different = sorted(k for k in {*one, *two} if one.get(k) != two.get(k))
    print(
        f"{counts['workers']} workers and {counts['clients']} clients killed in {lives} starts and "
        f"{disturbed:.0f} s; {len(two)} objects, {len(different)} differ"
    )
    sys.exit(bool(different) and f"different: {different[:5]}")


if __name__ == "__main__":
    main()
