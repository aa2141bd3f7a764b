"""The report of a run: one HTML file that needs nothing else, with Dask's own report inside."""

from __future__ import annotations

import contextlib
import datetime
import html
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from distributed import performance_report

import scatflow
from scatflow.flow.lock import me
from scatflow.flow.sight.drawing import curve
from scatflow.flow.sight.tally import Point, Tally, between, clock, rates
from scatflow.flow.sight.watch import End, Listener, Run

WORKERS = 100
"""Workers in the table, at most: those with failures, then the slowest."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; }
td, th { border-bottom: 1px solid #ccc; padding: .2em .8em .2em 0; text-align: left; }
td.number, th.number { text-align: right; }
figure { display: inline-block; margin: 0 1em 1em 0; }
summary { font-size: 1.5em; font-weight: bold; margin: 1em 0; }
pre { background: #f4f4f4; overflow: auto; padding: 1em; }
iframe { border: 1px solid #ccc; height: 60em; width: 100%; }
.failed { color: #b3261e; }
"""

EXTERNAL = re.compile(r"<link [^>]*href=[\"']?https?://[^>]*>")
"""What Dask's page would load from elsewhere: its icon."""


class Report(Listener):
    """Writes the report when the run has ended, however it did.

    Parameters
    ----------
    path : str
        The file.
    planned : mapping
        What the plan said (see :func:`scatflow.flow.plan.summary`).
    """

    def __init__(self, path: str, planned: Mapping[str, Any]) -> None:
        self._path, self._planned = Path(path), planned
        self._tally: Tally | None = None
        self._dask = ""

    @property
    def called(self) -> str:
        """Name the file."""
        return f"Report {self._path}"

    @contextlib.contextmanager
    def of_dask(self, say: Callable[[str], None]) -> Iterator[None]:
        """Have Dask record what it does meanwhile, for its part of the report."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "dask.html")
            recorder = performance_report(filename=str(file), mode="inline")
            if _worked(recorder.__enter__, say):
                try:
                    yield
                finally:
                    if _worked(lambda: recorder.__exit__(None, None, None), say):
                        self._dask = EXTERNAL.sub("", file.read_text("utf-8"))
            else:
                yield

    def started(self, run: Run, tally: Tally) -> None:  # noqa: ARG002
        """Keep the tally, which is up to date at the end."""
        self._tally = tally

    def ended(self, run: Run, end: End) -> None:
        """Write the file."""
        parts = page(run, self._tally, end, self._planned)
        if self._dask:
            parts += (
                "<h2>Dask's performance report</h2>"
                '<iframe title="Dask\'s performance report" sandbox="allow-scripts" '
                f'srcdoc="{html.escape(self._dask)}"></iframe>'
            )
        self._path.write_text(f"{_head(run)}{parts}</body></html>\n", "utf-8")


def _worked(call: Callable[[], None], say: Callable[[str], None]) -> bool:
    """Do what needs a scheduler that has Bokeh and is still there; tell of it where it is not."""
    try:
        call()
    except Exception as problem:  # The scheduler's process may raise anything.
        say(f"note: the report has no part of Dask's: {type(problem).__name__}: {problem}")
        return False
    return True


def _head(run: Run) -> str:
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(run.job)}: report of a run</title><style>{STYLE}</style></head><body>"
    )


def page(run: Run, tally: Tally | None, end: End, planned: Mapping[str, Any]) -> str:
    """Return the body: how the run ended, figures, curves, failures, workers and settings."""
    parts = [
        f"<h1>{html.escape(run.job)}</h1>",
        f"<p><b>{html.escape(end.state)}</b>: {html.escape(end.message)}</p>",
        _rows(_about(run), "What"),
    ]
    if tally is None:
        parts.append("<p>No block was computed.</p>")
    else:
        parts += [
            "<h2>Planned and measured</h2>",
            _table(("", "planned", "measured"), _figures(run, tally, planned), numbers=False),
            "<h2>Over time</h2>",
            *_curves(tally),
            *_failures(tally),
            *_workers(tally),
        ]
    settings = html.escape(json.dumps(run.settings, indent=2, default=str))
    return "".join([*parts, f"<details><summary>Settings</summary><pre>{settings}</pre></details>"])


def _about(run: Run) -> dict[str, str]:
    who = me()
    now = datetime.datetime.now(datetime.UTC).isoformat(" ", timespec="seconds")
    return {
        "run": run.id,
        "job file": run.path,
        "output": run.output,
        "written": now,
        "by": f"process {who['pid']} on {who['host']}, scatflow {scatflow.__version__}",
    }


def _figures(run: Run, tally: Tally, planned: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return what was planned and what was measured; the plan is of all blocks."""
    last = tally.history.points[-1]
    start = Point(0.0, 0, 0, 0, 0, 0.0)
    mean = between(start, last, tally.slots)
    estimate = planned["estimated_seconds"]
    seconds = last.seconds
    per_thread = mean.samples / (tally.slots * run.threads)
    return [
        ("blocks of the output", f"{planned['blocks']:,}", f"{last.done:,}"),
        ("done before this run", "", f"{tally.at_start:,}"),
        ("failed", "", f"{tally.failed:,}"),
        ("with gaps", "", f"{tally.gaps:,}"),
        ("time", "" if estimate is None else f"about {clock(estimate)}", clock(seconds)),
        ("blocks computed at a time", f"{planned['workers']:,}", f"{tally.slots:,}"),
        ("samples", "", f"{tally.samples:,}"),
        ("samples per second", "", f"{mean.samples:,.0f}, {per_thread:,.0f} per thread"),
        ("bytes read", f"{planned['bytes_read']:,}", ""),
        ("bytes written", f"{planned['bytes_written']:,}", f"{tally.bytes_written:,}"),
        ("bytes written per second", "", f"{mean.bytes:,.0f}"),
        ("engine's share of the workers' time", "", f"{mean.engine:.0%}"),
        ("memory of a worker, at most", f"{planned['peak_bytes_per_worker']:,} bytes", ""),
    ]


def _curves(tally: Tally) -> Iterator[str]:
    points = tally.history.points
    told = rates(points, tally.slots)
    seconds = [point.seconds for point in points]
    yield curve("blocks done", seconds, [point.done for point in points])
    yield curve("samples per second", seconds, [rate.samples for rate in told])
    yield curve("bytes written per second", seconds, [rate.bytes for rate in told])
    yield curve("blocks failed", seconds, [point.failed for point in points])
    yield curve("engine's share, %", seconds, [100 * rate.engine for rate in told], top=100.0)


def _failures(tally: Tally) -> Iterator[str]:
    if not tally.failed:
        return
    yield '<h2 class="failed">Failed blocks</h2>'
    rows = [(str(block), why) for block, why in tally.failures.items()]
    yield _table(("block", "why"), rows, numbers=False)
    if more := tally.failed - len(rows):
        yield f"<p>{more:,} more: scatflow status names all.</p>"


def _workers(tally: Tally) -> Iterator[str]:
    yield "<h2>Workers</h2>"
    rows = [
        (name, f"{one.blocks:,}", f"{one.failed:,}", f"{one.rate:,.0f}", one.failure)
        for name, one in tally.noteworthy(WORKERS)
    ]
    yield _table(("worker", "blocks", "failed", "samples/s", "last failure"), rows)
    if more := len(tally.workers) - len(rows):
        yield f"<p>and {more:,} more</p>"


def _rows(facts: Mapping[str, str], title: str) -> str:
    return _table((title, ""), list(facts.items()), numbers=False)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]], *, numbers: bool = True) -> str:
    """Return a table; with numbers, all columns between the first and the last are to the right."""
    right = [numbers and 0 < k < len(head) - 1 for k in range(len(head))]

    def line(tag: str, cells: tuple[str, ...]) -> str:
        made = (
            f"<{tag}{' class=number' if to_right else ''}>{html.escape(cell)}</{tag}>"
            for cell, to_right in zip(cells, right, strict=True)
        )
        return f"<tr>{''.join(made)}</tr>"

    return f"<table>{line('th', head)}{''.join(line('td', row) for row in rows)}</table>"
