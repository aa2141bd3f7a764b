"""What must hold for any signal: covariance, contraction, homogeneity, energy, symmetry."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scatflow import HarmonicScattering3D, Scattering1D, Scattering2D
from scatflow.engines.scattering2d import wavelet
from scatflow.wavelets.morlet import lowpass_1d, lowpass_2d, morlet_1d
from scatflow.wavelets.scales import SIGMA0

ENGINES = [
    Scattering1D(4, 256, Q=(4, 1)),
    Scattering1D(5, 300, Q=1, T=20, stride=4),
    Scattering2D(2, (32, 24), L=4),
    Scattering2D(2, (21, 30), L=3, pyramid="fold"),
    HarmonicScattering3D(1, (12, 11, 10), L=2, integral_powers=(1.0, 2.0)),
]
PERIODS = {1: (512,), 2: (48, 64), 3: (12, 11, 10)}

engines = pytest.mark.parametrize("S", ENGINES, ids=lambda S: f"{S.kind}-{S.shape}")


def periodic(S, x):
    return S.plan(x.shape[x.ndim - S.ndim :], x.dtype, "periodic").apply(x)


def error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


# --- translation -----------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.integers(1, 6), st.integers(1, 8), st.integers(-40, 40), st.integers(0, 2**32))
def test_moduli_of_a_periodic_signal_move_with_it(J, Q, steps, seed):
    S = Scattering1D(J, Q=Q, T=0, out_type="list")
    N = S.coarsest * math.ceil(300 / S.coarsest)
    x = np.random.default_rng(seed).standard_normal(N)
    plan = S.plan((N,), np.float64, "periodic")
    here, there = plan.apply_ragged(x), plan.apply_ragged(np.roll(x, steps * S.coarsest))
    for u, moved in zip(here, there, strict=True):
        assert error(moved, np.roll(u, steps * S.coarsest * u.size // N)) < 1e-12


def test_moduli_away_from_the_borders_move_with_the_signal(rng):
    S = Scattering1D(3, 2048, Q=2, T=0, out_type="dict")
    record = np.zeros(4096)
    record[1800:2200] = rng.standard_normal(400)
    here, there = S(record[1024:3072]), S(record[1024 - 8 * 5 : 3072 - 8 * 5])
    for key, u in here.items():
        steps = 40 * u.size // 2048
        np.testing.assert_allclose(there[key], np.roll(u, steps), atol=1e-12)


@settings(max_examples=15)
@given(
    st.integers(1, 3),
    st.sampled_from(["scatnet", "fold"]),
    st.integers(-9, 9),
    st.integers(-9, 9),
    st.integers(0, 2**32),
)
def test_coefficients_of_a_periodic_image_move_with_it(J, pyramid, down, right, seed):
    S = Scattering2D(J, L=3, pyramid=pyramid)
    x = np.random.default_rng(seed).standard_normal((4 * 2**J, 5 * 2**J))
    moved = np.roll(x, (down * 2**J, right * 2**J), axis=(0, 1))
    assert error(periodic(S, moved), np.roll(periodic(S, x), (down, right), axis=(1, 2))) < 1e-12


@settings(max_examples=15)
@given(st.tuples(*[st.integers(-20, 20)] * 3), st.floats(0.8, 3), st.integers(0, 2**32))
def test_integrals_over_a_volume_do_not_see_a_circular_shift(shift, sigma_0, seed):
    S = HarmonicScattering3D(1, L=2, sigma_0=sigma_0)
    x = np.random.default_rng(seed).standard_normal((12, 9, 10))
    assert error(S(np.roll(x, shift, axis=(0, 1, 2))), S(x)) < 1e-12


# --- homogeneity -----------------------------------------------------------------------------


@engines
@pytest.mark.parametrize("factor", [2.0**-7, 1024.0, -2.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_powers_of_two_factor_out_to_the_bit(S, factor, dtype, rng):
    x = rng.standard_normal(S.shape).astype(dtype)
    y, scaled = S(x), S(x * dtype(factor))
    weights = np.full(y.shape, abs(factor), dtype)
    if S.ndim == 3:
        weights[..., 1] = factor**2  # the integral of the second power
    else:
        weights[0] = factor  # order 0 is linear
    np.testing.assert_array_equal(scaled, y * weights)


@engines
@pytest.mark.parametrize("backend", ["numpy", "plain"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_squares_that_leave_the_range_of_floating_point_cost_no_digit(S, backend, dtype, rng):
    S = replace(S, backend=backend)
    x = rng.standard_normal((3, *S.shape)).astype(dtype)
    expected = S(x)
    most = np.finfo(dtype).maxexp
    for k in (-most + 25, -most // 2, most // 3, most // 2 - 10):
        far = x.copy()
        far[1:] = np.ldexp(far[1:], k)  # the first signal has ordinary company
        powers = np.array([1.0, 2.0]) if S.ndim == 3 else np.array(1.0)
        with np.errstate(under="ignore"):
            true = expected[1:] * np.exp2(k * powers)
            assert np.isfinite(true).all()
            np.testing.assert_allclose(S(far)[1:], true, rtol=1e-5, atol=np.finfo(dtype).tiny)
        np.testing.assert_array_equal(S(far)[0], expected[0])


@pytest.mark.parametrize(("dtype", "exponent"), [(np.float32, 80), (np.float64, 600)])
@pytest.mark.parametrize("backend", ["numpy", "plain"])
def test_what_is_zero_of_a_huge_volume_is_zero(dtype, exponent, backend):
    S = HarmonicScattering3D(1, (8, 8, 8), 1, integral_powers=(0.5, 2.0, 9.0), backend=backend)
    one = np.ones((8, 8, 8), dtype)
    ordinary, huge = S(one), S(np.ldexp(one, exponent))
    assert (ordinary == 0.0).any()
    np.testing.assert_array_equal(huge == 0.0, ordinary == 0.0)
    assert not np.isnan(huge).any()
    roots = np.ldexp(ordinary[..., 0], exponent // 2)
    np.testing.assert_allclose(huge[..., 0], roots, rtol=4 * np.finfo(dtype).eps)


def test_moduli_of_faint_signals_keep_their_digits(rng):
    S = Scattering1D(4, 256, T=0, out_type="list")
    x = rng.standard_normal(256).astype(np.float32)
    for faint, path in zip(S(np.ldexp(x, -90)), S(x), strict=True):
        np.testing.assert_array_equal(faint["coef"], np.ldexp(path["coef"], -90))


@engines
def test_any_factor_comes_out_as_its_modulus(S, rng):
    x = rng.standard_normal(S.shape)
    rows = S.meta()["order"] > 0
    y, scaled = S(x)[rows], S(-0.3 * x)[rows]
    power = np.array([1, 2]) if S.ndim == 3 else 1
    np.testing.assert_allclose(scaled, 0.3**power * y, rtol=1e-10, atol=1e-12)


# --- contraction and energy ------------------------------------------------------------------


def frame_bound(filters):
    """Bound ``sum |x * psi|^2 <= B |x|^2`` for real x, decimation of the outputs included.

    Each output's energy, weighted by its decimation, is at most that of x times the filter's
    aliased power (Cauchy-Schwarz over the aliases); a real x has as much at -f as at f.
    """
    total = 0.0
    for f, k in filters:
        power = f**2
        for axis, n in enumerate(f.shape):
            folded = np.moveaxis(power, axis, -1)
            folded = folded.reshape(*folded.shape[:-1], 2**k, n // 2**k).sum(axis=-2)
            power = np.moveaxis(np.concatenate([folded] * 2**k, axis=-1), -1, axis)
        mirrored = power
        for axis in range(power.ndim):
            mirrored = np.roll(np.flip(mirrored, axis), 1, axis)
        total = total + (power + mirrored) / 2
    return total.max()


def fold(f, k):
    """A filter as a signal decimated by 2^k sees it."""
    for axis, n in enumerate(f.shape):
        f = f.reshape(*f.shape[:axis], 2**k, n // 2**k, *f.shape[axis + 1 :]).sum(axis=axis)
    return f


def bound_of(S):
    """Bound the energy of all coefficients by that of the signal, stage by stage.

    Layer 1 with the low-pass gives at most ``one`` times the energy of x, layer 2 with the
    low-pass at most ``two`` times that of U1, the last low-pass at most ``three`` times that
    of U2; the modulus changes no energy and brings signals no farther apart.
    """
    shape = PERIODS[S.ndim]
    if S.ndim == 1:
        (N,), s = shape, S.log2_stride
        phi = lowpass_1d(N, SIGMA0 / S.window).dense()
        first, second = (
            [(morlet_1d(N, p.xi, p.sigma).dense(), min(p.j, s)) for p in scales]
            for scales in S.scales()
        )
    else:
        s = S.J
        phi = np.multiply.outer(*lowpass_2d(shape, 0.8 * 2 ** (S.J - 1)))
        first = second = [
            (wavelet(S, shape, j, theta), j) for j in range(S.J) for theta in range(S.L)
        ]
    one = frame_bound([(phi, s), *first])
    two = max(
        frame_bound([(fold(f, k), down - k) for f, down in [(phi, s), *second] if down >= k])
        for k in {k for _, k in first}
    )
    three = frame_bound([(phi, s)])
    return one * max(two, 1) * max(three, 1)


def energy(S, x):
    """Energy of the coefficients, weighted by the samples that each stands for."""
    y = periodic(S, x)
    return np.sum(y**2) * (x.size / math.prod(y.shape[-S.ndim :]))


FRAMES = [
    Scattering1D(5, Q=8),
    Scattering1D(4, Q=(3, 2), stride=1),
    Scattering1D(4, Q=1, T=40, stride=8),
    Scattering1D(6, Q=1, max_order=1),
    Scattering2D(2, L=4, pyramid="fold"),
    Scattering2D(3, L=6, pyramid="fold"),
]


@pytest.mark.parametrize("S", FRAMES, ids=repr)
def test_coefficients_hold_no_more_energy_than_the_littlewood_paley_sum_allows(S, rng):
    bound = bound_of(S)
    for x in (rng.standard_normal(PERIODS[S.ndim]), np.ones(PERIODS[S.ndim])):
        assert energy(S, x) <= bound * np.sum(x**2) * (1 + 1e-9)


@pytest.mark.parametrize("S", FRAMES, ids=repr)
def test_coefficients_of_two_signals_are_no_farther_apart_than_the_signals(S, rng):
    bound = bound_of(S)
    shape = PERIODS[S.ndim]
    x = rng.standard_normal(shape)
    for size in (1e-6, 1.0, 1e3):
        y = x + size * rng.standard_normal(shape)
        gap = periodic(S, x) - periodic(S, y)
        distance = np.sum(gap**2) * (x.size / math.prod(gap.shape[-S.ndim :]))
        assert distance <= bound * np.sum((x - y) ** 2) * (1 + 1e-9)


def test_a_bank_of_one_wavelet_per_octave_leaves_no_frequency_out():
    N, J = 2048, 6
    S = Scattering1D(J)
    phi = lowpass_1d(N, SIGMA0 / 2**J).dense()
    first = [morlet_1d(N, p.xi, p.sigma).dense() for p in S.scales()[0]]
    total = phi**2 + sum((f**2 + np.roll(f[::-1], 1) ** 2) / 2 for f in first)
    assert 0.15 < total.min() < total.max() < 1.2


@settings(max_examples=15)
@given(st.floats(0.8, 3), st.booleans(), st.integers(0, 2**32))
def test_moduli_of_volumes_are_subadditive(sigma_0, covariant, seed):
    # |U x - U y| <= U(x - y) voxel by voxel, the triangle inequality over m.
    S = HarmonicScattering3D(
        1, L=2, sigma_0=sigma_0, rotation_covariant=covariant, max_order=1, integral_powers=(1.0,)
    )
    x, y = np.random.default_rng(seed).standard_normal((2, 9, 10, 8))
    assert np.all(np.abs(S(x) - S(y)) <= S(x - y) * (1 + 1e-6))


@pytest.mark.parametrize("shape", [(9, 11, 13), (10, 12, 8)])
def test_squared_integrals_are_the_spectrum_weighted_by_the_radial_profile(shape, rng):
    # Parseval and Unsoeld: sum over m of |Y_lm|^2 is (2 l + 1) / 4 pi in every direction.
    sigma_0, J, L = 2.5, 1, 3
    S = HarmonicScattering3D(J, shape, L=L, sigma_0=sigma_0, max_order=1, integral_powers=(2.0,))
    x = rng.standard_normal(shape)
    grid = np.meshgrid(*(2 * np.pi * np.fft.fftfreq(n) for n in shape), indexing="ij")
    power = np.abs(np.fft.fftn(x)) ** 2 / x.size
    # c_l of the formulas for l = 0 ... 3; degree 0 is a plain Gaussian.
    c = [0, 1 / (4 * math.sqrt(3 * math.pi)), 1 / (6 * math.pi * math.sqrt(2.5)),
         1 / (16 * math.sqrt(7 * math.pi))]  # fmt: skip
    for j, l in itertools.product(range(J + 1), range(L + 1)):
        r = np.sqrt(sum(w**2 for w in grid)) * sigma_0 * 2**j
        peak = c[l] ** 2 * (2 * np.pi) ** 3 * (2 * l + 1) / (4 * np.pi) if l else 1.0
        expected = np.sum(power * peak * r ** (2 * l) * np.exp(-(r**2)))
        assert S(x)[j, l, 0] == pytest.approx(expected, rel=1e-9)


# --- rotation and reflection -----------------------------------------------------------------


def quarter_turn(x):
    """Rotate the last two axes about pixel (0, 0) of a periodic grid: x'(u, v) = x(v, -u)."""
    return np.roll(np.flip(np.swapaxes(x, -1, -2), -2), 1, -2)


def turned_rows(S):
    """Rows of the path axis after a quarter turn.

    x'(u, v) = x(R (u, v)) with R(u, v) = (v, -u), so psi of angle a acts on x' as psi of angle
    a - pi/2 acts on x. Angles fall with their number, pi/L a step: theta becomes theta + L/2,
    modulo L because psi of angle a + pi is the conjugate.
    """
    row = {key: i for i, key in enumerate(S.meta()["key"])}

    def turn(n):
        return n // S.L * S.L + (n % S.L + S.L // 2) % S.L

    return [row[tuple(turn(n) for n in key)] for key in row]


def test_a_quarter_turn_of_the_test_image_is_a_quarter_turn():
    x = np.arange(16.0).reshape(4, 4)
    turned = quarter_turn(x)
    assert all(turned[u, v] == x[v, -u % 4] for u in range(4) for v in range(4))


def turn_error(S, rng):
    x = rng.standard_normal((48, 48))
    expected = quarter_turn(periodic(S, x)[turned_rows(S)])
    return error(periodic(S, quarter_turn(x)), expected)


# Up to J = 2 the scatnet pyramid masks no filter but the low-pass, which is symmetric.
@pytest.mark.parametrize(
    ("J", "L", "pyramid"), [(1, 4, "scatnet"), (2, 4, "scatnet"), (2, 4, "fold"), (3, 6, "fold")]
)
def test_a_quarter_turn_of_an_image_permutes_the_orientations(J, L, pyramid, rng):
    assert turn_error(Scattering2D(J, L=L, pyramid=pyramid), rng) < 1e-12


# ScatNet's mask keeps the decimated Nyquist bin on the negative side only: a turn moves what the
# wavelets of J >= 3 have there out of the mask (6e-5 on noise).
@pytest.mark.parametrize("L", [2, 6])
def test_deeper_scatnet_pyramids_turn_up_to_their_nyquist_bin(L, rng):
    assert 1e-9 < turn_error(Scattering2D(3, L=L, pyramid="scatnet"), rng) < 1e-3


def cube_rotations():
    """The 24 ways to turn a cube: axis permutations with signs, of determinant one."""
    for axes in itertools.permutations(range(3)):
        parity = np.linalg.det(np.eye(3)[list(axes)])
        for signs in itertools.product([1, -1], repeat=3):
            if parity * math.prod(signs) > 0:
                yield axes, signs


def turned(x, axes, signs):
    """Turn a periodic volume about voxel (0, 0, 0)."""
    x = np.transpose(x, axes)
    for axis, sign in enumerate(signs):
        if sign < 0:
            x = np.roll(np.flip(x, axis), 1, axis)
    return x


def worst_turn(S, x):
    expected = S(x)
    turns = list(cube_rotations())
    assert len(turns) == 24
    return max(error(S(turned(x, *turn)), expected) for turn in turns)


@pytest.mark.parametrize(("n", "sigma_0"), [(9, 1.0), (11, 1.5), (10, 2.5), (12, 3.0)])
def test_integrals_do_not_change_when_the_volume_is_turned(n, sigma_0, rng):
    S = HarmonicScattering3D(1, (n, n, n), L=3, sigma_0=sigma_0)
    assert worst_turn(S, rng.standard_normal((n, n, n))) < 1e-12


def test_filters_at_the_nyquist_planes_break_the_rotation_slightly(rng):
    # On an even grid the Nyquist bin has one sign; turning it over gives the other, which is not
    # on the grid. At sigma_0 = 1 filters are still 1 % of their peak there.
    S = HarmonicScattering3D(1, (10, 10, 10), L=3, sigma_0=1.0)
    assert 1e-9 < worst_turn(S, rng.standard_normal((10, 10, 10))) < 1e-3


def test_a_signal_played_backwards_gives_coefficients_backwards(rng):
    S = Scattering1D(5, Q=(4, 1))
    x = rng.standard_normal(640)

    def backwards(y):
        return np.roll(y[..., ::-1], 1, axis=-1)

    assert error(periodic(S, backwards(x)), backwards(periodic(S, x))) < 1e-12


def test_a_mirrored_image_exchanges_mirrored_orientations(rng):
    # v -> -v takes angle a to -a: theta to 2 c - theta, with c the number of angle 0.
    S = Scattering2D(2, L=6, pyramid="fold")
    x = rng.standard_normal((32, 48))
    row = {key: i for i, key in enumerate(S.meta()["key"])}
    centre = int(S.L - S.L / 2 - 1)

    def mirror(n):
        return n // S.L * S.L + (2 * centre - n % S.L) % S.L

    rows = [row[tuple(mirror(n) for n in key)] for key in row]
    flipped = np.roll(x[:, ::-1], 1, axis=1)
    expected = np.roll(periodic(S, x)[rows][..., ::-1], 1, axis=-1)
    assert error(periodic(S, flipped), expected) < 1e-12
