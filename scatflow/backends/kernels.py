"""Fused loops of the NumPy backend, compiled by Numba without the interpreter's lock.

Complex rows are passed as real ones of twice the length, so that products with real weights are
plain loops that vectorise. Slices are taken before the loops: an index whose sign the compiler
cannot prove keeps a branch for negative ones. No loop's order depends on the data's place in
memory or on what else is in the batch.
"""

from __future__ import annotations

import numba
import numpy as np

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


# --- one dimension -------------------------------------------------------------------------


@compiled
def fold_rows(u_hat, z, first, filters, pieces, weights):
    """Multiply half spectra by filters and fold, for pairs (row, filter) from `first` on.

    Parameters
    ----------
    u_hat : ndarray
        ``(rows, 2 (N // 2 + 1))``, real pairs.
    z : ndarray
        ``(pairs, 2 n)``, overwritten.
    first : int
        Number of the first pair: pair p is row ``p // F`` through filter ``p % F``.
    filters : ndarray
        ``(F + 1,)``: filter f has the pieces ``filters[f] ... filters[f + 1] - 1``.
    pieces : ndarray
        ``(P, 5)``: first bin read, first bin written, length, offset of the weights, and whether
        it is read backwards and conjugate.
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


# --- two dimensions ------------------------------------------------------------------------


@numba.njit(cache=True)
def _column(c, k, start, width, n, n_out):
    """Return the box's column whose bin is the k-th alias of `c`, or -1."""
    i = (c + k * n_out - start) % n
    return i if i < width else -1


@numba.njit(cache=True)
def cut_columns(values, starts, shape, target, eps):
    """Cut a 2D filter into runs along the columns of the transposed half spectrum.

    Every column keeps only the span where the filter exceeds `eps` times its peak: the ellipse
    instead of the box around it.

    Returns
    -------
    pieces : ndarray
        ``(P, 7)``: column and first row read, column and first row written, length, offset of the
        weights, and whether the run is read backwards and conjugate. Sorted by column written.
    weights : ndarray
        Each twice.
    """
    (m, n), (m_out, n_out) = shape, target
    floor = eps * np.abs(values).max()
    pieces = np.empty((16, 7), np.int64)
    weights = np.empty(2 * values.size)
    count = 0
    used = 0
    for c in range(n_out):
        for k in range(n // n_out):
            i = _column(c, k, starts[1], values.shape[1], n, n_out)
            if i < 0:
                continue
            bin_v = (starts[1] + i) % n
            conjugate = bin_v > n // 2
            low, high = 0, values.shape[0]
            while low < high and abs(values[low, i]) <= floor:
                low += 1
            while high > low and abs(values[high - 1, i]) <= floor:
                high -= 1
            a = low
            while a < high:
                # A run ends where the grid read or the grid written wraps around.
                bin_u = (starts[0] + a) % m
                room = m_out - bin_u % m_out
                if conjugate and bin_u == 0:
                    room = 1  # its mirror image is bin 0, that of the next one is the last
                length = min(high - a, room, m - bin_u)
                if count == pieces.shape[0]:
                    more = np.empty((2 * count, 7), np.int64)
                    more[:count] = pieces
                    pieces = more
                source_u = (-(bin_u + length - 1)) % m if conjugate else bin_u
                source_v = n - bin_v if conjugate else bin_v
                pieces[count, 0] = source_v
                pieces[count, 1] = source_u
                pieces[count, 2] = c
                pieces[count, 3] = bin_u % m_out
                pieces[count, 4] = length
                pieces[count, 5] = used
                pieces[count, 6] = conjugate
                count += 1
                for t in range(length):
                    weights[2 * (used + t)] = values[a + t, i]
                    weights[2 * (used + t) + 1] = values[a + t, i]
                used += length
                a += length
    return pieces[:count].copy(), weights[: 2 * used].copy()


@compiled
def fold_columns(u_hat, z, pieces, weights, columns):
    """Multiply one transposed half spectrum by one filter and fold, on the columns it touches.

    Parameters
    ----------
    u_hat : ndarray
        ``(n // 2 + 1, 2 m)``, real pairs.
    z : ndarray
        ``(columns, 2 m_out)``, overwritten: the touched columns, side by side.
    pieces, weights : ndarray
        As :func:`cut_columns` gives them, with the pieces' third entry the place in `z`.
    columns : int
        How many.
    """
    z[:columns] = 0.0
    for k in range(pieces.shape[0]):
        row, m = pieces[k, 3], pieces[k, 4]
        source = u_hat[pieces[k, 0]]
        u = source[2 * pieces[k, 1] : 2 * (pieces[k, 1] + m)]
        w = weights[2 * pieces[k, 5] : 2 * (pieces[k, 5] + m)]
        _add_piece(z[pieces[k, 2]][2 * row : 2 * (row + m)], u, w, pieces[k, 6])


@compiled
def fold_images(u_hat, z, first, filters, pieces, weights):
    """Fold pairs (image, filter) from `first` on (see :func:`fold_rows`)."""
    count = filters.shape[0]
    for p in range(z.shape[0]):
        image, f = divmod(first + p, count)
        some = pieces[filters[f, 0] : filters[f, 1]]
        fold_columns(u_hat[image], z[p], some, weights, filters[f, 2])


TILE = 16
"""Rows and columns transposed together: a tile of complex64 fills 32 lines of the L1 cache."""


@compiled
def transpose(a, b, places):
    """Write ``a (rows, columns)`` to ``b (columns, ...)``, row i of `a` to column ``places[i]``."""
    for first in range(0, a.shape[0], TILE):
        last = min(first + TILE, a.shape[0])
        for begin in range(0, a.shape[1], TILE):
            end = min(begin + TILE, a.shape[1])
            for j in range(begin, end):
                for i in range(first, last):
                    b[j, places[i]] = a[i, j]


@compiled
def spread(a, b, first, filters, places, blank):
    """Transpose folded columns back to images, zero on columns that a filter does not touch."""
    count = filters.shape[0]
    for p in range(a.shape[0]):
        f = (first + p) % count
        columns = filters[f, 2]
        transpose(a[p, :columns], b[p], places[f])
        for i in range(b.shape[2] - columns):
            b[p, :, blank[f, i]] = 0.0


@compiled
def transpose_images(a, b, places):
    """Transpose each image."""
    for p in range(a.shape[0]):
        transpose(a[p], b[p], places)


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
