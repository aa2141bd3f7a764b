"""PathTable: what is computed, in which order, under which labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class PathTable:
    """One row per scattering path, in the order of the output's path axis.

    ``columns`` hold the labels of a dataset: `order`, `j1`, `j2` (-1 where absent), `xi1`, `xi2`,
    `sigma1`, `sigma2` (cycles/sample, NaN where absent), for images `theta1`, `theta2` (radians),
    for volumes `l`, and a readable `label`; of time-frequency paths also `j_fr`, `xi_fr`,
    `sigma_fr` (cycles per first-order wavelet), `spin`, and `q` and `octave`, the number of the
    first wavelet and its octaves below the highest one.
    """

    columns: dict[str, NDArray[Any]]
    keys: tuple[tuple[int, ...], ...]
    """Indices of the path's wavelets in their banks: ``()``, ``(n1,)``, ``(n1, n2)``."""
    rows: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Labels of an axis between paths and windows, which the first one names, if there is one."""

    def __len__(self) -> int:
        return int(self.columns["order"].size)

    def numbers(self, max_order: int) -> NDArray[np.float64]:
        """Return the keys as an array ``(paths, max_order)``, NaN where a path is shorter."""
        rows = [(*key, np.nan, np.nan)[:max_order] for key in self.keys]
        return np.array(rows, np.float64)

    def per_order(self) -> tuple[int, ...]:
        """Return how many paths each order has."""
        return tuple(int(n) for n in np.bincount(self.columns["order"]))


def numbers(keys: Sequence[tuple[int, ...]]) -> NDArray[np.intp]:
    """Return keys as an array ``(paths, 2)``, -1 where a path is shorter."""
    return np.array([(*key, -1, -1)[:2] for key in keys], np.intp)


def stack(rows: list[dict[str, Any]]) -> dict[str, NDArray[Any]]:
    """Turn rows of labels into columns."""
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def pairs(first: NDArray[Any], second: NDArray[Any], max_order: int) -> NDArray[np.float64]:
    """Return two columns as an array ``(paths, max_order)``, NaN where absent."""
    return np.stack([first, second], axis=1).astype(np.float64)[:, :max_order]
