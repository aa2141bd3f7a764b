"""How filters along log-frequency are laid out for the kernel of :mod:`lane_rows`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from scatflow.backends import codelets, lane_rows, plain
from scatflow.backends.codelets import VECTOR_BYTES
from scatflow.backends.protocol import BandFilter, Keep, Kept, Lowpass, Mean
from scatflow.backends.scratch import SCRATCH

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class AcrossStage:
    """Filters along log-frequency, on their bands."""

    bands: Array
    weights: Array
    grid: int
    target: int
    passes: tuple[codelets.Passes, codelets.Passes]

    @property
    def nbytes(self) -> int:
        """Bytes that the stage holds."""
        tables = sum(passes.nbytes for passes in self.passes)
        return int(self.bands.nbytes + self.weights.nbytes) + tables

    def run(self, rows: Sequence[Array], how: Kept) -> Array:
        """Return ``|y * psi|`` along log-frequency, ``(batch, filters, kept rows, time)``."""
        y = np.concatenate(rows, axis=1)
        dtype = y.real.dtype
        y = y.astype(np.result_type(dtype, 1j), copy=False)
        matrix, first, kept = _averages(how, self.target, dtype)
        batch, _, time = y.shape
        out = np.empty((batch, len(self.bands), kept, time), dtype)
        point = 2 * VECTOR_BYTES // dtype.itemsize
        spectrum = SCRATCH.take("spectrum of rows", (self.grid * point,), dtype)
        z = SCRATCH.take("rows", (self.target * point,), dtype)
        moduli = SCRATCH.take("moduli of rows", (self.target * point // 2,), dtype)
        sums = SCRATCH.take("averages of rows", (kept * point // 2,), dtype)
        points = max(codelets.room(self.grid), codelets.room(self.target))
        room = SCRATCH.take("room for rows", (points * point,), dtype)
        line = codelets.line(dtype.name)
        lane_rows.joint_modulus(
            y.view(dtype), self.bands, self.weights, matrix, first, out, spectrum, z, moduli, sums,
            room.ctypes.data, line.address, (self.passes[0].address, self.passes[1].address),
            lane_rows.STAMP,
        )  # fmt: skip
        return out


def prepare(
    filters: Sequence[BandFilter], target: int, dtype: np.dtype[Any]
) -> AcrossStage | plain.JointStage:
    """Lay out filters for the kernel, or for SciPy where a length has too large a factor."""
    (grid,) = filters[0].shape
    if not codelets.splits(grid) or not codelets.splits(target):
        return plain.Plain(np).prepare_joint(filters, target, dtype)
    widths = [band.values.size for band in filters]
    offsets = np.cumsum([0, *widths[:-1]])
    starts = [band.starts[0] for band in filters]
    bands = np.stack([starts, widths, offsets], axis=1).astype(np.int64)
    weights = np.concatenate([band.values for band in filters]) / grid
    passes = codelets.passes(grid, dtype.name), codelets.passes(target, dtype.name)
    return AcrossStage(bands, weights.astype(dtype), grid, target, passes)


_MATRICES: WeakKeyDictionary[Lowpass, dict[Any, Array]] = WeakKeyDictionary()
"""Averages as they are applied, as long as their plans live."""


def _averages(how: Kept, n: int, dtype: np.dtype[Any]) -> tuple[Array, int, int]:
    """Return a matrix ``(kept, n)`` or, where rows stay as they are, the first; and how many."""
    match how:
        case Lowpass():
            made = _MATRICES.setdefault(how, {})
            if (n, dtype) not in made:
                made[n, dtype] = plain.averages(how, n).astype(dtype)
            return made[n, dtype], 0, len(made[n, dtype])
        case Mean():
            return plain.averages(how, n).astype(dtype), 0, 1
        case Keep((crop,)):
            inside = range(*crop.indices(n))
            return np.empty((0, 0), dtype), inside.start, len(inside)
    raise TypeError(f"rows cannot be kept as {how} says")
