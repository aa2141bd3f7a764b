"""What blocks read of the source: each its own, or small neighbours together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np

from scatflow.archive import Loaded
from scatflow.blocks import Span, repeated
from scatflow.dataset import checksum
from scatflow.errors import SourceError
from scatflow.flow.layout import Part
from scatflow.flow.patience import within
from scatflow.flow.work import Work

TOGETHER_BYTES = 2**20
"""What is read together, at most, whole chunks counted: little beside what one task holds.

A read of one chunk costs a millisecond of processor time, as long as a block of some thousand
samples takes; and small blocks share chunks, which each of them would decode.
"""


Read: TypeAlias = Callable[[Work, Part], Loaded]
"""Reads what a block needs at a time."""


def read(work: Work, part: Part) -> Loaded:
    """Read what a block needs at a time, axes as in the source."""
    runs = [
        list(repeated(*span, n)) for span, n in zip(_spans(work, part), _sizes(work), strict=True)
    ]
    if all(len(along) == 1 for along in runs):
        return _read_box(work, [along[0].span for along in runs])
    shape = [sum(run.count for run in along) for along in runs]
    slab, absent = np.empty(shape, work.dtype), 0
    for box in itertools.product(*runs):
        where = tuple(slice(run.at, run.at + run.count) for run in box)
        slab[where], n = _read_box(work, [run.span for run in box])
        absent += n
    return Loaded(slab, absent)


class Ahead:
    """Reads what some blocks need, that of small neighbours as soon as one of them needs it.

    Parameters
    ----------
    blocks : sequence of int
        In the order in which they are going to be computed.
    """

    def __init__(self, blocks: Sequence[int]) -> None:
        self._blocks = blocks
        self._found: dict[tuple[Span, ...], Loaded] | None = None

    def read(self, work: Work, part: Part) -> Loaded:
        """Return what :func:`read` does."""
        if self._found is None:
            self._found = _read_together(work, self._blocks)
        found = self._found.pop(part.slab, None)
        return read(work, part) if found is None else found


def _read_together(work: Work, blocks: Sequence[int]) -> dict[tuple[Span, ...], Loaded]:
    """Read small blocks that lie side by side at once, and return what each has by its slab.

    All other blocks are missing, among them those of a read that failed: which of them that
    concerns is for each to find out.
    """
    found: dict[tuple[Span, ...], Loaded] = {}
    if work.layout.by_tile:
        return found
    for box, inside in _boxes(work, blocks):
        if len(inside) == 1:
            continue
        try:
            values, absent = _read_box(work, box, tell=False)
        except SourceError:
            continue
        if absent:  # In which block is not known.
            continue
        for slab, spans in inside.items():
            where = tuple(
                slice(a - first, b - first) for (a, b), (first, _) in zip(spans, box, strict=True)
            )
            found[slab] = Loaded(np.ascontiguousarray(values[where]), 0)
    return found


def source_checksum(work: Work, index: int) -> int:
    """Read a block's samples again and return their checksum, for which chunks do not matter."""
    found = 0
    for part in work.layout.parts(index):
        found = checksum(read(work, part)[0], found)
    return found


def _spans(work: Work, part: Part) -> list[Span]:
    """Return what a part reads along each of the source's axes."""
    spans = [(0, 0)] * len(part.slab)
    for axis, span in zip(work.layout.order, part.slab, strict=True):
        spans[axis] = span
    return spans


def _sizes(work: Work) -> list[int]:
    """Return the samples along each of the source's axes.

    What lies beyond the end of a periodic record is its beginning, and the record may be one that
    was shorter than the source is now.
    """
    laid = work.layout
    sizes = dict(zip(laid.order, (*laid.records, *laid.lengths), strict=True))
    return [sizes[axis] for axis in range(len(sizes))]


Inside = dict[tuple[Span, ...], list[Span]]
"""The slabs of some blocks, and the same along the axes of the source."""


def _boxes(work: Work, blocks: Sequence[int]) -> Iterator[tuple[list[Span], Inside]]:
    """Yield boxes that are read at once, each with what blocks read of it."""
    sizes = _sizes(work)
    box: list[Span] = []
    inside: Inside = {}
    for index in blocks:
        (part,) = work.layout.parts(index)
        spans = _spans(work, part)
        if any(b > n for (_, b), n in zip(spans, sizes, strict=True)):
            continue  # Around the end of a periodic record.
        longer = _joined(box, spans) if inside else None
        if longer is None or not _small(work, longer, spans):
            if inside:
                yield box, inside
            box, inside = spans, {}
        else:
            box = longer
        inside[part.slab] = spans
    if inside:
        yield box, inside


def _joined(box: list[Span], spans: list[Span]) -> list[Span] | None:
    """Return a box and what follows it along one axis, None if together they are no box."""
    differ = [
        axis for axis, (one, other) in enumerate(zip(box, spans, strict=True)) if one != other
    ]
    if len(differ) != 1:
        return None
    (axis,) = differ
    (first, last), (a, b) = box[axis], spans[axis]
    if not first <= a <= last <= b:
        return None
    return [*box[:axis], (first, b), *box[axis + 1 :]]


def _small(work: Work, box: list[Span], spans: list[Span]) -> bool:
    """Tell whether a box is little to read, or at least no more chunks than a part of it."""
    slab = math.prod(b - a for a, b in box) * work.dtype.itemsize
    chunks = _touched(work, box)
    return slab <= TOGETHER_BYTES and (chunks <= TOGETHER_BYTES or chunks <= _touched(work, spans))


def _touched(work: Work, spans: Sequence[Span]) -> int:
    """Return the bytes of all chunks that a box of the source touches."""
    size = work.source.dtype.itemsize
    for (a, b), chunk in zip(spans, work.source.chunks, strict=True):
        size *= (max(b - 1, a) // max(chunk, 1) - a // max(chunk, 1) + 1) * max(chunk, 1)
    return size


def _read_box(work: Work, spans: Sequence[Span], *, tell: bool = True) -> Loaded:
    """Read a box; where that fails, `tell` which object of the store is to blame."""
    slices = tuple(slice(*span) for span in spans)

    def load() -> Loaded:
        return work.source.load(slices, dtype=work.dtype)

    size = _touched(work, spans)
    try:
        return within(size, "reading", load)
    except Exception as problem:
        where = ", ".join(
            f"{d} {s.start}:{s.stop}" for d, s in zip(work.source.dims, slices, strict=True)
        )
        found = (
            _to_blame(work, slices, size)
            if tell and not isinstance(problem, TimeoutError)
            else None
        )
        raise SourceError(
            f"{type(problem).__name__}: {problem} (while reading {work.source.variable} at {where}"
            f"{'' if found is None else f': {found}'})"
        ) from problem


def _to_blame(work: Work, slices: tuple[slice, ...], size: int) -> str | None:
    """Name the object that a slab cannot be read for, as far as that can be told in time."""
    try:
        return within(size, "reading", lambda: work.source.damaged(slices))
    except Exception:  # The store may have gone altogether, which the first problem says.
        return None
