"""What goes in: types, layouts, batches. What a signal gives depends on the signal alone."""

import numpy as np
import pytest
import scipy.fft

import scatflow.backends.numpy as numpy_backend
from scatflow import (
    HarmonicScattering3D,
    Scattering1D,
    Scattering2D,
    TimeFrequencyScattering,
)
from scatflow.backends import fft
from scatflow.engines.plan import PLANS

ENGINES = [
    Scattering1D(4, 256, Q=4),
    Scattering1D(5, 500, Q=8, T=100, stride=8),
    Scattering1D(3, 37),
    Scattering1D(4, 300, Q=2, T=0, out_type="list"),
    Scattering1D(4, 300, Q=2, T="global"),
    Scattering2D(2, (32, 32), L=4),
    Scattering2D(3, (41, 37), L=3, pyramid="fold"),
    HarmonicScattering3D(1, (12, 10, 8), L=2),
    HarmonicScattering3D(1, (9, 10, 11), L=2, sigma_0=2.5),
    HarmonicScattering3D(1, (9, 10, 11), L=1, method="standard"),
    HarmonicScattering3D(1, (9, 10, 11), L=1, sigma_0=3, method="local", points=[(1, 2, 3)]),
    TimeFrequencyScattering(4, 2, 3, 130),
    TimeFrequencyScattering(4, 2, 3, 130, T=0, F=0, out_type="list", format="joint"),
]

engines = pytest.mark.parametrize("S", ENGINES, ids=lambda S: f"{S.kind}-{ENGINES.index(S)}")
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def parts(y):
    return [path["coef"] for path in y] if isinstance(y, list) else [y]


def assert_same_bits(y, expected):
    for mine, yours in zip(parts(y), expected, strict=True):
        assert mine.dtype == yours.dtype
        np.testing.assert_array_equal(mine, yours)


# --- companions, layout, alignment -----------------------------------------------------------


@engines
@dtypes
def test_a_signal_gives_the_same_bits_in_any_company(S, dtype, rng):
    x = rng.standard_normal((37, *S.shape)).astype(dtype)
    together = parts(S(x))
    for count in (1, 2, 3, 8, 17):
        assert_same_bits(S(x[:count]), [y[:count] for y in together])
    assert_same_bits(S(x[11]), [y[11] for y in together])
    assert_same_bits(S(x[1:].reshape(3, 12, *S.shape)), [
        y[1:].reshape(3, 12, *y.shape[1:]) for y in together
    ])  # fmt: skip


@engines
@dtypes
def test_a_signal_gives_the_same_bits_wherever_it_lies_in_memory(S, dtype, rng):
    x = rng.standard_normal((5, *S.shape)).astype(dtype)
    expected = parts(S(x))
    assert_same_bits(S(np.asfortranarray(x)), expected)
    assert_same_bits(S(x[..., ::-1].copy()[..., ::-1]), expected)
    spread = np.zeros((10, *(2 * n for n in S.shape)), dtype)
    spread[(slice(None, None, 2),) * x.ndim] = x
    assert_same_bits(S(spread[(slice(None, None, 2),) * x.ndim]), expected)
    raw = np.zeros(x.nbytes + 64, np.uint8)
    for offset in (1, 4, 12, 20):
        shifted = raw[offset : offset + x.nbytes].view(dtype).reshape(x.shape)
        shifted[...] = x
        assert_same_bits(S(shifted), expected)
    frozen = x.copy()
    frozen.flags.writeable = False
    assert_same_bits(S(frozen), expected)


@dtypes
def test_blocks_of_a_periodic_plan_do_not_see_each_other_either(dtype, rng):
    for S, shape in ((Scattering1D(5, Q=8), (960,)), (Scattering2D(2, L=4), (48, 32))):
        plan = S.plan(shape, dtype, "periodic")
        x = rng.standard_normal((29, *shape)).astype(dtype)
        together = plan.apply(x)
        for count in (1, 2, 7):
            np.testing.assert_array_equal(plan.apply(x[:count]), together[:count])


@engines
def test_the_input_is_left_alone(S, rng):
    x = rng.standard_normal((2, *S.shape))
    kept = x.copy()
    S(x)
    np.testing.assert_array_equal(x, kept)


@engines
@pytest.mark.parametrize("batch", [(), (1,), (2, 3), (1, 1, 2)])
def test_batch_axes_come_out_as_they_went_in(S, batch, rng):
    x = rng.standard_normal((*batch, *S.shape))
    single = parts(S(np.zeros(S.shape)))
    assert [y.shape for y in parts(S(x))] == [(*batch, *y.shape) for y in single]


@pytest.mark.parametrize("S", ENGINES, ids=lambda S: f"{S.kind}-{ENGINES.index(S)}")
@pytest.mark.parametrize("batch", [(0,), (2, 0), (0, 3)])
def test_no_signals_give_no_coefficients_of_the_right_shape(S, batch):
    single = parts(S(np.zeros(S.shape, np.float32)))
    empty = parts(S(np.zeros((*batch, *S.shape), np.float32)))
    assert [y.shape for y in empty] == [(*batch, *y.shape) for y in single]
    assert all(y.dtype == np.float32 for y in empty)


@engines
def test_without_a_shape_each_input_brings_its_own(S, rng):
    options = S.to_dict()
    options.pop("kind")
    free = type(S)(**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
                   | {"shape": None})  # fmt: skip
    x = rng.standard_normal((2, *S.shape))
    assert_same_bits(free(x), parts(S(x)))
    other = tuple(n + 3 for n in S.shape)
    larger = type(S)(**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
                     | {"shape": other})  # fmt: skip
    x = rng.standard_normal(other)
    assert_same_bits(free(x), parts(larger(x)))


# --- precision -------------------------------------------------------------------------------

RULES = {
    "?": "f4", "i1": "f4", "u1": "f4", "i2": "f4", "u2": "f4", "f2": "f4", "f4": "f4",
    "i4": "f8", "u4": "f8", "i8": "f8", "u8": "f8", "f8": "f8",
    ">f4": "f4", ">f8": "f8", ">i2": "f4", ">u4": "f8", "<f2": "f4",
}  # fmt: skip


@pytest.mark.parametrize(("given", "computed"), RULES.items())
def test_types_are_computed_in_their_precision(given, computed, rng):
    S = Scattering1D(3, 64)
    x = rng.integers(0, 2 if given == "?" else 100, 64).astype(given)
    y = S(x)
    assert y.dtype == np.dtype(computed)
    assert y.dtype.isnative
    np.testing.assert_array_equal(y, S(x.astype(computed)))


@pytest.mark.parametrize("S", [Scattering2D(1, (8, 8), L=2), HarmonicScattering3D(1, (6, 6, 6))])
def test_images_and_volumes_follow_the_same_rules(S, rng):
    x = rng.integers(0, 100, S.shape)
    for given, computed in (("u1", "f4"), (">f8", "f8"), ("f2", "f4"), ("i8", "f8")):
        y = S(x.astype(given))
        assert y.dtype == np.dtype(computed)
        np.testing.assert_array_equal(y, S(x.astype(computed)))


def test_lists_of_numbers_are_arrays_of_numbers():
    x = [float(i % 7) for i in range(64)]
    np.testing.assert_array_equal(Scattering1D(3, 64)(x), Scattering1D(3, 64)(np.array(x)))


@pytest.mark.parametrize(
    "x",
    [
        None,
        np.zeros(64, np.complex64),
        np.zeros(64, np.complex128),
        np.zeros(64, object),
        np.array(["a"] * 64),
        np.zeros(64, "M8[s]"),
        np.zeros(64, "m8[s]"),
        np.zeros(64, [("a", "f4")]),
        np.ma.masked_less(np.arange(64.0), 3),
    ],
    ids=["None", "complex64", "complex128", "object", "str", "date", "duration", "record", "mask"],
)
def test_what_is_not_real_numbers_is_refused(x):
    with pytest.raises(TypeError, match="The input should be"):
        Scattering1D(3, 64)(x)


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="long double is float64 here")
def test_more_than_64_bits_are_refused_rather_than_dropped():
    with pytest.raises(TypeError, match="at most 64 bits"):
        Scattering1D(3, 64)(np.zeros(64, np.longdouble))


def test_a_mask_that_hides_nothing_is_no_mask(rng):
    x = rng.standard_normal(64)
    S = Scattering1D(3, 64)
    np.testing.assert_array_equal(S(np.ma.array(x)), S(x))


@engines
def test_float32_stays_float32_throughout(S, monkeypatch, rng):
    """Every array that a verb or an FFT takes or gives is single precision.

    But for the spectra of small volumes, which are rounded once, when they are complete.
    """
    seen = []
    monkeypatch.setattr(numpy_backend, "program", lambda *_: None)  # verb by verb

    def spied(function):
        def spy(*args, **options):
            result = function(*args, **options)
            arrays = [a for a in (*args, result) if isinstance(a, np.ndarray)]
            seen.extend(a.dtype for a in arrays if a.dtype.kind in "fc")
            return result

        return spy

    x = rng.standard_normal((2, *S.shape)).astype(np.float32)
    PLANS.clear()
    S(x)  # plans, and the constants in them, are made in float64
    for name in ("pad", "spectrum", "wavelet_modulus", "average"):
        monkeypatch.setattr(numpy_backend, name, spied(getattr(numpy_backend, name)))
    for name in ("fft", "ifft", "rfft", "irfft", "fftn", "ifftn", "rfftn", "irfftn"):
        monkeypatch.setattr(scipy.fft, name, spied(getattr(scipy.fft, name)))
    for name in ("ifft", "irfft"):
        monkeypatch.setattr(fft, name, spied(getattr(fft, name)))
    y = S(x)
    assert all(part.dtype == np.float32 for part in parts(y))
    assert len(seen) > 10
    double = {np.dtype(np.float64), np.dtype(np.complex128)} if S.ndim == 3 else set()
    assert set(seen) - double <= {np.dtype(np.float32), np.dtype(np.complex64)}


def test_a_whole_transform_in_one_call_holds_single_precision():
    plan = Scattering1D(4, (256,), Q=2).plan()
    if plan.program is not None:  # where MKL serves
        floats = [a for a in plan.program.kept if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
        assert floats
        assert {a.dtype for a in floats} == {np.dtype(np.float32)}


@engines
@dtypes
def test_zeros_give_zeros(S, dtype):
    for y in parts(S(np.zeros(S.shape, dtype))):
        assert not y.any()


def test_one_bad_sample_spoils_its_own_signal_only(rng):
    S = Scattering1D(3, 128)
    x = rng.standard_normal((3, 128))
    clean = S(x)
    x[1, 5] = np.nan
    y = S(x)
    assert np.isnan(y[1]).all()
    np.testing.assert_array_equal(y[[0, 2]], clean[[0, 2]])
