"""Transforms of signals as one compiled call, many side by side in the lanes of vectors.

As :mod:`lanes` for images, but a signal is one line, which fills the lanes of whole vectors. The
real samples of a line are those of a complex one of half its length, even ones as real parts and
odd ones as imaginary parts, and its half spectrum is split from that one's spectrum: all of it
where wavelets follow, else the few bins that the low-pass lets through.
"""

from __future__ import annotations

import numpy as np

from scatflow.backends import codelets, kernels, lanes
from scatflow.backends.codelets import (
    CHUNK,
    FORWARD,
    MODULI,
    PACKED_MODULI,
    POINT,
    VECTOR_BYTES,
    call_line,
)
from scatflow.backends.compiling import compiled, inner, stamp
from scatflow.backends.kernels import NONE, SINGLE, integers
from scatflow.backends.lanes import (
    CHILD,
    CHILDREN_END,
    COLUMN_AVERAGE,
    COUNT,
    FOLD,
    PATHS,
    UNIT,
)

STAMP = stamp(__file__, lanes.__file__, codelets.__file__, kernels.__file__)
"""For Numba's cache: what is compiled here consists of these files."""

# A signal is a grid of one column. What there is no need to know of rows:
LENGTH, PASSES, AVERAGE = lanes.ROWS, lanes.COLUMN_PASSES, COLUMN_AVERAGE
HALF_PASSES = lanes.ROW_PASSES  # of half the length, or of all of it where it is odd
BINS = lanes.COLUMNS  # how many bins are split, with as many mirrored ones
TURNS = lanes.PITCH  # address of their angles


@inner
def _average(like, line, group, u, z, room):
    """Transform a real line in place, as far as the group needs it, and low-pass it."""
    call_line(line, u, u, group[HALF_PASSES], room, FORWARD)
    half = group[LENGTH] // 2
    turn = group[TURNS]
    for k in range(group[BINS]):
        other = u + (half - k) * POINT
        mirrored = other if k else u
        codelets.split_halves(like, u + k * POINT, mirrored, u + k * POINT, other, turn)
        turn += 2 * codelets.item_bytes(like)
    lanes._smooth(like, line, group, AVERAGE, u, z, room)


@inner
def _round(like, line, group, spectrum, unit, shares, u, z, room):
    """Put spectra through wavelets, and transform and average the moduli.

    Shares are as in :func:`lanes._columns`.
    """
    item = codelets.item_bytes(like)
    n = group[LENGTH]
    for i in range(shares.shape[0]):
        source, to = spectrum + shares[i, 1] * item, z + shares[i, 2] * item
        lanes._fold(
            shares[i, 3], group, FOLD, shares[i, 0], source, source, unit, NONE, item, to
        )  # fmt: skip
    what = MODULI if n % 2 else PACKED_MODULI
    call_line(line, z, u, group[PASSES], room, what)
    if n % 2:
        for k in range(n):
            for at in range(VECTOR_BYTES, POINT, CHUNK):
                codelets.clear_chunk(like, u + k * POINT + at)
    _average(like, line, group, u, z, room)


@inner
def _keep(group, z, paths, f, count, width, slots, first, some, s, out):
    """Write the averages of signals, see :func:`lanes._keep`."""
    pitch = POINT // codelets.item_bytes(z[0])
    begin = group[AVERAGE + lanes.AVERAGE_FIRST] * pitch
    windows = group[AVERAGE + lanes.AVERAGE_WINDOWS]
    lanes._keep(windows, begin, pitch, z, paths, f, count, width, slots, first, some, s, out)


@inner
def _input(x, columns, s, some, top, width):
    """Pad signals s ... s + some - 1, to as many lanes."""
    odd = columns.size % 2
    pitch = (1 + odd) * width
    for k in range(columns.size * pitch):
        top[k] = 0.0
    for first in range(0, columns.size, width):
        last = min(first + width, columns.size)
        for l in range(some):
            samples = x[s + l, 0]
            for k in range(first, last):
                top[k * pitch + l] = samples[columns[k]]


@compiled
def scatter(x, rows, columns, out, groups, layers, part, parts, line, top, z, places, _):  # noqa: ARG001 (called like the walk of images)
    """Transform signals, at most as many at a time as a vector has lanes.

    Parameters
    ----------
    x : ndarray
        ``(batch, 1, n)``.
    rows, columns : ndarray
        Which sample of the signal each sample of the padded one is; there is one row.
    out, groups, layers, part, parts, line
        As in :func:`lanes.scatter`.
    top, z : ndarray
        Scratch: the half spectra of the input, and a line.
    places : tuple of int
        Addresses of more scratch: room of a line, and half spectra of parents and of leaves.
    _ : ndarray
        :data:`STAMP`.
    """
    like = z[0]
    item = codelets.item_bytes(like)
    width = VECTOR_BYTES // item
    room, parent, leaf = places
    whole, at = np.int64(top.ctypes.data), np.int64(z.ctypes.data)
    shares = np.empty((width, 4), np.int64)
    s = NONE
    while s < x.shape[0]:
        some = min(width, x.shape[0] - s)
        _input(x, columns, s, some, top, width)
        _average(like, line, groups[0], whole, at, room)
        if part == 0:
            zero = integers(groups[0], PATHS, (1, 1))
            _keep(groups[0], z, zero, NONE, SINGLE, some, some, NONE, some, s, out)
        if some < width:
            for k in range(2 * (columns.size // 2 + 1)):
                for l in range(some):
                    top[k * some + l] = top[k * width + l]
        turn = 0
        for g in range(1, 1 + layers):
            group = groups[g]
            paths = integers(group, PATHS, (group[COUNT], 1))
            for first in range(0, group[COUNT] * some, width):
                turn += 1
                if turn % parts != part:
                    continue
                slots = min(width, group[COUNT] * some - first)
                used = lanes._share_paths(shares, first, slots, some, width)
                unit = some * item // codelets.ABREAST
                _round(like, line, group, whole, unit, shares[:used], parent, at, room)
                _keep(group, z, paths, NONE, SINGLE, slots, slots, first, some, s, out)
                # Where paths leave lanes empty, several wavelets of the next order go side by side.
                each = SINGLE
                while each < slots:
                    each *= 2
                for c in range(group[CHILD], group[CHILDREN_END]):
                    child = groups[c]
                    below = integers(child, PATHS, (group[COUNT], child[COUNT]))
                    for f in range(0, child[COUNT], width // each):
                        count = min(width // each, child[COUNT] - f)
                        used = lanes._share_children(shares, f, count, each)
                        _round(like, line, child, parent, UNIT, shares[:used], leaf, at, room)
                        _keep(child, z, below, f, count, each, slots, first, some, s, out)
        s += some
