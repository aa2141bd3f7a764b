"""The tasks of a run that are in flight: a window over its blocks, kept full."""

from __future__ import annotations

import contextlib
import queue
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from distributed import CancelledError, Future, KilledWorker
from numpy.typing import NDArray

from scatflow.errors import ClusterError, OutputError
from scatflow.flow.block import Key, Receipt, process_all
from scatflow.flow.cluster import Cluster
from scatflow.flow.groups import Groups
from scatflow.flow.receipts import Received

QUEUED_PER_SLOT = 2
"""Tasks behind those that workers hold, so that none ever waits for the client."""

TICK_SECONDS = 0.25

TOGETHER = 256
"""Tasks whose receipts are looked at before workers get new ones. Receipts that did not come by
themselves are fetched at once: a round trip for each would bound the rate of them all."""

ATTEMPTS = 2
"""How often a block is computed that says why it failed."""

DEATHS = 3
"""Workers that may die of a block, the last of them while it computes nothing else."""

GONE = (
    "The scheduler went away and took its tasks along. What was finished is kept: start a "
    "scheduler and give the same command."
)

Task: TypeAlias = "Future[list[Receipt]]"


class Window:
    """Blocks on their way through the workers.

    A worker that dies takes all its tasks along, and which of their blocks it died of is not known:
    each of them is computed again, and one that has been there a second time is computed while
    nothing else is. So a block that ends its worker fails, and its neighbours do not.

    Parameters
    ----------
    cluster : Cluster
        Where tasks are computed.
    key : Key
        Of the run.
    pending : array of int
        Blocks to be computed, in order.
    resources : mapping, optional
        Of Dask's, that workers need to have.
    """

    def __init__(
        self,
        cluster: Cluster,
        key: Key,
        pending: NDArray[Any],
        resources: Mapping[str, float] | None = None,
    ) -> None:
        self._client, self._key = cluster.client, key
        self._words: Any = {"pure": False, "resources": resources or None}
        self._received = Received(cluster.client, key.token)
        self._most = cluster.held + QUEUED_PER_SLOT * cluster.slots
        self._groups = Groups(pending, self._most)
        self._flying: dict[Task, list[int]] = {}
        self._ended: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._attempts: Counter[int] = Counter()
        self._deaths: Counter[int] = Counter()
        self._suspects: deque[int] = deque()
        self._alone: Task | None = None

    def fill(self) -> bool:
        """Submit tasks until the window is full, and tell whether anything is in flight."""
        if self._alone in self._flying:
            return True
        if self._suspects:
            if not self._flying:
                self._alone = self._submit([self._suspects.popleft()])
            return True
        while len(self._flying) < self._most and (blocks := self._groups.take()):
            self._submit(blocks)
        return bool(self._flying)

    def _submit(self, blocks: list[int]) -> Task:
        future = self._client.submit(process_all, self._key, blocks, **self._words)
        self._flying[future] = blocks
        future.add_done_callback(self._ended.put)
        return future

    def ended(self) -> Iterator[Receipt]:
        """Yield the receipts of blocks that have ended, after a short wait for the first.

        Raises
        ------
        ClusterError
            The scheduler has gone.
        OutputError
            The output is another run's.
        """
        ended = [(future, future.status) for future in self._futures()]
        fetched = self._together([future for future, status in ended if status == "finished"])
        for future, _ in ended:
            # Read again: by now, a worker may have died with a receipt that was not fetched.
            if future not in fetched and future.status in ("lost", "pending"):
                future.add_done_callback(self._ended.put)  # It is computed again.
                continue
            blocks = self._flying.pop(future)
            receipts = list(self._receipts(future, blocks, fetched.get(future)))
            future.release()  # Held, they would be computed again when their worker dies.
            yield from receipts

    def _futures(self) -> Iterator[Task]:
        with contextlib.suppress(queue.Empty):
            yield self._ended.get(timeout=TICK_SECONDS)
            for _ in range(TOGETHER - 1):
                yield self._ended.get_nowait()

    def _together(self, finished: list[Task]) -> dict[Task, list[Receipt]]:
        """Return the receipts of some tasks: those that came and, unless one is lost, the rest.

        What is missing is fetched for each task by itself, which then tells why it is not there.
        """
        received = ((future, self._received.take(future.key)) for future in finished)
        found = {future: receipts for future, receipts in received if receipts is not None}
        rest = [future for future in finished if future not in found]
        if rest:
            with contextlib.suppress(OSError, CancelledError, KilledWorker):
                found.update(zip(rest, self._client.gather(rest), strict=True))
        return found

    def _receipts(
        self, future: Task, blocks: list[int], fetched: list[Receipt] | None
    ) -> Iterator[Receipt]:
        """Yield what is final of a task that has ended; the rest is to be computed again."""
        problem: BaseException | None
        if fetched is not None or future.status == "finished":
            receipts, problem = self._fetched(future) if fetched is None else (fetched, None)
            left = blocks[len(receipts) :]
            if problem is not None:
                for block in left:
                    yield from self._lost(block, problem)
            elif left:  # A task ends after a while.
                self._groups.again(left)
            for receipt in receipts:
                self._groups.learn(receipt.seconds)
                self._attempts[receipt.block] += 1
                if receipt.retry and self._attempts[receipt.block] < ATTEMPTS:
                    self._groups.again([receipt.block])
                    continue
                self._forget(receipt.block)
                yield receipt
            return
        if future.status != "error":
            raise ClusterError(GONE)
        problem = future.exception()
        if isinstance(problem, OutputError):
            raise problem
        for block in blocks:
            yield from self._lost(block, problem)

    def _fetched(self, future: Task) -> tuple[list[Receipt], BaseException | None]:
        """Return a task's receipts, or why they are lost: with the worker that held them."""
        try:
            return future.result(), None
        except (OSError, CancelledError) as problem:
            raise ClusterError(GONE) from problem
        except KilledWorker as problem:
            return [], problem

    def _lost(self, block: int, problem: BaseException | None) -> Iterator[Receipt]:
        """Have a block computed again whose task has no receipt, or yield why not."""
        self._deaths[block] += 1
        if self._deaths[block] < DEATHS - 1:
            self._groups.again([block])
        elif self._deaths[block] < DEATHS:
            self._suspects.append(block)
        else:
            self._forget(block)
            reason = f"{type(problem).__name__}: {problem}"
            if type(problem).__name__ == "KilledWorker":
                reason = (
                    f"{DEATHS} workers that computed it died, the last one while it computed "
                    "nothing else, as when memory runs out"
                )
            yield Receipt(block, failure=reason)

    def _forget(self, block: int) -> None:
        del self._attempts[block], self._deaths[block]

    def cancel(self) -> None:
        """Give up what is in flight."""
        self._client.cancel(list(self._flying))

    def __bool__(self) -> bool:
        return bool(self._flying)
