"""From numbers as stored to physical values: missing values, scale and offset, byte order."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from scatflow.errors import SourceError

KEYS = ("_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned")
"""Attributes that decoding uses up."""

PIECE = 2**16
"""Values decoded at once: temporary arrays stay this small."""


def read_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the floating-point type in which values of a stored type are read.

    Examples
    --------
    >>> read_dtype("int16"), read_dtype(">i4")
    (dtype('float32'), dtype('float64'))
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "b" or dtype.itemsize <= 2 or dtype == np.float32 or dtype == ">f4":
        return np.dtype(np.float32)
    return np.dtype(np.float64)


@dataclass(frozen=True)
class Decoding:
    """How the numbers of one variable are decoded.

    Parameters
    ----------
    missing : tuple of number
        Stored values that mean "no value"; NaN always does.
    scale, offset : float
        The physical value is ``scale * stored + offset``.
    unsigned : bool
        The stored signed integers are unsigned ones.
    """

    missing: tuple[int | float, ...] = ()
    scale: float = 1.0
    offset: float = 0.0
    unsigned: bool = False

    @property
    def scaled(self) -> bool:
        """Whether values change (beyond missing ones)."""
        return (self.scale, self.offset) != (1.0, 0.0)

    def __call__(self, stored: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Decode an array into a new one (or the same, where there is nothing to do).

        Scaling is computed in float64 and rounded once.
        """
        stored = np.ascontiguousarray(stored)
        if self.unsigned and stored.dtype.kind == "i":
            kind = np.dtype(f"u{stored.dtype.itemsize}").newbyteorder(stored.dtype.byteorder)
            stored = stored.view(kind)
        # A float64 beyond float32's range becomes infinite, which is not silent later on.
        with np.errstate(over="ignore"):
            if not self.missing and not self.scaled:
                return stored.astype(dtype, copy=False)
            values = np.empty(stored.shape, dtype)
            flat_in, flat_out = stored.reshape(-1), values.reshape(-1)
            for start in range(0, flat_in.size, PIECE):
                piece = flat_in[start : start + PIECE]
                flat_out[start : start + PIECE] = self._piece(piece, dtype)
        return values

    def _piece(self, stored: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
        work: np.dtype[Any] = np.dtype(np.float64) if self.scaled else dtype
        values = stored.astype(work)
        if self.scaled:
            values *= self.scale
            values += self.offset
        for missing in self.missing:
            values[stored == missing] = np.nan
        return values


def decoding(
    attrs: Mapping[str, Any], dtype: np.dtype[Any], zarr_format: int, fill_value: Any
) -> tuple[Decoding, list[str]]:
    """Return how a variable's attributes say it is decoded, and what a user should know of it.

    Raises
    ------
    SourceError
        If an attribute is no number, or none that samples can be scaled by.
    """
    notes = []
    unsigned = dtype.kind == "i" and str(attrs.get("_Unsigned", "false")).lower() == "true"
    missing = [_numbers(key, attrs[key], dtype) for key in KEYS[:2] if key in attrs]
    values = [value for group in missing for value in group]
    if zarr_format == 2 and fill_value is not None and "_FillValue" not in attrs:
        # Zarr v2 has one place for both the value of unwritten chunks and that of missing data.
        number = fill_value.item() if isinstance(fill_value, np.generic) else fill_value
        if number != 0:
            values.append(number)
        elif "_ARRAY_DIMENSIONS" in attrs and dtype.kind != "b":
            notes.append(
                "The store's fill_value is 0, which is also Zarr's default: zeros are taken as "
                "data, where xarray would call them missing."
            )
    values = [v for v in values if dtype.kind == "f" or math.isfinite(v)]
    if unsigned:
        values = [int(v) % 2 ** (8 * dtype.itemsize) for v in values]
    # A value that the type cannot hold marks nothing.
    values = [v for v in dict.fromkeys(values) if v == v and _holds(dtype, v, unsigned)]
    scale, offset = _factor("scale_factor", attrs, 1.0), _factor("add_offset", attrs, 0.0)
    return Decoding(tuple(values), scale, offset, unsigned), notes


def _factor(key: str, attrs: Mapping[str, Any], default: float) -> float:
    """Return the one number that all stored ones are multiplied by, or that is added to them."""
    found = _numbers(key, attrs.get(key, default), np.dtype(np.float64))
    why = ""
    if len(found) > 1:
        why = f"{len(found)} numbers, and one belongs to the whole variable"
    elif not math.isfinite(found[0]):
        why = "not finite, so no sample would be"
    elif found[0] == 0 and key == "scale_factor":
        why = "0, so all samples would be the same"
    if why:
        raise SourceError(
            f"The attribute {key} is {why}: {attrs[key]!r}. Nothing was read. Correct or remove "
            "the attribute in the store."
        )
    return float(found[0])


def _holds(dtype: np.dtype[Any], value: int | float, unsigned: bool) -> bool:
    if dtype.kind == "f" or unsigned:
        return True
    if dtype.kind == "b":
        return value in (0, 1)
    limits = np.iinfo(dtype)
    return value == int(value) and limits.min <= value <= limits.max


def _numbers(key: str, value: Any, dtype: np.dtype[Any]) -> list[int | float]:
    """Return the numbers of an attribute; xarray writes floats for Zarr v3 in base64."""
    found: list[int | float] = []
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, str):
            found.append(text_number(key, item))
        elif isinstance(item, bool | int | float):
            found.append(item)
        else:
            raise SourceError(f"The attribute {key} is {value!r}, which is no number.")
    if dtype.kind == "f" and dtype.itemsize < 8:
        # An attribute in double precision marks values that were rounded to the stored type.
        with np.errstate(over="ignore"):
            found = [float(np.asarray(v).astype(dtype)) for v in found]
    if not found:
        raise SourceError(f"The attribute {key} is empty: it should be a number.")
    return found


def text_number(key: str, text: str) -> float:
    """Return the number that an attribute holds as text: in digits, or packed in base64.

    Raises
    ------
    SourceError
        If it is neither.
    """
    try:
        return float(text)
    except ValueError:
        return _packed_number(key, text)


def _packed_number(key: str, text: str) -> float:
    try:
        return float(struct.unpack("<d", base64.standard_b64decode(text))[0])
    except (ValueError, struct.error) as error:
        raise SourceError(f"The attribute {key} is {text!r}, which is no number.") from error
