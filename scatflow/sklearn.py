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

import inspect
import math
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from scatflow import engines
from scatflow.engines import Engine
from scatflow.engines.doors import Door, Door1D, Door2D, Door3D, DoorTimeFrequency
from scatflow.errors import ParameterError


class _Transformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # without types
    """What the transformers share: rows are signals of C order, flattened."""

    kind: ClassVar[type[Engine]]
    door: ClassVar[type[Door]]
    shape: Any
    frontend_name = "sklearn"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kind" in cls.__dict__:  # a user's own subclass keeps its parameters
            cls.__init__ = _initializer(cls.kind)  # type: ignore[method-assign]

    def fit(self, X: Any, y: Any = None) -> Any:  # noqa: ARG002 - as scikit-learn calls it
        """Take the parameters, and the shape from `X` where it is not given.

        Parameters
        ----------
        X : array_like
            ``(samples, features)``; features are one signal, or several channels of one, flattened.
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
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        engine = self._engine(X.shape[1])
        return engine(X.reshape(len(X), -1, *engine._input_shape())).reshape(len(X), -1)

    def predict(self, X: Any) -> Any:
        """Transform signals, see :meth:`transform`; the name that Kymatio has for it, too."""
        return self.transform(X)

    def scattering(self, x: Any) -> Any:
        """Transform signals that are not flattened, ``(..., *shape)``."""
        return self._engine(math.prod(np.shape(x)[-self.kind.ndim :])).scattering(x)

    def __call__(self, x: Any) -> Any:
        """Transform signals that are not flattened, see :meth:`scattering`."""
        return self.scattering(x)

    def meta(self) -> dict[str, Any]:
        """Describe the paths, see :meth:`scatflow.Scattering1D.meta`."""
        return self.kind(**self._parameters()).meta()

    def output_size(self, detail: bool = False) -> Any:
        """Return the number of paths, or with `detail` that of each order."""
        return self.kind(**self._parameters()).output_size(detail)

    def get_feature_names_out(self, input_features: Any = None) -> Any:  # noqa: ARG002
        """Return a name for each coefficient: its path and the number of its window."""
        check_is_fitted(self, "engine_")
        plan = self._engine(self.n_features_in_).plan()
        rest = plan.labelled_shape[1:]
        places = [",".join(map(str, index)) for index in np.ndindex(*rest)]
        labels = plan.paths.columns["label"].tolist()
        names = [f"{label} [{place}]" for label in labels for place in places]
        channels = self.n_features_in_ // math.prod(plan.shape)
        if channels > 1:
            names = [f"channel {c}, {name}" for c in range(channels) for name in names]
        return np.array(names, object)

    def __getattr__(self, name: str) -> Any:
        """Return what programs read besides parameters: filters, padding, scales."""
        known = isinstance(getattr(self.door, name, None), property)
        if not known or name in inspect.signature(self.kind).parameters:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")
        given = self._parameters()
        if given["shape"] is None and self.kind.ndim == 1:
            given["shape"] = self.__dict__.get("n_features_in_")
        door = self.door.__new__(self.door)
        door.engine = self.kind(**given)
        return getattr(door, name)

    def _parameters(self) -> dict[str, Any]:
        """Return the engine's parameters; subclasses may have others."""
        return {name: getattr(self, name) for name in inspect.signature(self.kind).parameters}

    def _engine(self, features: int) -> Engine:
        """Return the engine of the parameters as they are, for signals of so many samples."""
        given = self._parameters()
        form = given.get("out_type", "array")
        if form != "array":
            raise ParameterError(
                f"Rows of coefficients have one form, out_type='array', not {form!r}. "
                "The engine itself (scatflow) gives lists and dicts."
            )
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
            samples = math.prod(engine._input_shape())
            if features and features % samples == 0:
                engine.plan()
        except ParameterError as error:
            raise ValueError(f"{error} The features are n_features={features}.") from error
        if features % samples:
            raise ValueError(
                f"X has {features} features, but a signal of shape {engine._input_shape()} has "
                f"{samples} samples."
            )
        return engine

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _initializer(kind: type[Engine]) -> Any:
    """Return an ``__init__`` with an engine's parameters, from which scikit-learn reads them."""
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    signature = inspect.Signature([own, *inspect.signature(kind).parameters.values()])

    def __init__(self: Any, *args: Any, **parameters: Any) -> None:  # noqa: N807
        given = signature.bind(self, *args, **parameters)
        given.apply_defaults()
        for name, value in list(given.arguments.items())[1:]:
            setattr(self, name, value)

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    return __init__


class Scattering1D(_Transformer):
    """Scattering of signals; parameters as in :class:`scatflow.Scattering1D`.

    ``shape=None`` takes all features for one signal.
    """

    kind = engines.Scattering1D
    door = Door1D


class Scattering2D(_Transformer):
    """Scattering of images; parameters as in :class:`scatflow.Scattering2D`."""

    kind = engines.Scattering2D
    door = Door2D


class HarmonicScattering3D(_Transformer):
    """Scattering of volumes; parameters as in :class:`scatflow.HarmonicScattering3D`."""

    kind = engines.HarmonicScattering3D
    door = Door3D


class TimeFrequencyScattering(_Transformer):
    """Joint time-frequency scattering; as in :class:`scatflow.TimeFrequencyScattering`.

    ``shape=None`` takes all features for one signal.
    """

    kind = engines.TimeFrequencyScattering
    door = DoorTimeFrequency


__all__ = [
    "HarmonicScattering3D",
    "Scattering1D",
    "Scattering2D",
    "TimeFrequencyScattering",
]
