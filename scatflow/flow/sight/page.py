"""The page itself, drawn by Bokeh from what a board knows of its runs."""

from __future__ import annotations

import functools
import html
from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.document import Document
from bokeh.layouts import column, row
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    DataTable,
    Div,
    NumberFormatter,
    NumeralTickFormatter,
    Select,
    TableColumn,
)
from bokeh.plotting import figure
from distributed.dashboard.components.scheduler import BOKEH_THEME, env

from scatflow.flow.sight.board import SILENT_SECONDS, Board, Shown
from scatflow.flow.sight.tally import Rates, clock, rates

REFRESH_MILLISECONDS = 1000

ENGINE, OTHER, FAILED = "#30678d", "#e0a458", "#b3261e"

CURVES = ("time", "done", "failed", "samples", "bytes", "engine", "other")
COLUMNS = ("worker", "blocks", "failed", "rate", "failure")


def draw(board: Board, _scheduler: Any, extra: Mapping[str, Any], doc: Document) -> None:
    """Fill a document with the page; it follows the board from then on."""
    curves = ColumnDataSource({name: [] for name in CURVES})
    workers = ColumnDataSource({name: [] for name in COLUMNS})
    words = Div(text="", sizing_mode="stretch_width", name="words")
    failures = Div(text="", sizing_mode="stretch_width", name="failures")
    choice = Select(title="Run", options=[], value="", width=420, name="run")
    update = functools.partial(_update, board, choice, curves, workers, words, failures)
    choice.on_change("value", lambda _attr, _old, _new: update())
    update()
    plots = _plots(curves)
    doc.add_root(
        column(
            row(choice, words, sizing_mode="stretch_width"),
            row(*plots[:2], sizing_mode="stretch_width"),
            row(*plots[2:], sizing_mode="stretch_width"),
            row(_table(workers), failures, sizing_mode="stretch_width"),
            sizing_mode="stretch_width",
            styles={"padding": "8px"},
        )
    )
    doc.title = "scatflow"
    doc.template = env.get_template("simple.html")
    doc.template_variables.update(extra)
    doc.theme = BOKEH_THEME
    doc.add_periodic_callback(update, REFRESH_MILLISECONDS)


def _update(
    board: Board,
    choice: Any,
    curves: ColumnDataSource,
    workers: ColumnDataSource,
    words: Any,
    failures: Any,
) -> None:
    """Bring a page up to date."""
    runs = list(board.runs.values())[::-1]
    options = [(run.id, f"{run.job}, {run.state}, {run.id}") for run in runs]
    if choice.options != options:
        choice.options = options
    if choice.value not in board.runs and runs:
        choice.value = next((run.id for run in runs if run.state == "running"), runs[0].id)
    run = board.runs.get(choice.value)
    if run is None:
        words.text = "No run has told of itself yet."
        return
    told = rates(run.history.points, run.slots)
    curves.data = _curves(run, told)
    workers.data = {name: [one[name] for one in run.workers] for name in COLUMNS}
    words.text = _summary(run, told[-1])
    failures.text = _failures(run)


def _curves(run: Shown, told: Sequence[Rates]) -> dict[str, list[float]]:
    points = run.history.points
    return {
        "time": [1000 * (run.began + point.seconds) for point in points],
        "done": [point.done for point in points],
        "failed": [point.failed for point in points],
        "samples": [rate.samples / 1e6 for rate in told],
        "bytes": [rate.bytes / 1e6 for rate in told],
        "engine": [100 * rate.engine for rate in told],
        "other": [100 * (1 - rate.engine) for rate in told],
    }


def _summary(run: Shown, now: Rates) -> str:
    """Say how far a run is; names come from job files, which may hold anything."""
    last = run.history.points[-1]
    state = run.state
    if state == "running" and run.silent > SILENT_SECONDS:
        state = f"silent for {clock(run.silent)}"
    facts = [
        f"{last.done:,} of {run.total:,} blocks",
        f"{last.failed:,} failed",
        f"{now.samples:,.0f} samples/s",
        f"{now.bytes / 1e6:,.1f} MB/s written",
        f"engine {now.engine:.0%}, all else {1 - now.engine:.0%} of the workers' time",
        f"{run.n_workers:,} workers",
    ]
    if run.state == "running" and run.left is not None:
        facts.append(f"{clock(run.left)} left")
    if run.message:
        facts.append(run.message)
    names = f"<b>{html.escape(run.job)}</b> to {html.escape(run.output)}: {html.escape(state)}"
    return f"{names}<br>{html.escape('; '.join(facts))}"


def _failures(run: Shown) -> str:
    if not run.failures:
        return "No block has failed."
    lines = (
        f"<li>block {html.escape(block)}: {html.escape(why)}</li>"
        for block, why in run.failures.items()
    )
    return f"<b>Failed blocks</b><ul>{''.join(lines)}</ul>"


def _plots(curves: ColumnDataSource) -> list[figure]:
    """Return the figures: blocks, samples and bytes, failures, and whose the time was."""
    looks = {
        "x_axis_type": "datetime",
        "height": 230,
        "sizing_mode": "stretch_width",
        "tools": "xpan,xwheel_zoom,reset",
        "toolbar_location": "above",
    }
    made: list[figure] = []
    for title, name, colour in (
        ("Blocks done", "done", ENGINE),
        ("Million samples per second", "samples", ENGINE),
        ("MB written per second", "bytes", ENGINE),
        ("Blocks failed", "failed", FAILED),
    ):
        plot = figure(title=title, name=name, **looks)
        plot.line("time", name, source=curves, line_width=2, color=colour)
        plot.yaxis.formatter = NumeralTickFormatter(format="0,0.[00]")
        plot.y_range.start = 0
        if name in ("done", "failed"):
            plot.yaxis.ticker = BasicTicker(min_interval=1)
        made.append(plot)
    share = figure(title="Workers' time, %", name="share", y_range=(0, 100), **looks)
    share.varea_stack(
        ["engine", "other"],
        x="time",
        source=curves,
        color=[ENGINE, OTHER],
        legend_label=["engine", "reading, writing, waiting"],
    )
    share.add_layout(share.legend[0], "below")
    share.legend.orientation = "horizontal"
    share.legend.padding = share.legend.margin = 0
    share.legend.border_line_color = None
    made.append(share)
    for plot in made[1:]:
        plot.x_range = made[0].x_range
    return made


def _table(workers: ColumnDataSource) -> DataTable:
    number = NumberFormatter(format="0,0", text_align="right")
    columns = [
        TableColumn(field="worker", title="worker"),
        TableColumn(field="blocks", title="blocks", formatter=number),
        TableColumn(field="failed", title="failed", formatter=number),
        TableColumn(field="rate", title="samples/s", formatter=number),
        TableColumn(field="failure", title="last failure"),
    ]
    return DataTable(
        source=workers,
        columns=columns,
        height=240,
        sizing_mode="stretch_width",
        index_position=None,
        name="workers",
    )
