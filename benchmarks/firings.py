"""Three firings of Debian's cron, on the real clock, over data that grow: three to four minutes.

    unshare --mount python benchmarks/firings.py      # as root, with Debian's package cron

Cron has a spool of its own here, in a folder that goes at the end. After each firing the archive
grows, and the next run computes what is new; at the end every number of every array is compared
with those of one run over all of it (which may cut it into other blocks).
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr

JOB = """
[source]
store = "archive.zarr"
variable = "waveform"
[transform]
kind = "scattering1d"
dims = ["time"]
J = 6
Q = [8, 1]
boundary = "seamless"
[output]
store = "out.zarr"
[run]
cluster = "local"
workers = 1
memory = "1 GiB"
schedule = "* * * * *"
"""

LENGTHS = (200_000, 400_000, 500_000)
SCATFLOW = [sys.executable, "-m", "scatflow.cli"]


def grow(folder, samples):
    group = zarr.open_group(str(folder / "archive.zarr"), mode="a", zarr_format=3)
    if "waveform" not in group:
        group.create_array(
            "waveform", shape=(0,), chunks=(10_000,), dtype="float32", dimension_names=["time"]
        )
    group["waveform"].resize((samples,))
    noise = np.random.default_rng(0).standard_normal(samples)
    group["waveform"][...] = noise.astype(np.float32)


def mount(folder):
    for name, target in (
        ("spool", "/var/spool/cron/crontabs"),
        ("cron.d", "/etc/cron.d"),
        ("run", "/run"),
    ):
        (folder / name).mkdir()
        subprocess.run(["mount", "--bind", str(folder / name), target], check=True)
    subprocess.run(["mount", "--bind", "/dev/null", "/etc/crontab"], check=True)


def arrays(store):
    """Return the bytes of all labelled arrays of a store; its ledger counts blocks, not numbers."""
    group = zarr.open_group(str(store), mode="r")
    return {name: np.asarray(array[...]).tobytes() for name, array in group.arrays()}


def main():
    folder = Path(tempfile.mkdtemp())
    mount(folder)
    (folder / "job.toml").write_text(JOB)
    grow(folder, LENGTHS[0])
    unit = [*SCATFLOW, "schedule", "job.toml", "--as", "cron", "--log", "log.txt"]
    subprocess.run([*unit, "--install"], cwd=folder, check=True)
    log = folder / "log.txt"
    cron = subprocess.Popen(["cron", "-f"])
    try:
        for number, following in enumerate((*LENGTHS[1:], None), 1):
            while not log.exists() or log.read_text().count("== ") < number or _at_work(folder):
                time.sleep(0.5)
            if following is not None:
                grow(folder, following)
    finally:
        cron.terminate()
        cron.wait()
    subprocess.run([*unit[:-2], "--remove"], cwd=folder, check=True)
    print(log.read_text())
    (folder / "out.zarr").rename(folder / "fired.zarr")
    subprocess.run([*SCATFLOW, "run", "job.toml"], cwd=folder, check=True, capture_output=True)
    fired, once = arrays(folder / "fired.zarr"), arrays(folder / "out.zarr")
    same = fired == once
    print(f"{len(once)} arrays of one run, {'all' if same else 'NOT ALL'} with the same bits")
    shutil.rmtree(folder, ignore_errors=True)
    return 0 if same else 1


def _at_work(folder):
    """Tell whether a scheduled run goes on: its shell says so, since it is cron's child."""
    found = subprocess.run(["pgrep", "-f", str(folder / "job.toml")], capture_output=True)
    return found.returncode == 0


if __name__ == "__main__":
    raise SystemExit(main())
