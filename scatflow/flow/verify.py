"""Check what a run has written: every stored byte, its labels, and some blocks computed again."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import zarr
from dask.system import CPU_COUNT
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from scatflow.dataset import (
    COEFFICIENTS,
    DAMAGE,
    DONE,
    FRACTION,
    Template,
    checksum,
    differing,
    erase_region,
    finish,
    metadata_of,
    open_arrays,
    parsed_metadata,
    relabelled,
    rewrite,
    same_json,
    shard_key,
)
from scatflow.errors import OutputError, SourceError
from scatflow.flow.block import Receipt, evaluate, place
from scatflow.flow.earlier import Arrays, read_region, regions
from scatflow.flow.labels import attrs_meanwhile, template
from scatflow.flow.layout import layout
from scatflow.flow.ledger import Ledger
from scatflow.flow.lock import locked
from scatflow.flow.output import check, look, lost, unreadable
from scatflow.flow.plan import RunPlan
from scatflow.flow.progress import Terminal
from scatflow.flow.run import run
from scatflow.flow.settings import fingerprint
from scatflow.flow.sight.tally import Tally
from scatflow.flow.work import Work, from_settings, written

Found = TypeVar("Found")

ROUNDINGS = 32
"""Operations on the largest coefficient of a block whose rounding is within the tolerance."""

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
"""What two backends may differ by, relative to the largest coefficient of the path in the block."""

NAMED = 10
"""Blocks that a line names; the others are counted."""

SAMPLE = 4
"""Blocks that are computed again unless told otherwise."""

OF_THE_VERSION = ("scatflow_version", "history")
"""Attributes that name the version of scatflow which wrote them."""


@dataclass(frozen=True)
class Problem:
    """Something in an output that is not what it should be."""

    kind: str
    """ledger, metadata, coordinate, coefficients, values, source or unfinished."""
    object: str
    """Key in the store."""
    what: str
    block: int | None = None
    place: str = ""
    """Which records and samples the block reads."""

    def __str__(self) -> str:
        where = "" if self.block is None else f"block {self.block} ({self.place}), "
        return f"{where}{self.object}: {self.what}"


@dataclass(frozen=True)
class Report:
    """What was looked at, and what is wrong."""

    output: str
    blocks: int
    done: int
    sample: list[int]
    """Blocks that were computed again."""
    backend: str
    """What computed them."""
    worst: float
    """Largest difference that was found, relative to the path's maximum in the block."""
    worst_by: dict[str, float]
    """The same of those blocks that each backend had computed."""
    computed: dict[str, int]
    """Blocks that are done, by the backend that computed them."""
    problems: list[Problem]
    repaired: list[Problem] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong (any more)."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-able values."""
        told = dataclasses.asdict(self)
        return {**told, "sound": self.sound}


def verify(
    plan: RunPlan,
    *,
    sample: int = SAMPLE,
    seed: int | None = None,
    repair: bool = False,
    say: Callable[[str], None] = print,
) -> Report:
    """Compare an output with its ledger, its labels with the source, and some blocks with both.

    Nothing is written without `repair`.

    Parameters
    ----------
    plan : RunPlan
        The prepared job.
    sample : int
        Blocks to compute again from the source, on another backend.
    seed : int, optional
        Of the choice of these blocks; by default another one each time.
    repair : bool
        Write wrong labels anew, compute wrong blocks again, and look at those once more.
    say : callable
        Prints one line.

    Raises
    ------
    OutputError
        There is no output of this job, or its metadata are damaged beyond repair.
    OutputBusyError
        It is to be repaired while a run goes on.
    """
    plan, ledger = _opened(plan, say)
    first = _unreadable(plan)
    if first and not repair:
        raise OutputError(
            f"{plan.output}/{first[0]}. No coefficient can be read without it. scatflow verify "
            "--repair writes it anew."
        )
    if first:
        _restore(plan, first, say)
    arrays = open_arrays(plan.output, written(plan.work), "r")
    problems = [
        *_ledger(ledger),
        *_labels(plan, ledger),
        *_unfinished(ledger),
        *_stored(plan, ledger, arrays, np.flatnonzero(ledger.state == DONE)),
    ]
    bad = {p.block for p in problems}
    sound = [b for b in np.flatnonzero(ledger.state == DONE).tolist() if b not in bad]
    chosen = np.random.default_rng(seed).choice(sound, min(sample, len(sound)), replace=False)
    picked = sorted(int(b) for b in chosen)
    other = on_another_backend(plan.work)
    worst: dict[str, float] = {}
    for block in picked:
        difference, problem = _compared(plan, other, ledger, arrays, block)
        name = ledger.computed_by(block)
        worst[name] = max(worst.get(name, 0.0), difference)
        problems += [problem] if problem is not None else []
    report = Report(
        plan.output,
        int(ledger.state.size),
        ledger.counts()["done"],
        picked,
        str(other.engine.backend),
        max(worst.values(), default=0.0),
        worst,
        ledger.computed(),
        problems,
    )
    if repair and problems:
        report = _repaired(plan, report, say)
    return replace(report, repaired=[*first, *report.repaired])


# --- what is there -------------------------------------------------------------------------------


def _opened(plan: RunPlan, say: Callable[[str], None]) -> tuple[RunPlan, Ledger]:
    """Return the ledger, and the plan for the source as long as it was for the last run."""
    found = look(plan.output)
    if found.kind in ("absent", "half-made"):
        raise OutputError(f"There is nothing at {plan.output} to verify. Give scatflow run first.")
    if found.mendable:
        found = replace(found, kind="ours", ledger=Ledger.open(plan.output, mend=True))
    ledger = check(plan.output, found, plan.work, fresh=False)
    assert ledger is not None
    if ledger.growing:
        raise OutputError(
            f"A run that made {plan.output} longer was interrupted. Give scatflow run first: it "
            "goes on from there."
        )
    if fingerprint(ledger.settings) != ledger.fingerprint:
        raise OutputError(
            f"The settings in {plan.output}/ledger/zarr.json were changed: their hash is not the "
            "one beside them. Restore that file, or start over with scatflow run --fresh."
        )
    if ledger.fingerprint != plan.work.fingerprint:
        say("The source has grown since the last run; what that wrote is verified.")
        work = from_settings(ledger.settings, plan.base).on(plan.job.threads)
        plan = replace(plan, work=work, template=template(work))
    return plan, ledger


def _unreadable(plan: RunPlan) -> list[Problem]:
    """Return what keeps coefficients from being read: metadata of what blocks write."""
    found = unreadable(plan.output, plan.template)
    for name, expected in metadata_of(plan.template).items():
        if name in found:
            continue
        here = parsed_metadata(open_arrays(plan.output, [name], "r")[name])
        for key in ("shape", "data_type", "chunk_grid", "fill_value"):
            if not same_json(here.get(key), expected[key]):
                found[name] = _instead(key, here, expected)
    return [Problem("metadata", f"{name}/zarr.json", why) for name, why in found.items()]


def _instead(key: str, here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    return f"{key} is {json.dumps(here.get(key))}, where {json.dumps(there.get(key))} belongs"


def _restore(plan: RunPlan, problems: Sequence[Problem], say: Callable[[str], None]) -> None:
    """Write the metadata of what blocks write anew, without which nothing can be looked at."""
    for problem in problems:
        say(str(problem))
    with locked(plan.output):
        group = zarr.open_group(plan.output, mode="r+", use_consolidated=False)
        _write_metadata(group, plan.template, {p.object for p in problems})


def _write_metadata(group: zarr.Group, described: Template, keys: Collection[str]) -> None:
    for name, expected in metadata_of(described).items():
        if (key := f"{name}/zarr.json") in keys:
            text = json.dumps(expected, indent=2).encode()
            sync((group.store_path / key).set(default_buffer_prototype().buffer.from_bytes(text)))


def _ledger(ledger: Ledger) -> Iterator[Problem]:
    for told in ledger.damaged:
        key, _, why = told.partition(" ")
        yield Problem("ledger", key, f"cannot be read {why}: its blocks count as missing")


def _unfinished(ledger: Ledger) -> Iterator[Problem]:
    counts = ledger.counts()
    left = counts["missing"] + counts["failed"]
    if left:
        what = (
            f"{counts['missing']} of {ledger.state.size} blocks are missing and "
            f"{counts['failed']} failed: scatflow run computes them"
        )
        yield Problem("unfinished", "ledger/state", what)


def _labels(plan: RunPlan, ledger: Ledger) -> Iterator[Problem]:
    """Compare coordinates and the dataset's metadata with what a run would write."""
    group = zarr.open_group(plan.output, mode="r", use_consolidated=False)
    wrong = differing(group, plan.template)
    for coordinate in plan.template.coordinates:
        name = coordinate.name
        if name not in wrong and group[name].shape != coordinate.shape:  # type: ignore[union-attr]
            wrong[name] = f"has the shape {group[name].shape}"  # type: ignore[union-attr]
    wrong = {**relabelled(group, plan.template), **wrong}
    for name, why in wrong.items():
        yield Problem("coordinate", name, why)
    attrs = dict(group.attrs)
    expected = plan.template.dataset_attrs
    if ledger.pending().size:
        expected = attrs_meanwhile(attrs, plan.template)
    for name, value in expected.items():
        if name not in OF_THE_VERSION and not same_json(attrs.get(name), value):
            what = f"the attribute {name} is {attrs.get(name)!r}, where {value!r} belongs"
            yield Problem("metadata", "zarr.json", what)
    yield from _of_variables(group, plan)
    told = (_metadata(group, "").get("consolidated_metadata") or {}).get("metadata", {})
    for name in (*written(plan.work), *(c.name for c in plan.template.coordinates)):
        if name not in wrong and not same_json(told.get(name), _metadata(group, name)):
            yield Problem("metadata", "zarr.json", f"the consolidated metadata of {name} differ")


def _of_variables(group: zarr.Group, plan: RunPlan) -> Iterator[Problem]:
    """Compare the metadata of what blocks write with those of a new output."""
    for name, expected in metadata_of(plan.template).items():
        array = group[name]
        assert isinstance(array, zarr.Array)  # It has been opened.
        found = parsed_metadata(array)
        for key in sorted(expected.keys() | found.keys()):
            if not same_json(found.get(key), expected.get(key)):
                yield Problem("metadata", f"{name}/zarr.json", _instead(key, found, expected))


def _metadata(group: zarr.Group, name: str) -> dict[str, Any]:
    """Return the metadata of a group or one of its arrays as they are stored."""
    stored = sync((group.store_path / name / "zarr.json").get())
    return {} if stored is None else dict(json.loads(stored.to_bytes()))


# --- what is in it -------------------------------------------------------------------------------


def _stored(
    plan: RunPlan, ledger: Ledger, arrays: Arrays, blocks: NDArray[np.int64]
) -> Iterator[Problem]:
    """Read every byte of some blocks and compare their checksums with the ledger's."""
    laid = plan.work.layout
    gone = set(lost(plan.output, ledger, plan.work).tolist())

    def one(block: int) -> tuple[int, str, str | None]:
        if block in gone:
            return block, COEFFICIENTS, "is not in the store, or empty"
        found, name = 0, COEFFICIENTS
        try:
            for name, where in regions(plan.work, arrays, block):
                found = checksum(read_region(arrays[name], where), found)
        except DAMAGE as problem:
            return block, name, f"cannot be read ({type(problem).__name__}: {problem})"
        if found == ledger.checksum[block]:
            return block, name, None
        why = f"has the checksum {found:08x}, the ledger {ledger.checksum[block]:08x}"
        return block, COEFFICIENTS, why

    tally = Tally(blocks.size)
    with Terminal().begin(tally) as view:
        for block, name, why in in_threads(one, blocks.tolist(), _threads(plan)):
            tally.add(Receipt(block, samples=laid.samples(block), failure=why))
            view.tick()
            if why is not None:
                yield _of_block("coefficients", plan, arrays, block, why, name)


def in_threads(call: Callable[[int], Found], items: Iterable[int], threads: int) -> Iterator[Found]:
    """Yield what `call` returns for each item, in order, a few items in flight."""
    pool = ThreadPoolExecutor(threads)
    flying: deque[Future[Found]] = deque()
    try:
        for item in items:
            flying.append(pool.submit(call, item))
            if len(flying) > 2 * threads:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()
    finally:  # Who is interrupted does not wait for a store that may not answer.
        pool.shutdown(wait=False, cancel_futures=True)


def _threads(plan: RunPlan) -> int:
    """Return how many blocks are read at a time: as many as the job would compute here."""
    here = plan.job.profile.kind in ("local", "threads")
    return max(1, min(plan.job.workers * plan.job.threads, CPU_COUNT)) if here else CPU_COUNT


def _of_block(
    kind: str, plan: RunPlan, arrays: Arrays, block: int, what: str, name: str = COEFFICIENTS
) -> Problem:
    region = dict(regions(plan.work, arrays, block))[name]
    key = f"{arrays[name].path}/{shard_key(arrays[name], region)}"
    return Problem(kind, key, what, block, place(plan.work, block))


def on_another_backend(work: Work) -> Work:
    """Return the same work for the reference backend, or for NumPy's if it is the reference's."""
    name = "numpy" if work.engine.backend == "plain" else "plain"
    engine: Any = dataclasses.replace(work.engine, backend=name)  # type: ignore[type-var]
    laid, source = work.layout, work.source
    per_block = laid.cuts.per_block
    new = layout(engine, laid.transform, source.dims, source.shape, work.dtype, per_block)
    return replace(work, engine=engine, layout=new)


def _compared(
    plan: RunPlan, other: Work, ledger: Ledger, arrays: Arrays, block: int
) -> tuple[float, Problem | None]:
    """Compute a block again and return its largest difference, and what is wrong with it."""
    try:
        made = evaluate(other, block)
    except SourceError as problem:
        return 0.0, _of_block("source", plan, arrays, block, f"cannot be read: {problem}")
    if made.source_checksum != ledger.source[block]:
        return 0.0, _of_block(
            "source", plan, arrays, block, "the source is not what was transformed"
        )
    stored = np.asarray(arrays[COEFFICIENTS][other.layout.region(block)])
    if FRACTION in arrays:
        (_, where), _ = regions(plan.work, arrays, block)
        if not np.array_equal(arrays[FRACTION][where], made.kept.fraction, equal_nan=True):
            what = "valid_fraction is not the share of valid samples"
            return 0.0, _of_block("values", plan, arrays, block, what)
    difference = apart(stored, made.kept.values, other.layout.path_axis)
    worst = float(difference.max())
    if worst <= TOLERANCE[str(other.dtype)]:
        return worst, None
    path = int(difference.argmax())
    what = (
        f"path {path}, by backend {ledger.computed_by(block)}, is {worst:.1e} of its maximum away "
        f"from what backend {other.engine.backend} computes, and "
        f"{TOLERANCE[str(other.dtype)]:.0e} is allowed"
    )
    return worst, _of_block("values", plan, arrays, block, what)


def apart(found: NDArray[Any], expected: NDArray[Any], path_axis: int) -> NDArray[np.float64]:
    """Return how far coefficients are from others, relative to the largest one of their path.

    Paths that are faint beside the largest coefficient of all, as beside the mean of a record with
    an offset, carry its rounding: what that may be, over the tolerance, is added to what they are
    compared with. Infinite where only one of them is missing (NaN).

    Examples
    --------
    >>> apart(np.array([[1.0, 2.0], [0.0, 0.1]]), np.array([[1.0, 2.1], [0.0, 0.1]]), 0).round(3)
    array([0.048, 0.   ])
    """
    a, b = (np.moveaxis(v, path_axis, 0).reshape(v.shape[path_axis], -1) for v in (found, expected))
    missing = np.isnan(b)
    distance = np.where(missing, 0.0, np.abs(a.astype(np.float64) - b))
    largest = float(np.where(missing, 0.0, np.abs(b)).max(initial=0.0))
    distance[np.isnan(a) != missing] = np.inf
    most = np.where(missing, 0.0, np.abs(b)).max(axis=1)
    most += ROUNDINGS * np.finfo(found.dtype).eps / TOLERANCE[str(found.dtype)] * largest
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = distance.max(axis=1) / most
    return np.asarray(np.where(distance.max(axis=1) == 0, 0.0, ratio), np.float64)


# --- making it right -----------------------------------------------------------------------------


def _repaired(plan: RunPlan, report: Report, say: Callable[[str], None]) -> Report:
    """Write wrong labels anew, compute wrong blocks again, and look at both once more."""
    changed = [p for p in report.problems if p.kind == "source"]
    if changed:
        raise OutputError(
            f"The source changed: {changed[0]}. A repair would mix old and new results. Restore "
            "the source, or start over with scatflow run --fresh."
        )
    for problem in report.problems:
        say(str(problem))
    bad = sorted({p.block for p in report.problems if p.block is not None})
    with contextlib.ExitStack() as stack:
        hold = stack.enter_context(locked(plan.output))
        ledger = Ledger.open(plan.output, "r+", mend=True)
        ledger.hold = hold
        if ledger.fingerprint != plan.work.fingerprint or ledger.growing:
            raise OutputError(
                f"{plan.output} was changed by a run while it was verified: nothing was repaired. "
                "Give the same command again."
            )
        group = zarr.open_group(plan.output, mode="r+", use_consolidated=False)
        rewrite(group, plan.template, {p.object for p in report.problems if p.kind == "coordinate"})
        told = {p.object for p in report.problems if p.kind == "metadata"}
        _write_metadata(group, plan.template, told)
        finish(group, attrs_meanwhile(group.attrs, plan.template))
        for problem in report.problems:
            if problem.kind == "ledger":
                sync((group.store_path / problem.object).delete())
        before = {block: int(ledger.checksum[block]) for block in bad}
        ledger.forget(np.array(bad, np.int64))
        ledger.flush(None)
        arrays = open_arrays(plan.output, written(plan.work))
        for block in bad:  # Zarr reads a shard at the array's end before it writes inside of it.
            for name, where in regions(plan.work, arrays, block):
                erase_region(arrays[name], where)
    run(plan, say=say)
    ledger = Ledger.open(plan.output)
    if others := [b for b, crc in before.items() if ledger.checksum[b] not in (0, crc)]:
        say(
            f"{len(others)} of {len(bad)} blocks that were computed again have other bytes than "
            f"the ledger told of: {', '.join(map(str, others[:NAMED]))}"
            + (f" and {len(others) - NAMED} more" if len(others) > NAMED else "")
        )
    again = [
        *_labels(plan, ledger),
        *_unfinished(ledger),
        *_stored(plan, ledger, arrays, np.array(bad, np.int64)),
    ]
    fixed = [p for p in report.problems if p not in again]
    return replace(
        report,
        problems=again,
        repaired=fixed,
        done=ledger.counts()["done"],
        computed=ledger.computed(),
    )
