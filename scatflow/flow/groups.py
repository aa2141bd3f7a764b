"""Which blocks a task computes: one, or several where blocks are small."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

TASK_SECONDS = 0.25
"""Blocks are put together until a task lasts as long: client and scheduler spend 3 ms on a task."""

MOST = 64
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
    """

    def __init__(self, pending: NDArray[Any]) -> None:
        self._pending, self._at = pending, 0
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
        return max(1, min(MOST, int(TASK_SECONDS / max(self._seconds, 1e-6))))
