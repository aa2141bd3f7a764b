"""What the commands say, as lines of text."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from scatflow.backends import choose
from scatflow.errors import BackendError

if TYPE_CHECKING:
    from scatflow.flow.verify import Report

EXTRAS = {
    "torch": ("torch",),
    "cuda12": ("cupy", "dask_cuda"),
    "hpc": ("dask_jobqueue",),
    "s3": ("s3fs",),
    "ingest": (
        "pymseed",
        "soundfile",
        "nibabel",
        "PIL",
        "tifffile",
        "h5netcdf",
        "edfio",
        "pydicom",
    ),
    "reference": ("kerchunk",),
    "plot": ("matplotlib",),
    "browse": ("holoviews",),
    "sklearn": ("sklearn",),
}
"""Modules that each extra of the package brings; ``mkl`` brings a library without a module."""

LIBRARIES = ("numpy", "scipy", "numba", "zarr", "xarray", "dask", "distributed", "pydantic")


def as_text(told: Mapping[str, Any]) -> str:
    """Return JSON."""
    return json.dumps(told, indent=2)


def size(n: float) -> str:
    """Write a number of bytes.

    Examples
    --------
    >>> size(512), size(3 * 2**20)
    ('512 B', '3.0 MiB')
    """
    if n < 1024:
        return f"{n:.0f} B"
    power = min(int(math.log2(n) / 10), 5)
    return f"{n / 1024**power:.1f} {('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB')[power]}"


def _shape(dims: list[str], shape: list[int]) -> str:
    return ", ".join(f"{d}: {n:,}" for d, n in zip(dims, shape, strict=True))


def plan_lines(told: Mapping[str, Any]) -> list[str]:
    """Say what a job would do."""
    from scatflow.flow.sight.tally import clock

    source, output, transform = told["source"], told["output"], told["transform"]
    overhead = told["bytes_read"] / max(told["bytes_source"], 1) - 1
    orders = ", ".join(f"{n} of order {k}" for k, n in enumerate(output["paths_per_order"]))
    parameters = ", ".join(
        f"{k}={v}" for k, v in told["engine"].items() if k != "kind" and v is not None
    )
    lines = [
        f"job        {told['name']}",
        f"source     {source['store']}: {source['variable']}",
        f"           ({_shape(source['dims'], source['shape'])}) {source['dtype']}",
        f"transform  {told['engine']['kind']} along {', '.join(transform['dims'])}, "
        f"boundary {transform['boundary']}",
        f"           {parameters}",
        f"output     {output['store']}",
        f"           ({_shape(output['dims'], output['shape'])}) {output['dtype']}",
        f"           paths: {orders}",
        *(_coordinate(name, c) for name, c in output["coordinates"].items()),
        *_gap_lines(transform["gaps"], output["valid_fraction"]),
        f"blocks     {told['blocks']:,} of up to "
        f"{' x '.join(map(str, told['shard']))} coefficients; {told['units']:,} units of "
        f"{' x '.join(map(str, told['unit_samples']))} samples",
        *_seamless_lines(told["seamless"]),
        f"reads      {size(told['bytes_read'])} ({overhead:.1%} more than the source has)",
        f"writes     {size(told['bytes_written'])} before compression",
        f"memory     {size(told['peak_bytes_per_worker'])} at most in each worker, "
        f"budget {size(told['budget_bytes_per_worker'])}:",
        f"           {_items(told['memory_per_worker'])}",
        f"runs on    {told['cluster']}, {told['workers']} worker(s) with {told['threads']} "
        "thread(s) each",
    ]
    seconds = told["estimated_seconds"]
    if seconds is not None:
        lines.append(f"time       about {clock(seconds)}, from one unit timed here")
    return [*lines, *(f"note       {note}" for note in told["notes"])]


def _items(memory: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size(n)}" for name, n in memory.items() if n)


def _gap_lines(how: str, dims: list[str] | None) -> Iterator[str]:
    """Say what becomes of windows that see missing samples."""
    words = {
        "nan": "windows that see missing samples are NaN",
        "weight": "windows are divided by the valid share of their weight, NaN below a half",
        "raise": "blocks with missing samples fail",
    }
    if dims is not None:
        yield _coordinate("valid_fraction", {"dims": dims})
    yield f"gaps       {words[how]}"


def _seamless_lines(told: Mapping[str, Any] | None) -> Iterator[str]:
    """Say how a seamless transform is cut, and what that costs."""
    if told is None:
        return
    yield (
        f"seamless   tiles of {' x '.join(f'{n:,}' for n in told['block'])} samples, halo of "
        f"{' x '.join(f'{n:,}' for n in told['halo'])} on each side; "
        f"filters reach {told['filters_reach']:,.0f}, down to {told['tolerance']:.0e} of their peak"
    )
    beyond = "reflected" if told["edges"] == "reflect" else "repeated (periodic)"
    yield (
        f"           {told['overhead']:.1%} of the samples are computed in vain; beyond its edges "
        f"the source is {beyond}"
    )


def _coordinate(name: str, told: Mapping[str, Any]) -> str:
    units = f" [{told['units']}]" if "units" in told else ""
    return f"           {name} ({', '.join(told['dims'])}){units}"


def status_lines(told: Mapping[str, Any]) -> list[str]:
    """Say how far a job is."""
    from scatflow.flow.devices import listed
    from scatflow.flow.sight.tally import clock

    sent = _batch_lines(told["batch"])
    if told["state"] == "not started":
        return [f"{told['output']}: not started", *sent]
    by = f" ({listed(told['backends'])})" if len(told["backends"]) > 1 else ""
    lines = [
        f"{told['output']}: {told['state']}",
        f"  {told['done']} of {told['blocks']} blocks done{by}, {told['missing']} missing, "
        f"{told['failed']} failed",
    ]
    lines += sent
    run = told["run"]
    if run is not None and told["state"] == "running":
        ago = max(time.time() - run["updated"], 0)
        lines.append(
            f"  process {run['pid']} on {run['host']} is at work: {run['rate']:,.0f} samples/s "
            f"({ago:.0f} s ago)"
        )
        if told["eta_seconds"] is not None:
            lines.append(f"  about {clock(told['eta_seconds'])} left")
        if run.get("dashboard"):
            lines.append(f"  dashboard: {run['dashboard']}")
    elif run is not None:
        lines.append(
            f"  process {run['pid']} on {run['host']} died; the same scatflow run goes on from here"
        )
    for dim, first in told["provisional_from"].items():
        lines.append(
            f"  {dim}: provisional from window {first['index']} ({first['coordinate']}) on, where "
            "coefficients see the end of the record"
        )
    return [*lines, *(f"  block {block}: {why}" for block, why in told["failures"].items())]


def _batch_lines(batch: Mapping[str, Any] | None) -> list[str]:
    if batch is None:
        return []
    state = {True: "waits or runs", False: "has ended", None: "is not known on this machine"}
    return [
        f"  sent as job {batch['number']} of {batch['kind']}, which {state[batch['at_work']]}; "
        f"log: {batch['log']}"
    ]


def verify_lines(told: Report) -> list[str]:
    """Say what was checked and what is wrong."""
    from scatflow.flow.devices import listed

    lines = [f"repaired: {problem}" for problem in told.repaired]
    lines += [str(problem) for problem in told.problems]
    again = f"{len(told.sample)} computed again with backend {told.backend}"
    if told.sample:
        again += f", at most {told.worst:.1e} of a path's maximum apart"
    by = f" ({listed(told.computed)})" if len(told.computed) > 1 else ""
    checked = f"{told.output}: {told.done} of {told.blocks} blocks done{by} and read; {again}."
    if told.sound:
        return [*lines, checked, "Nothing is wrong."]
    remedy = "" if told.repaired else " scatflow verify --repair makes good what can be."
    return [*lines, checked, f"{len(told.problems)} problem(s).{remedy}"]


def doctor_lines() -> list[str]:
    """Say what scatflow found on this machine."""
    import scatflow
    from scatflow.backends.fft import library as fft_library

    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    extras = [f"  {name}: {_present(modules)}" for name, modules in EXTRAS.items()]
    return [
        f"scatflow   {scatflow.__version__}",
        f"python     {platform.python_version()} on {platform.platform()}",
        f"libraries  {versions}",
        *_backends(),
        f"fft        {fft_library()}{_beside()}",
        f"kernels    {_kernels()}",
        f"threads    {_processors()} processors to use, {os.cpu_count()} in all",
        f"cpu        {cpu()}",
        f"memory     {size(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'))}",
        "extras",
        *extras,
        f"  mkl: {_mkl()}",
    ]


def _backends() -> Iterator[str]:
    """Say which backends there are, and which one serves whom, and why."""
    there = [name for name in choose.BACKENDS if choose.installed(name)]
    missing = [name for name in choose.BACKENDS if name not in there]
    rest = f"; not installed: {', '.join(missing)}" if missing else ""
    yield f"backends   {', '.join(there)}{rest}"
    follows = "numpy, of tensors torch"
    if "cupy" in there:
        follows += ", of arrays on GPUs cupy"
        yield f"  cupy (and skcuda): {_devices()}"
    for ndim in (1, 2, 3):
        name, why = choose.chosen(None, ndim)
        lacking = " - not installed: every call will fail" if name in missing else ""
        yield f"  {ndim}D: {name or follows}, {why}{lacking}"


def _devices() -> str:
    """Say which GPUs CuPy sees, or why it does not."""
    try:
        return str(choose.module("cupy").describe())
    except BackendError as error:
        return str(error)


def _kernels() -> str:
    """Say whether compiled code is kept on disk."""
    from scatflow.backends.compiling import KEPT

    if KEPT:
        return "compiled once and kept on disk"
    return (
        "compiled anew in each process, some seconds: no folder for them can be written to. "
        "NUMBA_CACHE_DIR may name one"
    )


def _mkl() -> str:
    """Say whether MKL is there, in use or not: pip knows its package, conda only its files."""
    from scatflow.backends.fft import library as fft_library

    try:
        importlib.metadata.version("mkl")
    except importlib.metadata.PackageNotFoundError:
        return "present" if fft_library().startswith("MKL") else "not installed (mkl)"
    return "present"


def _beside() -> str:
    """Say where transforms of our own are faster than MKL's."""
    from scatflow.backends import fft

    if fft.AT_HOME or not fft.library().startswith("MKL"):
        return ""
    return "; on this processor signals are transformed in lanes, which is faster"


def _processors() -> int:
    """Return the processors that this process may use; not every system can tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _present(modules: tuple[str, ...]) -> str:
    missing = [m for m in modules if importlib.util.find_spec(m) is None]
    return "present" if not missing else f"not installed ({', '.join(missing)})"


def cpu() -> str:
    """Return the processor's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    except FileNotFoundError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


@contextmanager
def copying() -> Iterator[Callable[[int, int], None]]:
    """Show how much of an ingest is done, on a terminal only; yields what has to be told."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("copying"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with bar:
        task = bar.add_task("copying", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
