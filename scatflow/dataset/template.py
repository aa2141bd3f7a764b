"""The output's template: the whole dataset's metadata and coordinates, before any coefficient."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.errors import ZarrUserWarning

from scatflow.blocks import divisor, even_part
from scatflow.dataset.coordinates import PIECE, Coordinate
from scatflow.dataset.write import COEFFICIENTS, FRACTION

PATHS_PER_CHUNK = 64
"""A reader of one order or octave then decodes little else."""

CHUNK_BYTES = 2**19
"""Inner chunks of about half a megabyte: small enough to look into, large enough to compress."""

GROWING_BITS = 14
"""Binary logarithm of the values of a coordinate in a chunk along the axes that may grow."""

DAMAGE = (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OSError)
"""What Zarr raises on objects that are damaged or gone."""

LEVEL = 1
"""Zstandard's: moduli are smooth noise, of which higher levels gain 1 % for twice the time."""


@dataclass(frozen=True, eq=False)
class Template:
    """The variable `scattering` and all its labels."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    shards: tuple[int, ...]
    """One task's region of the output."""
    cut: tuple[bool, ...]
    """Along which axes such regions lie side by side: these may grow."""
    path_axis: int
    coordinates: Sequence[Coordinate]
    attrs: Mapping[str, Any]
    """Attributes of the variable."""
    dataset_attrs: Mapping[str, Any]
    """Attributes of the dataset."""
    fraction: Mapping[str, Any] | None = None
    """Attributes of `valid_fraction`; None where there is none."""
    windowed: tuple[int, ...] = ()
    """Axes that `valid_fraction` has, too."""

    @property
    def growing(self) -> set[str]:
        """Dimensions that may grow."""
        return {dim for dim, cut in zip(self.dims, self.cut, strict=True) if cut}


def inner_chunks(
    shards: tuple[int, ...], cut: tuple[bool, ...], path_axis: int, itemsize: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Divide a shard into chunks for reading, whatever the length of the axes that are cut.

    Parameters
    ----------
    shards : tuple of int
        A shard; the path axis whole.
    cut : tuple of bool
        Along which axes shards lie side by side.
    path_axis : int
        Which axis the paths lie along.
    itemsize : int
        Bytes per coefficient.

    Returns
    -------
    shards : tuple of int
        The same, axes that are not cut rounded up to whole chunks (Zarr wants shards of even
        chunks); where several shards lie side by side they have to stay as they are.
    chunks : tuple of int
        At most 64 paths, and of the other axes what keeps a chunk near half a megabyte, the last
        axes first. More paths where the others are too few for that.

    Examples
    --------
    >>> inner_chunks((1, 234, 2048), (True, False, True), 1, 4)
    ((1, 236, 2048), (1, 59, 2048))
    >>> inner_chunks((4, 374, 8438), (True, False, False), 1, 4)
    ((4, 378, 8440), (1, 63, 1688))
    """
    rounded, chunks = list(shards), list(shards)
    rounded[path_axis], chunks[path_axis] = even_part(shards[path_axis], PATHS_PER_CHUNK)
    left = max(CHUNK_BYTES // (itemsize * chunks[path_axis]), 1)
    for axis in reversed(range(len(shards))):
        if axis == path_axis:
            continue
        if cut[axis]:
            chunks[axis] = divisor(shards[axis], left)
        else:
            rounded[axis], chunks[axis] = even_part(shards[axis], left)
        left = max(left // chunks[axis], 1)
    others = itemsize * math.prod(chunks) // chunks[path_axis]
    if others * chunks[path_axis] < CHUNK_BYTES // 4:
        most = CHUNK_BYTES // (2 * others)
        rounded[path_axis], chunks[path_axis] = even_part(shards[path_axis], most)
    return tuple(rounded), tuple(chunks)


def create(store: Any, template: Template, marker: str) -> zarr.Group:
    """Write the template into an empty store: metadata and coordinates, no coefficients.

    The dataset's attributes come last, in one write: a store that still has the attribute
    `marker` was left half-made, holds nothing of worth and may be made again.

    Parameters
    ----------
    store : store or str
        What Zarr can open for writing.
    template : Template
        What to write.
    marker : str
        Attribute to set while the template is being made.

    Returns
    -------
    zarr.Group
        The group, to which its metadata are not consolidated yet: see :func:`finish`.
    """
    group = zarr.open_group(store, mode="w", zarr_format=3, attributes={marker: True})
    _create_variables(group, template)
    for coordinate in template.coordinates:
        _write_coordinate(group, coordinate, template.growing)
    return group


def _create_variables(group: zarr.Group, template: Template) -> None:
    """Make what blocks write, without values."""
    shards, chunks = inner_chunks(
        template.shards, template.cut, template.path_axis, template.dtype.itemsize
    )
    names = [c.name for c in template.coordinates if c.dims != (c.name,)]
    if template.fraction is not None:
        _create_fraction(group, template)
        names.append(FRACTION)
    group.create_array(
        COEFFICIENTS,
        shape=template.shape,
        dtype=template.dtype,
        chunks=chunks,
        shards=shards,
        # A chunk of fill values is not stored, so the fill value must be what is never computed.
        fill_value=np.nan,
        compressors=[ZstdCodec(level=LEVEL), Crc32cCodec()],
        dimension_names=template.dims,
        attributes={**template.attrs, "coordinates": " ".join(names)},
    )


def metadata_of(template: Template) -> dict[str, dict[str, Any]]:
    """Return the metadata of what blocks write as a store of this template has them, by name."""
    group = zarr.open_group({}, mode="w", zarr_format=3)
    _create_variables(group, template)
    return {name: parsed_metadata(array) for name, array in group.arrays()}


def parsed_metadata(array: zarr.Array[Any]) -> dict[str, Any]:
    """Return the metadata of an array as this version of Zarr would write them."""
    (written,) = array.metadata.to_buffer_dict(default_buffer_prototype()).values()
    return dict(json.loads(written.to_bytes()))


def _create_fraction(group: zarr.Group, template: Template) -> None:
    """Make the variable of shares: a block's, a hundredth of its coefficients, are one chunk."""
    chunks = tuple(
        template.shards[axis] if template.cut[axis] else template.shape[axis]
        for axis in template.windowed
    )
    group.create_array(
        FRACTION,
        shape=tuple(template.shape[axis] for axis in template.windowed),
        dtype=template.dtype,
        chunks=chunks,
        fill_value=np.nan,
        compressors=[ZstdCodec(level=LEVEL), Crc32cCodec()],
        dimension_names=tuple(template.dims[axis] for axis in template.windowed),
        attributes=dict(template.fraction or {}),
    )


def finish(group: zarr.Group, attrs: Mapping[str, Any]) -> None:
    """Consolidate the metadata and set the dataset's attributes: the template is complete.

    The ledger is left out of the consolidated metadata: its attributes change while a run lasts.
    """
    with warnings.catch_warnings():
        # Consolidated metadata are not in the Zarr v3 specification yet; xarray looks for them
        # all the same and warns where there are none.
        warnings.simplefilter("ignore", ZarrUserWarning)
        consolidated = zarr.consolidate_metadata(group.store, path=group.path)
    assert consolidated.metadata.consolidated_metadata is not None
    consolidated.metadata.consolidated_metadata.metadata.pop("ledger", None)
    consolidated.attrs.put(dict(attrs))


def extend(group: zarr.Group, template: Template, *, again: bool) -> None:
    """Bring the arrays of a dataset that has become too short to the template's shape.

    Readers of the consolidated metadata see the old shape until :func:`finish` is called.

    Parameters
    ----------
    group : zarr.Group
        The dataset, opened without consolidated metadata.
    template : Template
        Of the longer dataset; old labels are those of the dataset (see :func:`differing`).
    again : bool
        Whether an earlier attempt may have left arrays of the right shape without their values.
    """
    for coordinate in template.coordinates:
        array = _array(group, coordinate.name)
        if not same_json(array.attrs.asdict(), attrs := _stored(coordinate)[1]):
            array.attrs.put(attrs)
        old = array.shape
        if old == coordinate.shape and not again:
            continue
        array.resize(coordinate.shape)
        # Whole chunks are written, from the one on that held the last old value.
        only_first = not again and old[1:] == coordinate.shape[1:]
        begin = old[0] // array.chunks[0] * array.chunks[0] if only_first else 0
        for where, values in coordinate.pieces(begin):
            array[where if coordinate.shape else ()] = _encode(values)
    _array(group, COEFFICIENTS).resize(template.shape)
    if template.fraction is not None:
        _array(group, FRACTION).resize(tuple(template.shape[axis] for axis in template.windowed))


def differing(group: zarr.Group, template: Template) -> dict[str, str]:
    """Say which coordinates are not the template's, as far as both reach, and why.

    Parameters
    ----------
    group : zarr.Group
        The dataset, opened without consolidated metadata.
    template : Template
        What it should hold.
    """
    found = {}
    for coordinate in template.coordinates:
        try:
            why = _difference(_array(group, coordinate.name), coordinate)
        except DAMAGE as problem:
            why = f"cannot be read ({type(problem).__name__}: {problem})"
        if why is not None:
            found[coordinate.name] = why
    return found


def same_json(a: Any, b: Any) -> bool:
    """Return whether two values are stored alike: NaN as NaN, tuples as lists, NumPy's as Python's.

    Examples
    --------
    >>> same_json({"limits": (np.int64(0), float("nan"))}, {"limits": [0, float("nan")]})
    True
    """
    a, b = (json.dumps(value, sort_keys=True, default=lambda v: v.tolist()) for value in (a, b))
    return bool(a == b)


def relabelled(group: zarr.Group, template: Template) -> dict[str, str]:
    """Say which coordinates that can be read have other attributes or dimensions, and which."""
    found = {}
    for coordinate in template.coordinates:
        try:
            array = _array(group, coordinate.name)
        except DAMAGE:
            continue
        here, there = array.attrs.asdict(), _stored(coordinate)[1]
        for key in sorted(here.keys() | there.keys()):
            if not same_json(here.get(key), there.get(key)):
                found[coordinate.name] = (
                    f"the attribute {key} is {here.get(key)!r}, where {there.get(key)!r} belongs"
                )
        dims: Any = array.metadata.to_dict().get("dimension_names")
        if tuple(dims or ()) != tuple(coordinate.dims):
            found[coordinate.name] = f"has the dimensions {dims}, where {coordinate.dims} belong"
    return found


def rewrite(group: zarr.Group, template: Template, names: Collection[str]) -> None:
    """Write some coordinates of a dataset anew."""
    for coordinate in template.coordinates:
        if coordinate.name in names:
            _write_coordinate(group, coordinate, template.growing, overwrite=True)


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{name} is no array")
    return array


def _difference(array: zarr.Array[Any], coordinate: Coordinate) -> str | None:
    """Say how the stored values of a coordinate differ, as far as both reach."""
    dtype = _stored(coordinate)[0]
    kind = "T" if dtype is str else np.dtype(dtype).kind
    if array.dtype.kind != kind or array.ndim != len(coordinate.shape):
        return f"has {array.ndim} dimensions of {array.dtype}"
    reach = [min(n, m) for n, m in zip(array.shape, coordinate.shape, strict=True)]
    for where, values in coordinate.pieces():
        first = where.start if reach else 0
        common = tuple(slice(0, n - (first if k == 0 else 0)) for k, n in enumerate(reach))
        expected = _encode(values)[tuple(slice(0, max(s.stop, 0)) for s in common)]
        here = tuple(
            slice(first, first + n) if k == 0 else slice(0, n) for k, n in enumerate(expected.shape)
        )
        stored = np.asarray(array[here])
        same = (stored == expected) | ((stored != stored) & (expected != expected))  # NaN, too
        if not same.all():
            at = tuple(int(i) for i in np.unravel_index(int(np.argmin(same)), same.shape))
            index = [i + (first if k == 0 else 0) for k, i in enumerate(at)]
            return f"holds {stored[at]} at {index}, where {expected[at]} belongs"
    return None


def _write_coordinate(
    group: zarr.Group, coordinate: Coordinate, growing: set[str], overwrite: bool = False
) -> None:
    """Write a coordinate; chunks along axes that may grow do not depend on their length."""
    dtype, attrs = _stored(coordinate)
    side = 2 ** (GROWING_BITS // max(len(growing.intersection(coordinate.dims)), 1))
    chunks = tuple(
        side if dim in growing else max(min(n, PIECE), 1)
        for dim, n in zip(coordinate.dims, coordinate.shape, strict=True)
    )
    array = group.create_array(
        coordinate.name,
        overwrite=overwrite,
        shape=coordinate.shape,
        dtype=dtype,
        chunks=chunks,
        fill_value=_unused(dtype),
        # Numbers that rise evenly compress well after a shuffle, strings as they are.
        compressors=[ZstdCodec(level=LEVEL), Crc32cCodec()],
        dimension_names=coordinate.dims,
        attributes=attrs,
    )
    for where, values in coordinate.pieces():
        array[where if coordinate.shape else ()] = _encode(values)


def _stored(coordinate: Coordinate) -> tuple[Any, dict[str, Any]]:
    """Return the type and attributes in which a coordinate is stored, after CF."""
    kind, attrs = coordinate.dtype.kind, dict(coordinate.attrs)
    if kind == "M":
        # Integers since the epoch are exact for centuries, where floating point drifts.
        attrs |= {"units": "nanoseconds since 1970-01-01", "calendar": "proleptic_gregorian"}
        return np.int64, attrs
    if kind == "m":
        return np.int64, attrs | {"units": "nanoseconds"}
    # Text of fixed length has no specification in Zarr v3: every open would warn.
    return (str if kind in "UOST" else coordinate.dtype), attrs


def _unused(dtype: Any) -> Any:
    """Return a fill value; for floats NaN, so that a chunk of zeros is stored and checksummed."""
    if dtype is str:
        return ""
    return np.nan if np.dtype(dtype).kind == "f" else 0


def _encode(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind in "Mm":
        unit = "datetime64[ns]" if values.dtype.kind == "M" else "timedelta64[ns]"
        return values.astype(unit).astype(np.int64)
    if values.dtype.kind in "UOST":
        # numpy's variable-length strings; asking str() of each admits bytes and numbers too.
        texts = [v.decode() if isinstance(v, bytes) else str(v) for v in values.reshape(-1)]
        return np.array(texts, dtype=np.dtypes.StringDType()).reshape(values.shape)
    return values
