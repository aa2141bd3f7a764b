"""The output store: whose it is, making it, clearing it, and looking at its objects."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync
from zarr.storage import FsspecStore, StorePath

from scatflow.archive.stores import BAD_METADATA, EXTRAS
from scatflow.dataset import (
    COEFFICIENTS,
    DAMAGE,
    DONE,
    FRACTION,
    UNFINISHED,
    Template,
    create,
    finish,
    open_arrays,
)
from scatflow.errors import MissingExtraError, OutputError
from scatflow.flow.ledger import DamagedLedgerError, Ledger, LostLedgerError
from scatflow.flow.settings import differences, growth
from scatflow.flow.work import Work, local_path, written

MARKER = "scatflow_unfinished_template"

Kind = Literal["absent", "half-made", "ours", "damaged", "foreign"]


@dataclass(frozen=True)
class Found:
    """What lies at the output's place."""

    kind: Kind
    ledger: Ledger | None = None
    why: str = "scatflow did not write it"
    """What is wrong with a foreign or damaged one."""
    mendable: bool = False
    """Whether a repair can compute again what a damaged one no longer tells of."""


def look(store: str) -> Found:
    """Tell what lies at `store` without changing it.

    Raises
    ------
    MissingExtraError
        The URL needs a package that is not installed.
    OutputError
        The URL cannot be opened.
    """
    check_reachable(store)
    try:
        root: Any = zarr.open(store, mode="r")
    except FileNotFoundError:
        return Found("absent" if _is_empty(store) else "foreign")
    except BAD_METADATA as problem:
        return Found("foreign", why=f"its metadata are not those of Zarr ({problem})")
    if not isinstance(root, zarr.Group):
        return Found("foreign")
    if root.attrs.get(MARKER):
        return Found("half-made")
    try:
        ledger = Ledger.open(store, "r+")
    except FileNotFoundError:
        return Found("foreign")
    except LostLedgerError as problem:
        return Found("damaged", why=f"its ledger is damaged: {problem} cannot be read")
    except DamagedLedgerError as problem:
        return Found("damaged", why=f"its ledger is damaged: {problem}", mendable=True)
    except BAD_METADATA as problem:
        why = f"its ledger is damaged or of another version of scatflow ({problem})"
        return Found("foreign", why=why)
    return Found("ours", ledger) if ledger.fingerprint else Found("foreign")


def check_reachable(store: str) -> None:
    """Make sure that there is a way to open a store, before Zarr is asked to.

    Raises
    ------
    MissingExtraError
        The URL needs a package that is not installed.
    OutputError
        The URL cannot be opened.
    """
    if local_path(store) is None:
        _store_path(store)


def check(store: str, found: Found, work: Work, fresh: bool) -> Ledger | None:
    """Return the ledger to go on with, or None where the output has to be made.

    The ledger may be that of a shorter source: see :mod:`scatflow.flow.grow`.

    Raises
    ------
    OutputError
        The place is taken by something else, or by an output of other settings.
    """
    if found.kind == "foreign":
        raise OutputError(
            f"{store} exists, but {found.why}: nothing was touched. "
            "Name another place in [output] store, or move it away yourself."
        )
    if found.kind == "damaged" and not fresh:
        mend = "Restore that file, or compute all blocks again with scatflow run --fresh."
        if found.mendable:
            mend = (
                "scatflow verify --repair computes those that this object tells of again, and "
                "scatflow run --fresh all."
            )
        raise OutputError(
            f"{store} exists, but {found.why}. Which of its blocks are done is not known. {mend}"
        )
    if found.ledger is None or fresh:
        return None
    if found.ledger.fingerprint != work.fingerprint:
        _refuse_unless_grown(store, found.ledger, work)
        return found.ledger
    n = work.layout.cuts.n_blocks
    if found.ledger.state.size != n:
        raise OutputError(
            f"The ledger of {store} is damaged: it has {found.ledger.state.size} blocks instead of "
            f"{n}. Start over with --fresh, which deletes what is there."
        )
    return found.ledger


def unreadable(store: str, described: Template) -> dict[str, str]:
    """Say which of the arrays that blocks write cannot be opened, and why."""
    names = [COEFFICIENTS] if described.fraction is None else [COEFFICIENTS, FRACTION]
    found = {}
    for name in names:
        try:
            open_arrays(store, [name], "r")
        except DAMAGE as problem:
            found[name] = f"it cannot be read ({type(problem).__name__}: {problem})"
    return found


def check_readable(store: str, described: Template) -> None:
    """Make sure that there are arrays to write to.

    Raises
    ------
    OutputError
        The metadata of one are damaged or gone.
    """
    for name, why in unreadable(store, described).items():
        raise OutputError(
            f"{store}/{name}/zarr.json: {why}. No coefficient can be read or written without it. "
            "scatflow verify --repair writes it anew."
        )


def _refuse_unless_grown(store: str, ledger: Ledger, work: Work) -> None:
    """Refuse an output of other settings, unless only the source has become longer since.

    Raises
    ------
    OutputError
        Something else differs.
    """
    if growth(ledger.settings, work.settings) is not None:
        return
    changed = differences(ledger.settings, work.settings)
    whole = ""
    if work.layout.transform.boundary == "whole" and any("block.samples" in c for c in changed):
        whole = (
            'With boundary = "whole" every coefficient depends on the length of its record; '
            "seamless and frames let one grow. "
        )
    raise OutputError(
        f"{store} was written with other settings, so its blocks do not belong to this job: "
        f"{'; '.join(changed)} (there -> here). {whole}Restore the settings, name another "
        "[output] store, or start over with --fresh, which deletes what is there."
    )


def make(store: str, work: Work, template: Template) -> Ledger:
    """Write the template and an empty ledger where nothing of worth is.

    A process that dies on the way leaves a store that :func:`look` calls half-made (or absent):
    the dataset's attributes, which replace the marker, are its last write.
    """
    try:
        clear(store)
        root = create(store, template, MARKER)
        ledger = Ledger.create(root, work.settings, work.fingerprint, work.layout.cuts.n_blocks)
        finish(root, template.dataset_attrs)
    except OSError as problem:
        raise OutputError(
            f"The output {store} cannot be written: {problem}. "
            "Give a place that can be written in [output] store."
        ) from problem
    return ledger


def clear(store: str) -> None:
    """Delete a store that is ours, its root metadata last: it stays recognisable until then."""
    if look(store).kind in ("ours", "damaged"):
        zarr.open_group(store, mode="r+").attrs.put({MARKER: True})
    path = local_path(store)
    if path is None:
        target = _store_path(store)
        sync(_clear_remote(target))
        return
    if not os.path.isdir(path):
        return
    with os.scandir(path) as entries:
        names = sorted((e.name, e.is_dir(follow_symlinks=False)) for e in entries)
    for name, is_dir in names:
        if is_dir:
            shutil.rmtree(os.path.join(path, name))
        elif name != "zarr.json":
            os.unlink(os.path.join(path, name))
    Path(path, "zarr.json").unlink(missing_ok=True)


def provisional(store: str) -> dict[str, Any]:
    """Return from where on an output of ours will change when its source grows."""
    found = zarr.open_group(store, mode="r").attrs.get("provisional_from")
    return dict(json.loads(found)) if isinstance(found, str) else {}


def lost(store: str, ledger: Ledger, work: Work) -> NDArray[np.int64]:
    """Return the blocks that are said to be done but of which an object is not in the store.

    Parameters
    ----------
    store : str
        The output.
    ledger : Ledger
        Its ledger.
    work : Work
        What was done.
    """
    layout = work.layout
    axes = {COEFFICIENTS: range(len(layout.shape)), FRACTION: layout.windowed}
    everywhere = np.ones(layout.cuts.n_blocks, bool)
    for name in written(work):
        there = np.zeros(layout.cuts.n_blocks, bool)
        for key in _shards(store, name):
            numbers = key.split("/") if key else []
            if len(numbers) == len(axes[name]) and all(n.isdecimal() for n in numbers):
                shard = dict(zip(axes[name], map(int, numbers), strict=True))
                block = layout.block_of(tuple(shard.get(a, 0) for a in range(len(layout.shape))))
                if block is not None:
                    there[block] = True
        everywhere &= there
    return np.flatnonzero((ledger.state == DONE) & ~everywhere)


def _shards(store: str, name: str) -> Iterator[str]:
    """Yield the keys of all shards, such as ``0/0/3`` ("" of a number without axes).

    Empty files on this machine are none.
    """
    path = local_path(store)
    if path is None:
        yield from sync(_list_remote(_store_path(store), name))
        return
    top = os.path.join(path, name, "c")
    if os.path.isfile(top) and os.path.getsize(top):
        yield ""
    for folder, _, files in os.walk(top):
        prefix = os.path.relpath(folder, top).replace(os.sep, "/")
        for file in files:
            if file.isdecimal() and os.path.getsize(os.path.join(folder, file)):
                yield file if prefix == "." else f"{prefix}/{file}"


def sweep(store: str) -> None:
    """Remove what processes left that were killed while they wrote (local stores)."""
    path = local_path(store)
    if path is None:
        return
    for folder, _, files in os.walk(path):
        for name in files:
            if name.endswith(UNFINISHED):
                Path(folder, name).unlink(missing_ok=True)


def _is_empty(store: str) -> bool:
    path = local_path(store)
    if path is None:
        return not sync(_list_top(_store_path(store)))
    if not os.path.lexists(path):
        return True
    if not os.path.isdir(path):
        return False
    with os.scandir(path) as entries:
        return all(e.name.endswith(UNFINISHED) for e in entries)


def _store_path(store: str) -> StorePath:
    protocol = store.split(":", 1)[0]
    try:
        return StorePath(FsspecStore.from_url(store))
    except ImportError as problem:
        package = EXTRAS.get(protocol, protocol)
        line = f'"scatflow[{package}]"' if package == "s3" else package
        raise MissingExtraError(
            f"Outputs at {protocol}:// need a package that is not installed ({problem}). "
            f"Install it with: pip install {line}"
        ) from problem
    except ValueError as problem:
        raise OutputError(
            f"The output {store} cannot be opened: {problem}. "
            "Give a path, or a URL of a protocol that fsspec knows, in [output] store."
        ) from problem


async def _list_remote(target: StorePath, name: str) -> list[str]:
    prefix = f"{target.path}/{name}/c/".lstrip("/")
    return [key[len(prefix) :] async for key in target.store.list_prefix(prefix)]


async def _list_top(target: StorePath) -> list[str]:
    return [key async for key in target.store.list_dir(target.path)]


async def _clear_remote(target: StorePath) -> None:
    root = f"{target.path}/zarr.json".lstrip("/")
    for key in [k async for k in target.store.list_prefix(target.path)]:
        if key != root:
            await target.store.delete(key)
    await target.store.delete(root)
