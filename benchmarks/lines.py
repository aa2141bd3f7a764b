"""Time transforms of one length: in lanes, by MKL where it is in use, and by SciPy.

    python benchmarks/lines.py [N ...]

Complex, in single precision, of CPU time on one thread; 5 N log2 N operations each. Lanes take
sixteen lines side by side. MKL's and SciPy's lines come in batches of 2^18 samples.
"""

from __future__ import annotations

import argparse
import math
import statistics

import numpy as np
import scipy.fft

from scatflow.backends import codelets, fft, kernels
from scatflow.cli.speed import cpu_seconds
from scatflow.cli.texts import cpu

LENGTHS = [2**k for k in range(8, 18)]
SINGLE = np.dtype(np.float32)


def lanes(n):
    """Return what transforms lines side by side, and how many of them."""
    line, passes = codelets.line(SINGLE.name), codelets.passes(n, SINGLE.name)
    z, room = (np.zeros(points * codelets.POINT // 4, SINGLE) for points in (n, codelets.room(n)))
    function = line.ctypes
    repeats = max(1, 2**16 // n)

    def run():  # keeps what the addresses point to
        words = z.ctypes.data, z.ctypes.data, passes.address, room.ctypes.data, codelets.FORWARD
        for _ in range(repeats):
            function(*words)

    return run, repeats * codelets.VECTOR_BYTES // SINGLE.itemsize


def rate(n, run, count, repetitions=9):
    """Return GFLOP/s."""
    run()
    seconds = statistics.median(cpu_seconds(run) for _ in range(repetitions))
    return 5 * n * math.log2(n) * count / seconds / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lengths", nargs="*", type=int, default=LENGTHS)
    print(f"{cpu()}, FFT by {fft.library()}, GFLOP/s\n| points | lanes | MKL | SciPy |")
    for n in parser.parse_args().lengths:
        z = np.zeros((max(1, 2**18 // n), n), np.complex64)
        by_mkl = "-"
        if fft.by_mkl((n,)):
            handle = fft.descriptor((n,), SINGLE, "complex").handle
            by_mkl = f"{rate(n, lambda h=handle, z=z: kernels.backward(h, z), len(z)):.0f}"
        by_scipy = rate(n, lambda z=z: scipy.fft.fft(z, overwrite_x=True), len(z))
        print(f"| {n} | {rate(n, *lanes(n)):.0f} | {by_mkl} | {by_scipy:.0f} |", flush=True)


if __name__ == "__main__":
    main()
