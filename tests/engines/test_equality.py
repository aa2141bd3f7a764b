"""The fast backend against the plain one, over parameters, shapes, layouts and precisions."""

from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scatflow import HarmonicScattering3D, Scattering1D, Scattering2D
from scatflow.backends import lane_program, program
from scatflow.engines.plan import PLANS
from scatflow.wavelets import solid_harmonic

TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
"""Relative L2 distance."""

dtypes = st.sampled_from([np.float32, np.float64])
batches = st.sampled_from([(), (1,), (3,), (2, 2), (17,)])
layouts = st.sampled_from(["plain", "reversed", "strided", "offset"])


def array(rng, shape, dtype, layout):
    """Noise in memory of some layout."""
    if layout == "strided":
        x = rng.standard_normal((*shape[:-1], 2 * shape[-1])).astype(dtype)[..., ::2]
    elif layout == "reversed":
        x = rng.standard_normal(shape).astype(dtype)[..., ::-1]
    elif layout == "offset":
        size = int(np.prod(shape))
        x = rng.standard_normal(size + 1).astype(dtype)[1:].reshape(shape)
    else:
        x = rng.standard_normal(shape).astype(dtype)
    return x


def distance(kind, parameters, x):
    fast = kind(**parameters, backend="numpy")(x)
    # The reference is computed in double precision, so that its own rounding does not count.
    plain = kind(**parameters, backend="plain")(x.astype(np.float64))
    assert fast.dtype == x.dtype
    assert fast.shape == plain.shape
    return np.linalg.norm(fast - plain) / np.linalg.norm(plain)


@contextmanager
def route(which):
    """Transform as is best, one path at a time, or verb by verb."""
    with pytest.MonkeyPatch.context() as patch:
        if which != "best":  # as large images are done, and signals where MKL leads
            for bound in ("SMALL", "LARGEST", "LONG", "LONGEST"):
                patch.setattr(lane_program, bound, 0)
        if which == "verbs":  # as without MKL, or where lengths have large factors
            patch.setattr(lane_program, "compile_tree", lambda *_: None)
            patch.setattr(program, "compile_tree", lambda *_: None)
        PLANS.clear()
        yield
        PLANS.clear()


@pytest.mark.parametrize("which", ["best", "paths", "verbs"])
@given(
    J=st.integers(1, 6),
    Q=st.tuples(st.integers(1, 9), st.integers(1, 3)),
    more=st.integers(0, 700),
    order=st.sampled_from([1, 2, 2]),
    averaging=st.sampled_from(["default", "global", "stride", "long"]),
    batch=batches,
    layout=layouts,
    dtype=dtypes,
    seed=st.integers(0, 2**32 - 1),
)
def test_signals(which, J, Q, more, order, averaging, batch, layout, dtype, seed):
    N = 2**J + more
    options = {
        "default": {},
        "global": {"T": "global"},
        "stride": {"stride": 1},
        "long": {"T": min(3 * 2**J, N)},
    }[averaging]
    parameters = {"J": J, "shape": N, "Q": Q, "max_order": order, **options}
    x = array(np.random.default_rng(seed), (*batch, N), dtype, layout)
    with route(which):
        assert distance(Scattering1D, parameters, x) <= TOLERANCE[np.dtype(dtype).name]


@pytest.mark.parametrize("which", ["best", "paths", "verbs"])
@given(
    J=st.integers(1, 3),
    L=st.integers(1, 5),
    more=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    order=st.sampled_from([1, 2, 2]),
    pyramid=st.sampled_from(["scatnet", "fold"]),
    batch=batches,
    layout=layouts,
    dtype=dtypes,
    seed=st.integers(0, 2**32 - 1),
)
def test_images(which, J, L, more, order, pyramid, batch, layout, dtype, seed):
    shape = tuple(2**J + n for n in more)
    parameters = {"J": J, "shape": shape, "L": L, "max_order": order, "pyramid": pyramid}
    x = array(np.random.default_rng(seed), (*batch, *shape), dtype, layout)
    with route(which):
        assert distance(Scattering2D, parameters, x) <= TOLERANCE[np.dtype(dtype).name]


@pytest.mark.parametrize("published", [True, False])
@given(
    J=st.integers(0, 1),
    L=st.integers(0, 3),
    shape=st.tuples(*[st.integers(6, 17)] * 3),
    sigma_0=st.sampled_from([1.0, 1.3, 2.5]),
    covariant=st.booleans(),
    dtype=dtypes,
    seed=st.integers(0, 2**32 - 1),
)
def test_volumes(published, J, L, shape, sigma_0, covariant, dtype, seed):
    parameters = {
        "J": J,
        "shape": shape,
        "L": L,
        "sigma_0": sigma_0,
        "rotation_covariant": covariant,
    }
    x = np.random.default_rng(seed).standard_normal((2, *shape)).astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        if not published:  # as large volumes have them
            patch.setattr(solid_harmonic, "PUBLISHED_VOXELS", 0)
        PLANS.clear()
        far = distance(HarmonicScattering3D, parameters, x)
        PLANS.clear()
    # What lies below a millionth of a filter's peak at the Nyquist planes is treated otherwise.
    assert far <= max(TOLERANCE[np.dtype(dtype).name], 1e-9)


def test_signals_that_are_averaged_are_one_call():
    assert Scattering1D(4, 256, Q=4).plan().program is not None
    assert Scattering1D(4, 256, T="global").plan().program is None


def test_images_are_one_call():
    assert Scattering2D(2, (32, 32)).plan().program is not None


@given(
    L=st.integers(1, 9),
    shape=st.tuples(st.integers(4, 30), st.integers(4, 30)),
    count=st.integers(1, 40),
    some=st.tuples(st.integers(0, 39), st.integers(1, 40)),
    dtype=dtypes,
    seed=st.integers(0, 2**32 - 1),
)
def test_an_image_s_bits_do_not_depend_on_its_companions(L, shape, count, some, dtype, seed):
    S = Scattering2D(2, shape, L)
    x = np.random.default_rng(seed).standard_normal((count, *shape)).astype(dtype)
    y = S(x)
    first, more = some[0] % count, some[1]
    np.testing.assert_array_equal(S(x[first : first + more]), y[first : first + more])
    x[first] = np.nan
    others = np.arange(count) != first
    np.testing.assert_array_equal(S(x)[others], y[others])


@given(
    J=st.integers(1, 4),
    L=st.integers(1, 6),
    blocks=st.tuples(st.integers(1, 3), st.integers(1, 6)),
    count=st.integers(1, 9),
    dtype=dtypes,
    seed=st.integers(0, 2**32 - 1),
)
def test_grids_of_a_few_rows_know_nothing_of_other_grids(J, L, blocks, count, dtype, seed):
    shape = (blocks[0] * 2**J, blocks[1] * 2**J)
    plan = Scattering2D(J, shape, L).plan(dtype=dtype, boundary="periodic")
    plain = Scattering2D(J, shape, L, backend="plain").plan(dtype="float64", boundary="periodic")
    x = np.random.default_rng(seed).standard_normal((count, *shape)).astype(dtype)
    y = plan.apply(x)
    true = plain.apply(x.astype(np.float64))
    assert np.linalg.norm(y - true) <= TOLERANCE[np.dtype(dtype).name] * np.linalg.norm(true)
    np.testing.assert_array_equal(np.concatenate([plan.apply(image[None]) for image in x]), y)
    plan.apply(np.full_like(x, np.nan))
    np.testing.assert_array_equal(plan.apply(x), y)
