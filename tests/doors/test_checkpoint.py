"""Moduli that are computed again for derivatives: the same derivatives in less memory."""

import copy
import json
import os
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.graph import saved_tensors_hooks

import scatflow.kymatio
import scatflow.torch as doors

CASES = {
    "1d": ("Scattering1D", (3, 32, (2, 2)), {}, (2, 32)),
    "1d list": ("Scattering1D", (3, 64, 2), {"T": 0, "out_type": "list"}, (1, 64)),
    "1d global": ("Scattering1D", (3, 64, 2), {"T": "global"}, (64,)),
    "1d first order": ("Scattering1D", (3, 64, 2), {"max_order": 1}, (3, 64)),
    "joint": ("TimeFrequencyScattering", (3, 2, 2, 32), {}, (2, 32)),
    "joint list": (
        "TimeFrequencyScattering",
        (3, 2, 2, 32),
        {"format": "joint", "out_type": "list"},
        (32,),
    ),
    "2d": ("Scattering2D", (2, (8, 12), 3), {}, (2, 8, 12)),
    "2d dict": ("Scattering2D", (2, (8, 12), 2), {"out_type": "dict"}, (8, 12)),
    "3d": ("HarmonicScattering3D", (1, (4, 5, 4), 1), {}, (2, 4, 5, 4)),
    "3d standard": ("HarmonicScattering3D", (1, (4, 5, 4), 1), {"method": "standard"}, (4, 5, 4)),
}
cases = pytest.mark.parametrize("name", CASES)


def pair(name):
    """Modules that keep moduli and that do not, and the shape of an input."""
    kind, given, more, shape = CASES[name]
    modules = [getattr(doors, kind)(*given, **more, checkpoint=way) for way in (False, True)]
    return *modules, shape


def arrays(y):
    if isinstance(y, dict):
        return tuple(y.values())
    return tuple(path["coef"] for path in y) if isinstance(y, list) else (y,)


def loss(module, x):
    return sum(value.square().sum() for value in arrays(module(x)))


def noise(shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.manual_seed(0), dtype=dtype).requires_grad_()


def kept(module, x):
    """The storages that autograd keeps from a transform."""
    found = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        module(x)
    return found


def kept_bytes(module, x):
    """Bytes that autograd keeps; what two transforms share are filters."""
    module(x)  # lays them out
    first, second = kept(module, x), kept(module, x)
    return sum(storage.nbytes() for at, storage in second.items() if at not in first)


@cases
def test_derivatives_are_the_same(name):
    keeps, computes, shape = pair(name)
    x, direction = noise(shape), noise(shape).detach()
    found = []
    for module in (keeps, computes):
        (slope,) = torch.autograd.grad(loss(module, x), x, create_graph=True)
        (curvature,) = torch.autograd.grad((slope * direction).sum(), x)
        found.append((*(value.detach() for value in arrays(module(x))), slope, curvature))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@cases
def test_derivatives_are_right(name):
    _, computes, shape = pair(name)
    x = noise(shape)
    # Along a direction drawn at random; every derivative is that of the module which keeps moduli.
    assert torch.autograd.gradcheck(lambda x: arrays(computes(x)), x, fast_mode=True)


@given(data=st.data())
@settings(max_examples=25)
def test_signals_of_any_kind(data):
    J = data.draw(st.integers(1, 6))
    N = data.draw(st.integers(2**J, 300))
    Q = (data.draw(st.integers(1, 9)), data.draw(st.integers(1, 3)))
    batch = data.draw(st.sampled_from([(), (1,), (2, 3)]))
    x = noise((*batch, N))
    slopes = [
        torch.autograd.grad(loss(doors.Scattering1D(J, N, Q, checkpoint=way), x), x)[0]
        for way in (False, True)
    ]
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-12)


def test_joint_transforms_keep_their_first_order():
    """Which all wavelets along log-frequency need; what they make of it is not kept."""
    x, found = noise((2048,)), []
    for way in (False, True):
        module = doors.TimeFrequencyScattering(7, 3, 8, 2048, checkpoint=way)
        found.append(kept_bytes(module, x))
        assert module.saved_bytes((2048,), torch.float64) == found[-1]
    assert 10 * found[1] < found[0]


LONG = [
    ("Scattering1D", (8, 8192, 8), (8192,)),
    ("Scattering1D", (6, 4096, (4, 2)), (3, 4096)),
    ("Scattering2D", (3, (96, 80), 8), (2, 96, 80)),
    ("HarmonicScattering3D", (2, (24, 20, 32), 2), (24, 20, 32)),
]


@pytest.mark.parametrize(("kind", "parameters", "shape"), LONG)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_kept_is_stated_and_a_tenth(kind, parameters, shape, dtype):
    found = []
    for way in (False, True):
        module = getattr(doors, kind)(*parameters, checkpoint=way)
        found.append(kept_bytes(module, noise(shape, dtype)))
        assert module.saved_bytes(shape, dtype) == found[-1]
    assert 10 * found[1] < found[0]


def test_one_signal_in_float32_is_stated_unless_told_otherwise():
    module = doors.Scattering1D(4, 256, 4)
    assert module.saved_bytes() == module.saved_bytes((256,), torch.float32)
    with torch.no_grad():
        assert module.saved_bytes() == module.saved_bytes((256,)) > 0
    anyones = doors.Scattering1D(4, Q=4)
    assert anyones.saved_bytes((256,)) == module.saved_bytes()
    with pytest.raises(ValueError, match="made without a shape"):
        anyones.saved_bytes()


PROGRAM = """
import ctypes, gc, json, torch
import scatflow.torch as doors

torch.set_num_threads(1)

def resident(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

grown, x = [], torch.randn(2**17).requires_grad_()
for checkpoint in (False, True):
    module = doors.Scattering1D(9, 2**17, 8, checkpoint=checkpoint)
    torch.autograd.grad(module(x).sum(), x)  # filters, FFT plans, whatever else is made once
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")  # the peak, VmHWM, counts from here
    torch.autograd.grad(module(x).sum(), x)
    grown.append(resident("VmHWM") - before)
print(json.dumps(grown))
"""


def test_the_peak_of_the_process_is_lower_too():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        # Large arrays go back to the system when they are freed, whatever was allocated before.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    keeps, computes = json.loads(done.stdout)
    print(f"a transform and its gradient: {keeps / 2**20:.0f} and {computes / 2**20:.0f} MiB")
    assert 3 * computes < keeps


def test_nothing_changes_where_nobody_differentiates():
    keeps, computes, shape = pair("2d")
    x = noise(shape)
    torch.testing.assert_close(computes(x.detach()), keeps(x.detach()), rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(computes(x), keeps(x), rtol=0, atol=0)


@cases
def test_it_goes_with_the_compiler_and_with_functional_derivatives(name):
    keeps, computes, shape = pair(name)
    x = noise(shape, torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(lambda x: arrays(computes(x)), backend="aot_eager")
        found = compiled(x)
    torch.testing.assert_close(found, arrays(keeps(x)))
    (slope,) = torch.autograd.grad(sum(v.square().sum() for v in found), x)
    (true,) = torch.autograd.grad(loss(keeps, x), x)
    torch.testing.assert_close(slope, true)
    functional = torch.func.grad(lambda x: loss(computes, x))(x.detach())
    torch.testing.assert_close(functional, true)


def test_mixed_precision_leaves_what_is_computed_again_alone():
    keeps, computes, shape = pair("1d")
    x = noise(shape, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(computes, x)
    (slope,) = torch.autograd.grad(value, x)
    torch.testing.assert_close(slope, torch.autograd.grad(loss(keeps, x), x)[0])


def test_it_is_an_option_of_the_module():
    module = doors.Scattering1D(3, 64, checkpoint=True)
    assert "checkpoint=True" in repr(module)
    assert "checkpoint" not in repr(doors.Scattering1D(3, 64))
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert other.checkpoint is True
    assert scatflow.kymatio.Scattering1D(3, 64, frontend="torch", checkpoint=True).checkpoint
    x = noise((64,), torch.float32)
    module(x)
    little = kept_bytes(module, x)
    module.checkpoint = False
    assert kept_bytes(module, x) > little
    module.max_order = 1  # replaces the engine, not the option
    assert module.checkpoint is False
    with pytest.raises(TypeError, match="checkpoint must be True or False"):
        doors.Scattering1D(3, 64, checkpoint="often")
    with pytest.raises(TypeError):
        doors.Scattering1D(3, 64, 1, None, None, 2, 0, "array", None, "kymatio", True)
