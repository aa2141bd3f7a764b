"""Scattering of images.

References
----------
J. Bruna and S. Mallat, Invariant scattering convolution networks, IEEE Trans. Pattern Anal.
Mach. Intell. 35 (2013), doi:10.1109/TPAMI.2012.230.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from scatflow.backends.choose import check as check_backend
from scatflow.backends.protocol import Backend, Layer, Lowpass, Stage, Tree
from scatflow.engines.engine import (
    LARGEST_J,
    Engine,
    flag,
    integer,
    one_of,
    shape_of,
)
from scatflow.engines.paths import PathTable, numbers, pairs
from scatflow.engines.plan import Boundary, CanonicalGrid, Plan
from scatflow.errors import ParameterError
from scatflow.wavelets.morlet import REACH, ideal_lowpass, lowpass_2d, morlet_2d, morlets_2d
from scatflow.wavelets.support import Array, band_of, joint_reach, without_rounding

OUT_TYPES = ("array", "list", "dict")

ELEMENTS = 2**19
"""Pixels of moduli in flight: fewer cost Python's time, more fall out of the cache (measured)."""

HALO_TOLERANCE = {"float32": 1e-7, "float64": 2e-12}
"""Joint envelope of the filters at the edge of a tile's halo."""

MEASURED_WIDTH = 13.0
"""Standard deviation, in pixels, up to which envelopes are measured; wider ones are these
dilated."""

TOGETHER = 2**18
"""Values of the wavelets of one scale up to which these are evaluated and cut together."""

SPILL = 3500
"""Side of a tile, in pixels, at which a pixel costs twice as much (fitted to measurements)."""

EPS = {"float32": 1e-8, "float64": 1e-13}
"""Fraction of its peak below which a filter counts as zero.

Larger than in other dimensions in float64: these filters are DFTs, exact to 1e-15 only.
"""


def width(j: int) -> float:
    """Return the standard deviation of a wavelet's envelope along its wave vector, pixels."""
    return 0.8 * 2.0**j


def wave_number(j: int) -> float:
    """Return the length of a wavelet's wave vector, radians/pixel."""
    return 0.75 * math.pi / 2.0**j


@dataclass(frozen=True)
class Scattering2D(Engine):
    """Scattering transform of images: oriented wavelet modulus, twice, and a moving average.

    Parameters
    ----------
    J : int
        log2 of the largest scale, in pixels; the output has one sample every ``2**J``.
    shape : tuple of int, optional
        Rows and columns of one image. None: taken from each input.
    L : int
        Orientations, over half a turn.
    max_order : int
        1 or 2.
    pre_pad : bool
        The input is already padded, to the shape in :attr:`padded_shape`.
    backend : str, optional
        Library that computes: "numpy", "torch", "cupy" (or "skcuda"); None follows the input.
    out_type : {"array", "list", "dict"}
        Form of the output.
    pyramid : {"scatnet", "fold"}
        How filters act on decimated moduli. ``scatnet`` gives ScatNet's and Kymatio's numbers,
        which cut the filters off at the decimated Nyquist frequency; with ``fold`` they alias as a
        sampled filter does, so that the parts of an image can be computed apart exactly. The two
        differ by about 1e-3.

    Raises
    ------
    ValueError, RuntimeError
        If a parameter makes no sense, or the scales do not fit into the image.

    Examples
    --------
    >>> import numpy as np
    >>> S = Scattering2D(J=2, shape=(32, 32), L=4)
    >>> S(np.zeros((3, 32, 32), np.float32)).shape
    (3, 25, 8, 8)
    """

    kind: ClassVar[str] = "scattering2d"
    ndim: ClassVar[int] = 2

    J: int
    shape: Any = None
    L: int = 8
    max_order: int = 2
    pre_pad: bool = False
    backend: str | None = None
    out_type: str = "array"
    pyramid: str = "scatnet"

    def __post_init__(self) -> None:
        self._set(
            J=integer("J", self.J, 1, LARGEST_J),
            shape=shape_of(self.shape, 2),
            L=integer("L", self.L, 1),
            max_order=one_of("max_order", integer("max_order", self.max_order, 1), (1, 2)),
            pre_pad=flag("pre_pad", self.pre_pad),
            backend=check_backend(self.backend),
            out_type=one_of("out_type", self.out_type, OUT_TYPES),
            pyramid=one_of("pyramid", self.pyramid, ("scatnet", "fold")),
        )
        if self.shape is not None:
            self.check_size(self.shape)

    def check_size(self, shape: tuple[int, ...]) -> None:
        """Say so if signals of a shape are too small for the scales."""
        if min(shape) < 2**self.J:
            raise ParameterError(
                f"The smallest dimension should be larger than 2^J. J={self.J} averages over "
                f"{2**self.J} pixels, but the image is {shape[0]} x {shape[1]}: every coefficient "
                f"would be padding. Take J <= {min(shape).bit_length() - 1} or a larger image."
            )

    @property
    def padded_shape(self) -> tuple[int, ...] | None:
        """The shape that an image of `shape` is padded to."""
        return None if self.shape is None else self._padded(self.shape)

    def _padded(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        unit = 2**self.J
        return tuple(((n + unit) // unit + 1) * unit for n in shape)

    def _input_shape(self) -> tuple[int, ...]:
        return self._padded(self.shape) if self.pre_pad else tuple(self.shape)

    def _wrong_shape(self, found: tuple[int, ...], what: str) -> str:
        kind = f"Padded {what.split()[-1].lower()}" if self.pre_pad else what
        m, n = self._input_shape()
        return (
            f"{kind} must be of spatial size ({m},{n}). This one has "
            f"({found[0]},{found[1]}); pass shape=None to take the shape from each input."
        )

    def angle(self, theta: int) -> float:
        """Return the angle of orientation number `theta` from the rows' axis, radians."""
        return self.turns(theta) * math.pi / self.L

    def turns(self, theta: int) -> int:
        """Return the angle of orientation number `theta` in units of pi / L."""
        return int(self.L - self.L / 2 - 1) - theta

    # --- output ---

    def _arrange(self, plan: Plan, x: Any) -> Any:
        y = plan.apply(x)
        if self.out_type == "array":
            return y
        coefficients = plan.split(y)
        if self.out_type == "dict":
            return dict(zip(plan.paths.keys, coefficients, strict=True))
        return [
            {
                "coef": coefficient,
                "j": tuple(n // self.L for n in key),
                "n": key,
                "theta": tuple(n % self.L for n in key),
                "order": len(key),
            }
            for key, coefficient in zip(plan.paths.keys, coefficients, strict=True)
        ]

    def meta(self) -> dict[str, Any]:
        """Describe the paths, in the order of the output's path axis.

        Returns
        -------
        dict
            `order` ``(C,)``; `key`, a list of tuples ``()``, ``(n1,)``, ``(n1, n2)`` with
            ``n = j L + theta``; `n`, `j`, `theta` (number of the orientation), `angle` (radians),
            `xi` and `sigma` (cycles/pixel), each ``(C, max_order)`` with NaN where absent.
        """
        paths = self.paths()
        c, order = paths.columns, self.max_order
        n = paths.numbers(order)
        return {
            "order": c["order"].copy(),
            "key": list(paths.keys),
            "n": n,
            "j": n // self.L,
            "theta": n % self.L,
            "angle": pairs(c["theta1"], c["theta2"], order),
            "xi": pairs(c["xi1"], c["xi2"], order),
            "sigma": pairs(c["sigma1"], c["sigma2"], order),
        }

    def paths(self) -> PathTable:
        """Return the paths and their labels."""
        return path_table(self)

    # --- plans ---

    def _cheapest_grid(self, dtype: np.dtype[Any]) -> CanonicalGrid:
        """Return the canonical grid whose tiles cost least a pixel.

        The halo is where the joint envelope of the two widest wavelets and the low-pass, measured
        along rows and columns, has fallen to a stated tolerance.
        """
        if self.pyramid != "fold":
            raise ParameterError(
                f"pyramid={self.pyramid!r} has filters that reach across the whole image, so that "
                "no tiling of it is seamless. Take pyramid='fold'."
            )
        if self.pre_pad:
            raise ParameterError(
                "pre_pad=True takes images that were padded as a whole, and tiles have halos of "
                "their own. Leave it out."
            )
        unit, tolerance = 2**self.J, HALO_TOLERANCE[dtype.name]
        reach = measured_reach(self.J, self.L, self.max_order, tolerance)
        halo = math.ceil(reach / unit) * unit
        block = _canonical_length(halo, unit) - 2 * halo
        return CanonicalGrid(block, halo, unit, unit, 0, tolerance, reach)

    def _build(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], boundary: Boundary, backend: Backend
    ) -> Plan:
        unit = 2**self.J
        before: tuple[int, ...]
        self.check_size(shape)
        if boundary == "periodic" or self.pre_pad:
            wrong = [n for n in shape if n % unit or (self.pre_pad and n < 3 * unit)]
            if wrong:
                raise ParameterError(
                    f"Sides of {shape[0]} x {shape[1]} pixels cannot be decimated by 2^J={unit}: "
                    f"take multiples{f' from {3 * unit} on' if self.pre_pad else ''}."
                )
            padded, before = shape, (0, 0)
        else:
            padded = self._padded(shape)
            before = tuple((p - n) // 2 for p, n in zip(padded, shape, strict=True))
        # One window on each side lies in the padding, which is 2^J at least.
        margin = 0 if boundary == "periodic" else 1
        return _plan(self, shape, padded, before, margin, dtype, backend)


@lru_cache(maxsize=64)
def measured_reach(J: int, L: int, max_order: int, tolerance: float) -> float:
    """Return how far the widest wavelets and the low-pass reach together along an axis, pixels.

    Measured in space, summed over the other axis, which is how much of a straight edge passes.
    Wavelets of larger scales are the same ones dilated.
    """
    slant = 4.0 / L
    widest = math.floor(math.log2(MEASURED_WIDTH * min(1.0, slant) / width(0)))
    j = min(J - 1, max(widest, 1))
    n = 2 * math.ceil(REACH * width(j) * max(1.0, 1.0 / slant)) + 2
    across = np.arange(1 - n // 2, n // 2)
    low = np.exp(-(across**2) / (2.0 * width(j) ** 2))
    scales = (j, j - 1) if max_order == 2 and j > 0 else (j,)
    reaches = []
    for theta in range(L):
        angle = (int(L - L / 2 - 1) - theta) * math.pi / L
        profiles = [_profiles(n, i, angle, slant) for i in scales]
        for axis in (0, 1):
            reaches.append(joint_reach([low, *(p[axis] for p in profiles)], tolerance))
    return max(reaches) * 2.0 ** (J - 1 - j)


def _profiles(n: int, j: int, angle: float, slant: float) -> list[Array]:
    """Return the modulus of a wavelet in space, summed over columns, and over rows."""
    psi = morlet_2d((n, n), width(j), angle, wave_number(j), slant)
    modulus = np.fft.fftshift(np.abs(np.fft.ifft2(psi)))
    return [without_rounding(modulus.sum(axis=axis)[1:]) for axis in (1, 0)]


def _canonical_length(halo: int, unit: int) -> int:
    """Return the side of a tile, a multiple of `unit`, that costs least a pixel, by a model.

    Larger tiles have less halo to compute in vain, and leave the caches: a pixel of 1024 x 1024
    takes a quarter longer than one of 256 x 256. Sides are ``9 * 2^k``, ``15 * 2^k`` or
    ``27 * 2^k``, which the FFTs like. Tiles end at 4096 pixels a side, or at four halos, for the
    sake of memory.
    """
    most = max(4096, 4 * halo)
    least = 3 * halo
    sides = {unit * (m << k) for m in (9, 15, 27) for k in range(most.bit_length())}

    def cost(n: int) -> float:
        return n**2 * (1 + n / SPILL) / (n - 2 * halo) ** 2

    fitting = [n for n in sorted(sides) if least <= n <= most]
    return min(fitting or [min(n for n in sides if n >= least)], key=cost)


@lru_cache(maxsize=64)
def path_table(engine: Scattering2D) -> PathTable:
    """List the paths: order 0, order 1 by ``n1 = j1 L + theta1``, order 2 with ``j2 > j1``."""
    L, count = engine.L, engine.J * engine.L
    keys: list[tuple[int, ...]] = [(), *((n1,) for n1 in range(count))]
    if engine.max_order == 2:
        keys += [(n1, n2) for n1 in range(count) for n2 in range((n1 // L + 1) * L, count)]
    names = [[f" j{i}={n // L} theta{i}={n % L}" for n in range(count)] for i in (1, 2)]
    labels = [
        f"S{len(key)}" + "".join([some[n] for n, some in zip(key, names, strict=False)])
        for key in keys
    ]
    columns: dict[str, NDArray[Any]] = {"order": np.array([len(key) for key in keys])}
    which = numbers(keys)
    # Of each wavelet; the last is number -1.
    found = {
        "j": [n // L for n in range(count)] + [-1],
        "xi": [wave_number(n // L) / (2 * math.pi) for n in range(count)] + [np.nan],
        "sigma": [1 / (2 * math.pi * width(n // L)) for n in range(count)] + [np.nan],
        "theta": [engine.angle(n % L) for n in range(count)] + [np.nan],
    }
    for i in (1, 2):
        for field, values in found.items():
            columns[f"{field}{i}"] = np.array(values)[which[:, i - 1]]
    return PathTable({**columns, "label": np.array(labels)}, tuple(keys))


def wavelet(engine: Scattering2D, padded: tuple[int, int], j: int, theta: int) -> Array:
    """Return a wavelet in Fourier on the padded grid; its slant makes L of them fill a turn."""
    return morlet_2d(padded, width(j), engine.angle(theta), wave_number(j), slant=4.0 / engine.L)


# --- building a plan -----------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """What the building functions below share."""

    engine: Scattering2D
    padded: tuple[int, int]
    margin: int
    dtype: np.dtype[Any]
    backend: Backend

    def keep(self, axis: int, level: int) -> NDArray[np.bool_]:
        """Return which bins of an axis survive the decimation to `level`."""
        n = self.padded[axis]
        if self.engine.pyramid == "fold" or level == 0:
            return np.ones(n, dtype=bool)
        return ideal_lowpass(n, level)

    def fold(self, psi: Array, level: int) -> Array:
        """Return filters, along the last axes, as images decimated by ``2**level`` see them."""
        if level == 0:
            return psi
        m, n = self.padded
        r = 2**level
        if self.engine.pyramid == "fold":
            folded: Array = psi.reshape(-1, r, m // r, r, n // r).sum(axis=(1, 3))
            return folded.reshape(*psi.shape[:-2], m // r, n // r)
        # What is cut off leaves one alias in each bin.
        rows, columns = (np.flatnonzero(self.keep(axis, level)) for axis in (0, 1))
        kept: Array = psi[..., rows[:, None], columns]
        return kept

    @cached_property
    def phi(self) -> tuple[Array, Array]:
        """The low-pass filter along both axes."""
        return lowpass_2d(self.padded, width(self.engine.J - 1))

    @cached_property
    def averages(self) -> list[Lowpass]:
        """The average of a modulus at each level; layers share it."""
        return [self.lowpass(level) for level in range(self.engine.J)]

    def lowpass(self, level: int) -> Lowpass:
        """Return the average of a modulus that is decimated by ``2**level``."""
        J, r = self.engine.J, 2**level
        factors: list[Array] = []
        for axis, factor in enumerate(self.phi):
            if axis and factor is self.phi[0]:
                factors *= 2
                break
            n = self.padded[axis] // r
            if level:
                factor = (factor * self.keep(axis, level)).reshape(r, n).sum(axis=0)
            half = factor[: n // 2 + 1]
            significant = np.flatnonzero(half > EPS[self.dtype.name] * half[0])
            factors.append(half[: significant[-1] + 1].copy())
        target = tuple(n // 2**J for n in self.padded)
        crop = tuple(slice(self.margin, n - self.margin) for n in target)
        return Lowpass(tuple(factors), target, crop)

    def wavelets(self, j: int) -> Iterator[tuple[int, Array]]:
        """Yield the wavelets of scale `j` with the numbers of their orientations, in some order.

        Those of opposite angles mirror each other; on square grids, those of angles that make a
        right one are each other's transposes.
        """
        for theta, psi, opposite in self._sources(j, together=False):
            yield theta, np.roll(psi[:, ::-1], 1, axis=1) if opposite else psi

    def orientations(self, j: int) -> Array:
        """Return the wavelets of scale `j`, evaluated together, ``(L, *padded)``."""
        found: Array = np.empty((self.engine.L, *self.padded))
        for theta, psi, opposite in self._sources(j, together=True):
            if opposite:
                found[theta, :, 0], found[theta, :, 1:] = psi[:, 0], psi[:, :0:-1]
            else:
                found[theta] = psi
        return found

    def _sources(self, j: int, together: bool) -> Iterator[tuple[int, Array, bool]]:
        """Yield orientations and wavelets, and whether these are at opposite angles."""
        L, (m, n) = self.engine.L, self.padded
        images: dict[int, list[tuple[int, bool, bool]]] = {}
        for theta in range(L):
            k = self.engine.turns(theta)
            across = m == n and L % 2 == 0 and 4 * abs(k) > L
            source = L // 2 - abs(k) if across else abs(k)
            images.setdefault(source, []).append((theta, across, k < 0))
        groups = [list(images)] if together else [[k] for k in images]
        for group in groups:
            angles = [k * math.pi / L for k in group]
            found = morlets_2d(self.padded, width(j), angles, wave_number(j), slant=4.0 / L)
            for k, psi in zip(group, found, strict=True):
                for theta, across, opposite in images[k]:
                    yield theta, psi.T if across else psi, opposite

    def stages(self, j: int) -> list[Stage]:
        """Lay out the wavelets of scale `j` for images decimated by ``2**level``, level < j.

        Of images that are not small, one orientation is evaluated on the whole grid at a time and
        only bands are kept.
        """
        grid = tuple(n // 2**j for n in self.padded)
        eps = EPS[self.dtype.name]
        levels = range(max(j, 1) if self.engine.max_order == 2 else 1)
        cutting = getattr(self.backend, "prepare_dense", None)
        if cutting is not None and self.engine.L * math.prod(self.padded) <= TOGETHER:
            together = self.orientations(j)
            return [cutting(self.fold(together, level), eps, grid, self.dtype) for level in levels]
        bands: list[list[Any]] = [[None] * self.engine.L for _ in levels]
        for theta, psi in self.wavelets(j):
            for level, found in enumerate(bands):
                found[theta] = band_of(self.fold(psi, level), eps)
        return [self.backend.prepare(found, grid, self.dtype) for found in bands]


def _plan(
    engine: Scattering2D,
    shape: tuple[int, ...],
    padded: tuple[int, ...],
    before: tuple[int, ...],
    margin: int,
    dtype: np.dtype[Any],
    backend: Backend,
) -> Plan:
    """Assemble the tree and the labels."""
    frame = Frame(engine, (padded[0], padded[1]), margin, dtype, backend)
    paths = path_table(engine)
    unit = 2**engine.J
    out = tuple(n // unit - 2 * margin for n in padded)
    output_shape = (len(paths), *out)
    return Plan(
        backend=backend,
        dtype=dtype,
        shape=shape,
        padded=padded,
        before=before,
        tree=Tree(padded, frame.averages[0], _layers(frame, paths), ELEMENTS),
        paths=paths,
        output_shape=output_shape,
        labelled_shape=output_shape,
        tail="decimated",
        windows=tuple((margin * unit - b, unit) for b in before),
    )


def _layers(frame: Frame, paths: PathTable) -> tuple[Layer, ...]:
    """Group the wavelets of each layer by scale: they share parents and decimation."""
    J, L = frame.engine.J, frame.engine.L
    row = {key: i for i, key in enumerate(paths.keys)}
    stages = [frame.stages(j) for j in range(J)]

    def layer(level: int, j: int, rows: list[list[int]], children: tuple[Layer, ...]) -> Layer:
        grid = (frame.padded[0] // 2**j, frame.padded[1] // 2**j)
        return Layer(stages[j][level], np.array(rows, np.intp), grid, frame.averages[j], children)

    layers = []
    for j1 in range(J):
        children = []
        for j2 in range(j1 + 1, J) if frame.engine.max_order == 2 else ():
            rows = [[row[j1 * L + a, j2 * L + b] for b in range(L)] for a in range(L)]
            children.append(layer(j1, j2, rows, ()))
        layers.append(layer(0, j1, [[row[j1 * L + a,] for a in range(L)]], tuple(children)))
    return tuple(layers)
