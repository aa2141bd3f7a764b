"""scatflow's page on Dask's dashboard: ``/scatflow``, on a scheduler wherever it is.

The page is added to the dashboard of a scheduler that runs already, with a link in Dask's own
navigation. It is drawn from what runs log as events (:mod:`board`), so that it asks nothing of
workers or clients.
"""

from __future__ import annotations

import functools
from typing import Any

from distributed import Scheduler, SchedulerPlugin

from scatflow.flow.sight.board import TOPIC, Board
from scatflow.flow.sight.metrics import RunsCollector

PAGE = "scatflow"


class Panel(SchedulerPlugin):
    """Remembers what runs tell a scheduler, and shows it on its dashboard and to Prometheus."""

    name = PAGE
    idempotent = True
    """A second run on the same scheduler is shown by the panel of the first."""

    async def start(self, scheduler: Scheduler) -> None:
        """Add the page to the scheduler's dashboard, if it has one."""
        self.board = Board()
        self._unregister = RunsCollector(self.board.runs.values).register()
        self.shown = _add_page(scheduler, self.board)

    def log_event(self, topic: str, msg: Any) -> None:
        """Take in what a run tells."""
        if topic == TOPIC:
            self.board.take(msg)

    async def close(self) -> None:
        """Tell Prometheus no more."""
        self._unregister()


def has_dashboard(dask_scheduler: Scheduler) -> bool:
    """Tell whether the panel that a scheduler has is to be seen."""
    return bool(getattr(dask_scheduler.plugins[PAGE], "shown", False))


def _add_page(scheduler: Scheduler, board: Board) -> bool:
    """Add the page beside Dask's own, and tell whether there is a dashboard at all."""
    routes = scheduler.http_application
    there = [app for app in routes.applications if hasattr(app, "app_paths")]
    if not there:  # Without Bokeh, or not wanted.
        return False
    # Where there is a dashboard, there is Bokeh.
    from distributed.dashboard.core import BokehApplication
    from distributed.dashboard.scheduler import template_variables
    from tornado.ioloop import IOLoop

    from scatflow.flow.sight.page import draw

    variables = template_variables(scheduler)
    page = BokehApplication(
        {f"/{PAGE}": functools.partial(draw, board)},
        scheduler,
        prefix=there[0].prefix,
        template_variables=variables,
    )
    routes.add_application(page)
    page.initialize(IOLoop.current())
    page.start()
    variables["pages"].append(PAGE)  # Dask's pages share this list: their bar has a link now.
    return True
