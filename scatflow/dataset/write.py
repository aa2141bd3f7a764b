"""Regions of the output, as tasks write them."""

from __future__ import annotations

import zlib
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync

WRITTEN = ("scattering",)
"""The variables that blocks write, a shard each."""


def open_coefficients(store: Any, mode: Literal["r", "r+"] = "r+") -> zarr.Array[Any]:
    """Open the variable `scattering` of a dataset, for writing unless told otherwise."""
    return zarr.open_array(store, path="scattering", mode=mode)


def write_region(
    array: zarr.Array[Any], region: tuple[slice, ...], values: NDArray[Any]
) -> tuple[int, int]:
    """Write one whole shard and return its checksum (CRC-32 of the values) and its bytes.

    Parameters
    ----------
    array : zarr.Array
        The variable.
    region : tuple of slice
        Where the shard's coefficients lie.
    values : ndarray
        The coefficients, C-ordered, of the array's dtype.
    """
    contiguous = np.ascontiguousarray(values)
    try:
        array[region] = contiguous
    except (ValueError, RuntimeError):
        # Zarr reads a shard at the array's end before it writes what lies inside. What cannot be
        # read there is an earlier attempt's, as after a loss of power.
        erase_region(array, region)
        array[region] = contiguous
    return checksum(contiguous), contiguous.nbytes


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
