"""Time-frequency scattering over time: how loud each band is, and whether its patterns rise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scatflow.dataset.coordinates import three_digits
from scatflow.errors import SourceError
from scatflow.pictures.canvas import (
    band_edges,
    draw_rows,
    elided,
    new_figure,
    save,
    spread,
    symmetrical_limit,
)
from scatflow.pictures.results import PIECE_BYTES, Array, Grid, Results
from scatflow.pictures.scalogram import MAX_RECORDS, Strip, column_edges, time_axis
from scatflow.pictures.unusual import format_position

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_COLUMNS = 1500
"""More than the pixels of a panel cannot be told apart."""


@dataclass(frozen=True, eq=False)
class Bands:
    """Which coefficients belong to each band of the first order.

    Attributes
    ----------
    xi1 : Array
        Centre frequencies, ascending.
    of_path : Array
        For each path (or, in the joint format, each row) its band, -1 where it has none.
    smooth : Array
        Whether a path is of order 1 and averaged along log-frequency.
    rising, falling : Array
        Whether a path is of order 2 and of that spin.
    """

    xi1: Array
    of_path: Array
    smooth: Array
    rising: Array
    falling: Array


@dataclass(frozen=True, eq=False)
class Panel:
    """One record, (bands, columns): mean coefficients of each column of windows."""

    name: str
    level: Array
    rising: Array
    falling: Array

    @property
    def balance(self) -> Array:
        """log10 of what rises over what falls."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.log10(self.rising / self.falling)
        return np.where(np.isfinite(ratio), ratio, np.nan)


def draw_spins(results: Results, output: str) -> list[str]:
    """Draw level and spin of up to six records over time, and say where patterns rise and fall."""
    grid, bands = results.grid(results.tail_dims[-1]), find_bands(results)
    factor = max(1, -(-grid.positions.size // MAX_COLUMNS))
    panels: list[Panel] = []
    for name, where in results.records():
        if len(panels) == MAX_RECORDS:
            break
        panels.append(make_panel(results, name, where, grid, bands, factor))
    _draw(results, grid, bands, panels, factor, output)
    return _describe(results, grid, bands, panels, factor)


def find_bands(results: Results) -> Bands:
    """Sort paths, or rows, by the first wavelet's frequency."""
    order, spin, xi_fr = (results.column(name) for name in ("order", "spin", "xi_fr"))
    frequencies = results.column("xi1").astype(float)
    there = np.nan_to_num(frequencies) > 0
    if not there.any():
        raise SourceError(
            f'{results.store} names no frequency of the first order (xi1): with F = "global" '
            "there is one row for all, and nothing to draw over frequency."
        )
    xi1, number = np.unique(frequencies[there], return_inverse=True)
    of_path = np.full(frequencies.size, -1)
    of_path[there] = number
    second = order == 2
    smooth = (order == 1) & (xi_fr == 0)
    return Bands(xi1, of_path, smooth, second & (spin == 1), second & (spin == -1))


def make_panel(
    results: Results, name: str, where: dict[str, int], grid: Grid, bands: Bands, factor: int
) -> Panel:
    """Read one record once, in pieces of whole columns."""
    kinds = (bands.smooth, bands.rising, bands.falling)
    columns = -(-grid.positions.size // factor)
    sums = np.full((3, bands.xi1.size, columns), np.nan)
    per_window = results.data.sizes["path"] * results.data.dtype.itemsize
    per_window *= results.data.sizes[results.row_dim] if results.row_dim else 1
    step = max(1, PIECE_BYTES // (per_window * factor)) * factor
    for start in range(0, grid.positions.size, step):
        values = _read(results, where, grid, start, min(start + step, grid.positions.size))
        begins = np.arange(0, values.shape[-1], factor)
        counts = np.diff(np.append(begins, values.shape[-1]))
        means = np.add.reduceat(values, begins, axis=-1) / counts
        first = start // factor
        for total, kind in zip(sums, kinds, strict=True):
            total[:, first : first + begins.size] = _by_band(means, kind, bands)
    return Panel(name, *sums)


def _by_band(values: Array, kind: Array, bands: Bands) -> Array:
    """Sum coefficients of some paths in each band: ``(bands, columns)``."""
    if values.ndim == 3:  # (paths, rows, columns)
        rows = values[kind].sum(axis=0)[bands.of_path >= 0]
        order = np.argsort(bands.of_path[bands.of_path >= 0])
        return np.asarray(rows[order])
    total = np.zeros((bands.xi1.size, values.shape[-1]))
    np.add.at(total, bands.of_path[kind], values[kind])
    return total


def _read(results: Results, where: dict[str, int], grid: Grid, start: int, stop: int) -> Array:
    """Read windows, ``(paths, windows)`` or ``(paths, rows, windows)``."""
    tail = results.tail_dims[-1]
    frame = results.frame_dim(tail)
    inner = ("path", *([results.row_dim] if results.row_dim else []))
    if frame is None:
        return results.read({**where, tail: slice(start, stop)}, (*inner, tail))
    kept = grid.keep.stop - grid.keep.start
    first, last = start // kept, -(-stop // kept)
    region: dict[str, int | slice] = {**where, frame: slice(first, last), tail: grid.keep}
    values = results.read(region, (*inner, frame, tail))
    joined = values.reshape(*values.shape[: len(inner)], -1)
    return joined[..., start - first * kept : stop - first * kept]


def _describe(
    results: Results, grid: Grid, bands: Bands, panels: list[Panel], factor: int
) -> list[str]:
    total, n = results.n_records(), grid.positions.size
    drawn = f"{total} record" + ("s" if total != 1 else "")
    if total > len(panels):
        drawn = f"{len(panels)} of {total} records drawn"
    lines = [f"{drawn}; {n} window" + ("s" if n != 1 else "")]
    lines += [f"  {note}" for note in results.notes]
    units = results.frequency_units()
    for panel in panels:
        empty = int(np.isnan(panel.level).all(axis=0).sum())
        if empty:
            lines.append(f"{panel.name or 'record'}: {empty} columns hold no values (drawn grey)")
        balance = np.where(_loud(panel), panel.balance, np.nan)
        if not np.isfinite(balance).any():
            continue
        words = []
        for word, number in (("rise", np.nanargmax(balance)), ("fall", np.nanargmin(balance))):
            band, column = np.unravel_index(number, balance.shape)
            ratio = 10 ** abs(float(balance[band, column]))
            when = format_position(grid, int(column) * factor).strip()
            words.append(
                f"{word} most at {when}, {three_digits(bands.xi1[band])} {units} "
                f"({ratio:.2g} times)"
            )
        lines.append(f"{panel.name or 'record'}: patterns {'; '.join(words)}")
    return lines


def _loud(panel: Panel) -> Array:
    """Return where there is enough of either spin to compare: a tenth of the usual in its band."""
    both = panel.rising + panel.falling
    if not np.isfinite(both).any():
        return np.zeros(both.shape, bool)
    return np.asarray(both > 0.1 * np.nanmax(both, axis=1, keepdims=True, initial=0.0))


def _draw(
    results: Results, grid: Grid, bands: Bands, panels: list[Panel], factor: int, output: str
) -> None:
    """Lay out two rows for each record: level, and rising over falling."""
    figure = new_figure(12.0, 3.9 * len(panels) + 0.9)
    axes = figure.subplots(2 * len(panels), 1, squeeze=False, sharex=True)[:, 0]
    title = ["Time-frequency scattering over time"]
    if factor > 1:
        title.append(f"each column: the mean of {factor} windows")
    figure.suptitle("  ·  ".join(title), fontsize=11, x=0.01, ha="left")
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = [np.log10(panel.level) for panel in panels]
    levels = [np.where(np.isfinite(level), level, np.nan) for level in levels]
    low, high = spread(np.concatenate([level.ravel() for level in levels]))
    limit = symmetrical_limit(np.concatenate([panel.balance.ravel() for panel in panels]))
    span = slice(0, grid.positions.size)
    for k, (panel, level) in enumerate(zip(panels, levels, strict=True)):
        units = results.frequency_units()
        for row, values, options, label in (
            (2 * k, level, {"cmap": "viridis", "vmin": low, "vmax": high}, "log10 of order 1"),
            (
                2 * k + 1,
                panel.balance,
                {"cmap": "PuOr_r", "vmin": -limit, "vmax": limit},
                "log10 of rising / falling",
            ),
        ):
            _strip(figure, axes[row], Strip(grid, span, factor, values), bands, options, label)
            axes[row].set_ylabel(f"frequency [{units}]")
        axes[2 * k].set_title(elided(panel.name), loc="left", fontsize=10)
    time_axis(axes[-1], Strip(grid, span, factor, levels[0]))
    save(figure, output)


def _strip(
    figure: Figure, axes: Any, strip: Strip, bands: Bands, options: dict[str, Any], label: str
) -> None:
    x, values = column_edges(strip, strip.values)
    draw_rows(figure, axes, x, band_edges(bands.xi1), values, label, **options)
