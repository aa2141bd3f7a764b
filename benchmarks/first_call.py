"""Time the first call of each engine, with kernels to compile and with kernels on disk.

    python benchmarks/first_call.py [1d] [2d] [3d] [--functions] [--output docs/benchmarks]

Every figure is a fresh interpreter's: once with an empty cache of compiled code, once with what the
first one left there. With --functions it names the functions whose compilation took the time.
With --output it writes a JSON file and a page.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

CASES = {
    "1d": "Scattering1D(J=6, shape=2048, Q=8), (4, 2048)",
    "2d": "Scattering2D(J=2, shape=(32, 32), L=8), (4, 32, 32)",
    "3d": "HarmonicScattering3D(J=2, shape=(32, 32, 32), L=2), (2, 32, 32, 32)",
}
"""Small transforms: what is left of a first call is what had to be made ready."""

CHILD = """
import json, sys, time
begun = time.process_time()
import numpy as np
from scatflow import HarmonicScattering3D, Scattering1D, Scattering2D
engine, shape = CASE
x = np.zeros(shape, sys.argv[1])
imported = time.process_time()
from scatflow.backends.choose import backend
backend("numpy")
from numba.core import event
loaded = time.process_time()
with event.install_recorder("numba:compile") as recorder:
    engine(x)
first = time.process_time()
engine(x)
second = time.process_time()
# What is compiled inside another function's compilation is counted there, too: only its own time.
own, open_ = {}, []
for when, what in recorder.buffer:
    name = what.data["dispatcher"].__name__
    if what.is_start:
        open_.append([name, when, 0.0])
    elif what.is_end:
        name, since, inside = open_.pop()
        own[name] = own.get(name, 0.0) + when - since - inside
        if open_:
            open_[-1][2] += when - since
print(json.dumps({
    "import": imported - begun, "numba": loaded - imported, "first": first - loaded,
    "second": second - first, "functions": own,
}))
"""


def call(kind, dtype, cache):
    """Return the seconds of a fresh interpreter: imports, first and second call, functions."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD.replace("CASE", CASES[kind]), dtype],
        env={**os.environ, "NUMBA_CACHE_DIR": cache},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def measure(kind, dtype):
    with tempfile.TemporaryDirectory() as cache:
        cold = call(kind, dtype, cache)
        warm = call(kind, dtype, cache)
        files = list(Path(cache).rglob("*.nbc"))
        return {
            "case": f"{kind} {dtype}",
            "cold_seconds": cold["first"],
            "cached_seconds": warm["first"],
            "second_seconds": warm["second"],
            "import_seconds": warm["import"],
            "numba_seconds": warm["numba"],
            "functions": cold["functions"],
            "kernels": len(files),
            "cache_bytes": sum(file.stat().st_size for file in files),
        }


HEAD = (
    "| case | empty cache | kernels on disk | second call | import scatflow | "
    "import Numba, FFT | kernels |"
)


def row(r):
    return (
        f"| {r['case']} | {r['cold_seconds']:.2f} s | {r['cached_seconds']:.2f} s | "
        f"{r['second_seconds'] * 1e3:.1f} ms | {r['import_seconds']:.2f} s | "
        f"{r['numba_seconds']:.2f} s | {r['kernels']} ({r['cache_bytes'] / 2**20:.1f} MiB) |"
    )


def machine():
    import llvmlite
    import numba

    from scatflow.backends import fft
    from scatflow.cli.texts import cpu

    return (
        f"{cpu()}, Python {platform.python_version()}, Numba {numba.__version__}, "
        f"llvmlite {llvmlite.__version__}, FFT by {fft.library()}"
    )


def write(results, folder):
    folder.mkdir(parents=True, exist_ok=True)
    about = {"machine": machine(), "date": datetime.date.today().isoformat(), "results": results}
    (folder / "first_call.json").write_text(json.dumps(about, indent=2) + "\n")
    lines = [
        "# First calls",
        "",
        f"Taken on {about['date']} by `python benchmarks/first_call.py --output docs/benchmarks`: "
        f"{about['machine']}.",
        "",
        "CPU time, each in a fresh interpreter, one thread. A first call makes filters and "
        "compiles kernels, or finds them on disk. Kernels of the two precisions are compiled "
        "apart; those that a call of another engine compiled before are found, too.",
        "",
        HEAD,
        "|" + " --- |" * (HEAD.count("|") - 1),
        *map(row, results),
        "",
        "Seconds that each function's compilation took, without those it calls:",
        "",
        *map(spent, results),
    ]
    (folder / "first_call.md").write_text("\n".join(lines) + "\n")


def spent(r):
    longest = sorted(r["functions"].items(), key=lambda item: -item[1])[:8]
    return f"- {r['case']}: " + ", ".join(f"`{name}` {s:.2f}" for name, s in longest)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(CASES))
    parser.add_argument("--functions", action="store_true", help="what was compiled")
    parser.add_argument("--output", type=Path, help="folder for the figures and a page")
    options = parser.parse_args()
    print(machine(), HEAD, sep="\n")
    results = []
    for kind in options.kinds:
        for dtype in ("float32", "float64"):
            results.append(measure(kind, dtype))
            print(row(results[-1]), flush=True)
            if options.functions:
                print(spent(results[-1]), flush=True)
    if options.output:
        write(results, options.output)


if __name__ == "__main__":
    main()
