"""Cut: how a large transform is divided into blocks, and what each block reads and writes.

Pure integers about arrays. The *work grid* has one cell per unit of work: one axis for each
untouched dimension, then one for each dimension that is cut into frames, or one that counts the
canonical blocks of a seamless transform. A block is a hyper-rectangle of cells and becomes one
shard of the output.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

Span = tuple[int, int]
"""First index and the index after the last."""


def ceil_div(a: int, b: int) -> int:
    """Divide and round up.

    Examples
    --------
    >>> ceil_div(7, 3)
    3
    """
    return -(-a // b)


@dataclass(frozen=True)
class Cuts:
    """A work grid of `shape` cells, cut into blocks of at most `per_block` cells."""

    shape: tuple[int, ...]
    per_block: tuple[int, ...]

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Blocks along each axis."""
        return tuple(ceil_div(n, m) for n, m in zip(self.shape, self.per_block, strict=True))

    @cached_property
    def n_blocks(self) -> int:
        """How many blocks there are."""
        return math.prod(self.counts)

    def position(self, index: int) -> tuple[int, ...]:
        """Return where block `index` lies among the blocks, the last axis running fastest.

        Raises
        ------
        IndexError
            If there is no such block.
        """
        if not 0 <= index < self.n_blocks:
            raise IndexError(f"There is no block {index}: there are {self.n_blocks}.")
        position = []
        for count in reversed(self.counts):
            index, here = divmod(index, count)
            position.append(here)
        return tuple(reversed(position))

    def index(self, position: tuple[int, ...]) -> int:
        """Return the number of the block at `position`: the inverse of :meth:`position`."""
        index = 0
        for here, count in zip(position, self.counts, strict=True):
            index = index * count + here
        return index

    def cells(self, index: int) -> tuple[Span, ...]:
        """Return the cells of block `index` along each axis.

        Examples
        --------
        >>> Cuts((2, 5), (1, 3)).cells(3)
        ((1, 2), (3, 5))
        """
        return tuple(
            (here * m, min((here + 1) * m, n))
            for here, m, n in zip(self.position(index), self.per_block, self.shape, strict=True)
        )


def share(shape: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Choose the cells of one block: at most `most` of them, the last axes filled first.

    Each axis gets a power of two, so that a block can be divided again into even chunks, and that
    an axis which grows keeps its blocks until it has twice as many cells, or for ever if it is cut.

    Examples
    --------
    >>> share((3, 10, 100), 450), share((3, 11, 120), 450)
    ((1, 2, 128), (1, 2, 128))
    """
    per_block = []
    left = max(most, 1)
    for n in reversed(shape):
        here = min(2 ** (left.bit_length() - 1), 2 ** (max(n, 1) - 1).bit_length())
        per_block.append(here)
        # Only whole axes are stacked: a block stays one box of the source.
        left = left // here if here >= n else 1
    return tuple(reversed(per_block))


def halved(per_block: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return blocks of half as many cells, None where one cell is left: the first axes first.

    Examples
    --------
    >>> halved((1, 4, 128)), halved((1, 1, 128)), halved((1, 1))
    ((1, 2, 128), (1, 1, 64), None)
    """
    axis = next((axis for axis, cells in enumerate(per_block) if cells > 1), None)
    if axis is None:
        return None
    return (*per_block[:axis], ceil_div(per_block[axis], 2), *per_block[axis + 1 :])


def even_part(n: int, most: int) -> tuple[int, int]:
    """Cut `n` into equal parts of at most `most`, rounding `n` up: return it and the part.

    Examples
    --------
    >>> even_part(8438, 2048)
    (8440, 1688)
    """
    parts = ceil_div(n, max(min(n, most), 1))
    part = ceil_div(n, parts)
    return parts * part, part


def divisor(n: int, near: int) -> int:
    """Return the divisor of `n` whose ratio to `near` is closest to one, the smaller of two.

    Examples
    --------
    >>> divisor(60, 16), divisor(2 * 6551, 2048)
    (15, 6551)
    """
    near = max(near, 1)
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return min((*small, *(n // d for d in small)), key=lambda d: (max(d / near, near / d), d))


# --- frames ----------------------------------------------------------------------------------


def n_frames(n: int, frame: int, hop: int) -> int:
    """Return how many whole frames of `frame` samples, `hop` apart, lie in `n` samples."""
    return 0 if n < frame else 1 + (n - frame) // hop


def left_over(n: int, frame: int, hop: int) -> int:
    """Return the samples at the end that no frame holds: an incomplete frame is dropped."""
    count = n_frames(n, frame, hop)
    return n if count == 0 else n - ((count - 1) * hop + frame)


# --- records extended beyond their ends --------------------------------------------------------


def mirror(i: int, n: int) -> int:
    """Return which sample of a record stands at `i` when it is reflected endlessly at its ends.

    The end samples are not repeated, as ``numpy.pad(mode="reflect")`` has it.

    Examples
    --------
    >>> [mirror(i, 4) for i in range(-3, 8)]
    [3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]
    """
    if n == 1:
        return 0
    i %= 2 * (n - 1)
    return i if i < n else 2 * (n - 1) - i


@dataclass(frozen=True)
class Piece:
    """A run of a slab: `count` samples from `at` on are samples `first`, `first + step`, ..."""

    at: int
    first: int
    count: int
    step: int

    @property
    def span(self) -> Span:
        """The samples of the record, in rising order."""
        last = self.first + self.step * (self.count - 1)
        return min(self.first, last), max(self.first, last) + 1


def pieces(start: int, stop: int, n: int) -> Iterator[Piece]:
    """Yield the runs of which samples ``[start, stop)`` of a reflected record of `n` consist.

    Examples
    --------
    >>> [(p.first, p.count, p.step) for p in pieces(-2, 5, 4)]
    [(2, 2, -1), (0, 4, 1), (2, 1, -1)]
    """
    i = start
    while i < stop:
        first = mirror(i, n)
        if n == 1:
            step, count = 0, stop - i
        elif i % (2 * (n - 1)) < n - 1:
            step, count = 1, n - first
        else:
            step, count = -1, first  # Sample 0 begins the next run.
        count = min(count, stop - i)
        yield Piece(i - start, first, count, step)
        i += count


def repeated(start: int, stop: int, n: int) -> Iterator[Piece]:
    """Yield the runs of which samples ``[start, stop)`` of a periodic record of `n` consist.

    Examples
    --------
    >>> [(p.first, p.count, p.step) for p in repeated(-2, 5, 4)]
    [(2, 2, 1), (0, 4, 1), (0, 1, 1)]
    """
    i = start
    while i < stop:
        first = i % n
        count = min(n - first, stop - i)
        yield Piece(i - start, first, count, 1)
        i += count


def bounds(start: int, stop: int, n: int) -> Span:
    """Return the samples of the record that ``[start, stop)`` of its reflection needs."""
    spans = [piece.span for piece in pieces(start, stop, n)]
    return min(a for a, _ in spans), max(b for _, b in spans)


def arc(start: int, stop: int, n: int) -> Span:
    """Return the samples of a periodic record that ``[start, stop)`` needs, each once.

    They begin inside the record; those beyond its end are its first ones.

    Examples
    --------
    >>> arc(-2, 3, 10), arc(12, 15, 10), arc(-2, 9, 10)
    ((8, 13), (2, 5), (0, 10))
    """
    if stop - start >= n:
        return 0, n
    return start % n, start % n + stop - start


# --- records cut into canonical tiles ----------------------------------------------------------


@dataclass(frozen=True)
class Tiles:
    """One axis of a record, cut into tiles from sample 0 on: what each reads and what it gives.

    Tile k gives the windows centred on ``[k block, (k + 1) block)``, one every `stride` samples,
    and sees `halo` samples to each side. Beyond its ends a record is reflected or repeated.
    """

    n: int
    """Samples of the record."""
    block: int
    halo: int
    stride: int
    periodic: bool = False

    @property
    def count(self) -> int:
        """How many tiles there are."""
        return ceil_div(self.n, self.block)

    @property
    def windows(self) -> int:
        """How many windows there are."""
        return ceil_div(self.n, self.stride)

    @property
    def width(self) -> int:
        """Windows of one tile."""
        return self.block // self.stride

    @property
    def keep(self) -> slice:
        """Which windows of a tile's transform are its own; the others are its halos'."""
        return slice(self.halo // self.stride, (self.halo + self.block) // self.stride)

    @property
    def settled(self) -> int:
        """How many tiles, the first ones, see the same samples in any longer record."""
        whole = (self.n - self.block - self.halo) // self.block + 1
        return 0 if self.periodic else min(max(whole, 0), self.count)

    def inside(self, k: int) -> slice:
        """Return which samples of tile `k`, its halo included, are its own and in the record."""
        return slice(self.halo, self.halo + min(self.block, self.n - k * self.block))

    def read(self, first: int, last: int) -> Span:
        """Return the samples that tiles ``[first, last)`` see, those of a period as :func:`arc`."""
        start, stop = first * self.block - self.halo, last * self.block + self.halo
        return (arc if self.periodic else bounds)(start, stop, self.n)

    def runs(self, k: int) -> Iterator[Piece]:
        """Yield the runs of samples of which tile `k` consists, its halo included."""
        start, stop = k * self.block - self.halo, (k + 1) * self.block + self.halo
        return (repeated if self.periodic else pieces)(start, stop, self.n)

    def source(self, k: int, at: int) -> int:
        """Return which sample of the record is sample `at` of tile `k`."""
        i = k * self.block - self.halo + at
        return i % self.n if self.periodic else mirror(i, self.n)
