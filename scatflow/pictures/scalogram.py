"""Scalograms: the first and second order of signals over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scatflow.errors import SourceError
from scatflow.pictures.canvas import (
    band_edges,
    draw_mesh,
    elided,
    new_figure,
    save,
    scale_frequencies,
    spread,
    step_edges,
    symmetrical_limit,
)
from scatflow.pictures.results import Array, Grid, Results
from scatflow.pictures.unusual import (
    MIN_WINDOWS,
    Event,
    describe_events,
    find_events,
    format_half_width,
    format_position,
)
from scatflow.pictures.windows import (
    Bands,
    Summary,
    both_orders,
    centre_rows,
    find_bands,
    read_windows,
    row_medians,
    summarise,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_RECORDS = 6  # More panels than that cannot be read on one sheet.
CLOSE_UP = 24  # Windows on each side of the first event.


@dataclass(frozen=True, eq=False)
class Strip:
    """One order over a stretch of time.

    Attributes
    ----------
    grid : Grid
        Where all windows of the record lie.
    span : slice
        Those of the stretch.
    factor : int
        How many of them one column summarises.
    values : Array
        (frequencies, columns), logarithms.
    """

    grid: Grid
    span: slice
    factor: int
    values: Array


@dataclass(frozen=True, eq=False)
class Panel:
    """What is drawn of one record: for orders 1 and 2, the whole and the first event close up."""

    name: str
    empty: int
    events: list[Event]
    whole: tuple[Strip, Strip]
    near: tuple[Strip, Strip] | None


def draw_scalogram(results: Results, output: str) -> list[str]:
    """Draw orders 1 and 2 of up to six records over time, and list their unusual windows."""
    if len(results.tail_dims) != 1:
        raise SourceError(
            f"`scattering` in {results.store} has the dimensions {results.data.dims}: a signal has "
            "one dimension after `path`, so no scalogram can be drawn. Show a store that "
            "`scatflow run` wrote."
        )
    grid, bands = results.grid(results.tail_dims[0]), find_bands(results)
    panels: list[Panel] = []
    for name, where in results.records():
        if len(panels) == MAX_RECORDS:
            break
        panels.append(make_panel(results, name, where, grid, bands))
    _draw(results, grid, bands, panels, output)
    return _describe(results, grid, bands, panels)


def make_panel(
    results: Results, name: str, where: dict[str, int], grid: Grid, bands: Bands
) -> Panel:
    """Read one record twice in pieces (columns and medians, then scores) and its first event."""
    summary = summarise(results, where, grid, bands)
    events = find_events(results, where, grid, bands, summary)
    everything = slice(0, grid.positions.size)
    # With many windows in a column, the largest of them is above the median nearly always:
    # each column is therefore compared with the usual column.
    relative = grid.positions.size >= MIN_WINDOWS
    first, second = (
        Strip(grid, everything, summary.factor, centre_rows(values) if relative else values)
        for values in (summary.first, summary.second)
    )
    near = None
    if events and grid.positions.size > 8 * CLOSE_UP:
        near = _close_up(results, where, grid, bands, summary, events[0].window)
    return Panel(name, summary.empty, events, (first, second), near)


def _close_up(
    results: Results,
    where: dict[str, int],
    grid: Grid,
    bands: Bands,
    summary: Summary,
    window: int,
) -> tuple[Strip, Strip]:
    span = slice(max(0, window - CLOSE_UP), min(grid.positions.size, window + CLOSE_UP + 1))
    one, two = both_orders(read_windows(results, where, grid, span.start, span.stop), bands)
    return (
        Strip(grid, span, 1, one - row_medians(summary.sample)[:, None]),
        Strip(grid, span, 1, two - row_medians(summary.sample_second)[:, None]),
    )


def _describe(results: Results, grid: Grid, bands: Bands, panels: list[Panel]) -> list[str]:
    total = results.n_records()
    names = ", ".join(panel.name for panel in panels if panel.name)
    count = f"{total} record" + ("s" if total != 1 else "") + (f" ({names})" if names else "")
    if total > len(panels):
        count = f"{len(panels)} of {total} records drawn and listed ({names})"
    n = grid.positions.size
    apart = f", {grid.step:.6g} {'s' if grid.is_time else grid.units} apart".rstrip()
    ends = f"{format_position(grid, 0).strip()} to {format_position(grid, n - 1).strip()}"
    windows = f"{n} windows{apart}, {ends}" if n > 1 else f"1 window at {format_position(grid, 0)}"
    lines = [f"{count}; {windows}"]
    lines += [f"  {note}" for note in results.notes]
    if not bands.first.size:
        lines.append("  no order-1 coefficients in this store: the panels stay empty")
    if grid.keep.stop - grid.keep.start < results.data.sizes[grid.dim]:
        lines.append("  frames overlap: of each, the windows in its middle are drawn")
    if n < MIN_WINDOWS:
        lines.append(f"  with fewer than {MIN_WINDOWS} windows none can be called unusual")
    for panel in panels:
        title = panel.name or "record"
        if panel.empty:
            lines.append(
                f"{title}: {panel.empty} of {n} windows hold no values (drawn grey): a gap "
                "in the record, a failed block or an unfinished run"
            )
        if panel.events:
            when = "UTC" if grid.is_time else grid.dim
            lines.append(
                f"{title}: most unusual windows ({when} {format_half_width(grid)}; score: distance "
                "from the usual spectrum in robust standard deviations; strongest band)"
            )
            lines += describe_events(panel.events, grid, results.frequency_units())
    return lines


def _draw(results: Results, grid: Grid, bands: Bands, panels: list[Panel], output: str) -> None:
    """Lay out a row for each record and order: the whole record, and its first event close up."""
    ratios = [2.2, 1.0] if bands.xi2.size else [1.0]
    wide = any(panel.near for panel in panels)
    figure = new_figure(13.5 if wide else 12.0, max(1.3 * sum(ratios) * len(panels), 3.2) + 0.9)
    rows = figure.subplots(
        len(ratios) * len(panels),
        2 if wide else 1,
        squeeze=False,
        height_ratios=ratios * len(panels),
        width_ratios=[5.5, 1.0] if wide else [1.0],
    )
    _title(figure, results, panels)
    for order, frequencies in enumerate([bands.xi1, bands.xi2][: len(ratios)]):
        limits = _limits([panel.whole[order] for panel in panels])
        near_limits = _limits([panel.near[order] for panel in panels if panel.near])
        for number, panel in enumerate(panels):
            left, *right = rows[number * len(ratios) + order]
            mesh = _draw_strip(left, panel.whole[order], frequencies, limits)
            word = ("frequency", "modulation")[order]
            left.set_ylabel(f"{word}\n[{results.frequency_units()}]")
            _colour_bar(figure, left, mesh, limits, order, 0.02)
            if panel.near:
                mesh = _draw_strip(right[0], panel.near[order], frequencies, near_limits)
                _colour_bar(figure, right[0], mesh, near_limits, order, 0.1)
                right[0].tick_params(labelleft=False)
                time_axis(right[0], panel.near[order], few=True)
            elif right:
                right[0].set_axis_off()
            if order == 0:
                _name(left, panel)
                _mark_events(left, grid, panel.events)
    for axes in rows[:-1, 0]:
        axes.sharex(rows[-1, 0])
        axes.tick_params(labelbottom=False)
    time_axis(rows[-1, 0], panels[0].whole[0])
    save(figure, output)


def _title(figure: Figure, results: Results, panels: list[Panel]) -> None:
    factor = panels[0].whole[0].factor
    parts = ["Scattering coefficients over time"]
    if results.n_records() > len(panels):
        parts.append(f"{len(panels)} of {results.n_records()} records")
    if factor > 1:
        parts.append(f"each column: the largest of {factor} windows")
    if any(panel.events for panel in panels):
        parts.append("▼ most unusual windows, by rank")
    if any(panel.near for panel in panels):
        parts.append("right: the first of them close up")
    if any(panel.empty for panel in panels):
        parts.append("grey: no values")
    figure.suptitle("  ·  ".join(parts), fontsize=11, x=0.01, ha="left")


def _limits(strips: list[Strip]) -> tuple[float, float]:
    """Choose one colour scale for all records; symmetrical if they are relative to a median."""
    if not strips:
        return 0.0, 1.0
    values = np.concatenate([strip.values.ravel() for strip in strips])
    if strips[0].grid.positions.size < MIN_WINDOWS:
        return spread(values)
    limit = symmetrical_limit(values)
    return -limit, limit


def _draw_strip(axes: Axes, strip: Strip, frequencies: Array, limits: tuple[float, float]) -> Any:
    """Draw one order on a logarithmic frequency axis; None where there is no path to draw."""
    if not frequencies.size:
        axes.text(0.5, 0.5, "no paths", transform=axes.transAxes, ha="center")
        return None
    distinct, values = _largest_per_frequency(frequencies, strip.values)
    x, values = column_edges(strip, values)
    relative = strip.grid.positions.size >= MIN_WINDOWS
    y = band_edges(distinct)
    colours = {"cmap": "RdBu_r" if relative else "viridis", "vmin": limits[0], "vmax": limits[1]}
    mesh = draw_mesh(axes, x, y, values, **colours)
    scale_frequencies(axes, y)
    return mesh


def _colour_bar(
    figure: Figure, axes: Axes, mesh: Any, limits: tuple[float, float], order: int, width: float
) -> None:
    if mesh is None:
        return
    low, high = limits
    quantity = ("order 1", "order 2 / order 1")[order]
    bar = figure.colorbar(mesh, ax=axes, pad=0.01, fraction=width, aspect=18, extend="both")
    bar.ax.tick_params(labelsize=8)
    if low == -high:
        ticks = [low, low / 2, 0.0, high / 2, high]
        bar.set_ticks(ticks, labels=[_factor(tick) for tick in ticks])
        bar.set_label(f"{quantity},\nrelative to median", fontsize=8)
    else:
        bar.set_label(f"log10 of {quantity}", fontsize=8)


def _name(axes: Axes, panel: Panel) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2.0}
    axes.text(
        0.005,
        0.96,
        elided(panel.name),
        transform=axes.transAxes,
        va="top",
        fontweight="bold",
        bbox=box,
    )


def _largest_per_frequency(frequencies: Array, values: Array) -> tuple[Array, Array]:
    """Join rows of one frequency (paths that differ in something else) by their maximum."""
    distinct, begins = np.unique(frequencies, return_index=True)
    if distinct.size == frequencies.size:
        return frequencies, values
    return distinct, np.fmax.reduceat(values, begins, axis=0)


def column_edges(strip: Strip, values: Array) -> tuple[Array, Array]:
    """Give the edges of the columns along time, with an empty column in every hole between them.

    Parameters
    ----------
    values : Array
        (rows, columns), each column the summary of `strip.factor` windows.

    Returns
    -------
    edges : Array
        (n + 1,), n >= columns.
    values : Array
        (rows, n), NaN in the columns that were put in.
    """
    everywhere, factor = strip.grid.numbers(), strip.factor
    numbers = everywhere[strip.span]
    if everywhere.size == 1:
        return step_edges(numbers), values
    half = 0.5 * np.median(np.diff(everywhere))
    begins = numbers[::factor] - half
    ends = np.append(numbers[factor - 1 :: factor], numbers[-1])[: begins.size] + half
    holes = np.flatnonzero(np.abs(begins[1:] - ends[:-1]) > abs(half))
    joined = np.append(begins, ends[-1])
    joined = np.insert(joined, holes + 1, ends[holes])
    return joined, np.insert(values, holes + 1, np.nan, axis=1)


def _mark_events(axes: Axes, grid: Grid, events: list[Event]) -> None:
    """Put a small triangle over every listed window, and the rank over the first ones."""
    numbers = grid.numbers()
    across = axes.get_xaxis_transform()
    span = abs(float(numbers[-1] - numbers[0]))
    labelled: list[float] = []
    for rank, event in enumerate(events, start=1):
        x = float(numbers[event.window])
        axes.plot(
            [x], [1.025], "v", transform=across, clip_on=False, markersize=5 if rank > 1 else 7,
            color="black", markeredgewidth=0,
        )  # fmt: skip
        if all(abs(x - other) > 0.012 * span for other in labelled):
            axes.annotate(
                str(rank), (x, 1.05), xycoords=across, ha="center", va="bottom", fontsize=8,
                fontweight="bold" if rank == 1 else "normal", annotation_clip=False,
            )  # fmt: skip
            labelled.append(x)


def time_axis(axes: Axes, strip: Strip, few: bool = False) -> None:
    """Label the axis of time, or of whatever signals run along."""
    grid = strip.grid
    if not grid.is_time:
        axes.set_xlabel(f"{grid.dim} [{grid.units or 'samples'}]")
        return
    if grid.positions.size == 1:  # How wide it is, the store does not tell.
        axes.set_xticks(grid.numbers(), labels=[f"{format_position(grid, 0)} UTC"])
        return
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    # matplotlib's dates have no annotations.
    ticks = (2, 4) if few else (6, 13)
    locator = AutoDateLocator(minticks=ticks[0], maxticks=ticks[1])  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    form = ConciseDateFormatter(locator, show_offset=False)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(form)
    shown = grid.positions[strip.span]
    first, last = (str(shown[k].astype("datetime64[D]")) for k in (0, -1))
    if few:
        axes.tick_params(axis="x", labelsize=8)
    else:
        axes.set_xlabel(f"UTC, {first}" if first == last else f"UTC, {first} to {last}")


def _factor(decades: float) -> str:
    """Write a ratio as a plain number.

    Examples
    --------
    >>> _factor(2.0), _factor(0.5), _factor(-0.5)
    ('100', '3.2', '0.32')
    """
    ratio = 10**decades
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"
