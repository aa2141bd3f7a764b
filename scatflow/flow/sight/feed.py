"""Tells the scheduler once a second how far a run is, for the panel on its dashboard."""

from __future__ import annotations

import contextlib
import time
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from distributed import Client

from scatflow.flow.sight.board import TOPIC, message
from scatflow.flow.sight.panel import PAGE, Panel, has_dashboard
from scatflow.flow.sight.tally import Tally
from scatflow.flow.sight.watch import Listener, Run

FEED_SECONDS = 1.0

ANSWER_SECONDS = 10.0
"""How long a scheduler may take to answer, and be left alone when it has not."""


def install(client: Client) -> str | None:
    """Bring the panel to a scheduler, and return why there is none if there is none.

    Parameters
    ----------
    client : distributed.Client
        Of the scheduler, which may be on another machine and lack what the panel needs.
    """

    async def bring() -> bool:
        registered: Any = client.register_plugin(Panel())  # Awaited, as called from the loop.
        await registered
        shown: Any = client.run_on_scheduler(has_dashboard)
        return bool(await shown)

    try:
        shown = client.sync(bring, callback_timeout=ANSWER_SECONDS)
        return None if shown else "it shows no dashboard"
    except Exception as problem:  # Whatever the scheduler's process says, the run needs it not.
        return f"{type(problem).__name__}: {problem}"


class Feed(Listener):
    """Logs an event with the scheduler once a second, whatever the number of blocks.

    Parameters
    ----------
    client : distributed.Client
        Of the scheduler.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._run: Run | None = None
        self._tally = Tally(0)
        self._began = self._next = 0.0

    def started(self, run: Run, tally: Tally) -> None:
        """Tell of a new run."""
        self._run, self._tally, self._began = run, tally, time.time()
        self._tell(self._run, "running")

    def tick(self) -> None:
        """Tell how far it is, if it is time to."""
        if self._run is not None and time.monotonic() >= self._next:
            self._tell(self._run, "running")

    def __enter__(self) -> Feed:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Tell how the run ended, while there is a scheduler to hear it."""
        state = "failed" if self._tally.failed else "complete"
        if kind is not None:
            state = "interrupted" if issubclass(kind, KeyboardInterrupt) else "error"
        if self._run is not None and self._client.status == "running":
            with contextlib.suppress(OSError):  # It may have gone this moment.
                self._tell(self._run, state, str(problem or ""))
        self._run = None

    def _tell(self, run: Run, state: str, words: str = "") -> None:
        """Tell the scheduler, for a while: a run needs to be computed, not to be looked at."""
        told = message(run, self._tally, self._began, state, words)
        scheduler: Any = self._client.scheduler
        pause = FEED_SECONDS
        try:
            self._client.sync(
                scheduler.log_event, topic=TOPIC, msg=told, callback_timeout=ANSWER_SECONDS
            )
        except TimeoutError:
            pause = ANSWER_SECONDS
        self._next = time.monotonic() + pause


def dashboard_lines(address: str, host: str, missing: str | None) -> list[str]:
    """Say where the dashboard is, where this run is on it, and how to get there from elsewhere.

    Parameters
    ----------
    address : str
        Of Dask's own first page.
    host : str
        The machine that the run is started on.
    missing : str, optional
        Why there is no panel.

    Examples
    --------
    >>> for line in dashboard_lines("http://127.0.0.1:8787/status", "node7", None):
    ...     print(line)
    Dashboard: http://127.0.0.1:8787/status (this run: http://127.0.0.1:8787/scatflow)
      from another machine: ssh -L 8787:127.0.0.1:8787 node7, then the same address on 127.0.0.1
    """
    url = urlsplit(address)
    panel = f" (this run: {address.removesuffix('/status')}/{PAGE})"
    if missing is not None:
        panel = f" (without this run's own page: {missing})"
    lines = [f"Dashboard: {address}{panel}"]
    if url.hostname and url.port:
        lines.append(
            f"  from another machine: ssh -L {url.port}:{url.hostname}:{url.port} {host}, then "
            "the same address on 127.0.0.1"
        )
    return lines
