"""Marked blocks in a crontab, and cron's and scrontab's units as such blocks."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Sequence

from scatflow.errors import ScheduleError
from scatflow.flow.schedules.task import Task, script, script_path, write

BEGIN, END = "# >>> {name}: written by scatflow schedule", "# <<< {name}"
EMPTY = "no crontab for"
"""What cron and scrontab say of a user who has none."""


def with_block(crontab: bytes, name: str, lines: Sequence[str]) -> bytes:
    r"""Return a crontab with the block of a unit, in place of an earlier one.

    No other byte changes.

    Parameters
    ----------
    crontab : bytes
        All of it.
    name : str
        The unit's.
    lines : sequence of str
        The block's; none removes it.

    Raises
    ------
    ScheduleError
        A block begins and does not end.

    Examples
    --------
    >>> crontab = with_block(b"0 1 * * * backup\n", "day", ["0 3 * * * run"])
    >>> with_block(crontab, "day", [])
    b'0 1 * * * backup\n'
    """
    begin, end = (mark.format(name=name).encode() for mark in (BEGIN, END))
    new = [line.encode(errors="surrogateescape") for line in lines]
    block = b"".join(line + b"\n" for line in (begin, *new, end)) if lines else b""
    there = crontab.splitlines(keepends=True)
    bare = [line.rstrip(b"\n") for line in there]
    if begin not in bare:
        gap = b"\n" if block and crontab and not crontab.endswith(b"\n") else b""
        return crontab + gap + block
    first = bare.index(begin)
    if end not in bare[first:]:
        raise ScheduleError(
            f"The crontab has the line {begin.decode()!r}, but not {end.decode()!r} after it, so "
            "what belongs to the unit is not known. Remove the unit's lines by hand."
        )
    last = bare.index(end, first)
    return b"".join([*there[:first], block, *there[last + 1 :]])


def entry(task: Task, system: str) -> str:
    """Return the line of a crontab that starts a unit's script."""
    path = shlex.quote(str(script_path(task.name, system))).replace("%", r"\%")
    return f"{task.cron.text} /bin/sh {path}"


def text(task: Task) -> str:
    """Return cron's unit: a script and a block for ``crontab -e``."""
    block = with_block(b"", task.name, [entry(task, "cron")]).decode(errors="surrogateescape")
    path = script_path(task.name, "cron")
    return f"# --- {path}\n{script(task)}\n# --- crontab\n{block}"


def install(task: Task) -> list[str]:
    """Write the script, and put its line into the user's crontab."""
    path = script_path(task.name, "cron")
    crontab = read("crontab")
    write(path, script(task), 0o700)
    replace("crontab", crontab, with_block(crontab, task.name, [entry(task, "cron")]))
    return [
        f"{task.name} is in the crontab: {task.cron.text}, runs {path}",
        "where cron's daemon is not running, nothing runs: systemctl status cron tells",
    ]


def remove(name: str) -> list[str]:
    """Take a unit out of the user's crontab."""
    path = script_path(name, "cron")
    crontab = read("crontab")
    rest = with_block(crontab, name, [])
    replace("crontab", crontab, rest)
    path.unlink(missing_ok=True)
    return [f"{name} {'was not' if rest == crontab else 'is no longer'} in the crontab"]


def read(program: str) -> bytes:
    """Return the user's crontab.

    Raises
    ------
    ScheduleError
        It cannot be read.
    """
    if shutil.which(program) is None:
        raise ScheduleError(
            f"There is no program {program} on this machine, so nothing was installed. Install it "
            "(Debian's package of crontab is cron), or choose another scheduler with --as."
        )
    answer = _call([program, "-l"])
    if answer.returncode and EMPTY in answer.stderr.decode(errors="replace"):
        return b""
    _check(answer, f"{program} -l")
    return answer.stdout


def replace(program: str, old: bytes, new: bytes) -> None:
    """Make a crontab the user's, if it is another one than before."""
    if new == old:
        return
    words = [program, "-"] if new else [program, "-r"]
    _check(_call(words, new), " ".join(words))


def _call(words: list[str], text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(words, input=text, capture_output=True, check=False, timeout=60)


def _check(answer: subprocess.CompletedProcess[bytes], words: str) -> None:
    if answer.returncode:
        said = answer.stderr.decode(errors="replace").strip()
        raise ScheduleError(
            f"{words} ended with exit code {answer.returncode}, so the crontab is as it was: {said}"
        )
