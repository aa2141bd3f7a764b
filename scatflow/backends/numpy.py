"""NumPy arrays on the CPU: fused kernels around the fastest FFT that is installed.

Moduli are made a few at a time, folded, inverted and rooted while they lie in the cache.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from scatflow.backends import fft, kernels, plain
from scatflow.backends.plain import pad
from scatflow.backends.protocol import (
    BandFilter,
    Grid,
    HarmonicFilter,
    Kept,
    Lowpass,
)

__all__ = ["average", "name", "pad", "prepare", "spectrum", "wavelet_modulus"]

Array = NDArray[Any]

name = "numpy"

IN_CACHE = 2**15
"""Complex samples folded, inverted and rooted together: half a megabyte with their moduli."""

SPAN_EPS = {"float32": 1e-8, "float64": 1e-16}
"""Height, relative to a filter's peak, below which the ends of a column count as zero."""

TAIL = {"float32": 2e-9, "float64": 1e-15}
"""Share of a low-pass filter's mass that may be cut off its ends in space."""

MOST_TAPS = 96
"""Products per sample of a modulus beyond which low-pass filters go through Fourier instead."""


@dataclass(frozen=True, eq=False)
class BandStage:
    """A stack of stored filters (see :func:`kernels.fold`)."""

    filters: Array
    pieces: Array
    weights: Array
    target: Grid

    @property
    def nbytes(self) -> int:
        """Bytes that the stage holds."""
        return sum(a.nbytes for a in (self.filters, self.pieces, self.weights))


class _Scratch(threading.local):
    """One buffer a thread and use, kept between calls; the largest is as large as one grid."""

    def __init__(self) -> None:
        self._buffers: dict[str, Array] = {}

    def take(self, use: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array of undefined contents that the next call for `use` overwrites."""
        size = math.prod(shape) * dtype.itemsize
        buffer = self._buffers.get(use)
        if buffer is None or buffer.size < size:
            room = np.empty(size + 64, np.uint8)
            buffer = room[-room.ctypes.data % 64 :]
            if size <= KEPT_BYTES:
                self._buffers[use] = buffer
        return buffer[:size].view(dtype).reshape(shape)


KEPT_BYTES = 2**22
"""Largest buffer that stays with its thread."""

_scratch = _Scratch()


# --- verbs ---------------------------------------------------------------------------------


def spectrum(u: Array, ndim: int) -> Array:
    """Return the half spectrum over the last `ndim` axes."""
    u = np.ascontiguousarray(u)
    out = np.empty((*u.shape[:-1], u.shape[-1] // 2 + 1), np.result_type(u.dtype, 1j))
    return fft.rfft(u, out, ndim)


def prepare(
    filters: Sequence[BandFilter] | HarmonicFilter, target: Grid, dtype: np.dtype[np.floating]
) -> BandStage | plain.HarmonicStage:
    """Cut filters into contiguous pieces, with the decimation's mean and the FFT's 1/N inside."""
    if not isinstance(filters, Sequence):
        return plain.HarmonicStage(filters)
    cut = _cut_rows if len(target) == 1 else _cut_images
    ends, pieces, weights, used = [0], [], [], 0
    for band in filters:
        some, w = cut(band, tuple(target), dtype)
        some[:, 3] += used
        used += w.size // 2
        pieces.append(some)
        weights.append(w)
        ends.append(ends[-1] + len(some))
    return BandStage(
        np.array(ends, np.int64), np.concatenate(pieces), np.concatenate(weights), tuple(target)
    )


def wavelet_modulus(u_hat: Array, stage: Any, which: slice) -> Array:
    """Return ``|u * psi|`` on the decimated grid, ``(batch, parents, filters, *grid)``."""
    if isinstance(stage, plain.HarmonicStage):
        return plain.wavelet_modulus(u_hat, stage, which)
    real = u_hat.real.dtype
    grid, ndim = stage.target, len(stage.target)
    filters = stage.filters[which.start : which.stop + 1]
    u = np.empty((*u_hat.shape[:2], filters.size - 1, *grid), real)
    moduli = u.reshape(-1, math.prod(grid))
    spectra = u_hat.reshape(-1, math.prod(u_hat.shape[2:])).view(real)
    step = max(1, IN_CACHE // moduli.shape[1])
    for first in range(0, len(moduli), step):
        some = moduli[first : first + step]
        z = _scratch.take("z", (len(some), *grid), u_hat.dtype)
        pairs = z.view(real).reshape(len(some), -1)
        kernels.fold(spectra, pairs, first, filters, stage.pieces, stage.weights)
        fft.ifft(z, ndim)
        kernels.modulus(pairs, some)
    return u


def average(u: Array, how: Kept, u_hat: Array | None = None) -> Array:
    """Reduce ``(batch, paths, *grid)`` as `how` says."""
    if isinstance(how, Lowpass):
        n = tuple(u.shape[-len(how.target) :])
        taps = _taps(how, n, u.dtype.name)
        steps = [a // b for a, b in zip(n, how.target, strict=True)]
        if all(h.size <= MOST_TAPS * step for h, step in zip(taps, steps, strict=True)):
            return _framed(np.ascontiguousarray(u), how, taps, steps)
    return plain.average(u, how, u_hat)


# --- filters -------------------------------------------------------------------------------


def _cut_rows(band: BandFilter, target: Grid, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Return the pieces and weights of a filter of signals."""
    pieces, weights, used = [], [], 0
    for piece in plain.pieces(band, target, dtype):
        (source,), (to,) = piece.source, piece.target
        m = to.stop - to.start
        begin = source.start - m + 1 if piece.conjugate else source.start
        pieces.append((begin, to.start, m, used, piece.conjugate))
        weights.append(piece.weights)
        used += m
    return np.array(pieces, np.int64).reshape(-1, 5), np.concatenate([*weights, np.zeros(0, dtype)])


def _cut_images(band: BandFilter, target: Grid, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Return the pieces and weights of a filter of images."""
    values = band.values / math.prod(band.shape)
    eps = SPAN_EPS[dtype.name]
    pieces, weights = kernels.cut_rows(values, band.starts, band.shape, target, eps)
    return pieces, weights.astype(dtype)


# --- low-pass ------------------------------------------------------------------------------


def _taps(how: Lowpass, shape: Grid, dtype: str) -> tuple[Array, ...]:
    """Return the low-pass filter along each axis, in space; worked out once for each."""
    return _taps_of(how, shape, dtype)


@lru_cache(maxsize=512)
def _taps_of(how: Lowpass, shape: Grid, dtype: str) -> tuple[Array, ...]:
    found = []
    for factor, n in zip(how.factors, shape, strict=True):
        half = np.zeros(n // 2 + 1)
        half[: factor.size] = factor
        centred = np.roll(scipy.fft.irfft(half, n) if n > 1 else half[:1], n // 2)
        mass = np.abs(centred)
        r = (n - 1) // 2  # a whole number of samples to each side
        outside = np.cumsum(mass[:r])
        cut = int(np.searchsorted(outside, TAIL[dtype] * mass.sum() / 2))
        inside = centred[n // 2 - (r - cut) : n // 2 + (r - cut) + 1]
        found.append((centred if cut == 0 else inside).astype(dtype))
    return tuple(found)


def _framed(u: Array, how: Lowpass, taps: tuple[Array, ...], steps: list[int]) -> Array:
    """Average over overlapping windows, only where the output is kept."""
    kept = [range(*c.indices(n)) for c, n in zip(how.crop, how.target, strict=True)]
    ndim = len(kept)
    out = np.empty((*u.shape[:-ndim], *map(len, kept)), u.dtype)
    if out.size == 0:
        return out
    if ndim == 1:
        rows, averages = u.reshape(-1, u.shape[-1]), out.reshape(-1, out.shape[-1])
        kernels.lowpass_rows(rows, taps[0], steps[0], kept[0].start, averages)
    else:
        images, averages = u.reshape(-1, *u.shape[-2:]), out.reshape(-1, *out.shape[-2:])
        between = _scratch.take("between", u.shape[-1:], u.dtype)
        firsts = (kept[0].start, kept[1].start)
        kernels.lowpass_images(images, taps[0], taps[1], tuple(steps), firsts, between, averages)
    return out
