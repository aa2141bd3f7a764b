"""Arrays of other libraries inside labelled ones: CuPy's, JAX's, whatever xarray holds.

Coefficients are of the library of the samples, and where these are; labels are NumPy's. Whole
signals without gaps are transformed where they lie. All else goes by the blocks of a run, in the
host's memory: blocks of CuPy's arrays are computed on its GPU, others by NumPy, and they come back.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scatflow.backends import choose
from scatflow.engines import Engine
from scatflow.flow.work import Work

CUPY = "cupy"


def library(x: Any) -> str | None:
    """Return the library of an array, None where it is NumPy's."""
    found = choose.library(x)
    return None if found == "numpy" else found


def delegate(x: Any) -> str | None:
    """Return the backend that has blocks of an array computed, where that is not NumPy's."""
    return CUPY if library(x) == CUPY else None


def to_host(x: Any) -> NDArray[Any]:
    """Return an array of any library as NumPy's."""
    if library(x) == CUPY:
        found: NDArray[Any] = choose.module(CUPY).to_host(x)
        return found
    return np.asarray(x)


def like(values: NDArray[Any], x: Any) -> Any:
    """Return NumPy's values as an array of the library of another, on its device."""
    name = library(x)
    if name is None:
        return values
    if name == CUPY:
        return choose.module(CUPY).from_host(values, x)
    return x.__array_namespace__().asarray(values, device=x.device)


def transformed(x: Any, work: Work, engine: Engine) -> Any:
    """Transform whole signals where they lie; None where they are to be cut, or not finite.

    Parameters
    ----------
    x : array
        Of another library than NumPy.
    work : Work
        What is to be done with it.
    engine : Engine
        By which.
    """
    laid = work.layout
    if laid.transform.boundary != "whole" or engine.backend not in (None, library(x)):
        return None
    if work.source.dtype.kind == "f" and not _finite(x):
        return None
    if work.dtype != work.source.read_dtype:
        x = x.astype(work.dtype)
    words: dict[str, Any] = {"shape": None}
    if hasattr(engine, "out_type"):
        words["out_type"] = "array"
    y = dataclasses.replace(engine, **words)(x.transpose(laid.order))  # type: ignore[type-var]
    # Blocks say which coefficients overflow.
    return y.reshape(laid.shape) if _finite(y) else None


def _finite(x: Any) -> bool:
    if library(x) == CUPY:
        return bool(choose.module(CUPY).finite(x))
    xp = x.__array_namespace__()
    return bool(xp.all(xp.isfinite(x)))
