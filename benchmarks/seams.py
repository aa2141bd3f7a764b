"""Compare seamless transforms with those of the whole record, in cases too large for the tests.

    python benchmarks/seams.py [--samples 24] [--dtype float64] [--case 0 3]

Records of noise with spikes where blocks meet, of 2^24 samples and some by default (their last
window and block are incomplete), are cut into canonical blocks as a run cuts them. The reference
knows nothing of blocks: the record is extended by reflection at its ends, once, beyond the reach of
all filters, and each path is computed by itself, from products in Fourier of the whole record and a
filter made on its whole grid, in float64, by SciPy's FFT. The largest gap of each path is told
relative to that path's own maximum; what counts is the worst path. A case takes minutes and up to
3 GiB.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import scipy.fft

from scatflow import Scattering1D
from scatflow.blocks import Tiles
from scatflow.wavelets.morlet import lowpass_1d, morlet_1d
from scatflow.wavelets.scales import SIGMA0, Scale
from scatflow.wavelets.support import fold_1d

CASES = (
    {"J": 10, "Q": (8, 1)},
    {"J": 10, "Q": (4, 1), "T": 300, "stride": 64},
    {"J": 10, "Q": (4, 2), "T": 2**12},
    {"J": 14, "Q": (2, 1)},
    {"J": 14, "Q": (1, 1), "T": 2**12, "stride": 2**10},
    {"J": 14, "Q": (1, 1), "T": 2**15},
    {"J": 16, "Q": (1, 1)},
    {"J": 16, "Q": (1, 1), "T": 1000},
    {"J": 16, "Q": (1, 1), "T": 2**17},
)

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
"""Largest gap, of each path's own maximum."""


def record(engine: Scattering1D, n: int, seed: int = 0) -> np.ndarray:
    """Return noise with spikes at the edges of a block and of what it sees."""
    x = np.random.default_rng(seed).standard_normal(n)
    for grid in (engine.canonical_grid(kind) for kind in TOLERANCE):
        for at in (grid.block - 1, grid.block + 1, grid.block + grid.halo, grid.block - grid.halo):
            if 0 <= at < n:
                x[at] = 1000.0
    return x


def by_blocks(engine: Scattering1D, x: np.ndarray) -> np.ndarray:
    """Transform a record block by block, ``(paths, windows)``."""
    grid, plan = engine.canonical_grid(x.dtype), engine.canonical_plan(x.dtype)
    tiles = Tiles(x.size, grid.block, grid.halo, grid.stride)
    kept = []
    for k in range(tiles.count):
        runs = [run.first + run.step * np.arange(run.count) for run in tiles.runs(k)]
        kept.append(plan.apply(x[np.concatenate(runs)])[:, tiles.keep])
    return np.concatenate(kept, axis=1)[:, : tiles.windows]


class Whole:
    """A record extended far beyond the reach of its filters, and filters on all of its grid."""

    def __init__(self, engine: Scattering1D, x: np.ndarray) -> None:
        self.engine, self.n = engine, x.size
        self.stride = engine.log2_stride
        unit = 2 ** max(engine.J, self.stride)
        # Both layers and the low-pass reach 17 * 2^J together in float64, or less than that of T.
        self.before = unit * math.ceil(17 * max(2**engine.J, engine.window) / unit)
        N = unit * scipy.fft.next_fast_len(math.ceil((2 * self.before + x.size) / unit))
        extended = np.pad(x, (self.before, N - self.before - x.size), mode="reflect")
        self.N, self.x_hat = N, scipy.fft.rfft(extended)
        self.psi1, self.psi2 = engine.scales()
        self.phi = lowpass_1d(N, SIGMA0 / engine.window)
        self._last: int | None = None

    def _modulus(self, u_hat: np.ndarray, k: int, scale: Scale) -> np.ndarray:
        """Return the spectrum of ``|u * psi|``, from that of u which is decimated by ``2^k``."""
        n = self.N >> k
        z = fold_1d(morlet_1d(self.N, scale.xi, scale.sigma), n).dense().astype(np.complex128)
        half = n // 2 + 1
        z[:half] *= u_hat
        z[half:] *= np.conj(u_hat[1 : n - half + 1][::-1])
        modulus = np.abs(scipy.fft.ifft(z, overwrite_x=True))
        return scipy.fft.rfft(modulus[:: 2 ** (self._level(scale) - k)])

    def _level(self, scale: Scale) -> int:
        """Return log2 of the decimation behind a wavelet, which is part of the definition."""
        return min(scale.j, self.stride)

    def _average(self, u_hat: np.ndarray, k: int) -> np.ndarray:
        n = self.N >> k
        y = scipy.fft.irfft(u_hat * fold_1d(self.phi, n).dense()[: n // 2 + 1], n)
        first = self.before >> self.stride
        return y[:: 2 ** (self.stride - k)][first : first - (-self.n // 2**self.stride)]

    def path(self, key: tuple[int, ...]) -> np.ndarray:
        """Return one path, at all windows; the last first-order modulus is kept for the next."""
        if not key:
            return self._average(self.x_hat, 0)
        first = self.psi1[key[0]]
        if self._last != key[0]:
            self._u1_hat = self._modulus(self.x_hat, 0, first)
            self._last = key[0]
        if len(key) == 1:
            return self._average(self._u1_hat, self._level(first))
        second = self.psi2[key[1]]
        u2_hat = self._modulus(self._u1_hat, self._level(first), second)
        return self._average(u2_hat, self._level(second))


def some_paths(engine: Scattering1D, most: int) -> list[int]:
    """Return paths to compare: all, or evenly spread ones and those of the widest wavelets."""
    keys = engine.paths().keys
    if len(keys) <= most:
        return list(range(len(keys)))
    spread = {round(i * (len(keys) - 1) / (most - 1)) for i in range(most)}
    widest = max(range(len(keys)), key=lambda i: (len(keys[i]), sum(keys[i])))
    return sorted(spread | {widest}, key=lambda i: keys[i])


def seam(engine: Scattering1D, n: int, dtypes: list[str], most: int) -> dict[str, float]:
    """Return the worst gap of any path for each precision."""
    x = record(engine, n)
    found = {dtype: by_blocks(engine, x.astype(dtype)) for dtype in dtypes}
    whole, keys = Whole(engine, x), engine.paths().keys
    worst = dict.fromkeys(dtypes, 0.0)
    for row in sorted(some_paths(engine, most), key=lambda i: keys[i]):
        expected = whole.path(keys[row])
        for dtype, y in found.items():
            gap = np.abs(y[row] - expected).max() / np.abs(expected).max()
            worst[dtype] = max(worst[dtype], float(gap))
    return worst


def main() -> None:
    """Run the cases and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=24, help="log2 of the record's samples")
    parser.add_argument("--dtype", nargs="+", default=list(TOLERANCE), choices=list(TOLERANCE))
    parser.add_argument("--case", type=int, nargs="+", default=range(len(CASES)))
    parser.add_argument("--paths", type=int, default=40, help="most paths to compare of a case")
    given = parser.parse_args()
    bad = 0
    for parameters in (CASES[i] for i in given.case):
        begun, engine = time.monotonic(), Scattering1D(**parameters)
        n = 2**given.samples + 3 * 2 ** (engine.log2_stride - 1) + 37  # short tails
        worst = seam(engine, n, given.dtype, given.paths)
        grids = {dtype: engine.canonical_grid(dtype) for dtype in given.dtype}
        words = ", ".join(
            f"{dtype} {gap:.1e} (halo {grids[dtype].halo}, {math.ceil(n / grids[dtype].block)} "
            "blocks)"
            for dtype, gap in worst.items()
        )
        bad += sum(gap > TOLERANCE[dtype] for dtype, gap in worst.items())
        print(f"{parameters}: {n} samples, {words}, {time.monotonic() - begun:.0f} s", flush=True)
    if bad:
        raise SystemExit(f"{bad} gaps are larger than {TOLERANCE}.")


if __name__ == "__main__":
    main()
