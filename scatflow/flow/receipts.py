"""Receipts that reach the client with the news that their task has ended: nobody fetches them."""

from __future__ import annotations

import pickle
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from distributed import Client, Worker

if TYPE_CHECKING:
    from scatflow.flow.block import Receipt

TOPIC = "scatflow-receipts"
"""Of Dask's events. It is one for all runs: a scheduler keeps the last 1000 events of each topic
for ever. Clients leave those of other runs alone."""


def send(worker: Worker, token: str, receipts: list[Receipt]) -> None:
    """Send receipts along with the message that the current task of a worker has ended.

    To be called at the end of the task: both messages then go the same way, in this order.

    Parameters
    ----------
    worker : distributed.Worker
        Who computes the task.
    token : str
        Of the run.
    receipts : list of Receipt
        What the task returns, too.
    """
    worker.log_event(TOPIC, [token, worker.get_current_task(), pickle.dumps(receipts)])


class Received:
    """What workers have sent to one run.

    Parameters
    ----------
    client : distributed.Client
        Of the scheduler.
    token : str
        Of the run.
    """

    def __init__(self, client: Client, token: str) -> None:
        self._token = token
        self._some: dict[Hashable, bytes] = {}
        client.subscribe_topic(TOPIC, self._hear)

    def _hear(self, event: tuple[float, Any]) -> None:
        _, (token, task, receipts) = event
        if token == self._token:
            self._some[task] = receipts

    def take(self, task: Hashable) -> list[Receipt] | None:
        """Return the receipts of a task that has ended, None where they got lost."""
        found = self._some.pop(task, None)
        if found is None:
            return None
        receipts: list[Receipt] = pickle.loads(found)
        return receipts
