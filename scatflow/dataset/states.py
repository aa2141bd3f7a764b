"""What the ledger inside an output says of its blocks, for whoever reads the output."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

MISSING, DONE, FAILED, PARTIAL = 0, 1, 2, 3
"""State of a block: not computed, computed, or with units that could not be (they hold NaN).

From PARTIAL on: missing since the source grew, with units that may still hold; `state - PARTIAL` is
the number of the extents that it was computed for.
"""


def count(state: NDArray[np.uint8]) -> dict[str, int]:
    """Return how many blocks are done, missing and failed.

    Examples
    --------
    >>> count(np.array([1, 1, 0, 2], np.uint8))
    {'done': 2, 'missing': 1, 'failed': 1}
    """
    done, failed = int(np.sum(state == DONE)), int(np.sum(state == FAILED))
    return {"done": done, "missing": state.size - done - failed, "failed": failed}


def counts_in(store: Any) -> dict[str, int] | None:
    """Return how many blocks of an output are done, missing and failed; None without a ledger."""
    # Consolidated metadata are those of the dataset, without its ledger.
    group = zarr.open_group(store, mode="r", use_consolidated=False)
    state = group.get("ledger/state")
    return count(np.asarray(state[...])) if isinstance(state, zarr.Array) else None
