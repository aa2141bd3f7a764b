"""The layout of a transform: blocks cover the output, slabs hold what they need."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scatflow.engines import HarmonicScattering3D, Scattering1D, Scattering2D
from scatflow.errors import JobError
from scatflow.flow import layout as module
from scatflow.flow.layout import Transform, dropped, layout

F4 = np.dtype(np.float32)


def written_once(laid):
    counted = np.zeros([n for i, n in enumerate(laid.shape) if i != laid.path_axis], np.int8)
    for index in range(laid.cuts.n_blocks):
        region = laid.region(index)
        assert region[laid.path_axis] == slice(0, laid.shape[laid.path_axis])
        counted[tuple(r for i, r in enumerate(region) if i != laid.path_axis)] += 1
        for r, shard in zip(region, laid.shards, strict=True):
            assert r.start % shard == 0
            assert r.stop - r.start <= shard
        key = tuple(r.start // shard for r, shard in zip(region, laid.shards, strict=True))
        assert laid.block_of(key) == index
        for axis, count in enumerate(-(-n // m) for n, m in zip(laid.shape, laid.shards, strict=1)):
            assert laid.block_of((*key[:axis], count, *key[axis + 1 :])) is None
        assert laid.block_of(key[1:]) is None
    return bool((counted == 1).all())


@settings(max_examples=40)
@given(st.integers(1, 5), st.integers(16, 3_000_000), st.integers(17, 22))
def test_seamless_blocks_write_every_window_once(stations, n, target):
    transform = Transform(("time",), "seamless", (0,), (0,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TARGET_SAMPLES", 2**target)
        laid = layout(Scattering1D(J=4), transform, ("s", "time"), (stations, n), F4)
    assert laid.shape[-1] == -(-n // 16)
    assert written_once(laid)
    assert sum(laid.samples(i) for i in range(laid.cuts.n_blocks)) == stations * n
    for index in range(laid.cuts.n_blocks):
        a, b = laid.slab(index)[-1]
        windows = laid.region(index)[-1]
        assert 0 <= a <= windows.start * 16
        assert min((windows.stop - 1) * 16, n - 1) < b <= n


@settings(max_examples=40)
@given(st.integers(1, 3), st.integers(64, 5000), st.integers(64, 300), st.integers(1, 400))
def test_frames_are_written_once_and_read_inside_the_source(stations, n, frame, hop):
    transform = Transform(("time",), "frames", (min(frame, n),), (hop,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TARGET_SAMPLES", 1000)
        laid = layout(Scattering1D(J=3), transform, ("time", "s"), (n, stations), F4)
    assert laid.dims == ("s", "frame", "path", "time")
    assert written_once(laid)
    for index in range(laid.cuts.n_blocks):
        (_, (a, b)) = laid.slab(index)
        first, last = laid.region(index)[1].start, laid.region(index)[1].stop
        assert (a, b) == (first * hop, (last - 1) * hop + min(frame, n))
        assert b <= n


def test_an_incomplete_last_frame_is_dropped_and_counted():
    transform = Transform(("time",), "frames", (100,), (80,))
    laid = layout(Scattering1D(J=3), transform, ("time",), (300,), F4)
    assert laid.units == (3,)
    assert dropped(laid) == {"time": 40}


def test_two_cut_dimensions_get_names_of_their_own():
    transform = Transform(("y", "x"), "frames", (32, 48), (32, 24))
    laid = layout(Scattering2D(J=2, L=4), transform, ("band", "y", "x"), (3, 100, 100), F4)
    assert laid.dims == ("band", "frame_y", "frame_x", "path", "y", "x")
    assert laid.shape[:3] == (3, 3, 3)
    assert written_once(laid)


def test_volumes_end_in_powers():
    transform = Transform(("z", "y", "x"), "whole", (0, 0, 0), (0, 0, 0))
    engine = HarmonicScattering3D(J=1, L=1)
    laid = layout(engine, transform, ("z", "sample", "y", "x"), (8, 5, 8, 8), F4)
    assert laid.dims == ("sample", "path", "power")
    assert laid.order == (1, 0, 2, 3)
    assert written_once(laid)


@pytest.mark.parametrize(
    ("engine", "transform", "dims", "shape", "words"),
    [
        (
            Scattering1D(J=4),
            Transform(("t",), "whole", (0,), (0,)),
            ("s", "time"),
            (2, 64),
            "dims names 't', but the source has the dimensions",
        ),
        (
            Scattering1D(J=8),
            Transform(("time",), "whole", (0,), (0,)),
            ("s", "time"),
            (2, 64),
            "Take J <= 6",
        ),
        (
            Scattering1D(J=8),
            Transform(("time",), "seamless", (0,), (0,)),
            ("s", "time"),
            (2, 64),
            "Take J <= 6",
        ),
        (
            Scattering1D(J=4, T=100),
            Transform(("time",), "seamless", (0,), (0,)),
            ("s", "time"),
            (2, 64),
            "Take T <= 64",
        ),
        (
            Scattering1D(J=4),
            Transform(("time",), "whole", (0,), (0,)),
            ("order", "time"),
            (2, 64),
            "a dimension 'order', a name that the output needs",
        ),
        (
            Scattering1D(J=4),
            Transform(("time",), "frames", (99,), (9,)),
            ("s", "time"),
            (2, 64),
            "not one whole frame",
        ),
        (
            Scattering1D(J=4, T=0, out_type="list"),
            Transform(("time",), "whole", (0,), (0,)),
            ("time",),
            (64,),
            "T = 0 gives each path its own sampling",
        ),
        (
            Scattering1D(J=4, T="global"),
            Transform(("time",), "seamless", (0,), (0,)),
            ("time",),
            (64,),
            "no windows along a record",
        ),
        (
            Scattering1D(J=4),
            Transform(("time",), "whole", (0,), (0,)),
            ("path", "time"),
            (2, 64),
            "a name that the output needs",
        ),
    ],
)
def test_what_does_not_fit_is_refused(engine, transform, dims, shape, words):
    with pytest.raises(JobError, match=words):
        layout(engine, transform, dims, shape, F4)


def test_blocks_of_a_long_archive_are_a_second_of_work_each():
    transform = Transform(("time",), "seamless", (0,), (0,))
    laid = layout(Scattering1D(J=10, Q=8), transform, ("s", "time"), (2, 8_640_000), F4)
    assert 2**20 <= laid.shards[-1] * 1024 <= 2**21
    assert np.prod(laid.shards) * 4 <= 64 * 2**20
