"""References to the chunks of NetCDF4 and HDF5 files, which are read where they lie.

A reference is one JSON file in kerchunk's form: the metadata of a Zarr store, and for each chunk
the file, where in it the chunk begins, and how long it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zarr.storage import FsspecStore

from scatflow.errors import SourceError

FILES = "scatflow_files"
"""Key under which a reference keeps the sizes and times of its files."""


def is_reference(store: str) -> bool:
    """Tell whether a local path is one of references: a JSON file."""
    path = Path(store)
    return path.suffix == ".json" and path.is_file()


def stamp(path: Path) -> list[int]:
    """Return what tells that a file has changed."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def missing_chunks(refs: Mapping[str, Any], name: str) -> int:
    """Return how many chunks of an array a reference does not hold: they were never written."""
    array = json.loads(refs[f"{name}/.zarray"])
    chunks = zip(array["shape"], array["chunks"], strict=True)
    held = sum(key.startswith(f"{name}/") and "/.z" not in key for key in refs)
    return int(math.prod(-(-n // chunk) for n, chunk in chunks) - held)


def reference_store(path: str) -> FsspecStore:
    """Return the store that a reference describes.

    Raises
    ------
    SourceError
        If it is no reference, or one of its files is gone or has changed since.
    """
    from fsspec.implementations.reference import ReferenceFileSystem

    told = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(told, dict) or "refs" not in told:
        raise SourceError(
            f"{path} is no reference store: write one with scatflow ingest --reference."
        )
    for name, before in told.get(FILES, {}).items():
        file = Path(name)
        if not file.exists() or stamp(file) != before:
            what = "has changed since" if file.exists() else "is gone, to which"
            raise SourceError(
                f"{file} {what} the reference {path} was written: what it points to would be wrong "
                "numbers. Write the reference again with scatflow ingest --reference --overwrite."
            )
    files = ReferenceFileSystem(
        {"version": told["version"], "refs": told["refs"]},
        remote_protocol="file",
        asynchronous=True,
        skip_instance_cache=True,
    )
    return FsspecStore(files, read_only=True, path="")
