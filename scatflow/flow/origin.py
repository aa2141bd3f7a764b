"""What a result was computed from, as its ledger remembers it."""

from __future__ import annotations

import os

from scatflow.archive import Source, open_source
from scatflow.errors import SourceError, SourceNotFoundError
from scatflow.flow.output import look
from scatflow.flow.work import absolute


def open_origin(output: str, base: str | None = None) -> Source:
    """Open the source that a run's output was computed from.

    Parameters
    ----------
    output : str
        Path or URL of a store that ``scatflow run`` wrote.
    base : str, optional
        Directory that relative paths start from; by default the current one.

    Raises
    ------
    SourceError
        No run wrote the store, so that nothing says where its samples lie.
    SourceNotFoundError
        They are no longer there.
    """
    base = base or os.getcwd()
    found = look(absolute(output, base))
    if found.ledger is None:
        raise SourceError(
            f"{output} does not say where its samples lie, because no `scatflow run` wrote it"
            f" ({found.why}). Nothing can be drawn of them: transform the store by a job, or show "
            "the results alone."
        )
    spec = dict(found.ledger.settings["open"])
    store = absolute(spec["store"], base)
    try:
        return open_source(**{**spec, "store": store})
    except SourceNotFoundError as problem:
        raise SourceNotFoundError(
            f"The samples of {output} were read from {spec['store']}, where nothing can be read "
            f"any more: {problem} Relative paths start from the current folder: {base}."
        ) from problem
