"""The one walk down the tree of a scattering transform, depth first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from scatflow.backends.protocol import Backend, Grid, Layer, Rows, Tree

Emit = Callable[[Rows, Any], None]


def scatter(
    backend: Backend, tree: Tree, x: Any, emit: Emit, each: Callable[..., Any] = map
) -> None:
    """Walk down the tree with padded signals ``(batch, *grid)`` and emit each group of paths.

    `each` calls a function with each layer below the root, one after the other or at once.
    """
    u = reshape(x, (x.shape[0], 1, *x.shape[1:]))  # (batch, 1, *grid)
    u_hat = backend.spectrum(u, len(tree.grid))
    if tree.average is not None:
        emit(np.zeros(1, np.intp), backend.average(u, tree.average, u_hat))

    def descend(layer: Layer) -> None:
        _descend(backend, layer, layer.rows, u_hat, tree.elements, emit)

    for _ in each(descend, tree.layers):
        pass


def slices(parents: int, filters: int, batch: int, grid: Grid, elements: int) -> Iterator[slice]:
    """Yield the filters to take at a time, so that about `elements` samples are in flight."""
    step = max(1, elements // max(batch * parents * math.prod(grid), 1))
    for first in range(0, filters, step):
        yield slice(first, min(first + step, filters))


def reshape(x: Any, shape: Grid) -> Any:
    """Return an array in another shape; the standard's arrays have no method for it."""
    return x.reshape(shape) if hasattr(x, "reshape") else x.__array_namespace__().reshape(x, shape)


def _descend(
    backend: Backend, layer: Layer, rows: Rows, u_hat: Any, elements: int, emit: Emit
) -> None:
    """Apply a layer to all its parents, emit its paths and go on with its children."""
    batch, parents = u_hat.shape[:2]
    for which in slices(parents, rows.shape[1], batch, layer.grid, elements):
        u = backend.wavelet_modulus(u_hat, layer.stage, which)
        count = parents * (which.stop - which.start)
        u = reshape(u, (batch, count, *layer.grid))  # (batch, parents * filters, *grid)
        below = backend.spectrum(u, len(layer.grid)) if layer.children else None
        emit(rows[:, which].reshape(-1), backend.average(u, layer.average, below))
        del u
        for child in layer.children:
            # A parent of this child is a filter of this layer.
            _descend(backend, child, child.rows[which], below, elements, emit)
