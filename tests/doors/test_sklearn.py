"""Transformers among scikit-learn's own."""

import inspect
import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import SkipTestWarning
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

import scatflow
import scatflow.sklearn as doors

CASES = {
    "1d": (doors.Scattering1D(J=3, Q=2), scatflow.Scattering1D(3, 64, 2)),
    "2d": (doors.Scattering2D(J=2, shape=(8, 8), L=3), scatflow.Scattering2D(2, (8, 8), 3)),
    "3d": (
        doors.HarmonicScattering3D(J=1, shape=(4, 4, 4), L=1),
        scatflow.HarmonicScattering3D(1, (4, 4, 4), 1),
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
    np.testing.assert_equal(fresh.meta(), engine.meta())


@cases
def test_parameters_are_the_engines(name):
    transformer, engine = CASES[name]
    ours = inspect.signature(type(transformer)).parameters
    theirs = inspect.signature(type(engine)).parameters
    assert list(ours) == [p for p in theirs if p != "out_type"]
    assert sorted(ours) == sorted(transformer.get_params())
    assert all(ours[p].default == theirs[p].default for p in ours)
    with pytest.raises(TypeError, match="unexpected keyword argument 'out_type'"):
        type(transformer)(3, out_type="list")
    with pytest.raises(TypeError, match="missing a required argument: 'J'"):
        type(transformer)()


@cases
def test_clones_pickles_and_parameters(name, rng):
    transformer, _ = CASES[name]
    x = rng.standard_normal((3, 64))
    fitted = clone(transformer).fit(x)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.transform(x), fitted.transform(x))
    fitted.set_params(max_order=1).fit(x)
    assert fitted.engine_.max_order == 1
    assert fitted.transform(x).shape[1] < again.transform(x).shape[1]


@pytest.mark.parametrize("jobs", [1, 2])
def test_pipelines_and_grid_search(jobs):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    t = np.arange(128)
    phase = rng.uniform(0, 2 * np.pi, (60, 1))
    x = np.sin((0.3 + 0.5 * labels[:, None]) * t + phase) + 0.1 * rng.standard_normal((60, 128))
    model = make_pipeline(doors.Scattering1D(J=2), RidgeClassifier())
    search = GridSearchCV(
        model, {"scattering1d__J": [2, 4], "scattering1d__Q": [1, 4]}, n_jobs=jobs
    )
    search.fit(x, labels)
    assert search.best_score_ > 0.95


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
