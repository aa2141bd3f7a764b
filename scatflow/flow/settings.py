"""What determines the output's bytes: settings as JSON, their fingerprint, their differences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

ALGORITHM = 5
"""Raised whenever the same settings would give other bytes than before."""


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


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _leaves(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(item)
