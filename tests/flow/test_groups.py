"""Blocks are handed out once each, in tasks that last long enough."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scatflow.flow import window as window_module
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
