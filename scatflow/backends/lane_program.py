"""Transforms of signals and images laid out for :mod:`lane_signals` and :mod:`lanes`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scatflow.backends import bands, codelets, fft, lane_signals, lanes
from scatflow.backends.bands import BandStage, Runs
from scatflow.backends.codelets import ABREAST, CHUNK, POINT, UNITS, VECTOR_BYTES
from scatflow.backends.program import contiguous, held_bytes, in_threads, padding
from scatflow.backends.protocol import Grid, Layer, Lowpass, Rows, Tree
from scatflow.backends.scratch import SCRATCH

Array = NDArray[Any]

SMALL = 2**19
"""Pixels up to which lanes were at least as fast as MKL on every grid: 32 MiB in flight."""

LARGEST = 2**20
"""Pixels up to which they are taken where MKL is missing or slow: 64 MiB in flight."""

FILLED = 2
"""Wavelets of one scale that make lanes worth while for a single image, too."""

LONG = 2**14
"""Samples of a padded signal up to which lanes serve where MKL does not lead: 7 MiB in flight."""

LONGEST = 2**17
"""Samples up to which they do if one signal's wavelets fill half of them: 56 MiB in flight."""


LOWPASS = (lanes.STARTS, lanes.STRETCHES, lanes.TAPS, lanes.WEIGHTS)
"""What a low-pass fills in of a group's row."""


@dataclass(frozen=True, eq=False)
class LaneProgram:
    """A tree of filters laid out for a walk over lanes."""

    walk: Callable[..., None]
    """:func:`lanes.scatter` or :func:`lane_signals.scatter`."""
    stamp: Array
    """What the walk is compiled of, see :func:`compiling.stamp`."""
    groups: Array
    layers: int
    rows: Array
    columns: Array
    dtype: np.dtype[Any]
    at_once: int
    """Signals that one thread transforms side by side."""
    arrays: dict[str, int]
    places: dict[str, int]
    """Bytes of each piece of scratch: those the walk takes as arrays, and as addresses."""
    line: int
    """Address of :func:`codelets.line`."""
    kept: tuple[Any, ...]
    """What the addresses point to."""

    @property
    def held_bytes(self) -> int:
        """Bytes of the filters and tables."""
        return held_bytes((*self.kept, self.rows, self.columns))

    @property
    def working_bytes(self) -> int:
        """Bytes in flight in one thread, the input and output aside."""
        return sum(self.arrays.values()) + sum(self.places.values())

    def __call__(self, x: Array, out: Array, threads: int) -> None:
        """Transform ``(batch, *grid)`` into ``(batch, paths, *windows)``."""
        if not x.size:
            return
        images = contiguous(x).reshape(x.shape[0], -1, x.shape[-1])
        coefficients = out.reshape(*out.shape[:2], -1)
        in_threads(self._run, images, coefficients, threads, self.at_once)

    def _run(self, x: Array, out: Array, part: int, parts: int) -> None:
        arrays, places = (
            [
                SCRATCH.take(use, (size // self.dtype.itemsize,), self.dtype)
                for use, size in s.items()
            ]
            for s in (self.arrays, self.places)
        )
        self.walk(
            x,
            self.rows,
            self.columns,
            out,
            self.groups,
            self.layers,
            part,
            parts,
            self.line,
            *arrays,
            tuple(place.ctypes.data for place in places),
            self.stamp,
        )


def compile_tree(tree: Tree, shape: Grid, before: Grid, dtype: np.dtype[Any]) -> LaneProgram | None:
    """Return a tree as a program, or None where lanes do not suit it."""
    layers = list(tree.layers)
    children = [child for layer in layers for child in layer.children]
    averages = [tree.average, *(layer.average for layer in (*layers, *children))]
    if len(tree.grid) > 2 or not all(isinstance(average, Lowpass) for average in averages):
        return None
    grids = [tree.grid, *(layer.grid for layer in (*layers, *children))]
    grids += {average.target for average in averages}  # type: ignore[union-attr]
    table = (_Signals if len(tree.grid) == 1 else _Images)(dtype)
    if not all(codelets.splits(n) for grid in grids for n in grid):
        return None
    if not table.suits(grids, [layer.rows.size for layer in layers]):
        return None
    table.add(tree.grid, tree.average, children=len(layers))
    child = 1 + len(layers)
    for layer in layers:
        table.add(layer.grid, layer.average, layer, tree.grid, child, len(layer.children))
        child += len(layer.children)
    for layer in layers:
        for below in layer.children:
            table.add(below.grid, below.average, below, layer.grid)
    rows, columns = padding(shape, before, tree.grid)
    groups = np.array(table.groups, np.int64)
    arrays, places = table.scratch(groups, len(layers))
    line = codelets.line(dtype.name)
    return LaneProgram(
        walk=table.walk,
        stamp=table.stamp,
        groups=groups,
        layers=len(layers),
        rows=rows,
        columns=columns,
        dtype=dtype,
        at_once=table.at_once,
        arrays=arrays,
        places=places,
        line=line.address,
        kept=(line, *table.kept),
    )


def _pitch(n: int) -> int:
    """Return the points from columns of n to the next ones, see :mod:`lanes`."""
    return n | 1


class _Table(ABC):
    """The kernel's table, row by row."""

    walk: Callable[..., None]
    stamp: Array

    def __init__(self, dtype: np.dtype[Any], at_once: int) -> None:
        self.dtype = dtype
        self.at_once = at_once
        self.groups: list[list[int]] = []
        self.kept: list[Any] = []
        self._folds: dict[int, list[int]] = {}
        self._laid: dict[tuple[Grid, int, bool], list[int]] = {}
        self._lowpasses: dict[tuple[int, int, int], tuple[int, ...]] = {}
        self._lengths: dict[int, int] = {}
        self._name = dtype.name

    def add(
        self,
        grid: Grid,
        average: Any,
        layer: Layer | None = None,
        parent: Grid | None = None,
        child: int = 1,
        children: int = 0,
    ) -> None:
        """Append the row of one group, whose wavelets are applied to half spectra of `parent`."""
        key = (grid, id(average), children > 0)
        if key not in self._laid:
            blank = [0] * lanes.FIELDS
            fold = codelets.fold(self._name)
            self.kept.append(fold)
            blank[lanes.FOLD_CODE] = fold.address
            self._lay_out(blank, grid, average, followed=children > 0)
            self._laid[key] = blank
        row = list(self._laid[key])
        paths: Rows = np.zeros((1, 1), np.intp) if layer is None else layer.rows
        row[lanes.COUNT] = paths.shape[1]
        row[lanes.PATHS] = self._address(np.ascontiguousarray(paths, np.int64))
        row[lanes.CHILD], row[lanes.CHILDREN_END] = child, child + children
        if layer is not None and parent is not None:
            fields = slice(lanes.WIDE, int(lanes.ROW_AVERAGE))
            if id(layer.stage) not in self._folds:
                assert isinstance(layer.stage, BandStage)
                self._filters(row, layer.stage, grid, parent)
                self._folds[id(layer.stage)] = row[fields]
            # The first order's filters are the second's of moduli that are not decimated.
            row[fields] = self._folds[id(layer.stage)]
        self.groups.append(row)

    @abstractmethod
    def suits(self, grids: list[Grid], counts: list[int]) -> bool:
        """Return whether lanes suit grids, at the first order of so many wavelets each."""

    @abstractmethod
    def scratch(self, groups: Array, layers: int) -> tuple[dict[str, int], dict[str, int]]:
        """Return the bytes of each piece of scratch: arrays and places of the walk, in turn."""

    @abstractmethod
    def _lay_out(self, row: list[int], grid: Grid, average: Lowpass, followed: bool) -> None:
        """Describe a grid and its average; whether its moduli are `followed` by children."""

    @abstractmethod
    def _filters(self, row: list[int], stage: BandStage, grid: Grid, parent: Grid) -> None:
        """Describe a group's wavelets."""

    def _average(self, row: list[int], how: np.int64, average: Lowpass, axis: int) -> None:
        """Say how a decimated line is transformed, and which of its samples are kept."""
        target = average.target[axis]
        windows = range(*average.crop[axis].indices(target))
        row[how + lanes.AVERAGE_PASSES] = self._passes(target)
        row[how + lanes.AVERAGE_LENGTH] = target
        row[how + lanes.AVERAGE_FIRST] = windows.start
        row[how + lanes.AVERAGE_WINDOWS] = len(windows)

    def _fold(
        self, row: list[int], how: np.int64, runs: Array, weights: Array, lines: int, length: int
    ) -> None:
        """Say how lines are folded."""
        starts, stretches, made, taps, tapped = lanes.stretch(runs, lines, length, lanes.STAMP)
        row[how + lanes.STARTS] = self._address(starts)
        row[how + lanes.STRETCHES] = self._address(stretches[:made].copy())
        row[how + lanes.TAPS] = self._address(taps[:tapped].copy())
        row[how + lanes.WEIGHTS] = self._address(weights.astype(self.dtype, copy=False))

    def _passes(self, n: int) -> int:
        if n not in self._lengths:
            passes = codelets.passes(n, self._name)
            self.kept.append(passes)
            self._lengths[n] = passes.address
        return self._lengths[n]

    def _address(self, array: Array) -> int:
        self.kept.append(array)
        return int(array.__array_interface__["data"][0])


class _Images(_Table):
    """What :func:`lanes.scatter` needs."""

    walk = staticmethod(lanes.scatter)
    stamp = lanes.STAMP

    def __init__(self, dtype: np.dtype[Any]) -> None:
        super().__init__(dtype, codelets.lanes(dtype))

    def suits(self, grids: list[Grid], counts: list[int]) -> bool:
        """Return whether images are small and fill the lanes, or MKL is missing or slow."""
        size = math.prod(grids[0])
        filled = size <= SMALL and min(counts, default=0) >= FILLED
        return filled or (size <= LARGEST and not fft.leads(grids, fft.PRIMES[:4]))

    def _lay_out(self, row: list[int], grid: Grid, average: Lowpass, followed: bool) -> None:  # noqa: ARG002
        row[lanes.ROWS], row[lanes.COLUMNS] = grid
        row[lanes.PITCH] = _pitch(grid[0])
        row[lanes.COLUMN_PASSES], row[lanes.ROW_PASSES] = map(self._passes, grid)
        for axis, how in enumerate((lanes.COLUMN_AVERAGE, lanes.ROW_AVERAGE)):
            self._lowpass(row, how, average, axis, grid[axis])

    def _filters(self, row: list[int], stage: BandStage, grid: Grid, parent: Grid) -> None:
        pitch = _pitch(parent[0])
        wide = ABREAST if grid[1] % ABREAST == parent[1] % UNITS == 0 else 1
        row[lanes.WIDE], row[lanes.DELTA] = wide, -pitch * UNITS
        lines = grid[1] // wide
        boxes = stage.take()
        eps = self.dtype.type(bands.SPAN_EPS[self._name])
        runs, weights = lanes.cut_columns(*boxes, parent, grid, pitch, wide, eps, lanes.STAMP)
        self._fold(row, lanes.FOLD, runs, weights.copy(), row[lanes.COUNT] * lines, grid[0])

    def _lowpass(self, row: list[int], how: np.int64, average: Lowpass, axis: int, n: int) -> None:
        factor, target = average.factors[axis], average.target[axis]
        fields = [how + field for field in LOWPASS]
        key = (id(factor), target, n)
        if key not in self._lowpasses:  # rows and columns of squares share theirs
            self._smooth(row, how, factor, target, n)
            self._lowpasses[key] = tuple(row[field] for field in fields)
        for field, value in zip(fields, self._lowpasses[key], strict=True):
            row[field] = value
        self._average(row, how, average, axis)

    def _smooth(self, row: list[int], how: np.int64, factor: Array, target: int, n: int) -> None:
        reach = factor.size - 1
        negative = factor[reach - (2 * reach == n) : 0 : -1]  # bin n/2 is its own mirror image
        weights = np.concatenate([factor, negative]) / n  # bins 0 ... W, -W ... -1
        runs = []
        for first, count in ((0, factor.size), (n - negative.size, negative.size)):
            done = 0
            while done < count:
                source = first + done
                length = min(count - done, target - source % target)
                offset = done + (factor.size if first else 0)
                runs.append((0, source % target, length, UNITS * source, 0, offset))
                done += length
        self._fold(row, how, np.array(runs, np.int64), weights, 1, target)

    def scratch(self, groups: Array, layers: int) -> tuple[dict[str, int], dict[str, int]]:
        """Return the bytes of each piece of scratch."""
        rows, columns = groups[:, lanes.ROWS], groups[:, lanes.COLUMNS]
        width = groups[:, lanes.ROW_AVERAGE + lanes.AVERAGE_WINDOWS]
        windows = width * groups[:, lanes.COLUMN_AVERAGE + lanes.AVERAGE_WINDOWS]
        lines = [how + lanes.AVERAGE_LENGTH for how in (lanes.ROW_AVERAGE, lanes.COLUMN_AVERAGE)]
        grid = (columns + ABREAST - 1) // ABREAST * groups[:, lanes.PITCH]
        half = (columns // 2 + ABREAST) // ABREAST * groups[:, lanes.PITCH]
        parents = np.where(groups[:, lanes.CHILD] < groups[:, lanes.CHILDREN_END], half, 0)
        longest = int(max(rows.max(), columns.max()))
        lengths = {*rows.tolist(), *columns.tolist(), *groups[:, lines].flat}
        arrays = {
            "u": int(columns.max()) * POINT,
            "small": int(windows.max()) * CHUNK,
            "top": int(half[0]) * POINT + VECTOR_BYTES,  # shares may read beyond
        }
        places = {
            "room": max(codelets.room(int(k)) for k in lengths) * POINT,
            "row": longest * POINT,
            "short": int(groups[:, lines].max()) * POINT,
            "averages": int((rows * ((width + UNITS - 1) // UNITS)).max()) * POINT,
            "z": int(grid[1:].max(initial=0)) * POINT,
            "parent": int(parents[1 : 1 + layers].max(initial=0)) * POINT,
        }
        return arrays, places


class _Signals(_Table):
    """What :func:`lane_signals.scatter` needs."""

    walk = staticmethod(lane_signals.scatter)
    stamp = lane_signals.STAMP

    def __init__(self, dtype: np.dtype[Any]) -> None:
        super().__init__(dtype, ABREAST * codelets.lanes(dtype))

    def suits(self, grids: list[Grid], counts: list[int]) -> bool:
        """Return whether signals are short, or fill the lanes, and MKL is no faster."""
        longest = LONGEST if 2 * max(counts, default=0) >= self.at_once else LONG
        return grids[0][0] <= longest and not fft.leads(grids)

    def _lay_out(self, row: list[int], grid: Grid, average: Lowpass, followed: bool) -> None:
        (n,) = grid
        half = n // 2
        row[lane_signals.LENGTH] = n
        row[lane_signals.PASSES] = self._passes(n)
        row[lane_signals.HALF_PASSES] = self._passes(n if n % 2 else half)
        if n % 2 == 0:
            row[lane_signals.TURNS] = self._address(_turns(half, self._name))
            bins = half if followed else average.factors[0].size - 1
            row[lane_signals.BINS] = 1 + min(bins, half // 2)
        cut = bands.lowpass(average, grid, self.dtype).rows
        self._fold_bins(row, lane_signals.AVERAGE, cut, average.target[0])
        self._average(row, lane_signals.AVERAGE, average, 0)

    def _filters(self, row: list[int], stage: BandStage, grid: Grid, parent: Grid) -> None:  # noqa: ARG002
        self._fold_bins(row, lanes.FOLD, stage.rows, grid[0])

    def _fold_bins(self, row: list[int], how: np.int64, cut: Runs, length: int) -> None:
        pieces = cut.pieces
        which = np.repeat(np.arange(len(cut.filters) - 1), np.diff(cut.filters))
        # Pieces begin with the lowest bin, runs with that of their first sample.
        bins = UNITS * (pieces[:, 0] + (pieces[:, 2] - 1) * pieces[:, 4])
        runs = np.column_stack([which, pieces[:, 1:3], bins, pieces[:, 4], pieces[:, 3]])
        self._fold(row, how, runs, cut.weights, len(cut.filters) - 1, length)

    def scratch(self, groups: Array, layers: int) -> tuple[dict[str, int], dict[str, int]]:
        """Return the bytes of each piece of scratch."""
        n = groups[:, lane_signals.LENGTH]
        short = groups[:, lane_signals.AVERAGE + lanes.AVERAGE_LENGTH]
        real = np.where(n % 2, n, n // 2 + 1)
        z = int(max(n[1:].max(initial=0), short.max()))
        lengths = {*np.where(n % 2, n, n // 2).tolist(), *n[1:].tolist(), *short.tolist()}
        arrays = {"top": int(real[0]) * POINT + VECTOR_BYTES, "z": z * POINT}
        places = {
            "room": max(codelets.room(int(k)) for k in lengths) * POINT,
            "parent": int(real[1 : 1 + layers].max(initial=0)) * POINT,
            "leaf": int(real[1 + layers :].max(initial=0)) * POINT,
        }
        return arrays, places


@lru_cache(maxsize=1024)
def _turns(half: int, dtype: str) -> Array:
    """Return the angles for :func:`codelets.split_halves`."""
    angles = np.exp(-1j * np.pi * np.arange(half // 2 + 1) / half)
    turns: Array = angles.astype(np.result_type(dtype, np.complex64))
    return turns
