"""Batches of an archive for estimators that learn a part at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scatflow.errors import ParameterError, SourceError
from scatflow.learning.rows import Batch, Result, Rows

if TYPE_CHECKING:
    import xarray as xr

Seed = int | Sequence[int] | np.random.Generator | None


def batches(
    result: Result,
    size: int | None = 1024,
    *,
    samples: Sequence[str] | None = None,
    labels: xr.DataArray | None = None,
    min_valid: float = 0.0,
    rng: Seed = None,
    pool: int = 1,
    at_least: int = 1,
) -> Iterator[Batch]:
    """Yield the windows of an archive as matrices, in bounded memory and a fixed order.

    Blocks are boxes of whole chunks along the dimensions of samples, with all their features;
    each is read once. Without `rng` they come in the order of these dimensions, the last one
    fastest, and so do the windows of each: one station after the other, each in time.

    At any time there are in memory: `pool` blocks as they are read, their matrix, and at most
    ``size + at_least`` windows that are left of those before. That is about six times the bytes of
    a block where batches are shorter than blocks; nothing grows with the archive.

    Parameters
    ----------
    result : path, URL or Dataset
        A result store; a job file, whose blocks are computed as they are read; or coefficients
        that are open, of which ``.scat`` selects and changes what is learned from:
        ``ds.scat.order(1)``, ``ds.scat.renormalise()``, ``ds.scat.log(floor=1e-6)``.
    size : int or None
        Windows of a batch; None: one batch a pool of blocks.
    samples : sequence of str, optional
        Dimensions whose entries are rows, as in ``ds.scat.features``; by default all but ``path``
        and ``power``, so that each window is a row.
    labels : DataArray, optional
        A label for each entry of some of these dimensions, aligned by their coordinates. Windows
        without one (not there, or NaN) are left out.
    min_valid : float
        Least ``valid_fraction`` of a window. Windows with values that are not finite are always
        left out.
    rng : int or Generator, optional
        Shuffle: blocks come in random order, and the windows of a pool in random order.
    pool : int
        Blocks that are read together. More of them shuffle better, and take more memory.
    at_least : int
        Windows of the shortest batch: fewer that are left at the end are added to the last
        one. ``IncrementalPCA`` needs as many as it has components.

    Yields
    ------
    Batch
        With ``X`` (window, feature), ``y``, ``names`` of features and ``coords`` of windows.

    Raises
    ------
    ParameterError, SourceError, SourceNotFoundError
        When it is called: the result cannot be learned from, or labels do not fit it. When it has
        been read: no window was valid and labelled.

    Examples
    --------
    >>> import numpy as np, scatflow, xarray as xr
    >>> from scatflow.learning import batches
    >>> x = np.random.default_rng(0).standard_normal((3, 4096))
    >>> ds = xr.DataArray(x, dims=("file", "time")).scat.scattering1d(J=6, Q=4)
    >>> for batch in batches(ds, size=100):
    ...     print(batch.X.shape, batch.names[1], batch.coords["file"][[0, -1]])
    (100, 67) S1: 0.373 cycles/sample [0 1]
    (92, 67) S1: 0.373 cycles/sample [1 2]
    """
    _positive("pool", pool)
    _positive("at_least", at_least)
    if size is not None:
        _positive("size", size)
    rows = Rows(result, samples, labels, min_valid)
    return _checked(_batches(rows, size, rng, pool, at_least), rows)


def _positive(name: str, value: Any) -> None:
    if not isinstance(value, int | np.integer) or value < 1:
        raise ParameterError(f"{name} is a number of at least 1, not {value!r}.")


def _batches(rows: Rows, size: int | None, rng: Seed, pool: int, at_least: int) -> Iterator[Batch]:
    random = None if rng is None else np.random.default_rng(rng)
    pools = pooled(rows, pool, random)
    return regrouped((gathered(rows, each, random) for each in pools), size, at_least)


def pooled(rows: Rows, pool: int, random: np.random.Generator | None) -> list[list[int]]:
    """Return the numbers of blocks in the order in which they are read, some of them together."""
    order = np.arange(rows.n_blocks) if random is None else random.permutation(rows.n_blocks)
    return [order[k : k + pool].tolist() for k in range(0, order.size, pool)]


def gathered(
    rows: Rows,
    blocks: Sequence[int],
    random: np.random.Generator | None,
    scheduler: str | None = None,
) -> Batch:
    """Read some blocks as one batch, shuffled where there is something to shuffle with."""
    batch = Batch.joined([rows.read(index, scheduler) for index in blocks])
    return batch if random is None else batch.take(random.permutation(len(batch)))


def regrouped(pieces: Iterator[Batch], size: int | None, at_least: int = 1) -> Iterator[Batch]:
    """Yield the rows of batches of any length in batches of one length, the last one apart."""
    if size is None:
        yield from (piece for piece in pieces if len(piece))
        return
    held: list[Batch] = []
    for piece in pieces:
        held.append(piece)
        if sum(map(len, held)) < size + at_least:
            continue
        joined, at = Batch.joined(held), 0
        while len(joined) - at >= size + at_least:
            yield joined.take(slice(at, at + size))
            at += size
        held = [joined.take(slice(at, None))]
        del joined
    if sum(map(len, held)):
        yield Batch.joined(held)


def _checked(found: Iterator[Batch], rows: Rows) -> Iterator[Batch]:
    """Pass batches on, and refuse to have none."""
    empty = True
    for batch in found:
        empty = False
        yield batch
    if empty:
        raise SourceError(nothing(rows))


def nothing(rows: Rows) -> str:
    """Say that there is nothing to learn from."""
    if rows.labels is not None:
        ends = [f"{d} from {v[0]} to {v[-1]}" for d, v in _ends(rows).items()]
        where = f" (labels: {', '.join(ends)})" if ends else ""
        return (
            f"No window is valid and has a label{where}: there is nothing to learn from. Labels "
            "are found by equal coordinates; labels.reindex(time=result.time.values, "
            "method='nearest') gives each window the nearest one."
        )
    return (
        "No window is valid: there is nothing to learn from. Either nothing was computed, or all "
        f"windows see missing samples, or min_valid={rows.min_valid} is too much."
    )


def _ends(rows: Rows) -> dict[str, Any]:
    assert rows.labels is not None
    coords = {str(d): rows.labels.coords.get(d) for d in rows.labels.dims}
    return {d: c.to_numpy()[[0, -1]] for d, c in coords.items() if c is not None and c.size}
