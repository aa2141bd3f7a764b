"""Make an output longer when its source has grown: only what sees new samples is computed again.

The order of writing makes it safe to die at any moment: the new ledger beside the old one; the
ledger's attributes, from which on the new one counts; labels and shapes; the dataset's
consolidated metadata, then its attributes; the ledger's own arrays; its attributes again, which end
the growth. From where on windows are provisional is what it was until all blocks are done: those
that were computed for the shorter source stay in their place until then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from scatflow.dataset import DONE, FAILED, MISSING, PARTIAL, Template, differing, extend, finish
from scatflow.errors import OutputError
from scatflow.flow.earlier import settled_blocks, shorter, unsettled
from scatflow.flow.labels import PROVISIONAL, attrs_meanwhile, template
from scatflow.flow.layout import Layout
from scatflow.flow.ledger import Ledger
from scatflow.flow.settings import growth
from scatflow.flow.work import Work, from_settings

MOST_EXTENTS = 250
"""Extents that a ledger tells apart; blocks of older ones are computed as a whole."""


def grow(store: str, ledger: Ledger, old: Layout, work: Work, described: Template) -> str:
    """Bring an output to the length of its source, and say by how much that has grown.

    Parameters
    ----------
    store : str
        The output.
    ledger : Ledger
        Its ledger, for a shorter source.
    old : Layout
        Of the work for that source.
    work : Work
        What is to be done now.
    described : Template
        Of its output.

    Raises
    ------
    OutputError
        The labels of old samples have changed, or the output cannot be written.
    """
    grown = growth(ledger.settings, work.settings) or {}
    _check_labels(store, described)
    try:
        arrays, failures, earlier = carried(
            ledger, old, work.layout, tuple(ledger.settings["source"]["shape"])
        )
        ledger.begin_growth(work.settings, work.fingerprint, arrays, failures, earlier)
        _lengthen(store, ledger, described, again=False)
    except OSError as problem:
        raise OutputError(
            f"The output {store} cannot be made longer: {problem}. "
            "Make room or restore access, then give the same command: it goes on from there."
        ) from problem
    return words(grown, ledger.pending().size, ledger.state.size)


def foreseen(ledger: Ledger | None, work: Work) -> list[str]:
    """Say what a run would find: by how much the source has grown since the last one."""
    if ledger is None or ledger.growing or ledger.fingerprint == work.fingerprint:
        return []
    grown = growth(ledger.settings, work.settings)
    if grown is None:
        return []
    shape = tuple(ledger.settings["source"]["shape"])
    old = shorter(work, shape)
    if ledger.state.size != old.cuts.n_blocks:
        return []
    state = carried(ledger, old, work.layout, shape)[0]["state"]
    return [words(grown, int(np.sum(state != DONE)), state.size)]


def go_on(store: str, ledger: Ledger, base: str, work: Work, described: Template) -> None:
    """Finish what a process left that died while it made the output longer.

    Parameters
    ----------
    store : str
        The output.
    ledger : Ledger
        Its ledger, for what it was to become.
    base : str
        Directory that relative paths start from.
    work, described : Work, Template
        What is to be done now; the source may have grown again since.
    """
    if not ledger.growing:
        ledger.tidy()
        return
    if ledger.fingerprint != work.fingerprint:
        described = template(from_settings(ledger.settings, base))
    _lengthen(store, ledger, described, again=True)


def words(grown: Mapping[str, tuple[int, int]], pending: int, total: int) -> str:
    """Say by how much a source has grown, and what there is to compute.

    Examples
    --------
    >>> words({"time": (300, 400)}, 3, 120)
    'The source grew along time from 300 to 400: 3 of 120 blocks to compute.'
    """
    along = " and ".join(f"along {dim} from {m} to {n}" for dim, (m, n) in grown.items())
    return f"The source grew {along or 'by nothing'}: {pending} of {total} blocks to compute."


def _check_labels(store: str, described: Template) -> None:
    group = zarr.open_group(store, mode="r", use_consolidated=False)
    for name, why in differing(group, described).items():
        raise OutputError(
            f"The source has grown, but the old part of its labels is not what {store} has: "
            f"{name} {why}. Old and new results would be mixed. Restore the source (scatflow "
            "verify tells whether the output is damaged instead), name another [output] store, or "
            "start over with --fresh, which deletes what is there."
        )


def _lengthen(store: str, ledger: Ledger, described: Template, *, again: bool) -> None:
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    extend(group, described, again=again)
    finish(group, attrs_meanwhile(group.attrs, described))
    ledger.end_growth()


def settle(store: str, described: Template) -> None:
    """Say of an output, now that all its blocks are done, from where on it is provisional."""
    group = zarr.open_group(store, mode="r", use_consolidated=False)
    told = described.dataset_attrs.get(PROVISIONAL)
    if told is not None and group.attrs.get(PROVISIONAL) != told:
        attrs = {**group.attrs, PROVISIONAL: told}
        finish(zarr.open_group(store, mode="r+", use_consolidated=False), attrs)


def carried(
    ledger: Ledger, old: Layout, new: Layout, shape: tuple[int, ...]
) -> tuple[dict[str, NDArray[Any]], dict[int, str], list[tuple[int, ...]]]:
    """Return what a ledger for a longer source begins with.

    Blocks that the growth leaves as they are keep their state; others that were done are partial.

    Parameters
    ----------
    ledger : Ledger
        As it is.
    old, new : Layout
        Of the work that the ledger is for, and of that for the longer source.
    shape : tuple of int
        Of the source that `old` is for.

    Returns
    -------
    arrays : dict of ndarray
        What the ledger's arrays say of the blocks of `new`.
    failures : dict
        Reasons of the blocks that stay failed.
    earlier : list
        Shapes of the source that partial blocks were computed for.
    """
    state = ledger.state.reshape(old.cuts.counts).copy()
    touched = np.ones(state.shape, bool)
    if not unsettled(old, new):
        touched[tuple(slice(0, n) for n in settled_blocks(old, new))] = False
    state[touched & (state == FAILED)] = MISSING
    room = len(ledger.earlier) < MOST_EXTENTS
    state[touched & (state == DONE)] = PARTIAL + len(ledger.earlier) if room else MISSING
    earlier = _renumbered(state, [*ledger.earlier, shape])
    arrays = {}
    for name in ledger.names:
        before = state if name == "state" else getattr(ledger, name).reshape(old.cuts.counts)
        after = np.zeros(new.cuts.counts, before.dtype)
        after[tuple(slice(0, n) for n in before.shape)] = np.where(state == MISSING, 0, before)
        arrays[name] = after.reshape(-1)
    moved = {new.cuts.index(old.cuts.position(b)): why for b, why in ledger.failures.items()}
    failures = {b: why for b, why in moved.items() if arrays["state"][b] == FAILED}
    return arrays, failures, earlier


def _renumbered(
    state: NDArray[np.uint8], earlier: Sequence[tuple[int, ...]]
) -> list[tuple[int, ...]]:
    """Drop the extents that no block is of any more, in `state` as in the list."""
    used = np.unique(state[state >= PARTIAL])
    for number, before in enumerate(used.tolist()):
        state[state == before] = PARTIAL + number
    return [earlier[before - PARTIAL] for before in used.tolist()]
