"""A record cut into canonical blocks is the transform of the whole record: no seam shows."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scatflow import Scattering1D
from scatflow.blocks import Tiles
from scatflow.wavelets.morlet import lowpass_1d, morlet_1d
from scatflow.wavelets.scales import SIGMA0

CASES = [
    {"J": 4, "Q": 1},
    {"J": 6, "Q": (8, 1)},
    {"J": 8, "Q": (8, 1)},
    {"J": 8, "Q": 1, "T": 20, "stride": 4},
    {"J": 6, "Q": 4, "T": 1000, "stride": 256},
    {"J": 7, "Q": (3, 3), "max_order": 1},
]
MORE = [
    {"J": J, "Q": Q, **more}
    for J in (3, 8, 11)
    for Q in (1, (12, 2), (8, 8))
    for more in ({}, {"T": 100}, {"T": 2 ** (J + 1), "stride": 2}, {"max_order": 1})
]


def smooth(n):
    for p in (2, 3, 5):
        while n % p == 0:
            n //= p
    return n == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("p", CASES + MORE, ids=str)
def test_blocks_are_whole_windows_and_fast_ffts(p, dtype):
    S = Scattering1D(**p)
    grid = S.canonical_grid(dtype)
    unit = max(S.coarsest, grid.stride)
    assert grid.stride == 2**S.log2_stride
    assert grid.length == grid.block + 2 * grid.halo
    for length in (grid.block, grid.halo, grid.length):
        assert length > 0
        assert length % unit == 0
    assert smooth(grid.length // unit)
    assert grid.halo <= grid.length / 4  # half of the work at most


# Samples per second and thread, in millions, that blocks gave net of their halos: Intel Xeon with
# 2 MiB of second-level cache, MKL, medians of three, by length.
MEASURED = {
    (10, 8, "float32"): {
        65536: 5.15, 73728: 5.71, 82944: 4.72, 98304: 5.37, 110592: 6.83, 131072: 5.51,
        147456: 5.82, 196608: 4.82, 221184: 5.72, 262144: 4.05, 276480: 3.84, 294912: 4.43,
    },
    (8, 8, "float32"): {
        18432: 7.84, 20736: 7.65, 24576: 6.81, 27648: 8.91, 32768: 9.03, 36864: 9.69,
        49152: 7.79, 55296: 9.29, 65536: 8.63, 73728: 8.89, 110592: 8.71, 131072: 6.70,
    },
    (13, 12, "float32"): {
        442368: 1.27, 524288: 1.23, 589824: 1.41, 786432: 1.40, 884736: 1.41, 1048576: 1.34,
        1179648: 1.48, 1327104: 1.54, 1572864: 1.26, 1769472: 1.23, 2097152: 1.13,
    },
    (6, 16, "float32"): {
        6912: 6.30, 8192: 6.33, 9216: 6.45, 12288: 5.99, 13824: 6.96, 16384: 6.70, 18432: 7.03,
        20736: 6.58, 24000: 5.00, 27648: 6.68, 36864: 6.60, 65536: 5.34, 131072: 3.95,
    },
    (10, 8, "float64"): {
        73728: 1.87, 82944: 1.62, 98304: 2.03, 110592: 2.45, 131072: 1.95, 147456: 2.00,
        196608: 1.81, 221184: 1.96, 262144: 1.45, 294912: 1.61, 442368: 1.37,
    },
    (8, 8, "float64"): {
        18432: 2.65, 24576: 2.63, 27648: 3.34, 32768: 3.30, 36864: 3.63, 49152: 3.14,
        55296: 3.82, 65536: 3.56, 73728: 3.55, 110592: 3.47, 131072: 2.69,
    },
}  # fmt: skip


@pytest.mark.parametrize(("J", "Q", "dtype"), MEASURED)
def test_the_model_of_cost_chooses_what_was_measured_to_be_fast(J, Q, dtype):
    measured = MEASURED[J, Q, dtype]
    chosen = Scattering1D(J, Q=Q).canonical_grid(dtype).length
    assert measured[chosen] >= 0.9 * max(measured.values())


@given(st.integers(1, 16), st.integers(1, 16), st.sampled_from(["float32", "float64"]))
def test_no_block_is_much_larger_than_its_halos(J, Q, dtype):
    # A budget of memory holds for any archive: blocks grow with their halos and no faster.
    grid = Scattering1D(J, Q=Q).canonical_grid(dtype)
    assert grid.length <= max(8 * grid.halo, 2**17)


def test_the_grid_depends_on_the_parameters_and_the_precision_alone():
    p = {"J": 8, "Q": (8, 1)}
    grids = [Scattering1D(**p, shape=shape).canonical_grid() for shape in (None, 4096)]
    assert dataclasses.asdict(grids[0]) == dataclasses.asdict(grids[1])
    double = Scattering1D(**p).canonical_grid("float64")
    assert double.halo > Scattering1D(**p).canonical_grid("float32").halo


@pytest.mark.parametrize("T", [0, "global"])
def test_without_a_moving_average_there_is_no_grid(T):
    with pytest.raises(ValueError, match="needs a moving average"):
        Scattering1D(4, T=T, out_type="list").canonical_grid()


def record(grid, unit, rng, spikes):
    """More than two blocks of noise with spikes, and the same reflected to a period.

    Whole-sample reflection of N samples has the period 2 N - 2, which must be decimable.
    """
    period = 2 * unit * math.ceil((2.2 * grid.block + grid.halo) / unit)
    N = period // 2 + 1
    x = rng.standard_normal(N)
    for at in spikes:
        x[at] = 1000.0
    return N, np.concatenate([x, x[-2:0:-1]])


def by_blocks(S, dtype, grid, N, period):
    """Cut, transform each block on its slab, keep its windows; edges are reflected."""
    plan = S.plan((grid.length,), dtype, "periodic")
    first, last = grid.halo // grid.stride, (grid.halo + grid.block) // grid.stride
    rows = []
    for b in range(math.ceil(N / grid.block)):
        inside = np.arange(b * grid.block - grid.halo, (b + 1) * grid.block + grid.halo)
        slab = period[inside % period.size].astype(dtype)
        rows.append(plan.apply(slab)[:, first:last])
    return np.concatenate(rows, axis=1)[:, : math.ceil(N / grid.stride)]


def whole(S, dtype, grid, N, period):
    y = S.plan((period.size,), dtype, "periodic").apply(period.astype(dtype))
    return y[:, : math.ceil(N / grid.stride)]


# The worst places for a spike: just beyond a block's edge, just beyond what the block sees, and
# the last sample that it sees, which is next to its first one when the slab is taken as a period.
SPIKES = {
    "noise": lambda _: (),
    "spike-beyond-block": lambda g: (g.block + 1, g.block - 1),
    "spike-beyond-halo": lambda g: (g.block + g.halo, g.block - g.halo - 1),
    "spike-at-wrap": lambda g: (g.block + g.halo - 1, g.block - g.halo),
}


def seam(S, dtype, spikes, rng):
    """Largest gap of each path between blocks and whole, in float64 on the grid of `dtype`."""
    grid = S.canonical_grid(dtype)
    N, period = record(grid, max(S.coarsest, grid.stride), rng, spikes(grid))
    expected = whole(S, np.float64, grid, N, period)
    gap = np.abs(by_blocks(S, np.float64, grid, N, period) - expected).max(axis=1)
    return gap / np.abs(expected).max(axis=1)


TOLERANCE = {np.float32: 1e-5, np.float64: 1e-10}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("spikes", SPIKES.values(), ids=SPIKES)
@pytest.mark.parametrize("p", CASES, ids=str)
def test_no_seam_shows_in_any_path(p, spikes, dtype, rng):
    assert seam(Scattering1D(**p), dtype, spikes, rng).max() <= TOLERANCE[dtype]


# Second wavelets that lie above the bandwidth of the first leave paths nearly empty, 1e-4 of the
# others; against so little the tail of a large spike counts most.
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_no_seam_shows_in_paths_that_are_nearly_empty(dtype, rng):
    S = Scattering1D(6, Q=(12, 3))
    assert seam(S, dtype, SPIKES["spike-at-wrap"], rng).max() <= TOLERANCE[dtype]


@pytest.mark.parametrize("spikes", SPIKES.values(), ids=SPIKES)
@pytest.mark.parametrize("p", [*CASES, {"J": 6, "Q": (12, 3)}], ids=str)
def test_float32_adds_only_its_rounding_to_a_seam(p, spikes, rng):
    # Rounding is relative to the largest values, and shows in paths that are nearly empty.
    S = Scattering1D(**p)
    grid = S.canonical_grid(np.float32)
    N, period = record(grid, max(S.coarsest, grid.stride), rng, spikes(grid))
    expected, blocks = (f(S, np.float32, grid, N, period) for f in (whole, by_blocks))
    peak = np.abs(expected).max(axis=1)
    assert np.all(np.abs(blocks - expected).max(axis=1) <= 1e-5 * peak + 1e-7 * peak.max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_block_gives_the_same_bits_whatever_lies_beyond_its_halo(dtype, rng):
    S = Scattering1D(6, Q=4)
    grid = S.canonical_grid(dtype)
    plan = S.plan((grid.length,), dtype, "periodic")
    slabs = rng.standard_normal((3, grid.length)).astype(dtype)
    together = plan.apply(slabs)
    for i in range(3):
        np.testing.assert_array_equal(plan.apply(slabs[i]), together[i])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "p",
    [{"J": 10, "Q": (1, 1), "T": 300, "stride": 64}, {"J": 8, "Q": (2, 1), "T": 1024}],
    ids=str,
)
def test_blocks_match_the_reference_backend_on_a_whole_record_with_a_short_tail(p, dtype, rng):
    # The record is extended once; benchmarks/seams.py does the same for 2^24 samples and J = 16.
    S = Scattering1D(**p)
    grid, unit = S.canonical_grid(dtype), 2 ** max(S.J, S.log2_stride)
    tiles = Tiles(2 * grid.block + 3 * grid.stride // 2 + 1, grid.block, grid.halo, grid.stride)
    x = rng.standard_normal(tiles.n)
    x[[grid.block - 1, grid.block + grid.halo]] = 1000.0
    plan = S.canonical_plan(dtype)
    kept = []
    for k in range(tiles.count):
        samples = [run.first + run.step * np.arange(run.count) for run in tiles.runs(k)]
        kept.append(plan.apply(x[np.concatenate(samples)].astype(dtype))[:, tiles.keep])
    found = np.concatenate(kept, axis=1)[:, : tiles.windows]
    far = unit * math.ceil(17 * max(2**S.J, S.window) / unit)
    padded = np.pad(x, (far, far + -tiles.n % unit), mode="reflect")
    plain = dataclasses.replace(S, backend="plain")
    expected = plain.plan(padded.shape, np.float64, "periodic").apply(padded)
    expected = expected[:, far // grid.stride :][:, : tiles.windows]
    gap = np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)
    assert gap.max() <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("p", CASES, ids=str)
def test_filters_end_within_the_halo_as_they_are_measured_in_time(p, dtype):
    # A slow twin: the joint envelope of the two widest wavelets and the average, sample by sample.
    S = Scattering1D(**p)
    grid = S.canonical_grid(dtype)
    N = 8 * 2 ** math.ceil(math.log2(grid.halo))
    layers = [min(layer, key=lambda scale: scale.sigma) for layer in S.scales()][: S.max_order]
    bands = [morlet_1d(N, scale.xi, scale.sigma) for scale in layers]
    moduli = [np.abs(np.fft.ifft(b.dense())) for b in (*bands, lowpass_1d(N, SIGMA0 / S.window))]
    joint = np.fft.ifft(np.prod([np.fft.fft(m) for m in moduli], axis=0)).real
    joint = np.maximum(joint, 0) / joint.max()
    assert joint[grid.halo : N // 2].max() <= 1.01 * grid.tolerance
    assert joint[: math.floor(grid.reach)].min() >= 0.9 * grid.tolerance
