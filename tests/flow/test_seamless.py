"""Seamless records, images and volumes are one transform of the whole, however they are cut."""

import itertools
import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scatflow.engines import (
    HarmonicScattering3D,
    Scattering1D,
    Scattering2D,
    scattering1d,
    scattering2d,
    scattering3d,
)
from scatflow.errors import BudgetError, JobError
from scatflow.flow import layout as layout_module
from scatflow.flow.plan import check_budget, summary

IMAGE = 'kind = "scattering2d"\ndims = ["y", "x"]\nJ = 2\nL = 3\nboundary = "seamless"\n'
PARAMETERS = {"J": 1, "L": 1, "sigma_0": 1.5}
POINTS = [(0, 0, 0), (44, 69, 89), (22, 31, 45), (44, 0, 64), (22, 31, 46)]

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
"""Largest gap to the untiled transform, of each path's own maximum."""


@pytest.fixture
def small_tiles(monkeypatch):
    """Let tiles be barely larger than their halos, so that small sources have several."""
    cut_small(monkeypatch)


def cut_small(patch):
    patch.setattr(scattering2d, "SPILL", 20)
    patch.setattr(scattering3d, "DEAR_SIDE", 30)
    patch.setattr(layout_module, "TARGET_SAMPLES", 2**14)


def gap(found, expected):
    """Return the largest difference, in units of each path's largest coefficient."""
    found, expected = (y.reshape(len(y), -1).astype(np.float64) for y in (found, expected))
    return float((np.abs(found - expected).max(1) / np.abs(expected).max(1)).max())


# --- records -------------------------------------------------------------------------------------


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.integers(16, 5000),
    st.integers(30, 4000),
    st.randoms(use_true_random=False),
    st.integers(10, 14),
    st.sampled_from([{}, {"T": 20, "stride": 4}, {"T": 5}]),
)
def test_records_of_any_length_give_the_same_bytes_for_any_chunks_blocks_and_order(
    place, n, chunk, random, target, average
):
    n = max(n, average.get("T", 0))
    x = np.random.default_rng(n).standard_normal((2, n)).astype(np.float32)
    transform = 'kind = "scattering1d"\ndims = ["time"]\nJ = 4\nboundary = "seamless"\n'
    transform += "".join(f"{key} = {value}\n" for key, value in average.items())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scattering1d, "CALL_COST", 1.0)
        patch.setattr(scattering1d, "CACHE_BYTES", 2**10)
        place.archive(x)
        expected, _ = place.compute(transform=transform)
        patch.setattr(layout_module, "TARGET_SAMPLES", 2**target)
        place.archive(x.T, dims=("time", "station"), chunks=(min(chunk, n), 1))
        found, receipts = place.compute(
            transform=transform, output="again.zarr", order=lambda m: random.sample(range(m), m)
        )
    assert sum(r.samples for r in receipts) == x.size
    np.testing.assert_array_equal(found, expected)
    S = Scattering1D(J=4, **average)
    padded = np.pad(x.astype(np.float64), [(0, 0), (512, 512 + -n % 16)], mode="reflect")
    whole = S.plan(padded.shape[1:], np.float64, "periodic").apply(padded)
    step = 2**S.log2_stride
    whole = whole[:, :, 512 // step :][:, :, : -(-n // step)]
    for one, twin in zip(found, whole, strict=True):
        assert gap(one, twin) <= TOLERANCE["float32"]


# --- images --------------------------------------------------------------------------------------


def whole_image(x, dtype=np.float64, **parameters):
    """Transform an image as a whole: extended by reflection, far enough, to a period."""
    unit = 2 ** parameters["J"]
    far = 40 * unit
    padded = np.pad(x, [(far, far + -n % unit) for n in x.shape], mode="reflect").astype(dtype)
    S = Scattering2D(pyramid="fold", **parameters)
    y = S.plan(padded.shape, dtype, boundary="periodic").apply(padded)
    rows, columns = (slice(far // unit, far // unit - (-n // unit)) for n in x.shape)
    return y[:, rows, columns]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(151, 211), (128, 150), (5, 157)], ids=str)
def test_tiles_of_an_image_are_one_transform(place, small_tiles, rng, shape, dtype):
    x = rng.standard_normal(shape)
    place.archive(x, dims=("y", "x"))
    grid = Scattering2D(2, L=3, pyramid="fold").canonical_grid(dtype)
    assert max(shape) > grid.block  # More than one tile.
    edge = min(grid.block, shape[1] - 1)
    for at in (edge - 1, edge, max(edge - grid.halo - 1, 0)):  # Where a seam would show most.
        x[shape[0] // 2, at] = 1000.0
    place.archive(x, dims=("y", "x"))
    y, receipts = place.compute(transform=IMAGE, dtype=dtype)
    assert not any(r.failure for r in receipts)
    assert gap(y, whole_image(x, J=2, L=3)) <= TOLERANCE[dtype]


def test_wide_wavelets_of_many_directions_leave_no_seam_either(place, monkeypatch, rng):
    monkeypatch.setattr(scattering2d, "SPILL", 20)
    x = rng.standard_normal((301, 257)).astype(np.float32)
    place.archive(x, dims=("y", "x"))
    transform = IMAGE.replace("J = 2\nL = 3", "J = 3\nL = 8")
    assert math.prod(place.plan(transform=transform).work.layout.units) == 4
    y, _ = place.compute(transform=transform)
    assert gap(y, whole_image(x.astype(np.float64), J=3, L=8)) <= TOLERANCE["float32"]


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.tuples(st.integers(4, 170), st.integers(4, 170)),
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
    st.randoms(use_true_random=False),
    st.integers(14, 17),
)
def test_images_of_any_shape_give_the_same_bytes_for_any_chunks_blocks_and_order(
    place, shape, chunks, random, target
):
    x = np.random.default_rng(math.prod(shape)).standard_normal((2, *shape)).astype(np.float32)

    def shuffled(n):
        order = list(range(n))
        random.shuffle(order)
        return order

    with pytest.MonkeyPatch.context() as patch:
        cut_small(patch)
        place.archive(x, dims=("band", "y", "x"))
        expected, _ = place.compute(transform=IMAGE)
        patch.setattr(layout_module, "TARGET_SAMPLES", 2**target)
        pieces = tuple(min(c, n) for c, n in zip(chunks, shape, strict=True))
        place.archive(
            x.transpose(1, 0, 2), dims=("y", "band", "x"), chunks=(pieces[0], 1, pieces[1])
        )
        found, receipts = place.compute(transform=IMAGE, output="again.zarr", order=shuffled)
    assert sum(r.samples for r in receipts) == x.size
    np.testing.assert_array_equal(found, expected)
    for band in (0, 1):
        twin = whole_image(np.asarray(x[band], np.float64), J=2, L=3)
        assert gap(found[band], twin) <= TOLERANCE["float32"]


def test_windows_of_an_image_are_labelled_with_their_centres(place, small_tiles, rng):
    x = rng.standard_normal((61, 90)).astype(np.float32)
    place.archive(x, dims=("y", "x"))
    code, _ = place.run(transform=IMAGE)
    assert code == 0
    with xr.open_zarr(place.path / "out.zarr") as ds:
        assert ds.scattering.dims == ("path", "y", "x")
        np.testing.assert_array_equal(ds.y, 4 * np.arange(16))
        np.testing.assert_array_equal(ds.x, 4 * np.arange(23))
        assert "seamless" in ds.attrs["history"]


def test_an_interrupted_image_is_finished_with_the_same_bytes(place, small_tiles, rng):
    x = rng.standard_normal((140, 150)).astype(np.float32)
    place.archive(x, dims=("y", "x"), chunks=(33, 41))
    place.compute(transform=IMAGE, output="part.zarr", order=lambda n: range(n // 2))
    assert place.run(transform=IMAGE, output="part.zarr")[0] == 0
    assert place.run(transform=IMAGE, output="whole.zarr")[0] == 0
    part, whole = place.bytes("part.zarr"), place.bytes("whole.zarr")
    for name in whole:
        if name.startswith("scattering/"):
            assert part[name] == whole[name], name


def test_the_plan_says_how_an_image_is_cut_and_what_that_costs(place, small_tiles, rng):
    place.archive(rng.standard_normal((140, 150)).astype(np.float32), dims=("y", "x"))
    plan = place.plan(transform=IMAGE)
    told = summary(plan, None)["seamless"]
    grid = plan.work.engine.canonical_grid()
    assert plan.work.engine.pyramid == "fold"
    assert any('pyramid = "fold"' in note for note in plan.notes)
    assert told["halo"] == [grid.halo, grid.halo]
    assert told["block"] == [grid.block, grid.block]
    assert told["tolerance"] == 1e-7
    tiles = math.prod(-(-n // grid.block) for n in (140, 150))
    assert told["overhead"] == pytest.approx(1 - 140 * 150 / (tiles * grid.length**2))


def test_the_filters_of_scatnet_are_refused_with_the_remedy(place, rng):
    place.archive(rng.standard_normal((40, 50)), dims=("y", "x"))
    with pytest.raises(JobError, match='Take pyramid = "fold"'):
        place.plan(transform=IMAGE + 'pyramid = "scatnet"\n')


def test_a_gap_in_an_image_leaves_out_the_tiles_that_see_it_if_so_asked(place, small_tiles, rng):
    x = rng.standard_normal((150, 150)).astype(np.float32)
    x[3, 5] = np.nan
    place.archive(x, dims=("y", "x"))
    y, receipts = place.compute(transform=IMAGE + '\ngaps = "raise"\n')
    block = Scattering2D(2, L=3, pyramid="fold").canonical_grid().block // 4
    assert np.isnan(y[:, :block, :block]).all()
    assert np.isfinite(y[:, block:]).all()
    assert [r.failure for r in receipts if r.failure]
    assert "y sample 3" in next(r.failure for r in receipts if r.failure)


# --- volumes -------------------------------------------------------------------------------------


def volume_job(method, edges, **parameters):
    lines = {**PARAMETERS, "method": f'"{method}"', "edges": f'"{edges}"', **parameters}
    if method == "local":
        lines["points"] = [list(p) for p in POINTS]
    text = "".join(f"{key} = {value}\n" for key, value in lines.items())
    return 'kind = "scattering3d"\ndims = ["z", "y", "x"]\nboundary = "seamless"\n' + text


def whole_volume(x, method, edges, **parameters):
    """Transform a volume as a whole, reflected to a period where it has to be."""
    shape = x.shape
    for axis, n in enumerate(shape if edges == "reflect" else ()):
        x = np.take(x, [*range(n), *range(n - 2, 0, -1)], axis)
    points = POINTS if method == "local" else None
    S = HarmonicScattering3D(**{**PARAMETERS, **parameters}, method=method, points=points)
    plan = S.plan(x.shape, x.dtype)
    if method == "integral":
        plan = plan.summing(tuple(slice(0, n) for n in shape))
    y = plan.apply(x).reshape(plan.labelled_shape)
    if method == "standard":
        y = y[(slice(None), *(slice(0, -(-n // 2**S.J)) for n in shape))]
    return y


CASES = list(itertools.product(("standard", "local", "integral"), ("periodic", "reflect")))


@pytest.mark.parametrize(("method", "edges"), CASES)
def test_tiles_of_a_volume_are_one_transform(place, small_tiles, rng, method, edges):
    x = rng.standard_normal((45, 70, 90))
    place.archive(x.astype(np.float32), dims=("z", "y", "x"))
    y, receipts = place.compute(transform=volume_job(method, edges))
    assert not any(r.failure for r in receipts)
    assert sum(r.samples for r in receipts) == x.size
    expected = whole_volume(x.astype(np.float32).astype(np.float64), method, edges)
    assert y.shape == expected.shape
    assert math.prod(place.plan(transform=volume_job(method, edges)).work.layout.units) > 1
    assert gap(y, expected) <= TOLERANCE["float32"]


@pytest.mark.parametrize("method", ["standard", "integral"])
def test_in_float64_filters_that_end_before_the_nyquist_frequency_leave_no_seam(
    place, small_tiles, rng, method
):
    x = rng.standard_normal((30, 47, 90))
    place.archive(x, dims=("z", "y", "x"))
    wide = {"J": 0, "sigma_0": 2.5}
    transform = volume_job(method, "periodic", **wide)
    assert place.plan(transform=transform, dtype="float64").work.layout.units[2] > 1
    y, _ = place.compute(transform=transform, dtype="float64")
    assert gap(y, whole_volume(x, method, "periodic", **wide)) <= TOLERANCE["float64"]


def test_filters_that_the_nyquist_frequency_cuts_off_ring_and_the_plan_says_so(
    place, small_tiles, rng
):
    x = rng.standard_normal((45, 70, 90))
    place.archive(x, dims=("z", "y", "x"))
    transform = volume_job("standard", "periodic", sigma_0=1.0)
    assert any(
        "cut off at the Nyquist frequency" in note for note in place.plan(transform=transform).notes
    )
    y, _ = place.compute(transform=transform, dtype="float64")
    assert gap(y, whole_volume(x, "standard", "periodic", sigma_0=1.0)) <= 5e-3


@pytest.mark.parametrize(("method", "edges"), [CASES[0], CASES[3], CASES[4]])
def test_volumes_give_the_same_bytes_for_any_chunks_and_order(
    place, small_tiles, rng, method, edges
):
    x = rng.standard_normal((2, 30, 41, 75)).astype(np.float32)
    points = {"points": [[0, 0, 0], [29, 40, 74], [3, 2, 1]]} if method == "local" else {}
    transform = volume_job(method, edges, J=0)
    transform = transform.split("points")[0] + "".join(f"{k} = {v}\n" for k, v in points.items())
    place.archive(x, dims=("sample", "z", "y", "x"))
    expected, _ = place.compute(transform=transform)
    place.archive(x.transpose(3, 0, 1, 2), dims=("x", "sample", "z", "y"), chunks=(13, 2, 30, 7))
    found, receipts = place.compute(
        transform=transform, output="again.zarr", order=lambda n: range(n)[::-1]
    )
    assert sum(r.samples for r in receipts) == x.size
    np.testing.assert_array_equal(found, expected)


def test_a_point_has_the_same_bytes_with_and_without_others(place, small_tiles, rng):
    place.archive(rng.standard_normal((45, 70, 90)).astype(np.float32), dims=("z", "y", "x"))
    together, _ = place.compute(transform=volume_job("local", "reflect", J=0))
    alone = volume_job("local", "reflect", J=0).replace(
        str([list(p) for p in POINTS]), "[[22, 31, 45]]"
    )
    y, receipts = place.compute(transform=alone, output="alone.zarr")
    np.testing.assert_array_equal(y[:, 0], together[:, 2])
    assert len(receipts) == 1


def test_only_tiles_with_points_are_read(place, small_tiles, rng, monkeypatch):
    x = rng.standard_normal((45, 70, 160)).astype(np.float32)
    x[:, :, 100:] = np.nan  # Never seen.
    place.archive(x, dims=("z", "y", "x"))
    transform = volume_job("local", "reflect", J=0).split("points")[0] + "points = [[20, 30, 10]]\n"
    y, receipts = place.compute(transform=transform)
    assert receipts[0].failure is None
    assert np.isfinite(y).all()
    plan = place.plan(transform=transform)
    assert plan.bytes_read == x.nbytes  # one chunk
    assert plan.work.layout.computed == math.prod(plan.work.layout.plan.shape)


def test_a_volume_that_is_not_finite_somewhere_has_no_sums(place, small_tiles, rng):
    x = rng.standard_normal((2, 30, 41, 75)).astype(np.float32)
    x[1, 4, 5, 60] = np.inf
    place.archive(x, dims=("sample", "z", "y", "x"))
    y, receipts = place.compute(transform=volume_job("integral", "reflect"))
    assert np.isfinite(y[0]).all()
    assert np.isnan(y[1]).all()
    assert "x sample 60" in next(r.failure for r in receipts if r.failure)


def test_the_memory_of_sums_is_that_of_one_tile(place, rng):
    sizes = []
    for n in (800, 3200):
        flat = np.broadcast_to(np.float32(1), (n, 8, 8))
        place.archive(flat, dims=("z", "y", "x"), chunks=(50, 8, 8))
        sizes.append(place.plan(transform=volume_job("integral", "reflect")).peak_bytes)
    assert sizes[1] <= 1.01 * sizes[0]


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (IMAGE + 'edges = "periodic"\n', "extends by reflection only"),
        (volume_job("standard", "mirror"), "edges: found 'mirror'"),
        (
            volume_job("standard", "reflect").replace("seamless", "whole"),
            "edges goes with boundary",
        ),
        (IMAGE.replace("J = 2", "J = 7"), "Take J <= 5"),
        (volume_job("local", "reflect"), "lie outside the volume"),
        (volume_job("standard", "reflect", J=6), "wider than the volume"),
        (IMAGE + "pre_pad = true\n", "halos of their own"),
    ],
)
def test_what_cannot_be_seamless_is_refused(place, rng, transform, words):
    if "scattering3d" in transform:
        place.archive(rng.standard_normal((32, 40, 50)), dims=("z", "y", "x"))
    else:
        place.archive(rng.standard_normal((40, 50)), dims=("y", "x"))
    with pytest.raises(JobError, match=words):
        place.plan(transform=transform)


def test_a_budget_too_small_for_one_tile_is_refused(place, rng):
    place.archive(rng.standard_normal((40, 50)), dims=("y", "x"))
    plan = place.plan(transform=IMAGE.replace("J = 2", "J = 5"), memory="310 MiB")
    with pytest.raises(BudgetError, match="One block needs"):
        check_budget(plan)
