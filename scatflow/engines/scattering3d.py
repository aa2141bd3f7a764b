"""Solid harmonic scattering of volumes.

References
----------
M. Eickenberg, G. Exarchakis, M. Hirn, S. Mallat and L. Thiry, Solid harmonic wavelet scattering
for predictions of molecule properties, J. Chem. Phys. 148 (2018), doi:10.1063/1.5023798.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from scatflow.backends.choose import check as check_backend
from scatflow.backends.protocol import Backend, Kept, Layer, PowerSums, Samples, Stage, Tree
from scatflow.engines.engine import (
    LARGEST_J,
    Engine,
    flag,
    integer,
    number,
    one_of,
    shape_of,
)
from scatflow.engines.paths import PathTable, stack
from scatflow.engines.plan import Boundary, CanonicalGrid, Plan, Tail
from scatflow.errors import ParameterError
from scatflow.wavelets.solid_harmonic import SolidHarmonic, frequencies, gaussian_factors
from scatflow.wavelets.support import NEGLIGIBLE, Array, joint_reach, without_rounding

METHODS = ("integral", "local", "standard")

HALO_TOLERANCE = {"float32": 1e-7, "float64": 2e-12}
"""Joint envelope of the filters at the edge of a tile's halo."""

MEASURED_SCALE = 4
"""Scale in voxels at which the shape of a filter is measured: the Nyquist frequency cuts nothing
off."""

MEASURED_SIDE = 96
"""Side of the volume in which it is measured, at whose borders it has ended."""

SMALLEST_SIDE = 72
"""Side of a tile at least: smaller volumes have filters with the rounding of the published ones."""

DEAR_SIDE = 200
"""Side of a tile, in voxels, that takes about 270 MiB in float32."""

LARGEST_SIDE = 256
"""Side of a tile at most, where halos allow: 550 MiB in float32."""

ELEMENTS = 2**19
"""Voxels of moduli in flight, four volumes of 32 voxels a side: calls cost little beside them."""


@dataclass(frozen=True)
class HarmonicScattering3D(Engine):
    """Solid harmonic scattering of volumes: invariant to rotations, periodic at the borders.

    ``U1_{l,j} = sqrt(sum_m |x * psi_{l,m,j}|^2)`` and ``U2`` the same of `U1` at a larger scale
    and the same degree; what is kept of them is their integral, their values at some points, or
    an averaged map.

    Parameters
    ----------
    J : int
        log2 of the ratio of the largest scale to the smallest: scales ``sigma_0 2^j``,
        ``j = 0 ... J``.
    shape : tuple of int, optional
        Sizes of one volume along (z, y, x). None: taken from each input.
    L : int
        Largest degree; degrees are ``l = 0 ... L``.
    sigma_0 : float
        Smallest scale, voxels.
    max_order : int
        1 or 2.
    rotation_covariant : bool
        Sum over all orders m; otherwise only ``m = -l`` is computed, which is faster and not
        invariant to rotations.
    method : {"integral", "local", "standard"}
        ``integral``: sums over the volume of powers of the modulus (in units of one voxel).
        ``local``: the modulus smoothed with a Gaussian of twice its scale, at `points`.
        ``standard``: the modulus smoothed with the Gaussian of scale ``sigma_0 2^J``, at every
        ``2^J``-th voxel.
    points : sequence of (int, int, int), optional
        Voxels for ``method="local"``.
    integral_powers : tuple of float
        Powers for ``method="integral"``.
    backend : str, optional
        Library that computes: "numpy", "torch", "cupy" (or "skcuda"); None follows the input.

    Raises
    ------
    ValueError
        If a parameter makes no sense.

    Examples
    --------
    >>> import numpy as np
    >>> S = HarmonicScattering3D(J=1, shape=(16, 16, 16), L=2)
    >>> S(np.zeros((4, 16, 16, 16), np.float32)).shape
    (4, 3, 3, 3)
    """

    kind: ClassVar[str] = "scattering3d"
    ndim: ClassVar[int] = 3

    J: int
    shape: Any = None
    L: int = 3
    sigma_0: float = 1
    max_order: int = 2
    rotation_covariant: bool = True
    method: str = "integral"
    points: Any = None
    integral_powers: Any = (0.5, 1.0, 2.0)
    backend: str | None = None

    def __post_init__(self) -> None:
        self._set(
            J=integer("J", self.J, 0, LARGEST_J),
            shape=shape_of(self.shape, 3),
            L=integer("L", self.L, 0),
            sigma_0=number("sigma_0", self.sigma_0),
            max_order=one_of("max_order", integer("max_order", self.max_order, 1), (1, 2)),
            rotation_covariant=flag("rotation_covariant", self.rotation_covariant),
            method=one_of("method", self.method, METHODS),
            points=_points(self.points),
            integral_powers=_powers(self.integral_powers),
            backend=check_backend(self.backend),
        )
        if self.sigma_0 <= 0:
            raise ParameterError(f"sigma_0 must be positive (voxels), not {self.sigma_0}.")
        if self.method == "local" and self.points is None:
            raise ParameterError(
                "method='local' gives values at points, and there are none. "
                "Pass points=[(z, y, x), ...]."
            )
        if self.points is not None and self.method != "local":
            raise ParameterError(
                f"points belong to method='local'; method={self.method!r} would ignore them. "
                "Leave them out or change the method."
            )
        if self.shape is not None:
            self.check_size(self.shape)

    def check_size(self, shape: tuple[int, ...]) -> None:
        """Say so if signals of a shape are too small for the scales."""
        largest = self.sigma_0 * 2**self.J
        if largest > max(shape):
            raise ParameterError(
                f"J={self.J} and sigma_0={self.sigma_0:g} make wavelets of {largest:g} voxels, "
                f"wider than the volume of {' x '.join(map(str, shape))}: they would see only its "
                "mean. Take a smaller J or a larger volume."
            )
        outside = [
            p
            for p in self.points or ()
            if not all(0 <= c < n for c, n in zip(p, shape, strict=True))
        ]
        if outside:
            raise ParameterError(
                f"{len(outside)} of the points lie outside the volume of "
                f"{' x '.join(map(str, shape))}, the first at {outside[0]}. "
                "Points are voxel indices (z, y, x)."
            )

    def _wrong_shape(self, found: tuple[int, ...], what: str) -> str:
        size = ",".join(map(str, self.shape))
        return (
            f"{what} must be of spatial size ({size}). This one has "
            f"({','.join(map(str, found))}); pass shape=None to take the shape from each input."
        )

    def scale(self, j: int) -> float:
        """Return the width of wavelets of scale number `j`, voxels."""
        return float(self.sigma_0 * 2.0**j)

    # --- output ---

    def _arrange(self, plan: Plan, x: Any) -> Any:
        return plan.apply(x)

    def meta(self) -> dict[str, Any]:
        """Describe the paths, in the order of the output's path axis (the degree l has its own).

        Returns
        -------
        dict
            `order` ``(C,)``; `key`, a list of tuples ``(j1,)``, ``(j1, j2)``; `j` and the scale
            `sigma` (voxels), each ``(C, max_order)`` with NaN where absent; `l` ``(L + 1,)``.
        """
        keys = _keys(self)
        j = np.array([(*key, np.nan)[:2] for key in keys], np.float64)[:, : self.max_order]
        return {
            "order": np.array([len(key) for key in keys]),
            "key": list(keys),
            "j": j,
            "sigma": self.sigma_0 * 2.0**j,
            "l": np.arange(self.L + 1),
        }

    def paths(self) -> PathTable:
        """Return the paths and their labels, each degree a path of its own."""
        return path_table(self)

    def output_size(self, detail: bool = False) -> int | tuple[int, ...]:
        """Return the number of paths of each degree, or with `detail` that of each order."""
        keys = _keys(self)
        counts = (0, self.J + 1, len(keys) - self.J - 1)[: self.max_order + 1]
        return counts if detail else len(keys)

    # --- plans ---

    def _cheapest_grid(self, dtype: np.dtype[Any]) -> CanonicalGrid:
        """Return the canonical grid whose tiles cost least a voxel.

        The halo is where the joint envelope of the two widest wavelets and of the Gaussian that
        averages them, as their shape was measured, has fallen to a stated tolerance. Filters of a
        scale near one voxel are cut off at the Nyquist frequency, and ring for what a volume holds
        of it: see `seen`.
        """
        unit, tolerance = 2**self.J, HALO_TOLERANCE[dtype.name]
        reach = max(self._reach(l, tolerance) for l in range(self.L + 1))
        halo = math.ceil(reach / unit) * unit
        block = _canonical_length(halo, unit) - 2 * halo
        stride = unit if self.method == "standard" else 1
        seen = max(at_nyquist(l, self.scale(0)) for l in range(self.L + 1))
        return CanonicalGrid(block, halo, stride, unit, SMALLEST_SIDE, tolerance, reach, seen)

    def canonical_plan(
        self,
        dtype: DTypeLike = np.float32,
        tile: int | None = None,
        delegate: str | None = None,
    ) -> Plan:
        """Return the plan for one tile, its halos included.

        Its points are those of a tile, to be given by :meth:`Plan.at`, and sums those of all of
        it: see :meth:`Plan.summing`.
        """
        if self.method != "local":
            return super().canonical_plan(dtype, tile, delegate)
        anywhere = replace(self, shape=None, points=((0, 0, 0),) * len(self.points))
        return super(HarmonicScattering3D, anywhere).canonical_plan(dtype, tile, delegate)

    def _reach(self, l: int, tolerance: float) -> float:
        """Return how far the widest filters of one degree reach along an axis, voxels."""
        profile = measured_profile(l, self.rotation_covariant)
        envelopes = [profile]
        if self.max_order == 2 and self.J > 0:  # of half the scale: every other sample
            centre = profile.size // 2
            envelopes.append(profile[centre % 2 :: 2])
        if self.method != "integral":
            t = np.arange(-(profile.size // 2), profile.size // 2 + 1)
            ratio = 2.0 if self.method == "local" else 1.0
            envelopes.append(np.exp(-(t**2) / (2.0 * (ratio * MEASURED_SCALE) ** 2)))
        return joint_reach(envelopes, tolerance) * self.scale(self.J) / MEASURED_SCALE

    def _build(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        boundary: Boundary,  # noqa: ARG002 - volumes are periodic in any case
        backend: Backend,
    ) -> Plan:
        self.check_size(shape)
        return _plan(self, (shape[0], shape[1], shape[2]), dtype, backend)


def _points(points: Any) -> tuple[tuple[int, int, int], ...] | None:
    """Return `points` as a tuple of integer triples."""
    if points is None:
        return None
    array = np.asarray(points)
    if array.ndim != 2 or array.shape[1] != 3 or array.shape[0] == 0:
        raise ParameterError(
            f"points must be a list of (z, y, x), not an array of shape {array.shape}."
        )
    if array.dtype.kind not in "iuf" or not np.all(np.isfinite(array)):
        raise ParameterError("points must be finite numbers: voxel indices (z, y, x).")
    return tuple((int(z), int(y), int(x)) for z, y, x in array)


def _powers(powers: Any) -> tuple[float, ...]:
    """Return `integral_powers` as a tuple of positive numbers."""
    if not isinstance(powers, tuple | list | np.ndarray) or len(powers) == 0:
        raise ParameterError(f"integral_powers must be a tuple of numbers, not {powers!r}.")
    values = tuple(number("integral_powers", p) for p in powers)
    if min(values) <= 0:
        raise ParameterError(f"integral_powers must be positive, not {powers!r}.")
    return values


def _keys(engine: HarmonicScattering3D) -> tuple[tuple[int, ...], ...]:
    """Return the scales of each path: order 1, then order 2 with ``j2 > j1``."""
    J = engine.J
    keys: list[tuple[int, ...]] = [(j,) for j in range(J + 1)]
    if engine.max_order == 2:
        keys += [(j1, j2) for j1 in range(J + 1) for j2 in range(j1 + 1, J + 1)]
    return tuple(keys)


@lru_cache(maxsize=64)
def measured_profile(l: int, rotation_covariant: bool) -> Array:
    """Return the modulus of the filters of one degree and of scale 4 voxels along an axis.

    Measured in space, the root of the sum over all orders, and summed over the other two axes;
    filters of other scales are these dilated, but for what the Nyquist frequency cuts off.
    """
    n = MEASURED_SIDE
    filters = SolidHarmonic(l, MEASURED_SCALE, (n, n, n), rotation_covariant, NEGLIGIBLE["float64"])
    parts = filters.parts()
    bins = [
        np.rint(frequencies(b, n) * n / (2 * np.pi)).astype(np.intp) % n
        for b in filters.half_widths[:2]
    ]
    squares = np.zeros((n, n, n))
    for terms in parts.components:
        half = np.zeros((n, n, n // 2 + 1))
        values = sum(parts.columns[a][:, None, None] * plane for a, plane in terms)
        half[np.ix_(*bins, np.arange(filters.half_widths[2] + 1))] = values
        squares += np.abs(np.fft.irfftn((-1j) ** l * half, (n, n, n), axes=(0, 1, 2))) ** 2
    modulus = np.fft.fftshift(np.sqrt(squares))
    profiles = [modulus.sum(axis=axes)[1:] for axes in ((1, 2), (0, 2), (0, 1))]
    return without_rounding(np.max(profiles, axis=0))


def at_nyquist(l: int, s: float) -> float:
    """Return the height of a radial profile at the Nyquist frequency, relative to its peak."""
    peak = l ** (l / 2) * math.exp(-l / 2) if l else 1.0
    if math.sqrt(l) >= math.pi * s:
        return 1.0
    return (math.pi * s) ** l * math.exp(-((math.pi * s) ** 2) / 2) / peak


def _canonical_length(halo: int, unit: int) -> int:
    """Return the side of a tile, a multiple of `unit`, that costs least a voxel.

    A voxel takes about as long at any size, so that tiles would be as large as memory allows: at
    :data:`DEAR_SIDE` what they hold counts as much as the time they take. They end at
    :data:`LARGEST_SIDE`, or at four halos. Sides are ``m * 2^k`` with a small odd `m`.
    """
    most = max(LARGEST_SIDE, 4 * halo)
    least = max(3 * halo, SMALLEST_SIDE)
    sides = {unit * (m << k) for m in (1, 3, 5, 9) for k in range(most.bit_length() + 3)}

    def cost(n: int) -> float:
        return (n / (n - 2 * halo)) ** 3 * (1 + (n / DEAR_SIDE) ** 3)

    fitting = [n for n in sorted(sides) if least <= n <= most]
    return min(fitting or [min(n for n in sides if n >= least)], key=cost)


@lru_cache(maxsize=64)
def path_table(engine: HarmonicScattering3D) -> PathTable:
    """List all (scales, degree), the degree fastest.

    The radial profile ``(|w| s)^l exp(-(|w| s)^2 / 2)`` peaks at ``|w| = sqrt(l) / s``.
    """
    rows, keys = [], []
    for key in _keys(engine):
        for l in range(engine.L + 1):
            row: dict[str, Any] = {"order": len(key)}
            for i in (1, 2):
                present = len(key) >= i
                s = engine.scale(key[i - 1]) if present else np.nan
                row[f"j{i}"] = key[i - 1] if present else -1
                row[f"xi{i}"] = math.sqrt(l) / (2 * math.pi * s)
                row[f"sigma{i}"] = 1 / (2 * math.pi * s)
            names = "".join(f" j{i + 1}={j}" for i, j in enumerate(key))
            rows.append({**row, "l": l, "label": f"S{len(key)}{names} l={l}"})
            keys.append((*key, l))
    return PathTable(stack(rows), tuple(keys))


# --- building a plan -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Frame:
    """What the building functions below share."""

    engine: HarmonicScattering3D
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    backend: Backend

    def kept(self, j: int) -> Kept:
        """Return what is kept of a modulus whose last wavelet has scale number `j`."""
        engine = self.engine
        if engine.method == "integral":
            return PowerSums(engine.integral_powers)
        if engine.method == "local":
            factors = gaussian_factors(self.shape, engine.scale(j + 1))
            return Samples(factors, np.array(engine.points, np.intp))
        factors = gaussian_factors(self.shape, engine.scale(engine.J))
        return Samples(factors, (2**engine.J,) * 3)

    def stage(self, l: int, j: int) -> Stage:
        """Lay out the filters of one degree and scale."""
        engine = self.engine
        filters = SolidHarmonic(
            l, engine.scale(j), self.shape, engine.rotation_covariant, NEGLIGIBLE[self.dtype.name]
        )
        return self.backend.prepare(filters, self.shape, self.dtype)

    def layer(self, stage: Stage, j: int, row: int, children: tuple[Layer, ...] = ()) -> Layer:
        """Return the filters of one degree and scale as what gives a path."""
        return Layer(stage, np.array([[row]], np.intp), self.shape, self.kept(j), children)


def _plan(
    engine: HarmonicScattering3D,
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    backend: Backend,
) -> Plan:
    """Assemble the tree and the labels."""
    frame = _Frame(engine, shape, dtype, backend)
    paths = path_table(engine)
    row = {key: i for i, key in enumerate(paths.keys)}
    layers = []
    for l in range(engine.L + 1):
        stages = [frame.stage(l, j) for j in range(engine.J + 1)]
        for j1 in range(engine.J + 1):
            children = tuple(
                frame.layer(stages[j2], j2, row[j1, j2, l])
                for j2 in range(j1 + 1, engine.J + 1)
                if engine.max_order == 2
            )
            layers.append(frame.layer(stages[j1], j1, row[j1, l], children))
    tail, kept = _tail(engine, shape)
    return Plan(
        backend=frame.backend,
        dtype=dtype,
        shape=shape,
        padded=shape,
        before=(0, 0, 0),
        tree=Tree(shape, None, tuple(layers), ELEMENTS),
        paths=paths,
        output_shape=(len(_keys(engine)), engine.L + 1, *kept),
        labelled_shape=(len(paths), *kept),
        tail=tail,
        windows=((0, 2**engine.J),) * 3 if tail == "decimated" else (),
    )


def _tail(engine: HarmonicScattering3D, shape: tuple[int, ...]) -> tuple[Tail, tuple[int, ...]]:
    """Return what is left of the volume's axes."""
    if engine.method == "integral":
        return "power", (len(engine.integral_powers),)
    if engine.method == "local":
        return "point", (len(engine.points),)
    return "decimated", tuple(-(-n // 2**engine.J) for n in shape)
