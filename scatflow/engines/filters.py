"""Filters to look at, on whole frequency grids, as Kymatio lays them out.

Engines themselves keep only what is not negligible of them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.special import factorial2, sph_harm_y

from scatflow.backends import choose
from scatflow.engines import scattering1d, scattering2d, timefrequency
from scatflow.engines.scattering1d import Scattering1D
from scatflow.engines.scattering2d import Scattering2D
from scatflow.engines.scattering3d import HarmonicScattering3D
from scatflow.engines.timefrequency import TimeFrequencyScattering
from scatflow.wavelets.morlet import lowpass_2d
from scatflow.wavelets.scales import SIGMA0
from scatflow.wavelets.support import fold_1d

Filter = dict[str, Any]


def padded(engine: Scattering1D) -> tuple[int, int]:
    """Return the length that Kymatio pads signals to, and the samples in front.

    An engine pads less where its filters do not reach as far.
    """
    (N,) = engine.shape
    length = scattering1d.padded_length(N, engine.window)
    return length, (length - N) // 2


def signals(engine: Scattering1D) -> tuple[Filter, list[Filter], list[Filter]]:
    """Return the low-pass and the wavelets of both orders.

    Each is a dict: `levels`, arrays ``(N_padded / 2^k,)`` of the filter as signals decimated by
    ``2^k`` see it, `xi` and `sigma` in cycles/sample, and `j`.
    """
    length, before = padded(engine)
    frame = scattering1d.Frame(
        engine, engine.shape[0], length, before, np.dtype(np.float64), choose.backend("plain")
    )
    log2_T = math.floor(math.log2(engine.window))

    def levels(band: Any, count: int) -> list[Any]:
        return [frame.fold(band, k).dense() for k in range(count)]

    banks: list[list[Filter]] = []
    for order, scales in enumerate(engine.scales()):
        banks.append(
            [
                {
                    "levels": levels(frame.psi(scale), max(1, min(scale.j, log2_T) * order)),
                    "xi": scale.xi,
                    "sigma": scale.sigma,
                    "j": scale.j,
                }
                for scale in scales
            ]
        )
    phi = {
        "levels": levels(frame.phi, log2_T + 1),
        "xi": 0,
        "sigma": SIGMA0 / engine.window,
        "j": log2_T,
        "N": length,
    }
    return phi, banks[0], banks[1]


def rows(engine: TimeFrequencyScattering) -> tuple[Filter, list[Filter]]:
    """Return the low-pass along log-frequency, and the bank: its low-pass, then its wavelets.

    Each is a dict: `levels`, arrays ``(N / 2^k,)`` of the filter as rows decimated by ``2^k`` see
    it, `xi` and `sigma` in cycles per first-order wavelet, `j`, and of the first one `N`.
    """
    backend = choose.backend("plain")
    frame = timefrequency.FrequencyFrame(engine, np.dtype(np.float64), backend)
    log2_F = math.floor(math.log2(engine.window_fr))
    phi = {
        "levels": [fold_1d(frame.phi, frame.N >> k).dense() for k in range(log2_F + 1)],
        "xi": 0,
        "sigma": SIGMA0 / engine.window_fr,
        "j": log2_F,
        "N": frame.N,
    }
    bank = [
        {"levels": [frame.psi(scale).dense()], "xi": scale.xi, "sigma": scale.sigma, "j": scale.j}
        for scale in engine.scales_fr()
    ]
    return phi, bank


def images(engine: Scattering2D) -> tuple[Filter, list[Filter]]:
    """Return the low-pass and the wavelets.

    Each is a dict: `levels`, arrays on the padded grid decimated by ``2^k``, `j`, and for wavelets
    the number `theta` of their angle.
    """
    rows, columns = engine.plan().padded
    grid = (rows, columns)
    frame = scattering2d.Frame(engine, grid, 0, np.dtype(np.float64), choose.backend("plain"))
    J = engine.J
    wavelets = []
    for j in range(J):
        for theta in range(engine.L):
            psi = scattering2d.wavelet(engine, grid, j, theta)
            count = min(j + 1, max(J - 1, 1))
            levels = [frame.fold(psi, k).astype(np.float32) for k in range(count)]
            wavelets.append({"levels": levels, "j": j, "theta": theta})
    low = np.multiply.outer(*lowpass_2d(grid, scattering2d.width(J - 1)))
    phi = {"levels": [frame.fold(low, k).astype(np.float32) for k in range(J)], "j": J}
    return phi, wavelets


def volumes(engine: HarmonicScattering3D) -> tuple[list[Any], Any]:
    """Return solid harmonics, for each degree ``(J + 1, 2 l + 1, *shape)``, and Gaussians.

    The latter, ``(J + 2, *shape)``, are those of ``method="local"`` and ``"standard"``.
    """
    shape = (engine.plan().shape[0], engine.plan().shape[1], engine.plan().shape[2])
    z, y, x = np.meshgrid(*(2 * np.pi * np.fft.fftfreq(n) for n in shape), indexing="ij")
    across, radius = np.hypot(x, y), np.sqrt(x**2 + y**2 + z**2)
    polar, azimuth = np.arctan2(z, across) + np.pi / 2, np.arctan2(y, x)

    def gaussian(j: int) -> Any:
        return np.exp(-((radius * engine.scale(j)) ** 2) / 2)

    degrees = []
    for l in range(engine.L + 1):
        # Without a constant at degree 0, a filter has the mass of its Gaussian.
        norm = (2 * np.pi) ** 1.5 * _constant(l) if l else math.sqrt(4 * np.pi)
        scales = []
        for j in range(engine.J + 1):
            profile = (-1j) ** l * norm * (radius * engine.scale(j)) ** l * gaussian(j)
            scales.append([profile * sph_harm_y(l, m, polar, azimuth) for m in range(-l, l + 1)])
        degrees.append(np.array(scales, np.complex64))
    gaussians = np.array([gaussian(j) for j in range(engine.J + 2)], np.complex64)
    return degrees, gaussians


def _constant(l: int) -> float:
    """Return what makes the integral of an order-one coefficient of a Gaussian independent of l."""
    if l % 2 == 0:
        return float(1 / (2 * np.pi * math.sqrt(l + 0.5) * factorial2(l + 1)))
    half = (l + 1) // 2
    return float(1 / (2 ** (half + 1) * math.sqrt(np.pi * (2 * l + 1)) * math.factorial(half)))
