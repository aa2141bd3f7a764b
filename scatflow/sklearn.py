"""The front door for scikit-learn: transformers from rows of samples to rows of coefficients.

>>> import numpy as np
>>> from sklearn.linear_model import RidgeClassifier
>>> from sklearn.pipeline import make_pipeline
>>> from scatflow.sklearn import Scattering2D
>>> model = make_pipeline(Scattering2D(J=2, shape=(8, 8), L=4), RidgeClassifier())
>>> x = np.random.default_rng(0).standard_normal((20, 64))
>>> model.fit(x, np.arange(20) % 2).predict(x).shape
(20,)
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from scatflow import engines
from scatflow.engines import Engine
from scatflow.errors import ParameterError


class _Transformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # without types
    """What the transformers share: rows are signals of C order, flattened."""

    kind: ClassVar[type[Engine]]
    shape: Any

    def fit(self, X: Any, y: Any = None) -> Any:  # noqa: ARG002 - as scikit-learn calls it
        """Take the parameters, and the shape from `X` where it is not given.

        Parameters
        ----------
        X : array_like
            ``(samples, features)``; features are one signal, flattened.
        y : ignored

        Returns
        -------
        self
        """
        X = validate_data(self, X, dtype=[np.float64, np.float32])
        self.engine_ = self._engine(X.shape[1])
        return self

    def transform(self, X: Any) -> Any:
        """Transform signals.

        Parameters
        ----------
        X : array_like
            ``(samples, features)``.

        Returns
        -------
        ndarray
            ``(samples, coefficients)``, path by path, see :meth:`get_feature_names_out`.
        """
        check_is_fitted(self, "engine_")
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        signals = X.reshape(len(X), *self.engine_.shape)
        return self.engine_(signals).reshape(len(X), -1)

    def get_feature_names_out(self, input_features: Any = None) -> Any:  # noqa: ARG002
        """Return a name for each coefficient: its path and the number of its window."""
        check_is_fitted(self, "engine_")
        plan = self.engine_.plan()
        rest = plan.labelled_shape[1:]
        places = [",".join(map(str, index)) for index in np.ndindex(*rest)]
        labels = plan.paths.columns["label"].tolist()
        return np.array([f"{label} [{place}]" for label in labels for place in places], object)

    def _engine(self, features: int) -> Engine:
        """Return the engine for signals of so many samples."""
        given = self.get_params(deep=False)
        if given.get("T") == 0:
            raise ParameterError(
                "T=0 gives each path its own number of samples, which no row of features holds. "
                "Give T in samples, or T='global'."
            )
        if self.shape is None and self.kind.ndim == 1:
            given["shape"] = features
        if given["shape"] is None:
            raise ParameterError(
                f"{type(self).__name__} needs a shape: {features} features may be signals of "
                "several. Pass shape=(...)."
            )
        try:
            engine: Engine = self.kind(**given)
            if math.prod(engine.shape) == features:
                engine.plan()
        except ParameterError as error:
            raise ValueError(f"{error} The features are n_features={features}.") from error
        if math.prod(engine.shape) != features:
            raise ValueError(
                f"X has {features} features, but a signal of shape {engine.shape} has "
                f"{math.prod(engine.shape)} samples."
            )
        return engine

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class Scattering1D(_Transformer):
    """Scattering of signals; parameters as in :class:`scatflow.Scattering1D`.

    ``shape=None`` takes all features for one signal.
    """

    kind = engines.Scattering1D

    def __init__(
        self,
        J: int,
        shape: Any = None,
        Q: Any = 1,
        T: Any = None,
        stride: int | None = None,
        max_order: int = 2,
        oversampling: int = 0,
        backend: str | None = None,
    ) -> None:
        self.J = J
        self.shape = shape
        self.Q = Q
        self.T = T
        self.stride = stride
        self.max_order = max_order
        self.oversampling = oversampling
        self.backend = backend


class Scattering2D(_Transformer):
    """Scattering of images; parameters as in :class:`scatflow.Scattering2D`."""

    kind = engines.Scattering2D

    def __init__(
        self,
        J: int,
        shape: Any = None,
        L: int = 8,
        max_order: int = 2,
        pre_pad: bool = False,
        backend: str | None = None,
    ) -> None:
        self.J = J
        self.shape = shape
        self.L = L
        self.max_order = max_order
        self.pre_pad = pre_pad
        self.backend = backend


class HarmonicScattering3D(_Transformer):
    """Scattering of volumes; parameters as in :class:`scatflow.HarmonicScattering3D`."""

    kind = engines.HarmonicScattering3D

    def __init__(
        self,
        J: int,
        shape: Any = None,
        L: int = 3,
        sigma_0: float = 1,
        max_order: int = 2,
        rotation_covariant: bool = True,
        method: str = "integral",
        points: Any = None,
        integral_powers: tuple[float, ...] = (0.5, 1.0, 2.0),
        backend: str | None = None,
    ) -> None:
        self.J = J
        self.shape = shape
        self.L = L
        self.sigma_0 = sigma_0
        self.max_order = max_order
        self.rotation_covariant = rotation_covariant
        self.method = method
        self.points = points
        self.integral_powers = integral_powers
        self.backend = backend


class TimeFrequencyScattering(_Transformer):
    """Joint time-frequency scattering; as in :class:`scatflow.TimeFrequencyScattering`.

    ``shape=None`` takes all features for one signal.
    """

    kind = engines.TimeFrequencyScattering

    def __init__(
        self,
        J: int,
        J_fr: int,
        Q: Any,
        shape: Any = None,
        T: Any = None,
        stride: int | None = None,
        Q_fr: int = 1,
        F: Any = None,
        stride_fr: int | None = None,
        format: str = "time",
        backend: str | None = None,
    ) -> None:
        self.J = J
        self.J_fr = J_fr
        self.Q = Q
        self.shape = shape
        self.T = T
        self.stride = stride
        self.Q_fr = Q_fr
        self.F = F
        self.stride_fr = stride_fr
        self.format = format
        self.backend = backend


__all__ = [
    "HarmonicScattering3D",
    "Scattering1D",
    "Scattering2D",
    "TimeFrequencyScattering",
]
