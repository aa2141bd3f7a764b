"""Fields of volumes through the lanes of vectors: inverse transforms, squared and added up.

One sweep goes along z, with bins (y, x) side by side in the lanes. Then blocks of bins are turned,
so that planes lie side by side, and whole planes are combined and inverted, along y and along x.
Of two real fields the last sweep makes one complex one, whose parts they are.
"""

from __future__ import annotations

import numba
import numpy as np

from scatflow.backends import codelets, kernels
from scatflow.backends.codelets import CHUNK, INVERSE, POINT, STRETCH, VECTOR_BYTES, call_line
from scatflow.backends.compiling import compiled, inner, stamp
from scatflow.backends.kernels import NONE, SINGLE, pointer

STAMP = stamp(__file__, codelets.__file__, kernels.__file__)
"""For Numba's cache: what is compiled here consists of these files."""

UNIT = np.int64(CHUNK)
PART = np.int64(VECTOR_BYTES)
SPACED = np.int64(2 * VECTOR_BYTES)

# What the kernels need of a grid and of the box of bins that filters touch, some of it addresses.

(
    NZ,
    NY,
    NX,
    BINS_Z,  # of the box; along x of the half spectrum, or of all of it
    BINS_Y,
    BINS_X,
    ZS,  # addresses of the box's bins
    YS,
    FLAT,  # bins (y, x), in whole vectors
    PLACES,  # address of where each of these goes in points of (x, y), bytes
    PITCH,  # points from bins k along x to the next: odd, not to share the cache's sets
    GROUPS,  # of planes side by side
    Z_PASSES,  # addresses of the passes along each axis
    Y_PASSES,
    X_PASSES,
    LINE,  # addresses of `codelets.line` and `codelets.fold`
    FOLD,
    TURN,  # whether spectra are to be multiplied by i
    # Where scratch begins, bytes: room of a line, a vector of bins at each z, two lines along z,
    # columns (groups, profiles, x, y), two half planes, two lines along x, sums of squares of the
    # last group of planes if it is not whole, and a line of them that has no meaning.
    ROOM,
    BOX,
    DEEP,
    COLUMNS,
    HALVES,
    ROWS,
    TOTAL,
    END,
) = range(26)

# What they need of harmonics whose powers of z have one parity.

(
    PROFILES,  # how many, and address of (profiles, bins along z), or of bins (y, x), too, with
    PROFILE_WEIGHTS,  # so many bytes from z to z
    EACH,
    PLANE_WEIGHTS,  # address of (terms, x, y)
    STARTS,  # addresses of what `lanes.stretch` returns of lines along y, (components, x)
    STRETCHES,
    TAPS,
    PAIRS,  # how many pairs of fields, and address of (pairs, 2, 3): component, group of planes,
    PAIRED,  # and whether its squares are the first there; component -1 is none
) = range(9)


@inner
def _integers(address, count, grid):
    """Return the integers at an address."""
    return numba.carray(pointer(address, grid), (count,))


@inner
def _gather(u_hat, grid, chunk, box):
    """Split a vector of bins (y, x) at each z of the box: ``(z, parts, bins)``.

    Parts have room for one vector more, as pieces of rows are written in whole ones, in turn.
    """
    like = u_hat[0, 0, 0].real
    item = codelets.item_bytes(like)
    lanes = VECTOR_BYTES // item
    width = grid[BINS_X]
    end = u_hat.ctypes.data + u_hat.size * 2 * item
    zs = _integers(grid[ZS], grid[BINS_Z], grid)
    ys = _integers(grid[YS], grid[BINS_Y], grid)
    j = chunk * lanes // width
    k = chunk * lanes - j * width
    done = NONE
    while done < lanes and j < ys.size:
        first = u_hat.ctypes.data + ys[j] * u_hat.strides[1] + k * 2 * item
        some = min(width - k, lanes - done)
        to = box + done * item
        for i in range(zs.size):
            source = first + zs[i] * u_hat.strides[0]
            if source + 2 * VECTOR_BYTES <= end:
                codelets.split(like, source, to, SPACED, grid[TURN])
            else:
                for l in range(some):
                    v = u_hat[zs[i], ys[j], k + l]
                    codelets.put(to + l * item, -v.imag if grid[TURN] else v.real)
                    codelets.put(to + l * item + SPACED, v.real if grid[TURN] else v.imag)
            to += 2 * SPACED
        done += some
        j += 1
        k = NONE


@inner
def _turn(like, grid, planes, chunk, columns, pitch):
    """Lay a line of bins side by side out as bins of planes side by side.

    Of `columns`, each group of planes begins `pitch` bytes after the one before.
    """
    lanes = VECTOR_BYTES // codelets.item_bytes(like)
    at = grid[PLACES] + chunk * lanes * 8
    for g in range(grid[GROUPS]):
        source = planes + g * lanes * POINT
        for part in (NONE, PART):
            codelets.turn_block(
                like, source + part, POINT, columns + g * pitch + part, at, NONE
            )  # fmt: skip


@inner
def _sums(grid, g, u, scratch):
    """Return where the sums of squares of a group of planes are, ``(y, x, lanes)``.

    They take the planes' own place if there are as many planes as lanes.
    """
    lanes = VECTOR_BYTES // codelets.item_bytes(u[0, 0, 0])
    if (g + 1) * lanes <= grid[NZ]:
        return u[g * lanes].ctypes.data
    return scratch + grid[TOTAL]


@inner
def _clear(like, to, count):
    """Set points to zero."""
    for at in range(to, to + count * POINT, CHUNK):
        codelets.clear_chunk(like, at)


@inner
def _invert_columns(like, grid, some, u_hat, scratch):
    """Invert what profiles let through of the box along z."""
    item = codelets.item_bytes(like)
    lanes = VECTOR_BYTES // item
    box = scratch + grid[BOX]
    size = grid[BINS_X] * grid[PITCH] * POINT
    zs = _integers(grid[ZS], grid[BINS_Z], grid)
    deep = grid[GROUPS] * lanes
    source = scratch + grid[DEEP]
    done = source + deep * POINT
    _clear(like, source, 2 * deep)
    for chunk in range(grid[FLAT] // lanes):
        _gather(u_hat, grid, chunk, box)
        for p in range(some[PROFILES]):
            each = some[EACH]
            step = each if each else item
            weights = some[PROFILE_WEIGHTS] + p * zs.size * step
            weights += chunk * VECTOR_BYTES if each else NONE
            for i in range(zs.size):
                codelets.scale(
                    like, box + 2 * i * SPACED, SPACED, weights + i * step, each,
                    source + zs[i] * POINT,
                )  # fmt: skip
            call_line(grid[LINE], source, done, grid[Z_PASSES], scratch + grid[ROOM], INVERSE)
            columns = scratch + grid[COLUMNS] + p * size
            _turn(like, grid, done, chunk, columns, some[PROFILES] * size)


@inner
def _add_fields(grid, some, edges, u, scratch):
    """Add the squares of real fields, two at a time: those of two components or groups.

    With what edges add to them, if any does, see :func:`separable`.
    """
    like = u[0, 0, 0]
    item = codelets.item_bytes(like)
    lanes = VECTOR_BYTES // item
    ny, nx, width = grid[NY], grid[NX], grid[BINS_X]
    pitch = (ny | 1) * POINT
    room, row = scratch + grid[ROOM], scratch + grid[ROWS]
    field, nothing = row + nx * POINT, row + 2 * nx * POINT
    starts = pointer(some[STARTS], grid)
    group_bytes = some[PROFILES] * width * grid[PITCH] * POINT
    pairs = _integers(some[PAIRED], 6 * some[PAIRS], grid)
    _clear(like, row, nx)
    _clear(like, nothing, SINGLE)
    for i in range(0, 6 * some[PAIRS], 6):
        alone = pairs[i + 3] < 0
        for side in range(1 if alone else 2):
            c, g = pairs[i + 3 * side], pairs[i + 3 * side + 1]
            columns = scratch + grid[COLUMNS] + g * group_bytes
            to = scratch + grid[HALVES] + side * width * pitch
            for k in range(c * width, (c + 1) * width):
                codelets.call_fold(
                    grid[FOLD], lanes, to, columns, NONE, UNIT, some[PLANE_WEIGHTS], item,
                    some[TAPS], some[STRETCHES] + STRETCH * starts[k],
                    some[STRETCHES] + STRETCH * starts[k + 1],
                )  # fmt: skip
                call_line(grid[LINE], to, to, grid[Y_PASSES], room, INVERSE)
                to += pitch
        first, second = _sums(grid, pairs[i + 1], u, scratch), scratch + grid[END]
        if not alone:
            second = _sums(grid, pairs[i + 4], u, scratch)
        for y in range(ny):
            a = scratch + grid[HALVES] + y * POINT
            b = nothing if alone else a + width * pitch
            for k in range(width):
                to, mirrored = row + k * POINT, row + (nx - k if k else NONE) * POINT
                codelets.entangle(like, a, b, to, mirrored)
                a += pitch
                b += NONE if alone else pitch
            call_line(grid[LINE], row, field, grid[X_PASSES], room, INVERSE)
            if edges[0].size:
                _add_edges(like, field, pairs[i : i + 3], y, edges, first)
                if not alone:
                    other = field + VECTOR_BYTES
                    _add_edges(like, other, pairs[i + 3 : i + 6], y, edges, second)
            else:
                codelets.add_squares(like, nx, field, first, second, pairs[i + 2], pairs[i + 5])
            first += nx * VECTOR_BYTES
            second += NONE if alone else nx * VECTOR_BYTES


@inner
def _add_edges(like, field, which, y, edges, total):
    """Add the squared moduli of line y of a field with its edges: component, group, fresh."""
    at_z, at_y, at_x = edges
    c, g = which[0], which[1]
    lanes = VECTOR_BYTES // codelets.item_bytes(like)
    across = np.int64(1 - 2 * (g * lanes % 2))
    along = np.int64(1 - 2 * (y % 2))
    codelets.add_squares_with_edges(
        like, at_z.shape[2], field, total, which[2], across, along, at_z[c, y].ctypes.data,
        at_y[c, g].ctypes.data, at_x[c, g, y].ctypes.data,
    )  # fmt: skip


@inner
def _add_moduli(grid, whole, weights, sign, begins, u, scratch):
    """Add the squared moduli of the field of one complex filter, given bin by bin."""
    like = u[0, 0, 0]
    item = codelets.item_bytes(like)
    lanes = VECTOR_BYTES // item
    ny, nx = grid[NY], grid[NX]
    part = grid[FLAT] * item
    pitch = grid[PITCH] * POINT
    deep = grid[GROUPS] * lanes
    source = scratch + grid[DEEP]
    done = source + deep * POINT
    room, row = scratch + grid[ROOM], scratch + grid[ROWS]
    field = row + nx * POINT
    _clear(like, done, deep)
    for chunk in range(grid[FLAT] // lanes):
        at = chunk * VECTOR_BYTES
        for z in range(grid[NZ]):
            codelets.multiply(
                like, whole.ctypes.data + 2 * z * part + at, weights + 2 * z * part + at, part,
                sign, source + z * POINT,
            )  # fmt: skip
        call_line(grid[LINE], source, done, grid[Z_PASSES], room, INVERSE)
        _turn(like, grid, done, chunk, scratch + grid[COLUMNS], nx * pitch)
    for g in range(grid[GROUPS]):
        total = _sums(grid, g, u, scratch)
        columns = scratch + grid[COLUMNS] + g * nx * pitch
        for at in range(columns, columns + nx * pitch, pitch):
            call_line(grid[LINE], at, at, grid[Y_PASSES], room, INVERSE)
        for y in range(ny):
            for x in range(nx):
                codelets.copy(like, row + x * POINT, columns + x * pitch + y * POINT)
            call_line(grid[LINE], row, field, grid[X_PASSES], room, INVERSE)
            codelets.add_squares(like, nx, field, total, total, begins, NONE)
            total += nx * VECTOR_BYTES


@inner
def _roots(grid, u, scratch):
    """Replace sums of squares, groups of planes side by side, by roots, plane by plane."""
    like = u[0, 0, 0]
    ny, nx = u.shape[1:]
    lanes = VECTOR_BYTES // codelets.item_bytes(like)
    places = np.empty(lanes, np.int64)
    for g in range(grid[GROUPS]):
        planes = u[g * lanes : (g + 1) * lanes]
        total = scratch + grid[TOTAL]
        if planes.shape[0] == lanes:
            total = scratch + grid[COLUMNS]  # which nobody needs any more
            codelets.copy_vectors(like, ny * nx, planes.ctypes.data, total)
        sums = numba.carray(pointer(total, u), (ny, nx, lanes))
        for l in range(lanes):
            places[l] = min(l, planes.shape[0] - 1) * ny * nx * u.itemsize
        for y in range(ny):
            if nx < lanes:
                for l in range(planes.shape[0]):
                    for x in range(nx):
                        planes[l, y, x] = np.sqrt(sums[y, x, l])
            else:
                for x in range(0, nx, lanes):
                    first = min(x, nx - lanes)
                    codelets.turn_block(
                        like, total + (y * nx + first) * VECTOR_BYTES, PART,
                        planes[0, y, first:].ctypes.data, places.ctypes.data, SINGLE,
                    )  # fmt: skip


@compiled
def separable(spectra, volumes, parts, edges, last, grid, scratch, _):
    """Write roots of the sums of squares of real fields, and of what edges add to them.

    Parameters
    ----------
    spectra : ndarray
        ``(volumes, nz, ny, kx)``, half spectra.
    volumes : ndarray
        ``(volumes, nz, ny, nx)``, overwritten.
    parts, grid : ndarray
        The fields above.
    edges : tuple of ndarray
        ``(components, ny, nx)``, complex: a field that alternates in sign along z. ``(components,
        groups, nx, parts, lanes)``: fields (z, x) that do along y, and such fields (z, y). Empty
        where edges add nothing; else for a single volume.
    last : bool
        Whether no further parts follow: else sums of squares are not rooted yet.
    scratch : ndarray
        Bytes.
    _ : ndarray
        :data:`STAMP`.
    """
    like = volumes[0, 0, 0, 0]
    room = np.int64(scratch.ctypes.data)
    for v in range(volumes.shape[0]):
        for p in range(parts.shape[0]):
            _invert_columns(like, grid, parts[p], spectra[v], room)
            _add_fields(grid, parts[p], edges, volumes[v], room)
        if last:
            _roots(grid, volumes[v], room)


@inner
def _split_whole(half, nx, whole):
    """Complete a half spectrum and split it into real and imaginary parts of bins (y, x)."""
    nz, ny = half.shape[0], half.shape[1]
    kept = half.shape[2]
    for z in range(nz):
        for y in range(ny):
            row, mirrored = half[z, y], half[(nz - z) % nz, (ny - y) % ny]
            re, im = whole[z, 0, y * nx : (y + 1) * nx], whole[z, 1, y * nx : (y + 1) * nx]
            for x in range(kept):
                re[x], im[x] = row[x].real, row[x].imag
            for x in range(kept, nx):
                re[x], im[x] = mirrored[nx - x].real, -mirrored[nx - x].imag


@compiled
def stored(spectra, volumes, weights, whole, grid, scratch, _):
    """Write roots of the sums of squared moduli of complex fields.

    Parameters
    ----------
    spectra, volumes, grid, scratch, _
        As in :func:`separable`.
    weights : ndarray
        ``(filters, nz, parts, bins)``, with bins (y, x) in whole vectors; the conjugates of all but
        the first are filters, too.
    whole : ndarray
        Scratch, ``(nz, parts, bins)``.
    """
    room = np.int64(scratch.ctypes.data)
    whole[:] = 0.0
    for v in range(volumes.shape[0]):
        _split_whole(spectra[v], volumes.shape[3], whole)
        for m in range(weights.shape[0]):
            at = weights[m].ctypes.data
            _add_moduli(grid, whole, at, SINGLE, np.int64(m == 0), volumes[v], room)
            if m:
                _add_moduli(grid, whole, at, -SINGLE, NONE, volumes[v], room)
        _roots(grid, volumes[v], room)
