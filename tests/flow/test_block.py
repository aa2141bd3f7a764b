"""One block after another, in this thread: the numbers are right whatever the cutting."""

import zlib

import numpy as np
import pytest
import xarray as xr
import zarr

from scatflow.engines import HarmonicScattering3D, Scattering1D, Scattering2D
from scatflow.engines.plan import Plan

WHOLE = 'kind = "scattering1d"\ndims = ["time"]\nJ = 5\nQ = 4\n'
SEAMLESS = 'kind = "scattering1d"\ndims = ["time"]\nJ = 4\nQ = [2, 1]\nboundary = "seamless"\n'
FRAMES = WHOLE + 'boundary = "frames"\nframe = 1000\nhop = 700\n'


def whole_record(engine, x):
    """Transform a record as a period of its endless reflection: an independent reference."""
    period = np.concatenate([x, x[-2:0:-1]])
    copies = 2**engine.J  # Then the period of the whole is a multiple of every decimation,
    while copies * period.size < 2**12:  # and longer than the wavelets.
        copies *= 2
    while (
        copies > 1 and copies * period.size > 2**18 and copies * period.size // 2 % 2**engine.J == 0
    ):
        copies //= 2
    whole = np.tile(period, copies)
    y = engine.plan((whole.size,), x.dtype, boundary="periodic").apply(whole)
    return y[:, : -(-x.size // 2**engine.J)]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
@pytest.mark.parametrize("n", [300_033, 196_609])
def test_seamless_is_the_transform_of_the_whole_reflected_record(
    place, small_blocks, noise, dtype, tolerance, n
):
    x = noise[:2, :n].astype(dtype) if n <= noise.shape[1] else np.resize(noise, (2, n))
    x = x.astype(dtype)
    x[:, n // 2 :] *= 100  # An event: leakage over block borders would show.
    place.archive(x, chunks=(1, 50_000))
    found, receipts = place.compute(dtype=dtype)
    assert len(receipts) > 2
    assert found.dtype == dtype
    engine = Scattering1D(J=4, Q=(2, 1))
    for record, got in zip(x, found, strict=True):
        expected = whole_record(engine, record)
        scale = np.abs(expected).max(axis=1, keepdims=True)
        assert (np.abs(got - expected) / scale).max() <= tolerance


def test_seamless_records_shorter_than_a_block_are_reflected_again_and_again(place, noise):
    x = noise[:2, :33].astype(np.float64)
    place.archive(x)
    found, _ = place.compute(dtype="float64")
    expected = np.stack([whole_record(Scattering1D(J=4, Q=(2, 1)), record) for record in x])
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


def test_whole_signals_are_what_the_engine_gives(place, noise):
    x = noise[:, :5000]
    place.archive(x)
    found, _ = place.compute(transform=WHOLE)
    np.testing.assert_allclose(found, Scattering1D(J=5, Q=4)(x), rtol=1e-6, atol=1e-7)


def test_frames_are_what_the_engine_gives_for_each(place, noise):
    x = noise[:2, :5000]
    place.archive(x.T.copy(), dims=("time", "station"))
    found, _ = place.compute(transform=FRAMES)
    expected = np.stack(
        [[Scattering1D(J=5, Q=4)(row[a : a + 1000]) for a in range(0, 4001, 700)] for row in x]
    )
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_images_are_transformed_in_the_order_of_dims(place, rng):
    transform = 'kind = "scattering2d"\ndims = ["y", "x"]\nJ = 1\nL = 4\n'
    x = rng.standard_normal((48, 3, 32)).astype(np.float32)
    place.archive(x, dims=("x", "band", "y"))
    found, _ = place.compute(transform=transform)
    engine = Scattering2D(J=1, L=4)
    expected = engine(np.ascontiguousarray(x.transpose(1, 2, 0)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_tiles_of_images_and_sub_volumes(place, rng):
    x = rng.standard_normal((70, 100)).astype(np.float32)
    place.archive(x, dims=("y", "x"))
    found, _ = place.compute(
        transform='kind = "scattering2d"\ndims = ["y", "x"]\nJ = 2\nL = 4\n'
        'boundary = "frames"\nframe = [32, 48]\nhop = [16, 48]\n'
    )
    assert found.shape[:2] == (3, 2)
    expected = Scattering2D(J=2, L=4)(np.ascontiguousarray(x[16:48, 48:96]))
    np.testing.assert_allclose(found[1, 1], expected, rtol=1e-5, atol=1e-6)
    volume = rng.standard_normal((2, 16, 16, 40)).astype(np.float32)
    place.archive(volume, dims=("subject", "z", "y", "x"))
    found, _ = place.compute(
        transform='kind = "scattering3d"\ndims = ["z", "y", "x"]\nJ = 1\nL = 1\n'
        'boundary = "frames"\nframe = [0, 0, 16]\n'
    )
    engine = HarmonicScattering3D(J=1, L=1)
    expected = engine.plan((16, 16, 16)).apply(np.ascontiguousarray(volume[1, :, :, 16:32]))
    np.testing.assert_allclose(found[1, 1].ravel(), expected.ravel(), rtol=1e-5)


@pytest.mark.parametrize("transform", [None, FRAMES])
def test_any_chunking_and_any_order_give_the_same_bytes(place, small_blocks, noise, rng, transform):
    changes = {} if transform is None else {"transform": transform}
    x = noise[:2, : 300_000 if transform is None else 9000]
    seen = set()
    for chunks in ((2, 300), (1, 7777), (1, x.shape[1]), (2, 100_000)):
        size = tuple(min(c, n) for c, n in zip(chunks, x.shape, strict=True))
        size = size if x.shape[1] // size[1] < 2000 else (size[0], 3000)
        place.archive(x, chunks=size)
        place.compute(order=rng.permutation, **changes)
        seen.add(tuple(sorted(place.bytes().items())))
    assert len(seen) == 1


def test_labels_are_in_real_time_and_hertz(place, noise):
    place.archive(noise)
    place.compute()
    with xr.open_zarr(str(place.path / "out.zarr")) as ds:
        assert ds.scattering.dims == ("station", "path", "time")
        assert ds.station.values.tolist() == ["YA.UV05", "YA.UV06", "YA.UV07", "YA.UV08"]
        assert ds.time.values[3] == np.datetime64("2010-09-01T00:00:00.480", "ns")
        assert ds.xi1.attrs["units"] == "Hz"
        first = int(np.flatnonzero(ds.order.values == 1)[0])
        assert 30 < float(ds.xi1[first]) < 50
        assert ds.j1.values[0] == -1
        assert np.isnan(ds.xi1.values[0])
        assert ds.scattering.attrs["units"] == "count"
        assert ds.attrs["scatflow_spec"].startswith('{"kind": "scattering1d", "J": 4')
        assert ds.attrs["source"] == "archive.zarr: waveform"


def test_frames_are_labelled_by_their_first_sample_and_offsets(place, noise):
    place.archive(noise[:1, :5000])
    place.compute(transform=FRAMES)
    with xr.open_zarr(str(place.path / "out.zarr")) as ds:
        assert ds.scattering.dims == ("station", "frame", "path", "time")
        assert ds.frame.values[2] == np.datetime64("2010-09-01T00:00:14", "ns")
        assert ds.time.attrs["units"] == "s"
        np.testing.assert_allclose(np.diff(ds.time.values), 0.32)


def test_a_value_that_is_not_finite_fails_its_unit_only(place, noise):
    x = noise[:, :5000].copy()
    x[1, 123] = np.nan
    x[1, 124] = np.inf
    place.archive(x)
    found, (receipt,) = place.compute(transform=WHOLE)
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[[0, 2, 3]]).all()
    assert "station YA.UV06: 2 of 5000 samples are not finite" in receipt.failure
    assert "time sample 123 (2010-09-01T00:00:01.230000000)" in receipt.failure
    assert not receipt.retry


def test_a_gap_in_a_seamless_record_fails_the_blocks_that_see_it_if_so_asked(
    place, small_blocks, noise
):
    x = noise[:1].copy()
    x[0, 290_000] = np.nan
    place.archive(x)
    found, receipts = place.compute(transform=SEAMLESS + 'gaps = "raise"\n')
    failed = [r.block for r in receipts if r.failure]
    assert failed == [4]
    windows = np.isnan(found[0]).any(axis=0)
    assert windows[290_000 // 16]
    assert not windows[: 200_000 // 16].any()
    assert "the first at time sample 290000" in receipts[4].failure


def test_an_overflow_is_a_failure_and_not_a_number(place, monkeypatch, noise):
    # Integrals of powers of volumes overflow; averages of moduli do not, so this one is made to.
    apply = Plan.apply
    monkeypatch.setattr(Plan, "apply", lambda self, x: np.exp2(200) * apply(self, x))
    place.archive(noise[:1, :4096])
    with np.errstate(over="ignore"):
        found, (receipt,) = place.compute(transform=WHOLE)
    assert "station YA.UV05: coefficients overflow float32" in receipt.failure
    assert np.isnan(found).all()


def test_the_largest_numbers_do_not_overflow(place):
    x = np.full((1, 4096), 3e38, np.float32)
    x[0, ::2] *= -1
    place.archive(x)
    found, (receipt,) = place.compute(transform=WHOLE)
    assert receipt.failure is None
    assert np.isfinite(found).all()


def test_the_checksum_of_the_source_is_that_of_its_samples(place, small_blocks, noise):
    for data, dims in ((noise[:2], ("station", "time")), (noise[:2].T.copy(), ("time", "station"))):
        place.archive(data, dims=dims)
        _, receipts = place.compute()
        plan = place.plan()
        for receipt in receipts:
            slab = [slice(0)] * 2
            order = plan.work.layout.order
            for axis, (a, b) in zip(order, plan.work.layout.slab(receipt.block), strict=True):
                slab[axis] = slice(a, b)
            expected = zlib.crc32(np.ascontiguousarray(data[tuple(slab)]).tobytes())
            assert receipt.source_checksum == expected


def test_a_block_with_holes_has_a_checksum_of_its_source_too(place, noise):
    x = noise[:1, :5000].copy()
    x[0, 7] = np.nan
    place.archive(x)
    _, (receipt,) = place.compute(transform=WHOLE)
    assert receipt.gaps
    assert receipt.source_checksum == zlib.crc32(x.tobytes())


def test_labels_that_no_longer_hold_are_dropped(place, rng):
    x = rng.standard_normal((2, 16, 16, 16)).astype(np.float32)
    array = place.archive(x, dims=("subject", "z", "y", "x"))
    array.attrs.update({"standard_name": "density", "units": "kg m-3", "coordinates": "l"})
    root = zarr.open_group(str(place.path / "archive.zarr"))
    root.create_array("l", data=np.arange(2), dimension_names=["subject"])
    plan = place.plan(transform='kind = "scattering3d"\ndims = ["z", "y", "x"]\nJ = 1\nL = 1\n')
    assert not {"units", "standard_name"} & set(plan.template.attrs)
    assert plan.notes == (
        "coordinate l along subject is left out: the output has a label of that name",
    )
