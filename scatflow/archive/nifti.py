"""NIfTI volumes to an archive."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scatflow.archive.axis import Axis
from scatflow.archive.files import fitting, input_files
from scatflow.archive.ingest import Ingested, PathName, Progress, extra
from scatflow.archive.stack import Box, Head, write_stack
from scatflow.errors import IngestError

NAMES = ("x", "y", "z", "time", "component", "u", "v")
"""What the axes of a volume are called, in the order in which the format has them."""


def ingest_nifti(
    inputs: Sequence[PathName] | PathName,
    output: PathName,
    *,
    variable: str = "volume",
    attrs: Mapping[str, Any] | None = None,
    skip: bool = False,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Ingested:
    """Write NIfTI volumes to one archive, as they are stored.

    The dimensions are those of the file, last one first: ``z``, ``y``, ``x`` (behind ``time`` of
    series), with the voxels' sizes as steps, from 0 on. The attribute ``affine`` takes voxel
    numbers (x, y, z) to the scanner's millimetres; slope and intercept become ``scale_factor`` and
    ``add_offset``, which reading applies. Several files are stacked along ``file``.

    Parameters
    ----------
    inputs : paths
        Files (.nii, .nii.gz) of equal shape and voxels.
    output : path
        The archive to make.
    variable : str
        Name of the array in the archive.
    attrs : mapping, optional
        Further attributes of the variable.
    skip : bool
        Leave out files that cannot be read or are unlike most of the others, and say so.
    overwrite : bool
        Replace an archive of that name.
    on_progress : callable, optional
        Is told the bytes done, and of how many.

    Raises
    ------
    IngestError
        A file is no NIfTI volume of real numbers, files differ, or the output exists.
    MissingExtraError
        nibabel is not installed.
    """
    nibabel = extra("nibabel", "NIfTI")
    files = input_files(inputs, (".nii", ".nii.gz"), "NIfTI volumes")
    paths, heads, left_out = fitting(
        files, lambda path: _head(nibabel, path, attrs or {}), Head.kind, skip=skip
    )

    @contextmanager
    def open_file(path: Path) -> Iterator[Callable[[Box], NDArray[Any]]]:
        proxy = _image(nibabel, path).dataobj
        # One opening for all boxes: they lie one behind the other, and compressed files are read
        # from their beginning.
        with nibabel.openers.ImageOpener(str(path)) as file:

            def read(box: Box) -> NDArray[Any]:
                # The file's first axis runs fastest: the archive's axes are its own, mirrored.
                where = (file, box[::-1], proxy.shape, proxy.dtype, proxy.offset, "F")
                try:
                    return np.asarray(nibabel.fileslice.fileslice(*where)).T
                except (OSError, EOFError, ValueError, zlib.error) as problem:
                    raise IngestError(
                        f"{path} is damaged: {problem}. Fetch it again, or leave it out."
                    ) from problem

            yield read

    return write_stack(
        paths,
        heads,
        open_file,
        output,
        along="file",
        variable=variable,
        source="NIfTI",
        notes=left_out,
        overwrite=overwrite,
        on_progress=on_progress,
    )


def _image(nibabel: Any, path: Path) -> Any:
    try:
        image = nibabel.load(path)
    except (nibabel.filebasedimages.ImageFileError, OSError, EOFError, ValueError) as problem:
        raise IngestError(f"{path} is no NIfTI volume that can be read: {problem}.") from problem
    if not isinstance(image, nibabel.Nifti1Image):
        raise IngestError(f"{path} is {type(image).__name__} to nibabel, no NIfTI volume.")
    return image


def _head(nibabel: Any, path: Path, attrs: Mapping[str, Any]) -> Head:
    image = _image(nibabel, path)
    proxy, header = image.dataobj, image.header
    dtype = np.dtype(proxy.dtype).newbyteorder("=")
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise IngestError(
            f"{path} holds {dtype}: an archive holds real numbers of up to 64 bits. Convert it."
        )
    names = NAMES[: image.ndim]
    space, time = header.get_xyzt_units()
    units = {**dict.fromkeys("xyz", space), "time": "s" if time == "sec" else time}
    axes = {}
    for name, size in zip(names, header.get_zooms(), strict=False):
        if name in units and math.isfinite(size) and size > 0:
            unit = "" if units[name] == "unknown" else units[name]
            axes[name] = Axis(0.0, Fraction(str(np.float32(size))), unit)
    slope, offset = float(proxy.slope), float(proxy.inter)
    scaled = {} if (slope, offset) == (1.0, 0.0) else {"scale_factor": slope, "add_offset": offset}
    told = {**scaled, "affine": np.asarray(image.affine).tolist(), **attrs}
    return Head(names[::-1], image.shape[::-1], dtype, axes, {}, told)
