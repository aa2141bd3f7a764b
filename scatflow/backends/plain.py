"""NumPy and scipy.fft: a few lines a verb.

Every operation rounds elementwise or is one FFT per signal, so what a signal gives does not depend
on what else is in the batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from scatflow.backends.protocol import (
    PRECISE_VOXELS,
    BandFilter,
    Grid,
    HarmonicFilter,
    Keep,
    Kept,
    Lowpass,
    Mean,
    PowerSums,
    Samples,
    Tree,
)

Array = NDArray[Any]
Index = tuple[slice, ...]

name = "plain"


class Piece(NamedTuple):
    """A box of one filter whose bins and targets are both contiguous."""

    source: Index
    """Where to read in the half spectrum."""
    conjugate: bool
    """Whether the bins lie on the side that the half spectrum leaves out."""
    target: Index
    """Where to write on the decimated grid."""
    weights: Array
    """Real, each twice along the last axis: for the real and the imaginary part."""
    first: bool
    """Whether nothing was written there before."""


@dataclass(frozen=True, eq=False)
class BandStage:
    """A stack of stored filters, cut into pieces."""

    filters: tuple[tuple[Piece, ...], ...]
    target: Grid

    @property
    def nbytes(self) -> int:
        """Bytes that the stage holds."""
        return sum(piece.weights.nbytes for boxes in self.filters for piece in boxes)


@dataclass(frozen=True, eq=False)
class HarmonicStage:
    """Filters evaluated on the fly."""

    filters: HarmonicFilter
    nbytes: int = 0

    @property
    def volumes(self) -> float:
        """Volumes in flight: whole spectrum, product, field and filter, complex, and squares.

        Of small volumes also a spectrum in double precision, and what SciPy makes it of.
        """
        return 13.0 + 6.5 * (math.prod(self.filters.shape) <= PRECISE_VOXELS)


def program(tree: Tree, shape: Grid, before: Grid, dtype: np.dtype[Any]) -> None:
    """Return None: this backend goes verb by verb."""


# --- verbs ---------------------------------------------------------------------------------


def pad(x: Array, before: Grid, after: Grid) -> Array:
    """Extend ``(batch, *grid)`` by whole-sample reflection, repeated where it must be."""
    if not any(before) and not any(after):
        return x
    widths = [(0, 0), *zip(before, after, strict=True)]
    return np.pad(x, widths, mode="reflect")


def spectrum(u: Array, ndim: int) -> Array:
    """Return the half spectrum over the last `ndim` axes."""
    axes = tuple(range(-ndim, 0))
    return np.asarray(scipy.fft.rfftn(u, axes=axes))


def prepare(
    filters: Sequence[BandFilter] | HarmonicFilter, target: Grid, dtype: np.dtype[np.floating]
) -> BandStage | HarmonicStage:
    """Cut filters into contiguous pieces, with the decimation's mean and the FFT's 1/N inside."""
    if not isinstance(filters, Sequence):
        return HarmonicStage(filters)
    return BandStage(tuple(tuple(_pieces(band, target, dtype)) for band in filters), tuple(target))


def wavelet_modulus(u_hat: Array, stage: BandStage | HarmonicStage, which: slice) -> Array:
    """Return ``|u * psi|`` on the decimated grid, ``(batch, parents, filters, *grid)``."""
    if isinstance(stage, HarmonicStage):
        return _harmonic_modulus(u_hat, stage.filters)[:, :, None]
    z = wavelet(u_hat, stage, which)
    modulus: Array = np.sqrt(_squared_modulus(z))
    return modulus


def wavelet(u_hat: Array, stage: BandStage, which: slice) -> Array:
    """Return ``u * psi`` on the decimated grid, complex, ``(batch, parents, filters, *grid)``."""
    filters = stage.filters[which]
    z = np.zeros((*u_hat.shape[:2], len(filters), *stage.target), u_hat.dtype)
    real = u_hat.real.dtype  # products with real weights: complex arrays are taken as pairs
    for f, boxes in enumerate(filters):
        for piece in boxes:
            u = u_hat[_inner(*piece.source)]
            if piece.conjugate:
                u = np.conj(u)
            out = z[_inner(f, *piece.target)].view(real)
            if piece.first:
                np.multiply(u.view(real), piece.weights, out=out)
            else:
                out += u.view(real) * piece.weights
    axes = tuple(range(-len(stage.target), 0))
    return np.asarray(scipy.fft.ifftn(z, axes=axes, norm="forward", overwrite_x=True))


def average(u: Array, how: Kept, u_hat: Array | None = None) -> Array:
    """Reduce ``(batch, paths, *grid)`` as `how` says."""
    kept: Array
    match how:
        case Keep(crop):
            kept = u[_inner(*crop)]
        case Mean(crop):
            ndim = len(crop)
            inside = np.ascontiguousarray(u[_inner(*crop)])
            rows = inside.reshape(*inside.shape[:-ndim], -1).mean(axis=-1)
            kept = rows.reshape(*rows.shape, *(1,) * ndim)
        case Lowpass(factors, target, crop):
            if len(factors) > 1:
                u_hat = None  # separable: one axis at a time, from space
            for axis, (factor, n) in enumerate(zip(factors, target, strict=True), -len(target)):
                u = _lowpass(u, factor, n, axis, u_hat)
            kept = u[_inner(*crop)]
        case PowerSums(powers):
            kept = _power_sums(u, powers)
        case Samples(factors, where):
            kept = _samples(u, u_hat, factors, where)
    return kept


# --- filters along log-frequency -------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class JointStage:
    """Filters along the axis of rows, whole: ``(filters, aliases, target)``."""

    weights: Array

    @property
    def nbytes(self) -> int:
        """Bytes that the stage holds."""
        return int(self.weights.nbytes)


def prepare_joint(filters: Sequence[BandFilter], target: int, dtype: np.dtype[Any]) -> JointStage:
    """Lay out filters, with the decimation's mean and the FFT's 1/N inside."""
    return JointStage(np.stack([whole(band, target) for band in filters]).astype(dtype))


def whole(band: BandFilter, target: int) -> Array:
    """Return a filter of one axis over the grid's length, as aliases ``(N / target, target)``."""
    (n,) = band.shape
    dense = np.zeros(n)
    dense[(band.starts[0] + np.arange(band.values.size)) % n] = band.values / n
    return dense.reshape(-1, target)


def joint_modulus(rows: Sequence[Array], stage: JointStage, how: Kept) -> Array:
    """Return ``|y * psi|`` along log-frequency, ``(batch, filters, kept rows, time)``."""
    y = np.moveaxis(np.concatenate(rows, axis=1), 1, 2)  # (batch, time, rows)
    aliases = stage.weights.shape[1:]
    y_hat = np.asarray(scipy.fft.fft(y, math.prod(aliases))).reshape(*y.shape[:2], *aliases)
    kept = []
    for psi in stage.weights:
        z = scipy.fft.ifft((y_hat * psi).sum(axis=2), norm="forward", overwrite_x=True)
        kept.append(average(np.sqrt(_squared_modulus(z)), how))
    return np.stack(kept, axis=1).swapaxes(2, 3)


def averages(how: Kept, n: int) -> Array:
    """Return an average of n rows as a matrix ``(kept, n)``."""
    match how:
        case Lowpass((factor,), (target,), (crop,)):
            half = np.zeros(n // 2 + 1)
            half[: factor.size] = factor
            response = scipy.fft.irfft(half, n) if n > 1 else half
            centres = np.arange(target)[crop] * (n // target)
            return np.asarray(response[(np.arange(n) - centres[:, None]) % n])
        case Mean((crop,)):
            inside: Array = np.zeros((1, n))
            inside[:, crop] = 1 / len(range(*crop.indices(n)))
            return inside
    raise TypeError(f"rows cannot be averaged as {how} says")


# --- stored filters ------------------------------------------------------------------------


def _pieces(band: BandFilter, target: Grid, dtype: np.dtype[Any]) -> list[Piece]:
    """Cut one filter where its bins or its targets stop being contiguous."""
    weights = (band.values / math.prod(band.shape)).astype(dtype)
    found = []
    written = np.zeros(target, dtype=bool)
    for conjugate in (False, True):
        axes = [
            _runs(start, width, n, n_out, conjugate, half=axis == band.values.ndim - 1)
            for axis, (start, width, n, n_out) in enumerate(
                zip(band.starts, band.values.shape, band.shape, target, strict=True)
            )
        ]
        for runs in itertools.product(*axes):
            source, to, inside = (tuple(run[i] for run in runs) for i in range(3))
            first = not written[to].any()
            written[to] = True
            pairs = np.repeat(weights[inside], 2, axis=-1)
            found.append(Piece(source, conjugate, to, pairs, first))
    return found


def _runs(
    start: int, width: int, n: int, n_out: int, conjugate: bool, half: bool
) -> list[tuple[slice, slice, slice]]:
    """Return runs ``(source, target, weights)`` of one axis.

    On the axis that is stored by half, bins up to n/2 are read directly and the others, mirrored
    and conjugate, from the half that is there; the other axes are mirrored along.
    """
    i = np.arange(width)
    bins = (start + i) % n
    if half:
        i = i[(bins > n // 2) == conjugate]
        bins = (start + i) % n
    if i.size == 0:
        return []
    source = (-bins) % n if conjugate else bins
    to = bins % n_out
    step = -1 if conjugate else 1
    broken = (np.diff(source) != step) | (np.diff(to) != 1) | (np.diff(i) != 1)
    runs = []
    for part in np.split(np.arange(i.size), np.flatnonzero(broken) + 1):
        a, b = part[0], part[-1]
        runs.append(
            (
                _run(int(source[a]), part.size, step),
                _run(int(to[a]), part.size, 1),
                _run(int(i[a]), int(i[b] - i[a]) + 1, 1),
            )
        )
    return runs


def _run(first: int, length: int, step: int) -> slice:
    """Return the slice of `length` indices from `first` on, upwards or downwards."""
    if step > 0:
        return slice(first, first + length)
    stop = first - length
    return slice(first, stop if stop >= 0 else None, -1)


def _inner(*index: int | slice) -> tuple[Any, ...]:
    """Return an index of the last axes."""
    return (Ellipsis, *index)


def _squared_modulus(z: Array) -> Array:
    """Return ``|z|^2``; products and sum are rounded one by one, alike in any batch."""
    power: Array = np.square(z.real)
    power += np.square(z.imag)
    return power


# --- solid harmonics -----------------------------------------------------------------------


def corners(half_widths: Grid, shape: Grid) -> list[list[tuple[slice, slice]]]:
    """Return, for each full axis, where the bins ``0 ... b, -b ... -1`` lie: (grid, box)."""
    axes = []
    for b, n in zip(half_widths, shape, strict=True):
        if 2 * b + 1 >= n:
            axes.append([(slice(0, n), slice(0, n))])
        else:
            low = (slice(0, b + 1), slice(0, b + 1))
            high = (slice(n - b, n), slice(b + 1, 2 * b + 1))
            axes.append([low, high] if b else [low])
    return axes


def _gather(u_hat: Array, filters: HarmonicFilter) -> Array:
    """Copy the box of the half spectrum that the filters touch, with the phase ``(-i)^l``."""
    bz, by, bx = filters.half_widths
    z_runs, y_runs = corners((bz, by), filters.shape[:2])
    nz, ny = (sum(box.stop - box.start for _, box in runs) for runs in (z_runs, y_runs))
    box: Array = np.empty((*u_hat.shape[:-3], nz, ny, bx + 1), u_hat.dtype)
    for grid_z, box_z in z_runs:
        for grid_y, box_y in y_runs:
            box[..., box_z, box_y, :] = u_hat[..., grid_z, grid_y, : bx + 1]
    box *= np.array((-1j) ** filters.l, u_hat.dtype)
    return box


def _pruned_inverse(box: Array, filters: HarmonicFilter) -> Array:
    """Invert a half spectrum that is zero outside `box`, one axis at a time, to a real volume.

    Each pass transforms only the lines that hold something.
    """
    nz, ny, nx = filters.shape
    z_runs, y_runs = corners(filters.half_widths[:2], (nz, ny))
    full = np.zeros((*box.shape[:-3], nz, *box.shape[-2:]), box.dtype)
    for grid, part in z_runs:
        full[..., grid, :, :] = box[..., part, :, :]
    full = scipy.fft.ifft(full, axis=-3, overwrite_x=True)
    wide = np.zeros((*box.shape[:-3], nz, ny, box.shape[-1]), box.dtype)
    for grid, part in y_runs:
        wide[..., grid, :] = full[..., part, :]
    wide = scipy.fft.ifft(wide, axis=-2, overwrite_x=True)
    return np.asarray(scipy.fft.irfft(wide, nx, axis=-1, overwrite_x=True))


def _whole_spectrum(half: Array, nx: int) -> Array:
    """Complete the half spectra of real volumes."""
    whole = np.empty((*half.shape[:-1], nx), half.dtype)
    kept = half.shape[-1]
    whole[..., :kept] = half
    mirrored = half[..., nx - kept : 0 : -1] if nx - kept else half[..., :0]
    mirrored = np.roll(mirrored[..., ::-1, ::-1, :], (1, 1), axis=(-3, -2))
    np.conj(mirrored, out=whole[..., kept:])
    return whole


def _harmonic_modulus(u_hat: Array, filters: HarmonicFilter) -> Array:
    """Return the root of the sum over m of ``|u * psi_{l,m}|^2``, ``(batch, parents, z, y, x)``.

    The real harmonics give real fields, so half spectra suffice, except where a filter reaches a
    Nyquist plane: those bins are their own mirror image, the field is complex there, and the
    transform is done in full.
    """
    modulus = np.zeros((*u_hat.shape[:2], *filters.shape), u_hat.real.dtype)
    if filters.real:
        box = _gather(u_hat, filters)
        for weights in filters.components(modulus.dtype):
            modulus += np.square(_pruned_inverse(box * weights, filters))
    else:
        whole = _whole_spectrum(u_hat, filters.shape[2])
        for weights in filters.components(modulus.dtype):
            field = _masked(whole, weights, filters)
            field = scipy.fft.ifftn(field, axes=(-3, -2, -1), overwrite_x=True)
            modulus += _squared_modulus(field)
    return np.sqrt(modulus, out=modulus)


def _masked(whole: Array, weights: Array, filters: HarmonicFilter) -> Array:
    """Multiply a full spectrum by weights that are given on a box of it."""
    out = np.zeros_like(whole)
    for corner in itertools.product(*corners(filters.half_widths, filters.shape)):
        grid, box = (_inner(*(run[i] for run in corner)) for i in range(2))
        np.multiply(whole[grid], weights[box], out=out[grid])
    return out


# --- averages ------------------------------------------------------------------------------


def _lowpass(u: Array, factor: Array, n_out: int, axis: int, u_hat: Array | None) -> Array:
    """Filter along one axis with a real, even low-pass and decimate to `n_out` samples."""
    n, kept = u.shape[axis], factor.size
    u = np.moveaxis(u, axis, -1)
    half = scipy.fft.rfft(u, axis=-1) if u_hat is None else u_hat
    band = half[..., :kept] * (factor * (n_out / n)).astype(u.dtype)
    out = np.zeros((*u.shape[:-1], n_out // 2 + 1), band.dtype)
    for source, target, conjugate in half_folds(kept, n, n_out):
        part = band[..., source]
        out[..., target] += np.conj(part) if conjugate else part
    return np.moveaxis(np.asarray(scipy.fft.irfft(out, n_out, axis=-1)), -1, axis)


@lru_cache(maxsize=256)
def half_folds(kept: int, n: int, n_out: int) -> tuple[tuple[slice, slice, bool], ...]:
    """Return runs that fold bins ``0 ... kept - 1`` and their mirror images to a half spectrum."""
    i = np.arange(kept)
    folds = []
    for conjugate in (False, True):
        j = i[(i > 0) & (2 * i != n)] if conjugate else i  # 0 and Nyquist have no mirror image
        to = (-j if conjugate else j) % n_out
        j, to = j[to <= n_out // 2], to[to <= n_out // 2]
        if j.size == 0:
            continue
        step = -1 if conjugate else 1
        broken = (np.diff(to) != step) | (np.diff(j) != 1)
        for part in np.split(np.arange(j.size), np.flatnonzero(broken) + 1):
            source = _run(int(j[part[0]]), part.size, 1)
            folds.append((source, _run(int(to[part[0]]), part.size, step), conjugate))
    return tuple(folds)


def _power_sums(u: Array, powers: tuple[float, ...]) -> Array:
    """Sum powers of each volume, in float64, one volume at a time: ``(batch, paths, powers)``."""
    out = np.empty((*u.shape[:2], len(powers)), u.dtype)
    for b, p in np.ndindex(*u.shape[:2]):
        volume = np.ascontiguousarray(u[b, p]).reshape(-1)
        for i, power in enumerate(powers):
            raised = volume if power == 1.0 else np.sqrt(volume) if power == 0.5 else volume**power
            out[b, p, i] = np.sum(raised, dtype=np.float64)
    return out


def _samples(
    u: Array,
    u_hat: Array | None,
    factors: tuple[Array, ...],
    where: tuple[int, ...] | NDArray[np.intp],
) -> Array:
    """Convolve each volume with a Gaussian and keep a decimated map or some points."""
    z, y, x = (factor.astype(u.dtype) for factor in factors)
    half = spectrum(u, 3) if u_hat is None else u_hat
    smooth = half * (z[:, None, None] * y[:, None] * x)
    field = scipy.fft.irfftn(smooth, u.shape[-3:], axes=(-3, -2, -1), overwrite_x=True)
    if isinstance(where, tuple):
        a, b, c = (slice(None, None, step) for step in where)
        return np.ascontiguousarray(field[..., a, b, c])
    return np.ascontiguousarray(field[..., where[:, 0], where[:, 1], where[:, 2]])
