"""Stores in which nothing is written any more once that has been given up."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from contextvars import ContextVar
from pathlib import Path

from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore, WrapperStore

DEADLINE: ContextVar[float] = ContextVar("DEADLINE", default=math.inf)
"""When the writes of a thread have been given up, on the clock of ``time.monotonic``.

Zarr's loop, and the threads that it writes in, inherit it from the thread that writes an array.
"""


def check_time(key: str) -> None:
    """Make sure that a write or deletion has not been given up.

    Raises
    ------
    TimeoutError
        It has been.
    """
    if time.monotonic() > DEADLINE.get():
        raise TimeoutError(f"Writing {key} was given up before it could begin.")


def timely(store: Store) -> Store:
    """Return a store in which nothing is written or deleted after the deadline."""
    return TimelyFolder(store.root) if isinstance(store, LocalStore) else TimelyStore(store)


class TimelyFolder(LocalStore):
    """A folder in which no object appears or goes after the deadline of who writes it."""

    async def set(self, key: str, value: Buffer) -> None:
        """Write an object under another name, and rename it if there is still time."""
        await asyncio.to_thread(_put, self.root / key, value)

    async def delete(self, key: str) -> None:
        """Delete an object, if there is still time."""
        check_time(key)
        await super().delete(key)


def _put(path: Path, value: Buffer) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")  # as Zarr names them
    try:
        with partial.open("wb") as file:
            file.write(value.as_buffer_like())
        check_time(str(path))
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


class TimelyStore(WrapperStore[Store]):
    """Any other store; requests that are under way are given up at the deadline."""

    async def set(self, key: str, value: Buffer) -> None:
        """Write an object, unless that has not ended at the deadline."""
        check_time(key)
        async with asyncio.timeout(_left()):
            await self._store.set(key, value)

    async def delete(self, key: str) -> None:
        """Delete an object, if there is still time."""
        check_time(key)
        async with asyncio.timeout(_left()):
            await self._store.delete(key)


def _left() -> float | None:
    left = DEADLINE.get() - time.monotonic()
    return None if left == math.inf else left
