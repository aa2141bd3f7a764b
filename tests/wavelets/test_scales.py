"""Which wavelets a bank has."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scatflow.wavelets.scales import (
    R_PSI,
    SIGMA0,
    bandwidth,
    highest_frequency,
    max_decimation,
    scales_1d,
)

banks = given(st.integers(1, 14), st.integers(1, 24))


@pytest.mark.parametrize(("Q", "xi"), [(1, 0.35), (8, 0.4354), (16, 0.4676)])
def test_the_highest_wavelet_sits_where_it_is_published(Q, xi):
    assert highest_frequency(Q) == pytest.approx(xi, abs=5e-5)


@banks
def test_neighbours_an_interval_apart_cross_at_the_stated_height(J, Q):
    # Where two Gaussians of proportional widths cross: in proportion to them.
    xi, lower = highest_frequency(Q), highest_frequency(Q) * 2 ** (-1 / Q)
    one, two = bandwidth(xi, Q), bandwidth(lower, Q)
    meet = (lower * one + xi * two) / (one + two)
    for centre, sigma in ((xi, one), (lower, two)):
        assert math.exp(-((meet - centre) ** 2) / (2 * sigma**2)) == pytest.approx(R_PSI)


@banks
def test_wavelets_fall_from_the_highest_to_above_zero(J, Q):
    scales = scales_1d(J, Q)
    centres = [scale.xi for scale in scales]
    assert centres == sorted(centres, reverse=True)
    assert len(set(centres)) == len(centres)
    assert 0 < centres[-1] <= centres[0] < 0.5


@banks
def test_no_wavelet_is_narrower_than_the_largest_scale_allows(J, Q):
    # The last geometric one lies within one step of the least bandwidth; those below have it.
    least = SIGMA0 / 2**J
    scales = scales_1d(J, Q)
    assert all(scale.sigma >= least * (1 - 1e-12) for scale in scales)
    assert sum(scale.sigma == least for scale in scales) >= Q - 1
    assert min(scale.sigma for scale in scales) <= least * 2 ** (1 / Q) * (1 + 1e-12)


@banks
def test_decimation_keeps_a_wavelet_below_the_new_nyquist_frequency(J, Q):
    for xi, sigma, j in scales_1d(J, Q):
        assert j >= 0
        assert xi < 0.5 / 2**j
        assert j == 0 or xi + 5 * sigma <= 0.5 / 2**j
        assert j == max_decimation(xi, sigma)


@banks
def test_coarser_octaves_mean_lower_centres(J, Q):
    scales = scales_1d(J, Q)
    for first in scales:
        assert all(second.xi < first.xi for second in scales if second.j > first.j)


def test_decimation_is_never_negative_however_wide_the_wavelet():
    assert max_decimation(0.45, 1.0) == 0
    assert max_decimation(0.1, 0.03) == 1  # 0.1 + 5 * 0.03 = 1/4: just below
    assert max_decimation(-0.1, 0.03) == 1
