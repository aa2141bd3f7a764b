"""The ledger: which blocks of an output are done, kept inside the output itself."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

MISSING, DONE, FAILED = 0, 1, 2

CHUNK = 2**16
"""Blocks per chunk of the ledger's arrays: a flush rewrites only those that changed."""

FLUSH_SECONDS = 1.0
"""What an interrupted run may have to compute again, at most."""

FLUSH_SHARE = 0.02
"""Part of the time that flushing may take, on a slow store."""


class Ledger:
    """State and checksum of every block, in memory and in the group ``ledger`` of the output."""

    def __init__(self, group: zarr.Group) -> None:
        self._group = group
        self._arrays = {name: _array(group, name) for name in ("checksum", "state")}
        attrs = dict(group.attrs)
        self.fingerprint: str = str(attrs.get("fingerprint", ""))
        self.settings: Mapping[str, Any] = _mapping(attrs.get("settings"))
        failures = _mapping(attrs.get("failures"))
        self.failures: dict[int, str] = {int(k): str(v) for k, v in failures.items()}
        self.run: Mapping[str, Any] | None = _mapping(attrs.get("run")) or None
        self.state: NDArray[np.uint8] = np.asarray(self._arrays["state"][...])
        self.checksum: NDArray[np.uint32] = np.asarray(self._arrays["checksum"][...])
        self._dirty: set[int] = set()
        self._flushed, self._cost = time.monotonic(), 0.0

    @classmethod
    def create(cls, root: zarr.Group, settings: Mapping[str, Any], mark: str, n: int) -> Ledger:
        """Make the ledger of `n` missing blocks in a new output whose fingerprint is `mark`."""
        group = root.create_group(
            "ledger",
            attributes={"fingerprint": mark, "settings": dict(settings), "failures": {}},
        )
        for name, dtype in (("state", np.uint8), ("checksum", np.uint32)):
            group.create_array(
                name, shape=(n,), chunks=(min(n, CHUNK),), dtype=dtype, dimension_names=["block"]
            )
        return cls(group)

    @classmethod
    def open(cls, store: str, mode: str = "r") -> Ledger:
        """Open the ledger of an output (mode ``"r"``, or ``"r+"`` to write).

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        how: Any = mode
        return cls(zarr.open_group(store, path="ledger", mode=how))

    def counts(self) -> dict[str, int]:
        """Return how many blocks are done, missing and failed."""
        found = np.bincount(self.state, minlength=3)
        return {"done": int(found[DONE]), "missing": int(found[0]), "failed": int(found[FAILED])}

    def pending(self) -> NDArray[np.int64]:
        """Return the blocks that are to be computed: missing and failed ones."""
        return np.flatnonzero(self.state != DONE)

    def record(self, block: int, checksum: int, failure: str | None) -> None:
        """Note how a block ended."""
        self.state[block] = FAILED if failure else DONE
        self.checksum[block] = checksum
        self.failures.pop(block, None)
        if failure:
            self.failures[block] = failure
        self._dirty.add(block // CHUNK)

    def forget(self, blocks: NDArray[Any]) -> None:
        """Mark blocks as missing."""
        self.state[blocks] = MISSING
        self.checksum[blocks] = 0
        self._dirty.update(np.unique(blocks // CHUNK).tolist())

    def due(self) -> bool:
        """Tell whether it is time to flush."""
        wait = max(FLUSH_SECONDS, self._cost / FLUSH_SHARE)
        return time.monotonic() - self._flushed >= wait

    def flush(self, run: Mapping[str, Any] | None) -> None:
        """Write what changed, and who is running (None: nobody any more)."""
        begun = time.monotonic()
        # Checksums first: a block that is said to be done has its checksum in the store.
        for name, values in (("checksum", self.checksum), ("state", self.state)):
            for chunk in sorted(self._dirty):
                where = slice(chunk * CHUNK, min((chunk + 1) * CHUNK, values.size))
                self._arrays[name][where] = values[where]
        self._dirty.clear()
        attrs: dict[str, Any] = {
            "fingerprint": self.fingerprint,
            "settings": dict(self.settings),
            "failures": {str(k): self.failures[k] for k in sorted(self.failures)},
        }
        if run is not None:
            attrs["run"] = dict(run)
        self.run = run
        self._group.attrs.put(attrs)
        self._flushed = time.monotonic()
        self._cost = self._flushed - begun


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{group.store_path}/{name} should be an array.")
    return array


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
