"""``da.scat`` and ``ds.scat``: transform labelled arrays, and work with what comes out."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from scatflow.engines import ENGINES, Engine, engine_from_dict
from scatflow.engines.engine import integer
from scatflow.errors import ParameterError, SourceError
from scatflow.labelled import scatter

if TYPE_CHECKING:
    import pandas as pd

COEFFICIENTS, PATH = "scattering", "path"

NO_SAMPLES = (PATH, "power", "point", "q")
"""Dimensions whose entries describe a sample, rather than being some."""


@xr.register_dataarray_accessor("scat")  # type: ignore[no-untyped-call]
class ArrayAccessor:
    """Scattering transforms of a labelled array; see :func:`scatflow.scatter`."""

    def __init__(self, array: xr.DataArray) -> None:
        self._array = array

    def _scatter(self, kind: str, dim: Any, given: dict[str, Any]) -> xr.Dataset:
        own = inspect.signature(ENGINES[kind]).parameters
        engine = ENGINES[kind](**{k: v for k, v in given.items() if k in own})
        rest = {k: v for k, v in given.items() if k not in own}
        try:
            return scatter(self._array, engine, dim, **rest)
        except TypeError as problem:
            if "unexpected keyword" not in str(problem):
                raise
            raise ParameterError(
                f"{str(problem).rpartition(' ')[2]} is neither a parameter of "
                f"{ENGINES[kind].__name__} ({', '.join(own)}) nor an option of scatflow.scatter."
            ) from None

    def scattering1d(self, dim: str | None = None, **parameters: Any) -> xr.Dataset:
        """Transform along one dimension.

        Parameters
        ----------
        dim : str, optional
            By default ``time``, or the last dimension.
        **parameters
            Of :class:`scatflow.Scattering1D` and options of :func:`scatflow.scatter`.

        Returns
        -------
        xarray.Dataset
        """
        return self._scatter("scattering1d", dim, parameters)

    def scattering2d(self, dim: Sequence[str] | None = None, **parameters: Any) -> xr.Dataset:
        """Transform images along two dimensions; see :meth:`scattering1d`."""
        return self._scatter("scattering2d", dim, parameters)

    def scattering3d(self, dim: Sequence[str] | None = None, **parameters: Any) -> xr.Dataset:
        """Transform volumes along three dimensions; see :meth:`scattering1d`."""
        return self._scatter("scattering3d", dim, parameters)

    def timefrequency(self, dim: str | None = None, **parameters: Any) -> xr.Dataset:
        """Transform along time and log-frequency jointly; see :meth:`scattering1d`."""
        return self._scatter("timefrequency", dim, parameters)


@xr.register_dataset_accessor("scat")  # type: ignore[no-untyped-call]
class DatasetAccessor:
    """Work with coefficients by what they mean; everything stays lazy.

    Examples
    --------
    >>> import numpy as np, scatflow, xarray as xr
    >>> da = xr.DataArray(np.random.default_rng(0).standard_normal(4096), dims="time")
    >>> ds = da.scat.scattering1d(J=6, Q=4)
    >>> ds.scat.order(1).sizes["path"], ds.scat.sel(j1=3).scat.paths.shape[0]
    (22, 8)
    >>> ds.scat.engine == scatflow.Scattering1D(J=6, Q=4)
    True
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    def _coefficients(self) -> xr.Dataset:
        known = "ds.scat works with what scatflow.scatter gives, and with what scatflow run writes."
        if COEFFICIENTS not in self._dataset:
            raise SourceError(
                f"The dataset holds no scattering coefficients (variables: "
                f"{sorted(map(str, self._dataset.data_vars))}): {known}"
            )
        dims = self._dataset[COEFFICIENTS].dims
        if PATH not in dims:
            raise SourceError(
                f"The coefficients have no dimension {PATH!r} but {dims}: {known} Keep that name, "
                "and select single paths as .isel(path=[0])."
            )
        return self._dataset

    # --- what it is ------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """The engine that the coefficients were made with, from the dataset's attributes."""
        try:
            return engine_from_dict(json.loads(self._dataset.attrs["scatflow_spec"]))
        except (KeyError, ValueError) as problem:
            raise SourceError(
                f"The dataset does not say which engine made it ({type(problem).__name__}: "
                f"{problem}): its attribute scatflow_spec is missing or damaged."
            ) from problem

    @property
    def paths(self) -> pd.DataFrame:
        """All labels of the paths as a table, one row a path, in the order of the axis."""
        import pandas as pd

        found = self._labels()
        return pd.DataFrame({name: found[name].to_numpy() for name in found})

    def _labels(self) -> dict[str, xr.DataArray]:
        """Return the labels along the path axis by name."""
        dataset = self._coefficients()
        return {str(name): coord for name, coord in dataset.coords.items() if coord.dims == (PATH,)}

    @property
    def n_blocks(self) -> int:
        """Tasks that compute the coefficients; 0 where they are in memory."""
        from scatflow.labelled.scattering import n_blocks

        return n_blocks(self._coefficients())

    # --- selecting by meaning --------------------------------------------------------------

    def order(self, order: int) -> xr.Dataset:
        """Select the paths of one order."""
        return self.sel(order=order)

    def sel(self, **labels: Any) -> xr.Dataset:
        """Select paths by their labels.

        Parameters
        ----------
        **labels
            A value, a list of values, or a ``slice(low, high)``, both ends included, of labels of
            the path axis: ``sel(j1=3)``, ``sel(xi1=slice(1, 10))``. Numbers with a fraction are
            found within a millionth.

        Returns
        -------
        xarray.Dataset

        Raises
        ------
        ValueError
            There is no label of that name, or no path with that value.
        """
        found = self._labels()
        keep = np.ones(self._dataset.sizes[PATH], bool)
        for name, wanted in labels.items():
            if name not in found:
                raise ParameterError(
                    f"Paths have no label {name!r}: they have {', '.join(sorted(found))}."
                )
            values = found[name].to_numpy()
            keep &= _chosen(name, values, wanted)
            if not keep.any():
                there = ", ".join(map(str, np.unique(values)[:20]))
                raise ParameterError(f"No path has {name}={wanted!r}. There are {there}.")
        return self._dataset.isel({PATH: np.flatnonzero(keep)})

    def octave(self, octave: int | None = None) -> Any:
        """Return the octave of each path's first wavelet, or select the paths of one.

        Octaves are counted downwards from the highest centre frequency: octave 0 holds all
        frequencies above half of it. Paths without a centre frequency above 0 have none (-1).

        Parameters
        ----------
        octave : int, optional
            Which one to select.

        Returns
        -------
        DataArray of int along ``path``, or Dataset
        """
        xi1 = self._label("xi1").to_numpy()
        octaves = np.full(xi1.shape, -1)
        heard = xi1 > 0
        if heard.any():
            octaves[heard] = np.floor(np.log2(xi1[heard].max() / xi1[heard]) + 1e-9)
        if octave is None:
            return self._label("xi1").copy(data=octaves).rename("octave")
        keep = np.flatnonzero(octaves == octave)
        if not keep.size:
            there = ", ".join(map(str, np.unique(octaves)))
            raise ParameterError(f"No path lies in octave {octave}: there are {there}.")
        return self._dataset.isel({PATH: keep})

    def _label(self, name: str) -> xr.DataArray:
        found = self._labels()
        if name not in found:
            raise ParameterError(f"Paths have no label {name!r}: they have {sorted(found)}.")
        return found[name]

    def unstack(self, order: int) -> xr.DataArray:
        """Spread the paths of one order over a grid of their labels, NaN where there is none.

        Signals have ``xi1`` and, of order 2, ``xi2``, with ``xi_fr`` where they were transformed
        along log-frequency, too; images ``j1``, ``theta1``, ``j2`` and ``theta2``; volumes ``j1``,
        ``j2`` and ``l``.

        Returns
        -------
        DataArray
            With one dimension for each label in place of ``path``.
        """
        part = self.order(order)
        names = _axes_of(part, order)
        labels = [_rounded(part[name].to_numpy()) for name in names]
        marks = [np.unique(values) for values in labels]
        at = tuple(np.searchsorted(m, v) for m, v in zip(marks, labels, strict=True))
        grid = np.full([m.size for m in marks], -1)
        if np.unique(np.stack(at), axis=1).shape[1] < at[0].size:
            raise ParameterError(
                f"Several paths of order {order} have the same {', '.join(names)}: "
                "select some of them first."
            )
        grid[at] = np.arange(at[0].size)
        values = part[COEFFICIENTS]
        axis = values.get_axis_num(PATH)
        # A path that does not exist is filled with the first one, and blanked.
        spread = values.isel({PATH: np.maximum(grid.reshape(-1), 0)}).data
        shape = (*values.shape[:axis], *grid.shape, *values.shape[axis + 1 :])
        dims = (*values.dims[:axis], *names, *values.dims[axis + 1 :])
        rest = {k: c.variable for k, c in values.coords.items() if PATH not in c.dims}
        own = {
            name: xr.Variable((name,), mark, part[name].attrs)
            for name, mark in zip(names, marks, strict=True)
        }
        there = xr.DataArray(grid >= 0, dims=names)
        made = xr.DataArray(spread.reshape(shape), {**rest, **own}, dims, COEFFICIENTS)
        return made.where(there).transpose(*dims).assign_attrs(values.attrs)

    # --- changing what is there -------------------------------------------------------------

    def _with(self, values: xr.DataArray, what: str) -> xr.Dataset:
        """Return the dataset with other coefficients, and say in its history how."""
        before = self._dataset[COEFFICIENTS]
        named = f"{before.attrs.get('long_name', 'scattering coefficients')}, {what}"
        values = values.transpose(*before.dims).assign_attrs({**before.attrs, "long_name": named})
        history = f"{self._dataset.attrs.get('history', '')}\n{what}".strip()
        made = self._dataset.assign({COEFFICIENTS: values})
        return made.assign_attrs({**self._dataset.attrs, "history": history})

    def renormalise(self, epsilon: float = 1e-12) -> xr.Dataset:
        """Divide each coefficient of order 2 by that of order 1 which it comes from.

        The quotient no longer depends on how loud the first wavelet's band is (Andén and Mallat
        2014, section V). Parents are found by `j1`, `xi1`, `theta1` and `l`; of paths along
        log-frequency, they are those averaged over it.

        Parameters
        ----------
        epsilon : float
            Share of the mean of order 1 that is added to the divisor, so that silence gives 0.
        """
        dataset = self._coefficients()
        found = self._labels()
        order = found["order"].to_numpy()
        keys = [found[n].to_numpy() for n in ("j1", "xi1", "theta1", "l") if n in found]
        rows = list(zip(range(order.size), *(_rounded(k).tolist() for k in keys), strict=True))
        rows = [row[1:] for row in rows]  # Empty ones, where labels follow an axis of rows.
        smooth = found["xi_fr"].to_numpy() == 0 if "xi_fr" in found else np.ones(order.size, bool)
        first = {row: i for i, row in enumerate(rows) if order[i] == 1 and smooth[i]}
        second = np.flatnonzero(order == 2)
        missing = [int(i) for i in second if rows[i] not in first]
        if missing:
            raise ParameterError(
                f"The path {missing[0]} of order 2 has no parent of order 1 in this dataset: "
                "renormalise before selecting paths."
            )
        values = dataset[COEFFICIENTS]
        parent = np.arange(order.size)
        parent[second] = [first[rows[i]] for i in second]
        floor = epsilon * abs(values.isel({PATH: np.flatnonzero(order == 1)})).mean(PATH)
        divisor = values.isel({PATH: parent}).drop_vars(list(found)) + floor
        is_second = xr.DataArray(order == 2, dims=PATH)
        quotient = values.drop_vars(list(found)) / divisor.where(divisor != 0)
        kept = values.where(~is_second, quotient.fillna(0).where(values.notnull()))
        made = self._with(kept, "order 2 divided by order 1")
        made[COEFFICIENTS].attrs.pop("units", None)  # The orders have no longer the same ones.
        return made

    def log(self, floor: float | None = None) -> xr.Dataset:
        """Take the natural logarithm, of no less than a floor.

        Parameters
        ----------
        floor : float, optional
            Absolute, in the coefficients' own units. By default a millionth of each path's
            largest coefficient; the attribute ``floor`` of the result says which one was taken.
        """
        values = self._coefficients()[COEFFICIENTS]
        if floor is not None and not floor > 0:
            raise ParameterError(f"floor must be positive, not {floor!r}.")
        others = [d for d in values.dims if d != PATH]
        low: Any = 1e-6 * values.max(others) if floor is None else values.dtype.type(floor)
        tiny = np.finfo(values.dtype).tiny
        made = np.log(np.maximum(values, np.maximum(low, tiny)).where(values.notnull()))
        told = "1e-6 of each path's largest coefficient" if floor is None else floor
        result = self._with(made, "natural logarithm")
        result[COEFFICIENTS].attrs |= {"floor": told, "units": "1"}
        return result

    def mean_theta(self) -> xr.Dataset:
        """Average over orientations, those of order 2 relative to the first wavelet's.

        The means do not change when the image is turned by a multiple of the angle between
        wavelets (Sifre and Mallat 2013): theta2 - theta1 is kept.

        Returns
        -------
        Dataset
            With ``path`` shorter, `theta1` gone and `theta2` relative to it.
        """
        found = self._labels()
        if "theta1" not in found:
            raise ParameterError("These paths have no orientations: only those of images do.")
        turn = np.pi
        relative = np.mod(found["theta2"].to_numpy() - found["theta1"].to_numpy() + 1e-9, turn)
        relative = np.round(relative - 1e-9, 9)
        names = ("order", "j1", "j2")
        rows = list(
            zip(*(found[n].to_numpy().tolist() for n in names), relative.tolist(), strict=True)
        )
        rows = [tuple(None if v != v else v for v in row) for row in rows]
        groups: dict[Any, list[int]] = {}
        for i, row in enumerate(rows):
            groups.setdefault(row, []).append(i)
        dataset = self._coefficients()
        firsts = [members[0] for members in groups.values()]
        part = dataset.isel({PATH: firsts}).drop_vars(
            [n for n in ("theta1", "label") if n in found]
        )
        values = dataset[COEFFICIENTS].drop_vars(list(found))
        means = [values.isel({PATH: members}).mean(PATH) for members in groups.values()]
        joined = xr.concat(means, PATH).transpose(*values.dims)
        part[COEFFICIENTS] = (values.dims, joined.data, values.attrs)
        part["theta2"] = (
            PATH,
            relative[firsts],
            {
                **found["theta2"].attrs,
                "long_name": ("orientation of the second wavelet relative to the first"),
            },
        )
        turned = DatasetAccessor(part.set_coords("theta2"))
        return turned._with(part[COEFFICIENTS], "mean over orientations")

    def downsample(self, **windows: int) -> xr.Dataset:
        """Average neighbouring windows: ``downsample(time=10)`` gives windows ten times as long.

        Coordinates are the means of those that are joined; windows at the end that fill no whole
        one are left out. A missing coefficient makes its mean missing, too.
        """
        dataset = self._coefficients()
        sizes = dataset[COEFFICIENTS].sizes
        along = [d for d in sizes if d != PATH and _have_means(dataset, d)]
        if not windows.keys() <= set(along):
            raise ParameterError(
                f"downsample takes dimensions of windows ({', '.join(map(str, along))}) and how "
                f"many of them to join, not {windows!r}."
            )
        for dim, count in windows.items():
            integer(f"downsample({dim})", count, 1, sizes[dim])
        made: xr.Dataset = dataset.coarsen(dict(windows), boundary="trim").reduce(np.mean)
        told = ", ".join(f"{count} along {dim}" for dim, count in windows.items())
        return DatasetAccessor(made.assign_attrs(dataset.attrs))._with(
            made[COEFFICIENTS], f"mean over neighbouring windows: {told}"
        )

    def features(self, *samples: str) -> xr.DataArray:
        """Return a matrix for scikit-learn: one row a sample, one named column a feature.

        Parameters
        ----------
        *samples : str
            Dimensions whose entries are samples, for instance ``"file"``; by default all but
            ``path``, ``power``, ``point`` and rows of log-frequency (``q``).

        Returns
        -------
        DataArray
            ``(sample, feature)``; `feature` holds readable names. Coordinates along `sample` say
            which entry of each of the dimensions a sample is, and what else was known of it: the
            folder of its file, say.
        """
        values = self._coefficients()[COEFFICIENTS]
        rows: list[Any] = list(samples) or [d for d in values.dims if d not in NO_SAMPLES]
        unknown = [d for d in rows if d not in values.dims or d == PATH]
        if unknown:
            raise ParameterError(f"{unknown[0]!r} is no dimension of windows: {values.dims}.")
        columns = [d for d in values.dims if d not in rows]
        names = _feature_names(values, columns)
        plain = values.drop_vars(
            [n for n, c in values.coords.items() if set(c.dims) & set(columns)]
        )
        ordered = plain.transpose(*rows, *columns)
        n_rows = int(np.prod([values.sizes[d] for d in rows]))
        made = xr.DataArray(
            ordered.data.reshape(n_rows, len(names)), {"feature": names}, ("sample", "feature")
        ).rename("features")
        index = [np.arange(values.sizes[d]) for d in rows]
        grid = np.meshgrid(*index, indexing="ij")
        at = {dim: numbers.reshape(-1) for dim, numbers in zip(rows, grid, strict=True)}
        for dim in rows:
            label = _listed(plain[dim]) if dim in plain.coords else np.arange(values.sizes[dim])
            made = made.assign_coords({dim: ("sample", label[at[dim]])})
        for name, coord in plain.coords.items():
            if name not in at and len(coord.dims) == 1:  # Of rows: those of columns were dropped.
                label = _listed(coord)[at[coord.dims[0]]]
                made = made.assign_coords({name: ("sample", label, coord.attrs)})
        return made


def _listed(coord: xr.DataArray) -> Any:
    """Return labels; text of variable length, as Zarr gives it, as scikit-learn takes it."""
    values = coord.to_numpy()
    return np.array(values.tolist(), str) if values.dtype.kind == "T" else values


def _have_means(dataset: xr.Dataset, dim: Any) -> bool:
    """Say whether the labels along a dimension are numbers or times, which neighbours can share."""
    along = [coord for coord in dataset.coords.values() if dim in coord.dims]
    return all(coord.dtype.kind in "iufmM" for coord in along)


def _chosen(name: str, values: Any, wanted: Any) -> Any:
    """Tell which values of a label are wanted: one, some, or a range."""
    bounds = [wanted.start, wanted.stop] if isinstance(wanted, slice) else np.ravel(wanted).tolist()
    text = values.dtype.kind not in "iuf"
    if any(isinstance(bound, str) != text for bound in bounds if bound is not None):
        raise ParameterError(
            f"The label {name!r} holds {'text' if text else 'numbers'}, so nothing can be selected "
            f"by {wanted!r}."
        )
    if isinstance(wanted, slice):
        keep = np.ones(values.shape, bool)
        if wanted.start is not None:
            keep &= np.asarray(values >= wanted.start, bool)
        if wanted.stop is not None:
            keep &= np.asarray(values <= wanted.stop, bool)
        return keep & (values == values)
    several = np.atleast_1d(np.asarray(wanted))
    if values.dtype.kind == "f":
        return np.isclose(values[:, None], several.astype(float), rtol=1e-6, atol=0).any(axis=1)
    return np.isin(values, several)


def _rounded(values: Any) -> Any:
    """Return labels that differ by rounding alone as the same ones; NaN as one value."""
    if values.dtype.kind != "f":
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        digits = np.where(values == 0, 1, 10 ** (9 - np.ceil(np.log10(np.abs(values)))))
    return np.where(np.isnan(values), -1.0, np.round(values * digits) / digits)


def _axes_of(part: xr.Dataset, order: int) -> list[str]:
    """Name the labels that tell the paths of one order apart: those that they have values of."""
    if "theta2" in part.coords:  # Also where means over theta1 were taken.
        names = [f"{name}{i}" for i in range(1, order + 1) for name in ("j", "theta")]
    elif "l" in part.coords:
        names = [*(f"j{i}" for i in range(1, order + 1)), "l"]
    else:
        names = [*(f"xi{i}" for i in range(1, order + 1)), "xi_fr"]
    along = {n: part.coords[n] for n in names if n in part.coords}
    told = [n for n, c in along.items() if c.dims == (PATH,) and bool(c.notnull().all())]
    return told or ["order"]


def _feature_names(values: xr.DataArray, columns: Sequence[Any]) -> list[str]:
    """Name each feature by its path and its place along the other dimensions."""
    labels = []
    for dim in columns:
        if dim == PATH and "label" in values.coords:
            labels.append([str(v) for v in values["label"].to_numpy()])
        else:
            at = values[dim].to_numpy() if dim in values.coords else range(values.sizes[dim])
            labels.append([f"{dim} {v}" for v in at])
    names = [""]
    for each in labels:
        names = [f"{a}, {b}" if a else b for a in names for b in each]
    return names
