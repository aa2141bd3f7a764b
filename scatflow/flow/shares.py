"""Runs that share an output: each computes some of the blocks, and none talks to another.

The blocks are cut into as many stretches as there are shares. A share holds the output's lock
together with the others, and has a ledger of its own inside the output's; the next run that has the
output for itself takes over what they tell.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scatflow.dataset import DONE, MISSING, count
from scatflow.errors import JobError, OutputError
from scatflow.flow.ledger import BACKENDS, SHARES, Ledger, make_arrays, versions


@dataclass(frozen=True)
class Share:
    """One of several runs on an output.

    Parameters
    ----------
    index : int
        Which one, from 0.
    of : int
        How many there are.
    """

    index: int
    of: int

    def blocks(self, n: int) -> tuple[int, int]:
        """Return the first of its blocks, and the one after its last.

        Examples
        --------
        >>> [Share(i, 3).blocks(10) for i in range(3)]
        [(0, 3), (3, 6), (6, 10)]
        """
        return self.index * n // self.of, (self.index + 1) * n // self.of


def parse_share(text: str) -> Share:
    """Return the share that ``"2/8"`` stands for: the third of eight.

    Raises
    ------
    JobError
        It stands for none.

    Examples
    --------
    >>> parse_share("2/8")
    Share(index=2, of=8)
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    found = Share(*(int(part) for part in match.groups())) if match else None
    if found is None or found.index >= found.of:
        raise JobError(
            f"--share: found {text!r}. Accepted: INDEX/OF, an index from 0 on and below OF, as "
            "0/8 to 7/8."
        )
    return found


class Part(Ledger):
    """The ledger of one share: its own blocks, in a group of its own."""

    def __init__(self, main: Ledger, share: Share) -> None:
        name = str(share.index)
        shares = main.group.require_group(SHARES)
        if f"{name}/state" not in shares:  # The last one that is made.
            made = shares.create_group(
                name,
                overwrite=True,
                attributes={
                    "fingerprint": main.fingerprint,
                    "settings": {},
                    "versions": versions(),
                    "failures": {},
                    **({BACKENDS: list(main.backends)} if main.backends else {}),
                },
            )
            make_arrays(made, main.state.size, main.backends)
        group: Any = shares[name]
        super().__init__(group)
        self._first, self._last = share.blocks(main.state.size)
        self.earlier = main.earlier
        mine = slice(self._first, self._last)
        unknown = self.state[mine] == MISSING
        for array in self.names:
            own, before = getattr(self, array)[mine], getattr(main, array)[mine]
            own[unknown] = before[unknown]

    def counts(self) -> dict[str, int]:
        """Return how many of its blocks are done, missing and failed."""
        return count(self.state[self._first : self._last])

    def pending(self) -> NDArray[np.int64]:
        """Return those of its blocks that are to be computed."""
        return self._first + np.flatnonzero(self.state[self._first : self._last] != DONE)


def part(ledger: Ledger | None, share: Share, fingerprint: str, output: str) -> Part:
    """Open the ledger of a share.

    Raises
    ------
    OutputError
        The output has not been laid out for so many shares of this very work.
    """
    if ledger is None or ledger.fingerprint != fingerprint or ledger.shares != share.of:
        raise OutputError(
            f"{output} is not laid out for {share.of} shares of this job, so this one was not "
            f"computed. scatflow submit JOB --array {share.of} does that and sends all of them; "
            "scatflow run JOB needs no shares."
        )
    return Part(ledger, share)
