"""NumPy's .npz archives of named arrays to an archive."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from scatflow.archive.axis import Axis
from scatflow.archive.files import input_files
from scatflow.archive.ingest import Ingested, PathName, Progress
from scatflow.archive.npy import ITEM, Step, check_numbers, plain_heads
from scatflow.archive.partial import local_output
from scatflow.archive.stack import Box, write_stack
from scatflow.archive.stores import listed
from scatflow.errors import IngestError

HEADERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}
"""What reads the header of an array of numbers, by its version."""


def ingest_npz(
    inputs: Sequence[PathName] | PathName,
    output: PathName,
    *,
    variable: str | None = None,
    dims: Sequence[str] | str | None = None,
    step: Step | Sequence[Step] | None = None,
    units: str | Sequence[str] | None = None,
    axes: Mapping[str, Axis] | None = None,
    attrs: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Ingested:
    """Write an array of .npz archives to one archive; several are stacked along ``item``.

    An array is unpacked, compressed or not, to a nameless file beside the output, one at a time:
    memory does not depend on its size, and the disk holds it once more while it is read.

    Parameters
    ----------
    inputs : paths
        Files, whose arrays of that name have one shape.
    output : path
        The archive to make.
    variable : str, optional
        Name of the array, in the files and in the archive; needed where there are several.
    dims, step, units, axes, attrs
        As in :func:`scatflow.archive.npy.ingest_npy`.
    overwrite : bool
        Replace an archive of that name.
    on_progress : callable, optional
        Is told the bytes done, and of how many.

    Raises
    ------
    IngestError
        If a file is damaged or no .npz archive, has no such array or not one of real numbers,
        shapes or types differ, or the output exists.
    """
    paths = input_files(inputs, (".npz",), ".npz files")
    name, shapes = variable, []
    for path in paths:
        with _archive(path) as archive:
            name = _chosen(path, archive, name)
            with archive.open(f"{name}.npy") as file:
                shape, _, dtype = _header(path, file)
        check_numbers(path, shape, dtype)
        shapes.append((shape, dtype))
    heads = plain_heads(paths, shapes, dims, step, units, axes, attrs)
    beside = local_output(output).parent

    @contextmanager
    def open_file(path: Path) -> Iterator[Callable[[Box], NDArray[Any]]]:
        with tempfile.TemporaryFile(dir=beside) as unpacked:
            with _archive(path) as archive, archive.open(f"{name}.npy") as file:
                shutil.copyfileobj(file, unpacked, 2**20)
            unpacked.flush()
            unpacked.seek(0)
            shape, fortran, dtype = _header(path, unpacked)
            where: Any = (dtype, "r", unpacked.tell(), shape, "F" if fortran else "C")
            # Mapped anew each time: pages of a file that stays mapped would count as memory.
            yield lambda box: np.array(np.memmap(unpacked, *where)[box], order="C")

    return write_stack(
        paths,
        heads,
        open_file,
        output,
        along=ITEM,
        variable=str(name),
        source="NumPy .npz",
        overwrite=overwrite,
        on_progress=on_progress,
    )


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError) as problem:
        raise IngestError(
            f"{path} is damaged, or no .npz archive: {problem}. Fetch it again, or leave it out."
        ) from problem


def _chosen(path: Path, archive: zipfile.ZipFile, name: str | None) -> str:
    """Return the array to take."""
    there = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
    if name is None and len(there) == 1:
        return there[0]
    if name not in there:
        wanted = f"has no array {name!r}" if name else "holds several arrays, or none"
        raise IngestError(f"{path} {wanted}: it has {listed(there)}. Name one with --variable.")
    return name


def _header(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = npy_format.read_magic(file)
        if version not in HEADERS:
            raise ValueError(f"its header is of version {version}")
        shape, fortran, dtype = HEADERS[version](file)
    except ValueError as problem:
        raise IngestError(
            f"{path} cannot be read: {problem}. Save it with numpy.savez."
        ) from problem
    return shape, fortran, dtype
