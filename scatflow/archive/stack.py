"""Files that hold an array each, alike, to one archive: what their readers share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scatflow.archive.axis import Axis
from scatflow.archive.files import folders, labels
from scatflow.archive.ingest import (
    Ingested,
    Layout,
    PathName,
    Progress,
    chunk_shape,
    slabs,
)
from scatflow.archive.partial import new_archive
from scatflow.errors import IngestError

Box: TypeAlias = tuple[slice, ...]

Coords: TypeAlias = Mapping[str, tuple[tuple[str, ...], Any, Mapping[str, Any]]]


@dataclass(frozen=True)
class Head:
    """What is known of one file's array before its numbers are read.

    Parameters
    ----------
    attrs : mapping
        Of the variable.
    missing : number, optional
        Stored value that means missing.
    pages : bool
        The file is read by whole entries of its first axes, all but the last two.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: Mapping[str, Axis] = field(default_factory=dict)
    coords: Coords = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    pages: bool = False

    def alike(self) -> tuple[Any, ...]:
        """Return what files of one archive have in common."""
        return self.dims, self.shape, self.dtype, dict(self.axes)

    def kind(self) -> dict[str, str]:
        """Return what files of one archive have in common, in words."""
        sizes = ", ".join(f"{dim}: {n}" for dim, n in zip(self.dims, self.shape, strict=True))
        return {"sizes": f"({sizes})", "type": str(self.dtype)}


Open: TypeAlias = Callable[[Path], AbstractContextManager[Callable[[Box], NDArray[Any]]]]
"""Opens a file, and reads boxes of it."""


def write_stack(
    paths: Sequence[Path],
    heads: Sequence[Head],
    open_file: Open,
    output: PathName,
    *,
    along: str,
    variable: str,
    source: str,
    overwrite: bool,
    on_progress: Progress | None,
    stacked: bool | None = None,
    notes: Sequence[str] = (),
    **options: Any,
) -> Ingested:
    """Write files to one archive; several are stacked along a new first dimension.

    Parameters
    ----------
    paths, heads : sequence
        The files and what they hold.
    open_file : callable
        Reads them.
    output : path
        The archive to make.
    along : str
        Name of the dimension that counts files; its coordinate is what the heads say of it, or the
        files' names.
    variable : str
        Name of the array.
    source : str
        What the files are, for the archive's attributes.
    stacked : bool, optional
        Whether there is that dimension; by default where there are several files.
    notes : sequence of str
        What a person should know of the files.
    **options
        What else the numbers depend on, for an ingest that goes on where another one stood.

    Raises
    ------
    IngestError
        Files are not alike, a dimension has the name of the new one, or the output exists.
    """
    head = heads[0]
    for path, other in zip(paths, heads, strict=True):
        if other.alike() != head.alike():
            sizes = [dict(zip(h.dims, h.shape, strict=True)) for h in (other, head)]
            raise IngestError(
                f"{path} holds {sizes[0]} {other.dtype}, but {paths[0]} {sizes[1]} {head.dtype}"
                f"{'' if sizes[0] != sizes[1] else ', on another grid'}: files of one archive are "
                "alike. Ingest it by itself."
            )
    many = len(paths) > 1 if stacked is None else stacked
    if many and along in head.dims:
        raise IngestError(
            f"{along!r} is the dimension along which files are stacked: rename yours."
        )
    named = {along: head.coords.get(along, ((along,), labels(paths), {}))}
    below = folders(paths, along) if many else {}
    layout = Layout(
        variable,
        (along, *head.dims) if many else head.dims,
        (len(paths), *head.shape) if many else head.shape,
        (1, *_chunks(head)) if many else _chunks(head),
        head.dtype,
        _fill(head),
        axes=head.axes,
        coords={**below, **head.coords, **(named if many and along not in head.axes else {})},
        attrs=head.attrs,
        group_attrs={"source": f"{source}: {len(paths)} files" if many else source},
    )
    with new_archive(output, paths, overwrite=overwrite) as partial:
        array = partial.create(layout, **options)
        boxes = list(_boxes(head, array.chunks[many:]))
        nbytes = [math.prod(s.stop - s.start for s in box) * head.dtype.itemsize for box in boxes]
        file, begin = divmod(partial.done or 0, len(boxes))
        done, total = file * sum(nbytes) + sum(nbytes[:begin]), len(paths) * sum(nbytes)
        for i, path in enumerate(paths[file:], file):
            with open_file(path) as read:
                for k, box in enumerate(boxes[begin:], begin):
                    values = np.ascontiguousarray(read(box), head.dtype)
                    where: Any = (i, *box) if many else box
                    array[where] = values
                    if partial.due():
                        partial.mark(i * len(boxes) + k + 1)
                    done += nbytes[k]
                    if on_progress is not None:
                        on_progress(done, total)
            begin = 0
    told = (*partial.notes, *notes)
    return Ingested(str(output), variable, layout.dims, layout.shape, str(head.dtype), told)


def _fill(head: Head) -> Any:
    """Return the value of what is not written: what means missing, or zero."""
    if head.dtype.kind == "f":
        return np.nan
    missing = head.attrs.get("_FillValue", 0)
    with np.errstate(invalid="ignore"):
        stored = np.asarray(missing).astype(head.dtype).item()
    return stored if stored == missing else head.dtype.type(0).item()


def _chunks(head: Head) -> tuple[int, ...]:
    if head.pages:
        return (*[1] * (len(head.shape) - 2), *chunk_shape(head.shape[-2:]))
    return chunk_shape(head.shape)


def _boxes(head: Head, chunks: tuple[int, ...]) -> Any:
    """Yield what is read at a time: slabs, or whole pages where a file gives nothing less."""
    if not head.pages:
        yield from slabs(head.shape, chunks, head.dtype.itemsize)
        return
    for page in np.ndindex(*head.shape[:-2]):
        yield (*(slice(k, k + 1) for k in page), slice(0, head.shape[-2]), slice(0, head.shape[-1]))
