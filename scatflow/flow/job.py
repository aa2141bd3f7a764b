"""Job files: what a run is asked to do, in TOML.

Every table is a strict model: nothing is coerced, nothing unknown is passed over, and all that is
wrong with a file is told at once.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from dask.system import CPU_COUNT
from pydantic import AfterValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from scatflow.backends.choose import BACKENDS, HOST, SERVED_BY
from scatflow.engines import ENGINES, Engine, engine_from_dict
from scatflow.errors import JobError
from scatflow.flow.profiles import AnyProfile, Threads, is_runner, profile, with_workers
from scatflow.flow.schedules.cron import parse_cron
from scatflow.flow.settings import ANY
from scatflow.flow.tables import (
    SECRET,
    Bytes,
    Count,
    Some,
    Table,
    Text,
    describe,
    memory_bytes,
    near,
    parse_toml,
    read_toml,
    unique,
)

Boundary = Literal["whole", "frames", "seamless"]

RESERVED = {
    "shape": "one signal's shape follows from the source and `boundary`",
    "out_type": "a job writes labelled arrays",
}
"""Parameters of engines that make no sense in a job, and why."""

SLOTS_PER_READER = 4
"""Blocks that are computed while one is read or written: that takes a tenth to a fifth as long."""


def _cluster(text: str) -> str:
    if not is_runner(text):
        raise ValueError("unknown runner")
    return text


def _cron(text: str) -> str:
    parse_cron(text)
    return text


def _address(text: str) -> str:
    if CREDENTIALS.search(text):
        raise PydanticCustomError(SECRET, "a name or a password in a URL")
    return text


CREDENTIALS = re.compile(
    r"://[^@/?#]*:[^@/?#]*@|[?&#][^=]*(?i:secret|password|key|sig|signature|token|credential)[^=]*="
)
"""A name and a password before a host, or a secret among a URL's parameters."""

Store = Annotated[str, Field(min_length=1), AfterValidator(_address)]
Lengths = Annotated[int, Field(ge=0)] | list[Annotated[int, Field(ge=0)]]
Hops = Count | list[Annotated[int, Field(ge=0)]]


class SourceTable(Table):
    """What to read."""

    store: Store = Field(description="a path or URL of a Zarr store (string)")
    variable: Text | None = Field(
        default=None, description="the name of an array in the store (string)"
    )
    group: Text | None = Field(default=None, description="a group inside the store (string)")
    dims: list[Text] | None = Field(default=None, description="a list of dimension names (strings)")
    sel: dict[str, Any] | None = Field(
        default=None, description="a table of dimension = value, or [first, last]"
    )
    isel: dict[str, Any] | None = Field(
        default=None, description="a table of dimension = index, or [start, stop]"
    )
    mask: Text | None = Field(
        default=None,
        description="the name of an array beside the variable that is true, or not zero, where "
        "samples are missing (string)",
    )
    absent: Literal["gap", "fill"] | None = Field(
        default=None,
        description='what chunks are that the store does not hold: "gap" (missing samples, the '
        'default) or "fill" (the fill value)',
    )
    clock: Literal["check", "ignore"] = Field(
        default="check",
        description="whether samples along transformed dimensions have to be evenly spaced, one of "
        '"check", "ignore"',
    )


class TransformTable(Table):
    """What to compute; all other keys are parameters of the engine."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    kind: str = Field(
        description='one of "scattering1d", "scattering2d", "scattering3d", "timefrequency"'
    )
    dims: list[Text] = Field(
        min_length=1, description='the transformed dimensions, a list of names such as ["time"]'
    )
    boundary: Boundary = Field(default="whole", description='one of "whole", "frames", "seamless"')
    frame: Lengths | None = Field(
        default=None,
        description="samples per frame (integer, or a list of one per dim, 0: not cut)",
    )
    edges: Literal["reflect", "periodic"] | None = Field(
        default=None,
        description='what lies beyond the edges of a seamless volume: "periodic" (itself again) '
        'or "reflect" (its mirror image)',
    )
    hop: Hops | None = Field(
        default=None,
        description="samples from frame to frame (positive integer, or a list of one per dim)",
    )
    gaps: Literal["nan", "weight", "raise"] = Field(
        default="nan",
        description='what becomes of windows that see missing samples: "nan", "weight" (divided by '
        'the valid share of their weight) or "raise" (their block fails)',
    )
    tile: Count | None = Field(
        default=None,
        description="samples of a seamless record, along each dimension, that are transformed at a "
        "time, besides a halo (positive integer; default: as many as cost least)",
    )


class OutputTable(Table):
    """Where to write."""

    store: Store = Field(description="a path or URL of the Zarr store to write (string)")
    dtype: Literal["float32", "float64"] = Field(
        default="float32", description='one of "float32", "float64"'
    )


class RunTable(Table):
    """How to run."""

    cluster: Annotated[str, AfterValidator(_cluster)] = Field(
        default="local",
        description='"local", "threads", a scheduler\'s address such as "tcp://host:8786", or the '
        'path of a cluster profile such as "cluster/slurm.toml"',
    )
    workers: Some | None = Field(
        default=None, description="a number of workers (integer, 1 to 100000)"
    )
    threads: Some = Field(
        default=1,
        description="threads that the transform of one block keeps busy (integer, 1 to 100000)",
    )
    memory: Bytes = Field(
        default="2 GiB", description='the budget of one worker, such as "2 GiB" (string)'
    )
    backend: Literal["numpy", "cupy", "any"] | None = Field(
        default=None,
        description='what computes blocks: "numpy" (processors), "cupy" (GPUs) or "any" (CuPy on '
        "workers with the resource GPU, NumPy on others)",
    )
    schedule: Annotated[str, AfterValidator(_cron)] | None = Field(
        default=None,
        description="a cron line of minute, hour, day of the month, month and day of the week, "
        'such as "0 3 * * *" or "*/15 8-18 * * mon-fri" (string)',
    )


class JobFile(Table):
    """A whole job file."""

    name: Text | None = Field(default=None, description="a name (string)")
    source: SourceTable = Field(description="a table [source]")
    transform: TransformTable = Field(description="a table [transform]")
    output: OutputTable = Field(description="a table [output]")
    run: RunTable = Field(default=RunTable(), description="a table [run]")


@dataclasses.dataclass(frozen=True)
class Job:
    """A job file that makes sense in itself: its source has not been looked at yet."""

    path: Path
    text: str
    name: str
    source: SourceTable
    transform: TransformTable
    output: OutputTable
    run: RunTable
    engine: Engine
    frame: tuple[int, ...]
    """Samples per frame along each transformed dim; 0 where it is not cut."""
    hop: tuple[int, ...]
    profile: AnyProfile
    """Where it runs; what it states goes before `run`."""

    @property
    def edges(self) -> str:
        """What lies beyond the ends of a seamless record; volumes are periodic by definition."""
        return self.transform.edges or ("periodic" if len(self.frame) == 3 else "reflect")

    @property
    def memory(self) -> int:
        """The budget of one worker, bytes."""
        return memory_bytes(self.profile.memory or self.run.memory)

    @property
    def backend(self) -> str:
        """What computes blocks: a backend, or "any"."""
        return ANY if self.run.backend == ANY else str(self.engine.backend)

    @property
    def threads(self) -> int:
        """Threads that the transform of one block keeps busy."""
        return self.profile.threads or self.run.threads

    @property
    def workers(self) -> int:
        """Workers to start: as many as keep all processors busy unless the job says otherwise."""
        named = getattr(self.profile, "most", None) or getattr(self.profile, "workers", None)
        return named or self.run.workers or max(1, CPU_COUNT // self.threads)

    @property
    def slots(self) -> int:
        """Blocks that one process computes at a time."""
        return self.workers if isinstance(self.profile, Threads) else 1

    @property
    def held(self) -> int:
        """Blocks that one process holds at a time: some are read or written meanwhile."""
        return self.slots + math.ceil(self.slots / SLOTS_PER_READER)

    def line_of(self, key: str) -> int | None:
        """Return the line of the file on which a key is set, counted from 1."""
        for number, line in enumerate(self.text.splitlines(), 1):
            if line.split("=")[0].strip() == key and "=" in line:
                return number
        return None

    def override(self, **run: Any) -> Job:
        """Return the job with other settings of [run], checked as if the file held them."""
        given = {key: value for key, value in run.items() if value is not None}
        try:
            table = RunTable(**{**self.run.model_dump(), **given})
        except ValidationError as wrong:
            lines = [describe(error, "--{key}", RunTable) for error in wrong.errors()]
            raise JobError("\n".join(lines)) from None
        place = profile(table.cluster) if table.cluster != self.run.cluster else self.profile
        if given.get("workers") is not None:
            place = with_workers(place, table.workers)
        return dataclasses.replace(self, run=table, profile=place)


def load(path: str | Path) -> Job:
    """Read and check a job file.

    Parameters
    ----------
    path : path
        The file. Relative paths in it are relative to the current directory.

    Returns
    -------
    Job

    Raises
    ------
    JobError
        If the file cannot be read, is not TOML, or holds unknown keys, wrong types or settings
        that contradict each other; all problems are listed.
    """
    file, text = read_toml(path, "job file")
    return parse(text, file)


def parse(text: str, path: Path) -> Job:
    """Check the text of a job file; see :func:`load`."""
    raw = _plain(parse_toml(text, path))
    problems: list[str] = []
    try:
        tables: JobFile | None = JobFile.model_validate(raw)
    except ValidationError as wrong:
        tables = None
        problems += [describe(error, None, JobFile) for error in unique(wrong.errors())]
    transform = raw.get("transform")
    if isinstance(transform, dict):
        problems += _engine_problems(transform, raw.get("run"))
    if tables is not None and not problems:
        problems += _length_problems(tables.transform)
    if tables is None or problems:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise JobError("\n  ".join([f"{path} has {count}; nothing was run:", *problems]))
    frame, hop = _lengths(tables.transform)
    return Job(
        path=path,
        text=text,
        name=tables.name or path.stem,
        source=tables.source,
        transform=tables.transform,
        output=tables.output,
        run=tables.run,
        engine=engine_from_dict(_engine_parameters(raw["transform"], raw.get("run"))),
        frame=frame,
        hop=hop,
        profile=profile(tables.run.cluster),
    )


def _plain(value: Any) -> Any:
    """Turn TOML's dates into text, in UTC: everything else of a job is JSON already."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return value.astimezone(datetime.UTC).replace(tzinfo=None).isoformat()
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    return value


# --- the engine's parameters -------------------------------------------------------------------


def _engine_parameters(transform: dict[str, Any], run: Any) -> dict[str, Any]:
    own = set(TransformTable.model_fields) - {"kind"}
    given = {key: value for key, value in transform.items() if key not in own}
    backend = run.get("backend") if isinstance(run, dict) else None
    usual = {"backend": backend if backend not in (None, ANY) else "numpy"}
    if transform.get("kind") == "scattering2d" and transform.get("boundary") == "seamless":
        usual["pyramid"] = "fold"  # The other one cannot be tiled; the plan says so.
    return {**usual, **given}


def _engine_problems(transform: dict[str, Any], run: Any) -> list[str]:
    kind = transform.get("kind")
    if not isinstance(kind, str):
        return []  # The table's own check has told.
    if kind not in ENGINES:
        guess = near(kind, list(ENGINES))
        return [f'[transform] kind: found "{kind}". Accepted: {", ".join(ENGINES)}.{guess}']
    given = _engine_parameters(transform, run)
    problems = [
        f"[transform] {key} cannot be set in a job: {why}. Remove it."
        for key, why in RESERVED.items()
        if key in given
    ]
    names = [f.name for f in dataclasses.fields(ENGINES[kind])]  # type: ignore[arg-type]
    accepted = [n for n in (*TransformTable.model_fields, *names) if n not in RESERVED]
    for key in given:
        if key not in names and key != "kind":
            listed = ", ".join(accepted)
            guess = near(key, accepted)
            problems.append(f"[transform] {key}: unknown key. Accepted: {listed}.{guess}")
    if given.get("T") == 0 and not isinstance(given["T"], bool):
        problems.append(
            "[transform] T = 0 gives each path its own sampling, which one labelled array cannot "
            "hold. Give T in samples, or leave it out."
        )
    if transform.get("boundary") == "seamless" and given.get("pyramid") == "scatnet":
        problems.append(
            '[transform] pyramid = "scatnet" has filters that reach across the whole image, so '
            'that boundary = "seamless" cannot be kept. Take pyramid = "fold", or boundary = '
            '"whole" or "frames".'
        )
    backend = given.get("backend")
    if backend in (*BACKENDS, *SERVED_BY) and backend not in (*HOST, "cupy"):
        problems.append(
            f'[transform] backend = "{backend}": workers compute with "numpy" or "cupy" (or '
            '"plain", the reference). Remove it; engines in memory follow their input.'
        )
    if "backend" in transform and isinstance(run, dict) and "backend" in run:
        problems.append(
            "[transform] backend and [run] backend are both set. Keep the one in [run]."
        )
    if not problems:
        try:
            engine_from_dict(given)
        except (ValueError, TypeError, NotImplementedError) as problem:
            problems.append(f"[transform] {problem}")
    return problems


# --- how the source is cut ---------------------------------------------------------------------


def _per_dim(value: int | list[int] | None, n: int) -> tuple[int, ...]:
    if value is None:
        return (0,) * n
    return (value,) * n if isinstance(value, int) else tuple(value)


def _lengths(transform: TransformTable) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return frame and hop per transformed dim, 0 where a dim is not cut."""
    n = len(transform.dims)
    frame = _per_dim(transform.frame, n)
    hop = _per_dim(transform.hop, n)
    return frame, tuple((h or f) if f else 0 for f, h in zip(frame, hop, strict=True))


def _length_problems(transform: TransformTable) -> list[str]:
    """Check what [transform] says about dims, frames and hops against each other."""
    n, ndim = len(transform.dims), ENGINES[transform.kind].ndim
    problems = []
    if n != ndim:
        problems.append(
            f"[transform] dims: {transform.kind} transforms {ndim} dimension(s), "
            f"found {n}: {transform.dims}."
        )
    if len(set(transform.dims)) < n:
        problems.append(f"[transform] dims: a dimension is named twice in {transform.dims}.")
    problems += _edge_problems(transform, ndim)
    if transform.tile is not None and transform.boundary != "seamless":
        problems.append(
            f'[transform] tile goes with boundary = "seamless", found boundary = '
            f'"{transform.boundary}". Remove tile or set boundary = "seamless".'
        )
    given = {"frame": transform.frame, "hop": transform.hop}
    if transform.boundary != "frames":
        problems += [
            f'[transform] {key} goes with boundary = "frames", found boundary = '
            f'"{transform.boundary}". Remove {key} or set boundary = "frames".'
            for key, value in given.items()
            if value is not None
        ]
        return problems
    if n > 1 and any(isinstance(value, int) for value in given.values()):
        problems.append(
            f"[transform] frame and hop must be lists of one number per dimension of "
            f"{transform.dims} (0: not cut), such as [256, 256]."
        )
    problems += [
        f"[transform] {key}: found {len(value)} numbers for the {n} dimension(s) {transform.dims}."
        for key, value in given.items()
        if isinstance(value, list) and len(value) != n
    ]
    if not problems and isinstance(transform.hop, list):
        problems += [
            f"[transform] hop: found {h} for {dim}, whose frame is {f}. Give a positive number "
            "where frame is positive, and 0 where a dimension is not cut."
            for dim, f, h in zip(transform.dims, _lengths(transform)[0], transform.hop, strict=True)
            if (f > 0) != (h > 0)
        ]
    if not problems and not any(_lengths(transform)[0]):
        problems.append(
            '[transform] boundary = "frames" needs frame, the samples per frame of at least one '
            "dimension (integer, or a list of one per dim)."
        )
    return problems


def _edge_problems(transform: TransformTable, ndim: int) -> list[str]:
    """Check whether there is a choice of what lies beyond the edges."""
    if transform.edges is None or (transform.edges == "reflect" and ndim < 3):
        return []
    if ndim < 3:
        return [
            f'[transform] edges = "{transform.edges}": {transform.kind} extends by reflection '
            'only. Remove edges, or set it to "reflect".'
        ]
    if transform.boundary != "seamless":
        return [
            f'[transform] edges goes with boundary = "seamless", found boundary = '
            f'"{transform.boundary}", which takes each volume as periodic. Remove edges or set '
            'boundary = "seamless".'
        ]
    return []


def suggest_memory(needed: int) -> str:
    """Return a budget, as a job file writes it, that just holds `needed` bytes.

    Examples
    --------
    >>> suggest_memory(300 * 2**20 + 1)
    '350 MiB'
    """
    step = 50 * 2**20
    return f"{math.ceil(needed / step) * 50} MiB"
