"""Read the windows of one record in pieces, and keep of them what a picture or a score needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scatflow.pictures.results import PIECE_BYTES, Array, Grid, Results

MAX_COLUMNS = 2000  # More than a picture has pixels across its panel.
MAX_SAMPLE = 20_000  # Windows that medians are taken from: their error is then under 1 %.


@dataclass(frozen=True, eq=False)
class Bands:
    """The paths of a one-dimensional store, gathered by frequency.

    Attributes
    ----------
    first : Array
        Indices of the order-1 paths, by ascending frequency.
    xi1 : Array
        Their centre frequencies.
    second : Array
        Indices of the order-2 paths.
    parent : Array
        For each of them, the row of `first` that it came from.
    group : Array
        For each of them, the row of `xi2` that it belongs to.
    xi2 : Array
        Ascending modulation frequencies.
    """

    first: Array
    xi1: Array
    second: Array
    parent: Array
    group: Array
    xi2: Array


def find_bands(results: Results) -> Bands:
    """Gather the paths of a store by their frequencies; paths without one are left out."""
    xi1, xi2 = results.column("xi1").astype(float), results.column("xi2").astype(float)
    first = results.paths_of_order(1)
    first = first[np.nan_to_num(xi1[first]) > 0]
    first = first[np.argsort(xi1[first], kind="stable")]
    second = results.paths_of_order(2)
    second = second[(np.nan_to_num(xi2[second]) > 0) & (np.nan_to_num(xi1[second]) > 0)]
    if not first.size:
        second = second[:0]
    modulation, group = np.unique(xi2[second], return_inverse=True)
    gaps = np.abs(xi1[second][:, None] - xi1[first][None, :])
    parent = gaps.argmin(axis=1) if second.size else second
    return Bands(first, xi1[first], second, parent, group, modulation)


def pieces(
    results: Results, record: dict[str, int], grid: Grid, paths: slice = slice(None)
) -> Iterator[Array]:
    """Yield one record, (paths, windows), in pieces that follow each other in time.

    A piece holds whole frames or whole chunks of the store, and about `PIECE_BYTES`.
    """
    data, tail = results.data, results.tail_dims[0]
    frame = results.frame_dim(tail)
    kept = grid.keep.stop - grid.keep.start if frame else 1  # Windows in one step of the cut dim.
    n_paths = len(range(*paths.indices(data.sizes["path"])))
    row = n_paths * data.dtype.itemsize * kept
    chunks = data.encoding.get("chunks")
    aligned = int(chunks[data.get_axis_num(frame or tail)]) if chunks else 1
    fitting = max(1, PIECE_BYTES // row)
    length = kept * (fitting // aligned * aligned or fitting)
    for start in range(0, grid.positions.size, length):
        yield read_windows(results, record, grid, start, start + length, paths)


def read_windows(
    results: Results,
    record: dict[str, int],
    grid: Grid,
    start: int,
    stop: int,
    paths: slice = slice(None),
) -> Array:
    """Read the windows from `start` up to `stop`, (paths, windows)."""
    tail = results.tail_dims[0]
    frame = results.frame_dim(tail)
    stop = min(stop, grid.positions.size)
    if frame is None:
        return results.read({**record, "path": paths, tail: slice(start, stop)})
    kept = grid.keep.stop - grid.keep.start
    first, last = start // kept, -(-stop // kept)
    values = results.read({**record, frame: slice(first, last), "path": paths, tail: grid.keep})
    joined = np.moveaxis(values, 0, 1).reshape(values.shape[1], -1)  # (paths, frames * kept)
    return joined[:, start - first * kept : stop - first * kept]


def log_positive(values: Array) -> Array:
    """Take log10 where values are positive and finite; NaN elsewhere (a gap, or silence)."""
    usable = np.isfinite(values) & (values > 0)
    return np.log10(values, out=np.full(values.shape, np.nan, values.dtype), where=usable)


def both_orders(values: Array, bands: Bands) -> tuple[Array, Array]:
    """Take from all paths (paths, windows) the logarithms of order 1 and of order 2 over order 1.

    Returns
    -------
    first, second : Array
        (n_first, windows) and (n_xi2, windows).
    """
    first = log_positive(values[bands.first])
    return first, order_two(first, log_positive(values[bands.second]), bands)


def order_two(first: Array, second: Array, bands: Bands) -> Array:
    """Average the renormalised second order over its first-order bands.

    Dividing each order-2 coefficient by the order-1 coefficient that it came from leaves how
    strongly that band's envelope is modulated at xi2, however loud it is.

    Parameters
    ----------
    first, second : Array
        Logarithms of order 1 (n_first, windows) and order 2 (n_second, windows).

    Returns
    -------
    Array
        Mean logarithm for each modulation frequency, (n_xi2, windows).
    """
    out = np.full((bands.xi2.size, first.shape[1]), np.nan, first.dtype)
    for row in range(bands.xi2.size):
        members = np.flatnonzero(bands.group == row)
        out[row] = mean_over_paths(second[members] - first[bands.parent[members]])
    return out


def mean_over_paths(values: Array) -> Array:
    """Average over the first axis what is not NaN; NaN where less than half of it is there."""
    there = ~np.isnan(values)
    count = there.sum(axis=0)
    total: Array = np.where(there, values, 0).sum(axis=0)
    enough = 2 * count >= max(len(values), 1)
    out: Array = np.full(total.shape, np.nan, values.dtype)
    np.divide(total, count, out=out, where=enough & (count > 0))
    return out


@dataclass(frozen=True, eq=False)
class Summary:
    """What one pass over a record keeps: bounded, however long the record is.

    Attributes
    ----------
    first, second : Array
        Logarithms, the largest in each column of `factor` windows: (n_first, columns) and
        (n_xi2, columns).
    factor : int
        Windows in one column.
    sample : Array
        Logarithms of order 1 in evenly spaced windows, (n_first, at most `MAX_SAMPLE`).
    sample_second : Array
        The same of order 2, (n_xi2, at most `MAX_SAMPLE`).
    empty : int
        Windows in which no order-1 coefficient has a value.
    """

    first: Array
    second: Array
    factor: int
    sample: Array
    sample_second: Array
    empty: int


def summarise(results: Results, record: dict[str, int], grid: Grid, bands: Bands) -> Summary:
    """Pass once over a record and keep its columns and a sample of its windows."""
    n = grid.positions.size
    factor, stride = -(-n // MAX_COLUMNS), -(-n // MAX_SAMPLE)
    columns = -(-n // factor)
    first = np.full((bands.first.size, columns), np.nan, np.float32)
    second = np.full((bands.xi2.size, columns), np.nan, np.float32)
    sample: list[Array] = []
    sample_second: list[Array] = []
    empty = start = 0
    for values in pieces(results, record, grid):
        one, two = both_orders(values, bands)
        _keep_largest(first, one, start, factor)
        _keep_largest(second, two, start, factor)
        # Copies: a view would keep the whole piece in memory.
        sample.append(one[:, -start % stride :: stride].copy())
        sample_second.append(two[:, -start % stride :: stride].copy())
        empty += int(np.isnan(one).all(axis=0).sum())
        start += one.shape[1]
    return Summary(
        first,
        second,
        factor,
        np.concatenate(sample, axis=1),
        np.concatenate(sample_second, axis=1),
        empty,
    )


def _keep_largest(columns: Array, values: Array, start: int, factor: int) -> None:
    """Let windows `start` and after take part in the maximum of their columns."""
    if factor == 1:
        columns[:, start : start + values.shape[1]] = values
        return
    number = (start + np.arange(values.shape[1])) // factor
    begins = np.flatnonzero(np.diff(number, prepend=-1))
    largest = np.fmax.reduceat(values, begins, axis=1)
    touched = columns[:, number[begins]]
    columns[:, number[begins]] = np.fmax(touched, largest)


def centre_rows(values: Array) -> Array:
    """Subtract from each row (a frequency) its median over time, leaving NaN where it is."""
    return values - row_medians(values)[:, None]


def row_medians(values: Array) -> Array:
    """Median of the values of each row that are not NaN; NaN for a row without any."""
    out = np.full(len(values), np.nan)
    for row, line in enumerate(values):
        there = line[~np.isnan(line)]
        if there.size:
            out[row] = np.median(there)
    return out
