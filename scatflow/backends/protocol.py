"""The few operations that an engine asks of an array library.

The cascade asks for whole stages, not for elementary operations, so that a backend can fuse:

1. ``spectrum``: real array to half spectrum;
2. ``wavelet_modulus``: multiply by a stack of filters on their supports, decimate, modulus;
3. ``average``: what is kept of a modulus: low-passed and decimated, or integrated.

Arrays carry a batch axis first and a path axis second: ``(batch, paths, *grid)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Grid = tuple[int, ...]
Rows = NDArray[np.intp]


class BandFilter(Protocol):
    """A real filter in Fourier, stored inside one cyclic box (see ``wavelets.support.Band``)."""

    @property
    def starts(self) -> tuple[int, ...]:
        """First bin along each axis."""
        ...

    @property
    def values(self) -> NDArray[np.float64]:
        """What is inside the box."""
        ...

    @property
    def shape(self) -> Grid:
        """The grid."""
        ...


class Bank(NamedTuple):
    """Real filters of signals of one length in Fourier, each stored on its band."""

    firsts: NDArray[np.int64]
    """First bin of each."""
    ends: NDArray[np.int64]
    """``(filters + 1,)``: where the values of each begin, and where the last ones end."""
    values: NDArray[np.float64]


class HarmonicFilter(Protocol):
    """Filters of one degree and scale, evaluated when needed (``wavelets.solid_harmonic``)."""

    @property
    def l(self) -> int:
        """Degree: the filters carry the phase ``(-i)^l``."""
        ...

    @property
    def half_widths(self) -> tuple[int, int, int]:
        """Largest bin that the filters touch along each axis."""
        ...

    @property
    def real(self) -> bool:
        """Whether the fields of real volumes are real."""
        ...

    @property
    def touches_nyquist(self) -> bool:
        """Whether the filters count on bins that are their own mirror image."""
        ...

    @property
    def published(self) -> bool:
        """Whether they carry the rounding of their definition, which is not separable."""
        ...

    @property
    def rotation_covariant(self) -> bool:
        """Whether there is a filter for each order, or one for m = -l only."""
        ...

    def parts(self, half: bool = True) -> tuple[dict[int, Any], list[list[tuple[int, Any]]]]:
        """Return real harmonics as sums of products of columns (z) and planes (y, x).

        With `half` the planes have half of the x axis.
        """
        ...

    def edges(self) -> list[tuple[Any, Any, Any]]:
        """Return real harmonics on the Nyquist planes ``(y, x), (z, x), (z, y)``."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """The grid."""
        ...

    def components(self, dtype: Any) -> Iterator[NDArray[Any]]:
        """Yield the filters on the box they touch."""
        ...


PRECISE_VOXELS = 2**18
"""Size up to which spectra of volumes are computed in double precision and rounded once.

Roots amplify the FFT's rounding over nearly empty volumes: sums of ``|u|^0.5`` in float32 are off
by 5e-6 on 16^3 voxels otherwise, and by 2e-6 so.
"""


# --- what `average` may keep of a modulus --------------------------------------------------


@dataclass(frozen=True, eq=False)
class Lowpass:
    """Low-pass with a separable real filter, decimate, crop.

    ``factors[axis]`` holds the filter on bins ``0 ... W`` of the half spectrum along that axis,
    ``target`` the decimated grid before cropping.
    """

    factors: tuple[NDArray[np.float64], ...]
    target: Grid
    crop: tuple[slice, ...]


@dataclass(frozen=True)
class Keep:
    """Crop and keep every sample."""

    crop: tuple[slice, ...]


@dataclass(frozen=True)
class Mean:
    """Crop and take the mean over the grid; the axes stay, with length one."""

    crop: tuple[slice, ...]


@dataclass(frozen=True)
class PowerSums:
    """Sum of each power over the grid: the integral of ``|u|^p`` in units of one voxel.

    With a `crop`, over a part of it.
    """

    powers: tuple[float, ...]
    crop: tuple[slice, ...] = ()


@dataclass(frozen=True, eq=False)
class Samples:
    """Convolve with a separable Gaussian and keep some samples of it.

    ``factors`` cover the full axes (z, y) and the half axis x; ``where`` is either a tuple of
    steps, for a decimated map, or an integer array ``(points, 3)``.
    """

    factors: tuple[NDArray[np.float64], ...]
    where: tuple[int, ...] | NDArray[np.intp]


Kept = Lowpass | Keep | Mean | PowerSums | Samples


class Stage(Protocol):
    """Filters as a backend laid them out."""

    @property
    def nbytes(self) -> int:
        """Bytes that the stage holds."""
        ...


# --- what the cascade walks -----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Layer:
    """Wavelets that are applied to the same parents and decimated alike."""

    stage: Stage
    """The filters as the backend laid them out."""
    rows: Rows
    """``(parents, filters)``: the path that each pair gives."""
    grid: Grid
    """The decimated grid."""
    average: Kept
    children: tuple[Layer, ...] = ()

    def stages(self) -> Iterator[Stage]:
        """Yield the filters of this layer and of all below; some layers share theirs."""
        yield self.stage
        for child in self.children:
            yield from child.stages()


@dataclass(frozen=True, eq=False)
class Tree:
    """A whole transform of signals of one shape, without its padding."""

    grid: Grid
    average: Kept | None
    """How order 0 is kept; None where it is not part of the transform."""
    layers: tuple[Layer, ...]
    elements: int
    """Samples of moduli to have in flight at a time."""


class Program(Protocol):
    """A whole transform as one call."""

    @property
    def at_once(self) -> int:
        """Signals in flight in one thread."""
        ...

    @property
    def held_bytes(self) -> int:
        """Bytes of the filters, which it took from the stages."""
        ...

    @property
    def working_bytes(self) -> int:
        """Bytes in flight in one thread, the input and output aside."""
        ...

    def __call__(self, x: Any, out: Any, threads: int) -> None:
        """Transform ``(batch, *grid)``, not padded, into ``(batch, paths, *windows)``."""
        ...


class Backend(Protocol):
    """One array library."""

    name: str

    def program(self, tree: Tree, shape: Grid, before: Grid, dtype: Any) -> Program | None:
        """Return the transform of signals of `shape` as one call, where the backend has one."""
        ...

    def pad(self, x: Any, before: Grid, after: Grid) -> Any:
        """Extend ``(batch, *grid)`` by whole-sample reflection."""
        ...

    def spectrum(self, u: Any, ndim: int) -> Any:
        """Return the half spectrum over the last `ndim` axes."""
        ...

    def prepare(
        self, filters: Sequence[BandFilter] | HarmonicFilter, target: Grid, dtype: Any
    ) -> Stage:
        """Lay out filters for repeated use by :meth:`wavelet_modulus`."""
        ...

    def wavelet_modulus(self, u_hat: Any, stage: Any, which: slice) -> Any:
        """Return ``|u * psi|`` on the decimated grid, ``(batch, parents, filters, *grid)``."""
        ...

    def average(self, u: Any, how: Kept, u_hat: Any = None) -> Any:
        """Reduce ``(batch, paths, *grid)`` as `how` says; `u_hat` is its spectrum, if known."""
        ...


class Cutting(Protocol):
    """What a backend has besides that makes filters and cuts them to what is not negligible."""

    def morlets(
        self,
        N: int,
        wavelets: Sequence[tuple[float, float]],
        bands: Sequence[tuple[int, int, int]],
        values: NDArray[np.float64],
    ) -> None:
        """Write the values of Morlet wavelets on their bands (``wavelets.morlet.morlets_1d``)."""
        ...

    def fan(self, bank: Bank, eps: float, dtype: Any) -> Any:
        """Return what lays filters out for moduli of several lengths, up to `eps` of their peaks.

        It has a verb ``prepare(which, n, target, factor)``, like :meth:`Backend.prepare`: for some
        filters, times a factor, folded onto n bins.
        """
        ...

    def prepare_dense(self, dense: Any, eps: float, target: Grid, dtype: Any) -> Stage:
        """Lay out filters ``(filters, *grid)`` of images, up to `eps` of their peaks."""
        ...


class Joining(Protocol):
    """What a backend has besides that computes elsewhere than NumPy."""

    def over(
        self, run: Callable[[Tree, Any], list[Any]], tree: Tree, signals: Any, each: int
    ) -> list[Any]:
        """Run a transform of ``(batch, *grid)``, of as many signals at a time as there is room for.

        `each` is how many samples one signal has in flight.
        """
        ...

    def join(self, parts: Sequence[Any], order: Any) -> Any:
        """Return groups of paths ``(batch, paths, ...)`` as one, of which path i is `order[i]`."""
        ...

    def split(self, y: Any, axis: int) -> list[Any]:
        """Return the entries of one axis."""
        ...


class Recording(Protocol):
    """What a backend has besides whose arrays are recorded for derivatives."""

    def again(self, function: Any, *given: Any) -> Any:
        """Call a function and compute it again where derivatives need its inside."""
        ...


class Joint(Protocol):
    """What a backend has besides for filters along log-frequency, the axis of first-order paths.

    Rows are those of one octave or more, one below the other: ``(batch, rows, time)``.
    """

    def wavelet(self, u_hat: Any, stage: Any, which: slice) -> Any:
        """Return ``u * psi`` on the decimated grid, complex, ``(batch, parents, filters, *grid)``.

        Centre frequencies are positive: :meth:`Backend.prepare` may have taken a filter's mirror
        image where most of it is negative.
        """
        ...

    def prepare_joint(self, filters: Sequence[BandFilter], target: int, dtype: Any) -> Stage:
        """Lay out filters along log-frequency for repeated use by :meth:`joint_modulus`."""
        ...

    def joint_modulus(self, rows: Sequence[Any], stage: Any, how: Kept) -> Any:
        """Return ``|y * psi|`` along log-frequency, where `rows`, with zeros below them, are y.

        Rows may be real or complex. Moduli are decimated to `target` rows and reduced along them
        as `how` says, ``(batch, filters, kept rows, time)``.
        """
        ...
