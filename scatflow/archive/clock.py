"""Coordinates along which samples are not evenly spaced, and where that begins."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scatflow.archive.regular import COARSEST, TOLERANCE


def first_uneven(values: NDArray[Any]) -> tuple[int, float] | None:
    """Return the first sample that does not lie one step after the one before it.

    Parameters
    ----------
    values : ndarray
        A coordinate: times or numbers.

    Returns
    -------
    sample : int
        Its number.
    steps : float
        How many of the usual steps it lies after the one before it; NaN where it has no value, 0
        where all samples have the same one.
    None, if all lie within the tolerance of regular coordinates, or cannot be told apart.
    """
    if values.dtype.kind not in "iufM":
        return None
    missing = np.isnat(values) if values.dtype.kind == "M" else ~np.isfinite(values)
    if missing.any():
        return int(np.argmax(missing)), float("nan")
    if values.size < 2:
        return None
    if (values == values[0]).all():
        return 1, 0.0
    steps = np.diff(values.view(np.int64) if values.dtype.kind == "M" else values)
    steps = steps.astype(np.float64)
    usual = float(np.median(steps))
    grain = 1.0
    if values.dtype.kind == "f":
        grain = float(np.spacing(np.abs(values).max()))
    if usual == 0 or (values.dtype.kind in "fM" and grain > float(COARSEST) * abs(usual)):
        return None
    slack = float(TOLERANCE) * abs(usual) + (2.0 * grain if values.dtype.kind in "fM" else 0.0)
    wrong = np.abs(steps - usual) > slack
    if not wrong.any():
        return None
    at = int(np.argmax(wrong))
    return at + 1, float(steps[at] / usual)
