"""Waiting for a store, but not for ever, and what becomes of calls that nobody waits for."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, TypeVar

from scatflow.dataset import DEADLINE

PATIENCE_SECONDS, SLOWEST = 180.0, 50_000
"""Seconds, and bytes per second, that a store may take for a block's samples or coefficients."""

GRACE_SECONDS = 0.5
"""How long after its deadline a call may take to say that it has been given up."""

Done = TypeVar("Done")


class Helper:
    """A thread that makes calls to a store, one after the other."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        HELPERS.append(self)
        threading.Thread(target=self._run, name="scatflow store", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._one(*self._calls.get())

    def _one(self, call: Callable[[], Any], ended: Future[Any]) -> None:
        found, problem = None, None
        try:
            found = call()
        except BaseException as caught:
            problem = caught
        IDLE.append(self)  # Before its caller goes on, who would start another one.
        if problem is None:
            ended.set_result(found)
        else:
            ended.set_exception(problem)

    def start(self, call: Callable[[], Done]) -> Future[Done]:
        """Have a call made, and return what will tell of its end."""
        ended: Future[Done] = Future()
        self._calls.put((call, ended))
        return ended


HELPERS: list[Helper] = []
"""All of this process; they never end."""

IDLE: deque[Helper] = deque()
"""Helpers without a call: to start a thread for each costs a tenth of a millisecond."""

if hasattr(os, "register_at_fork"):  # Threads do not come along.
    os.register_at_fork(after_in_child=HELPERS.clear)
    os.register_at_fork(after_in_child=IDLE.clear)


def under_way() -> int:
    """Return how many calls have not ended, whether somebody still waits for them or not."""
    return len(HELPERS) - len(IDLE)


STOP: list[Future[Any]] = [Future()]
"""Ends what waits for a read."""


def stop_reading() -> None:
    """Give up all reads of this process that have not ended, since nobody needs them any more."""
    (before,), STOP[:] = STOP, [Future()]
    before.set_result(None)


def within(size: int, doing: str, call: Callable[[], Done]) -> Done:
    """Return what a call to a store returns, but do not wait for it without end.

    A file system or a server that no longer answers would keep a worker for ever. The thread that
    waits for it is left behind: it keeps its block's room (see :class:`Room`), and as its deadline
    has passed, no write of it begins any more.

    Parameters
    ----------
    size : int
        Bytes that are moved.
    doing : str
        What the call does.
    call : callable
        Reads or writes.

    Raises
    ------
    TimeoutError
        It takes longer than the slowest store that is worth waiting for.
    """
    seconds = PATIENCE_SECONDS + size / SLOWEST

    def timed() -> Done:
        DEADLINE.set(time.monotonic() + seconds)
        try:
            return call()
        finally:
            DEADLINE.set(math.inf)  # The thread makes other calls.

    try:
        helper = IDLE.pop()
    except IndexError:
        helper = Helper()
    ended, begun = helper.start(timed), time.monotonic()
    stop: list[Future[Any]] = (
        [STOP[0]] if doing == "reading" else []
    )  # What is being written may be all there.
    wait({ended, *stop}, seconds + GRACE_SECONDS, return_when=FIRST_COMPLETED)
    if not ended.done():
        ROOM.leave(ended)
        took = time.monotonic() - begun
        raise TimeoutError(f"{doing} {size} bytes has not ended after {took:.0f} s")
    return ended.result()


class Room:
    """Room for the blocks of one process: a call that was left behind keeps that of its block.

    So what a plan says of a worker's memory holds: its blocks and the slabs of such calls are no
    more together than the blocks that it was to hold.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.blocks, self.left = 0, 0

    @contextlib.contextmanager
    def block(self, most: int) -> Iterator[None]:
        """Hold the room of one block, of `most` that there are, as soon as there is some.

        Raises
        ------
        TimeoutError
            Calls that do not end have kept it for as long as one may take.
        """
        with self._changed:
            free = self._changed.wait_for(
                lambda: self.blocks + self.left < most, timeout=PATIENCE_SECONDS
            )
            if not free:
                raise TimeoutError(
                    f"{self.left} reads or writes of this worker have not ended, and their memory "
                    f"is that of the {most} block(s) it may hold: it computes nothing more until "
                    "one of them does. Restore the store, or start the worker again."
                )
            self.blocks += 1
        try:
            yield
        finally:
            with self._changed:
                self.blocks -= 1
                self._changed.notify_all()

    def leave(self, call: Future[Done]) -> None:
        """Count a call until it ends."""
        with self._changed:
            self.left += 1
        call.add_done_callback(self._ended)

    def _ended(self, _: Future[Done]) -> None:
        with self._changed:
            self.left -= 1
            self._changed.notify_all()


ROOM = Room()
"""Of this process."""
