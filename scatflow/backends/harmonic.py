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

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scatflow.backends import fft, kernels
from scatflow.backends.protocol import HarmonicFilter
from scatflow.backends.scratch import SCRATCH

Array = NDArray[Any]

IN_CACHE = 2**15
"""Complex samples of planes that are combined, inverted and squared together."""


_NONE = {np.dtype(kind): np.empty((0, 0), kind) for kind in (np.complex64, np.complex128)}
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
        return sum(
            part.profiles.nbytes + sum(component.planes.nbytes for component in part.components)
            for part in self.parts
        )

    @property
    def volumes(self) -> float:
        """Volumes in flight: columns of one parity, the Nyquist fields, and a few planes.

        SciPy takes one more for its results.
        """
        nz, ny, nx = self.filters.shape
        box = self.ys.size * self.width * 2 / (ny * nx)
        columns = max(len(part.profiles) for part in self.parts)
        edges = 2 * 5 * max(nz * ny, nz * nx, ny * nx) / (nz * ny * nx)
        planes = 3 * _planes((ny, nx)) / nz
        return box * columns + edges + planes + (not fft.by_mkl(self.filters.shape))


@dataclass(frozen=True, eq=False)
class Part:
    """The harmonics whose powers of z have one parity."""

    profiles: Array
    """``(powers, len(zs))``."""
    components: tuple[Component, ...]


@dataclass(frozen=True, eq=False)
class Component:
    """One real harmonic."""

    which: Array
    """The profile of each term."""
    planes: Array
    """``(terms, len(ys), width)``."""
    edges: Edges | None


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
    weights: tuple[Array, ...]
    """Flat; conjugates of all but the first are filters, too."""

    @property
    def nbytes(self) -> int:
        """Bytes that the stage holds."""
        return sum(w.nbytes for w in self.weights)

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
    z, y, x = (_bins(b, n) for b, n in zip(filters.half_widths, filters.shape, strict=True))
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
    return Stored(filters, tuple(weights))


def _bins(b: int, n: int) -> NDArray[np.int64]:
    """Return the bins ``0 ... b, -b ... -1``."""
    if 2 * b + 1 >= n:
        return np.arange(n)
    return np.concatenate([np.arange(b + 1), np.arange(n - b, n)])


def _separable(filters: HarmonicFilter, dtype: np.dtype[Any]) -> Separable:
    nz, ny, nx = filters.shape
    zs, ys = (_bins(b, n) for b, n in zip(filters.half_widths[:2], (nz, ny), strict=True))
    columns, components = filters.parts()
    touches = filters.l > 0 and filters.touches_nyquist
    at_z, at_y = 2 * zs == nz, 2 * ys == ny
    edges = filters.edges() if touches else None
    parts = []
    for parity in (0, 1):
        powers = [a for a in columns if a % 2 == parity]
        found = []
        for number, terms in enumerate(components):
            if terms[0][0] % 2 != parity:
                continue
            planes = np.stack([plane for _, plane in terms])
            if touches:
                planes[:, at_y] = 0.0
                planes[:, :, 2 * np.arange(planes.shape[2]) == nx] = 0.0
            elif _odd_along_y(filters, number):
                planes[:, at_y] = 0.0
            which = np.array([powers.index(a) for a, _ in terms])
            outer = None if edges is None else _edges(edges[number], filters.shape, dtype)
            found.append(Component(which, planes.astype(dtype), outer))
        if found:
            profiles = np.stack([columns[a] for a in powers]) / math.prod(filters.shape)
            if touches or parity:
                profiles[:, at_z] = 0.0
            parts.append(Part(profiles.astype(dtype), tuple(found)))
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
    for index in np.ndindex(u_hat.shape[:2]):
        if isinstance(stage, Stored):
            _stored_modulus(u_hat[index], stage, u[index])
        else:
            _separable_modulus(u_hat[index], stage, u[index])
    return u


def _stored_modulus(u_hat: Array, stage: Stored, u: Array) -> None:
    if stage.filters.real:
        half = SCRATCH.take("z", u_hat.shape, u_hat.dtype)
        kernels.multiply(u_hat.reshape(-1), stage.weights[0], half.reshape(-1), False)
        np.abs(fft.irfft(half, u, 3), out=u)
        return
    whole = _whole(u_hat, u.shape[2]).reshape(-1)
    z = SCRATCH.take("z", u.shape, u_hat.dtype)
    flat = u.reshape(-1)
    for m, weights in enumerate(stage.weights):
        for conjugate in (False, True)[: 1 + (m > 0)]:
            kernels.multiply(whole, weights, z.reshape(-1), conjugate)
            fft.ifft(z, 3)
            pairs = z.view(u.dtype).reshape(-1)
            kernels.add_squares_of_complex(pairs, flat, m == 0)
    kernels.root(flat)


def _whole(half: Array, nx: int) -> Array:
    """Complete the half spectrum of a real volume or plane, along the last axis."""
    whole = np.empty((*half.shape[:-1], nx), half.dtype)
    kept = half.shape[-1]
    whole[..., :kept] = half
    mirrored = half[..., nx - kept : 0 : -1] if nx - kept else half[..., :0]
    axes = tuple(range(half.ndim - 1))
    mirrored = np.roll(np.flip(mirrored, axes), (1,) * len(axes), axes)
    np.conj(mirrored, out=whole[..., kept:])
    return whole


def _separable_modulus(u_hat: Array, stage: Separable, u: Array) -> None:
    """Powers of one parity at a time: at most half of the columns are in flight."""
    fresh = True
    for part in stage.parts:
        shape = (len(part.profiles), stage.ys.size, u_hat.shape[0], stage.width)
        a = SCRATCH.take("columns", shape, u_hat.dtype)
        fft.invert_columns(u_hat, stage.ys, stage.zs, part.profiles, a)
        for component in part.components:
            _add_component(u_hat, stage, component, a, u, fresh)
            fresh = False
        del a  # before the next ones, of another size, are made
    kernels.root(u.reshape(-1))


def _add_component(
    u_hat: Array, stage: Separable, component: Component, a: Array, u: Array, fresh: bool
) -> None:
    odd_degree = stage.filters.l % 2 == 1
    edges = _fields(u_hat, component.edges, odd_degree)
    nz, ny, nx = u.shape
    by_mkl = fft.real_by_mkl((ny, nx))
    planes = _planes((ny, nx))
    half = SCRATCH.take("half", (planes, ny, u_hat.shape[2]), u_hat.dtype)
    real = SCRATCH.take("real", (planes, ny, nx), u.dtype)
    how = (a, component.which, component.planes, stage.ys)
    if by_mkl:
        plan = fft.descriptor((ny, nx), u.dtype, "inverse")
        none = _NONE[u_hat.dtype]
        kernels.add_component(
            plan.handle, *how, odd_degree, half, real, edges or (none, none, none), u, fresh
        )
        return
    for first in range(0, nz, planes):
        some = u[first : first + planes]
        field = real[: len(some)]
        kernels.combine(*how, first, odd_degree, half[: len(some)])
        fft.irfft(half[: len(some)], field, 2)
        if edges is None:
            kernels.add_squares(field.reshape(-1), some.reshape(-1), fresh)
        else:
            kernels.add_squares_with_planes(field, *edges, first, some, fresh)


def _planes(plane: tuple[int, int]) -> int:
    """Return how many planes are inverted together: with MKL, each in one call."""
    return 1 if fft.real_by_mkl(plane) else max(1, IN_CACHE // math.prod(plane))


def _fields(u_hat: Array, edges: Edges | None, turn: bool) -> tuple[Array, Array, Array] | None:
    """Return the fields of the Nyquist planes, which alternate in sign along the third axis."""
    if edges is None:
        return None
    nz, ny, nx = edges.at_x.shape[0], edges.at_z.shape[0], edges.at_z.shape[1]
    spectra = (
        _whole(u_hat[nz // 2], nx) * edges.at_z,
        _whole(u_hat[:, ny // 2], nx) * edges.at_y,
        u_hat[:, :, nx // 2] * edges.at_x,
    )
    a, b, c = (
        fft.ifft(spectrum * spectrum.dtype.type(1j if turn else 1.0), 2) for spectrum in spectra
    )
    return a, b, c
