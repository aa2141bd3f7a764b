"""systemd's units: a user's service and the timer that starts it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import platformdirs

from scatflow.errors import ScheduleError
from scatflow.flow.schedules.cron import on_calendar
from scatflow.flow.schedules.task import Task, script, script_path, write

SERVICE = """\
[Unit]
Description={what}

[Service]
Type=oneshot
ExecStart=/bin/sh "{script}"
"""

TIMER = """\
[Unit]
Description={what}, on schedule: {cron}

[Timer]
{calendar}
AccuracySec=1s
# A run that was missed while the machine was off is made up for at the next start.
Persistent=true

[Install]
WantedBy=timers.target
"""


def units(task: Task) -> dict[str, str]:
    """Return service and timer, by their files' names."""
    path = str(script_path(task.name, "systemd"))
    what = _literal(f"scatflow run {task.path}").rstrip("\\")
    calendar = "\n".join(f"OnCalendar={line}" for line in on_calendar(task.cron))
    return {
        f"{task.name}.service": SERVICE.format(what=what, script=_literal(path).replace("$", "$$")),
        f"{task.name}.timer": TIMER.format(what=what, cron=task.cron.text, calendar=calendar),
    }


def text(task: Task) -> str:
    """Return all files of a unit."""
    files = {
        str(script_path(task.name, "systemd")): script(task),
        **{str(_folder() / name): unit for name, unit in units(task).items()},
    }
    return "\n".join(f"# --- {path}\n{content}" for path, content in files.items())


def install(task: Task) -> list[str]:
    """Write the units and start the timer.

    Raises
    ------
    ScheduleError
        systemd does not run or refuses; the files are there.
    """
    path = script_path(task.name, "systemd")
    write(path, script(task), 0o700)
    for name, unit in units(task).items():
        write(_folder() / name, unit, 0o644)
    timer = f"{task.name}.timer"
    steps = [["daemon-reload"], ["enable", timer], ["restart", timer]]
    for step in steps:
        problem = _systemctl(step)
        if problem is not None:
            commands = "; ".join(f"systemctl --user {' '.join(s)}" for s in steps)
            raise ScheduleError(
                f"The units are in {_folder()}, but the timer is not started: {problem}. Where "
                f"systemd runs, give: {commands}"
            )
    return [
        f"{timer} is started: {task.cron.text}, runs {path}",
        "a user's timers stop when the user logs out, unless: loginctl enable-linger",
    ]


def remove(name: str) -> list[str]:
    """Stop a timer and delete its units."""
    files = [_folder() / f"{name}.timer", _folder() / f"{name}.service"]
    wanted = _folder() / "timers.target.wants" / files[0].name
    there = any(file.exists() for file in files)
    problem = _systemctl(["disable", "--now", files[0].name]) if there else None
    for file in (wanted, *files, script_path(name, "systemd")):
        file.unlink(missing_ok=True)
    if not there:
        return [f"{name} was not among the units in {_folder()}"]
    if problem is None:
        problem = _systemctl(["daemon-reload"])
    told = [f"{name} is no longer among the units in {_folder()}"]
    return told if problem is None else [*told, f"note: systemctl --user: {problem}"]


def _folder() -> Path:
    return platformdirs.user_config_path("systemd") / "user"


def _literal(text: str) -> str:
    return text.replace("%", "%%")


def _systemctl(words: list[str]) -> str | None:
    """Give systemd of the user a command, and return what went wrong."""
    if shutil.which("systemctl") is None:
        return "there is no program systemctl on this machine"
    answer = subprocess.run(
        ["systemctl", "--user", *words], capture_output=True, text=True, check=False, timeout=60
    )
    return answer.stderr.strip() or "it failed" if answer.returncode else None
