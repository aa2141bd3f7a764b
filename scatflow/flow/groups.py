"""Which blocks a task computes: one, or several where blocks are small."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

TASK_SECONDS = 1.0
"""Blocks are put together until a task lasts as long: client, scheduler and worker spend 5 to 10 ms
of processor time on a task."""

MOST = 256
"""Blocks in one task: what is to be computed again, at most, when a worker dies."""

FADING = 0.9
"""Share of the old mean that each new block leaves: the last ten or so decide."""


class Groups:
    """The blocks that are still to be computed, handed out in groups.

    How long a block takes is learnt from those that have ended; until then each has its own task.

    Parameters
    ----------
    pending : array of int
        The blocks, in order.
    at_once : int
        Tasks in flight: towards the end there is something for each of them.
    """

    def __init__(self, pending: NDArray[Any], at_once: int = 1) -> None:
        self._pending, self._at, self._at_once = pending, 0, at_once
        self._alone: deque[int] = deque()
        self._seconds: float | None = None

    def take(self) -> list[int]:
        """Return the blocks of the next task; none where all have been handed out."""
        if self._alone:
            return [self._alone.popleft()]
        start, self._at = self._at, self._at + self._size()
        return [int(block) for block in self._pending[start : self._at]]

    def again(self, blocks: Iterable[int]) -> None:
        """Hand out blocks once more, before all others and each alone: one of them may be bad."""
        self._alone.extend(blocks)

    def learn(self, seconds: float) -> None:
        """Note how long a block took."""
        old = seconds if self._seconds is None else self._seconds
        self._seconds = FADING * old + (1 - FADING) * seconds

    def _size(self) -> int:
        if self._seconds is None:
            return 1
        share = (self._pending.size - self._at) // self._at_once
        return max(1, min(MOST, share, int(TASK_SECONDS / max(self._seconds, 1e-6))))
