"""Open a result store and tell its dimensions apart, without loading it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scatflow.errors import SourceError, SourceNotFoundError

if TYPE_CHECKING:
    import xarray as xr

Array: TypeAlias = NDArray[Any]

PIECE_BYTES = 16 * 2**20  # What one read may hold; the largest temporary arrays are a few times it.
NANOSECONDS = {
    "ns": 1,
    "nanoseconds": 1,
    "us": 10**3,
    "microseconds": 10**3,
    "ms": 10**6,
    "milliseconds": 10**6,
    "s": 10**9,
    "seconds": 10**9,
    "minutes": 60 * 10**9,
    "hours": 3600 * 10**9,
    "days": 86400 * 10**9,
}


@dataclass(frozen=True)
class Grid:
    """Where the coefficients lie along one transformed dimension.

    Attributes
    ----------
    dim : str
        The dimension's name, before it was cut.
    positions : Array
        Centre of every kept window, (frames * kept,): datetime64[ns] or float64.
    keep : slice
        Windows of one frame that are used: all of them, or the middle ones where frames overlap.
    units : str
        ``"UTC"`` for datetimes, else what the coordinate says; empty for plain sample numbers.
    """

    dim: str
    positions: Array
    keep: slice
    units: str

    @property
    def is_time(self) -> bool:
        """Whether positions are moments rather than numbers."""
        return self.positions.dtype.kind == "M"

    @cached_property
    def step(self) -> float:
        """Usual distance between windows: seconds for datetimes, else the coordinate's units."""
        if self.positions.size < 2:
            return 0.0
        gaps = np.diff(self.positions)
        if self.is_time:
            gaps = gaps / np.timedelta64(1, "s")
        return float(abs(np.median(gaps)))

    def numbers(self) -> Array:
        """Positions as matplotlib wants them: days for datetimes, else the numbers themselves."""
        if not self.is_time:
            return self.positions
        since = self.positions - np.datetime64(0, "ns")  # matplotlib's epoch is 1970, too.
        return np.asarray(since / np.timedelta64(1, "D"), dtype=float)


@dataclass(frozen=True, eq=False)
class Results:
    """A result store, opened but not loaded.

    Attributes
    ----------
    store : str
        Where it lies.
    data : xarray.DataArray
        The variable ``scattering``.
    ndim : int
        How many dimensions were transformed: 1, 2 or 3.
    record_dims, frame_dims, tail_dims : tuple of str
        Dimensions before ``path`` that were not touched, those that count frames, and those after.
    spec : mapping
        The engine's parameters; empty where the store does not tell.
    notes : tuple of str
        What a reader of the picture must know, such as blocks that are not computed.
    row_dim : str, optional
        The dimension of rows of log-frequency between ``path`` and the tail, if there is one.
    """

    store: str
    data: xr.DataArray
    ndim: int
    record_dims: tuple[str, ...]
    frame_dims: tuple[str, ...]
    tail_dims: tuple[str, ...]
    spec: Mapping[str, Any]
    notes: tuple[str, ...]
    row_dim: str | None = None

    def column(self, name: str) -> Array:
        """Read one label of the paths, NaN for each path where the store does not have it."""
        if name in self.data.coords:
            return np.asarray(self.data.coords[name].values)
        return np.full(self.data.sizes["path"], np.nan)

    def paths_of_order(self, order: int) -> Array:
        """Indices of the paths of one order, in their sequence in the store."""
        return np.flatnonzero(self.column("order") == order)

    def frequency_units(self) -> str:
        """Units of the centre frequencies, as the store states them."""
        if "xi1" not in self.data.coords:
            return "cycles/sample"
        return str(self.data.coords["xi1"].attrs.get("units", "cycles/sample"))

    def records(self) -> Iterator[tuple[str, dict[str, int]]]:
        """Name every record (an element of the untouched dimensions) and say where it lies."""
        sizes = [range(self.data.sizes[dim]) for dim in self.record_dims]
        for indices in product(*sizes):
            where = dict(zip(self.record_dims, indices, strict=True))
            yield ", ".join(self._element(dim, i) for dim, i in where.items()), where

    def n_records(self) -> int:
        """How many records the store holds."""
        return int(np.prod([self.data.sizes[dim] for dim in self.record_dims], dtype=np.int64))

    def _element(self, dim: str, index: int) -> str:
        if dim not in self.data.coords:
            return f"{dim} {index}"
        value = self.data.coords[dim].values[index]
        return str(value) if isinstance(value, str) else f"{dim} {value}"

    def frame_dim(self, dim: str) -> str | None:
        """Name the dimension that counts the frames of a transformed dimension, if it was cut."""
        if f"frame_{dim}" in self.frame_dims:
            return f"frame_{dim}"
        if "frame" in self.frame_dims:
            cut = (
                self.data.coords["frame"].attrs.get("dim") if "frame" in self.data.coords else None
            )
            return "frame" if dim == (cut or self.tail_dims[0]) else None
        return None

    def read(self, where: Mapping[str, int | slice], order: Sequence[str] = ()) -> Array:
        """Load one region as floating point, in the order of the store's dimensions or another."""
        region = self.data.isel(dict(where))
        values = np.asarray(region.values)
        if order:  # Only now: a lazy transposition would be read point by point.
            values = values.transpose([region.dims.index(dim) for dim in order])
        return values if values.dtype.kind == "f" else values.astype(np.float64)

    def grid(self, dim: str) -> Grid:
        """Work out where the windows along one of the tail dimensions are centred."""
        offsets, units = self.coordinate(dim)
        frame = self.frame_dim(dim)
        if frame is None:
            return Grid(dim, offsets, slice(0, offsets.size), units)
        starts, frame_units = self.coordinate(frame)
        if starts.dtype.kind == "M":
            scale = NANOSECONDS.get(units or "s", 10**9)
            offsets = np.round(offsets * scale).astype("timedelta64[ns]")
        keep = _middle(starts, offsets)
        positions = (starts[:, None] + offsets[None, keep]).ravel()
        return Grid(dim, positions, keep, frame_units or units)

    def coordinate(self, dim: str) -> tuple[Array, str]:
        """Read the coordinate of a dimension (datetime64[ns] or float64) and its units."""
        if dim not in self.data.coords:
            return np.arange(self.data.sizes[dim], dtype=np.float64), ""
        values = np.asarray(self.data.coords[dim].values)
        if values.dtype.kind == "M":
            return values.astype("datetime64[ns]"), "UTC"
        if values.dtype.kind not in "iuf":
            return np.arange(values.size, dtype=np.float64), ""
        units = str(self.data.coords[dim].attrs.get("units", ""))
        if units in ("ns", "nanoseconds"):  # How a duration is stored; nobody reads it so.
            return values * 1e-9, "s"
        return values.astype(np.float64), units


def _middle(starts: Array, offsets: Array) -> slice:
    """Choose the windows in the middle of a frame, as many as cover one hop without overlap."""
    if starts.size < 2 or offsets.size < 2:
        return slice(0, offsets.size)
    hop = abs(starts[1] - starts[0])
    count = round(float(hop / abs(offsets[1] - offsets[0])))
    if not 0 < count < offsets.size:
        return slice(0, offsets.size)
    first = (offsets.size - count) // 2
    return slice(first, first + count)


def open_results(store: str) -> Results:
    """Open a result store lazily and tell its dimensions apart.

    Parameters
    ----------
    store : str
        Path or URL.

    Raises
    ------
    SourceNotFoundError
        There is no Zarr group at `store`.
    SourceError
        It is not a result of scatflow.
    """
    import xarray as xr

    try:
        dataset = xr.open_zarr(
            store,
            chunks=None,
            consolidated=False,
            create_default_indexes=False,
            decode_timedelta=False,
        )
    except FileNotFoundError as problem:
        raise SourceNotFoundError(
            f"There is no Zarr group at {store}, so there is nothing to show. "
            "Give the store that a job's [output] names, after `scatflow run`."
        ) from problem
    except (KeyError, ValueError) as problem:  # Zarr, but nothing that xarray could label.
        raise SourceError(
            f"{store} is not a result of scatflow: its arrays do not name their dimensions. "
            "Give the store that a job's [output] names, not its source."
        ) from problem
    found = ", ".join(map(str, dataset.data_vars)) or "none"
    if "scattering" not in dataset.data_vars or "order" not in dataset.coords:
        raise SourceError(
            f"{store} is not a result of scatflow: it has no variable `scattering` with the "
            f"coordinate `order` (variables found: {found}). Give the store that a job's "
            "[output] names, not its source."
        )
    return _tell_apart(store, dataset)


def _tell_apart(store: str, dataset: xr.Dataset) -> Results:
    data = dataset["scattering"]
    dims = tuple(map(str, data.dims))
    if "path" not in dims:
        raise SourceError(
            f"`scattering` in {store} has the dimensions {dims} and no `path` among them, so its "
            "coefficients cannot be told apart. Write it again with `scatflow run`."
        )
    spec = _spec(dataset.attrs.get("scatflow_spec") or data.attrs.get("scatflow_spec"))
    before, tail = dims[: dims.index("path")], dims[dims.index("path") + 1 :]
    kind = str(spec.get("kind", ""))
    row_dim = tail[0] if kind == "timefrequency" and len(tail) == 2 else None
    if kind == "timefrequency":
        ndim, tail = 1, tail[-1:]
    elif kind.endswith(("1d", "2d", "3d")):
        ndim = int(kind[-2])
    elif {"power", "point"} & set(tail):
        ndim = 3
    else:
        ndim = len(tail)
    if not 1 <= ndim <= 3 or 0 in data.shape:
        raise SourceError(
            f"`scattering` in {store} has the shape {dict(data.sizes)}: neither signals, images "
            "nor volumes of at least one coefficient, so there is nothing to draw."
        )
    frames = tuple(dim for dim in before if dim == "frame" or dim.startswith("frame_"))
    return Results(
        store=store,
        data=data,
        ndim=ndim,
        record_dims=tuple(dim for dim in before if dim not in frames),
        frame_dims=frames,
        tail_dims=tail,
        spec=spec,
        notes=_unfinished(store),
        row_dim=row_dim,
    )


def _spec(text: object) -> dict[str, Any]:
    """Read the engine's parameters; a store by another hand may have none."""
    if not isinstance(text, str):
        return {}
    loaded = json.loads(text)
    return loaded if isinstance(loaded, dict) else {}


def _unfinished(store: str) -> tuple[str, ...]:
    """Ask the ledger inside the store how much of the run is done."""
    from scatflow.dataset import counts_in

    counts = counts_in(store)
    if counts is None or counts["missing"] + counts["failed"] == 0:
        return ()
    return (
        f"unfinished: {counts['missing']} of {sum(counts.values())} blocks are not computed and "
        f"{counts['failed']} failed; they are drawn grey. "
        "The same `scatflow run` computes the rest.",
    )
