"""The FFT in use: Intel's MKL, where the package mkl-fft has brought it, else SciPy's pocketfft.

Measured on one thread in complex64 with the data in the cache: MKL 50 to 110 GFLOP/s on a Xeon and
33 to 49 on an EPYC (Zen 5), SciPy 5 to 34; transforms of our own in the lanes of vectors, which
:mod:`lane_program` chooses where :func:`leads` says that MKL is no faster, 56 to 107 up to 2^15
points (EPYC, ``benchmarks/lines.py``). MKL's transforms are called through their C interface
(DFTI), which compiled kernels can call, too, and which costs ten nanoseconds a call; each row,
image or volume is one call, so its bits do not depend on what else is in the batch.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import math
import os
import sys
import weakref
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from scatflow.backends import kernels
from scatflow.backends.protocol import Grid
from scatflow.errors import BackendError

Array = NDArray[Any]

LIBRARIES = ("mkl", "scipy")
VARIABLE = "SCATFLOW_FFT"
"""Environment variable that names one of them."""


# --- which library -------------------------------------------------------------------------


def _choose() -> ctypes.CDLL | None:
    """Return MKL where it is installed and wanted, with its symbols known to the kernels."""
    wanted = os.environ.get(VARIABLE) or None
    if wanted not in (None, *LIBRARIES):
        raise BackendError(
            f"{VARIABLE}={wanted!r} names no FFT library: take one of {', '.join(LIBRARIES)}."
        )
    path = None if wanted == "scipy" else _find_mkl()
    if path is None:
        if wanted == "mkl":
            raise BackendError(
                f'{VARIABLE}=mkl, but MKL is not installed: pip install "scatflow[mkl]".'
            )
        return None
    mkl = ctypes.CDLL(str(path))
    for symbol, function in kernels.SYMBOLS.items():
        address = ctypes.cast(getattr(mkl, function), ctypes.c_void_p).value
        llvmlite.binding.add_symbol(symbol, address)
    return mkl


def _find_mkl() -> Path | None:
    """Return MKL's library: pip's package records its file, conda keeps it in its prefix."""
    names = ("libmkl_rt.so", "mkl_rt.")
    found: list[Path] = []
    try:
        files = importlib.metadata.files("mkl") or []
        found += [Path(str(file.locate())) for file in files if file.name.startswith(names)]
    except importlib.metadata.PackageNotFoundError:
        for folder in ("lib", "Library/bin"):
            inside = Path(sys.prefix, folder)
            found += [file for name in names for file in inside.glob(f"{name}*")]
    libraries = [file for file in found if file.suffix != ".lib" and file.exists()]
    return libraries[0].resolve() if libraries else None


_mkl = _choose()

AMD = ("znver", "bdver", "btver")
"""What LLVM's names of AMD's processors begin with."""


def _at_home() -> bool:
    """Return whether MKL is at its best: asked for by name, or on a processor of its maker's."""
    return bool(os.environ.get(VARIABLE)) or not llvmlite.binding.get_host_cpu_name().startswith(
        AMD
    )


AT_HOME = _at_home()
"""On AMD's MKL keeps to older instructions. It depends on the processor alone and not on a
measurement of the moment: all processes of a machine have to give the same bits."""


def library() -> str:
    """Return name and version of the FFT library in use.

    Examples
    --------
    >>> library().split()[0] in {"MKL", "SciPy"}
    True
    """
    if _mkl is None:
        return f"SciPy {scipy.__version__} (pocketfft)"
    text = ctypes.create_string_buffer(198)
    _mkl.mkl_get_version_string(text, 198)
    return "MKL " + text.value.decode().partition("Version ")[2].partition(" for")[0]


PRIMES = (2, 3, 5, 7, 11, 13, 17)
"""Factors of lengths that MKL serves. With larger ones it is no faster than SciPy, and its real
transforms of long lengths lose digits in single precision (2e-5 at 32 * 8689)."""


@lru_cache(maxsize=4096)
def by_mkl(grid: Grid) -> bool:
    """Return whether transforms of a grid are MKL's."""
    return _mkl is not None and _made_of(grid, PRIMES)


def leads(grids: Iterable[Grid], primes: tuple[int, ...] = PRIMES) -> bool:
    """Return whether MKL's transforms of grids are as fast as those in lanes.

    Of images they are where there are no prime factors above 7.
    """
    return AT_HOME and all(by_mkl(grid) and _made_of(grid, primes) for grid in grids)


def _made_of(grid: Grid, primes: tuple[int, ...]) -> bool:
    return all(_smooth(n, primes) for n in grid)


@lru_cache(maxsize=1024)
def _smooth(n: int, primes: tuple[int, ...]) -> bool:
    for p in primes:
        while n % p == 0:
            n //= p
    return n == 1


def real_is_slow(grid: Grid) -> bool:
    """Return whether MKL's complex transform is faster than its real one (measured: up to 5 x)."""
    return grid[-1] <= 48 and grid[-1] % 16 != 0


def real_by_mkl(grid: Grid) -> bool:
    """Return whether real transforms of a grid are MKL's.

    Those of volumes are, where MKL is at home: SciPy's took longer at every size there.
    """
    return by_mkl(grid) and (not real_is_slow(grid) or (AT_HOME and len(grid) == 3))


# --- MKL's descriptors ---------------------------------------------------------------------

# From mkl_dfti.h, whose values are part of MKL's binary interface.
_COMPLEX, _REAL, _LETTER = 32, 33, {4: "s", 8: "d"}
_COMPLEX_STORAGE, _COMPLEX_COMPLEX = 10, 39
_PLACEMENT, _NOT_IN_PLACE = 11, 44
_INPUT_STRIDES, _OUTPUT_STRIDES = 12, 13
_THREAD_LIMIT = 27


class Descriptor:
    """What MKL prepared for transforms of one grid; any number of threads may use it.

    Complex transforms work in place. Real ones go from the grid to its half spectrum, or back.

    Parameters
    ----------
    grid : tuple of int
        Shape of one transform.
    dtype : dtype
        float32 or float64.
    kind : {"complex", "forward", "inverse"}
        The latter two are real.
    """

    def __init__(self, grid: Grid, dtype: np.dtype[Any], kind: str) -> None:
        if _mkl is None:
            raise BackendError("MKL is not in use.")
        self._handle = ctypes.c_void_p()
        real = kind != "complex"
        create = (
            f"DftiCreateDescriptor_{_LETTER[dtype.itemsize]}_{'1d' if len(grid) == 1 else 'md'}"
        )
        lengths: list[Any] = [ctypes.c_long(grid[0])]
        if len(grid) > 1:
            lengths = [ctypes.c_long(len(grid)), (ctypes.c_long * len(grid))(*grid)]
        domain = ctypes.c_int(_REAL if real else _COMPLEX)
        check(getattr(_mkl, create)(ctypes.byref(self._handle), domain, *lengths))
        # Not at the interpreter's end, where MKL may be gone before its descriptors.
        free = weakref.finalize(self, _mkl.DftiFreeDescriptor, ctypes.byref(self._handle))
        free.atexit = False
        self._set(_THREAD_LIMIT, ctypes.c_long(1))
        if real:
            self._set(_PLACEMENT, ctypes.c_int(_NOT_IN_PLACE))
            self._set(_COMPLEX_STORAGE, ctypes.c_int(_COMPLEX_COMPLEX))
            half = (*grid[:-1], grid[-1] // 2 + 1)
            one, other = (grid, half) if kind == "forward" else (half, grid)
            self._set(_INPUT_STRIDES, _strides(one))
            self._set(_OUTPUT_STRIDES, _strides(other))
        check(_mkl.DftiCommitDescriptor(self._handle))

    def _set(self, key: int, value: Any) -> None:
        assert _mkl is not None
        check(_mkl.DftiSetValue(self._handle, ctypes.c_int(key), value))

    @property
    def handle(self) -> int:
        """The descriptor's address, for kernels."""
        return int(self._handle.value or 0)


def check(status: int) -> None:
    """Say so if MKL's status is not that all is well."""
    if status:
        raise BackendError(f"MKL refused a transform, with status {status}.")


def _strides(shape: Grid) -> Any:
    """Return ``(offset, *strides)`` of a contiguous array."""
    strides = [1]
    for n in reversed(shape[1:]):
        strides.insert(0, strides[0] * n)
    return (ctypes.c_long * (len(shape) + 1))(0, *strides)


@lru_cache(maxsize=64)
def descriptor(grid: Grid, dtype: np.dtype[Any], kind: str) -> Descriptor:
    """Return MKL's descriptor; `kind` is "complex", "forward" or "inverse" (both real)."""
    return Descriptor(grid, dtype, kind)


# --- transforms of stacks ------------------------------------------------------------------


def _stack(a: Array, ndim: int) -> Array:
    """Return a contiguous array as ``(grids, size)``."""
    return a.reshape(math.prod(a.shape[:-ndim]), -1)


def volumes(a: Array) -> Array:
    """Return volumes along one axis."""
    return a.reshape(math.prod(a.shape[:-3]), *a.shape[-3:])


def ifft(z: Array, ndim: int = 1) -> Array:
    """Invert complex grids over the last axes in place, without the factor 1/N."""
    grid = z.shape[-ndim:]
    if not by_mkl(grid):
        axes = tuple(range(-ndim, 0))
        done = scipy.fft.ifftn(z, axes=axes, norm="forward", overwrite_x=True)
        if not np.shares_memory(done, z):
            z[...] = done
        return z
    plan = descriptor(grid, z.real.dtype, "complex")
    check(kernels.backward(plan.handle, _stack(z, ndim)))
    return z


def rfft(u: Array, out: Array, ndim: int = 1) -> Array:
    """Transform real grids over the last axes to half spectra, into `out`."""
    grid = u.shape[-ndim:]
    if not real_by_mkl(grid):
        # Volumes one by one: SciPy's result is copied, and a volume is worth a call.
        pairs = zip(volumes(u), volumes(out), strict=True) if ndim == 3 else [(u, out)]
        for one, half in pairs:
            half[...] = scipy.fft.rfftn(one, axes=tuple(range(-ndim, 0)))
        return out
    plan = descriptor(grid, u.dtype, "forward")
    check(kernels.forward_real(plan.handle, _stack(u, ndim), _stack(out, ndim)))
    return out


def irfft(half: Array, out: Array, ndim: int = 1) -> Array:
    """Invert half spectra to real grids, into `out`, without the factor 1/N; `half` is lost."""
    grid = out.shape[-ndim:]
    if not real_by_mkl(grid):
        axes = tuple(range(-ndim, 0))
        out[...] = scipy.fft.irfftn(half, grid, axes=axes, norm="forward", overwrite_x=True)
        return out
    plan = descriptor(grid, out.dtype, "inverse")
    check(kernels.backward_real(plan.handle, _stack(half, ndim), _stack(out, ndim)))
    return out
