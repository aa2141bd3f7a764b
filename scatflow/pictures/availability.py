"""Which windows of a result hold values: gaps of the source, failed and missing blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scatflow.errors import SourceError
from scatflow.pictures.canvas import draw_mesh, elided, new_figure, save, step_edges
from scatflow.pictures.results import Array, Grid, Results
from scatflow.pictures.windows import MAX_COLUMNS, pieces

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_RECORDS = 60  # Rows that can be told apart in one picture.


def draw_availability(results: Results, output: str) -> list[str]:
    """Draw the share of windows with values over time, a row for each record.

    Raises
    ------
    SourceError
        Not signals were transformed.
    """
    if results.ndim != 1 or results.row_dim is not None:
        raise SourceError(
            f"{results.store} has no time series of windows along one dimension, so its "
            "availability cannot be drawn over time. Its maps show what is missing in grey: "
            "`scatflow show` without --what."
        )
    grid = results.grid(results.tail_dims[0])
    factor = -(-grid.positions.size // MAX_COLUMNS)
    names: list[str] = []
    rows: list[Array] = []
    shares: list[float] = []
    for name, record in results.records():
        present = _present(results, record, grid)
        shares.append(float(present.mean()))
        if len(rows) < MAX_RECORDS:
            names.append(name or "record")
            rows.append(np.add.reduceat(present, np.arange(0, present.size, factor)) / factor)
    _draw(np.array(rows), names, grid, factor, output)
    lines = [
        f"availability of {len(shares)} record(s), {grid.positions.size} windows each: "
        f"{np.mean(shares):.2%} hold values"
    ]
    lines += [f"  {note}" for note in results.notes]
    if len(shares) > len(rows):
        lines.append(f"  the first {len(rows)} records are drawn")
    lines += [f"  {name}: {share:.2%}" for name, share in zip(names, shares, strict=False)]
    return lines


def _present(results: Results, record: dict[str, int], grid: Grid) -> Array:
    """Say for each window whether its first coefficient has a value: gaps take all paths alike."""
    parts = [np.isfinite(part[0]) for part in pieces(results, record, grid, slice(0, 1))]
    return np.concatenate(parts)


def _draw(rows: Array, names: list[str], grid: Grid, factor: int, output: str) -> None:
    # The last column may hold fewer windows than the others.
    last = grid.positions.size - (rows.shape[1] - 1) * factor
    rows[:, -1] *= factor / last
    figure = new_figure(11.0, 1.8 + 0.28 * len(names))
    axes = figure.add_subplot()
    positions = grid.numbers()
    edges = step_edges(positions)[np.append(np.arange(0, positions.size, factor), positions.size)]
    mesh = draw_mesh(
        axes, edges, np.arange(len(names) + 1) - 0.5, rows, cmap="cividis", vmin=0, vmax=1
    )
    axes.invert_yaxis()
    axes.set_yticks(range(len(names)), labels=[elided(name) for name in names], fontsize=8)
    axes.set_title(f"Availability  ·  each column: {factor} window(s)", loc="left", fontsize=10)
    _label_time(axes, grid)
    bar = figure.colorbar(mesh, ax=axes, pad=0.01, fraction=0.03)
    bar.set_label("share of windows\nthat hold values", fontsize=8)
    save(figure, output)


def _label_time(axes: Axes, grid: Grid) -> None:
    axes.set_xlabel(f"{grid.dim} [{grid.units or 'samples'}]")
    if grid.is_time:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        # matplotlib's dates have no annotations.
        locator = AutoDateLocator()  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        form = ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_formatter(form)
