"""Calls to a store that do not end: what they may still do, and how many there may be."""

import threading
import time

import numpy as np
import pytest
import zarr

from scatflow.dataset import DEADLINE, erase_region, open_arrays, write_region
from scatflow.flow import patience
from scatflow.flow.patience import Room, within

REGION = (slice(0, 4),)


@pytest.fixture
def soon(monkeypatch):
    """Give calls up after a moment, and count those that are left behind anew."""
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(patience, "GRACE_SECONDS", 0.05)
    monkeypatch.setattr(patience, "ROOM", Room())
    return patience


@pytest.fixture(params=["folder", "memory"])
def array(request, tmp_path):
    store = str(tmp_path / "a.zarr") if request.param == "folder" else "memory://late/a.zarr"
    group = zarr.open_group(store, mode="w", zarr_format=3)
    made = group.create_array("it", shape=(4,), dtype="f4", fill_value=0)
    made[...] = 1
    return open_arrays(store, ["it"])["it"]


@pytest.mark.parametrize("late", ["write", "erase"])
def test_a_call_that_was_given_up_changes_nothing_when_it_goes_on(soon, array, late):
    go_on, ended, problems = threading.Event(), threading.Event(), []

    def call():
        go_on.wait(10)
        try:
            if late == "write":
                write_region(array, REGION, np.full(4, 2, np.float32))
            else:
                erase_region(array, REGION)
        except TimeoutError as problem:
            problems.append(problem)
        ended.set()

    with pytest.raises(TimeoutError, match="has not ended"):
        within(0, "writing", call)
    go_on.set()
    assert ended.wait(10)
    assert "given up" in str(problems[0])
    np.testing.assert_array_equal(array[...], 1)


def test_a_file_that_took_too_long_to_write_does_not_appear(array, tmp_path):
    """Nor does what was written of it stay."""
    before = {p for p in tmp_path.rglob("*") if p.is_file()}
    token = DEADLINE.set(time.monotonic() - 1)
    try:
        with pytest.raises(TimeoutError, match="given up"):
            write_region(array, REGION, np.full(4, 2, np.float32))
    finally:
        DEADLINE.reset(token)
    np.testing.assert_array_equal(array[...], 1)
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == before


def test_calls_that_hang_keep_the_room_of_their_blocks(soon):
    """Two blocks may be held: after two hung reads no third begins, until one has ended."""
    let_go = threading.Event()
    for _ in range(2):
        with soon.ROOM.block(2), pytest.raises(TimeoutError):
            within(0, "reading", lambda: let_go.wait(10))
    with pytest.raises(TimeoutError, match="computes nothing more"), soon.ROOM.block(2):
        pass
    let_go.set()
    until = time.monotonic() + 10
    while soon.ROOM.left and time.monotonic() < until:
        time.sleep(0.01)
    with soon.ROOM.block(2):
        assert (soon.ROOM.blocks, soon.ROOM.left) == (1, 0)
