"""Transforms of images as one compiled call, many side by side in the lanes of vectors.

The lanes of one round hold paths of equal grid: of a few images and, at the first order, of the
wavelets of one scale. Below them, every wavelet of the second order is one filter for all lanes at
once. Bins are multiplied and folded as whole vectors, however short the runs, and rows are
averaged while they are in the nearest cache.

A round fills a quarter of a vector, a chunk, and lines are transformed four at a time, or eight
where they are real: wider rounds would need more memory, which is slower.
"""

from __future__ import annotations

import numpy as np

from scatflow.backends import codelets, kernels
from scatflow.backends.codelets import (
    ABREAST,
    CHUNK,
    FORWARD,
    INVERSE,
    MODULI,
    POINT,
    STRETCH,
    UNITS,
    VECTOR_BYTES,
    call_line,
)
from scatflow.backends.compiling import compiled, inner, stamp
from scatflow.backends.kernels import NONE, SINGLE, integers, towards_the_half, twice

assert ABREAST == 4, "rows are gathered and turned around four at a time"

STAMP = stamp(__file__, codelets.__file__, kernels.__file__)
"""For Numba's cache: what is compiled here consists of these files."""

# What the loops need of each group of wavelets (one layer, one set of parents, one decimation) is
# one row of a table of integers, some of which are addresses of arrays.
#
# Spectra lie column by column, (kx, ky), four columns being the chunks of points; of real images
# those with kx = 0 ... n/2. A grid is made in two sweeps: columns are folded and inverted along y
# in the nearest cache, then rows are gathered, inverted along x, and all that they are for is taken
# from them there, eight at a time: their moduli are four pairs of complex rows, and so are the
# averaged rows eight columns. The columns' pitch is odd, so that a row's points do not share the
# cache's sets.

(
    ROWS,
    COLUMNS,
    PITCH,  # points from four columns to the next ones
    ROW_PASSES,  # addresses of the passes that transform a row, a column
    COLUMN_PASSES,
    COUNT,  # wavelets
    PATHS,  # address of (parents, filters): the row of the output
    CHILD,  # the groups whose parents are this group's paths
    CHILDREN_END,
    FOLD_CODE,  # address of `codelets.fold`
    WIDE,  # columns that are folded together, four or one, and chunks from a mirrored bin to the
    DELTA,  # point before, which has the columns of all but the first of them
    FOLD_FIELDS,  # how columns are folded, rows are averaged, and columns
) = range(13)

(
    STARTS,  # addresses of what `stretch` returns
    STRETCHES,
    TAPS,
    WEIGHTS,  # address of the weights
    AVERAGE_PASSES,  # address of the passes that transform a decimated line, and its length
    AVERAGE_LENGTH,
    AVERAGE_FIRST,  # the windows kept
    AVERAGE_WINDOWS,
    HOW_FIELDS,
) = range(9)

FIELDS = FOLD_FIELDS + 3 * HOW_FIELDS
FOLD, ROW_AVERAGE, COLUMN_AVERAGE = (np.int64(k) for k in range(FOLD_FIELDS, FIELDS, HOW_FIELDS))
ALL = np.int64(codelets.GROUPED)
UNIT = np.int64(CHUNK)


@inner
def _chunk(k):
    """Return where the k-th line of eight is in a point: four are real parts, four imaginary."""
    return k // ABREAST % 2 * VECTOR_BYTES + k % ABREAST * CHUNK


@inner
def _fold(lanes, group, how, line, spectrum, mirror, unit, weight, stride, to):
    """Write one folded line, in some lanes: that of a wavelet's column or of a low-pass.

    Chunks of the spectrum have a unit of bytes; of each weight, those at byte `weight` are taken.
    """
    starts = integers(group, how + STARTS, (line + 2,))
    stretches = group[how + STRETCHES]
    codelets.call_fold(
        group[FOLD_CODE], lanes, to, spectrum, mirror, unit, group[how + WEIGHTS] + weight, stride,
        group[how + TAPS], stretches + STRETCH * starts[line],
        stretches + STRETCH * starts[line + 1],
    )  # fmt: skip


@inner
def _smooth(like, line, group, how, spectrum, short, room):
    """Low-pass and decimate lines whose spectra these are; return where the windows begin."""
    item = codelets.item_bytes(like)
    lanes = VECTOR_BYTES // item
    _fold(lanes, group, how, NONE, spectrum, spectrum, UNIT, NONE, item, short)
    call_line(line, short, short, group[how + AVERAGE_PASSES], room, INVERSE)
    return short + group[how + AVERAGE_FIRST] * POINT


@inner
def _eight_rows(like, line, group, y, half, places):
    """Average rows y ... y + 7, the chunks of `u`, and write them to `half`, if any.

    Where the last one is before, the other chunks are earlier rows of the same grid, or zero.
    """
    room, row, u, short, averages, _ = places
    rows, n = group[ROWS], group[COLUMNS]
    call_line(line, u, row, group[ROW_PASSES], room, FORWARD)
    source = _smooth(like, line, group, ROW_AVERAGE, row, short, room)
    for x in range(group[ROW_AVERAGE + AVERAGE_WINDOWS]):
        to = averages + (x // UNITS * rows + y) * POINT + _chunk(x)
        for k in range(min(UNITS, rows - y)):
            codelets.copy_chunk(like, to + k * POINT, source + x * POINT + _chunk(k))
    if half:
        for k in range(n // 2 + 1):
            to = half + (k // ABREAST * group[PITCH] + y) * POINT + k % ABREAST * CHUNK
            codelets.untangle(like, row + k * POINT, row + (n - k) % n * POINT, to, rows - 1 - y)


@inner
def _finish(like, line, group, half, places):
    """Average the averaged rows down the columns; transform the columns of the half spectrum."""
    room, row, _, short, averages, small = places
    rows = group[ROWS]
    windows, width = group[COLUMN_AVERAGE + AVERAGE_WINDOWS], group[ROW_AVERAGE + AVERAGE_WINDOWS]
    for x in range(width, (width + UNITS - 1) // UNITS * UNITS):
        for y in range(rows):
            codelets.clear_chunk(like, averages + (x // UNITS * rows + y) * POINT + _chunk(x))
    for first in range(0, width, UNITS):
        source = averages + first // UNITS * rows * POINT
        call_line(line, source, row, group[COLUMN_PASSES], room, FORWARD)
        source = _smooth(like, line, group, COLUMN_AVERAGE, row, short, room)
        for x in range(first, min(first + UNITS, width)):
            for y in range(windows):
                to = small + (y * width + x) * CHUNK
                codelets.copy_chunk(like, to, source + y * POINT + _chunk(x))
    if half:
        columns = group[COLUMNS] // 2 + 1
        for k in range(0, columns, ABREAST):
            at = half + k // ABREAST * group[PITCH] * POINT
            for c in range(columns - k, ABREAST):  # no columns, but multiplied by zeros
                for y in range(rows):
                    codelets.clear_chunk(like, at + y * POINT + c * CHUNK)
                    codelets.clear_chunk(like, at + y * POINT + c * CHUNK + VECTOR_BYTES)
            call_line(line, at, at, group[COLUMN_PASSES], room, FORWARD)


@inner
def _lay(share, count, f, source, lane, lanes, most):
    """Append to a round's shares: lanes of the spectra through wavelet f to lanes of the round.

    As one power of two where the round, of `most` lanes, has room for it: what is too much comes
    from other signals, and later shares write over it.
    """
    width = SINGLE
    while width < lanes:
        width *= 2
    while lanes > 0:
        while lane + width > most:
            width //= 2
        share[count, 0], share[count, 1], share[count, 2], share[count, 3] = f, source, lane, width
        count += 1
        source += width
        lane += width
        lanes -= width
    return count


@inner
def _share_paths(shares, first, slots, some, most):
    """Share a round among paths of `some` signals in turn, from number `first` on."""
    count = NONE
    lane = NONE
    while lane < slots:
        f, signal = divmod(first + lane, some)
        width = min(some - signal, slots - lane)
        count = _lay(shares, count, f, signal, lane, width, most)
        lane += width
    return count


@inner
def _share_children(shares, f, wavelets, width):
    """Share a round among wavelets from f on, of which each has the same parents in its lanes."""
    count = NONE
    for q in range(wavelets):
        count = _lay(shares, count, f + q, NONE, q * width, width, (q + 1) * width)
    return count


@inner
def _columns(like, line, group, spectrum, unit, shares, z, column, room):
    """Fold and invert columns of the wavelets of a round.

    Shares are wavelet, first lane of the spectra, first lane of the round, number of lanes. With
    one that fills the round, columns are folded together where they can be; in each, sums go as
    they do for one alone.
    """
    item = codelets.item_bytes(like)
    n, wide, delta = group[COLUMNS], group[WIDE], group[DELTA] * unit
    stride = wide * item
    together = wide > 1 and unit == CHUNK and shares[0, 3] * item == CHUNK
    for first in range(0, n, ABREAST):
        if together:
            which = shares[0, 0] * (n // wide) + first // wide
            _fold(
                ALL, group, FOLD, which, spectrum, spectrum + delta, unit, NONE, stride, column
            )  # fmt: skip
        for x in range(first, first if together else min(first + ABREAST, n)):
            for i in range(shares.shape[0]):
                which, k = shares[i, 0] * (n // wide) + x // wide, x % wide
                source = spectrum + shares[i, 1] * item
                mirror = source + delta + (ABREAST - k) * unit if k else source
                _fold(
                    shares[i, 3], group, FOLD, which, source + k * unit, mirror, unit, k * item,
                    stride, column + (x - first) * CHUNK + shares[i, 2] * item,
                )  # fmt: skip
        to = z + first // ABREAST * group[PITCH] * POINT
        call_line(line, column, to, group[COLUMN_PASSES], room, INVERSE)


@inner
def _rows(like, line, group, z, half, places):
    """Invert rows, take moduli, average them, and where `half` is not 0, transform them."""
    room, row, u = places[:3]
    rows, n = group[ROWS], group[COLUMNS]
    if rows <= ABREAST:
        # Imaginary parts would be another grid's rows: they drop out, but for their rounding.
        for x in range(n):
            for at in range(VECTOR_BYTES, POINT, CHUNK):
                codelets.clear_chunk(like, u + x * POINT + at)
    for first in range(0, rows, UNITS):
        for y in range(first, min(first + UNITS, rows), ABREAST):
            a, b = y * POINT, min(y + 1, rows - 1) * POINT
            c, d = min(y + 2, rows - 1) * POINT, min(y + 3, rows - 1) * POINT
            for x in range(n):
                source = z + x // ABREAST * group[PITCH] * POINT + x % ABREAST * CHUNK
                codelets.gather(
                    like, row + x * POINT, source + a, source + b, source + c, source + d
                )  # fmt: skip
            to = u + (y - first) // ABREAST * VECTOR_BYTES
            call_line(line, row, to, group[ROW_PASSES], room, MODULI)
        _eight_rows(like, line, group, first, half, places)
    _finish(like, line, group, half, places)


@inner
def _input(like, line, group, x, rows, columns, s, some, u, top, half, places):
    """Pad images s ... s + some - 1; average and transform them, to as many lanes."""
    lanes = CHUNK // codelets.item_bytes(like)
    last = rows.size - 1
    for first in range(0, rows.size, UNITS):
        for y in range(first, first + UNITS):
            chunk = _chunk(y) // codelets.item_bytes(like)
            for l in range(some):
                samples = x[s + l, rows[min(y, last)]]
                for k in range(columns.size):
                    u[UNITS * lanes * k + chunk + l] = samples[columns[k]]
        _eight_rows(like, line, group, first, half, places)
    _finish(like, line, group, half, places)
    if some < lanes:
        for k in range(top.size // lanes):
            for l in range(some):
                top[k * some + l] = top[k * lanes + l]


@inner
def _keep(windows, begin, pitch, small, paths, f, count, width, slots, first, some, s, out):
    """Write the averages of `count` wavelets, each in `width` lanes, of which `slots` are used.

    The lanes hold paths of the signals in turn, from `first` on. The first window is
    at number `begin`, each other one `pitch` further.
    """
    for q in range(count):
        for l in range(slots):
            which, signal = divmod(first + l, some)
            row = out[s + signal, paths[which, f + q]]
            at = np.uintp(begin + q * width + l)
            for k in range(np.uintp(windows)):
                row[k] = small[at]
                at += np.uintp(pitch)


@inner
def _keep_image(group, small, paths, f, count, width, slots, first, some, s, out):
    """Write the averages of images."""
    windows = group[ROW_AVERAGE + AVERAGE_WINDOWS] * group[COLUMN_AVERAGE + AVERAGE_WINDOWS]
    pitch = CHUNK // codelets.item_bytes(small[0])
    _keep(windows, NONE, pitch, small, paths, f, count, width, slots, first, some, s, out)


@inner
def _below(like, line, groups, group, shares, first, slots, s, some, out, part, parts, at):
    """Do every parts-th round of the second order below a round of the first.

    Where paths leave lanes empty, several wavelets go side by side.
    """
    small, z, parent, spots = at
    lanes = CHUNK // codelets.item_bytes(like)
    width = SINGLE
    while width < slots:
        width *= 2
    step = lanes // width
    turn = NONE
    for c in range(group[CHILD], group[CHILDREN_END]):
        child = groups[c]
        paths = integers(child, PATHS, (group[COUNT], child[COUNT]))
        for f in range(0, child[COUNT], step):
            turn += 1
            if turn % parts != part:
                continue
            count = min(step, child[COUNT] - f)
            used = _share_children(shares, f, count, width)
            _columns(like, line, child, parent, UNIT, shares[:used], z, spots[1], spots[0])
            _rows(like, line, child, z, NONE, spots)
            _keep_image(child, small, paths, f, count, width, slots, first, some, s, out)


@compiled
def scatter(x, rows, columns, out, groups, layers, part, parts, line, u, small, top, places, _):
    """Transform images, at most as many at a time as there are lanes.

    Parameters
    ----------
    x : ndarray
        ``(batch, m, n)``.
    rows, columns : ndarray
        Which sample of the image each sample of the padded grid is.
    out : ndarray
        ``(batch, paths, windows)``.
    groups : ndarray
        ``(groups, FIELDS)``; group 0 is the input itself, whose children are the first layer.
    layers : int
        How many groups the first layer has: groups ``1 ... layers``.
    part, parts : int
        Do every parts-th round of lanes of the first layer and what is below, or, where there are
        few, all of them and every parts-th round below each; part 0 does order 0.
    line : int
        Address of :func:`codelets.line`.
    u, small, top : ndarray
        Scratch: eight real rows, the windows, and the half spectra of the input.
    places : tuple of int
        Addresses of more scratch: room of a line, a row or column, a decimated one, averaged rows,
        a grid, and the half spectra of parents.
    _ : ndarray
        :data:`STAMP`.
    """
    like = small[0]
    item = codelets.item_bytes(like)
    lanes = CHUNK // item
    room, row, short, averages, z, parent = places
    spots = (
        room, row, np.int64(u.ctypes.data), short, averages, np.int64(small.ctypes.data),
    )  # fmt: skip
    whole = np.int64(top.ctypes.data)
    s = NONE
    u[:] = 0.0
    shares = np.empty((4 * lanes, 4), np.int64)  # at most four powers of two make up a share
    while s < x.shape[0]:
        some = min(lanes, x.shape[0] - s)
        _input(like, line, groups[0], x, rows, columns, s, some, u, top, whole, spots)
        if part == 0:
            zero = integers(groups[0], PATHS, (1, 1))
            _keep_image(groups[0], small, zero, NONE, SINGLE, some, some, NONE, some, s, out)
        rounds = NONE
        for g in range(1, 1 + layers):
            rounds += (groups[g, COUNT] * some + lanes - 1) // lanes
        few = rounds < 4 * parts
        turn = NONE
        for g in range(1, 1 + layers):
            group = groups[g]
            paths = integers(group, PATHS, (group[COUNT], 1))
            parents = group[CHILD] < group[CHILDREN_END]
            for first in range(0, group[COUNT] * some, lanes):
                turn += 1
                mine = turn % parts == part
                if not (mine or (few and parents)):
                    continue
                slots = min(lanes, group[COUNT] * some - first)
                used = _share_paths(shares, first, slots, some, lanes)
                _columns(like, line, group, whole, some * item, shares[:used], z, row, room)
                _rows(like, line, group, z, parent if parents else NONE, spots)
                if mine:
                    _keep_image(
                        group, small, paths, NONE, SINGLE, slots, slots, first, some, s, out
                    )
                _below(
                    like, line, groups, group, shares, first, slots, s, some, out,
                    part if few else NONE, parts if few else SINGLE, (small, z, parent, spots),
                )  # fmt: skip
        s += some


@compiled
def cut_columns(boxes, values, grid, target, pitch, wide, eps, _):
    """Cut filters into runs down the columns of their boxes, some columns side by side.

    Parameters
    ----------
    boxes, values : ndarray
        The filters, see :func:`kernels.cut_rows`. They are turned in place.
    grid, target : tuple of int
        Rows and columns of the images and of the decimated ones.
    pitch : int
        Points from one group of columns of the spectrum to the next.
    wide : int
        Columns side by side. If more than one, their number divides the columns of the target and
        half those of the grid.
    eps : float
        Height, relative to a filter's peak, up to which the ends of columns count as zero.
    _ : ndarray
        :data:`STAMP`.

    Returns
    -------
    runs : ndarray
        ``(runs, 6)``, as :func:`stretch` takes them: bins are those of the first column.
    weights : ndarray
        ``(weights, wide)`` for those of each column.
    """
    (m, n), (m_out, n_out) = grid, target
    made = 0
    written = 0
    tallest = 0
    for f in range(boxes.shape[0]):
        groups = 2 * (boxes[f, 3] // wide + 2)  # with what is mirrored
        made += groups * (boxes[f, 2] // m_out + 3)
        written += groups * boxes[f, 2]
        tallest = max(tallest, boxes[f, 3])
    runs = np.empty((made, 6), np.int64)
    weights = np.zeros((written, wide), values.dtype)
    spans = np.empty((tallest, 2), np.int64)
    made = 0
    written = 0
    for f in range(boxes.shape[0]):
        towards_the_half(boxes[f], values, m, n)
        box = boxes[f]
        height, width = box[2], box[3]
        some = values[box[4] : box[4] + height * width]
        _spans(some, width, eps, spans)
        for x_out in range(0, n_out, wide):
            for x in range(x_out, n, n_out):
                for mirrored in range(2):
                    low, high = height, -1
                    for c in range(wide):
                        k = (x + c - box[1]) % n
                        if (x + c > n // 2) == mirrored and k < width:
                            low, high = min(low, spans[k, 0]), max(high, spans[k, 1])
                    column = n - x if mirrored else x
                    while low <= high:
                        y = (box[0] + low) % m
                        limit = 1 if mirrored and y == 0 else (y // m_out + 1) * m_out
                        length = min(high + 1 - low, limit - y)
                        for c in range(wide):
                            k = (x + c - box[1]) % n
                            if (x + c > n // 2) == mirrored and k < width:
                                for i in range(length):
                                    weights[written + i, c] = some[(low + i) * width + k]
                        row = -y % m if mirrored else y
                        runs[made, 0] = (f * n_out + x_out) // wide
                        runs[made, 1], runs[made, 2] = y % m_out, length
                        runs[made, 3] = UNITS * (column // ABREAST * pitch + row) + column % ABREAST
                        runs[made, 4], runs[made, 5] = mirrored, written
                        made += 1
                        written += length
                        low += length
    return runs[:made], weights[:written]


@inner
def _spans(some, width, eps, spans):
    """Write the first and last row of each column of a box that exceed `eps` times the peak."""
    peak = abs(some[0])
    for v in some:
        peak = max(peak, abs(v))
    floor = eps * peak
    height = some.size // width
    for k in range(width):
        spans[k, 0], spans[k, 1] = height, NONE - 1
    for i in range(height):
        for k in range(width):
            if abs(some[i * width + k]) > floor:
                spans[k, 0], spans[k, 1] = min(spans[k, 0], i), i


@compiled
def stretch(runs, lines, length, _):
    """Cut folded lines where the runs that add up change.

    Parameters
    ----------
    runs : ndarray
        ``(runs, 6)``: line, first sample written, length, bin read for it, whether those that
        follow go down and are conjugate, and first weight; sorted by line.
    lines, length : int
        How many lines there are, and samples of each.
    _ : ndarray
        :data:`STAMP`.

    Returns
    -------
    starts : ndarray
        ``(lines + 1,)``: the stretches of a line are ``starts[line] ... starts[line + 1] - 1``.
    stretches : ndarray
        ``(stretches, 5)``: first sample, samples, first tap, straight and mirrored ones.
    made : int
        How many of these there are; the rest is undefined.
    taps : ndarray
        ``(taps, 2)``: bin and weight of a stretch's first sample.
    tapped : int
        How many of these there are.
    """
    starts = np.zeros(lines + 1, np.int64)
    stretches = np.empty((max(16, runs.shape[0]), 5), np.int64)
    taps = np.empty((max(16, runs.shape[0]), 2), np.int64)
    cuts = np.zeros(length + 1, np.bool_)
    made = 0
    tapped = 0
    end = 0
    for line in range(lines):
        begin = end
        for k in range(length + 1):
            cuts[k] = False
        while end < runs.shape[0] and runs[end, 0] == line:
            cuts[runs[end, 1]] = True
            cuts[runs[end, 1] + runs[end, 2]] = True
            end += 1
        first = 0
        for after in range(1, length + 1):
            if after < length and not cuts[after]:
                continue
            if made == stretches.shape[0]:
                stretches = twice(stretches)
            stretches[made, 0], stretches[made, 1] = first, after - first
            stretches[made, 2] = tapped
            for mirrored in range(2):
                before = tapped
                for k in range(begin, end):
                    ahead = first - runs[k, 1]
                    if runs[k, 4] != mirrored or ahead < 0 or ahead >= runs[k, 2]:
                        continue
                    if tapped == taps.shape[0]:
                        taps = twice(taps)
                    taps[tapped, 0] = runs[k, 3] + UNITS * ahead * (1 - 2 * mirrored)
                    taps[tapped, 1] = runs[k, 5] + ahead
                    tapped += 1
                stretches[made, 3 + mirrored] = tapped - before
            made += 1
            first = after
        starts[line + 1] = made
    return starts, stretches, made, taps, tapped
