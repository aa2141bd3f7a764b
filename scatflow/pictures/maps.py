"""Maps of images: how much there is of each scale, where, and in which direction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scatflow.dataset.coordinates import three_digits
from scatflow.errors import SourceError
from scatflow.pictures.canvas import (
    draw_mesh,
    elided,
    new_figure,
    save,
    spread,
    step_edges,
    symmetrical_limit,
)
from scatflow.pictures.results import PIECE_BYTES, Array, Grid, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_SIDE = 600  # Cells of a map along each axis: more than a panel has pixels.
MAX_DECADES = 4.0  # Below that, a flat part of the image would take all the colours.


@dataclass(frozen=True, eq=False)
class Layers:
    """What is kept of an image's coefficients: weighted sums over paths.

    Attributes
    ----------
    weights : Array
        (layers, paths): layer k is `weights[k] @ coefficients`.
    scales : Array
        The j1 whose order-1 energy is one of the first layers; empty without order 1.
    has_second : bool
        Whether a layer with the sum of order 2 follows.
    """

    weights: Array
    scales: Array
    has_second: bool


@dataclass(frozen=True, eq=False)
class Mosaic:
    """The layers over the whole image, and the mean coefficients of all its windows.

    Attributes
    ----------
    layers : Array
        (layers, ny, nx), NaN where there is no value.
    factors : tuple of int
        Windows in one cell along y and x.
    mean : Array
        (paths,), over all windows that have values.
    windows, empty : int
        How many windows there are, and how many of them hold no values.
    """

    layers: Array
    factors: tuple[int, int]
    mean: Array
    windows: int
    empty: int


def draw_maps(results: Results, output: str) -> list[str]:
    """Draw the first image of a store: order 1 by scale, order 2, direction, and a wheel."""
    if len(results.tail_dims) != 2:
        raise SourceError(
            f"`scattering` in {results.store} has the dimensions {results.data.dims}: an image has "
            "two dimensions after `path`, so no map can be drawn. Show a store that `scatflow run` "
            "wrote."
        )
    y, x = (results.grid(dim) for dim in results.tail_dims)
    name, record = next(results.records())
    layers = _choose_layers(results)
    mosaic = _gather(results, record, (y, x), layers)
    _draw(results, name, (y, x), layers, mosaic, output)
    n = results.n_records()
    which = f"1 of {n} images drawn ({name})" if n > 1 else f"1 image{f' ({name})' * bool(name)}"
    tiles = " x ".join(str(results.data.sizes[dim]) for dim in results.frame_dims)
    lines = [
        f"{which}; {f'{tiles} tiles, ' if tiles else ''}"
        f"{y.positions.size} x {x.positions.size} windows, {results.data.sizes['path']} paths"
    ]
    lines += [f"  {note}" for note in results.notes]
    if not layers.scales.size:
        lines.append("  no order-1 coefficients in this store: order 0 is drawn")
    if mosaic.empty:
        lines.append(
            f"  {mosaic.empty} of {mosaic.windows} windows hold no values (drawn grey): gaps in "
            "the image, a failed block or an unfinished run"
        )
    return lines


def _choose_layers(results: Results) -> Layers:
    """Weigh the paths: mean order 1 at up to three scales, sums of orders 2 and 1, direction."""
    n = results.data.sizes["path"]
    first, second = results.paths_of_order(1), results.paths_of_order(2)
    j1, theta = results.column("j1"), results.column("theta1")
    if not first.size:
        return Layers(np.full((1, n), 1.0 / n, np.float32), first, False)
    every = np.unique(j1[first])
    scales = every[np.unique([0, every.size // 2, every.size - 1])]
    rows = [np.where(np.isin(np.arange(n), first) & (j1 == j), 1.0, 0.0) for j in scales]
    rows = [row / row.sum() for row in rows]
    rows += [np.isin(np.arange(n), order).astype(float) for order in (second, first)]
    # Twice the angle: a direction and its opposite are the same.
    around = rows[-1] * np.exp(2j * np.nan_to_num(theta.astype(float)))
    weights = np.array([*rows, around.real, around.imag], np.float32)
    return Layers(weights, scales, bool(second.size))


def _gather(
    results: Results, record: dict[str, int], grids: tuple[Grid, Grid], layers: Layers
) -> Mosaic:
    """Pass once over the image in pieces and average its layers into the cells of a map."""
    sizes = [grid.positions.size for grid in grids]
    factors = (-(-sizes[0] // MAX_SIDE), -(-sizes[1] // MAX_SIDE))
    shape = tuple(-(-n // factor) for n, factor in zip(sizes, factors, strict=True))
    total = np.zeros((len(layers.weights), *shape))
    count = np.zeros(shape)
    mean, empty = np.zeros(results.data.sizes["path"]), 0
    for (row, column), values in _pieces(results, record, grids):  # values (paths, ny, nx)
        there = np.isfinite(values).all(axis=0)
        empty += int((~there).sum())
        values = np.where(there, values, 0)
        mean += values.sum(axis=(1, 2), dtype=np.float64)
        rows = (row + np.arange(values.shape[1])) // factors[0]
        columns = (column + np.arange(values.shape[2])) // factors[1]
        cells = np.ix_(rows, columns)
        np.add.at(count, cells, there)
        for layer, part in zip(total, np.tensordot(layers.weights, values, axes=1), strict=True):
            np.add.at(layer, cells, part)
    averaged = np.full(total.shape, np.nan)
    np.divide(total, count, out=averaged, where=count > 0)
    windows = sizes[0] * sizes[1]
    return Mosaic(averaged, factors, mean / max(windows - empty, 1), windows, empty)


def _pieces(
    results: Results, record: dict[str, int], grids: tuple[Grid, Grid]
) -> Iterator[tuple[tuple[int, int], Array]]:
    """Yield (first row, first column) and coefficients (paths, ny, nx) that cover the image."""
    data = results.data
    cuts = [results.frame_dim(grid.dim) for grid in grids]
    kept = [g.keep.stop - g.keep.start if c else 1 for g, c in zip(grids, cuts, strict=True)]
    budget = max(1, PIECE_BYTES // (data.sizes["path"] * data.dtype.itemsize * kept[0] * kept[1]))
    dims = [cut or grid.dim for grid, cut in zip(grids, cuts, strict=True)]
    # Along x first; what is left of the budget along y.
    across = min(budget, data.sizes[dims[1]])
    down = max(1, min(budget // across, data.sizes[dims[0]]))
    whole = {grid.dim: grid.keep for grid, cut in zip(grids, cuts, strict=True) if cut}
    named = [dim for cut, grid in zip(cuts, grids, strict=True) for dim in (cut, grid.dim) if dim]
    for i in range(0, data.sizes[dims[0]], down):
        for j in range(0, data.sizes[dims[1]], across):
            span = {dims[0]: slice(i, i + down), dims[1]: slice(j, j + across)}
            values = results.read({**record, **whole, **span}, ("path", *named))
            lengths = [
                len(range(*span[dim].indices(data.sizes[dim]))) * k
                for dim, k in zip(dims, kept, strict=True)
            ]
            yield (i * kept[0], j * kept[1]), values.reshape(-1, *lengths)


def _draw(
    results: Results,
    name: str,
    grids: tuple[Grid, Grid],
    layers: Layers,
    mosaic: Mosaic,
    output: str,
) -> None:
    """Lay out the maps and, last, the wheel."""
    maps = _maps(results, layers, mosaic)
    panels = len(maps) + bool(layers.scales.size)
    columns = min(panels, 3)
    rows = -(-panels // columns)
    shape = mosaic.layers.shape[1:]
    height = min(max(4.0 * shape[0] / shape[1], 2.2), 5.0) + 0.7
    figure = new_figure(max(4.6 * columns, 7.0), height * rows + 0.5)
    tiles = "  ·  ".join(
        part for part in (elided(name), *(["unfinished run"] * bool(results.notes))) if part
    )
    figure.suptitle(f"Scattering coefficients{'  ·  ' * bool(tiles)}{tiles}", x=0.01, ha="left")
    edges = [
        step_edges(_cells(grid, factor)) for grid, factor in zip(grids, mosaic.factors, strict=True)
    ]
    for number, (title, label, values, options) in enumerate(maps, start=1):
        axes = figure.add_subplot(rows, columns, number)
        mesh = draw_mesh(axes, edges[1], edges[0], values, **options)
        # As tall as the map, whose height follows from its width.
        bar = figure.colorbar(mesh, cax=axes.inset_axes((1.02, 0.0, 0.03, 1.0)), extend="both")
        bar.set_label(label, fontsize=8)
        bar.ax.tick_params(labelsize=8)
        axes.set_title(title, loc="left", fontsize=10)
        _label_axes(axes, grids)
    if layers.scales.size:
        _draw_wheel(figure, (rows, columns, panels), results, mosaic.mean, _rows_go_down(grids[0]))
    save(figure, output)


def _maps(
    results: Results, layers: Layers, mosaic: Mosaic
) -> list[tuple[str, str, Array, dict[str, Any]]]:
    """Prepare each map: title, label of the colour bar, values, colours."""
    if not layers.scales.size:
        values = mosaic.layers[0]
        low, high = spread(values)
        return [("order 0", "mean", values, {"cmap": "viridis", "vmin": low, "vmax": high})]
    xi1, j1 = results.column("xi1").astype(float), results.column("j1")
    first = results.paths_of_order(1)
    maps = []
    for layer, j in zip(mosaic.layers, layers.scales, strict=False):
        frequency = float(np.mean(xi1[first][j1[first] == j]))
        title = f"order 1, j = {j}: {three_digits(frequency)} {results.frequency_units()}"
        maps.append((title, "log10 of mean over angles", *_logarithm(layer)))
    second, order1, cosine, sine = mosaic.layers[layers.scales.size :]
    total = np.where(order1 > 0, order1, np.nan)
    if layers.has_second:
        maps.append(("order 2 / order 1", "log10", *_logarithm(second / total)))
    strength = np.hypot(cosine, sine) / total
    low, high = spread(strength)
    options = {"cmap": "viridis", "vmin": 0.0, "vmax": max(high, low)}
    maps.append(("order 1, anisotropy", "0: all directions alike", strength, options))
    return maps


def _logarithm(values: Array) -> tuple[Array, dict[str, Any]]:
    usable = np.isfinite(values) & (values > 0)
    logarithm = np.log10(values, out=np.full(values.shape, np.nan), where=usable)
    low, high = spread(logarithm)
    low = max(low, high - MAX_DECADES)
    return logarithm, {"cmap": "viridis", "vmin": low, "vmax": high}


def _cells(grid: Grid, factor: int) -> Array:
    """Give the centres of the cells of `factor` windows each along one axis."""
    numbers = grid.numbers()
    last = np.minimum(np.arange(0, numbers.size, factor) + factor - 1, numbers.size - 1)
    return np.asarray(0.5 * (numbers[::factor] + numbers[last]))


def _rows_go_down(grid: Grid) -> bool:
    """Whether the first row of the image is drawn on top: latitudes that fall, or plain rows."""
    falling = grid.positions.size > 1 and bool(grid.positions[-1] < grid.positions[0])
    return falling or "degrees" not in grid.units


def _label_axes(axes: Axes, grids: tuple[Grid, Grid]) -> None:
    y, x = grids
    axes.set_xlabel(f"{x.dim} [{x.units or 'pixels'}]", fontsize=8)
    axes.set_ylabel(f"{y.dim} [{y.units or 'pixels'}]", fontsize=8)
    axes.tick_params(labelsize=8)
    if _rows_go_down(y) and y.positions[-1] > y.positions[0]:
        axes.invert_yaxis()
    if y.units[:7] == x.units[:7]:
        axes.set_aspect("equal")


def shown_angles(theta: Array, down: bool) -> Array:
    """Return where on a wheel a wave's direction is drawn, in [0, pi)."""
    # theta is measured from the axis of rows towards the axis of columns.
    shown: Array = np.mod(np.arctan2((-1 if down else 1) * np.cos(theta), np.sin(theta)), np.pi)
    return shown


def mean_of_image(results: Results) -> tuple[str, Array, bool]:
    """Return the first image's name, its mean coefficients, and whether its rows go down."""
    grids = (results.grid(results.tail_dims[0]), results.grid(results.tail_dims[1]))
    name, record = next(results.records())
    none = Layers(np.zeros((0, results.data.sizes["path"]), np.float32), np.zeros(0), False)
    return name, _gather(results, record, grids, none).mean, _rows_go_down(grids[0])


def _draw_wheel(
    figure: Figure, place: tuple[int, int, int], results: Results, mean: Array, down: bool
) -> None:
    """Draw the mean order 1 as a disk: the angle is the wave's direction, the radius its scale."""
    first = results.paths_of_order(1)
    theta, j1 = results.column("theta1")[first].astype(float), results.column("j1")[first]
    rings = np.unique(j1)[::-1]  # Coarse scales inside, as in the Fourier plane.
    angles = np.unique(theta)
    if not np.isfinite(angles).all():
        return
    shown = shown_angles(angles, down)
    order = np.argsort(shown)
    values = np.full((rings.size, angles.size), np.nan)
    values[np.searchsorted(-rings, -j1), np.searchsorted(angles, theta)] = mean[first]
    level = values.mean(axis=1, keepdims=True)
    usable = (values > 0) & (level > 0)
    relative = np.log10(values / np.where(level > 0, level, 1.0), where=usable,
                        out=np.full(values.shape, np.nan))[:, order]  # fmt: skip
    limit = symmetrical_limit(relative)
    axes: Any = figure.add_subplot(*place, projection="polar")
    edges = shown[order][0] + np.pi / angles.size * (np.arange(2 * angles.size + 1) - 0.5)
    mesh = draw_mesh(
        axes, edges, np.arange(rings.size + 1) + 0.5, np.tile(relative, (1, 2)),
        cmap="RdBu_r", vmin=-limit, vmax=limit,
    )  # fmt: skip
    axes.set_ylim(0, rings.size + 0.5)
    axes.set_yticks(np.arange(rings.size) + 1, labels=[f"j={j}" for j in rings], fontsize=8)
    axes.grid(False)
    axes.set_xticks(np.arange(8) * np.pi / 4)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title("order 1, mean over the image, by direction", loc="left", fontsize=10, pad=16)
    bar = figure.colorbar(mesh, ax=axes, pad=0.08, fraction=0.05, aspect=25)
    bar.set_label("log10, relative to mean over angles", fontsize=8)
    bar.ax.tick_params(labelsize=8)
