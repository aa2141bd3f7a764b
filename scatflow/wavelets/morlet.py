"""Morlet wavelets and Gaussian low-pass filters in Fourier, in one and two dimensions.

References
----------
J. Andén and S. Mallat, Deep scattering spectrum, IEEE Trans. Signal Process. 62 (2014),
doi:10.1109/TSP.2014.2326991.
J. Bruna and S. Mallat, Invariant scattering convolution networks, IEEE Trans. Pattern Anal.
Mach. Intell. 35 (2013), doi:10.1109/TPAMI.2012.230.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from scatflow.wavelets.support import Array, Band, mirrored

REACH = 8.8
"""Standard deviations after which a Gaussian is below the rounding of float64 (1.5e-17)."""

NO_CORRECTION = 1e-34
"""Height at zero below which a wavelet's correction is lost in the rounding of its band, which ends
at 1.5e-17."""

SMALL_CORRECTION = 0.06
"""Height at zero below which a series gives a wavelet's norm."""

CENTRE = 2.4
"""Centre, in bandwidths, above which the height at zero is less."""

LEAST_WIDTH = 0.3
"""Bandwidth, in bins, of the longest wavelets that fit into signals.

Gaussians of longer ones fall so far within a bin that the exponential of ``backends.morlets`` no
longer holds.
"""


# --- one dimension -------------------------------------------------------------------------


def _periods(sigma: float) -> int:
    """Return how many periods of the frequency axis a Gaussian is summed over, to each side."""
    return min(math.ceil(math.sqrt(-2.0 * sigma**2 * math.log(1e-7)) + 1.0), 5)


LOST = 40.0
"""-ln of the ratio below which a term is lost in the rounding of a larger one: 2**-54 and some."""


def _gaussian(f: Array, xi: float, sigma: float, periods: int) -> Array:
    """Sum ``exp(-(f + p - xi)^2 / (2 sigma^2))`` over the periods ``|p| < periods``.

    Frequencies ascend. Each period's Gaussian is evaluated where it counts beside its neighbour's.
    """
    if periods == 1:
        g = f - xi
        g *= g
        g /= -2.0 * sigma * sigma
        return np.exp(g, out=g)
    total, some = np.zeros_like(f), np.empty_like(f)
    half_width = 0.5 + LOST * sigma**2
    for p in range(1 - periods, periods):
        low, high = xi - p - half_width, xi - p + half_width
        first = int(f.searchsorted(low)) if p < periods - 1 else 0
        last = int(f.searchsorted(high, "right")) if p > 1 - periods else f.size
        if first < last:
            g = some[first:last]
            np.add(f[first:last], p - xi, out=g)
            g *= g
            g /= -2.0 * sigma**2
            np.exp(g, out=g)
            total[first:last] += g
    return total


def morlet_1d(N: int, xi: float, sigma: float) -> Band:
    """Evaluate a Morlet wavelet of unit L1 norm in time, in Fourier.

    ``psi_hat = g - (g(0) / g0(0)) g0``, with `g` the Gaussian around `xi` and `g0` the same around
    0, both periodic with the sampling rate: exactly zero mean.

    Parameters
    ----------
    N : int
        Samples of the signal it is applied to.
    xi, sigma : float
        Centre frequency and bandwidth, cycles/sample. Wavelets of negative frequencies are the
        mirror images of positive ones, but for what so few periods leave out of wide ones: 2e-5.

    Returns
    -------
    Band
        float64; zero outside to the rounding of float64.
    """
    correction, centre = _height(xi, sigma), abs(xi)
    first, last = _bins(N, centre, sigma)
    if last - first + 1 >= N:
        if xi >= 0 and (h := _samples_of_a_wide_morlet(N, xi, sigma)) is not None:
            return Band((0,), scipy.fft.hfft(h, N), (N,))
        f = np.arange(N) / N
        periods = _periods(sigma)
        g, g0 = _gaussian(f, xi, sigma, periods), _gaussian(f, 0.0, sigma, periods)
        first, values = 0, g - (g[0] / g0[0]) * g0
    elif xi < 0:
        return mirrored(morlet_1d(N, -xi, sigma))
    else:
        f = np.arange(first, last + 1) / N
        values = _narrow_morlet(f, xi, sigma, correction)
        if _has_ended(N, sigma, correction):
            return Band((first % N,), values / _norm_of_a_morlet(correction), (N,))
    band = Band((first % N,), values, (N,))
    return band.scaled(1.0 / l1_norm(band))


def _has_few_samples(N: int, sigma: float) -> bool:
    """Return whether a Gaussian ends within the signal, and so few periods are left out of it."""
    last = math.ceil(REACH / (2.0 * math.pi * sigma))
    left_out = math.exp(-((_periods(sigma) - 1) ** 2) / (2.0 * sigma**2))
    return 2 * last + 1 <= N and left_out <= 1e-11


def _samples_of_a_wide_morlet(N: int, xi: float, sigma: float) -> NDArray[np.complex128] | None:
    """Return the half in time of a wavelet that fills the period; None if it has many samples.

    A Gaussian that repeats with the sampling rate has the samples of one in time (Poisson), and so
    few of them that the sum of their moduli is the norm.
    """
    if not _has_few_samples(N, sigma):
        return None
    t = np.arange(math.ceil(REACH / (2.0 * math.pi * sigma)) + 1)
    envelope = np.exp(-2.0 * (math.pi * sigma * t) ** 2)
    envelope[0] = 0.5  # the other half of time mirrors this one
    h: NDArray[np.complex128] = envelope * np.exp(2j * math.pi * xi * t)
    h -= h.real.sum() / envelope.sum() * envelope
    h /= 2.0 * np.abs(h).sum()
    h[0] *= 2.0
    return h


Bands = Sequence[tuple[int, int, int]]
"""First bin of each wavelet; where its values begin, and how many there are."""

Evaluate = Callable[[int, Sequence[tuple[float, float]], Bands, Array], None]
"""What writes the values of wavelets ``(xi, sigma)`` of N samples on their bands, at one go."""


def morlets_1d(
    N: int, wavelets: Sequence[tuple[float, float]], evaluate: Evaluate | None = None
) -> tuple[list[int], list[int], Array]:
    """Evaluate Morlet wavelets ``(xi, sigma)``, to rounding as :func:`morlet_1d` does each.

    Parameters
    ----------
    N : int
        Samples of the signal they are applied to.
    wavelets : sequence of tuple
        `xi` and `sigma` of each, cycles/sample.
    evaluate : callable, optional
        Is given those that are :func:`usual`.

    Returns
    -------
    firsts : list of int
        First bin of each.
    ends : list of int
        Where the values of each begin, and where the last ones end.
    values : ndarray
    """
    bins = [_bins(N, abs(xi), sigma) for xi, sigma in wavelets]
    sizes = [min(last - first + 1, N) for first, last in bins]
    firsts = [0 if size == N else first for (first, _), size in zip(bins, sizes, strict=True)]
    ends = list(itertools.accumulate(sizes, initial=0))
    values: Array = np.empty(ends[-1])
    given = []
    for i, (xi, sigma) in enumerate(wavelets):
        if evaluate is not None and usual(N, xi, sigma, sizes[i]):
            given.append(i)
        else:
            band = morlet_1d(N, xi, sigma)
            firsts[i], values[ends[i] : ends[i + 1]] = band.starts[0], band.values
    if evaluate is not None and given:
        bands = [(firsts[i], ends[i], sizes[i]) for i in given]
        evaluate(N, [wavelets[i] for i in given], bands, values)
    return [first % N for first in firsts], ends, values


def usual(N: int, xi: float, sigma: float, size: int) -> bool:
    """Return whether a wavelet of so many bins is as those of most banks are.

    If narrower than the period, its frequency is positive, its correction small and its Gaussian
    more than a bin wide. If not, it has few samples in time and counts in few periods.
    """
    if size < N:
        return xi > CENTRE * sigma and sigma * N > LEAST_WIDTH
    return xi >= 0 and _has_few_samples(N, sigma)


def _height(xi: float, sigma: float) -> float:
    """Return the height at zero of a Gaussian in Fourier."""
    return math.exp(-xi * xi / (2.0 * sigma * sigma))


def _bins(N: int, centre: float, sigma: float) -> tuple[int, int]:
    """Return the first and the last bin where a wavelet is not zero."""
    low = centre - REACH * sigma if centre >= REACH * sigma else -REACH * sigma
    return math.floor(N * low), math.ceil(N * (centre + REACH * sigma))


def _has_ended(N: int, sigma: float, correction: float) -> bool:
    """Return whether a wavelet's norm is known: it has ended where the next period begins."""
    return math.pi * sigma * N > REACH and correction < SMALL_CORRECTION


def _narrow_morlet(f: Array, xi: float, sigma: float, correction: float) -> Array:
    """Evaluate a wavelet whose band is narrower than the period, without its norm."""
    values = _gaussian(f, xi, sigma, 1)
    if correction > NO_CORRECTION:
        around_0 = _gaussian(f, 0.0, sigma, 1)
        around_0 *= correction
        values -= around_0
    return values


UNIT_NORM = 1e-9
"""Height at zero below which a wavelet's norm is one: its square is lost beside one."""

_ROOT = (1.0, 1 / 2, -1 / 8, 1 / 16, -5 / 128, 7 / 256, -21 / 1024, 33 / 2048)
"""Binomial coefficients of 1/2."""

_PRODUCTS = tuple(tuple(_ROOT[n] * _ROOT[n + k] for n in range(5)) for k in range(4))


def _norm_of_a_morlet(c: float) -> float:
    """Return the L1 norm of ``g(t) |exp(2 pi i xi t) - c|``, with `g` a Gaussian of unit mass.

    In a signal longer than the wavelet. `c` is the value at `xi` of the Gaussian in Fourier around
    0, hence at ``k xi`` it is ``c**(k**2)``, which weighs the k-th Fourier coefficient of
    ``|exp(i a) - c|``: ``sum_n B(n) B(n + k) (-c)**k c**(2 n)`` with B(n) the binomial coefficients
    of 1/2. Below :data:`SMALL_CORRECTION`, these terms give all digits.
    """
    if c < UNIT_NORM:
        return 1.0
    powers = [c ** (2 * n) for n in range(5)]
    total = 0.0
    for k, products in enumerate(_PRODUCTS):
        term = sum(map(operator.mul, products, powers)) * (-c) ** k * c ** (k * k)
        total += term if k == 0 else 2 * term
    return total


def l1_norm(band: Band) -> float:
    """Return the L1 norm in time of a 1D filter given in Fourier.

    ``|psi(t)|`` is as smooth as the band is narrow, so its sum over all N samples equals, to
    rounding, a sum over twice as many equidistant points as the band has bins; shifting the band
    to zero does not change the modulus. A filter longer than the signal overlaps itself and has
    kinks where it nearly vanishes: 2**15 points at least keep that error below 1e-9.
    """
    (N,) = band.shape
    points = min(N, max(int(scipy.fft.next_fast_len(2 * band.values.size)), 2**15))
    # The filter is real in Fourier, so its second half in time mirrors the first.
    half = np.abs(scipy.fft.rfft(band.values, points, norm="forward"))
    once = half[0] + (half[-1] if points % 2 == 0 else 0.0)
    return float(2.0 * half.sum() - once)


def lowpass_1d(N: int, sigma: float) -> Band:
    """Evaluate the Gaussian low-pass filter of unit mean, in Fourier (see :func:`morlet_1d`)."""
    reach = math.ceil(N * REACH * sigma)
    if 2 * reach + 1 >= N:
        values = _gaussian(np.arange(N) / N, 0.0, sigma, _periods(sigma))
        return Band((0,), values / values[0], (N,))
    values = _gaussian(np.arange(-reach, reach + 1) / N, 0.0, sigma, 1)
    return Band((-reach % N,), values, (N,))


def lowpass_support(N: int, sigma: float) -> int:
    """Return the half support of the low-pass filter on `N` samples: all but 1e-3 of its mass.

    At most ``N // 2``, when the filter does not fit into the signal.
    """
    half = lowpass_1d(N, sigma).half()
    h = np.abs(scipy.fft.irfft(half, N))[: N // 2]
    residual = np.cumsum(h[::-1])[::-1]
    within = np.flatnonzero(residual <= 1e-3)
    return int(within[0]) + 1 if within.size else N // 2


# --- two dimensions ------------------------------------------------------------------------


def _fold_window(window: np.ndarray, first: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """Add windows whose corner is at `first` onto the periodic grid of `shape`, the last axes."""
    out = np.zeros((*window.shape[:-2], *shape), dtype=window.dtype)
    spans = []
    for start, width, n in zip(first, window.shape[-2:], shape, strict=True):
        cuts = sorted({start, start + width, *range((start // n + 1) * n, start + width, n)})
        spans.append([(a - start, b - start, a % n) for a, b in itertools.pairwise(cuts)])
    for a, b, u in spans[0]:
        for c, d, v in spans[1]:
            out[..., u : u + b - a, v : v + d - c] += window[..., a:b, c:d]
    return out


def _grids(
    shape: tuple[int, int], sigma: float, theta: float, slant: float
) -> tuple[Array, Array, Array]:
    """Return rows u, columns v and the envelope ``exp(-(u,v) C (u,v)^T)`` where it is not zero.

    ``C = R(theta) diag(1, slant^2) R(theta)^T / (2 sigma^2)``, on the five periods -2 ... 2.
    """
    cos, sin = math.cos(theta), math.sin(theta)
    axes = []
    for n, along, across in zip(shape, (cos, sin), (sin, cos), strict=True):
        reach = math.ceil(REACH * sigma * math.hypot(along, across / slant))
        axes.append(np.arange(max(-reach, -2 * n), min(reach + 1, 3 * n), dtype=np.float64))
    u, v = axes
    a, b, c = (
        (cos**2 + slant**2 * sin**2),
        cos * sin * (1.0 - slant**2),
        (sin**2 + slant**2 * cos**2),
    )
    exponent = (a * u**2)[:, None] + (2.0 * b * u)[:, None] * v + c * v**2
    return u, v, np.exp(exponent / (-2.0 * sigma**2))


def gabor_norm(sigma: float, slant: float) -> float:
    """Return the factor of a 2D Gabor: ScatNet's ``1 / (2 * 3.1415 sigma^2 / slant)``.

    The value of pi is theirs; every published coefficient carries it.
    """
    return 1.0 / (2.0 * 3.1415 * sigma**2 / slant)


def morlet_2d(shape: tuple[int, int], sigma: float, theta: float, xi: float, slant: float) -> Array:
    """Evaluate a 2D Morlet wavelet on a periodic grid, in Fourier.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns of the (padded) image.
    sigma : float
        Standard deviation of the envelope along the wave vector, pixels.
    theta : float
        Angle of the wave vector from the rows' axis, radians.
    xi : float
        Length of the wave vector, radians/pixel.
    slant : float
        Ratio of the envelope's width along the wave vector to that across it.

    Returns
    -------
    ndarray
        Real part of the DFT, float64, of `shape`.
    """
    u, v, envelope = _grids(shape, sigma, theta, slant)
    wave_u = np.exp(1j * xi * math.cos(theta) * u)
    wave_v = np.exp(1j * xi * math.sin(theta) * v)
    gabor = envelope * (wave_u[:, None] * wave_v)
    psi = gabor - (gabor.sum() / envelope.sum()) * envelope
    folded = _fold_window(psi, (int(u[0]), int(v[0])), shape)
    if u[0] == -u[-1] and v[0] == -v[-1]:
        # The window is Hermitian, so its DFT is real: half of it says all.
        half = np.conj(folded[:, : shape[1] // 2 + 1])
        dft = scipy.fft.irfft2(half, shape, norm="forward", overwrite_x=True)
    else:
        dft = np.ascontiguousarray(scipy.fft.fft2(folded, overwrite_x=True).real)
    dft *= gabor_norm(sigma, slant)
    return np.asarray(dft)


def morlets_2d(
    shape: tuple[int, int], sigma: float, thetas: Sequence[float], xi: float, slant: float
) -> Array:
    """Evaluate 2D Morlet wavelets of several angles together, to rounding as :func:`morlet_2d`.

    Those that are narrow in Fourier are evaluated there: a sampled Gaussian's transform is a sum of
    Gaussians, of which one counts.

    Parameters
    ----------
    shape, sigma, xi, slant
        As in :func:`morlet_2d`.
    thetas : sequence of float
        Angles of the wave vectors.

    Returns
    -------
    ndarray
        ``(angles, *shape)``, float64.
    """
    angles: Array = np.array(thetas, np.float64)
    cos, sin = np.cos(angles), np.sin(angles)
    extents = [
        math.ceil(REACH * sigma * float(np.hypot(along, across / slant).max()))
        for along, across in ((cos, sin), (sin, cos))
    ]
    if any(extent > 2 * n for extent, n in zip(extents, shape, strict=True)):
        # They end where the outermost period does.
        return np.stack([morlet_2d(shape, sigma, theta, xi, slant) for theta in thetas])
    spans = []
    for n, along, across in zip(shape, (cos, sin), (sin, cos), strict=True):
        half = REACH / sigma * np.hypot(along, slant * across)
        low, high = np.minimum(0, xi * along) - half, np.maximum(0, xi * along) + half
        bins = n / (2 * math.pi)
        spans.append((math.floor(low.min() * bins), math.ceil(high.max() * bins)))
    if all(last - first < n for (first, last), n in zip(spans, shape, strict=True)):
        return _narrow_morlets(shape, sigma, (cos, sin), xi, slant, spans)
    return _short_morlets(shape, sigma, (cos, sin), xi, slant, extents)


def _quadratic(
    u: Array, v: Array, turns: tuple[Array, Array], ratio: float, factor: float
) -> Array:
    """Return ``factor (along^2 + ratio across^2)`` of points on a grid, for several angles."""
    cos, sin = turns
    a, b, c = cos**2 + ratio * sin**2, cos * sin * (1.0 - ratio), sin**2 + ratio * cos**2
    form: Array = np.multiply.outer(2.0 * factor * b, u)[:, :, None] * v
    form += np.multiply.outer(factor * a, u**2)[:, :, None]
    form += np.multiply.outer(factor * c, v**2)[:, None, :]
    return form


def _narrow_morlets(
    shape: tuple[int, int],
    sigma: float,
    turns: tuple[Array, Array],
    xi: float,
    slant: float,
    spans: list[tuple[int, int]],
) -> Array:
    """Evaluate wavelets in Fourier, on the bins of one period where they are not zero.

    With `g` the Gaussian around the origin, ``g(w - xi) - (g(xi) / g(0)) g(w)`` is
    ``g(xi) g(w) (exp(sigma^2 xi w) - 1)``.
    """
    u, v = (
        np.arange(first, last + 1, dtype=np.float64) * (2 * math.pi / n)
        for (first, last), n in zip(spans, shape, strict=True)
    )
    psi = _quadratic(u, v, turns, slant**-2, -(sigma**2) / 2.0)
    np.exp(psi, out=psi)
    wave_u, wave_v = (
        np.exp(np.multiply.outer(sigma**2 * xi * t, w)) for t, w in zip(turns, (u, v), strict=True)
    )
    wave = wave_u[:, :, None] * wave_v[:, None, :]
    wave -= 1.0
    psi *= wave
    psi *= gabor_norm(sigma, slant) * 2 * math.pi * sigma**2 / slant
    psi *= math.exp(-((sigma * xi) ** 2) / 2.0)
    out = np.zeros((len(psi), *shape))
    (a, b), (c, d) = spans
    out[:, : b + 1, : d + 1] = psi[:, -a:, -c:]
    out[:, : b + 1, shape[1] + c :] = psi[:, -a:, :-c]
    out[:, shape[0] + a :, : d + 1] = psi[:, :-a, -c:]
    out[:, shape[0] + a :, shape[1] + c :] = psi[:, :-a, :-c]
    return out


def _short_morlets(
    shape: tuple[int, int],
    sigma: float,
    turns: tuple[Array, Array],
    xi: float,
    slant: float,
    extents: list[int],
) -> Array:
    """Evaluate wavelets in space, where they end within their periods, and transform them."""
    u, v = (np.arange(-extent, extent + 1, dtype=np.float64) for extent in extents)
    envelope = _quadratic(u, v, turns, slant**2, -1.0 / (2.0 * sigma**2))
    np.exp(envelope, out=envelope)
    wave_u, wave_v = (
        np.exp(np.multiply.outer(1j * xi * t, w)) for t, w in zip(turns, (u, v), strict=True)
    )
    psi = wave_u[:, :, None] * wave_v[:, None, :]
    real = psi.real
    real *= envelope
    psi.imag *= envelope
    envelope *= (psi.sum(axis=(1, 2)).real / envelope.sum(axis=(1, 2)))[:, None, None]
    real -= envelope
    folded = _fold_window(psi, (-extents[0], -extents[1]), shape)
    # The windows are Hermitian, so their DFTs are real: half of them says all.
    half = np.conj(folded[..., : shape[1] // 2 + 1])
    dft = scipy.fft.irfft2(half, shape, norm="forward", overwrite_x=True)
    dft *= gabor_norm(sigma, slant)
    return np.asarray(dft)


def lowpass_2d(shape: tuple[int, int], sigma: float) -> tuple[Array, Array]:
    """Evaluate the isotropic Gaussian in Fourier as two factors: rows, columns.

    The filter is their outer product.
    """
    factors: list[Array] = []
    for n in shape:
        if factors and n == shape[0]:
            return factors[0], factors[0]
        reach = math.ceil(REACH * sigma)
        t = np.arange(max(-reach, -2 * n), min(reach + 1, 3 * n))
        g = np.bincount(t % n, np.exp(-(t.astype(float) ** 2) / (2.0 * sigma**2)), n)
        factors.append(scipy.fft.fft(g).real * math.sqrt(gabor_norm(sigma, 1.0)))
    return factors[0], factors[1]


def ideal_lowpass(n: int, level: int) -> np.ndarray:
    """Return which of `n` bins the ScatNet pyramid keeps before decimating by ``2**level``."""
    keep = np.ones(n, dtype=bool)
    start = int(n * 2.0 ** -(level + 1))
    keep[start : start + int(n * (1.0 - 2.0**-level))] = False
    return keep
