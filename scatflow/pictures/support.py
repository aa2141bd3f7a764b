"""How far an engine sees, and how blocks with their halos cover a record."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scatflow.engines import CanonicalGrid, Engine
from scatflow.pictures.canvas import new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLOCKS = 4  # As many are drawn: all others are alike.
MOMENTS = 201


def draw_support(
    engine: Engine, rate: float | None, output: str, tile: int | None = None
) -> list[str]:
    """Draw what one coefficient sees of a record, and the first blocks of the canonical grid.

    Raises
    ------
    ParameterError
        The transform is not one that can be cut.
    """
    grid = engine.canonical_grid(np.float32, tile)
    own = ("samples", "pixels", "voxels")[engine.ndim - 1]
    per_unit, units = (rate, "s") if rate else (1.0, own)
    figure = new_figure(10.0, 5.6)
    figure.suptitle(
        f"Support and halo  ·  J={engine.to_dict()['J']}  ·  float32", x=0.01, ha="left"
    )
    upper, lower = figure.subplots(2, 1, height_ratios=(1.4, 1.0))
    _draw_envelope(upper, grid, per_unit, units)
    _draw_blocks(lower, grid, per_unit, units)
    save(figure, output)
    share = 2 * grid.halo / grid.length
    return [
        f"support: the halo is {grid.halo / per_unit:.6g} {units} to each side, a window every "
        f"{grid.stride / per_unit:.6g} {units}",
        f"  the smallest block keeps {grid.block / per_unit:.6g} {units} and is computed from "
        f"{grid.length / per_unit:.6g}: {share:.0%} of these are halo; runs join blocks",
    ]


def _draw_envelope(axes: Axes, grid: CanonicalGrid, per_unit: float, units: str) -> None:
    """Draw the Gaussian that falls to the tolerance where the filters' joint envelope does."""
    width = grid.reach / np.sqrt(-2 * np.log(grid.tolerance))
    away = np.linspace(-1.15 * grid.halo, 1.15 * grid.halo, MOMENTS)
    axes.semilogy(away / per_unit, np.exp(-((away / width) ** 2) / 2), color="#31688e")
    axes.axhline(grid.tolerance, color="0.6", linestyle=":")
    axes.annotate(
        f"tolerance {grid.tolerance:.0e}", (0, grid.tolerance), ha="center", va="bottom",
        fontsize=8, color="0.3",
    )  # fmt: skip
    for side in (-1, 1):
        axes.axvline(side * grid.halo / per_unit, color="#b5651d", linestyle="--")
    half = grid.stride / 2 / per_unit
    axes.axvspan(-half, half, color="0.85", label="one window")
    axes.axvline(np.nan, color="#b5651d", linestyle="--", label="end of the halo")
    axes.set(ylabel="weight, of its peak", xlabel=f"from the coefficient's centre [{units}]")
    axes.set_ylim(grid.tolerance / 30, 3)
    axes.legend(fontsize=8, loc="upper right")
    axes.set_title("what a coefficient sees: envelope of both wavelets and the average", loc="left",
                   fontsize=10)  # fmt: skip


def _draw_blocks(axes: Axes, grid: CanonicalGrid, per_unit: float, units: str) -> None:
    """Draw the first blocks, each in a row: what is kept, and what is read besides."""
    for number in range(BLOCKS):
        start = number * grid.block
        axes.barh(
            number, grid.length / per_unit, left=(start - grid.halo) / per_unit, height=0.5,
            color="#fde725", edgecolor="0.5", label="" if number else "halo, read and computed",
        )  # fmt: skip
        axes.barh(
            number, grid.block / per_unit, left=start / per_unit, height=0.5, color="#31688e",
            label="" if number else "kept",
        )  # fmt: skip
    axes.axvline(0, color="k", linewidth=0.8)
    axes.set_xlim(-1.5 * grid.halo / per_unit, (BLOCKS * grid.block + 1.5 * grid.halo) / per_unit)
    axes.invert_yaxis()
    axes.set_yticks(range(BLOCKS), labels=[f"block {k}" for k in range(BLOCKS)])
    axes.set_xlabel(f"from the record's first sample [{units}]; before it samples are reflected")
    axes.legend(fontsize=8, loc="upper right")
