"""What determines the output's bytes: settings as JSON, their fingerprint, their differences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ALGORITHM = 7
"""Raised whenever the same settings would give other bytes than before."""


ANY = "any"
"""The backend of a run whose workers have GPUs or not: each block is computed where it lands."""

COMPUTED_BY = ("numpy", "cupy")
"""What its blocks are computed with; ledgers number them, from 1 on."""

HOW_TO_OPEN = "open"
"""The one entry that does not determine the bytes: how a worker finds the source."""


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Return a short hash of settings, the same for equal ones."""
    relevant = {key: value for key, value in settings.items() if key != HOW_TO_OPEN}
    text = json.dumps(relevant, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name every setting that differs, with both values.

    Examples
    --------
    >>> differences({"engine": {"J": 8, "Q": [1, 1]}}, {"engine": {"J": 9, "Q": [1, 1]}})
    ['engine.J: 8 -> 9']
    """
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key) and not key.startswith(f"{HOW_TO_OPEN}.")
    ]


def growth(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[int, int]] | None:
    """Return by how much the source has grown between two settings, if that is all that differs.

    Parameters
    ----------
    old, new : mapping
        Settings of two runs.

    Returns
    -------
    dict or None
        Samples before and now of each dimension that has grown; None where anything else differs
        than extents: how many samples there are, and which ones along with labels of dimensions
        that are not transformed (the output's own labels tell whether these are still the same).
    """
    if _identity(old) != _identity(new):
        return None
    before, after = old["source"], new["source"]
    grown = {}
    for dim, m, n in zip(before["dims"], before["shape"], after["shape"], strict=True):
        if not _begins_with(after["selection"][dim], before["selection"][dim]):
            return None
        if n > m:
            grown[dim] = (m, n)
    return grown


def _identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must not change while a source grows."""
    source = {k: v for k, v in settings["source"].items() if k not in ("shape", "selection")}
    transformed = settings["transform"]["dims"]
    source["axes"] = {d: axis for d, axis in source["axes"].items() if d in transformed}
    return {**settings, "source": source, HOW_TO_OPEN: None}


def _begins_with(longer: Any, shorter: Any) -> bool:
    """Tell whether a selection begins with the samples of another."""
    a, b = _samples(longer), _samples(shorter)
    if isinstance(a, range) and isinstance(b, range):
        return a.start == b.start and a.stop >= b.stop
    return len(a) >= len(b) and list(a[: len(b)]) == list(b)


def _samples(selection: Any) -> Sequence[int]:
    return selection["indices"] if isinstance(selection, Mapping) else range(*selection)


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _leaves(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(item)
