"""Open arrays of Zarr stores as lazy labelled sources."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
import zarr
from numpy.typing import DTypeLike, NDArray

from scatflow.archive.absent import absent as absent_boxes
from scatflow.archive.absent import blank, fill_value
from scatflow.archive.axis import Axis
from scatflow.archive.coordinates import (
    Coord,
    Coordinates,
    describing,
    read_coordinates,
    stored_dims,
)
from scatflow.archive.damage import damaged
from scatflow.archive.decoding import KEYS, Decoding, decoding, read_dtype
from scatflow.archive.selection import Picked, by_label, by_number, check_dims, plain
from scatflow.archive.stores import Address, absolute, arrays_in, listed, unsafe_codec
from scatflow.errors import SourceError, SourceNotFoundError

UNREADABLE = {
    "c": "complex numbers",
    "O": "Python objects",
    "U": "text",
    "S": "bytes",
    "T": "text",
    "M": "times",
    "m": "durations",
    "V": "structures or raw bytes",
}
"""Kinds of data that are no real numbers."""


def open_source(
    store: str,
    variable: str | None = None,
    *,
    group: str | None = None,
    dims: Sequence[str] | None = None,
    sel: Mapping[str, Any] | None = None,
    isel: Mapping[str, Any] | None = None,
    mask: str | None = None,
    absent: Literal["gap", "fill"] | None = None,
) -> Source:
    """Open an array of a Zarr store (v2 or v3) as a source; nothing is read but metadata.

    Parameters
    ----------
    store : str
        Path or fsspec URL of a Zarr group or of a single array.
    variable : str, optional
        The array of the group; it may be left out where all others are coordinates.
    group : str, optional
        Path of the group inside the store.
    dims : sequence of str, optional
        Names of the dimensions, needed only where the store does not name them.
    sel : mapping, optional
        Labels by dimension. For times and numbers ``[start, stop]``, where `start` is included
        and `stop` is left out (None: open end), or a single value; for names one name or a list
        of them. Times are ISO 8601 strings in UTC or datetimes; a partial time means its
        beginning, so that "2010-09-01" is midnight and ``["2010-09-01", "2010-09-02"]`` one day.
    isel : mapping, optional
        Sample numbers by dimension: one, or ``[start, stop]`` with `stop` left out. Negative
        ones count from the end. A dimension of which one sample is selected stays, with length 1.
    mask : str, optional
        An array beside the variable, along some or all of its dimensions: samples are missing
        where it is true (or not zero). Chunks of it that were never written are its fill value.
    absent : {"gap", "fill"}, optional
        What chunks stand for that are not in the store: missing samples (as by default), or the
        fill value of the array.

    Raises
    ------
    SourceNotFoundError
        If the store, the group or the variable does not exist.
    SourceError
        If the data are no real numbers, dimensions have no names, or a selection does not fit.

    Examples
    --------
    >>> import zarr
    >>> x = zarr.create_array("memory://doc/x.zarr", shape=(2, 100), dtype="i2",
    ...                       dimension_names=("station", "time"))
    >>> src = open_source("memory://doc/x.zarr", isel={"station": 1, "time": [10, 50]})
    >>> src
    <Source 'x' (station: 1, time: 40) int16 of 'memory://doc/x.zarr'>
    >>> src.read((slice(0, 1), slice(0, 20))).shape
    (1, 20)
    """
    spec = {
        "store": str(store),
        "variable": variable,
        "group": group,
        "dims": None if dims is None else list(dims),
        "sel": dict(sel or {}),
        "isel": dict(isel or {}),
        "mask": mask,
        "absent": absent,
    }
    source = Source(spec)
    source.open()
    return source


class Loaded(NamedTuple):
    """A slab as it was read."""

    values: NDArray[Any]
    """NaN where samples are missing."""
    absent: int
    """Samples that are missing because their chunk is not in the store."""


@dataclass(frozen=True, eq=False)
class _Mask:
    """An array that says where samples are missing."""

    array: zarr.Array[Any]
    axes: tuple[int, ...]
    """Of the variable, along which it lies."""

    def read(self, parts: Sequence[slice | list[int]]) -> NDArray[np.bool_]:
        """Return where samples are missing, with as many axes as the variable has."""
        missing = np.asarray(_selected(self.array, [parts[axis] for axis in self.axes])) != 0
        order = np.argsort(self.axes)
        others = tuple(axis for axis in range(len(parts)) if axis not in self.axes)
        return np.expand_dims(missing.transpose(order), others)


@dataclass(frozen=True, eq=False)
class _Opened:
    """A store's array and what its metadata say: one per process, shared by its threads."""

    array: zarr.Array[Any]
    name: str
    dims: tuple[str, ...]
    attrs: dict[str, Any]
    decoding: Decoding
    notes: list[str]
    siblings: Callable[[], Coordinates]
    mask: _Mask | None = None


@dataclass(frozen=True)
class _Around:
    """The arrays of a group, which of them only describe others, and what cannot be opened."""

    arrays: dict[str, zarr.Array[Any]]
    labels: set[str]
    notes: list[str]


class Source:
    """An array of a store, or a part of it, with labels; made by :func:`open_source`.

    It pickles as its specification, and opens the store again when it is first used in another
    process. Reading is safe from many threads.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._spec = dict(spec)
        self._lock = threading.RLock()
        self._opened: _Opened | None = None
        self._whole: Coordinates | None = None
        self._picked: tuple[Picked, ...] | None = None

    def __reduce__(self) -> tuple[type[Source], tuple[dict[str, Any]]]:
        spec = self._spec if self._picked is None else self.to_spec()
        return Source, ({**spec, "store": self.store, "address": self._address.store},)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{d}: {n}" for d, n in zip(self.dims, self.shape, strict=True))
        return f"<Source {self.variable!r} ({sizes}) {self.dtype} of {self.store!r}>"

    @property
    def _address(self) -> Address:
        # The absolute address travels along, as other processes may run in other folders.
        store = self._spec.get("address") or absolute(self._spec["store"])
        return Address(store, (self._spec["group"] or "").strip("/"))

    # --- opening -----------------------------------------------------------------------------

    def open(self) -> None:
        """Open the store and resolve the selection, unless this process has done so before.

        Raises
        ------
        SourceError
            As :func:`open_source` says.
        """
        with self._lock:
            if self._picked is None:
                opened = self._open()
                self._picked = self._select(opened)

    def _open(self) -> _Opened:
        if self._opened is None:
            self._opened = _open(
                self._address, self._spec["variable"], self._spec["dims"], self._spec["mask"]
            )
        return self._opened

    def _coordinates(self) -> Coordinates:
        """Return the coordinates of the whole record, read once."""
        with self._lock:
            if self._whole is None:
                self._whole = self._open().siblings()
            return self._whole

    def _select(self, opened: _Opened) -> tuple[Picked, ...]:
        sel, isel = self._spec["sel"], self._spec["isel"]
        check_dims("sel", sel, opened.dims)
        check_dims("isel", isel, opened.dims)
        for dim in sel:
            if dim in isel:
                raise SourceError(f"{dim!r} is selected twice, by sel and by isel: keep one.")
        picked = []
        for dim, n in zip(opened.dims, opened.array.shape, strict=True):
            if n == 0:
                raise SourceError(f"{opened.name!r} is empty: {dim!r} has no samples.")
            if dim in isel:
                picked.append(by_number(dim, isel[dim], n))
            elif dim in sel:
                whole = self._coordinates()
                coord = whole.others.get(dim)
                values = coord.values if coord is not None and coord.dims == (dim,) else None
                picked.append(by_label(dim, sel[dim], n, whole.axes.get(dim), values))
            else:
                picked.append(Picked(0, n))
        return tuple(picked)

    @property
    def _state(self) -> tuple[_Opened, tuple[Picked, ...]]:
        if self._picked is None:
            self.open()
        assert self._opened is not None
        assert self._picked is not None
        return self._opened, self._picked

    # --- what it is --------------------------------------------------------------------------

    @property
    def store(self) -> str:
        """The store as it was asked for: a path or a URL."""
        return str(self._spec["store"])

    @property
    def variable(self) -> str:
        """Name of the array; of a store that is a single array, the store's own name."""
        return self._state[0].name

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the dimensions."""
        return self._state[0].dims

    @property
    def shape(self) -> tuple[int, ...]:
        """Samples selected along each dimension."""
        return tuple(len(picked) for picked in self._state[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers as stored, in native byte order; floating where they are scaled."""
        opened = self._state[0]
        if opened.decoding.scaled:
            return self.read_dtype
        return opened.array.dtype.newbyteorder("=")

    @property
    def read_dtype(self) -> np.dtype[Any]:
        """Type that :meth:`read` gives by default.

        float32 for float16, float32, bool and integers up to 16 bits; float64 for wider ones.
        """
        return read_dtype(self._state[0].array.dtype)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of the chunks in which the array is stored."""
        return tuple(int(c) for c in self._state[0].array.chunks)

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the variable, but for those that were used up by decoding."""
        return dict(self._state[0].attrs)

    @property
    def axes(self) -> dict[str, Axis]:
        """Regular coordinates by dimension; a dimension without one is missing."""
        opened, picked = self._state
        whole = self._coordinates().axes
        return {
            dim: whole[dim].selected(part.start)
            for dim, part in zip(opened.dims, picked, strict=True)
            if dim in whole and part.listed is None
        }

    @property
    def coords(self) -> dict[str, Coord]:
        """All other coordinates, for the samples that are selected."""
        opened, picked = self._state
        parts = dict(zip(opened.dims, picked, strict=True))
        found = {}
        for name, coord in self._coordinates().others.items():
            values = coord.values
            for i, dim in enumerate(coord.dims):
                part = parts[dim].part(0, len(parts[dim]))
                values = values[(slice(None),) * i + (part,)]
            found[name] = Coord(coord.dims, values, coord.attrs)
        return found

    @property
    def notes(self) -> list[str]:
        """What a user should know: coordinates that were left out, and why."""
        return [*self._state[0].notes, *self._coordinates().notes]

    # --- reading -----------------------------------------------------------------------------

    def read(self, slices: Sequence[slice], dtype: DTypeLike | None = None) -> NDArray[Any]:
        """Read a slab, straight from the store.

        Missing values become NaN, scale and offset are applied.

        Parameters
        ----------
        slices : sequence of slice
            One for each dimension, with step 1, counted in samples of the selection.
        dtype : float32 or float64, optional
            Type of the result; :attr:`read_dtype` by default.

        Returns
        -------
        array of `dtype`, C-contiguous

        Raises
        ------
        ValueError
            If the slices do not fit, or a chunk of the store is damaged.
        """
        return self.load(slices, dtype).values

    def load(self, slices: Sequence[slice], dtype: DTypeLike | None = None) -> Loaded:
        """Read a slab as :meth:`read` does, and tell how much of it lies in absent chunks."""
        opened, picked = self._state
        kind = self.read_dtype if dtype is None else np.dtype(dtype)
        if kind not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise SourceError(f"Samples are read as float32 or float64, not as {kind}.")
        parts = [
            picked[i].part(start, stop) for i, (start, stop) in enumerate(self._bounds(slices))
        ]
        ordered = _ordered(parts)
        stored = np.asarray(_selected(opened.array, ordered))
        boxes = absent_boxes(opened.array, ordered, stored) if self._asks_for_chunks else []
        values = opened.decoding(stored, kind)
        n_absent = blank(values, boxes)
        if opened.mask is not None:
            np.copyto(values, np.nan, where=opened.mask.read(ordered))
        for i, (part, sorted_part) in enumerate(zip(parts, ordered, strict=True)):
            if isinstance(part, list) and isinstance(sorted_part, list) and part != sorted_part:
                values = np.take(values, np.searchsorted(sorted_part, part), axis=i)
        return Loaded(np.ascontiguousarray(values), n_absent)

    def damaged(self, slices: Sequence[slice]) -> str | None:
        """Name an object of the store that keeps a slab from being read, and what is wrong with it.

        None if none is found among the first ones that the slab lies in.
        """
        opened, picked = self._state
        bounds = enumerate(self._bounds(slices))
        parts = _ordered([picked[i].part(start, stop) for i, (start, stop) in bounds])
        found = damaged(opened.array, parts)
        if found is None and opened.mask is not None:
            return damaged(opened.mask.array, [parts[axis] for axis in opened.mask.axes])
        return found

    @property
    def _asks_for_chunks(self) -> bool:
        """Whether chunks that are not in the store would be read as numbers."""
        if self._spec["absent"] == "fill":
            return False
        opened = self._state[0]
        fill = np.full(1, fill_value(opened.array), opened.array.dtype)
        return not np.isnan(opened.decoding(fill, np.dtype(np.float64))[0])

    @property
    def may_have_gaps(self) -> bool:
        """Whether the store has a way to say that samples are missing, or was said to.

        Integers without a value that is declared as missing have none but absent chunks.
        """
        opened = self._state[0]
        declared = opened.decoding.missing or opened.mask or self._spec["absent"] == "gap"
        return bool(declared) or opened.array.dtype.kind == "f"

    @property
    def mask(self) -> zarr.Array[Any] | None:
        """The array that says where samples are missing, if one was named."""
        found = self._state[0].mask
        return None if found is None else found.array

    def _bounds(self, slices: Sequence[slice]) -> list[tuple[int, int]]:
        if len(slices) != len(self.shape):
            raise SourceError(
                f"{len(slices)} slices were given for the {len(self.shape)} dimensions "
                f"({', '.join(self.dims)})."
            )
        bounds = []
        for part, n in zip(slices, self.shape, strict=True):
            start, stop, step = part.indices(n)
            if step != 1:
                raise SourceError(f"Slabs are read without gaps: {part} has step {step}.")
            bounds.append((start, max(start, stop)))
        return bounds

    # --- provenance --------------------------------------------------------------------------

    def to_spec(self) -> dict[str, Any]:
        """Return arguments of :func:`open_source` that open the same source in any process.

        The store's address is absolute, and ranges are sample numbers: labels need not be looked
        up again, and samples that are appended meanwhile do not change the source. JSON keeps it.
        """
        opened, picked = self._state
        isel = {
            dim: [part.start, part.stop]
            for dim, part in zip(opened.dims, picked, strict=True)
            if part.listed is None
        }
        return {
            "store": self._address.store,
            "variable": self._spec["variable"],
            "group": self._spec["group"],
            "dims": self._spec["dims"],
            "sel": {d: plain(label) for d, label in self._spec["sel"].items() if d not in isel},
            "isel": isel,
            "mask": self._spec["mask"],
            "absent": self._spec["absent"],
        }

    def fingerprint(self) -> dict[str, Any]:
        """Return what identifies the samples and their labels, JSON-able.

        Chunks, codecs and the version of the format are not part of it.
        """
        opened, picked = self._state
        return {
            "store": self.store,
            "group": self._spec["group"],
            "variable": opened.name,
            "dtype": str(opened.array.dtype.newbyteorder("=")),
            "dims": list(opened.dims),
            "shape": list(self.shape),
            "selection": {
                dim: part.to_json() for dim, part in zip(opened.dims, picked, strict=True)
            },
            "axes": {dim: axis.to_dict() for dim, axis in self.axes.items()},
            "missing": [float(v) for v in opened.decoding.missing],
            "scale": [opened.decoding.scale, opened.decoding.offset],
            "mask": self._spec["mask"],
            "absent": self._spec["absent"],
        }


def _ordered(parts: Sequence[slice | list[int]]) -> list[slice | list[int]]:
    """Return parts of axes as Zarr wants them: lists sorted and unique, to read each chunk once."""
    return [p if isinstance(p, slice) else sorted(set(p)) for p in parts]


def _selected(array: zarr.Array[Any], parts: Sequence[slice | list[int]]) -> Any:
    """Read parts of an array along each axis."""
    if all(isinstance(part, slice) for part in parts):
        return array[tuple(p for p in parts if isinstance(p, slice))]
    lists: Any = tuple(parts)
    return array.get_orthogonal_selection(lists)


def _open(
    address: Address, variable: str | None, dims: Sequence[str] | None, mask: str | None
) -> _Opened:
    node = address.open()
    if isinstance(node, zarr.Array):
        if mask is not None:
            raise SourceNotFoundError(
                f"{address} is a single array, so there is no mask {mask!r} beside it: open the "
                "group above it."
            )
        if variable is not None:
            raise SourceNotFoundError(
                f"{address} is a single array, so there is no variable {variable!r} in it: leave "
                "the variable out, or open the group above it."
            )
        name = PurePosixPath(str(address)).name.removesuffix(".zarr") or "array"
        return _described(address, name, node, dims, lambda: _Around({}, set(), []))

    def around() -> _Around:
        arrays, notes = arrays_in(address, node)
        return _Around(arrays, describing(arrays, node.attrs), notes)

    name = variable if variable is not None else _only(address, around(), mask)
    try:
        array = (address / name).open()
    except SourceNotFoundError as error:
        raise SourceNotFoundError(
            f"There is no variable {name!r} in {address}, which holds {listed(around().arrays)}."
        ) from error
    if not isinstance(array, zarr.Array):
        raise SourceError(f"{name!r} in {address} is a group. Name it as group, not as variable.")
    opened = _described(address / name, name, array, dims, around, mask)
    return opened if mask is None else replace(opened, mask=_mask(address, mask, opened))


def _mask(address: Address, name: str, opened: _Opened) -> _Mask:
    """Open the array that says where samples of a variable are missing."""
    what = f"[source] mask = {name!r}: {address / name}"
    if name == opened.name:
        raise SourceError(f"{what} is the variable itself. Name an array of true and false.")
    try:
        array = (address / name).open()
    except SourceNotFoundError as error:
        raise SourceNotFoundError(
            f"{what} is not there. Name an array beside {opened.name!r}."
        ) from error
    if not isinstance(array, zarr.Array):
        raise SourceError(f"{what} is a group. Name an array of true and false.")
    if array.dtype.kind not in "biuf" or unsafe_codec(array) is not None:
        raise SourceError(f"{what} holds {array.dtype}. Name an array of true and false.")
    sizes = dict(zip(opened.dims, opened.array.shape, strict=True))
    dims = stored_dims(array) or (opened.dims if array.ndim == len(sizes) else ())
    found = dict(zip(dims, array.shape, strict=False))
    if not dims or any(sizes.get(dim) != n for dim, n in found.items()):
        raise SourceError(
            f"{what} has the dimensions {found or array.shape}, and {opened.name!r} has {sizes}: a "
            "mask lies along some or all of them, and is as long."
        )
    return _Mask(array, tuple(opened.dims.index(dim) for dim in dims))


def _only(address: Address, around: _Around, mask: str | None) -> str:
    """Return the one variable of a group."""
    names = sorted(set(around.arrays) - around.labels - {mask})
    if len(names) == 1:
        return names[0]
    if not names:
        raise SourceNotFoundError(
            f"There is no variable in {address}, which holds {listed(around.arrays)}: name its "
            "group."
        )
    raise SourceError(f"{address} holds {listed(names)}: say which one by variable.")


def _described(
    address: Address,
    name: str,
    array: zarr.Array[Any],
    dims: Sequence[str] | None,
    around: Callable[[], _Around],
    mask: str | None = None,
) -> _Opened:
    """Check that an array can be a source, and say how it is decoded."""
    codec = unsafe_codec(array)
    if codec is not None:
        raise SourceError(
            f"{address} is stored with the codec {codec!r}, which could run any code when read; "
            "nothing was read. Store plain numbers."
        )
    kind = array.dtype.kind
    if kind not in "biuf" or array.dtype.itemsize > 8:
        what = UNREADABLE.get(kind, "numbers")
        raise SourceError(
            f"{address} holds {what} ({array.dtype}), and only real numbers of up to 64 bits can "
            "be transformed. Choose another variable, or store real numbers."
        )
    if max(array.shape, default=0) > MOST_SAMPLES:
        raise SourceError(
            f"{address} says that its shape is {array.shape}, more than there can be of anything: "
            "its metadata are damaged. Restore them."
        )
    names = _names(address, array, dims)
    raw = array.attrs.asdict()
    metadata = array.metadata
    rule, notes = decoding(raw, array.dtype, metadata.zarr_format, array.fill_value)
    used = {*KEYS, "_ARRAY_DIMENSIONS", "axes", "coordinates"}
    attrs = {key: value for key, value in raw.items() if key not in used}
    declared = raw.get("axes", {})
    if not isinstance(declared, Mapping):
        declared = {}  # Some other program's attribute of that name.

    def coordinates() -> Coordinates:
        group = around()
        found = read_coordinates(
            names, array.shape, declared, group.arrays, group.labels - {name, mask}
        )
        found.notes.extend(group.notes)
        return found

    return _Opened(array, name, names, attrs, rule, notes, coordinates)


def _names(address: Address, array: zarr.Array[Any], dims: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the dimensions, from the store or as they were given."""
    if array.ndim == 0:
        raise SourceError(f"{address} is a single number: it has no dimensions.")
    stored = stored_dims(array)
    _check_plain(address, stored or ())
    if dims is None:
        if stored is None:
            raise SourceError(
                f"{address} has {array.ndim} dimensions of shape {array.shape} and does not name "
                f"them. Name them, in this order, with dims = [...]."
            )
        return stored
    given = tuple(str(dim) for dim in dims)
    _check_plain("dims", given)
    if len(given) != array.ndim or len(set(given)) != len(given):
        raise SourceError(
            f"dims = {list(given)} names {len(given)} dimensions, but {address} has {array.ndim}, "
            f"of shape {array.shape}: give one name for each."
        )
    if stored is not None and stored != given:
        raise SourceError(
            f"dims = {list(given)}, but {address} names its dimensions {list(stored)}: leave dims "
            "out, or give these names."
        )
    return given


MOST_SAMPLES = 2**56
"""Of one dimension: two million years at a kilohertz, and far from where integers end."""

LONGEST_NAME = 200
"""Characters of a dimension's name: it becomes a file's name in the output."""


def _check_plain(where: Address | str, names: Sequence[str]) -> None:
    """Refuse names of dimensions that would lead out of a group, or that no file can have."""
    for name in names:
        plain = name.isprintable() and name.strip() and not name.startswith((".", "__"))
        if not plain or "/" in name or "\\" in name or len(name.encode()) > LONGEST_NAME:
            raise SourceError(
                f"{where} names a dimension {name[:60]!r}, which cannot be the name of an array "
                "in an output: it is empty, long, begins with a dot or '__', or holds a slash or "
                "characters that are not printed. Rename it in the store."
            )
