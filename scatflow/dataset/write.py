"""Regions of the output, as tasks write them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

COEFFICIENTS, FRACTION = "scattering", "valid_fraction"
"""The variables that blocks write, an object each; the second where samples may be missing."""


def open_arrays(store: Any, names: Iterable[str]) -> dict[str, zarr.Array[Any]]:
    """Open variables of a dataset for writing."""
    return {name: zarr.open_array(store, path=name, mode="r+") for name in names}


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
    array[region] = contiguous.reshape(values.shape)  # numbers without axes have got one
    return checksum(contiguous, before), contiguous.nbytes


def checksum(values: NDArray[Any], before: int = 0) -> int:
    """Return the CRC-32 of the bytes of a C-ordered array, and of those that had `before`."""
    return zlib.crc32(values.reshape(-1).view(np.uint8).data, before)
