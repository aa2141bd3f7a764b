"""Batch systems: how each is told of a script, sends it, and lets go of it again.

Facts of their manuals as pure text; nothing here runs a command but :class:`System`'s methods.
"""

from __future__ import annotations

import math
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scatflow.errors import ClusterError

COMMAND_SECONDS = 60.0

ONE_LOG = "driver"
"""What stands in a log's name where a batch system cannot put in the job's number."""


@dataclass(frozen=True)
class Wanted:
    """What a batch job takes."""

    name: str
    log: str
    """Where it says what it does; a system puts in the job's number, or an array's index."""
    cores: int
    memory: int
    """Bytes."""
    walltime: str | None
    seconds: int | None
    """The same in seconds."""
    queue: str | None
    account: str | None
    directives: Sequence[str] = ()
    array: int | None = None
    """Jobs of an array."""
    after: str | None = None
    """A job, or an array, whose end is awaited."""
    parallel_environment: str | None = None
    disk: int = 0


@dataclass(frozen=True)
class System:
    """One batch system."""

    kind: str
    header: Callable[[Wanted], list[str]]
    """Return the lines at the script's head."""
    send: tuple[str, ...]
    """The command that takes a script's path."""
    number: str
    """What its answer looks like: a pattern with the job's number."""
    cancel: tuple[str, ...]
    state: tuple[str, ...]
    """The command that tells of a job; of one that has ended long ago, it fails."""
    unknown: str
    """What all its commands say of jobs that they know no more: a pattern, whatever the case."""
    again: str
    """Lines of shell that have the job queued again; $script is the script's path."""
    index: str
    """An array's index, in shell, counted from 0."""
    cancel_named: tuple[str, ...] = ()
    """The same for all jobs of a name, which stands for ``{name}``; empty where there is none."""
    stdin: bool = False
    """Whether the script is read from standard input."""
    numbers_logs: bool = True
    """Whether the name of a log can hold the job's number."""
    ended: tuple[str, ...] = ()
    """Words that `state` has for jobs that have ended, where it tells of them, too."""
    same_again: bool = True
    """Whether `again` queues this very job, or a new one of the same script."""
    awaits: bool = True
    """Whether a job can wait for the end of an array; where not, its last job concludes."""
    description: Callable[[Wanted, str], str] | None = None
    """Return what is sent in place of a script, and names it."""

    def log(self, pattern: str, number: str, array: bool) -> str:
        """Return where a job writes its log, or the jobs of an array theirs."""
        one = number if self.numbers_logs else ONE_LOG
        several = f"{number}-*" if self.numbers_logs else "*"
        return pattern.replace("{n}", several if array else one)

    def check_command(self) -> None:
        """Look whether this machine has the command that sends scripts.

        Raises
        ------
        ClusterError
            It has not.
        """
        if shutil.which(self.send[0]) is None:
            raise _absent(self.send[0], self.kind)

    def submit(self, script: str) -> str:
        """Send a script and return the job's number.

        Raises
        ------
        ClusterError
            The command is missing, or refuses.
        """
        words = [*self.send] if self.stdin else [*self.send, script]
        try:
            if self.stdin:
                with open(script, "rb") as text:
                    said = _call(words, self.kind, stdin=text)
            else:
                said = _call(words, self.kind)
        except RefusedError as problem:
            raise RefusedError(
                f"{problem}\nNothing runs. Look at queue, account, walltime, memory and directives "
                f"in the profile; what was sent is {script}"
            ) from problem
        match = re.search(self.number, said)
        if match is None:
            raise ClusterError(
                f"{words[0]} took the job, but its answer holds no number: {said.strip()!r}."
            )
        return match.group(1)

    def delete(self, number: str) -> None:
        """Cancel a job; one that has ended is no obstacle.

        Raises
        ------
        ClusterError
            The command is missing, or refuses.
        """
        if not self.waits_or_runs(number):
            return
        try:
            _call([*self.cancel, number], self.kind)
        except RefusedError:
            if self.waits_or_runs(number):  # It has not ended this moment.
                raise

    def delete_named(self, name: str) -> None:
        """Cancel what is left of the jobs of a name: workers whose driver was ended first.

        Raises
        ------
        ClusterError
            The command refuses, and not because there are none any more.
        """
        if not self.cancel_named:
            return
        try:
            _call([word.format(name=name) for word in self.cancel_named], self.kind)
        except RefusedError as problem:
            self._check_unknown(problem)

    def waits_or_runs(self, number: str) -> bool:
        """Tell whether a job has not ended.

        Raises
        ------
        ClusterError
            The command is missing, or the system does not answer.
        """
        try:
            said = _call([*self.state, number], self.kind).split()
        except RefusedError as problem:
            self._check_unknown(problem)
            return False
        return any(word not in self.ended for word in said)

    def _check_unknown(self, problem: RefusedError) -> None:
        """Raise what a command refused, unless it is that a job is not known any more."""
        if re.search(self.unknown, str(problem), re.IGNORECASE) is None:
            raise problem


class RefusedError(ClusterError):
    """A batch system's command ended with an error."""


def _absent(command: str, kind: str) -> ClusterError:
    return ClusterError(
        f"The command {command} is not there, so nothing was sent. Do this on a machine that has "
        f"the commands of {kind}, or choose another profile."
    )


def _call(words: Sequence[str], kind: str, **more: object) -> str:
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False, **more
        )  # type: ignore[call-overload]
    except FileNotFoundError as problem:
        raise _absent(words[0], kind) from problem
    except subprocess.TimeoutExpired as problem:
        raise ClusterError(
            f"{words[0]} has not answered for {COMMAND_SECONDS:.0f} s. Is {kind} at work?"
        ) from problem
    if done.returncode:
        words_of = (done.stderr or done.stdout).strip()
        raise RefusedError(f"{words[0]} refused: {words_of or f'exit code {done.returncode}'}")
    return str(done.stdout)


def _mib(size: int) -> int:
    return math.ceil(size / 2**20)


def _slurm(job: Wanted) -> list[str]:
    found = [
        f"--job-name={job.name}",
        f"--output={job.log.replace('{n}', '%A-%a' if job.array else '%j')}",
        "--open-mode=append",
        "--ntasks=1",
        f"--cpus-per-task={job.cores}",
        f"--mem={_mib(job.memory)}M",
        "--requeue",
    ]
    found += [f"--time={job.walltime}"] if job.walltime else []
    found += [f"--partition={job.queue}"] if job.queue else []
    found += [f"--account={job.account}"] if job.account else []
    found += [f"--array=0-{job.array - 1}"] if job.array else []
    found += [f"--dependency=afterany:{job.after}"] if job.after else []
    return [f"#SBATCH {line}" for line in [*found, *job.directives]]


def _pbs(job: Wanted) -> list[str]:
    found = [
        f"-N {job.name[:230]}",
        f"-o {job.log.replace('{n}', '^array_index^' if job.array else ONE_LOG)}",
        "-j oe",
        "-r y",
        f"-l select=1:ncpus={job.cores}:mem={_mib(job.memory)}mb",
    ]
    found += [f"-l walltime={job.walltime}"] if job.walltime else []
    found += [f"-q {job.queue}"] if job.queue else []
    found += [f"-A {job.account}"] if job.account else []
    found += [f"-J 0-{job.array - 1}"] if job.array else []
    found += [f"-W depend=afterany:{job.after}"] if job.after else []
    return [f"#PBS {line}" for line in [*found, *job.directives]]


def _lsf(job: Wanted) -> list[str]:
    name = f'"{job.name}[1-{job.array}]"' if job.array else job.name
    found = [
        f"-J {name}",
        f"-o {job.log.replace('{n}', '%J-%I' if job.array else '%J')}",
        f"-n {job.cores}",
        '-R "span[hosts=1]"',
        f"-M {_mib(job.memory)}MB",
        f"-Q {AGAIN}",
        "-r",
    ]
    found += [f"-W {math.ceil(job.seconds / 60)}"] if job.seconds else []
    found += [f"-q {job.queue}"] if job.queue else []
    found += [f"-P {job.account}"] if job.account else []
    found += [f'-w "ended({job.after})"'] if job.after else []
    return [f"#BSUB {line}" for line in [*found, *job.directives]]


def _sge(job: Wanted) -> list[str]:
    found = [
        f"-N {job.name}",
        f"-o {job.log.replace('{n}', '$JOB_ID-$TASK_ID' if job.array else '$JOB_ID')}",
        "-j y",
        "-S /bin/bash",
        "-r y",
        f"-l h_vmem={math.ceil(_mib(job.memory) / job.cores)}M",
    ]
    if job.cores > 1:
        found.append(f"-pe {job.parallel_environment} {job.cores}")
    found += [f"-l h_rt={job.seconds}"] if job.seconds else []
    found += [f"-q {job.queue}"] if job.queue else []
    found += [f"-P {job.account}"] if job.account else []
    found += [f"-t 1-{job.array}"] if job.array else []
    found += [f"-hold_jid {job.after}"] if job.after else []
    return [f"#$ {line}" for line in [*found, *job.directives]]


def _htcondor(job: Wanted) -> list[str]:  # noqa: ARG001 - what it takes is in the description.
    return ['export HOME="${HOME:-$(echo ~)}"  # HTCondor sets none.']


def _submit_description(job: Wanted, script: str) -> str:
    """Return what condor_submit is told of a script.

    The client's job stays on the machine that it was sent from (universe local, as DAGMan's own),
    whose commands send the workers. Names of logs hold no sign that shells read in their own way.
    """
    number = "$(Cluster)-$(Process)" if job.array else "$(Cluster)"
    log = job.log.replace("{n}", number)
    told = {
        "universe": "vanilla" if job.array else "local",
        "batch_name": job.name,
        "executable": "/bin/bash",
        "transfer_executable": "false",
        # It adds to its log: condor's own output begins anew whenever a job does.
        "arguments": f"\"-c 'exec /bin/bash {script} $(Process) >>{log} 2>&1'\"",
        "error": log.removesuffix(".log") + ".err",
        "log": job.log.replace("{n}", "$(Cluster)").removesuffix(".log") + ".events",
        "request_cpus": str(job.cores),
        "request_memory": f"{_mib(job.memory)}M",
        "on_exit_remove": f"(ExitCode =!= {AGAIN})",
        "want_graceful_removal": "true",
    }
    if job.disk:
        told["request_disk"] = f"{_mib(job.disk)}M"
    if job.account:
        told["accounting_group"] = job.account
    lines = [f"{name} = {value}" for name, value in told.items()]
    return "\n".join([*lines, *job.directives, f"queue {job.array or 1}", ""])


AGAIN = 99
"""Exit code that has Grid Engine queue a job again, and LSF and HTCondor, which are told so."""

NUMBER = ".number"
"""Where a job that queues another one in its place notes that one's number: beside its script."""

SYSTEMS = {
    "slurm": System(
        kind="SLURM",
        header=_slurm,
        send=("sbatch", "--parsable"),
        number=r"^(\d+)",
        cancel=("scancel",),
        cancel_named=("scancel", "--me", "--name={name}"),
        state=("squeue", "--noheader", "--format=%T", "--jobs"),
        unknown=r"invalid job id|already complet",
        again='scontrol requeue "$SLURM_JOB_ID"',
        index="$SLURM_ARRAY_TASK_ID",
    ),
    "pbs": System(
        kind="PBS",
        header=_pbs,
        send=("qsub",),
        number=r"^(\d+(?:\[\])?[\w.\-]*)",
        cancel=("qdel",),
        state=("qstat",),
        unknown=r"unknown job|has finished",
        again=f'qsub "$script" >"${{script%.sh}}{NUMBER}"',
        index="$PBS_ARRAY_INDEX",
        numbers_logs=False,
        same_again=False,
    ),
    "lsf": System(
        kind="LSF",
        header=_lsf,
        send=("bsub",),
        stdin=True,
        number=r"Job <(\d+)>",
        cancel=("bkill",),
        cancel_named=("bkill", "-J", "{name}", "0"),
        state=("bjobs", "-noheader", "-o", "stat"),
        unknown=r"not found|no matching job|already finished",
        ended=("DONE", "EXIT"),
        again=f"code={AGAIN}",
        index="$((LSB_JOBINDEX - 1))",
    ),
    "sge": System(
        kind="Grid Engine",
        header=_sge,
        send=("qsub", "-terse"),
        number=r"^(\d+)",
        cancel=("qdel",),
        cancel_named=("qdel", "{name}"),
        state=("qstat", "-j"),
        unknown=r"do(es)? not exist",
        again=f"code={AGAIN}",
        index="$((SGE_TASK_ID - 1))",
    ),
    "htcondor": System(
        kind="HTCondor",
        header=_htcondor,
        description=_submit_description,
        send=("condor_submit", "-terse"),
        number=r"(?m)^(\d+)\.",
        cancel=("condor_rm",),
        cancel_named=("condor_rm", "-constraint", 'JobBatchName == "{name}"'),
        state=("condor_q", "-format", "%d ", "JobStatus"),  # Nothing, of those that are gone.
        unknown=r"couldn't find",
        ended=("3", "4"),  # Removed and completed; one that is held (5) waits.
        again=f"code={AGAIN}",
        index="$1",
        awaits=False,
    ),
}


def script(
    system: System,
    job: Wanted,
    *,
    folder: str,
    commands: Sequence[str],
    line: Sequence[str],
    stop_after: int | None,
    path: str,
) -> str:
    """Return the script of a batch job that runs one command and is queued again at its walltime.

    Parameters
    ----------
    system : System
        Who gets it.
    job : Wanted
        What it takes.
    folder : str
        Where it starts.
    commands : sequence of str
        Lines of shell before it.
    line : sequence of str
        The command; words that begin with ``$`` are left to the shell.
    stop_after : int, optional
        Seconds after which the command is told to end, and the job is queued again.
    path : str
        Where the script lies.
    """
    told = " ".join(f'"{w}"' if w.startswith("$") else shlex.quote(w) for w in line)
    if stop_after is not None:
        told = f"timeout --signal=TERM --kill-after={KILL_AFTER} {stop_after} {told}"
    again = []
    # A script that is sent anew has all jobs of its array: the one after them does what is left.
    if stop_after is not None and (system.same_again or not job.array):
        again = [
            "# It was told to end before the walltime does, and there is more to do.",
            f'if [ "$code" -ne 0 ] && [ "$SECONDS" -ge {stop_after} ]; then',
            f"    {system.again}",
            "fi",
        ]
    return "\n".join(
        [
            "#!/bin/bash",
            *system.header(job),
            f"script={shlex.quote(path)}",
            f"cd {shlex.quote(folder)} || exit 2",
            *commands,
            f"{told} &",
            "child=$!",
            "# A signal that is sent to this job ends the run, which keeps what is done.",
            "trap 'kill -TERM $child' TERM INT",
            "wait $child",
            "code=$?",
            "while kill -0 $child 2>/dev/null; do wait $child; code=$?; done",
            *again,
            'exit "$code"',
            "",
        ]
    )


KILL_AFTER = 60
"""Seconds that a run has to end once it is told to."""
