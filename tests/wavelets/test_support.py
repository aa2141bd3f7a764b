"""Filters as boxes of bins."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scatflow.wavelets.support import Band, band_of, cyclic_arc, fold_1d, gaussian_reach, trim


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_a_cyclic_arc_is_the_shortest_that_holds_everything(flags):
    significant = np.array(flags)
    n = significant.size
    start, width = cyclic_arc(significant)
    inside = (start + np.arange(width)) % n
    assert significant[inside].sum() == significant.sum()
    shorter = [
        s for s in range(n)
        if significant[(s + np.arange(width - 1)) % n].sum() == significant.sum()
    ]  # fmt: skip
    assert not significant.any() or not shorter


def test_nothing_significant_is_an_arc_of_one_bin():
    assert cyclic_arc(np.zeros(5, bool)) == (0, 1)


@given(st.integers(0, 2**32), st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_a_band_holds_every_value_above_the_threshold(seed, shape):
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal(shape) * 10.0 ** rng.integers(-9, 1, shape)
    dropped = dense - band_of(dense, 1e-4).dense()
    assert np.abs(dropped).max() <= 1e-4 * np.abs(dense).max()
    np.testing.assert_array_equal(band_of(dense, 0.0).dense(), dense)


@given(st.integers(1, 12), st.integers(0, 40), st.integers(1, 60), st.integers(0, 2**32))
def test_a_folded_band_adds_up_the_aliases(n, start, width, seed):
    N = n * 5
    width = min(width, N)
    band = Band((start % N,), np.random.default_rng(seed).standard_normal(width), (N,))
    expected = band.dense().reshape(5, n).sum(axis=0)
    np.testing.assert_allclose(fold_1d(band, n).dense(), expected, atol=1e-12)


def test_trimming_drops_the_ends_only():
    band = Band((6,), np.array([1e-9, 1.0, 1e-9, -0.5, 1e-12]), (8,))
    trimmed = trim(band, 1e-8)
    assert trimmed.starts == (7,)
    assert trimmed.values.tolist() == [1.0, 1e-9, -0.5]


def test_a_band_lies_on_its_bins_around_the_end_of_the_grid():
    band = Band((6,), np.array([1.0, 2.0, 3.0]), (8,))
    assert band.dense().tolist() == [3.0, 0, 0, 0, 0, 0, 1.0, 2.0]
    assert band.scaled(2.0).dense().tolist() == [6.0, 0, 0, 0, 0, 0, 2.0, 4.0]


def test_one_gaussian_reaches_until_its_tolerance():
    sigma = 0.01  # in Fourier; in time 1 / (2 pi sigma)
    reach = gaussian_reach((sigma,), 1e-6)
    assert math.exp(-((2 * math.pi * sigma * reach) ** 2) / 2) == pytest.approx(1e-6)


def test_reaches_of_a_cascade_add_in_quadrature():
    one, two = gaussian_reach((0.01,), 1e-6), gaussian_reach((0.02,), 1e-6)
    assert gaussian_reach((0.01, 0.02), 1e-6) == pytest.approx(math.hypot(one, two))


@given(st.integers(1, 40), st.data())
def test_half_of_a_band_is_half_of_the_filter(n, data):
    start, width = data.draw(st.integers(0, n - 1)), data.draw(st.integers(1, n))
    band = Band((start,), np.arange(1.0, width + 1), (n,))
    np.testing.assert_array_equal(band.half(), band.dense()[: n // 2 + 1])
