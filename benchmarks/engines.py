"""Time the engines against Kymatio's NumPy frontend, alternating in one process, one thread.

    python benchmarks/engines.py [1d] [2d] [3d] [--json FILE]

Prints, for each case, the median CPU time of both, their ratio with its spread, the relative L2
difference of the results, and the time to build the plan. Needs ``pip install "scatflow[bench]"``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
import scipy.special

# Kymatio 0.3 asks for a function that SciPy 1.17 no longer has.
scipy.special.sph_harm = lambda m, n, az, pol: scipy.special.sph_harm_y(n, m, pol, az)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import kymatio.numpy as kymatio

import scatflow

# Kymatio's own suite and the tables of its user guide, with small batches:
# (kind, J, Q or L, shape, batch).
CASES = [
    ("1d", 8, 1, (1024,), 32),
    ("1d", 8, 8, (4096,), 32),
    ("1d", 13, 12, (65536,), 4),
    ("1d", 10, 8, (65536,), 4),
    ("2d", 2, 8, (32, 32), 96),
    ("2d", 3, 8, (224, 224), 6),
    ("2d", 6, 2, (64, 64), 12),
    ("2d", 3, 8, (256, 256), 6),
    ("3d", 2, 2, (32, 32, 32), 4),
    ("3d", 2, 2, (128, 128, 128), 1),
]


def engines(kind, J, quality, shape):
    if kind == "1d":
        theirs = kymatio.Scattering1D(J, shape[0], quality)
        return theirs, scatflow.Scattering1D(J, shape, quality, scaling="kymatio-0.3")
    name = {"2d": "Scattering2D", "3d": "HarmonicScattering3D"}[kind]
    return getattr(kymatio, name)(J, shape, quality), getattr(scatflow, name)(J, shape, quality)


def cpu_seconds(function, x):
    start = time.process_time()
    function(x)
    return time.process_time() - start


def measure(kind, J, quality, shape, batch, repetitions):
    x = np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, ours = engines(kind, J, quality, shape)
    build = cpu_seconds(lambda _: ours.plan(), None)
    expected, found = theirs(x), ours(x)
    pairs = [(cpu_seconds(theirs, x), cpu_seconds(ours, x)) for _ in range(repetitions)]
    ratios = sorted(a / b for a, b in pairs)
    return {
        "case": f"{kind} J={J} {'Q' if kind == '1d' else 'L'}={quality} "
        f"{batch} x {'x'.join(map(str, shape))}",
        "kymatio_seconds": statistics.median(a for a, _ in pairs),
        "scatflow_seconds": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "ratio_range": (ratios[0], ratios[-1]),
        "difference": float(np.linalg.norm(found - expected) / np.linalg.norm(expected)),
        "plan_seconds": build,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=["1d", "2d", "3d"])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    results = []
    print(
        f"{'case':36} {'kymatio':>9} {'scatflow':>9} {'ratio':>6} {'(range)':>13} "
        f"{'difference':>10} {'plan':>8}"
    )
    for case in CASES:
        if case[0] not in options.kinds:
            continue
        r = measure(*case, options.repetitions)
        results.append(r)
        spread = "({:.1f} - {:.1f})".format(*r["ratio_range"])
        print(
            f"{r['case']:36} {r['kymatio_seconds']:8.4f}s {r['scatflow_seconds']:8.4f}s "
            f"{r['ratio']:6.2f} {spread:>13} {r['difference']:10.1e} {r['plan_seconds']:7.3f}s",
            flush=True,
        )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=2)


if __name__ == "__main__":
    main()
