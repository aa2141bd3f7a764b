"""Fields of volumes through lanes against the reference, and what they count in memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scatflow.backends import codelets, harmonic, plain
from scatflow.wavelets import solid_harmonic
from scatflow.wavelets.solid_harmonic import SolidHarmonic

sides = st.integers(1, 40).filter(codelets.splits)
shapes = st.tuples(sides, sides, sides)


def spectra(shape, dtype, count, seed):
    """Half spectra ``(count, 1, ...)`` of noise."""
    x = np.random.default_rng(seed).standard_normal((count, 1, *shape))
    return np.fft.rfftn(x, axes=(-3, -2, -1)).astype(np.result_type(dtype, np.complex64))


@pytest.mark.parametrize("published", [True, False])
@given(
    l=st.integers(0, 4), s=st.sampled_from([1.0, 1.3, 2.0, 3.7]), shape=shapes,
    covariant=st.booleans(), count=st.integers(1, 3),
    dtype=st.sampled_from([np.float32, np.float64]), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_moduli(published, l, s, shape, covariant, count, dtype, seed):
    dtype = np.dtype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        if not published:  # as large volumes have them
            patch.setattr(solid_harmonic, "PUBLISHED_VOXELS", 0)
        filters = SolidHarmonic(l, s, shape, covariant, 1e-7 if dtype == np.float32 else 1e-12)
        stage = harmonic.prepare(filters, dtype)
        if stage is None:
            assert filters.l > 0
            assert filters.touches_nyquist
            assert not covariant
            return
        u_hat = spectra(shape, dtype, count, seed)
        found = harmonic.modulus(u_hat, stage)
        reference = plain.Plain(np)
        slow = reference.prepare(filters, shape, np.dtype(np.float64))
        true = reference.wavelet_modulus(u_hat.astype(complex), slow, slice(0, 1))[:, :, 0]
    assert found.dtype == dtype
    far = np.linalg.norm(found - true)
    allowed = (1e-6 if dtype == np.float32 else 1e-12) * np.linalg.norm(true)
    if not filters.touches_nyquist and any(
        2 * b == n for b, n in zip(filters.half_widths, shape, strict=True)
    ):
        # What lies below a millionth of a filter's peak at the Nyquist planes is treated otherwise.
        allowed += 3 * solid_harmonic.NYQUIST_EPS * np.linalg.norm(u_hat) / np.sqrt(true[0].size)
    assert far <= allowed


@given(shape=shapes, l=st.integers(0, 3), s=st.sampled_from([1.0, 2.5]), seed=st.integers(0, 999))
def test_a_volume_s_bits_do_not_depend_on_its_companions(shape, l, s, seed):
    stage = harmonic.prepare(SolidHarmonic(l, s, shape, True, 1e-7), np.dtype(np.float32))
    u_hat = spectra(shape, np.float32, 3, seed)
    together = harmonic.modulus(u_hat, stage)
    u_hat[0] = np.nan
    harmonic.modulus(u_hat[:1], stage)
    np.testing.assert_array_equal(harmonic.modulus(u_hat, stage)[1:], together[1:])


def test_lengths_that_lanes_do_not_split_are_left_to_the_reference():
    assert harmonic.prepare(SolidHarmonic(1, 2.0, (257, 4, 4), True, 1e-7), np.dtype("f4")) is None
