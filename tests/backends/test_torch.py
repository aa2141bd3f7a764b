"""Tensors: the same numbers as NumPy, derivatives, and what traces or differentiates them."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

import scatflow
from scatflow.backends import choose
from scatflow.engines.plan import PLANS
from scatflow.errors import BackendError, InputShapeError, InputTypeError

ENGINES = {
    "1d": (scatflow.Scattering1D(3, 16, (2, 1)), (2, 16)),
    "1d list": (scatflow.Scattering1D(3, 16, 2, T=0, out_type="list"), (1, 16)),
    "1d global": (scatflow.Scattering1D(3, 16, 2, T="global"), (1, 16)),
    "2d": (scatflow.Scattering2D(1, (4, 6), 2), (1, 4, 6)),
    "2d dict": (scatflow.Scattering2D(1, (4, 6), 2, out_type="dict"), (1, 4, 6)),
    "3d": (scatflow.HarmonicScattering3D(1, (4, 5, 4), 1), (1, 4, 5, 4)),
    "3d odd": (scatflow.HarmonicScattering3D(1, (5, 5, 5), 2, max_order=1), (1, 5, 5, 5)),
    "3d standard": (scatflow.HarmonicScattering3D(1, (4, 5, 4), 1, method="standard"), (4, 5, 4)),
    "3d local": (
        scatflow.HarmonicScattering3D(1, (5, 4, 4), 1, method="local", points=((1, 2, 3),)),
        (5, 4, 4),
    ),
    "timefrequency": (scatflow.TimeFrequencyScattering(3, 1, 2, 16), (2, 16)),
    "timefrequency list": (
        scatflow.TimeFrequencyScattering(3, 2, 2, 16, T=0, F=0, out_type="list", format="joint"),
        (1, 16),
    ),
    "timefrequency joint": (
        scatflow.TimeFrequencyScattering(3, 1, 2, 16, T="global", F="global", format="joint"),
        (1, 16),
    ),
}
engines = pytest.mark.parametrize("name", ENGINES)
ERROR = {np.float32: 1e-6, np.float64: 1e-10}


def arrays(y):
    """What an engine gave, as one tuple."""
    if isinstance(y, dict):
        return tuple(y.values())
    return tuple(path["coef"] for path in y) if isinstance(y, list) else (y,)


def traced(x):
    """Convert to a tensor that NumPy may not compute."""
    return torch.from_numpy(x).requires_grad_()


def same(found, true, dtype):
    for a, b in zip(arrays(found), arrays(true), strict=True):
        assert a.dtype == torch.from_numpy(b).dtype
        assert a.shape == b.shape
        distance = np.linalg.norm(a.detach().numpy() - b)
        assert distance <= ERROR[dtype] * np.linalg.norm(b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@engines
def test_every_engine_agrees_with_numpy(name, dtype, rng):
    engine, shape = ENGINES[name]
    x = rng.standard_normal(shape).astype(dtype)
    same(engine(traced(x)), engine(x), dtype)


@given(data=st.data())
@settings(max_examples=60)
def test_signals_of_any_kind(data):
    J = data.draw(st.integers(1, 6))
    N = data.draw(st.integers(2**J, 400))
    engine = scatflow.Scattering1D(
        J, N, (data.draw(st.integers(1, 9)), data.draw(st.integers(1, 3))),
        T=data.draw(st.sampled_from([None, 1, 2**J, "global"])),
        max_order=data.draw(st.integers(1, 2)),
    )  # fmt: skip
    batch = data.draw(st.sampled_from([(), (1,), (2, 3)]))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    x = np.random.default_rng(N).standard_normal((*batch, N)).astype(dtype)
    same(engine(traced(x)), engine(x), dtype)


@given(data=st.data())
@settings(max_examples=40)
def test_images_of_any_kind(data):
    J = data.draw(st.integers(1, 3))
    shape = data.draw(st.tuples(*[st.integers(2**J, 50)] * 2))
    pyramid = data.draw(st.sampled_from(["scatnet", "fold"]))
    engine = scatflow.Scattering2D(J, shape, data.draw(st.integers(1, 4)), pyramid=pyramid)
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    x = np.random.default_rng(J).standard_normal((2, *shape)).astype(dtype)
    same(engine(traced(x)), engine(x), dtype)


def test_long_signals_are_averaged_in_fourier(rng):
    engine = scatflow.Scattering1D(6, 2**15, 1, T=16, stride=4)
    x = rng.standard_normal((1, 2**15))
    same(engine(traced(x)), engine(x), np.float64)


@engines
def test_first_and_second_derivatives(name):
    engine, shape = ENGINES[name]
    x = torch.randn(shape, dtype=torch.float64, generator=torch.manual_seed(0)).requires_grad_()

    def values(x):
        return arrays(engine(x))

    assert torch.autograd.gradcheck(values, x)
    # Second derivatives of volumes along random directions: one by one they take minutes.
    assert torch.autograd.gradgradcheck(values, x, fast_mode=name.startswith("3d"))


@engines
def test_no_signal_at_all_has_derivatives_too(name):
    engine, shape = ENGINES[name]
    grid = shape[len(shape) - engine.ndim :]
    x = torch.zeros((0, *grid), requires_grad=True)
    one = arrays(engine(torch.zeros((1, *grid), requires_grad=True)))
    found = arrays(engine(x))
    assert [y.shape for y in found] == [(0, *y.shape[1:]) for y in one]
    (slope,) = torch.autograd.grad(sum(y.sum() for y in found), x)
    assert slope.shape == x.shape


@engines
def test_derivatives_at_zero_are_finite(name):
    engine, shape = ENGINES[name]
    x = torch.zeros(shape, requires_grad=True)
    y = sum(value.sum() for value in arrays(engine(x)))
    (slope,) = torch.autograd.grad(y, x, create_graph=True)
    assert torch.isfinite(slope).all()
    (curvature,) = torch.autograd.grad(slope.square().sum(), x)
    assert torch.isfinite(curvature).all()


@engines
def test_what_nobody_differentiates_numpy_computes(name, rng):
    engine, shape = ENGINES[name]
    x = rng.standard_normal(shape).astype(np.float32)
    for found in (engine(torch.from_numpy(x)), torch.no_grad()(engine)(traced(x))):
        for a, b in zip(arrays(found), arrays(engine(x)), strict=True):
            np.testing.assert_array_equal(a.numpy(), b)


def test_vmap_and_functional_derivatives(rng):
    engine = scatflow.Scattering1D(4, 256, 4)
    x = torch.from_numpy(rng.standard_normal((3, 256)))
    torch.testing.assert_close(torch.func.vmap(engine)(x), engine(x))
    slope = torch.func.grad(lambda x: engine(x).square().sum())(x)
    y = x.clone().requires_grad_()
    engine(y).square().sum().backward()
    torch.testing.assert_close(slope, y.grad)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, of its scripts
        value, tangent = torch.func.jvp(engine, (x,), (x,))
    torch.testing.assert_close(tangent, value)  # the transform is homogeneous


@engines
def test_compiled(name):
    engine, shape = ENGINES[name]
    PLANS.clear()  # so that the first call, which is traced, makes the filters
    x = torch.randn(shape, requires_grad=True)
    compiled = torch.compile(lambda x: arrays(engine(x)), backend="aot_eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = compiled(x)
    torch.testing.assert_close(found, arrays(engine(x)))


@engines
def test_mixed_precision_leaves_transforms_alone(name):
    engine, shape = ENGINES[name]
    x = torch.randn(shape, requires_grad=True)
    true = arrays(engine(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = arrays(engine(x))
        half = arrays(engine(x.to(torch.bfloat16)))
    torch.testing.assert_close(found, true, rtol=0, atol=0)
    assert {value.dtype for value in half} == {torch.float32}


def test_input_need_not_be_contiguous(rng):
    engine = scatflow.Scattering2D(2, (16, 20), 3)
    x = torch.from_numpy(rng.standard_normal((20, 16, 2))).permute(2, 1, 0)
    for requires in (False, True):
        x = x.detach().requires_grad_(requires)
        torch.testing.assert_close(engine(x), engine(x.detach().contiguous()))


SINGLE = [torch.float16, torch.bfloat16, torch.bool, torch.uint8, torch.int16]


@pytest.mark.parametrize(
    ("dtype", "becomes"),
    [*((kind, torch.float32) for kind in SINGLE), (torch.int64, torch.float64)],
)
def test_precision(dtype, becomes):
    x = torch.ones(64).to(dtype)
    assert scatflow.Scattering1D(3, 64)(x).dtype == becomes


def test_bad_tensors():
    engine = scatflow.Scattering1D(3, 64)
    with pytest.raises(InputTypeError, match="should be real"):
        engine(torch.ones(64, dtype=torch.complex64))
    with pytest.raises(InputShapeError, match="at least one axis"):
        engine(torch.tensor(1.0))
    with pytest.raises(InputShapeError, match="was made"):
        engine(torch.ones(65, requires_grad=True))
    with pytest.raises(InputTypeError, match="should be a NumPy array"):
        scatflow.Scattering1D(3, 64, backend="numpy")(torch.ones(64))


def test_numpy_through_torch(rng):
    x = rng.standard_normal((2, 64))
    found = scatflow.Scattering1D(3, 64, backend="torch")(x)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, scatflow.Scattering1D(3, 64)(x), atol=1e-14)


def test_a_missing_library_is_said(monkeypatch):
    monkeypatch.setattr(choose, "installed", lambda name: name != "torch")
    with pytest.raises(BackendError, match=r"pip install \"scatflow\[torch\]\""):
        scatflow.Scattering1D(3, 64, backend="torch")(np.ones(64))


@pytest.fixture
def pretended():
    """Tensors without values, on GPUs that are not there; no plan of theirs is kept.

    Operations between devices are errors, here as on a GPU.
    """
    PLANS.clear()
    choose.module("torch").on.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=False):
        yield
    PLANS.clear()
    choose.module("torch").on.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@engines
def test_devices_are_followed(pretended, name, dtype):
    engine, shape = ENGINES[name]
    for device in ("cuda:0", "cuda:1", "cuda:0"):
        y = arrays(engine(torch.empty(shape, device=device, dtype=dtype)))
        assert {value.device for value in y} == {torch.device(device)}
        assert {value.dtype for value in y} == {dtype}
    assert len(PLANS) == 2


@engines
def test_shapes_on_a_device_are_those_of_the_host(pretended, name):
    engine, shape = ENGINES[name]
    on_host = arrays(engine(np.zeros((3, *shape), np.float32)))
    for a, b in zip(arrays(engine(torch.empty((3, *shape), device="cuda"))), on_host, strict=True):
        assert tuple(a.shape) == b.shape


def test_long_signals_are_averaged_on_their_device(pretended):
    engine = scatflow.Scattering1D(6, 2**15, 1, T=16, stride=4)
    x = torch.empty((1, 2**15), device="cuda:1", dtype=torch.float64)
    assert engine(x).device == x.device


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.int16, torch.int64])
def test_other_types_are_converted_where_they_are(pretended, kind):
    y = scatflow.Scattering1D(3, 64)(torch.empty(64, dtype=kind, device="cuda:1"))
    assert y.device == torch.device("cuda:1")
    assert y.dtype == (torch.float64 if kind == torch.int64 else torch.float32)


def test_engines_are_prepared_where_they_are_sent(pretended, monkeypatch):
    monkeypatch.setattr(choose.module("torch"), "device", torch.device)  # that it is there
    engine = scatflow.Scattering2D(1, (4, 6), 2)
    assert engine.cuda(1) is engine
    assert engine.to("cuda:0").cpu() is engine
    made = len(PLANS)
    assert made == 3
    engine(torch.empty((4, 6), device="cuda:1"))
    engine(torch.empty((4, 6), device="cuda:0"))
    assert len(PLANS) == made


def test_cupy_takes_no_tensor_that_is_traced(pretended, machine):
    engine = scatflow.Scattering1D(3, 64, backend="cupy")
    with pytest.raises(InputTypeError, match="neither differentiates nor traces"):
        engine(torch.empty(64, device="cuda"))
