"""Whole transforms as one compiled call."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from scatflow.backends import bands, fft, kernels
from scatflow.backends.bands import BandStage
from scatflow.backends.codelets import Passes
from scatflow.backends.protocol import Grid, Lowpass, Rows, Tree
from scatflow.backends.scratch import SCRATCH

Array = NDArray[Any]

Run = Callable[[Array, Array, int, int], None]
"""Transforms a batch into its output: one part of so many parts of the work."""

AT_ONCE = 1024
"""Moduli computed before they are written over the complex numbers they are made of."""

WORTH_A_THREAD = 2**22
"""Samples of all paths together, some five milliseconds' work, below which threads cost more than
they do.
"""

MKL_BUFFERS = 2
"""Bytes that MKL keeps in each thread for each byte of a real signal: one complex transform.

Measured from 2**13 to 2**22 samples; images and volumes are transformed line by line.
"""

SIGNALS_PER_THREAD = 4
"""With fewer, threads share each signal's wavelets instead of its companions."""


@dataclass(frozen=True, eq=False)
class Program:
    """A tree of filters laid out for :func:`kernels.scatter`."""

    groups: Array
    layers: int
    rows: Array
    columns: Array
    dtype: np.dtype[Any]
    sizes: tuple[int, int, int, int]
    """Real numbers that the kernel's scratch takes: top, parent, z, small."""
    kept: tuple[Any, ...]
    """What the addresses in `groups` point to."""

    at_once = 1
    """Signals in flight in one thread."""

    @property
    def held_bytes(self) -> int:
        """Bytes of the filters and tables."""
        return held_bytes((*self.kept, self.rows, self.columns))

    @property
    def working_bytes(self) -> int:
        """Bytes in flight in one thread, the input and output aside."""
        long = self.columns.size if self.rows.size == 1 else 0
        return (sum(self.sizes) + AT_ONCE + MKL_BUFFERS * long) * self.dtype.itemsize

    def __call__(self, x: Array, out: Array, threads: int) -> None:
        """Transform ``(batch, *grid)`` into ``(batch, paths, *windows)``."""
        if not x.size:
            return
        images = contiguous(x).reshape(x.shape[0], -1, x.shape[-1])
        coefficients = out.reshape(*out.shape[:2], -1)
        in_threads(self._run, images, coefficients, threads)

    def _run(self, x: Array, out: Array, part: int, parts: int) -> None:
        uses = ("top", "parent", "z", "small", "some")
        buffers = (
            SCRATCH.take(use, (size,), self.dtype)
            for use, size in zip(uses, (*self.sizes, AT_ONCE), strict=True)
        )
        status = kernels.scatter(
            x, self.rows, self.columns, out, self.groups, self.layers, part, parts, *buffers
        )
        fft.check(status)


def contiguous(x: Array) -> Array:
    """Return a contiguous array of which kernels cannot tell whether it may be written.

    They only read it, and would be compiled a second time for arrays that may not. The caller
    keeps `x` alive.
    """
    x = np.ascontiguousarray(x)
    if x.flags.writeable:
        return x
    kind = np.ctypeslib.as_ctypes_type(x.dtype)
    return np.ctypeslib.as_array((kind * x.size).from_address(x.ctypes.data)).reshape(x.shape)


def held_bytes(kept: Iterable[Any]) -> int:
    """Return the bytes of the arrays and tables among some objects, each counted once."""
    counted = {id(one): one for one in kept if isinstance(one, np.ndarray | Passes)}
    return sum(one.nbytes for one in counted.values())


def in_threads(run: Run, x: Array, out: Array, threads: int, at_once: int = 1) -> None:
    """Share a batch out among threads: some signals each, or every n-th wavelet of all."""
    if threads == 1 or out.shape[1] * x.size < WORTH_A_THREAD:
        run(x, out, 0, 1)
        return
    shares: list[tuple[Array, Array, int, int]]
    if len(x) < SIGNALS_PER_THREAD * at_once * threads:
        shares = [(x, out, part, threads) for part in range(threads)]
    else:
        step = math.ceil(len(x) / (SIGNALS_PER_THREAD * at_once * threads)) * at_once
        firsts = range(0, len(x), step)
        shares = [(x[first : first + step], out[first : first + step], 0, 1) for first in firsts]
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(run, *share) for share in shares]:
            done.result()


def compile_tree(tree: Tree, shape: Grid, before: Grid, dtype: np.dtype[Any]) -> Program | None:
    """Return a tree as a program, or None where it averages otherwise or MKL does not serve."""
    layers = list(tree.layers)
    children = [child for layer in layers for child in layer.children]
    averages = [tree.average, *(layer.average for layer in (*layers, *children))]
    grids = [tree.grid, *(layer.grid for layer in (*layers, *children))]
    if len(tree.grid) > 2 or not all(isinstance(average, Lowpass) for average in averages):
        return None
    if not all(fft.by_mkl(grid) for grid in (*grids, averages[0].target)):  # type: ignore[union-attr]
        return None
    roots = [bool(layer.children) for layer in layers]
    halves = [True, *roots, *(False for _ in children)]
    uses = list(zip(cast(list[Lowpass], averages), grids, halves, strict=True))
    unique = list({(id(how), grid, half): (how, grid, half) for how, grid, half in uses}.values())
    found = bands.lowpasses(unique, dtype)
    smooth = {
        (id(how), grid, half): stage for (how, grid, half), stage in zip(unique, found, strict=True)
    }
    smooths = [smooth[id(how), grid, half] for how, grid, half in uses]
    table = _Table(
        dtype, [np.zeros((1, 1), np.intp), *(layer.rows for layer in (*layers, *children))]
    )
    table.add(tree.grid, averages[0], smooths[0], None)
    child = 1 + len(layers)
    for layer, kept in zip(layers, smooths[1:child], strict=True):
        below = len(layer.children)
        table.add(layer.grid, layer.average, kept, layer.stage, child, below)
        child += below
    for layer, kept in zip(children, smooths[1 + len(layers) :], strict=True):
        table.add(layer.grid, layer.average, kept, layer.stage)
    rows, columns = padding(shape, before, tree.grid)
    groups = np.array(table.groups, np.int64)
    return Program(
        groups=groups,
        layers=len(layers),
        rows=rows,
        columns=columns,
        dtype=dtype,
        sizes=_scratch_sizes(groups, len(layers)),
        kept=tuple(table.kept),
    )


def padding(shape: Grid, before: Grid, padded: Grid) -> tuple[Array, Array]:
    """Return which row and which column each padded one is; signals are images of one row."""
    grids = [(1, 0, 1)] if len(shape) == 1 else []
    rows, columns = (_reflected(*g) for g in (*grids, *zip(shape, before, padded, strict=True)))
    return rows, columns


def _reflected(n: int, before: int, padded: int) -> NDArray[np.int64]:
    """Return which of n samples each padded one is, by whole-sample reflection."""
    period = max(2 * (n - 1), 1)
    k = np.abs(np.arange(-before, padded - before, dtype=np.int64))
    if max(before, padded - before) > period:
        k %= period
    reflected: NDArray[np.int64] = np.minimum(k, period - k)
    return reflected


class _Table:
    """The kernel's table, row by row."""

    def __init__(self, dtype: np.dtype[Any], rows: Sequence[Rows]) -> None:
        self.dtype = dtype
        self.groups: list[list[int]] = []
        paths = np.concatenate([some.reshape(-1) for some in rows], dtype=np.int64)
        self.kept: list[Any] = [paths]
        ends = itertools.accumulate((some.size for some in rows), initial=0)
        first = _address(paths)
        self._paths = [first + end * paths.itemsize for end in ends]
        self._cuts: dict[int, tuple[int, int, int]] = {}
        self._grids: dict[tuple[Grid, bool], list[int]] = {}
        self._averages: dict[tuple[int, int], list[int]] = {}

    def add(
        self,
        grid: Grid,
        average: Any,
        smooth: BandStage,
        stage: Any,
        child: int = 0,
        children: int = 0,
    ) -> None:
        """Append the row of one group, whose average is laid out as `smooth`."""
        real = not fft.real_is_slow(grid) and (stage is None or children > 0)
        if (grid, real) not in self._grids:
            self._grids[grid, real] = self._grid(grid, real)
        if (id(smooth), id(average)) not in self._averages:
            self._averages[id(smooth), id(average)] = self._average(average, smooth)
        self.groups.append(
            [
                *self._grids[grid, real],
                *(NO_FILTERS if stage is None else self._filters(stage)),
                self._paths[len(self.groups)],
                child,
                child + children,
                *self._averages[id(smooth), id(average)],
            ]
        )

    def _grid(self, grid: Grid, real: bool) -> list[int]:
        """Return the first fields of groups of a grid."""
        plans = [fft.descriptor(grid, self.dtype, "complex")]
        plans += [fft.descriptor(grid, self.dtype, "forward")] if real else []
        self.kept += plans
        return [math.prod(grid), grid[-1], plans[0].handle, plans[1].handle if real else 0]

    def _average(self, average: Lowpass, smooth: BandStage) -> list[int]:
        """Return the last fields of groups that are averaged alike."""
        inverse = fft.descriptor(average.target, self.dtype, "complex")
        self.kept.append(inverse)
        spans = [range(*c.indices(n)) for c, n in zip(average.crop, average.target, strict=True)]
        first, second = (range(1), spans[0]) if len(spans) == 1 else spans
        return [
            *self._filters(smooth)[kernels.PIECES - kernels.FILTERS :],
            inverse.handle,
            math.prod(average.target),
            average.target[-1],
            first.start,
            second.start,
            len(first),
            len(second),
        ]

    def _filters(self, stage: BandStage) -> list[int]:
        """Return where the filters of a stage and their runs are, and how many."""
        cut, number = stage.cut
        if id(cut) not in self._cuts:
            arrays = (cut.filters, cut.pieces, cut.weights)
            self.kept += arrays
            self._cuts[id(cut)] = (_address(arrays[0]), _address(arrays[1]), _address(arrays[2]))
        filters, pieces, weights = self._cuts[id(cut)]
        first, after, piece, last_piece, weight, last_weight = cut.places[number]
        return [
            filters + first * cut.filters.itemsize,
            after - first - 1,
            pieces + piece * cut.pieces.strides[0],
            last_piece - piece,
            weights + weight * cut.weights.itemsize,
            last_weight - weight,
        ]


NO_FILTERS = (0,) * int(kernels.PATHS - kernels.FILTERS)
"""The fields of filters in the row of the input."""


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _scratch_sizes(groups: Array, layers: int) -> tuple[int, int, int, int]:
    """Return how many real numbers the kernel's scratch arrays take."""
    size, row = groups[:, kernels.SIZE], groups[:, kernels.ROW]
    half = 2 * (size // row) * (row // 2 + 1)
    leaf = groups[:, kernels.CHILD] == groups[:, kernels.CHILDREN_END]
    alone = groups[:, kernels.COUNT] == 1
    z = 2 * size + np.where(leaf & ~alone, kernels.lines(size), 0)
    parents = np.where(leaf, 0, half)[1 : 1 + layers]
    small = 2 * groups[:, kernels.AVERAGE_SIZE].max()
    return int(half[0]), int(parents.max(initial=0)), int(z.max()), int(small)
