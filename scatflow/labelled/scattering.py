"""Scattering of labelled arrays: the blocks, labels and numbers of a run, as a lazy dataset."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import dask.array as da
import numpy as np
import xarray as xr
from dask.array.chunk import getitem
from dask.array.core import concatenate3
from dask.base import optimize, tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import DTypeLike, NDArray

from scatflow.archive import Loaded
from scatflow.blocks import Span, repeated
from scatflow.dataset import COEFFICIENTS, FRACTION, Coordinate
from scatflow.engines import Engine
from scatflow.engines.engine import integer, one_of, precision
from scatflow.errors import InputShapeError, JobError, ParameterError, SourceError
from scatflow.flow.block import Partial, evaluate, evaluate_part, total
from scatflow.flow.earlier import Kept
from scatflow.flow.labels import template
from scatflow.flow.layout import Part, Transform, layout
from scatflow.flow.work import Work, check_even, check_forward
from scatflow.labelled import foreign
from scatflow.labelled.source import ArraySource

REMEDY = (
    "Select an even part (.isel, .sel), interpolate it to an even grid (.interp), or pass "
    'clock="ignore".'
)


@dataclass(frozen=True)
class Recipe:
    """All that one block needs besides its samples: small, and the key of a worker's work."""

    engine: Engine
    transform: Transform
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    stored: str
    """Type of the samples as given."""
    dtype: str
    """Precision of the output."""
    threads: int

    def work(self, array: xr.DataArray | None = None) -> Work:
        """Lay out what is to be done; with an array, its labels too."""
        source = ArraySource(self.dims, self.shape, np.dtype(self.stored), array)
        dtype = np.dtype(self.dtype)
        laid = layout(self.engine, self.transform, self.dims, self.shape, dtype)
        where = "" if array is None else str(array.encoding.get("source", "xarray"))
        settings = {"source": {"store": where}}
        return Work(cast(Any, source), self.engine, laid, dtype, settings).on(self.threads)


@functools.lru_cache(maxsize=16)
def _work(recipe: Recipe, delegate: str | None) -> Work:
    """Return the work of a process: plans are made once in it."""
    work = recipe.work()
    return work if delegate is None else work.by(delegate)


def scatter(
    array: xr.DataArray,
    engine: Engine,
    dim: str | Sequence[str] | None = None,
    *,
    boundary: str = "whole",
    frame: int | Sequence[int] | None = None,
    hop: int | Sequence[int] | None = None,
    edges: str = "reflect",
    gaps: str = "nan",
    tile: int | None = None,
    mask: xr.DataArray | None = None,
    clock: str = "check",
    dtype: DTypeLike | None = None,
    threads: int = 1,
) -> xr.Dataset:
    """Transform a labelled array along some dimensions; see :func:`scatflow.scatter`."""
    if not isinstance(array, xr.DataArray):
        raise ParameterError(
            f"scatter transforms an xarray.DataArray, not a {type(array).__name__}. "
            "Engines take arrays without labels: engine(x)."
        )
    if not isinstance(engine, Engine):
        raise ParameterError(f"engine must be a scatflow engine, not a {type(engine).__name__}.")
    dims = _dims(array, engine, dim)
    one_of("boundary", boundary, ("whole", "frames", "seamless"))
    one_of("gaps", gaps, ("nan", "weight", "raise"))
    one_of("edges", edges, ("reflect", "periodic"))
    one_of("clock", clock, ("check", "ignore"))
    threads = integer("threads", threads, 1)
    if mask is not None:
        array = _masked(array, mask)
    frames, hops = _frames(dims, boundary, frame, hop)
    source = ArraySource(array.dims, array.shape, array.dtype, array)
    kind = source.read_dtype if dtype is None else precision(dtype)
    if tile is not None and boundary != "seamless":
        raise ParameterError(f"tile goes with boundary='seamless', not with {boundary!r}.")
    tile = None if tile is None else integer("tile", tile, 1)
    transform = Transform(dims, boundary, frames, hops, edges, gaps, tile)
    _check_shape(engine, transform, [array.sizes[d] for d in dims])
    recipe = Recipe(
        engine, transform, source.dims, source.shape, source.dtype.str, kind.str, threads
    )
    try:
        work = recipe.work(array)
    except JobError as problem:
        raise ParameterError(str(problem).removeprefix("[transform] ")) from problem
    if clock == "check":
        check_even(work.source, dims, REMEDY)
    check_forward(work.source, transform)
    return _dataset(array, work, _coefficients(array, recipe, work))


def _dims(array: xr.DataArray, engine: Engine, dim: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the transformed dimensions in their order."""
    if dim is None:
        last = tuple(map(str, array.dims[max(array.ndim - engine.ndim, 0) :]))
        dims = ("time",) if engine.ndim == 1 and "time" in array.dims else last
    else:
        dims = (dim,) if isinstance(dim, str) else tuple(map(str, dim))
    missing = [d for d in dims if d not in array.dims]
    if missing or len(set(dims)) != engine.ndim:
        raise ParameterError(
            f"{type(engine).__name__} transforms {engine.ndim} dimension"
            f"{'s' if engine.ndim > 1 else ''} of the array, which has {list(array.dims)}: "
            f"dim={list(dims)!r} "
            + (f"names {missing[0]!r}, which is none." if missing else "names another number.")
        )
    return dims


def _masked(array: xr.DataArray, mask: xr.DataArray) -> xr.DataArray:
    """Return an array that is NaN where a mask is true."""
    if not isinstance(mask, xr.DataArray):
        raise ParameterError(
            f"mask must be an xarray.DataArray that is true where samples are missing, not a "
            f"{type(mask).__name__}: array.copy(data=mask) makes it one."
        )
    if not set(mask.dims) <= set(array.dims):
        raise ParameterError(
            f"mask has the dimensions {mask.dims}, the array {array.dims}: those of the mask must "
            "be among them."
        )
    try:
        xr.align(array, mask, join="exact", copy=False)
    except ValueError as problem:
        raise ParameterError(
            "mask and array have different samples, and the array would be cut to those that both "
            f"have ({problem}). Bring the mask to the array's coordinates (.reindex_like)."
        ) from problem
    return array.where(~mask.astype(bool))


def _frames(
    dims: tuple[str, ...],
    boundary: str,
    frame: int | Sequence[int] | None,
    hop: int | Sequence[int] | None,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return samples of a frame, and from one to the next, along each dimension; 0: not cut."""
    if boundary != "frames":
        if frame is not None or hop is not None:
            raise ParameterError(f'frame and hop go with boundary="frames", not {boundary!r}.')
        return (0,) * len(dims), (0,) * len(dims)
    if frame is None:
        raise ParameterError('boundary="frames" needs frame, the samples of one frame.')
    found = []
    for name, value in (("frame", frame), ("hop", frame if hop is None else hop)):
        each = tuple(value) if isinstance(value, Sequence) else (value,) * len(dims)
        if len(each) != len(dims) or not all(
            isinstance(n, int | np.integer) and n > 0 for n in each
        ):
            raise ParameterError(f"{name} must be positive integers, one for each of {dims}.")
        found.append(tuple(int(n) for n in each))
    return found[0], found[1]


def _check_shape(engine: Engine, transform: Transform, lengths: Sequence[int]) -> None:
    """Refuse an engine that was made for signals of another shape than its units have."""
    if engine.shape is None:
        return
    if transform.boundary == "seamless":
        raise InputShapeError(
            f"A seamless transform has no shape of its own, but the engine was made for "
            f"{tuple(engine.shape)}. Pass shape=None to the engine."
        )
    unit = tuple(f or n for f, n in zip(transform.frame, lengths, strict=True))
    if unit != tuple(engine.shape):
        raise InputShapeError(
            f"The engine was made for {tuple(engine.shape)}, but along {list(transform.dims)} "
            f"the array has {unit}. Pass shape=None to the engine."
        )


# --- the blocks --------------------------------------------------------------------------------


def _block(
    recipe: Recipe, index: int, slabs: Iterable[Any], delegate: str | None = None
) -> tuple[Any, Any]:
    """Compute one block of coefficients, and the share of valid samples of its windows.

    Coefficients are of the library of the slabs, which its GPU computes if it has one, or
    `delegate`.

    Raises
    ------
    SourceError
        Samples are infinite, or missing where that is refused, or coefficients overflow.
    """
    left = iter(slabs)
    first = _whole(next(left))
    left = itertools.chain([first], left)
    work = _work(recipe, delegate or foreign.delegate(first))

    def read(_work: Work, _part: Part) -> Loaded:
        return Loaded(_samples(_whole(next(left)), work), 0)

    made = evaluate(work, index, read=read)
    return _checked(made.kept, made.failure, first)


def _whole(slab: Any) -> Any:
    """Return a slab; put together, where it is nested lists of pieces."""
    if not isinstance(slab, list):
        return slab
    piece = slab
    while isinstance(piece, list) and len(piece) == 1:
        (piece,) = piece
    return concatenate3(slab) if isinstance(piece, list) else piece  # type: ignore[no-untyped-call]


def _samples(slab: Any, work: Work) -> NDArray[Any]:
    return np.ascontiguousarray(foreign.to_host(slab), work.dtype)


def _checked(kept: Kept, failure: str | None, like: Any) -> tuple[Any, Any]:
    """Return what a block gives, of the library of another array, unless it failed."""
    if failure is not None:
        raise SourceError(f"{failure}.")
    return foreign.like(kept.values, like), kept.fraction


def _part(recipe: Recipe, index: int, part: Part, pieces: Any) -> Partial:
    """Compute what one part gives of a block that has several."""
    slab = _whole(pieces)
    work = _work(recipe, foreign.delegate(slab))
    return evaluate_part(work, index, part, _samples(slab, work))


def _total(recipe: Recipe, index: int, partials: Sequence[Partial], like: Any) -> tuple[Any, Any]:
    """Put a block together from what its parts give."""
    return _checked(*total(_work(recipe, foreign.delegate(like)), index, partials), like)


Runs = list[list[Span]]
"""Runs of samples along each axis, one after the other."""


def _runs(work: Work, shape: Sequence[int], part: Part) -> Runs:
    """Return the samples that a part reads."""
    runs: Runs = [[] for _ in shape]
    for axis, (a, b) in zip(work.layout.order, part.slab, strict=True):
        runs[axis] = [run.span for run in repeated(a, b, shape[axis])]
    return runs


def _slabs(array: xr.DataArray, work: Work, index: int) -> Iterator[Any]:
    """Yield what a block reads of an array's data, one after the other."""
    for part in work.layout.parts(index):
        yield _sliced(array.data, _runs(work, array.shape, part))


def _sliced(data: Any, runs: Runs) -> Any:
    """Return some samples along each axis."""
    library = da if isinstance(data, da.Array) else np
    for axis, some in enumerate(runs):
        pieces = [data[(*[slice(None)] * axis, slice(*run))] for run in some]
        data = pieces[0] if len(pieces) == 1 else library.concatenate(pieces, axis=axis)
    return data


WAITING_BYTES = 2**28
"""Of chunks that wait for the last of their blocks; where there would be more, each block reads its
own anew."""


class _Cuts:
    """Tasks that cut slabs out of the chunks of a lazy array.

    One for each piece, all in one layer: Dask's own slicing makes a layer for each slab. But a
    chunk then waits from its first block to its last. Where each block takes a little of many
    chunks, as of a record out of chunks of many channels, that would be the whole array; Dask's
    slices, optimized one by one, read such chunks for each block anew, and of each only what it
    needs where that is possible.
    """

    def __init__(self, data: da.Array, slabs: Sequence[Sequence[Runs]], token: str) -> None:
        self._data, self._name = data, f"scatter-cut-{token}"
        self._ends = [list(itertools.accumulate(sizes)) for sizes in data.chunks]
        self._shared = self._waiting(slabs) <= WAITING_BYTES
        self.needed: list[Any] = [data] if self._shared else []
        """Arrays whose chunks the tasks take."""
        self.tasks: dict[Any, Any] = {}

    def _waiting(self, slabs: Sequence[Sequence[Runs]]) -> int:
        """Return the most bytes of chunks that wait at a time, if blocks come in their order."""
        first: dict[tuple[int, ...], int] = {}
        last: dict[tuple[int, ...], int] = {}
        for block, parts in enumerate(slabs):
            for runs in parts:
                along = [{k for k, _ in pieces} for pieces in self._pieces(runs)]
                for chunk in itertools.product(*along):
                    first.setdefault(chunk, block)
                    last[chunk] = block
        change = np.zeros(len(slabs) + 1, np.int64)
        for chunk, begin in first.items():
            sizes = [self._data.chunks[axis][k] for axis, k in enumerate(chunk)]
            size = math.prod(sizes) * self._data.dtype.itemsize
            change[begin] += size
            change[last[chunk] + 1] -= size
        return int(change.cumsum().max())

    def _pieces(self, runs: Runs) -> list[list[tuple[int, slice]]]:
        return [
            [piece for run in some for piece in _within(ends, run)]
            for ends, some in zip(self._ends, runs, strict=True)
        ]

    def slab(self, runs: Runs) -> Any:
        """Return the keys of a slab's pieces, in lists nested as deep as it has axes."""
        if self._shared:
            return self._nested(self._pieces(runs), (), ())
        (slab,) = optimize(_sliced(self._data, runs))  # type: ignore[no-untyped-call]
        self.tasks.update(slab.__dask_graph__())
        return slab.__dask_keys__()

    def _nested(self, along: Sequence[Any], at: tuple[int, ...], cut: tuple[slice, ...]) -> Any:
        if along:
            return [self._nested(along[1:], (*at, k), (*cut, inside)) for k, inside in along[0]]
        key = (self._name, len(self.tasks))
        self.tasks[key] = (getitem, (self._data.name, *at), cut)
        return key


def _within(ends: Sequence[int], run: Span) -> Iterator[tuple[int, slice]]:
    """Yield the chunks that hold a run of samples, and where it lies in each."""
    start, stop = run
    for k in range(bisect.bisect_right(ends, start), len(ends)):
        begin = ends[k - 1] if k else 0
        if begin >= stop:
            return
        if begin < ends[k]:
            yield k, slice(max(start - begin, 0), min(stop, ends[k]) - begin)


def _coefficients(array: xr.DataArray, recipe: Recipe, work: Work) -> tuple[Any, Any]:
    """Return the coefficients and the shares of valid samples: lazy ones of a lazy array."""
    laid = work.layout
    if isinstance(array.data, da.Array):
        return _lazy(array, recipe, work)
    windows = [laid.shape[axis] for axis in laid.windowed]
    mine, delegate = array.data, foreign.delegate(array.data)
    if foreign.library(mine) is not None:
        there = foreign.transformed(mine, work, recipe.engine)
        if there is not None:
            return there, np.ones(windows, work.dtype)
        array = array.copy(data=foreign.to_host(mine))
    values = np.empty(laid.shape, work.dtype)
    fraction = np.empty(windows, work.dtype)
    for index in range(laid.cuts.n_blocks):
        where = laid.region(index)
        found = _block(recipe, index, _slabs(array, work, index), delegate)
        values[where] = found[0]
        fraction[tuple(where[axis] for axis in laid.windowed)] = found[1]
    return foreign.like(values, mine), fraction


def _lazy(array: xr.DataArray, recipe: Recipe, work: Work) -> tuple[da.Array, da.Array]:
    """Describe all blocks as tasks: one a block, and one for each of the two things it gives.

    A block of several parts (sums over a volume, by tiles) is a task for each of them and one that
    puts small results together: no task holds the samples of more than one.
    """
    token, data = tokenize(recipe, array.data), array.data
    of_blocks = [list(work.layout.parts(index)) for index in range(work.layout.cuts.n_blocks)]
    read = [[_runs(work, data.shape, part) for part in parts] for parts in of_blocks]
    name, cuts = f"scatter-{token}", _Cuts(data, read, token)
    tasks: dict[Any, Any] = {}
    keys = []
    for index, parts in enumerate(of_blocks):
        slabs = [cuts.slab(runs) for runs in read[index]]
        keys.append((name, index))
        if not work.layout.by_tile:
            tasks[name, index] = (_block, recipe, index, slabs)
            continue
        partials = []
        for number, (part, slab) in enumerate(zip(parts, slabs, strict=True)):
            partials.append((f"scatter-part-{token}", index, number))
            tasks[partials[-1]] = (_part, recipe, index, part, slab)
        tasks[name, index] = (_total, recipe, index, partials, data._meta)
    below = HighLevelGraph.from_collections(name, {**cuts.tasks, **tasks}, cuts.needed)

    def graph(above: str, layer: dict[Any, Any]) -> HighLevelGraph:
        layers = {**below.layers, above: layer}
        return HighLevelGraph(layers, {**below.dependencies, above: {name}})

    return assembled(work, keys, token, graph, data._meta)


def assembled(
    work: Work,
    blocks: Sequence[Hashable],
    token: str,
    graph: Callable[[str, dict[Any, Any]], HighLevelGraph],
    like: Any,
) -> tuple[da.Array, da.Array]:
    """Return the two arrays whose chunks are what blocks give.

    Parameters
    ----------
    work : Work
        Whose blocks they are.
    blocks : sequence of hashable
        The keys of the tasks that compute them, in their order.
    token : str
        Ends the arrays' names.
    graph : callable
        Returns the graph of a named layer that depends on these tasks.
    like : array
        Of the library that coefficients are of.
    """
    laid = work.layout
    axes = range(len(laid.shape))
    regions = [laid.region(index) for index in range(len(blocks))]
    ends = [sorted({region[axis].stop for region in regions}) for axis in axes]
    place = [{stop: k for k, stop in enumerate(stops)} for stops in ends]
    chunks = [tuple(np.diff([0, *stops]).tolist()) for stops in ends]
    made = []
    for which, name, along in (
        (0, COEFFICIENTS, tuple(axes)),
        (1, FRACTION, laid.windowed),
    ):
        key = f"{name}-{token}"
        layer: dict[Any, Any] = {}
        for region, block in zip(regions, blocks, strict=True):
            at = tuple(place[axis][region[axis].stop] for axis in along)
            layer[(key, *at)] = (_item, block, which)
        sizes = tuple(chunks[axis] for axis in along)
        meta = np.empty((0,) * len(along), work.dtype)
        if name == COEFFICIENTS:
            meta = foreign.like(meta, like)
        array = da.Array(graph(key, layer), key, sizes, meta=meta)  # type: ignore[no-untyped-call]
        made.append(array)
    return made[0], made[1]


def _item(found: tuple[Any, Any], which: int) -> Any:
    return found[which]


# --- labels ------------------------------------------------------------------------------------


def _dataset(array: xr.DataArray, work: Work, made: tuple[Any, Any]) -> xr.Dataset:
    """Label coefficients as a run labels its store, and keep what else the array has."""
    found, laid = labelled(work, made, cast(ArraySource, work.source).durations), work.layout
    kept = {
        name: coord.variable
        for name, coord in array.coords.items()
        if set(coord.dims) <= set(laid.untouched)
    }
    clash = (kept.keys() - {*laid.untouched}) & {*found.variables, *found.dims, FRACTION}
    if clash:
        first = min(map(str, clash))
        raise ParameterError(
            f"The array has a coordinate {first!r}, a name that the coefficients need for "
            f"themselves. Rename it (.rename({first}=...)) or leave it out (.drop_vars)."
        )
    return found.assign_coords(kept)


def labelled(work: Work, made: tuple[Any, Any], durations: Collection[str] = ()) -> xr.Dataset:
    """Label coefficients, and shares of valid samples, as a run labels its store.

    Along dimensions of `durations`, numbers become times that have passed.
    """
    described = template(work)
    coords: dict[Hashable, Any] = {c.name: _variable(c, durations) for c in described.coordinates}
    if described.fraction is not None:
        dims = tuple(described.dims[axis] for axis in described.windowed)
        coords[FRACTION] = (dims, made[1], dict(described.fraction))
    variables = {COEFFICIENTS: (described.dims, made[0], dict(described.attrs))}
    return xr.Dataset(variables, coords, dict(described.dataset_attrs))


def _variable(coordinate: Coordinate, durations: Collection[str]) -> xr.Variable:
    """Return a coordinate of a run as one of xarray: durations as such, text as objects."""
    values = coordinate.values(0, coordinate.shape[0] if coordinate.shape else 1)
    attrs = dict(coordinate.attrs)
    if values.dtype.kind == "U":  # Text of fixed length has no specification in Zarr.
        values = values.astype(object)
    if attrs.get("dim", coordinate.name) in durations:
        values = np.round(values).astype(np.int64).view("timedelta64[ns]")
        del attrs["units"]  # Which is how xarray would write them.
    return xr.Variable(coordinate.dims, values, attrs)


def n_blocks(dataset: xr.Dataset) -> int:
    """Return how many tasks the coefficients of a dataset take, 0 where they are computed."""
    data = dataset[COEFFICIENTS].data
    return math.prod(data.numblocks) if isinstance(data, da.Array) else 0
