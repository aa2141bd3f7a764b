"""The ledger: which blocks of an output are done, kept inside the output itself."""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.sync import sync

from scatflow.dataset import DAMAGE, DONE, FAILED, MISSING, PARTIAL, count
from scatflow.errors import OutputError
from scatflow.flow.settings import ANY, COMPUTED_BY
from scatflow.flow.work import local_path

ARRAYS = {"checksum": np.uint32, "source": np.uint32, "state": np.uint8}
"""In the order of writing: a block that is said to be done has its checksums in the store."""

BACKEND = "backend"
"""One more, before these, of runs whose blocks are computed with one backend or another."""

CHUNK = 2**16
"""Blocks per chunk of the ledger's arrays: a flush rewrites only those that changed."""

GROWN = "grown"
"""Group in the ledger that holds its arrays while the output is made longer."""

BACKENDS = "backends"
"""Attribute of the ledger that names those which the array numbers."""

SHARES = "shares"
"""Group in the ledger that holds those of runs that share the output."""

MOST_SHARES = 10**6

REASONS_KEPT = 1000
"""Failed blocks, the first ones, whose reasons are kept; `state` names the others."""

FLUSH_SECONDS = 1.0
"""What an interrupted run may have to compute again, at most."""

FLUSH_SHARE = 0.02
"""Part of the time that flushing may take, on a slow store."""

STALE_SECONDS = 60.0
"""A run that has not shown signs of life for so long is dead (remote stores only)."""

DECIDERS = ("numpy", "scipy")
"""Libraries whose other versions may give other last bits."""


class DamagedLedgerError(ValueError):
    """An array of a ledger of ours cannot be read; the message names the object."""


class LostLedgerError(DamagedLedgerError):
    """Nothing can be read of an array of a ledger of ours; the message names its metadata."""


Hold = Callable[[], None]
"""Raises OutputTakenError where a run no longer holds the lock of its output."""


def kept() -> None:
    """Hold a lock that only the end of the process gives up."""


class Ledger:
    """State and checksums of every block, in memory and in the group ``ledger`` of the output.

    `checksum` is that of a block's coefficients, `source` that of the samples they come from.
    `backend` says what has computed a block, where blocks of one output may have several: its
    number in `backends`, from 1 on. A block that is to be computed again keeps it.

    Parameters
    ----------
    group : zarr.Group
        Where it is kept.
    mend : bool
        Take blocks whose entries cannot be read as missing, and name the objects in `damaged`.
    """

    def __init__(self, group: zarr.Group, *, mend: bool = False) -> None:
        self._group = group
        attrs = dict(group.attrs)
        self.fingerprint: str = str(attrs.get("fingerprint", ""))
        self.settings: Mapping[str, Any] = _mapping(attrs.get("settings"))
        self.versions: Mapping[str, Any] = _mapping(attrs.get("versions"))
        failures = _mapping(attrs.get("failures"))
        self.failures: dict[int, str] = {int(k): str(v) for k, v in failures.items()}
        self.run: Mapping[str, Any] | None = _mapping(attrs.get("run")) or None
        self.growing = bool(attrs.get("growing"))
        """Whether a run that made the output longer has not come to the end of that."""
        self.earlier = [tuple(shape) for shape in _sequence(attrs.get("earlier"))]
        """Shapes of the source that partial blocks were computed for, by `state - PARTIAL`."""
        self.backends = tuple(str(name) for name in _sequence(attrs.get(BACKENDS)))
        self.damaged: list[str] = []
        self._dirty: set[int] = set()
        self._flushed, self._cost = time.monotonic(), 0.0
        self.hold: Hold = kept
        place = group[GROWN] if self.growing else group
        try:
            self._arrays = {name: _array(place, name) for name in self.names}
        except LostLedgerError as problem:
            if not self.fingerprint:  # Somebody else's group of that name.
                raise TypeError(f"no fingerprint; {problem}") from problem
            raise
        self.checksum: NDArray[np.uint32] = self._load("checksum")
        self.source: NDArray[np.uint32] = self._load("source")
        self.state: NDArray[np.uint8] = self._load("state")
        self.backend: NDArray[np.uint8] = (
            self._load(BACKEND) if self.backends else np.zeros(self.state.shape, np.uint8)
        )
        for name in self.names:
            self._find_lost(name)
        if self.damaged and not mend:
            raise DamagedLedgerError(f"{self.damaged[0]} cannot be read")
        for chunk in self._dirty:
            self.state[chunk * CHUNK : (chunk + 1) * CHUNK] = MISSING
        self.shares = _count(attrs.get(SHARES))
        """Runs that the blocks were shared out to; 0: none."""
        self.share_runs: list[Mapping[str, Any]] = []
        """What those of them say that are at work, or died."""
        for index in range(self.shares):
            self._take_over(index)

    @property
    def group(self) -> zarr.Group:
        """Where it is kept."""
        return self._group

    @property
    def names(self) -> tuple[str, ...]:
        """Its arrays, in the order of writing."""
        return tuple(_dtypes(self.backends))

    def _load(self, name: str) -> NDArray[Any]:
        array = self._arrays[name]
        values = np.zeros(array.shape, array.dtype)
        for chunk in range(-(-values.size // CHUNK)):
            where = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
            try:
                values[where] = array[where]
            except DAMAGE as problem:
                self.damaged.append(
                    f"ledger/{name}/c/{chunk} ({type(problem).__name__}: {problem})"
                )
                self._dirty.add(chunk)
        return values

    def _find_lost(self, name: str) -> None:
        """Note chunks of done blocks that are not in the store, and which Zarr reads as zeros."""
        values = getattr(self, name)
        for chunk in range(-(-values.size // CHUNK)):
            where = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
            told = values[where][self.state[where] == DONE]
            if told.size and not told.any():
                place = self._arrays[name].store_path / f"c/{chunk}"
                if not sync(place.exists()):
                    self.damaged.append(f"ledger/{name}/c/{chunk} (it is not in the store)")
                    self._dirty.add(chunk)

    @classmethod
    def create(cls, root: zarr.Group, settings: Mapping[str, Any], mark: str, n: int) -> Ledger:
        """Make the ledger of `n` missing blocks in a new output whose fingerprint is `mark`."""
        several = _mapping(settings.get("engine")).get("backend") == ANY
        backends = COMPUTED_BY if several else ()
        group = root.create_group(
            "ledger",
            attributes={
                "fingerprint": mark,
                "settings": dict(settings),
                "versions": versions(),
                "failures": {},
                **({BACKENDS: list(backends)} if backends else {}),
            },
        )
        make_arrays(group, n, backends)
        return cls(group)

    @classmethod
    def open(cls, store: str, mode: str = "r", *, mend: bool = False) -> Ledger:
        """Open the ledger of an output (mode ``"r"``, or ``"r+"`` to write).

        Raises
        ------
        FileNotFoundError
            If there is none.
        DamagedLedgerError
            One of its arrays cannot be read, and it is not to be mended.
        """
        how: Any = mode
        return cls(zarr.open_group(store, path="ledger", mode=how), mend=mend)

    def _take_over(self, index: int) -> None:
        """Add what a run that shares the output has told so far."""
        try:
            told = Ledger(_subgroup(self._group, f"{SHARES}/{index}"))
        except (FileNotFoundError, KeyError):  # It has not begun, or is about to.
            return
        if told.run is not None:
            self.share_runs.append(told.run)
        n = self.state.size
        first, last = index * n // self.shares, (index + 1) * n // self.shares
        ended = first + np.flatnonzero(np.isin(told.state[first:last], (DONE, FAILED)))
        for name in self.names:
            getattr(self, name)[ended] = getattr(told, name)[ended]
        for block in ended.tolist() if self.failures else ():
            self.failures.pop(block, None)
        self.failures.update({k: v for k, v in told.failures.items() if first <= k < last})
        self._dirty.update(np.unique(ended // CHUNK).tolist())

    def share_out(self, shares: int) -> None:
        """Have so many runs share the blocks from now on."""
        self.shares = shares
        self._put(None)

    def absorb(self) -> None:
        """Keep what runs told that shared the output, which no other run has now."""
        if self.shares:
            self._write(None)
            place = self._group.store_path / SHARES
            sync(place.store.delete_dir(place.path))
            self.shares = 0
            self._put(None)

    def counts(self) -> dict[str, int]:
        """Return how many blocks are done, missing and failed."""
        return count(self.state)

    def pending(self) -> NDArray[np.int64]:
        """Return the blocks that are to be computed: missing and failed ones."""
        return np.flatnonzero(self.state != DONE)

    def computed(self) -> dict[str, int]:
        """Return how many of the blocks that are done each backend has computed."""
        done = self.state == DONE
        found = {
            name: int(np.count_nonzero(done & (self.backend == number)))
            for number, name in enumerate(self._computing)
        }
        return {name: n for name, n in found.items() if n}

    def computed_by(self, block: int) -> str:
        """Name the backend that has computed a block."""
        return self._computing[int(self.backend[block])]

    @property
    def _computing(self) -> tuple[str, ...]:
        """What a number in `backend` stands for; 0: what computes all blocks of the run."""
        return str(_mapping(self.settings.get("engine")).get("backend")), *self.backends

    def record(
        self, block: int, checksum: int, source: int, failure: str | None, backend: str = ""
    ) -> None:
        """Note how a block ended."""
        if self.backends:
            by = None if failure else backend
            self.backend[block] = 1 + self.backends.index(by) if by in self.backends else 0
        self.state[block] = FAILED if failure else DONE
        self.checksum[block] = checksum
        self.source[block] = source
        self.failures.pop(block, None)
        if failure:
            self.failures[block] = failure
            if len(self.failures) > REASONS_KEPT:
                del self.failures[max(self.failures)]
        self._dirty.add(block // CHUNK)

    def forget(self, blocks: NDArray[Any]) -> None:
        """Mark blocks as missing, to be computed by what has computed them before."""
        self.state[blocks] = MISSING
        self.checksum[blocks] = 0
        self.source[blocks] = 0
        for block in blocks.tolist() if self.failures else ():
            self.failures.pop(block, None)
        self._dirty.update(np.unique(blocks // CHUNK).tolist())

    def reason(self, block: int) -> str:
        """Say why a block failed."""
        return self.failures.get(block, "its reason was not kept; it is told when it fails again")

    def begin_growth(
        self,
        settings: Mapping[str, Any],
        mark: str,
        arrays: Mapping[str, NDArray[Any]],
        failures: Mapping[int, str],
        earlier: Sequence[tuple[int, ...]],
    ) -> None:
        """Write the ledger of a longer output beside the old one, then say that it counts.

        That is one write of the group's attributes: a process that dies before it changes nothing,
        and after one that dies later, what is left to do is known.
        """
        self.tidy()
        grown = self._group.create_group(GROWN)
        make_arrays(grown, arrays["state"].size, self.backends)
        for name in self.names:
            _array(grown, name)[...] = arrays[name]
        self.settings, self.fingerprint = settings, mark
        for name in self.names:
            setattr(self, name, arrays[name])
        if not self.backends:
            self.backend = np.zeros(self.state.shape, np.uint8)
        self.failures, self.earlier = dict(failures), list(earlier)
        self._dirty.clear()
        self.growing = True
        self._put(None)

    def end_growth(self) -> None:
        """Bring the ledger's own arrays to the new length and values: the output has grown."""
        self._arrays = {name: _array(self._group, name) for name in self.names}
        for name, array in self._arrays.items():
            array.resize((self.state.size,))
            array[...] = getattr(self, name)
        self.growing = False
        self._put(None)
        self.tidy()

    def tidy(self) -> None:
        """Remove what a process left that died while it made the output longer."""
        if not self.growing:
            place = self._group.store_path / GROWN
            sync(place.store.delete_dir(place.path))

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
        """Make sure that no other run has replaced the output, or writes it, meanwhile.

        Raises
        ------
        OutputError
            It has been replaced.
        OutputTakenError
            Another run has taken over the lock.
        """
        self.hold()
        check_unreplaced(self._group.store_path, "", self.fingerprint)

    def _write(self, run: Mapping[str, Any] | None) -> None:
        for name in self.names:
            values = getattr(self, name)
            for chunk in sorted(self._dirty):
                where = slice(chunk * CHUNK, min((chunk + 1) * CHUNK, values.size))
                self._arrays[name][where] = values[where]
        self._dirty.clear()
        self._put(run)

    def _put(self, run: Mapping[str, Any] | None) -> None:
        attrs: dict[str, Any] = {
            "fingerprint": self.fingerprint,
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            "failures": {str(k): self.failures[k] for k in sorted(self.failures)},
        }
        if self.backends:
            attrs[BACKENDS] = list(self.backends)
        if self.growing:
            attrs["growing"] = True
        if self.shares:
            attrs[SHARES] = self.shares
        if self.earlier and (self.state >= PARTIAL).any():
            attrs["earlier"] = [list(shape) for shape in self.earlier]
        if run is not None:
            attrs["run"] = dict(run)
        self._group.attrs.put(attrs)


class Heading(NamedTuple):
    """What workers need of a ledger: the same few bytes however many blocks there are."""

    fingerprint: str
    settings: Mapping[str, Any]
    partial: bool
    """Whether a shorter source has left blocks of which some units hold."""


def heading(store: str) -> Heading:
    """Read what workers need of the ledger of an output.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    attrs = zarr.open_group(store, path="ledger", mode="r").attrs.asdict()
    return Heading(
        str(attrs.get("fingerprint", "")), _mapping(attrs.get("settings")), "earlier" in attrs
    )


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


class Unreplaced:
    """Makes sure, as often as it is called, that the ledger of an output has not been replaced.

    A ledger on this machine is read again only where its file is another one or has changed.

    Parameters
    ----------
    store : str
        The output.
    fingerprint : str
        What its ledger should have.
    """

    def __init__(self, store: str, fingerprint: str) -> None:
        self._store, self._fingerprint = store, fingerprint
        path = local_path(store)
        self._file = None if path is None else os.path.join(path, "ledger", "zarr.json")
        self._seen: tuple[int, ...] | None = None

    def __call__(self) -> None:
        """Raise :class:`OutputError` if another run has replaced or deleted the ledger."""
        now = self._state()
        if now is None or now != self._seen:
            check_unreplaced(self._store, "ledger", self._fingerprint)
            self._seen = now

    def _state(self) -> tuple[int, ...] | None:
        if self._file is None:
            return None
        try:
            with open(self._file, "rb") as file:  # Network file systems look anew when one opens.
                found = os.fstat(file.fileno())
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide on the last bits of a coefficient."""
    return {name: importlib.metadata.version(name) for name in DECIDERS}


def _dtypes(backends: Sequence[str]) -> dict[str, Any]:
    """Return the types of a ledger's arrays, by their names and in the order of writing."""
    return {BACKEND: np.uint8, **ARRAYS} if backends else dict(ARRAYS)


def make_arrays(group: zarr.Group, n: int, backends: Sequence[str]) -> None:
    """Make the ledger's arrays of `n` blocks; but for their shape they do not depend on `n`."""
    for name, dtype in _dtypes(backends).items():
        group.create_array(
            name,
            shape=(n,),
            chunks=(CHUNK,),
            dtype=dtype,
            compressors=[ZstdCodec(), Crc32cCodec()],
            dimension_names=["block"],
        )


def _array(group: Any, name: str) -> zarr.Array[Any]:
    try:
        # So that what was written is there, be it zeros: what is not there is lost.
        with zarr.config.set({"array.write_empty_chunks": True}):
            array = group[name]
    except DAMAGE as problem:
        key = f"ledger/{name}/zarr.json"
        raise LostLedgerError(f"{key} ({type(problem).__name__}: {problem})") from problem
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{group.store_path}/{name} should be an array.")
    return array


def _subgroup(group: zarr.Group, path: str) -> zarr.Group:
    try:
        found = group[path]
    except KeyError as problem:
        raise FileNotFoundError(path) from problem
    if not isinstance(found, zarr.Group):
        raise TypeError(f"{group.store_path}/{path} should be a group.")
    return found


def _count(value: Any) -> int:
    return value if isinstance(value, int) and 0 < value <= MOST_SHARES else 0


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()
