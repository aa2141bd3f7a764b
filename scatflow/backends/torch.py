"""PyTorch tensors on any device: functions without side effects, differentiable twice.

Every verb is a few operations on whole stacks of paths that torch knows the derivatives of, so
that ``autograd``, ``vmap`` and ``torch.compile`` see through it. Filters live on the device of one
:class:`Torch`. Spectra of signals and images are whole ones: a decimated product is then a sum of
blocks of the spectrum, those that the filters touch, times blocks of the filters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from scatflow.backends.plain import averages, blocks
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
from scatflow.errors import BackendError, InputTypeError

DENSE = 2**22
"""Numbers in a matrix that averages signals; longer ones are averaged in Fourier."""

PRECISIONS: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
}


@dataclass(frozen=True, eq=False)
class BlockStage:
    """A stack of stored filters, cut into blocks of the decimated grid."""

    blocks: torch.Tensor
    """Which blocks of the spectrum the filters touch."""
    weights: torch.Tensor
    """``(filters, blocks, *target, 2)``, with the decimation's mean and the FFT's 1/N inside."""
    shape: Grid
    target: Grid

    @property
    def nbytes(self) -> int:
        """Bytes that the stage holds."""
        return self.weights.nbytes


@dataclass(frozen=True, eq=False)
class JointStage:
    """Filters along the axis of rows, whole: ``(filters, aliases, target)``."""

    weights: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Bytes that the stage holds."""
        return self.weights.nbytes


@dataclass(frozen=True, eq=False)
class HarmonicStage:
    """Filters evaluated once, on the box that they touch."""

    filters: HarmonicFilter
    components: tuple[torch.Tensor, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that the stage holds."""
        return sum(component.nbytes for component in self.components)

    @property
    def volumes(self) -> float:
        """Volumes in flight: whole spectrum, product, field, complex, and squares."""
        return 13.0


class Torch:
    """The verbs on one device."""

    name = "torch"

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._laid_out: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()

    def program(self, tree: Tree, shape: Grid, before: Grid, dtype: Any) -> None:
        """Return None: what is differentiated goes verb by verb."""

    def pad(self, x: torch.Tensor, before: Grid, after: Grid) -> torch.Tensor:
        """Extend ``(batch, *grid)`` by whole-sample reflection, repeated where it must be."""
        for axis, widths in enumerate(zip(before, after, strict=True), 1):
            if any(widths):
                which = np.pad(np.arange(x.shape[axis]), widths, mode="reflect")
                x = x.index_select(axis, torch.from_numpy(which).to(x.device))
        return x

    def spectrum(self, u: torch.Tensor, ndim: int) -> torch.Tensor:
        """Return the whole spectrum over the last `ndim` axes; of volumes, half of it."""
        axes = tuple(range(-ndim, 0))
        if ndim < 3:
            return torch.fft.fftn(u, dim=axes)
        if math.prod(u.shape[-3:]) <= PRECISE_VOXELS:
            kind = torch.complex64 if u.dtype == torch.float32 else torch.complex128
            return torch.fft.rfftn(u.double(), dim=axes).to(kind)
        return torch.fft.rfftn(u, dim=axes)

    def prepare(
        self, filters: Sequence[BandFilter] | HarmonicFilter, target: Grid, dtype: np.dtype[Any]
    ) -> BlockStage | HarmonicStage:
        """Lay out filters on the device."""
        if not isinstance(filters, Sequence):
            components = (self._tensor(c.copy()) for c in filters.components(dtype))  # a buffer
            return HarmonicStage(filters, tuple(components))
        shape = filters[0].shape
        stack = np.stack([blocks(band, target) for band in filters])
        touched = np.flatnonzero(stack.any(axis=(0, *range(2, stack.ndim))))
        weights = np.repeat(stack[:, touched, ..., None] / math.prod(shape), 2, axis=-1)
        return BlockStage(
            self._tensor(touched), self._tensor(weights.astype(dtype)), shape, tuple(target)
        )

    def wavelet_modulus(self, u_hat: torch.Tensor, stage: Any, which: slice) -> torch.Tensor:
        """Return ``|u * psi|`` on the decimated grid, ``(batch, parents, filters, *grid)``."""
        if isinstance(stage, HarmonicStage):
            return _harmonic_modulus(u_hat, stage).unsqueeze(2)
        return self.wavelet(u_hat, stage, which).abs()

    def wavelet(self, u_hat: torch.Tensor, stage: BlockStage, which: slice) -> torch.Tensor:
        """Return ``u * psi``, complex, decimated, ``(batch, parents, filters, *grid)``."""
        weights = stage.weights.narrow(0, which.start, which.stop - which.start).unbind(1)
        blocks = [torch.view_as_real(block).unsqueeze(2) for block in _cut(u_hat, stage).unbind(2)]
        z = blocks[0] * weights[0]
        for block, weight in zip(blocks[1:], weights[1:], strict=True):
            z = torch.addcmul(z, block, weight)
        axes = tuple(range(-len(stage.target), 0))
        return torch.fft.ifftn(torch.view_as_complex(z), dim=axes, norm="forward")

    def prepare_joint(
        self, filters: Sequence[BandFilter], target: int, dtype: np.dtype[Any]
    ) -> JointStage:
        """Lay out filters along log-frequency on the device."""
        (n,) = filters[0].shape
        weights = np.stack([blocks(band, (target,)) for band in filters]) / n
        return JointStage(self._tensor(weights.astype(dtype)))

    def joint_modulus(
        self, rows: Sequence[torch.Tensor], stage: JointStage, how: Kept
    ) -> torch.Tensor:
        """Return ``|y * psi|`` along log-frequency, ``(batch, filters, kept rows, time)``."""
        y = torch.cat(list(rows), dim=1).movedim(1, 2)  # (batch, time, rows)
        aliases = tuple(stage.weights.shape[1:])
        y_hat = torch.fft.fft(y, math.prod(aliases)).reshape(*y.shape[:2], 1, *aliases)
        z = (y_hat * stage.weights).sum(dim=3)  # (batch, time, filters, target)
        u = torch.fft.ifft(z, norm="forward").abs()
        return self.average(u, how).permute(0, 2, 3, 1)

    def average(
        self, u: torch.Tensor, how: Kept, u_hat: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Reduce ``(batch, paths, *grid)`` as `how` says."""
        kept: torch.Tensor
        match how:
            case Keep(crop):
                kept = _cropped(u, crop)
            case Mean(crop):
                kept = _cropped(u, crop).mean(dim=tuple(range(-len(crop), 0)), keepdim=True)
            case Lowpass():
                kept = self._lowpass(u, how)
            case PowerSums(powers, crop):
                u = _cropped(u, crop)
                kept = torch.stack([_sum_of_powers(u, power) for power in powers], dim=-1)
            case Samples(factors, where):
                kept = self._samples(u, u_hat, factors, where)
        return kept

    def over(
        self,
        run: Callable[[Tree, torch.Tensor], list[torch.Tensor]],
        tree: Tree,
        signals: torch.Tensor,
        each: int,  # noqa: ARG002 - what is differentiated stays, however it is cut
    ) -> list[torch.Tensor]:
        """Run a transform of ``(batch, *grid)``, of all signals at once."""
        if signals.shape[0] == 0:  # of which no FFT wants to know: one of zeros tells the shapes
            zeros = signals.new_zeros((1, *signals.shape[1:]))
            return [y[:0] for y in run(tree, torch.cat([signals, zeros]))]
        return run(tree, signals)

    def join(self, parts: Sequence[torch.Tensor], order: Any) -> torch.Tensor:
        """Return groups of paths ``(batch, paths, ...)`` as one, of which path i is `order[i]`."""
        return torch.cat(list(parts), dim=1).index_select(1, self._tensor(order))

    def split(self, y: torch.Tensor, axis: int) -> list[torch.Tensor]:
        """Return the entries of one axis."""
        return list(y.unbind(axis))

    def again(self, function: Any, *given: torch.Tensor) -> Any:
        """Call a function and compute it again where derivatives need its inside.

        Transforms of ``torch.func`` keep what they keep: they do not go with it.
        """
        if any(map(torch._C._functorch.is_functorch_wrapped_tensor, given)):
            return function(*given)
        return checkpoint(function, *given, use_reentrant=False, preserve_rng_state=False)

    # --- averages ---

    def _lowpass(self, u: torch.Tensor, how: Lowpass) -> torch.Tensor:
        ndim = len(how.target)
        for axis in range(ndim):
            n = u.shape[axis - ndim]
            windows = len(range(*how.crop[axis].indices(how.target[axis])))
            u = u.movedim(axis - ndim, -1)
            if n * windows <= DENSE:
                u = u @ self._matrix(how, axis, n, u.dtype)
            else:
                u = _cropped(self._decimated(u, how, axis), how.crop[axis : axis + 1])
            u = u.movedim(-1, axis - ndim)
        return u

    def _matrix(self, how: Lowpass, axis: int, n: int, dtype: torch.dtype) -> torch.Tensor:
        """Return the low-pass of n samples along one axis as a matrix ``(n, windows)``."""
        known = self._laid_out.setdefault(how, {})
        if (axis, n, dtype) not in known:
            alone = Lowpass((how.factors[axis],), (how.target[axis],), (how.crop[axis],))
            known[axis, n, dtype] = self._tensor(averages(alone, n).T).to(dtype)
        found: torch.Tensor = known[axis, n, dtype]
        return found

    def _decimated(self, u: torch.Tensor, how: Lowpass, axis: int) -> torch.Tensor:
        """Low-pass and decimate the last axis in Fourier."""
        n, n_out = u.shape[-1], how.target[axis]
        factor = self._tensor(how.factors[axis] * (n_out / n)).to(u.dtype)
        band = torch.fft.rfft(u).narrow(-1, 0, factor.shape[0]) * factor
        out = torch.zeros((*u.shape[:-1], n_out // 2 + 1), dtype=band.dtype, device=u.device)
        for source, to, conjugate in _half_folds(factor.shape[0], n, n_out):
            part = _cropped(band, (source,))
            bins = self._tensor(np.arange(n_out // 2 + 1)[to])
            out = out.index_add(-1, bins, part.conj() if conjugate else part)
        return torch.fft.irfft(out, n_out)

    def _samples(
        self, u: torch.Tensor, u_hat: torch.Tensor | None, factors: Any, where: Any
    ) -> torch.Tensor:
        """Convolve each volume with a Gaussian and keep a decimated map or some points."""
        z, y, x = (self._tensor(factor).to(u.dtype) for factor in factors)
        half = self.spectrum(u, 3) if u_hat is None else u_hat
        smooth = half * (z.reshape(-1, 1, 1) * y.reshape(-1, 1) * x)
        field = torch.fft.irfftn(smooth, u.shape[-3:], dim=(-3, -2, -1))
        if isinstance(where, tuple):
            for axis, step in zip((-3, -2, -1), where, strict=True):
                kept = torch.arange(0, field.shape[axis], step, device=field.device)
                field = field.index_select(axis, kept)
            return field
        points = np.ravel_multi_index(where.T, field.shape[-3:])
        return field.flatten(-3).index_select(-1, self._tensor(points))

    def _tensor(self, array: Any) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


@lru_cache(maxsize=32)
def on(device: torch.device) -> Torch:
    """Return the verbs on a device."""
    return Torch(device)


def device(place: Any) -> torch.device:
    """Return a device, or say that it is not there."""
    try:
        found = torch.device(place)
    except RuntimeError as error:
        raise BackendError(f"torch knows no device {place!r}: {error}") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise BackendError(
            f"{found} is not there: this torch ({torch.__version__}) sees no GPU. Check the "
            "driver, and that torch was installed with CUDA."
        )
    return found


def in_host_memory(x: torch.Tensor) -> bool:
    """Return whether NumPy may compute a tensor's transform."""
    return x.device.type == "cpu" and undisturbed(x)


def undisturbed(x: torch.Tensor) -> bool:
    """Return whether nobody traces or differentiates a tensor."""
    return (
        type(x) in (torch.Tensor, torch.nn.Parameter)
        and not (x.requires_grad and torch.is_grad_enabled())
        and not torch.compiler.is_compiling()
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and torch.autograd.forward_ad.unpack_dual(x).tangent is None
    )


@torch.compiler.disable  # type: ignore[untyped-decorator]
def untraced(function: Any, *given: Any) -> Any:
    """Call what makes filters, which no compiler should look into."""
    return function(*given)


def own_precision(x: torch.Tensor) -> Any:
    """Return the context in which automatic mixed precision leaves a transform alone."""
    if not torch.amp.is_autocast_available(x.device.type):
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def precision_of(x: torch.Tensor) -> np.dtype[Any]:
    """Return the precision of a tensor of float32 or float64."""
    return PRECISIONS[x.dtype]


def device_of(x: torch.Tensor) -> torch.device:
    """Return a tensor's device."""
    return x.device


def from_dlpack(x: Any) -> torch.Tensor:
    """Return an array of another library, in the memory that it has."""
    return torch.utils.dlpack.from_dlpack(x)


def from_host(x: Any, device: torch.device | None = None) -> torch.Tensor:
    """Return an array as a tensor, on the CPU without a copy."""
    return torch.from_numpy(x).to(device)


def to_host(x: torch.Tensor) -> Any:
    """Return a tensor as an array, from the CPU without a copy."""
    return x.detach().cpu().numpy()


def real_tensor(x: torch.Tensor) -> torch.Tensor:
    """Return a tensor of float32 or float64."""
    if x.is_complex() or x.is_quantized or x.is_sparse:
        raise InputTypeError(
            f"The input should be real and dense, but it is a tensor of {x.dtype}, {x.layout}. "
            "Take its real part or its modulus, or convert it first."
        )
    if x.dtype in PRECISIONS:
        return x
    wide = not x.is_floating_point() and x.dtype != torch.bool and x.dtype.itemsize > 2
    return x.to(torch.float64 if wide else torch.float32)


# --- filters -------------------------------------------------------------------------------


def _cut(u_hat: torch.Tensor, stage: BlockStage) -> torch.Tensor:
    """Return the blocks of spectra that filters touch, ``(batch, parents, blocks, *target)``."""
    split = [k for n, m in zip(stage.shape, stage.target, strict=True) for k in (n // m, m)]
    ndim = len(stage.target)
    axes = (0, 1, *range(2, 2 + 2 * ndim, 2), *range(3, 2 + 2 * ndim, 2))
    blocks = u_hat.reshape(*u_hat.shape[:2], *split).permute(axes)
    blocks = blocks.reshape(*u_hat.shape[:2], -1, *stage.target)
    if blocks.shape[2] == stage.blocks.shape[0]:
        return blocks
    return blocks.index_select(2, stage.blocks)


# --- low-pass filters ----------------------------------------------------------------------


@lru_cache(maxsize=256)
def _half_folds(kept: int, n: int, n_out: int) -> tuple[tuple[slice, slice, bool], ...]:
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


def _run(first: int, length: int, step: int) -> slice:
    """Return the slice of `length` indices from `first` on, upwards or downwards."""
    if step > 0:
        return slice(first, first + length)
    stop = first - length
    return slice(first, stop if stop >= 0 else None, -1)


# --- solid harmonics -----------------------------------------------------------------------


def _harmonic_modulus(u_hat: torch.Tensor, stage: HarmonicStage) -> torch.Tensor:
    """Return the root of the sum over m of ``|u * psi_{l,m}|^2``, ``(batch, parents, z, y, x)``.

    Its slope at zero is taken as zero, that of the root's smallest subgradient.
    """
    filters = stage.filters
    total: Any = 0.0
    if filters.real:
        box = _gather(u_hat, filters)
        for weights in stage.components:
            total = total + _pruned_inverse(box * weights, filters).square()
    else:
        whole = _whole_spectrum(u_hat, filters.shape[2])
        for weights in stage.components:
            field = torch.fft.ifftn(_masked(whole, weights, filters), dim=(-3, -2, -1))
            total = total + field.real.square() + field.imag.square()
    return _root(total)


def _cropped(u: torch.Tensor, crop: Sequence[slice]) -> torch.Tensor:
    """Return runs of the last axes."""
    for axis, run in enumerate(crop, -len(crop)):
        kept = range(*run.indices(u.shape[axis]))
        u = u.narrow(axis, kept.start, len(kept))
    return u


def _root(x: torch.Tensor) -> torch.Tensor:
    """Return the square root with derivatives of zero at zero."""
    there = x > 0
    return torch.where(there, torch.where(there, x, 1.0).sqrt(), 0.0)


def _sum_of_powers(u: torch.Tensor, power: float) -> torch.Tensor:
    """Sum a power of each volume in float64, with derivatives of zero where the volume is."""
    there = u > 0
    raised = u if power == 1.0 else torch.where(there, torch.where(there, u, 1.0).pow(power), 0.0)
    return raised.sum(dim=(-3, -2, -1), dtype=torch.float64).to(u.dtype)


def _corners(half_widths: Grid, shape: Grid) -> list[list[tuple[slice, slice]]]:
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


def _gather(u_hat: torch.Tensor, filters: HarmonicFilter) -> torch.Tensor:
    """Return the box of the half spectrum that the filters touch, with the phase ``(-i)^l``."""
    bz, by, bx = filters.half_widths
    box = u_hat.narrow(-1, 0, bx + 1)
    for axis, runs in zip((-3, -2), _corners((bz, by), filters.shape[:2]), strict=True):
        pieces = [box.narrow(axis, grid.start, grid.stop - grid.start) for grid, _ in runs]
        box = torch.cat(pieces, dim=axis)
    return box * (-1j) ** filters.l


def _spread(box: torch.Tensor, axis: int, runs: Any, n: int) -> torch.Tensor:
    """Return lines of n samples, zero outside a box of theirs."""
    if len(runs) == 1 and runs[0][1].stop == n:
        return box
    low = runs[0][1].stop
    shape = list(box.shape)
    shape[axis] = n - box.shape[axis]
    gap = torch.zeros(shape, dtype=box.dtype, device=box.device)
    rest = box.shape[axis] - low
    return torch.cat([box.narrow(axis, 0, low), gap, box.narrow(axis, low, rest)], dim=axis)


def _pruned_inverse(box: torch.Tensor, filters: HarmonicFilter) -> torch.Tensor:
    """Invert a half spectrum that is zero outside `box`, one axis at a time, to a real volume."""
    nz, ny, nx = filters.shape
    for axis, n, runs in zip(
        (-3, -2), (nz, ny), _corners(filters.half_widths[:2], (nz, ny)), strict=True
    ):
        box = torch.fft.ifft(_spread(box, axis, runs, n), dim=axis)
    return torch.fft.irfft(box, nx)


def _whole_spectrum(half: torch.Tensor, nx: int) -> torch.Tensor:
    """Complete the half spectra of real volumes."""
    kept = half.shape[-1]
    mirrored = half.narrow(-1, 1, nx - kept).flip(-3, -2, -1).roll((1, 1), (-3, -2))
    return torch.cat([half, mirrored.conj()], dim=-1)


def _masked(whole: torch.Tensor, weights: torch.Tensor, filters: HarmonicFilter) -> torch.Tensor:
    """Multiply a full spectrum by weights that are given on a box of it."""
    runs = _corners(filters.half_widths, filters.shape)
    for axis, n, some in zip((-3, -2, -1), filters.shape, runs, strict=True):
        weights = _spread(weights, axis, some, n)
    return whole * weights
