"""The few calls of CuPy that scatflow makes, on the host, as strict as a GPU and stricter.

Arrays are no NumPy arrays and do not mix with them. Work is queued on streams and done when
somebody waits for it, as late as can be, or on some streams as early as can be: what is not ordered
by an event comes out wrong. Memory is filled with NaN when it is given and, in the order of its
stream, when it is given back, as other work would. Every piece has a margin that nothing may write
to. Several devices do not mix either.
"""

import importlib
import sys
import threading
import types
import weakref
from collections import deque
from contextlib import contextmanager
from importlib.machinery import ModuleSpec

import numpy as np
import scipy.fft
from host_cuda import Kernels

MARGIN = 64
CANARY = 0xA5
EDGE = bytes([CANARY]) * MARGIN
FORWARD, INVERSE = -1, 1
TYPES = {
    "CUFFT_R2C": 0x2A, "CUFFT_C2R": 0x2C, "CUFFT_C2C": 0x29,
    "CUFFT_D2Z": 0x6A, "CUFFT_Z2D": 0x6C, "CUFFT_Z2Z": 0x69,
}  # fmt: skip
TRANSFORMS = {
    number: (kind, *reals)
    for reals, numbers in (
        ((np.float32, np.complex64), (0x2A, 0x2C, 0x29)),
        ((np.float64, np.complex128), (0x6A, 0x6C, 0x69)),
    )
    for kind, number in zip(("R2C", "C2R", "C2C"), numbers, strict=True)
}


class CUDARuntimeError(RuntimeError):
    """What CUDA's calls raise."""


class OutOfMemoryError(MemoryError):
    """What the pool raises."""


class Machine:
    """The devices, and what happened on them."""

    def __init__(self):
        self.memory_since = object()
        self.devices = 2
        self.total = 2**34
        self.free = 2**34
        """Free memory of each device before anything is taken."""
        self.limit = 0
        self.used = 0
        self.peak = 0
        self.error = None
        self.hasty = None
        """Which streams do not wait: those of "copies", those of other "work", or none."""
        self.plans_made = 0
        self.pool_emptied = 0
        self.launches = []


MACHINE = Machine()
ONE_AT_A_TIME = threading.RLock()
_LOCAL = threading.local()


# --- streams -------------------------------------------------------------------------------

STREAMS = weakref.WeakSet()


class Stream:
    """A queue of work, done when somebody waits for it."""

    _number = 0

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        Stream._number += not null
        self.ptr = 0 if null else Stream._number
        self.kind = "copies" if non_blocking else "work"
        self.work = deque()
        self.queued = self.done = 0
        self.at_work = False
        STREAMS.add(self)

    def queue(self, work):
        with ONE_AT_A_TIME:
            self.work.append(work)
            self.queued += 1
            if MACHINE.hasty == self.kind and not self.at_work:
                self.run(self.queued)

    def run(self, until):
        with ONE_AT_A_TIME:
            while self.done < until:
                before, self.at_work = self.at_work, True
                try:
                    self.work.popleft()()
                finally:
                    self.done += 1
                    self.at_work = before

    def synchronize(self):
        self.run(self.queued)

    def record(self, event=None):
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event):
        self.queue(event.synchronize)

    def __enter__(self):
        _LOCAL.__dict__.setdefault("streams", []).append(self)
        return self

    def __exit__(self, *why):
        _LOCAL.streams.pop()


class Event:
    """A place in a stream's queue."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.place = None

    def record(self, stream=None):
        stream = stream or get_current_stream()
        self.place = stream, stream.queued

    def synchronize(self):
        stream, until = self.place
        stream.run(until)


NULL = Stream(null=True)


def get_current_stream(device_id=-1):
    return (_LOCAL.__dict__.get("streams") or [NULL])[-1]


# --- devices and memory --------------------------------------------------------------------


class Device:
    """One of the machine's devices."""

    def __init__(self, device=None):
        _check()
        self.id = getDevice() if device is None else int(device)
        if self.id >= MACHINE.devices:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    @property
    def mem_info(self):
        return MACHINE.free - MACHINE.used, MACHINE.total

    def __enter__(self):
        _LOCAL.__dict__.setdefault("devices", []).append(self.id)
        return self

    def __exit__(self, *why):
        _LOCAL.devices.pop()


def _check():
    if MACHINE.error:
        raise CUDARuntimeError(MACHINE.error)


def getDevice():  # noqa: N802 - CUDA's name
    _check()
    return (_LOCAL.__dict__.get("devices") or [0])[-1]


def getDeviceCount():  # noqa: N802
    _check()
    return MACHINE.devices


def getDeviceProperties(device):  # noqa: N802
    return {"name": b"Pretended GPU", "major": 9, "minor": 0, "totalGlobalMem": MACHINE.total}


class Pool:
    """The memory pool: nothing is kept in it."""

    def free_bytes(self):
        return 0

    def free_all_blocks(self, stream=None):
        MACHINE.pool_emptied += 1

    def used_bytes(self):
        return MACHINE.used

    def get_limit(self):
        return MACHINE.limit


class Memory:
    """A piece of a device's memory, with margins.

    The pool's serves its stream again as soon as it is given back. What is taken past the pool is
    given back to the device, which first finishes all that is queued.
    """

    def __init__(self, size, pooled=True):
        _check()
        self.size, self.device = size, getDevice()
        most = min(MACHINE.free, MACHINE.limit or MACHINE.free)
        if MACHINE.used + size > most:
            raise OutOfMemoryError(f"{size} bytes where {most - MACHINE.used} are free")
        self.since = MACHINE.memory_since
        MACHINE.used += size
        MACHINE.peak = max(MACHINE.peak, MACHINE.used)
        self.raw = raw = np.full(size + 2 * MARGIN, CANARY, np.uint8)
        self.inside = inside = raw[MARGIN : MARGIN + size]
        self.stream = get_current_stream() if pooled else None
        if pooled:
            self.stream.queue(lambda: inside.fill(0xFF))  # NaN in any precision
        else:
            inside.fill(0xFF)

    def margins(self):
        return self.raw[:MARGIN], self.raw[MARGIN + self.size :]

    def __del__(self):
        if "inside" in self.__dict__ and not sys.is_finalizing():
            MACHINE.used -= self.size * (self.since is MACHINE.memory_since)
            inside = self.inside
            if self.stream is not None:
                self.stream.queue(lambda: inside.fill(0xFF))
                return
            for stream in list(STREAMS):
                stream.synchronize()
            inside.fill(0xFF)


class MemoryPointer:
    """What allocators give."""

    def __init__(self, mem):
        self.mem = mem


def get_allocator():
    return (_LOCAL.__dict__.get("allocators") or [alloc_from_pool])[-1]


def alloc_from_pool(size):
    return MemoryPointer(Memory(size))


def alloc_past_the_pool(size):
    return MemoryPointer(Memory(size, pooled=False))


@contextmanager
def using_allocator(allocator=None):
    allocators = _LOCAL.__dict__.setdefault("allocators", [])
    allocators.append(allocator or alloc_past_the_pool)
    try:
        yield
    finally:
        allocators.pop()


class Foreign:
    """Memory of another library."""

    def __init__(self, owner):
        self.owner, self.device = owner, getDevice()

    def margins(self):
        return ()


# --- arrays --------------------------------------------------------------------------------


class ndarray:  # noqa: N801 - CuPy's name
    """An array on a device: a view of a piece of its memory."""

    __module__ = "cupy"
    __array_ufunc__ = None
    __hash__ = None

    def __init__(self, memory, host):
        self.memory, self.host = memory, host

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    nbytes = property(lambda self: self.host.nbytes)
    flags = property(lambda self: self.host.flags)
    device = property(lambda self: Device(self.memory.device))
    data = property(lambda self: types.SimpleNamespace(ptr=self.host.ctypes.data))
    T = property(lambda self: ndarray(self.memory, self.host.T))

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Use `.get()`.")

    def __array_function__(self, function, types, args, kwargs):
        return NotImplemented

    def __len__(self):
        return len(self.host)

    def __getitem__(self, key):
        for k in key if isinstance(key, tuple) else (key,):
            if not isinstance(k, int | slice | type(Ellipsis)):
                raise TypeError(f"Unsupported type {type(k)}")
        view = self.host[key]
        if not isinstance(view, np.ndarray):
            view = self.host[(*(key if isinstance(key, tuple) else (key,)), Ellipsis)]
        return ndarray(self.memory, view)

    def __setitem__(self, key, value):
        _here(self, value)
        view, given = self[key].host, value.host
        assert (view.shape, view.dtype) == (given.shape, given.dtype)
        get_current_stream().queue(lambda: np.copyto(view, given))

    def reshape(self, *shape):
        shape = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
        view = self.host.reshape(shape)
        if np.shares_memory(view, self.host) or not view.size:
            return ndarray(self.memory, view)
        return ascontiguousarray(self).reshape(shape)

    def transpose(self, *axes):
        return ndarray(self.memory, self.host.transpose(*axes))

    def all(self, axis=None):
        return _computed((), bool, lambda x: x.all(axis), self)

    def __bool__(self):
        return bool(self.get())

    def astype(self, dtype, copy=True):
        if np.dtype(dtype) == self.dtype and not copy:
            return self
        return _computed(self.shape, dtype, lambda x: x.astype(dtype), self)

    def copy(self):
        return _computed(self.shape, self.dtype, lambda x: x, self)

    def take(self, indices, axis):
        shape = (*self.shape[:axis], *indices.shape, *self.shape[axis + 1 :])
        return _computed(shape, self.dtype, lambda x, i: x.take(i, axis), self, indices)

    def __truediv__(self, other):
        if not isinstance(other, int | float):
            raise TypeError(f"Unsupported type {type(other)}")
        return _computed(self.shape, self.dtype, lambda x: x / other, self)

    def set(self, arr, stream=None):
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        assert (arr.shape, arr.dtype) == (self.shape, self.dtype)
        assert arr.flags.c_contiguous
        assert self.flags.c_contiguous
        view = self.host
        (stream or get_current_stream()).queue(_copy(view, arr))

    def get(self, stream=None, order="C", out=None, blocking=True):
        assert self.flags.c_contiguous or out is None
        stream = stream or get_current_stream()
        out = np.empty(self.shape, self.dtype) if out is None else out
        assert (out.shape, out.dtype) == (self.shape, self.dtype)
        view = self.host
        stream.queue(_copy(out, view))
        if blocking:
            stream.synchronize()
        return out

    @property
    def __cuda_array_interface__(self):
        return {**self.host.__array_interface__, "version": 3, "stream": None}

    def __dlpack_device__(self):
        return self.host.__dlpack_device__()

    def __dlpack__(self, *, stream=None, **how):
        get_current_stream().synchronize()
        self.host.setflags(write=True)
        return _Keeping(self).__dlpack__(**how)


class _Keeping(np.ndarray):
    """What another library is given: it keeps the memory alive."""

    def __new__(cls, array):
        self = array.host.view(cls)
        self.array = array
        return self


def _device_array(shape, dtype):
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = get_allocator()(size).mem
    return ndarray(memory, memory.inside[:size].view(dtype).reshape(shape))


def _here(*arrays):
    """Check that arrays are on the current device, as kernels want them."""
    for array in arrays:
        if not isinstance(array, ndarray):
            raise TypeError(f"Unsupported type {type(array)}")
        if array.memory.device != getDevice():
            raise ValueError(
                f"Array device must be same as the current device: array device = "
                f"{array.memory.device} while current = {getDevice()}"
            )


def _computed(shape, dtype, function, *arrays):
    _here(*arrays)
    out = _device_array(shape, dtype)
    view, views = out.host, [array.host for array in arrays]
    get_current_stream().queue(lambda: np.copyto(view, function(*views)))
    return out


def empty(shape, dtype=float, order="C"):
    return _device_array(shape, dtype)


def zeros(shape, dtype=float, order="C"):
    return _computed(shape, dtype, lambda: np.zeros(shape, dtype))


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    if isinstance(a, ndarray):
        return a
    if hasattr(a, "__cuda_array_interface__"):

        class Told:
            __array_interface__ = a.__cuda_array_interface__

        return ndarray(Foreign(a), np.asarray(Told()))
    host = np.array(a)
    return _computed(host.shape, host.dtype, lambda: host)


def ascontiguousarray(a, dtype=None):
    _here(a)
    if a.flags.c_contiguous:
        return a
    return _computed(a.shape, a.dtype, lambda x: x, a)


def concatenate(tup, axis=0, out=None, *, dtype=None, casting="same_kind"):
    _here(*tup)
    shape = list(tup[0].shape)
    shape[axis] = sum(a.shape[axis] for a in tup)
    return _computed(shape, tup[0].dtype, lambda *views: np.concatenate(views, axis), *tup)


def isfinite(x):
    return _computed(x.shape, bool, np.isfinite, x)


def from_dlpack(array, *, device=None, copy=None):
    if isinstance(array, ndarray):
        return array
    return ndarray(Foreign(array), np.from_dlpack(array))


class Pinned:
    """A piece of the host's memory that copies know; the next who asks may have it once dropped."""

    def __init__(self, size):
        self.raw, self.given_back = np.full(size, 0xFF, np.uint8), threading.Event()
        self.__array_interface__ = self.raw.__array_interface__

    def __del__(self):
        self.given_back.set()
        self.raw.fill(0xFF)


def empty_pinned(shape, dtype=float, order="C"):
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return np.asarray(Pinned(size))[:size].view(dtype).reshape(shape)


def _copy(target, source):
    """Return the work of a copy, which does not keep pinned memory from being given back."""
    held, events = [], []
    for array in (target, source):
        owner = array
        while isinstance(owner, np.ndarray) and owner.base is not None:
            owner = owner.base
        if isinstance(owner, Pinned):
            events.append(owner.given_back)
            first = array.ctypes.data - owner.raw.ctypes.data
            array = np.ndarray(array.shape, array.dtype, owner.raw, first, array.strides)
        held.append(array)

    def work():
        assert not any(event.is_set() for event in events), "pinned memory was given back before"
        np.copyto(*held)

    return work


# --- kernels and FFTs ----------------------------------------------------------------------


class RawModule:
    """A source, compiled for the host."""

    def __init__(self, *, code, options=(), name_expressions=None):
        assert "--std=c++17" in options
        self.kernels = Kernels.of(code, tuple(name_expressions))

    def get_function(self, name):
        def launch(grid, block, args):
            arrays = [arg for arg in args if isinstance(arg, ndarray)]
            _here(*arrays)
            given = [arg.host if isinstance(arg, ndarray) else arg for arg in args]
            ends = [end for array in arrays for end in array.memory.margins()]
            MACHINE.launches.append(name)

            def run():
                self.kernels.launch(name, grid, block, given)
                for end in ends:
                    assert end.tobytes() == EDGE, f"{name} wrote outside of an array"

            get_current_stream().queue(run)

        return launch


class PlanNd:
    """Some transforms of one kind; its room serves one stream of one thread."""

    def __init__(
        self, shape, inembed, istride, idist, onembed, ostride, odist,
        fft_type, batch, order, last_axis, last_size,
    ):  # fmt: skip
        assert order == "C"
        assert type(batch) is int
        MACHINE.plans_made += 1
        self.kind, self.real, self.complex = TRANSFORMS[fft_type]
        self.rows, self.grid = batch, tuple(shape)
        self.layouts = None
        if inembed is not None:
            assert inembed == onembed == shape  # of one axis, these only say that strides count
            assert self.kind == "C2C"
            self.layouts = (idist, istride), (odist, ostride)
        self.work_area = get_allocator()(2 * self.real().nbytes * batch * int(np.prod(shape)))
        self.stream = get_current_stream()
        self.thread = threading.current_thread()

    def check(self, a, out):
        """Check what any plan asks of its arrays."""
        _here(a, out)
        assert get_current_stream() is self.stream, "a plan's room is used by two streams"
        assert threading.current_thread() is self.thread, "a plan's room is used by two threads"
        assert a.flags.c_contiguous
        assert out.flags.c_contiguous
        types = {"R2C": (self.real, self.complex), "C2R": (self.complex, self.real)}
        assert (a.dtype, out.dtype) == types.get(self.kind, (self.complex, self.complex))
        for one in (a, out):  # NVIDIA asks for it
            assert one.data.ptr % np.result_type(one.dtype, 1j).itemsize == 0, "not aligned"

    def views(self, a, out):
        """Return what is transformed, and to where, as ``(transforms, *grid)``."""
        if self.layouts is None:
            half = (*self.grid[:-1], self.grid[-1] // 2 + 1)
            shapes = {"R2C": (self.grid, half), "C2R": (half, self.grid)}
            given, made = shapes.get(self.kind, (self.grid, self.grid))
            return a.host.reshape(self.rows, *given), out.host.reshape(self.rows, *made)
        views = []
        for one, steps in zip((a, out), self.layouts, strict=True):
            shape = (self.rows, *self.grid)
            last = sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
            assert last < one.size, "cuFFT would go beyond the array"
            strides = [step * one.dtype.itemsize for step in steps]
            views.append(np.lib.stride_tricks.as_strided(one.host.reshape(-1), shape, strides))
        return views

    def fft(self, a, out, direction):
        self.check(a, out)
        assert direction in {"R2C": (FORWARD,), "C2R": (INVERSE,)}.get(self.kind, (-1, 1))
        source, target = self.views(a, out)
        axes = tuple(range(1, 1 + len(self.grid)))
        room = self.work_area.mem.inside

        def run():
            room.fill(0xFF)
            if self.kind == "R2C":
                target[...] = scipy.fft.rfftn(source, axes=axes)
            elif self.kind == "C2R":
                target[...] = scipy.fft.irfftn(source, self.grid, axes=axes, norm="forward")
                source.fill(np.nan)  # cuFFT uses its input as room
            elif direction == FORWARD:
                target[...] = scipy.fft.fftn(source, axes=axes)
            else:
                target[...] = scipy.fft.ifftn(source, axes=axes, norm="forward")

        self.stream.queue(run)


# --- as modules ----------------------------------------------------------------------------


def modules():
    """The modules, by name."""
    made = {
        name: types.ModuleType(name)
        for name in ("cupy", "cupy.cuda", "cupy.cuda.cufft", "cupy.cuda.runtime", "cupyx")
    }  # fmt: skip
    functions = (empty, zeros, asarray, ascontiguousarray, concatenate, from_dlpack, isfinite)
    contents = {
        "cupy": {
            **{function.__name__: function for function in functions},
            "__version__": "0", "ndarray": ndarray, "RawModule": RawModule,
            "get_default_memory_pool": Pool, "cuda": made["cupy.cuda"],
        },
        "cupy.cuda": {
            "Device": Device, "Stream": Stream, "Event": Event,
            "get_current_stream": get_current_stream,
            "get_allocator": get_allocator, "using_allocator": using_allocator,
            "cufft": made["cupy.cuda.cufft"], "runtime": made["cupy.cuda.runtime"],
        },
        "cupy.cuda.cufft": {
            "CUFFT_FORWARD": FORWARD, "CUFFT_INVERSE": INVERSE, "PlanNd": PlanNd,
            **TYPES,
        },
        "cupy.cuda.runtime": {
            "CUDARuntimeError": CUDARuntimeError, "getDevice": getDevice,
            "getDeviceCount": getDeviceCount, "getDeviceProperties": getDeviceProperties,
        },
        "cupyx": {"empty_pinned": empty_pinned},
    }  # fmt: skip
    for name, content in contents.items():
        made[name].__dict__.update(content)
        made[name].__spec__ = ModuleSpec(name, None)
    return made


@contextmanager
def instead_of_cupy():
    """Let ``import cupy`` find this, for scatflow alone; yields the machine."""
    import scatflow.backends
    from scatflow.backends import choose
    from scatflow.engines.plan import PLANS

    ours = "scatflow.backends.cupy"
    names = [*modules(), ours]
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    MACHINE.__init__()
    PLANS.clear()
    there = choose.installed
    choose.installed = lambda name: name == "cupy" or there(name)
    sys.modules.update(modules())
    try:
        yield MACHINE
        NULL.synchronize()
    finally:
        choose.installed = there
        PLANS.clear()
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(before)
        scatflow.backends.__dict__.pop("cupy", None)
        if ours in before:
            scatflow.backends.cupy = before[ours]


@contextmanager
def cupy_or_its_stand_in(gpu):
    """Yield the module ``cupy``: CuPy itself on a GPU."""
    if gpu:
        yield importlib.import_module("cupy")
        return
    with instead_of_cupy():
        yield importlib.import_module("cupy")


class FromHost:
    """A backend whose arrays are on a device, for tests that give and expect NumPy's."""

    def __init__(self, backend, arrays):
        self._backend, self._arrays = backend, arrays

    def __getattr__(self, name):
        found = getattr(self._backend, name)
        return self._verb(found) if callable(found) else found

    def _verb(self, verb):
        def call(*args):
            arrays = self._arrays

            def there(a):
                if isinstance(a, list):
                    return [there(one) for one in a]
                return arrays.asarray(a) if isinstance(a, np.ndarray) else a

            made = verb(*map(there, args))
            return made.get() if isinstance(made, arrays.ndarray) else made

        return call
