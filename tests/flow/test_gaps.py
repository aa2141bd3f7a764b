"""Gaps as data: in one unit against slow twins, and in whole jobs from store to store."""

import itertools
import os
import shutil

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from scatflow import scatter
from scatflow.cli.texts import plan_lines
from scatflow.engines import (
    HarmonicScattering3D,
    Scattering1D,
    Scattering2D,
    TimeFrequencyScattering,
)
from scatflow.errors import JobError, SourceError, SourceNotFoundError
from scatflow.flow import gaps, layout
from scatflow.flow.block import _apply
from scatflow.flow.cluster import ready
from scatflow.flow.layout import Transform
from scatflow.flow.plan import summary
from scatflow.pictures import show

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
WHOLE = 'kind = "scattering1d"\ndims = ["time"]\nJ = 3\nQ = 1\n'
FRAMES = WHOLE + 'boundary = "frames"\nframe = 1000\nhop = 700\n'
SEAMLESS = WHOLE + 'boundary = "seamless"\n'
JOINT = 'kind = "timefrequency"\ndims = ["time"]\nJ = 4\nJ_fr = 2\nQ = [4, 1]\n'
IMAGES = 'kind = "scattering2d"\ndims = ["y", "x"]\nJ = 1\nL = 4\npyramid = "fold"\n'
INTEGRALS = 'kind = "scattering3d"\ndims = ["z", "y", "x"]\nJ = 0\nL = 1\nsigma_0 = 2.0\n'

UNITS = {
    "signal": (Scattering1D(J=3, Q=1), (1500,), "reflect"),
    "period": (Scattering1D(J=3, Q=1), (1536,), "periodic"),
    "short signal": (Scattering1D(J=3, Q=1), (200,), "reflect"),
    "mean": (Scattering1D(J=3, Q=1, T="global"), (1500,), "reflect"),
    "scalogram": (TimeFrequencyScattering(J=4, J_fr=2, Q=(4, 1)), (2048,), "reflect"),
    "image": (Scattering2D(J=1, L=4, pyramid="fold"), (96, 120), "reflect"),
    "tile": (Scattering2D(J=1, L=4, pyramid="fold"), (96, 96), "periodic"),
}


def unit(name, dtype):
    """Return a plan, how far its windows see, and noise with an offset."""
    engine, shape, boundary = UNITS[name]
    plan = engine.plan(shape, dtype, boundary=boundary)
    x = np.random.default_rng(3).standard_normal(shape) + 5
    return plan, gaps.reach(engine, plan, dtype), x.astype(dtype)


def slow_fractions(plan, valid, seen, every):
    """Visit every sample that some windows see, one of so many along each axis."""
    if seen is None:
        share = valid.sum() / valid.size
        return np.full((1,) * valid.ndim, share)
    after = [p - n - b for p, n, b in zip(plan.padded, plan.shape, plan.before, strict=True)]
    around = np.pad(valid, list(zip(plan.before, after, strict=True)), mode="reflect")
    number = plan.labelled_shape[-len(plan.windows) :]
    number = [len(range(0, n, every)) for n in number]
    found = np.empty(number)
    for window in itertools.product(*map(range, number)):
        axes = []
        for k, n, b, (start, step) in zip(
            window, plan.padded, plan.before, plan.windows, strict=True
        ):
            centre = b + start + k * every * step
            axes.append(sorted({i % n for i in range(centre - seen, centre + seen + 1)}))
        found[window] = around[np.ix_(*axes)].mean()
    return found


@st.composite
def boxes(draw, shape):
    """Return a gap: a box of any place and size, often small, sometimes at an end."""
    box = []
    for n in shape:
        a = draw(st.one_of(st.just(0), st.integers(0, n - 1)))
        most = draw(st.sampled_from([1, 3, n // 10, n]))
        box.append(slice(a, draw(st.integers(a + 1, min(n, a + most) or a + 1))))
    return tuple(box)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("scalogram", "float32"), *itertools.product(sorted(UNITS.keys() - {"scalogram"}), TOLERANCE)],
)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_windows_that_see_no_gap_are_those_of_the_whole_unit(name, dtype, data):
    plan, seen, x = unit(name, dtype)
    whole = plan.apply(x).reshape(plan.labelled_shape)
    holed = x.copy()
    for box in data.draw(st.lists(boxes(x.shape), min_size=1, max_size=3)):
        holed[box] = np.nan
    valid = ~np.isnan(holed)
    found = gaps.transform(plan, holed, seen, "nan", _apply)
    every = 7 if x.ndim > 1 else 1
    expected = slow_fractions(plan, valid, seen, every)
    some = found.fraction[(slice(None, None, every),) * x.ndim]
    np.testing.assert_allclose(some, expected, rtol=1e-6 if dtype == "float32" else 1e-14)
    # A share is one where nothing is missing, and nowhere else.
    assert ((some == 1) == (expected == 1)).all()
    nan = np.broadcast_to(found.fraction < 1, whole.shape)
    assert (np.isnan(found.coefficients) == nan).all()
    peak = np.abs(whole).max(axis=tuple(range(1, whole.ndim)), keepdims=True)
    error = np.where(nan, 0, np.abs(found.coefficients - whole)) / peak
    assert error.max() <= TOLERANCE[dtype]
    weighted = gaps.transform(plan, holed, seen, "weight", _apply)
    kept = ~nan
    assert np.array_equal(weighted.coefficients[kept], found.coefficients[kept])


@pytest.mark.parametrize("name", ["signal", "period", "image", "tile"])
def test_lines_are_the_fill_that_is_seen_least_beyond_the_support(name):
    # In single precision the rounding of an offset is larger than what any fill lets through.
    plan, seen, x = unit(name, "float64")
    x = x + np.linspace(0, 300, x.shape[-1]) + 1e4
    whole = plan.apply(x).reshape(plan.labelled_shape)
    holed = x.copy()
    holed[(slice(40, 47),) * x.ndim] = np.nan
    missing = np.isnan(holed)
    fills = (gaps.filled(holed, missing), np.nanmean(holed), 0.0)

    def beyond(fill, seen):
        kept = gaps.fractions(plan, ~missing, seen) == 1
        assert kept.any()
        y = plan.apply(np.where(missing, fill, x)).reshape(whole.shape)
        peak = np.abs(whole).max(axis=tuple(range(1, whole.ndim)), keepdims=True)
        return float((np.abs(y - whole) / peak)[:, kept].max())

    assert beyond(fills[0], seen) <= TOLERANCE["float64"]
    # There all are near rounding; half as far they are not.
    lines, mean, zero = (beyond(fill, seen // 2) for fill in fills)
    assert lines < mean / 5
    assert mean < zero / 5


def test_a_fill_goes_on_level_beyond_the_ends_and_keeps_a_plane():
    line = np.array([np.nan, 2.0, np.nan, np.nan, 5.0, np.nan])
    np.testing.assert_array_equal(gaps.filled(line, np.isnan(line)), [2, 2, 3, 4, 5, 5])
    y, x = np.mgrid[:9, :11]
    plane = 3.0 * y - 2.0 * x
    holed = plane.copy()
    holed[3:6, 4:8] = np.nan
    np.testing.assert_allclose(gaps.filled(holed, np.isnan(holed)), plane, atol=1e-12)
    corner = np.full((4, 5, 6), np.nan)
    corner[1, 2, 3] = 7.0
    np.testing.assert_array_equal(gaps.filled(corner, np.isnan(corner)), np.full((4, 5, 6), 7.0))


def test_a_share_below_one_never_rounds_to_one():
    for dtype in ("float32", "float64"):
        share = gaps.share_of(np.array([2**60 - 1, 2**60, 0]), 2**60, dtype).astype(dtype)
        assert share[0] < 1
        assert share[1] == 1
        assert share[2] == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["signal", "period", "mean", "image", "scalogram"])
def test_shares_of_weight_are_the_zeroth_order_of_the_valid_samples(name, dtype):
    plan, _, x = unit(name, dtype)
    valid = np.ones(x.shape, bool)
    valid[(slice(50, 60),) * x.ndim] = False
    shares = plan.window_shares(valid)
    np.testing.assert_allclose(plan.window_shares(np.ones(x.shape, bool)), 1, rtol=1e-5)
    if name == "scalogram":  # of joint scattering in time
        engine = Scattering1D(J=4, Q=(4, 1))
        plan = engine.plan(x.shape, dtype)
    some, every = (
        plan.apply(samples.astype(dtype)).reshape(plan.labelled_shape)[0]
        for samples in (valid, np.ones(x.shape))
    )
    np.testing.assert_allclose(shares, some / every, atol=2e-6)


@pytest.mark.parametrize("method", ["local", "standard", "integral"])
def test_volumes_of_which_every_second_voxel_is_missing_keep_their_weight(method):
    points = {"points": ((8, 8, 8), (20, 9, 30))} if method == "local" else {}
    engine = HarmonicScattering3D(J=1, L=1, sigma_0=2.0, method=method, **points)
    plan = engine.plan((32, 32, 32), "float64")
    z, y, x = np.mgrid[:32, :32, :32]
    valid = (z + y + x) % 4 > 0
    if method != "integral":
        np.testing.assert_allclose(plan.window_shares(valid), 0.75, atol=1e-3)
    smooth = 5 + np.cos(2 * np.pi * z / 32) + np.sin(2 * np.pi * (x + y) / 32)
    holed = np.where(valid, smooth, np.nan)
    found = gaps.transform(plan, holed, gaps.reach(engine, plan, "float64"), "weight", _apply)
    assert np.isfinite(found.coefficients).all()
    assert (found.fraction < 1).all()
    filled = plan.apply(gaps.filled(holed, ~valid)).reshape(plan.labelled_shape)
    np.testing.assert_allclose(found.coefficients, filled / 0.75, rtol=2e-3)
    none = gaps.transform(plan, holed, gaps.reach(engine, plan, "float64"), "nan", _apply)
    assert np.isnan(none.coefficients).all()


def test_points_count_the_voxels_around_them(rng):
    engine = HarmonicScattering3D(
        J=0, L=1, sigma_0=1.0, method="local", points=((2, 3, 30), (40, 40, 40))
    )
    plan = engine.plan((64, 64, 64), "float64")
    seen = 9
    valid = rng.random((64, 64, 64)) > 0.1
    found = gaps.fractions(plan, valid, seen)
    for share, point in zip(found, engine.points, strict=True):
        near = [[(c + d) % 64 for d in range(-seen, seen + 1)] for c in point]
        assert share == pytest.approx(valid[np.ix_(*near)].mean(), rel=1e-15)


def test_a_weight_makes_up_for_what_is_missing_of_a_constant():
    plan, seen, x = unit("period", "float64")
    x[:] = 7.0
    x[600:604] = np.nan
    found = gaps.transform(plan, x, seen, "weight", _apply)
    shares = plan.window_shares(~np.isnan(x))
    np.testing.assert_allclose(
        found.coefficients[0], np.where(found.fraction == 1, 7.0, 7.0 / shares)
    )
    x[600:700] = np.nan
    found = gaps.transform(plan, x, seen, "weight", _apply)
    assert np.isnan(found.coefficients).any()
    lost = np.isnan(found.coefficients[0])
    assert (lost == (plan.window_shares(~np.isnan(x)) < gaps.LEAST)).all()


# --- jobs -----------------------------------------------------------------------------------------


def opened(place):
    return xr.open_zarr(str(place.path / "out.zarr"), decode_timedelta=False)


def zarr_archive(place, data, zarr_format, chunks, shards=None, dims=("station", "time"), **attrs):
    """Write an archive of either version of Zarr, of which every chunk is stored."""
    shutil.rmtree(place.path / "archive.zarr", ignore_errors=True)
    group = zarr.open_group(str(place.path / "archive.zarr"), mode="w", zarr_format=zarr_format)
    named = {"_ARRAY_DIMENSIONS": list(dims)} if zarr_format == 2 else {}
    array = group.create_array(
        "waveform",
        shape=data.shape,
        dtype=data.dtype,
        chunks=chunks,
        shards=shards,
        dimension_names=dims if zarr_format == 3 else None,
        attributes={**named, **attrs},
        config={"write_empty_chunks": True},
    )
    array[...] = data
    return array


def drop(place, key):
    os.unlink(place.path / "archive.zarr" / "waveform" / key)


KINDS = {
    "whole": (WHOLE, ("station", "time"), (2, 4096), (1, 512)),
    "frames": (FRAMES, ("station", "time"), (2, 4096), (1, 512)),
    "seamless": (SEAMLESS, ("station", "time"), (2, 4096), (1, 512)),
    "joint": (JOINT, ("station", "time"), (2, 4096), (1, 512)),
    "images": (IMAGES, ("band", "y", "x"), (2, 100, 120), (1, 20, 20)),
    "seamless images": (IMAGES + 'boundary = "seamless"\n', ("y", "x"), (100, 120), (20, 20)),
    "integrals": (INTEGRALS, ("subject", "z", "y", "x"), (2, 16, 16, 16), (1, 8, 8, 8)),
    "seamless integrals": (
        INTEGRALS + 'boundary = "seamless"\n',
        ("z", "y", "x"),
        (40, 40, 40),
        (20, 20, 20),
    ),
}


@pytest.mark.parametrize(
    ("kind", "zarr_format"), [*((kind, 3) for kind in KINDS), ("whole", 2), ("seamless images", 2)]
)
def test_a_chunk_that_is_gone_is_nan_and_never_zero(place, rng, kind, zarr_format):
    transform, dims, shape, chunks = KINDS[kind]
    x = rng.integers(-500, 500, shape).astype("i2")
    zarr_archive(place, x, zarr_format, chunks, dims=dims)
    whole, _ = place.compute(transform=transform)
    assert np.isfinite(whole).all()
    last = [-(-n // c) - 1 for n, c in zip(shape, chunks, strict=True)]
    key = "/".join(map(str, last)) if zarr_format == 3 else ".".join(map(str, last))
    drop(place, f"c/{key}" if zarr_format == 3 else key)
    found, receipts = place.compute(transform=transform)
    touched = np.isnan(found)
    assert touched.any()
    assert all(r.failure is None for r in receipts)
    assert sum(r.gaps for r in receipts) >= 1
    assert sum(r.absent for r in receipts) > 0
    peak = np.abs(whole).max()
    np.testing.assert_allclose(found[~touched], whole[~touched], atol=1e-5 * peak)
    if dims[0] in ("station", "band", "subject"):
        assert np.array_equal(found[0], whole[0])  # to the bit: its chunks are all there
    filled, receipts = place.compute(transform=transform, source='absent = "fill"')
    assert np.isfinite(filled).all()
    assert not any(r.gaps for r in receipts)
    declared, _ = place.compute(transform=transform, source='absent = "gap"')
    np.testing.assert_array_equal(declared, found)
    with opened(place) as ds:
        share = ds.scattering.coords["valid_fraction"]
        assert not {"path", "power"} & set(share.dims)
        expected = (ds.scattering.isnull() == (share < 1)).all()
        assert bool(expected)
        assert 0 <= float(share.min()) < 1


def test_a_shard_that_is_gone_is_a_gap_and_a_chunk_inside_one_is_fill(place, rng):
    x = rng.integers(1, 500, (1, 8192)).astype("i2")
    x[0, 1024:1280] = 0
    array = zarr_archive(place, x, 3, (1, 256), shards=(1, 1024))
    array = zarr.open_array(array.store_path, mode="r+", config={"write_empty_chunks": False})
    array[...] = x  # The zeros are not in their shard now.
    found, (receipt,) = place.compute(transform=WHOLE)
    assert np.isfinite(found).all()
    assert not receipt.gaps
    drop(place, "c/0/5")
    found, (receipt,) = place.compute(transform=WHOLE)
    assert receipt.absent == 1024
    assert np.isnan(found[0, 0, 5 * 1024 // 8 : 6 * 1024 // 8]).all()


def test_zeros_that_are_stored_are_data(place):
    x = np.zeros((1, 4096), "i2")
    zarr_archive(place, x, 3, (1, 512))
    found, (receipt,) = place.compute(transform=WHOLE)
    assert not receipt.gaps
    assert (found == 0).all()


def test_integers_without_a_way_to_say_missing_do_not_pay_for_shares(place, rng):
    x = rng.integers(-5, 5, (1, 4096)).astype("i2")
    zarr_archive(place, x, 3, (1, 512))
    assert place.plan(transform=WHOLE).template.fraction is None
    assert place.plan(transform=WHOLE + 'gaps = "weight"\n').template.fraction is not None
    assert place.plan(transform=WHOLE, source='absent = "gap"').template.fraction is not None
    zarr_archive(place, x, 3, (1, 512), _FillValue=-99)
    assert place.plan(transform=WHOLE).template.fraction is not None
    assert place.plan(transform=WHOLE + 'gaps = "raise"\n').template.fraction is None


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_counts_with_scale_and_offset_and_gaps(place, rng, zarr_format):
    counts = rng.integers(-900, 900, (2, 4096)).astype("i2")
    holed = counts.copy()
    holed[1, 2000:2010] = -32768
    attrs = {"_FillValue": -32768, "scale_factor": 0.5, "add_offset": 1e4}
    zarr_archive(place, holed, zarr_format, (1, 512), **attrs)
    found, (receipt,) = place.compute(transform=WHOLE, dtype="float64")
    assert receipt.gaps
    assert not receipt.absent
    expected = Scattering1D(J=3, Q=1)(0.5 * counts + 1e4)
    np.testing.assert_array_equal(found[0], expected[0])
    peak = np.abs(expected).max(axis=-1, keepdims=True)
    nan = np.isnan(found)
    assert (np.where(nan, 0, np.abs(found - expected)) / peak).max() <= 1e-10
    seen = Scattering1D(J=3, Q=1).canonical_grid("float64").halo
    centres = 8 * np.arange(found.shape[-1])
    near = (centres > 1999 - seen) & (centres < 2010 + seen)
    assert near.any()
    assert not near.all()
    assert (nan[1] == near).all()


@pytest.mark.parametrize(("dtype", "dims"), [("?", ("time",)), ("i4", ("time", "station"))])
def test_a_mask_says_what_is_missing(place, rng, dtype, dims):
    x = rng.standard_normal((2, 4096)).astype(np.float32)
    place.archive(x, chunks=(1, 700))
    group = zarr.open_group(str(place.path / "archive.zarr"))
    missing = np.zeros((4096, 2) if len(dims) == 2 else (4096,), dtype)
    missing[100:105] = 3 if dtype == "i4" else 1
    group.create_array("bad", data=missing, dimension_names=dims)
    found, (receipt,) = place.compute(transform=WHOLE, source='mask = "bad"')
    holed = x.copy()
    holed[:, 100:105] = np.nan
    place.archive(holed)
    expected, _ = place.compute(transform=WHOLE)
    assert receipt.gaps
    assert np.isnan(expected).any()
    np.testing.assert_array_equal(found, expected)


def test_a_mask_must_lie_beside_the_variable_and_along_it(place, noise):
    place.archive(noise[:, :4096])
    group = zarr.open_group(str(place.path / "archive.zarr"))
    group.create_array("short", data=np.zeros(7, bool), dimension_names=["time"])
    group.create_array("other", data=np.zeros(4096, bool), dimension_names=["x"])
    for mask, words in {
        "short": "has the dimensions {'time': 7}",
        "other": "a mask lies along some or all of them",
        "nothing": "is not there",
        "waveform": "is the variable itself",
        "station": "Name an array of true and false",
    }.items():
        with pytest.raises((SourceError, SourceNotFoundError), match=words):
            place.plan(transform=WHOLE, source=f'mask = "{mask}"')


def test_infinite_samples_are_no_gaps(place, noise):
    x = noise[:2, :4096].copy()
    x[0, 5] = np.inf
    place.archive(x)
    found, (receipt,) = place.compute(transform=WHOLE)
    assert "station YA.UV05: 1 of 4096 samples are not finite" in receipt.failure
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()
    with opened(place) as ds:
        assert ds.valid_fraction.isnull().values[0].all()
        assert (ds.valid_fraction.values[1] == 1).all()


def test_gaps_fail_their_block_if_so_asked(place, noise):
    x = noise[:2, :4096].copy()
    x[0, 5] = np.nan
    zarr_archive(place, x, 3, (1, 512))
    drop(place, "c/1/3")
    found, (receipt,) = place.compute(transform=WHOLE + 'gaps = "raise"\n')
    assert np.isnan(found).all()
    assert "1 of 4096 samples are not finite" in receipt.failure
    assert "512 of 4096 samples are not finite" in receipt.failure
    assert "(512 samples lie in chunks that are not in the store)" in receipt.failure


def test_tiles_without_a_gap_keep_their_bits(place, small_blocks, noise):
    x = noise[:2].astype(np.float64)
    place.archive(x)
    transform = 'kind = "scattering1d"\ndims = ["time"]\nJ = 4\nQ = [2, 1]\nboundary = "seamless"\n'
    whole, _ = place.compute(transform=transform, dtype="float64")
    plan = place.plan(transform=transform, dtype="float64")
    grid = plan.work.layout.grid
    at = grid.block + grid.halo + 7  # seen by the second tile only
    holed = x.copy()
    holed[1, at : at + 30] = np.nan
    place.archive(holed)
    found, receipts = place.compute(transform=transform, dtype="float64")
    assert sum(r.gaps for r in receipts) == 1
    assert not any(r.failure for r in receipts)
    width = grid.block // grid.stride
    second = slice(width, 2 * width)
    assert np.array_equal(found[0], whole[0])
    assert np.array_equal(np.delete(found[1], second, -1), np.delete(whole[1], second, -1))
    nan = np.isnan(found[1])
    centres = np.arange(found.shape[-1]) * grid.stride
    assert (nan == ((centres >= at - grid.halo) & (centres < at + 30 + grid.halo))).all()
    peak = np.abs(whole[1]).max(axis=-1, keepdims=True)
    assert (np.where(nan, 0, np.abs(found[1] - whole[1])) / peak).max() <= 1e-10


TILED = {
    "signals": (Scattering1D(J=4, Q=2), (1, 9), (3000,)),
    "dense": (Scattering1D(J=3, Q=2, T=10, stride=1), (5, 200), (1500,)),
    "no second order": (Scattering1D(J=3, Q=1, T=20, max_order=1), (1, 9), (2000,)),
    "scalograms": (TimeFrequencyScattering(J=4, J_fr=2, Q=(4, 1), format="joint"), (1, 9), (2000,)),
    "images": (Scattering2D(J=2, L=2, pyramid="fold"), (2, 12), (150, 120)),
    "volumes": (
        HarmonicScattering3D(J=1, L=1, sigma_0=1.5, method="standard"),
        (10, 16),
        (150, 16, 12),
    ),
}


@pytest.mark.parametrize("name", TILED)
@settings(max_examples=10)
@given(data=st.data())
def test_no_bit_depends_on_gaps_that_are_in_no_sample_of_a_tile(name, data):
    """Wherever the gap is, and however wide: of the samples it takes, others were there before."""
    engine, multiples, about = TILED[name]
    usual = engine.canonical_grid(np.float32)
    tiles = (usual.unit * n for n in range(*multiples))
    grid = usual.cut(data.draw(st.sampled_from([t for t in tiles if usual._halo(t)])), engine.ndim)
    ndim, lengths = len(about), [data.draw(st.integers(n * 4 // 5, n)) for n in about]
    x = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal(lengths)
    x, holed = x.astype(np.float32) + 3, x.astype(np.float32) + 3
    box = []
    for n in lengths:
        at = data.draw(st.integers(0, n - 1))
        box.append(slice(at, at + data.draw(st.integers(1, 5))))
    holed[tuple(box)] = np.nan
    how = data.draw(st.sampled_from(["nan", "weight"]))
    dims = [f"x{i}" for i in range(ndim)]
    whole, found = (
        scatter(
            xr.DataArray(values, dims=dims).chunk(),
            engine,
            dims,
            boundary="seamless",
            tile=grid.block,
            gaps=how,
        )
        for values in (x, holed)
    )
    clean = found.valid_fraction.values == 1
    values = found.scattering.values
    assert (values == whole.scattering.values)[..., clean].all()
    if how == "nan":
        assert np.isnan(values[..., ~clean]).all()
    reach = grid.halo + grid.block
    touched = np.ones(clean.shape, bool)  # by what may lie in the tile or be reflected into it
    for axis, (gap, n) in enumerate(zip(box, lengths, strict=True)):
        centres = grid.stride * np.arange(clean.shape[axis])
        near = (centres > gap.start - reach) & (centres < min(gap.stop, n) + reach)
        near |= (centres < reach) | (centres >= n - reach)
        touched &= near.reshape([-1 if i == axis else 1 for i in range(ndim)])
    assert clean[~touched].all()


def test_small_tiles_lose_less_to_a_gap_and_give_the_same_numbers(place, small_blocks, noise):
    x = noise[:2, :6000].astype(np.float64)
    job = 'kind = "scattering1d"\ndims = ["time"]\nJ = 4\nQ = [2, 1]\nboundary = "seamless"\n'
    place.archive(x)
    usual, _ = place.compute(transform=job, dtype="float64")
    whole, _ = place.compute(transform=job + "tile = 16\n", dtype="float64")
    peak = np.abs(usual).max(axis=-1, keepdims=True)
    assert (np.abs(usual - whole) / peak).max() <= 1e-10
    holed = x.copy()
    holed[1, 2000] = np.nan
    place.archive(holed)
    found, _ = place.compute(transform=job + "tile = 16\n", dtype="float64")
    plan = place.plan(transform=job + "tile = 16\n", dtype="float64")
    grid = plan.work.layout.grid
    nan = np.isnan(found[1]).any(axis=0)
    centres = np.arange(nan.size) * 16
    assert (nan == ((centres > 2000 - grid.halo - 16) & (centres <= 2000 + grid.halo))).all()
    assert np.array_equal(found[..., ~nan], whole[..., ~nan])
    assert np.array_equal(found[0], whole[0])
    with opened(place) as ds:
        assert (
            f"16 samples from a multiple of that on, and {grid.halo} to"
            in (ds.valid_fraction.attrs["comment"])
        )
    assert "tiles of 16 samples, halo of" in "\n".join(plan_lines(summary(plan, None)))


@given(data=st.data())
def test_a_chosen_tile_has_a_halo_that_is_hardly_longer(data):
    engine = data.draw(st.sampled_from([engine for engine, *_ in TILED.values()]))
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    usual = engine.canonical_grid(dtype)
    tile = usual.unit * data.draw(st.integers(1, usual.block // usual.unit))
    try:
        grid = engine.canonical_grid(dtype, tile)
    except ValueError as problem:
        near = int(str(problem).rpartition("tile=")[2].strip(".")) if "halos" in str(problem) else 0
        assert near == 0 or engine.canonical_grid(dtype, near).block == near
        return
    assert grid.block == tile
    assert usual.halo <= grid.halo <= 1.25 * usual.halo + 2 * usual.unit
    assert grid.length >= usual.least
    assert (grid.length / grid.block) ** engine.ndim <= 64


def test_the_tile_is_part_of_a_transform_and_only_if_it_is_given():
    own = Transform(("time",), "seamless", (0,), (0,), tile=64)
    assert Transform.from_dict(own.to_dict()) == own
    assert "tile" not in Transform(("time",), "seamless", (0,), (0,)).to_dict()


def test_a_tile_without_a_seamless_boundary_is_refused(place, noise):
    place.archive(noise[:1])
    with pytest.raises(JobError, match="tile goes with boundary"):
        place.plan(transform=WHOLE + "tile = 64\n")
    with pytest.raises(ValueError, match="tile goes with boundary"):
        scatter(xr.DataArray(noise[0], dims="time"), Scattering1D(J=3), tile=64)


def test_reads_of_tiles_shorter_than_their_halo_are_counted_as_they_are(place, noise, monkeypatch):
    place.archive(noise[:1])
    job = 'kind = "scattering1d"\ndims = ["time"]\nJ = 4\nQ = [2, 1]\nboundary = "seamless"\n'
    monkeypatch.setattr(layout, "TARGET_SAMPLES", 1)
    plan = place.plan(transform=job + "tile = 32\n")
    exact = plan.bytes_read
    monkeypatch.setattr(layout, "EXACT", 40)
    counted = place.plan(transform=job + "tile = 32\n").bytes_read
    assert counted == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize("tile", [8, 24, 10**6])
def test_tiles_that_are_none_are_refused_with_those_that_are(place, noise, tile):
    place.archive(noise[:1])
    job = 'kind = "scattering1d"\ndims = ["time"]\nJ = 4\nQ = [2, 1]\nboundary = "seamless"\n'
    with pytest.raises(JobError, match=f"tile={tile} is not a multiple of 16 samples"):
        place.plan(transform=f"{job}tile = {tile}\n")


def test_integrals_over_tiles_are_divided_by_what_is_valid(place, rng):
    x = (rng.random((40, 44, 48)) + 3).astype(np.float32)
    place.archive(x, dims=("z", "y", "x"))
    transform = INTEGRALS + 'boundary = "seamless"\n'
    whole, _ = place.compute(transform=transform)
    x[:4, :, :5] = np.nan
    place.archive(x, dims=("z", "y", "x"))
    none, _ = place.compute(transform=transform)
    assert np.isnan(none).all()
    found, _ = place.compute(transform=transform + 'gaps = "weight"\n')
    with opened(place) as ds:
        share = 1 - 4 * 44 * 5 / (40 * 44 * 48)
        assert ds.valid_fraction.dims == ()
        assert float(ds.valid_fraction) == pytest.approx(share, rel=1e-6)
    assert np.abs(found / whole - 1).max() < 0.05


def test_a_run_says_how_many_blocks_have_gaps_and_is_complete(place, noise, monkeypatch):
    monkeypatch.setattr(ready, "DASHBOARD_PORT", 0)
    x = noise[:, :4096].copy()
    x[2, 7] = np.nan
    zarr_archive(place, x, 3, (1, 512))
    drop(place, "c/3/0")
    code, said = place.run(transform=WHOLE)
    assert code == 0
    assert "1 of 1 blocks have gaps: valid_fraction tells where." in said
    assert "In 1 of them chunks are not in the store; " in said
    assert 'set absent = "fill" in [source]' in said
    with opened(place) as ds:
        assert set(ds.data_vars) == {"scattering"}
        share = ds.scattering.coords["valid_fraction"]
        assert share.dims == ("station", "time")
        assert share.attrs["samples_to_each_side"] > 0
        assert (share.values[:2] == 1).all()
        assert share.values[2].min() < 1
        assert share.values[3].min() < 0.5


def test_shares_do_not_depend_on_blocks_or_companions(place, small_blocks, noise, rng):
    x = noise[:2].copy()
    x[:, rng.integers(0, x.shape[1], 20)] = np.nan
    seen = []
    for chunks in ((2, 1000), (1, x.shape[1])):
        place.archive(x, chunks=chunks)
        place.compute(transform=SEAMLESS, order=rng.permutation)
        seen.append(place.bytes())
    assert seen[0] == seen[1]


@pytest.mark.parametrize("kind", ["seamless", "joint", "images", "integrals"])
def test_results_with_gaps_are_drawn(place, rng, kind):
    transform, dims, shape, chunks = KINDS[kind]
    x = rng.standard_normal(shape).astype(np.float32)
    x[(-1,) * len(shape)] = np.nan
    place.archive(x, dims=dims, chunks=chunks)
    found, _ = place.compute(transform=transform)
    assert np.isnan(found).any()
    lines = show(str(place.path / "out.zarr"))
    assert "out.png" in lines[0]
    assert (place.path / "out.png").stat().st_size > 1000


def test_a_plan_says_what_becomes_of_gaps(place, noise):
    place.archive(noise[:, :4096])
    told = summary(place.plan(transform=WHOLE), None)
    assert told["output"]["valid_fraction"] == ["station", "time"]
    text = "\n".join(plan_lines(told))
    assert "valid_fraction (station, time)" in text
    assert "windows that see missing samples are NaN" in text
    told = summary(place.plan(transform=WHOLE + 'gaps = "raise"\n'), None)
    assert told["output"]["valid_fraction"] is None
    assert "blocks with missing samples fail" in "\n".join(plan_lines(told))
    shares = place.plan(transform=WHOLE).bytes_written
    assert shares - place.plan(transform=WHOLE + 'gaps = "raise"\n').bytes_written == 4 * 512 * 4


def test_a_mask_counts_in_the_memory_that_a_plan_states(place, noise):
    place.archive(noise)
    without = place.plan(transform=SEAMLESS).peak_bytes
    group = zarr.open_group(str(place.path / "archive.zarr"))
    group.create_array("bad", data=np.zeros(noise.shape, "i8"), dimension_names=["station", "time"])
    with_mask = place.plan(transform=SEAMLESS, source='mask = "bad"').peak_bytes
    assert with_mask > without + 9 * 65536


# --- clocks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: np.where(np.arange(t.size) < 700, t, t + 30), "3 samples are left out before"),
        (lambda t: np.where(np.arange(t.size) == 700, t + 4, t), r"lies 1.4 steps after the one"),
    ],
)
def test_a_clock_that_jumps_is_refused_with_the_sample_where_it_does(place, noise, change, words):
    place.archive(noise[:2, :4096], dims=("station", "t"))
    group = zarr.open_group(str(place.path / "archive.zarr"))
    clock = change(np.arange(4096) * 10)
    group.create_array("t", data=clock, dimension_names=["t"])
    transform = WHOLE.replace("time", "t")
    with pytest.raises(SourceError, match=words) as refusal:
        place.plan(transform=transform)
    assert f"t sample 700 ({clock[700]})" in str(refusal.value)
    place.plan(transform=transform, source='clock = "ignore"')
    place.plan(transform=transform, source="isel = { t = [0, 700] }")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros(64, np.int64), "all lie at the same time"),  # Its chunks are absent.
        (np.arange(64, dtype=np.int64), "has no value"),
        (np.where(np.arange(64) == 9, np.nan, np.arange(64)), "has no value"),
        (np.array([0, 1]), "has no value"),
    ],
)
def test_times_without_a_value_or_all_the_same_are_refused(place, noise, values, words):
    place.archive(noise[:1, : values.size], dims=("station", "time"))
    group = zarr.open_group(str(place.path / "archive.zarr"), mode="r+")
    group["waveform"].attrs.clear()
    attrs = {"units": "seconds since 2010-09-01"}
    if words == "has no value" and values.dtype.kind == "i":
        attrs["_FillValue"] = 0
    time = group.create_array("time", data=values, dimension_names=["time"], attributes=attrs)
    assert time.size == values.size
    transform = WHOLE.replace("J = 3", "J = 1" if values.size < 64 else "J = 3")
    with pytest.raises(SourceError, match=words):
        place.plan(transform=transform)


def test_a_seamless_record_that_runs_back_in_time_is_refused(place, noise):
    place.archive(noise[:1, :4096])
    array = zarr.open_array(str(place.path / "archive.zarr"), path="waveform", mode="r+")
    for back in (
        {"start": "2010-09-01T00:00:00", "step": [-10_000_000, 1], "units": "ns"},
        {"start": 40.95, "step": [-1, 100], "units": "s"},
    ):
        array.attrs["axes"] = {"time": back}
        with pytest.raises(SourceError, match=r'back in time: sample 0.*boundary = "frames"'):
            place.plan(transform=SEAMLESS)
        place.plan(transform=FRAMES)


@pytest.mark.parametrize("boundary", ["seamless", "frames"])
def test_latitudes_from_north_to_south_keep_their_centres(place, noise, inline, boundary):
    """Coefficients are those of the same numbers along an axis that rises."""
    place.archive(noise[:1, :4096], dims=("station", "latitude"))
    group = zarr.open_group(str(place.path / "archive.zarr"), mode="r+")
    transform = (SEAMLESS if boundary == "seamless" else FRAMES).replace("time", "latitude")
    found = {}
    for sign in (-1, 1):
        latitude = sign * (np.arange(4096) / 64 - 30)
        group.create_array(
            "latitude",
            data=latitude,
            dimension_names=["latitude"],
            attributes={"units": "degrees_north"},
            overwrite=True,
        )
        assert place.run(transform=transform, output=f"{sign}.zarr", fresh=True)[0] == 0
        found[sign] = xr.open_zarr(str(place.path / f"{sign}.zarr"), chunks=None).load()
    down, up = found[-1], found[1]
    np.testing.assert_array_equal(down.scattering.values, up.scattering.values)
    if boundary == "seamless":
        np.testing.assert_array_equal(down.latitude.values, 30 - np.arange(512) / 8)
    else:
        np.testing.assert_array_equal(down.frame.values, 30 - np.arange(5) * 700 / 64)
        np.testing.assert_array_equal(down.latitude.values, -up.latitude.values)
