"""Stores and files that the tests of this folder read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pymseed
import pytest
import zarr

Store = Callable[..., str]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Make a Zarr group with the given arrays: name=(dims, values, attrs)."""

    def make(
        arrays: dict[str, tuple[tuple[str, ...] | None, Any, dict[str, Any]]],
        zarr_format: int = 3,
        chunks: tuple[int, ...] | None = None,
        name: str = "archive.zarr",
        **group_attrs: Any,
    ) -> str:
        path = tmp_path / name
        group = zarr.open_group(
            str(path), mode="w", zarr_format=zarr_format, attributes=group_attrs
        )
        for key, (dims, values, attrs) in arrays.items():
            values = np.asarray(values)
            text = values.dtype.kind == "U"
            attrs = dict(attrs)
            if zarr_format == 2 and dims is not None:
                attrs["_ARRAY_DIMENSIONS"] = list(dims)
            array = group.create_array(
                key,
                shape=values.shape,
                dtype=str if text else values.dtype,
                chunks=chunks if chunks is not None and len(chunks) == values.ndim else "auto",
                dimension_names=dims if zarr_format == 3 else None,
                attributes=attrs,
            )
            array[...] = values.astype(object) if text else values
        return str(path)

    return make


Record = Callable[..., bytes]


@pytest.fixture
def record() -> Record:
    """Make the bytes of miniSEED records of one stretch of samples."""

    def make(
        samples: Any,
        start: str = "2010-09-01T00:00:00Z",
        rate: float = 100.0,
        sid: str = "FDSN:XX_AAA__H_H_Z",
        encoding: int | None = None,
        version: int = 3,
        length: int = 512,
    ) -> bytes:
        samples = np.asarray(samples)
        kind = {"i4": "i", "f4": "f", "f8": "d"}[samples.dtype.str[1:]]
        record = pymseed.MS3Record(reclen=length)
        record.sourceid = sid
        record.formatversion = version
        record.set_starttime_str(start)
        record.samprate = rate
        record.encoding = encoding if encoding is not None else {"i": 11, "f": 4, "d": 5}[kind]
        return b"".join(record.generate(samples.tolist(), kind))

    return make
