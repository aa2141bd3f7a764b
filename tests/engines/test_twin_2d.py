"""Scattering2D against its formulas, written out densely and directly."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scatflow import Scattering2D

# --- the formulas ----------------------------------------------------------------------------


def gabor(shape, s, theta, xi, slant):
    """A Gabor in space, summed over 25 periods; 3.1415 is ScatNet's pi."""
    R = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
    C = R @ np.diag([1, slant**2]) @ R.T / (2 * s**2)
    g = np.zeros(shape, complex)
    for ex in range(-2, 3):
        for ey in range(-2, 3):
            u, v = np.mgrid[: shape[0], : shape[1]].astype(float)
            u, v = u + ex * shape[0], v + ey * shape[1]
            arg = -(C[0, 0] * u * u + (C[0, 1] + C[1, 0]) * u * v + C[1, 1] * v * v)
            g += np.exp(arg + 1j * xi * (u * math.cos(theta) + v * math.sin(theta)))
    return g / (2 * 3.1415 * s**2 / slant)


def wavelet(shape, j, n, L):
    s, theta, xi = 0.8 * 2**j, (int(L - L / 2 - 1) - n) * math.pi / L, 3 * math.pi / 4 / 2**j
    g, e = gabor(shape, s, theta, xi, 4 / L), gabor(shape, s, theta, 0, 4 / L)
    return np.fft.fft2(g - g.sum() / e.sum() * e).real


def lowpass(shape, J):
    return np.fft.fft2(gabor(shape, 0.8 * 2 ** (J - 1), 0, 0, 1)).real


def level(f, r, pyramid):
    """A filter as an image decimated by 2^r sees it; ScatNet cuts its ends off first."""
    f = f.copy()
    if pyramid == "scatnet" and r:
        for axis, n in enumerate(f.shape):
            start = int(n * 2.0 ** -(r + 1))
            rows = slice(start, start + int(n * (1 - 2.0**-r)))
            f[(rows, slice(None)) if axis == 0 else (slice(None), rows)] = 0
    m, n = f.shape
    return f.reshape(2**r, m // 2**r, 2**r, n // 2**r).sum(axis=(0, 2))


def by_fft(u, f, k):
    """Convolve and decimate by 2^k: in Fourier, the mean over the aliases."""
    m, n = (side // 2**k for side in f.shape)
    y = (np.fft.fft2(u) * f).reshape(*u.shape[:-2], 2**k, m, 2**k, n)
    return np.fft.ifft2(y.mean(axis=(-4, -2)))


def by_hand(u, f, k):
    """The same as a sum over pixels, with a filter whose inverse DFT is also a plain sum."""
    M, N = f.shape
    a, b = np.arange(M), np.arange(N)
    rows, columns = (np.exp(2j * np.pi * np.outer(t, t) / t.size) / t.size for t in (a, b))
    psi = rows @ f @ columns
    out = np.zeros(u.shape, complex)
    for i in a:
        for j in b:  # every pixel (i, j) adds its own copy of the filter
            out += u[..., i, j, None, None] * np.roll(psi, (i, j), axis=(0, 1))
    return out[..., :: 2**k, :: 2**k]


def cascade(x, J, L, max_order, pyramid, convolve=by_fft, periodic=False):
    size, unit = x.shape[-2:], 2**J
    crop = slice(None) if periodic else slice(1, -1)
    if not periodic:
        padded = [((n + unit) // unit + 1) * unit for n in size]
        widths = [((p - n) // 2, (p - n + 1) // 2) for p, n in zip(padded, size, strict=True)]
        x = np.pad(x, [(0, 0)] * (x.ndim - 2) + widths, mode="reflect")
    shape = x.shape[-2:]
    phi = lowpass(shape, J)
    psi = [wavelet(shape, j, n, L) for j in range(J) for n in range(L)]

    def averaged(u, j):
        return convolve(u, level(phi, j, pyramid), J - j).real[..., crop, crop]

    out = {(): averaged(x, 0)}
    for n1 in range(J * L):
        j1 = n1 // L
        u1 = np.abs(convolve(x, psi[n1], j1))
        out[n1,] = averaged(u1, j1)
        for n2 in range((j1 + 1) * L, J * L) if max_order == 2 else ():
            j2 = n2 // L
            u2 = np.abs(convolve(u1, level(psi[n2], j1, pyramid), j2 - j1))
            out[n1, n2] = averaged(u2, j2)
    keys = sorted(out, key=lambda key: (len(key), key))
    return np.stack([out[key] for key in keys], axis=-3)


def error(found, expected):
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / np.abs(expected).max()


# --- drawn parameters ------------------------------------------------------------------------


@st.composite
def parameters(draw):
    J = draw(st.integers(1, 3))
    return {
        "J": J,
        "shape": tuple(draw(st.integers(2**J, 45)) for _ in range(2)),
        "L": draw(st.integers(1, 6)),
        "max_order": draw(st.sampled_from([1, 2])),
        "pyramid": draw(st.sampled_from(["scatnet", "fold"])),
    }


def twin(x, p, **how):
    return cascade(x, p["J"], p["L"], p["max_order"], p["pyramid"], **how)


@settings(max_examples=50)
@given(parameters(), st.sampled_from([(), (1,), (2, 2)]), st.integers(0, 2**32 - 1))
def test_float64_agrees_with_the_dense_cascade_to_rounding(p, batch, seed):
    x = np.random.default_rng(seed).standard_normal((*batch, *p["shape"]))
    found = Scattering2D(**p)(x)
    assert found.dtype == np.float64
    assert error(found, twin(x, p)) < 1e-12


@settings(max_examples=30)
@given(parameters(), st.integers(0, 2**32 - 1))
def test_float32_agrees_with_the_dense_cascade_to_its_own_rounding(p, seed):
    x = np.random.default_rng(seed).standard_normal((2, *p["shape"])).astype(np.float32)
    found = Scattering2D(**p)(x)
    assert found.dtype == np.float32
    assert error(found, twin(x.astype(np.float64), p)) < 2e-6


@settings(max_examples=20)
@given(parameters(), st.tuples(st.integers(1, 4), st.integers(1, 4)), st.integers(0, 2**32 - 1))
def test_a_periodic_plan_is_the_cascade_without_padding(p, periods, seed):
    shape = tuple(2 ** p["J"] * n for n in periods)
    x = np.random.default_rng(seed).standard_normal((2, *shape))
    p.pop("shape")
    found = Scattering2D(**p).plan(shape, np.float64, "periodic").apply(x)
    assert error(found, twin(x, p, periodic=True)) < 1e-12


@pytest.mark.parametrize("pyramid", ["scatnet", "fold"])
def test_a_padded_image_gives_what_the_engine_pads_itself(pyramid, rng):
    x = rng.standard_normal((2, 21, 34))
    plain = Scattering2D(2, (21, 34), L=4, pyramid=pyramid)
    padded = Scattering2D(2, (21, 34), L=4, pre_pad=True, pyramid=pyramid)
    widths = [
        ((p - n) // 2, (p - n + 1) // 2) for p, n in zip(plain.padded_shape, (21, 34), strict=True)
    ]
    by_numpy = np.pad(x, [(0, 0), *widths], mode="reflect")
    np.testing.assert_array_equal(padded(by_numpy), plain(x))


@pytest.mark.parametrize("pyramid", ["scatnet", "fold"])
@pytest.mark.parametrize(("J", "L", "shape"), [(1, 3, (3, 7)), (2, 2, (5, 11)), (3, 1, (13, 8))])
def test_small_images_agree_with_sums_over_pixels(J, L, shape, pyramid, rng):
    x = rng.standard_normal((2, *shape))
    found = Scattering2D(J, shape, L=L, pyramid=pyramid)(x)
    assert error(found, cascade(x, J, L, 2, pyramid, convolve=by_hand)) < 1e-12
