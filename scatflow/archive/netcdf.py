"""NetCDF and HDF5 files to an archive."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scatflow.archive.axis import Axis
from scatflow.archive.decoding import KEYS
from scatflow.archive.files import input_files
from scatflow.archive.ingest import Ingested, PathName, Progress, extra
from scatflow.archive.partial import local_output
from scatflow.archive.reference import FILES, missing_chunks, stamp
from scatflow.archive.regular import IrregularError, recognise
from scatflow.archive.stack import Box, Head, write_stack
from scatflow.archive.stores import listed
from scatflow.errors import IngestError

if TYPE_CHECKING:
    import xarray as xr

CLASSIC = b"CDF"
"""How files of the classic formats begin, which are not HDF5."""


def ingest_netcdf(
    inputs: Sequence[PathName] | PathName,
    output: PathName,
    *,
    variable: str | None = None,
    attrs: Mapping[str, Any] | None = None,
    reference: bool = False,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Ingested:
    """Write a variable of NetCDF or HDF5 files to an archive, as it is stored.

    Scale, offset and missing values are kept as attributes, which reading applies; coordinates,
    units and attributes are kept. Several files are stacked along ``file``.

    Parameters
    ----------
    inputs : paths
        Files of equal shape.
    output : path
        The archive to make.
    variable : str, optional
        Which variable; needed where there are several.
    attrs : mapping, optional
        Further attributes of the variable.
    reference : bool
        Copy nothing: write a JSON file that points to the chunks of the one file (NetCDF4, HDF5),
        and is opened as a store as long as that file does not change.
    overwrite : bool
        Replace an archive of that name.
    on_progress : callable, optional
        Is told the bytes done, and of how many.

    Raises
    ------
    IngestError
        A file is none of NetCDF or HDF5, the variable is not there or not of real numbers, files
        differ, or the output exists.
    MissingExtraError
        h5netcdf is not installed.
    """
    paths = input_files(
        inputs, (".nc", ".nc4", ".cdf", ".h5", ".hdf5", ".he5"), "NetCDF or HDF5 files"
    )
    heads, name = [], variable
    for path in paths:
        with _dataset(path) as dataset:
            name = _chosen(path, dataset, name)
            heads.append(_head(path, dataset, name, attrs or {}))
    assert name is not None
    if reference:
        return _refer(paths, heads[0], name, local_output(output), overwrite=overwrite)

    @contextmanager
    def open_file(path: Path) -> Iterator[Callable[[Box], NDArray[Any]]]:
        with _dataset(path) as dataset:
            yield lambda box: np.asarray(dataset[name].variable[box].values)

    return write_stack(
        paths,
        heads,
        open_file,
        output,
        along="file",
        variable=name.rpartition("/")[2],
        source="NetCDF or HDF5",
        overwrite=overwrite,
        on_progress=on_progress,
        name=name,
    )


def _refer(
    paths: Sequence[Path], head: Head, name: str, output: Path, *, overwrite: bool
) -> Ingested:
    """Write a file of references to the chunks of a variable, and its labels."""
    hdf = extra("kerchunk.hdf", "chunks by reference", "reference")
    path = paths[0]
    with path.open("rb") as file:
        classic = file.read(3) == CLASSIC
    if len(paths) > 1 or classic or output.suffix != ".json":
        kind = " of the classic format" if classic else ""
        raise IngestError(
            "A reference is written for one file of NetCDF4 or HDF5, and called NAME.json; here "
            f"are {len(paths)} files{kind} and {output.name}: correct that, or copy them, without "
            "--reference."
        )
    if output.exists() and not overwrite:
        raise IngestError(f"The output {output} exists: choose another, or give --overwrite.")
    before = stamp(path)
    try:
        refs = hdf.SingleHdf5ToZarr(str(path), inline_threshold=0, error="raise").translate()[
            "refs"
        ]
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as problem:
        raise IngestError(
            f"{path} cannot be read by reference: {problem}. Copy it, without --reference."
        ) from problem
    if missing_chunks(refs, name):
        raise IngestError(
            f"{missing_chunks(refs, name)} chunks of {name} were never written to {path}, and "
            "would be taken as gaps: copy it, without --reference."
        )
    kept = {
        k: v
        for k, v in refs.items()
        if k.rpartition("/")[0] in ("", name, *head.coords, *head.axes)
    }
    attrs = {**json.loads(refs[f"{name}/.zattrs"]), **head.attrs}
    attrs["axes"] = {dim: axis.to_dict() for dim, axis in head.axes.items()}
    kept[f"{name}/.zattrs"] = json.dumps(attrs)
    new = output.with_suffix(".json.new")
    new.write_text(json.dumps({"version": 1, "refs": kept, FILES: {str(path): before}}))
    new.replace(output)
    return Ingested(str(output), name, head.dims, head.shape, str(head.dtype))


@contextmanager
def _dataset(path: Path) -> Iterator[xr.Dataset]:
    """Open a file, lazily, its numbers as they are stored."""
    import xarray as xr

    with path.open("rb") as file:
        classic = file.read(3) == CLASSIC
    options: dict[str, Any] = {"engine": "scipy"}
    if not classic:
        extra("h5netcdf", "NetCDF and HDF5")
        options = {"engine": "h5netcdf", "phony_dims": "sort"}
    try:
        found = xr.open_dataset(
            path, mask_and_scale=False, decode_times=False, cache=False, **options
        )
    except (OSError, ValueError, TypeError, KeyError) as problem:
        raise IngestError(
            f"{path} cannot be read as NetCDF or HDF5: {' '.join(str(problem).split())}."
        ) from problem
    with found:
        yield found


def _chosen(path: Path, dataset: xr.Dataset, name: str | None) -> str:
    """Return the variable to take."""
    there = {str(v) for v in dataset.data_vars if dataset[v].ndim}
    if name is not None:
        if name not in there:
            raise IngestError(f"{path} has no variable {name!r}: it has {listed(sorted(there))}.")
        return name
    if len(there) != 1:
        raise IngestError(
            f"{path} holds {len(there)} variables ({listed(sorted(there))}): name one with "
            "--variable."
        )
    return there.pop()


def _head(path: Path, dataset: xr.Dataset, name: str, attrs: Mapping[str, Any]) -> Head:
    array = dataset[name]
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8 or not array.size:
        raise IngestError(
            f"{name} of {path} is {dict(array.sizes)} {array.dtype}: an archive holds real numbers "
            "of up to 64 bits, one at least."
        )
    axes: dict[str, Axis] = {}
    coords: dict[str, Any] = {}
    for label, coord in array.coords.items():
        dims, values, own = _decoded(coord)
        if dims == (label,):
            try:
                axes[str(label)] = recognise(lambda a, b, v=values: v[a:b], values.size, own)  # type: ignore[misc]
                continue
            except IrregularError:
                pass
        coords[str(label)] = (dims, *_stored(values, own))
    stored = {str(k): _plain(v) for k, v in array.attrs.items()}
    encoded = {k: _plain(v) for k, v in array.encoding.items() if k in KEYS}
    dims = tuple(map(str, array.dims))
    dtype = array.dtype.newbyteorder("=")
    rates = [axis.rate_hz for axis in axes.values() if axis.rate_hz is not None]
    rate = {"sampling_rate": rates[0]} if len(rates) == 1 else {}
    told = {**rate, **encoded, **stored, **attrs}
    for key in ("coordinates", "grid_mapping", "DIMENSION_LIST", "CLASS", "NAME"):
        told.pop(key, None)
    return Head(dims, array.shape, dtype, axes, coords, told)


def _decoded(coord: xr.DataArray) -> tuple[tuple[str, ...], NDArray[Any], dict[str, Any]]:
    """Return a coordinate by the CF conventions."""
    import xarray as xr

    plain = xr.Dataset({"it": coord.variable})
    decoded = xr.decode_cf(plain, decode_timedelta=False)["it"]
    values = decoded.values
    if values.dtype.kind == "M":
        values = values.astype("datetime64[ns]")
    if values.dtype.kind in "OT":
        values = np.array([str(v) for v in values.reshape(-1)], np.str_).reshape(values.shape)
    own = {str(k): _plain(v) for k, v in decoded.attrs.items() if k not in KEYS}
    return tuple(map(str, coord.dims)), values, own


def _stored(values: NDArray[Any], own: dict[str, Any]) -> tuple[NDArray[Any], dict[str, Any]]:
    """Return a coordinate as Zarr keeps it: times as integers since the epoch."""
    if values.dtype.kind != "M":
        return values, own
    told = {"units": "nanoseconds since 1970-01-01", "calendar": "proleptic_gregorian"}
    return values.astype(np.int64), {**own, **told}


def _plain(value: Any) -> Any:
    """Return an attribute as JSON knows it."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value
