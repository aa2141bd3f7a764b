"""Which object of a store is damaged, where a read of many has failed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import zarr
from zarr.core.sync import sync

from scatflow.archive.absent import touched

MOST_CHUNKS = 64
"""Chunks that are tried one by one."""


def damaged(array: zarr.Array[Any], parts: Sequence[slice | list[int]]) -> str | None:
    """Read the chunks (shards) behind parts of an array one by one, and name the first that fails.

    Parameters
    ----------
    array : zarr.Array
        The array.
    parts : sequence of slice or list of int
        What was to be read along each axis: lists rise.

    Returns
    -------
    str or None
        Its key and what is wrong with it; None if none fails of those that were tried.
    """
    sizes = array.shards or array.chunks
    numbers = [[n for n, _ in touched(part, size)] for part, size in zip(parts, sizes, strict=True)]
    for chunk in itertools.islice(itertools.product(*numbers), MOST_CHUNKS):
        box = tuple(
            slice(k * size, min((k + 1) * size, n))
            for k, size, n in zip(chunk, sizes, array.shape, strict=True)
        )
        try:
            array[box]
        except Exception as problem:  # Of whatever kind its codecs or its store have.
            path = array.store_path / array.metadata.encode_chunk_key(chunk)
            return f"{path.path} {_kind(path, problem)}"
    return None


def _kind(path: Any, problem: Exception) -> str:
    if isinstance(problem, OSError):
        return f"cannot be read ({type(problem).__name__}: {problem})"
    n_bytes = sync(path.store.getsize(path.path))
    if n_bytes == 0:
        return "is empty"
    return f"is damaged ({n_bytes} bytes; {type(problem).__name__}: {problem})"
