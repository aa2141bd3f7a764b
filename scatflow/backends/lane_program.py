"""Transforms of images laid out for :mod:`lanes`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scatflow.backends import codelets, fft, lanes
from scatflow.backends.bands import BandStage
from scatflow.backends.codelets import CHUNK, POINT
from scatflow.backends.program import held_bytes, in_threads, plain, reflected
from scatflow.backends.protocol import Grid, Layer, Lowpass, Rows, Tree
from scatflow.backends.scratch import SCRATCH

Array = NDArray[Any]

SMALL = 2**17
"""Pixels up to which lanes were at least as fast as MKL on every grid: 16 MiB in flight."""

LARGEST = 2**19
"""Pixels up to which they are taken where MKL is missing or slow: 64 MiB in flight."""

FILLED = 4
"""Wavelets of one scale that make lanes worth while for a single image, too."""


@dataclass(frozen=True, eq=False)
class LaneProgram:
    """A tree of filters laid out for :func:`lanes.scatter`."""

    groups: Array
    layers: int
    rows: Array
    columns: Array
    dtype: np.dtype[Any]
    scratch: dict[str, int]
    """Bytes of each piece of scratch."""
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
        return sum(self.scratch.values())

    @property
    def at_once(self) -> int:
        """Images that one thread transforms side by side."""
        return codelets.lanes(self.dtype)

    def __call__(self, x: Array, out: Array, threads: int) -> None:
        """Transform ``(batch, *grid)`` into ``(batch, paths, *windows)``."""
        if not x.size:
            return
        images = plain(x).reshape(x.shape[0], -1, x.shape[-1])
        coefficients = out.reshape(*out.shape[:2], -1)
        in_threads(self._run, images, coefficients, threads, self.at_once)

    def _run(self, x: Array, out: Array, part: int, parts: int) -> None:
        take = {
            use: SCRATCH.take(use, (size // self.dtype.itemsize,), self.dtype)
            for use, size in self.scratch.items()
        }
        uses = ("room", "row", "short", "averages", "z", "parent")
        lanes.scatter(
            x,
            self.rows,
            self.columns,
            out,
            self.groups,
            self.layers,
            part,
            parts,
            self.line,
            take["u"],
            take["small"],
            take["top"],
            tuple(take[use].ctypes.data for use in uses),
            lanes.STAMP,
        )


def compile_tree(tree: Tree, shape: Grid, before: Grid, dtype: np.dtype[Any]) -> LaneProgram | None:
    """Return a tree as a program, or None where it is not one of images that suit lanes."""
    layers = list(tree.layers)
    children = [child for layer in layers for child in layer.children]
    averages = [tree.average, *(layer.average for layer in (*layers, *children))]
    grids = [tree.grid, *(layer.grid for layer in (*layers, *children))]
    if len(tree.grid) != 2 or not all(isinstance(average, Lowpass) for average in averages):
        return None
    size = math.prod(tree.grid)
    small = size <= SMALL and all(layer.rows.shape[1] >= FILLED for layer in layers)
    if size > LARGEST or (not small and all(map(fft.fast_by_mkl, grids))):
        return None
    if not all(codelets.splits(n) for grid in grids for n in grid):
        return None
    table = _Table(dtype)
    table.add(tree.grid, tree.average)
    child = 1 + len(layers)
    for layer in layers:
        table.add(layer.grid, layer.average, layer, tree.grid, child, len(layer.children))
        child += len(layer.children)
    for layer in layers:
        for below in layer.children:
            table.add(below.grid, below.average, below, layer.grid)
    rows, columns = (reflected(n, b, p) for n, b, p in zip(shape, before, tree.grid, strict=True))
    groups = np.array(table.groups, np.int64)
    line = codelets.line(dtype.name)
    return LaneProgram(
        groups=groups,
        layers=len(layers),
        rows=rows,
        columns=columns,
        dtype=dtype,
        scratch=_scratch(groups, len(layers)),
        line=line.address,
        kept=(line, *table.kept),
    )


def _pitch(n: int) -> int:
    """Return the points from one pair of columns of n to the next, see :mod:`lanes`."""
    return n | 1


class _Table:
    """The kernel's table, row by row."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.groups: list[list[int]] = []
        self.kept: list[Any] = []
        self._folds: dict[int, tuple[int, list[int]]] = {}

    def add(
        self,
        grid: Grid,
        average: Any,
        layer: Layer | None = None,
        parent: Grid | None = None,
        child: int = 0,
        children: int = 0,
    ) -> None:
        """Append the row of one group, whose wavelets are applied to half spectra of `parent`."""
        row = [0] * lanes.FIELDS
        row[lanes.ROWS], row[lanes.COLUMNS] = grid
        row[lanes.PITCH] = _pitch(grid[0])
        fold = codelets.fold(self.dtype.name)
        self.kept.append(fold)
        row[lanes.FOLD_CODE] = fold.address
        for column, n in ((lanes.COLUMN_PASSES, grid[0]), (lanes.ROW_PASSES, grid[1])):
            passes = codelets.passes(n, self.dtype.name)
            self.kept.append(passes)
            row[column] = passes.address
        paths: Rows = np.zeros((1, 1), np.intp) if layer is None else layer.rows
        row[lanes.PATHS] = self._address(np.ascontiguousarray(paths, np.int64))
        if layer is not None and parent is not None:
            self._filters(row, layer.stage, grid, parent)
        row[lanes.CHILD], row[lanes.CHILDREN_END] = child, child + children
        for axis, how in enumerate((lanes.COLUMN_AVERAGE, lanes.ROW_AVERAGE)):
            self._lowpass(row, how, average, axis, grid[axis])
        self.groups.append(row)

    def _filters(self, row: list[int], stage: Any, grid: Grid, parent: Grid) -> None:
        assert isinstance(stage, BandStage)
        fields = slice(int(lanes.FOLD), int(lanes.FOLD) + 4)
        if id(stage) in self._folds:  # the first order's are the second's of undecimated paths
            row[lanes.COUNT], row[fields] = self._folds[id(stage)]
            return
        filters, pieces, weights = stage.columns()
        column, y = np.divmod(pieces[:, 0], parent[0])
        pairs, which = np.divmod(column, 2)
        x, begin = np.divmod(pieces[:, 1], grid[0])
        f = np.repeat(np.arange(len(filters) - 1), np.diff(filters))
        runs = np.empty((len(pieces), 6), np.int64)
        runs[:, 0] = f * grid[1] + x
        runs[:, 1], runs[:, 2] = begin, pieces[:, 2]
        last = (pieces[:, 2] - 1) * pieces[:, 4]  # pieces begin with the lowest bin
        runs[:, 3] = 4 * (y + last + pairs * _pitch(parent[0])) + which
        runs[:, 4], runs[:, 5] = pieces[:, 4], pieces[:, 3]
        row[lanes.COUNT] = len(filters) - 1
        self._fold(row, lanes.FOLD, runs, weights, row[lanes.COUNT] * grid[1], grid[0])
        self._folds[id(stage)] = row[lanes.COUNT], row[fields]

    def _lowpass(self, row: list[int], how: np.int64, average: Lowpass, axis: int, n: int) -> None:
        factor, target = average.factors[axis], average.target[axis]
        reach = factor.size - 1
        negative = factor[reach - (2 * reach == n) : 0 : -1]  # bin n/2 is its own mirror image
        weights = np.concatenate([factor, negative]) / n  # bins 0 ... W, -W ... -1
        runs = []
        for first, bins in ((0, factor.size), (n - negative.size, negative.size)):
            done = 0
            while done < bins:
                source = first + done
                length = min(bins - done, target - source % target)
                offset = done + (factor.size if first else 0)
                runs.append((0, source % target, length, 4 * source, 0, offset))
                done += length
        self._fold(row, how, np.array(runs, np.int64), weights, 1, target)
        passes = codelets.passes(target, self.dtype.name)
        self.kept.append(passes)
        windows = range(*average.crop[axis].indices(target))
        row[how + lanes.AVERAGE_PASSES] = passes.address
        row[how + lanes.AVERAGE_LENGTH] = target
        row[how + lanes.AVERAGE_FIRST] = windows.start
        row[how + lanes.AVERAGE_WINDOWS] = len(windows)

    def _fold(
        self, row: list[int], how: np.int64, runs: Array, weights: Array, lines: int, length: int
    ) -> None:
        """Say how lines are folded."""
        starts, stretches, made, taps, tapped = lanes.stretch(runs, lines, length)
        row[how + lanes.STARTS] = self._address(starts)
        row[how + lanes.STRETCHES] = self._address(stretches[:made].copy())
        row[how + lanes.TAPS] = self._address(taps[:tapped].copy())
        row[how + lanes.WEIGHTS] = self._address(weights.astype(self.dtype, copy=False))

    def _address(self, array: Array) -> int:
        self.kept.append(array)
        return int(array.ctypes.data)


def _scratch(groups: Array, layers: int) -> dict[str, int]:
    """Return the bytes of each piece of scratch."""
    rows, columns = groups[:, lanes.ROWS], groups[:, lanes.COLUMNS]
    width = groups[:, lanes.ROW_AVERAGE + lanes.AVERAGE_WINDOWS]
    windows = width * groups[:, lanes.COLUMN_AVERAGE + lanes.AVERAGE_WINDOWS]
    short = groups[
        :, [how + lanes.AVERAGE_LENGTH for how in (lanes.ROW_AVERAGE, lanes.COLUMN_AVERAGE)]
    ]
    grid = (columns + 1) // 2 * groups[:, lanes.PITCH]
    half = (columns // 2 + 2) // 2 * groups[:, lanes.PITCH]
    parents = np.where(groups[:, lanes.CHILD] < groups[:, lanes.CHILDREN_END], half, 0)
    longest = int(max(rows.max(), columns.max()))
    return {
        "u": int(columns.max()) * POINT,
        "small": int(windows.max()) * CHUNK,
        "room": 2 * longest * POINT,
        "row": longest * POINT,
        "short": int(short.max()) * POINT,
        "averages": int((rows * ((width + 3) // 4)).max()) * POINT,
        "z": int(grid[1:].max(initial=0)) * POINT,
        "top": int(half[0]) * POINT,
        "parent": int(parents[1 : 1 + layers].max(initial=0)) * POINT,
    }
