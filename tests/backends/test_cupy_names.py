"""CuPy itself has what the backend asks of it, under the names its stand-in has.

These tests need CuPy installed, but neither a device nor a driver.
"""

import ast
import importlib
import inspect
import re
from pathlib import Path

import host_cupy
import pytest

import scatflow

pytestmark = pytest.mark.cupy

SOURCE = Path(scatflow.__file__).parent / "backends" / "cupy.py"


def dotted(node):
    """The names of ``a.b.c``, or nothing where something else is in between."""
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return [*inner, node.attr] if inner else []
    return [node.id] if isinstance(node, ast.Name) else []


def names_asked_for():
    """What the backend's source names of CuPy's modules."""
    chains = [dotted(n) for n in ast.walk(ast.parse(SOURCE.read_text("utf-8")))]
    roots = {"cupy": "cupy", "cupyx": "cupyx", "cufft": "cupy.cuda.cufft"}
    return sorted({".".join([roots[c[0]], *c[1:]]) for c in chains if c and c[0] in roots})


def found(name):
    """What a dotted name stands for, modules imported on the way."""
    parts = name.split(".")
    thing = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], 2):
        if not hasattr(thing, part):
            importlib.import_module(".".join(parts[:i]))
        thing = getattr(thing, part)
    return thing


@pytest.mark.parametrize("name", names_asked_for())
def test_what_is_asked_for_is_there(name):
    assert found(name) is not None


def parameters(thing):
    """Names of parameters: as Python knows them, or from the first line that Cython leaves."""
    try:
        return set(inspect.signature(thing).parameters)
    except ValueError:
        line = (thing.__doc__ or "").strip().partition("\n")[0]
        inside = line[line.index("(") + 1 : line.rindex(")")]
        return {re.split(r"[=\s]+", re.sub(r"=.*", "", p.strip()))[-1] for p in inside.split(",")}


FUNCTIONS = {
    "cupy.empty": host_cupy.empty,
    "cupy.zeros": host_cupy.zeros,
    "cupy.asarray": host_cupy.asarray,
    "cupy.ascontiguousarray": host_cupy.ascontiguousarray,
    "cupy.concatenate": host_cupy.concatenate,
    "cupy.from_dlpack": host_cupy.from_dlpack,
    "cupyx.empty_pinned": host_cupy.empty_pinned,
    "cupy.RawModule": host_cupy.RawModule,
    "cupy.cuda.Stream": host_cupy.Stream,
    "cupy.cuda.Event": host_cupy.Event,
    "cupy.cuda.Device": host_cupy.Device,
    "cupy.cuda.get_allocator": host_cupy.get_allocator,
    "cupy.cuda.using_allocator": host_cupy.using_allocator,
    "cupy.cuda.get_current_stream": host_cupy.get_current_stream,
    "cupy.cuda.runtime.getDeviceProperties": host_cupy.getDeviceProperties,
    "cupy.ndarray.set": host_cupy.ndarray.set,
    "cupy.ndarray.get": host_cupy.ndarray.get,
    "cupy.ndarray.take": host_cupy.ndarray.take,
    "cupy.ndarray.astype": host_cupy.ndarray.astype,
    "cupy.ndarray.copy": host_cupy.ndarray.copy,
    "cupy.cuda.cufft.PlanNd": host_cupy.PlanNd,
    "cupy.cuda.cufft.PlanNd.fft": host_cupy.PlanNd.fft,
    "cupy.cuda.Stream.record": host_cupy.Stream.record,
    "cupy.cuda.Stream.wait_event": host_cupy.Stream.wait_event,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_stand_in_takes_nothing_that_cupy_does_not(name):
    ours = parameters(FUNCTIONS[name]) - {"self"}
    assert ours <= parameters(found(name)) - {"self"}


METHODS = {
    "cupy.ndarray": host_cupy.ndarray,
    "cupy.cuda.Stream": host_cupy.Stream,
    "cupy.cuda.Event": host_cupy.Event,
    "cupy.cuda.Device": host_cupy.Device,
    "cupy.cuda.MemoryPool": host_cupy.Pool,
    "cupy.RawModule": host_cupy.RawModule,
}
OWN = {"host", "memory", "queue", "run"}


@pytest.mark.parametrize("name", METHODS)
def test_the_stand_in_has_no_attribute_that_cupys_has_not(name):
    ours = {key for key in vars(METHODS[name]) if not key.startswith("_")} - OWN
    assert ours <= set(dir(found(name)))


def test_types_of_transforms_are_those_of_the_stand_in():
    cufft = importlib.import_module("cupy.cuda.cufft")
    assert {name: int(getattr(cufft, name)) for name in host_cupy.TYPES} == host_cupy.TYPES
    theirs = [int(cufft.CUFFT_FORWARD), int(cufft.CUFFT_INVERSE)]
    assert theirs == [host_cupy.FORWARD, host_cupy.INVERSE]


def test_a_plan_tells_how_much_room_it_has():
    plan = importlib.import_module("cupy.cuda.cufft").PlanNd
    assert hasattr(plan, "work_area")
    assert hasattr(importlib.import_module("cupy.cuda.memory").MemoryPointer, "ptr")
    assert hasattr(importlib.import_module("cupy.cuda.memory").MemoryPointer, "mem")
    assert "size" in dir(importlib.import_module("cupy.cuda.memory").Memory)
