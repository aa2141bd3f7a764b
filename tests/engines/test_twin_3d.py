"""HarmonicScattering3D against its formulas, written out densely and directly."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import sph_harm_y

from scatflow import HarmonicScattering3D

# --- the formulas ----------------------------------------------------------------------------


def constant(l):
    if l % 2 == 0:
        return 1 / (2 * math.pi * math.sqrt(l + 0.5) * math.prod(range(l + 1, 0, -2)))
    half = math.factorial((l + 1) // 2)
    return 1 / (2 ** ((l + 3) / 2) * math.sqrt(math.pi * (2 * l + 1)) * half)


def wavelet(shape, l, m, s):
    w = [2 * np.pi * np.fft.fftfreq(n) for n in shape]
    z, y, x = np.meshgrid(*w, indexing="ij")
    radius = np.sqrt(x * x + y * y + z * z) * s
    if l == 0:
        return np.exp(-(radius**2) / 2)
    polar = np.arctan2(z, np.hypot(x, y)) + np.pi / 2
    Y = sph_harm_y(l, m, polar, np.arctan2(y, x))
    c = constant(l) * (-1j) ** l * (2 * np.pi) ** 1.5
    return c * Y * radius**l * np.exp(-(radius**2) / 2)


def gaussian(shape, s):
    return wavelet(shape, 0, 0, s)


def by_fft(u, f):
    axes = (-3, -2, -1)
    return np.fft.ifftn(np.fft.fftn(u, axes=axes) * f, axes=axes)


def by_hand(u, f):
    """A sum over voxels, with a filter whose inverse DFT is also a plain sum."""
    dft = [np.exp(2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n) / n for n in f.shape]
    psi = np.einsum("ai,bj,ck,ijk->abc", *dft, f)
    out = np.zeros(u.shape, complex)
    for voxel in np.ndindex(f.shape):  # every voxel adds its own copy of the filter
        out += u[(..., *voxel)][..., None, None, None] * np.roll(psi, voxel, axis=(0, 1, 2))
    return out


def modulus(u, l, s, covariant, convolve):
    orders = range(-l, l + 1) if covariant else [-l]
    fields = [convolve(u, wavelet(u.shape[-3:], l, m, s)) for m in orders]
    return np.sqrt(sum(np.abs(field) ** 2 for field in fields))


def integrals(powers):
    return lambda u, _s: np.stack([(u**p).sum(axis=(-3, -2, -1)) for p in powers], axis=-1)


def cascade(x, J, L, sigma_0, max_order, covariant, keep, convolve=by_fft):
    """``keep(u, s)`` reduces a modulus whose last wavelet has scale s."""
    s = [sigma_0 * 2**j for j in range(J + 1)]
    columns = []
    for l in range(L + 1):
        first = [modulus(x, l, s[j], covariant, convolve) for j in range(J + 1)]
        rows = [keep(u, s[j]) for j, u in enumerate(first)]
        for j1 in range(J + 1) if max_order == 2 else ():
            for j2 in range(j1 + 1, J + 1):
                rows.append(keep(modulus(first[j1], l, s[j2], covariant, convolve), s[j2]))
        columns.append(np.stack(rows, axis=x.ndim - 3))
    return np.stack(columns, axis=x.ndim - 2)


def error(found, expected):
    """Largest error relative to the largest value, power by power: they differ by decades."""
    assert found.shape == expected.shape
    axes = tuple(range(found.ndim - 1))
    return (np.abs(found - expected).max(axis=axes) / np.abs(expected).max(axis=axes)).max()


# --- drawn parameters ------------------------------------------------------------------------

sides = st.one_of(st.integers(5, 16), st.sampled_from([7, 11, 13]))


def parameters(sigma_0):
    return st.fixed_dictionaries(
        {
            "J": st.integers(0, 2),
            "shape": st.tuples(sides, sides, sides),
            "L": st.integers(0, 4),
            "sigma_0": sigma_0,
            "max_order": st.sampled_from([1, 2]),
            "rotation_covariant": st.booleans(),
            "integral_powers": st.sampled_from([(1.0,), (0.5, 1.0, 2.0), (3.0, 1.5)]),
        }
    ).filter(lambda p: p["sigma_0"] * 2 ** p["J"] <= max(p["shape"]))


def twin(x, p, **how):
    return cascade(
        x, p["J"], p["L"], p["sigma_0"], p["max_order"], p["rotation_covariant"],
        integrals(p["integral_powers"]), **how,
    )  # fmt: skip


# A filter of degree 4 is down to 1e-6 of its peak at |w| s = 6.7, so from s = 2.2 on none
# reaches the Nyquist planes and all are float64 throughout.
@settings(max_examples=50)
@given(parameters(st.floats(2.2, 4.0)), st.sampled_from([(), (2,), (1, 2)]), st.integers(0, 2**32))
def test_float64_agrees_with_the_dense_cascade(p, batch, seed):
    x = np.random.default_rng(seed).standard_normal((*batch, *p["shape"]))
    found = HarmonicScattering3D(**p)(x)
    assert found.dtype == np.float64
    assert error(found, twin(x, p)) < 1e-9


# Filters that reach the Nyquist planes are defined on a float32 grid, as Kymatio publishes them.
@settings(max_examples=50)
@given(parameters(st.floats(0.7, 2.2)), st.integers(0, 2**32))
def test_filters_at_the_nyquist_planes_are_single_precision(p, seed):
    x = np.random.default_rng(seed).standard_normal((2, *p["shape"]))
    assert error(HarmonicScattering3D(**p)(x), twin(x, p)) < 2e-6


@settings(max_examples=30)
@given(parameters(st.floats(0.7, 4.0)), st.integers(0, 2**32))
def test_float32_agrees_with_the_dense_cascade_to_its_own_rounding(p, seed):
    x = np.random.default_rng(seed).standard_normal((2, *p["shape"])).astype(np.float32)
    found = HarmonicScattering3D(**p)(x)
    assert found.dtype == np.float32
    assert error(found, twin(x.astype(np.float64), p)) < 4e-6


@settings(max_examples=15)
@given(parameters(st.floats(2.2, 3.0)), st.integers(0, 2**32))
def test_local_gives_the_smoothed_modulus_at_points(p, seed):
    p.pop("integral_powers")
    rng = np.random.default_rng(seed)
    points = [tuple(int(rng.integers(n)) for n in p["shape"]) for _ in range(3)]
    x = rng.standard_normal((2, *p["shape"]))

    def keep(u, s):
        smooth = by_fft(u, gaussian(p["shape"], 2 * s)).real
        return np.stack([smooth[(..., *point)] for point in points], axis=-1)

    expected = cascade(
        x, p["J"], p["L"], p["sigma_0"], p["max_order"], p["rotation_covariant"], keep
    )
    assert error(HarmonicScattering3D(**p, method="local", points=points)(x), expected) < 1e-9


@settings(max_examples=15)
@given(parameters(st.floats(2.2, 3.0)), st.integers(0, 2**32))
def test_standard_gives_the_smoothed_modulus_decimated(p, seed):
    p.pop("integral_powers")
    x = np.random.default_rng(seed).standard_normal((2, *p["shape"]))
    step = 2 ** p["J"]

    def keep(u, _s):
        smooth = by_fft(u, gaussian(p["shape"], p["sigma_0"] * step)).real
        return smooth[..., ::step, ::step, ::step]

    expected = cascade(
        x, p["J"], p["L"], p["sigma_0"], p["max_order"], p["rotation_covariant"], keep
    )
    found = HarmonicScattering3D(**p, method="standard")(x)
    assert np.abs(found - expected).max() < 1e-9 * np.abs(expected).max()


@pytest.mark.parametrize("covariant", [True, False])
@pytest.mark.parametrize("shape", [(5, 5, 5), (4, 6, 7), (2, 3, 11)])
def test_tiny_volumes_agree_with_sums_over_voxels(shape, covariant, rng):
    x = rng.standard_normal((2, *shape))
    S = HarmonicScattering3D(1, shape, L=2, sigma_0=2.2, rotation_covariant=covariant)
    expected = cascade(x, 1, 2, 2.2, 2, covariant, integrals((0.5, 1.0, 2.0)), convolve=by_hand)
    assert error(S(x), expected) < 1e-9
