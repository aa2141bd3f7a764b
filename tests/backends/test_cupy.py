"""Engines on CuPy: the numbers of the reference, on whatever comes from wherever.

Each test runs over CuPy's stand-in on the host, where queued work is done as late as can be and the
kernels are those of the GPU; and, where there is one, on a GPU.
"""

import contextlib
import multiprocessing
import os
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import scatflow
from scatflow.backends import choose
from scatflow.engines.plan import PLANS
from scatflow.errors import BackendError, InputShapeError, InputTypeError
from scatflow.wavelets import solid_harmonic

S1, S2, S3 = scatflow.Scattering1D, scatflow.Scattering2D, scatflow.HarmonicScattering3D
TF = scatflow.TimeFrequencyScattering

CASES = {
    "1d": (S1, (4, 100, (3, 2)), {}),
    "1d odd": (S1, (5, 77, 1), {}),
    "1d T": (S1, (5, 120, 4), {"T": 12.5}),
    "1d T=0": (S1, (4, 90, 2), {"T": 0, "out_type": "list"}),
    "1d T=0 dict": (S1, (3, 33, (1, 2)), {"T": 0, "out_type": "dict"}),
    "1d global": (S1, (4, 90, 2), {"T": "global"}),
    "1d stride": (S1, (4, 100, 2), {"stride": 2}),
    "1d stride 1": (S1, (4, 64, 2), {"stride": 1}),
    "1d order 1": (S1, (6, 200, 8), {"max_order": 1}),
    "1d list": (S1, (3, 50), {"out_type": "list"}),
    "1d dict": (S1, (3, 50), {"out_type": "dict"}),
    "1d 0.3": (S1, (5, 128, 3), {"scaling": "kymatio-0.3"}),
    "2d": (S2, (2, (20, 27), 3), {}),
    "2d L=1": (S2, (1, (9, 7), 1), {}),
    "2d order 1": (S2, (3, (24, 25), 2), {"max_order": 1}),
    "2d fold": (S2, (2, (17, 30), 4), {"pyramid": "fold"}),
    "2d list": (S2, (2, (16, 12), 2), {"out_type": "list"}),
    "2d dict": (S2, (2, (16, 12), 2), {"out_type": "dict"}),
    "2d padded": (S2, (2, (16, 24), 2), {"pre_pad": True}),
    "3d": (S3, (2, (8, 9, 10), 2), {}),
    "3d odd": (S3, (1, (7, 9, 5), 3), {}),
    "3d order 1": (S3, (2, (8, 8, 8), 2), {"max_order": 1, "sigma_0": 0.7}),
    "3d powers": (S3, (1, (8, 6, 10), 1), {"integral_powers": (0.3, 1.0, 2.5)}),
    "3d one harmonic": (S3, (1, (8, 9, 6), 2), {"rotation_covariant": False}),
    "3d L=6": (S3, (1, (6, 8, 8), 6), {}),
    "3d local": (S3, (2, (8, 9, 10), 1), {"method": "local", "points": ((1, 2, 3), (7, 8, 9))}),
    "3d standard": (S3, (1, (8, 9, 11), 2), {"method": "standard"}),
    "tf": (TF, (4, 2, (4, 2), 100), {}),
    "tf list": (TF, (4, 2, 3, 90), {"out_type": "list"}),
    "tf strides": (TF, (4, 2, 4, 64), {"T": 12, "stride": 2, "F": 7, "stride_fr": 1, "Q_fr": 2}),
    "tf F long": (TF, (5, 2, 4, 77), {"F": 16}),
    "tf F=0": (TF, (4, 2, 3, 90), {"F": 0}),
    "tf global": (TF, (4, 2, 3, 90), {"T": "global", "F": "global"}),
    "tf T=0": (TF, (4, 2, 3, 90), {"T": 0, "out_type": "list"}),
    "tf T=0 F=0": (TF, (4, 2, 2, 50), {"T": 0, "F": 0, "out_type": "dict"}),
    "tf joint": (TF, (4, 2, (4, 2), 100), {"format": "joint"}),
    "tf joint dict": (TF, (4, 2, 3, 90), {"format": "joint", "out_type": "dict"}),
    "tf joint F=0": (TF, (4, 2, 3, 90), {"format": "joint", "F": 0, "out_type": "list"}),
    "tf joint global": (TF, (4, 2, 3, 90), {"format": "joint", "F": "global"}),
    "tf joint T=0": (TF, (3, 1, 3, 40), {"format": "joint", "T": 0, "out_type": "dict"}),
}
cases = pytest.mark.parametrize("name", CASES)
ERROR = {np.float32: 1e-6, np.float64: 1e-13}
dtypes = pytest.mark.parametrize("dtype", ERROR)


def made(name, backend=None):
    kind, args, more = CASES[name]
    return kind(*args, **more, backend=backend)


def drawn(name, rng, batch=(2,), dtype=np.float64):
    return rng.standard_normal((*batch, *made(name)._input_shape())).astype(dtype)


def arrays(y):
    """What an engine gave, as one list."""
    if isinstance(y, dict):
        return list(y.values())
    return [path["coef"] for path in y] if isinstance(y, list) else [y]


def on_host(y):
    return y if isinstance(y, np.ndarray) else y.get()


def same(found, true, tolerance):
    found, true = arrays(found), arrays(true)
    assert len(found) == len(true)
    for a, b in zip(found, true, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
    a, b = (np.concatenate([on_host(y).ravel() for y in some]) for some in (found, true))
    assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


# --- numbers -------------------------------------------------------------------------------


@dtypes
@cases
def test_numpy_in_and_out_agrees_with_the_reference(cuda, name, dtype, rng):
    x = drawn(name, rng, (3,), dtype)
    found = made(name, "cupy")(x)
    assert all(isinstance(y, np.ndarray) for y in arrays(found))
    same(found, made(name, "plain")(x), ERROR[dtype])


@dtypes
@cases
def test_arrays_on_the_device_stay_there(cuda, name, dtype, rng):
    x = drawn(name, rng, (2, 1), dtype)
    found = made(name)(cuda.asarray(x))  # no backend: the input says it
    assert all(isinstance(y, cuda.ndarray) for y in arrays(found))
    same(found, made(name, "plain")(x), ERROR[dtype])


@given(data=st.data())
@settings(max_examples=40)
def test_signals_of_any_kind(cuda, data):
    J = data.draw(st.integers(1, 6))
    N = data.draw(st.integers(2**J, 300))
    quality = (data.draw(st.integers(1, 9)), data.draw(st.integers(1, 3)))
    more = {
        "T": data.draw(st.sampled_from([None, 1, 2**J, "global"])),
        "max_order": data.draw(st.integers(1, 2)),
    }
    batch = data.draw(st.sampled_from([(), (1,), (2, 3)]))
    x = np.random.default_rng(N).standard_normal((*batch, N))
    same(*(S1(J, N, quality, **more, backend=b)(x) for b in ("cupy", "plain")), 1e-13)


@given(data=st.data())
@settings(max_examples=25)
def test_images_of_any_kind(cuda, data):
    J = data.draw(st.integers(1, 3))
    shape = data.draw(st.tuples(*[st.integers(2**J, 40)] * 2))
    L, pyramid = data.draw(st.integers(1, 4)), data.draw(st.sampled_from(["scatnet", "fold"]))
    x = np.random.default_rng(J).standard_normal((2, *shape))
    engines = (S2(J, shape, L, pyramid=pyramid, backend=b) for b in ("cupy", "plain"))
    same(*(engine(x) for engine in engines), 1e-13)


@given(data=st.data())
@settings(max_examples=25)
def test_volumes_of_any_kind(cuda, data):
    shape = data.draw(st.tuples(*[st.integers(2, 11)] * 3))
    J = data.draw(st.integers(0, int(np.log2(max(shape)))))
    more = {
        "rotation_covariant": data.draw(st.booleans()),
        "method": data.draw(st.sampled_from(["integral", "standard"])),
    }
    L = data.draw(st.integers(0, 4))
    x = np.random.default_rng(J).standard_normal((2, *shape))
    same(*(S3(J, shape, L, **more, backend=b)(x) for b in ("cupy", "plain")), 1e-12)


@given(data=st.data())
@settings(max_examples=25)
def test_time_and_log_frequency_of_any_kind(cuda, data):
    J, J_fr = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 2))
    N, Q = data.draw(st.integers(2**J, 200)), data.draw(st.integers(2, 8))
    more = {
        "T": data.draw(st.sampled_from([None, 0, 1, 2**J, "global"])),
        "F": data.draw(st.sampled_from([None, 0, 1, 3, "global"])),
        "Q_fr": data.draw(st.integers(1, 2)),
        "format": data.draw(st.sampled_from(["time", "joint"])),
        "out_type": data.draw(st.sampled_from(["list", "dict"])),
    }
    batch = data.draw(st.sampled_from([(), (1,), (2, 3)]))
    x = np.random.default_rng(N).standard_normal((*batch, N))
    same(*(TF(J, J_fr, Q, N, **more, backend=b)(x) for b in ("cupy", "plain")), 1e-13)


@pytest.mark.parametrize("covariant", [True, False])
@pytest.mark.parametrize("shape", [(8, 8, 8), (7, 8, 9), (8, 9, 10)])
def test_exact_filters_of_large_volumes(cuda, monkeypatch, covariant, shape, rng):
    # Above so many voxels filters that reach the Nyquist planes are no longer the published ones.
    monkeypatch.setattr(solid_harmonic, "PUBLISHED_VOXELS", 0)
    x = rng.standard_normal((2, *shape))
    args = (2, shape, 3, 0.7)
    engines = (S3(*args, rotation_covariant=covariant, backend=b) for b in ("cupy", "plain"))
    same(*(engine(x) for engine in engines), 1e-12)


def test_components_in_several_rounds(cuda, monkeypatch, rng):
    x = drawn("3d odd", rng, (3,))
    whole = made("3d odd", "cupy")(x)
    backend = choose.module("cupy")
    for fields in (1, 2 * x[0].size, 8 * x[0].size):
        monkeypatch.setattr(backend, "FIELDS", fields)
        same(made("3d odd", "cupy")(x), whole, 1e-14)


@cases
def test_what_a_signal_gives_does_not_depend_on_its_companions(cuda, name, rng):
    x = drawn(name, rng, (3,))
    engine = made(name, "cupy")
    together = [on_host(y) for y in arrays(engine(x))]
    for i, one in enumerate(x):
        for a, b in zip(arrays(engine(one)), together, strict=True):
            exact = cuda.__version__ == "0"  # cuFFT may round otherwise for another batch
            np.testing.assert_allclose(on_host(a), b[i], rtol=0 if exact else 1e-12)


@pytest.mark.parametrize("size", [1e-30, 1e25])
@pytest.mark.parametrize("name", ["1d", "2d", "3d standard", "tf", "tf F=0", "tf global"])
def test_faint_and_huge_signals_lose_no_digit(cuda, name, size, rng):
    x = drawn(name, rng)
    found = made(name, "cupy")((x * size).astype(np.float32))
    true = made(name, "plain")(x).astype(np.float32)
    same((found / size).astype(np.float32), true, 1e-5)


def test_what_is_no_number_stays_with_its_signal(cuda, rng):
    x = drawn("1d", rng, (3,))
    x[1, 7] = np.nan
    found = made("1d", "cupy")(x)
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[[0, 2]]).all()


# --- what goes in and comes out ------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "becomes"),
    [
        ("f2", "f4"),
        ("?", "f4"),
        ("u1", "f4"),
        ("i2", "f4"),
        ("i4", "f8"),
        ("u8", "f8"),
        (">f4", "f4"),
    ],
)
def test_precision(cuda, kind, becomes, rng):
    x = (drawn("1d", rng) > 0).astype(kind)
    found = made("1d", "cupy")(x)
    assert found.dtype == becomes
    if x.dtype.isnative:
        assert made("1d")(cuda.asarray(x)).dtype == becomes


@pytest.mark.parametrize("name", ["1d", "1d T=0", "2d", "3d", "3d local", "tf", "tf joint dict"])
@pytest.mark.parametrize("host", [True, False])
def test_a_batch_of_none(cuda, name, host, rng):
    x = drawn(name, rng, (0, 2))
    found = made(name, "cupy")(x if host else cuda.asarray(x))
    for a, b in zip(arrays(found), arrays(made(name, "plain")(x)), strict=True):
        assert a.shape == b.shape
        assert isinstance(a, np.ndarray) == host


def test_input_need_not_be_contiguous(cuda, rng):
    x = rng.standard_normal((27, 20, 3))
    turned, true = x.T, made("2d", "plain")(np.ascontiguousarray(x.T)[:, ::1])
    assert turned.shape == (3, 20, 27)
    same(made("2d", "cupy")(turned), true, 1e-13)
    same(made("2d")(cuda.asarray(x).T), true, 1e-13)


@pytest.mark.parametrize("name", ["3d odd", "2d padded"])
def test_input_need_not_be_aligned(cuda, monkeypatch, name, rng):
    backend = choose.module("cupy")
    monkeypatch.setattr(backend, "PRECISE_VOXELS", 0)
    x = drawn(name, rng, (5,), np.float32)
    true = made(name, "plain")(x)
    room = cuda.asarray(np.concatenate([[0], x.ravel()]).astype(np.float32))
    same(made(name)(room[1:].reshape(x.shape)), true, 1e-5)
    monkeypatch.setattr(backend, "IN_FLIGHT", 1)  # one after the other
    same(made(name)(cuda.asarray(x)), true, 1e-5)


def test_whatever_has_the_interface_is_read_where_it_is(cuda, rng):
    x = drawn("1d", rng)
    held = cuda.asarray(x)
    held.get()  # somebody else's work is done

    class Foreign:
        __cuda_array_interface__ = held.__cuda_array_interface__

    found = made("1d")(Foreign())
    assert isinstance(found, cuda.ndarray)
    same(found, made("1d", "plain")(x), 1e-13)


def test_bad_input_is_said(cuda):
    engine = made("1d", "cupy")
    with pytest.raises(InputTypeError, match="should be real"):
        engine(cuda.asarray(np.ones(100, np.complex64)))
    with pytest.raises(InputShapeError, match="at least one axis"):
        engine(cuda.asarray(np.array(1.0)))
    with pytest.raises(InputShapeError, match="was made"):
        engine(cuda.asarray(np.ones(99)))
    with pytest.raises(InputTypeError, match="should be a NumPy array"):
        made("1d", "numpy")(cuda.asarray(np.ones(100)))


def test_the_input_is_not_written_to(cuda, rng):
    for name in CASES:
        x = drawn(name, rng)
        held = cuda.asarray(x)
        made(name)(held)
        np.testing.assert_array_equal(held.get(), x)


# --- torch ---------------------------------------------------------------------------------


def test_tensors_of_the_host_come_back_to_it(cuda, rng):
    x = torch.from_numpy(drawn("2d", rng))
    found = made("2d", "cupy")(x)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(found.numpy(), made("2d", "plain")(x.numpy()), atol=1e-13)


@pytest.mark.parametrize("name", ["1d", "1d T=0", "2d dict", "3d", "tf joint"])
def test_tensors_on_the_device_are_not_copied(cuda, monkeypatch, name, rng):
    tensors, backend = choose.module("torch"), choose.module("cupy")
    x = torch.from_numpy(drawn(name, rng))
    if cuda.__version__ == "0":  # the stand-in's device is the host
        monkeypatch.setattr(tensors, "in_host_memory", lambda _: False)
    else:
        x = x.cuda()
    seen = []
    for module in (backend, tensors):
        whole = module.from_dlpack

        def watched(array, whole=whole):
            found = whole(array)
            seen.append((place(array), place(found)))
            return found

        monkeypatch.setattr(module, "from_dlpack", watched)
    found = made(name, "cupy")(x)
    assert len(seen) == 1 + len(arrays(found))
    assert all(given == taken for given, taken in seen)
    for a, b in zip(arrays(found), arrays(made(name, "plain")(x.cpu().numpy())), strict=True):
        assert isinstance(a, torch.Tensor)
        assert a.device == x.device
        np.testing.assert_allclose(a.cpu().numpy(), b, atol=1e-12)


def place(array):
    """Where an array of torch's or CuPy's lies."""
    if isinstance(array, torch.Tensor):
        return array.data_ptr()
    return array.__cuda_array_interface__["data"][0]


def test_gradients_are_torchs(cuda):
    x = torch.ones(100, requires_grad=True)
    with pytest.raises(InputTypeError, match=r"nor traces.*Leave backend out"):
        made("1d", "cupy")(x)
    with torch.no_grad():
        assert not made("1d", "cupy")(x).requires_grad
    with pytest.raises(InputTypeError, match="neither differentiates"):
        torch.func.vmap(made("1d", "cupy"))(x.detach()[None])


def test_settings_leave_tensors_to_torch(cuda, monkeypatch):
    monkeypatch.setenv("SCATFLOW_BACKEND", "cupy")
    x = torch.ones(100, requires_grad=True)
    made("1d")(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert isinstance(made("1d")(x.detach().numpy()), np.ndarray)


def test_torch_may_compute_what_is_cupys(cuda, monkeypatch, rng):
    x = drawn("1d", rng)
    if cuda.__version__ == "0":
        monkeypatch.setattr(choose.module("torch"), "in_host_memory", lambda _: False)
    found = made("1d", "torch")(cuda.asarray(x))
    assert isinstance(found, cuda.ndarray)
    same(found, made("1d", "plain")(x), 1e-13)


# --- streams, batches, devices -------------------------------------------------------------


def test_work_is_queued_on_the_callers_stream(cuda, rng):
    x = drawn("2d", rng, (4,))
    engine, true = made("2d"), made("2d", "plain")(x)
    for _ in range(2):  # the second time filters and plans are there
        with cuda.cuda.Stream() as stream:
            found = engine(cuda.asarray(x))
            same(found.get(stream=stream), true, 1e-13)
        same(made("2d", "cupy")(x), true, 1e-13)


def test_threads_do_not_disturb_each_other(cuda, rng):
    x = [drawn("1d", rng, (5,)) for _ in range(4)]
    engine = made("1d", "cupy")
    found = [None] * len(x)

    def work(i):
        found[i] = engine(x[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(x))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for y, z in zip(found, x, strict=True):
        same(y, made("1d", "plain")(z), 1e-13)


def test_copies_have_the_same_streams_in_every_call(machine, monkeypatch, rng):
    import cupy

    engine, made_here = made("1d", "cupy"), []
    whole = cupy.cuda.Stream

    def watched(**how):
        made_here.append(how)
        return whole(**how)

    monkeypatch.setattr(cupy.cuda, "Stream", watched)
    for _ in range(3):
        engine(drawn("1d", rng))
    assert len(made_here) == 2


@pytest.mark.parametrize(
    "name", ["1d", "1d T=0", "1d global", "2d list", "3d", "tf", "tf T=0", "tf joint"]
)
def test_batches_on_their_way_do_not_mix(cuda, monkeypatch, name, rng):
    x = drawn(name, rng, (7,))
    true = made(name, "plain")(x)
    backend = choose.module("cupy")
    monkeypatch.setattr(backend, "PIECE", 1)
    for pieces in (1, 2, 3, 10):
        monkeypatch.setattr(backend, "PIECES", pieces)
        same(made(name, "cupy")(x), true, 1e-13)


@pytest.mark.parametrize("hasty", ["copies", "work"])
@pytest.mark.parametrize("name", ["1d", "1d T=0", "2d", "3d local", "tf", "tf joint T=0"])
def test_neither_copies_nor_kernels_need_be_slow(machine, monkeypatch, name, hasty, rng):
    x = drawn(name, rng, (7,))
    true = made(name, "plain")(x)
    monkeypatch.setattr(choose.module("cupy"), "PIECE", 1)
    machine.hasty = hasty
    same(made(name, "cupy")(x), true, 1e-13)


def test_filters_made_on_one_stream_serve_another(cuda, rng):
    x = drawn("2d", rng, dtype=np.float32)
    engine, true = made("2d", "cupy"), made("2d", "plain")(x)
    streams = [cuda.cuda.Stream(non_blocking=True) for _ in range(2)]
    PLANS.clear()
    with streams[0]:
        engine.cuda()  # nobody waits for this stream
    with streams[1]:
        found = engine(cuda.asarray(x))
        same(found.get(), true, 1e-6)
    assert len(PLANS) == 1


@pytest.mark.parametrize("name", ["1d", "2d", "3d", "tf F=0"])
def test_filters_stay_while_another_stream_is_to_read_them(cuda, name, rng):
    x = drawn(name, rng)
    engine, true = made(name), made(name, "plain")(x)
    PLANS.clear()
    first, second = (cuda.cuda.Stream(non_blocking=True) for _ in range(2))
    with first:
        same(engine(cuda.asarray(x)), true, 1e-12)
    with second:
        held = cuda.asarray(x)
        found = engine(held)
    PLANS.clear()  # as other engines' plans make the cache do
    first.synchronize()
    with second:
        same(found, true, 1e-12)


@given(signals=st.integers(1, 9), room=st.integers(1, 64))
@settings(max_examples=10)
def test_little_memory_changes_nothing_but_the_batches(cuda, signals, room):
    x = np.random.default_rng(room).standard_normal((signals, 100))
    engine, true = made("1d", "cupy"), made("1d", "plain")(x)
    backend = choose.module("cupy")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(backend, "IN_FLIGHT", 100 * room)
        same(engine(x), true, 1e-13)
        same(engine(cuda.asarray(x)), true, 1e-13)


@pytest.mark.parametrize("host", [True, False])
@pytest.mark.parametrize(
    "name",
    ["1d", "1d T=0", "1d stride 1", "2d", "3d", "3d L=6", "3d standard", "tf", "tf strides",
     "tf T=0", "tf T=0 F=0", "tf joint", "tf joint T=0"],
)  # fmt: skip
def test_the_free_memory_is_enough_however_little_there_is(machine, name, host, rng):
    import cupy

    x = drawn(name, rng, (10,))
    engine = made(name, "cupy")
    engine(x[:1])  # filters and plans
    true = made(name, "plain")(x)
    counted = []
    output = sum(y.nbytes for y in arrays(true))
    one = engine.plan(dtype=np.float64).samples_in_flight * 8
    for free in (2**34, 12, 6):
        given = x if host else cupy.asarray(x)
        machine.free = machine.used + int(free * one * 16) + output * (not host)
        machine.peak, before = machine.used, len(machine.launches)
        same(engine(given), true, 1e-13)
        assert machine.peak <= machine.free
        counted.append(len(machine.launches) - before)
    assert counted[0] < counted[1] < counted[2]


@pytest.mark.parametrize("name", ["1d stride 1", "1d T=0"])
def test_the_output_is_on_the_device_once(machine, name, rng):
    import cupy

    x = drawn(name, rng, (150,))
    engine, true = made(name, "cupy"), made(name, "plain")(x)
    held = cupy.asarray(x)
    engine(held[:1])
    output = sum(y.nbytes for y in arrays(true))
    one = engine.plan(dtype=np.float64).samples_in_flight * 8
    machine.free = machine.used + output + 32 * one
    machine.peak = machine.used
    same(engine(held), true, 1e-13)
    assert machine.peak <= machine.free


def test_a_limit_of_the_pool_counts_as_what_is_free(machine, rng):
    x = drawn("1d", rng, (50,))
    engine = made("1d", "cupy")
    true = engine(x)
    machine.limit = machine.used + 2**21
    machine.peak = machine.used
    same(engine(x), true, 1e-14)
    assert machine.peak <= machine.limit


def test_cuffts_plans_are_made_once_and_share_their_room(machine, rng):
    import cupy

    engine, held = made("1d"), cupy.asarray(drawn("1d", rng))
    engine(held)
    before = machine.plans_made
    assert before > 5
    engine(held)
    engine(held)
    assert machine.plans_made - before < before  # those that were made before the largest, again
    made_by_now = machine.plans_made
    engine(held)
    assert machine.plans_made == made_by_now
    (plans,) = choose.backend("cupy", 0)._local.plans.values()
    assert len({id(plan.work_area.mem) for plan in plans._known.values()}) == 1


def test_cuffts_plans_leave_memory_for_the_arrays(machine, rng):
    x = rng.standard_normal((60, 1000))
    engine = S1(6, 1000, 8, backend="cupy")
    true = S1(6, 1000, 8, backend="plain")(x)
    engine(x[:1])
    machine.free = machine.used + 2**25
    for signals in (60, 59, 43, 60):
        same(engine(x[:signals]), true[:signals], 1e-13)


@pytest.mark.parametrize("host", [True, False])
def test_plans_do_not_follow_each_byte_of_free_memory(machine, host, rng):
    import cupy

    x = drawn("1d", rng, (50,))
    engine = made("1d", "cupy")
    given = x if host else cupy.asarray(x)
    engine(x[:1])
    machine.free = machine.used + 2**21
    for _ in range(3):
        engine(given)
    plans = machine.plans_made
    for less in (1000, 50_000, 100_000):
        machine.free -= less
        engine(given)
    assert machine.plans_made == plans


def test_plans_of_streams_long_gone_are_dropped(machine, rng):
    import cupy

    x = drawn("1d", rng)
    engine, true, used = made("1d"), made("1d", "plain")(x), []
    for _ in range(12):
        with cupy.cuda.Stream() as stream:
            same(engine(cupy.asarray(x)).get(stream=stream), true, 1e-13)
        used.append(machine.used)
    assert used[-1] == used[5]


def test_cuffts_plans_are_not_those_of_the_user(cuda, monkeypatch, rng):
    import cupy.cuda.cufft

    made_here, whole = [], cupy.cuda.cufft.PlanNd

    def watched(*args):
        made_here.append(args)
        return whole(*args)

    monkeypatch.setattr(cupy.cuda.cufft, "PlanNd", watched)
    with cuda.cuda.Stream():
        made("2d", "cupy")(drawn("2d", rng))
    assert len(made_here) > 2  # none through what CuPy keeps for its own transforms


def test_means_over_log_frequency_do_not_pile_up(machine, monkeypatch, rng):
    monkeypatch.setattr(choose.module("cupy"), "MEANS", 2)
    for quality in (2, 3, 4, 2):
        x = rng.standard_normal((2, 90))
        engines = (TF(4, 2, quality, 90, F="global", backend=b) for b in ("cupy", "plain"))
        same(*(engine(x) for engine in engines), 1e-13)
    assert len(choose.backend("cupy", 0)._means) == 2


def test_devices_are_followed(machine, rng):
    import cupy

    x = drawn("2d", rng)
    true = made("2d", "plain")(x)
    for number in (1, 0):
        with cupy.cuda.Device(number):
            held = cupy.asarray(x)
        found = made("2d")(held)  # called from device 0
        assert found.device.id == number
        same(found, true, 1e-13)
        with cupy.cuda.Device(number):
            whole = cupy.asarray((1000 * x).astype(np.int32))
        same(made("2d")(whole), made("2d", "plain")((1000 * x).astype(np.int32)), 1e-13)
        with cupy.cuda.Device(number):
            strided = cupy.asarray(np.stack([x, x, x], axis=1))[:, :2]
        found = made("2d")(strided)
        assert found.device.id == number
        same(found, np.stack([true, true], axis=1), 1e-13)
    with cupy.cuda.Device(1):
        same(made("2d", "cupy")(x), true, 1e-13)


@pytest.mark.parametrize("place", ["cuda", "cuda:0", 0, torch.device("cuda:0")])
def test_engines_are_prepared_on_the_device(cuda, place):
    engine = made("1d", "cupy")
    PLANS.clear()
    assert engine.to(place) is engine
    assert len(PLANS) == 1
    assert engine.cuda() is engine
    engine(np.ones(100, np.float32))
    assert len(PLANS) == 1  # nothing was left to the first call


def test_a_device_that_is_not_there_is_said(cuda):
    engine = made("1d", "cupy")
    with pytest.raises(BackendError, match="There is no cuda:97: CUDA sees"):
        engine.cuda(97)
    for place in ("cpu", "mps", "cuda:x"):
        with pytest.raises(BackendError, match="computes on NVIDIA GPUs"):
            engine.to(place)
    with pytest.raises(BackendError, match="backend='numpy'"):
        engine.cpu()


@pytest.mark.parametrize("error", ["cudaErrorInsufficientDriver: too old", None])
def test_no_gpu_is_said_with_what_to_do(machine, error):
    machine.error, machine.devices = error, 0
    for call in (lambda: made("1d", "cupy")(np.ones(100)), lambda: made("1d", "skcuda").cuda()):
        with pytest.raises(BackendError, match=r"finds none here .*nvidia-smi.*backend='numpy'"):
            call()
    made("1d")(np.ones(100))


def test_a_forked_process_is_told_so(machine, monkeypatch):
    engine = made("1d", "cupy")
    engine(np.ones(100))
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    with pytest.raises(BackendError, match=f"forked from process {parent} .*'spawn'"):
        engine(np.ones(100))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:os.fork")  # of JAX, where other tests have loaded it
def test_a_process_that_is_really_forked_is_told_so(cuda):
    made("1d", "cupy")(np.ones(100))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        try:
            made("1d", "cupy")(np.ones(100))
            os.write(write, b"nothing")
        except BackendError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as said:
        assert "was forked from process" in said.read()


def test_an_error_on_the_way_leaves_nothing_queued(cuda, monkeypatch, rng):
    backend = choose.module("cupy")
    monkeypatch.setattr(backend, "PIECE", 1)
    x = drawn("1d", rng, (8,))
    engine = made("1d", "cupy")
    true = engine(x)
    calls = []
    fetch = backend._Slot.fetch

    def breaking(self, *args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        fetch(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(backend._Slot, "fetch", breaking)
        with contextlib.suppress(KeyboardInterrupt):
            engine(x)
    assert len(calls) == 3
    same(engine(x), true, 1e-15)


def test_an_array_too_large_to_count_is_said(machine, monkeypatch):
    monkeypatch.setattr(choose.module("cupy"), "LARGEST", 64)
    with pytest.raises(BackendError, match="rows of"):
        made("1d", "cupy")(np.ones(100))


# --- names ---------------------------------------------------------------------------------


def test_kymatios_name_is_served_too(cuda, rng):
    engine = made("1d", "skcuda")
    assert engine == made("1d", "cupy")
    assert engine.backend == "cupy"
    x = drawn("1d", rng)
    np.testing.assert_array_equal(engine(x), made("1d", "cupy")(x))


def test_doctor_names_the_device(machine):
    from scatflow.cli.texts import doctor_lines

    lines = "\n".join(doctor_lines())
    assert "Pretended GPU, sm_90, 16.0 GiB" in lines
    machine.error = "cudaErrorNoDevice: no device"
    assert "no GPU: cudaErrorNoDevice" in "\n".join(doctor_lines())
