"""An archive while it is written: ``OUT.zarr.partial``, renamed at the end, or gone on with later.

Beside the numbers it keeps a note of what it is made from and how much is done. The same ingest,
given again after it was killed, goes on from there; it does so only if the note says that nothing
has changed since.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from scatflow.archive.ingest import Layout, PathName, create, writing
from scatflow.archive.stores import absolute, is_url
from scatflow.errors import IngestError

SECONDS = 10.0
"""From one note of what is done to the next: so much is done again at most."""

NOTES = ".ingest"
"""Folder of the notes in an unfinished archive."""

VERSION = 1
"""Of what readers write: unfinished archives of another one are not gone on with."""


class Partial:
    """An archive that is being written.

    Attributes
    ----------
    folder : Path
        Where it is written.
    done : object
        What :meth:`mark` was told last, before the ingest was interrupted; None where it begins.
    notes : list of str
        What a person should know of an earlier, interrupted ingest.
    """

    def __init__(self, folder: Path, inputs: Iterable[Path]) -> None:
        self.folder = folder
        self.done: Any = None
        self.notes: list[str] = []
        self._inputs = list(inputs)
        self._marked = time.monotonic()

    @property
    def resumable(self) -> bool:
        """Whether there is something to go on with."""
        return (self.folder / NOTES / "done.json").exists()

    def create(self, layout: Layout, **options: Any) -> zarr.Array[Any]:
        """Write the metadata of the archive, or find them as an interrupted ingest left them.

        Parameters
        ----------
        layout : Layout
            What the archive will be.
        **options
            What else the numbers depend on.

        Returns
        -------
        zarr.Array
            The variable, to be filled.
        """
        made_from = _made_from(self._inputs, layout, options)
        if self.resumable:
            changed = _changed(_load(self.folder / NOTES / "from.json"), made_from)
            if not changed:
                return self._found(layout)
            self.notes.append(
                f"An interrupted ingest could not be gone on with, as {changed}: all is new."
            )
        self.forget()
        _clear(self.folder)
        array = create(self.folder, layout)
        (self.folder / NOTES).mkdir()
        _save(self.folder / NOTES / "from.json", made_from)
        return array

    def _found(self, layout: Layout) -> zarr.Array[Any]:
        self.done = _load(self.folder / NOTES / "done.json")
        self.notes.append("It went on where an interrupted ingest stood.")
        for torn in self.folder.rglob("*.partial"):  # Zarr writes so, and renames.
            torn.unlink()
        with zarr.config.set({f"array.{key}": value for key, value in writing(layout).items()}):
            return zarr.open_array(str(self.folder), path=layout.variable, mode="r+")

    def forget(self) -> None:
        """Have nothing to go on with: a note must not outlive what it says is there."""
        (self.folder / NOTES / "done.json").unlink(missing_ok=True)

    def due(self) -> bool:
        """Tell whether it is time for :meth:`mark`."""
        return time.monotonic() - self._marked >= SECONDS

    def mark(self, done: Any) -> None:
        """Note how much is done: numbers and lists, all of which is written."""
        os.sync()  # Or the note could outlive a failure of the machine, and the numbers not.
        _save(self.folder / NOTES / "done.json", done)
        self._marked = time.monotonic()


@contextmanager
def new_archive(output: PathName, inputs: Iterable[Path], *, overwrite: bool) -> Iterator[Partial]:
    """Give an archive to write, which gets its final name if all goes well.

    What an interrupt, a full disk or the end of the process leaves is gone on with later, if
    :meth:`Partial.mark` was called; else it vanishes.

    Raises
    ------
    IngestError
        If the output exists (and `overwrite` is not given, or it is no Zarr store), lies on top
        of an input, or is being written by another process.
    """
    final = local_output(output)
    _check_free(final, inputs, overwrite)
    folder = final.with_name(final.name + ".partial")
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    partial = Partial(folder, inputs)
    try:
        _lock(lock, folder)
        try:
            yield partial
            partial.forget()
            shutil.rmtree(folder / NOTES, ignore_errors=True)
            _put_in_place(folder, final, overwrite)
        except BaseException as problem:
            # Files that cannot be ingested will not do better when asked again.
            if isinstance(problem, IngestError) or not partial.resumable:
                shutil.rmtree(folder)
            raise
    finally:
        os.close(lock)


# --- the notes -------------------------------------------------------------------------------


def _made_from(
    inputs: Iterable[Path], layout: Layout, options: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return what the bytes of an archive depend on, in three parts that can be compared."""
    files = {}
    for path in inputs:
        if path.is_file():
            stat = path.stat()
            files[str(path)] = [stat.st_size, stat.st_mtime_ns]
    digest = hashlib.sha256()
    for name, (dims, values, attrs) in layout.coords.items():
        values = np.asarray(values)
        digest.update(f"{name} {dims} {values.dtype} {values.shape} {dict(attrs)}".encode())
        digest.update(values.tobytes())
    what = {
        "variable": layout.variable,
        "sizes": repr((layout.dims, layout.shape, layout.chunks, layout.dtype.str, layout.fill)),
        "axes": repr({dim: axis.to_dict() for dim, axis in layout.axes.items()}),
        "coordinates": digest.hexdigest(),
        "attributes": repr((dict(layout.attrs), dict(layout.group_attrs))),
        "options": repr(sorted(options.items())),
    }
    return {
        "files": files,
        "what": what,
        "by": {"readers": VERSION, "zarr": zarr.__version__},
    }


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say what differs between two ingests; nothing, if they are one."""
    old, new = before["files"], now["files"]
    for path in old:
        if path not in new:
            return f"{path} is no longer among its files"
        if old[path] != new[path]:
            return f"{path} has changed"
    if added := [path for path in new if path not in old]:
        return f"{added[0]} was not among its files"
    if list(old) != list(new):
        return "its files had another order"
    for key, value in now["what"].items():
        if before["what"].get(key) != value:
            return f"its {key} differed"
    for package, version in now["by"].items():
        if before["by"].get(package) != version:
            return f"it was made by {package} of version {before['by'].get(package)}"
    return ""


def _save(path: Path, told: Any) -> None:
    """Write a note that is never seen half."""
    new = path.with_suffix(".new")
    with new.open("w", encoding="utf-8") as file:
        json.dump(told, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _clear(folder: Path) -> None:
    for left in folder.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


# --- the output ------------------------------------------------------------------------------


def local_output(output: PathName) -> Path:
    """Return the path of an output, which must be local.

    Raises
    ------
    IngestError
        If it is a URL of something else than a file.
    """
    path = absolute(os.fspath(output))
    if is_url(path):
        raise IngestError(
            f"{path} is not a local path, and only a local folder can be renamed when complete: "
            "write to a local path, then copy it there."
        )
    return Path(path)


def _check_free(final: Path, inputs: Iterable[Path], overwrite: bool) -> None:
    resolved = final.resolve()
    for path in inputs:
        here = path.resolve()
        if resolved == here or resolved in here.parents:
            raise IngestError(
                f"The output {final} would replace the input {path}: choose another output."
            )
    if not os.path.lexists(final):
        return
    if not overwrite:
        raise IngestError(
            f"The output {final} exists, and nothing was written. Choose another name, or replace "
            "it with --overwrite."
        )
    if not any((final / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray")):
        raise IngestError(
            f"{final} exists and is no Zarr store, so --overwrite does not remove it. Choose "
            "another output, or remove it yourself."
        )


def _lock(folder: int, partial: Path) -> None:
    """Keep other processes out; the system drops the lock when this one ends, however it ends."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise IngestError(
                f"Another ingest is writing {partial}: wait for its end, or choose another output."
            ) from error
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
            raise  # Some network file systems know no locks: go on without.


def _put_in_place(partial: Path, final: Path, overwrite: bool) -> None:
    if overwrite and final.exists():
        replaced = final.with_name(final.name + ".replaced")
        if replaced.exists():
            shutil.rmtree(replaced)
        final.rename(replaced)
        try:
            partial.rename(final)
        except OSError:
            replaced.rename(final)
            raise
        shutil.rmtree(replaced)
    else:
        partial.rename(final)
