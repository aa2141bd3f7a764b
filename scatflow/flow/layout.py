"""What a transform of one archive looks like: its units of work, and where each one's output goes.

A *unit* is what the engine is given at a time: a whole signal (image, volume), a frame of it, or
one slab of the canonical grid. Everything here follows from the transform and the source's shape
alone, never from its chunks, the workers or their memory: so do the output's bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scatflow.blocks import Cuts, Span, bounds, ceil_div, left_over, n_frames, share
from scatflow.engines import Engine, Plan, Scattering1D, TimeFrequencyScattering
from scatflow.errors import JobError

TARGET_SAMPLES = 2**21
"""Input samples of one block, where they take as long as usual: about a second of work, against
3 ms that a task costs."""

TARGET_BYTES = 64 * 2**20
"""Coefficients of one block, at most (unless a single unit has more)."""

BATCH_SAMPLES = 2**20
"""Samples of the small units that are handed to the engine together."""


@dataclass(frozen=True)
class Transform:
    """The settings of [transform] that are not the engine's."""

    dims: tuple[str, ...]
    boundary: str
    frame: tuple[int, ...]
    hop: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-able values."""
        framed = self.boundary == "frames"
        return {
            "dims": list(self.dims),
            "boundary": self.boundary,
            "frame": list(self.frame) if framed else None,
            "hop": list(self.hop) if framed else None,
        }

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Transform:
        """Return the inverse of :meth:`to_dict`."""
        none = [0] * len(settings["dims"])
        return cls(
            tuple(settings["dims"]),
            settings["boundary"],
            tuple(settings["frame"] or none),
            tuple(settings["hop"] or none),
        )


@dataclass(frozen=True, eq=False)
class Layout:
    """Units, blocks and output of one transform of one source."""

    transform: Transform
    plan: Plan
    order: tuple[int, ...]
    """The source's axes: untouched ones first, then the transformed ones as the job names them."""
    untouched: tuple[str, ...]
    lengths: tuple[int, ...]
    """Samples of the source along each transformed dimension."""
    unit: tuple[int, ...]
    """Samples of one unit without halos."""
    step: tuple[int, ...]
    """Samples from one unit to the next."""
    halo: int
    units: tuple[int, ...]
    """Units along each transformed dimension (1 where it is not cut)."""
    keep: slice
    """Windows of a canonical slab's output that its block keeps (seamless only)."""
    cuts: Cuts
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    shards: tuple[int, ...]

    @property
    def cut(self) -> tuple[bool, ...]:
        """Which axes of the output are cut into blocks: their shards lie side by side."""
        n = len(self.cuts.counts)
        if self.seamless:  # The grid's last axis is the output's last, behind the path axis.
            return (*[True] * (n - 1), *[False] * (len(self.shape) - n), True)
        return (*[True] * n, *[False] * (len(self.shape) - n))

    @property
    def seamless(self) -> bool:
        """Whether units are slabs of one continuous record."""
        return self.transform.boundary == "seamless"

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
    def batch(self) -> int:
        """Units handed to the engine together; one slab at a time in seamless."""
        return 1 if self.seamless else max(1, BATCH_SAMPLES // math.prod(self.plan.shape))

    def units_of(self, index: int) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
        """Return a block's indices of the untouched axes, and its units along the transformed."""
        cells = list(self.cuts.cells(index))
        untouched = tuple(cells[: self.n_untouched])
        cut = iter(cells[self.n_untouched :])
        cuttable = (True,) if self.seamless else self.framed
        return untouched, tuple(next(cut) if here else (0, 1) for here in cuttable)

    def slab(self, index: int) -> tuple[Span, ...]:
        """Return the samples that a block reads, along the axes in :attr:`order`."""
        untouched, units = self.units_of(index)
        spans = []
        for (a, b), step, unit, n in zip(units, self.step, self.unit, self.lengths, strict=True):
            first, last = a * step - self.halo, (b - 1) * step + unit + self.halo
            spans.append(bounds(first, last, n) if self.seamless else (first, last))
        return (*untouched, *spans)

    @property
    def settled(self) -> tuple[int, ...]:
        """How many units along each transformed dimension a longer source would leave as they are.

        Seamless units whose slab reaches beyond the end of the record see its reflection.
        """
        if not self.seamless:
            return self.units
        return tuple(
            min(count, max(0, (n - unit - self.halo) // step + 1))
            for count, n, unit, step in zip(
                self.units, self.lengths, self.unit, self.step, strict=True
            )
        )

    def region(self, index: int) -> tuple[slice, ...]:
        """Return where a block's coefficients lie in the output."""
        return self.region_of(self.cuts.cells(index))

    def region_of(self, cells: Sequence[Span]) -> tuple[slice, ...]:
        """Return where the coefficients of a box of the work grid's cells lie in the output."""
        if not self.seamless:
            tail = self.shape[len(cells) :]
            return (*(slice(*c) for c in cells), *(slice(0, n) for n in tail))
        *untouched, (a, b) = cells
        width = self.keep.stop - self.keep.start
        windows = slice(a * width, min(b * width, self.shape[-1]))
        inner = (slice(0, n) for n in self.shape[self.path_axis : -1])
        return (*(slice(*c) for c in untouched), *inner, windows)

    def block_of(self, shard: tuple[int, ...]) -> int | None:
        """Return the block that writes a shard, None if none does: the inverse of :meth:`region`.

        Parameters
        ----------
        shard : tuple of int
            Number of the shard along each axis of the output.
        """
        n, counts = len(self.cuts.counts), self.cuts.counts
        if len(shard) != len(self.shape):
            return None
        if self.seamless:  # The grid's last axis is the output's last, behind the path axis.
            position, others = (*shard[: n - 1], shard[-1]), shard[n - 1 : -1]
        else:
            position, others = shard[:n], shard[n:]
        inside = all(0 <= k < count for k, count in zip(position, counts, strict=True))
        return self.cuts.index(position) if inside and not any(others) else None

    def samples(self, index: int) -> int:
        """Return the input samples that a block answers for, halos and overlaps not counted."""
        untouched, units = self.units_of(index)
        count = math.prod(b - a for a, b in untouched)
        for (a, b), step, unit, n in zip(units, self.step, self.unit, self.lengths, strict=True):
            count *= min((b - 1) * step + unit, n) - a * step
        return count


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
    halo, block, plan, keep = _canonical(engine, lengths[0], dtype)
    units = (ceil_div(lengths[0], block),)
    inner, width = plan.labelled_shape[:-1], keep.stop - keep.start
    grid = (*records, *units)
    most = _most(block * engine.cost, math.prod(inner) * width * dtype.itemsize)
    per_block = per_block or share(grid, most)
    return {
        "plan": plan,
        "unit": (block,),
        "step": (block,),
        "halo": halo,
        "units": units,
        "keep": keep,
        "cuts": Cuts(grid, per_block),
        "dims": (*untouched, *_path_dims(plan), *transform.dims),
        "shape": (*records, *inner, ceil_div(lengths[0], plan.windows[0][1])),
        "shards": (*per_block[:-1], *inner, per_block[-1] * width),
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
        "halo": 0,
        "units": units,
        "keep": slice(None),
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
            "Check [source] sel and isel."
        )
    return tuple(int(shape[list(dims).index(d)]) for d in transform.dims)


def _check_names(untouched: tuple[str, ...], transform: Transform) -> None:
    new = {"path", "power", "point", "ledger", "scattering"}
    new |= set(frame_dims(transform)) if any(transform.frame) else set()
    _refuse_names(new, untouched, transform)


def _refuse_names(taken: set[str], untouched: tuple[str, ...], transform: Transform) -> None:
    clash = taken & {*untouched, *transform.dims}
    if clash:
        raise JobError(
            f"The source has a dimension {sorted(clash)[0]!r}, a name that the output needs for "
            "itself. Rename it in [source] dims."
        )


def _canonical(engine: Engine, n: int, dtype: np.dtype[Any]) -> tuple[int, int, Plan, slice]:
    """Return halo, block, plan and the windows to keep of the canonical grid."""
    if not isinstance(engine, Scattering1D | TimeFrequencyScattering):
        raise JobError(
            f'[transform] boundary = "seamless" is available for scattering1d and timefrequency '
            f'only, found kind = "{engine.kind}". Take "whole" or "frames".'
        )
    if n < 2**engine.J:
        raise JobError(
            f"[transform] J = {engine.J} has wavelets of {2**engine.J} samples, but the records "
            f"have {n}: every coefficient would be padding. Take J <= {n.bit_length() - 1}."
        )
    if engine.averaging == "local" and n < engine.window:
        raise JobError(
            f"[transform] T = {engine.window:g} samples exceed the records' {n}: every window "
            f"would average their reflections. Take T <= {n}."
        )
    try:
        grid = engine.canonical_grid(dtype)
    except ValueError as problem:
        raise JobError(f"[transform] {problem}") from problem
    plan = engine.plan((grid.length,), dtype, boundary="periodic")
    keep = slice(grid.halo // grid.stride, (grid.halo + grid.block) // grid.stride)
    return grid.halo, grid.block, plan, keep


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
