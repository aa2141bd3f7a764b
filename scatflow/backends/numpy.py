"""NumPy arrays on the CPU: fused kernels around FFTs.

A whole transform of averaged signals or images is one compiled call, depth first, so that what is
in flight stays in the cache. Where MKL serves, it goes path by path (:class:`program.Program`).
Signals elsewhere, and images of usual sizes in any case, go many at a time through the lanes of
vectors, with FFTs of our own (:class:`lane_program.LaneProgram`). What is too long for that, or has
lengths with large prime factors, goes through the same kernels verb by verb, with SciPy's FFT
between them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from scatflow.backends import across, bands, fft, harmonic, kernels, lane_program, plain
from scatflow.backends import program as signal_program
from scatflow.backends.bands import BandStage
from scatflow.backends.morlets import morlets as morlets
from scatflow.backends.protocol import (
    PRECISE_VOXELS,
    BandFilter,
    Bank,
    Grid,
    HarmonicFilter,
    Kept,
    Lowpass,
    PowerSums,
    Program,
    Samples,
    Tree,
)
from scatflow.backends.scratch import SCRATCH

__all__ = [
    "average",
    "fan",
    "joint_modulus",
    "name",
    "pad",
    "prepare",
    "prepare_dense",
    "prepare_joint",
    "program",
    "spectrum",
    "wavelet",
    "wavelet_modulus",
]

Array = NDArray[Any]

name = "numpy"

PLAIN = plain.Plain(np)
"""What has no kernels."""

pad = PLAIN.pad

IN_CACHE = 2**15
"""Complex samples folded, inverted and rooted together: half a megabyte with their moduli."""


USUAL_POWERS = (0.5, 1.0, 2.0)
"""Powers that are summed in one pass."""

DIRECT = 48
"""Products a sample up to which windows are summed as they are: an FFT takes as long."""

SCIPY_ROWS = 16
"""Transforms that SciPy is given at a time, at least: it fills vectors with as many."""


def program(tree: Tree, shape: Grid, before: Grid, dtype: np.dtype[Any]) -> Program | None:
    """Return the whole transform as one call, where there is one; the filters are cut for it."""
    for compile_tree in (lane_program.compile_tree, signal_program.compile_tree):
        found: Program | None = compile_tree(tree, shape, before, dtype)
        if found is not None:
            return found
    for stage in itertools.chain(*(layer.stages() for layer in tree.layers)):
        if isinstance(stage, BandStage):
            _ = stage.cut
    return None


def spectrum(u: Array, ndim: int) -> Array:
    """Return the half spectrum over the last `ndim` axes."""
    u = np.ascontiguousarray(u)
    out = np.empty((*u.shape[:-1], u.shape[-1] // 2 + 1), np.result_type(u.dtype, 1j))
    if ndim < 3 or u.dtype == np.float64 or math.prod(u.shape[-3:]) > PRECISE_VOXELS:
        return fft.rfft(u, out, ndim)
    wide = SCRATCH.take("wide", u.shape[-3:], np.dtype(np.float64))
    precise = SCRATCH.take("precise", out.shape[-3:], np.dtype(np.complex128))
    for volume, half in zip(fft.volumes(u), fft.volumes(out), strict=True):
        np.copyto(wide, volume)
        np.copyto(half, fft.rfft(wide, precise, 3), casting="same_kind")
    return out


def prepare(
    filters: Sequence[BandFilter] | HarmonicFilter, target: Grid, dtype: np.dtype[np.floating]
) -> BandStage | harmonic.Separable | harmonic.Stored | plain.HarmonicStage:
    """Lay out filters for the kernels."""
    if not isinstance(filters, Sequence):
        return harmonic.prepare(filters, dtype) or plain.HarmonicStage(filters)
    return bands.lay_out(filters, tuple(target), dtype)


def fan(bank: Bank, eps: float, dtype: np.dtype[np.floating]) -> bands.Fan:
    """Return what lays filters out for moduli of several lengths."""
    return bands.Fan(bank, eps, dtype)


def prepare_dense(
    dense: Array, eps: float, target: Grid, dtype: np.dtype[np.floating]
) -> BandStage:
    """Lay out filters of images for the kernels, up to `eps` of their peaks."""
    return bands.lay_out_dense(dense, eps, tuple(target), dtype)


def wavelet_modulus(u_hat: Array, stage: Any, which: slice) -> Array:
    """Return ``|u * psi|`` on the decimated grid, ``(batch, parents, filters, *grid)``."""
    if isinstance(stage, plain.HarmonicStage):  # in flight are complex fields of one volume
        made = np.empty((*u_hat.shape[:2], 1, *stage.filters.shape), u_hat.real.dtype)
        for some, spectra in zip(made, u_hat, strict=True):
            some[...] = PLAIN.wavelet_modulus(spectra[None], stage, which)[0]
        return made
    if not isinstance(stage, BandStage):
        return harmonic.modulus(u_hat, stage)[:, :, None]
    real = u_hat.real.dtype
    filters = stage.rows.filters[which.start : which.stop + 1]
    u = np.empty((*u_hat.shape[:2], filters.size - 1, *stage.target), real)
    moduli = u.reshape(-1, math.prod(stage.target))
    for first, z in _folded(u_hat, filters, stage, len(moduli)):
        kernels.modulus(z.view(real).reshape(len(z), -1), moduli[first : first + len(z)])
    return u


def wavelet(u_hat: Array, stage: Any, which: slice) -> Array:
    """Return ``u * psi`` on the decimated grid, complex, ``(batch, parents, filters, *grid)``."""
    filters = stage.rows.filters[which.start : which.stop + 1]
    y = np.empty((*u_hat.shape[:2], filters.size - 1, *stage.target), u_hat.dtype)
    fields = y.reshape(-1, *stage.target)
    for first, z in _folded(u_hat, filters, stage, len(fields)):
        fields[first : first + len(z)] = z
    return y


def prepare_joint(
    filters: Sequence[BandFilter], target: int, dtype: np.dtype[Any]
) -> across.AcrossStage | plain.JointStage:
    """Lay out filters along log-frequency for the kernel."""
    return across.prepare(filters, target, dtype)


def joint_modulus(rows: Sequence[Array], stage: Any, how: Kept) -> Array:
    """Return ``|y * psi|`` along log-frequency, ``(batch, filters, kept rows, time)``."""
    if isinstance(stage, plain.JointStage):
        return np.asarray(PLAIN.joint_modulus(rows, stage, how))
    kept: Array = stage.run(rows, how)
    return kept


def average(u: Array, how: Kept, u_hat: Array | None = None) -> Array:
    """Reduce ``(batch, paths, *grid)`` as `how` says."""
    if isinstance(how, PowerSums):
        some: Any = (Ellipsis, *how.crop)
        usual = how.powers == USUAL_POWERS
        return _sums_of_usual_powers(u[some]) if usual else _power_sums(u[some], how.powers)
    if isinstance(how, Samples):
        return _samples(u, u_hat, how)
    if not isinstance(how, Lowpass):
        return np.asarray(PLAIN.average(u, how, u_hat))
    ndim = len(how.target)
    if u_hat is None and ndim == 1:
        direct = bands.taps(how, u.shape[-1], u.dtype)
        if direct.taps.size * direct.windows <= DIRECT * u.shape[-1]:
            return _windows(u, direct)
    if u_hat is None:
        u_hat = spectrum(u, ndim)
    stage = bands.lowpass(how, u.shape[-ndim:], u.dtype)
    kept = [range(*c.indices(n)) for c, n in zip(how.crop, how.target, strict=True)]
    out = np.empty((*u.shape[:-ndim], *map(len, kept)), u.dtype)
    rows = out.reshape(math.prod(out.shape[:-ndim]), *out.shape[-ndim:])
    inside: Any = (Ellipsis, *how.crop)
    for first, z in _folded(u_hat, stage.rows.filters, stage, len(rows)):
        rows[first : first + len(z)] = z.real[inside]
    return out


def _windows(u: Array, how: bands.Taps) -> Array:
    """Low-pass signals where they are windowed only."""
    out = np.empty((*u.shape[:-1], how.windows), u.dtype)
    rows = u.reshape(math.prod(u.shape[:-1]), -1)
    line = SCRATCH.take("line", (how.span,), u.dtype)
    kernels.windows(rows, how.taps, how.first, how.step, line, out.reshape(len(rows), -1))
    return out


def _sums_of_usual_powers(u: Array) -> Array:
    volumes = np.ascontiguousarray(u).reshape(math.prod(u.shape[:2]), -1)
    out = np.empty((len(volumes), 3))
    for volume, sums in zip(volumes, out, strict=True):
        kernels.sum_of_powers(volume, sums)
    return out.reshape(*u.shape[:2], 3).astype(u.dtype)


def _power_sums(u: Array, powers: tuple[float, ...]) -> Array:
    """Sum powers of each volume, in float64, one volume at a time: ``(batch, paths, powers)``."""
    out = np.empty((*u.shape[:2], len(powers)), u.dtype)
    for b, p in np.ndindex(*u.shape[:2]):
        volume = np.ascontiguousarray(u[b, p]).reshape(-1)
        for i, power in enumerate(powers):
            raised = volume if power == 1.0 else np.sqrt(volume) if power == 0.5 else volume**power
            out[b, p, i] = np.sum(raised, dtype=np.float64)
    return out


def _samples(u: Array, u_hat: Array | None, how: Samples) -> Array:
    """Convolve each volume with a Gaussian and keep a decimated map or some points."""
    z, y, x = (factor.astype(u.dtype) for factor in how.factors)
    smooth = (spectrum(u, 3) if u_hat is None else u_hat) * (z[:, None, None] * y[:, None] * x)
    field = scipy.fft.irfftn(smooth, u.shape[-3:], axes=(-3, -2, -1), overwrite_x=True)
    where = how.where
    if isinstance(where, tuple):
        a, b, c = (slice(None, None, step) for step in where)
        return np.ascontiguousarray(field[..., a, b, c])
    return np.ascontiguousarray(field[..., where[:, 0], where[:, 1], where[:, 2]])


def _folded(
    u_hat: Array, filters: Array, stage: BandStage, count: int
) -> Iterator[tuple[int, Array]]:
    """Yield fields of pairs (spectrum, filter), as many at a time as stay in the cache."""
    real = u_hat.real.dtype
    spectra = u_hat.reshape(math.prod(u_hat.shape[:2]), -1).view(real)
    least = 1 if fft.by_mkl(stage.target) else SCIPY_ROWS
    step = max(least, IN_CACHE // math.prod(stage.target))
    for first in range(0, count, step):
        many = min(step, count - first)
        z = SCRATCH.take("z", (many, *stage.target), u_hat.dtype)
        pairs = z.view(real).reshape(many, -1)
        kernels.fold(spectra, pairs, first, filters, stage.rows.pieces, stage.rows.weights)
        yield first, fft.ifft(z, len(stage.target))
