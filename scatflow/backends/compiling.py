"""How Numba compiles kernels: without the interpreter's lock, kept on disk, no more than is called.

A first call waits for the compiler, so nothing is compiled that is not used: functions that only
kernels call have neither wrappers for Python nor machine code of their own, integers are passed as
variables, since each literal would be a signature of its own, and slices are copied by loops, since
an assignment from array to array brings the formatting of its error message, strings and all, which
takes longest of everything. Nothing asks for the exception of a division by zero either.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numba
import numpy as np
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import LoweringPass, register_pass
from numba.core.typed_passes import NativeLowering


def _can_be_kept():
    """Return whether there is a folder for compiled code: beside this file, or the user's own."""
    try:
        numba.njit(cache=True)(_can_be_kept)
    except RuntimeError:  # how Numba says that it may write nowhere
        return False
    return True


KEPT = _can_be_kept()
"""Whether compiled code is kept on disk. If not, each process compiles what it uses."""


class _Part(JITCodeLibrary):
    """Code that is linked into its callers': these are optimised and made executable, not it.

    Without these two, whose names are Numba's own, it would only take longer.
    """

    def _optimize_final_module(self):
        pass

    def _finalize_final_module(self):
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _LoweringForCallers(LoweringPass):
    """Numba's translation into LLVM's language, and no further."""

    _name = "scatflow_lowering_for_callers"

    def __init__(self):
        LoweringPass.__init__(self)

    def run_pass(self, state):
        codegen = state.targetctx.codegen()
        state.library = _Part(codegen, state.func_id.func_qualname)
        state.flags.no_compile = True
        NativeLowering().run_pass(state)
        name = [].append  # A built-in method like no other, by which callers know the function.
        state.targetctx.insert_user_function(name, state.cr.fndesc, [state.library])
        state["cr"] = state.cr._replace(cfunc=name)
        return True


class _ForCallers(CompilerBase):
    """Numba's compiler for functions that only compiled ones call."""

    def define_pipelines(self):
        pipeline = DefaultPassBuilder.define_nopython_pipeline(self.state)
        pipeline.passes = [
            (_LoweringForCallers, what) if kind is NativeLowering else (kind, what)
            for kind, what in pipeline.passes
        ]
        pipeline.finalize()
        return [pipeline]


def compiled(function=None, **options):
    """Compile a function, with more options of :func:`numba.njit`."""
    made = numba.njit(nogil=True, cache=KEPT, no_cfunc_wrapper=True, error_model="numpy", **options)
    return made if function is None else made(function)


def inner(function=None, **options):
    """Compile a function that only compiled ones call, with more options of :func:`numba.njit`.

    It may not print, put values into the messages of exceptions, or call one that calls it; Python
    gets None of it.
    """
    made = numba.njit(
        nogil=True,
        no_cfunc_wrapper=True,
        no_cpython_wrapper=True,
        error_model="numpy",
        pipeline_class=_ForCallers,
        **options,
    )
    return made if function is None else made(function)


def stamp(*files):
    """Return an empty array whose type names the contents of some source files.

    Numba's cache on disk compiles anew what a changed file holds, but not what calls it from
    another one. A kernel that is passed this array is compiled anew then, too, and when this file
    changes; kernels of one file that are passed none are not.
    """
    digest = zlib.crc32(b"".join(Path(file).read_bytes() for file in (*files, __file__)))
    return np.empty(0, [(f"sources_{digest:08x}", np.uint8)])
