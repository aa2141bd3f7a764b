"""The output store: whose it is, making it, clearing it, and looking at its objects."""

from __future__ import annotations

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

from scatflow.blocks import Cuts
from scatflow.dataset import Template, create, finish
from scatflow.errors import OutputError
from scatflow.flow.ledger import DONE, Ledger
from scatflow.flow.settings import differences
from scatflow.flow.work import Work, local_path

MARKER = "scatflow_unfinished_template"
PARTIAL = ".partial"
"""Zarr writes local objects under such a name and renames them when they are whole."""

Kind = Literal["absent", "half-made", "ours", "foreign"]


@dataclass(frozen=True)
class Found:
    """What lies at the output's place."""

    kind: Kind
    ledger: Ledger | None = None


def look(store: str) -> Found:
    """Tell what lies at `store` without changing it."""
    try:
        root: Any = zarr.open(store, mode="r")
    except FileNotFoundError:
        return Found("absent" if _is_empty(store) else "foreign")
    except ValueError:  # Metadata that are not Zarr's.
        return Found("foreign")
    if not isinstance(root, zarr.Group):
        return Found("foreign")
    if root.attrs.get(MARKER):
        return Found("half-made")
    try:
        ledger = Ledger.open(store, "r+")
    except (FileNotFoundError, KeyError):
        return Found("foreign")
    return Found("ours" if ledger.fingerprint else "foreign", ledger)


def check(store: str, found: Found, work: Work, fresh: bool) -> Ledger | None:
    """Return the ledger to go on with, or None where the output has to be made.

    Raises
    ------
    OutputError
        The place is taken by something else, or by an output of other settings.
    """
    if found.kind == "foreign":
        raise OutputError(
            f"{store} exists, but scatflow did not write it: nothing was touched. "
            "Name another place in [output] store, or move it away yourself."
        )
    if found.ledger is None or fresh:
        return None
    if found.ledger.fingerprint != work.fingerprint:
        changed = differences(found.ledger.settings, work.settings)
        raise OutputError(
            f"{store} was written with other settings, so its blocks do not belong to this job: "
            f"{'; '.join(changed)} (there -> here). Restore the settings, name another [output] "
            "store, or start over with --fresh, which deletes what is there."
        )
    return found.ledger


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
    if look(store).kind == "ours":
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


def lost(store: str, ledger: Ledger, cuts: Cuts, depth: int) -> NDArray[np.int64]:
    """Return the blocks that are said to be done but whose shard is not in the store.

    Parameters
    ----------
    store : str
        The output.
    ledger : Ledger
        Its ledger.
    cuts : Cuts
        Its blocks.
    depth : int
        Axes of the variable: a shard's key has one number for each.
    """
    there = np.zeros(cuts.n_blocks, bool)
    for key in _shards(store):
        numbers = key.split("/")
        if len(numbers) == depth and all(n.isdigit() for n in numbers):
            there[_block_at(tuple(map(int, numbers)), cuts)] = True
    return np.flatnonzero((ledger.state == DONE) & ~there)


def _block_at(shard: tuple[int, ...], cuts: Cuts) -> int:
    """Return the block of a shard: other axes than those of the work grid have one shard."""
    n = len(cuts.counts)
    # Seamless: the grid's last axis is the output's last, behind the path axis.
    position = shard[:n] if all(s == 0 for s in shard[n:]) else (*shard[: n - 1], shard[-1])
    return cuts.index(position)


def _shards(store: str) -> Iterator[str]:
    """Yield the keys of all shards, such as ``0/0/3``."""
    path = local_path(store)
    if path is None:
        yield from sync(_list_remote(_store_path(store)))
        return
    top = os.path.join(path, "scattering", "c")
    for folder, _, files in os.walk(top):
        prefix = os.path.relpath(folder, top).replace(os.sep, "/")
        for name in files:
            yield name if prefix == "." else f"{prefix}/{name}"


def sweep(store: str) -> None:
    """Remove what processes left that were killed while they wrote (local stores)."""
    path = local_path(store)
    if path is None:
        return
    for folder, _, files in os.walk(path):
        for name in files:
            if name.endswith(PARTIAL):
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
        return all(e.name.endswith(PARTIAL) for e in entries)


def _store_path(store: str) -> StorePath:
    return StorePath(FsspecStore.from_url(store))


async def _list_remote(target: StorePath) -> list[str]:
    prefix = f"{target.path}/scattering/c/".lstrip("/")
    return [key[len(prefix) :] async for key in target.store.list_prefix(prefix)]


async def _list_top(target: StorePath) -> list[str]:
    return [key async for key in target.store.list_dir(target.path)]


async def _clear_remote(target: StorePath) -> None:
    root = f"{target.path}/zarr.json".lstrip("/")
    for key in [k async for k in target.store.list_prefix(target.path)]:
        if key != root:
            await target.store.delete(key)
    await target.store.delete(root)
