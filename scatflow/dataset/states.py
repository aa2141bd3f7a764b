"""What the ledger inside an output says of its blocks, for whoever reads the output."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

MISSING, DONE, FAILED = 0, 1, 2
"""State of a block: not computed, computed, or with units that could not be (they hold NaN)."""


def count(state: NDArray[np.uint8]) -> dict[str, int]:
    """Return how many blocks are done, missing and failed.

    Examples
    --------
    >>> count(np.array([1, 1, 0, 2], np.uint8))
    {'done': 2, 'missing': 1, 'failed': 1}
    """
    found = np.bincount(state, minlength=3)
    return {"done": int(found[DONE]), "missing": int(found[MISSING]), "failed": int(found[FAILED])}


def counts_in(store: Any) -> dict[str, int] | None:
    """Return how many blocks of an output are done, missing and failed; None without a ledger."""
    state = zarr.open_group(store, mode="r").get("ledger/state")
    return count(np.asarray(state[...])) if isinstance(state, zarr.Array) else None
