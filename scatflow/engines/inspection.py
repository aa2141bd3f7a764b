"""What an engine's filters are like: how they cover frequencies, how far they reach."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scatflow.engines import filters
from scatflow.engines.engine import Engine, integer, number
from scatflow.engines.scattering1d import Scattering1D
from scatflow.engines.scattering2d import Scattering2D
from scatflow.engines.scattering3d import HarmonicScattering3D
from scatflow.engines.timefrequency import TimeFrequencyScattering
from scatflow.errors import ParameterError

WINDOWS = 16
"""Averaging windows of the signal on whose grid filters are looked at, if the engine has none."""


def littlewood_paley(engine: Any, order: int) -> NDArray[np.float64]:
    """Return the sum that :meth:`Engine.littlewood_paley` describes."""
    if isinstance(engine, HarmonicScattering3D):
        integer("order", order, 1, 1)
        degrees, _ = filters.volumes(_sized(engine))
        return np.asarray(sum((np.abs(d) ** 2).sum(axis=(0, 1)) for d in degrees), np.float64)
    if isinstance(engine, Scattering2D):
        integer("order", order, 1, 1)
        phi, bank = filters.images(_sized(engine))
        return _sum(phi["levels"][0], [psi["levels"][0] for psi in bank])
    bank_of = integer("order", order, 1, engine.max_order)
    phi, *banks = filters.signals(_sized(engine))
    return _sum(phi["levels"][0], [psi["levels"][0] for psi in banks[bank_of - 1]])


def _sum(phi: NDArray[Any], bank: list[NDArray[Any]]) -> NDArray[np.float64]:
    """Return the squares of a low-pass and of wavelets, which real signals see from both sides."""
    power = np.zeros(phi.shape)
    for psi in bank:
        power += np.abs(psi.astype(np.float64)) ** 2
    mirrored = power
    for axis in range(power.ndim):
        mirrored = np.roll(np.flip(mirrored, axis), 1, axis)
    return np.abs(phi.astype(np.float64)) ** 2 + (power + mirrored) / 2


def _sized(engine: Any) -> Any:
    """Return an engine with a shape, whose grid is fine enough to see its filters."""
    if isinstance(engine, TimeFrequencyScattering):
        engine = Scattering1D(engine.J, engine.shape, engine.Q, T=engine.T)
    if engine.shape is not None:
        return engine
    least = {1: WINDOWS * 2**engine.J, 2: 8 * 2**engine.J, 3: 8 * 2**engine.J}[engine.ndim]
    if isinstance(engine, Scattering1D):
        least = max(least, WINDOWS * engine.window)
    return dataclasses.replace(engine, shape=(least,) * engine.ndim)


def redundancy(engine: Engine, shape: tuple[int, ...] | None) -> float:
    """Return the coefficients per sample; see :meth:`Engine.redundancy`."""
    if shape is None and engine.shape is None:
        shape = tuple(_sized(engine).shape)
    plan = engine.plan(shape)
    return math.prod(plan.output_shape) / math.prod(plan.shape)


def reach(engine: Engine) -> int | None:
    """Return the samples to each side of its centre that a coefficient sees, None: all."""
    try:
        return engine.canonical_grid(np.float64).halo
    except ParameterError:
        return None


def describe(engine: Any, rate: float | None) -> str:
    """Return words and a table; see :meth:`Engine.describe`."""
    factor = 1.0 if rate is None else number("rate", rate)
    if not factor > 0:
        raise ParameterError(f"rate must be positive, in samples per second, not {rate!r}.")
    units, lengths = ("cycles/sample", "samples") if rate is None else ("Hz", "s")
    table = engine.paths().columns
    counts = np.bincount(table["order"])
    listed = ", ".join(f"{n} of order {k}" for k, n in enumerate(counts) if n)
    words = [f"{type(engine).__name__}: {len(table['order'])} paths ({listed})."]
    if isinstance(engine, Scattering1D | TimeFrequencyScattering):
        window = engine.window / factor
        words.append(f"Averages over {window:.6g} {lengths} (T = {engine.window:g} samples).")
    seen = reach(engine)
    if seen is None:
        words.append("A coefficient sees the whole signal.")
    else:
        words.append(
            f"A coefficient sees {seen / factor:.6g} {lengths} to each side of its centre."
        )
    if isinstance(engine, HarmonicScattering3D):
        words.append(f"{redundancy(engine, None):.4g} coefficients per sample of a volume.")
    else:
        low, high = engine.frame_bounds()
        words.append(
            f"Littlewood-Paley sum of the first bank between {low:.4g} and {high:.4g}; "
            f"{redundancy(engine, None):.4g} coefficients per sample."
        )
    return "\n".join([*words, *_table(table, factor, units)])


def _table(table: dict[str, NDArray[Any]], factor: float, units: str) -> list[str]:
    """Return the wavelets of order 1 as lines."""
    first = np.flatnonzero(table["order"] == 1)
    names = [n for n in ("j1", "theta1", "l", "xi1", "sigma1") if n in table]
    heads = {"xi1": f"xi1 ({units})", "sigma1": f"sigma1 ({units})", "theta1": "theta1 (rad)"}
    rows = [[heads.get(name, name) for name in names]]
    for i in first:
        cells = []
        for name in names:
            value = table[name][i] * (factor if name in ("xi1", "sigma1") else 1)
            cells.append(str(value) if name in ("j1", "l") else f"{value:.5g}")
        rows.append(cells)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
