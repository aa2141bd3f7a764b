"""The doors for machine learning on archives that do not fit in memory.

``batches`` feeds scikit-learn's ``partial_fit``; ``StandardScaler`` and ``PCA`` need one pass and
are exact; ``CoefficientStream`` and ``CoefficientDataset`` are what PyTorch's ``DataLoader`` takes.
All of them read a result store, a job file (whose blocks are computed as they are read) or an open
dataset of coefficients.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from scatflow.errors import MissingExtraError
from scatflow.learning.feed import batches
from scatflow.learning.rows import Batch, open_result

if TYPE_CHECKING:
    from scatflow.learning.estimators import PCA, StandardScaler
    from scatflow.learning.tensors import BlockSampler, CoefficientDataset, CoefficientStream

OPTIONAL = {
    "PCA": ("estimators", "sklearn"),
    "StandardScaler": ("estimators", "sklearn"),
    "BlockSampler": ("tensors", "torch"),
    "CoefficientDataset": ("tensors", "torch"),
    "CoefficientStream": ("tensors", "torch"),
}
"""Where the names are that need an extra, and which."""


def __getattr__(name: str) -> Any:
    if name not in OPTIONAL:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, extra = OPTIONAL[name]
    try:
        found = importlib.import_module(f"scatflow.learning.{module}")
    except ModuleNotFoundError as error:
        if error.name != extra:
            raise
        raise MissingExtraError(
            f"scatflow.learning.{name} needs {extra}, which is not installed ({error}). "
            f'Install it with: pip install "scatflow[{extra}]"'
        ) from error
    return getattr(found, name)


__all__ = [
    "PCA",
    "Batch",
    "BlockSampler",
    "CoefficientDataset",
    "CoefficientStream",
    "StandardScaler",
    "batches",
    "open_result",
]
