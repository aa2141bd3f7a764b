"""Find arrays and groups in Zarr stores, v2 and v3, on disk and behind URLs."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import zarr
from zarr.abc.store import Store
from zarr.storage import FsspecStore, StoreLike

from scatflow.archive.reference import is_reference, reference_store
from scatflow.errors import MissingExtraError, SourceError, SourceNotFoundError

Node = zarr.Array[Any] | zarr.Group

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
"""What to install for URLs of a protocol: our own extra, or a package."""


def is_url(store: str) -> bool:
    """Tell whether a store is a URL rather than a plain path."""
    return "://" in store or "::" in store


def absolute(store: str) -> str:
    """Return a store's address such that it means the same in every process.

    Plain paths and ``file://`` URLs become absolute paths; other URLs stay.
    """
    if store.startswith(("file://", "local://")):
        parts = urlsplit(store)
        store = unquote(parts.netloc + parts.path)
    return store if is_url(store) else str(Path(store).expanduser().absolute())


@dataclass(frozen=True)
class Address:
    """A place in a store: the store's absolute address and a path inside it."""

    store: str
    path: str = ""

    def __str__(self) -> str:
        return f"{self.store}/{self.path}" if self.path else self.store

    def __truediv__(self, name: str) -> Address:
        return Address(self.store, f"{self.path}/{name}".strip("/"))

    def open(self) -> Node:
        """Open the array or group that lies here, for reading.

        Raises
        ------
        SourceNotFoundError
            If nothing is there, or nothing that is Zarr.
        SourceError
            If its metadata cannot be understood.
        """
        if not is_url(self.store) and not Path(self.store).exists():
            raise SourceNotFoundError(
                f"There is no store at {self.store}. Check the path: relative ones start at the "
                "current folder."
            )
        try:
            node = self._open()
            dict(node.attrs)  # Zarr takes any JSON for attributes, and fails where they are used.
            return node
        except SourceError:
            raise
        except (FileNotFoundError, zarr.errors.NodeNotFoundError) as error:
            raise SourceNotFoundError(
                f"There is no Zarr array or group at {self}: no zarr.json, .zarray or .zgroup was "
                "found there. Give the folder that holds one of them."
            ) from error
        except OSError as error:
            raise SourceNotFoundError(f"The store {self} cannot be read: {error}.") from error
        except BAD_METADATA as error:
            raise SourceError(self._misunderstood(error)) from error

    def _misunderstood(self, error: Exception) -> str:
        """Say what is wrong with the metadata here, which Zarr could not make sense of."""
        why = textwrap.shorten(f"{type(error).__name__}: {error}", 300)
        fact = f"The metadata of {self} cannot be understood"
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
            return f"{fact}: they are not JSON ({why}). Restore the file from a copy."
        if OBJECTS.search(str(error)):
            return f"{fact} ({why}): object and structured types are not read. Store real numbers."
        return (
            f"{fact} ({why}): they are damaged, or of a program that writes what Zarr does not "
            "read. Restore them from a copy, or write the store again."
        )

    def _open(self) -> Node:
        if is_url(self.store):
            # Listing may be impossible behind a URL: consolidated metadata then says what is there.
            store: StoreLike = _remote(self.store)
            return zarr.open(store, mode="r", path=self.path)
        if is_reference(self.store):
            return zarr.open(reference_store(self.store), mode="r", path=self.path)
        # Consolidated metadata may be older than data that was appended since.
        return zarr.open(self.store, mode="r", path=self.path, use_consolidated=False)


OBJECTS = re.compile(r"object_codec_id|struct|\|[OV]")
"""In what Zarr says of types that are no numbers."""

BAD_METADATA = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
)
"""What Zarr raises on JSON that is not of its form."""


METADATA = ("zarr.json", ".zarray")
"""Files that tell where an array is."""


def arrays_in(address: Address, group: zarr.Group) -> tuple[dict[str, zarr.Array[Any]], list[str]]:
    """Return the arrays of a group by name, and why some of them cannot be opened.

    On disk each is opened by itself, so that stray files and arrays of other programs' types do
    not keep the others from being read.
    """
    folder = Path(address.store, address.path)
    if is_url(address.store) or not folder.is_dir():
        return dict(group.arrays()), []
    arrays: dict[str, zarr.Array[Any]] = {}
    notes = []
    for child in sorted(folder.iterdir()):
        if any((child / name).is_file() for name in METADATA):
            try:
                node = (address / child.name).open()
            except SourceError as error:
                notes.append(f"The array {child.name!r} is left out: {error}")
                continue
            if isinstance(node, zarr.Array):
                arrays[child.name] = node
    return arrays, notes


def _remote(url: str) -> Store:
    """Return the store behind a URL."""
    protocol = url.split(":", 1)[0]
    try:
        return FsspecStore.from_url(url, read_only=True)
    except ImportError as error:
        package = EXTRAS.get(protocol, protocol)
        line = f'"scatflow[{package}]"' if package == "s3" else package
        raise MissingExtraError(
            f"URLs that begin with {protocol}:// need a package that is not installed ({error}). "
            f"Install it with: pip install {line}"
        ) from error
    except ValueError as error:
        raise SourceNotFoundError(f"The store {url} cannot be opened: {error}.") from error


def listed(names: Iterable[str], most: int = 20) -> str:
    """Return names for a message, sorted and cut short."""
    names = sorted(names)
    shown = ", ".join(map(repr, names[:most]))
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown or "nothing"


def unsafe_codec(array: zarr.Array[Any]) -> str | None:
    """Return the name of a codec of the array that would load pickled objects, if it has one."""
    metadata = array.metadata
    if metadata.zarr_format == 2:
        codecs: list[Any] = [*(metadata.filters or ()), metadata.compressor]
        names = [str(getattr(codec, "codec_id", "")) for codec in codecs]
    else:
        names = [type(codec).__name__ for codec in metadata.codecs]
    return next((name for name in names if "pickle" in name.lower()), None)
