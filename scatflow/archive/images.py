"""Folders of images (TIFF, PNG, JPEG) to an archive."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scatflow.archive.files import fitting, input_files
from scatflow.archive.ingest import Ingested, PathName, Progress, extra, input_paths
from scatflow.archive.stack import Box, Head, write_stack
from scatflow.archive.tiff import Tiff, apart, check, shaped
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
    skip: bool = False,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Ingested:
    """Write images to one archive.

    The dimensions are ``file`` (where there are several, or a folder was given; its labels are the
    files' names, and images from several folders have these in the coordinate ``folder``),
    ``page`` (of TIFF stacks), ``channel`` (of colour images), ``y`` and ``x``. One page is in
    memory at a time.

    OME-TIFF gives its own dimensions (``time``, ``channel``, ``z``), steps and names of channels;
    GeoTIFF the coordinates of the pixels' centres, ``crs``, ``geo_transform`` and what stands for
    missing pixels. Of tiles that lie in several places the coordinates begin at 0, and ``y_origin``
    and ``x_origin`` tell where.

    Parameters
    ----------
    inputs : paths
        Files of equal size and type, or folders: all such images below them, in the order of
        their names.
    output : path
        The archive to make.
    kind : {"tiff", "png", "jpeg"}
        The format.
    variable : str
        Name of the array in the archive.
    attrs : mapping, optional
        Attributes of the variable.
    skip : bool
        Leave out files that cannot be read or are unlike most of the others, and say so.
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
    reader = Tiff() if kind == "tiff" else _Pillow(kind)
    paths, found, left_out = fitting(
        input_files(inputs, SUFFIXES[kind], f"{kind.upper()} images"),
        reader.head,
        Head.kind,
        skip=skip,
    )
    folder = any(path.is_dir() for path in input_paths(inputs))
    told = [
        replace(head, attrs={**head.attrs, **(attrs or {})}, pages=True) for head in apart(found)
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
        notes=left_out,
    )


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
        check(path, plain.dtype)
        dims, shape = shaped(samples, 1, height, width)
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
