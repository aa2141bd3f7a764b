"""Morlet wavelets and low-pass filters in Fourier."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from scatflow.backends.morlets import morlets
from scatflow.wavelets.morlet import (
    gabor_norm,
    ideal_lowpass,
    l1_norm,
    lowpass_1d,
    lowpass_2d,
    lowpass_support,
    morlet_1d,
    morlet_2d,
    morlets_1d,
    morlets_2d,
)
from scatflow.wavelets.scales import scales_1d

wavelets = [(N, s.xi, s.sigma) for N in (97, 256, 4096) for s in scales_1d(5, 3)]


@pytest.mark.parametrize(("N", "xi", "sigma"), wavelets)
def test_a_wavelet_has_no_mean_and_unit_norm_in_time(N, xi, sigma):
    psi = morlet_1d(N, xi, sigma).dense()
    assert abs(psi[0]) < 1e-15
    assert np.abs(np.fft.ifft(psi)).sum() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("N", "xi", "sigma"), wavelets)
def test_a_wavelet_peaks_at_its_centre(N, xi, sigma):
    # The correction at zero moves a wide one up, by less than its bandwidth.
    psi = morlet_1d(N, xi, sigma).dense()
    assert abs(psi.argmax() / N - xi) < max(0.3 * sigma, 0.6 / N)


@given(st.integers(16, 500), st.floats(0.02, 0.45), st.floats(0.002, 0.2))
def test_a_wavelet_is_two_gaussians_that_cancel_at_zero(N, xi, sigma):
    assume(sigma * N > 0.3)  # as in every bank whose scales fit into the signal
    f = np.arange(N) / N
    p = np.arange(-5, 6)[:, None]

    def gaussian(centre):
        return np.exp(-((f + p - centre) ** 2) / (2 * sigma**2)).sum(axis=0)

    psi = gaussian(xi) - gaussian(xi)[0] / gaussian(0)[0] * gaussian(0)
    found = morlet_1d(N, xi, sigma).dense()
    # Published banks sum as many periods as 1e-7 of one Gaussian needs, and that shows.
    np.testing.assert_allclose(found / found.max(), psi / psi.max(), atol=1e-6)


@given(st.integers(40, 500), st.floats(0.02, 0.5), st.floats(0.07, 0.145))
def test_a_wide_wavelet_of_few_samples_is_the_published_sum_of_periods(N, xi, sigma):
    periods = math.ceil(math.sqrt(2 * sigma**2 * math.log(1e7)) + 1)
    f, p = np.arange(N) / N, np.arange(1 - periods, periods)[:, None]
    g, g0 = (np.exp(-((f + p - c) ** 2) / (2 * sigma**2)).sum(axis=0) for c in (xi, 0.0))
    psi = g - g[0] / g0[0] * g0
    psi /= np.abs(np.fft.ifft(psi)).sum()
    found = morlet_1d(N, xi, sigma).dense()
    np.testing.assert_allclose(found, psi, atol=1e-11 * np.abs(psi).max())


@given(st.integers(8, 5000), st.floats(1, 5000))
def test_a_low_pass_has_unit_mean_and_is_even(N, T):
    phi = lowpass_1d(N, 0.1 / T).dense()
    assert phi[0] == 1.0
    np.testing.assert_allclose(phi[1:], phi[1:][::-1], atol=1e-15)
    assert np.all(phi >= 0)


@pytest.mark.parametrize("T", [4, 16, 37.5, 64])
def test_a_low_pass_ends_at_five_times_its_scale(T):
    assert lowpass_support(4096, 0.1 / T) == pytest.approx(4.92 * T, abs=2.5)


def test_a_low_pass_that_does_not_fit_ends_at_half_the_signal():
    assert lowpass_support(100, 0.1 / 1000) == 50


@pytest.mark.parametrize(("N", "xi", "sigma"), wavelets)
def test_the_norm_on_few_points_equals_the_norm_on_all(N, xi, sigma):
    band = morlet_1d(N, xi, sigma).scaled(3.0)
    assert l1_norm(band) == pytest.approx(np.abs(np.fft.ifft(band.dense())).sum(), rel=1e-9)


@given(st.integers(100, 3000), st.floats(2.0, 14.0), st.floats(0.003, 0.02))
def test_a_correction_left_out_would_not_have_been_seen(N, ratio, sigma):
    xi = ratio * sigma
    assume(xi < 0.45)
    found = morlet_1d(N, xi, sigma)
    width = found.values.size
    assume(width < N)
    first = (found.starts[0] + N // 2) % N - N // 2
    f = np.arange(first, first + width) / N
    g = np.exp(-((f - xi) ** 2) / (2 * sigma**2))
    psi = g - math.exp(-(xi**2) / (2 * sigma**2)) * np.exp(-(f**2) / (2 * sigma**2))
    peak = psi.argmax()
    scaled = psi * (found.values[peak] / psi[peak])
    np.testing.assert_allclose(found.values, scaled, rtol=1e-15, atol=0)


@given(st.integers(1000, 4000), st.floats(2.0, 30.0), st.floats(0.005, 0.02))
def test_a_wavelet_that_fits_is_divided_by_its_norm_in_time_to_rounding(N, ratio, sigma):
    xi = ratio * sigma
    assume(xi < 0.45)
    t = np.arange(-N, N + 1)
    c = math.exp(-(ratio**2) / 2)
    envelope = math.sqrt(2 * math.pi) * sigma * np.exp(-2 * (math.pi * sigma * t) ** 2)
    norm = math.fsum(np.abs(envelope * (np.exp(2j * math.pi * xi * t) - c)))
    at = round(xi * N)
    f = at / N
    psi = math.exp(-((f - xi) ** 2) / (2 * sigma**2)) - c * math.exp(-(f**2) / (2 * sigma**2))
    band = morlet_1d(N, xi, sigma)
    assert band.values[(at - band.starts[0]) % N] == pytest.approx(psi / norm, rel=2e-15)


# --- two dimensions --------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(32, 32), (17, 40), (8, 9)])
@pytest.mark.parametrize("theta", [0.0, 0.5, -1.2])
def test_an_oriented_wavelet_has_no_mean(shape, theta):
    psi = morlet_2d(shape, 1.6, theta, 3 * math.pi / 8, 0.5)
    assert abs(psi[0, 0]) < 1e-15


@pytest.mark.parametrize("theta", [0.0, 0.5, -1.2])
def test_an_oriented_wavelet_peaks_at_its_wave_vector(theta):
    xi = 3 * math.pi / 8
    psi = morlet_2d((128, 128), 3.2, theta, xi, 0.5)
    u, v = np.unravel_index(psi.argmax(), psi.shape)
    wave = 2 * math.pi * np.array([(u + 64) % 128 - 64, (v + 64) % 128 - 64]) / 128
    expected = xi * np.array([math.cos(theta), math.sin(theta)])
    assert np.abs(wave - expected).max() < 0.06


def test_a_quarter_turn_of_the_angle_turns_the_wavelet():
    # (u, v) -> (-v, u) takes the wave vector of angle a to that of a + pi/2.
    one = morlet_2d((24, 24), 1.6, 0.3, 1.1, 0.5)
    other = morlet_2d((24, 24), 1.6, 0.3 + math.pi / 2, 1.1, 0.5)
    turned = np.roll(np.flip(one.T, axis=0), 1, axis=0)  # turned[a, b] = one[b, -a]
    np.testing.assert_allclose(other, turned, atol=1e-14)


def test_half_a_turn_gives_the_mirror_image_in_fourier():
    one = morlet_2d((15, 20), 1.6, 0.3, 1.1, 0.5)
    other = morlet_2d((15, 20), 1.6, 0.3 + math.pi, 1.1, 0.5)
    np.testing.assert_allclose(other, np.roll(np.flip(one), (1, 1), axis=(0, 1)), atol=1e-14)


@pytest.mark.parametrize(("shape", "sigma"), [((16, 16), 1.6), ((9, 30), 3.2), ((24, 24), 6.4)])
def test_the_image_low_pass_is_the_dft_of_its_gaussian(shape, sigma):
    rows, columns = lowpass_2d(shape, sigma)
    u, v = (np.arange(-2 * n, 3 * n) for n in shape)
    window = np.exp(-(u[:, None] ** 2 + v**2) / (2 * sigma**2)) * gabor_norm(sigma, 1.0)
    m, n = shape
    folded = window.reshape(5, m, 5, n).sum(axis=(0, 2))
    np.testing.assert_allclose(np.outer(rows, columns), np.fft.fft2(folded).real, atol=1e-13)


@pytest.mark.parametrize(("n", "level"), [(16, 1), (16, 2), (24, 3), (40, 1), (12, 2)])
def test_the_scatnet_mask_keeps_as_many_bins_as_the_decimated_grid(n, level):
    keep = ideal_lowpass(n, level)
    assert keep.sum() == n - int(n * (1 - 2.0**-level))
    k = np.flatnonzero(keep)
    signed = np.where(k < n / 2, k, k - n)
    # One of the two Nyquist bins: the negative one, where they are whole.
    assert signed.min() == -(n // 2 ** (level + 1)) or n % 2 ** (level + 1)


@pytest.mark.parametrize("at_one_go", [None, morlets])
@given(
    st.integers(64, 20000) | st.integers(60000, 70000),
    st.lists(
        st.tuples(st.floats(0.01, 0.5), st.floats(0.01, 0.5), st.sampled_from([1, 1, 1, -1])).map(
            lambda drawn: (drawn[2] * drawn[0], drawn[0] * drawn[1])
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 12),
)
def test_wavelets_of_signals_are_the_same_alone_and_together(at_one_go, N, wavelets, octaves):
    dilated = [(xi / 2**k, sigma / 2**k) for k in range(1, octaves + 1) for xi, sigma in wavelets]
    wavelets = [(xi, sigma) for xi, sigma in (*wavelets, *dilated) if sigma * N > 0.2]
    assume(wavelets)
    firsts, ends, values = morlets_1d(N, wavelets, at_one_go)
    assert ends[-1] == values.size
    for (xi, sigma), first, found in zip(
        wavelets, firsts, np.split(values, ends[1:-1]), strict=True
    ):
        alone = morlet_1d(N, xi, sigma)
        assert first == alone.starts[0]
        peak = np.abs(alone.values).max()
        np.testing.assert_allclose(found, alone.values, rtol=0, atol=2e-13 * peak)


@pytest.mark.parametrize("width", [0.02, 0.05, 0.2, 0.31])
def test_a_wavelet_narrower_than_a_bin_is_that_bin_alone(width):
    N = 256
    (first,), _, values = morlets_1d(N, [(3 / N, width / N)], morlets)
    psi = np.zeros(N)
    psi[(first + np.arange(values.size)) % N] = values
    expected = morlet_1d(N, 3 / N, width / N).dense()
    np.testing.assert_allclose(psi, expected, atol=1e-15)
    assert psi.argmax() == 3


@pytest.mark.parametrize(
    ("N", "J", "Q"), [(97, 5, 3), (2048, 8, 1), (4096, 5, 8), (131072, 13, 12)]
)
def test_wavelets_of_banks_are_all_evaluated_at_one_go(N, J, Q):
    wavelets = [(s.xi, s.sigma) for s in (*scales_1d(J, Q), *scales_1d(J, 1))]
    given = []

    def seen(N, some, bands, values):
        given.extend(some)
        morlets(N, some, bands, values)

    firsts, ends, values = morlets_1d(N, wavelets, seen)
    assert given == wavelets
    for first, psi in zip(firsts, np.split(values, ends[1:-1]), strict=True):
        whole = np.zeros(N)
        whole[(first + np.arange(psi.size)) % N] = psi
        assert abs(whole[0]) < 1e-15
        assert np.abs(np.fft.ifft(whole)).sum() == pytest.approx(1.0, abs=1e-12)


@given(
    st.tuples(st.integers(3, 70), st.integers(3, 70)),
    st.integers(0, 5),
    st.lists(st.floats(-math.pi / 2, math.pi / 2), min_size=1, max_size=3),
    st.integers(1, 8),
)
def test_wavelets_of_images_are_the_same_alone_and_together(shape, j, thetas, L):
    sigma, xi = 0.8 * 2**j, 0.75 * math.pi / 2**j
    for theta, found in zip(thetas, morlets_2d(shape, sigma, thetas, xi, 4 / L), strict=True):
        alone = morlet_2d(shape, sigma, theta, xi, 4 / L)
        # Rounding grows with the samples that the transform of the plain one adds up.
        np.testing.assert_allclose(found, alone, rtol=0, atol=1e-14 * max(1, abs(alone).max()))
