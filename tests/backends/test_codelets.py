"""Transforms of many signals side by side against NumPy's."""

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scatflow.backends import codelets
from scatflow.backends.codelets import POINT, VECTOR_BYTES

dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
EPS = {"float32": 3e-7, "float64": 1e-15}


@numba.njit
def call(line, source, to, passes, room, what):
    codelets.call_line(line, source, to, passes, room, what)


def points(count, dtype, rng=None):
    """Noise as ``(count, parts, lanes)``, beginning on a cache line."""
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    room = np.empty(count * POINT + 64, np.uint8)
    first = -room.ctypes.data % 64
    x = room[first : first + count * POINT].view(dtype).reshape(count, 2, lanes)
    x[...] = 0.0 if rng is None else rng.standard_normal(x.shape)
    return x


def transform(x, n, dtype, forward):
    y = points(n, dtype)
    room, passes = points(codelets.room(n), dtype), codelets.passes(n, dtype)
    call(
        codelets.line(dtype).address, x.ctypes.data, y.ctypes.data, passes.address,
        room.ctypes.data, int(forward),
    )  # fmt: skip
    return y


def complex_of(x):
    return x[:, 0].astype(np.float64) + 1j * x[:, 1]


def expected(x, n, forward):
    z = complex_of(x)
    return np.fft.fft(z, axis=0) if forward else np.fft.ifft(z, axis=0) * n


def distance(found, true):
    return np.linalg.norm(complex_of(found) - true) / np.linalg.norm(true)


@dtypes
@pytest.mark.parametrize("forward", [False, True])
def test_every_length_that_splits(dtype, forward, rng):
    done = [n for n in range(1, 130) if codelets.splits(n)]
    assert len(done) > 100
    for n in [*done, 240, 272, 304, 61 * 19, 2048, 3 * 37 * 17, 8 * 251, 67 * 71]:
        x = points(n, dtype, rng)
        assert distance(transform(x, n, dtype, forward), expected(x, n, forward)) < EPS[dtype], n


@dtypes
@pytest.mark.parametrize("what", [codelets.MODULI, codelets.PACKED_MODULI])
@given(n=st.integers(1, 300).filter(codelets.splits), seed=st.integers(0, 2**32 - 1))
def test_moduli_of_a_line(dtype, what, n, seed):
    x = points(n, dtype, np.random.default_rng(seed))
    true = np.abs(expected(x, n, False))
    u, room = points(n, dtype), points(codelets.room(n), dtype)
    line, passes = codelets.line(dtype), codelets.passes(n, dtype)
    places = (array.ctypes.data for array in (x, u))
    call(line.address, *places, passes.address, room.ctypes.data, what)
    found = u[:, 0] if what == codelets.MODULI else u.reshape(2 * n, -1)[:n]
    np.testing.assert_allclose(found, true, rtol=0, atol=EPS[dtype] * 10 * true.max())
    rest = u[:, 1] if what == codelets.MODULI else u.reshape(2 * n, -1)[n:]
    assert not rest.any()


@dtypes
@given(n=st.integers(1, 300).filter(codelets.splits), seed=st.integers(0, 2**32 - 1))
def test_a_line_may_be_overwritten(dtype, n, seed):
    x = points(n, dtype, np.random.default_rng(seed))
    apart = transform(x, n, dtype, True)
    room, passes = points(codelets.room(n), dtype), codelets.passes(n, dtype)
    call(
        codelets.line(dtype).address, x.ctypes.data, x.ctypes.data, passes.address,
        room.ctypes.data, 1,
    )  # fmt: skip
    np.testing.assert_array_equal(x, apart)


@dtypes
@given(n=st.integers(1, 300).filter(codelets.splits), seed=st.integers(0, 2**32 - 1))
def test_lanes_do_not_know_of_each_other(dtype, n, seed):
    rng = np.random.default_rng(seed)
    x = points(n, dtype, rng)
    moved = np.roll(x, 1, axis=2)
    alone = points(n, dtype)
    alone[:, :, 3] = x[:, :, 3]
    alone[:, :, 0] = np.nan
    whole = transform(x, n, dtype, False)
    np.testing.assert_array_equal(
        np.roll(whole, 1, axis=2), transform(aligned(moved), n, dtype, False)
    )
    np.testing.assert_array_equal(whole[:, :, 3], transform(alone, n, dtype, False)[:, :, 3])


def aligned(x):
    """Copy to where points begin on a cache line."""
    y = points(len(x), x.dtype)
    y[...] = x
    return y


def test_lengths_with_large_factors_are_not_split():
    assert codelets.splits(251 * 64)
    assert not codelets.splits(257)
    assert not codelets.splits(2 * 509)


@given(st.integers(1, 5000).filter(codelets.splits))
def test_radices_multiply_to_the_length(n):
    assert np.prod(codelets.passes(n, "float32").radices) == n


def test_a_table_lives_as_long_as_it_is_kept():
    kept = codelets.passes(988, "float32")
    assert codelets.passes(988, "float32") is kept
    assert kept.nbytes >= 16
