"""Runs that share an output, as the jobs of an array do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scatflow.errors import JobError, OutputBusyError, OutputError
from scatflow.flow.ledger import Ledger
from scatflow.flow.lock import locked, shared
from scatflow.flow.run import lay_out, run
from scatflow.flow.shares import Share, parse_share
from scatflow.flow.status import status


@pytest.fixture
def archive(place, small_blocks):
    place.archive(np.random.default_rng(0).standard_normal((3, 2**17), dtype="float32"))
    assert place.plan().n_blocks >= 3
    return place


def computed(place, index, of):
    return run(place.plan(), share=Share(index, of), say=lambda _: None)


@given(st.integers(0, 50), st.integers(1, 60))
def test_shares_hold_every_block_once(n, of):
    held = [b for i in range(of) for b in range(*Share(i, of).blocks(n))]
    assert held == list(range(n))


@pytest.mark.parametrize("text", ["3/3", "4/3", "-1/3", "a/b", "1", "1/0", ""])
def test_a_share_that_is_none_is_refused(text):
    with pytest.raises(JobError, match="--share: found"):
        parse_share(text)


def test_shares_in_any_order_and_a_run_that_takes_over_give_the_bytes_of_one_run(archive):
    archive.run(output="whole.zarr")
    assert lay_out(archive.plan(), 3)
    assert status(archive.job())["done"] == 0
    for index in (2, 0):
        assert computed(archive, index, 3) == 0
    n = archive.plan().n_blocks
    assert status(archive.job())["done"] == n - (2 * n // 3 - n // 3)
    assert computed(archive, 2, 3) == 0  # Again: nothing to do.
    code, said = archive.run()
    assert (code, "Resuming" in said) == (0, True)
    ours, theirs = archive.bytes("out.zarr"), archive.bytes("whole.zarr")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_what_all_shares_did_needs_no_further_computation(archive):
    assert lay_out(archive.plan(), 2)
    assert [computed(archive, index, 2) for index in range(2)] == [0, 0]
    assert status(archive.job())["state"] == "complete"
    _, said = archive.run()
    assert "nothing to do" in said
    assert Ledger.open("out.zarr").shares == 0


def test_a_run_of_everything_is_refused_while_a_share_is_at_work_and_the_other_way_round(archive):
    assert lay_out(archive.plan(), 2)
    output = archive.plan().output
    with shared(output, 0):
        with pytest.raises(OutputBusyError):
            archive.run()
        with pytest.raises(OutputBusyError):
            computed(archive, 0, 2)
        assert status(archive.job())["state"] == "running"
        assert computed(archive, 1, 2) == 0
    with locked(output), pytest.raises(OutputBusyError):
        computed(archive, 0, 2)
    assert computed(archive, 0, 2) == 0


def test_a_share_of_an_output_that_is_not_laid_out_for_it_is_refused(archive):
    with pytest.raises(OutputError, match="not laid out for 2 shares"):
        computed(archive, 0, 2)
    assert lay_out(archive.plan(), 3)
    with pytest.raises(OutputError, match="not laid out for 2 shares"):
        computed(archive, 0, 2)
