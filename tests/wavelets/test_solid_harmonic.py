"""Solid harmonics on a grid."""

import math

import numpy as np
import pytest
from scipy.special import sph_harm_y

from scatflow.wavelets.solid_harmonic import (
    SolidHarmonic,
    cutoff,
    frequencies,
    gaussian_factors,
    harmonic,
    radial_constant,
)

DEGREES = range(6)


def evaluate(h, x, y, z):
    rho2 = x**2 + y**2
    power = (x + 1j * y) ** abs(h.m)
    angle = power.imag if h.m < 0 else power.real
    return angle * sum(c * z**a * rho2**b for c, a, b in h.terms)


def directions(count=400):
    """Points of the unit sphere, nearly equally spaced."""
    i = np.arange(count) + 0.5
    z, angle = 1 - 2 * i / count, math.pi * (1 + math.sqrt(5)) * i
    rho = np.sqrt(1 - z**2)
    return rho * np.cos(angle), rho * np.sin(angle), z


@pytest.mark.parametrize("l", DEGREES)
def test_squares_of_all_orders_add_up_to_a_constant(l):
    total = sum(evaluate(harmonic(l, m), *directions()) ** 2 for m in range(-l, l + 1))
    np.testing.assert_allclose(total, (2 * l + 1) / (4 * math.pi), rtol=1e-12)


@pytest.mark.parametrize("l", DEGREES)
def test_real_harmonics_are_the_parts_of_the_complex_ones(l):
    x, y, z = directions()
    for m in range(1, l + 1):
        Y = sph_harm_y(l, m, np.arccos(z), np.arctan2(y, x)) * (-1) ** m * math.sqrt(2)
        np.testing.assert_allclose(evaluate(harmonic(l, m), x, y, z), Y.real, atol=1e-12)
        np.testing.assert_allclose(evaluate(harmonic(l, -m), x, y, z), Y.imag, atol=1e-12)
    Y0 = sph_harm_y(l, 0, np.arccos(z), 0 * z).real
    np.testing.assert_allclose(evaluate(harmonic(l, 0), x, y, z), Y0, atol=1e-12)


@pytest.mark.parametrize("l", DEGREES)
def test_a_solid_harmonic_is_homogeneous_of_its_degree(l):
    x, y, z = directions(50)
    for m in range(-l, l + 1):
        h = harmonic(l, m)
        np.testing.assert_allclose(
            evaluate(h, 2 * x, 2 * y, 2 * z), 2.0**l * evaluate(h, x, y, z), rtol=1e-12
        )


@pytest.mark.parametrize("l", range(1, 8))
def test_the_constant_gives_a_gaussian_of_no_width_unit_coefficients(l):
    # In space the filter is c r^l Y exp(-r^2/2) / s^3; summed over m and integrated over space
    # its modulus is 4 pi sqrt((2 l + 1) / 4 pi) c (2 pi)^(-3/2) ... = 1 with this c.
    radial = 2 ** ((l + 1) / 2) * math.gamma((l + 3) / 2)  # integral of r^(l+2) exp(-r^2/2)
    integral = 4 * math.pi * math.sqrt((2 * l + 1) / (4 * math.pi)) * radial
    assert radial_constant(l) / (2 * math.pi) ** 1.5 * integral == pytest.approx(1.0)


@pytest.mark.parametrize("l", DEGREES)
@pytest.mark.parametrize("eps", [1e-3, 1e-8, 1e-16])
def test_the_profile_falls_to_the_threshold_at_the_cutoff(l, eps):
    def profile(r):
        return r**l * math.exp(-(r**2) / 2)

    assert profile(cutoff(l, eps)) == pytest.approx(eps * profile(math.sqrt(l)), rel=1e-6)


@pytest.mark.parametrize(("b", "n"), [(0, 5), (2, 9), (4, 9), (4, 8), (3, 8), (0, 1), (1, 2)])
def test_frequencies_run_up_and_then_from_below(b, n):
    k = np.rint(frequencies(b, n) * n / (2 * np.pi)).astype(int)
    expected = [*range(b + 1), *range(-b, 0)]
    if 2 * b == n:  # the Nyquist bin is there once, on the negative side
        expected = [*range(b), *range(-b, 0)]
    assert k.tolist() == expected


@pytest.mark.parametrize("shape", [(8, 9, 10), (7, 6, 5)])
def test_gaussian_factors_make_the_gaussian_of_the_half_spectrum(shape):
    z, y, x = gaussian_factors(shape, 1.3)
    w = [2 * np.pi * np.fft.fftfreq(n) for n in shape[:2]] + [2 * np.pi * np.fft.rfftfreq(shape[2])]
    grid = np.meshgrid(*w, indexing="ij")
    expected = np.exp(-sum(g**2 for g in grid) * 1.3**2 / 2)
    np.testing.assert_allclose(z[:, None, None] * y[:, None] * x, expected, rtol=1e-12)


def filters(l, s, n, covariant=True):
    return SolidHarmonic(l, s, (n, n, n), covariant, 1e-16)


@pytest.mark.parametrize("l", range(1, 4))
def test_only_filters_that_reach_the_nyquist_planes_of_even_grids_are_complex(l):
    assert filters(l, 4.0, 16).real
    assert not filters(l, 1.0, 16).real
    assert filters(l, 1.0, 15).real  # an odd grid has no such planes
    assert not filters(l, 4.0, 16, covariant=False).real


@pytest.mark.parametrize("l", range(4))
@pytest.mark.parametrize(("s", "n"), [(1.0, 8), (1.0, 9), (3.0, 12)])
def test_components_carry_the_radial_profile(l, s, n):
    # Unsoeld again, on the grid: squared moduli of the components add up to a radial function.
    f = filters(l, s, n)
    total = sum(np.abs(component) ** 2 for component in f.components(np.dtype(np.float64)))
    z, y, x = (frequencies(b, n) * s for b in f.half_widths)
    if f.real:
        x = x[: f.half_widths[2] + 1]
    r2 = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2
    peak = (radial_constant(l) ** 2 * (2 * l + 1) / (4 * math.pi)) if l else 1.0
    expected = peak * r2**l * np.exp(-r2)
    tolerance = 1e-6 if f.touches_nyquist else 1e-12  # those are defined in single precision
    np.testing.assert_allclose(total, expected, atol=tolerance * expected.max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("s", "covariant"), [(1.0, True), (1.0, False), (3.0, True), (3.0, False)])
def test_components_come_in_the_precision_asked_for(s, covariant, dtype):
    f = filters(2, s, 12, covariant)
    kinds = {component.dtype for component in f.components(np.dtype(dtype))}
    assert kinds == {np.dtype(dtype) if f.real else np.result_type(dtype, 1j)}
    assert sum(1 for _ in f.components(np.dtype(dtype))) == f.count
