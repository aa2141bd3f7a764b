"""Fused loops of the NumPy backend, compiled by Numba without the interpreter's lock.

Complex rows are passed as real ones of twice the length, so that products with real weights are
plain loops that vectorise. Slices are taken before the loops: an index whose sign the compiler
cannot prove keeps a branch for negative ones. No loop's order depends on the data's place in
memory or on what else is in the batch.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import types

compiled = numba.njit(nogil=True, cache=True)
summing = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
"""For sums of products: the terms may be taken in the vector unit's order, always the same."""


@compiled
def _add_piece(out, u, weights, conjugate):
    """Add ``u weights`` to a row; a conjugate piece is read backwards."""
    if conjugate:
        m = u.size // 2
        for i in range(m):
            k = 2 * (m - 1 - i)
            out[2 * i] += u[k] * weights[2 * i]
            out[2 * i + 1] -= u[k + 1] * weights[2 * i]
    else:
        for i in range(u.size):
            out[i] += u[i] * weights[i]


@compiled
def _square_root(z, u):
    """Write the modulus of complex numbers, given as pairs."""
    for i in range(u.size):
        re = z[2 * i]
        im = z[2 * i + 1]
        u[i] = np.sqrt(re * re + im * im)


# --- MKL's transforms ----------------------------------------------------------------------

SYMBOLS = {
    "scatflow_dfti_forward": "DftiComputeForward",
    "scatflow_dfti_backward": "DftiComputeBackward",
}
"""Names under which compiled code finds functions of MKL, once :mod:`fft` has told where."""

_status = types.int64(types.intp, types.intp, types.intp)
_dfti_forward = types.ExternalFunction("scatflow_dfti_forward", _status)
_dfti_backward = types.ExternalFunction("scatflow_dfti_backward", _status)


@compiled
def backward(handle, z):
    """Invert complex grids ``(grids, size)`` in place."""
    for p in range(z.shape[0]):
        _dfti_backward(handle, z[p].ctypes.data, 0)


@compiled
def forward_real(handle, u, half):
    """Transform real grids ``(grids, size)`` to half spectra."""
    for p in range(u.shape[0]):
        _dfti_forward(handle, u[p].ctypes.data, half[p].ctypes.data)


@compiled
def backward_real(handle, half, u):
    """Invert half spectra to real grids."""
    for p in range(u.shape[0]):
        _dfti_backward(handle, half[p].ctypes.data, u[p].ctypes.data)


# --- moduli ----------------------------------------------------------------------------------


@compiled
def fold(u_hat, z, first, filters, pieces, weights):
    """Multiply half spectra by filters and fold, for pairs (spectrum, filter) from `first` on.

    Parameters
    ----------
    u_hat : ndarray
        ``(spectra, 2 size)``, real pairs, of flattened grids.
    z : ndarray
        ``(pairs, 2 size)``, overwritten.
    first : int
        Number of the first pair: pair p is spectrum ``p // F`` through filter ``p % F``.
    filters : ndarray
        ``(F + 1,)``: filter f has the pieces ``filters[f] ... filters[f + 1] - 1``.
    pieces : ndarray
        ``(P, 5)``: first bin read, first bin written, length, offset of the weights, and whether
        it is read backwards and conjugate. Bins count along flattened grids.
    weights : ndarray
        Each twice: for the real and the imaginary part.
    """
    count = filters.size - 1
    for p in range(z.shape[0]):
        row, f = divmod(first + p, count)
        out = z[p]
        out[:] = 0.0
        source = u_hat[row]
        for k in range(filters[f], filters[f + 1]):
            begin, to, m, w = pieces[k, 0], pieces[k, 1], pieces[k, 2], pieces[k, 3]
            u = source[2 * begin : 2 * (begin + m)]
            _add_piece(out[2 * to : 2 * (to + m)], u, weights[2 * w : 2 * (w + m)], pieces[k, 4])


@compiled
def modulus(z, u):
    """Write the moduli of complex rows ``(rows, 2 n)`` to `u` ``(rows, n)``."""
    for p in range(u.shape[0]):
        _square_root(z[p], u[p])


# --- two dimensions ------------------------------------------------------------------------


@numba.njit(cache=True)
def cut_rows(values, starts, shape, target, eps):
    """Cut a 2D filter into runs along the rows of the half spectrum.

    Every row keeps only the span where the filter exceeds `eps` times its peak: the ellipse
    instead of the box around it.

    Returns
    -------
    pieces : ndarray
        ``(P, 5)``: first bin read and first bin written, both of the flattened grids, length,
        offset of the weights, and whether the run is read backwards and conjugate. Sorted by row
        written.
    weights : ndarray
        Each twice.
    """
    (m, n), (m_out, n_out) = shape, target
    kept = n // 2 + 1
    floor = eps * np.abs(values).max()
    pieces = np.empty((16, 5), np.int64)
    weights = np.empty(2 * values.size)
    count = 0
    used = 0
    for row in range(m_out):
        for alias in range(m // m_out):
            bin_u = row + alias * m_out
            i = (bin_u - starts[0]) % m
            if i >= values.shape[0]:
                continue
            low, high = 0, values.shape[1]
            while low < high and abs(values[i, low]) <= floor:
                low += 1
            while high > low and abs(values[i, high - 1]) <= floor:
                high -= 1
            a = low
            while a < high:
                # A run ends where the half read changes and where the grid written wraps around.
                bin_v = (starts[1] + a) % n
                conjugate = bin_v >= kept
                room = (n if conjugate else kept) - bin_v
                length = min(high - a, room, n_out - bin_v % n_out)
                if count == pieces.shape[0]:
                    more = np.empty((2 * count, 5), np.int64)
                    more[:count] = pieces
                    pieces = more
                if conjugate:
                    pieces[count, 0] = (-bin_u) % m * kept + n - (bin_v + length - 1)
                else:
                    pieces[count, 0] = bin_u * kept + bin_v
                pieces[count, 1] = row * n_out + bin_v % n_out
                pieces[count, 2] = length
                pieces[count, 3] = used
                pieces[count, 4] = conjugate
                count += 1
                for t in range(length):
                    weights[2 * (used + t)] = values[i, a + t]
                    weights[2 * (used + t) + 1] = values[i, a + t]
                used += length
                a += length
    return pieces[:count].copy(), weights[: 2 * used].copy()


# --- low-pass ------------------------------------------------------------------------------


@summing
def _dot(a, b):
    total = a[0] * b[0]
    for i in range(1, a.size):
        total += a[i] * b[i]
    return total


@compiled
def lowpass_rows(u, h, step, first, out):
    """Average rows around every step-th sample: ``out[:, k] = sum_t h[t] u[:, (c - r + t) % n]``.

    Parameters
    ----------
    u : ndarray
        ``(rows, n)``.
    h : ndarray
        Taps, an odd number of them or all n; symmetric around ``r = size // 2``.
    step, first : int
        Sample ``c = (first + k) step`` is the centre of window k.
    out : ndarray
        ``(rows, windows)``.
    """
    n = u.shape[1]
    taps = h.size
    for p in range(u.shape[0]):
        row = u[p]
        for k in range(out.shape[1]):
            begin = ((first + k) * step - taps // 2) % n
            inside = min(taps, n - begin)
            total = _dot(row[begin : begin + inside], h[:inside])
            if inside < taps:
                total += _dot(row[: taps - inside], h[inside:])
            out[p, k] = total


@compiled
def lowpass_images(u, rows, columns, steps, firsts, between, out):
    """Average images along both axes (see :func:`lowpass_rows`).

    Parameters
    ----------
    u : ndarray
        ``(images, m, n)``.
    rows, columns : ndarray
        Taps along the first and the second axis.
    steps, firsts : tuple of int
        As ``step`` and ``first`` of :func:`lowpass_rows`, for both axes.
    between : ndarray
        ``(n,)``, scratch.
    out : ndarray
        ``(images, a, b)``.
    """
    m, n = u.shape[1], u.shape[2]
    for p in range(u.shape[0]):
        image = u[p]
        for k in range(out.shape[1]):
            between[:] = 0.0
            begin = (firsts[0] + k) * steps[0] - rows.size // 2
            for t in range(rows.size):
                line = image[(begin + t) % m]
                weight = rows[t]
                for i in range(n):
                    between[i] += weight * line[i]
            for q in range(out.shape[2]):
                start = ((firsts[1] + q) * steps[1] - columns.size // 2) % n
                inside = min(columns.size, n - start)
                total = _dot(between[start : start + inside], columns[:inside])
                if inside < columns.size:
                    total += _dot(between[: columns.size - inside], columns[inside:])
                out[p, k, q] = total
