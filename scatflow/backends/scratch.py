"""Work buffers that are reused, a set a thread."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

KEPT_BYTES = 2**26
"""What may stay with a thread; buffers of more than half of it do not, oldest ones make room."""


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an array of undefined contents that begins on a cache line."""
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + 64, np.uint8)
    first = -room.ctypes.data % 64
    return room[first : first + size].view(dtype).reshape(shape)


class Scratch(threading.local):
    """One buffer a thread and use, kept between calls."""

    def __init__(self) -> None:
        self._buffers: dict[str, Array] = {}

    def clear(self, beyond: int = 0) -> None:
        """Forget this thread's buffers if they hold more than some bytes."""
        if sum(buffer.size for buffer in self._buffers.values()) > beyond:
            self._buffers.clear()

    def take(self, use: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array of undefined contents that the next call for `use` overwrites.

        It begins on a cache line, so that alignment never decides how something rounds.
        """
        size = math.prod(shape) * dtype.itemsize
        buffer = self._buffers.get(use)
        if buffer is None or buffer.size < size:
            del buffer
            self._buffers.pop(use, None)
            buffer = aligned((size,), np.dtype(np.uint8))
            if size <= KEPT_BYTES // 2:
                while sum(other.size for other in self._buffers.values()) > KEPT_BYTES - size:
                    del self._buffers[next(iter(self._buffers))]
                self._buffers[use] = buffer
        return buffer[:size].view(dtype).reshape(shape)


SCRATCH = Scratch()
