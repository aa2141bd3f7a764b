"""Cluster profiles: where a job runs, in TOML, so that the job file need not know.

A profile has a ``kind`` and what that kind takes; each is a strict model whose fields say what they
accept. What a profile states goes before the ``[run]`` table of a job, and the command line before
both.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from scatflow.errors import JobError
from scatflow.flow.tables import (
    UNSHOWN,
    Bytes,
    Some,
    Table,
    Text,
    describe,
    near,
    parse_toml,
    read_toml,
    unique,
)

SCHEDULERS = ("tcp://", "tls://", "ucx://", "ws://", "wss://")

SPACE = re.compile(r"[\x00-\x20\x7f]")

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

SECRET_NAME = re.compile(r"(?i)secret|password|passwd|token|credential|api_?key|access_?key")
"""Names of variables whose values do not belong into a file that is handed around."""


def _address(text: str) -> str:
    if not text.startswith(SCHEDULERS) or SPACE.search(text) or urlsplit(text).port is None:
        raise ValueError("no scheduler's address")
    return text


def _gateway(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or SPACE.search(text) or not parts.hostname:
        raise ValueError("no address of a gateway")
    if parts.password is not None:
        raise PydanticCustomError(UNSHOWN, "holds a password, which comes from Dask's settings")
    return text


def _walltime(text: str) -> str:
    seconds(text)
    return text


def seconds(walltime: str) -> int:
    """Return the seconds of a walltime.

    Examples
    --------
    >>> seconds("01:30:00"), seconds("2-00:00:10")
    (5400, 172810)
    """
    match = re.fullmatch(r"(?:(\d{1,3})-)?(\d{1,3}):([0-5]\d):([0-5]\d)", walltime)
    if match is None:
        raise ValueError(f"{walltime!r} is no walltime")
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    total = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if total < SHORTEST_WALLTIME:
        raise ValueError(f"{walltime!r} is shorter than a minute")
    return total


def clock_time(walltime: str) -> str:
    """Return a walltime in hours, minutes and seconds, as every batch system reads it.

    Examples
    --------
    >>> clock_time("01:30:00"), clock_time("2-00:00:10")
    ('01:30:00', '48:00:10')
    """
    minutes, rest = divmod(seconds(walltime), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest:02d}"


SHORTEST_WALLTIME = 60

CONTROL = re.compile(r"[\x00-\x1f\x7f]")

UNWORDED = re.compile(r"[^\w.,:@/+*=~%\[\]-]")
"""What ends an option of a batch system or the name of an image, or is the shell's."""


def _line(text: str) -> str:
    if CONTROL.search(text):
        raise PydanticCustomError(
            UNSHOWN, "found {text}, which is more than a line", {"text": repr(text)}
        )
    return text


def _word(text: str) -> str:
    if found := UNWORDED.search(text):
        raise PydanticCustomError(
            UNSHOWN,
            "found {text}, in which no {sign} can be",
            {"text": repr(text), "sign": repr(found.group())},
        )
    return text


def _script(text: str) -> str:
    if found := CONTROL.search(text.replace("\n", "").replace("\t", "")):
        raise PydanticCustomError(
            UNSHOWN,
            "found {text}, and no script holds {sign}",
            {"text": repr(text), "sign": repr(found.group())},
        )
    return text


def _directive(text: str) -> str:
    if text.lstrip().startswith("#"):
        raise PydanticCustomError(
            UNSHOWN,
            "found {text}, which the batch system would take for a comment: the beginning, such as "
            "#SBATCH, is added to it",
            {"text": repr(text)},
        )
    return _line(text)


Line = Annotated[Text, AfterValidator(_line)]
"""One line: a path, say."""

Word = Annotated[Text, AfterValidator(_word)]
"""What an option of a batch system takes."""

Walltime = Annotated[str, AfterValidator(_walltime)]


def _environment(given: dict[str, str]) -> dict[str, str]:
    for name in given:
        if not NAME.fullmatch(name):
            raise PydanticCustomError(UNSHOWN, "{name} is no name of a variable", {"name": name})
        if SECRET_NAME.search(name):
            raise PydanticCustomError(UNSHOWN, "{name} seems to be a secret", {"name": name})
    return given


Environment = Annotated[dict[str, str], AfterValidator(_environment)]


class Tls(Table):
    """Certificates of whoever may talk to the scheduler."""

    ca: Line = Field(description="the authority's certificate, a file (string)")
    cert: Line = Field(description="the certificate of this side, a file (string)")
    key: Line = Field(description="its key, a file (string)")


def _object_name(text: str) -> str:
    if not OBJECT_NAME.fullmatch(text):
        raise PydanticCustomError(
            UNSHOWN,
            "found {text}, and names of Kubernetes are of small letters, digits, - and .",
            {"text": repr(text)},
        )
    return text


OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")

LABEL = re.compile(r"([a-z0-9][-a-z0-9.]*/)?[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?")


def _labels(given: dict[str, str]) -> dict[str, str]:
    for key, value in given.items():
        if not LABEL.fullmatch(key) or (value and ("/" in value or not LABEL.fullmatch(value))):
            raise PydanticCustomError(
                UNSHOWN, "{label} is no label", {"label": f"{key!r} = {value!r}"}
            )
    return given


ObjectName = Annotated[str, AfterValidator(_object_name)]


class Profile(Table):
    """What all profiles have."""

    started: ClassVar[bool] = True
    """Whether the run starts the workers and ends them."""

    kind: str
    threads: Some | None = Field(
        default=None,
        description="threads that the transform of one block keeps busy (integer, 1 to 100000)",
    )
    memory: Bytes | None = Field(
        default=None, description='the budget of one worker, such as "2 GiB" (string)'
    )

    def problems(self) -> list[str]:
        """List settings that contradict each other."""
        return []


class Workers(Profile):
    """Profiles that say how many workers there are to be."""

    workers: Some | None = Field(
        default=None, description="a number of workers (integer, 1 to 100000)"
    )


class Threads(Workers):
    """Threads of the client's own process."""

    kind: Literal["threads"] = Field(description='"threads"')


class Processes(Workers):
    """Profiles whose workers are processes that the run starts."""

    minimum: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="workers that there are at least (integer, 0 or more)"
    )
    maximum: Some | None = Field(
        default=None, description="workers that there are at most (integer, 1 to 100000)"
    )
    device: Literal["cpu", "cuda"] = Field(
        default="cpu", description='what workers compute on, one of "cpu", "cuda"'
    )
    environment: Environment = Field(
        default={},
        description="a table of variables of the workers' environment, NAME = string; no secrets: "
        "credentials come from the machine's own profile files or role",
    )
    scratch: Line | None = Field(
        default=None, description="a folder on the workers' machines for what they spill (string)"
    )
    spill: bool = Field(
        default=False,
        description="whether workers may move what they hold to `scratch` (true or false); runs "
        "hold nothing that could be moved, other programs on the same cluster may",
    )
    tls: Tls | Literal["temporary", "off"] = Field(
        default="off",
        description='a table of ca, cert and key (files), "temporary" for certificates made for '
        'one run, or "off": whoever reaches the scheduler may then run code on the workers',
    )

    def problems(self) -> list[str]:
        """List settings that contradict each other."""
        found = []
        if self.workers is not None and (self.minimum is not None or self.maximum is not None):
            found.append("workers: there are bounds, too. Give workers, or minimum and maximum.")
        if self.workers is None and (self.minimum is None) != (self.maximum is None):
            found.append("minimum and maximum go together: one of them is missing.")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            found.append(f"minimum = {self.minimum} is more than maximum = {self.maximum}.")
        return found

    @property
    def most(self) -> int | None:
        """Workers that there may be; None: as the machine suggests."""
        return self.workers or self.maximum

    @property
    def least(self) -> int | None:
        """Workers that there are to be at least."""
        return self.workers if self.minimum is None else self.minimum


class Local(Processes):
    """Processes on this machine."""

    kind: Literal["local"] = Field(description='"local"')


class Cuda(Processes):
    """Workers on this machine, one for each GPU."""

    kind: Literal["cuda"] = Field(description='"cuda"')
    device: Literal["cuda"] = Field(default="cuda", description='"cuda"')
    gpus: list[Annotated[int, Field(ge=0)]] | None = Field(
        default=None, description="numbers of the GPUs to use, a list such as [0, 1]; all if absent"
    )
    rmm_pool: Bytes | None = Field(
        default=None, description='memory of a GPU that is set aside at once, such as "20 GiB"'
    )
    device_memory: Bytes | None = Field(
        default=None, description='memory of a GPU before it spills, such as "30 GiB" (string)'
    )
    protocol: Literal["tcp", "ucx"] = Field(
        default="tcp", description='how workers talk, one of "tcp", "ucx"'
    )

    def problems(self) -> list[str]:
        """List settings that contradict each other."""
        found = super().problems()
        if self.gpus is not None and (not self.gpus or len(set(self.gpus)) < len(self.gpus)):
            found.append(f"gpus: found {self.gpus}; name each GPU once, at least one.")
        if self.gpus and self.workers is not None and self.workers != len(self.gpus):
            found.append(
                f"workers = {self.workers} for {len(self.gpus)} GPUs: there is one worker for "
                "each. Leave workers out."
            )
        if self.minimum is not None or self.maximum is not None:
            found.append("minimum and maximum: the number of GPUs is what it is. Leave them out.")
        if self.protocol == "ucx" and self.tls != "off":
            found.append('tls goes with protocol = "tcp", found "ucx". Leave one of them out.')
        return found

    @property
    def most(self) -> int | None:
        """Workers that there may be; None: one for each GPU of the machine."""
        return self.workers or (len(self.gpus) if self.gpus else None)


class Driver(Table):
    """The batch job of `scatflow submit`, which runs the client and the scheduler."""

    cores: Some = Field(default=1, description="its processors (integer, 1 to 100000)")
    memory: Bytes = Field(default="2 GiB", description='its memory, such as "2 GiB" (string)')
    walltime: Walltime | None = Field(
        default=None,
        description='how long it may take before it is queued again, "HH:MM:SS", a minute at least',
    )
    queue: Word | None = Field(default=None, description="its queue or partition (string)")


class Batch(Processes):
    """Workers as jobs of a batch system."""

    workers: Some | None = Field(
        default=None, description="a number of workers (integer, 1 to 100000)"
    )
    processes: Some = Field(
        default=1, description="workers in one batch job (integer, 1 to 100000)"
    )
    cores: Some | None = Field(
        default=None,
        description="processors of one batch job (integer); processes times threads if absent",
    )
    walltime: Walltime = Field(
        default="01:00:00",
        description='how long a batch job may take, "HH:MM:SS", a minute at least (string)',
    )
    queue: Word | None = Field(default=None, description="a queue or partition (string)")
    account: Word | None = Field(default=None, description="who is charged (string)")
    interface: Word | None = Field(
        default=None,
        description='the network between the nodes, such as "ib0" (string); the machine\'s usual '
        "one if absent",
    )
    host: Word | None = Field(
        default=None, description="the address at which workers find the scheduler (string)"
    )
    prologue: list[Annotated[Text, AfterValidator(_script)]] = Field(
        default=[],
        description='lines of shell before the worker starts, such as ["module load cuda"]',
    )
    directives: list[Annotated[Text, AfterValidator(_directive)]] = Field(
        default=[],
        description='further options of the batch system, a list such as ["--exclusive"]',
    )
    python: Line | None = Field(
        default=None, description="the interpreter on the nodes (string); this one if absent"
    )
    shared: Line | None = Field(
        default=None,
        description="a folder that all nodes see, for logs and temporary certificates (string); "
        ".scatflow beside the job's output if absent",
    )
    driver: Driver = Field(default=Driver(), description="a table [driver]")
    tls: Tls | Literal["temporary", "off"] = Field(
        default="temporary", description=Processes.model_fields["tls"].description
    )

    def problems(self) -> list[str]:
        """List settings that contradict each other."""
        found = super().problems()
        if self.workers is None and self.maximum is None:
            found.append("workers is missing. It takes a number of workers (integer, 1 to 100000).")
        for name in ("workers", "minimum", "maximum"):
            n = getattr(self, name)
            if n is not None and n % self.processes:
                found.append(
                    f"{name} = {n} is no multiple of processes = {self.processes}, the workers "
                    "in one batch job."
                )
        needed = self.processes * (self.threads or 1)
        if self.cores is not None and self.cores < needed:
            found.append(
                f"cores = {self.cores} for {self.processes} process(es) of {self.threads or 1} "
                f"thread(s): they would take turns. Give cores = {needed}, or leave it out."
            )
        if self.interface is not None and self.host is not None:
            found.append("interface and host: both say where workers find the scheduler. Give one.")
        return found


class Slurm(Batch):
    """Jobs of SLURM."""

    kind: Literal["slurm"] = Field(description='"slurm"')


class Pbs(Batch):
    """Jobs of PBS Pro or OpenPBS."""

    kind: Literal["pbs"] = Field(description='"pbs"')


class Lsf(Batch):
    """Jobs of LSF."""

    kind: Literal["lsf"] = Field(description='"lsf"')


class Sge(Batch):
    """Jobs of (Sun, Univa, Altair) Grid Engine."""

    kind: Literal["sge"] = Field(description='"sge"')
    parallel_environment: Word | None = Field(
        default=None, description='for more than one core: the parallel environment, such as "smp"'
    )

    def problems(self) -> list[str]:
        """List settings that contradict each other."""
        found = super().problems()
        cores = self.cores or self.processes * (self.threads or 1)
        if cores > 1 and self.parallel_environment is None:
            found.append(
                f"parallel_environment is missing: {cores} cores in one job need one (qconf -spl "
                "lists them)."
            )
        return found


class HtCondor(Batch):
    """Jobs of HTCondor."""

    kind: Literal["htcondor"] = Field(description='"htcondor"')
    disk: Bytes = Field(default="1 GiB", description='disk of one batch job, such as "1 GiB"')

    def problems(self) -> list[str]:
        """List settings that contradict each other."""
        found = super().problems()
        if self.queue is not None or self.driver.queue is not None:
            found.append("queue: HTCondor has none. Say what machines you want in directives.")
        found += [
            f"directives: found {line!r}; lines of HTCondor read name = value."
            for line in self.directives
            if not re.fullmatch(r"\s*[\w.+]+\s*=.*\S.*", line)
        ]
        found += [
            f"{name}: found {text!r}; what HTCondor is sent holds single lines. Put the others "
            "into a file that is sourced."
            for name, texts in (
                ("prologue", self.prologue),
                ("environment", self.environment.values()),
            )
            for text in texts
            if "\n" in text
        ]
        return found


POD_SECRET = "scatflow-credentials"
"""A Secret of this name, if there is one, becomes variables of a run's pods."""


def _folder_of_pods(text: str) -> str:
    if not text.startswith("/") or text.strip("/") == "" or ":" in text or ".." in text.split("/"):
        raise ValueError("no folder of a pod")
    return "/" + text.strip("/")


class Volume(Table):
    """A volume claim that pods see as a folder."""

    claim: ObjectName = Field(description="the name of a volume claim (string)")
    path: Annotated[str, AfterValidator(_folder_of_pods)] = Field(
        description='where pods see it, a whole path such as "/data" (string)'
    )
    read_only: bool = Field(
        default=False, description="whether pods may only read it (true or false)"
    )


class DriverPod(Table):
    """The pod of `scatflow submit`, which runs the client."""

    cores: Some = Field(default=1, description="its processors (integer, 1 to 100000)")
    memory: Bytes = Field(default="1 GiB", description='its memory, such as "1 GiB" (string)')
    service_account: ObjectName | None = Field(
        default=None,
        description="its account, which may create what the operator knows (string)",
    )


class Kubernetes(Processes):
    """Pods, through Dask's operator."""

    kind: Literal["kubernetes"] = Field(description='"kubernetes"')
    image: Word = Field(description="the container image that has scatflow (string)")
    namespace: ObjectName | None = Field(
        default=None, description="a namespace (string); that of the current context if absent"
    )
    service_account: ObjectName | None = Field(
        default=None, description="the account of the pods (string)"
    )
    node_selector: Annotated[dict[str, str], AfterValidator(_labels)] = Field(
        default={}, description="labels of the nodes to use, a table of strings"
    )
    arrival: Walltime = Field(
        default="00:30:00",
        description='how long the first worker may take to come, "HH:MM:SS", a minute at least',
    )
    volumes: list[Volume] = Field(
        default=[],
        description='volume claims that the pods see as folders, a list such as [{ claim = "data", '
        'path = "/data" }]',
    )
    driver: DriverPod = Field(default=DriverPod(), description="a table [driver]")

    def problems(self) -> list[str]:
        """List settings that contradict each other."""
        found = super().problems()
        paths = [volume.path for volume in self.volumes]
        if twice := sorted({path for path in paths if paths.count(path) > 1}):
            found.append(f"volumes: {', '.join(twice)} is the path of two of them.")
        if self.workers is None and self.maximum is None:
            found.append("workers is missing. It takes a number of workers (integer, 1 to 100000).")
        if self.tls != "off":
            found.append(
                'tls: found another value than "off". The operator sets up no certificates; keep '
                "others from the scheduler with a network policy."
            )
        return found


class Gateway(Profile):
    """Workers that a Dask Gateway starts."""

    kind: Literal["gateway"] = Field(description='"gateway"')
    address: Annotated[str, AfterValidator(_gateway)] = Field(
        description='the gateway, such as "https://gateway.example.org" (string)'
    )
    auth: Literal["basic", "kerberos", "jupyterhub"] | None = Field(
        default=None, description='how to log in, one of "basic", "kerberos", "jupyterhub"'
    )
    workers: Some | None = Field(
        default=None, description="a number of workers (integer, 1 to 100000)"
    )
    minimum: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="workers that there are at least (integer, 0 or more)"
    )
    maximum: Some | None = Field(
        default=None, description="workers that there are at most (integer, 1 to 100000)"
    )
    options: dict[str, str | int | float | bool] = Field(
        default={}, description="options of the gateway's clusters, a table"
    )
    arrival: Walltime = Field(
        default="00:30:00",
        description='how long the first worker may take to come, "HH:MM:SS", a minute at least',
    )

    def problems(self) -> list[str]:
        """List settings that contradict each other."""
        found = []
        if self.workers is None and (self.minimum is None or self.maximum is None):
            found.append("workers is missing. Give workers, or minimum and maximum.")
        elif self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            found.append(f"minimum = {self.minimum} is more than maximum = {self.maximum}.")
        if self.workers is not None and (self.minimum is not None or self.maximum is not None):
            found.append("workers: there are bounds, too. Give workers, or minimum and maximum.")
        return found


class Mpi(Profile):
    """The other ranks of an MPI program: ``mpirun -n 8 scatflow run JOB --cluster mpi.toml``."""

    kind: Literal["mpi"] = Field(description='"mpi"')
    interface: Word | None = Field(
        default=None, description='the network between the ranks, such as "ib0" (string)'
    )


class Address(Profile):
    """Workers of a scheduler that runs already."""

    started: ClassVar[bool] = False

    kind: Literal["address"] = Field(description='"address"')
    address: Annotated[str, AfterValidator(_address)] = Field(
        description='a scheduler\'s address, such as "tcp://host:8786" (string)'
    )
    wait: Annotated[float, Field(ge=0)] | Annotated[int, Field(ge=0)] = Field(
        default=0, description="seconds to wait for a first worker (number)"
    )
    tls: Tls | None = Field(default=None, description="a table of ca, cert and key (files)")

    def problems(self) -> list[str]:
        """List settings that contradict each other."""
        if self.tls is None or self.address.startswith(("tls://", "wss://")):
            return []
        return [
            f"[tls] is for an address that begins with tls:// or wss://, found {self.address!r}. "
            "Give that one, or leave the certificates out."
        ]


AnyProfile: TypeAlias = (
    Local
    | Threads
    | Cuda
    | Slurm
    | Pbs
    | Lsf
    | Sge
    | HtCondor
    | Kubernetes
    | Gateway
    | Mpi
    | Address
)

KINDS: dict[str, type[Any]] = {
    "local": Local,
    "threads": Threads,
    "cuda": Cuda,
    "slurm": Slurm,
    "pbs": Pbs,
    "lsf": Lsf,
    "sge": Sge,
    "htcondor": HtCondor,
    "kubernetes": Kubernetes,
    "gateway": Gateway,
    "mpi": Mpi,
    "address": Address,
}


def is_runner(text: str) -> bool:
    """Tell whether `cluster` of a job may read so."""
    return text in ("local", "threads") or text.startswith(SCHEDULERS) or text.endswith(".toml")


def profile(runner: str) -> AnyProfile:
    """Return the profile that `cluster` of a job, or ``--cluster``, names.

    Parameters
    ----------
    runner : str
        ``"local"``, ``"threads"``, a scheduler's address, or the path of a profile, relative to the
        current directory.

    Raises
    ------
    JobError
        The profile cannot be read, is not TOML, or holds unknown keys, wrong types or settings that
        contradict each other; all problems are listed.
    """
    if runner == "local":
        return Local(kind="local")
    if runner == "threads":
        return Threads(kind="threads")
    if runner.startswith(SCHEDULERS):
        return _checked({"kind": "address", "address": runner}, f"cluster = {runner!r}")
    file, text = read_toml(runner, "cluster profile")
    return parse_profile(text, file)


def parse_profile(text: str, path: Path) -> AnyProfile:
    """Check the text of a profile; see :func:`profile`."""
    raw = parse_toml(text, path)
    kind = raw.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        told = "is missing" if kind is None else f"found {kind!r}"
        guess = near(kind, list(KINDS)) if isinstance(kind, str) else ""
        raise JobError(f"{path}: kind: {told}. Accepted: {', '.join(KINDS)}.{guess}")
    return _checked(raw, str(path))


def _checked(raw: dict[str, Any], where: str) -> AnyProfile:
    """Return the profile that a table is; `where` says whose it is."""
    model = KINDS[raw["kind"]]
    try:
        found: AnyProfile = model.model_validate(raw)
        problems = found.problems()
    except ValidationError as wrong:
        lines = [describe(error, None, model) for error in unique(wrong.errors())]
        problems = list(dict.fromkeys(lines))  # Numbers of two types say the same twice.
    if problems:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise JobError("\n  ".join([f"{where} has {count}; nothing was run:", *problems]))
    return found


def with_workers(found: AnyProfile, workers: int | None) -> AnyProfile:
    """Return a profile with a fixed number of workers, as the command line asks for.

    Raises
    ------
    JobError
        This kind of profile cannot be told.
    """
    if "workers" not in type(found).model_fields:
        raise JobError(
            f"--workers: the workers of a cluster of kind {found.kind!r} are there already or come "
            "from elsewhere, so their number cannot be chosen. Leave it out."
        )
    bounds = {"minimum": None, "maximum": None} if hasattr(found, "maximum") else {}
    changed = found.model_copy(update={"workers": workers, **bounds})
    if problems := changed.problems():
        raise JobError("\n".join(f"--workers: {problem}" for problem in problems))
    return changed
