"""The reference: a few lines a verb, for arrays of any library that speaks the array API standard.

NumPy is one of them. Arrays are never written to, so that libraries may trace or differentiate what
is done; nothing but the standard's own functions is called (https://data-apis.org/array-api).
Filters are NumPy's until they meet an array: what a library makes of them while it traces must not
be kept.

Every operation rounds elementwise or is one FFT or sum per signal, so what a signal gives does not
depend on what else is in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
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
from scatflow.errors import InputTypeError

Array = Any
"""An array of the library in use."""


@dataclass(frozen=True, eq=False)
class BlockStage:
    """A stack of stored filters, cut into blocks of the decimated grid."""

    touched: tuple[int, ...]
    """Which blocks of the spectrum the filters touch."""
    weights: NDArray[Any]
    """``(filters, blocks, *target)``, with the decimation's mean and the FFT's 1/N inside."""
    shape: Grid
    target: Grid

    @property
    def nbytes(self) -> int:
        """Bytes that the stage holds."""
        return self.weights.nbytes


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


@dataclass(frozen=True, eq=False)
class JointStage:
    """Filters along the axis of rows, whole: ``(filters, aliases, target)``."""

    weights: NDArray[Any]

    @property
    def nbytes(self) -> int:
        """Bytes that the stage holds."""
        return self.weights.nbytes


class Plain:
    """The verbs in the namespace `xp` of one library, on one of its devices."""

    def __init__(self, xp: Any, device: Any = None) -> None:
        self.name = "plain" if xp is np else "array API"
        self.xp = xp
        self.device = device

    def program(self, tree: Tree, shape: Grid, before: Grid, dtype: Any) -> None:
        """Return None: this backend goes verb by verb."""

    def pad(self, x: Array, before: Grid, after: Grid) -> Array:
        """Extend ``(batch, *grid)`` by whole-sample reflection, repeated where it must be."""
        for axis, widths in enumerate(zip(before, after, strict=True), 1):
            if any(widths):
                which = np.pad(np.arange(x.shape[axis]), widths, mode="reflect")
                x = self.xp.take(x, self._array(which), axis=axis)
        return x

    def spectrum(self, u: Array, ndim: int) -> Array:
        """Return the half spectrum over the last `ndim` axes."""
        return self.xp.fft.rfftn(u, axes=_last(ndim))

    def prepare(
        self, filters: Sequence[BandFilter] | HarmonicFilter, target: Grid, dtype: Any
    ) -> BlockStage | HarmonicStage:
        """Cut filters into blocks, with the decimation's mean and the FFT's 1/N inside."""
        if not isinstance(filters, Sequence):
            return HarmonicStage(filters)
        shape = filters[0].shape
        stack = np.stack([blocks(band, target) for band in filters]) / math.prod(shape)
        touched = np.flatnonzero(stack.any(axis=(0, *range(2, stack.ndim))))
        weights = stack[:, touched].astype(dtype)
        return BlockStage(tuple(touched.tolist()), weights, shape, tuple(target))

    def wavelet_modulus(self, u_hat: Array, stage: Any, which: slice) -> Array:
        """Return ``|u * psi|`` on the decimated grid, ``(batch, parents, filters, *grid)``."""
        if isinstance(stage, HarmonicStage):
            return self._harmonic_modulus(u_hat, stage.filters)[:, :, None, ...]
        return self._modulus(self.wavelet(u_hat, stage, which))

    def wavelet(self, u_hat: Array, stage: BlockStage, which: slice) -> Array:
        """Return ``u * psi``, complex, decimated, ``(batch, parents, filters, *grid)``."""
        u = self._in_blocks(self._whole(u_hat, stage.shape), stage.target)
        z = 0.0
        for i, block in enumerate(stage.touched):
            z = z + u[:, :, block, None, ...] * self._array(stage.weights[which, i])
        return self.xp.fft.ifftn(z, axes=_last(len(stage.target)), norm="forward")

    def average(self, u: Array, how: Kept, u_hat: Array | None = None) -> Array:
        """Reduce ``(batch, paths, *grid)`` as `how` says."""
        match how:
            case Keep(crop):
                return u[(..., *crop)]
            case Mean(crop):
                inside = u[(..., *crop)]
                batch, grid = inside.shape[: -len(crop)], inside.shape[-len(crop) :]
                rows = self.xp.reshape(inside, (*batch, math.prod(grid)))
                return self.xp.mean(rows, axis=-1)[(..., *[None] * len(crop))]
            case Lowpass(factors, target, crop):
                for axis, (factor, n) in enumerate(zip(factors, target, strict=True), -len(target)):
                    u = self._lowpass(u, factor, n, axis)
                return u[(..., *crop)]
            case PowerSums(powers, crop):
                u = u[(..., *crop)]
                return self.xp.stack([self._sum_of_powers(u, power) for power in powers], axis=-1)
            case Samples(factors, where):
                return self._samples(u, u_hat, factors, where)

    def over(
        self,
        run: Callable[[Tree, Array], list[Array]],
        tree: Tree,
        signals: Array,
        each: int,  # noqa: ARG002 - what is traced or differentiated stays, however it is cut
    ) -> list[Array]:
        """Run a transform of ``(batch, *grid)``, of all signals at once."""
        return run(tree, signals)

    def join(self, parts: Sequence[Array], order: Any) -> Array:
        """Return groups of paths ``(batch, paths, ...)`` as one, of which path i is `order[i]`."""
        return self.xp.take(self.xp.concat(list(parts), axis=1), self._array(order), axis=1)

    def split(self, y: Array, axis: int) -> list[Array]:
        """Return the entries of one axis."""
        return list(self.xp.unstack(y, axis=axis))

    # --- filters along log-frequency ---

    def prepare_joint(self, filters: Sequence[BandFilter], target: int, dtype: Any) -> JointStage:
        """Lay out filters, with the decimation's mean and the FFT's 1/N inside."""
        (n,) = filters[0].shape
        weights = np.stack([blocks(band, (target,)) for band in filters]) / n
        return JointStage(weights.astype(dtype))

    def joint_modulus(self, rows: Sequence[Array], stage: JointStage, how: Kept) -> Array:
        """Return ``|y * psi|`` along log-frequency, ``(batch, filters, kept rows, time)``."""
        xp = self.xp
        y = xp.moveaxis(xp.concat(list(rows), axis=1), 1, 2)  # (batch, time, rows)
        single = y.dtype in (xp.float32, xp.complex64)
        y = xp.astype(y, xp.complex64 if single else xp.complex128)
        aliases = stage.weights.shape[1:]
        y_hat = xp.reshape(xp.fft.fft(y, n=math.prod(aliases)), (*y.shape[:2], *aliases))
        kept = []
        for psi in stage.weights:
            z = xp.fft.ifft(xp.sum(y_hat * self._array(psi), axis=2), norm="forward")
            kept.append(self.average(self._modulus(z), how))
        return xp.moveaxis(xp.stack(kept, axis=1), 2, 3)

    # --- spectra ---

    def _array(self, values: Any) -> Array:
        """Return values of NumPy's as an array of the library, on the device."""
        where = {} if self.device is None else {"device": self.device}
        return self.xp.asarray(values, **where)

    def _whole(self, half: Array, shape: Grid) -> Array:
        """Complete half spectra of real arrays on a grid of `shape`."""
        ndim, kept = len(shape), half.shape[-1]
        rest = self.xp.flip(half[..., 1 : shape[-1] - kept + 1], axis=_last(ndim))
        if ndim > 1:  # the first bin of an axis is its own mirror image
            rest = self.xp.roll(rest, (1,) * (ndim - 1), axis=_last(ndim)[:-1])
        return self.xp.concat([half, self.xp.conj(rest)], axis=-1)

    def _in_blocks(self, u_hat: Array, target: Grid) -> Array:
        """Return whole spectra as blocks of the decimated grid, ``(..., blocks, *target)``."""
        ndim = len(target)
        batch, shape = u_hat.shape[:-ndim], u_hat.shape[-ndim:]
        split = self.xp.reshape(u_hat, (*batch, *_split(shape, target)))
        before = range(len(batch))
        split = self.xp.permute_dims(split, (*before, *(len(batch) + i for i in _order(ndim))))
        count = math.prod(shape) // math.prod(target)
        return self.xp.reshape(split, (*batch, count, *target))

    def _modulus(self, z: Array) -> Array:
        """Return ``|z|``; products and sum are rounded one by one, alike in any batch."""
        return self._root(self.xp.real(z) ** 2 + self.xp.imag(z) ** 2)

    def _root(self, x: Array) -> Array:
        """Return the square root, with a derivative of zero at zero."""
        there = x > 0
        return self.xp.where(there, self.xp.sqrt(self.xp.where(there, x, 1.0)), 0.0)

    # --- solid harmonics ---

    def _harmonic_modulus(self, u_hat: Array, filters: HarmonicFilter) -> Array:
        """Return the root of the sum over m of ``|u * psi_{l,m}|^2``, ``(batch, parents, *grid)``.

        The real harmonics give real fields, so half spectra suffice, except where a filter reaches
        a Nyquist plane: those bins are their own mirror image, the field is complex there, and the
        transform is done in full.
        """
        fft, axes = self.xp.fft, _last(3)
        precision = np.dtype("f4" if u_hat.dtype == self.xp.complex64 else "f8")
        u_hat = u_hat * (-1j) ** filters.l if filters.real else self._whole(u_hat, filters.shape)
        power = 0.0
        for weights in filters.components(precision):
            field = u_hat * self._array(_on_the_grid(weights, filters))
            if filters.real:
                power = power + fft.irfftn(field, s=filters.shape, axes=axes) ** 2
            else:
                field = fft.ifftn(field, axes=axes)
                power = power + self.xp.real(field) ** 2 + self.xp.imag(field) ** 2
        return self._root(power)

    # --- averages ---

    def _lowpass(self, u: Array, factor: NDArray[Any], n_out: int, axis: int) -> Array:
        """Filter along one axis with a real, even low-pass and decimate to `n_out` samples."""
        u = self.xp.moveaxis(u, axis, -1)
        n = u.shape[-1]
        even = np.zeros(n)
        even[: factor.size] = factor
        even[n - np.arange(1, factor.size)] = factor[1:]
        response = self._array((even * (n_out / n)).astype(_host_dtype(u)))
        smooth = self._whole(self.xp.fft.rfft(u), (n,)) * response
        folded = self.xp.sum(self._in_blocks(smooth, (n_out,)), axis=-2)
        return self.xp.moveaxis(self.xp.real(self.xp.fft.ifft(folded)), -1, axis)

    def _sum_of_powers(self, u: Array, power: float) -> Array:
        """Sum a power of each volume as precisely as the library can; of zero, it is constant."""
        there = u > 0
        some = self.xp.where(there, u, 1.0)
        raised = u if power == 1.0 else self._root(u) if power == 0.5 else some**power
        raised = self.xp.where(there, raised, 0.0)
        rows = self.xp.reshape(raised, (*u.shape[:-3], math.prod(u.shape[-3:])))
        precise = self.xp.__array_namespace_info__().dtypes(kind="real floating")
        total = self.xp.sum(rows, axis=-1, dtype=precise.get("float64", u.dtype))
        return self.xp.astype(total, u.dtype)

    def _samples(self, u: Array, u_hat: Array | None, factors: Any, where: Any) -> Array:
        """Convolve each volume with a Gaussian and keep a decimated map or some points."""
        z, y, x = (factor.astype(_host_dtype(u)) for factor in factors)
        half = self.spectrum(u, 3) if u_hat is None else u_hat
        smooth = half * self._array(z[:, None, None] * y[:, None] * x)
        field = self.xp.fft.irfftn(smooth, s=u.shape[-3:], axes=_last(3))
        if isinstance(where, tuple):
            return field[(..., *(slice(None, None, step) for step in where))]
        points = np.ravel_multi_index(where.T, field.shape[-3:])
        rows = self.xp.reshape(field, (*field.shape[:-3], math.prod(field.shape[-3:])))
        return self.xp.take(rows, self._array(points), axis=-1)


@lru_cache(maxsize=32)
def on(xp: Any, device: Any) -> Plain:
    """Return the verbs for arrays of a library, on one of its devices."""
    return Plain(xp, device)


# --- arrays of any library -----------------------------------------------------------------


def namespace(x: Array) -> Any:
    """Return the functions of an array's library, or say that it has no FFT."""
    xp = x.__array_namespace__()
    if not hasattr(xp, "fft"):
        raise InputTypeError(
            f"The input is an array of {xp.__name__}, which has no FFT (an extension of the array "
            "API standard), so it cannot be transformed. Convert it to a NumPy array."
        )
    return xp


def device_of(x: Array) -> Any:
    """Return where an array is; None while it is traced."""
    return getattr(x, "device", None)


def real(x: Array) -> Array:
    """Return an array of float32 or float64.

    Integers of more than 16 bits need float64; libraries without it take float32.
    """
    xp = namespace(x)
    if x.dtype in _floating(xp).values():
        return x
    if not xp.isdtype(x.dtype, ("bool", "integral", "real floating")):
        raise InputTypeError(
            f"The input should be real, but it has dtype {x.dtype}. Take its real part, its "
            "modulus or convert it first."
        )
    small = ("bool", "int8", "uint8", "int16", "uint16", "float16", "bfloat16")
    single = any(x.dtype == getattr(xp, name, None) for name in small)
    return xp.astype(x, _floating(xp).get("float32" if single else "float64", xp.float32))


def precision(x: Array) -> np.dtype[Any]:
    """Return the precision of an array of float32 or float64, as NumPy calls it."""
    return _host_dtype(x)


def _floating(xp: Any) -> Any:
    """Return the precisions of a library, by name."""
    return xp.__array_namespace_info__().dtypes(kind="real floating")


def _host_dtype(u: Array) -> np.dtype[Any]:
    return np.dtype(np.float32 if u.dtype == u.__array_namespace__().float32 else np.float64)


# --- filters and grids ---------------------------------------------------------------------


def blocks(band: BandFilter, target: Grid) -> NDArray[Any]:
    """Return a filter as blocks of the decimated grid, ``(blocks, *target)``."""
    dense: Any = np.zeros(band.shape)
    bins = [
        (start + np.arange(width)) % n
        for start, width, n in zip(band.starts, band.values.shape, band.shape, strict=True)
    ]
    dense[np.ix_(*bins)] = band.values
    split = dense.reshape(_split(band.shape, target)).transpose(_order(len(target)))
    return np.asarray(split.reshape(-1, *target))


def averages(how: Kept, n: int) -> NDArray[Any]:
    """Return an average of n rows as a matrix ``(kept, n)``."""
    match how:
        case Lowpass((factor,), (target,), (crop,)):
            half = np.zeros(n // 2 + 1)
            half[: factor.size] = factor
            response = np.fft.irfft(half, n) if n > 1 else half
            centres = np.arange(target)[crop] * (n // target)
            return np.asarray(response[(np.arange(n) - centres[:, None]) % n])
        case Mean((crop,)):
            inside = np.zeros((1, n))
            inside[:, crop] = 1 / len(range(*crop.indices(n)))
            return inside
    raise TypeError(f"rows cannot be averaged as {how} says")


def box_bins(b: int, n: int) -> NDArray[np.int64]:
    """Return the bins ``0 ... b, -b ... -1``, each once."""
    if 2 * b + 1 >= n:
        return np.arange(n)
    return np.concatenate([np.arange(b + 1), np.arange(n - b, n)])


def _on_the_grid(weights: NDArray[Any], filters: HarmonicFilter) -> NDArray[Any]:
    """Return one of the filters on the whole grid, or on the half spectrum if fields are real."""
    nz, ny, nx = filters.shape
    z, y, x = (box_bins(b, n) for b, n in zip(filters.half_widths, filters.shape, strict=True))
    if filters.real:
        nx, x = nx // 2 + 1, np.arange(weights.shape[2])
    dense = np.zeros((nz, ny, nx), weights.dtype)
    dense[np.ix_(z, y, x)] = weights
    return dense


def _split(shape: Grid, target: Grid) -> tuple[int, ...]:
    """Return the shape of a grid with each axis as (block, place inside it)."""
    return tuple(k for n, m in zip(shape, target, strict=True) for k in (n // m, m))


def _order(ndim: int) -> tuple[int, ...]:
    """Return the axes of a split grid: blocks first, then the places inside them."""
    return (*range(0, 2 * ndim, 2), *range(1, 2 * ndim, 2))


def _last(ndim: int) -> tuple[int, ...]:
    """Return the last axes."""
    return tuple(range(-ndim, 0))
