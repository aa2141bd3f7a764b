"""Signals in lanes, with or without MKL: equal to the reference, and each for itself."""

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scatflow import Scattering1D
from scatflow.backends import codelets, lane_program
from scatflow.backends import program as programs
from scatflow.engines.plan import PLANS

TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
"""Relative L2 distance."""

dtypes = st.sampled_from(["float32", "float64"])


@pytest.fixture(autouse=True, scope="module")
def without_mkl():
    """Let no length be MKL's, and every transform be worth a thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "WORTH_A_THREAD", 0)
        patch.setattr(lane_program.fft, "by_mkl", lambda _: False)
        PLANS.clear()
        yield
    PLANS.clear()


def compiled(plan):
    return lane_program.compile_tree(plan.tree, plan.shape, plan.before, plan.dtype)


def transformed(plan, program, x, threads=1):
    out = np.empty((len(x), *plan.labelled_shape), plan.dtype)
    program(x, out, threads)
    return out


@given(
    J=st.integers(1, 5), Q=st.tuples(st.integers(1, 17), st.integers(1, 3)),
    m=st.integers(1, 70).filter(codelets.splits), more=st.integers(1, 2),
    T=st.sampled_from([1, 1.5, 2]), stride=st.integers(0, 5), order=st.sampled_from([1, 2, 2]),
    batch=st.integers(1, 40), dtype=dtypes, seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_periodic_signals_of_any_factors(J, Q, m, more, T, stride, order, batch, dtype, seed):
    S = {
        name: Scattering1D(J, Q=Q, T=T * 2**J, stride=2 ** min(stride, J), max_order=order,
                           backend=name)
        for name in ("numpy", "plain")
    }  # fmt: skip
    n = 2 ** (J + more) * m
    plan = S["numpy"].plan((n,), np.dtype(dtype), "periodic")
    x = np.random.default_rng(seed).standard_normal((batch, n))
    y = transformed(plan, compiled(plan), x.astype(dtype))
    plain = S["plain"].plan((n,), np.float64, "periodic").apply(x.astype(dtype).astype(float))
    far = np.linalg.norm(y - plain.reshape(y.shape)) / np.linalg.norm(plain)
    assert far <= TOLERANCE[dtype]


@lru_cache
def example(J, Q, shape, dtype):
    """A plan, its program, signals, and their coefficients."""
    plan = Scattering1D(J, shape, Q).plan(dtype=np.dtype(dtype))
    program = compiled(plan)
    x = np.random.default_rng(0).standard_normal((40, shape)).astype(dtype)
    return plan, program, x, transformed(plan, program, x)


examples = st.sampled_from([(3, 1, 37), (4, 4, 256), (5, (9, 2), 500)])


@given(examples, dtypes, st.lists(st.integers(0, 39), min_size=1, max_size=40), st.integers(1, 4))
def test_a_signal_s_bits_depend_on_nothing_but_the_signal(which, dtype, company, threads):
    plan, program, x, y = example(*which, dtype)
    np.testing.assert_array_equal(transformed(plan, program, x[company], threads), y[company])


@given(examples, dtypes, st.integers(0, 39), st.sampled_from([np.nan, np.inf, 1e30]))
def test_a_lane_knows_nothing_of_the_others(which, dtype, spoilt, value):
    plan, program, x, y = example(*which, dtype)
    bad = x.copy()
    bad[spoilt] = value
    others = np.arange(len(x)) != spoilt
    np.testing.assert_array_equal(transformed(plan, program, bad)[others], y[others])


@given(st.integers(1, 9), st.sampled_from([1, 2, 4, 8, 12]), st.integers(1, 2**12), dtypes)
def test_what_is_in_flight_is_at_most_eight_times_the_signals(J, Q, more, dtype):
    plan = Scattering1D(J, 2**J + more, Q).plan(dtype=np.dtype(dtype))
    program = compiled(plan)
    signals = program.at_once * plan.padded[0] * plan.dtype.itemsize
    assert program.at_once * plan.dtype.itemsize == codelets.VECTOR_BYTES
    assert program.working_bytes <= 8 * signals + 2**14


def test_long_signals_are_in_lanes_where_their_wavelets_fill_them():
    def served(Q, length):
        return compiled(Scattering1D(4, Q=Q).plan((length,), np.float32, "periodic")) is not None

    assert served(1, lane_program.LONG)
    assert not served(1, 2 * lane_program.LONG)
    assert served(16, lane_program.LONGEST)
    assert not served(16, 2 * lane_program.LONGEST)


def test_what_mkl_serves_is_not_in_lanes_where_it_leads(monkeypatch):
    table = lane_program._Signals(np.dtype(np.float32))
    monkeypatch.setattr(lane_program.fft, "by_mkl", lambda _: True)
    monkeypatch.setattr(lane_program.fft, "AT_HOME", False)
    assert table.suits([(256,)], [4])
    monkeypatch.setattr(lane_program.fft, "AT_HOME", True)
    assert not table.suits([(256,)], [4])
    monkeypatch.setattr(lane_program.fft, "by_mkl", lambda grid: grid[0] % 19 != 0)
    assert table.suits([(76,), (38,), (19,)], [4])


@pytest.mark.parametrize(
    ("processor", "wanted", "leads"),
    [("znver5", "", False), ("znver5", "mkl", True), ("sapphirerapids", "", True)],
)
def test_mkl_leads_on_processors_of_its_maker_or_if_asked_for(
    monkeypatch, processor, wanted, leads
):
    fft = lane_program.fft
    monkeypatch.setattr(fft.llvmlite.binding, "get_host_cpu_name", lambda: processor)
    monkeypatch.setenv(fft.VARIABLE, wanted)
    assert fft._at_home() is leads
