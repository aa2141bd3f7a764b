"""Regions of the output, as tasks write them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync
from zarr.storage import StorePath

from scatflow.dataset.shards import encode, put
from scatflow.dataset.timely import timely

COEFFICIENTS, FRACTION = "scattering", "valid_fraction"
"""The variables that blocks write, an object each; the second where samples may be missing."""


def open_arrays(
    store: Any, names: Iterable[str], mode: Literal["r", "r+"] = "r+"
) -> dict[str, zarr.Array[Any]]:
    """Open variables of a dataset, for writing unless told otherwise."""
    # A block of which nothing can be told is all fill values, and is written all the same: what
    # is not there counts as lost.
    with zarr.config.set({"array.write_empty_chunks": True}):
        plain = {name: zarr.open_array(store, path=name, mode=mode) for name in names}
        if mode == "r":
            return plain
        return {
            name: zarr.open_array(StorePath(timely(array.store), array.path), mode=mode)
            for name, array in plain.items()
        }


def write_region(
    array: zarr.Array[Any], region: tuple[slice, ...], values: NDArray[Any], before: int = 0
) -> tuple[int, int]:
    """Write one whole shard and return its checksum (CRC-32 of the values) and its bytes.

    Parameters
    ----------
    array : zarr.Array
        The variable.
    region : tuple of slice
        Where the shard's coefficients lie.
    values : ndarray
        What it holds, C-ordered, of the array's dtype.
    before : int
        Checksum of what was written before, which is to go on.
    """
    contiguous = np.ascontiguousarray(values)
    contiguous = contiguous.reshape(values.shape)  # numbers without axes have got one
    data = encode(array, contiguous)
    if data is not None:
        put(array, shard_key(array, region), data)
        return checksum(contiguous, before), contiguous.nbytes
    try:
        array[region] = contiguous
    except (ValueError, RuntimeError):
        # Zarr reads a shard at the array's end before it writes what lies inside. What cannot be
        # read there is an earlier attempt's, as after a loss of power.
        erase_region(array, region)
        array[region] = contiguous
    return checksum(contiguous, before), contiguous.nbytes


def shard_key(array: zarr.Array[Any], region: tuple[slice, ...]) -> str:
    """Return the key, below that of the array, of the shard that holds a region."""
    shards = array.shards or array.chunks
    return str(
        array.metadata.encode_chunk_key(
            tuple(part.start // n for part, n in zip(region, shards, strict=True))
        )
    )


def erase_region(array: zarr.Array[Any], region: tuple[slice, ...]) -> None:
    """Delete the shard that holds a region, if it is there."""
    sync((array.store_path / shard_key(array, region)).delete())


def checksum(values: NDArray[Any], before: int = 0) -> int:
    """Return the CRC-32 of the bytes of a C-ordered array, and of those that had `before`."""
    return zlib.crc32(values.reshape(-1).view(np.uint8).data, before)
