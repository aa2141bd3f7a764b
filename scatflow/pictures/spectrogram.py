"""Spectrograms beside scalograms: what the samples say, and what order 1 made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np

from scatflow.engines import Scattering1D, engine_from_dict
from scatflow.errors import SourceError
from scatflow.pictures.canvas import band_edges, draw_rows, elided, new_figure, save, spread
from scatflow.pictures.results import Array, Grid, Results
from scatflow.pictures.scalogram import Strip, column_edges, time_axis
from scatflow.pictures.windows import MAX_COLUMNS, find_bands, summarise

MAX_RECORDS = 4  # Two panels each.
MAX_ROWS = 160  # Frequencies that can be told apart in a panel.
SEGMENTS = 8  # Whose powers are averaged in a column, at most: half overlapping, or spread out.
SHORTEST, LONGEST = 2**8, 2**15  # Samples of a segment.
PIECE_SAMPLES = 2**21  # That are read at once.
FAINTEST = 1e-30  # Of a power, so that silence has a logarithm.


class Samples(Protocol):
    """What coefficients were computed from, as ``scatflow.archive.open_source`` gives it."""

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the dimensions."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Their lengths."""

    @property
    def axes(self) -> Mapping[str, Any]:
        """Regular coordinates by dimension."""

    def read(self, slices: Sequence[slice]) -> Array:
        """Read a slab, NaN where samples are missing."""


@dataclass(frozen=True, eq=False)
class Segments:
    """Where the segments of each column begin, and how they are transformed.

    Attributes
    ----------
    starts : Array
        First sample of each segment, (columns, segments).
    length : int
        Samples of one.
    rate : float
        Samples per second, or per unit of the coordinate.
    bins : Array
        First bin of each row, and the end of the last one, (rows + 1,): rows are as wide as they
        look on a logarithmic axis, and a bin at least.
    """

    starts: Array
    length: int
    rate: float
    bins: Array

    @property
    def edges(self) -> Array:
        """Frequencies between the rows, (rows + 1,)."""
        return np.asarray((self.bins - 0.5) * self.rate / self.length)


@dataclass(frozen=True, eq=False)
class Panel:
    """One record: power density in decibels and logarithm of order 1, (rows, columns) each."""

    name: str
    power: Array
    first: Array


def draw_spectrogram(results: Results, source: Samples, output: str) -> list[str]:
    """Draw the power of the samples and order 1 of up to four records on the same axes.

    Raises
    ------
    SourceError
        The store holds no scattering of signals, or the source has other records.
    """
    if results.spec.get("kind") != Scattering1D.kind or len(results.tail_dims) != 1:
        raise SourceError(
            f"{results.store} holds no Scattering1D of signals, so there is no spectrogram to draw "
            "beside it. Show it without --what."
        )
    grid, bands = results.grid(results.tail_dims[0]), find_bands(results)
    if not bands.xi1.size:
        raise SourceError(f"{results.store} holds no path of order 1, beside which to draw.")
    _check_records(results, source, grid)
    factor = -(-grid.positions.size // MAX_COLUMNS)  # As `summarise` has it.
    segments = lay_out(results, source, grid, bands.xi1, factor)
    panels = [
        Panel(
            name,
            spectrogram(source, where, grid.dim, segments),
            summarise(results, where, grid, bands).first,
        )
        for name, where in islice(results.records(), MAX_RECORDS)
    ]
    _draw(results, grid, factor, segments.edges, bands.xi1, panels, output)
    total, length = results.n_records(), segments.length
    drawn = f"{len(panels)} of {total} records drawn" if total > len(panels) else f"{total} records"
    return [
        f"spectrogram and scalogram; {drawn}, {grid.positions.size} windows",
        f"  power of segments of {length} samples ({length / segments.rate:.4g} "
        f"{'s' if results.frequency_units() == 'Hz' else grid.units or 'samples'}, Hann), the mean "
        f"of {segments.starts.shape[1]} in each column",
        *(f"  {note}" for note in results.notes),
    ]


def _check_records(results: Results, source: Samples, grid: Grid) -> None:
    sizes = dict(zip(source.dims, source.shape, strict=True))
    own = {dim: results.data.sizes[dim] for dim in results.record_dims}
    if grid.dim not in sizes or own != {d: n for d, n in sizes.items() if d != grid.dim}:
        raise SourceError(
            f"{results.store} has records along {own} and windows along {grid.dim}, but its source "
            f"now has {sizes}: samples and coefficients cannot be laid side by side. Run the job "
            "again."
        )


def lay_out(results: Results, source: Samples, grid: Grid, xi1: Array, factor: int) -> Segments:
    """Choose segments four averaging windows long, and where they lie in each column."""
    n = source.shape[source.dims.index(grid.dim)]
    axis = source.axes.get(grid.dim)
    engine = engine_from_dict(dict(results.spec))
    window = engine.window if isinstance(engine, Scattering1D) and engine.T != "global" else n
    length = int(np.clip(2 ** round(np.log2(4 * window)), SHORTEST, LONGEST))
    length = min(length, n)
    centres = _sample_numbers(grid, axis)
    begins = np.arange(0, centres.size, factor)
    low, high = (f.reduceat(centres, begins) for f in (np.minimum, np.maximum))
    half = 0.5 * float(np.median(np.abs(np.diff(centres)))) if centres.size > 1 else n / 2
    span = float(np.median(high - low)) + 2 * half
    count = int(np.clip(np.ceil(2 * span / length), 1, SEGMENTS))
    at = (np.arange(count) + 0.5) / count
    middles = (low - half)[:, None] + (high - low + 2 * half)[:, None] * at
    starts = np.clip(np.round(middles - length / 2), 0, n - length).astype(np.int64)
    rate = 1.0 if axis is None else axis.rate_hz or 1 / abs(float(axis.exact_step))
    first = max(1, int(band_edges(xi1)[0] * length / rate))
    bins = np.unique(np.round(np.geomspace(first, length // 2 + 1, MAX_ROWS + 1)).astype(int))
    return Segments(starts, length, rate, bins)


def _sample_numbers(grid: Grid, axis: Any) -> Array:
    """Return where the windows' centres lie in the source, in samples."""
    if axis is None:
        return np.asarray(grid.positions, np.float64)
    since = grid.positions - axis.at([0])[0]
    if grid.is_time:
        since = since / np.timedelta64(1, "ns")
    return np.asarray(since / float(axis.exact_step), np.float64)


def spectrogram(source: Samples, record: dict[str, int], dim: str, segments: Segments) -> Array:
    """Return the power density of one record in decibels, (rows, columns), NaN in gaps."""
    taper = np.hanning(segments.length + 1)[:-1]
    scale = 2 / (segments.rate * (taper**2).sum())
    widths = np.diff(segments.bins)
    out = np.full((widths.size, len(segments.starts)), np.nan)
    for columns, pieces in _pieces(source, record, dim, segments):
        centred = pieces - pieces.mean(axis=-1, keepdims=True)
        power = scale * np.abs(np.fft.rfft(centred * taper)) ** 2  # (columns, segments, bins)
        rows = np.add.reduceat(power, segments.bins[:-1], axis=-1) / widths
        there = np.isfinite(rows)
        total = np.where(there, rows, 0).sum(axis=1)
        count = there.sum(axis=1)
        mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
        out[:, columns] = 10 * np.log10(np.maximum(mean, FAINTEST)).T
    return out


def _pieces(
    source: Samples, record: dict[str, int], dim: str, segments: Segments
) -> Iterator[tuple[slice, Array]]:
    """Yield the segments of some columns at a time, (columns, segments, samples)."""
    starts, length = segments.starts, segments.length
    each = starts.shape[1] * length
    step = max(1, PIECE_SAMPLES // max(each, int(np.ptp(starts[:2]))))
    inside = np.arange(length)
    for first in range(0, len(starts), step):
        some = starts[first : first + step]
        low, high = int(some.min()), int(some.max()) + length
        if high - low <= 4 * some.size * length:
            found = _read(source, record, dim, low, high)[some[..., None] - low + inside]
        else:
            found = np.stack([_read(source, record, dim, s, s + length) for s in some.ravel()])
        yield slice(first, first + len(some)), found.reshape(*some.shape, length)


def _read(source: Samples, record: dict[str, int], dim: str, start: int, stop: int) -> Array:
    own = {d: slice(i, i + 1) for d, i in record.items()}
    values = source.read([own.get(d, slice(start, stop)) for d in source.dims])
    assert values.shape[source.dims.index(dim)] == stop - start
    return values.reshape(-1)


def _draw(
    results: Results,
    grid: Grid,
    factor: int,
    edges: Array,
    xi1: Array,
    panels: list[Panel],
    output: str,
) -> None:
    """Lay out two rows for each record: the samples' power, and order 1."""
    figure = new_figure(12.0, 4.0 * len(panels) + 0.8)
    axes = figure.subplots(2 * len(panels), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    title = ["Spectrogram and scalogram"]
    if factor > 1:
        title.append(f"each column: {factor} windows; powers: their mean, order 1: the largest")
    title += ["unfinished run"] * bool(results.notes)
    figure.suptitle("  ·  ".join(title), fontsize=11, x=0.01, ha="left")
    units = results.frequency_units()
    sample = str(results.data.attrs.get("units", "unit of the samples"))
    # Plain numbers have the unit "1" in the CF conventions.
    square = "1" if sample == "1" else f"({sample})²"
    density = f"power density\n[dB of {square}/{'Hz' if units == 'Hz' else f'({units})'}]"
    powers, firsts = [p.power for p in panels], [p.first for p in panels]
    everything = slice(0, grid.positions.size)
    for row, (y, kind, cmap, label) in enumerate(
        [
            (edges, powers, "cividis", density),
            (band_edges(xi1), firsts, "viridis", "log10 of order 1"),
        ]
    ):
        low, high = spread(np.concatenate([values.ravel() for values in kind]))
        for own, values in zip(axes[row::2], kind, strict=True):
            x, filled = column_edges(Strip(grid, everything, factor, values), values)
            draw_rows(figure, own, x, y, filled, label, cmap=cmap, vmin=low, vmax=high)
            own.set_ylabel(f"frequency [{units}]")
    for own, panel in zip(axes[::2], panels, strict=True):
        own.set_title(elided(panel.name), loc="left", fontsize=10, fontweight="bold")
    axes[0].set_ylim(band_edges(xi1)[0], edges[-1])
    time_axis(axes[-1], Strip(grid, everything, factor, firsts[0]))
    save(figure, output)
