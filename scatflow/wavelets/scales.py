"""Centre frequencies, bandwidths and scales of a wavelet filter bank.

Frequencies and bandwidths are in cycles/sample throughout.

References
----------
J. Andén and S. Mallat, Deep scattering spectrum, IEEE Trans. Signal Process. 62 (2014),
doi:10.1109/TSP.2014.2326991.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

SIGMA0 = 0.1
"""Bandwidth of the low-pass filter at T = 1; that of scale T is ``SIGMA0 / T``."""

R_PSI = math.sqrt(0.5)
"""Height at which neighbouring wavelets of one octave cross, relative to their peak."""

ALPHA = 5.0
"""A wavelet is taken to end ALPHA bandwidths above its centre when it is subsampled."""


class Scale(NamedTuple):
    """One 1D wavelet: centre, bandwidth and the largest octave it may be decimated by."""

    xi: float
    """Centre frequency, cycles/sample."""
    sigma: float
    """Standard deviation of the Gaussian in Fourier, cycles/sample."""
    j: int
    """log2 of the decimation that keeps the wavelet free of aliasing."""


def highest_frequency(Q: int) -> float:
    """Return the centre of the highest wavelet of a bank with `Q` wavelets per octave."""
    return max(1.0 / (1.0 + math.pow(2.0, 3.0 / Q)), 0.35)


def bandwidth(xi: float, Q: int) -> float:
    """Return the bandwidth at which wavelets 1/`Q` octave apart cross at height ``R_PSI``."""
    factor = math.pow(2.0, -1.0 / Q)
    return xi * (1.0 - factor) / (1.0 + factor) / math.sqrt(2.0 * math.log(1.0 / R_PSI))


def max_decimation(xi: float, sigma: float) -> int:
    """Return log2 of the largest decimation that keeps ``|xi| + ALPHA sigma`` below Nyquist."""
    edge = min(abs(xi) + ALPHA * sigma, 0.5)
    return math.floor(-math.log2(edge)) - 1


@lru_cache(maxsize=256)
def scales_1d(J: int, Q: int) -> tuple[Scale, ...]:
    """List the wavelets of one layer, highest frequency first.

    Centres fall geometrically, `Q` to an octave, until the bandwidth reaches ``SIGMA0 / 2**J``;
    below that elbow ``Q - 1`` wavelets of constant bandwidth divide what is left down to zero.

    Parameters
    ----------
    J : int
        log2 of the largest wavelet scale, in samples.
    Q : int
        Wavelets per octave.

    Returns
    -------
    tuple of Scale

    Examples
    --------
    >>> [round(scale.xi, 4) for scale in scales_1d(J=3, Q=1)]
    [0.35, 0.175, 0.0875, 0.0437]
    """
    sigma_min = SIGMA0 / 2.0**J
    step = 2.0 ** (1.0 / Q)
    xi = highest_frequency(Q)
    sigma = bandwidth(xi, Q)
    pairs = []
    elbow = sigma
    if sigma > sigma_min:
        pairs.append((xi, sigma))
        while sigma > sigma_min * step:
            xi /= step
            sigma /= step
            pairs.append((xi, sigma))
        elbow = xi
    pairs += [(elbow * (1.0 - q / Q), sigma_min) for q in range(1, Q)]
    return tuple(Scale(xi, sigma, max_decimation(xi, sigma)) for xi, sigma in pairs)
