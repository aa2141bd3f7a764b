"""Densities of molecules."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scatflow import HarmonicScattering3D
from scatflow.molecules import generate_weighted_sum_of_gaussians

SHAPE = (12, 9, 10)


def around_zero(shape=SHAPE, dtype=np.float32):
    """The grid of Kymatio's examples: the origin is its first voxel."""
    grid = np.mgrid[tuple(slice(-(n // 2), n - n // 2) for n in shape)].astype(dtype)
    return np.fft.ifftshift(grid, axes=(1, 2, 3))


def directly(grid, positions, weights, sigma):
    """The formula, voxel by voxel and atom by atom."""
    out = np.zeros((*weights.shape[:-1], *grid.shape[1:]))
    for b in np.ndindex(*weights.shape):
        offset = grid.astype(float) - positions[b][:, None, None, None]
        gauss = np.exp(-(offset**2).sum(axis=0) / (2 * sigma**2))
        out[b[:-1]] += weights[b] * gauss / (2 * math.pi * sigma**2) ** 1.5
    return out


def test_one_gaussian_has_its_closed_form_and_its_mass():
    sigma, centre = 1.3, np.array([0.3, -0.2, 0.5])
    grid = around_zero((30, 28, 32))
    found = generate_weighted_sum_of_gaussians(grid, centre[None, None], np.array([[2.0]]), sigma)
    r2 = ((grid - centre[:, None, None, None]) ** 2).sum(axis=0)
    expected = 2 * np.exp(-r2 / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi)) ** 3
    np.testing.assert_allclose(found[0], expected, rtol=1e-12)
    assert found.dtype == np.float64
    assert found.sum() == pytest.approx(2, rel=1e-9)


@given(
    batch=st.sampled_from([(), (1,), (3,), (2, 2), (0,)]),
    atoms=st.integers(0, 6),
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    sigma=st.floats(0.4, 5),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_products_of_factors_are_the_sum(batch, atoms, shape, sigma, seed):
    rng = np.random.default_rng(seed)
    positions = rng.uniform(-4, 4, (*batch, atoms, 3))
    weights = rng.uniform(-1, 8, (*batch, atoms)) * rng.integers(0, 2, (*batch, atoms))
    grid = np.stack(np.meshgrid(*(rng.uniform(-5, 5, n) for n in shape), indexing="ij"))
    found = generate_weighted_sum_of_gaussians(grid, positions, weights, sigma)
    assert found.shape == (*batch, *shape)
    np.testing.assert_allclose(found, directly(grid, positions, weights, sigma), atol=1e-13)


def test_grids_of_any_form(rng):
    positions, weights = rng.standard_normal((2, 4, 3)), rng.uniform(1, 8, (2, 4))
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    turned = np.tensordot(turn, around_zero(), axes=1)
    found = generate_weighted_sum_of_gaussians(turned, positions, weights, 1.1)
    np.testing.assert_allclose(found, directly(turned, positions, weights, 1.1), atol=1e-14)
    # To turn the grid is to turn the molecule back.
    back = generate_weighted_sum_of_gaussians(around_zero(), positions @ turn, weights, 1.1)
    np.testing.assert_allclose(found, back, atol=1e-14)


def test_open_grids_are_the_same(rng):
    positions, weights = rng.standard_normal((1, 4, 3)), rng.uniform(1, 8, (1, 4))
    dense = generate_weighted_sum_of_gaussians(np.mgrid[:5, :6, :7], positions, weights, 1.0)
    thin = generate_weighted_sum_of_gaussians(np.ogrid[:5, :6, :7], positions, weights, 1.0)
    np.testing.assert_array_equal(dense, thin)


def test_the_numbers_are_kymatios(rng):
    from kymatio.scattering3d.utils import generate_weighted_sum_of_gaussians as theirs

    positions, weights = rng.uniform(-3, 3, (3, 5, 3)), rng.integers(1, 9, (3, 5)).astype("f4")
    weights[1, 3:] = 0  # a molecule of three atoms
    given = (around_zero(), positions, weights, 1.5)
    np.testing.assert_allclose(
        generate_weighted_sum_of_gaussians(*given), theirs(*given), rtol=1e-6, atol=1e-12
    )


def test_what_fills_a_batch_up_is_not_looked_at():
    positions = np.array([[[0.0, 0, 0], [np.nan, 0, 0], [1, 1, 1]]])
    found = generate_weighted_sum_of_gaussians(
        around_zero(), positions, np.array([[1.0, 0.0, 2.0]]), 1.0
    )
    kept = generate_weighted_sum_of_gaussians(
        around_zero(), positions[:, [0, 2]], np.array([[1.0, 2.0]]), 1.0
    )
    np.testing.assert_array_equal(found, kept)


@given(seed=st.integers(0, 99), order=st.permutations(range(4)))
def test_densities_are_linear_and_have_no_order(seed, order):
    rng = np.random.default_rng(seed)
    grid, positions = around_zero(), rng.uniform(-3, 3, (1, 4, 3))
    a, b = rng.uniform(0, 8, (2, 1, 4))

    def density(weights, where=positions):
        return generate_weighted_sum_of_gaussians(grid, where, weights, 1.2)

    np.testing.assert_allclose(density(a + b), density(a) + density(b), atol=1e-14)
    np.testing.assert_allclose(density(a[:, order], positions[:, order]), density(a), atol=1e-14)


@given(
    sigma=st.floats(0.3, 8),
    cell=st.tuples(*[st.floats(2, 12)] * 3),
    far=st.tuples(*[st.integers(-3, 3)] * 3),
)
@settings(max_examples=40)
def test_cells_sum_all_images(sigma, cell, far):
    grid, weights = around_zero((4, 5, 3)), np.array([[3.0]])
    centre = np.array([[[0.4, -0.3, 1.0]]])
    found = generate_weighted_sum_of_gaussians(grid, centre, weights, sigma, cell=cell)
    reach = [math.ceil(10 * sigma / length) + 1 for length in cell]
    expected = np.ones((4, 5, 3))
    for i, (length, n) in enumerate(zip(cell, reach, strict=True)):
        offset = grid[i].astype(float) - centre[0, 0, i]
        expected *= sum(
            np.exp(-((offset + k * length) ** 2) / (2 * sigma**2)) for k in range(-n, n + 1)
        )
    expected *= 3 / (2 * math.pi * sigma**2) ** 1.5
    np.testing.assert_allclose(found[0], expected, rtol=1e-9)
    moved = centre + np.array(far) * cell
    again = generate_weighted_sum_of_gaussians(grid, moved, weights, sigma, cell=cell)
    np.testing.assert_allclose(again, found, rtol=1e-9)


def test_a_periodic_density_moved_by_whole_voxels_has_the_same_coefficients():
    axes = np.ogrid[:8, :8, :8]
    positions = np.array([[[1.2, 3.0, 6.5], [7.9, 0.1, 4.0]]])
    weights = np.array([[6.0, 1.0]])
    density = [
        generate_weighted_sum_of_gaussians(axes, p, weights, 1.0, cell=(8, 8, 8))
        for p in (positions, positions + np.array([3, 1, 5]))
    ]
    np.testing.assert_allclose(np.roll(density[0], (3, 1, 5), (1, 2, 3)), density[1], atol=1e-14)
    S = HarmonicScattering3D(1, L=2)
    np.testing.assert_allclose(S(density[0]), S(density[1]), rtol=1e-9)


def test_memory_is_that_of_the_output_and_a_few_planes(rng):
    grid = np.ogrid[:64, :64, :64]
    positions, weights = rng.uniform(0, 64, (1, 500, 3)), np.ones((1, 500))
    tracemalloc.start()
    try:
        found = generate_weighted_sum_of_gaussians(grid, positions, weights, 2.0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < found.nbytes + 8 * 2**20


ONE = (around_zero((4, 4, 4)), np.zeros((1, 1, 3)), np.ones((1, 1)), 1.0)


@pytest.mark.parametrize(
    ("changed", "kind", "message"),
    [
        ({1: np.zeros((1, 2, 3))}, ValueError, r"shapes \(1, 2, 3\) and \(1, 1\)"),
        ({1: np.zeros((1, 1, 2))}, ValueError, "positions must be"),
        ({2: np.float64(1)}, ValueError, "positions must be"),
        ({0: np.zeros((2, 4, 4, 4))}, ValueError, "grid must be"),
        ({0: np.zeros((3, 4))}, ValueError, "grid must be"),
        ({1: np.zeros((1, 1, 3), complex)}, TypeError, "positions must be real"),
        ({3: 0.0}, ValueError, "sigma must be positive"),
        ({3: math.nan}, ValueError, "sigma must be positive"),
        ({4: (4, 4)}, ValueError, "cell must be three positive"),
        ({4: (4, 4, 0)}, ValueError, "cell must be three positive"),
    ],
)
def test_what_makes_no_sense_is_refused(changed, kind, message):
    given = dict(enumerate(ONE)) | changed
    with pytest.raises(kind, match=message):
        generate_weighted_sum_of_gaussians(*(given[i] for i in range(len(given))))
