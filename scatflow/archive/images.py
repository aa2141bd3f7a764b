"""Folders of images (TIFF, PNG, JPEG) to an archive."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scatflow.archive.ingest import Ingested, PathName, Progress, extra, input_paths
from scatflow.archive.stack import Box, Head, write_stack
from scatflow.errors import IngestError

SUFFIXES = {
    "tiff": (".tif", ".tiff"),
    "png": (".png",),
    "jpeg": (".jpg", ".jpeg"),
}
"""Which files of a folder are taken."""


def ingest_tiff(
    inputs: Sequence[PathName] | PathName, output: PathName, **options: Any
) -> Ingested:
    """Write TIFF files to one archive, page by page; see :func:`ingest_images`."""
    return ingest_images(inputs, output, kind="tiff", **options)


def ingest_png(inputs: Sequence[PathName] | PathName, output: PathName, **options: Any) -> Ingested:
    """Write PNG files to one archive; see :func:`ingest_images`."""
    return ingest_images(inputs, output, kind="png", **options)


def ingest_jpeg(
    inputs: Sequence[PathName] | PathName, output: PathName, **options: Any
) -> Ingested:
    """Write JPEG files to one archive; see :func:`ingest_images`."""
    return ingest_images(inputs, output, kind="jpeg", **options)


def ingest_images(
    inputs: Sequence[PathName] | PathName,
    output: PathName,
    *,
    kind: str,
    variable: str = "image",
    attrs: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Ingested:
    """Write images to one archive.

    The dimensions are ``file`` (where there are several, or a folder was given; its labels are the
    files' names), ``page`` (of TIFF stacks), ``channel`` (of colour images), ``y`` and ``x``. One
    page is in memory at a time.

    Parameters
    ----------
    inputs : paths
        Files of equal size and type, or folders, whose images are taken in the order of their
        names.
    output : path
        The archive to make.
    kind : {"tiff", "png", "jpeg"}
        The format.
    variable : str
        Name of the array in the archive.
    attrs : mapping, optional
        Attributes of the variable.
    overwrite : bool
        Replace an archive of that name.
    on_progress : callable, optional
        Is told the bytes done, and of how many.

    Raises
    ------
    IngestError
        A folder has no such images, a file is damaged, sizes or types differ, or the output exists.
    MissingExtraError
        The package that reads the format is not installed.
    """
    paths, folder = _files(inputs, kind)
    reader = _Tiff() if kind == "tiff" else _Pillow(kind)
    found = [reader.head(path) for path in paths]
    told = [
        Head(h.dims, h.shape, h.dtype, h.axes, h.coords, {**h.attrs, **(attrs or {})}, pages=True)
        for h in found
    ]
    return write_stack(
        paths,
        told,
        reader.open,
        output,
        along="file",
        variable=variable,
        source=f"{kind.upper()} images",
        overwrite=overwrite,
        on_progress=on_progress,
        stacked=folder or len(paths) > 1,
    )


def _files(inputs: Sequence[PathName] | PathName, kind: str) -> tuple[list[Path], bool]:
    """Return the images, and whether one of the inputs is a folder."""
    paths: list[Path] = []
    folder = False
    for path in input_paths(inputs):
        if not path.is_dir():
            paths.append(path)
            continue
        folder = True
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES[kind])
        if not inside:
            raise IngestError(
                f"{path} holds no {kind.upper()} images ({', '.join(SUFFIXES[kind])}): check the "
                "folder and the format."
            )
        paths += inside
    return paths, folder


def _shaped(samples: int, pages: int, height: int, width: int) -> tuple[tuple[str, ...], Any]:
    dims: list[str] = []
    shape: list[int] = []
    for name, n in (("page", pages), ("channel", samples)):
        if n > 1:
            dims.append(name)
            shape.append(n)
    return (*dims, "y", "x"), (*shape, height, width)


def _check(path: Path, dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise IngestError(f"{path} holds {dtype}, and an archive holds real numbers: convert it.")


class _Pillow:
    """Images of one page, by Pillow."""

    def __init__(self, kind: str) -> None:
        self._images = extra("PIL.Image", "images")
        self._kind = kind

    def head(self, path: Path) -> Head:
        with self._image(path) as image:
            mode = "RGB" if image.mode == "P" else image.mode
            plain = np.asarray(self._images.new(mode, (1, 1)))
            samples = plain.shape[2] if plain.ndim == 3 else 1
            width, height = image.size
        _check(path, plain.dtype)
        dims, shape = _shaped(samples, 1, height, width)
        return Head(dims, shape, plain.dtype)

    @contextmanager
    def _image(self, path: Path) -> Iterator[Any]:
        most = self._images.MAX_IMAGE_PIXELS
        self._images.MAX_IMAGE_PIXELS = None  # Images are giant on purpose here.
        try:
            image = self._images.open(path)
        except OSError as problem:  # Pillow's own error is one, too.
            raise IngestError(f"{path} is no image that can be read: {problem}.") from problem
        finally:
            self._images.MAX_IMAGE_PIXELS = most
        with image:
            yield image

    @contextmanager
    def open(self, path: Path) -> Iterator[Callable[[Box], NDArray[Any]]]:
        with self._image(path) as image:
            try:
                values = np.asarray(image.convert("RGB") if image.mode == "P" else image)
            except (OSError, SyntaxError, ValueError) as problem:
                raise IngestError(
                    f"{path} is damaged: {problem}. Fetch it again, or leave it out."
                ) from problem
        if values.ndim == 3:
            values = np.moveaxis(values, -1, 0)
        yield lambda box: values[box]


class _Tiff:
    """Stacks of pages, by tifffile."""

    def __init__(self) -> None:
        self._tifffile = extra("tifffile", "TIFF")

    @contextmanager
    def _file(self, path: Path) -> Iterator[Any]:
        try:
            file = self._tifffile.TiffFile(path)
        except (self._tifffile.TiffFileError, OSError, ValueError) as problem:
            raise IngestError(f"{path} is no TIFF that can be read: {problem}.") from problem
        with file:
            yield file

    def head(self, path: Path) -> Head:
        with self._file(path) as file:
            pages = [(p.shape, p.dtype) for p in file.pages]
            first = file.pages[0]
            if any(page != pages[0] for page in pages):
                raise IngestError(
                    f"{path} holds pages of several sizes or types ({pages[0]}, "
                    f"{next(p for p in pages if p != pages[0])}): save those of one kind apart."
                )
            dtype = np.dtype(first.dtype).newbyteorder("=")
            samples = int(first.samplesperpixel)
            height, width = int(first.imagelength), int(first.imagewidth)
        _check(path, dtype)
        dims, shape = _shaped(samples, len(pages), height, width)
        return Head(dims, shape, dtype)

    @contextmanager
    def open(self, path: Path) -> Iterator[Callable[[Box], NDArray[Any]]]:
        with self._file(path) as file:
            n_pages, samples = len(file.pages), int(file.pages[0].samplesperpixel)
            kept: dict[int, NDArray[Any]] = {}

            def read(box: Box) -> NDArray[Any]:
                page = box[0].start if n_pages > 1 else 0
                if page not in kept:  # All channels of a page are decoded together.
                    kept.clear()
                    kept[page] = self._page(path, file.pages[page], samples)
                rest = box[1:] if n_pages > 1 else box
                found = kept[page][rest]
                return found[None] if n_pages > 1 else found

            yield read

    def _page(self, path: Path, page: Any, samples: int) -> NDArray[Any]:
        try:
            values = np.asarray(page.asarray())
        except (ValueError, OSError, RuntimeError, KeyError) as problem:
            raise IngestError(
                f"{path} cannot be decoded: {problem}. If it names a codec, pip install "
                "imagecodecs; else the file is damaged: fetch it again."
            ) from problem
        if samples > 1 and values.shape[-1] == samples and values.shape[0] != samples:
            values = np.moveaxis(values, -1, 0)
        return values
