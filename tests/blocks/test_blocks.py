"""Blocks are pure integers: they partition the work, and slabs cover what is needed."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from scatflow.blocks import (
    Cuts,
    bounds,
    divisor,
    even_part,
    halved,
    left_over,
    mirror,
    n_frames,
    pieces,
    share,
)

shapes = st.lists(st.integers(1, 12), min_size=0, max_size=4).map(tuple)


@given(shapes, st.integers(1, 60))
def test_blocks_partition_the_work_grid(shape, most):
    cuts = Cuts(shape, share(shape, most))
    counted = np.zeros(shape, int)
    for index in range(cuts.n_blocks):
        counted[tuple(slice(a, b) for a, b in cuts.cells(index))] += 1
    assert (counted == 1).all()


@given(shapes, st.integers(1, 60))
def test_a_block_holds_at_most_what_was_asked_for(shape, most):
    assert math.prod(share(shape, most)) <= most


@given(shapes, st.integers(1, 60), st.integers(0, 3), st.integers(0, 10))
def test_an_axis_that_grows_within_its_power_of_two_keeps_its_blocks(shape, most, axis, more):
    assume(axis < len(shape))
    longer = min(shape[axis] + more, 2 ** (shape[axis] - 1).bit_length())
    assert share((*shape[:axis], longer, *shape[axis + 1 :]), most) == share(shape, most)


@given(shapes, st.integers(1, 60), st.integers(1, 10**6))
def test_an_axis_that_is_cut_keeps_its_blocks_for_ever(shape, most, more):
    per_block = share(shape, most)
    assume(shape and per_block[-1] < shape[-1])
    assert share((*shape[:-1], shape[-1] + more), most) == per_block


@given(shapes, st.integers(1, 60))
def test_blocks_are_halved_until_one_cell_is_left(shape, most):
    per_block = share(shape, most)
    for _ in range(math.prod(per_block).bit_length() - 1):
        smaller = halved(per_block)
        assert 2 * math.prod(smaller) == math.prod(per_block)
        per_block = smaller
    assert halved(per_block) is None


@given(shapes, st.integers(1, 60))
def test_index_and_position_are_inverse(shape, most):
    cuts = Cuts(shape, share(shape, most))
    positions = [cuts.position(i) for i in range(cuts.n_blocks)]
    assert positions == list(itertools.product(*(range(c) for c in cuts.counts)))
    assert [cuts.index(p) for p in positions] == list(range(cuts.n_blocks))


def test_a_block_beyond_the_last_is_refused():
    with pytest.raises(IndexError, match="There is no block 6: there are 6"):
        Cuts((2, 3), (1, 1)).position(6)


def test_a_million_blocks_cost_nothing_to_plan():
    cuts = Cuts((1000, 10**6), (1, 1000))
    assert cuts.n_blocks == 10**6
    assert cuts.cells(999_999) == ((999, 1000), (999_000, 1_000_000))


@given(st.integers(1, 40), st.integers(1, 200))
def test_reflection_is_that_of_numpy(n, reach):
    record = np.arange(n)
    expected = np.pad(record, reach, mode="reflect" if n > 1 else "edge")
    assert [mirror(i, n) for i in range(-reach, n + reach)] == expected.tolist()


@given(st.integers(1, 30), st.integers(-100, 100), st.integers(1, 150))
def test_pieces_make_up_the_reflected_slab(n, start, length):
    stop = start + length
    low, high = bounds(start, stop, n)
    record = np.arange(n)[low:high]
    slab = np.full(length, -1)
    for piece in pieces(start, stop, n):
        a, b = piece.span
        run = record[a - low : b - low]
        slab[piece.at : piece.at + piece.count] = run[::-1] if piece.step < 0 else run
    assert slab.tolist() == [mirror(i, n) for i in range(start, stop)]


def test_a_slab_inside_the_record_is_one_piece():
    (piece,) = pieces(100, 200, 1000)
    assert (piece.first, piece.count, piece.step) == (100, 100, 1)


@given(st.integers(1, 500), st.integers(1, 60), st.integers(1, 90))
def test_frames_fit_and_no_further_one_would(n, frame, hop):
    count = n_frames(n, frame, hop)
    assert count == sum(1 for k in range(n) if k * hop + frame <= n)
    used = (count - 1) * hop + frame if count else 0
    assert left_over(n, frame, hop) == n - used


@given(st.integers(1, 5000), st.integers(1, 300))
def test_divisor_is_the_nearest(n, near):
    found = divisor(n, near)
    assert n % found == 0
    ratios = [max(d / near, near / d) for d in range(1, n + 1) if n % d == 0]
    assert max(found / near, near / found) == min(ratios)


@given(st.integers(1, 10**6), st.integers(1, 5000))
def test_even_parts_are_no_longer_than_asked_for_and_no_shorter_than_half(n, most):
    whole, part = even_part(n, most)
    assert whole % part == 0
    assert n <= whole < n + whole // part
    assert min(n, most) / 2 <= part <= most
