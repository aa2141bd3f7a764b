"""What a job would do: everything that is known before any block is computed."""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from dask.system import CPU_COUNT

from scatflow.blocks import Span, ceil_div, halved, repeated
from scatflow.dataset import Template
from scatflow.errors import BudgetError, JobError
from scatflow.flow.devices import CUPY
from scatflow.flow.grow import foreseen
from scatflow.flow.job import Job, suggest_memory
from scatflow.flow.labels import left_out, template
from scatflow.flow.layout import dropped
from scatflow.flow.output import look
from scatflow.flow.profiles import Threads
from scatflow.flow.settings import ANY
from scatflow.flow.work import Work, absolute, from_job

BASELINE_BYTES = (180 + 64 + 64) * 2**20
"""A worker process that has computed one tiny block, and the freed memory that malloc may keep.

The first, interpreter, libraries and compiled code, was measured as the peak resident size of a
LocalCluster worker (VmHWM, Linux x86-64, Python 3.11): 178 MiB. The second is the trim threshold
that flow/cluster/ready.py sets; tests/flow/test_kill.py compares a run with its plan.
"""

CUDA_BYTES = 512 * 2**20
"""Of the host, for CuPy and CUDA's libraries and context: an allowance, not measured by us."""

ENCODING_COPIES = 3
"""Writing holds the block's coefficients, its chunks in order, and their compressed bytes."""

CHUNKS_IN_FLIGHT = 10
"""Source chunks that Zarr decodes at a time: its `async.concurrency`."""

WASTE = 2.0
"""Decoding more than so many times what a block uses is worth a word."""

CUT_OFF = 1e-6
"""Height of a filter at the Nyquist frequency, of its peak, from which on it is worth a word."""


@dataclass(frozen=True, eq=False)
class RunPlan:
    """A job, its source opened and its work laid out."""

    job: Job
    base: str
    output: str
    work: Work
    template: Template
    peak_bytes: int
    """Most memory that one worker will need."""
    bytes_read: int
    """Of the source before compression: whole chunks, as often as blocks touch them."""
    bytes_source: int
    """Of the source, each sample once."""
    bytes_written: int
    """Of coefficients before compression."""
    notes: tuple[str, ...]

    @property
    def n_blocks(self) -> int:
        """How many blocks there are."""
        return self.work.layout.cuts.n_blocks

    @property
    def samples(self) -> int:
        """Samples of the source, each once."""
        return math.prod(self.work.source.shape)


def prepare(job: Job, base: str | None = None, *, fresh: bool = False) -> RunPlan:
    """Open the source and work out everything about a run; nothing is written.

    Blocks are as large as keeps a task busy for about a second, or as the budget allows; those of
    an output that is there stay as they are.

    Parameters
    ----------
    job : Job
        A checked job file.
    base : str, optional
        Directory that relative paths start from; by default the current one.
    fresh : bool
        Whether an output that is there will be made anew.

    Raises
    ------
    JobError, SourceError, SourceNotFoundError
        Job and source do not fit.
    OutputError
        The output's place cannot be looked at.
    """
    start = base or os.getcwd()
    _check_shared(job)
    work = _in_blocks(from_job(job, start), job, None if fresh else _blocks_there(job, start))
    described = template(work)
    itemsize = work.source.dtype.itemsize
    return RunPlan(
        job=job,
        base=start,
        output=absolute(job.output.store, start),
        work=work,
        template=described,
        peak_bytes=peak_bytes(work, job.slots, job.held),
        bytes_read=_samples(work, whole_chunks=True) * itemsize,
        bytes_source=math.prod(work.source.shape) * itemsize,
        bytes_written=_written_bytes(described),
        notes=(*_notes(work), *_crowded(job), *_devices(job)),
    )


def _written_bytes(template: Template) -> int:
    """Return the bytes of coefficients, and of shares of valid samples, before compression."""
    shares = math.prod(template.shape[axis] for axis in template.windowed)
    numbers = math.prod(template.shape) + (shares if template.fraction is not None else 0)
    return numbers * template.dtype.itemsize


def _fraction_dims(template: Template) -> list[str] | None:
    """Name the dimensions of the shares of valid samples, None where there are none."""
    if template.fraction is None:
        return None
    return [template.dims[axis] for axis in template.windowed]


def _blocks_there(job: Job, base: str) -> tuple[int, ...] | None:
    """Return the units in a block of the output that is there, if there is one."""
    output = absolute(job.output.store, base)
    if look(output).kind not in ("ours", "damaged"):
        return None
    settings = zarr.open_group(output, path="ledger", mode="r").attrs.get("settings")
    units = settings.get("block", {}).get("units") if isinstance(settings, dict) else None
    return None if units is None else tuple(units)


def _in_blocks(work: Work, job: Job, there: tuple[int, ...] | None) -> Work:
    """Cut the work as the output that is there has it, or so that a block fits the budget."""
    per_block = work.layout.cuts.per_block
    if there is not None and len(there) == len(per_block) and min(there, default=1) > 0:
        return work.cut_into(there)
    while peak_bytes(work, job.slots, job.held) > job.memory:
        smaller = halved(work.layout.cuts.per_block)
        if smaller is None:
            break  # One unit is too much: see :func:`check_budget`.
        work = work.cut_into(smaller)
    return work


def _check_shared(job: Job) -> None:
    """Refuse stores that only this process could see where others are to read or write them."""
    tables = {"source": job.source.store, "output": job.output.store}
    for table, store in tables.items():
        if store.startswith("memory:") and not isinstance(job.profile, Threads):
            raise JobError(
                f"[{table}] store = {store!r} lives in the memory of one process, and the workers "
                f'of cluster = "{job.run.cluster}" are others: they would not find it. Set '
                'cluster = "threads", or name a store on disk.'
            )


def check_budget(plan: RunPlan) -> None:
    """Compare the projected peak of a worker with its budget.

    Raises
    ------
    BudgetError
        It is higher; the message names the line of the job file to change.
    """
    job = plan.job
    if plan.peak_bytes <= job.memory:
        return
    line = job.line_of("memory")
    wanted = f'memory = "{suggest_memory(plan.peak_bytes)}"'
    if job.profile.memory is not None:
        remedy = f'In {job.run.cluster}, change memory = "{job.profile.memory}" to {wanted}'
    elif line is None:
        remedy = f"Add {wanted} under [run] in {job.path}"
    else:
        remedy = f'In {job.path}, line {line}, change memory = "{job.run.memory}" to {wanted}'
    raise BudgetError(
        f"One block needs {_mib(plan.peak_bytes)} MiB in a worker, and the budget is "
        f"{_mib(job.memory)} MiB: nothing was run. {remedy}."
    )


def check_workers(
    plan: RunPlan, workers: Mapping[str, tuple[int, int]], processors: Mapping[str, int]
) -> None:
    """Compare the projected peak of workers that run already with their memory limits.

    Parameters
    ----------
    plan : RunPlan
        What they are to do.
    workers : mapping
        Threads and memory limit (bytes, 0: none) of each worker.
    processors : mapping
        Processors that each worker may use; those that did not tell compute on every thread.

    Raises
    ------
    BudgetError
        One of them has too little memory for as many blocks as it has threads.
    """
    for name, (threads, limit) in workers.items():
        computing = slots(threads, processors.get(name, threads), plan.job.threads)
        needed = peak_bytes(plan.work, computing, threads)
        if 0 < limit < needed:
            raise BudgetError(
                f"{threads} block(s) at a time need {_mib(needed)} MiB in a worker, and {name} "
                f"with {threads} thread(s) has a limit of {_mib(limit)} MiB: nothing was "
                f'run. Start it with --memory-limit "{suggest_memory(needed)}", or with fewer '
                "--nthreads."
            )


def _crowded(job: Job) -> list[str]:
    """Say where a job starts more threads than there are processors."""
    threads = job.threads
    if job.profile.kind not in ("local", "threads") or job.workers * threads <= CPU_COUNT:
        return []
    fewer = max(1, CPU_COUNT // threads)
    remedy = f"workers = {fewer}" if threads <= CPU_COUNT else f"threads = {CPU_COUNT} or less"
    return [
        f"{job.workers} worker(s) with {threads} thread(s) each keep {job.workers * threads} "
        f"threads busy, and there are {CPU_COUNT} processor(s): they take turns, which is slower, "
        f"and each takes its memory all the same. Set {remedy} in [run]"
    ]


def _devices(job: Job) -> list[str]:
    """Say where GPUs are asked for that a job does not use, and what both kinds of workers mean."""
    if job.backend == ANY:
        return [
            'backend = "any": workers with the resource GPU compute with CuPy, others with NumPy. '
            "Which worker gets a block is not determined and the two differ by rounding, so that "
            "the output's bytes do, from run to run; scatflow verify allows for that"
        ]
    if job.backend == CUPY or getattr(job.profile, "device", "cpu") == "cpu":
        return []
    return [
        f'{job.run.cluster} has device = "cuda", and blocks are computed on processors: the GPUs '
        'stay idle. Set backend = "cupy" in [run], or take a profile without them'
    ]


def crowded_machines(
    plan: RunPlan, workers: Mapping[str, tuple[int, int]], processors: Mapping[str, int]
) -> list[str]:
    """Say on which machines workers that run already would use more threads than processors.

    Parameters
    ----------
    plan : RunPlan
        What they are to do.
    workers : mapping
        Threads and memory limit of each worker, by its address.
    processors : mapping
        Processors that each worker may use.
    """
    threads = plan.job.threads
    blocks: defaultdict[str, int] = defaultdict(int)
    usable: defaultdict[str, int] = defaultdict(int)
    for address in workers.keys() & processors.keys():
        machine = address.rpartition("//")[2].rpartition(":")[0]
        blocks[machine] += slots(workers[address][0], processors[address], threads)
        usable[machine] = max(usable[machine], processors[address])
    return [
        f"the workers on {machine} compute {n} block(s) at a time with {threads} thread(s) each, "
        f"and may use {usable[machine]} processor(s): they take turns, which is slower. Start "
        "fewer of them, with fewer --nthreads, or set fewer threads in [run]"
        for machine, n in sorted(blocks.items())
        if n * threads > usable[machine]
    ]


def slots(held: int, processors: int, threads: int) -> int:
    """Return how many of the blocks that a process holds it should compute at a time.

    Examples
    --------
    >>> slots(8, processors=8, threads=2)
    4
    """
    return max(1, min(held, processors // threads))


def block_bytes(work: Work, index: int) -> int:
    """Return the bytes of what a block reads once it is decoded."""
    slabs = (part.slab for part in work.layout.parts(index))
    return sum(math.prod(b - a for a, b in slab) for slab in slabs) * work.dtype.itemsize


def peak_bytes(work: Work, slots: int, held: int) -> int:
    """Return the most memory that one worker will need, bytes: the sum of :func:`memory`."""
    return sum(memory(work, slots, held).values())


def memory(work: Work, slots: int, held: int) -> dict[str, int]:
    """Return what one worker needs memory for when it needs most, bytes.

    Parameters
    ----------
    work : Work
        What is to be done.
    slots, held : int
        Blocks that the worker computes at a time, and those that it holds: the others are being
        read or written, or wait.

    Returns
    -------
    dict
        `libraries`, `filters`, and either `making the plan` or what the blocks in flight take:
        `block`, `halo`, `chunks being decoded`, `buffers`, `output` and `encoding`.
    """
    reading, computing, writing = _states(work)
    # A block's samples are let go before its coefficients are written.
    moving = max(reading, writing, key=_total)
    own = max(computing, moving, key=_total)
    in_flight = {
        item: slots * own.get(item, 0) + (held - slots) * moving.get(item, 0)
        for item in {**own, **moving}
    }
    plan = work.layout.plan
    backend = work.settings["engine"]["backend"]
    if backend in (ANY, CUPY):
        in_flight["on the way to GPUs"] = slots * _pinned(work)
    # Blocks wait for the plan, so that its making and their computing do not add up.
    if _total(in_flight) < plan.build_bytes:
        in_flight = {"making the plan": plan.build_bytes}
    libraries = BASELINE_BYTES + (CUDA_BYTES if backend in (ANY, CUPY) else 0)
    return {"libraries": libraries, "filters": plan.held_bytes, **in_flight}


def _pinned(work: Work) -> int:
    """Return the memory that units on their way to a GPU and back take, at most: two batches."""
    laid = work.layout
    numbers = math.prod(laid.plan.shape) + math.prod(laid.plan.labelled_shape)
    return 2 * laid.batch * numbers * work.dtype.itemsize


def _total(items: Mapping[str, int]) -> int:
    return sum(items.values())


def _states(work: Work) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Return what one block takes while it is read, computed and written."""
    laid, item = work.layout, work.dtype.itemsize
    slab = math.prod(_widest(work))
    halo = max(slab - laid.samples(0), 0)
    samples = {"block": (slab - halo) * item, "halo": halo * item}
    shares = math.prod(laid.shards[axis] for axis in laid.windowed)
    coefficients = (math.prod(laid.shards) + shares) * item
    batch = min(laid.batch, math.prod(laid.cuts.per_block))
    unit = math.prod(laid.plan.shape)
    # A batch is stacked before it is padded, and an edge slab is gathered from its pieces; a unit
    # with gaps is filled in a copy, and has its samples marked.
    stacked = 2 * batch * unit * item + unit * (item + 2)
    out = batch * math.prod(laid.plan.output_shape) * item
    decoding = slab * work.source.dtype.itemsize + _chunk_bytes(work) + _mask_bytes(work, slab)
    return (
        {**samples, "chunks being decoded": decoding},
        {
            **samples,
            "buffers": stacked + laid.plan.peak_bytes(batch),
            "output": coefficients + out,
        },
        {"output": coefficients, "encoding": ENCODING_COPIES * coefficients},
    )


def _chunk_bytes(work: Work) -> int:
    """Return the memory of source chunks while they are decoded: compressed and plain."""
    source, touched = work.source, 1
    for axis, width in enumerate(_widest(work)):
        start, n, chunk = _stored_axis(work, axis)
        # A slab that begins inside a chunk touches one more than it could fill.
        touched *= min(ceil_div(width, chunk) + 1, ceil_div(start + n, chunk) - start // chunk)
    held = min(touched, CHUNKS_IN_FLIGHT) * math.prod(source.chunks)
    return 2 * held * source.dtype.itemsize


def _mask_bytes(work: Work, slab: int) -> int:
    """Return the memory of a slab's mask: as read, as true and false, and its chunks."""
    mask = work.source.mask
    if mask is None:
        return 0
    chunks = 2 * CHUNKS_IN_FLIGHT * math.prod(mask.chunks) * mask.dtype.itemsize
    return slab * (mask.dtype.itemsize + 1) + chunks


def _stored_axis(work: Work, axis: int) -> tuple[int, int, int]:
    """Return where the selection begins along an axis of the work, its samples, and the chunk."""
    source, where = work.source, work.layout.order[axis]
    isel: Mapping[str, list[int]] = work.settings["open"]["isel"]
    start = isel.get(source.dims[where], [0])[0]
    return start, source.shape[where], max(source.chunks[where], 1)


def _widest(work: Work) -> list[int]:
    """Return the samples of the largest slab that is read at a time, along each axis."""
    laid = work.layout
    spans = (laid.reads(axis)[0] for axis in range(len(laid.order)))
    return [max(b - a for a, b in along) for along in spans]


def _samples(work: Work, whole_chunks: bool) -> int:
    """Return the samples that all blocks read together: their boxes are products of spans.

    With `whole_chunks` those that are decoded for it; the last chunk ends with the source.
    """
    laid = work.layout
    if laid.points is not None:  # Tiles with points in them are no product.
        one = (laid.parts(i) for i in range(laid.cuts.counts[-1]))
        slabs = [part.slab for parts in one for part in parts]
        total = sum(
            math.prod(_along(work, axis, span, whole_chunks) for axis, span in enumerate(slab))
            for slab in slabs
        )
        return total * math.prod(laid.records)
    total = 1
    for axis in range(len(laid.order)):
        spans, count = laid.reads(axis)
        along = sum(_along(work, axis, span, whole_chunks) for span in spans)
        if count > len(spans):
            along = _along(work, axis, spans[len(spans) // 2], whole_chunks) * count
        total *= along
    return total


def _along(work: Work, axis: int, span: Span, whole_chunks: bool) -> int:
    """Return how many samples of one axis are read, or decoded, for a span of it."""
    if not whole_chunks:
        return span[1] - span[0]
    start, n, chunk = _stored_axis(work, axis)
    end = max(start + n, chunk)
    decoded = 0
    for run in repeated(*span, n):
        a, b = run.span
        first, last = (start + a) // chunk * chunk, ceil_div(start + b, chunk) * chunk
        decoded += min(last, end) - first
    return decoded


def _notes(work: Work) -> list[str]:
    laid = work.layout
    notes = [*work.source.notes, *left_out(work)]
    for dim, n in dropped(laid).items():
        notes.append(f"the last {n} samples along {dim} fill no whole frame and are dropped")
    notes += _seams(work)
    waste = _samples(work, whole_chunks=True) / _samples(work, whole_chunks=False)
    if waste > WASTE:
        chunks = " x ".join(map(str, work.source.chunks))
        notes.append(
            f"blocks decode {waste:.1f} times the samples that they use: the source's chunks "
            f"({chunks}) reach beyond them; smaller chunks would be read faster"
        )
    return notes


def _seams(work: Work) -> list[str]:
    """Say what is particular about a seamless transform of images or volumes."""
    grid, notes = work.layout.grid, []
    if grid is not None and len(work.layout.lengths) == 2:
        notes.append(
            'seamless images have pyramid = "fold", whose filters end within a tile\'s halo; its '
            "coefficients differ from those of Kymatio, the default elsewhere, by about 1e-3"
        )
    if grid is not None and grid.seen > CUT_OFF:
        notes.append(
            f"the smallest filters are cut off at the Nyquist frequency, at {grid.seen:.2g} of "
            "their peak, and ring beyond any halo: tiles match the whole volume to 8e-3 of each "
            "path's maximum on white noise, to 1e-3 on smooth volumes. A larger sigma_0 rings "
            "less: 4e-6 at 1.5, 1e-6 from 2 on"
        )
    return notes


def measure_unit(work: Work) -> float:
    """Return the seconds that the engine takes for one unit of noise, on this machine."""
    plan = work.layout.plan
    x = np.random.default_rng(0).standard_normal(plan.shape).astype(work.dtype)
    seconds = math.inf
    for _ in range(2):  # The first call fills caches, and may compile for some seconds.
        begun = time.perf_counter()
        plan.apply(x)
        seconds = min(seconds, time.perf_counter() - begun)
        if seconds > 30.0:
            break
    return seconds


def n_units(work: Work) -> int:
    """Return how many units the engine is given in all."""
    laid = work.layout
    return laid.computed // math.prod(laid.plan.shape)


def estimate_seconds(plan: RunPlan) -> float:
    """Return about how long the run would take, from one unit measured here."""
    parallel = min(plan.job.workers, plan.n_blocks)
    return measure_unit(plan.work) * n_units(plan.work) / parallel * 1.15 + 3.0


def summary(plan: RunPlan, seconds: float | None) -> dict[str, Any]:
    """Return what a plan says, JSON-able."""
    work, laid, job = plan.work, plan.work.layout, plan.job
    orders = np.bincount(laid.plan.paths.columns["order"]).tolist()
    return {
        "name": job.name,
        "source": {
            "store": absolute(job.source.store, plan.base),
            "variable": work.source.variable,
            "dims": list(work.source.dims),
            "shape": list(work.source.shape),
            "dtype": str(work.source.dtype),
            "chunks": list(work.source.chunks),
        },
        "engine": work.engine.to_dict(),
        "transform": work.settings["transform"],
        "output": {
            "store": plan.output,
            "dims": list(plan.template.dims),
            "shape": list(plan.template.shape),
            "dtype": str(plan.template.dtype),
            "coordinates": {
                c.name: {"dims": list(c.dims), **{k: v for k, v in c.attrs.items() if k == "units"}}
                for c in plan.template.coordinates
            },
            "valid_fraction": _fraction_dims(plan.template),
            "paths_per_order": orders,
        },
        "blocks": plan.n_blocks,
        "units": n_units(work),
        "unit_samples": list(laid.unit),
        "seamless": _seamless(work),
        "shard": list(laid.shards),
        "bytes_source": plan.bytes_source,
        "bytes_read": plan.bytes_read,
        "bytes_written": plan.bytes_written,
        "peak_bytes_per_worker": plan.peak_bytes,
        "memory_per_worker": memory(work, job.slots, job.held),
        "budget_bytes_per_worker": job.memory,
        "cluster": job.run.cluster,
        "workers": job.workers,
        "threads": job.threads,
        "estimated_seconds": seconds,
        "notes": [*plan.notes, *foreseen(look(plan.output).ledger, work)],
        "fingerprint": work.fingerprint,
    }


def _seamless(work: Work) -> dict[str, Any] | None:
    """Return how a seamless transform is cut, None for others."""
    laid = work.layout
    if laid.grid is None:
        return None
    return {
        "block": list(laid.unit),
        "halo": list(laid.halo),
        "tolerance": laid.grid.tolerance,
        "filters_reach": laid.grid.reach,
        "at_nyquist": laid.grid.seen,
        "edges": laid.transform.edges,
        "overhead": 1 - math.prod(work.source.shape) / laid.computed,
    }


def _mib(n: int) -> int:
    return math.ceil(n / 2**20)
