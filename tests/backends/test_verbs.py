"""The verbs of NumPy's and CuPy's backends against the same in a few dense lines."""

import math

import numpy as np
import pytest
from host_cupy import FromHost, cupy_or_its_stand_in
from hypothesis import given
from hypothesis import strategies as st

from scatflow.backends.choose import backend as choose
from scatflow.backends.protocol import Keep, Lowpass, Mean, PowerSums, Samples
from scatflow.wavelets.solid_harmonic import SolidHarmonic, gaussian_factors
from scatflow.wavelets.support import Band

seeds = st.integers(0, 2**32 - 1)


ON_A_GPU = pytest.param("cupy on a GPU", marks=pytest.mark.gpu)


@pytest.fixture(scope="module", params=["plain", "numpy", "cupy", ON_A_GPU])
def backend(request):
    if "cupy" not in request.param:
        yield choose(request.param)
        return
    with cupy_or_its_stand_in(request.param != "cupy") as cupy:
        yield FromHost(choose("cupy"), cupy)


def decimated(z, steps):
    """Every step-th sample along the last axes."""
    return z[(..., *(slice(None, None, step) for step in steps))]


@st.composite
def grids(draw, ndim):
    """A decimated grid, the steps to it, and a cyclic box of bins."""
    target = tuple(draw(st.integers(1, 8)) for _ in range(ndim))
    steps = tuple(draw(st.sampled_from([1, 2, 3, 4])) for _ in range(ndim))
    shape = tuple(n * step for n, step in zip(target, steps, strict=True))
    starts = tuple(draw(st.integers(0, n - 1)) for n in shape)
    widths = tuple(draw(st.integers(1, n)) for n in shape)
    return target, steps, shape, starts, widths


@pytest.mark.parametrize("ndim", [1, 2])
@given(data=st.data(), seed=seeds)
def test_wavelet_modulus_multiplies_inverts_and_decimates(backend, ndim, data, seed):
    target, steps, shape, _, _ = data.draw(grids(ndim))
    rng = np.random.default_rng(seed)
    bands = []
    for _ in range(3):
        starts = tuple(int(rng.integers(n)) for n in shape)
        widths = tuple(int(rng.integers(1, n + 1)) for n in shape)
        bands.append(Band(starts, rng.standard_normal(widths), shape))
    u = rng.standard_normal((2, 2, *shape))
    axes = tuple(range(-ndim, 0))
    stage = backend.prepare(bands, target, np.dtype(np.float64))
    found = backend.wavelet_modulus(backend.spectrum(u, ndim), stage, slice(1, 3))
    dense = np.stack([band.dense() for band in bands[1:]])
    z = np.fft.ifftn(np.fft.fftn(u, axes=axes)[:, :, None] * dense, axes=axes)
    np.testing.assert_allclose(found, np.abs(decimated(z, steps)), atol=1e-12)


@given(grids(1), seeds)
def test_a_band_is_used_whole_wherever_it_lies(backend, grid, seed):
    target, steps, shape, starts, widths = grid
    rng = np.random.default_rng(seed)
    band = Band(starts, rng.standard_normal(widths), shape)
    u = rng.standard_normal((1, 1, *shape))
    stage = backend.prepare([band], target, np.dtype(np.float64))
    found = backend.wavelet_modulus(backend.spectrum(u, 1), stage, slice(0, 1))
    z = np.fft.ifft(np.fft.fft(u) * band.dense())
    np.testing.assert_allclose(found[:, 0], np.abs(decimated(z, steps)), atol=1e-12)


@given(st.integers(1, 12), st.sampled_from([1, 2, 3, 4, 8]), seeds)
def test_a_low_pass_filters_and_decimates(backend, n_out, step, seed):
    rng = np.random.default_rng(seed)
    n = n_out * step
    kept = int(rng.integers(1, n // 2 + 2))
    half = np.zeros(n // 2 + 1)
    half[:kept] = rng.standard_normal(kept)
    whole = half[np.minimum(np.arange(n), n - np.arange(n))]
    u = rng.standard_normal((2, 3, n))
    how = Lowpass((half[:kept],), (n_out,), (slice(0, n_out),))
    expected = np.fft.ifft(np.fft.fft(u) * whole).real[..., ::step]
    np.testing.assert_allclose(backend.average(u, how), expected, atol=1e-12)
    known = backend.average(u, how, backend.spectrum(u, 1))
    np.testing.assert_allclose(known, expected, atol=1e-12)


@given(st.tuples(st.integers(1, 6), st.integers(1, 6)), st.sampled_from([1, 2, 4]), seeds)
def test_a_separable_low_pass_filters_both_axes(backend, target, step, seed):
    rng = np.random.default_rng(seed)
    shape = tuple(n * step for n in target)
    halves = [rng.standard_normal(n // 2 + 1) for n in shape]
    rows, columns = (
        half[np.minimum(np.arange(n), n - np.arange(n))]
        for half, n in zip(halves, shape, strict=True)
    )
    u = rng.standard_normal((2, 3, *shape))
    crop = (slice(1, None), slice(0, -1))
    found = backend.average(u, Lowpass(tuple(halves), target, crop), backend.spectrum(u, 2))
    z = np.fft.ifft2(np.fft.fft2(u) * np.outer(rows, columns)).real
    np.testing.assert_allclose(found, z[..., ::step, ::step][..., 1:, :-1], atol=1e-12)


def test_a_wavelet_multiplies_inverts_and_decimates_without_a_modulus(backend, rng):
    n, target = 48, (12,)
    u, band = rng.standard_normal((2, 3, n)), Band((2,), rng.standard_normal(14), (n,))
    stage = backend.prepare([band, band], target, np.dtype(np.float64))
    y = backend.wavelet(backend.spectrum(u, 1), stage, slice(1, 2))
    expected = np.fft.ifft(np.fft.fft(u) * band.dense())[..., ::4]
    np.testing.assert_allclose(y, expected[:, :, None], atol=1e-13)


@st.composite
def joint_bands(draw):
    """A length, a divisor of it, and filters on the former."""
    target, aliases = draw(st.integers(1, 20)), draw(st.sampled_from([1, 2, 4]))
    n = target * aliases
    rng = np.random.default_rng(draw(seeds))
    bands = [
        Band((draw(st.integers(0, n - 1)),), rng.standard_normal(draw(st.integers(1, n))), (n,))
        for _ in range(draw(st.integers(1, 3)))
    ]
    return n, target, bands, draw(st.integers(1, n)), rng


@given(joint_bands(), st.sampled_from(["keep", "mean", "lowpass"]), st.booleans())
def test_rows_are_filtered_along_their_own_axis(backend, given_bands, kind, real):
    n, target, bands, rows, rng = given_bands
    y = rng.standard_normal((2, rows, 19)) + (0 if real else 1j) * rng.standard_normal(
        (2, rows, 19)
    )
    stage = backend.prepare_joint(bands, target, np.dtype(np.float64))
    padded = np.concatenate([y, np.zeros((2, n - rows, 19))], axis=1)
    dense = np.stack([band.dense() for band in bands])
    u = np.abs(np.fft.ifft(np.fft.fft(padded, axis=1)[:, None] * dense[..., None], axis=2))
    u = u[:, :, :: n // target]  # (batch, filters, target, time)
    kept = (target + 1) // 2
    if kind == "keep":
        how, expected = Keep((slice(0, kept),)), u[:, :, :kept]
    elif kind == "mean":
        how, expected = Mean((slice(0, kept),)), u[:, :, :kept].mean(axis=2, keepdims=True)
    else:
        factor = rng.standard_normal(target // 2 + 1)
        how = Lowpass((factor,), (target,), (slice(0, kept),))
        spectrum = np.fft.rfft(u, axis=2) * factor[:, None]
        expected = np.fft.irfft(spectrum, target, axis=2)[:, :, :kept]
    cut = rows // 2
    found = backend.joint_modulus([y[:, :cut], y[:, cut:]], stage, how)
    np.testing.assert_allclose(found, expected, atol=1e-11)


def test_rows_of_lengths_with_large_prime_factors(backend, rng):
    y = rng.standard_normal((1, 3, 5))
    bands = [Band((3,), rng.standard_normal(9), (2 * 257,))]
    stage = backend.prepare_joint(bands, 257, np.dtype(np.float64))
    u = backend.joint_modulus([y], stage, Keep((slice(0, 257),)))
    z = np.fft.fft(y, 514, axis=1) * bands[0].dense()[:, None]
    np.testing.assert_allclose(u[:, 0], np.abs(np.fft.ifft(z, axis=1))[:, ::2], atol=1e-13)


def test_keeping_crops_and_a_mean_is_taken_inside_the_crop(backend, rng):
    u = rng.standard_normal((2, 3, 20))
    crop = (slice(4, 15),)
    np.testing.assert_array_equal(backend.average(u, Keep(crop)), u[..., 4:15])
    np.testing.assert_allclose(
        backend.average(u, Mean(crop)), u[..., 4:15].mean(axis=-1, keepdims=True), rtol=1e-14
    )


def test_power_sums_sum_powers(backend, rng):
    u = np.abs(rng.standard_normal((2, 3, 4, 5, 6)))
    found = backend.average(u, PowerSums((0.5, 1.0, 2.0, 3.5)))
    expected = [(u**p).sum(axis=(2, 3, 4)) for p in (0.5, 1.0, 2.0, 3.5)]
    np.testing.assert_allclose(found, np.stack(expected, axis=-1), rtol=1e-13)


def test_power_sums_of_float32_are_rounded_once(backend, rng):
    u = np.abs(rng.standard_normal((1, 1, 20, 30, 40))).astype(np.float32)
    found = backend.average(u, PowerSums((1.0,)))
    assert found.dtype == np.float32
    assert found[0, 0, 0] == np.float32(math.fsum(u.ravel()))


@pytest.mark.parametrize("known", [True, False])
def test_samples_are_those_of_the_smoothed_volume(backend, known, rng):
    shape = (6, 7, 8)
    u = rng.standard_normal((2, 1, *shape))
    w = np.meshgrid(*(2 * np.pi * np.fft.fftfreq(n) for n in shape), indexing="ij")
    gauss = np.exp(-sum(a**2 for a in w) * 1.5**2 / 2)
    smooth = np.fft.ifftn(np.fft.fftn(u, axes=(2, 3, 4)) * gauss, axes=(2, 3, 4)).real
    factors = gaussian_factors(shape, 1.5)
    u_hat = backend.spectrum(u, 3) if known else None
    maps = backend.average(u, Samples(factors, (2, 3, 4)), u_hat)
    np.testing.assert_allclose(maps, smooth[..., ::2, ::3, ::4], atol=1e-13)
    points = np.array([[0, 0, 0], [5, 6, 7]])
    values = backend.average(u, Samples(factors, points), u_hat)
    np.testing.assert_allclose(values[..., 1], smooth[..., 5, 6, 7], atol=1e-13)


@given(
    st.integers(0, 3),
    st.tuples(*[st.integers(4, 11)] * 3),
    st.floats(0.8, 4.0),
    st.booleans(),
    seeds,
)
def test_harmonic_moduli_are_those_of_dense_filters(backend, l, shape, s, covariant, seed):
    # The filters themselves are tested against their formula elsewhere; here, that cutting them
    # to a box, half spectra and pruned inverses change nothing.
    filters = SolidHarmonic(l, s, shape, covariant, 1e-16)
    u = np.random.default_rng(seed).standard_normal((1, 2, *shape))
    stage = backend.prepare(filters, shape, np.dtype(np.float64))
    found = backend.wavelet_modulus(backend.spectrum(u, 3), stage, slice(0, 1))
    power = np.zeros(u.shape)
    spectrum = np.fft.fftn(u, axes=(2, 3, 4))
    bins = [
        np.arange(n) if 2 * b + 1 >= n else np.r_[0 : b + 1, n - b : n]
        for b, n in zip(filters.half_widths, shape, strict=True)
    ]
    for component in filters.components(np.dtype(np.float64)):
        dense = np.zeros(shape, component.dtype)
        if filters.real:  # completed by the parity of its degree
            half = np.ix_(bins[0], bins[1], np.arange(component.shape[2]))
            dense[half] = component
            mirror = np.roll(np.flip(dense), 1, axis=(0, 1, 2)) * (-1) ** l
            upper = slice(shape[2] // 2 + 1, None)
            dense[..., upper] = mirror[..., upper]
        else:
            dense[np.ix_(*bins)] = component
        power += np.abs(np.fft.ifftn(spectrum * dense, axes=(2, 3, 4))) ** 2
    np.testing.assert_allclose(found[:, :, 0], np.sqrt(power), atol=1e-10 * np.sqrt(power).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("before", "after"), [((3,), (4,)), ((9,), (9,)), ((0,), (0,))])
def test_padding_reflects_without_repeating_the_edge(backend, before, after, dtype):
    x = np.arange(10, dtype=dtype)[None]
    y = backend.pad(x, before, after)
    assert y.dtype == dtype
    k = np.arange(-before[0], 10 + after[0])
    expected = 9 - np.abs(9 - np.abs(k))  # up and down again
    np.testing.assert_array_equal(y[0], expected)


def test_padding_beyond_one_reflection_goes_on_reflecting(backend):
    y = backend.pad(np.arange(3.0)[None], (5,), (5,))[0]
    period = 4
    k = np.arange(-5, 8) % period
    np.testing.assert_array_equal(y, np.minimum(k, period - k))


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_the_spectrum_is_half_of_the_dft(backend, ndim, rng):
    u = rng.standard_normal((2, 1, *(5, 6, 7)[:ndim]))
    axes = tuple(range(-ndim, 0))
    expected = np.fft.fftn(u, axes=axes)[..., : u.shape[-1] // 2 + 1]
    np.testing.assert_allclose(backend.spectrum(u, ndim), expected, atol=1e-12)
    assert backend.spectrum(u.astype(np.float32), ndim).dtype == np.complex64
