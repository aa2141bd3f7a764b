"""Filters that are cut together against the plain formulas, one filter at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scatflow import Scattering2D
from scatflow.backends import bands
from scatflow.backends import numpy as backend
from scatflow.backends.protocol import Bank, Lowpass
from scatflow.engines import scattering2d
from scatflow.wavelets.morlet import ideal_lowpass
from scatflow.wavelets.support import Band, band_of, fold_1d, trim

DTYPES = [np.dtype(np.float32), np.dtype(np.float64)]
EPS = 1e-3


def same_runs(stage, other):
    for found, expected in zip(stage.rows, other.rows, strict=True):
        np.testing.assert_array_equal(found, expected)


def plain_runs(found, n, target, eps):
    """Return ends, pieces and weights of bands of a half spectrum, bin by bin."""
    ends, pieces, weights = [0], [], []
    for band in found:
        values, start = band.values, band.starts[0]
        bins = (start + np.arange(values.size)) % n
        outside = bins > n // 2
        if np.abs(values[outside]).sum() > np.abs(values[~outside]).sum():
            values, bins = values[::-1], (-bins % n)[::-1]
        above = np.flatnonzero(np.abs(values) > eps * np.abs(values).max())
        for i in range(above[0], above[-1] + 1) if above.size else ():
            k = int(bins[i])
            conjugate = k > n // 2
            read, written = (-k % n if conjugate else k), k % target
            if i > above[0]:
                last = pieces[-1]
                ahead = last[1] + last[2] == written and last[4] == conjugate
                if ahead and read == (last[0] - 1 if conjugate else last[0] + last[2]):
                    last[0], last[2] = min(last[0], read), last[2] + 1
                    weights.append(values[i])
                    continue
            pieces.append([read, written, 1, len(weights), int(conjugate)])
            weights.append(values[i])
        ends.append(len(pieces))
    return ends, pieces, weights


@given(st.integers(0, 4), st.integers(0, 3), st.sampled_from(DTYPES), st.data())
def test_a_fan_of_filters_is_what_each_is_by_itself(log2, down, dtype, data):
    N = 3 * 2**7
    draws = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    widths = data.draw(st.lists(st.integers(1, N), min_size=1, max_size=4))
    starts = [data.draw(st.integers(0, N - 1)) for _ in widths]
    # Heights over many orders of magnitude, so that ends are dropped.
    whole = [
        Band((start,), draws.standard_normal(w) * 10.0 ** draws.uniform(-9, 0, w), (N,))
        for start, w in zip(starts, widths, strict=True)
    ]
    bank = Bank(
        np.array(starts), np.cumsum([0, *widths]), np.concatenate([b.values for b in whole])
    )
    fan = bands.Fan(bank, EPS, dtype)
    n, factor = N >> log2, 2.0**-log2
    target = n >> min(down, 3)
    one = fan.prepare(range(len(whole)), n, (target,), factor)
    other = fan.prepare([0], N, (target,))
    expected = [trim(fold_1d(band, n).scaled(factor), EPS) for band in whole]
    same_runs(one, bands.lay_out(expected, (target,), dtype))
    same_runs(other, bands.lay_out([trim(whole[0], EPS)], (target,), dtype))
    values = [Band(band.starts, (band.values / n).astype(dtype), band.shape) for band in expected]
    for found, plain in zip(
        one.rows, plain_runs(values, n, target, bands.SPAN_EPS[dtype.name]), strict=True
    ):
        np.testing.assert_array_equal(found, np.array(plain).reshape(found.shape))


@given(
    st.integers(1, 4), st.tuples(st.integers(1, 5), st.integers(1, 5)), st.sampled_from(DTYPES),
    st.integers(0, 2**32),
)  # fmt: skip
def test_boxes_cut_together_are_those_of_each_filter(count, size, dtype, seed):
    draws = np.random.default_rng(seed)
    target = (2 * size[0], 2 * size[1])
    shape = (2 * target[0], 2 * target[1])
    dense = draws.standard_normal((count, *shape)) * 10.0 ** draws.uniform(-12, 0, (count, *shape))
    dense *= draws.random((count, *shape)) < 0.2
    expected = [band_of(filter_, EPS) for filter_ in dense]
    stage = backend.prepare_dense(dense, EPS, target, dtype)
    boxes, plain = stage.take(), bands.lay_out(expected, target, dtype).take()
    np.testing.assert_array_equal(boxes.table, plain.table)
    np.testing.assert_array_equal(boxes.values[: plain.values.size], plain.values)


@given(
    st.lists(
        st.tuples(st.integers(1, 2), st.integers(1, 9), st.booleans()), min_size=1, max_size=4
    ),
    st.sampled_from(DTYPES),
    st.integers(0, 2**32),
)
def test_lowpasses_cut_together_are_those_cut_alone(drawn, dtype, seed):
    draws = np.random.default_rng(seed)
    uses = [
        (tuple(draws.random(reach) for _ in range(ndim)), (16,) * ndim, half)
        for ndim, reach, half in drawn
    ]

    def laid_out():
        return [
            (Lowpass(factors, (4,) * len(shape), (slice(None),) * len(shape)), shape, half)
            for factors, shape, half in uses
        ]

    together = bands.lowpasses(laid_out(), dtype)
    for one, (how, shape, half) in zip(together, laid_out(), strict=True):
        same_runs(one, bands.lowpass(how, shape, dtype, half))


@pytest.mark.parametrize("shape", [(40, 40), (48, 40), (40, 20)], ids=str)
@pytest.mark.parametrize("L", [1, 2, 3, 8])
def test_images_of_orientations_are_the_orientations(L, shape):
    S = Scattering2D(2, shape, L=L)
    frame = scattering2d.Frame(S, shape, 0, np.dtype(np.float64), backend)
    for j in range(2):
        alone, together = dict(frame.wavelets(j)), frame.orientations(j)
        assert sorted(alone) == list(range(L))
        assert len(together) == L
        for theta, psi in alone.items():
            plain = scattering2d.wavelet(S, shape, j, theta)
            np.testing.assert_allclose(psi, plain, rtol=0, atol=1e-14)
            np.testing.assert_allclose(together[theta], plain, rtol=0, atol=1e-14)


@pytest.mark.parametrize("pyramid", ["scatnet", "fold"])
def test_folding_adds_the_aliases_that_are_kept(pyramid, rng):
    S = Scattering2D(3, (40, 24), L=2, pyramid=pyramid)
    frame = scattering2d.Frame(S, (40, 24), 0, np.dtype(np.float64), backend)
    psi = rng.standard_normal((2, 40, 24))
    for level in range(3):
        r = 2**level
        keep = [
            ideal_lowpass(n, level) if pyramid == "scatnet" and level else np.ones(n, bool)
            for n in (40, 24)
        ]
        masked = psi * keep[0][:, None] * keep[1]
        expected = masked.reshape(2, r, 40 // r, r, 24 // r).sum(axis=(1, 3))
        np.testing.assert_allclose(frame.fold(psi, level), expected, rtol=0, atol=1e-14)
