"""Signals whose coefficients are known without computing."""

import math

import numpy as np
import pytest

from scatflow import HarmonicScattering3D, Scattering1D, Scattering2D
from scatflow.engines.scattering2d import wavelet
from scatflow.wavelets.morlet import lowpass_1d, morlet_1d

# --- one dimension ---------------------------------------------------------------------------


def test_the_moduli_of_a_sinusoid_are_the_filters_at_its_frequency():
    N, amplitude = 4096, 3.0
    S = Scattering1D(6, N, Q=(8, 1))
    psi1, _ = S.scales()
    meta = S.meta()
    for cycles in (1400, 700, 130):
        f = cycles / N
        y = S(amplitude * np.cos(2 * np.pi * f * np.arange(N) + 0.7))
        # A real sinusoid is two exponentials; wavelets of low centres see the negative one too,
        # and then their modulus beats.
        responses = [[morlet_1d(N, p.xi, p.sigma).dense()[b] for b in (cycles, -cycles)]
                     for p in psi1]  # fmt: skip
        middle = y[:, y.shape[1] // 4 : -y.shape[1] // 4]
        for n, (at, mirrored) in enumerate(responses):
            if abs(mirrored) < 1e-10:
                np.testing.assert_allclose(
                    middle[1 + n], amplitude / 2 * abs(at), atol=1e-6 * amplitude
                )
        alone = [abs(r[1]) < 1e-10 for r in responses]
        second = [i for i, key in enumerate(meta["key"]) if len(key) == 2 and alone[key[0]]]
        assert np.abs(middle[second]).max() < 1e-5 * amplitude  # a constant has no wavelets
        assert np.abs(middle[0]).max() < 1e-6 * amplitude


@pytest.mark.parametrize("T", [None, 37, "global"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_signal_has_its_value_in_order_0_and_nothing_else(T, dtype):
    y = Scattering1D(5, 500, Q=4, T=T)(np.full(500, -2.5, dtype))
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(y[0], -2.5, rtol=8 * eps)
    assert np.abs(y[1:]).max() < 8 * eps


def test_a_dirac_shows_the_wavelets_themselves():
    # The modulus of psi in time integrates to one, and the low-pass keeps the integral.
    N, J = 1024, 4
    S = Scattering1D(J, Q=(2, 1), stride=1)
    x = np.zeros(N)
    x[N // 2] = 1.0
    plan = S.plan((N,), np.float64, "periodic")
    y = plan.apply(x)
    psi1, _ = S.scales()
    np.testing.assert_allclose(y[: 1 + len(psi1)].sum(axis=-1), 1.0, rtol=1e-9)
    phi = np.fft.ifft(lowpass_1d(N, 0.1 / 2**J).dense()).real
    np.testing.assert_allclose(y[0], np.roll(phi, N // 2), atol=1e-14)


def test_the_mean_over_the_signal_of_a_dirac_is_one_over_its_length():
    N = 2048
    S = Scattering1D(4, N, T="global", max_order=1, out_type="dict")
    x = np.zeros(N)
    x[N // 2] = 1.0
    # Sampled 2^j times more coarsely, the modulus sums to 2^-j, over 2^-j as many samples.
    for value in S(x).values():
        assert value[0] == pytest.approx(1 / N, rel=1e-4)


# --- two dimensions --------------------------------------------------------------------------


@pytest.mark.parametrize("pyramid", ["scatnet", "fold"])
def test_a_constant_image_has_its_value_in_order_0_and_nothing_else(pyramid):
    y = Scattering2D(2, (20, 30), L=4, pyramid=pyramid)(np.full((20, 30), 4.0))
    # ScatNet's low-pass carries its value of pi, and a Gaussian of 0.8 2^(J-1) pixels is sampled
    # coarsely: 1.00003 instead of 1 (the sum over its aliases is exactly this one).
    gain = math.pi / 3.1415 * (1 + 2 * math.exp(-2 * (math.pi * 1.6) ** 2)) ** 2
    np.testing.assert_allclose(y[0], 4.0 * gain, rtol=1e-12)
    assert np.abs(y[1:]).max() < 1e-14


@pytest.mark.parametrize("pyramid", ["scatnet", "fold"])
def test_the_moduli_of_a_plane_wave_are_the_filters_at_its_frequency(pyramid):
    shape, (p, q) = (64, 64), (20, 11)
    u, v = np.mgrid[:64, :64]
    x = np.exp(2j * np.pi * (p * u / 64 + q * v / 64))
    S = Scattering2D(2, L=6, pyramid=pyramid)
    plan = S.plan(shape, np.float64, "periodic")
    y = plan.apply(x.real)
    bank = [[wavelet(S, shape, j, theta) for theta in range(S.L)] for j in range(S.J)]
    gain = plan.apply(np.ones(shape))[0, 0, 0]  # of the low-pass at frequency zero
    for j in range(2):
        for theta in range(6):
            at, mirrored = bank[j][theta][p, q], bank[j][theta][-p, -q]
            beat = np.sqrt(abs(at * mirrored))  # of the wave's two exponentials
            expected = gain * max(abs(at), abs(mirrored)) / 2
            np.testing.assert_allclose(y[1 + 6 * j + theta], expected, atol=beat + 1e-12)


# --- three dimensions ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_gaussian_gives_powers_of_the_ratio_of_scales(dtype):
    # Unit mass, width sigma_g, at the origin: S1 = k^l, k = s / sqrt(s^2 + sigma_g^2).
    # The modulus of degree 1 has a kink at the origin; widths of 3 voxels sample it to 1e-4.
    n, J, L, sigma_0, sigma_g = 72, 1, 3, 3.0, 3.0
    w = np.fft.fftfreq(n) * n
    r2 = w[:, None, None] ** 2 + w[:, None] ** 2 + w**2
    x = np.exp(-r2 / (2 * sigma_g**2)) / (2 * np.pi * sigma_g**2) ** 1.5
    S = HarmonicScattering3D(
        J, (n, n, n), L=L, sigma_0=sigma_0, max_order=1, integral_powers=(1.0,)
    )
    y = S(x.astype(dtype))[..., 0]
    for j in range(J + 1):
        s = sigma_0 * 2**j
        k = s / math.sqrt(s**2 + sigma_g**2)
        np.testing.assert_allclose(y[j], [k**l for l in range(L + 1)], atol=1e-4)


def test_degree_0_of_a_dirac_is_a_gaussian_of_unit_mass():
    x = np.zeros((16, 16, 16))
    x[3, 4, 5] = 1.0
    S = HarmonicScattering3D(0, (16, 16, 16), L=0, sigma_0=2.0, integral_powers=(1.0, 2.0))
    # Its square integrates to (4 pi s^2)^(-3/2); the grid wraps what is 4 s away.
    np.testing.assert_allclose(S(x)[0, 0], [1.0, (16 * np.pi) ** -1.5], rtol=1e-6)


def test_a_constant_volume_has_only_degree_0():
    S = HarmonicScattering3D(1, (8, 9, 10), L=3, sigma_0=2.5, integral_powers=(1.0,))
    y = S(np.full((8, 9, 10), 2.0))[..., 0]
    np.testing.assert_allclose(y[:, 0], 2.0 * 720, rtol=1e-12)
    assert np.abs(y[:, 1:]).max() < 1e-10


def test_a_gaussian_moved_off_the_grid_keeps_its_coefficients():
    # Invariance to translations that are no whole number of voxels.
    n = 32

    def blob(centre):
        d = [(np.arange(n) - c + n / 2) % n - n / 2 for c in centre]
        return np.exp(-(d[0][:, None, None] ** 2 + d[1][:, None] ** 2 + d[2] ** 2) / 8)

    S = HarmonicScattering3D(1, (n, n, n), L=2, sigma_0=2.0, integral_powers=(1.0, 2.0))
    here, there = S(blob((5.3, 7.8, 9.1))), S(blob((0, 0, 0)))
    np.testing.assert_allclose(here[:2, :, 1], there[:2, :, 1], rtol=1e-6)
    # Moduli of degree 1 have kinks, whose sums depend on where they lie on the grid.
    np.testing.assert_allclose(here, there, rtol=1e-3)
