"""Workers that are ready, and what all of them are told."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distributed import Client
from distributed.security import Security

from scatflow.errors import ClusterError
from scatflow.flow.devices import GPU
from scatflow.flow.profiles import Tls, seconds

LOOPBACK = "127.0.0.1"
DASHBOARD_PORT = 8787

ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "NUMBA_NUM_THREADS",
        "ZARR_THREADING__MAX_WORKERS",
    ),
    "1",
)
"""The threads of a run are its workers' and, in each, the engine's: pools of libraries that add
their own (BLAS, FFT, Numba, Zarr's codecs) would have them wait for each other."""

MALLOC = {
    "MALLOC_TRIM_THRESHOLD_": "67108864",
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_ARENA_MAX": "1",
}
"""glibc keeps up to 64 MiB of freed memory, in one arena, and maps only arrays above 32 MiB.

Dask's own setting (trim at 64 KiB) has each temporary array mapped, zeroed and unmapped again. On
a day of two stations (10 blocks, 2 workers) a worker then spent 6.6 s of system time beside 6.4 s
of work and peaked at 223 MiB; with these settings it is 0.2 s and 234 MiB.
"""

HEADROOM = 1.5
"""Dask ends a worker at 95 % of its limit; a limit this much above the budget never meets it."""

UNSPILLED = {
    # The plan bounds the memory: nothing is to be spilled, and a paused worker would never resume.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
}

CONFIG = {
    "distributed.nanny.pre-spawn-environ": {**ONE_THREAD, **MALLOC},
    **UNSPILLED,
    "distributed.comm.timeouts.connect": "10s",
    # A tenth of the samples that Dask takes of what workers do. Of each cycle it keeps two trees of
    # all stacks, 40 kB: those of five minutes, and not of the last thousand cycles.
    "distributed.worker.profile.interval": "100ms",
    "distributed.worker.profile.cycle": "10s",
    "distributed.admin.low-level-log-length": 30,
    # What a process measures of itself twice a second: of five minutes, not of an hour (4 MiB).
    "distributed.admin.system-monitor.log-length": 600,
    # Once somebody has looked at the dashboard, as many tasks are kept for it, not 100 000.
    "distributed.scheduler.dashboard.tasks.task-stream-length": 10_000,
    # Which of a dead worker's blocks it died of is for the window to find out.
    "distributed.scheduler.allowed-failures": 0,
    # A worker that is stopped, or whose machine is gone without a word, counts as dead then.
    "distributed.scheduler.worker-ttl": "60s",
}


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Cluster:
    """Workers that are ready, or on their way."""

    client: Client
    held: int
    """Blocks that all workers hold at a time."""
    slots: int
    """Blocks that they compute at a time, while others are read or written."""
    dashboard: str
    lasting: bool
    """Whether a block that is computed goes on when the client lets go of it."""
    coming: bool = False
    """Whether workers are on their way, and begin as they come."""
    each: int = 0
    """Blocks that one process computes at a time; 0: as many as its processors allow."""
    workers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Of a scheduler that ran already: threads and memory limit (bytes, 0: none) per worker."""
    processors: Mapping[str, int] = field(default_factory=dict)
    """Of the same: processors that each worker may use."""
    computing: Mapping[str, int] = field(default_factory=dict)
    """Of the same: blocks that each worker computes at a time."""
    check: Callable[[], None] = _nothing
    """Raises ClusterError where no workers will ever come."""

    def only(self, names: Collection[str]) -> Cluster:
        """Return the same with some of the workers of a scheduler that ran already.

        Workers that a profile started are all alike, and remain.
        """
        some = {name: worker for name, worker in self.workers.items() if name in names}
        if not some:
            return self
        return replace(
            self,
            workers=some,
            held=sum(threads for threads, _ in some.values()),
            slots=sum(self.computing[name] for name in some),
        )


class Awaited:
    """Ends a run to which no worker ever came: a :attr:`Cluster.check` of systems that do not tell.

    Parameters
    ----------
    client : distributed.Client
        Of the scheduler, which says every few seconds which workers it has.
    arrival : str
        How long the first one may take, a walltime.
    look : str
        Where to look for the reason, a sentence.
    """

    def __init__(self, client: Client, arrival: str, look: str) -> None:
        self._client, self._arrival, self._look = client, arrival, look
        self._until: float | None = time.monotonic() + seconds(arrival)

    def __call__(self) -> None:
        """Look whether there has been a worker.

        Raises
        ------
        ClusterError
            There has been none for too long.
        """
        if self._until is None:
            return
        # What the client has heard last: to ask a scheduler that hangs would hang, too.
        if self._client._scheduler_identity.get("workers"):
            self._until = None
        elif time.monotonic() >= self._until:
            raise ClusterError(
                f"No worker came within {self._arrival} (arrival in the profile), so nothing was "
                f"computed. {self._look}"
            )


def dashboard_port() -> int:
    """Return the usual port of a dashboard, or 0, any, where it is taken.

    Dask finds out by itself, but leaves a socket open then.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, DASHBOARD_PORT))
        except OSError:
            return 0
    return DASHBOARD_PORT


def security(tls: Tls | str | None) -> Security | None:
    """Return what Dask needs to know of certificates.

    Raises
    ------
    ClusterError
        A file is missing, or the package that makes temporary ones.
    """
    if tls is None or tls == "off":
        return None
    if isinstance(tls, Tls):
        named: Security = Security(**security_options(tls))
        return named
    try:
        made: Security = Security.temporary()
        return made
    except ImportError as problem:
        raise ClusterError(
            'tls = "temporary" needs the package cryptography, which is not installed: nothing '
            "was started. Install it (pip install cryptography), name certificates of your own in "
            'a table [tls], or set tls = "off" where nobody else is on the network.'
        ) from problem


def security_options(tls: Tls) -> dict[str, Any]:
    """Return Dask's options for some certificates.

    Raises
    ------
    ClusterError
        A file is missing, or holds something else.
    """
    files = {name: Path(getattr(tls, name)).absolute() for name in ("ca", "cert", "key")}
    for name, path in files.items():
        if not path.is_file():
            raise ClusterError(
                f"[tls] {name} = {getattr(tls, name)!r}: there is no file {path}, so nothing was "
                "started. Give its path, relative to the current directory."
            )
    try:
        trusted = ssl.create_default_context(cafile=files["ca"])
        trusted.load_cert_chain(files["cert"], files["key"])
    except OSError as problem:  # An SSLError is one.
        raise ClusterError(
            f"[tls]: ca, cert and key are no certificate with its key and their authority's "
            f"({problem}), so nothing was started. They are files in PEM; give those of this side."
        ) from problem
    options: dict[str, Any] = {"require_encryption": True, "tls_ca_file": str(files["ca"])}
    for role in ("client", "scheduler", "worker"):
        options[f"tls_{role}_cert"] = str(files["cert"])
        options[f"tls_{role}_key"] = str(files["key"])
    return options


def check_scratch(place: Any) -> None:
    """Refuse a folder for what workers of this machine spill that they could not write to.

    Raises
    ------
    ClusterError
        It is not there, or cannot be written.
    """
    folder = place.scratch
    if folder is None or (os.path.isdir(folder) and os.access(folder, os.W_OK)):
        return
    what = "cannot be written" if os.path.exists(folder) else "is not there"
    raise ClusterError(
        f"scratch = {folder!r} in the profile {what}, so no worker was started. Make the folder "
        "(mkdir -p), name another one, or leave scratch out: runs spill nothing."
    )


def resources(place: Any) -> dict[str, float]:
    """Return the resources of Dask's that workers of a profile have."""
    return {GPU: 1.0} if getattr(place, "device", "cpu") == "cuda" else {}


def resource_words(place: Any) -> list[str]:
    """Return the same as words of the command that starts a worker."""
    listed = ",".join(f"{name}={amount:g}" for name, amount in resources(place).items())
    return ["--resources", listed] if listed else []


def variables(place: Any) -> dict[str, str]:
    """Return the environment of workers elsewhere, with Dask's settings in it.

    Parameters
    ----------
    place : Processes
        The profile: what it says of the environment goes before all else.
    """
    config: dict[str, Any] = dict(CONFIG)
    if place.spill:
        for name in UNSPILLED:
            del config[name]
    del config["distributed.nanny.pre-spawn-environ"]  # Set as it is.
    settings = {_variable(name): str(value) for name, value in config.items()}
    return {**ONE_THREAD, **MALLOC, **settings, **place.environment}


def _variable(name: str) -> str:
    """Return the environment variable of a setting of Dask's."""
    return "DASK_" + name.replace(".", "__").replace("-", "_").upper()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Dask's own log lines off the terminal while a run reports in its own words."""
    parts = ("nanny", "worker", "scheduler", "client", "core", "comm", "deploy")
    names = ("distributed", *(f"distributed.{part}" for part in parts))
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
