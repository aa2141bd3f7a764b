"""The coefficients of a job, lazily: what its run would write, computed as it is read."""

from __future__ import annotations

import functools
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from scatflow.errors import SourceError
from scatflow.flow.block import evaluate
from scatflow.flow.job import load
from scatflow.flow.work import Work, from_job, from_settings
from scatflow.labelled.scattering import assembled, labelled

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr


def open_job(path: str | Path) -> xr.Dataset:
    """Return what a job would write, without running it: each block is a task that reads its own.

    Nothing is computed here, and nothing is written. A task carries the job's settings and a
    number; its process opens the source and makes the plan once.

    Parameters
    ----------
    path : path
        A job file. Its ``[output]`` gives the precision, and of ``[run]`` only `backend` counts.

    Returns
    -------
    xarray.Dataset
        As :func:`scatflow.scatter` gives it.

    Raises
    ------
    JobError, SourceError, SourceNotFoundError
        As ``scatflow run`` has them.
    """
    base = os.getcwd()
    work = from_job(load(path), base)
    settings = json.dumps(work.settings, sort_keys=True)
    token = tokenize(settings, base)
    blocks = f"block-{token}"
    tasks = {(blocks, i): (_block, settings, base, i) for i in range(work.layout.cuts.n_blocks)}

    def graph(name: str, layer: dict[Any, Any]) -> HighLevelGraph:
        layers = {blocks: MaterializedLayer(tasks), name: MaterializedLayer(layer)}
        return HighLevelGraph(layers, {blocks: set(), name: {blocks}})

    return labelled(work, assembled(work, list(tasks), token, graph, np.empty(0)))


@functools.lru_cache(maxsize=4)
def _opened(settings: str, base: str) -> Work:
    """Open the work of a process once, for one thread a block."""
    return from_settings(json.loads(settings), base).on(1)


def _block(settings: str, base: str, index: int) -> tuple[Any, Any]:
    """Read and compute one block: coefficients, and the share of valid samples of its windows.

    Raises
    ------
    SourceError
        Samples are infinite, or missing where that is refused; or the source has changed.
    """
    made = evaluate(_opened(settings, base), index)
    if made.failure is not None:
        raise SourceError(f"{made.failure}.")
    return made.kept.values, made.kept.fraction
