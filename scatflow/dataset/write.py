"""Regions of the output, as tasks write them."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray


def open_coefficients(store: Any) -> zarr.Array[Any]:
    """Open the variable `scattering` of a dataset for writing."""
    return zarr.open_array(store, path="scattering", mode="r+")


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
    array[region] = contiguous
    return checksum(contiguous), contiguous.nbytes


def checksum(values: NDArray[Any], before: int = 0) -> int:
    """Return the CRC-32 of the bytes of a C-ordered array, and of those that had `before`."""
    return zlib.crc32(values.reshape(-1).view(np.uint8).data, before)
