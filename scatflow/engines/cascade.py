"""The one walk down the tree of a scattering transform, depth first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scatflow.backends.protocol import Backend, Grid, Kept, Stage

Rows = NDArray[np.intp]
Emit = Callable[[Rows, Any], None]


@dataclass(frozen=True, eq=False)
class Layer:
    """Wavelets that are applied to the same parents and decimated alike."""

    stage: Stage
    """The filters as the backend laid them out."""
    rows: Rows
    """``(parents, filters)``: the path that each pair gives."""
    grid: Grid
    """The decimated grid."""
    average: Kept
    children: tuple[Layer, ...] = ()

    def stages(self) -> Iterator[Stage]:
        """Yield the filters of this layer and of all below; some layers share theirs."""
        yield self.stage
        for child in self.children:
            yield from child.stages()


@dataclass(frozen=True, eq=False)
class Tree:
    """A whole transform of signals of one shape, without its padding."""

    grid: Grid
    average: Kept | None
    """How order 0 is kept; None where it is not part of the transform."""
    layers: tuple[Layer, ...]
    elements: int
    """Samples of moduli to have in flight at a time."""


def scatter(backend: Backend, tree: Tree, x: Any, emit: Emit) -> None:
    """Walk down the tree with padded signals ``(batch, *grid)`` and emit each group of paths."""
    u = x[:, None]  # (batch, 1, *grid)
    u_hat = backend.spectrum(u, len(tree.grid))
    if tree.average is not None:
        emit(np.zeros(1, np.intp), backend.average(u, tree.average, u_hat))
    for layer in tree.layers:
        _descend(backend, layer, layer.rows, u_hat, tree.elements, emit)


def slices(parents: int, filters: int, batch: int, grid: Grid, elements: int) -> Iterator[slice]:
    """Yield the filters to take at a time, so that about `elements` samples are in flight."""
    step = max(1, elements // (batch * parents * math.prod(grid)))
    for first in range(0, filters, step):
        yield slice(first, min(first + step, filters))


def _descend(
    backend: Backend, layer: Layer, rows: Rows, u_hat: Any, elements: int, emit: Emit
) -> None:
    """Apply a layer to all its parents, emit its paths and go on with its children."""
    batch, parents = u_hat.shape[:2]
    for which in slices(parents, rows.shape[1], batch, layer.grid, elements):
        u = backend.wavelet_modulus(u_hat, layer.stage, which)
        u = u.reshape(batch, -1, *layer.grid)  # (batch, parents * filters, *grid)
        below = backend.spectrum(u, len(layer.grid)) if layer.children else None
        emit(rows[:, which].reshape(-1), backend.average(u, layer.average, below))
        del u
        for child in layer.children:
            # A parent of this child is a filter of this layer.
            _descend(backend, child, child.rows[which], below, elements, emit)
