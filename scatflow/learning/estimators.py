"""Standardisation and principal components from one pass over an archive, for scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.base import compute
from dask.delayed import delayed
from numpy.typing import ArrayLike, NDArray
from sklearn import preprocessing
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.extmath import svd_flip
from sklearn.utils.validation import check_is_fitted, validate_data

from scatflow.errors import ParameterError, SourceError
from scatflow.learning.feed import batches, nothing
from scatflow.learning.moments import Moments
from scatflow.learning.rows import Batch, Result, Rows

if TYPE_CHECKING:
    import xarray as xr

Solution = tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None, int]

AT_A_TIME = 2**28
"""Bytes of the scatter matrices that wait for each other, at most, but of two blocks."""


class StandardScaler(preprocessing.StandardScaler):  # type: ignore[misc]  # without types
    """Scikit-learn's ``StandardScaler``, fitted from a result store, too.

    Its ``partial_fit`` is exact: sums in float64, and the moments of batches added to each other
    as Chan, Golub and LeVeque do.

    Examples
    --------
    >>> import numpy as np, scatflow, xarray as xr
    >>> from scatflow.learning import StandardScaler
    >>> x = np.random.default_rng(0).standard_normal((3, 4096))
    >>> ds = xr.DataArray(x, dims=("file", "time")).scat.scattering1d(J=6, Q=4)
    >>> scaler = StandardScaler().fit_store(ds)
    >>> int(scaler.n_samples_seen_), scaler.get_feature_names_out()[:2].tolist()
    (192, ['S0', 'S1: 0.373 cycles/sample'])
    """

    _names: NDArray[Any] | None = None

    def fit_store(self, result: Result, size: int = 1024, **options: Any) -> StandardScaler:
        """Learn mean and variance in one pass.

        Parameters
        ----------
        result : path, URL or Dataset
            See :func:`scatflow.learning.batches`.
        size, **options
            As :func:`scatflow.learning.batches` has them.

        Returns
        -------
        self
        """
        self._reset()
        for batch in batches(result, size, **options):
            self.partial_fit(batch.X)
            self._names = batch.names
        return self

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Learn from a matrix, as scikit-learn does."""
        self._names = None
        return super().fit(X, y, sample_weight)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """Return the names of features: those of the paths, where a store gave them."""
        check_is_fitted(self)
        if input_features is None and self._names is not None:
            return np.asarray(self._names, object)
        return np.asarray(super().get_feature_names_out(input_features), object)


class PCA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Principal components from one pass: exact, where ``IncrementalPCA`` is approximate.

    What is kept of all rows is their mean and the matrix of their covariances, in float64:
    8 p² bytes for p features, 8 MB for a thousand, however long the archive is. They do not depend
    on batches and their order but for rounding, and estimators fitted on parts of an archive
    are joined by :meth:`merge`.

    Parameters
    ----------
    n_components : int, float or None
        How many; or the share of the variance, below 1, that they explain at least; or all.
    whiten : bool
        Scale components to unit variance.
    standardise : bool
        Scale features to unit variance first: the components of ``StandardScaler`` and ``PCA`` one
        after the other, from the same single pass. Features that do not vary are left as they are.

    Attributes
    ----------
    components_, explained_variance_, explained_variance_ratio_, singular_values_, mean_, \
n_components_, n_samples_seen_
        As ``sklearn.decomposition.PCA`` has them.
    scale_ : ndarray or None
        Standard deviations (by n, as ``StandardScaler`` has them) that features are divided by.

    Examples
    --------
    >>> import numpy as np, scatflow, xarray as xr
    >>> from scatflow.learning import PCA
    >>> x = np.random.default_rng(0).standard_normal((3, 4096))
    >>> ds = xr.DataArray(x, dims=("file", "time")).scat.scattering1d(J=6, Q=4)
    >>> pca = PCA(2, standardise=True).fit_store(ds)
    >>> pca.components_.shape, pca.get_feature_names_out().tolist()
    ((2, 67), ['pca0', 'pca1'])
    """

    def __init__(
        self,
        n_components: int | float | None = None,
        *,
        whiten: bool = False,
        standardise: bool = False,
    ) -> None:
        self.n_components = n_components
        self.whiten = whiten
        self.standardise = standardise

    # --- fitting -----------------------------------------------------------------------------

    def fit(self, X: ArrayLike, y: Any = None) -> PCA:  # noqa: ARG002 - as scikit-learn calls it
        """Learn from a matrix, ``(row, feature)``, alone."""
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        return self._set(Moments.of(X))

    def partial_fit(self, X: ArrayLike, y: Any = None) -> PCA:  # noqa: ARG002
        """Add the rows of a matrix to those that were seen."""
        before = self.__dict__.get("moments_")
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=before is None)
        found = Moments.of(X)
        return self._set(found if before is None else before + found)

    def fit_store(
        self,
        result: Result,
        *,
        samples: Sequence[str] | None = None,
        labels: xr.DataArray | None = None,
        min_valid: float = 0.0,
    ) -> PCA:
        """Learn from an archive in one pass, its blocks side by side by Dask's scheduler.

        Moments of blocks are added in the order of the blocks, so that the result does not depend
        on who computed them, and when. In memory are a block, also in float64, for each of
        the scheduler's threads, and the covariances of some blocks.

        Parameters
        ----------
        result : path, URL or Dataset
            See :func:`scatflow.learning.batches`.
        samples, labels, min_valid
            As :func:`scatflow.learning.batches` has them.

        Returns
        -------
        self
        """
        rows = Rows(result, samples, labels, min_valid)
        total: Moments | None = None
        names: NDArray[Any] | None = None
        for found, own in _moments_of_blocks(rows):
            total, names = found if total is None else total + found, own
        if total is None or names is None or total.n == 0:
            raise SourceError(nothing(rows))
        self.n_features_in_ = total.mean.size
        self.__dict__.pop("feature_names_in_", None)  # Of a table that was learned from before.
        return self._set(total, names)

    def merge(self, other: PCA) -> PCA:
        """Add what another one has seen: of other files, on another machine.

        Returns
        -------
        self
        """
        check_is_fitted(self)
        check_is_fitted(other)
        if other.n_features_in_ != self.n_features_in_:
            raise ParameterError(
                f"One has seen {self.n_features_in_} features, the other {other.n_features_in_}: "
                "they are not of the same transform."
            )
        return self._set(self.moments_ + other.moments_, self.feature_names_)

    def _set(self, moments: Moments, names: NDArray[Any] | None = None) -> PCA:
        """Keep moments; components are worked out when they are asked for."""
        self.moments_ = moments
        self.feature_names_ = names
        self._solved: dict[Any, Solution] = {}
        return self

    # --- what was learned ----------------------------------------------------------------------

    def _solution(self) -> Solution:
        """Return all components, their variances, the scale, and how many are kept."""
        if "moments_" not in self.__dict__:
            raise NotFittedError(f"This {type(self).__name__} has not seen any rows yet: fit it.")
        asked = (self.n_components, self.standardise)
        if asked not in self._solved:
            self._solved[asked] = self._solve()
        return self._solved[asked]

    def _solve(self) -> Solution:
        n = self.moments_.n
        if n < 2:
            raise ValueError(f"A covariance needs two rows, and n_samples = {n} was seen.")
        covariance, scale = self.moments_.scatter / (n - 1), None
        if self.standardise:
            scale = np.sqrt(np.diag(self.moments_.scatter) / n)
            # As scikit-learn tells features that do not vary: by the rounding of their mean.
            eps = np.finfo(np.float64).eps
            constant = scale**2 <= n * eps * scale**2 + (n * self.moments_.mean * eps) ** 2
            scale[constant] = 1.0
            covariance = covariance / np.outer(scale, scale)
        variances, vectors = np.linalg.eigh(covariance)
        variances = np.maximum(variances[::-1], 0.0)
        components = svd_flip(None, vectors.T[::-1], u_based_decision=False)[1]
        return components, variances, scale, self._count(variances, n)

    def _count(self, variances: NDArray[Any], n: int) -> int:
        """Return how many components are kept."""
        wanted, most = self.n_components, min(n, variances.size)
        if wanted is None:
            return most
        if isinstance(wanted, float | np.floating) and 0 < wanted < 1:
            explained = np.cumsum(variances) / variances.sum()
            return min(int(np.searchsorted(explained, wanted, side="right")) + 1, most)
        if isinstance(wanted, int | np.integer) and 1 <= wanted <= most:
            return int(wanted)
        raise ParameterError(
            f"n_components={wanted!r} must be None, a share between 0 and 1, or a number from 1 "
            f"to {most}: {n} rows of {variances.size} features were seen."
        )

    @property
    def n_components_(self) -> int:
        """How many components there are."""
        return self._solution()[3]

    @property
    def components_(self) -> NDArray[Any]:
        """Directions of the largest variances, ``(component, feature)``."""
        components, _, _, count = self._solution()
        return components[:count]

    @property
    def explained_variance_(self) -> NDArray[Any]:
        """Variance along each component."""
        _, variances, _, count = self._solution()
        return variances[:count]

    @property
    def explained_variance_ratio_(self) -> NDArray[Any]:
        """Share of the variance along each component."""
        _, variances, _, count = self._solution()
        return np.asarray(variances[:count] / variances.sum())

    @property
    def singular_values_(self) -> NDArray[Any]:
        """Norm of the rows along each component."""
        return np.asarray(np.sqrt(self.explained_variance_ * (self.moments_.n - 1)))

    @property
    def scale_(self) -> NDArray[Any] | None:
        """What features are divided by, None where they are left."""
        return self._solution()[2]

    @property
    def mean_(self) -> NDArray[Any]:
        """Mean of each feature."""
        return self.moments_.mean

    @property
    def n_samples_seen_(self) -> int:
        """How many rows were seen."""
        return self.moments_.n

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def __sklearn_is_fitted__(self) -> bool:
        return "moments_" in self.__dict__

    # --- using it ------------------------------------------------------------------------------

    def transform(self, X: Any) -> NDArray[Any]:
        """Return the rows along the components, ``(row, component)``."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        found = (X - self.mean_) @ self._axes().T
        return np.asarray(found, X.dtype)

    def inverse_transform(self, X: Any) -> NDArray[Any]:
        """Return the rows of features that lie at some place along the components."""
        check_is_fitted(self)
        X = np.asarray(X)
        scale = 1.0 if self.scale_ is None else self.scale_
        along = self.components_ * scale
        if self.whiten:
            along = along * self._deviations()[:, None]
        return np.asarray(X @ along + self.mean_, np.result_type(X.dtype, np.float32))

    def _axes(self) -> NDArray[Any]:
        """Return what rows, less their mean, are multiplied with: ``(component, feature)``."""
        axes = self.components_ / (1.0 if self.scale_ is None else self.scale_)
        return np.asarray(axes / self._deviations()[:, None] if self.whiten else axes)

    def _deviations(self) -> NDArray[Any]:
        """Return the standard deviation along each component, no less than rounding."""
        deviations = np.sqrt(self.explained_variance_)
        return np.asarray(np.maximum(deviations, np.finfo(np.float64).eps))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _moments_of_blocks(rows: Rows) -> Iterator[tuple[Moments, NDArray[Any]]]:
    """Yield the moments of blocks in their order, several of them computed at a time."""
    shared = delayed(rows, pure=False)
    several, at = 2, 0
    while at < rows.n_blocks:
        some = range(at, min(at + several, rows.n_blocks))
        tasks = [delayed(_moments, pure=False)(shared, index) for index in some]
        found = compute(*tasks)  # type: ignore[no-untyped-call]
        yield from found
        at += len(some)
        several = max(2, min(16, AT_A_TIME // found[0][0].scatter.nbytes))


def _moments(rows: Rows, index: int) -> tuple[Moments, NDArray[Any]]:
    batch: Batch = rows.read(index, "synchronous")
    return Moments.of(batch.X), batch.names
