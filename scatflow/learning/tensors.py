"""Coefficients for PyTorch's ``DataLoader``: read from a result, or computed in its workers.

Both data sets take a result store, a job file (each worker opens the source, makes the plan once
and computes the blocks it reads) or an open dataset, what :func:`scatflow.scatter` returns among
them. They travel to workers that are forked or spawned; tensors are contiguous and on the CPU, so
that ``pin_memory=True`` works.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from scatflow.errors import ParameterError, SourceError
from scatflow.learning.feed import gathered, nothing, pooled, regrouped
from scatflow.learning.rows import Batch, Result, Rows

if TYPE_CHECKING:
    import xarray as xr

Item = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
Change = Callable[[NDArray[Any]], NDArray[Any]]


class CoefficientStream(IterableDataset[Item]):
    """All windows of an archive, each once an epoch, in an order that repeats.

    Blocks are dealt to the workers of a ``DataLoader``, pool by pool. The order is the same in
    every run with the same number of workers. A worker has in memory what
    :func:`scatflow.learning.batches` has.

    Parameters
    ----------
    result, samples, labels, min_valid, pool
        As :func:`scatflow.learning.batches` has them. Labels are numbers.
    size : int, optional
        Items are matrices of so many windows, the last one of a worker shorter, for
        ``DataLoader(stream, batch_size=None)``. By default items are single windows, which the
        loader puts together, at some microseconds each.
    shuffle : bool
        Blocks in random order, and the windows of a pool, anew in each epoch.
    seed : int
        Of the shuffling, with the number of the epoch.
    transform : callable, optional
        What becomes of a matrix of windows, ``StandardScaler.transform`` for instance.

    Raises
    ------
    SourceError
        No window has a label.

    Examples
    --------
    >>> import numpy as np, scatflow, torch, xarray as xr
    >>> from scatflow.learning import CoefficientStream
    >>> x = np.random.default_rng(0).standard_normal((3, 4096))
    >>> ds = xr.DataArray(x, dims=("file", "time")).scat.scattering1d(J=6, Q=4)
    >>> stream = CoefficientStream(ds, size=100, shuffle=True)
    >>> stream.set_epoch(1)
    >>> [tuple(x.shape) for x in torch.utils.data.DataLoader(stream, batch_size=None)]
    [(100, 67), (92, 67)]
    """

    def __init__(
        self,
        result: Result,
        size: int | None = None,
        *,
        samples: Sequence[str] | None = None,
        labels: xr.DataArray | None = None,
        min_valid: float = 0.0,
        shuffle: bool = False,
        seed: int = 0,
        pool: int = 1,
        transform: Change | None = None,
    ) -> None:
        _check_labels(labels)
        for name, value in (("size", size), ("pool", pool)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ParameterError(f"{name} is a number of at least 1, not {value!r}.")
        self._rows = rows = Rows(result, samples, labels, min_valid)
        # A worker knows only of its own blocks, and a loader may well give nothing at all.
        if labels is not None and not any(rows.kept(k).any() for k in range(rows.n_blocks)):
            raise SourceError(nothing(rows))
        self._size, self._shuffle, self._seed, self._pool = size, shuffle, seed, pool
        self._transform = transform
        self._epoch = _shared_number()

    def set_epoch(self, epoch: int) -> None:
        """Shuffle for another epoch from the next iteration on, in lasting workers, too."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        share = slice(None) if worker is None else slice(worker.id, None, worker.num_workers)
        pieces = self._pieces(share, None if worker is None else "synchronous")
        if self._size is not None:
            yield from (self._item(piece) for piece in regrouped(pieces, self._size))
            return
        for piece in pieces:
            if len(piece):
                item = self._item(piece)
                yield from zip(*item, strict=True) if isinstance(item, tuple) else item

    def _pieces(self, share: slice, scheduler: str | None) -> Iterator[Batch]:
        """Yield the pools of a worker; how each is shuffled does not depend on who reads it."""
        seeds = [self._seed, int(self._epoch)]
        order = np.random.default_rng(seeds) if self._shuffle else None
        for number, blocks in list(enumerate(pooled(self._rows, self._pool, order)))[share]:
            within = np.random.default_rng([*seeds, number]) if self._shuffle else None
            yield gathered(self._rows, blocks, within, scheduler)

    def _item(self, batch: Batch) -> Item:
        return _tensors(batch, self._transform)


class CoefficientDataset(Dataset[Item]):
    """All valid windows of an archive by their number, for samplers and random access.

    A window is read with its whole block, and the last blocks are kept, in each process: with a
    :class:`BlockSampler`, or in order, each block is read once by each worker; at random, a
    block for every window. Where that is too slow, take a :class:`CoefficientStream`.

    Which windows are valid is known from ``valid_fraction`` and the labels, which are read here,
    once; what stays in memory is a number for each block.

    Parameters
    ----------
    result, samples, labels
        As :func:`scatflow.learning.batches` has them. Labels are numbers.
    min_valid : float
        Least ``valid_fraction`` of a window. The default keeps those that see no missing sample.
    cache : int
        Blocks that a process keeps.
    transform : callable, optional
        What becomes of a matrix of windows, ``StandardScaler.transform`` for instance.

    Raises
    ------
    SourceError
        No window is valid; or, when it is read, one has values that are not finite all the same.

    Examples
    --------
    >>> import numpy as np, scatflow, torch, xarray as xr
    >>> from scatflow.learning import CoefficientDataset
    >>> x = np.random.default_rng(0).standard_normal((3, 4096))
    >>> ds = xr.DataArray(x, dims=("file", "time")).scat.scattering1d(J=6, Q=4)
    >>> windows = CoefficientDataset(ds)
    >>> len(windows), windows[191].shape
    (192, torch.Size([67]))
    """

    def __init__(
        self,
        result: Result,
        *,
        samples: Sequence[str] | None = None,
        labels: xr.DataArray | None = None,
        min_valid: float = 1.0,
        cache: int = 4,
        transform: Change | None = None,
    ) -> None:
        _check_labels(labels)
        self._rows = Rows(result, samples, labels, min_valid)
        self._transform, self._cache = transform, cache
        rows = self._rows
        known = not rows.has_shares and labels is None
        counts = (rows.size(k) if known else rows.kept(k).sum() for k in range(rows.n_blocks))
        self.ends = np.cumsum([0, *map(int, counts)])
        if not len(self):
            raise SourceError(nothing(rows))
        self._held: OrderedDict[int, Batch] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Travel without the blocks that are kept."""
        return {**self.__dict__, "_held": OrderedDict()}

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Return several windows, each block read once; what a ``DataLoader`` asks for."""
        wanted = np.asarray([int(i) for i in indices])
        if wanted.size and not (-len(self) <= wanted.min() and wanted.max() < len(self)):
            raise IndexError(f"There are {len(self)} windows, numbered from 0.")
        wanted = np.where(wanted < 0, wanted + len(self), wanted)
        blocks = np.searchsorted(self.ends, wanted, side="right") - 1
        found: list[Item] = [torch.empty(0)] * wanted.size
        for block in np.unique(blocks):
            mine = np.flatnonzero(blocks == block)
            part = self._block(int(block)).take(wanted[mine] - self.ends[block])
            self._check(part)
            item = _tensors(part, self._transform)
            each = zip(*item, strict=True) if isinstance(item, tuple) else item
            for place, one in zip(mine, each, strict=True):
                found[place] = one
        return found

    def _block(self, index: int) -> Batch:
        """Return the windows of a block that count, one of the last blocks or read anew."""
        if index not in self._held:
            scheduler = None if get_worker_info() is None else "synchronous"
            batch = self._rows.read(index, scheduler, finite=False)
            self._held[index] = batch
            while len(self._held) > self._cache:
                self._held.popitem(last=False)
        self._held.move_to_end(index)
        return self._held[index]

    def _check(self, part: Batch) -> None:
        bad = np.flatnonzero(~np.isfinite(part.X).all(axis=1))
        if bad.size:
            where = ", ".join(f"{name} {values[bad[0]]}" for name, values in part.coords.items())
            raise SourceError(
                f"The window at {where} has values that are not finite, and nothing can be learned "
                "from it. Take min_valid=1.0, finish the run, or take a CoefficientStream, which "
                "leaves such windows out."
            )


class BlockSampler(Sampler[int]):
    """The numbers of all windows of a :class:`CoefficientDataset`, block by block.

    Parameters
    ----------
    dataset : CoefficientDataset
        Which has to keep `pool` blocks.
    shuffle : bool
        Blocks in random order, and the windows of a pool.
    seed : int
        Of the shuffling, with the number of the epoch.
    pool : int
        Blocks that are shuffled together.
    """

    def __init__(
        self, dataset: CoefficientDataset, *, shuffle: bool = True, seed: int = 0, pool: int = 1
    ) -> None:
        if not 1 <= pool <= dataset._cache:
            raise ParameterError(
                f"pool={pool} blocks are shuffled together, but the dataset keeps "
                f"{dataset._cache}: each window would be read with its block. Take "
                f"CoefficientDataset(..., cache={pool})."
            )
        self._dataset, self._shuffle, self._seed, self._pool = dataset, shuffle, seed, pool
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Shuffle for another epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[int]:
        ends, seeds = self._dataset.ends, [self._seed, self._epoch]
        random = np.random.default_rng(seeds) if self._shuffle else None
        for blocks in pooled(self._dataset._rows, self._pool, random):
            numbers = np.concatenate([np.arange(ends[k], ends[k + 1]) for k in blocks])
            yield from (numbers if random is None else random.permutation(numbers)).tolist()


def _shared_number() -> torch.Tensor:
    """Return a number that workers see change, forked and spawned ones alike."""
    number = torch.zeros((), dtype=torch.int64)
    number.share_memory_()  # type: ignore[no-untyped-call]
    return number


def _check_labels(labels: xr.DataArray | None) -> None:
    if labels is not None and getattr(labels, "dtype", np.dtype("O")).kind not in "biuf":
        raise ParameterError(
            "Tensors hold numbers, and the labels are none. Number them: "
            "names, y = np.unique(labels, return_inverse=True); labels.copy(data=y)."
        )


def _tensors(batch: Batch, change: Change | None) -> Item:
    """Return a batch as tensors that own their memory, one row each window."""
    X = batch.X if change is None else change(batch.X)
    x = torch.from_numpy(np.array(X, order="C"))
    if batch.y is None:
        return x
    return x, torch.from_numpy(np.array(batch.y, batch.y.dtype.newbyteorder("=")))
