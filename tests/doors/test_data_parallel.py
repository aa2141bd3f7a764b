"""Modules that many threads call at once, as ``torch.nn.DataParallel`` does on several devices."""

import hashlib
import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

import scatflow.torch as doors
from scatflow.engines.plan import PLANS

MODULES = {
    "1d": (doors.Scattering1D(4, 128, (4, 2)), (128,)),
    "1d dict": (doors.Scattering1D(3, 128, 2, T=0, out_type="dict"), (128,)),
    "joint": (doors.TimeFrequencyScattering(3, 2, 2, 64), (64,)),
    "2d": (doors.Scattering2D(2, (16, 20), 3), (16, 20)),
    "2d list": (doors.Scattering2D(2, (16, 20), 3, out_type="list"), (16, 20)),
    "3d": (doors.HarmonicScattering3D(1, (6, 5, 8), 2), (6, 5, 8)),
}
modules = pytest.mark.parametrize("name", MODULES)
THREADS = 8


def coefficients(y):
    """What a module gave, in one row per signal."""
    if isinstance(y, dict):
        y = list(y.values())
    parts = [p["coef"] if isinstance(p, dict) else p for p in y] if isinstance(y, list) else [y]
    return torch.cat([p.reshape(p.shape[0], -1) for p in parts], dim=1)


def both_ways(module, x):
    """Coefficients and the gradient of the sum of their squares."""
    x = x.clone().requires_grad_()
    y = coefficients(module(x))
    (slope,) = torch.autograd.grad(y.square().sum(), x)
    return y.detach(), slope


def signals(shape, count):
    return torch.randn(count, *shape, generator=torch.manual_seed(0), dtype=torch.float64)


def fingerprint(module):
    """All that a module holds: its attributes by identity, their pickles, its saved state."""
    held = {name: (id(value), repr(value)) for name, value in vars(module).items()}
    saved = {key: value.tolist() for key, value in module.state_dict().items()}
    text = repr((held, saved)).encode() + pickle.dumps(module)
    return hashlib.sha256(text).hexdigest()


@modules
def test_nothing_is_written_in_forward_or_backward(name):
    module, shape = MODULES[name]
    before = fingerprint(module)
    for dtype in (torch.float32, torch.float64):
        both_ways(module, signals(shape, 2).to(dtype))
        module(signals(shape, 2).to(dtype))
    assert fingerprint(module) == before
    module.some_attribute = 1
    try:
        assert fingerprint(module) != before  # it would be seen
    finally:
        del module.some_attribute


@modules
@pytest.mark.parametrize("replicated", [False, True])
def test_many_threads_get_what_one_gets(name, replicated):
    module, shape = MODULES[name]
    x = signals(shape, THREADS)
    expected = [both_ways(module, x[i : i + 1]) for i in range(THREADS)]
    # What DataParallel sends to each device: shallow copies that share everything.
    copies = [module._replicate_for_data_parallel() if replicated else module] * THREADS
    PLANS.clear()  # so that all of them want the filters at once
    together = Barrier(THREADS)

    def work(i):
        together.wait()
        return [both_ways(copies[i], x[i : i + 1]) for _ in range(3)]

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(work, range(THREADS)))
    for true, same in zip(expected, found, strict=True):
        for y, slope in same:
            torch.testing.assert_close(y, true[0], rtol=0, atol=0)
            torch.testing.assert_close(slope, true[1], rtol=1e-12, atol=1e-12)


def test_without_devices_it_is_the_module_itself():
    module, shape = MODULES["2d"]
    x = signals(shape, 3)
    parallel = torch.nn.DataParallel(torch.nn.Sequential(module, torch.nn.Flatten()))
    if not torch.cuda.is_available():
        torch.testing.assert_close(parallel(x), module(x).flatten(1), rtol=0, atol=0)
    assert dict(parallel.named_parameters()) == {}
    parallel.load_state_dict(parallel.state_dict())
