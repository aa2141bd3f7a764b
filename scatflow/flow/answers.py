"""What all workers are asked at once, for a bounded time: one that hangs must not hold up a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from distributed import Client

ANSWER_SECONDS = 60.0
"""How long workers may take to answer: libraries are loaded first, perhaps from a slow disk."""

CALLS = 64
"""Calls at a time, each a connection to the scheduler; beyond so many workers, some share one."""

NAMED = 3
"""Workers that a line names; the others are counted."""


class Answers(NamedTuple):
    """What workers answered, and which of them did not."""

    told: Mapping[str, Any]
    """By worker; those for whom the question ended in an error are left out."""
    late: list[str]
    """Workers that have not answered in time, or shared a call with one that has not."""

    def silence(self) -> str | None:
        """Say who has not answered, if anybody has not."""
        if not self.late:
            return None
        more = f" and {len(self.late) - NAMED} more" if len(self.late) > NAMED else ""
        return (
            f"no answer within {ANSWER_SECONDS:g} s from {', '.join(self.late[:NAMED])}{more}: "
            "the run goes on without waiting for it"
        )


def ask(client: Client, function: Callable[..., Any], *words: Any) -> Answers:
    """Call a function in all workers, and wait for :data:`ANSWER_SECONDS` at most.

    Parameters
    ----------
    client : distributed.Client
        Of their scheduler.
    function : callable
        Is given the worker as `dask_worker` if it has such a parameter.
    *words
        Its arguments.
    """
    names = sorted(client.scheduler_info(n_workers=-1)["workers"])
    size = -(-len(names) // CALLS) or 1
    groups = [names[i : i + size] for i in range(0, len(names), size)]
    found: Answers = client.sync(_ask, client, function, words, groups)
    return found


async def _ask(
    client: Client, function: Callable[..., Any], words: Sequence[Any], groups: list[list[str]]
) -> Answers:
    calls = {
        asyncio.ensure_future(
            client._run(function, *words, workers=group, on_error="ignore")
        ): group
        for group in groups
    }
    if not calls:
        return Answers({}, [])
    ended, late = await asyncio.wait(calls, timeout=ANSWER_SECONDS)
    for call in late:
        call.cancel()
    told = {name: answer for call in ended for name, answer in call.result().items()}
    return Answers(told, sorted(name for call in late for name in calls[call]))
