"""CUDA kernels on the host: the same source through a C++ compiler, each launch as loops.

What a kernel needs of CUDA (``__global__``, ``blockIdx`` ...) is a few lines before the source.
A launch walks through the blocks of its grid and the threads of each block, one after the other,
forwards or backwards: kernels that share nothing cannot tell.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

OPTIONS = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
KEPT = Path(__file__).parents[2] / ".pytest_cache" / "host_kernels"

SHIM = """
#include <cmath>
#include <type_traits>
#define __global__
#define __device__
#define __align__(n) alignas(n)
struct Dim { unsigned x, y, z; };
static Dim gridDim, blockDim, blockIdx, threadIdx;
"""

LAUNCHES = """
// The letter of a parameter's type, as struct and numpy have it; pointers are capital P and theirs.
template <class T> struct Letter;
template <> struct Letter<unsigned> { static constexpr char value = 'I'; };
template <> struct Letter<int> { static constexpr char value = 'i'; };
template <> struct Letter<Place> { static constexpr char value = 'q'; };
template <> struct Letter<float> { static constexpr char value = 'f'; };
template <> struct Letter<double> { static constexpr char value = 'd'; };
template <> struct Letter<Complex<float>> { static constexpr char value = 'F'; };
template <> struct Letter<Complex<double>> { static constexpr char value = 'D'; };
template <> struct Letter<Box> { static constexpr char value = 'q'; };
template <> struct Letter<Volume> { static constexpr char value = 'q'; };

template <class P> void write_letter(char*& out) {
    if (std::is_pointer<P>::value) {
        *out++ = 'P';
        *out++ = Letter<std::remove_cv_t<std::remove_pointer_t<P>>>::value;
    } else {
        *out++ = Letter<std::remove_cv_t<std::remove_pointer_t<P>>>::value;
        *out++ = ' ';
    }
}

template <class... P, unsigned long... I>
void call(void (*kernel)(P...), void** args, std::integer_sequence<unsigned long, I...>) {
    kernel(*static_cast<P*>(args[I])...);
}

template <class... P>
void launch(void (*kernel)(P...), Dim grid, Dim block, int backwards, void** args, char* letters) {
    if (letters) {
        (write_letter<P>(letters), ...);
        *letters = 0;
        return;
    }
    gridDim = grid;
    blockDim = block;
    const auto numbers = std::make_integer_sequence<unsigned long, sizeof...(P)>();
    const unsigned blocks = grid.x * grid.y, threads = block.x * block.y;
    for (unsigned i = 0; i < blocks; ++i) {
        const unsigned number = backwards ? blocks - 1 - i : i;
        blockIdx = {number % grid.x, number / grid.x, 0};
        for (unsigned j = 0; j < threads; ++j) {
            const unsigned thread = backwards ? threads - 1 - j : j;
            threadIdx = {thread % block.x, thread / block.x, 0};
            call(kernel, args, numbers);
        }
    }
}
"""

EXPORT = """
extern "C" void launch_{i}(Dim grid, Dim block, int backwards, void** args, char* letters) {{
    launch({name}, grid, block, backwards, args, letters);
}}
"""


class Dim(ctypes.Structure):
    _fields_ = [(axis, ctypes.c_uint) for axis in "xyz"]


def compiler():
    """The C++ compiler of this machine."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and shutil.which(name):
            return name
    raise RuntimeError(
        "The CUDA kernels are tested by compiling them for the host, and there is no C++ compiler: "
        "install g++ or clang, or name one in CXX."
    )


def library(text):
    """The shared library of a source, compiled once for all processes that want the same."""
    command = [compiler(), *OPTIONS]
    made = KEPT / f"{hashlib.sha256(repr((command, text)).encode()).hexdigest()}.so"
    if not made.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=KEPT) as folder:
            source, fresh = Path(folder) / "kernels.cpp", Path(folder) / "kernels.so"
            source.write_text(text)
            done = subprocess.run([*command, "-o", fresh, source], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"The kernels do not compile for the host:\n{done.stderr}")
            fresh.replace(made)
    return made


class Kernels:
    """The kernels of a source, by their names in C++."""

    @classmethod
    @cache
    def of(cls, source, names):
        """Compile a source, once in a process."""
        return cls(source, names)

    def __init__(self, source, names):
        self.backwards = False
        exports = "".join(EXPORT.format(i=i, name=name) for i, name in enumerate(names))
        text = f"{SHIM}\n#include <utility>\n{source}\n{LAUNCHES}\n{exports}"
        loaded = ctypes.CDLL(str(library(text)))
        self._functions = {name: loaded[f"launch_{i}"] for i, name in enumerate(names)}
        self.letters = {name: self._letters(name) for name in names}

    def _letters(self, name):
        """The types of a kernel's parameters: ('P', 'f') is a pointer to float."""
        room = ctypes.create_string_buffer(256)
        self._functions[name](Dim(), Dim(), 0, None, room)
        text = room.value.decode()
        return [tuple(text[i : i + 2]) for i in range(0, len(text), 2)]

    def launch(self, name, grid, block, args):
        """Run a kernel with arguments as CuPy takes them: arrays, and numbers of NumPy's types."""
        assert grid[0] < 2**31
        assert grid[1] <= 65535
        assert min(*grid, *block) >= 1
        assert block[0] * block[1] <= 1024
        assert len(args) == len(self.letters[name]), f"{name} takes {len(self.letters[name])}"
        held = []
        for i, (arg, (letter, pointed)) in enumerate(zip(args, self.letters[name], strict=True)):
            where = f"argument {i} of {name}"
            if letter == "P":
                kind = np.dtype(pointed)
                assert isinstance(arg, np.ndarray), f"{where} is to be an array"
                assert arg.dtype == kind, f"{where} is to be of {kind}, not {arg.dtype}"
                assert arg.flags.c_contiguous, f"{where} is to be contiguous"
                held.append(ctypes.c_void_p(arg.ctypes.data))
            else:
                assert isinstance(arg, np.generic), f"{where} is to be a number of NumPy's"
                assert arg.dtype == np.dtype(letter), f"{where} is to be {np.dtype(letter)}"
                held.append(np.ctypeslib.as_ctypes_type(arg.dtype)(arg.item()))
        pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(h) for h in held))
        sizes = Dim(*grid, 1), Dim(*block, 1)
        self._functions[name](*sizes, int(self.backwards), pointers, None)
