"""Coefficients as rows of features: opened, cut along their chunks, read a block at a time."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from dask.array.core import normalize_chunks
from numpy.typing import NDArray

from scatflow.dataset import COEFFICIENTS, FRACTION, counts_in
from scatflow.errors import ParameterError, SourceError, SourceNotFoundError

Result = str | os.PathLike[str] | xr.Dataset
"""A result store, a job file, or coefficients that are open."""

PATH = "path"


def open_result(result: Result) -> xr.Dataset:
    """Open coefficients lazily: those of a result store, or those that a job would compute.

    Parameters
    ----------
    result : path, URL or Dataset
        A store that ``scatflow run`` or ``to_zarr`` has written; a job file (``.toml``), whose
        blocks are computed when they are read, by the process that reads them; or a dataset,
        which is returned as it is.

    Returns
    -------
    xarray.Dataset
        Backed by Dask, without indexes, so that no coordinate is read here. The methods of
        ``.scat`` choose and change what is learned from.

    Warns
    -----
    UserWarning
        The store holds blocks that have failed or were not computed.

    Raises
    ------
    SourceNotFoundError
        There is nothing.
    SourceError
        It holds no coefficients.
    """
    dataset: xr.Dataset
    if isinstance(result, xr.Dataset):
        dataset = result
    elif not isinstance(result, str | os.PathLike):
        raise ParameterError(
            f"A result is a store, a job file or an xarray.Dataset, not a {type(result).__name__}. "
            "Of a labelled array, take scatflow.scatter(array, engine)."
        )
    elif not _is_store(result):
        from scatflow.labelled.job import open_job

        dataset = open_job(Path(result))
    else:
        dataset = _open_store(os.fspath(result))
    values = dataset.get(COEFFICIENTS)
    if values is None or PATH not in values.dims:
        raise SourceError(
            f"There are no scattering coefficients to learn from (variables: "
            f"{sorted(map(str, dataset.data_vars))}). Give the store that a job's [output] names, "
            "or what scatflow.scatter returns."
        )
    floor = values.attrs.get("floor")
    if isinstance(floor, str) and values.chunks is not None:
        raise ParameterError(
            f"The floor of the logarithm is {floor}: each batch would read the whole archive to "
            "find it. State one: .scat.log(floor=1e-6)."
        )
    return dataset


def _is_store(result: Result) -> bool:
    """Tell whether something is the address of a store, not of a job file."""
    return isinstance(result, str | os.PathLike) and Path(result).suffix != ".toml"


def _everywhere(result: Result) -> Result:
    """Return a result such that it means the same in processes at work in another folder."""
    if not isinstance(result, str | os.PathLike):
        return result  # a dataset, or nothing that can be learned from, which is told elsewhere
    if "://" in os.fspath(result) or "::" in os.fspath(result):
        return result
    return os.path.abspath(result)


def _open_store(store: str) -> xr.Dataset:
    """Open a store in its own chunks."""
    try:
        dataset: xr.Dataset = xr.open_zarr(
            store,
            chunks={},
            consolidated=False,
            create_default_indexes=False,
            decode_timedelta=False,
        )
    except FileNotFoundError as problem:
        raise SourceNotFoundError(
            f"There is no Zarr group at {store}, so there is nothing to learn from. Give the "
            "store that a job's [output] names, after `scatflow run`, or the job file itself."
        ) from problem
    counts = counts_in(store) or {}
    lacking = [f"{counts[what]} {what}" for what in ("missing", "failed") if counts.get(what)]
    if lacking:
        warnings.warn(
            f"Of the {sum(counts.values())} blocks of {store}, {' and '.join(lacking)}: their "
            "windows are left out. `scatflow run` computes them.",
            stacklevel=4,
        )
    return dataset


@dataclass(frozen=True, eq=False)
class Batch:
    """Some windows of an archive, as scikit-learn takes them.

    Attributes
    ----------
    X : ndarray
        ``(window, feature)``, contiguous, in the precision of the coefficients.
    y : ndarray or None
        The label of each window, where labels were given.
    names : ndarray of str
        A readable name for each feature.
    coords : dict of ndarray
        What each window is labelled with, by the name of the coordinate: ``time``, ``station`` ...
    """

    X: NDArray[Any]
    y: NDArray[Any] | None
    names: NDArray[Any]
    coords: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.X)

    def take(self, rows: Any) -> Batch:
        """Return some of the windows: a slice, a mask or their numbers."""
        y = None if self.y is None else self.y[rows]
        return Batch(self.X[rows], y, self.names, {k: v[rows] for k, v in self.coords.items()})

    @staticmethod
    def joined(batches: Sequence[Batch]) -> Batch:
        """Return the windows of several batches as one."""
        first = batches[0]
        if len(batches) == 1:
            return first
        y = None if first.y is None else np.concatenate([b.y for b in batches if b.y is not None])
        coords = {k: np.concatenate([b.coords[k] for b in batches]) for k in first.coords}
        return Batch(np.concatenate([b.X for b in batches]), y, first.names, coords)


class Rows:
    """What can be learned from, cut into blocks: boxes of whole chunks with all of their features.

    Blocks are counted in the order of the dimensions of samples, the last one fastest, and so are
    the rows of one. Nothing is read here but the coordinates that do not grow with the archive.

    Parameters
    ----------
    result : path, URL or Dataset
        See :func:`open_result`.
    samples : sequence of str, optional
        Dimensions whose entries are rows; by default all but ``path`` and ``power``.
    labels : DataArray, optional
        One for each entry of some of these dimensions, found by their coordinates.
    min_valid : float
        Least share of valid samples of a row.
    """

    def __init__(
        self,
        result: Result,
        samples: Sequence[str] | None = None,
        labels: xr.DataArray | None = None,
        min_valid: float = 0.0,
    ) -> None:
        if not 0 <= min_valid <= 1:
            raise ParameterError(f"min_valid is a share, from 0 to 1, not {min_valid!r}.")
        self._given = _everywhere(result)
        self._dataset: xr.Dataset | None = open_result(result)
        self.min_valid = min_valid
        values = self._dataset[COEFFICIENTS]
        self.dims = _sample_dims(values, samples)
        self._check_labels(labels, values)
        self.labels = None if labels is None else labels.load()
        self._dataset = self._prepared(self._dataset)
        chunks = dict(zip(values.dims, self._dataset[COEFFICIENTS].chunks or (), strict=True))
        ends = [np.cumsum(chunks[dim]).tolist() for dim in self.dims]
        self.spans = [list(zip([0, *e[:-1]], e, strict=True)) for e in ends]
        self.grid = tuple(map(len, self.spans))
        self.has_shares = FRACTION in self._dataset.coords and min_valid > 0

    def __getstate__(self) -> dict[str, Any]:
        """Travel with a store's address, to be opened anew; else with the tasks."""
        return {**self.__dict__, "_dataset": None if _is_store(self._given) else self._dataset}

    @property
    def dataset(self) -> xr.Dataset:
        """The coefficients, opened once in each process."""
        if self._dataset is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Told where it was opened first.
                self._dataset = self._prepared(open_result(self._given))
        return self._dataset

    def _prepared(self, dataset: xr.Dataset) -> xr.Dataset:
        """Return the dataset in chunks, its small coordinates in memory, its rows counted."""
        values = dataset[COEFFICIENTS]
        if values.chunks is None:
            own = values.encoding.get("preferred_chunks", {})
            chunks = {d: own.get(d, "auto") if d in self.dims else -1 for d in values.dims}
            # By numbers: "auto" is refused for coordinates of text.
            sizes = normalize_chunks(  # type: ignore[no-untyped-call]
                tuple(chunks.values()), values.shape, dtype=values.dtype
            )
            dataset = dataset.chunk(dict(zip(values.dims, sizes, strict=True)))
        apart = [n for n, c in dataset.coords.items() if not set(c.dims) & set(self.dims)]
        return dataset.assign_coords({name: dataset[name].load() for name in apart})

    def _check_labels(self, labels: xr.DataArray | None, values: xr.DataArray) -> None:
        if labels is None:
            return
        if not isinstance(labels, xr.DataArray) or not set(labels.dims) <= set(self.dims):
            found = getattr(labels, "dims", type(labels).__name__)
            raise ParameterError(
                f"Labels are an xarray.DataArray along dimensions of samples, {self.dims}, "
                f"not {found}."
            )
        if not labels.size:
            raise ParameterError(
                f"There are no labels (their sizes are {dict(labels.sizes)}), so that all windows "
                "would be left out. Give some windows a label, or leave labels out."
            )
        for dim in map(str, labels.dims):
            if not labels.get_index(dim).is_unique:
                raise ParameterError(
                    f"Along {dim!r}, the labels have the same coordinate more than once, so that "
                    "it is not known which one a window has. Keep one of each: "
                    f"labels.drop_duplicates({dim!r})."
                )
            if (dim in labels.coords) != (dim in values.coords):
                has, lacks = ("labels", "coefficients")[:: 1 if dim in labels.coords else -1]
                raise ParameterError(
                    f"The {has} have a coordinate {dim!r} and the {lacks} have none, so that they "
                    "cannot be aligned. Give both of them one, or none."
                )
            if dim not in labels.coords and labels.sizes[dim] != values.sizes[dim]:
                raise ParameterError(
                    f"Along {dim!r}, which has no coordinate, there are {labels.sizes[dim]} "
                    f"labels for {values.sizes[dim]} samples."
                )

    @property
    def n_blocks(self) -> int:
        """How many blocks there are."""
        return math.prod(self.grid)

    def region(self, index: int) -> dict[str, slice]:
        """Return where a block lies, by dimension."""
        at = np.unravel_index(index, self.grid)
        return {
            dim: slice(*spans[int(k)])
            for dim, spans, k in zip(self.dims, self.spans, at, strict=True)
        }

    def size(self, index: int) -> int:
        """Return how many rows a block has, valid or not."""
        return math.prod(s.stop - s.start for s in self.region(index).values())

    def read(self, index: int, scheduler: str | None = None, *, finite: bool = True) -> Batch:
        """Read the rows of a block that count: valid enough, labelled and, if asked, finite."""
        where = self.region(index)
        part = self.dataset.isel(where).compute(**_by(scheduler))
        part = part.assign_coords(
            {d: np.arange(s.start, s.stop) for d, s in where.items() if d not in part.coords}
        )
        matrix = part.scat.features(*self.dims)
        X = np.ascontiguousarray(matrix.to_numpy())
        keep, y = self._counting(part, where)
        if finite:
            keep &= np.isfinite(X).all(axis=1)
        batch = Batch(X, y, matrix["feature"].to_numpy(), self._along(part))
        return batch if keep.all() else batch.take(keep)

    def kept(self, index: int, scheduler: str | None = None) -> NDArray[np.bool_]:
        """Tell which rows of a block count; no coefficient is read."""
        where = self.region(index)
        names = {*self.dims, *([FRACTION] if self.has_shares else ())} & set(self.dataset.coords)
        alone = self.dataset.coords.to_dataset()[list(names)]
        there = {dim: span for dim, span in where.items() if dim in alone.dims}
        return self._counting(alone.isel(there).compute(**_by(scheduler)), where)[0]

    def _counting(
        self, part: xr.Dataset, where: Mapping[str, slice]
    ) -> tuple[NDArray[np.bool_], NDArray[Any] | None]:
        """Tell which rows count by their share and label; and return the labels."""
        sizes = {d: s.stop - s.start for d, s in where.items()}
        keep = np.ones(math.prod(sizes.values()), bool)
        if self.has_shares:
            keep &= self._share(part[FRACTION], sizes) >= self.min_valid
        if self.labels is None:
            return keep, None
        y, there = self._labelled(part, where, sizes)
        return keep & there, y

    def _along(self, part: xr.Dataset) -> dict[str, NDArray[Any]]:
        """Return the coordinates of rows, one value a row."""
        sizes = {d: part.sizes[d] for d in self.dims}
        found = {
            str(name): _spread(coord, sizes)
            for name, coord in part.coords.items()
            if coord.dims and set(coord.dims) <= set(self.dims)
        }
        if FRACTION in part.coords:
            found[FRACTION] = self._share(part[FRACTION], sizes)
        return found

    def _share(self, share: xr.DataArray, sizes: Mapping[str, int]) -> NDArray[Any]:
        """Return the least share of valid samples of what a row holds."""
        return _spread(share.min([d for d in share.dims if d not in sizes], skipna=False), sizes)

    def _labelled(
        self, part: xr.Dataset, where: Mapping[str, slice], sizes: Mapping[str, int]
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the label of each row, by the coordinates of both, and whether it has one."""
        assert self.labels is not None
        labels, at = self.labels, []
        for dim in map(str, labels.dims):
            if dim in labels.coords:
                at.append(labels.indexes[dim].get_indexer(part[dim].to_index()))
            else:
                at.append(np.arange(where[dim].start, where[dim].stop))
        values = labels.to_numpy()[np.ix_(*at)]
        there = labels.notnull().to_numpy()[np.ix_(*at)]
        for axis, one in enumerate(at):
            there &= np.expand_dims(one >= 0, [k for k in range(len(at)) if k != axis])
        y, has = (_spread(xr.DataArray(v, dims=labels.dims), sizes) for v in (values, there))
        return y, has


def _by(scheduler: str | None) -> dict[str, Any]:
    return {} if scheduler is None else {"scheduler": scheduler}


def _sample_dims(values: xr.DataArray, samples: Sequence[str] | None) -> tuple[str, ...]:
    """Return the dimensions of rows in the order of the coefficients' own."""
    dims = tuple(map(str, values.dims))
    if samples is None:
        return tuple(d for d in dims if d not in (PATH, "power"))
    wanted = (samples,) if isinstance(samples, str) else tuple(samples)
    unknown = [d for d in wanted if d not in dims or d == PATH]
    if unknown or not wanted:
        raise ParameterError(
            f"samples names {unknown or wanted!r}, but the entries of {list(dims)} but {PATH!r} "
            "can be samples."
        )
    return tuple(d for d in dims if d in wanted)


def _spread(coord: xr.DataArray, sizes: Mapping[str, int]) -> NDArray[Any]:
    """Return a value for each row of a coordinate along some of its dimensions."""
    ordered = coord.transpose(*[d for d in sizes if d in coord.dims])
    shape = [n if d in coord.dims else 1 for d, n in sizes.items()]
    full = np.broadcast_to(ordered.to_numpy().reshape(shape), tuple(sizes.values()))
    return full.reshape(-1)
