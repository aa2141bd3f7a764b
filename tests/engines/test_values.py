"""Engines are values; plans are shared, frozen and built once."""

import copy
import dataclasses
import json
import multiprocessing
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

import scatflow
from scatflow import (
    HarmonicScattering3D,
    Scattering1D,
    Scattering2D,
    TimeFrequencyScattering,
)
from scatflow.backends import bands, fft, program
from scatflow.backends.protocol import Lowpass
from scatflow.engines import engine_from_dict
from scatflow.engines.plan import PLANS, PlanCache
from scatflow.wavelets.morlet import morlet_1d

ENGINES = [
    Scattering1D(5),
    Scattering1D(5, 1024, Q=(8, 2), T=20.5, stride=4, max_order=1, out_type="dict"),
    Scattering1D(3, 64, T=0, out_type="list"),
    Scattering1D(3, 64, T="global", backend="numpy", scaling="kymatio-0.3"),
    Scattering2D(2, (32, 40), L=6, max_order=1, pyramid="fold"),
    Scattering2D(2, (32, 40), pre_pad=True, out_type="list"),
    HarmonicScattering3D(1, (8, 9, 10), L=2, sigma_0=1.5, rotation_covariant=False),
    HarmonicScattering3D(1, (8, 9, 10), method="local", points=((1, 2, 3), (4, 5, 6))),
    HarmonicScattering3D(0, integral_powers=(1.0,), method="standard"),
    TimeFrequencyScattering(4, 2, 3, 64),
    TimeFrequencyScattering(4, 2, (3, 2), T=20.5, stride=4, Q_fr=2, F=3.5, stride_fr=1),
    TimeFrequencyScattering(4, 2, 3, 64, T=0, F=0, out_type="list", format="joint"),
]

engines = pytest.mark.parametrize("S", ENGINES, ids=lambda S: f"{S.kind}-{ENGINES.index(S)}")


def coefficients(S, x):
    """The engine's output as arrays, in a process of its own or here."""
    y = S(x)
    parts = [path["coef"] for path in y] if isinstance(y, list) else y
    return list(parts.values()) if isinstance(parts, dict) else parts


# --- values ----------------------------------------------------------------------------------


@engines
def test_the_repr_of_an_engine_can_be_pasted(S):
    assert eval(repr(S), vars(scatflow)) == S


@engines
def test_copies_of_an_engine_are_equal_and_hash_alike(S):
    for copied in (pickle.loads(pickle.dumps(S)), copy.deepcopy(S), copy.copy(S)):
        assert copied == S
        assert hash(copied) == hash(S)


@engines
def test_an_engine_comes_back_from_its_dict_through_json(S):
    assert engine_from_dict(json.loads(json.dumps(S.to_dict()))) == S


def test_an_engine_pickles_as_its_parameters_however_often_it_was_used(rng):
    S = Scattering1D(5, 4096, Q=8)
    fresh = pickle.dumps(S)
    S(rng.standard_normal(4096))
    assert pickle.dumps(S) == fresh
    assert len(fresh) < 500


def test_engines_that_mean_the_same_are_equal():
    assert Scattering1D(5, 64, Q=8) == Scattering1D(5, (64,), Q=(8, 1))
    assert Scattering1D(np.int64(5), [64], T=20.0) == Scattering1D(5, 64, T=20)
    assert Scattering2D(2, [32, 32]) == Scattering2D(2, (32, 32))
    assert HarmonicScattering3D(1, sigma_0=1) == HarmonicScattering3D(1, sigma_0=1.0)
    assert len({Scattering1D(5), Scattering1D(5), Scattering1D(6)}) == 2


def test_engines_of_different_parameters_or_kinds_differ():
    assert Scattering1D(5) != Scattering1D(5, scaling="kymatio-0.3")
    assert Scattering2D(2) != Scattering2D(2, pyramid="fold")
    assert Scattering2D(2) != HarmonicScattering3D(2)


@engines
def test_an_engine_never_changes(S):
    with pytest.raises(dataclasses.FrozenInstanceError):
        S.J = 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        S.something_new = 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        del S.J


def test_a_plan_never_changes():
    plan = Scattering1D(3, 64).plan()
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.shape = (65,)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.tree.layers = ()


# Engines of unusual parameters, so that no other test meets a table that was written to.
@pytest.mark.parametrize(
    "S",
    [Scattering1D(2, 91, Q=3), Scattering2D(1, (9, 8), L=3), HarmonicScattering3D(1, L=5)],
    ids=lambda S: S.kind,
)
def test_what_meta_returns_can_be_written_to_without_harm(S):
    before = S.meta()["order"].copy()
    for values in S.meta().values():
        if isinstance(values, np.ndarray):
            values[...] = 7
    np.testing.assert_array_equal(S.meta()["order"], before)


def test_a_spawned_process_computes_the_same_bytes(rng):
    jobs = [
        (ENGINES[1], rng.standard_normal((2, 1024)).astype(np.float32)),
        (ENGINES[4], rng.standard_normal((32, 40))),
        (ENGINES[6], rng.standard_normal((8, 9, 10))),
    ]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.starmap(ENGINES_CALL, jobs)
    for (S, x), y in zip(jobs, there, strict=True):
        for mine, yours in zip(coefficients(S, x), _parts(y), strict=True):
            np.testing.assert_array_equal(mine, yours)


ENGINES_CALL = scatflow.engines.Engine.__call__  # importable wherever scatflow is


def _parts(y):
    return list(y.values()) if isinstance(y, dict) else y


# --- engine_from_dict ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "fragment"),
    [
        ({"J": 3}, "kind must be one of 'scattering1d', 'scattering2d', 'scattering3d'"),
        ({"kind": "scattering4d", "J": 3}, "not 'scattering4d'"),
        ({"kind": "scattering1d"}, "needs J"),
        ({"kind": "scattering1d", "J": 3, "hop": 2}, "no parameter 'hop'"),
        ({"kind": "scattering2d", "J": 3, "Q": 2}, "it takes J, shape, L"),
        ({"kind": "scattering1d", "J": "3"}, "J must be an integer"),
        ({"kind": "scattering1d", "J": 3, "T": "long"}, "T must be a number"),
    ],
)
def test_a_dict_that_describes_no_engine_is_refused_by_name(parameters, fragment):
    with pytest.raises(ValueError, match=fragment):
        engine_from_dict(parameters)


def test_a_dict_is_not_used_up():
    parameters = {"kind": "scattering1d", "J": 3, "Q": [8, 1]}
    engine_from_dict(parameters)
    assert parameters == {"kind": "scattering1d", "J": 3, "Q": [8, 1]}


# --- the cache of plans ----------------------------------------------------------------------


@pytest.fixture
def built(monkeypatch):
    """Empty cache; the shapes for which plans are built from now on."""
    PLANS.clear()
    shapes = []
    for cls in (Scattering1D, Scattering2D, HarmonicScattering3D):
        original = cls._build

        def counted(self, shape, dtype, boundary, backend, original=original):
            shapes.append((shape, dtype.name, boundary))
            return original(self, shape, dtype, boundary, backend)

        monkeypatch.setattr(cls, "_build", counted)
    yield shapes
    PLANS.clear()


def test_equal_engines_share_one_plan_for_each_shape_and_precision(built, rng):
    for _ in range(3):
        S = Scattering1D(4, Q=2)
        for n in (100, 200):
            for dtype in (np.float32, np.float64):
                S(rng.standard_normal(n).astype(dtype))
    assert len(built) == len(set(built)) == 4


def test_many_threads_compute_the_same_bytes_and_build_each_plan_once(built, rng):
    S = Scattering1D(5, Q=4)
    V = HarmonicScattering3D(1, L=2)
    jobs = [(S, rng.standard_normal((2, n))) for n in (300, 301, 400, 512, 777)]
    jobs += [(V, rng.standard_normal((n, 9, 8))) for n in (8, 9)]
    with ThreadPoolExecutor(16) as pool:
        first = list(pool.map(lambda i: jobs[i % 7][0](jobs[i % 7][1]), range(112)))
    assert len(built) == len(set(built)) == 7
    alone = [engine(x) for engine, x in jobs]
    for i, y in enumerate(first):
        np.testing.assert_array_equal(y, alone[i % 7])


@dataclass
class Stub:
    """Stands for a plan in a cache of its own."""

    name: str
    held_bytes: int = 1


def test_the_cache_forgets_what_was_used_longest_ago():
    cache = PlanCache(bound=2)
    builds = []

    def get(key):
        return cache.get(key, lambda: builds.append(key) or Stub(key))

    for key in ("a", "b", "a", "c", "a", "b"):
        assert get(key).name == key
    assert builds == ["a", "b", "c", "b"]
    assert len(cache) == 2


def test_the_cache_is_bounded_in_bytes_but_keeps_the_newest():
    cache = PlanCache(bound=10, bound_bytes=100)
    for name, size in (("a", 40), ("b", 50), ("c", 30)):
        cache.get(name, lambda name=name, size=size: Stub(name, size))
    assert len(cache) == 2
    cache.get("d", lambda: Stub("d", 1000))
    assert len(cache) == 1


def test_the_process_keeps_a_bounded_number_of_plans(built):
    S = Scattering1D(2)
    for n in range(50, 50 + 2 * PLANS.bound):
        S.plan((n,))
    assert len(PLANS) == PLANS.bound


def test_a_plan_that_cannot_be_built_leaves_nothing_behind():
    cache = PlanCache(bound=2)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            cache.get("a", lambda: 1 // 0)
    assert (len(cache), len(cache._building)) == (0, 0)
    assert cache.get("a", lambda: Stub("plan")) == Stub("plan")


# --- plans on request ------------------------------------------------------------------------


def test_a_plan_without_any_shape_is_refused():
    with pytest.raises(ValueError, match="made without a shape"):
        Scattering1D(3).plan()


def test_a_plan_may_be_asked_for_another_shape_than_the_engine_s():
    assert Scattering1D(3, 64).plan((128,)).shape == (128,)


@pytest.mark.parametrize(("N", "stride"), [(1024, None), (1000, None), (333, 4), (97, 1)])
def test_windows_lie_where_a_dirac_is_seen_best(N, stride):
    S = Scattering1D(3, N, stride=stride, T=8, max_order=1)
    plan = S.plan(dtype=np.float64)
    ((start, step),) = plan.windows
    at = N // 2
    x = np.zeros(N)
    x[at] = 1.0
    best = start + step * int(S(x)[0].argmax())
    assert abs(best - at) <= step / 2


@pytest.mark.parametrize("shape", [(32, 32), (33, 47), (40, 28)])
def test_windows_of_images_lie_where_a_dirac_is_seen_best(shape):
    S = Scattering2D(2, shape, L=1, max_order=1)
    at = [n // 2 for n in shape]
    x = np.zeros(shape)
    x[tuple(at)] = 1.0
    best = np.unravel_index(S(x)[0].argmax(), S.output_shape()[1:])
    for (start, step), k, where in zip(S.plan().windows, best, at, strict=True):
        assert abs(start + step * int(k) - where) <= step / 2


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("batch", [1, 5, 40, 150])
@pytest.mark.parametrize("fast_ffts", [True, False])
@pytest.mark.parametrize(
    "S",
    [
        Scattering1D(4, (300,), Q=(3, 2)),
        Scattering1D(4, (300,), Q=3, T="global"),
        Scattering2D(2, (20, 24), L=3),
        HarmonicScattering3D(1, (8, 8, 8), L=1),
    ],
    ids=lambda S: f"{S.kind}-{getattr(S, 'T', None)}",
)
def test_threads_change_no_bit(S, batch, threads, fast_ffts, rng, monkeypatch):
    x = rng.standard_normal((batch, *S.shape)).astype(np.float32)
    monkeypatch.setattr(program, "WORTH_A_THREAD", 0)  # however little there is to do
    if not fast_ffts:
        monkeypatch.setattr(fft, "by_mkl", lambda _: False)
    PLANS.clear()
    alone = S.plan().apply(x)
    np.testing.assert_array_equal(S.plan(threads=threads).apply(x), alone)
    PLANS.clear()


def test_threads_that_meet_at_a_low_pass_cut_it_once():
    how = Lowpass((np.exp(-np.arange(9.0)),), (64,), (slice(None),))
    meet = threading.Barrier(8)

    def cut(_):
        meet.wait()
        return bands.lowpass(how, (256,), np.dtype(np.float32)).cut[0]

    with ThreadPoolExecutor(8) as pool:
        first, *others = pool.map(cut, range(8))
    assert all(found is first for found in others)


def test_threads_that_meet_at_filters_cut_them_once():
    stage = bands.lay_out([morlet_1d(256, 0.2, 0.05)], (64,), np.dtype(np.float32))
    meet = threading.Barrier(8)

    def cut(_):
        meet.wait()
        return stage.cut[0]

    with ThreadPoolExecutor(8) as pool:
        first, *others = pool.map(cut, range(8))
    assert all(found is first for found in others)
