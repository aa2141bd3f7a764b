"""Standardisation and principal components from one pass: what two passes over all rows give."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import decomposition, preprocessing
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from scatflow.errors import ParameterError, SourceError
from scatflow.learning import PCA, StandardScaler
from scatflow.learning.moments import Moments

MEAN = 1e4
"""Far from zero beside the spread: sums of squares would lose all digits of a variance."""


def rows(n=200, p=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, p)) @ rng.standard_normal((p, p)) + MEAN


X = rows()


def same(found, expected, rtol=1e-9):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


def agrees(found, expected):
    for name in ("explained_variance_", "explained_variance_ratio_", "singular_values_", "mean_"):
        same(getattr(found, name), getattr(expected, name))
    same(found.components_, expected.components_, 1e-7)
    same(found.transform(X[:9]), expected.transform(X[:9]), 1e-7)


@settings(max_examples=25)
@given(
    cuts=st.lists(st.integers(0, len(X)), max_size=6),
    order=st.randoms(use_true_random=False),
    whiten=st.booleans(),
    n_components=st.sampled_from([None, 1, 4, 0.7, 0.99]),
)
def test_components_are_those_of_the_whole_matrix_for_any_batches_in_any_order(
    cuts, order, whiten, n_components
):
    ends = [0, *sorted(cuts), len(X)]
    parts = [X[a:b] for a, b in itertools.pairwise(ends) if b > a]
    order.shuffle(parts)
    found = PCA(n_components, whiten=whiten)
    for part in parts:
        found.partial_fit(part)
    expected = decomposition.PCA(n_components, whiten=whiten, svd_solver="full").fit(X)
    assert found.n_components_ == expected.n_components_
    assert found.n_samples_seen_ == len(X)
    agrees(found, expected)
    same(found.inverse_transform(found.transform(X)), expected.inverse_transform(
        expected.transform(X)
    ))  # fmt: skip


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, len(X)), max_size=6))
def test_moments_do_not_depend_on_how_they_are_added(cuts):
    ends = [0, *sorted(cuts), len(X)]
    parts = [Moments.of(X[a:b]) for a, b in itertools.pairwise(ends)]
    ahead = sum(parts[1:], parts[0])
    back = sum(parts[-2::-1], parts[-1])
    for found in (ahead, back):
        assert found.n == len(X)
        same(found.mean, X.mean(axis=0), 1e-15)
        same(found.scatter / (len(X) - 1), np.cov(X.T), 1e-12)


def test_one_pass_standardises_and_finds_components():
    mixed = X * [1, 1e3, 1e-3, 1, 7, 1]
    mixed[:, 3] = 5.0  # Does not vary.
    found = PCA(3, standardise=True).fit(mixed)
    scaler = preprocessing.StandardScaler()
    expected = make_pipeline(scaler, decomposition.PCA(3, svd_solver="full")).fit(mixed)
    same(found.scale_, scaler.scale_)
    same(found.transform(mixed), expected.transform(mixed), 1e-7)
    same(found.inverse_transform(found.transform(mixed)), expected.inverse_transform(
        expected.transform(mixed)
    ))  # fmt: skip


def test_single_precision_loses_nothing_in_the_sums():
    x = rows(100_000, 3).astype(np.float32)
    expected = decomposition.PCA(svd_solver="full").fit(x.astype(float))
    found, scaler = PCA(), StandardScaler()
    for part in np.array_split(x, 7):
        found.partial_fit(part)
        scaler.partial_fit(part)
    same(found.explained_variance_, expected.explained_variance_)
    same(scaler.mean_, x.mean(axis=0, dtype=float))
    same(scaler.var_, x.var(axis=0, dtype=float))
    assert found.transform(x[:5]).dtype == np.float32


def test_parts_of_an_archive_are_joined():
    one, other = PCA(2).fit(X[:50]), PCA(2).fit(X[50:])
    agrees(one.merge(other), decomposition.PCA(2, svd_solver="full").fit(X))
    with pytest.raises(ParameterError, match="same transform"):
        one.merge(PCA().fit(X[:, :2]))
    with pytest.raises(NotFittedError):
        one.merge(PCA())


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_a_store_gives_what_all_its_windows_give(archive, scheduler):
    import dask

    with dask.config.set(scheduler=scheduler):
        found = PCA(4, standardise=True).fit_store(archive.store)
    matrix = archive.rows.values.astype(float)
    scaled = preprocessing.StandardScaler().fit_transform(matrix)
    expected = decomposition.PCA(4, svd_solver="full").fit(scaled)
    same(found.explained_variance_, expected.explained_variance_)
    same(found.components_, expected.components_, 1e-6)
    assert found.n_samples_seen_ == len(matrix)
    assert found.feature_names_.tolist() == archive.rows.feature.values.tolist()
    assert found.get_feature_names_out().tolist() == ["pca0", "pca1", "pca2", "pca3"]


def test_a_store_gives_the_same_bytes_to_any_scheduler(archive):
    import dask

    made = []
    for scheduler in ("synchronous", "threads"):
        with dask.config.set(scheduler=scheduler):
            made.append(PCA().fit_store(archive.store).moments_.scatter)
    np.testing.assert_array_equal(*made)


def test_a_store_is_standardised(archive):
    scaler = StandardScaler().fit_store(archive.store, size=100)
    matrix = archive.rows.values.astype(float)
    same(scaler.mean_, matrix.mean(axis=0), 1e-7)
    same(scaler.scale_, matrix.std(axis=0), 1e-7)
    assert scaler.get_feature_names_out().tolist() == archive.rows.feature.values.tolist()
    again = clone(scaler).fit(X)
    assert again.get_feature_names_out().tolist() == [f"x{i}" for i in range(6)]
    assert not hasattr(clone(scaler), "mean_")


def test_names_of_a_table_that_was_learned_from_before_are_forgotten(archive):
    matrix = archive.rows.values
    table = pd.DataFrame(matrix, columns=[f"c{k}" for k in range(matrix.shape[1])])
    pca = PCA(2).fit(table).fit_store(archive.store)
    assert not hasattr(pca, "feature_names_in_")  # Or each transform would warn of their lack.


def test_a_store_without_a_valid_window_teaches_nothing(archive):
    with pytest.raises(SourceError, match="nothing to learn from"):
        PCA().fit_store(archive.coefficients * np.nan)


@pytest.mark.parametrize("wanted", [0, 7, 1.5, "mle"])
def test_numbers_of_components_that_make_no_sense_are_told(wanted):
    with pytest.raises(ParameterError, match="n_components"):
        PCA(wanted).fit(X).transform(X)


@parametrize_with_checks([PCA()])
def test_estimators_keep_the_manners_of_scikit_learn(estimator, check):
    check(estimator)
