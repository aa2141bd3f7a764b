"""The disk of scattering of images: all paths of both orders by direction and scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scatflow.errors import SourceError
from scatflow.pictures.canvas import GAP_COLOUR, elided, new_figure, save
from scatflow.pictures.maps import mean_of_image, shown_angles
from scatflow.pictures.results import Array, Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_disk(results: Results, output: str) -> list[str]:
    """Draw the mean coefficients of the first image as the disks of Bruna and Mallat (2013).

    A path of order 1 is a sector of the ring of its scale, coarse scales inside. In the disk of
    order 2 that sector is divided among the second wavelets: outwards by scale, around by
    direction.

    Raises
    ------
    SourceError
        The store does not hold images with labelled directions.
    """
    theta = results.column("theta1").astype(float)
    first, second = results.paths_of_order(1), results.paths_of_order(2)
    if results.ndim != 2 or not first.size or not np.isfinite(theta[first]).all():
        raise SourceError(
            f"{results.store} does not hold images with coefficients of order 1 and their "
            "directions, so there is no disk of scattering. Show it without --what."
        )
    name, mean, down = mean_of_image(results)
    figure = new_figure(11.0 if second.size else 6.0, 5.4)
    title = ("Disk of scattering, mean over the image", elided(name))
    figure.suptitle("  ·  ".join(part for part in title if part), x=0.01, ha="left")
    columns = 2 if second.size else 1
    cells = [_cells_of_first(results, first, down)]
    if second.size:
        cells.append(_cells_of_second(results, first, second, down))
    for order, (paths, sectors) in enumerate(
        zip((first, second)[:columns], cells, strict=True), start=1
    ):
        _draw_sectors(figure, (1, columns, order), mean[paths], sectors, f"order {order}")
    save(figure, output)
    return [
        f"disk of scattering of 1 of {results.n_records()} image(s)"
        + (f" ({name})" if name else "")
        + f": {first.size} paths of order 1, {second.size} of order 2"
    ]


def _places(values: Array) -> tuple[Array, int]:
    """Number the distinct values of a label, ascending."""
    distinct, places = np.unique(values, return_inverse=True)
    return places, distinct.size


def _cells_of_first(results: Results, first: Array, down: bool) -> Array:
    """Return for each path angle, width, inner radius and height of its sector."""
    j1, scales = _places(results.column("j1")[first])
    theta = results.column("theta1")[first].astype(float)
    width = np.pi / np.unique(theta).size
    inner = (scales - 1 - j1) + 0.5  # Coarse scales inside.
    return np.stack(
        [shown_angles(theta, down), np.full(theta.shape, width), inner, np.ones(theta.shape)]
    )


def _cells_of_second(results: Results, first: Array, second: Array, down: bool) -> Array:
    """Divide the sector of each first wavelet among the second ones."""
    every = np.unique(results.column("j1")[first])
    distinct = np.unique(results.column("theta1")[first].astype(float))
    j1 = np.searchsorted(every, results.column("j1")[second])
    j2 = np.searchsorted(every, results.column("j2")[second])
    theta1 = results.column("theta1")[second].astype(float)
    turn = np.searchsorted(distinct, results.column("theta2")[second].astype(float))
    width = np.pi / distinct.size
    finer = every.size - 1 - j1  # Second wavelets are coarser than the first: so many scales.
    inner = finer - 0.5 + (every.size - 1 - j2) / finer
    part = (turn - (distinct.size - 1) / 2) / distinct.size
    return np.stack(
        [
            shown_angles(theta1, down) + part * width,
            np.full(theta1.shape, width / distinct.size),
            inner,
            1 / finer,
        ]
    )


def _draw_sectors(
    figure: Figure, place: tuple[int, int, int], values: Array, sectors: Array, title: str
) -> None:
    """Draw each sector and, as directions have no sign, its opposite."""
    import matplotlib
    from matplotlib.colors import LogNorm

    axes: Any = figure.add_subplot(*place, projection="polar")
    angle, width, inner, height = sectors
    usable = np.isfinite(values) & (values > 0)
    top = values[usable].max() if usable.any() else 1.0
    floor = np.quantile(values[usable], 0.01) if usable.any() else 0.1
    low = min(floor, 0.99 * top)
    norm = LogNorm(low, top)
    colours = np.tile(matplotlib.colors.to_rgba(GAP_COLOUR), (values.size, 1))
    colours[usable] = matplotlib.colormaps["viridis"](norm(values[usable]))
    for half in (0, np.pi):
        axes.bar(angle + half, height, width=width, bottom=inner, color=colours)
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(False)
    axes.set_yticks([])
    axes.set_xticks(np.arange(8) * np.pi / 4)
    axes.tick_params(labelsize=8)
    shades = matplotlib.cm.ScalarMappable(norm, "viridis")
    bar = figure.colorbar(shades, ax=axes, pad=0.1, fraction=0.045, label="mean coefficient")
    if low >= 1e-3 and top < min(1e4, 10 * low):  # Plain numbers where these are short and few.
        bar.ax.yaxis.set_major_formatter(lambda value, _position: f"{value:g}")
        bar.ax.yaxis.set_minor_formatter(lambda value, _position: f"{value:g}")
