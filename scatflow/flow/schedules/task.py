"""What a scheduler is to start, and the shell script that starts it the same way everywhere.

Units hold no more than the path of the script: their own rules for quoting, for ``%`` and for the
length of a line (999 characters in cron) then concern one path that is known.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

import scatflow
from scatflow.errors import JobError, ScheduleError
from scatflow.flow.job import Job
from scatflow.flow.schedules.cron import Cron, parse_cron
from scatflow.flow.schedules.environment import carried

LOCAL = ("local", "threads")
"""Kinds of profiles whose workers live where the run does."""

CLIENT_BYTES = 2**30
"""What the run's own process takes beside its workers."""


@dataclass(frozen=True)
class Task:
    """A job and all that its runs need to be started by somebody else."""

    job: Job
    path: Path
    """Of the job file, absolute."""
    folder: Path
    """Where relative paths in the job start from."""
    cron: Cron
    variables: Mapping[str, str]
    log: Path
    cluster: str | None = None
    """Where to run instead of where the job says."""
    batch: str = ""
    """Further options of a batch job."""
    image: str | None = None
    claim: str | None = None

    @property
    def name(self) -> str:
        """The unit's name."""
        return unit_name(self.path)

    @property
    def local(self) -> bool:
        """Whether its workers live where the run is started."""
        return self.job.profile.kind in LOCAL

    @property
    def workers(self) -> int | None:
        """Workers that are started beside the run; None where nothing says how many."""
        return getattr(self.job.profile, "most", None) or (
            getattr(self.job.profile, "workers", None) or self.job.run.workers
        )

    @property
    def resources(self) -> tuple[int, int]:
        """Processors and bytes that a run takes where it is started, workers included."""
        if not self.local:
            return 1, CLIENT_BYTES
        workers = self.workers or 1
        return workers * self.job.threads, workers * self.job.memory + CLIENT_BYTES

    @property
    def one_worker(self) -> tuple[str, ...]:
        """Words of the command where a system grants what is asked for: as many as processors."""
        return ("--workers", "1") if self.local and self.workers is None else ()


def make_task(
    job: Job,
    *,
    cluster: str | None = None,
    log: str | None = None,
    batch: str = "",
    image: str | None = None,
    claim: str | None = None,
) -> Task:
    """Collect what a job's runs need: the current folder, this interpreter, its environment.

    Raises
    ------
    JobError
        The job has no schedule.
    """
    if job.run.schedule is None:
        raise JobError(
            f"[run] schedule is missing in {job.path}, so there is no time to run it. It takes a "
            'cron line, such as "0 3 * * *" (every day at three); --schedule "..." gives one for '
            "this unit alone."
        )
    path, folder = job.path.absolute(), Path.cwd()
    for place in (path, folder, Path(log or "")):
        if "\n" in str(place):
            raise ScheduleError(f"{str(place)!r} has a line break, which units cannot hold.")
    return Task(
        job=job,
        path=path,
        folder=folder,
        cron=parse_cron(job.run.schedule),
        variables=_found_here(carried(), folder),
        log=folder / log if log else default_log(path),
        cluster=cluster,
        batch=batch,
        image=image,
        claim=claim,
    )


def unit_name(path: Path) -> str:
    """Return a name of letters, digits and dashes that no other job file has.

    It follows from the file's place alone, so that a unit is found again whatever the file says.

    Examples
    --------
    >>> unit_name(Path("/data/Seismic day (2).toml"))
    'scatflow-seismic-day-2-...'
    """
    place = os.path.realpath(path)
    stem = re.sub(r"[^a-z0-9]+", "-", Path(place).stem.lower()).strip("-")[:32].strip("-")
    digest = hashlib.sha256(os.fsencode(place)).hexdigest()[:8]
    return f"scatflow-{stem}-{digest}" if stem else f"scatflow-{digest}"


def default_log(path: Path) -> Path:
    """Return where the runs of a job write what they say."""
    return platformdirs.user_log_path("scatflow") / f"{unit_name(path)}.log"


def script_path(name: str, system: str) -> Path:
    """Return where the script of a unit lies."""
    path = platformdirs.user_config_path("scatflow") / "schedules" / f"{name}.{system}.sh"
    if re.search(r'["\\\n]', str(path)):
        raise ScheduleError(
            f"Units cannot hold the path {str(path)!r}, because of its quotes, backslashes or line "
            "breaks. Set XDG_CONFIG_HOME to another folder."
        )
    return path


def command(task: Task) -> list[str]:
    """Return the words that run the job, other than the program itself."""
    words = ["run", str(task.path), "--unless-running"]
    return words if task.cluster is None else [*words, "--cluster", task.cluster]


def script(task: Task, first: str = "", extra: tuple[str, ...] = ()) -> str:
    """Return a shell script that runs the job: from its folder, with its variables, into its log.

    Parameters
    ----------
    task : Task
        What to run.
    first : str
        Lines to go before the run.
    extra : tuple of str
        Further words of the command.
    """
    program = [sys.executable, "-P", "-m", "scatflow.cli", *command(task), *extra]
    variables = "".join(f"export {n}={shlex.quote(v)}\n" for n, v in task.variables.items())
    return f"""\
#!/bin/sh
# Runs {task.path}
# Written by `scatflow schedule`, which also removes it (--remove).
cd {shlex.quote(str(task.folder))} || exit 2
{variables}log={shlex.quote(str(task.log))}
mkdir -p "$(dirname "$log")"
{first}{{
  echo "== $(date +%Y-%m-%dT%H:%M:%S%z)"
  {shlex.join(program)}
}} >> "$log" 2>&1
code=$?
# Quiet unless something is wrong: what a scheduler sees is what it tells people.
[ $code -eq 0 ] || echo {shlex.quote(f"scatflow run {task.path}: exit code")} $code, see "$log" >&2
exit $code
"""


def write(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file as a whole: whoever reads it sees the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    new.write_text(text, encoding="utf-8", errors="surrogateescape")
    new.chmod(mode)
    new.replace(path)


def _found_here(variables: dict[str, str], folder: Path) -> dict[str, str]:
    """Add the folder of a bare checkout, which is searched only while one stands in it."""
    root = str(Path(scatflow.__file__).parents[1])
    known = variables.get("PYTHONPATH", "")
    if root != str(folder) or root in known.split(os.pathsep):
        return variables
    return {**variables, "PYTHONPATH": os.pathsep.join([root, *known.split(os.pathsep)])}
