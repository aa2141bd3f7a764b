"""Molecules as volumes: densities of Gaussians at the nuclei, for solid harmonic scattering.

>>> import numpy as np
>>> from scatflow import HarmonicScattering3D
>>> from scatflow.molecules import generate_weighted_sum_of_gaussians
>>> axis = np.fft.fftfreq(32, 1 / 32)  # 0 ... 15, -16 ... -1: the molecule is around voxel 0
>>> grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))
>>> water = np.array([[[0.0, 0.0, 0.0], [0.0, 3.0, 2.3], [0.0, -3.0, 2.3]]])
>>> charges = np.array([[8.0, 1.0, 1.0]])
>>> density = generate_weighted_sum_of_gaussians(grid, water, charges, sigma=1.5)
>>> density.shape, f"{density.sum():.6f}"
((1, 32, 32, 32), '10.000000')
>>> HarmonicScattering3D(J=2, L=3)(density).shape
(1, 6, 4, 3)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scatflow.errors import InputShapeError, InputTypeError, ParameterError

IN_FLIGHT = 2**18
"""Numbers, of all Gaussians on a few planes, that are made at a time: two megabytes."""

REACH = 9.0
"""Widths beyond which a Gaussian is less than 1e-17 of its peak."""


def generate_weighted_sum_of_gaussians(
    grid: Any,
    positions: ArrayLike,
    weights: ArrayLike,
    sigma: float,
    cell: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Sum Gaussians of unit mass at some positions, as the density of a molecule's nuclei.

    ``x(r) = sum_i w_i (2 pi sigma^2)^(-3/2) exp(-|r - r_i|^2 / (2 sigma^2))``

    A Gaussian is a product of its factors along the three axes, so that a molecule is one product
    of matrices, voxels by atoms; only a few planes of it are in flight besides the output.

    Parameters
    ----------
    grid : array_like
        Where the density is sampled, ``(3, M, N, O)`` as of ``numpy.mgrid``, or three arrays that
        broadcast to ``(M, N, O)``, as of ``numpy.ogrid``. Any order along the axes, such as that of
        ``numpy.fft.ifftshift``. Grids that are not a product of three axes are computed, too, one
        Gaussian after the other.
    positions : array_like
        Centres of the Gaussians, ``(batch, atoms, 3)``, in the units and the order of axes of
        `grid`; any number of batch axes.
    weights : array_like
        Their masses, such as nuclear charges, ``(batch, atoms)``. Molecules of fewer atoms are
        filled up with weights of zero, whose positions are not looked at.
    sigma : float
        Width, in the units of `grid`.
    cell : array_like of 3 floats, optional
        Lengths of a periodic cell along the three axes, in the units of `grid`: all images of the
        Gaussians are summed. By default there is one molecule in empty space.

    Returns
    -------
    ndarray
        ``(batch, M, N, O)``, float64: roots of nearly empty volumes need it.

    Raises
    ------
    ValueError
        If shapes do not belong together, or `sigma` or `cell` are not positive.
    TypeError
        If numbers are not real.

    References
    ----------
    M. Eickenberg, G. Exarchakis, M. Hirn, S. Mallat and L. Thiry, Solid harmonic wavelet
    scattering for predictions of molecule properties, J. Chem. Phys. 148 (2018),
    doi:10.1063/1.5023798.
    """
    r, w = _real("positions", positions), _real("weights", weights)
    if r.shape[-1:] != (3,) or r.shape[:-1] != w.shape or w.ndim == 0:
        raise InputShapeError(
            f"positions must be (batch, atoms, 3) and weights (batch, atoms), but they have shapes "
            f"{r.shape} and {w.shape}."
        )
    periods = _periods(sigma, cell)
    space = [_real("grid", part, convert=False) for part in grid]
    if len(space) != 3 or any(part.ndim != 3 for part in space):
        raise InputShapeError(
            "grid must be (3, M, N, O), as numpy.mgrid gives it, or three arrays that broadcast to "
            f"(M, N, O); it has shapes {[part.shape for part in space]}."
        )
    shape = np.broadcast_shapes(*(part.shape for part in space))
    axes = _axes(space)
    out = np.zeros((*w.shape[:-1], *shape))
    for molecule in np.ndindex(*w.shape[:-1]):
        there = w[molecule] != 0
        scaled = w[molecule][there] / ((2 * math.pi) ** 1.5 * sigma**3)
        if axes is None:
            _add_anywhere(out[molecule], space, r[molecule][there], scaled, sigma, periods)
        else:
            factors = [
                _factor(axis[None, :] - r[molecule][there, i, None], sigma, periods[i])
                for i, axis in enumerate(axes)
            ]
            _write_products(out[molecule], factors[0] * scaled[:, None], factors[1], factors[2])
    return out


def _write_products(density: NDArray[Any], z: Any, y: Any, x: Any) -> None:
    """Write ``sum_i z_i y_i x_i``, each factor ``(atoms, n)``, a few planes at a time."""
    atoms, ny = y.shape
    step = max(1, IN_FLIGHT // max(atoms * ny, 1))
    for first in range(0, z.shape[1], step):
        planes = z.T[first : first + step, None, :] * y.T  # (planes, ny, atoms)
        np.matmul(planes, x, out=density[first : first + step])


def _add_anywhere(
    density: NDArray[Any],
    space: Sequence[NDArray[Any]],
    positions: NDArray[Any],
    weights: NDArray[Any],
    sigma: float,
    periods: Sequence[float],
) -> None:
    """Add Gaussians on a grid of any form, one after the other."""
    for centre, weight in zip(positions, weights, strict=True):
        factors = (_factor(part - centre[i], sigma, periods[i]) for i, part in enumerate(space))
        density += weight * math.prod(factors)


def _factor(distance: NDArray[Any], sigma: float, period: float) -> NDArray[Any]:
    """Return ``exp(-d^2 / (2 sigma^2))`` of distances along one axis, or the sum of its images."""
    if math.isinf(period):
        return np.exp(-0.5 * (distance / sigma) ** 2)
    nearest = distance - period * np.round(distance / period)
    images = math.ceil(REACH * sigma / period + 0.5)
    total = np.zeros_like(nearest)
    for k in range(-images, images + 1):
        total += np.exp(-0.5 * ((nearest + k * period) / sigma) ** 2)
    return total


def _axes(space: Sequence[NDArray[Any]]) -> list[NDArray[Any]] | None:
    """Return the three axes that a grid is the product of, or None if it is none."""
    axes = []
    for i, part in enumerate(space):
        line = part[tuple(slice(None) if axis == i else slice(0, 1) for axis in range(3))]
        if not np.array_equal(part, np.broadcast_to(line, part.shape)):
            return None
        axis = line.reshape(-1).astype(np.float64)
        axes.append(np.broadcast_to(axis, max(p.shape[i] for p in space)))
    return axes


def _periods(sigma: float, cell: ArrayLike | None) -> tuple[float, ...]:
    """Return the period along each axis, infinite without a cell."""
    if not (math.isfinite(sigma) and sigma > 0):
        raise ParameterError(f"sigma must be positive and finite, not {sigma!r}.")
    if cell is None:
        return (math.inf,) * 3
    lengths = _real("cell", cell)
    if lengths.shape != (3,) or not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise ParameterError(f"cell must be three positive lengths, not {cell!r}.")
    return tuple(lengths.tolist())


def _real(name: str, values: Any, convert: bool = True) -> NDArray[Any]:
    """Return real numbers, as float64 unless told otherwise, or say that they are none."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise InputTypeError(f"{name} must be real numbers, but have dtype {array.dtype}.")
    return array.astype(np.float64, copy=False) if convert else array


__all__ = ["generate_weighted_sum_of_gaussians"]
