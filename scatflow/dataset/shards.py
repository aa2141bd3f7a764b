"""Objects of a single chunk, encoded as Zarr encodes them and written without its event loop.

Zarr takes one or two milliseconds of processor time to write an object, however small. Most of
that is coroutines and threads, and more than a small block takes to compute.
"""

from __future__ import annotations

import os
import struct
import uuid
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from scatflow.dataset.timely import check_time

UNFINISHED = ".partial"
"""Local objects are written under such a name and renamed when they are whole, as Zarr does."""


def encode(array: zarr.Array[Any], values: NDArray[Any]) -> bytes | None:
    """Return the object of one chunk that Zarr would write, None where only Zarr knows it.

    Parameters
    ----------
    array : zarr.Array
        An array of one of the kinds that templates have: chunks or shards of a single chunk,
        compressed and with a checksum.
    values : ndarray
        What the chunk holds, from its first corner on; less than a chunk at the array's end.
    """
    codecs: tuple[Any, ...] = tuple(getattr(array.metadata, "codecs", ()))
    sharded = False
    if len(codecs) == 1 and isinstance(codecs[0], ShardingCodec):
        end = getattr(codecs[0].index_location, "value", codecs[0].index_location) == "end"
        if array.shards != array.chunks or not end:
            return None
        if [type(codec) for codec in codecs[0].index_codecs] != [BytesCodec, Crc32cCodec]:
            return None
        codecs, sharded = tuple(codecs[0].codecs), True
    if [type(codec) for codec in codecs] != [BytesCodec, ZstdCodec, Crc32cCodec]:
        return None
    compressor = Zstd(level=codecs[1].level, checksum=codecs[1].checksum)
    chunk = _with_checksum(compressor.encode(_whole(array, values, codecs[0])))
    if not sharded:
        return chunk
    return chunk + _with_checksum(struct.pack("<2Q", 0, len(chunk)))


def _whole(array: zarr.Array[Any], values: NDArray[Any], order: Any) -> NDArray[Any]:
    """Return a chunk's values in the byte order that is stored, fill values beyond the end."""
    big = getattr(order.endian, "value", order.endian) == "big"  # enumerated, or a word
    dtype = array.dtype.newbyteorder(">" if big else "<")
    if values.shape == array.chunks:
        return np.ascontiguousarray(values, dtype)
    chunk = np.full(array.chunks, array.fill_value, dtype)
    chunk[tuple(slice(0, n) for n in values.shape)] = values
    return chunk


def _with_checksum(data: bytes) -> bytes:
    return data + struct.pack("<I", google_crc32c.value(data))


def put(array: zarr.Array[Any], key: str, data: bytes) -> None:
    """Store an object of an array in one step: a reader sees the old one or the new one."""
    place = array.store_path / key
    if not isinstance(place.store, LocalStore):
        sync(place.set(default_buffer_prototype().buffer.from_bytes(data)))
        return
    path = os.path.join(place.store.root, place.path)
    unfinished = f"{path}.{uuid.uuid4().hex}{UNFINISHED}"
    try:
        _write(unfinished, data)
        check_time(path)
        os.replace(unfinished, path)
    except BaseException:
        if os.path.lexists(unfinished):
            os.unlink(unfinished)
        raise


def _write(path: str, data: bytes) -> None:
    try:
        file = open(path, "wb")  # noqa: SIM115 - its folder is rarely missing
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        file = open(path, "wb")  # noqa: SIM115
    with file:
        file.write(data)
