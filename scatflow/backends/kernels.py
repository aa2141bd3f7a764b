"""Fused loops of the NumPy backend, compiled by Numba without the interpreter's lock.

Spectra are flattened and passed as real pairs, which products with real weights keep plain loops.
Indices are unsigned where they are sums: one whose sign the compiler cannot prove keeps a branch
for negative ones, and the loop does not vectorise. No loop's order depends on the data's place in
memory or on what else is in the batch.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from scatflow.backends.compiling import compiled, inner

ONE, TWO = np.uintp(1), np.uintp(2)
NONE, SINGLE = np.int64(0), np.int64(1)


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
    """Invert complex grids ``(grids, size)`` in place; return MKL's status, as all of these do."""
    status = NONE
    for p in range(z.shape[0]):
        status |= _dfti_backward(handle, z[p].ctypes.data, 0)
    return status


@compiled
def forward_real(handle, u, half):
    """Transform real grids ``(grids, size)`` to half spectra."""
    status = NONE
    for p in range(u.shape[0]):
        status |= _dfti_forward(handle, u[p].ctypes.data, half[p].ctypes.data)
    return status


@compiled
def backward_real(handle, half, u):
    """Invert half spectra to real grids."""
    status = NONE
    for p in range(u.shape[0]):
        status |= _dfti_backward(handle, half[p].ctypes.data, u[p].ctypes.data)
    return status


# --- multiply, fold, modulus ---------------------------------------------------------------


@inner
def _fold(u_hat, z, pieces, begin, end, weights):
    """Overwrite `z` with a half spectrum times one filter, folded; arguments as in :func:`fold`."""
    z[:] = 0.0
    for k in range(begin, end):
        source = np.uintp(2 * pieces[k, 0])
        to = np.uintp(2 * pieces[k, 1])
        m = np.uintp(pieces[k, 2])
        w = np.uintp(pieces[k, 3])
        if pieces[k, 4]:
            last = source + TWO * m - TWO
            for i in range(m):
                c = weights[w + i]
                z[to + TWO * i] += u_hat[last - TWO * i] * c
                z[to + TWO * i + ONE] -= u_hat[last - TWO * i + ONE] * c
        else:
            for i in range(m):
                c = weights[w + i]
                z[to + TWO * i] += u_hat[source + TWO * i] * c
                z[to + TWO * i + ONE] += u_hat[source + TWO * i + ONE] * c


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
        One for each bin.
    """
    count = filters.size - 1
    for p in range(z.shape[0]):
        row, f = divmod(first + p, count)
        _fold(u_hat[row], z[p], pieces, filters[f], filters[f + 1], weights)


@compiled
def modulus(z, u):
    """Write the moduli of complex rows ``(rows, 2 n)`` to `u` ``(rows, n)``."""
    for p in range(u.shape[0]):
        pairs = z[p]
        row = u[p]
        for i in range(row.size):
            re = pairs[2 * i]
            im = pairs[2 * i + 1]
            row[i] = np.sqrt(re * re + im * im)


@inner
def twice(table):
    """Return a table with room for as many rows again."""
    more = np.empty((2 * table.shape[0], table.shape[1]), table.dtype)
    for i in range(table.shape[0]):  # a slice's assignment would compile for seconds
        for j in range(table.shape[1]):
            more[i, j] = table[i, j]
    return more


# --- cutting filters -----------------------------------------------------------------------
#
# Filters inside cyclic boxes are rows of a table (first row and column, rows, columns, offset of
# their values) beside the values of all. Signals have one row.


@inner
def towards_the_half(box, values, m, n):
    """Turn a filter to its mirror image if more of it lies there in the half spectrum.

    The mirror image gives the conjugate field of a real signal, hence the same modulus, and the
    bins outside the half are the slower ones to read.
    """
    rows, columns, first = box[2], box[3], box[4]
    inside, outside = 0.0, 0.0
    for row in range(rows):
        column = box[1]
        for i in range(columns):
            if column > n // 2:
                outside += abs(values[first + row * columns + i])
            else:
                inside += abs(values[first + row * columns + i])
            column = column + 1 if column + 1 < n else NONE
    if outside > inside:
        box[0] = (1 - box[0] - rows) % m
        box[1] = (1 - box[1] - columns) % n
        last = first + rows * columns - 1
        for i in range(rows * columns // 2):
            kept = values[first + i]
            values[first + i] = values[last - i]
            values[last - i] = kept


@inner
def _floor(some, eps):
    """Return `eps` times the largest modulus."""
    peak = abs(some[0])
    for v in some:
        peak = max(peak, abs(v))
    return eps * peak


@compiled
def cut_rows(boxes, values, stages, eps, ends, bounds, weights):
    """Cut filters into runs along the rows of a spectrum, which `fold` multiplies.

    Every row keeps only the span where the filter exceeds `eps` times its peak: in two dimensions,
    the ellipse instead of the box around it.

    Parameters
    ----------
    boxes, values : ndarray
        The filters, see above. They are turned in place.
    stages : ndarray
        ``(S, 8)``: the last filter's number plus one; rows and columns of the grid, of the
        decimated one, and of the spectrum: of one axis, a half spectrum has ``n // 2 + 1``; and
        whether filters may be turned towards it.
    eps : float
        Height, relative to the peak.
    ends : ndarray
        ``(filters + S,)`` zeros, for 0 and where the pieces of the filters end, of each stage.
    bounds : ndarray
        ``(S + 1, 2)`` zeros, for where each stage's pieces and weights begin.
    weights : ndarray
        Room for as many as values, as in :func:`fold`.

    Returns
    -------
    pieces : ndarray
        As in :func:`fold`, sorted by row written, for each stage by itself; the rest is undefined.
    """
    pieces = np.empty((16, 5), np.int64)
    count = 0
    used = 0
    f = 0
    for stage in range(stages.shape[0]):
        m, n, m_out, n_out = stages[stage, 1], stages[stage, 2], stages[stage, 3], stages[stage, 4]
        rows, columns = stages[stage, 5], stages[stage, 6]
        while f < stages[stage, 0]:
            box = boxes[f]
            if stages[stage, 7]:
                towards_the_half(box, values, m, n)
            width = box[3]
            peak = abs(values[box[4]])
            for i in range(box[4], box[4] + box[2] * width):
                peak = max(peak, abs(values[i]))
            floor = eps * peak
            for row in range(m_out):
                for alias in range(m // m_out):
                    bin_u = row + alias * m_out
                    i = (bin_u - box[0]) % m
                    if i >= box[2]:
                        continue
                    line = box[4] + i * width
                    low, high = NONE, width
                    while low < high and abs(values[line + low]) <= floor:
                        low += 1
                    while high > low and abs(values[line + high - 1]) <= floor:
                        high -= 1
                    a = low
                    while a < high:
                        # A run ends where the half read changes, where the grid written wraps
                        # around, and read backwards also where the grid read does.
                        bin_v = (box[1] + a) % n
                        conjugate = bin_u >= rows or bin_v >= columns
                        room = (n if conjugate else columns) - bin_v
                        if conjugate and bin_v == 0:
                            room = 1
                        length = min(high - a, room, n_out - bin_v % n_out)
                        if count == pieces.shape[0]:
                            pieces = twice(pieces)
                        if conjugate:
                            pieces[count, 0] = -bin_u % m * columns + -(bin_v + length - 1) % n
                        else:
                            pieces[count, 0] = bin_u * columns + bin_v
                        pieces[count, 1] = row * n_out + bin_v % n_out
                        pieces[count, 2] = length
                        pieces[count, 3] = used - bounds[stage, 1]
                        pieces[count, 4] = conjugate
                        count += 1
                        for t in range(length):
                            weights[used + t] = values[line + a + t]
                        used += length
                        a += length
            f += 1
            ends[f + stage] = count - bounds[stage, 0]
        bounds[stage + 1, 0], bounds[stage + 1, 1] = count, used
    return pieces


@compiled
def fold_bands(firsts, ends, values, uses, factors, eps, folded, boxes, sums):
    """Fold bands of signals onto decimated grids and drop what is negligible of them.

    Parameters
    ----------
    firsts, ends : ndarray
        ``(bands,)`` and ``(bands + 1,)``: the first bin of each, and where its values begin.
    values : ndarray
        Those of all bands, float64.
    uses : ndarray
        ``(uses, 2)``: a band and the bins of a grid.
    factors : ndarray
        ``(uses,)``: what each is multiplied by; it is divided by the bins of the grid besides.
    eps : float
        Height, relative to the peak, up to which ends are dropped.
    folded : ndarray
        Room for the values: for each use, as many as the band has bins or the grid, if that is
        smaller.
    boxes : ndarray
        Overwritten, see above.
    sums : ndarray
        Scratch, as long as the longest grid.
    """
    used = NONE
    for use in range(uses.shape[0]):
        band, n = uses[use, 0], uses[use, 1]
        begin = ends[band]
        size = ends[band + 1] - begin
        kept = min(size, n)
        for i in range(kept):
            sums[i] = values[begin + i]
        k = NONE
        for i in range(kept, size):
            sums[k] += values[begin + i]
            k = k + 1 if k + 1 < n else NONE
        peak = 0.0
        for i in range(kept):
            sums[i] *= factors[use]
            peak = max(peak, abs(sums[i]))
        floor = eps * peak
        low, high = NONE, kept
        while low < high and abs(sums[low]) <= floor:
            low += 1
        while high > low and abs(sums[high - 1]) <= floor:
            high -= 1
        if low == high:
            low, high = NONE, SINGLE
        boxes[use, 0] = NONE
        boxes[use, 1] = (firsts[band] + low) % n
        boxes[use, 2] = SINGLE
        boxes[use, 3] = high - low
        boxes[use, 4] = used
        for i in range(low, high):
            folded[used] = sums[i] / n
            used += 1


@inner
def _arc(profile, floor):
    """Return start and length of the shortest cyclic arc that holds all above the floor."""
    first, last, start, widest = -1, -1, 0, 0
    for i in range(profile.size):
        if profile[i] > floor:
            if last >= 0 and i - last > widest:
                start, widest = i, i - last
            if first < 0:
                first = i
            last = i
    if first < 0:
        return 0, 1
    if first + profile.size - last > widest:
        start, widest = first, first + profile.size - last
    return start, profile.size - widest + 1


@compiled
def box_filters(dense, eps, values):
    """Cut the smallest cyclic boxes that hold all above `eps` times the peak of each filter.

    Parameters
    ----------
    dense : ndarray
        ``(filters, rows, columns)``, on the whole grid.
    eps : float
        Height, relative to the peak.
    values : ndarray
        Room for the values, divided by the bins of the grid.

    Returns
    -------
    boxes : ndarray
        See above.
    used : int
        How many values there are.
    """
    count, m, n = dense.shape
    boxes = np.zeros((count, 5), np.int64)
    rows, columns = np.empty(m), np.empty(n)
    used = 0
    for f in range(count):
        columns[:] = 0.0
        for i in range(m):
            line = dense[f, i]
            for k in range(n):  # the compiler makes vectors of this loop, and not of the next
                v = abs(line[k])
                columns[k] = v if v > columns[k] else columns[k]
            peak = 0.0
            for k in range(n):
                v = abs(line[k])
                peak = v if v > peak else peak
            rows[i] = peak
        floor = _floor(rows, eps)
        top, height = _arc(rows, floor)
        left, width = _arc(columns, floor)
        boxes[f, 0], boxes[f, 1], boxes[f, 2], boxes[f, 3] = top, left, height, width
        boxes[f, 4] = used
        inside = min(width, n - left)
        for i in range(height):
            line = dense[f, (top + i) % m]
            for k in range(inside):
                values[used + k] = line[left + k] / (m * n)
            for k in range(inside, width):
                values[used + k] = line[left + k - n] / (m * n)
            used += width
    return boxes, used


@compiled(fastmath={"reassoc"})
def windows(u, taps, first, step, line, out):
    """Write weighted sums over windows of cyclic rows.

    Parameters
    ----------
    u : ndarray
        ``(rows, n)``.
    taps : ndarray
        ``(T,)``, T <= n.
    first, step : int
        The first window's first sample, which may lie up to n before the row or behind it, and
        samples from one window to the next.
    line : ndarray
        Scratch, from the first window's first sample to the last one's last.
    out : ndarray
        ``(rows, windows)``, overwritten.
    """
    n = u.shape[1]
    for r in range(u.shape[0]):
        row = u[r]
        k = first % n
        for i in range(line.size):
            line[i] = row[k]
            k += 1
            if k == n:
                k = 0
        for w in range(out.shape[1]):
            some = line[w * step : w * step + taps.size]
            total = taps[0] * some[0]
            for t in range(1, taps.size):
                total += taps[t] * some[t]
            out[r, w] = total


# --- a whole transform ---------------------------------------------------------------------
#
# A group is the wavelets of one layer that share parents and decimation. What the loops need of
# each group is one row of a table of integers, some of which are addresses of arrays.

(
    SIZE,  # samples of its grid
    ROW,  # samples of one row of its grid
    HANDLE,  # complex transforms of the grid
    REAL,  # real transforms of the grid; 0 where complex ones are faster
    FILTERS,  # addresses, as in `fold`, with the length of the arrays
    COUNT,
    PIECES,
    PIECE_COUNT,
    WEIGHTS,
    WEIGHT_COUNT,
    PATHS,  # address of (parents, filters): the row of the output
    CHILD,  # the groups whose parents are this group's paths
    CHILDREN_END,
    AVERAGE_PIECES,  # the low-pass, a filter like the others
    AVERAGE_PIECE_COUNT,
    AVERAGE_WEIGHTS,
    AVERAGE_WEIGHT_COUNT,
    AVERAGE_HANDLE,
    AVERAGE_SIZE,
    AVERAGE_ROW,
    CROP_ROW,  # the windows kept of the decimated grid
    CROP_COLUMN,
    ROWS_KEPT,
    COLUMNS_KEPT,
    COLUMNS,
) = range(25)


@intrinsic
def pointer(typingctx, address, like):  # noqa: ARG001
    """Return the pointer to an address, of the type of an array's elements."""
    kind = types.CPointer(like.dtype)

    def codegen(context, builder, signature, args):  # noqa: ARG001
        return builder.inttoptr(args[0], context.get_value_type(kind))

    return kind(address, like), codegen


@compiled
def lines(size):
    """Round a number of samples up to whole cache lines."""
    return (size + 15) // 16 * 16


@inner
def _floats(group, column, like):
    """Return the array whose address and length are in two columns."""
    return numba.carray(pointer(group[column], like), (group[column + 1],))


@inner
def _bare(a, shape):
    """Return an array without the count of its references, which each slice would go through."""
    return numba.carray(pointer(a.ctypes.data, a), shape)


@inner
def integers(group, column, shape):
    """Return the array of integers whose address is in a column."""
    return numba.carray(pointer(group[column], group), shape)


@inner
def _modulus_in_place(z, n, some):
    """Replace n complex numbers by their moduli, at the front of the same memory."""
    for first in range(0, n, some.size):
        m = min(some.size, n - first)
        pairs = z[2 * first : 2 * (first + m)]
        for i in range(m):
            re = pairs[2 * i]
            im = pairs[2 * i + 1]
            some[i] = np.sqrt(re * re + im * im)
        front = z[first : first + m]
        for i in range(m):
            front[i] = some[i]


@inner
def _spectrum(group, u, half):
    """Write the half spectrum of the real grid at the front of `u`, which may be lost.

    Like all that call MKL, return its status, 0 if all is well.
    """
    n = group[SIZE]
    if group[REAL]:
        return _dfti_forward(group[REAL], u.ctypes.data, half.ctypes.data)
    for i in range(n - 1, -1, -1):
        u[2 * i] = u[i]
        u[2 * i + 1] = 0.0
    status = _dfti_forward(group[HANDLE], u.ctypes.data, 0)
    row = 2 * group[ROW]
    kept = 2 * (group[ROW] // 2 + 1)
    for k in range(n // group[ROW]):
        to = half[k * kept : (k + 1) * kept]
        source = u[k * row : k * row + kept]
        for i in range(kept):
            to[i] = source[i]
    return status


@inner
def _smooth(group, spectrum, small):
    """Put a low-passed and decimated grid into `small`."""
    pieces = integers(group, AVERAGE_PIECES, (group[AVERAGE_PIECE_COUNT], 5))
    weights = _floats(group, AVERAGE_WEIGHTS, small)
    _fold(spectrum, small[: 2 * group[AVERAGE_SIZE]], pieces, NONE, pieces.shape[0], weights)
    return _dfti_backward(group[AVERAGE_HANDLE], small.ctypes.data, 0)


@inner
def _keep(group, small, out):
    """Write the windows kept of a real grid, whose samples are two apart, to a row of `out`."""
    columns = group[COLUMNS_KEPT]
    for a in range(group[ROWS_KEPT]):
        first = (group[CROP_ROW] + a) * group[AVERAGE_ROW] + group[CROP_COLUMN]
        for b in range(columns):
            out[a * columns + b] = small[2 * (first + b)]


@inner
def _band_pass(group, f, spectrum, z):
    """Put a half spectrum through one filter."""
    filters = integers(group, FILTERS, (group[COUNT] + 1,))
    pieces = integers(group, PIECES, (group[PIECE_COUNT], 5))
    weights = _floats(group, WEIGHTS, z)
    _fold(spectrum, z[: 2 * group[SIZE]], pieces, filters[f], filters[f + 1], weights)
    return _dfti_backward(group[HANDLE], z.ctypes.data, 0)


@inner
def _two_leaves(group, f, parent, z, small, some, first, second):
    """Average the moduli of wavelets f and f + 1, or of f alone where `second` is empty.

    Two real grids are one complex grid, which a real filter keeps apart: one transform for both.
    """
    n = group[SIZE]
    pair = z
    status = NONE
    if second.size:
        status |= _band_pass(group, f + 1, parent, z)
        _modulus_in_place(z, n, some)
        pair = z[lines(n) :]
    status |= _band_pass(group, f, parent, pair)
    if second.size:
        for i in range(n):
            re = pair[2 * i]
            im = pair[2 * i + 1]
            pair[2 * i] = np.sqrt(re * re + im * im)
            pair[2 * i + 1] = z[i]
    else:
        for i in range(n):
            re = pair[2 * i]
            im = pair[2 * i + 1]
            pair[2 * i] = np.sqrt(re * re + im * im)
            pair[2 * i + 1] = 0.0
    status |= _dfti_forward(group[HANDLE], pair.ctypes.data, 0)
    status |= _smooth(group, pair, small)
    _keep(group, small, first)
    if second.size:
        _keep(group, small[1:], second)
    return status


@inner
def _leaves(group, parents, f, parent, z, small, some, out, part, parts):
    """Average all paths that a group gives of one parent; of these, every parts-th pair."""
    paths = integers(group, PATHS, (parents, group[COUNT]))
    status = NONE
    for k in range(0, group[COUNT], 2):
        if k // 2 % parts == part:
            second = out[paths[f, k + 1]] if k + 1 < group[COUNT] else out[0, :0]
            status |= _two_leaves(group, k, parent, z, small, some, out[paths[f, k]], second)
    return status


@compiled
def pad(x, rows, columns, u):
    """Write an image's samples at the given rows and columns to a flat grid."""
    k = 0
    for a in range(rows.size):
        line = x[rows[a]]
        for b in range(columns.size):
            u[k] = line[columns[b]]
            k += 1


@compiled
def scatter(x, rows, columns, out, groups, layers, part, parts, top, parent, z, small, some):
    """Transform signals or images, depth first, one path at a time.

    Parameters
    ----------
    x : ndarray
        ``(batch, m, n)``; signals have one row.
    rows, columns : ndarray
        Which sample of the image each sample of the padded grid is.
    out : ndarray
        ``(batch, paths, windows)``.
    groups : ndarray
        ``(groups, COLUMNS)``; group 0 is the input itself, whose children are the first layer.
    layers : int
        How many groups the first layer has: groups ``1 ... layers``.
    part, parts : int
        Do every parts-th wavelet of the first layer and what is below it; part 0 does order 0.
    top, parent, z, small, some : ndarray
        Scratch: the spectra of input and parent, path, average, and a piece of a modulus.

    Returns
    -------
    int
        MKL's status.
    """
    status = NONE
    x, out, groups = _bare(x, x.shape), _bare(out, out.shape), _bare(groups, groups.shape)
    top, parent, z = _bare(top, top.shape), _bare(parent, parent.shape), _bare(z, z.shape)
    small, some = _bare(small, small.shape), _bare(some, some.shape)
    for s in range(x.shape[0]):
        pad(x[s], rows, columns, z)
        status |= _spectrum(groups[0], z, top)
        if part == 0:
            status |= _smooth(groups[0], top, small)
            _keep(groups[0], small, out[s, 0])
        for g in range(1, 1 + layers):
            group = groups[g]
            if group[CHILD] == group[CHILDREN_END]:
                status |= _leaves(group, SINGLE, NONE, top, z, small, some, out[s], part, parts)
                continue
            paths = integers(group, PATHS, (group[COUNT],))
            for f in range(group[COUNT]):
                if f % parts != part:
                    continue
                status |= _band_pass(group, f, top, z)
                _modulus_in_place(z, group[SIZE], some)
                status |= _spectrum(group, z, parent)
                status |= _smooth(group, parent, small)
                _keep(group, small, out[s, paths[f]])
                for c in range(group[CHILD], group[CHILDREN_END]):
                    status |= _leaves(
                        groups[c], group[COUNT], f, parent, z, small, some, out[s], NONE, SINGLE
                    )
    return status


# --- volumes -------------------------------------------------------------------------------


@compiled
def complete(half, whole):
    """Complete the half spectra of real volumes ``(nz, ny, nx // 2 + 1)``."""
    nz, ny, nx = whole.shape
    kept = half.shape[2]
    for z in range(nz):
        for y in range(ny):
            row, mirrored, out = half[z, y], half[(nz - z) % nz, (ny - y) % ny], whole[z, y]
            for x in range(kept):
                out[x] = row[x]
            for x in range(kept, nx):
                out[x] = np.conj(mirrored[nx - x])


@compiled(fastmath={"reassoc"})
def sum_of_powers(u, out):
    """Sum roots, values and squares of nonnegative numbers, in double precision."""
    roots = 0.0
    values = 0.0
    squares = 0.0
    for i in range(u.size):
        v = np.float64(u[i])
        roots += np.float64(np.sqrt(u[i]))
        values += v
        squares += v * v
    out[0] = roots
    out[1] = values
    out[2] = squares
