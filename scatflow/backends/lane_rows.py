"""Filters along log-frequency as one compiled call, many times side by side in lanes of vectors.

The rows of as many times as a vector has lanes are a line of points, see :mod:`codelets`: it is
transformed along log-frequency, multiplied and folded, inverted, rooted and averaged without
leaving the nearest cache. Lanes never mix, so a time's bits do not depend on its neighbours.
"""

from __future__ import annotations

import numpy as np

from scatflow.backends import codelets, kernels
from scatflow.backends.codelets import FORWARD, PACKED_MODULI, POINT, VECTOR_BYTES, call_line
from scatflow.backends.compiling import compiled, stamp

STAMP = stamp(__file__, codelets.__file__, kernels.__file__)
"""For Numba's cache: what is compiled here consists of these files."""


@compiled
def joint_modulus(
    y, bands, weights, matrix, first, out, spectrum, z, moduli, sums, room, line, tables, _
):
    """Put rows through filters along log-frequency, and keep or average their moduli.

    Parameters
    ----------
    y : ndarray
        ``(batch, rows, 2 time)``, complex numbers as pairs.
    bands : ndarray
        ``(filters, 3)``: first bin, number of bins, offset of the weights.
    weights : ndarray
        One for each bin, with the decimation's mean and the FFT's 1/N inside.
    matrix : ndarray
        ``(kept, target)`` averages over rows; of no rows where they are kept as they are.
    first : int
        First row that is kept, without a matrix.
    out : ndarray
        ``(batch, filters, kept, time)``.
    spectrum, z : ndarray
        Scratch: points of as many rows as the grid and as the decimated one have.
    moduli, sums : ndarray
        Scratch: as many rows of lanes as the decimated grid has, and as are kept.
    room, line : int
        Addresses of scratch for lines, and of :func:`codelets.line`.
    tables : tuple of int
        Addresses of the passes of both lengths.
    _ : ndarray
        :data:`STAMP`.
    """
    like = z[0]
    item = codelets.item_bytes(like)
    lanes = VECTOR_BYTES // item
    point = 2 * lanes
    grid, target = spectrum.size // point, z.size // point
    at_spectrum, at_z = np.int64(spectrum.ctypes.data), np.int64(z.ctypes.data)
    at_moduli, at_sums = np.int64(moduli.ctypes.data), np.int64(sums.ctypes.data)
    at_weights, at_matrix = np.int64(weights.ctypes.data), np.int64(matrix.ctypes.data)
    forward, inverse = tables
    for b in range(y.shape[0]):
        for t in range(0, out.shape[3], lanes):
            count = min(lanes, out.shape[3] - t)
            for i in range(y.shape[1] * point, grid * point):
                spectrum[i] = 0.0
            for i in range(y.shape[1]):
                to = spectrum[i * point : (i + 1) * point]
                row = y[b, i, 2 * t : 2 * (t + count)]
                if count < lanes:
                    for l in range(point):
                        to[l] = 0.0
                for l in range(count):
                    to[l] = row[2 * l]
                    to[lanes + l] = row[2 * l + 1]
            call_line(line, at_spectrum, at_spectrum, forward, room, FORWARD)
            for f in range(bands.shape[0]):
                for i in range(target * point):
                    z[i] = 0.0
                weight = at_weights + bands[f, 2] * item
                for i in range(bands[f, 1]):
                    k = bands[f, 0] + i
                    k = k - grid if k >= grid else k
                    place = at_z + (k % target) * POINT
                    codelets.add_weighted(like, place, at_spectrum + k * POINT, weight + i * item)
                call_line(line, at_z, at_moduli, inverse, room, PACKED_MODULI)
                if matrix.shape[0]:
                    for r in range(out.shape[2]):
                        weight = at_matrix + r * target * item
                        place = at_sums + r * VECTOR_BYTES
                        codelets.sum_weighted(like, place, at_moduli, weight, target)
                    kept = sums
                else:
                    kept = moduli[first * lanes :]
                for r in range(out.shape[2]):
                    to = out[b, f, r, t : t + count]
                    u = kept[r * lanes : (r + 1) * lanes]
                    for l in range(count):
                        to[l] = u[l]
