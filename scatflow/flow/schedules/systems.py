"""The schedulers that can be told to run a job, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scatflow.flow.profiles import POD_SECRET
from scatflow.flow.schedules import crontab, kubernetes, slurm, systemd
from scatflow.flow.schedules.environment import withheld
from scatflow.flow.schedules.task import Task


@dataclass(frozen=True)
class System:
    """What can be done with a scheduler; all but `text` return lines for people."""

    text: Callable[[Task], str]
    """The unit, as it would be installed."""
    install: Callable[[Task], list[str]]
    """Installs the unit, or brings the one that is there up to date."""
    remove: Callable[[str], list[str]]
    """Removes the unit of a name, if it is there."""
    options: tuple[str, ...] = ("log",)
    """Options of the command that make sense here."""

    credentials: str = (
        "their stores' own files (~/.aws/credentials, AWS_PROFILE) or the machine's role"
    )

    def notes(self, task: Task) -> list[str]:
        """Return what the user should know about a unit that was printed or installed."""
        told = []
        if "log" in self.options:
            told.append(f"runs add what they say to {task.log}")
        if names := withheld():
            told.append(
                f"{', '.join(names)} of this environment seem to be secrets, so the unit does not "
                f"hold them. Runs take credentials from {self.credentials}"
            )
        return told


SYSTEMS = {
    "cron": System(crontab.text, crontab.install, crontab.remove),
    "systemd": System(systemd.text, systemd.install, systemd.remove),
    "slurm": System(slurm.text, slurm.install, slurm.remove, ("log", "batch")),
    "kubernetes": System(
        kubernetes.text,
        kubernetes.install,
        kubernetes.remove,
        ("image", "claim"),
        f"the Secret {POD_SECRET}, if it exists, or the pod's role",
    ),
}
