"""Solid harmonic wavelets in Fourier, evaluated on the fly from separable factors.

``psi_hat_{l,m}(w) = c_l (-i)^l (2 pi)^{3/2} (|w| s)^l Y_l^m(w / |w|) exp(-|w|^2 s^2 / 2)``

A solid harmonic is a polynomial: in the real basis, ``Re`` or ``Im`` of ``(x + i y)^m`` times a
polynomial in ``z`` and ``rho^2 = x^2 + y^2``. With the separable Gaussian, a filter on a box of
n^3 bins is a sum of at most ``(l - m) / 2 + 1`` products of a vector over z with a plane over
(y, x): nothing of the size of the volume is ever stored.

References
----------
M. Eickenberg, G. Exarchakis, M. Hirn and S. Mallat, Solid harmonic wavelet scattering,
NeurIPS 2017; doi:10.1063/1.5023798.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from scatflow.wavelets.support import Array


class Harmonic(NamedTuple):
    """One real solid harmonic ``K Re or Im (x + i y)^m sum_t coefficient z^a rho^(2 b)``."""

    m: int
    """Order; negative for the imaginary part of ``(x + i y)^|m|``."""
    terms: tuple[tuple[float, int, int], ...]
    """``(coefficient, a, b)`` with the normalisation K inside."""


NYQUIST_EPS = 1e-6
"""Height at the Nyquist frequency, relative to the peak, below which fields count as real."""


PUBLISHED_VOXELS = 2**18
"""Size up to which filters that touch the Nyquist planes carry their definition's rounding.

Such filters were published in single precision, and in sums of roots over nearly empty volumes
that shows: at 5e-6 of the coefficients on 16^3 voxels. Larger ones are exact.
"""


class Parts(NamedTuple):
    """A filter of one degree as sums of products of a column along z and a plane (y, x)."""

    columns: dict[int, Array]
    """By power a of z: ``z^a exp(-z^2 / 2)`` on the bins ``0 ... b, -b ... -1``."""
    components: list[list[tuple[int, Array]]]
    """For each component, what multiplies which power; ``(y, x)`` with ``0 ... b`` along x."""


def radial_constant(l: int) -> float:
    """Return ``c_l (2 pi)^{3/2}``, which gives order-1 coefficients of a Gaussian as ``k^l``.

    The wavelet of degree 0 is a plain Gaussian without a constant.
    """
    if l % 2 == 0:
        double_factorial = math.prod(range(l + 1, 0, -2))
        c = 1.0 / (2.0 * math.pi * math.sqrt(l + 0.5) * double_factorial)
    else:
        factorial = math.factorial((l + 1) // 2)
        c = 1.0 / (2.0 ** ((l + 3) / 2) * math.sqrt(math.pi * (2 * l + 1)) * factorial)
    return c * math.pow(2.0 * math.pi, 1.5)


@lru_cache(maxsize=1024)
def harmonic(l: int, m: int) -> Harmonic:
    """Return the real solid harmonic ``r^l Y`` of degree `l` and order `m`.

    The real harmonics ``-l <= m <= l`` are a unitary change of basis of the complex ones, so the
    sum of squared moduli over m is the same, bin by bin.
    """
    order = abs(m)
    norm = math.sqrt(
        (2 * l + 1) / (4.0 * math.pi) * math.factorial(l - order) / math.factorial(l + order)
    )
    if order > 0:
        norm *= math.sqrt(2.0)
    collected: dict[tuple[int, int], float] = {}
    for k in range((l - order) // 2 + 1):
        power = l - 2 * k - order
        legendre = (
            (-1) ** k
            * math.comb(l, k)
            * math.comb(2 * l - 2 * k, l)
            * math.perm(l - 2 * k, order)
            / 2.0**l
        )
        for q in range(k + 1):
            key = (power + 2 * (k - q), q)
            collected[key] = collected.get(key, 0.0) + norm * legendre * math.comb(k, q)
    terms = tuple((c, a, b) for (a, b), c in collected.items() if c != 0.0)
    return Harmonic(m, terms)


@lru_cache(maxsize=1024)
def cutoff(l: int, eps: float) -> float:
    """Return ``|w| s`` where ``(|w| s)^l exp(-(|w| s)^2 / 2)`` falls below `eps` of its peak."""
    peak = math.sqrt(l)
    log_peak = l * math.log(peak) - peak**2 / 2.0 if l else 0.0
    low, high = peak, peak + 40.0
    for _ in range(60):
        middle = (low + high) / 2.0
        value = (l * math.log(middle) if l else 0.0) - middle**2 / 2.0
        low, high = (middle, high) if value > log_peak + math.log(eps) else (low, middle)
    return high


@dataclass(frozen=True, eq=False)
class SolidHarmonic:
    """All filters of one degree and scale on one periodic grid.

    The modulus of the transform is the root of the sum over :meth:`components` of the squared
    moduli, which is invariant to rotations. With ``rotation_covariant=False`` there is a single
    complex component, the harmonic of order ``m = -l``.
    """

    l: int
    """Degree."""
    s: float
    """Scale, voxels."""
    shape: tuple[int, int, int]
    """Grid, axes (z, y, x)."""
    rotation_covariant: bool
    eps: float
    """Height, relative to the radial profile's peak, below which the filter counts as zero."""

    @property
    def half_widths(self) -> tuple[int, int, int]:
        """Largest bin, to each side of zero, that the filter touches along each axis."""
        radius = cutoff(self.l, self.eps) / self.s / (2.0 * math.pi)
        z, y, x = (min(math.floor(radius * n), n // 2) for n in self.shape)
        return z, y, x

    @property
    def touches_nyquist(self) -> bool:
        """Whether the filter counts on a plane of bins that are their own mirror image.

        Such bins make the fields complex. Below ``NYQUIST_EPS`` of the peak the effect on the
        coefficients is under 1e-9, a second-order one.
        """
        radius = cutoff(self.l, max(self.eps, NYQUIST_EPS)) / self.s / (2.0 * math.pi)
        return radius >= 0.5 and any(n % 2 == 0 for n in self.shape)

    @property
    def published(self) -> bool:
        """Whether the filter is the published one to the last bit, not the exact one."""
        return self.touches_nyquist and math.prod(self.shape) <= PUBLISHED_VOXELS

    @property
    def real(self) -> bool:
        """Whether the fields of real volumes are real, so that half spectra suffice."""
        return self.l == 0 or (self.rotation_covariant and not self.touches_nyquist)

    @property
    def count(self) -> int:
        """Number of components."""
        return 2 * self.l + 1 if self.rotation_covariant else 1

    def components(self, dtype: np.dtype[np.floating]) -> Iterator[np.ndarray]:
        """Yield the filter ``c_l (|w| s)^l Y exp(-|w|^2 s^2 / 2)`` of each component.

        Along each axis the bins run ``0 ... b, -b ... -1``, with ``b`` the half width. Where
        fields are :attr:`real`, these are real harmonics on the half ``0 ... b`` of the x axis,
        elsewhere (filters that touch the Nyquist planes, ``rotation_covariant=False``) real or
        complex harmonics on the whole axis.

        Parameters
        ----------
        dtype : dtype
            float32 or float64, of the arrays yielded.

        Yields
        ------
        ndarray
            Without the phase ``(-i)^l``.
        """
        if self.published:
            return self._as_published(dtype)
        return self._separable(dtype)

    def _separable(self, dtype: np.dtype[np.floating]) -> Iterator[np.ndarray]:
        columns, components = self.parts(half=self.real)
        if self.l > 0 and not self.rotation_covariant:
            real, imaginary = components
            components = [[(0, real[0][1] - 1j * imaginary[0][1])]]
        for terms in components:
            kind = np.result_type(dtype, 1j) if np.iscomplexobj(terms[0][1]) else dtype
            yield _sum(
                columns[a].astype(dtype)[:, None, None] * plane.astype(kind) for a, plane in terms
            )

    def parts(self, half: bool = True) -> Parts:
        """Return the exact real harmonics, separated; without rotations, cosine and sine of one.

        With `half` the planes have the half ``0 ... b`` of the x axis, else all of it.
        """
        z, y, x = (
            frequencies(b, n) * self.s for b, n in zip(self.half_widths, self.shape, strict=True)
        )
        if half:
            x = self.s * 2.0 * np.pi * np.arange(self.half_widths[2] + 1) / self.shape[2]
        return separate(self.l, self.rotation_covariant, z, y, x)

    def edges(self) -> list[tuple[Array, Array, Array]]:
        """Return each real harmonic on the planes of Nyquist bins along z, y and x.

        Axes ``(y, x)``, ``(z, x)`` and ``(z, y)``, in the order of an FFT's bins.
        """
        z, y, x = (2.0 * np.pi * np.fft.fftfreq(n) * self.s for n in self.shape)
        nyquist = np.array([-np.pi * self.s])
        grids = [
            separate(self.l, self.rotation_covariant, *axes)
            for axes in ((nyquist, y, x), (z, nyquist, x), (z, y, nyquist))
        ]
        dense = [
            [
                np.squeeze(sum(parts.columns[a][:, None, None] * plane for a, plane in terms), axis)
                for terms in parts.components
            ]
            for axis, parts in enumerate(grids)
        ]
        return list(zip(*dense, strict=True))

    def _as_published(self, dtype: np.dtype[np.floating]) -> Iterator[np.ndarray]:
        """Yield filters on a grid of spherical coordinates in float32, stored in complex64.

        A filter that reaches the Nyquist planes is not small at the edge of the grid, and its
        definition's single precision shows in sums of roots over nearly empty volumes (at 5e-6).
        """
        z, y, x = (
            frequencies(b, n).astype(np.float32)
            for b, n in zip(self.half_widths, self.shape, strict=True)
        )
        z, y, x = z[:, None, None], y[:, None], x[: self.half_widths[2] + 1] if self.real else x
        radius = np.sqrt(z**2 + y**2 + x**2) * np.float32(self.s)
        profile = np.exp(-(radius**2) / np.float32(2.0))
        if self.l == 0:
            yield profile.astype(dtype)
            return
        profile = profile * radius**self.l * np.float32(radial_constant(self.l))
        polar = np.arctan2(z, np.sqrt(y**2 + x**2)) + np.float32(np.pi / 2.0)
        cos, sin = np.cos(polar), np.sin(polar)
        del radius, polar
        turn = np.exp(-1j * np.arctan2(y, x).astype(np.float64)).astype(np.complex64)
        for m in range(0 if self.rotation_covariant else self.l, self.l + 1):
            latitude = _sum(
                np.float32(coefficient) * cos**a * sin ** (2 * b + m)
                for coefficient, a, b in harmonic(self.l, m).terms
            )
            if m > 0:  # the complex harmonics share what the two real ones have
                latitude /= math.sqrt(2.0)
            latitude *= profile
            factor = (latitude * turn**m).astype(np.result_type(dtype, 1j), copy=False)
            yield factor
            if m > 0 and self.rotation_covariant:
                yield np.conj(factor, out=factor)


def separate(l: int, covariant: bool, z: Array, y: Array, x: Array) -> Parts:
    """Separate the filters of degree `l` at frequencies given in units of the scale."""
    envelope = np.exp(-(z**2) / 2.0)
    plane = np.exp(-(y**2) / 2.0)[:, None] * np.exp(-(x**2) / 2.0)
    if l == 0:
        return Parts({0: envelope}, [[(0, plane)]])
    plane *= radial_constant(l)
    angle = x + 1j * y[:, None]
    rho2 = angle.real**2 + angle.imag**2
    components = []
    for m in range(-l, l + 1) if covariant else (l, -l):
        power = angle ** abs(m)
        factor = plane * (power.imag if m < 0 else power.real)
        if not covariant:
            factor /= math.sqrt(2.0)  # of one complex harmonic, not of two
        by_power: dict[int, Array] = {}
        for coefficient, a, b in harmonic(l, m).terms:
            by_power[a] = by_power.get(a, 0.0) + coefficient * rho2**b
        components.append([(a, factor * polynomial) for a, polynomial in by_power.items()])
    powers = {a for terms in components for a, _ in terms}
    return Parts({a: z**a * envelope for a in powers}, components)


def _sum(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Add up arrays in place."""
    remaining = iter(arrays)
    total = next(remaining)
    for array in remaining:
        total += array
    return total


def frequencies(b: int, n: int) -> Array:
    """Return the frequencies of bins ``0 ... b, -b ... -1`` of `n`, radians/voxel."""
    k = np.concatenate([np.arange(b + 1), np.arange(-b, 0)]).astype(np.float64)
    if 2 * b == n and n > 1:
        k = np.concatenate([np.arange(b), np.arange(-b, 0)]).astype(np.float64)
    return 2.0 * np.pi * k / n


def gaussian_factors(shape: tuple[int, int, int], s: float) -> tuple[Array, Array, Array]:
    """Return the three factors of ``exp(-|w|^2 s^2 / 2)``; along x for the half spectrum."""
    z, y, x = shape
    w = (
        2 * np.pi * np.fft.fftfreq(z),
        2 * np.pi * np.fft.fftfreq(y),
        2 * np.pi * np.fft.rfftfreq(x),
    )
    a, b, c = (np.exp(-((axis * s) ** 2) / 2.0) for axis in w)
    return a, b, c
