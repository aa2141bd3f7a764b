"""The walk of time-frequency scattering: wavelets in time, then along log-frequency.

Wavelets along log-frequency need all first-order paths at a time, so these are computed first; of
the second order, one wavelet in time is in flight at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import numpy as np

from scatflow.backends.protocol import (
    Backend,
    Grid,
    Joint,
    Keep,
    Kept,
    Layer,
    Lowpass,
    Rows,
    Stage,
    Tree,
)
from scatflow.engines.cascade import Again, Emit, reshape, slices
from scatflow.engines.plan import Plan


class JointBackend(Backend, Joint, Protocol):
    """A backend that has what time-frequency scattering asks for."""


@dataclass(frozen=True, eq=False)
class Across:
    """Wavelets along log-frequency that are decimated alike, and what is kept of their moduli."""

    stage: Stage
    rows: tuple[Rows, ...]
    """For each set of rows that they are applied to, the paths that they give: ``(filters,)``, or
    ``(filters, kept rows)`` where rows are paths of their own."""
    average: Kept
    """Along log-frequency."""
    kept: int
    """Rows that are kept."""
    grid: int
    """Rows with those of zeros."""
    target: int
    """Rows that moduli are decimated to."""


@dataclass(frozen=True, eq=False)
class Second:
    """Wavelets of the second order of one octave, with those along log-frequency."""

    stages: tuple[Stage, ...]
    """The wavelets in time as first-order paths of each octave below see them."""
    parents: int
    """First-order paths in these octaves."""
    wavelets: int
    grid: Grid
    average: Kept
    """In time."""
    across: tuple[Across, ...]


@dataclass(frozen=True, eq=False)
class JointTree(Tree):
    """A whole time-frequency transform; its layers are those of the first order, by octave."""

    finest: Layer | None
    """All wavelets of the first order at the signal's sampling, where nothing is averaged in time:
    moduli of several octaves then have no other sampling in common."""
    first: tuple[Across, ...]
    second: tuple[Second, ...]

    @property
    def octaves(self) -> int:
        """Octaves of the first order that the second sees."""
        return max((len(second.stages) for second in self.second), default=0)

    def stages(self) -> Iterator[Stage]:
        """Yield all filters."""
        for layer in (*self.layers, *([self.finest] if self.finest else [])):
            yield layer.stage
        for second in self.second:
            yield from second.stages
            yield from (across.stage for across in second.across)
        yield from (across.stage for across in self.first)


def scatter(
    backend: JointBackend,
    tree: JointTree,
    x: Any,
    emit: Emit,
    each: Callable[..., Any] = map,
    again: Again | None = None,
) -> None:
    """Walk down the tree with padded signals ``(batch, *grid)`` and emit each group of paths.

    `each` calls a function with each octave of the second order, one after the other or at once.
    With `again`, some moduli of the first order, what filters across them give, and what one
    wavelet of the second gives, are each computed in one call of it.
    """
    u = reshape(x, (x.shape[0], 1, *x.shape[1:]))  # (batch, 1, *grid)
    u_hat = backend.spectrum(u, 1)
    if tree.average is not None:
        emit(np.zeros(1, np.intp), backend.average(u, tree.average, u_hat))
    stacked, spectra = _first_order(backend, tree, u_hat, again)
    for across in tree.first:
        values = partial(_across, backend, across)
        kept = values(*stacked) if again is None else again(values, *stacked)
        _emit(emit, across.rows[0], kept)
    del stacked

    def descend(second: Second) -> None:
        _second_order(backend, second, spectra, emit, again)

    for _ in each(descend, tree.second):
        pass


def _across(backend: JointBackend, across: Across, *rows: Any) -> Any:
    """Return what wavelets along log-frequency give of rows."""
    return backend.joint_modulus(rows, across.stage, across.average)


def _first_order(
    backend: JointBackend, tree: JointTree, u_hat: Any, again: Again | None
) -> tuple[list[Any], list[list[Any]]]:
    """Return averaged moduli, and the spectra of moduli by octave, both in pieces of some paths."""
    stacked: list[Any] = []
    spectra: list[list[Any]] = []
    layers = [*tree.layers, *([tree.finest] if tree.finest else [])]
    for octave, layer in enumerate(layers):
        averaged = tree.finest is None or layer is tree.finest
        seen = layer is not tree.finest and octave < tree.octaves
        if not averaged and not seen:
            continue
        spectra.append([])
        for which in slices(1, layer.rows.size, u_hat.shape[0], layer.grid, tree.elements):
            values = partial(_moduli, backend, layer, which, averaged, seen)
            low, below = values(u_hat) if again is None else again(values, u_hat)
            if averaged:
                stacked.append(low)
            if seen:
                spectra[-1].append(below)
    return stacked, spectra


def _moduli(
    backend: JointBackend, layer: Layer, which: slice, averaged: bool, seen: bool, u_hat: Any
) -> tuple[Any, Any]:
    """Return the averages and the spectra of some moduli, either if it is asked for."""
    u = backend.wavelet_modulus(u_hat, layer.stage, which)
    u = reshape(u, (u.shape[0], which.stop - which.start, *layer.grid))  # (batch, filters, *grid)
    below = backend.spectrum(u, 1) if seen else None
    return backend.average(u, layer.average, below) if averaged else None, below


def _second_order(
    backend: JointBackend,
    second: Second,
    spectra: Sequence[Sequence[Any]],
    emit: Emit,
    again: Again | None,
) -> None:
    """Apply wavelets in time to all first-order paths, one at a time, then those across them."""
    octaves = list(zip(second.stages, spectra, strict=False))  # those below
    stages = [stage for stage, pieces in octaves for _ in pieces]
    seen = [u_hat for _, pieces in octaves for u_hat in pieces]
    for n in range(second.wavelets):
        values = partial(_of_one_wavelet, backend, second, stages, n)
        found = values(*seen) if again is None else again(lambda *s, v=values: tuple(v(*s)), *seen)
        for across, kept in zip(second.across, found, strict=True):
            _emit(emit, across.rows[n], kept)


def _of_one_wavelet(
    backend: JointBackend, second: Second, stages: Sequence[Stage], n: int, *seen: Any
) -> Iterator[Any]:
    """Yield what wavelets across first-order paths give after the n-th one in time."""
    rows = []
    for stage, u_hat in zip(stages, seen, strict=True):
        y = backend.wavelet(u_hat, stage, slice(n, n + 1))
        rows.append(reshape(y, (y.shape[0], y.shape[1], *second.grid)))  # (batch, rows, *grid)
    for across in second.across:
        u = backend.joint_modulus(rows, across.stage, across.average)
        batch, filters, kept = u.shape[:3]  # (batch, filters, kept rows, *grid)
        v = backend.average(reshape(u, (batch, filters * kept, *second.grid)), second.average)
        yield reshape(v, (batch, filters, kept, v.shape[-1]))


def _emit(emit: Emit, rows: Rows, kept: Any) -> None:
    """Emit ``(batch, filters, kept rows, windows)``, as paths of rows or rows as paths."""
    batch, filters, count, windows = kept.shape
    if rows.ndim == 2:
        kept = reshape(kept, (batch, filters * count, windows))
    emit(rows.reshape(-1), kept)


def _slice(layer: Layer, batch: int, elements: int) -> int:
    """Return the samples of the moduli of a layer that are in flight, for one signal."""
    taken = next(slices(1, layer.rows.size, batch, layer.grid, elements))
    return int((taken.stop - taken.start) * math.prod(layer.grid))


def _windows(average: Kept, n: int) -> int:
    """Return how many samples are kept of n."""
    match average:
        case Lowpass(_, (target,), (crop,)):
            return len(range(*crop.indices(target)))
        case Keep((crop,)):
            return len(range(*crop.indices(n)))
    return 1


def _most_kept(across: tuple[Across, ...]) -> int:
    """Return the most rows that filters along log-frequency leave together."""
    return int(max(some.kept * some.rows[0].shape[0] for some in across))


def _largest_joint(across: tuple[Across, ...]) -> int:
    """Return the samples of rows and of moduli that are in flight together, at each time."""
    return int(max(some.grid + some.rows[0].shape[0] * some.target for some in across))


def _coefficients(across: tuple[Across, ...]) -> int:
    """Return the coefficients of one set of rows, at each time."""
    return int(sum(some.kept * some.rows[0].shape[0] for some in across))


@dataclass(frozen=True, eq=False)
class JointPlan(Plan):
    """A time-frequency transform, ready to be applied."""

    tree: JointTree

    def compiled(self) -> JointPlan:
        """Return the plan: it goes verb by verb."""
        return self

    def scatter(self, tree: Tree, x: Any, emit: Emit, each: Callable[..., Any] = map) -> None:
        """Take padded signals through the transform."""
        backend, joint = cast(JointBackend, self.backend), cast(JointTree, tree)
        scatter(backend, joint, x, emit, each, self.again)

    @property
    def samples_in_flight(self) -> int:
        """Samples that one signal has in flight on a device.

        Rows and what filters along log-frequency make of them are there once, with room for their
        FFTs: half of what a sample that goes down two layers takes. Coefficients take less still,
        where they are gathered and on their way.
        """
        tree, (n,) = self.tree, self.padded
        rows = sum(layer.rows.size for layer in tree.layers)
        windows = _windows((tree.finest or tree.layers[0]).average, n)
        largest = windows * (rows + _largest_joint(tree.first))
        kept = n + windows * _coefficients(tree.first)
        for second in tree.second:
            (grid,) = second.grid
            largest = max(largest, grid * (second.parents + _largest_joint(second.across)))
            windows = _windows(second.average, grid)
            kept += second.wavelets * windows * _coefficients(second.across)
        seen = sum(layer.rows.size * layer.grid[0] for layer in tree.layers[: tree.octaves])
        return max(4 * n, (seen + largest) // 2 + kept // 3)

    @property
    def signals_at_once(self) -> int:
        """Signals that are taken through the transform together."""
        return max(1, self.tree.elements // (64 * math.prod(self.padded)))

    def peak_bytes(self, batch: int = 1) -> int:
        """Return the bytes of working memory in flight for `batch` signals.

        Neither the output nor the filters (:attr:`held_bytes`) are counted. For each signal in
        flight, of which there are :attr:`signals_at_once` a thread, these are the signal and its
        spectrum as they are padded, the spectra of all first-order moduli that the second order
        sees, and whatever is largest of the moduli of an octave (those with which
        ``tree.elements`` are in flight), the first order's rows with what is kept of them, and the
        second order's for one wavelet in time.
        """
        signals = self.threads * self.signals_at_once
        if self.threads == 1:
            signals = min(max(batch, 1), signals)
        tree, n = self.tree, math.prod(self.padded)
        seen = sum(layer.rows.size * (layer.grid[0] + 2) for layer in tree.layers[: tree.octaves])
        layers = tree.layers if tree.finest is None else (*tree.layers, tree.finest)
        octave = max(_slice(layer, signals, tree.elements) for layer in layers)
        windows = _windows(layers[-1].average, layers[-1].grid[0])
        rows = windows * sum(layer.rows.size for layer in tree.layers)
        first = 3 * rows + 2 * _most_kept(tree.first) * windows
        second = [
            second.grid[0] * (5 * second.parents + 4 * _most_kept(second.across))
            for second in tree.second
        ]
        most = max(rows + 6 * octave, rows + first, *second, 0)
        return int(self.dtype.itemsize * signals * (2 * n + seen + most))

    @property
    def held_bytes(self) -> int:
        """Bytes of the filters, which stay while the plan is cached."""
        stages = {id(stage): stage for stage in self.tree.stages()}
        return sum(stage.nbytes for stage in stages.values())
