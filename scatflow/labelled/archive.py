"""Archives as lazy labelled arrays: what a job reads, for those who work with xarray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.array.core import normalize_chunks
from numpy.typing import NDArray

from scatflow.archive import Source
from scatflow.labelled.axis import AxisIndex


def as_array(source: Source, chunks: Any) -> xr.DataArray:
    """Return a source as a lazy array with its coordinates, in chunks of Dask's."""
    if isinstance(chunks, Mapping):
        chunks = tuple(chunks.get(dim, "auto") for dim in source.dims)
    cuts = normalize_chunks(  # type: ignore[no-untyped-call]
        chunks, source.shape, dtype=source.read_dtype, previous_chunks=source.chunks
    )
    samples = _Samples(source)
    data = da.from_array(samples, cuts, asarray=False, fancy=False)  # type: ignore[no-untyped-call]
    plain: dict[Any, Any] = {
        name: xr.Variable(coord.dims, coord.values, dict(coord.attrs))
        for name, coord in source.coords.items()
    }
    array = xr.DataArray(data, plain, source.dims, source.variable, source.attrs)
    for dim, axis in source.axes.items():
        index = AxisIndex.of(axis, dim, array.sizes[dim])
        array = array.assign_coords(xr.Coordinates.from_xindex(index))
        array[dim].attrs.update(axis.attrs)
        if axis.units and not axis.is_time:
            array[dim].attrs["units"] = axis.units
    array.encoding["source"] = source.store
    return array


class _Samples:
    """A source as the array that Dask takes pieces of."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.shape = source.shape
        self.ndim = len(source.shape)
        self.dtype = source.read_dtype

    def __dask_tokenize__(self) -> Any:
        return self.source.fingerprint(), self.source.to_spec()

    def __getitem__(self, key: tuple[slice | int, ...]) -> NDArray[Any]:
        """Read a piece; Dask may have put a selection from it into its key."""
        outer: list[slice] = []
        inner: list[slice | int] = []
        for part, n in zip(key, self.shape, strict=True):
            if isinstance(part, slice):
                some = range(n)[part]
                outer.append(slice(min(some), max(some) + 1) if some else slice(0, 0))
                inner.append(slice(None, None, some.step))
            else:
                outer.append(slice(part, part + 1))
                inner.append(0)
        return np.asarray(self.source.read(outer)[tuple(inner)])
