"""Time the engines on this machine, beside the bare FFTs that they cannot do without.

The counting of FFTs is shared with ``benchmarks/engines.py``, which compares with Kymatio.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

import scatflow
from scatflow.backends import fft
from scatflow.backends.protocol import Grid, Layer
from scatflow.cli.texts import cpu, size
from scatflow.engines.engine import Engine
from scatflow.engines.plan import Plan

IN_CACHE = 2**15
"""Samples that the bare FFTs transform at a time."""

UNITS = {1: "samples", 2: "pixels", 3: "voxels"}

ENGINES: dict[str, Any] = {
    "1d": scatflow.Scattering1D,
    "2d": scatflow.Scattering2D,
    "3d": scatflow.HarmonicScattering3D,
}


class Case(NamedTuple):
    """A transform of a batch of signals."""

    kind: str
    """Key of :data:`ENGINES`."""
    J: int
    quality: int
    """Q of signals; L of images and volumes."""
    shape: Grid
    batch: int

    def engine(self, backend: str | None = None) -> Engine:
        """Return the engine, of the default backend or another."""
        made: Engine = ENGINES[self.kind](self.J, self.shape, self.quality, backend=backend)
        return made

    def signals(self) -> np.ndarray:
        """Return the same noise at every call, float32."""
        rng = np.random.default_rng(0)
        return rng.standard_normal((self.batch, *self.shape), dtype=np.float32)

    def __str__(self) -> str:
        """Name the case as the tables do."""
        quality = "Q" if self.kind == "1d" else "L"
        sides = "x".join(map(str, self.shape))
        return f"{self.kind} J={self.J} {quality}={self.quality} {self.batch} x {sides}"


CASES = (
    Case("1d", 8, 8, (4096,), 32),
    Case("1d", 10, 8, (65536,), 4),
    Case("2d", 2, 8, (32, 32), 96),
    Case("2d", 3, 8, (224, 224), 6),
    Case("3d", 2, 2, (32, 32, 32), 4),
    Case("3d", 2, 2, (64, 64, 64), 2),
)
"""Small and large ones of each dimension."""

# --- bare FFTs -----------------------------------------------------------------------------


class Transforms(NamedTuple):
    """Equal FFTs that one signal needs."""

    inverse: bool
    times: int
    grid: Grid


def transforms(plan: Plan) -> list[Transforms]:
    """List the FFTs that no cascade can do without, for one signal.

    The forward transform of the signal and of every modulus that has children, and the inverse one
    of every band-passed field; of a volume, a field for each order m. Those of the low-pass, which
    some routes do without, are not counted.
    """

    def below(layer: Layer) -> Iterator[Transforms]:
        fields = getattr(getattr(layer.stage, "filters", None), "count", 1)
        yield Transforms(True, layer.rows.size * fields, layer.grid)
        if layer.children:
            yield Transforms(False, layer.rows.size, layer.grid)
        for child in layer.children:
            yield from below(child)

    found = [Transforms(False, 1, plan.padded)]
    for layer in plan.tree.layers:
        found += below(layer)
    return found


def bare_ffts(plan: Plan, batch: int) -> Callable[[], None]:
    """Return a call that does the transforms of so many signals, and nothing else.

    In batches that stay in the cache, by the library in use. Fields of volumes are real.
    """
    calls = []
    for inverse, times, grid in transforms(plan):
        chunk = max(1, min(times * batch, IN_CACHE // math.prod(grid)))
        kind = np.result_type(plan.dtype, 1j)
        if inverse and len(grid) < 3:
            call = partial(fft.ifft, np.zeros((chunk, *grid), kind), len(grid))
        else:
            real = np.zeros((chunk, *grid), plan.dtype)
            half = np.zeros((chunk, *grid[:-1], grid[-1] // 2 + 1), kind)
            call = (
                partial(fft.irfft, half, real, len(grid))
                if inverse
                else partial(fft.rfft, real, half, len(grid))
            )
        calls.append((math.ceil(times * batch / chunk), call))

    def run() -> None:
        for repeats, call in calls:
            for _ in range(repeats):
                call()

    return run


# --- measuring -----------------------------------------------------------------------------


def cpu_seconds(call: Callable[[], Any]) -> float:
    """Return the CPU time of a call, of all its threads."""
    begun = time.process_time()
    call()
    return time.process_time() - begun


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the relative L2 distance."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def measure(case: Case, threads: int = 1, repetitions: int = 9) -> dict[str, Any]:
    """Time one case and its bare FFTs in turn, and compare it with the plain float64 backend.

    Returns
    -------
    dict
        JSON-able. Seconds are medians over the repetitions; `samples_per_second` is by the clock,
        all others by CPU time.
    """
    x = case.signals()
    begun = time.process_time()
    plan = case.engine().plan(threads=threads)
    plan_seconds = time.process_time() - begun
    y = plan.apply(x)  # compiles what is not yet compiled
    error = relative_error(y, case.engine("plain").plan(dtype=np.float64).apply(x.astype(float)))
    alone = bare_ffts(plan, case.batch)
    alone()
    ours, theirs, wall = [], [], []
    for _ in range(repetitions):
        begun = time.perf_counter()
        ours.append(cpu_seconds(partial(plan.apply, x)))
        wall.append(time.perf_counter() - begun)
        theirs.append(cpu_seconds(alone))
    return {
        "case": str(case),
        "cpu_seconds": statistics.median(ours),
        "wall_seconds": statistics.median(wall),
        "samples_per_second": x.size / statistics.median(wall),
        "unit": UNITS[len(case.shape)],
        "fft_seconds": statistics.median(theirs),
        "over_ffts": statistics.median(ours) / statistics.median(theirs),
        "error": error,
        "peak_bytes": plan.peak_bytes(case.batch),
        "filter_bytes": plan.held_bytes,
        "plan_seconds": plan_seconds,
    }


def machine(threads: int) -> dict[str, Any]:
    """Say what the figures were taken on."""
    return {
        "scatflow": scatflow.__version__,
        "cpu": cpu(),
        "fft": fft.library(),
        "threads": threads,
        "precision": "float32",
    }


# --- the table -----------------------------------------------------------------------------


def rate(told: Mapping[str, Any]) -> str:
    """Write how much a second transforms.

    Examples
    --------
    >>> rate({"samples_per_second": 7_210_000, "unit": "samples"})
    '7.2 Msamples/s'
    """
    return f"{told['samples_per_second'] / 1e6:.1f} M{told['unit']}/s"


def table(about: Mapping[str, Any], results: Iterable[Mapping[str, Any]]) -> Table:
    """Lay out the results."""
    title = f"scatflow {about['scatflow']}, FFT by {about['fft']}, threads: {about['threads']}"
    out = Table(
        title=f"{title}\n{about['cpu']}",
        title_style="",
        caption="CPU time: medians of all threads together. Over FFTs: the CPU time over that of "
        "the bare FFTs it needs. Error: relative L2, against float64 by the plain backend. Peak: "
        "working memory as the plan announces it.",
        caption_style="",
        caption_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    out.add_column("case", no_wrap=True)
    for name in ("CPU time", "throughput", "over FFTs", "error", "peak"):
        out.add_column(name, justify="right", no_wrap=True)
    for r in results:
        out.add_row(
            r["case"],
            f"{r['cpu_seconds'] * 1e3:.1f} ms",
            rate(r),
            f"{r['over_ffts']:.1f}",
            f"{r['error']:.0e}",
            size(r["peak_bytes"]),
        )
    return out
