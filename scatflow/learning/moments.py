"""Means and covariances in one pass: exact, in any order, and added to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and scatter matrix of rows, in float64.

    The moments of two sets of rows give those of both without looking at a row again (Chan, Golub
    and LeVeque 1983): differences of means are small where sums of squares would cancel.

    Attributes
    ----------
    n : int
        Rows.
    mean : ndarray
        ``(feature,)``.
    scatter : ndarray
        ``(feature, feature)``: the sum over rows of the outer products of deviations.

    References
    ----------
    T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for Computing the Sample Variance", The
    American Statistician 37 (1983), https://doi.org/10.1080/00031305.1983.10483115

    Examples
    --------
    >>> x = np.arange(12.0).reshape(6, 2)
    >>> both = Moments.of(x[:2]) + Moments.of(x[2:])
    >>> both.n, both.mean.tolist(), (both.scatter / (both.n - 1)).tolist()
    (6, [5.0, 6.0], [[14.0, 14.0], [14.0, 14.0]])
    """

    n: int
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]

    @staticmethod
    def of(rows: ArrayLike) -> Moments:
        """Return the moments of some rows, ``(row, feature)``."""
        x: NDArray[Any] = np.asarray(rows)
        mean = x.mean(axis=0, dtype=np.float64) if len(x) else np.zeros(x.shape[1])
        deviations = x - mean
        return Moments(len(x), mean, deviations.T @ deviations)

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows."""
        n = self.n + other.n
        if n == 0:
            return self
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.n / n)
        between = np.outer(apart, apart) * (self.n * other.n / n)
        return Moments(n, mean, self.scatter + other.scatter + between)
