"""What is left of results for a shorter source: which units still hold, and reading them back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from scatflow.blocks import Span
from scatflow.dataset import DAMAGE, PARTIAL, checksum
from scatflow.flow.layout import Layout, layout
from scatflow.flow.ledger import Ledger
from scatflow.flow.work import Work


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


def settled_cells(old: Layout, new: Layout) -> tuple[int, ...]:
    """Return the same along the axes of the work grid.

    None at all where coefficients depend on a dimension as a whole that has grown.
    """
    found, n = settled(old, new), new.n_untouched
    if new.by_tile:  # Sums over whole records, or values at points of them.
        grown = old.lengths != new.lengths
        return (0,) * len(new.cuts.shape) if grown else (*found[:n], *new.cuts.shape[n:])
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


def restore(
    work: Work, array: zarr.Array[Any], index: int, earlier: Earlier, values: NDArray[Any]
) -> tuple[int, ...] | None:
    """Read back the units of a block that still hold.

    Parameters
    ----------
    work : Work
        What is to be done now.
    array : zarr.Array
        The output's variable.
    index : int
        The block.
    earlier : Earlier
        The block as it was.
    values : ndarray
        The block's coefficients, to be filled.

    Returns
    -------
    tuple of int or None
        Units that hold, the first ones along each axis: see :func:`settled`. Empty if none does,
        None if the store no longer has what was written then.
    """
    old, new = earlier.layout, work.layout
    box = [
        (a, min(b, limit))
        for (a, b), limit in zip(new.cuts.cells(index), settled_cells(old, new), strict=True)
    ]
    if new.by_tile or any(a >= b for a, b in box):
        return ()
    whole = old.region(old.cuts.index(new.cuts.position(index)))
    try:
        found = np.asarray(array[whole])
    except DAMAGE:  # Computed anew, as if nothing were there.
        return None
    if checksum(found) != earlier.checksum:
        return None
    values[_inside(new.region_of(box), new.region(index))] = found[
        _inside(new.region_of(box), whole)
    ]
    return settled(old, new)


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
