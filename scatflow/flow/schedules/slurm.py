"""Slurm's units: lines of scrontab or, without it, a job that submits its successor."""

from __future__ import annotations

import datetime
import getpass
import shlex
import shutil
import subprocess
import sys

from scatflow.errors import ScheduleError
from scatflow.flow.schedules import crontab
from scatflow.flow.schedules.cron import plain_line
from scatflow.flow.schedules.task import Task, script, script_path, write

SYSTEM = "slurm"

CHAIN = """\
[ -e {script} ] || exit 0  # Removed.
# Its successor is submitted before all else, so that a run that is killed ends no schedule; there
# is one at most, also when Slurm starts this job again.
scancel --state=PENDING --name={name} --user="$(id -un)"
for pause in 10 60 300 0; do
  begin=$({next}) && sbatch --begin="$begin" {script} && break
  sleep $pause
done
"""


def text(task: Task) -> str:
    """Return Slurm's unit: a script, and what has Slurm run it."""
    path = script_path(task.name, SYSTEM)
    if not _has_scrontab():
        return f"# --- {path}\n{batch_script(task)}\n# --- {shlex.join(_submission(task))}\n"
    block = crontab.with_block(b"", task.name, scrontab_lines(task))
    lines = block.decode(errors="surrogateescape")
    return f"# --- {path}\n{_script(task)}\n# --- scrontab\n{lines}"


def install(task: Task) -> list[str]:
    """Write the script, and put it into scrontab or submit it.

    Raises
    ------
    ScheduleError
        There is no Slurm here, or it refuses.
    """
    path = script_path(task.name, SYSTEM)
    task.log.parent.mkdir(parents=True, exist_ok=True)  # Slurm opens it before the script runs.
    if _has_scrontab():
        old = crontab.read("scrontab")
        new = crontab.with_block(old, task.name, scrontab_lines(task))
        write(path, _script(task), 0o700)
        crontab.replace("scrontab", old, new)
        return [f"{task.name} is in scrontab: {task.cron.text}, runs {path}"]
    if shutil.which("sbatch") is None:
        raise ScheduleError(
            "There is neither scrontab nor sbatch on this machine, so nothing was installed. Give "
            "the command where Slurm's programs are, or choose another scheduler with --as."
        )
    write(path, batch_script(task), 0o700)
    _cancel(task.name)
    submission = _submission(task)
    number = _slurm(submission).strip()
    begin = submission[1].partition("=")[2]
    return [
        f"{task.name} is submitted as job {number.partition(';')[0]}, to begin at {begin}; each "
        f"run submits the next ({task.cron.text}), since scrontab does not serve here"
    ]


def remove(name: str) -> list[str]:
    """Take a unit out of scrontab and cancel its waiting jobs; one that runs goes on to its end."""
    path = script_path(name, SYSTEM)
    there = path.exists()
    path.unlink(missing_ok=True)
    if _has_scrontab():
        old = crontab.read("scrontab")
        crontab.replace("scrontab", old, crontab.with_block(old, name, []))
    elif there or shutil.which("squeue"):
        _cancel(name)
    return [f"{name} {'is no longer' if there else 'was not'} scheduled in Slurm"]


def scrontab_lines(task: Task) -> list[str]:
    """Return the lines of scrontab's block.

    Raises
    ------
    ScheduleError
        Slurm would read the schedule in another way.
    """
    line = plain_line(task.cron)
    if line is None:
        raise ScheduleError(
            f"The schedule {task.cron.text!r} asks for a day of the month and a day of the week "
            "at once, which cron grants as one of them begins with *, but scrontab may not. Leave "
            "one of them *, or use --as cron or systemd."
        )
    path = shlex.quote(str(script_path(task.name, SYSTEM))).replace("%", r"\%")
    return [*(f"#SCRON {option}" for option in _options(task)), f"{line} /bin/sh {path}"]


def batch_script(task: Task) -> str:
    """Return a batch script that submits itself for the schedule's next time, and runs the job."""
    path = shlex.quote(str(script_path(task.name, SYSTEM)))
    program = [sys.executable, "-P", "-m", "scatflow.flow.schedules.cron", task.cron.text]
    chain = CHAIN.format(script=path, name=task.name, next=shlex.join(program))
    shebang, rest = _script(task, chain).split("\n", 1)
    # Of two runs, the later one waits for the earlier one to end.
    options = [*_options(task), "--dependency=singleton"]
    return "\n".join([shebang, *(f"#SBATCH {option}" for option in options), rest])


def _script(task: Task, first: str = "") -> str:
    """Return the script; workers are as many as the batch job has processors for."""
    return script(task, first, task.one_worker)


def _options(task: Task) -> list[str]:
    processors, memory = task.resources
    log = str(task.log).replace("%", "%%").replace('"', r"\"")
    own = [f"--job-name={task.name}", f'--output="{log}"', "--open-mode=append"]
    own += [f"--cpus-per-task={processors}", f"--mem={-(-memory // 2**20)}M"]
    return own + [shlex.quote(word) for word in shlex.split(task.batch)]


def _submission(task: Task) -> list[str]:
    begin = task.cron.after(datetime.datetime.now()).isoformat()
    return ["sbatch", f"--begin={begin}", "--parsable", str(script_path(task.name, SYSTEM))]


def _cancel(name: str) -> None:
    user = getpass.getuser()
    _slurm(["scancel", "--state=PENDING", f"--name={name}", f"--user={user}"])


def _slurm(words: list[str]) -> str:
    answer = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    if answer.returncode:
        raise ScheduleError(
            f"{shlex.join(words)} ended with exit code {answer.returncode}, so the job is not "
            f"scheduled: {answer.stderr.strip()}"
        )
    return answer.stdout


def _has_scrontab() -> bool:
    """Tell whether scrontab serves: many clusters have the program and have not switched it on."""
    if shutil.which("scrontab") is None:
        return False
    answer = subprocess.run(
        ["scrontab", "-l"], capture_output=True, text=True, check=False, timeout=60
    )
    return "disabled" not in answer.stderr
