"""The door for xarray: labelled arrays in, labelled coefficients out, lazy where the input is.

What a run does with a store is done here with an :class:`xarray.DataArray`: the same blocks, the
same numbers, the same labels. Nothing heavy is imported before the door is used: xarray's accessors
are set up when xarray itself is imported, before or after scatflow.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import xarray as xr

    from scatflow.engines import Engine


def scatter(
    array: xr.DataArray,
    engine: Engine,
    dim: str | Sequence[str] | None = None,
    **options: Any,
) -> xr.Dataset:
    """Transform a labelled array along some of its dimensions.

    Parameters
    ----------
    array : xarray.DataArray
        Real numbers, backed by NumPy, by CuPy or another library of the array API standard such
        as JAX, whose arrays the coefficients are then, or by Dask. Of a lazy array nothing is
        computed here: each block of about a second of work becomes one task
        (:attr:`xarray.Dataset.scat.n_blocks` says how many), which reads no more than its samples
        and their halo.
    engine : Scattering1D, Scattering2D, HarmonicScattering3D or TimeFrequencyScattering
        Without a shape it takes that of the array.
    dim : str or sequence of str, optional
        The transformed dimensions. By default ``time`` for signals that have it, else the last.
    boundary : {"whole", "frames", "seamless"}
        Each signal (image, volume) is padded by itself; or each `frame` of it, one every `hop`
        samples; or one continuous transform on the canonical grid, whose bytes do not depend on
        chunks or selections of other dimensions.
    frame, hop : int or sequence of int, optional
        Samples of one frame and from one to the next, with ``boundary="frames"``.
    edges : {"reflect", "periodic"}
        What lies beyond the ends of a seamless volume.
    gaps : {"nan", "weight", "raise"}
        Coefficients whose windows see missing samples (NaN) are NaN; or divided by the share of
        their weight that lies on valid samples; or refused when they are computed.
    tile : int, optional
        Samples along each axis of a seamless record that are transformed at a time, besides a halo
        (by default as many as cost least). If given, a window counts as seeing all of its tile and
        halo, so that no bit of one whose `valid_fraction` is 1 depends on a gap: a small tile
        loses less to gaps, and computes more halos.
    mask : xarray.DataArray, optional
        True where samples are missing.
    clock : {"check", "ignore"}
        Whether coordinates that are not evenly spaced are refused.
    dtype : dtype, optional
        Of the coefficients, float32 or float64; by default the precision of the samples.
    threads : int
        Threads that one block may keep busy. The bytes are the same.

    Returns
    -------
    xarray.Dataset
        ``scattering`` with the untouched dimensions in their order, then ``path``, then the
        transformed ones on the decimated grid; ``valid_fraction`` where samples may be missing;
        labels as ``scatflow run`` writes them.

    Raises
    ------
    ValueError
        Dimensions do not fit the engine, signals are too short for its scales, or samples are not
        evenly spaced.
    TypeError
        The numbers are not real.

    Examples
    --------
    >>> import numpy as np, scatflow, xarray as xr
    >>> time = np.datetime64("2010-09-01", "ns") + np.arange(4096) * np.timedelta64(10, "ms")
    >>> da = xr.DataArray(np.zeros((2, 4096)), {"time": time}, ("station", "time"))
    >>> ds = scatflow.scatter(da, scatflow.Scattering1D(J=8, Q=8), dim="time")
    >>> ds.scattering.dims, ds.scattering.shape, ds.xi1.attrs["units"]
    (('station', 'path', 'time'), (2, 234, 16), 'Hz')

    References
    ----------
    J. Andén and S. Mallat, "Deep Scattering Spectrum", IEEE Transactions on Signal Processing 62
    (2014), https://doi.org/10.1109/TSP.2014.2326991
    """
    from scatflow.labelled import accessor as _accessor  # noqa: F401 - for what is returned
    from scatflow.labelled.scattering import scatter as transform

    return transform(array, engine, dim, **options)


def open_archive(
    store: str | os.PathLike[str],
    variable: str | None = None,
    *,
    group: str | None = None,
    dims: Sequence[str] | None = None,
    mask: str | None = None,
    absent: Literal["gap", "fill"] | None = None,
    chunks: Any = "auto",
) -> xr.DataArray:
    """Open a variable of an archive as a lazy labelled array, as a job sees it.

    Archives that ``scatflow ingest`` wrote state a regular coordinate as a start and a step; here
    it has values, as datetime64 where its time is absolute. They are computed where they are asked
    for and never held: an array of years opens at once. Samples are decoded (scale and offset
    applied, NaN where they are missing, also in chunks that the archive does not have).

    Parameters
    ----------
    store : path or URL
        A Zarr group or array (v2 or v3), of any origin, or a file of references.
    variable : str, optional
        The array of the group; it may be left out where all others are coordinates.
    group : str, optional
        Path of the group inside the store.
    dims : sequence of str, optional
        Names of the dimensions, needed only where the store does not name them.
    mask : str, optional
        An array beside the variable: samples are missing where it is true.
    absent : {"gap", "fill"}, optional
        What chunks stand for that are not in the store: missing samples (as by default), or the
        fill value of the array.
    chunks : int, tuple, dict or "auto"
        Those of the Dask array: by default whole chunks of the store, about as large as Dask's
        setting ``array.chunk-size``.

    Returns
    -------
    xarray.DataArray
        Backed by Dask, of float32 or float64. Regular coordinates are selected from as others are
        (times by their beginnings, both ends of a range included), and stay regular in every slice.

    Raises
    ------
    SourceNotFoundError
        If the store, the group or the variable does not exist.
    SourceError
        If the data are no real numbers, or dimensions have no names.

    Examples
    --------
    >>> import scatflow, zarr
    >>> x = zarr.create_array("memory://doc/year.zarr", shape=(3_153_600_000,), dtype="f4",
    ...                       chunks=(2**18,), dimension_names=("time",), attributes={"axes":
    ...                       {"time": {"start": "2010-01-01", "step": [10**7, 1]}}})
    >>> da = scatflow.open_archive("memory://doc/year.zarr")
    >>> da.sel(time="2010-09-01").time.values[[0, -1]].astype("datetime64[ms]")
    array(['2010-09-01T00:00:00.000', '2010-09-01T23:59:59.990'],
          dtype='datetime64[ms]')
    """
    from scatflow.archive import open_source
    from scatflow.labelled.archive import as_array

    source = open_source(
        os.fspath(store), variable, group=group, dims=dims, mask=mask, absent=absent
    )
    return as_array(source, chunks)


def register() -> None:
    """Give xarray's arrays and datasets the accessor ``scat``, now or once xarray is imported."""
    if "xarray" in sys.modules:
        importlib.import_module("scatflow.labelled.accessor")
    else:
        sys.meta_path.insert(0, _OnceImported())


class _OnceImported(MetaPathFinder):
    """Notices the import of xarray, and leaves it to those who know how."""

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if name != "xarray":
            return None
        others = (f for f in sys.meta_path if f is not self and hasattr(f, "find_spec"))
        found = (other.find_spec(name, path, target) for other in others)
        spec = next((one for one in found if one is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader, self)
        return spec


class _Then(Loader):
    """Loads xarray as its own loader does, and then the accessors."""

    def __init__(self, own: Loader, finder: MetaPathFinder) -> None:
        self._own, self._finder = own, finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._own
        self._own.exec_module(module)
        # Not before: who only asks whether xarray is installed looks for it, too.
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        importlib.import_module("scatflow.labelled.accessor")
