"""The sheet of paper: a matplotlib figure without pyplot, global state or display."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scatflow.errors import MissingExtraError, OutputError, ParameterError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scatflow.pictures.results import Array

DPI = 150
LONGEST_NAME = 48  # Letters of a record's name on a picture; lines print all of it.
GAP_COLOUR = "0.82"  # Behind every mesh: what holds no value shows as this grey.


def require_matplotlib() -> None:
    """Raise `MissingExtraError` where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise MissingExtraError(
            "matplotlib is not installed, so no picture can be drawn. "
            'Install it with: pip install "scatflow[plot]"'
        )


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of `width` x `height` inches that can only be saved."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


FORMATS = ("png", "pdf", "svg")


def picture_format(output: str) -> str:
    """Return the format that a file's name asks for; PNG where it has no ending."""
    ending = Path(output).suffix.lower().removeprefix(".") or "png"
    if ending not in FORMATS:
        raise ParameterError(
            f"{output}: a picture cannot be written as {ending!r}; nothing was drawn. Name a file "
            f"that ends in .{', .'.join(FORMATS)}."
        )
    return ending


def save(figure: Figure, output: str) -> None:
    """Write the figure, making the folder if need be."""
    path = Path(output)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format=picture_format(output), dpi=DPI)
    except OSError as problem:
        raise OutputError(
            f"The picture cannot be written to {output}: {problem}. "
            "Name a file in a folder that can be written to with -o."
        ) from problem


def draw_mesh(axes: Axes, x: Array, y: Array, values: Array, **options: Any) -> Any:
    """Draw `values` (ny, nx) as quadrilaterals between edges `x` (nx + 1,) and `y` (ny + 1,)."""
    axes.set_facecolor(GAP_COLOUR)
    masked = np.ma.masked_invalid(values)
    return axes.pcolormesh(x, y, masked, shading="flat", rasterized=True, **options)


def draw_rows(
    figure: Figure, axes: Axes, x: Array, y: Array, values: Array, label: str, **options: Any
) -> None:
    """Draw values over time and a logarithmic axis of frequencies, with a colour bar."""
    mesh = draw_mesh(axes, x, y, values, **options)
    scale_frequencies(axes, y)
    bar = figure.colorbar(mesh, ax=axes, pad=0.01, fraction=0.02, aspect=18, extend="both")
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=8)


def scale_frequencies(axes: Axes, edges: Array) -> None:
    """Give an axis of frequencies a logarithmic scale, with plain numbers: 0.1, 1, 10."""
    from matplotlib.ticker import LogFormatter

    axes.set_yscale("log")
    axes.set_ylim(edges[0], edges[-1])
    axes.yaxis.set_major_formatter(lambda value, _position: f"{value:g}")
    # Where hardly a decade is seen, some numbers between the powers are written, too.
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))


def elided(name: str) -> str:
    """Shorten a name that would push a picture aside.

    Examples
    --------
    >>> elided("UV05"), len(elided(100 * "a"))
    ('UV05', 48)
    """
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def step_edges(positions: Array) -> Array:
    """Give the edges (n + 1,) of cells centred on `positions` (n,): midway between neighbours.

    Examples
    --------
    >>> step_edges(np.array([1.0, 2.0, 4.0]))
    array([0.5, 1.5, 3. , 5. ])
    """
    if positions.size == 1:
        return np.array([positions[0] - 0.5, positions[0] + 0.5])
    middle = 0.5 * (positions[1:] + positions[:-1])
    first = 1.5 * positions[0] - 0.5 * positions[1]
    last = 1.5 * positions[-1] - 0.5 * positions[-2]
    return np.concatenate([[first], middle, [last]])


def band_edges(frequencies: Array) -> Array:
    """Give the edges (n + 1,) of the bands around ascending centre frequencies (n,) > 0.

    Edges are geometric means, so that a band looks centred on a logarithmic axis; where the
    lowest filters are spaced linearly their bands are drawn as wide as they are.

    Examples
    --------
    >>> band_edges(np.array([1.0, 4.0, 16.0]))
    array([ 0.5,  2. ,  8. , 32. ])
    """
    if frequencies.size == 1:
        return np.array([frequencies[0] / np.sqrt(2), frequencies[0] * np.sqrt(2)])
    return np.exp(step_edges(np.log(frequencies)))


def symmetrical_limit(values: Array) -> float:
    """Choose a limit in decades that all but the most extreme 0.5 % of finite values respect."""
    finite = np.abs(values[np.isfinite(values)])
    wanted = float(np.quantile(finite, 0.995)) if finite.size else 0.0
    return next((limit for limit in (0.2, 0.3, 0.5, 0.7, 1.0, 1.5) if wanted <= limit), 2.0)


def spread(values: Array) -> tuple[float, float]:
    """Give limits between the 1st and 99th percentile of the finite values, never empty."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = (float(bound) for bound in np.quantile(finite, [0.01, 0.99]))
    return (low, high) if high > low else (low - 0.5, high + 0.5)
