"""Chunks that a store does not hold: Zarr reads them as its fill value, without a word."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import RangeByteRequest
from zarr.core.sync import sync
from zarr.storage import StorePath

AT_ONCE = 64
"""Objects that a store is asked for at a time."""

Box = tuple[slice, ...]


def fill_value(array: zarr.Array[Any]) -> Any:
    """Return what Zarr reads where nothing was written."""
    fill = array.fill_value
    return array.dtype.type(0) if fill is None else fill


def absent(
    array: zarr.Array[Any], parts: Sequence[slice | list[int]], stored: NDArray[Any]
) -> list[Box]:
    """Return which boxes of what was read lie in objects that the store does not hold.

    The store is asked only for chunks (shards, where there are some) of which all that was read
    is the fill value, so that other reads cost nothing. A chunk that is missing inside a shard
    that exists is the fill value, as Zarr has it.

    Parameters
    ----------
    array : zarr.Array
        The array.
    parts : sequence of slice or list of int
        What was read along each axis: lists rise.
    stored : ndarray
        What was read, as it is stored.
    """
    fill, sizes = fill_value(array), array.shards or array.chunks
    runs = [list(touched(part, size)) for part, size in zip(parts, sizes, strict=True)]
    boxes: list[Box] = []
    keys: list[str] = []
    for along in itertools.product(*runs) if stored.size else ():
        box = tuple(where for _, where in along)
        # The first number tells nearly always that a chunk was written.
        if stored[tuple(s.start for s in box)] == fill and (stored[box] == fill).all():
            boxes.append(box)
            keys.append(array.metadata.encode_chunk_key(tuple(chunk for chunk, _ in along)))
    held = sync(_held(array.store_path, keys)) if keys else []
    return [box for box, there in zip(boxes, held, strict=True) if not there]


def touched(part: slice | list[int], size: int) -> Iterator[tuple[int, slice]]:
    """Yield the chunks that a part of an axis touches, and where each is in what was read."""
    if isinstance(part, slice):
        for chunk in range(part.start // size, -(-part.stop // size)):
            first, last = max(chunk * size, part.start), min((chunk + 1) * size, part.stop)
            yield chunk, slice(first - part.start, last - part.start)
        return
    at = 0
    for chunk, some in itertools.groupby(part, lambda i: i // size):
        count = len(list(some))
        yield chunk, slice(at, at + count)
        at += count


async def _held(path: StorePath, keys: Sequence[str]) -> list[bool]:
    """Tell which keys a store holds; as Zarr reads them, so that other failures are raised."""

    async def held(key: str) -> bool:
        return await (path / key).get(byte_range=RangeByteRequest(0, 1)) is not None

    found: list[bool] = []
    for first in range(0, len(keys), AT_ONCE):
        found += await asyncio.gather(*map(held, keys[first : first + AT_ONCE]))
    return found


def blank(values: NDArray[Any], boxes: Sequence[Box]) -> int:
    """Set boxes to NaN and return how many numbers they hold."""
    for box in boxes:
        values[box] = np.nan
    return sum(values[box].size for box in boxes)
