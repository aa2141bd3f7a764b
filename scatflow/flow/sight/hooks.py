"""Commands that are called when a run has ended.

A job file is data and runs no command: hooks come from the command line and from the user's own
configuration file alone.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scatflow.backends.choose import user_settings
from scatflow.errors import JobError
from scatflow.flow.sight.watch import End, Listener, Run

HOOK_SECONDS = 60.0
"""A command that takes longer is ended."""

OUTCOMES = ("on_success", "on_failure")


class Hooks(Listener):
    """Calls a command on success (exit code 0) or on failure (any other).

    Parameters
    ----------
    job : str
        The job file; known even where nothing else is.
    on_success, on_failure : str, optional
        A command as one would type it; it is cut into words and called without a shell. By default
        that of the user's configuration file, if there is one; ``""`` is none.
    """

    def __init__(
        self, job: str, on_success: str | None = None, on_failure: str | None = None
    ) -> None:
        given = {"on_success": on_success, "on_failure": on_failure}
        self._commands = {
            name: _from_settings(name) if line is None else _words(name, line)
            for name, line in given.items()
        }
        self._facts = {"SCATFLOW_JOB": job, "SCATFLOW_JOB_FILE": job}
        self._message = ""

    def ended(self, run: Run, end: End) -> None:
        """Keep what commands are told."""
        counts = end.counts or {}
        self._facts.update(
            SCATFLOW_JOB=run.job,
            SCATFLOW_OUTPUT=run.output,
            SCATFLOW_RUN=run.id,
            SCATFLOW_STATE=end.state,
            SCATFLOW_BLOCKS_DONE=str(counts.get("done", "")),
            SCATFLOW_BLOCKS_FAILED=str(counts.get("failed", "")),
        )
        self._message = end.message

    def forget(self) -> None:
        """Call nothing, however this ends."""
        self._commands = {name: [] for name in OUTCOMES}

    def call(self, code: int, message: str, say: Callable[[str], None]) -> None:
        """Call the command for an exit code, which it does not change; tell if it fails."""
        name = "on_success" if code == 0 else "on_failure"
        command = self._commands[name]
        if not command:
            return
        blank = dict.fromkeys(
            (
                "SCATFLOW_OUTPUT",
                "SCATFLOW_RUN",
                "SCATFLOW_STATE",
                "SCATFLOW_BLOCKS_DONE",
                "SCATFLOW_BLOCKS_FAILED",
            ),
            "",
        )
        facts = {
            **blank,
            **self._facts,
            "SCATFLOW_EXIT_CODE": str(code),
            "SCATFLOW_MESSAGE": message or self._message,
        }
        if problem := _call(command, facts):
            say(f"note: the command {shlex.join(command)} ({name}) {problem}.")


def _call(command: Sequence[str], facts: Mapping[str, str]) -> str | None:
    """Call a command and say what went wrong, if anything did."""
    clean = {name: value.replace("\0", "") for name, value in facts.items()}
    try:
        # In a session of its own, so that whatever it starts ends with it.
        process = subprocess.Popen(
            command,
            env={**os.environ, **clean},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as problem:
        return f"could not be called: {problem}"
    try:
        code = process.wait(HOOK_SECONDS)
    except BaseException as problem:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if not isinstance(problem, subprocess.TimeoutExpired):
            raise
        return f"took longer than {HOOK_SECONDS:g} s and was ended"
    return f"ended with exit code {code}" if code else None


def _words(name: str, line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as problem:
        option = f"--{name.replace('_', '-')}"
        raise JobError(f"{option} {line!r} is no command: {problem}. Close the quotes.") from None


def _from_settings(name: str) -> list[str]:
    """Return the command of the user's configuration file, a list of words."""
    path, settings = user_settings()
    table: Any = settings.get("run", {})
    if not isinstance(table, dict) or set(table) - set(OUTCOMES):
        raise JobError(f"[run] in {path} may have {' and '.join(OUTCOMES)}, nothing else.")
    words = table.get(name, [])
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise JobError(
            f"{name} in [run] of {path} must be a list of words, such as "
            f'["{Path.home()}/bin/tell", "--by-mail"], not {words!r}.'
        )
    return words
