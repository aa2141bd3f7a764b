"""Jobs of kind "timefrequency": the numbers of the engine, under labels, whatever the cutting."""

import json

import numpy as np
import pytest
import xarray as xr

from scatflow.engines import TimeFrequencyScattering, engine_from_dict
from scatflow.errors import JobError
from scatflow.flow import layout

ENGINE = 'kind = "timefrequency"\ndims = ["time"]\nJ = 4\nJ_fr = 2\nQ = [3, 1]\n'
SEAMLESS = ENGINE + 'boundary = "seamless"\n'
FORMATS = {"time": "", "joint": 'format = "joint"\n'}
formats = pytest.mark.parametrize("format", FORMATS)


@pytest.fixture
def tiny_blocks(monkeypatch):
    """Make each canonical block a shard of its own."""
    monkeypatch.setattr(layout, "TARGET_SAMPLES", 2**13)


def engine(format, **more):
    return TimeFrequencyScattering(J=4, J_fr=2, Q=(3, 1), format=format, **more)


@formats
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
def test_seamless_is_one_transform_of_the_whole_record(
    place, tiny_blocks, noise, format, dtype, tolerance
):
    x = noise[:1, :59_904].astype(dtype)  # a length whose windows begin with the first sample
    x[:, 30_000:] *= 100  # An event: leakage over block borders would show.
    place.archive(x, chunks=(1, 7_000))
    found, receipts = place.compute(transform=SEAMLESS + FORMATS[format], dtype=dtype)
    assert len(receipts) > 2
    S = engine(format)
    assert S.plan((x.size,), dtype).windows == ((0, 16),)
    expected = S(x)
    assert found.shape == expected.shape
    scale = np.abs(expected).max(axis=-1, keepdims=True)
    assert (np.abs(found - expected) / scale).max() <= tolerance


@formats
def test_any_chunking_and_any_order_give_the_same_bytes(place, tiny_blocks, noise, rng, format):
    x = noise[:2, :60_000]
    transform = SEAMLESS + FORMATS[format]
    place.archive(x, chunks=(2, 60_000))
    one, receipts = place.compute(transform=transform)
    assert len(receipts) > 2
    place.archive(x.T.copy(), dims=("time", "station"), chunks=(4_111, 1))
    other, _ = place.compute(transform=transform, output="other.zarr", order=rng.permutation)
    np.testing.assert_array_equal(one.view(np.uint32), other.view(np.uint32))


@formats
def test_workers_and_threads_do_not_matter_to_the_bytes(place, tiny_blocks, noise, format):
    place.archive(noise[:2, :60_000], chunks=(1, 9_000))
    transform = SEAMLESS + FORMATS[format]
    code, _ = place.run(transform=transform, output="one.zarr", workers=1)
    assert code == 0
    code, _ = place.run(transform=transform, output="two.zarr", workers=2, threads=2)
    assert code == 0
    assert place.bytes("one.zarr") == place.bytes("two.zarr")


@formats
def test_whole_signals_and_frames_are_what_the_engine_gives(place, noise, format):
    x = noise[:2, :5000]
    place.archive(x)
    whole, _ = place.compute(transform=ENGINE + FORMATS[format])
    np.testing.assert_array_equal(whole, engine(format)(x))
    frames = ENGINE + FORMATS[format] + 'boundary = "frames"\nframe = 1000\nhop = 700\n'
    found, _ = place.compute(transform=frames, output="frames.zarr")
    expected = np.stack([engine(format)(x[:, k : k + 1000]) for k in range(0, 4001, 700)], axis=1)
    np.testing.assert_array_equal(found, expected)


def opened(place, transform):
    assert place.run(transform=transform)[0] == 0
    return xr.open_zarr(place.path / "out.zarr").load()


@pytest.mark.parametrize("boundary", ["whole", "seamless"])
def test_paths_are_labelled_in_hertz_and_by_their_spin(place, noise, boundary):
    place.archive(noise[:2, :20_000])
    data = opened(place, ENGINE + f'boundary = "{boundary}"\n')
    S, meta = engine("time"), engine("time").meta()
    assert data.scattering.dims == ("station", "path", "time")
    np.testing.assert_array_equal(data.order, meta["order"])
    for i in (1, 2):
        np.testing.assert_allclose(data[f"xi{i}"], 100 * meta["xi"][:, i - 1])
        np.testing.assert_allclose(data[f"sigma{i}"], 100 * meta["sigma"][:, i - 1])
        assert data[f"xi{i}"].units == "Hz"
        np.testing.assert_array_equal(data[f"j{i}"], np.nan_to_num(meta["j"][:, i - 1], nan=-1))
    np.testing.assert_array_equal(data.spin, meta["spin"])
    np.testing.assert_array_equal(data.xi_fr, meta["xi_fr"])
    np.testing.assert_array_equal(data.sigma_fr, meta["sigma_fr"])
    assert data.xi_fr.units == "cycles/wavelet"
    np.testing.assert_array_equal(data.q, np.nan_to_num(meta["n"][:, 0], nan=-1))
    inside = data.octave[data.order > 0]
    np.testing.assert_allclose(inside, np.log2(data.xi1.max() / data.xi1[data.order > 0]))
    assert data.label[-1] == "S2: 13.9 Hz, 2.19 Hz, -0.0875 cycles/wavelet"
    assert engine_from_dict(json.loads(data.attrs["scatflow_spec"])) == engine(
        "time", backend="numpy"
    )
    assert data.sizes["path"] == S.output_size()


def test_rows_of_the_joint_format_are_labelled_too(place, noise):
    place.archive(noise[:2, :20_000])
    data = opened(place, SEAMLESS + FORMATS["joint"])
    S = engine("joint")
    meta = S.meta()
    assert data.scattering.dims == ("station", "path", "q", "time")
    assert data.scattering.shape[1:3] == S.output_shape(20_000)[:2]
    np.testing.assert_array_equal(data.order, meta["order"])
    np.testing.assert_array_equal(data.spin, meta["spin"])
    first = S.scales()[0]
    there = data.q.values < len(first)
    assert there.any()
    assert data.xi1.dims == data.octave.dims == ("q",)
    np.testing.assert_allclose(data.xi1[there], [100 * first[q].xi for q in data.q.values[there]])
    assert np.isnan(data.xi1[~there]).all()
    assert data.xi1.units == "Hz"
    np.testing.assert_allclose(data.octave[there], np.log2(first[0].xi * 100 / data.xi1[there]))
    assert len(set(data.label.values)) == data.sizes["path"]


def test_a_job_resumes_to_the_same_bytes(place, tiny_blocks, noise):
    place.archive(noise[:1, :60_000])
    transform = SEAMLESS + FORMATS["joint"]
    assert place.run(transform=transform)[0] == 0
    done = place.bytes()
    shards = [path for path in done if path.startswith("scattering/c/")]
    assert len(shards) > 1
    (place.path / "out.zarr" / shards[0]).unlink()
    assert place.run(transform=transform)[0] == 0
    assert place.bytes() == done


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("J_fr = 9", "J_fr <= 4"),
        ("F = 100", "cannot exceed"),
        ('format = "both"', "format must be one of"),
        ("stride_fr = 3", "power of two"),
        ("T = 0", "T = 0"),
        ('F = 0\nformat = "joint"', "format='joint' and F=0"),
        ("max_order = 1", "unknown key"),
        ('out_type = "list"', "cannot be set in a job"),
    ],
)
def test_a_wrong_job_is_told_what_is_accepted(place, line, words):
    key = line.split(" =")[0]
    kept = "\n".join(row for row in ENGINE.splitlines() if not row.startswith(f"{key} ="))
    with pytest.raises(JobError, match=words):
        place.job(transform=f"{kept}\n{line}\n")


def test_a_seamless_record_needs_a_moving_average(place, noise):
    place.archive(noise[:1, :20_000])
    with pytest.raises(JobError, match="needs a moving average"):
        place.plan(transform=SEAMLESS + 'T = "global"\n')
