"""Time the engines against Kymatio and against their own FFTs, alternating in one process.

    python benchmarks/engines.py [1d] [2d] [3d] [--short] [--output docs/benchmarks]
    python benchmarks/engines.py [1d] [2d] --construction

Prints for each case the CPU time of one thread: scatflow, Kymatio's NumPy and torch frontends
(torch where it is installed), and the bare FFTs that the case needs; then the median ratio to the
faster frontend with its spread over the repetitions, the relative L2 error to the float64
reference backend, the peak memory beside input and output, and the seconds to make the filters.
With --output it writes a JSON file, a picture and a page. With --construction it times the making
of filters for small shapes instead, which is paid before the first transform of each shape: their
evaluation, which is what Kymatio's constructors do; a whole plan, where they are also cut into
bands and each transform laid out, with the tables of paths there, which shapes share; and a whole
plan with nothing there but compiled kernels. Needs ``pip install "scatflow[bench]"``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
import tracemalloc
import warnings
from functools import partial
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
import scipy.special

# Kymatio 0.3 asks for a function that SciPy 1.17 no longer has.
scipy.special.sph_harm = lambda m, n, az, pol: scipy.special.sph_harm_y(n, m, pol, az)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import kymatio.numpy

    try:
        import kymatio.torch
        import torch
    except ImportError:
        torch = None
    else:
        torch.set_num_threads(1)

from scatflow.backends import fft
from scatflow.backends.scratch import SCRATCH
from scatflow.cli.speed import ENGINES, Case, bare_ffts, cpu_seconds, relative_error
from scatflow.cli.texts import cpu
from scatflow.engines import scattering1d, scattering2d
from scatflow.engines.plan import PLANS
from scatflow.wavelets import scales
from scatflow.wavelets.morlet import lowpass_1d, morlets_1d

# Kymatio's own suite and the tables of its user guide, with small batches.
CASES = [
    Case("1d", 8, 1, (1024,), 32),
    Case("1d", 8, 8, (4096,), 32),
    Case("1d", 13, 12, (65536,), 4),
    Case("1d", 10, 8, (65536,), 4),
    Case("2d", 2, 8, (32, 32), 96),
    Case("2d", 3, 8, (224, 224), 6),
    Case("2d", 6, 2, (64, 64), 12),
    Case("2d", 3, 8, (256, 256), 6),
    Case("3d", 2, 2, (32, 32, 32), 4),
    Case("3d", 2, 2, (128, 128, 128), 1),
]

CONSTRUCTIONS = [*CASES[:2], CASES[4], CASES[6]]
"""Those whose filters take so little that overhead counts."""

KEEPING = (scattering1d, scattering2d, scales, fft)
"""Modules that keep, for the process, what plans of several shapes have in common."""


def frontend(module, case):
    """Return one of Kymatio's frontends for a case, its filters made."""
    size = case.shape if len(case.shape) > 1 else case.shape[0]
    return getattr(module, ENGINES[case.kind].__name__)(case.J, size, case.quality)


def peers(case, x):
    """Return what Kymatio's frontends do with the input, and the seconds their filters took."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        begun = time.process_time()
        arrays = frontend(kymatio.numpy, case)
        seconds = time.process_time() - begun
        found["kymatio numpy"] = lambda: arrays(x)
        if torch is not None:
            module = frontend(kymatio.torch, case)
            tensor = torch.from_numpy(x)
            found["kymatio torch"] = lambda: module(tensor)
    return found, seconds


def measure(case, repetitions):
    x = case.signals()
    ours = case.engine()
    others, their_filters = peers(case, x)
    ours.plan()  # compiled kernels and the path table
    PLANS.clear()
    filters = cpu_seconds(ours.plan)
    plan = ours.plan()
    error = relative_error(ours(x), case.engine("plain")(x.astype(np.float64)))
    calls = {"scatflow": lambda: ours(x), **others, "bare FFTs": bare_ffts(plan, case.batch)}
    seconds = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repetitions):
        for name, call in calls.items():
            seconds[name].append(cpu_seconds(call))
    best = min(others, key=lambda name: statistics.median(seconds[name]))
    ratios = sorted(a / b for a, b in zip(seconds[best], seconds["scatflow"], strict=True))
    SCRATCH.clear()
    tracemalloc.start()
    y = plan.apply(x)
    peak = tracemalloc.get_traced_memory()[1] - y.nbytes
    tracemalloc.stop()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "case": str(case),
        "seconds": medians,
        "best": best,
        "ratio": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
        "over_ffts": medians["scatflow"] / medians["bare FFTs"],
        "error": error,
        "peak_bytes": peak,
        "filter_seconds": filters,
        "kymatio_filter_seconds": their_filters,
    }


def construct(case, repetitions):
    """Return the seconds that filters take: Kymatio's, an engine's first ones, and those after.

    In this order, so that the first ones find the processor's caches as cold as theirs are.
    """
    engine = case.engine()
    engine.plan()  # compiled kernels
    make = {
        "kymatio": partial(frontend, kymatio.numpy, case),
        "first": engine.plan,
        "plan": engine.plan,
        "filters": partial(FILTERS[case.kind], engine, engine.plan()),
    }
    seconds = {name: [] for name in make}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(repetitions):
            for name, times in seconds.items():
                PLANS.clear()
                if name == "first":
                    forget()
                times.append(cpu_seconds(make[name]))
    return seconds


def filters_1d(engine, plan):
    """Evaluate each filter of an engine once."""
    psi1, psi2 = engine.scales()
    unique = dict.fromkeys((*psi1, *psi2))
    wavelets = [(scale.xi, scale.sigma) for scale in unique]
    morlets_1d(plan.padded[0], wavelets, plan.backend.morlets)
    lowpass_1d(plan.padded[0], scattering1d.SIGMA0 / engine.window)


def filters_2d(engine, plan):
    frame = scattering2d.Frame(engine, plan.padded, 0, plan.dtype, plan.backend)
    for j in range(engine.J):
        frame.orientations(j)
    assert frame.phi


FILTERS = {"1d": filters_1d, "2d": filters_2d}


def forget():
    """Forget what plans of several shapes have in common."""
    for module in KEEPING:
        for thing in vars(module).values():
            if hasattr(thing, "cache_clear"):
                thing.cache_clear()


CONSTRUCTION_HEAD = (
    "| case | filters | plan | first plan | Kymatio | ratio (range) | of plan | of first |"
)


def construction_row(case, seconds):
    ms = {name: f"{statistics.median(times) * 1e3:.2f} ms" for name, times in seconds.items()}
    ratios = {
        name: sorted(a / b for a, b in zip(seconds["kymatio"], times, strict=True))
        for name, times in seconds.items()
    }
    filters = ratios["filters"]
    return (
        f"| {str(case).replace(f'{case.batch} x ', '')} | {ms['filters']} | {ms['plan']} | "
        f"{ms['first']} | {ms['kymatio']} | "
        f"{statistics.median(filters):.1f} ({filters[0]:.1f} to {filters[-1]:.1f}) | "
        f"{statistics.median(ratios['plan']):.1f} | {statistics.median(ratios['first']):.1f} |"
    )


HEAD = (
    "| case | scatflow | Kymatio NumPy | Kymatio torch | bare FFTs | ratio (range) | "
    "over FFTs | error | peak | filters (Kymatio) |"
)


def row(r):
    s = r["seconds"]
    ms = {name: f"{value * 1e3:.1f} ms" for name, value in s.items()}
    low, high = r["ratio_range"]
    return (
        f"| {r['case']} | {ms['scatflow']} | {ms['kymatio numpy']} | "
        f"{ms.get('kymatio torch', 'not installed')} | {ms['bare FFTs']} | "
        f"{r['ratio']:.1f} ({low:.1f} to {high:.1f}) | {r['over_ffts']:.1f} | {r['error']:.0e} | "
        f"{r['peak_bytes'] / 2**20:.1f} MiB | "
        f"{r['filter_seconds'] * 1e3:.0f} ms ({r['kymatio_filter_seconds']:.2f} s) |"
    )


def machine():
    return (
        f"{cpu()}, Python {platform.python_version()}, NumPy {np.__version__}, FFT by "
        f"{fft.library()}, Kymatio {kymatio.__version__}"
        + (f", torch {torch.__version__}" if torch else "")
    )


def picture(results, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    places = np.arange(len(results))
    ratio = np.array([r["ratio"] for r in results])
    spread = np.abs(np.array([r["ratio_range"] for r in results]).T - ratio)
    axes.barh(places, ratio, xerr=spread, color="#4477aa", ecolor="#333333", capsize=3)
    axes.set_yticks(places, [r["case"] for r in results])
    axes.invert_yaxis()
    axes.axvline(1.0, color="#333333", linewidth=1)
    axes.set_xlabel("times as fast as Kymatio's faster CPU frontend (one thread, float32)")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write(results, folder):
    folder.mkdir(parents=True, exist_ok=True)
    about = {"machine": machine(), "date": datetime.date.today().isoformat(), "results": results}
    (folder / "engines.json").write_text(json.dumps(about, indent=2) + "\n")
    picture(results, folder / "engines.png")
    lines = [
        "# Engines against Kymatio",
        "",
        f"Taken on {about['date']} by `make bench`: {about['machine']}.",
        "",
        "CPU time of one thread in float32, medians of alternating repetitions in one process. The "
        "ratio is to the faster of Kymatio's frontends. The error is the relative L2 distance to "
        "the float64 reference backend. The peak is beside input and output. Nothing here was "
        "measured on a GPU.",
        "",
        "![Ratios](engines.png)",
        "",
        HEAD,
        "|" + " --- |" * HEAD.count(" | ") + " --- |",
        *map(row, results),
    ]
    (folder / "engines.md").write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=["1d", "2d", "3d"])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--short", action="store_true", help="one small case of each kind")
    parser.add_argument("--construction", action="store_true", help="filters of small shapes only")
    parser.add_argument("--output", type=Path, help="folder for the figures, a picture and a page")
    options = parser.parse_args()
    chosen = [case for case in CASES if case.kind in options.kinds]
    if options.short:
        chosen = [case for case in chosen if case in (CASES[0], CASES[6], CASES[8])]
    if options.construction:
        print(machine(), CONSTRUCTION_HEAD, sep="\n")
        for case in chosen:
            if case in CONSTRUCTIONS:
                print(construction_row(case, construct(case, options.repetitions)), flush=True)
        return
    print(machine(), HEAD, sep="\n")
    results = []
    for case in chosen:
        results.append(measure(case, options.repetitions))
        print(row(results[-1]), flush=True)
    if options.output:
        write(results, options.output)


if __name__ == "__main__":
    main()
