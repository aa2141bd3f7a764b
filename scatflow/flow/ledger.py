"""The ledger: which blocks of an output are done, kept inside the output itself."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from scatflow.dataset import DONE, FAILED, MISSING, count
from scatflow.errors import OutputError

ARRAYS = {"checksum": np.uint32, "source": np.uint32, "state": np.uint8}
"""In the order of writing: a block that is said to be done has its checksums in the store."""

CHUNK = 2**16
"""Blocks per chunk of the ledger's arrays: a flush rewrites only those that changed."""

FLUSH_SECONDS = 1.0
"""What an interrupted run may have to compute again, at most."""

FLUSH_SHARE = 0.02
"""Part of the time that flushing may take, on a slow store."""

STALE_SECONDS = 60.0
"""A run that has not shown signs of life for so long is dead (remote stores only)."""

DECIDERS = ("numpy", "scipy")
"""Libraries whose other versions may give other last bits."""


class Ledger:
    """State and checksums of every block, in memory and in the group ``ledger`` of the output.

    `checksum` is that of a block's coefficients, `source` that of the samples they come from.
    """

    def __init__(self, group: zarr.Group) -> None:
        self._group = group
        self._arrays = {name: _array(group, name) for name in ARRAYS}
        attrs = dict(group.attrs)
        self.fingerprint: str = str(attrs.get("fingerprint", ""))
        self.settings: Mapping[str, Any] = _mapping(attrs.get("settings"))
        self.versions: Mapping[str, Any] = _mapping(attrs.get("versions"))
        failures = _mapping(attrs.get("failures"))
        self.failures: dict[int, str] = {int(k): str(v) for k, v in failures.items()}
        self.run: Mapping[str, Any] | None = _mapping(attrs.get("run")) or None
        self.state: NDArray[np.uint8] = np.asarray(self._arrays["state"][...])
        self.checksum: NDArray[np.uint32] = np.asarray(self._arrays["checksum"][...])
        self.source: NDArray[np.uint32] = np.asarray(self._arrays["source"][...])
        self._dirty: set[int] = set()
        self._flushed, self._cost = time.monotonic(), 0.0

    @classmethod
    def create(cls, root: zarr.Group, settings: Mapping[str, Any], mark: str, n: int) -> Ledger:
        """Make the ledger of `n` missing blocks in a new output whose fingerprint is `mark`."""
        group = root.create_group(
            "ledger",
            attributes={
                "fingerprint": mark,
                "settings": dict(settings),
                "versions": versions(),
                "failures": {},
            },
        )
        for name, dtype in ARRAYS.items():
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
        return count(self.state)

    def pending(self) -> NDArray[np.int64]:
        """Return the blocks that are to be computed: missing and failed ones."""
        return np.flatnonzero(self.state != DONE)

    def record(self, block: int, checksum: int, source: int, failure: str | None) -> None:
        """Note how a block ended."""
        self.state[block] = FAILED if failure else DONE
        self.checksum[block] = checksum
        self.source[block] = source
        self.failures.pop(block, None)
        if failure:
            self.failures[block] = failure
        self._dirty.add(block // CHUNK)

    def forget(self, blocks: NDArray[Any]) -> None:
        """Mark blocks as missing."""
        self.state[blocks] = MISSING
        self.checksum[blocks] = 0
        self.source[blocks] = 0
        self._dirty.update(np.unique(blocks // CHUNK).tolist())

    def due(self) -> bool:
        """Tell whether it is time to flush: often enough to be taken for alive, at any cost."""
        wait = min(max(FLUSH_SECONDS, self._cost / FLUSH_SHARE), STALE_SECONDS / 4)
        return time.monotonic() - self._flushed >= wait

    def flush(self, run: Mapping[str, Any] | None) -> None:
        """Write what changed, and who is running (None: nobody any more).

        Raises
        ------
        OutputError
            The ledger there is another run's by now, or cannot be written, as on a full disk.
        """
        begun = time.monotonic()
        self.check_ours()
        try:
            self._write(run)
        except OSError as problem:
            raise OutputError(
                f"The ledger {self._group.store_path} cannot be written: {problem}. What was "
                "finished lately is not recorded. Make room or restore access, then give the same "
                "command: it goes on from there."
            ) from problem
        self.run = run
        self._flushed = time.monotonic()
        self._cost = self._flushed - begun

    def check_ours(self) -> None:
        """Make sure that no other run has replaced the output meanwhile.

        Raises
        ------
        OutputError
            It has been.
        """
        check_unreplaced(self._group.store_path, "", self.fingerprint)

    def _write(self, run: Mapping[str, Any] | None) -> None:
        for name in ARRAYS:
            values = getattr(self, name)
            for chunk in sorted(self._dirty):
                where = slice(chunk * CHUNK, min((chunk + 1) * CHUNK, values.size))
                self._arrays[name][where] = values[where]
        self._dirty.clear()
        attrs: dict[str, Any] = {
            "fingerprint": self.fingerprint,
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            "failures": {str(k): self.failures[k] for k in sorted(self.failures)},
        }
        if run is not None:
            attrs["run"] = dict(run)
        self._group.attrs.put(attrs)


def check_unreplaced(store: Any, path: str, fingerprint: str) -> None:
    """Make sure that the ledger at `path` in a store still has a fingerprint: one small read.

    Raises
    ------
    OutputError
        Another run has replaced or deleted it.
    """
    try:
        group = zarr.open_group(store, path=path, mode="r", zarr_format=3, use_consolidated=False)
        found = group.attrs.get("fingerprint")
    except FileNotFoundError:
        found = None
    if found != fingerprint:
        raise OutputError(
            f"The output {store} was replaced by another run while this one wrote it, so this "
            "one stopped and left it alone. Start one run at a time."
        )


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide on the last bits of a coefficient."""
    return {name: importlib.metadata.version(name) for name in DECIDERS}


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{group.store_path}/{name} should be an array.")
    return array


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
