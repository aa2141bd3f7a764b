"""The one walk down the tree of a scattering transform, depth first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from scatflow.backends.protocol import Backend, Grid, Layer, Rows, Tree

Emit = Callable[[Rows, Any], None]

Again = Callable[..., tuple[Any, ...]]
"""Calls a function of some spectra and keeps nothing of what it computes on its way."""


def scatter(
    backend: Backend,
    tree: Tree,
    x: Any,
    emit: Emit,
    each: Callable[..., Any] = map,
    again: Again | None = None,
) -> None:
    """Walk down the tree with padded signals ``(batch, *grid)`` and emit each group of paths.

    `each` calls a function with each layer below the root, one after the other or at once. With
    `again`, a few first-order paths and all below them are computed in one call of it.
    """
    u = reshape(x, (x.shape[0], 1, *x.shape[1:]))  # (batch, 1, *grid)
    u_hat = backend.spectrum(u, len(tree.grid))
    if tree.average is not None:
        emit(np.zeros(1, np.intp), backend.average(u, tree.average, u_hat))

    def descend(layer: Layer) -> None:
        if again is None:
            _descend(backend, layer, layer.rows, u_hat, tree.elements, emit)
            return
        # Moduli of twice the signals' samples: what is in flight while they are computed anew is
        # little against what all would keep; half as many take a third more time (measured).
        for which in slices(1, layer.rows.shape[1], 1, layer.grid, 2 * math.prod(tree.grid)):
            _in_one_call(backend, layer, which, u_hat, tree.elements, emit, again)

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
        _take(backend, layer, rows, which, u_hat, elements, emit)


def _take(
    backend: Backend,
    layer: Layer,
    rows: Rows,
    which: slice,
    u_hat: Any,
    elements: int,
    emit: Emit,
) -> None:
    """Apply some filters of a layer to all its parents and go on with their children."""
    batch, parents = u_hat.shape[:2]
    u = backend.wavelet_modulus(u_hat, layer.stage, which)
    count = parents * (which.stop - which.start)
    u = reshape(u, (batch, count, *layer.grid))  # (batch, parents * filters, *grid)
    below = backend.spectrum(u, len(layer.grid)) if layer.children else None
    emit(rows[:, which].reshape(-1), backend.average(u, layer.average, below))
    del u
    for child in layer.children:
        # A parent of this child is a filter of this layer.
        _descend(backend, child, child.rows[which], below, elements, emit)


def _in_one_call(
    backend: Backend,
    layer: Layer,
    which: slice,
    u_hat: Any,
    elements: int,
    emit: Emit,
    again: Again,
) -> None:
    """Take some filters in one call that may be repeated, so that nothing is emitted inside."""
    rows: list[Rows] = []

    def values(u_hat: Any) -> tuple[Any, ...]:
        kept: list[tuple[Rows, Any]] = []
        _take(backend, layer, layer.rows, which, u_hat, elements, lambda *some: kept.append(some))
        rows[:] = [some for some, _ in kept]
        return tuple(value for _, value in kept)

    found = again(values, u_hat)
    for some, value in zip(rows, found, strict=True):
        emit(some, value)
