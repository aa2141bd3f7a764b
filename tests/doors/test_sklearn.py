"""Transformers among scikit-learn's own."""

import inspect
import os
import pickle
import warnings

import joblib
import numpy as np
import pytest
from distributed import Client, LocalCluster
from joblib.externals.loky import get_reusable_executor
from sklearn.base import clone
from sklearn.exceptions import SkipTestWarning
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

import scatflow
import scatflow.numpy
import scatflow.sklearn as doors

CASES = {
    "1d": (doors.Scattering1D(J=3, Q=2), scatflow.Scattering1D(3, 64, 2)),
    "2d": (doors.Scattering2D(J=2, shape=(8, 8), L=3), scatflow.Scattering2D(2, (8, 8), 3)),
    "3d": (
        doors.HarmonicScattering3D(J=1, shape=(4, 4, 4), L=1),
        scatflow.HarmonicScattering3D(1, (4, 4, 4), 1),
    ),
    "joint": (
        doors.TimeFrequencyScattering(J=3, J_fr=1, Q=2, format="joint"),
        scatflow.TimeFrequencyScattering(3, 1, 2, 64, format="joint"),
    ),
}
cases = pytest.mark.parametrize("name", CASES)


def test_scikit_learns_own_checks():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)
        results = check_estimator(doors.Scattering1D(J=1), on_fail=None)
    wrong = {c["check_name"]: c["exception"] for c in results if c["status"] == "failed"}
    assert not wrong
    # Only run where array libraries are announced to SciPy by a variable.
    skipped = {c["check_name"] for c in results if c["status"] == "skipped"}
    assert skipped <= {"check_array_api_input"}
    assert len(results) > 40


@cases
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_are_flattened_signals(name, dtype, rng):
    transformer, engine = CASES[name]
    x = rng.standard_normal((5, 64)).astype(dtype)
    y = transformer.fit(x).transform(x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, engine(x.reshape(5, *engine.shape)).reshape(5, -1))
    names = transformer.get_feature_names_out()
    assert len(names) == len(set(names)) == y.shape[1]


@cases
def test_nothing_has_to_be_fitted(name, rng):
    """As in Kymatio, whose transformers learn nothing either."""
    transformer, engine = CASES[name]
    x = rng.standard_normal((5, 64))
    fresh = clone(transformer)
    expected = engine(x.reshape(5, *engine.shape))
    np.testing.assert_array_equal(fresh.transform(x), expected.reshape(5, -1))
    np.testing.assert_array_equal(fresh.predict(x), expected.reshape(5, -1))
    np.testing.assert_array_equal(fresh.scattering(x.reshape(5, *engine.shape)), expected)
    assert not hasattr(fresh, "engine_")
    assert fresh.output_size() == engine.output_size()
    assert fresh.output_size(detail=True) == engine.output_size(detail=True)
    assert repr(fresh.meta()) == repr(engine.meta())


@cases
def test_parameters_are_the_engines(name):
    transformer, engine = CASES[name]
    ours = inspect.signature(type(transformer)).parameters
    theirs = inspect.signature(type(engine)).parameters
    assert list(ours) == list(theirs)
    assert sorted(ours) == sorted(transformer.get_params())
    assert all(ours[p].default == theirs[p].default for p in ours)
    with pytest.raises(TypeError, match="unexpected keyword argument 'order'"):
        type(transformer)(**transformer.get_params(), order=1)
    with pytest.raises(TypeError, match="missing a required argument: 'J'"):
        type(transformer)()


@cases
def test_clones_pickles_and_parameters(name, rng):
    transformer, _ = CASES[name]
    x = rng.standard_normal((3, 64))
    fitted = clone(transformer).fit(x)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.transform(x), fitted.transform(x))
    name, value = ("Q", 1) if name == "joint" else ("max_order", 1)
    fitted.set_params(**{name: value}).fit(x)
    assert getattr(fitted.engine_, name) in (value, (value, 1))
    assert fitted.transform(x).shape[1] < again.transform(x).shape[1]


def two_tones(count=60, n=128):
    """Noisy tones of two frequencies, and which."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    phase = rng.uniform(0, 2 * np.pi, (count, 1))
    x = np.sin((0.3 + 0.5 * labels[:, None]) * np.arange(n) + phase)
    return x + 0.1 * rng.standard_normal((count, n)), labels


def grid_search(jobs):
    model = make_pipeline(doors.Scattering1D(J=2), RidgeClassifier())
    return GridSearchCV(
        model, {"scattering1d__J": [2, 4], "scattering1d__Q": [1, 4]}, n_jobs=jobs
    ).fit(*two_tones())


def test_pipelines_and_grid_search():
    assert grid_search(jobs=1).best_score_ > 0.95


@pytest.fixture(params=["loky", "threading", "dask"])
def workers(request):
    """Where joblib sends its jobs: two processes or threads of its own, or two Dask workers."""
    if request.param != "dask":
        with joblib.parallel_config(request.param, n_jobs=2):
            yield request.param
        if request.param == "loky":
            get_reusable_executor().shutdown(wait=True)
        return
    local = LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
    )
    with local as cluster, Client(cluster), joblib.parallel_config("dask"):
        yield request.param


def test_jobs_of_a_grid_search_go_to_workers(workers):
    found, alone = grid_search(jobs=None if workers == "dask" else 2), grid_search(jobs=1)
    assert found.best_params_ == alone.best_params_
    for key in ("mean_test_score", "split0_test_score"):
        np.testing.assert_array_equal(found.cv_results_[key], alone.cv_results_[key])
    x, _ = two_tones()
    np.testing.assert_array_equal(found.decision_function(x), alone.decision_function(x))


def where_and_what(transformer, x):
    """Transform in a worker; say which process that was."""
    return os.getpid(), transformer.transform(x)


def test_fitted_transformers_travel(workers, rng):
    transformer = doors.Scattering2D(J=2, shape=(8, 8), L=3)
    x = rng.standard_normal((6, 64))
    transformer.fit(x)
    jobs = (joblib.delayed(where_and_what)(transformer, x[i : i + 1]) for i in range(6))
    processes, rows = zip(*joblib.Parallel()(jobs), strict=True)
    assert (os.getpid() in processes) == (workers == "threading")
    np.testing.assert_array_equal(np.concatenate(rows), transformer.transform(x))


def test_bad_parameters():
    x = np.zeros((3, 64))
    with pytest.raises(ValueError, match="T=0 gives each path"):
        doors.Scattering1D(J=3, T=0).fit(x)
    with pytest.raises(ValueError, match="needs a shape"):
        doors.Scattering2D(J=2).fit(x)
    with pytest.raises(ValueError, match="X has 64 features"):
        doors.Scattering2D(J=2, shape=(8, 9)).fit(x)
    with pytest.raises(ValueError, match="n_features=64"):
        doors.Scattering1D(J=9).fit(x)


def test_a_subclass_has_parameters_of_its_own():
    class Mine(doors.Scattering1D):
        def __init__(self, J=3, extra=1):
            super().__init__(J=J)
            self.extra = extra

    mine = Mine(J=4, extra=2)
    assert (mine.J, mine.extra) == (4, 2)
    assert mine.get_params() == {"J": 4, "extra": 2}
    assert (
        clone(mine).fit_transform(np.ones((2, 64))).shape == mine.transform(np.ones((2, 64))).shape
    )


def test_parameters_that_are_set_count_from_then_on(rng):
    X = rng.standard_normal((5, 64))
    S = doors.Scattering1D(J=3, shape=64).fit(X)
    S.max_order = 1
    assert S.transform(X).shape[1] == len(S.get_feature_names_out()) == 8 * S.output_size()
    S.set_params(Q=4)
    again = doors.Scattering1D(J=3, shape=64, Q=4, max_order=1).fit_transform(X)
    np.testing.assert_array_equal(S.transform(X), again)


@pytest.mark.parametrize("pre_pad", [False, True])
def test_rows_may_hold_several_channels(pre_pad, rng):
    S = doors.Scattering2D(J=1, shape=(8, 8), L=4, pre_pad=pre_pad)
    sides = S._engine(0)._input_shape()
    images = rng.standard_normal((4, 3, *sides))
    rows = S.fit_transform(images.reshape(4, -1))
    np.testing.assert_array_equal(rows, S(images).reshape(4, -1))
    assert len(S.get_feature_names_out()) == rows.shape[1]


def test_parameters_have_the_order_of_the_engines(rng):
    x = rng.standard_normal((2, 64))
    S = doors.Scattering1D(3, 64, 1, None, None, 2, 0, "array", "numpy")
    np.testing.assert_array_equal(
        S.fit_transform(x).reshape(2, -1, 8), scatflow.Scattering1D(3, 64)(x)
    )
    with pytest.raises(ValueError, match="Rows of coefficients have one form"):
        S.set_params(out_type="list").transform(x)


def test_filters_can_be_read(rng):
    S = doors.Scattering1D(J=3).fit(rng.standard_normal((2, 64)))
    theirs = scatflow.numpy.Scattering1D(J=3, shape=64)
    np.testing.assert_array_equal(S.psi1_f[0]["levels"][0], theirs.psi1_f[0]["levels"][0])
    assert (S.log2_T, S.frontend_name) == (3, "sklearn")
    assert len(doors.Scattering2D(2, (16, 16), L=3).psi) == len(
        scatflow.numpy.Scattering2D(2, (16, 16), L=3).psi
    )
    with pytest.raises(AttributeError, match="has no attribute 'psi3_f'"):
        _ = S.psi3_f
    assert not hasattr(S, "_N_padded_of_another")
    assert pickle.loads(pickle.dumps(S)).pad_left == theirs.pad_left
