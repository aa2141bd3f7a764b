"""One run at a time on an output: a lock of the kernel's, or an object that only one can create."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec

from scatflow.errors import OutputBusyError, OutputError, OutputTakenError
from scatflow.flow.ledger import STALE_SECONDS, Hold, kept
from scatflow.flow.work import local_path

GLANCES, GLANCE_SECONDS = 5, 0.05
"""How often a lock is tried again: :func:`held` holds it for an instant."""

BEAT_SECONDS = 10.0
"""How often a run writes its lock object anew."""

SILENT_SECONDS = 35.0
"""An object that stays the same for so long is a dead run's: of three beats, none has come."""

LOOK_SECONDS = 1.0


@contextlib.contextmanager
def locked(output: str) -> Iterator[Hold]:
    """Hold the lock of an output.

    Yields
    ------
    Hold
        Tells whether it is still held: that of a remote output is taken over from a run that has
        been silent, as on a machine that slept.

    Raises
    ------
    OutputBusyError
        Another run holds it; the message names its process.
    OutputError
        The lock cannot be made.
    """
    with _locked_file(output) if local_path(output) is not None else _locked_object(output) as hold:
        yield hold


@contextlib.contextmanager
def _locked_file(output: str) -> Iterator[Hold]:
    """Hold the lock of a local output: an flock on ``<output>.lock`` beside the store.

    The kernel drops it with the process, however that ends, so a dead run is no obstacle.
    """
    path = _beside(output)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path)
    except OSError as problem:
        if isinstance(problem, OutputError):
            raise
        raise OutputError(
            f"The output {output} cannot be written: {problem.strerror} ({path}). "
            "Give a place that can be written in [output] store."
        ) from problem
    try:
        yield kept
    finally:
        # Unlinked while it is held: who opened it meanwhile finds another inode and tries again.
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextlib.contextmanager
def shared(output: str, share: int) -> Iterator[Hold]:
    """Hold the lock of an output together with runs that compute other shares of it.

    Yields
    ------
    Hold
        As :func:`locked` does.

    Raises
    ------
    OutputBusyError
        A run has the output for itself, or another one computes the same share.
    OutputError
        The output cannot be written.
    """
    if local_path(output) is None:
        with _shared_object(output, share) as hold:
            yield hold
        return
    path = _beside(output)
    descriptor = _acquire(path, fcntl.LOCK_SH)
    try:
        with _locked_file(f"{output.rstrip('/')}.share-{share}") as hold:
            yield hold
    finally:
        with contextlib.suppress(BlockingIOError):  # The last of them removes it.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        os.close(descriptor)


def refuse_if_held(output: str) -> None:
    """Refuse to go on while a run holds the lock of a local output.

    Raises
    ------
    OutputBusyError
        A run does; the message names its process.
    """
    if local_path(output) is not None and held(output):
        raise _busy(_beside(output).name.removesuffix(".lock"), _holder(_beside(output)))


def held(output: str) -> bool:
    """Tell whether a run holds the lock of a local output at this moment."""
    try:
        descriptor = os.open(_beside(output), os.O_RDWR)
    except FileNotFoundError:
        return False
    except PermissionError:  # Another user's: it holds what it does not let go.
        descriptor = os.open(_beside(output), os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)  # Which gives up the lock, too.
    return False


def _beside(output: str) -> Path:
    return Path(output.rstrip("/") + ".lock")


def _acquire(path: Path, how: int = fcntl.LOCK_EX) -> int:
    tries = 0
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if (tries := tries + 1) < GLANCES:
                os.close(descriptor)
                time.sleep(GLANCE_SECONDS)
                continue
            holder = os.read(descriptor, 4096).decode(errors="replace")
            os.close(descriptor)
            raise _busy(path.name.removesuffix(".lock"), _parsed(holder)) from None
        if _same_file(descriptor, path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(me()).encode(), 0)
            return descriptor
        os.close(descriptor)


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.stat(path).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _holder(path: Path) -> Mapping[str, Any]:
    with contextlib.suppress(FileNotFoundError):  # It has ended meanwhile.
        return _parsed(path.read_text(errors="replace"))
    return {}


def _parsed(text: str) -> Mapping[str, Any]:
    """Return the holder's words; it may not have written them yet."""
    return dict(json.loads(text)) if text.endswith("}") else {}


def _busy(output: str, run: Mapping[str, Any]) -> OutputBusyError:
    return OutputBusyError(
        f"Another run is writing {output}: process {run.get('pid', '?')} on "
        f"{run.get('host', '?')}. Wait for it (scatflow status shows how far it is), or stop it."
    )


def me() -> dict[str, Any]:
    """Return who is running, for others to read."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


# --- stores without a kernel ---------------------------------------------------------------------


@contextlib.contextmanager
def _locked_object(output: str) -> Iterator[Hold]:
    """Hold the lock of a remote output, of which no share is being computed."""
    with _held_object(output) as hold:
        files, path = fsspec.core.url_to_fs(output)
        _give_way(files, _share_locks(files, path.rstrip("/")), output)
        yield hold


@contextlib.contextmanager
def _shared_object(output: str, share: int) -> Iterator[Hold]:
    """Hold the lock of one share of a remote output, which no run has for itself.

    Whoever wants one of the two kinds of locks takes it first and looks for the other kind then:
    of two that begin at the same instant one is refused at least.
    """
    with _held_object(f"{output.rstrip('/')}.share-{share}") as hold:
        files, path = fsspec.core.url_to_fs(output)
        _give_way(files, [f"{path.rstrip('/')}.lock"], output)
        yield hold


def _share_locks(files: Any, path: str) -> list[str]:
    """List the locks of shares of a remote output."""
    files.invalidate_cache()  # Others make them.
    folder, _, name = path.rpartition("/")
    try:
        there = [str(found) for found in files.ls(folder, detail=False)]
    except FileNotFoundError:
        return []
    named = re.compile(rf"{re.escape(name)}\.share-\d+\.lock")
    return [found for found in there if named.fullmatch(found.rpartition("/")[2])]


def _give_way(files: Any, locks: Sequence[str], output: str) -> None:
    """Refuse to go on where one of some locks is held; those of dead runs are removed.

    Raises
    ------
    OutputBusyError
        One of them is written anew.
    """
    found = {lock: body for lock in locks if (body := _read_object(files, lock)) is not None}
    holders = {lock: _parsed(body.decode(errors="replace")) for lock, body in found.items()}
    waiting = {lock: found[lock] for lock in found if not _is_dead_here(holders[lock])}
    until = time.monotonic() + SILENT_SECONDS
    while waiting and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
        now = {lock: _read_object(files, lock) for lock in waiting}
        for lock, body in waiting.items():
            if now[lock] not in (None, body):
                raise _busy(output.rsplit("/", 1)[-1], holders[lock])
        waiting = {lock: body for lock, body in waiting.items() if now[lock] is not None}
    for lock, body in found.items():
        if _read_object(files, lock) == body:
            with contextlib.suppress(FileNotFoundError):
                files.rm_file(lock)


@contextlib.contextmanager
def _held_object(output: str) -> Iterator[Hold]:
    """Hold an object beside a remote output that only one run can create.

    It is written anew all the while. A run that finds it waits until it has changed, and is
    refused, or has not for longer than its holder would be silent, and takes it over: no clocks
    are compared. Where a store has no conditional writes, two runs that begin at the same instant,
    or take a dead one's lock over at the same instant, both pass; they write the same bytes.
    """
    try:
        files, path = fsspec.core.url_to_fs(output)
        lock = f"{path.rstrip('/')}.lock"
        if "/" not in path.strip("/"):
            raise OutputError(
                f"The output {output} is all of a bucket, so there is no place for a lock beside "
                "it. Name a place in it, such as results.zarr, in [output] store."
            )
        token = secrets.token_hex(8)
        _take(files, lock, output, token)
    except OSError as problem:
        if isinstance(problem, OutputError):
            raise
        raise OutputError(
            f"The output {output} cannot be written: {problem}. Check that the store can be "
            "reached and that its credentials allow writing."
        ) from problem
    stop, beat = threading.Event(), _Beat(files, lock, output, token)
    beats = threading.Thread(target=beat.go_on, args=(stop,), daemon=True)
    beats.start()
    try:
        yield beat.check
    finally:
        stop.set()
        beats.join()
        with contextlib.suppress(Exception):  # It may have been taken over, or be out of reach.
            if _parsed((_read_object(files, lock) or b"").decode()).get("token") == token:
                files.rm_file(lock)


def _take(files: Any, lock: str, output: str, token: str) -> None:
    """Create the lock, or take it over from a dead run."""
    while True:
        version = _version(files, lock)  # No newer than what is found.
        found = _read_object(files, lock)  # First: not every store knows conditional writes.
        if found is None:
            with contextlib.suppress(FileExistsError):
                files.pipe_file(lock, _holding(token, 0), mode="create")
            found = _read_object(files, lock)
            if found == _holding(token, 0):
                return
            if found is None:
                continue  # Another run has had it for an instant.
        holder = _parsed(found.decode(errors="replace"))
        if not _is_dead_here(holder) and not _is_silent(files, lock, found):
            raise _busy(output.rsplit("/", 1)[-1], holder)
        if version is not None:
            replaced = _replace(files, lock, version, token)
            if replaced is not None:
                if replaced:
                    return
                continue
        if _read_object(files, lock) == found:
            with contextlib.suppress(FileNotFoundError):
                files.rm_file(lock)


def _version(files: Any, lock: str) -> str | None:
    """Return the version of a lock that is there, None where a store has no word for it."""
    if "s3" not in files.protocol:
        return None
    with contextlib.suppress(FileNotFoundError):
        return str(files.info(lock, refresh=True)["ETag"])
    return None


def _replace(files: Any, lock: str, version: str, token: str, beat: int = 0) -> bool | None:
    """Write a lock if it still is of that version: of several runs that try, one can.

    Returns
    -------
    bool or None
        Whether it was; None where the store cannot replace objects on a condition.
    """
    try:
        files.pipe_file(lock, _holding(token, beat), IfMatch=version)
    except FileNotFoundError:
        return False
    except OSError as problem:  # Of other codes of S3's protocol: outages.
        code = getattr(problem.__cause__, "response", {}).get("Error", {}).get("Code")
        if code in ("PreconditionFailed", "ConditionalRequestConflict"):
            return False
        if code == "NotImplemented":
            return None
        raise
    found = _read_object(files, lock)  # Of runs whose condition was ignored, the last one wins.
    return found is not None and _parsed(found.decode(errors="replace")).get("token") == token


def _is_silent(files: Any, lock: str, found: bytes) -> bool:
    """Watch the lock until it changes (False) or its holder would have written long ago."""
    until = time.monotonic() + SILENT_SECONDS
    while time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
        if _read_object(files, lock) != found:
            return False
    return True


def _is_dead_here(holder: Mapping[str, Any]) -> bool:
    """Tell whether the holder was a process of this machine that is no more."""
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


class _Beat:
    """Writes a lock anew now and then, until another run has taken it over."""

    def __init__(self, files: Any, lock: str, output: str, token: str) -> None:
        self._files, self._lock, self._output, self._token = files, lock, output, token
        self._lost: str | None = None
        self._looked = time.time()

    def go_on(self, stop: threading.Event) -> None:
        """Write until told to stop; a store that fails meanwhile is asked again."""
        number = 0
        while self._lost is None and not stop.wait(BEAT_SECONDS):
            number += 1
            # Of whatever kind a store's client has for outages.
            with contextlib.suppress(Exception):
                version = _version(self._files, self._lock)  # No newer than what is found.
                self._look()
                if self._lost is None:
                    self._write(version, number)

    def _write(self, version: str | None, number: int) -> None:
        """Write the lock anew, unless another run has taken it over since it was looked at."""
        if version is not None:
            replaced = _replace(self._files, self._lock, version, self._token, number)
            if replaced is not None:
                if not replaced:
                    self._look()
                return
        self._files.pipe_file(self._lock, _holding(self._token, number))

    def _look(self) -> None:
        """Find out whether the lock is another run's, or was: this one wrote it at the start."""
        begun = time.time()
        found = _read_object(self._files, self._lock)
        self._looked = begun
        if found is None:
            self._lost = "another run had the output since"
            return
        holder = _parsed(found.decode(errors="replace"))  # Nothing, of one that is being written.
        if holder.get("token", self._token) != self._token:
            self._lost = f"process {holder.get('pid', '?')} on {holder.get('host', '?')} goes on"

    def check(self) -> None:
        """Raise OutputTakenError if another run has taken the lock over.

        The store is asked where the thread has not lately: it slept with the machine, and its clock
        with it.
        """
        if self._lost is None and abs(time.time() - self._looked) > 2 * BEAT_SECONDS:
            with contextlib.suppress(Exception):
                self._look()
        if self._lost is not None:
            raise OutputTakenError(
                f"This run said nothing to the store of {self._output} for more than "
                f"{SILENT_SECONDS:.0f} s, as on a machine that slept, and was taken for dead: "
                f"{self._lost}. This one ends here; what it wrote remains. The same command "
                "computes what is missing then."
            )


def _holding(token: str, beat: int) -> bytes:
    return json.dumps({**me(), "token": token, "beat": beat}).encode()


def _read_object(files: Any, lock: str) -> bytes | None:
    try:
        return bytes(files.cat_file(lock))
    except FileNotFoundError:
        return None


def alive(run: Mapping[str, Any]) -> bool:
    """Tell whether the run that a remote output's ledger names still seems to be at work."""
    if time.time() - float(run.get("updated", 0)) > STALE_SECONDS:
        return False
    if run.get("host") != socket.gethostname():
        return True
    try:
        os.kill(int(run["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
