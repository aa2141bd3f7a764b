"""Arrays of any library that speaks the array API standard, through the reference backend."""

import types
import warnings

import array_api_strict as strict
import dask.array
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import scatflow
from scatflow.backends import choose
from scatflow.engines.plan import PLANS
from scatflow.errors import InputShapeError, InputTypeError

ENGINES = {
    "1d": (scatflow.Scattering1D(3, 32, (2, 1)), (2, 32)),
    "1d list": (scatflow.Scattering1D(3, 32, 2, T=0, out_type="list"), (32,)),
    "1d global": (scatflow.Scattering1D(3, 32, 2, T="global"), (1, 2, 32)),
    "joint": (scatflow.TimeFrequencyScattering(3, 2, 2, 32), (2, 32)),
    "joint dict": (
        scatflow.TimeFrequencyScattering(3, 2, 2, 32, format="joint", out_type="dict"),
        (32,),
    ),
    "2d": (scatflow.Scattering2D(2, (8, 6), 2), (2, 8, 6)),
    "2d dict": (scatflow.Scattering2D(1, (4, 6), 2, out_type="dict"), (1, 4, 6)),
    "3d": (scatflow.HarmonicScattering3D(1, (4, 5, 4), 1), (2, 4, 5, 4)),
    "3d powers": (
        scatflow.HarmonicScattering3D(1, (5, 5, 5), 2, integral_powers=(0.3, 1.0, 3.0)),
        (5, 5, 5),
    ),
    "3d standard": (scatflow.HarmonicScattering3D(1, (4, 5, 4), 1, method="standard"), (4, 5, 4)),
    "3d local": (
        scatflow.HarmonicScattering3D(1, (5, 4, 4), 1, method="local", points=((1, 2, 3),)),
        (5, 4, 4),
    ),
}
engines = pytest.mark.parametrize("name", ENGINES)
precisions = st.sampled_from([np.float32, np.float64])
ERROR = {np.float32: 2e-6, np.float64: 1e-10}


@pytest.fixture(autouse=True)
def as_strict_as_can_be():
    """Nothing but the standard and its FFT: no shapes that depend on data, no boolean indices."""
    flags = {"data_dependent_shapes": False, "boolean_indexing": False}
    with strict.ArrayAPIStrictFlags(**flags, enabled_extensions=("fft",)):
        yield


def arrays(y):
    """What an engine gave, as one tuple."""
    if isinstance(y, tuple):
        return y
    if isinstance(y, dict):
        return tuple(y.values())
    return tuple(path["coef"] for path in y) if isinstance(y, list) else (y,)


def same(found, true, error):
    for a, b in zip(arrays(found), arrays(true), strict=True):
        assert tuple(a.shape) == b.shape
        assert np.linalg.norm(np.asarray(a) - b) <= error * np.linalg.norm(b)


def agree(engine, shape, dtype):
    """The standard's strictest arrays and NumPy's give the same."""
    x = np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)
    found = engine(strict.asarray(x))
    for value in arrays(found):
        assert type(value) is type(strict.asarray(x))
        assert value.dtype == getattr(strict, np.dtype(dtype).name)
    same(found, engine(x), ERROR[dtype])


@engines
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_engine_agrees_with_numpy(name, dtype):
    agree(*ENGINES[name], dtype)


@given(data=st.data())
@settings(max_examples=40)
def test_signals_of_any_kind(data):
    J = data.draw(st.integers(1, 6))
    N = data.draw(st.integers(2**J, 400))
    engine = scatflow.Scattering1D(
        J, N, (data.draw(st.integers(1, 9)), data.draw(st.integers(1, 3))),
        T=data.draw(st.sampled_from([None, 1, 2**J, "global"])),
        max_order=data.draw(st.integers(1, 2)),
        scaling=data.draw(st.sampled_from(["kymatio", "kymatio-0.3"])),
    )  # fmt: skip
    batch = data.draw(st.sampled_from([(), (1,), (0,), (2, 3)]))
    agree(engine, (*batch, N), data.draw(precisions))


@given(data=st.data())
@settings(max_examples=20)
def test_joint_transforms_of_any_kind(data):
    J = data.draw(st.integers(2, 5))
    engine = scatflow.TimeFrequencyScattering(
        J, data.draw(st.integers(1, 2)), data.draw(st.integers(1, 4)), 2 ** (J + 1) + 5,
        F=data.draw(st.sampled_from([None, 0, "global"])),
        format=data.draw(st.sampled_from(["time", "joint"])),
        out_type="list",
    )  # fmt: skip
    agree(engine, (2, *engine.shape), data.draw(precisions))


@given(data=st.data())
@settings(max_examples=30)
def test_images_of_any_kind(data):
    J = data.draw(st.integers(1, 3))
    shape = data.draw(st.tuples(*[st.integers(2**J, 40)] * 2))
    pyramid = data.draw(st.sampled_from(["scatnet", "fold"]))
    engine = scatflow.Scattering2D(J, shape, data.draw(st.integers(1, 4)), pyramid=pyramid)
    batch = data.draw(st.sampled_from([(), (2,), (1, 2)]))
    agree(engine, (*batch, *shape), data.draw(precisions))


@given(data=st.data())
@settings(max_examples=25)
def test_volumes_of_any_kind(data):
    shape = data.draw(st.tuples(*[st.integers(4, 9)] * 3))
    method = data.draw(st.sampled_from(["integral", "local", "standard"]))
    engine = scatflow.HarmonicScattering3D(
        data.draw(st.integers(0, 2)), shape, data.draw(st.integers(0, 3)), 1.0,
        rotation_covariant=data.draw(st.booleans()),
        method=method,
        points=((0, 1, 2), (3, 3, 3)) if method == "local" else None,
    )  # fmt: skip
    dtype = data.draw(precisions)
    x = np.random.default_rng(0).standard_normal((2, *shape)).astype(dtype)
    same(engine(strict.asarray(x)), engine(x), {np.float32: 5e-6, np.float64: 1e-9}[dtype])


@engines
def test_devices_are_followed(name):
    """Operations between devices are errors, so nothing is left on another one."""
    engine, shape = ENGINES[name]
    place = strict.Device("device1")
    x = np.random.default_rng(0).standard_normal(shape)
    found = engine(strict.asarray(x, device=place))
    assert {value.device for value in arrays(found)} == {place}
    for a, b in zip(arrays(found), arrays(engine(x)), strict=True):
        a = np.asarray(strict.asarray(a, device=strict.Device("CPU_DEVICE")))
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "becomes"),
    [("bool", "float32"), ("int16", "float32"), ("uint8", "float32"), ("int32", "float64")],
)
def test_precision(dtype, becomes):
    x = strict.ones(64, dtype=getattr(strict, dtype))
    assert scatflow.Scattering1D(3, 64)(x).dtype == getattr(strict, becomes)


def test_bad_arrays():
    engine = scatflow.Scattering1D(3, 64)
    with pytest.raises(InputTypeError, match="should be real, but it has dtype"):
        engine(strict.ones(64, dtype=strict.complex64))
    with pytest.raises(InputShapeError, match="at least one axis"):
        engine(strict.asarray(1.0))
    with pytest.raises(InputShapeError, match="was made"):
        engine(strict.ones(65))
    for backend in ("numpy", "torch"):
        with pytest.raises(InputTypeError, match="should be a NumPy array"):
            scatflow.Scattering1D(3, 64, backend=backend)(strict.ones(64))


def test_a_library_without_fft_is_refused():
    class Poor:
        def __array_namespace__(self):
            return types.SimpleNamespace(__name__="poor")

    with pytest.raises(InputTypeError, match="array of poor, which has no FFT"):
        scatflow.Scattering1D(3, 64)(Poor())


def test_the_reference_may_be_asked_for(rng):
    x = rng.standard_normal(64)
    S = scatflow.Scattering1D(3, 64, backend="plain")
    np.testing.assert_array_equal(np.asarray(S(strict.asarray(x))), S(x))


@pytest.mark.parametrize("convert", [xr.DataArray, dask.array.from_array, list, np.ma.asarray])
def test_what_numpy_understands_stays_numpys(convert, rng):
    x = rng.standard_normal(64)
    S = scatflow.Scattering1D(3, 64)
    assert choose.library(convert(x)) == "numpy"
    found = S(convert(x))
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(found, S(x))


# --- JAX -----------------------------------------------------------------------------------
#
# What is not compiled as a whole, JAX compiles operation by operation, for each of their shapes:
# seconds for the smallest engine.

SMALL = scatflow.Scattering1D(1, 8, max_order=1)


@engines
def test_jax_compiles(name, rng):
    engine, shape = ENGINES[name]
    PLANS.clear()  # so that the first call, which is traced, makes the filters
    x = rng.standard_normal(shape).astype(np.float32)
    with jax.checking_leaks():
        found = jax.jit(lambda x: arrays(engine(x)))(x)
    assert all(isinstance(value, jax.Array) for value in found)
    same(found, engine(x), 2e-6)


@engines
def test_jax_differentiates_as_torch_does(name, rng):
    engine, shape = ENGINES[name]
    x, direction = rng.standard_normal((2, *shape))

    def loss(x):
        return sum((a**2).sum() for a in arrays(engine(x)))

    with jax.enable_x64(True):
        derivatives = jax.jit(lambda x, d: jax.jvp(jax.grad(loss), (x,), (d,)))
        slope, curvature = map(np.asarray, derivatives(x, direction))
        at_zero = derivatives(0 * x, direction)
    y = torch.from_numpy(x).requires_grad_()
    (true,) = torch.autograd.grad(loss(y), y, create_graph=True)
    (second,) = torch.autograd.grad(true, y, torch.from_numpy(direction))
    np.testing.assert_allclose(slope, true.detach(), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(curvature, second, rtol=1e-6, atol=1e-6)
    assert all(np.isfinite(derivative).all() for derivative in at_zero)


def test_jax_gets_its_own_arrays(rng):
    x = rng.standard_normal((3, 8)).astype(np.float32)
    found = SMALL(jnp.asarray(x))
    assert isinstance(found, jax.Array)
    same(found, SMALL(x), 2e-6)
    same(jax.jit(jax.vmap(SMALL))(x), SMALL(x), 2e-6)


def test_wide_numbers_where_there_are_none():
    """Without 64 bits, which JAX has only on request, wide integers are computed in 32."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert jax.jit(SMALL)(jnp.arange(8)).dtype == jnp.float32
    with jax.enable_x64(True):
        assert jax.jit(SMALL)(jnp.arange(8)).dtype == jnp.float64
