"""Morlet wavelets of a bank in Fourier, evaluated by one compiled call.

The same as :func:`scatflow.wavelets.morlet.morlet_1d`, to rounding: for wavelets of the banks in
use, which the short paths there are for, too. A wavelet that fills the period is a sum over
periods, whose norm is a sum of its few samples in time; a narrower one has a norm in closed form
where it ends within the signal, and elsewhere one that is summed over the signal's samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from scatflow.backends.compiling import compiled, inner

REACH = 8.8
"""Standard deviations after which a Gaussian is below the rounding of float64 (1.5e-17)."""

POINTS = 2**15
"""Samples in time that a norm is summed over, or all where they are fewer."""

AT_ONCE = 512
"""Samples whose sums are kept in the processor's nearest cache."""

_LOG2E, _LN2, _LN2_REST = 1.0 / math.log(2.0), 0.693145751953125, 1.42860682030941723212e-6
_ROUND = 6755399441055744.0
"""1.5 * 2**52: what is added to it is rounded to an integer."""

FAR_CENTRE = 12.5
"""Centre, in bandwidths, beyond which a correction is lost in the rounding of its band."""

_ROOT = (1.0, 1 / 2, -1 / 8, 1 / 16, -5 / 128, 7 / 256, -21 / 1024, 33 / 2048)
"""Binomial coefficients of 1/2."""

_TERMS = tuple(1.0 / math.factorial(k) for k in range(14))


@intrinsic
def _power_of_two(typingctx, n):  # noqa: ARG001
    """Return 2**n for an integer -1022 <= n <= 1023."""

    def codegen(context, builder, signature, args):  # noqa: ARG001
        word = ir.IntType(64)
        biased = builder.add(args[0], ir.Constant(word, 1023))
        return builder.bitcast(builder.shl(biased, ir.Constant(word, 52)), ir.DoubleType())

    return types.float64(types.int64), codegen


@inner
def _exp(x):
    """Return exp(x) for -700 < x <= 0 to the last digit, by code that loops over vectors take."""
    n = (x * _LOG2E + _ROUND) - _ROUND
    r = (x - n * _LN2) - n * _LN2_REST
    total = _TERMS[13]
    for k in range(12, -1, -1):
        total = total * r + _TERMS[k]
    return total * _power_of_two(np.int64(n))


@inner(fastmath={"contract"})
def _add_gaussian(out, first, N, centre, sigma, height):
    """Add a Gaussian around a frequency to the values from a bin on."""
    factor, step = -0.5 / (sigma * sigma), 1.0 / N
    for k in range(out.size):
        f = np.float64(first + k) * step - centre
        out[k] += height * _exp(factor * (f * f))


@inner(fastmath={"contract"})
def _add_periods(out, centre, sigma):
    """Add a Gaussian around a frequency and its repetitions to the values of a period."""
    N = out.size
    periods = math.ceil(REACH * sigma + centre)
    for p in range(-periods, periods + 1):
        low = max(math.ceil((centre + p - REACH * sigma) * N), 0)
        high = min(math.floor((centre + p + REACH * sigma) * N) + 1, N)
        if low < high:
            _add_gaussian(out[low:high], low, N, centre + p, sigma, 1.0)


@inner(fastmath={"contract"})
def _norm_on_points(psi, points, cos, sin, re, im):
    """Return the norm of a filter, as sums over its bins at points in time."""
    total = 0.0
    for begin in range(0, cos.size, re.size):
        x, y = cos[begin : begin + re.size], sin[begin : begin + re.size]
        for t in range(x.size):
            re[t] = 0.0
            im[t] = 0.0
        for k in range(psi.size - 1, -1, -1):
            v = psi[k]
            for t in range(x.size):
                u = re[t]
                re[t] = u * x[t] - im[t] * y[t] + v
                im[t] = u * y[t] + im[t] * x[t]
        for t in range(x.size):
            re[t] = math.sqrt(re[t] * re[t] + im[t] * im[t])
        if begin == 0:
            re[0] *= 0.5
        if begin + x.size == cos.size and points % 2 == 0:
            re[x.size - 1] *= 0.5
        for t in range(x.size):
            total += re[t]
    return 2.0 * total / points


@inner(fastmath={"contract"})
def _fill_period(psi, low, xi, sigma):
    """Write the values of a wavelet that fills the period, and return its norm."""
    _add_periods(psi, xi, sigma)
    _add_periods(low, 0.0, sigma)
    c = psi[0] / low[0]
    for k in range(psi.size):
        psi[k] -= c * low[k]
    psi[0] = 0.0
    total = 0.0
    for t in range(math.ceil(REACH / (2.0 * math.pi * sigma)) + 1):
        a = 2.0 * math.pi * xi * t
        height = math.exp(-2.0 * (math.pi * sigma * t) ** 2)
        total += (2.0 if t else 1.0) * height * math.hypot(math.cos(a) - c, math.sin(a))
    return math.sqrt(2.0 * math.pi) * sigma * total


@inner
def _norm_in_closed_form(c):
    """Return the norm of a wavelet that ends within the signal, with height c at zero.

    The modulus of ``1 - c exp(i a)`` is a Fourier series: see ``wavelets.morlet``.
    """
    square = c * c
    norm, power, step = 0.0, 1.0, square
    for k in range(4):
        term = 0.0
        for n in range(4, -1, -1):
            term = term * square + _ROOT[n] * _ROOT[n + k]
        norm += (2.0 if k else 1.0) * power * term
        power *= -step
        step *= square
    return norm


@inner
def _go_round(cos, sin, points):
    """Write the cosines and sines of a circle's points, each power of two's by one rotation."""
    cos[0], sin[0] = 1.0, 0.0
    done = 1
    while done < cos.size:
        a = 2.0 * math.pi * done / points
        x, y = math.cos(a), math.sin(a)
        more, some = cos[done : 2 * done], sin[done : 2 * done]
        for t in range(more.size):
            more[t] = cos[t] * x - sin[t] * y
            some[t] = cos[t] * y + sin[t] * x
        done *= 2


@compiled(fastmath={"contract"})
def _evaluate(N, wavelets, bands, values, some, cos, sin):
    """Write the values of wavelets on their bands; the last three are scratch."""
    points = min(N, POINTS)
    turned = False
    for i in range(bands.shape[0]):
        xi, sigma = wavelets[i, 0], wavelets[i, 1]
        first, begin, size = bands[i, 0], bands[i, 1], bands[i, 2]
        psi = values[begin : begin + size]
        for k in range(size):
            psi[k] = 0.0
        if size == N:
            for k in range(N):
                some[k] = 0.0
            norm = _fill_period(psi, some[:N], xi, sigma)
        else:
            c = 0.0
            _add_gaussian(psi, first, N, xi, sigma, 1.0)
            if xi < FAR_CENTRE * sigma:
                c = _exp(-0.5 / (sigma * sigma) * (xi * xi))
                _add_gaussian(psi, first, N, 0.0, sigma, -c)
            if math.pi * sigma * N > REACH:
                norm = _norm_in_closed_form(c)
            else:
                if not turned:
                    _go_round(cos, sin, points)
                    turned = True
                re, im = some[:AT_ONCE], some[AT_ONCE : 2 * AT_ONCE]
                norm = _norm_on_points(psi, points, cos, sin, re, im)
        for k in range(size):
            psi[k] /= norm


def morlets(
    N: int,
    wavelets: Sequence[tuple[float, float]],
    bands: Sequence[tuple[int, int, int]],
    values: NDArray[np.float64],
) -> None:
    """Write the values of wavelets on their bands.

    Parameters
    ----------
    N : int
        Samples of the signal.
    wavelets : sequence of tuple
        `xi` and `sigma` of each, cycles/sample, all of them ``wavelets.morlet.usual``.
    bands : sequence of tuple
        First bin of each, which may be negative; where its values begin, and how many there are: N
        if it fills the period.
    values : ndarray
        Overwritten where the bands are.
    """
    some = np.empty(max(N, 2 * AT_ONCE))
    cos, sin = np.empty((2, min(N, POINTS) // 2 + 1))
    _evaluate(N, np.array(wavelets), np.array(bands), values, some, cos, sin)
