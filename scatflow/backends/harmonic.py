"""Solid harmonic wavelets on volumes: separable filters, inverted axis by axis.

``psi = sum_a z^a exp(-z^2 / 2) P_a(y, x)`` for the few powers a of each harmonic. So the spectrum
is inverted along z once for every power, whatever the number of harmonics, and for each harmonic
a few planes at a time are combined, inverted and squared while they lie in the cache. Only bins
inside the filter's box are touched.

On grids of even length the harmonics are no mirror images of themselves at the Nyquist planes,
where the field of a real volume is complex. Those bins are kept apart: each plane of bins is a
field of two dimensions that alternates in sign along the third.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scatflow.backends import fft, kernels
from scatflow.backends.plain import box_bins
from scatflow.backends.protocol import HarmonicFilter
from scatflow.backends.scratch import SCRATCH

Array = NDArray[Any]

IN_CACHE = 2**15
"""Complex samples of planes that are combined, inverted and squared together."""


_NONE = {np.dtype(kind): np.empty((0, 0, 0), kind) for kind in (np.complex64, np.complex128)}
"""Fields of Nyquist planes that a filter does not reach."""


@dataclass(frozen=True, eq=False)
class Separable:
    """A degree and scale, separated."""

    filters: HarmonicFilter
    ys: NDArray[np.int64]
    zs: NDArray[np.int64]
    """Bins of the box along y and z."""
    width: int
    """Bins of the box along x, of the half spectrum."""
    parts: tuple[Part, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that the stage holds."""
        return sum(part.profiles.nbytes + part.planes.nbytes for part in self.parts)

    @property
    def volumes(self) -> float:
        """Volumes in flight: columns of one parity, the Nyquist fields, and a few planes.

        SciPy takes one more for its results.
        """
        nz, ny, nx = self.filters.shape
        box = self.ys.size * self.width * 2 / (ny * nx)
        columns = max(len(part.profiles) for part in self.parts)
        fields = max(3 * len(part.edges) for part in self.parts) + 4
        edges = 2 * fields * max(nz * ny, nz * nx, ny * nx) / (nz * ny * nx)
        planes = 3 * _planes((ny, nx)) / nz
        return box * columns + edges + planes + (not fft.by_mkl(self.filters.shape))


@dataclass(frozen=True, eq=False)
class Part:
    """The real harmonics whose powers of z have one parity, each a sum of terms."""

    profiles: Array
    """``(powers, len(zs))``."""
    ends: Array
    """``(components + 1,)``: component c has the terms ``ends[c] ... ends[c + 1] - 1``."""
    which: Array
    """``(terms,)``: the profile of each."""
    planes: Array
    """``(terms, len(ys), width)``."""
    edges: tuple[Edges, ...]
    """Those of each component, if any reaches them."""


@dataclass(frozen=True, eq=False)
class Edges:
    """One real harmonic on the Nyquist planes, 0 where a bin is on an earlier one."""

    at_z: Array
    at_y: Array
    at_x: Array


@dataclass(frozen=True, eq=False)
class Stored:
    """Filters of a small volume as published, complex harmonics of orders m >= 0.

    Those of real fields are on the half spectrum, others on the whole one.
    """

    filters: HarmonicFilter
    weights: Array
    """``(harmonics, voxels)``; conjugates of all but the first are filters, too."""

    @property
    def nbytes(self) -> int:
        """Bytes that the stage holds."""
        return int(self.weights.nbytes)

    @property
    def volumes(self) -> float:
        """Volumes in flight: a whole spectrum and a field, both complex, or half a spectrum."""
        return 1.2 if self.filters.real else 5.0


# --- preparation ---------------------------------------------------------------------------


def prepare(filters: HarmonicFilter, dtype: np.dtype[Any]) -> Separable | Stored | None:
    """Lay out filters, or return None where they are best evaluated as they are."""
    if filters.published:
        return _stored(filters, dtype) if filters.rotation_covariant else None
    if filters.touches_nyquist and not (filters.l == 0 or filters.rotation_covariant):
        return None
    return _separable(filters, dtype)


def _stored(filters: HarmonicFilter, dtype: np.dtype[Any]) -> Stored:
    nz, ny, nx = filters.shape
    z, y, x = (box_bins(b, n) for b, n in zip(filters.half_widths, filters.shape, strict=True))
    if filters.real:
        nx, x = nx // 2 + 1, np.arange(filters.half_widths[2] + 1)
    weights = []
    for number, component in enumerate(filters.components(dtype)):
        if number and number % 2 == 0:
            continue  # the conjugate of the one before
        dense = np.zeros((nz, ny, nx), component.dtype)
        dense[np.ix_(z, y, x)] = component
        dense /= math.prod(filters.shape)
        weights.append(dense.reshape(-1))
    return Stored(filters, np.stack(weights))


def _separable(filters: HarmonicFilter, dtype: np.dtype[Any]) -> Separable:
    nz, ny, nx = filters.shape
    zs, ys = (box_bins(b, n) for b, n in zip(filters.half_widths[:2], (nz, ny), strict=True))
    columns, components = filters.parts()
    touches = filters.l > 0 and filters.touches_nyquist
    at_z, at_y = 2 * zs == nz, 2 * ys == ny
    edges = filters.edges() if touches else None
    parts = []
    for parity in (0, 1):
        powers = [a for a in columns if a % 2 == parity]
        ends, which, found, outer = [0], [], [], []
        for number, terms in enumerate(components):
            if terms[0][0] % 2 != parity:
                continue
            planes = np.stack([plane for _, plane in terms])
            if touches:
                planes[:, at_y] = 0.0
                planes[:, :, 2 * np.arange(planes.shape[2]) == nx] = 0.0
            elif _odd_along_y(filters, number):
                planes[:, at_y] = 0.0
            found.append(planes.astype(dtype))
            which += [powers.index(a) for a, _ in terms]
            ends.append(len(which))
            if edges is not None:
                outer.append(_edges(edges[number], filters.shape, dtype))
        if found:
            profiles = np.stack([columns[a] for a in powers]) / math.prod(filters.shape)
            if touches or parity:
                profiles[:, at_z] = 0.0
            parts.append(
                Part(
                    profiles.astype(dtype),
                    np.array(ends),
                    np.array(which),
                    np.concatenate(found),
                    tuple(outer),
                )
            )
    return Separable(filters, ys, zs, filters.half_widths[2] + 1, tuple(parts))


def _odd_along_y(filters: HarmonicFilter, number: int) -> bool:
    """Return whether a component, of order m = -l ... l or l, -l, is a sine."""
    return number < filters.l if filters.rotation_covariant else number == 1


def _edges(planes: tuple[Array, Array, Array], shape: Any, dtype: np.dtype[Any]) -> Edges:
    z, y, x = (plane / math.prod(shape) for plane in planes)
    nz, ny, nx = shape
    # Each bin counts once: on the first of the planes it is on.
    if nz % 2 == 0:
        y[nz // 2] = 0.0
        x[nz // 2] = 0.0
    else:
        z[:] = 0.0
    if ny % 2 == 0:
        x[:, ny // 2] = 0.0
    else:
        y[:] = 0.0
    if nx % 2:
        x[:] = 0.0
    return Edges(z.astype(dtype), y.astype(dtype), x.astype(dtype))


# --- moduli --------------------------------------------------------------------------------


def modulus(u_hat: Array, stage: Separable | Stored) -> Array:
    """Return the root of the sum over m of ``|u * psi_{l,m}|^2``, ``(batch, parents, z, y, x)``."""
    u = np.empty((*u_hat.shape[:2], *stage.filters.shape), u_hat.real.dtype)
    spectra = u_hat.reshape(-1, *u_hat.shape[2:])
    volumes = u.reshape(-1, *u.shape[2:])
    if isinstance(stage, Separable):
        _separable_moduli(spectra, stage, volumes)
    elif stage.filters.real:
        for spectrum, volume in zip(spectra, volumes, strict=True):
            half = SCRATCH.take("z", spectrum.shape, spectrum.dtype)
            kernels.multiply(spectrum.reshape(-1), stage.weights[0], half.reshape(-1), False)
            np.abs(fft.irfft(half, volume, 3), out=volume)
    else:
        _stored_moduli(spectra, stage, volumes)
    return u


def _stored_moduli(spectra: Array, stage: Stored, volumes: Array) -> None:
    shape = volumes.shape[1:]
    whole = SCRATCH.take("whole", shape, spectra.dtype)
    z = SCRATCH.take("z", shape, spectra.dtype)
    if fft.by_mkl(shape):
        plan = fft.descriptor(shape, volumes.dtype, "complex")
        kernels.stored(plan.handle, spectra, stage.weights, whole, z.reshape(-1), volumes)
        return
    for spectrum, volume in zip(spectra, volumes, strict=True):
        kernels.complete(spectrum, whole)
        flat = volume.reshape(-1)
        for m, weights in enumerate(stage.weights):
            for conjugate in (False, True)[: 1 + (m > 0)]:
                kernels.multiply(whole.reshape(-1), weights, z.reshape(-1), conjugate)
                fft.ifft(z, 3)
                pairs = z.view(volume.dtype).reshape(-1)
                kernels.add_squares_of_complex(pairs, flat, m == 0)
        kernels.root(flat)


def _whole(half: Array, nx: int) -> Array:
    """Complete the half spectrum of a real plane, along the last axis."""
    whole = np.empty((1, *half.shape[:-1], nx), half.dtype)
    kernels.complete(half[None], whole)
    plane: Array = whole[0]
    return plane


def _separable_moduli(spectra: Array, stage: Separable, volumes: Array) -> None:
    """Powers of one parity at a time: at most half of the columns are in flight."""
    for part in stage.parts:
        fresh = part is stage.parts[0]
        if not part.edges and fft.real_by_mkl(volumes.shape[2:]) and fft.by_mkl(volumes.shape[1:]):
            _add_part_of_all(spectra, stage, part, volumes, fresh)
        else:
            for spectrum, volume in zip(spectra, volumes, strict=True):
                _add_part(spectrum, stage, part, volume, fresh)
    kernels.root(volumes.reshape(-1))


def _add_part_of_all(
    spectra: Array, stage: Separable, part: Part, volumes: Array, fresh: bool
) -> None:
    """Add the squared moduli of some harmonics' fields, or begin with them, in one call."""
    nz, ny, nx = volumes.shape[1:]
    half = SCRATCH.take("half", (1, ny, spectra.shape[3]), spectra.dtype)
    real = SCRATCH.take("real", (1, ny, nx), volumes.dtype)
    a = SCRATCH.take("columns", (len(part.profiles), stage.ys.size, nz, stage.width), spectra.dtype)
    along_z = fft.columns_descriptor(nz, stage.width, stage.width, volumes.dtype)
    planes = fft.descriptor((ny, nx), volumes.dtype, "inverse")
    turn = stage.filters.l % 2 == 1
    how = (spectra, stage.ys, stage.zs, part.profiles, a)
    terms = (part.ends, part.which, part.planes, turn)
    kernels.separable(along_z.handle, *how, planes.handle, *terms, half, real, volumes, fresh)


def _add_part(u_hat: Array, stage: Separable, part: Part, u: Array, fresh: bool) -> None:
    """Add the squared moduli of some harmonics' fields, or begin with them."""
    nz, ny, nx = u.shape
    turn = stage.filters.l % 2 == 1
    planes = _planes((ny, nx))
    half = SCRATCH.take("half", (planes, ny, u_hat.shape[2]), u_hat.dtype)
    real = SCRATCH.take("real", (planes, ny, nx), u.dtype)
    shape = (len(part.profiles), stage.ys.size, nz, stage.width)
    a = SCRATCH.take("columns", shape, u_hat.dtype)
    fft.invert_columns(u_hat, stage.ys, stage.zs, part.profiles, a)
    edges = _fields(u_hat, part.edges, turn)
    if fft.real_by_mkl((ny, nx)):
        plan = fft.descriptor((ny, nx), u.dtype, "inverse")
        terms = (part.ends, part.which, part.planes, stage.ys)
        kernels.add_components(plan.handle, a, *terms, turn, half, real, edges, u, fresh)
    else:
        _add_components(a, part, stage.ys, turn, half, real, edges, u, fresh)


def _add_components(
    a: Array,
    part: Part,
    ys: Array,
    turn: bool,
    half: Array,
    real: Array,
    edges: tuple[Array, Array, Array],
    u: Array,
    fresh: bool,
) -> None:
    """Do as :func:`kernels.add_components`, some planes at a time."""
    for first in range(0, len(u), len(half)):
        some = u[first : first + len(half)]
        spectra, fields = half[: len(some)], real[: len(some)]
        for c, (begin, end) in enumerate(itertools.pairwise(part.ends)):
            terms = part.which[begin:end], part.planes[begin:end]
            kernels.combine(a, *terms, ys, first, turn, spectra)
            fft.irfft(spectra, fields, 2)
            begins = fresh and c == 0
            if edges[0].size:
                at = (field[c] for field in edges)
                kernels.add_squares_with_planes(fields, *at, first, some, begins)
            else:
                kernels.add_squares(fields.reshape(-1), some.reshape(-1), begins)


def _planes(plane: tuple[int, int]) -> int:
    """Return how many planes are inverted together: with MKL, each in one call."""
    return 1 if fft.real_by_mkl(plane) else max(1, IN_CACHE // math.prod(plane))


def _fields(u_hat: Array, components: tuple[Edges, ...], turn: bool) -> tuple[Array, Array, Array]:
    """Return the fields of the Nyquist planes, which alternate in sign along the third axis."""
    if not components:
        none = _NONE[u_hat.dtype]
        return none, none, none
    nz, nx = components[0].at_x.shape[0], components[0].at_z.shape[1]
    ny = components[0].at_z.shape[0]
    phase = u_hat.dtype.type(1j if turn else 1.0)
    spectra = (
        _whole(u_hat[nz // 2], nx) * phase,
        _whole(u_hat[:, ny // 2], nx) * phase,
        u_hat[:, :, nx // 2] * phase,
    )
    fields = []
    for spectrum, name in zip(spectra, ("at_z", "at_y", "at_x"), strict=True):
        field = np.empty((len(components), *spectrum.shape), u_hat.dtype)
        for out, edges in zip(field, components, strict=True):
            np.multiply(spectrum, getattr(edges, name), out=out)
        fields.append(fft.ifft(field, 2))
    at_z, at_y, at_x = fields
    return at_z, at_y, at_x
