"""Kymatio 0.3.0, live, as an oracle."""

import math
import warnings

import numpy as np
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from scatflow import HarmonicScattering3D, Scattering1D, Scattering2D

# Kymatio 0.3.0 imports a name that SciPy has dropped since.
scipy.special.sph_harm = lambda m, n, az, pol: scipy.special.sph_harm_y(n, m, pol, az)

import kymatio.numpy as kymatio  # noqa: E402


def quietly(call, *args, **options):
    """Kymatio's own warnings (supports too small, deprecations) are not ours to fix."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*args, **options)


def error(found, expected):
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / np.abs(expected).max()


@st.composite
def signals(draw, averaging):
    J = draw(st.integers(2, 6))
    N = draw(st.integers(2 ** (J + 1), 600))
    Q = draw(st.sampled_from([1, 2, 4, 8, (3, 1), (6, 2)]))
    return {"J": J, "shape": N, "Q": Q, "T": draw(averaging(N)), "max_order": draw(st.just(2))}


@settings(max_examples=20)
@given(
    signals(lambda N: st.one_of(st.none(), st.integers(1, N), st.floats(1, N))),
    st.integers(0, 2**32 - 1),
)
def test_averaged_signals_agree_with_kymatio(p, seed):
    x = np.random.default_rng(seed).standard_normal((2, p["shape"]))
    theirs = quietly(lambda: kymatio.Scattering1D(**p)(x))
    ours = Scattering1D(**p, scaling="kymatio-0.3")
    assert error(ours(x), theirs) < 1e-10


@settings(max_examples=15)
@given(
    signals(lambda N: st.one_of(st.none(), st.integers(1, N))),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)
def test_oversampled_signals_agree_with_kymatio(p, oversampling, seed):
    x = np.random.default_rng(seed).standard_normal(p["shape"])
    theirs = quietly(lambda: kymatio.Scattering1D(**p, oversampling=oversampling)(x))
    largest = math.floor(math.log2(p["T"] or 2 ** p["J"]))
    stride = 2 ** max(largest - oversampling, 0)
    assert error(Scattering1D(**p, stride=stride, scaling="kymatio-0.3")(x), theirs) < 1e-10


@settings(max_examples=10)
@given(signals(lambda _: st.just(0)), st.integers(0, 2**32 - 1))
def test_moduli_of_signals_agree_with_kymatio(p, seed):
    x = np.random.default_rng(seed).standard_normal((2, p["shape"]))
    theirs = quietly(lambda: kymatio.Scattering1D(**p, out_type="list")(x))
    ours = Scattering1D(**p, out_type="list", scaling="kymatio-0.3")(x)
    assert [path["n"] for path in ours] == [path["n"] for path in theirs]
    assert [path["j"] for path in ours] == [path["j"] for path in theirs]
    for mine, yours in zip(ours, theirs, strict=True):
        assert error(mine["coef"], yours["coef"]) < 1e-9


@settings(max_examples=10)
@given(signals(lambda _: st.none()), st.integers(0, 2**32 - 1))
def test_the_default_scaling_differs_from_kymatio_0_3_by_powers_of_two(p, seed):
    x = np.random.default_rng(seed).standard_normal(p["shape"])
    theirs = quietly(lambda: kymatio.Scattering1D(**p)(x))
    S = Scattering1D(**p)
    j1, j2 = np.nan_to_num(S.meta()["j"]).T
    order, J = S.meta()["order"], p["J"]
    k1, k2 = np.minimum(j1, J), np.minimum(j2, J)
    scale = 2.0 ** -np.where(order == 2, k1 + k2, k1)
    assert error(S(x) * scale[:, None], theirs) < 1e-10


@settings(max_examples=10)
@given(signals(lambda _: st.none()))
def test_meta_of_signals_agrees_with_kymatio(p):
    theirs = quietly(lambda: kymatio.Scattering1D(**p).meta())
    ours = Scattering1D(**p).meta()
    assert [tuple(k) for k in theirs["key"]] == ours["key"]
    for name in ("order", "n", "xi", "sigma", "j"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-12)


# Kymatio's 2D filters are single precision.
@settings(max_examples=12)
@given(
    st.integers(1, 3),
    st.integers(1, 6),
    st.tuples(st.integers(8, 50), st.integers(8, 50)),
    st.sampled_from([1, 2]),
    st.integers(0, 2**32 - 1),
)
def test_images_agree_with_kymatio(J, L, shape, max_order, seed):
    x = np.random.default_rng(seed).standard_normal((2, *shape))
    theirs = quietly(lambda: kymatio.Scattering2D(J, shape, L=L, max_order=max_order)(x))
    assert error(Scattering2D(J, shape, L=L, max_order=max_order)(x), theirs) < 1e-6


# Kymatio's volumes are float32 throughout. Its grid has no zero frequency along odd sides, so
# only even ones can be compared.
@settings(max_examples=12)
@given(
    st.integers(0, 2),
    st.integers(0, 3),
    st.tuples(*[st.sampled_from([8, 10, 12, 14])] * 3),
    st.floats(0.8, 2.0),
    st.booleans(),
    st.sampled_from([1, 2]),
    st.integers(0, 2**32 - 1),
)
def test_volumes_agree_with_kymatio(J, L, shape, sigma_0, covariant, max_order, seed):
    x = np.random.default_rng(seed).standard_normal((2, *shape))
    options = {
        "L": L,
        "sigma_0": sigma_0,
        "max_order": max_order,
        "rotation_covariant": covariant,
        "integral_powers": (0.5, 1.0, 2.0),
    }
    theirs = quietly(lambda: kymatio.HarmonicScattering3D(J, shape, **options)(x))
    ours = HarmonicScattering3D(J, shape, **options)(x)
    for power in range(3):
        assert error(ours[..., power], theirs[..., power]) < 4e-6


def test_kymatio_and_scatflow_agree_at_the_largest_scales_that_fit(rng):
    for N in (64, 100, 128):
        J = math.floor(math.log2(N))
        x = rng.standard_normal(N)
        theirs = quietly(lambda N=N, J=J, x=x: kymatio.Scattering1D(J, N, Q=2)(x))
        assert error(Scattering1D(J, N, Q=2, scaling="kymatio-0.3")(x), theirs) < 1e-10
