"""One run at a time on an output."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scatflow.errors import OutputBusyError, OutputError
from scatflow.flow.ledger import STALE_SECONDS

GLANCES, GLANCE_SECONDS = 5, 0.05
"""How often a lock is tried again: :func:`held` holds it for an instant."""


@contextlib.contextmanager
def locked(output: str) -> Iterator[None]:
    """Hold the lock of a local output: an flock on ``<output>.lock`` beside the store.

    The kernel drops it with the process, however that ends, so a dead run is no obstacle.

    Raises
    ------
    OutputBusyError
        Another run holds it; the message names its process.
    OutputError
        The lock file cannot be made.
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
        yield
    finally:
        # Unlinked while it is held: who opened it meanwhile finds another inode and tries again.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def held(output: str) -> bool:
    """Tell whether a run holds the lock of a local output at this moment."""
    try:
        descriptor = os.open(_beside(output), os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)  # Which gives up the lock, too.
    return False


def _beside(output: str) -> Path:
    return Path(output.rstrip("/") + ".lock")


def _acquire(path: Path) -> int:
    tries = 0
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
            os.write(descriptor, json.dumps(me()).encode())
            return descriptor
        os.close(descriptor)


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.stat(path).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


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


def refuse_if_alive(output: str, run: Mapping[str, Any] | None) -> None:
    """Refuse a remote output whose ledger shows a run with a fresh heartbeat.

    Raises
    ------
    OutputBusyError
        Another run wrote to the ledger less than a minute ago.
    """
    if run is not None and time.time() - float(run.get("updated", 0)) < STALE_SECONDS:
        raise _busy(output, run)


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
