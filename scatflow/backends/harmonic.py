"""Solid harmonic wavelets on volumes: separable filters, whole degrees at a time.

``psi = sum_a z^a exp(-z^2 / 2) P_a(y, x)`` for the few powers a of each harmonic. So the spectrum
is inverted along z once for every power, whatever the number of harmonics, and planes are combined
for each harmonic after that. Only bins inside the filter's box are touched.

On grids of even length the harmonics are no mirror images of themselves at the Nyquist planes,
where the field of a real volume is complex. Those bins are kept apart: each plane of bins is a
field of two dimensions that alternates in sign along the third.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scatflow.backends import codelets, fft, kernels, lane_volumes
from scatflow.backends.plain import box_bins
from scatflow.backends.protocol import PRECISE_VOXELS, HarmonicFilter
from scatflow.backends.scratch import SCRATCH, aligned

Array = NDArray[Any]
Bins = NDArray[np.int64]
Volume = tuple[int, int, int]
Planes = tuple[Array, Array, Array]


class Box:
    """The table of :mod:`lane_volumes` for a box of bins, with what its addresses are of."""

    def __init__(
        self, shape: Volume, zs: Bins, ys: Bins, width: int, dtype: np.dtype[Any], turn: bool
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self.zs, self.ys, self.width = zs, ys, width
        self.lanes = codelets.VECTOR_BYTES // dtype.itemsize
        self.groups = -(-shape[0] // self.lanes)
        self.flat = -(-ys.size * width // self.lanes) * self.lanes
        self.pitch = ys.size | 1
        self._passes = [codelets.passes(n, dtype.name) for n in shape]
        # Bins too many go where the last one does, before it.
        j, k = np.divmod(np.minimum(np.arange(self.flat), ys.size * width - 1), width)
        self._places = np.asarray((k * self.pitch + j) * codelets.POINT, np.int64)
        self._code = codelets.line(dtype.name), codelets.fold(dtype.name)
        self._turn = turn

    def table(self, profiles: int) -> tuple[NDArray[np.int64], int]:
        """Return the table and the bytes of scratch, with columns of so many profiles."""
        nz, ny, nx = self.shape
        point, vector = codelets.POINT, codelets.VECTOR_BYTES
        sizes = {
            lane_volumes.ROOM: max(map(codelets.room, self.shape)) * point,
            lane_volumes.BOX: self.zs.size * 2 * point,
            lane_volumes.DEEP: 2 * self.groups * self.lanes * point,
            lane_volumes.COLUMNS: max(
                self.groups * profiles * self.width * self.pitch * point, ny * nx * vector
            ),
            lane_volumes.HALVES: 2 * self.width * (ny | 1) * point,
            lane_volumes.ROWS: (2 * nx + 1) * point,
            lane_volumes.TOTAL: ny * nx * vector * (nz % self.lanes > 0),
            lane_volumes.END: nx * vector,
        }
        row = np.zeros(lane_volumes.END + 1, np.int64)
        row[lane_volumes.NZ : lane_volumes.NX + 1] = self.shape
        row[lane_volumes.BINS_Z : lane_volumes.BINS_X + 1] = self.zs.size, self.ys.size, self.width
        row[lane_volumes.ZS], row[lane_volumes.YS] = self.zs.ctypes.data, self.ys.ctypes.data
        row[lane_volumes.FLAT], row[lane_volumes.PLACES] = self.flat, self._places.ctypes.data
        row[lane_volumes.PITCH], row[lane_volumes.GROUPS] = self.pitch, self.groups
        row[lane_volumes.Z_PASSES : lane_volumes.X_PASSES + 1] = [p.address for p in self._passes]
        row[lane_volumes.LINE : lane_volumes.FOLD + 1] = [code.address for code in self._code]
        row[lane_volumes.TURN] = self._turn
        ends = np.cumsum([-(-size // 64) * 64 for size in sizes.values()])
        row[list(sizes)] = [0, *ends[:-1]]
        return row, int(ends[-1])


@dataclass(frozen=True, eq=False)
class Separable:
    """A degree and scale, separated."""

    filters: HarmonicFilter
    box: Box
    table: NDArray[np.int64]
    parts: NDArray[np.int64]
    """Fields of :mod:`lane_volumes`."""
    edges: tuple[Planes, ...]
    """For each part ``(components, ny, nx)``, (nz, nx), (nz, ny): filters on the Nyquist planes
    along z, y and x, zero where a bin is on an earlier one; nothing where those do not count."""
    scratch: int
    """Bytes in flight."""
    kept: tuple[Array, ...]
    """What the fields are addresses of."""

    @property
    def nbytes(self) -> int:
        """Bytes that the stage holds."""
        return sum(array.nbytes for array in itertools.chain(self.kept, *self.edges))

    @property
    def volumes(self) -> float:
        """Volumes in flight, fields of the Nyquist planes among them."""
        # Complex fields of three planes, and those of one component that are being laid out.
        fields = [
            sum(2 * a.nbytes + 6 * a[0].nbytes for a in planes if a.size) for planes in self.edges
        ]
        return _spectra(self.box) + (self.scratch + max(fields, default=0)) / (
            math.prod(self.filters.shape) * self.box.dtype.itemsize
        )


@dataclass(frozen=True, eq=False)
class Stored:
    """Filters of a small volume as published, complex harmonics of orders m >= 0."""

    filters: HarmonicFilter
    box: Box
    table: NDArray[np.int64]
    weights: Array
    """``(harmonics, nz, parts, bins)``; conjugates of all but the first are filters, too."""
    scratch: int
    """Bytes in flight."""

    @property
    def nbytes(self) -> int:
        """Bytes that the stage holds."""
        return int(self.weights.nbytes)

    @property
    def volumes(self) -> float:
        """Volumes in flight, a whole spectrum among them."""
        whole = 2 + self.scratch / (math.prod(self.filters.shape) * self.box.dtype.itemsize)
        return _spectra(self.box) + whole


def _spectra(box: Box) -> float:
    """Return the volumes in flight while a spectrum is made, in double precision if it is small."""
    half = 2 * (box.shape[2] // 2 + 1) / box.shape[2]
    precise = math.prod(box.shape) <= PRECISE_VOXELS and box.dtype == np.float32
    by_scipy = half * (1 + precise) * (not fft.real_by_mkl(box.shape))
    return (2 + 2 * half) * precise + by_scipy


# --- preparation ---------------------------------------------------------------------------


def prepare(filters: HarmonicFilter, dtype: np.dtype[Any]) -> Separable | Stored | None:
    """Lay out filters, or return None where they are best evaluated as they are."""
    if not all(map(codelets.splits, filters.shape)):
        return None
    if filters.published:
        if filters.real:
            return _stored_real(filters, dtype)
        return _stored(filters, dtype) if filters.rotation_covariant else None
    if filters.touches_nyquist and not (filters.l == 0 or filters.rotation_covariant):
        return None
    return _separable(filters, dtype)


def _stored(filters: HarmonicFilter, dtype: np.dtype[Any]) -> Stored:
    nz, ny, nx = filters.shape
    z, y, x = (box_bins(b, n) for b, n in zip(filters.half_widths, filters.shape, strict=True))
    box = Box(filters.shape, np.arange(nz), np.arange(ny), nx, dtype, False)
    table, scratch = box.table(1)
    weights = []
    for number, component in enumerate(filters.components(dtype)):
        if number and number % 2 == 0:
            continue  # the conjugate of the one before
        dense = np.zeros((nz, ny, nx), np.result_type(dtype, np.complex64))
        dense[np.ix_(z, y, x)] = component / math.prod(filters.shape)
        parts = np.zeros((nz, 2, box.flat), dtype)
        parts[:, 0, : ny * nx] = dense.real.reshape(nz, -1)
        parts[:, 1, : ny * nx] = dense.imag.reshape(nz, -1)
        weights.append(parts)
    return Stored(filters, box, table, np.stack(weights), scratch)


def _stored_real(filters: HarmonicFilter, dtype: np.dtype[Any]) -> Separable:
    """Lay out the one filter of degree 0 as published: a profile with a weight for each bin."""
    zs, ys = (
        box_bins(b, n) for b, n in zip(filters.half_widths[:2], filters.shape[:2], strict=True)
    )
    (component,) = filters.components(dtype)
    box = Box(filters.shape, zs, ys, filters.half_widths[2] + 1, dtype, False)
    profile = np.zeros((zs.size, box.flat), dtype)
    bins = ys.size * box.width
    profile[:, :bins] = component.reshape(zs.size, bins) / math.prod(filters.shape)
    plane = np.ones((box.width, ys.size), dtype)
    arrays = [profile, plane, *_lines([0, 1], [0], box), _pairs(1, box.groups, True)]
    weights, *others, pairs = [array.ctypes.data for array in arrays]
    each = box.flat * dtype.itemsize
    parts = np.array([[1, weights, each, *others, len(arrays[-1]), pairs]], np.int64)
    table, scratch = box.table(1)
    return Separable(filters, box, table, parts, (), scratch, tuple(arrays))


def _separable(filters: HarmonicFilter, dtype: np.dtype[Any]) -> Separable:
    nz, ny, nx = filters.shape
    zs, ys = (box_bins(b, n) for b, n in zip(filters.half_widths[:2], (nz, ny), strict=True))
    columns, components = filters.parts()
    box = Box(filters.shape, zs, ys, filters.half_widths[2] + 1, dtype, filters.l % 2 == 1)
    touches = filters.l > 0 and filters.touches_nyquist
    kept: list[Array] = []
    parts: list[list[int]] = []
    edges: list[Planes] = []
    most = 0
    for parity in (0, 1):
        powers = [a for a in columns if a % 2 == parity]
        ends, which, found, order = [0], [], [], []
        for number, terms in enumerate(components):
            if terms[0][0] % 2 != parity:
                continue
            planes = np.stack([plane for _, plane in terms])
            if touches or _odd_along_y(filters, number):
                planes[:, 2 * ys == ny] = 0.0
            if touches:
                planes[:, :, 2 * np.arange(box.width) == nx] = 0.0
            found.append(planes.transpose(0, 2, 1))
            which += [powers.index(a) for a, _ in terms]
            ends.append(len(which))
            order.append(number)
        if not found:
            continue
        profiles = np.stack([columns[a] for a in powers]) / math.prod(filters.shape)
        if touches or parity:
            profiles[:, 2 * zs == nz] = 0.0
        pairs = _pairs(len(found), box.groups, not parts)
        arrays = [
            np.ascontiguousarray(profiles, dtype),
            np.ascontiguousarray(np.concatenate(found), dtype),
            *_lines(ends, which, box),
        ]
        kept += [*arrays, pairs]
        if touches:
            edges.append(_edges(filters, order, dtype))
        weights, *others = [array.ctypes.data for array in arrays]
        parts.append([len(powers), weights, 0, *others, len(pairs), pairs.ctypes.data])
        most = max(most, len(powers))
    table, scratch = box.table(most)
    return Separable(
        filters, box, table, np.array(parts, np.int64), tuple(edges), scratch, tuple(kept)
    )


def _odd_along_y(filters: HarmonicFilter, number: int) -> bool:
    """Return whether a component, of order m = -l ... l or l, -l, is a sine."""
    return number < filters.l if filters.rotation_covariant else number == 1


def _lines(ends: list[int], which: list[int], box: Box) -> list[Array]:
    """Return starts, stretches and taps of components' lines along y, see :func:`lanes.stretch`.

    Component c has the terms ``ends[c] ... ends[c + 1] - 1``, each a profile of `which`.
    """
    n, bins = box.shape[1], box.ys.size
    low = (bins + 1) // 2
    runs = [(0, low, 0), (low, n - bins, -1), (n - bins + low, bins - low, low)]
    if bins == n:
        runs = [(0, n, 0)]
    stretches: list[tuple[int, ...]] = []
    taps: list[tuple[int, int]] = []
    starts = [0]
    for begin, end in itertools.pairwise(ends):
        for k in range(box.width):
            for first, count, j in runs:
                terms = range(begin, end) if j >= 0 else range(0)
                stretches.append((first, count, len(taps), len(terms), 0))
                for t in terms:
                    point = (which[t] * box.width + k) * box.pitch + j
                    taps.append((point * codelets.UNITS, (t * box.width + k) * bins + j))
            starts.append(len(stretches))
    return [np.array(rows, np.int64) for rows in (starts, stretches, taps)]


def _pairs(components: int, groups: int, fresh: bool) -> NDArray[np.int64]:
    """Return which fields are inverted together: of one group of planes as far as possible."""
    fields = [(c, g, fresh and c == 0) for g in range(groups) for c in range(components)]
    if len(fields) % 2:
        fields.append((-1, groups, True))
    return np.array(fields, np.int64).reshape(-1, 2, 3)


@lru_cache(maxsize=2)
def _none(dtype: np.dtype[Any]) -> Planes:
    """Return the fields of Nyquist planes that filters do not reach."""
    none = np.empty((0, 0, 0), np.result_type(dtype, np.complex64))
    points = np.empty((0, 0, 0, 0, 0), dtype)
    return none, points, points


def _edges(filters: HarmonicFilter, order: list[int], dtype: np.dtype[Any]) -> Planes:
    """Return components on the Nyquist planes, in some order; each bin counts on one of them."""
    nz, ny, nx = filters.shape
    z, y, x = (np.stack(planes) for planes in zip(*filters.edges(), strict=True))
    if nz % 2 == 0:
        y[:, nz // 2] = 0.0
        x[:, nz // 2] = 0.0
    else:
        z[:] = 0.0
    if ny % 2 == 0:
        x[:, :, ny // 2] = 0.0
    else:
        y[:] = 0.0
    if nx % 2:
        x[:] = 0.0
    at_z, at_y, at_x = (
        (plane[order] / math.prod(filters.shape)).astype(dtype) for plane in (z, y, x)
    )
    return at_z, at_y, at_x


# --- moduli --------------------------------------------------------------------------------


def modulus(u_hat: Array, stage: Separable | Stored) -> Array:
    """Return the root of the sum over m of ``|u * psi_{l,m}|^2``, ``(batch, parents, z, y, x)``."""
    u = aligned((*u_hat.shape[:2], *stage.filters.shape), u_hat.real.dtype)
    spectra = u_hat.reshape(-1, *u_hat.shape[2:])
    volumes = u.reshape(-1, *u.shape[2:])
    scratch = SCRATCH.take("scratch", (stage.scratch,), np.dtype(np.uint8))
    given = stage.table, scratch, lane_volumes.STAMP
    if isinstance(stage, Stored):
        whole = SCRATCH.take("whole", stage.weights.shape[1:], u.dtype)
        lane_volumes.stored(spectra, volumes, stage.weights, whole, *given)
    elif not stage.edges:
        lane_volumes.separable(spectra, volumes, stage.parts, _none(u.dtype), True, *given)
    else:
        for v, p in np.ndindex(len(spectra), len(stage.parts)):
            some, part, last = slice(v, v + 1), slice(p, p + 1), p + 1 == len(stage.parts)
            lane_volumes.separable(
                spectra[some], volumes[some], stage.parts[part],
                _fields(spectra[v], stage.edges[p], stage), last, *given,
            )  # fmt: skip
    return u


def _fields(u_hat: Array, edges: Planes, stage: Separable) -> Planes:
    """Return the fields of the Nyquist planes, as :func:`lane_volumes.separable` takes them."""
    nz, ny, nx = stage.filters.shape
    phase = u_hat.dtype.type(1j if stage.filters.l % 2 else 1.0)

    at_z, at_y, at_x = edges
    fields = np.empty(at_z.shape, u_hat.dtype)
    np.multiply(_whole(u_hat[nz // 2], nx) * phase, at_z, out=fields)
    along_y = _whole(u_hat[:, ny // 2], nx) * phase
    along_x = u_hat[:, :, nx // 2] * phase
    return (
        fft.ifft(fields, 2),
        _side_by_side(along_y, at_y, stage.box),
        _side_by_side(along_x, at_x, stage.box),
    )


def _side_by_side(spectrum: Array, edges: Array, box: Box) -> Array:
    """Return fields ``(components, nz, n)`` as points ``(components, groups, n, parts, lanes)``."""
    count, _, n = edges.shape
    points = np.zeros((count, box.groups, n, 2, box.lanes), box.dtype)
    for some, weights in zip(points, edges, strict=True):
        field = fft.ifft(spectrum * weights, 2)
        for g in range(box.groups):
            planes = field[g * box.lanes : (g + 1) * box.lanes].T
            some[g, :, 0, : planes.shape[1]] = planes.real
            some[g, :, 1, : planes.shape[1]] = planes.imag
    return points


def _whole(half: Array, nx: int) -> Array:
    """Complete the half spectrum of a real plane, along the last axis."""
    whole = np.empty((1, *half.shape[:-1], nx), half.dtype)
    kernels.complete(half[None], whole)
    plane: Array = whole[0]
    return plane
