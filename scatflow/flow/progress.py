"""Progress of a run, for people: a live view on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scatflow.flow.block import Receipt
from scatflow.flow.sight.tally import Tally, clock
from scatflow.flow.sight.watch import Listener, Run

LINE_SECONDS, LINE_SHARE, LINE_LONGEST = 10.0, 0.1, 600.0
"""Lines come after so many seconds, then more rarely as a run lasts, and so often at least."""

VIEW_SECONDS = 0.25

ROWS = 8
"""Workers that the live view shows; the others are counted."""

FAILURES_TOLD = 5
"""Failed blocks that are named at once; the others are counted, and all are named at the end."""

NUMBERS = (("blocks", 6), ("failed", 6), ("samples/s", 10))
"""What the live view says of each worker, and the characters that are kept for it."""

NAME = 8
"""Characters of a worker's name that are shown in any case."""

BAR, BAR_LONGEST = 10, 40
"""Characters of the bar: a shorter one is left out, so that the numbers beside it have room."""

REASON_SHOWN = 20
"""Characters of a worker's last failure: where there is room for fewer, there is no such column."""

REASON = 160
"""Characters of a reason, while a run goes on."""


class Screen(Console):
    """Standard output; where nobody reads it any more, that is an error like others."""

    def on_broken_pipe(self) -> None:
        """Raise what rich would end the process for."""
        raise BrokenPipeError("nobody reads what is printed")


class Terminal(Listener):
    """Shows blocks done, failures, samples per second, time left, and the workers that stand out.

    Parameters
    ----------
    console : rich.console.Console, optional
        Where; by default standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Screen(file=sys.stdout, soft_wrap=True, highlight=False)
        self._tally = Tally(0)
        self._live: Live | None = None
        self._next = 0.0

    def begin(self, tally: Tally) -> Terminal:
        """Show a tally from now on; as a context, until its end."""
        self._tally = tally
        self._next = time.monotonic() + LINE_SECONDS
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._console.soft_wrap = False  # What is drawn anew must know how many lines it has.
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stopped()

    def stopped(self) -> None:
        """Leave the last view as it is."""
        if self._live is not None:
            self._live.update(self._view(), refresh=True)
            self._live.stop()
            self._live = None

    def started(self, run: Run, tally: Tally) -> None:  # noqa: ARG002
        """See :meth:`begin`."""
        self.begin(tally)

    def block(self, receipt: Receipt) -> None:
        """Name a block that has failed, if it is one of the first."""
        if receipt.failure is not None and self._tally.failed <= FAILURES_TOLD:
            self._say(f"block {receipt.block} failed: {_short(receipt.failure)}")

    def tick(self) -> None:
        """Draw the view anew, or say where the run is, if it is time to."""
        now = time.monotonic()
        if self._live is not None:
            if now >= self._next or not self._tally.blocks:
                self._live.update(self._view(), refresh=True)
                self._next = now + VIEW_SECONDS
        elif now >= self._next:
            self._say(self._line())
            wait = max(LINE_SECONDS, LINE_SHARE * self._tally.elapsed)
            self._next = now + min(wait, LINE_LONGEST)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _line(self) -> str:
        tally = self._tally
        failed = f", {tally.failed} failed" if tally.failed else ""
        left = "unknown time" if tally.left is None else clock(tally.left)
        return (
            f"{tally.done}/{tally.total} blocks{failed}, {tally.rate:,.0f} samples/s, {left} left"
        )

    def _view(self) -> RenderableType:
        tally, width = self._tally, self._console.width
        parts: list[RenderableType] = [progress_line(self._line(), tally, width)]
        if tally.workers:
            rows = min(ROWS, max(self._console.height - 6, 1))
            parts.append(workers_table(tally, rows, width))
        return Group(*parts)


def progress_line(words: str, tally: Tally, width: int) -> RenderableType:
    """Return how far a run is in words, which wrap, and as a bar before them if it has room."""
    room = width - len("running ") - len(words) - 1
    if room < BAR:
        return Text(words)
    row = Table.grid(padding=(0, 1, 0, 0))
    bar = ProgressBar(max(tally.total, 1), tally.done, width=min(room, BAR_LONGEST))
    row.add_row("running", bar, Text(words, no_wrap=True))
    return row


def workers_table(tally: Tally, rows: int, width: int) -> Table:
    """Return a table of the workers that stand out: those with failures, then the slowest.

    Numbers keep their room: names are cut where there is too little, and reasons before them.
    """
    shown = tally.noteworthy(rows)
    cells = [
        (f"{w.blocks:,}", f"{w.failed:,}" if w.failed else "", f"{w.rate:,.0f}") for _, w in shown
    ]
    widths = [
        max(least, *map(len, column))
        for (_, least), column in zip(NUMBERS, zip(*cells, strict=True), strict=True)
    ]
    room = width - sum(widths) - len(widths)
    names = min(max(len(name) for name, _ in shown), max(room, NAME))
    reasons = room - names - 1
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("worker", overflow="ellipsis", no_wrap=True, width=names)
    for (title, _), column in zip(NUMBERS, widths, strict=True):
        table.add_column(title, justify="right", no_wrap=True, width=column)
    if reasons >= REASON_SHOWN:
        table.add_column("last failure", overflow="ellipsis", no_wrap=True, max_width=reasons)
    for (name, worker), numbers in zip(shown, cells, strict=True):
        words = [name, *numbers, _short(worker.failure)]
        table.add_row(*map(Text, words[: len(table.columns)]))
    if hidden := len(tally.workers) - len(shown):
        table.caption = f"and {hidden:,} faster ones without a failure"
        if shown[-1][1].failed:
            table.caption = f"and {hidden:,} more"
        table.caption_justify = "left"
    return table


def _short(reason: str) -> str:
    return reason if len(reason) <= REASON else f"{reason[:REASON]} ..."
