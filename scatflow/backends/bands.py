"""How stored filters are laid out for the kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scatflow.backends import kernels
from scatflow.backends.protocol import BandFilter, Grid, Lowpass

Array = NDArray[Any]

SPAN_EPS = {"float32": 1e-7, "float64": 1e-16}
"""Height, relative to a filter's peak, below which the ends of its rows count as zero."""


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


@dataclass(frozen=True, eq=False)
class _Box:
    """A filter inside a cyclic box."""

    starts: Grid
    values: NDArray[np.float64]
    shape: Grid


def lay_out(
    filters: Sequence[BandFilter], target: Grid, dtype: np.dtype[Any], half: bool = True
) -> BandStage:
    """Cut filters into rows' spans, with the decimation's mean and the FFT's 1/N inside.

    They are for half spectra, or else for whole ones.
    """
    ends, pieces, weights, used = [0], [], [], 0
    for band in filters:
        some, w = _cut(_towards_the_half(band) if half else band, target, dtype, half)
        some[:, 3] += used
        used += w.size
        pieces.append(some)
        weights.append(w)
        ends.append(ends[-1] + len(some))
    return BandStage(
        np.array(ends, np.int64), np.concatenate(pieces), np.concatenate(weights), target
    )


def _cut(band: BandFilter, target: Grid, dtype: np.dtype[Any], half: bool) -> tuple[Array, Array]:
    values = band.values / math.prod(band.shape)
    starts, shape = band.starts, band.shape
    if len(target) == 1:
        values, starts, shape, target = values[None], (0, *starts), (1, *shape), (1, *target)
    kept = shape[1] // 2 + 1 if half else shape[1]
    pieces, weights = kernels.cut_rows(values, starts, shape, target, SPAN_EPS[dtype.name], kept)
    return pieces, weights.astype(dtype)


def _towards_the_half(band: BandFilter) -> BandFilter:
    """Return a filter or its mirror image, whichever lies more in the half spectrum.

    The mirror image gives the conjugate field of a real signal, hence the same modulus, and the
    bins outside the half are the slower ones to read.
    """
    n, width = band.shape[-1], band.values.shape[-1]
    outside = (band.starts[-1] + np.arange(width)) % n > n // 2
    mass = np.abs(band.values).reshape(-1, width).sum(axis=0)
    if mass[outside].sum() <= mass.sum() / 2:
        return band
    starts = tuple(
        (1 - start - w) % n
        for start, w, n in zip(band.starts, band.values.shape, band.shape, strict=True)
    )
    return _Box(starts, np.flip(band.values), band.shape)


@lru_cache(maxsize=512)
def lowpass(how: Lowpass, shape: Grid, dtype: np.dtype[Any], half: bool = True) -> BandStage:
    """Lay out a low-pass for moduli on a grid of `shape`."""
    starts, factors = [], []
    for factor, n in zip(how.factors, shape, strict=True):
        reach = factor.size - 1
        mirrored = factor[1 : reach if 2 * reach == n else reach + 1]  # n/2 is its own mirror image
        starts.append(-mirrored.size % n)
        factors.append(np.concatenate([mirrored[::-1], factor]))
    values = factors[0] if len(shape) == 1 else np.multiply.outer(factors[0], factors[1])
    return lay_out([_Box(tuple(starts), values, shape)], how.target, dtype, half)
