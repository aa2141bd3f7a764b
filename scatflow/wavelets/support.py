"""Effective supports: which frequency bins a filter touches, and how far it reaches in time.

A filter is stored as a :class:`Band`, the values inside one cyclic box of the frequency grid;
everything outside is below a stated fraction of its peak and counts as zero.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NEGLIGIBLE = {"float32": 1e-8, "float64": 1e-16}
"""Fraction of its peak below which a filter counts as zero, by the precision of the signals."""


@dataclass(frozen=True, eq=False)
class Band:
    """The part of a real filter in Fourier that is not negligible.

    ``values[i0, i1, ...]`` sits on bin ``(starts[0] + i0) % shape[0], ...`` of a grid of `shape`.
    """

    starts: tuple[int, ...]
    values: Array
    shape: tuple[int, ...]

    def dense(self) -> Array:
        """Return the filter on its whole grid, zero outside the band."""
        out = np.zeros(self.shape)
        bins = [
            (start + np.arange(width)) % n
            for start, width, n in zip(self.starts, self.values.shape, self.shape, strict=True)
        ]
        out[bins[0] if len(bins) == 1 else np.ix_(*bins)] = self.values
        return out

    def half(self) -> Array:
        """Return a 1D filter's first ``n // 2 + 1`` bins, zero outside the band."""
        (n,), (start,), width = self.shape, self.starts, self.values.size
        if start == 0 or width >= n:
            return self.dense()[: n // 2 + 1]
        out = np.zeros(n // 2 + 1)
        for first in (start, start - n):  # as it lies, and what wraps around
            low, high = max(first, 0), min(first + width, n // 2 + 1)
            if low < high:
                out[low:high] = self.values[low - first : high - first]
        return out

    def scaled(self, factor: float) -> Band:
        """Return the band with all values multiplied by `factor`."""
        return Band(self.starts, self.values * factor, self.shape)


def mirrored(band: Band) -> Band:
    """Return a 1D filter with the opposite frequencies."""
    (n,) = band.shape
    start = (1 - band.starts[0] - band.values.size) % n
    return Band((start,), band.values[::-1].copy(), band.shape)


def cyclic_arc(significant: NDArray[np.bool_]) -> tuple[int, int]:
    """Return start and length of the shortest cyclic arc that holds every True.

    Examples
    --------
    >>> import numpy as np
    >>> cyclic_arc(np.array([True, True, False, False, False, True]))
    (5, 3)
    """
    where = np.flatnonzero(significant)
    n = significant.size
    if where.size == 0:
        return 0, 1
    gaps = np.diff(where, append=where[0] + n)
    widest = int(np.argmax(gaps))
    return int(where[(widest + 1) % where.size]), int(n - gaps[widest] + 1)


def band_of(dense: Array, eps: float) -> Band:
    """Cut the smallest cyclic box that holds every value above `eps` times the peak."""
    magnitude = np.abs(dense)
    profiles = [
        magnitude.max(axis=tuple(a for a in range(dense.ndim) if a != axis))
        for axis in range(dense.ndim)
    ]
    starts, indices = [], []
    for profile, n in zip(profiles, dense.shape, strict=True):
        start, width = cyclic_arc(profile > eps * profile.max())
        starts.append(start)
        indices.append((start + np.arange(width)) % n)
    return Band(tuple(starts), dense[np.ix_(*indices)], dense.shape)


def trim(band: Band, eps: float) -> Band:
    """Drop the ends of a 1D band that stay at or below `eps` times its peak."""
    magnitude = np.abs(band.values)
    where = np.flatnonzero(magnitude > eps * magnitude.max())
    first, last = (int(where[0]), int(where[-1]) + 1) if where.size else (0, 1)
    start = (band.starts[0] + first) % band.shape[0]
    return Band((start,), band.values[first:last], band.shape)


def fold_1d(band: Band, n: int) -> Band:
    """Add up the aliases of a 1D band on a grid of `n` bins, `n` dividing the band's grid.

    This is the filter as a signal of ``shape / n`` times fewer samples sees it.
    """
    start, width = band.starts[0] % n, band.values.size
    if width <= n:
        return Band((start,), band.values, (n,))
    padded: Array = np.zeros(math.ceil(width / n) * n)
    padded[:width] = band.values
    return Band((start,), padded.reshape(-1, n).sum(axis=0), (n,))


def gaussian_reach(sigmas: tuple[float, ...], tolerance: float) -> float:
    """Return how many samples a cascade of Gaussian-enveloped filters reaches to one side.

    An influence that travels a distance through several filters is weakest-attenuated when it
    splits the way in proportion to their variances, so the variances in time add:
    ``reach = sqrt(-2 ln tolerance) sqrt(sum_i (2 pi sigma_i)**-2)``.

    Parameters
    ----------
    sigmas : tuple of float
        Standard deviations in Fourier, cycles/sample.
    tolerance : float
        Height of the envelope, relative to its peak, at which it counts as ended.

    Returns
    -------
    float
        Samples.
    """
    variance = sum((2.0 * math.pi * sigma) ** -2 for sigma in sigmas)
    return math.sqrt(-2.0 * math.log(tolerance) * variance)


ROUNDING = 1e-15
"""Fraction of a filter's peak in space below which a measured envelope is rounding, not filter."""


def envelope_1d(band: Band, step: int) -> Array:
    """Return the modulus in time of a 1D filter every `step` samples, its centre in the middle.

    Moduli are as smooth as a band is narrow; of a band that is not, the largest of each `step`
    samples is taken.

    Parameters
    ----------
    band : Band
        On a grid of N bins.
    step : int
        A divisor of ``N / 2``.

    Returns
    -------
    ndarray
        ``(N / step - 1,)``.
    """
    (n,) = band.shape
    if band.values.size <= n // step:
        modulus = np.abs(np.fft.ifft(band.values, n // step))
    else:
        every = np.roll(np.abs(np.fft.ifft(band.values, n)), step // 2)
        modulus = every.reshape(-1, step).max(axis=1)
    return without_rounding(np.fft.fftshift(modulus)[1:])


def without_rounding(envelope: Array) -> Array:
    """Return a measured envelope with zeros where it is but rounding."""
    return np.where(envelope > ROUNDING * envelope.max(), envelope, 0.0)


def joint_reach(envelopes: Sequence[Array], tolerance: float) -> float:
    """Return how far a cascade of filters reaches to one side, by their measured envelopes.

    A modulus changes by no more than what it is taken of, so that the influence of a sample is
    bounded by the convolution of the filters' moduli.

    Parameters
    ----------
    envelopes : sequence of ndarray
        Moduli of the filters in space, each of an odd length with the centre in the middle.
    tolerance : float
        Height of the convolution, relative to its peak, at which it counts as ended.

    Returns
    -------
    float
        In steps of the envelopes.
    """
    joint = functools.reduce(np.convolve, envelopes)
    centre = joint.size // 2
    height = np.maximum(joint[centre:], joint[centre::-1]) / joint.max()
    last = int(np.flatnonzero(height > tolerance)[-1])
    after = height[last + 1] if last + 1 < height.size else 0.0
    if after <= 0.0:
        return float(last + 1)
    return last + math.log(height[last] / tolerance) / math.log(height[last] / after)
