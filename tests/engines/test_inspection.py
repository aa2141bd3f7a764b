"""What engines say of their filters."""

import numpy as np
import pytest

from scatflow import HarmonicScattering3D, Scattering1D, Scattering2D, TimeFrequencyScattering
from scatflow.errors import ParameterError
from scatflow.wavelets.morlet import lowpass_2d
from scatflow.wavelets.scales import SIGMA0


def gaussian(n, xi, sigma):
    """Return a periodised Gaussian of peak one, by summing over many periods."""
    omega = np.fft.fftfreq(n)[:, None] + np.arange(-4, 5)
    return np.exp(-((omega - xi) ** 2) / (2 * sigma**2)).sum(axis=1)


@pytest.mark.parametrize("order", [1, 2])
def test_the_sum_is_that_of_morlet_wavelets_written_out(order):
    S = Scattering1D(J=5, shape=1024, Q=(4, 1))
    found = S.littlewood_paley(order)
    n = found.size
    expected = gaussian(n, 0, SIGMA0 / 32) ** 2
    expected /= expected[0]
    for xi, sigma, _ in S.scales()[order - 1]:
        low = gaussian(n, 0, sigma)
        psi = gaussian(n, xi, sigma)
        psi = psi - low * psi[0] / low[0]
        psi /= np.abs(np.fft.ifft(psi)).sum()
        expected += (psi**2 + np.roll(psi[::-1], 1) ** 2) / 2
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_energy_of_the_first_layer_lies_within_the_bounds():
    """By Parseval: the filters' outputs have as much energy as the sum says."""
    S = Scattering1D(J=5, shape=1024, Q=4)
    low, high = S.frame_bounds()
    x = np.random.default_rng(0).standard_normal(S.littlewood_paley().size)
    energy = (np.abs(np.fft.fft(x)) ** 2 * S.littlewood_paley()).sum() / (x**2).sum() / x.size
    assert 0 < low < energy < high
    assert high < 1.1


def test_images_are_covered_alike_at_opposite_frequencies():
    covered = Scattering2D(J=2, shape=(32, 48), L=4).littlewood_paley()
    mirrored = np.roll(np.flip(covered), 1, axis=(0, 1))
    np.testing.assert_allclose(covered, mirrored, atol=1e-6)
    low = np.multiply.outer(*lowpass_2d(covered.shape, 1.6))[0, 0]
    assert covered[0, 0] == pytest.approx(low**2)


@pytest.mark.parametrize(
    "engine",
    [
        Scattering1D(J=4, Q=2),
        Scattering2D(J=2, L=4),
        HarmonicScattering3D(J=1, L=1),
        TimeFrequencyScattering(J=5, J_fr=2, Q=4),
    ],
    ids=lambda e: type(e).__name__,
)
def test_every_engine_describes_itself(engine):
    said = engine.describe(rate=100.0)
    counts = np.bincount(engine.paths().columns["order"])
    assert f"{len(engine.paths())} paths" in said
    assert f"{counts[-1]} of order {counts.size - 1}" in said
    assert "coefficients per sample" in said
    low, high = engine.frame_bounds()
    assert 0 <= low < high


def test_lengths_and_frequencies_are_in_the_units_of_the_rate():
    S = Scattering1D(J=8, Q=8)
    assert "Averages over 2.56 s (T = 256 samples)" in S.describe(rate=100.0)
    assert f"sees {S.reach() / 100:.6g} s to each side" in S.describe(rate=100.0)
    assert "35.000" not in S.describe()
    assert f"{S.paths().columns['xi1'][1] * 100:.5g}" in S.describe(rate=100.0)
    for rate in (0.0, -1.0, float("nan")):
        with pytest.raises(ParameterError, match="rate"):
            S.describe(rate=rate)


def test_redundancy_counts_coefficients():
    S = Scattering1D(J=6, Q=4)
    shape = S.output_shape((4096,))
    assert S.redundancy((4096,)) == shape[0] * shape[1] / 4096


def test_a_bank_that_is_not_there_is_refused():
    with pytest.raises(ParameterError, match="order"):
        Scattering1D(J=4, max_order=1).littlewood_paley(2)
    with pytest.raises(ParameterError, match="order"):
        Scattering2D(J=2).frame_bounds(2)
