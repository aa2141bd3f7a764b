"""Descriptors of volumes: how much of each scale and angular order, and where."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from scatflow.pictures.canvas import draw_mesh, elided, new_figure, save, spread, step_edges
from scatflow.pictures.results import PIECE_BYTES, Array, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_POSITIONS = 200_000  # Sub-volumes that are read; of more, every second, third ...


@dataclass(frozen=True, eq=False)
class Descriptors:
    """The order-1 coefficients of one record, one number per path and position.

    Attributes
    ----------
    dims : tuple of str
        What the positions run over: frames, or the decimated grid of uncut volumes; may be empty.
    every : int
        Only every so many positions along each of `dims` were read.
    paths : Array
        Indices of the paths that were read.
    values : Array
        (*positions, paths), floating point.
    quantity : str
        Which integral power was taken, or over what was averaged.
    """

    dims: tuple[str, ...]
    every: int
    paths: Array
    values: Array
    quantity: str


def draw_descriptors(results: Results, output: str) -> list[str]:
    """Draw order 1 by scale and angular order, and its maps over the sub-volumes' middle slice."""
    name, record = next(results.records())
    found = _read_descriptors(results, record)
    _draw(results, name, found, output)
    n = results.n_records()
    which = f"1 of {n} volumes drawn ({name})" if n > 1 else f"1 volume{f' ({name})' * bool(name)}"
    places = " x ".join(str(results.data.sizes[dim]) for dim in found.dims)
    drawn = f" (every {found.every} drawn)" if found.every > 1 else ""
    lines = [
        f"{which}; {f'{places} positions{drawn}, ' if places else ''}"
        f"{results.data.sizes['path']} paths, {found.quantity}"
    ]
    lines += [f"  {note}" for note in results.notes]
    if not results.paths_of_order(1).size:
        lines.append("  no order-1 coefficients in this store: every path is drawn by its number")
    empty = int(np.isnan(found.values).all(axis=-1).sum())
    if empty:
        lines.append(
            f"  {empty} of {found.values[..., 0].size} positions hold no values (drawn grey): gaps "
            "in the volume, a failed block or an unfinished run"
        )
    return lines


def _read_descriptors(results: Results, record: dict[str, int]) -> Descriptors:
    """Read one record in pieces along its first position axis, averaging all but positions."""
    data, tail = results.data, results.tail_dims
    fixed: dict[str, int | slice] = dict(record)
    quantity = "values"
    if tail == ("power",):
        fixed["power"], quantity = _choose_power(results)
        tail = ()
    elif results.frame_dims and tail:
        quantity = "mean over " + ", ".join(tail)
    paths = results.paths_of_order(1)
    paths = paths if paths.size else np.arange(data.sizes["path"])
    dims = results.frame_dims or tail
    if not dims:
        return Descriptors((), 1, paths, results.read(fixed, ("path",))[paths], quantity)
    averaged = tuple(dim for dim in tail if dim not in dims)
    every = 1
    while np.prod([-(-data.sizes[dim] // every) for dim in dims], dtype=float) > MAX_POSITIONS:
        every += 1
    thin = {dim: slice(0, None, every) for dim in dims}
    line = [-(-data.sizes[dim] // every) for dim in dims[1:]] + [
        data.sizes[dim] for dim in averaged
    ]
    row = int(np.prod(line, dtype=np.int64)) * data.sizes["path"] * data.dtype.itemsize
    step = every * max(1, PIECE_BYTES // row)
    parts = []
    for start in range(0, data.sizes[dims[0]], step):
        span = {**thin, dims[0]: slice(start, start + step, every)}
        values = results.read({**fixed, **span}, (*dims, *averaged, "path"))[..., paths]
        parts.append(values.mean(axis=tuple(range(len(dims), values.ndim - 1))))
    return Descriptors(dims, every, paths, np.concatenate(parts), quantity)


def _choose_power(results: Results) -> tuple[int, str]:
    """Take the integral power nearest to 1, the mean modulus."""
    if "power" not in results.data.coords:
        return 0, "first integral power"
    powers = np.asarray(results.data.coords["power"].values, dtype=float)
    nearest = int(np.argmin(np.abs(powers - 1.0)))
    return nearest, f"integral power {powers[nearest]:g}"


def _draw(results: Results, name: str, found: Descriptors, output: str) -> None:
    rows = _choose_maps(results, found)
    figure = new_figure(max(3.4 * len(rows), 8.0), 7.6 if rows else 4.0)
    parts = ["Scattering descriptors", elided(name), found.quantity]
    parts += ["unfinished run"] * bool(results.notes)
    figure.suptitle("  ·  ".join(part for part in parts if part), x=0.01, ha="left")
    grid = figure.add_gridspec(2 if rows else 1, max(len(rows), 1))
    _draw_spectrum(figure.add_subplot(grid[0, :]), results, found)
    for column, (path, title) in enumerate(rows):
        axes = figure.add_subplot(grid[1, column])
        _draw_slice(axes, results, found, path)
        axes.set_title(title, loc="left", fontsize=10)
    save(figure, output)


def _draw_spectrum(axes: Axes, results: Results, found: Descriptors) -> None:
    """Draw the median of every path over l, a line for each scale; whiskers hold 80 %."""
    flat = found.values.reshape(-1, found.paths.size)
    usable = flat[np.isfinite(flat).all(axis=1)]
    if not usable.size:
        axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center")
        return
    low, middle, high = np.quantile(usable, [0.1, 0.5, 0.9], axis=0)
    whiskers = np.stack([middle - low, high - middle]) if len(usable) > 1 else None
    j1, angular = _labels(results, found)
    axes.set_ylabel("order 1")
    if j1 is None or angular is None:
        axes.bar(found.paths, middle, yerr=whiskers, color="0.6", ecolor="0.3")
        axes.set_xlabel("path")
        return
    import matplotlib

    scales = np.unique(j1)
    colours = matplotlib.colormaps["viridis"](np.linspace(0.15, 0.8, scales.size))
    for number, (scale, colour) in enumerate(zip(scales, colours, strict=True)):
        rows = np.flatnonzero(j1 == scale)
        rows = rows[np.argsort(angular[rows], kind="stable")]
        x = angular[rows] + (number - (scales.size - 1) / 2) * 0.06  # Whiskers side by side.
        error = None if whiskers is None else whiskers[:, rows]
        axes.errorbar(
            x, middle[rows], yerr=error, color=colour, marker="o", capsize=3,
            label=f"j = {int(scale)}",
        )  # fmt: skip
    axes.grid(axis="y", color="0.9")
    if (low > 0).all():
        axes.set_yscale("log")
    axes.set_xticks(np.unique(angular))
    axes.set_xlabel("angular order l")
    axes.legend(title="scale", fontsize=8, title_fontsize=8)
    if whiskers is not None:
        axes.set_title(
            "points: median over positions; whiskers: 10 to 90 %", fontsize=9, loc="left"
        )


def _labels(results: Results, found: Descriptors) -> tuple[Array | None, Array | None]:
    """Give j1 and l of the paths; None where the store has no order 1 or does not label it."""
    if not results.paths_of_order(1).size:
        return None, None
    j1 = results.column("j1")[found.paths].astype(float)
    angular = results.column("l")[found.paths].astype(float)
    if not (np.isfinite(j1).all() and np.isfinite(angular).all()):
        return None, None
    return j1, angular


def _choose_maps(results: Results, found: Descriptors) -> list[tuple[int, str]]:
    """Choose up to four paths to map: finest and coarsest scale, lowest and highest l above 0."""
    if not found.dims:
        return []
    j1, angular = _labels(results, found)
    if j1 is None or angular is None:
        return [(0, f"path {found.paths[0]}")]
    above = angular[angular > 0] if (angular > 0).any() else angular
    wanted = product(sorted({j1.min(), j1.max()}), sorted({above.min(), above.max()}))
    chosen = []
    for scale, degree in wanted:
        rows = np.flatnonzero((j1 == scale) & (angular == degree))
        if rows.size:
            chosen.append((int(rows[0]), f"j = {int(scale)}, l = {int(degree)}"))
    return chosen


def _draw_slice(axes: Axes, results: Results, found: Descriptors, path: int) -> None:
    """Draw one path over two of the positions' axes, in the middle of the third."""
    values, dims = found.values[..., path], found.dims
    where = ""
    if len(dims) == 3:
        middle = values.shape[0] // 2
        at, units = _positions(results, found, dims[0])
        where = f"\nat {_plain(dims[0])} = {at[middle]:g} {units}".rstrip()
        values, dims = values[middle], dims[1:]
    if len(dims) == 1:
        values = values[None, :]
    usable = np.isfinite(values) & (values > 0)
    logarithm = np.log10(values, out=np.full(values.shape, np.nan), where=usable)
    low, high = spread(logarithm)
    x, x_units = _positions(results, found, dims[-1])
    y, y_units = _positions(results, found, dims[0]) if len(dims) == 2 else (np.zeros(1), "")
    mesh = draw_mesh(
        axes, step_edges(x), step_edges(y), logarithm, cmap="viridis", vmin=low, vmax=high
    )
    axes.set_xlabel(f"{_plain(dims[-1])} [{x_units or 'samples'}]{where}", fontsize=8)
    if len(dims) == 2:
        axes.set_ylabel(f"{_plain(dims[0])} [{y_units or 'samples'}]", fontsize=8)
    axes.tick_params(labelsize=8)
    if len(dims) == 2 and x_units == y_units:
        axes.set_aspect("equal")
    bar = axes.figure.colorbar(mesh, cax=axes.inset_axes((1.03, 0.0, 0.05, 1.0)), extend="both")
    bar.set_label("log10 of order 1", fontsize=8)
    bar.ax.tick_params(labelsize=8)


def _plain(dim: str) -> str:
    """Name a dimension as the source did, where it counts frames."""
    return f"{dim.removeprefix('frame_')} of first sample" if dim.startswith("frame_") else dim


def _positions(results: Results, found: Descriptors, dim: str) -> tuple[Array, str]:
    """Where the drawn positions lie: the first sample of frames, the centre of windows."""
    values, units = results.coordinate(dim)
    if values.dtype.kind == "M":
        values, units = np.arange(values.size, dtype=np.float64), ""
    return values[:: found.every], units
