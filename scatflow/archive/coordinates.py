"""Coordinates of a variable: regular ones as axes, the others as small arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from scatflow.archive.axis import Axis
from scatflow.archive.decoding import KEYS, text_number
from scatflow.archive.regular import IrregularError, recognise
from scatflow.archive.stores import unsafe_codec

LARGEST = 64 * 2**20
"""Bytes of the largest coordinate that is kept in memory as it is."""

REFERENCES = ("coordinates", "grid_mapping", "bounds", "climatology", "ancillary_variables")
"""Attributes by which variables name others that describe them (CF)."""


@dataclass(frozen=True, eq=False)
class Coord:
    """A coordinate that is no regular axis, decoded, in memory.

    Parameters
    ----------
    dims : tuple of str
        Its dimensions, a subset of the variable's; none for a scalar.
    values : array
        One value for each sample that is selected.
    attrs : mapping
        Its attributes.
    """

    dims: tuple[str, ...]
    values: NDArray[Any]
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Coordinates:
    """All coordinates of a variable over the whole of its record, and what to know of them."""

    axes: dict[str, Axis]
    others: dict[str, Coord]
    notes: list[str]


def stored_dims(array: zarr.Array[Any]) -> tuple[str, ...] | None:
    """Return the dimension names that a store gives to an array; None if it gives none."""
    metadata = array.metadata
    if metadata.zarr_format == 3:
        names: Any = metadata.dimension_names
    else:
        names = array.attrs.asdict().get("_ARRAY_DIMENSIONS")
    if not isinstance(names, list | tuple) or len(names) != array.ndim:
        return None
    dims = tuple(str(name) for name in names if name is not None)
    return dims if len(dims) == array.ndim and len(set(dims)) == len(dims) else None


def describing(arrays: Mapping[str, zarr.Array[Any]], group_attrs: Mapping[str, Any]) -> set[str]:
    """Return the names of the arrays that describe others: they are no variables."""
    names: set[str] = set()
    for attrs in (group_attrs, *(array.attrs for array in arrays.values())):
        for key in REFERENCES:
            names.update(str(attrs.get(key, "")).replace(":", " ").split())
    own = {name for name, array in arrays.items() if stored_dims(array) == (name,)}
    return (names | own) & set(arrays)


def read_coordinates(
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    declared: Mapping[str, Any],
    arrays: Mapping[str, zarr.Array[Any]],
    names: Iterable[str],
) -> Coordinates:
    """Read the coordinates of a variable.

    Parameters
    ----------
    dims, shape : tuple
        Of the variable.
    declared : mapping
        Its attribute ``axes``.
    arrays : mapping
        The arrays of its group.
    names : iterable of str
        Those of them that are coordinates.
    """
    sizes = dict(zip(dims, shape, strict=True))
    axes = {dim: Axis.from_dict(declared[dim], dim, sizes[dim]) for dim in dims if dim in declared}
    found = Coordinates(axes, {}, [])
    for name in sorted(names):
        array = arrays[name]
        along = stored_dims(array) if array.ndim else ()
        if along is None or not set(along) <= set(dims):
            continue
        if tuple(sizes[dim] for dim in along) != array.shape:
            found.notes.append(
                f"The coordinate {name!r} is left out: its shape {array.shape} does not fit."
            )
        elif name not in axes:
            _read_one(name, along, array, found)
    return found


def _read_one(
    name: str, along: tuple[str, ...], array: zarr.Array[Any], found: Coordinates
) -> None:
    """Read one coordinate into what was found so far."""
    if unsafe_codec(array) is not None:
        found.notes.append(f"The coordinate {name!r} is left out: it holds pickled objects.")
        return
    small = array.size * max(array.dtype.itemsize, 1) <= LARGEST
    try:
        if along == (name,) and array.dtype.kind in "iufM":
            try:
                found.axes[name] = recognise(
                    lambda start, stop: _decoded(array, along, slice(start, stop)).values,
                    array.shape[0],
                    _decoded(array, along, slice(0, 1)).attrs,
                )
                return
            except IrregularError as reason:
                if array.shape[0] > 1:
                    kept = "kept value by value" if small else "left out"
                    found.notes.append(f"The coordinate {name!r} is {kept}: {reason}.")
        if small:
            found.others[name] = _decoded(array, along, ...)
        elif along != (name,):
            size = array.size * array.dtype.itemsize / 2**20
            found.notes.append(
                f"The coordinate {name!r} is left out: its {size:.0f} MiB are more than "
                f"{LARGEST // 2**20} MiB."
            )
    except (ValueError, OverflowError, TypeError) as error:
        found.notes.append(f"The coordinate {name!r} is left out: it cannot be decoded ({error}).")


def _decoded(array: zarr.Array[Any], dims: tuple[str, ...], part: Any) -> Coord:
    """Read a part of a coordinate and decode it by the CF conventions.

    Raises
    ------
    ValueError
        If it cannot be decoded, or only into Python objects.
    """
    import xarray as xr  # Workers that only read samples never need it.

    attrs = {k: v for k, v in array.attrs.items() if k not in ("_ARRAY_DIMENSIONS", "coordinates")}
    if array.metadata.zarr_format == 2 and array.fill_value and "_FillValue" not in attrs:
        attrs["_FillValue"] = array.fill_value
    fill = attrs.get("_FillValue")
    if isinstance(fill, str) and array.dtype.kind in "iuf":
        attrs["_FillValue"] = array.dtype.type(text_number("_FillValue", fill))
    values = np.asarray(array[part])
    if values.dtype.kind in "TO":
        values = np.array([str(v) for v in values.reshape(-1)], np.str_).reshape(values.shape)
    plain = xr.Dataset({"it": (dims, values, attrs)})
    decoded = xr.decode_cf(plain, decode_timedelta=False)["it"]
    result = decoded.values
    if result.dtype.kind == "M":
        result = result.astype("datetime64[ns]")
    if result.dtype.kind == "O":
        raise ValueError("its calendar has no datetime64 values")
    rest = {k: v for k, v in decoded.attrs.items() if k not in KEYS}
    if result.dtype.kind == "M":
        rest = {k: v for k, v in rest.items() if k not in ("units", "calendar")}
    return Coord(dims, result, rest)
