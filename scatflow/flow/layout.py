"""What a transform of one archive looks like: its units of work, and where each one's output goes.

A *unit* is what the engine is given at a time: a whole signal (image, volume), a frame of it, or
one tile of the canonical grid, of which a whole volume has many where it gives sums only.
Everything here follows from the transform and the source's shape alone, never from its chunks,
the workers or their memory: so do the output's bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scatflow.blocks import Cuts, Span, Tiles, left_over, n_frames, share
from scatflow.engines import CanonicalGrid, Engine, Plan
from scatflow.errors import JobError

TARGET_SAMPLES = 2**21
"""Input samples of one block, where they take as long as usual: about a second of work, against
10 ms, at most, that a task costs."""

TARGET_BYTES = 64 * 2**20
"""Coefficients of one block, at most (unless a single unit has more)."""

BATCH_SAMPLES = 2**20
"""Samples of the small units that are handed to the engine together."""


POINTS = 16
"""Points of one block: each may be in a tile of its own, and takes a second or more then."""

EXACT = 2**14
"""Reads along one axis that are counted one by one; beyond, all count as inner ones."""


@dataclass(frozen=True)
class Transform:
    """The settings of [transform] that are not the engine's."""

    dims: tuple[str, ...]
    boundary: str
    frame: tuple[int, ...]
    hop: tuple[int, ...]
    edges: str = "reflect"
    """What lies beyond the ends of a seamless record: its reflection, or itself ("periodic")."""
    gaps: str = "nan"
    """What becomes of windows that see missing samples: see :mod:`scatflow.flow.gaps`; "raise": the
    unit is not transformed."""
    tile: int | None = None
    """Samples of a seamless record that are transformed at a time, without their halo. If given, a
    window counts as seeing all of its tile and halo; else as many as cost least."""

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-able values."""
        framed = self.boundary == "frames"
        settings: dict[str, Any] = {
            "dims": list(self.dims),
            "boundary": self.boundary,
            "frame": list(self.frame) if framed else None,
            "hop": list(self.hop) if framed else None,
            "gaps": self.gaps,
        }
        if self.boundary == "seamless" and len(self.dims) == 3:  # Others have no choice.
            settings["edges"] = self.edges
        if self.tile is not None:
            settings["tile"] = self.tile
        return settings

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Transform:
        """Return the inverse of :meth:`to_dict`."""
        none = [0] * len(settings["dims"])
        return cls(
            tuple(settings["dims"]),
            settings["boundary"],
            tuple(settings["frame"] or none),
            tuple(settings["hop"] or none),
            settings.get("edges", "reflect"),
            settings["gaps"],
            settings.get("tile"),
        )


@dataclass(frozen=True)
class Part:
    """What a block reads at a time."""

    untouched: tuple[Span, ...]
    """Indices of the untouched axes."""
    units: tuple[Span, ...]
    """Frames or tiles along each transformed dimension."""
    slab: tuple[Span, ...]
    """Samples along the axes in :attr:`Layout.order`; of periodic records as ``blocks.arc``."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Units, blocks and output of one transform of one source."""

    transform: Transform
    plan: Plan
    order: tuple[int, ...]
    """The source's axes: untouched ones first, then the transformed ones as the job names them."""
    untouched: tuple[str, ...]
    records: tuple[int, ...]
    """Entries of the source along each untouched dimension."""
    lengths: tuple[int, ...]
    """Samples of the source along each transformed dimension."""
    unit: tuple[int, ...]
    """Samples of one unit without halos."""
    step: tuple[int, ...]
    """Samples from one unit to the next."""
    units: tuple[int, ...]
    """Units along each transformed dimension (1 where it is not cut)."""
    cuts: Cuts
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    shards: tuple[int, ...]
    behind: tuple[int, ...] = ()
    """Coefficients of one cell along each axis of the output, its last ones, that is cut behind the
    path axis (seamless only)."""
    tiles: tuple[Tiles, ...] = ()
    """Each transformed dimension (seamless only)."""
    grid: CanonicalGrid | None = None
    """Where the tiles come from (seamless only)."""
    points: NDArray[np.intp] | None = None
    """Voxels at which values are asked for, ``(points, 3)`` (seamless local transforms only)."""

    @property
    def seamless(self) -> bool:
        """Whether units are tiles of one continuous record."""
        return self.transform.boundary == "seamless"

    @property
    def by_tile(self) -> bool:
        """Whether a block reads one tile after the other instead of all it needs at once.

        Its output is no part of a map then, but sums over a volume or values at points.
        """
        return self.seamless and self.plan.tail != "decimated"

    @property
    def halo(self) -> tuple[int, ...]:
        """Samples beside a unit that it is computed from, along each transformed dimension."""
        return tuple(t.halo for t in self.tiles) or (0,) * len(self.lengths)

    @property
    def framed(self) -> tuple[bool, ...]:
        """Which transformed dimensions are cut into frames."""
        return tuple(f > 0 for f in self.transform.frame)

    @property
    def n_untouched(self) -> int:
        """How many dimensions are not transformed."""
        return len(self.untouched)

    @property
    def path_axis(self) -> int:
        """Where the path axis of the output is."""
        return self.dims.index("path")

    @property
    def summed(self) -> bool:
        """Whether a block adds up sums over the tiles of whole volumes."""
        return self.seamless and self.plan.tail == "power"

    @property
    def windowed(self) -> tuple[int, ...]:
        """Axes of the output that are not those of paths: each window has its share of samples."""
        others = {*_path_dims(self.plan), "power"}
        return tuple(axis for axis, dim in enumerate(self.dims) if dim not in others)

    @property
    def unit_windows(self) -> tuple[int, ...]:
        """Windows of one unit."""
        first = len(self.dims) - len(self.plan.labelled_shape)
        sizes = self.plan.labelled_shape
        return tuple(sizes[axis - first] for axis in self.windowed if axis >= first)

    @property
    def batch(self) -> int:
        """Units handed to the engine together; one tile at a time in seamless."""
        return 1 if self.seamless else max(1, BATCH_SAMPLES // math.prod(self.plan.shape))

    @property
    def ahead(self) -> int:
        """How many axes of the work grid are the output's first ones; the rest are its last."""
        return len(self.cuts.shape) - len(self.behind)

    @property
    def cut(self) -> tuple[bool, ...]:
        """Which axes of the output are cut into blocks: their shards lie side by side."""
        between = len(self.shape) - len(self.cuts.shape)
        return (*[True] * self.ahead, *[False] * between, *[True] * len(self.behind))

    @property
    def computed(self) -> int:
        """Samples that the engine is given in all, halos included."""
        if self.points is not None:
            n_blocks = self.cuts.counts[-1]
            calls = sum(1 for i in range(n_blocks) for _ in self._tiles_of_points(i))
            return math.prod(self.records) * calls * math.prod(self.plan.shape)
        return math.prod((*self.records, *self.units)) * math.prod(self.plan.shape)

    # --- what blocks read ---

    def parts(self, index: int) -> Iterator[Part]:
        """Yield what a block reads, one after the other."""
        cells = list(self.cuts.cells(index))
        untouched = tuple(cells[: self.n_untouched])
        if not self.by_tile:
            cut = iter(cells[self.n_untouched :])
            cuttable = (True,) * len(self.tiles) or self.framed
            yield self._part(untouched, tuple(next(cut) if c else (0, 1) for c in cuttable))
            return
        for record in itertools.product(*(range(a, b) for a, b in untouched)):
            tiles: Iterator[tuple[int, ...]] = itertools.product(*map(range, self.units))
            if self.points is not None:
                tiles = self._tiles_of_points(self.cuts.position(index)[-1])
            for tile in tiles:
                yield self._part(_one_each(record), _one_each(tile))

    def slab(self, index: int) -> tuple[Span, ...]:
        """Return the samples that a block is computed from, along the axes in :attr:`order`."""
        if self.by_tile:
            cells = self.cuts.cells(index)[: self.n_untouched]
            return (*cells, *((0, n) for n in self.lengths))
        (part,) = self.parts(index)
        return part.slab

    def _tiles_of_points(self, position: int) -> Iterator[tuple[int, ...]]:
        """Yield the tiles in which the points of a block lie, each once."""
        assert self.points is not None
        first = position * self.cuts.per_block[-1]
        some = self.points[first : first + self.cuts.per_block[-1]] // self.unit
        yield from dict.fromkeys(map(tuple, some.tolist()))

    def _part(self, untouched: tuple[Span, ...], units: tuple[Span, ...]) -> Part:
        return Part(untouched, units, (*untouched, *map(self._read, range(len(units)), units)))

    def _read(self, k: int, units: Span) -> Span:
        """Return the samples that units are computed from along transformed dimension k."""
        a, b = units
        if self.tiles:
            return self.tiles[k].read(a, b)
        return a * self.step[k], (b - 1) * self.step[k] + self.unit[k]

    def reads(self, axis: int) -> tuple[list[Span], int]:
        """Return what is read of one axis in :attr:`order`, of which all reads are products.

        Returns
        -------
        spans : list of Span
            Of the first reads, at most :data:`EXACT`.
        count : int
            How many reads there are in all.
        """
        n, k = self.n_untouched, axis - self.n_untouched
        if axis < n:
            each = 1 if self.by_tile else self.cuts.per_block[axis]
            cuts = Cuts((self.records[axis],), (each,))
        elif self.by_tile:
            cuts = Cuts((self.units[k],), (1,))
        else:
            cut = [i for i, c in enumerate((True,) * len(self.tiles) or self.framed) if c]
            each = self.cuts.per_block[n + cut.index(k)] if k in cut else 1
            cuts = Cuts((self.units[k],), (each,))
        some = (cuts.cells(i)[0] for i in range(min(cuts.n_blocks, EXACT)))
        return [span if axis < n else self._read(k, span) for span in some], cuts.n_blocks

    # --- what blocks write ---

    @property
    def settled(self) -> tuple[int, ...]:
        """How many units along each transformed dimension a longer source would leave as they are.

        Seamless units that reach beyond the end of the record see its reflection.
        """
        return tuple(tiles.settled for tiles in self.tiles) if self.seamless else self.units

    def region(self, index: int) -> tuple[slice, ...]:
        """Return where a block's coefficients lie in the output."""
        return self.region_of(self.cuts.cells(index))

    def region_of(self, cells: Sequence[Span]) -> tuple[slice, ...]:
        """Return where the coefficients of a box of the work grid's cells lie in the output."""
        last = len(self.shape) - len(self.behind)
        between = (slice(0, n) for n in self.shape[self.ahead : last])
        behind = (
            slice(a * width, min(b * width, n))
            for (a, b), width, n in zip(
                cells[self.ahead :], self.behind, self.shape[last:], strict=True
            )
        )
        return (*(slice(*c) for c in cells[: self.ahead]), *between, *behind)

    def block_of(self, shard: tuple[int, ...]) -> int | None:
        """Return the block that writes a shard, None if none does: the inverse of :meth:`region`.

        Parameters
        ----------
        shard : tuple of int
            Number of the shard along each axis of the output.
        """
        if len(shard) != len(self.shape):
            return None
        last = len(shard) - len(self.behind)
        position, others = (*shard[: self.ahead], *shard[last:]), shard[self.ahead : last]
        counts = zip(position, self.cuts.counts, strict=True)
        inside = all(0 <= k < count for k, count in counts)
        return self.cuts.index(position) if inside and not any(others) else None

    def samples(self, index: int) -> int:
        """Return the input samples that a block answers for, halos and overlaps not counted."""
        cells = self.cuts.cells(index)
        count = math.prod(b - a for a, b in cells[: self.n_untouched])
        if self.by_tile:
            whole = math.prod(self.lengths)
            if self.points is None:
                return count * whole
            (a, b), n = cells[-1], len(self.points)
            return count * (whole * b // n - whole * a // n)
        (part,) = self.parts(index)
        for (a, b), step, unit, n in zip(
            part.units, self.step, self.unit, self.lengths, strict=True
        ):
            count *= min((b - 1) * step + unit, n) - a * step
        return count


def _one_each(cell: tuple[int, ...]) -> tuple[Span, ...]:
    return tuple((i, i + 1) for i in cell)


def layout(
    engine: Engine,
    transform: Transform,
    dims: Sequence[str],
    shape: Sequence[int],
    dtype: np.dtype[Any],
    per_block: tuple[int, ...] | None = None,
) -> Layout:
    """Work out how a transform of a source is laid out.

    Parameters
    ----------
    engine : Engine
        What is applied to each unit.
    transform : Transform
        Along which dimensions, and how their ends are treated.
    dims, shape : sequence
        Of the source.
    dtype : dtype
        In which is computed, float32 or float64.
    per_block : tuple of int, optional
        Cells of the work grid in a block, one number for each of its axes; by default as many as
        keep a task busy for about a second. No coefficient depends on it.

    Returns
    -------
    Layout

    Raises
    ------
    JobError
        If the source lacks a dimension, is too short for a frame or for the engine's scales, or
        the engine's output has no place in a dataset.
    """
    lengths = _lengths(transform, dims, shape)
    untouched = tuple(d for d in dims if d not in transform.dims)
    _check_names(untouched, transform)
    records = tuple(int(shape[list(dims).index(d)]) for d in untouched)
    make = _seamless if transform.boundary == "seamless" else _separate
    parts = make(engine, transform, untouched, records, lengths, dtype, per_block)
    paths = parts["plan"].paths
    _refuse_names({*paths.columns, *paths.rows}, untouched, transform)
    return Layout(
        transform=transform,
        order=tuple(list(dims).index(d) for d in (*untouched, *transform.dims)),
        untouched=untouched,
        records=records,
        lengths=lengths,
        **parts,
    )


def _seamless(
    engine: Engine,
    transform: Transform,
    untouched: tuple[str, ...],
    records: tuple[int, ...],
    lengths: tuple[int, ...],
    dtype: np.dtype[Any],
    per_block: tuple[int, ...] | None,
) -> dict[str, Any]:
    """Lay out one continuous transform of each record on the canonical grid."""
    grid, plan = _canonical(engine, lengths, dtype, transform.tile)
    periodic = transform.edges == "periodic"
    tiles = tuple(Tiles(n, grid.block, grid.halo, grid.stride, periodic) for n in lengths)
    units = tuple(t.count for t in tiles)
    # Halos are a small part of signals' tiles, unless these were chosen for something else.
    whole = len(lengths) > 1 or transform.tile is not None
    cost = math.prod(plan.shape if whole else (grid.block,)) * engine.cost
    parts = {
        "plan": plan,
        "unit": (grid.block,) * len(lengths),
        "step": (grid.block,) * len(lengths),
        "units": units,
        "tiles": tiles,
        "grid": grid,
    }
    if plan.tail == "power":
        return parts | _sums(plan, untouched, records, cost * math.prod(units), per_block)
    if plan.tail == "point":
        return parts | _values(engine, plan, untouched, records, per_block)
    inner, width = plan.labelled_shape[: -len(tiles)], tuple(t.width for t in tiles)
    cells = (*records, *units)
    most = _most(cost, math.prod((*inner, *width)) * dtype.itemsize)
    per_block = per_block or share(cells, most)
    windows = zip(per_block[len(records) :], width, strict=True)
    return parts | {
        "cuts": Cuts(cells, per_block),
        "dims": (*untouched, *_path_dims(plan), *transform.dims),
        "shape": (*records, *inner, *(t.windows for t in tiles)),
        "shards": (*per_block[: len(records)], *inner, *(n * w for n, w in windows)),
        "behind": width,
    }


def _sums(
    plan: Plan,
    untouched: tuple[str, ...],
    records: tuple[int, ...],
    cost: int,
    per_block: tuple[int, ...] | None,
) -> dict[str, Any]:
    """Lay out sums over whole volumes, whose tiles one task takes one after the other."""
    per_block = per_block or share(records, _most(cost, 1))
    return {
        "cuts": Cuts(records, per_block),
        "dims": (*untouched, *_path_dims(plan), plan.tail),
        "shape": (*records, *plan.labelled_shape),
        "shards": (*per_block, *plan.labelled_shape),
    }


def _values(
    engine: Engine,
    plan: Plan,
    untouched: tuple[str, ...],
    records: tuple[int, ...],
    per_block: tuple[int, ...] | None,
) -> dict[str, Any]:
    """Lay out values at points, of which only the tiles are read in which there are some."""
    points = np.array(engine.to_dict()["points"], np.intp)
    cells, inner = (*records, len(points)), plan.labelled_shape[:-1]
    per_block = per_block or share(cells, POINTS)
    return {
        "cuts": Cuts(cells, per_block),
        "dims": (*untouched, *_path_dims(plan), plan.tail),
        "shape": (*records, *inner, len(points)),
        "shards": (*per_block[:-1], *inner, per_block[-1]),
        "behind": (1,),
        "points": points,
    }


def _separate(
    engine: Engine,
    transform: Transform,
    untouched: tuple[str, ...],
    records: tuple[int, ...],
    lengths: tuple[int, ...],
    dtype: np.dtype[Any],
    per_block: tuple[int, ...] | None,
) -> dict[str, Any]:
    """Lay out transforms of whole signals, or of frames of them, each padded by itself."""
    unit = tuple(f or n for f, n in zip(transform.frame, lengths, strict=True))
    units = _frames(transform, lengths)
    plan = _plan(engine, unit, dtype)
    grid = (*records, *(n for n, f in zip(units, transform.frame, strict=True) if f))
    out_bytes = math.prod(plan.labelled_shape) * dtype.itemsize
    per_block = per_block or share(grid, _most(math.prod(unit) * engine.cost, out_bytes))
    tail = transform.dims if plan.tail == "decimated" else (plan.tail,)
    new = frame_dims(transform) if any(transform.frame) else ()
    return {
        "plan": plan,
        "unit": unit,
        "step": tuple(h or n for h, n in zip(transform.hop, lengths, strict=True)),
        "units": units,
        "cuts": Cuts(grid, per_block),
        "dims": (*untouched, *new, *_path_dims(plan), *tail),
        "shape": (*grid, *plan.labelled_shape),
        "shards": (*per_block, *plan.labelled_shape),
    }


def _path_dims(plan: Plan) -> tuple[str, ...]:
    """Name the path axis, and that of rows where paths have one."""
    return ("path", *list(plan.paths.rows)[:1])


def _most(unit_cost: int, unit_bytes: int) -> int:
    """Return how many units one block should hold, of so many samples (of usual cost)."""
    return max(1, min(TARGET_SAMPLES // unit_cost, TARGET_BYTES // unit_bytes))


def frame_dims(transform: Transform) -> tuple[str, ...]:
    """Name the dimensions that count frames: `frame`, or `frame_<dim>` where several are cut."""
    cut = [d for d, f in zip(transform.dims, transform.frame, strict=True) if f]
    return ("frame",) if len(cut) == 1 else tuple(f"frame_{d}" for d in cut)


def dropped(layout: Layout) -> dict[str, int]:
    """Return the samples at the end of each dimension that no whole frame holds."""
    t = layout.transform
    found = {
        d: left_over(n, f, h)
        for d, n, f, h in zip(t.dims, layout.lengths, t.frame, t.hop, strict=True)
        if f
    }
    return {d: n for d, n in found.items() if n}


def _lengths(transform: Transform, dims: Sequence[str], shape: Sequence[int]) -> tuple[int, ...]:
    missing = [d for d in transform.dims if d not in dims]
    if missing:
        raise JobError(
            f"[transform] dims names {', '.join(map(repr, missing))}, but the source has the "
            f"dimensions {list(dims)} of shape {tuple(shape)}. Name some of them, or give the "
            "source's dimensions in [source] dims."
        )
    if 0 in tuple(shape):
        raise JobError(
            f"The source is empty: {dict(zip(dims, shape, strict=True))}. "
            "Check what was selected of it (in a job: [source] sel and isel)."
        )
    return tuple(int(shape[list(dims).index(d)]) for d in transform.dims)


def _check_names(untouched: tuple[str, ...], transform: Transform) -> None:
    new = {"path", "power", "point", "ledger", "scattering", "valid_fraction"}
    new |= set(frame_dims(transform)) if any(transform.frame) else set()
    _refuse_names(new, untouched, transform)


def _refuse_names(taken: set[str], untouched: tuple[str, ...], transform: Transform) -> None:
    clash = taken & {*untouched, *transform.dims}
    if clash:
        raise JobError(
            f"The source has a dimension {sorted(clash)[0]!r}, a name that the output needs for "
            "itself. Rename it (in a job: [source] dims)."
        )


def _canonical(
    engine: Engine, lengths: tuple[int, ...], dtype: np.dtype[Any], tile: int | None
) -> tuple[CanonicalGrid, Plan]:
    """Return the canonical grid for records of some lengths, and the plan of one tile."""
    try:
        engine.check_size(lengths)
        grid = engine.canonical_grid(dtype, tile)
        plan = engine.canonical_plan(dtype, tile)
    except ValueError as problem:
        raise JobError(f"[transform] {problem}") from problem
    if plan.tail == "power":  # over a tile without its halo
        plan = plan.summing((slice(grid.halo, grid.halo + grid.block),) * len(lengths))
    return grid, plan


def _frames(transform: Transform, lengths: tuple[int, ...]) -> tuple[int, ...]:
    units = []
    for dim, n, frame, hop in zip(
        transform.dims, lengths, transform.frame, transform.hop, strict=True
    ):
        count = n_frames(n, frame, hop) if frame else 1
        if count == 0:
            raise JobError(
                f"[transform] frame = {frame} along {dim!r}, but the source has {n} samples "
                f"there: not one whole frame. Take frame <= {n}."
            )
        units.append(count)
    return tuple(units)


def _plan(engine: Engine, unit: tuple[int, ...], dtype: np.dtype[Any]) -> Plan:
    try:
        plan = engine.plan(unit, dtype)
    except (ValueError, TypeError, RuntimeError) as problem:
        raise JobError(f"[transform] {problem}") from problem
    if plan.tail == "ragged":
        raise JobError(
            "[transform] T = 0 gives each path its own sampling, which one labelled array cannot "
            "hold. Give T in samples, or leave it out."
        )
    return plan
