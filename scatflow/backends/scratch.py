"""Work buffers that are reused, a set a thread."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

KEPT_BYTES = 2**25
"""Largest buffer that stays with its thread."""


class Scratch(threading.local):
    """One buffer a thread and use, kept between calls."""

    def __init__(self) -> None:
        self._buffers: dict[str, Array] = {}

    def clear(self) -> None:
        """Forget this thread's buffers."""
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
            room = np.empty(size + 64, np.uint8)
            buffer = room[-room.ctypes.data % 64 :]
            if size <= KEPT_BYTES:
                self._buffers[use] = buffer
        return buffer[:size].view(dtype).reshape(shape)


SCRATCH = Scratch()
