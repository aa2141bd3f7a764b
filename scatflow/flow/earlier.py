"""What is left of results for a shorter source: which units still hold, and reading them back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray

from scatflow.blocks import Span
from scatflow.dataset import (
    COEFFICIENTS,
    DAMAGE,
    FRACTION,
    PARTIAL,
    checksum,
    erase_region,
    open_arrays,
)
from scatflow.flow.layout import Layout, layout
from scatflow.flow.ledger import Ledger
from scatflow.flow.patience import within
from scatflow.flow.work import Work, written

Arrays = Mapping[str, zarr.Array[Any]]
"""Variables of an output, by name."""


@dataclass(frozen=True)
class Earlier:
    """A block as it was written when the source was shorter."""

    layout: Layout
    """Of the work then."""
    checksum: int
    """Of the coefficients then."""


def settled(old: Layout, new: Layout) -> tuple[int, ...]:
    """Return how many units a longer source leaves as they are, the first ones of each axis.

    Along the untouched dimensions, then along the transformed ones. A unit is left as it is if it
    was there and its slab did not reach beyond the end, where the record used to be reflected.
    """
    units = [
        count if before == now else inside
        for count, before, now, inside in zip(
            new.units, old.lengths, new.lengths, old.settled, strict=True
        )
    ]
    return (*old.cuts.shape[: old.n_untouched], *units)


def unsettled(old: Layout, new: Layout) -> bool:
    """Tell whether a longer source leaves no unit as it is.

    So it is where coefficients depend on a dimension as a whole that has grown: sums over whole
    records, or values at points of them. The work grid may have no axis then that could say so.
    """
    return new.by_tile and old.lengths != new.lengths


def settled_cells(old: Layout, new: Layout) -> tuple[int, ...]:
    """Return the same along the axes of the work grid."""
    found, n = settled(old, new), new.n_untouched
    if unsettled(old, new):
        return (0,) * len(new.cuts.shape)
    if new.by_tile:
        return (*found[:n], *new.cuts.shape[n:])
    cut = (True,) * len(new.tiles) or new.framed
    return (*found[:n], *(units for units, here in zip(found[n:], cut, strict=True) if here))


def settled_blocks(old: Layout, new: Layout) -> tuple[int, ...]:
    """Return how many blocks have nothing but such units, the first ones along each axis."""
    return tuple(
        blocks if cells == n else cells // per_block
        for cells, n, per_block, blocks in zip(
            settled_cells(old, new),
            new.cuts.shape,
            new.cuts.per_block,
            new.cuts.counts,
            strict=True,
        )
    )


def shorter(work: Work, shape: Sequence[int]) -> Layout:
    """Return the layout of some work for a source of another shape."""
    laid = work.layout
    return layout(
        work.engine, laid.transform, work.source.dims, shape, work.dtype, laid.cuts.per_block
    )


def partial_blocks(work: Work, ledger: Ledger) -> dict[int, Earlier]:
    """Return the blocks that were computed when the source was shorter, and not again since."""
    blocks = np.flatnonzero(ledger.state >= PARTIAL)
    layouts = [shorter(work, shape) for shape in ledger.earlier] if blocks.size else []
    return {
        block: Earlier(layouts[ledger.state[block] - PARTIAL], int(ledger.checksum[block]))
        for block in blocks.tolist()
    }


class Kept(NamedTuple):
    """What a block gives, as far as it is computed."""

    values: NDArray[Any]
    """Coefficients."""
    fraction: NDArray[Any]
    """Shares of valid samples; of sums over tiles, the number of valid samples so far."""


def regions(
    work: Work, arrays: Arrays, index: int, laid: Layout | None = None
) -> Iterator[tuple[str, tuple[slice, ...]]]:
    """Yield the variables that a block writes and where, in the order of its checksum.

    Parameters
    ----------
    work : Work
        What is done.
    arrays : mapping
        The output's variables that blocks write.
    index : int
        The block.
    laid : Layout, optional
        Of the work for a shorter source.
    """
    laid = laid or work.layout
    region = laid.region(index)
    if FRACTION in arrays:
        yield FRACTION, tuple(region[axis] for axis in laid.windowed)
    yield COEFFICIENTS, region


def restore(
    work: Work, arrays: Arrays, index: int, earlier: Earlier, kept: Kept
) -> tuple[int, ...] | None:
    """Read back the units of a block that still hold.

    Parameters
    ----------
    work : Work
        What is to be done now.
    arrays : mapping
        The output's variables.
    index : int
        The block.
    earlier : Earlier
        The block as it was.
    kept : Kept
        What the block gives, to be filled.

    Returns
    -------
    tuple of int or None
        Units that hold, the first ones along each axis: see :func:`settled`. Empty if none does,
        None if the store no longer has what was written then.
    """
    old, new = earlier.layout, work.layout
    if unsettled(old, new):
        return ()
    box = [
        (a, min(b, limit))
        for (a, b), limit in zip(new.cuts.cells(index), settled_cells(old, new), strict=True)
    ]
    if any(a >= b for a, b in box):
        return ()
    before = old.cuts.index(new.cuts.position(index))
    found, crc = {}, 0
    for name, where in regions(work, arrays, before, old):
        try:
            found[name] = read_region(arrays[name], where)
        except TimeoutError:  # What is there is not known.
            raise
        except DAMAGE:  # Computed anew, as if nothing were there.
            return None
        crc = checksum(found[name], crc)
    if crc != earlier.checksum:
        return None
    part = new.region_of(box)
    here, there = _inside(part, new.region(index)), _inside(part, old.region(before))
    kept.values[here] = found[COEFFICIENTS][there]
    if FRACTION in found:
        windowed = new.windowed
        to, of = (tuple(where[axis] for axis in windowed) for where in (here, there))
        kept.fraction[to] = found[FRACTION][of]
    return settled(old, new)


def read_region(array: zarr.Array[Any], where: tuple[slice, ...]) -> NDArray[Any]:
    """Read a region of an output, but not for ever.

    Raises
    ------
    TimeoutError
        It takes longer than the slowest store that is worth waiting for.
    """
    size = math.prod(s.stop - s.start for s in where) * array.dtype.itemsize
    return within(size, "reading", lambda: np.ascontiguousarray(array[where]))


def erase_block(work: Work, output: str, index: int) -> None:
    """Delete what a block has in the output, which reads as missing then."""
    arrays = open_arrays(output, written(work))
    for name, where in regions(work, arrays, index):
        erase_region(arrays[name], where)


def holds(units: tuple[int, ...], cell: tuple[int, ...]) -> bool:
    """Tell whether a unit is among those that :func:`restore` returned."""
    return bool(units) and all(k < n for k, n in zip(cell, units, strict=True))


def n_held(units: tuple[int, ...], spans: Sequence[Span]) -> int:
    """Count those units in a box of them."""
    count = 1 if units else 0
    for n, (a, b) in zip(units, spans, strict=False):
        count *= max(0, min(b, n) - a)
    return count


def _inside(part: tuple[slice, ...], whole: tuple[slice, ...]) -> tuple[slice, ...]:
    return tuple(
        slice(p.start - w.start, p.stop - w.start) for p, w in zip(part, whole, strict=True)
    )
