"""NumPy arrays on the CPU: fused kernels around the fastest FFT that is installed.

Moduli are made a few at a time, folded, inverted and rooted while they lie in the cache. In two
dimensions spectra are kept transposed, ``(batch, paths, columns' half, rows)``, so that every FFT
runs along contiguous rows; other verbs of this backend alone read them.
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
class RowStage:
    """Filters of signals (see :func:`kernels.fold_rows`)."""

    filters: Array
    pieces: Array
    weights: Array
    target: Grid

    @property
    def nbytes(self) -> int:
        """Bytes that the stage holds."""
        return sum(a.nbytes for a in (self.filters, self.pieces, self.weights))


@dataclass(frozen=True, eq=False)
class ImageStage:
    """Filters of images (see :func:`kernels.fold_images`)."""

    filters: Array
    """``(F, 3)``: first piece, end of the pieces, columns touched."""
    pieces: Array
    weights: Array
    places: Array
    """``(F, n)``: where the columns touched lie."""
    blank: Array
    """``(F, n)``: where the others do."""
    target: Grid

    @property
    def nbytes(self) -> int:
        """Bytes that the stage holds."""
        arrays = (self.filters, self.pieces, self.weights, self.places, self.blank)
        return sum(a.nbytes for a in arrays)


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
    """Return the half spectrum over the last `ndim` axes, in two dimensions transposed."""
    if ndim == 1:
        u = np.ascontiguousarray(u)
        out = np.empty((*u.shape[:-1], u.shape[-1] // 2 + 1), np.result_type(u.dtype, 1j))
        return fft.rfft(u, out)
    if ndim == 2:
        return _spectrum_2d(np.ascontiguousarray(u))
    return plain.spectrum(u, ndim)


def prepare(
    filters: Sequence[BandFilter] | HarmonicFilter, target: Grid, dtype: np.dtype[np.floating]
) -> RowStage | ImageStage | plain.HarmonicStage:
    """Cut filters into contiguous pieces, with the decimation's mean and the FFT's 1/N inside."""
    if not isinstance(filters, Sequence):
        return plain.HarmonicStage(filters)
    return (_row_stage if len(target) == 1 else _image_stage)(filters, tuple(target), dtype)


def wavelet_modulus(u_hat: Array, stage: Any, which: slice) -> Array:
    """Return ``|u * psi|`` on the decimated grid, ``(batch, parents, filters, *grid)``."""
    if isinstance(stage, RowStage):
        return _row_moduli(u_hat, stage, which)
    if isinstance(stage, ImageStage):
        return _image_moduli(u_hat, stage, which)
    return plain.wavelet_modulus(u_hat, stage, which)


def average(u: Array, how: Kept, u_hat: Array | None = None) -> Array:
    """Reduce ``(batch, paths, *grid)`` as `how` says."""
    if isinstance(how, Lowpass):
        n = tuple(u.shape[-len(how.target) :])
        taps = _taps(how, n, u.dtype.name)
        steps = [a // b for a, b in zip(n, how.target, strict=True)]
        if all(h.size <= MOST_TAPS * step for h, step in zip(taps, steps, strict=True)):
            return _framed(np.ascontiguousarray(u), how, taps, steps)
    return plain.average(u, how, u_hat)


# --- one dimension -------------------------------------------------------------------------


def _row_stage(filters: Sequence[BandFilter], target: Grid, dtype: np.dtype[Any]) -> RowStage:
    """Lay out the pieces of all filters one after the other."""
    ends, pieces, weights, used = [0], [], [], 0
    for band in filters:
        for piece in plain.pieces(band, target, dtype):
            (source,), (to,) = piece.source, piece.target
            m = to.stop - to.start
            begin = source.start - m + 1 if piece.conjugate else source.start
            pieces.append((begin, to.start, m, used, piece.conjugate))
            weights.append(piece.weights)
            used += m
        ends.append(len(pieces))
    table = np.array(pieces, np.int64).reshape(-1, 5)
    flat = np.concatenate([*weights, np.zeros(0, dtype)])
    return RowStage(np.array(ends, np.int64), table, flat, target)


def _row_moduli(u_hat: Array, stage: RowStage, which: slice) -> Array:
    real = u_hat.real.dtype
    filters = stage.filters[which.start : which.stop + 1]
    count, (n,) = filters.size - 1, stage.target
    u = np.empty((*u_hat.shape[:2], count, n), real)
    rows = u.reshape(-1, n)
    source = u_hat.reshape(-1, u_hat.shape[-1]).view(real)
    step = max(1, IN_CACHE // n)
    for first in range(0, rows.shape[0], step):
        some = rows[first : first + step]
        z = _scratch.take("z", some.shape, u_hat.dtype)
        pairs = z.view(real)
        kernels.fold_rows(source, pairs, first, filters, stage.pieces, stage.weights)
        fft.ifft(z)
        kernels.modulus(pairs, some)
    return u


# --- two dimensions ------------------------------------------------------------------------


def _image_stage(filters: Sequence[BandFilter], target: Grid, dtype: np.dtype[Any]) -> ImageStage:
    """Lay out the pieces of all filters one after the other, on the columns they touch."""
    n = target[1]
    table = np.zeros((len(filters), 3), np.int64)
    places, blank = (np.zeros((len(filters), n), np.int64) for _ in range(2))
    pieces, weights, used, count = [], [], 0, 0
    eps = SPAN_EPS[dtype.name]
    for f, band in enumerate(filters):
        values = band.values / math.prod(band.shape)
        some, w = kernels.cut_columns(values, band.starts, band.shape, target, eps)
        touched, where = np.unique(some[:, 2], return_inverse=True)
        some[:, 2] = where
        some[:, 5] += used
        table[f] = count, count + len(some), touched.size
        places[f, : touched.size] = touched
        blank[f, : n - touched.size] = np.setdiff1d(np.arange(n), touched)
        pieces.append(some)
        weights.append(w.astype(dtype))
        used += w.size // 2
        count += len(some)
    return ImageStage(table, np.concatenate(pieces), np.concatenate(weights), places, blank, target)


def _image_moduli(u_hat: Array, stage: ImageStage, which: slice) -> Array:
    real = u_hat.real.dtype
    filters, places, blank = (a[which] for a in (stage.filters, stage.places, stage.blank))
    count, (m, n) = len(filters), stage.target
    u = np.empty((*u_hat.shape[:2], count, m, n), real)
    images = u.reshape(-1, m, n)
    source = u_hat.reshape(-1, *u_hat.shape[-2:]).view(real)
    step = max(1, IN_CACHE // (m * n))
    widest = int(filters[:, 2].max())
    for first in range(0, images.shape[0], step):
        some = images[first : first + step]
        folded = _scratch.take("folded", (len(some), widest, m), u_hat.dtype)
        kernels.fold_images(source, folded.view(real), first, filters, stage.pieces, stage.weights)
        for p, part in enumerate(folded):
            fft.ifft(part[: filters[(first + p) % count, 2]])
        z = _scratch.take("z", some.shape, u_hat.dtype)
        kernels.spread(folded, z, first, filters, places, blank)
        fft.ifft(z)
        kernels.modulus(z.view(real).reshape(-1, 2 * n), some.reshape(-1, n))
    return u


def _spectrum_2d(u: Array) -> Array:
    """Return ``(batch, paths, n // 2 + 1, m)``."""
    m, n = u.shape[-2:]
    kind = np.result_type(u.dtype, 1j)
    out = np.empty((*u.shape[:-2], n // 2 + 1, m), kind)
    images, spectra = u.reshape(-1, m, n), out.reshape(-1, n // 2 + 1, m)
    step = max(1, IN_CACHE // (m * n))
    places = np.arange(m)
    for first in range(0, len(images), step):
        some = images[first : first + step]
        half = _scratch.take("z", (len(some), m, n // 2 + 1), kind)
        fft.rfft(some, half)
        kernels.transpose_images(half, spectra[first : first + step], places)
        fft.fft(spectra[first : first + step])
    return out


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
