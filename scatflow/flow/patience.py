"""Waiting for a store, but not for ever."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

PATIENCE_SECONDS, SLOWEST = 180.0, 50_000
"""Seconds, and bytes per second, that a store may take for a block's samples or coefficients."""

Done = TypeVar("Done")


class Helper:
    """A thread that makes calls to a store, one after the other."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
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


IDLE: deque[Helper] = deque()
"""Helpers without a call: to start a thread for each costs a tenth of a millisecond."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=IDLE.clear)  # Threads do not come along.


def within(size: int, doing: str, call: Callable[[], Done]) -> Done:
    """Return what a call to a store returns, but do not wait for it without end.

    A file system or a server that no longer answers would keep a worker for ever. The thread that
    waits for it is left alone: what it may write at last is what is to be written anyway.

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
    try:
        helper = IDLE.pop()
    except IndexError:
        helper = Helper()
    ended = helper.start(call)
    try:
        return ended.result(seconds)
    except TimeoutError:
        if ended.done():  # It is the call's own.
            raise
        why = f"{doing} {size} bytes has not ended after {seconds:.0f} s"
        raise TimeoutError(why) from None
