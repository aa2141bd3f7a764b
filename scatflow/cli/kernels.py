"""Compile the engines' kernels ahead of the first call, for images, shared folders and nodes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import numpy as np

import scatflow
from scatflow.backends.compiling import KEPT
from scatflow.engines.engine import Engine
from scatflow.errors import BackendError

ENGINES: dict[str, tuple[Engine, ...]] = {
    "scattering1d": (
        scatflow.Scattering1D(6, 2048, 8),
        scatflow.Scattering1D(6, 2048, 8, T=0, out_type="list"),
    ),
    "scattering2d": (
        scatflow.Scattering2D(2, (32, 32), 8),
        scatflow.Scattering2D(6, (64, 64), 2),
    ),
    "scattering3d": (scatflow.HarmonicScattering3D(2, (32, 32, 32), 2),),
    "timefrequency": (scatflow.TimeFrequencyScattering(6, 3, 8, 2048),),
}
"""Small ones of each kind of job: among them they use all kernels, whatever the parameters."""

DTYPES = ("float32", "float64")


def prepare(kinds: Iterable[str], dtypes: Iterable[str]) -> Iterator[str]:
    """Have kernels compiled and kept on disk, and say of each kind what it took.

    Raises
    ------
    BackendError
        If compiled code can be kept nowhere.
    """
    if not KEPT:
        raise BackendError(
            "compiled kernels can be kept nowhere, so that compiling them now would save nothing: "
            "neither the installed package's folder nor the user's cache can be written to. Name a "
            "folder by NUMBA_CACHE_DIR, here and wherever the kernels are used."
        )
    dtypes = tuple(dtypes)
    for kind in kinds:
        for dtype in dtypes:
            begun = time.perf_counter()
            for engine in ENGINES[kind]:
                assert engine.shape is not None
                engine(np.ones((1, *engine.shape), dtype))
            yield f"{kind} {dtype}: ready after {time.perf_counter() - begun:.1f} s"
