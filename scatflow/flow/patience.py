"""Waiting for a store, but not for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

PATIENCE_SECONDS, SLOWEST = 180.0, 50_000
"""Seconds, and bytes per second, that a store may take for a block's samples or coefficients."""

Done = TypeVar("Done")


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
    ended: Future[Done] = Future()

    def run() -> None:
        try:
            ended.set_result(call())
        except BaseException as problem:
            ended.set_exception(problem)

    seconds = PATIENCE_SECONDS + size / SLOWEST
    threading.Thread(target=run, name=f"scatflow {doing}", daemon=True).start()
    wait([ended], seconds)
    if not ended.done():
        raise TimeoutError(f"{doing} {size} bytes has not ended after {seconds:.0f} s")
    return ended.result()
