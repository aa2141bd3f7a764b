"""Work: an opened source and what is to be done with it, the same in the client and in workers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from scatflow.archive import Source, open_source, stores
from scatflow.archive.clock import first_uneven
from scatflow.dataset import COEFFICIENTS, FRACTION
from scatflow.engines import Engine, engine_from_dict
from scatflow.errors import JobError, OutputError, SourceError
from scatflow.flow.gaps import reach
from scatflow.flow.layout import Layout, Transform, layout
from scatflow.flow.settings import ALGORITHM, ANY, differences, fingerprint

if TYPE_CHECKING:  # Workers have no job file to check, and start faster without what checks it.
    from scatflow.flow.job import Job


@dataclass(frozen=True, eq=False)
class Work:
    """All that one block needs besides its index."""

    source: Source
    engine: Engine
    layout: Layout
    dtype: np.dtype[Any]
    settings: Mapping[str, Any]
    """What determines the output's bytes, JSON-able; kept in the output's ledger."""

    @property
    def shares(self) -> bool:
        """Whether the output holds the share of valid samples of each window.

        It does where samples may be missing; integers that have no way to say so do not pay for
        it, unless the job asks for weights. Where they lack chunks, coefficients are NaN.
        """
        how = self.layout.transform.gaps
        return how == "weight" or (how == "nan" and self.source.may_have_gaps)

    @cached_property
    def seen(self) -> int | None:
        """Samples to each side of its centre that a window sees, None: all of its unit."""
        if self.layout.transform.tile is not None:
            return None
        return reach(self.engine, self.layout.plan, self.dtype)

    @property
    def fingerprint(self) -> str:
        """Hash of the settings."""
        return fingerprint(self.settings)

    def cut_into(self, per_block: tuple[int, ...]) -> Work:
        """Return the same work in blocks of so many units: no coefficient depends on it."""
        laid, source = self.layout, self.source
        new = layout(self.engine, laid.transform, source.dims, source.shape, self.dtype, per_block)
        settings = {**self.settings, "block": _cut(new)}
        return replace(self, layout=new, settings=settings).on(laid.plan.threads)

    def by(self, backend: str) -> Work:
        """Return the same work for a process that has another backend compute NumPy's arrays.

        Raises
        ------
        BackendError
            What it computes with is not there.
        """
        laid, engine = self.layout, self.engine
        if laid.seamless:
            made = engine.canonical_plan(self.dtype, laid.transform.tile, backend)
        else:
            made = engine.plan(laid.plan.shape, self.dtype, delegate=backend)
        plan = replace(laid.plan, delegate=made.delegate)
        return replace(self, layout=replace(laid, plan=plan))

    def on(self, threads: int) -> Work:
        """Return the same work for an engine that keeps so many threads busy.

        No byte of the output depends on it, so it is not among the settings.
        """
        return replace(self, layout=replace(self.layout, plan=self.layout.plan.on(threads)))


def absolute(store: str, base: str) -> str:
    """Return a store's URL, or its absolute path if it is a path relative to `base`.

    Examples
    --------
    >>> absolute("day.zarr", "/data"), absolute("s3://bucket/day.zarr", "/data")
    ('/data/day.zarr', 's3://bucket/day.zarr')
    >>> absolute("file:///data/my%20day.zarr", "/")
    '/data/my day.zarr'
    """
    if not stores.is_url(store):
        store = os.path.join(base, os.path.expanduser(store))
    path = local_path(store)
    return store if path is None else os.path.normpath(path)


def local_path(store: str) -> str | None:
    """Return the path of a store on this machine's file systems, None for other URLs."""
    path = stores.absolute(store)
    return None if stores.is_url(path) else path


def from_job(job: Job, base: str) -> Work:
    """Open the source of a job and work out what is to be done.

    Raises
    ------
    SourceError, SourceNotFoundError
        The source cannot be opened.
    JobError
        The transform does not fit the source, or the output lies in the source.
    """
    _check_apart(job.source.store, job.output.store, base)
    table = job.source
    source = open_source(
        absolute(table.store, base),
        table.variable,
        group=table.group,
        dims=table.dims,
        sel=table.sel,
        isel=table.isel,
        mask=table.mask,
        absent=table.absent,
    )
    if table.clock == "check":
        check_even(source, job.transform.dims, REMEDY)
    transform = Transform(
        tuple(job.transform.dims),
        job.transform.boundary,
        job.frame,
        job.hop,
        job.edges,
        job.transform.gaps,
        job.transform.tile,
    )
    check_forward(source, transform)
    dtype = np.dtype(job.output.dtype)
    laid = layout(job.engine, transform, source.dims, source.shape, dtype)
    settings = {
        "algorithm": ALGORITHM,
        # As the job names it: a store may be moved together with its results.
        "source": {**source.fingerprint(), "store": table.store},
        "open": {**source.to_spec(), "store": table.store},
        "engine": {**job.engine.to_dict(), "backend": job.backend},
        "transform": transform.to_dict(),
        "output": {"dtype": job.output.dtype},
        "block": _cut(laid),
    }
    return Work(source, job.engine, laid, dtype, settings).on(job.threads)


REMEDY = (
    "Select an even part with [source] isel or sel, write the source again on an even grid, or set "
    '[source] clock = "ignore".'
)
"""What a job can do about samples that are not evenly spaced."""


def check_even(source: Source, dims: Sequence[str], remedy: str) -> None:
    """Refuse transforms along dimensions whose samples are not evenly spaced."""
    for dim in dims:
        coord = source.coords.get(dim)
        found = first_uneven(coord.values) if coord is not None else None
        if coord is None or found is None:
            continue
        sample, steps = found
        where = f"{dim} sample {sample} ({coord.values[sample]})"
        what = f"{where} lies {steps:.6g} steps after the one before it"
        if steps != steps:
            what = f"{where} has no value"
        elif round(steps) > 1 and abs(steps - round(steps)) < 0.01:
            what = f"{round(steps) - 1} samples are left out before {where}"
        elif steps == 0:
            what = f"all lie at the same {dim} ({coord.values[0]})"
        raise SourceError(
            f"The samples of {source.variable} are not evenly spaced, and a transform takes them "
            f"as if they were: {what}. {remedy}"
        )


def check_forward(source: Source, transform: Transform) -> None:
    """Refuse seamless records that run back in time: what is appended to them is older."""
    for dim in transform.dims:
        axis = source.axes.get(dim)
        if transform.boundary != "seamless" or axis is None or axis.rate_hz is None:
            continue
        if axis.exact_step < 0:
            raise SourceError(
                f"{dim!r} of {source.variable} runs back in time: sample 0 is {axis.at([0])[0]}, "
                f"sample 1 {axis.at([1])[0]}. A seamless record grows at its end, which would be "
                'the past. Write the source again in the order of time, or set boundary = "frames" '
                'or "whole".'
            )


def from_settings(settings: Mapping[str, Any], base: str) -> Work:
    """Open the work that a ledger describes, in a worker.

    Raises
    ------
    SourceError
        If the source is not what it was when the run began.
    """
    spec = dict(settings["open"])
    source = open_source(**{**spec, "store": absolute(spec["store"], base)})
    found = {**source.fingerprint(), "store": spec["store"]}
    changed = differences(settings["source"], found)
    if changed:
        raise SourceError(
            f"The source {spec['store']} changed while it was read: {'; '.join(changed)}."
        )
    described = dict(settings["engine"])
    if described["backend"] == ANY:
        described["backend"] = "numpy"
    engine = engine_from_dict(described)
    dtype = np.dtype(settings["output"]["dtype"])
    transform = Transform.from_dict(settings["transform"])
    per_block = tuple(settings["block"]["units"])
    laid = layout(engine, transform, source.dims, source.shape, dtype, per_block)
    if _cut(laid) != dict(settings["block"]):
        raise OutputError(
            "This worker would cut the work in other blocks than the client: "
            "their versions of scatflow differ. Install the same version on both."
        )
    return Work(source, engine, laid, dtype, settings)


def written(work: Work) -> tuple[str, ...]:
    """Name the variables that blocks write."""
    return (FRACTION, COEFFICIENTS) if work.shares else (COEFFICIENTS,)


def _cut(laid: Layout) -> dict[str, Any]:
    """Return how the work is cut, which results of one store must share."""
    halo = max(laid.halo)  # the same along each dimension
    return {"units": list(laid.cuts.per_block), "samples": list(laid.unit), "halo": halo}


def _check_apart(source: str, output: str, base: str) -> None:
    """Refuse an output that is, contains or lies in its source."""
    here, there = absolute(source, base), absolute(output, base)
    if local_path(source) is not None and local_path(output) is not None:
        here, there = os.path.realpath(here), os.path.realpath(there)
    inner, outer = here.rstrip("/") + "/", there.rstrip("/") + "/"
    if inner.startswith(outer) or outer.startswith(inner):
        how = "is" if inner == outer else "contains" if inner.startswith(outer) else "lies inside"
        raise JobError(
            f"[output] store {there} {how} the source {here}: writing would destroy the source. "
            "Name another place."
        )
