"""Blocks are handed out once each, in tasks that last long enough."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scatflow.flow import window as window_module
from scatflow.flow.block import Receipt
from scatflow.flow.groups import MOST, TASK_SECONDS, Groups


@given(
    n=st.integers(0, 300),
    seconds=st.lists(st.floats(1e-7, 100.0), max_size=20),
)
def test_every_block_is_handed_out_once_and_in_order(n, seconds):
    groups, seen, taught = Groups(np.arange(n) * 3), [], iter(seconds)
    while blocks := groups.take():
        assert len(blocks) <= MOST
        seen += blocks
        groups.learn(next(taught, 0.01))
    assert seen == [3 * k for k in range(n)]
    assert groups.take() == []


def test_tasks_last_about_as_long_as_they_should():
    for seconds, expected in ((1.0, 1), (TASK_SECONDS / 4.5, 4), (1e-4, MOST)):
        groups = Groups(np.arange(1000))
        assert len(groups.take()) == 1  # Nothing is known of the first.
        for _ in range(100):
            groups.learn(seconds)
        assert len(groups.take()) == expected


def test_a_block_that_comes_again_is_alone_and_first():
    groups = Groups(np.arange(1000))
    for _ in range(100):
        groups.learn(1e-4)
    bad = groups.take()
    groups.again(bad)
    assert [groups.take() for _ in bad] == [[block] for block in bad]
    assert groups.take()[0] == MOST


def test_blocks_of_a_lost_task_are_computed_alone(small_blocks, place, noise, monkeypatch):
    """A task of several blocks dies; those that are not to blame are computed all the same."""
    real, split, again = window_module.process_all, [], Groups.again

    def dies_of_one(key, blocks):
        if 5 in blocks:
            raise MemoryError("too much")
        return real(key, blocks)

    def watched(self, blocks):
        split.append(list(blocks))
        again(self, blocks)

    monkeypatch.setattr(window_module, "process_all", dies_of_one)
    monkeypatch.setattr(Groups, "_size", lambda _: 4)
    monkeypatch.setattr(Groups, "again", watched)
    place.archive(noise)
    code, said = place.run(workers=1)
    assert code == 1
    assert "1 of " in said
    assert "block 5: MemoryError: too much" in said
    assert [block for blocks in split[:4] for block in blocks] == [4, 5, 6, 7]


KEY = SimpleNamespace(token="of this run")


class Deaf:
    """A client that no event reaches: it has to fetch all receipts."""

    def subscribe_topic(self, topic, hear):
        pass


class Reported:
    """A task as a client shows it."""

    def __init__(self, blocks):
        self.key = f"task of {blocks}"
        self.blocks, self.status, self.problem = blocks, "pending", None

    def add_done_callback(self, call):
        self.call = call

    def result(self):
        return [Receipt(block) for block in self.blocks]

    def exception(self):
        return self.problem

    def release(self):
        pass

    def end(self, problem=None):
        self.status, self.problem = ("finished" if problem is None else "error"), problem
        self.call(self)


def test_a_block_that_was_lost_twice_is_computed_while_nothing_else_is():
    submitted = []

    class Client(Deaf):
        def submit(self, _call, _key, blocks, **_):
            submitted.append(Reported(blocks))
            return submitted[-1]

        def gather(self, futures):
            return [future.result() for future in futures]

    cluster = SimpleNamespace(client=Client(), held=3, slots=2)
    window = window_module.Window(cluster, KEY, np.arange(20))
    assert window.fill()
    for _ in range(2):
        (bad,) = (f for f in submitted if f.status == "pending" and f.blocks == [0])
        bad.end(RuntimeError("its worker died"))
        assert list(window.ended()) == []
        window.fill()
    before = len(submitted)
    for future in submitted:
        if future.status == "pending":
            future.end()
    assert len(list(window.ended())) == 6
    assert window.fill()
    assert [f.blocks for f in submitted[before:]] == [[0]]
    assert window.fill()
    assert len(submitted) == before + 1
    submitted[-1].end(RuntimeError("its worker died"))
    (receipt,) = window.ended()
    assert (receipt.block, receipt.retry) == (0, False)
    assert "its worker died" in receipt.failure
    assert window.fill()
    assert len(submitted) > before + 1


@pytest.mark.parametrize("status", ["lost", "pending"])
def test_a_receipt_that_dies_with_its_worker_is_waited_for(status):
    submitted = []

    class Client(Deaf):
        def submit(self, _call, _key, blocks, **_):
            submitted.append(Reported(blocks))
            return submitted[-1]

        def gather(self, futures):
            return [[Receipt(block) for block in future.blocks] for future in futures]

    cluster = SimpleNamespace(client=Client(), held=0, slots=1)
    window = window_module.Window(cluster, KEY, np.arange(1))
    assert window.fill()
    (future,) = submitted
    future.call(future)  # It had ended, but by now
    future.status = status
    assert list(window.ended()) == []
    assert window.fill()
    future.end()
    assert [receipt.block for receipt in window.ended()] == [0]


@pytest.mark.parametrize("there", [True, False])
def test_a_worker_that_dies_while_receipts_are_taken_does_not_end_the_run(there):
    submitted, dying = [], [] if there else ["lost"]

    class Client(Deaf):
        def submit(self, _call, _key, blocks, **_):
            submitted.append(Reported(blocks))
            return submitted[-1]

        def gather(self, futures):
            if dying:
                submitted[1].status = dying.pop()
                raise OSError("a receipt is gone")
            return [future.result() for future in futures]

    cluster = SimpleNamespace(client=Client(), held=1, slots=1)
    window = window_module.Window(cluster, KEY, np.arange(3))
    assert window.fill()
    for future in submitted:
        future.end()
    receipts = window.ended()
    assert next(receipts).block == 0
    submitted[1].status = "lost"
    assert [receipt.block for receipt in receipts] == ([1, 2] if there else [2])
    assert window.fill() is not there
    if not there:
        submitted[1].end()
        assert [receipt.block for receipt in window.ended()] == [1]


def test_receipts_are_fetched_together_and_not_all_before_workers_get_new_tasks():
    submitted, trips = [], []

    class Client(Deaf):
        def submit(self, _call, _key, blocks, **_):
            submitted.append(Reported(blocks))
            return submitted[-1]

        def gather(self, futures):
            trips.append(len(futures))
            return [[Receipt(block) for block in future.blocks] for future in futures]

    cluster = SimpleNamespace(client=Client(), held=1000, slots=1000)
    window = window_module.Window(cluster, KEY, np.arange(5000))
    assert window.fill()
    for future in submitted[:700]:
        future.end()
    for some in (256, 256, 188):
        assert len(list(window.ended())) == some
        assert window.fill()
    assert trips == [256, 256, 188]
    assert len(submitted) == 3700
