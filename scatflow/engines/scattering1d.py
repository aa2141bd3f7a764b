"""Scattering of signals.

References
----------
S. Mallat, Group invariant scattering, Comm. Pure Appl. Math. 65 (2012), doi:10.1002/cpa.21413.
J. Andén and S. Mallat, Deep scattering spectrum, IEEE Trans. Signal Process. 62 (2014),
doi:10.1109/TSP.2014.2326991.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from scatflow.backends.choose import check as check_backend
from scatflow.backends.protocol import (
    Backend,
    Bank,
    Grid,
    Keep,
    Kept,
    Layer,
    Lowpass,
    Mean,
    Stage,
    Tree,
)
from scatflow.engines.engine import (
    LARGEST_J,
    Engine,
    integer,
    number,
    one_of,
    scalar,
    shape_of,
)
from scatflow.engines.paths import PathTable, numbers, pairs
from scatflow.engines.plan import Boundary, CanonicalGrid, Plan
from scatflow.errors import ParameterError
from scatflow.wavelets.morlet import lowpass_1d, lowpass_support, morlet_1d, morlets_1d
from scatflow.wavelets.scales import SIGMA0, Scale, scales_1d
from scatflow.wavelets.support import (
    NEGLIGIBLE,
    Band,
    envelope_1d,
    fold_1d,
    gaussian_reach,
    joint_reach,
    trim,
)

OUT_TYPES = ("array", "list", "dict")

ELEMENTS = 2**20
"""Samples of moduli in flight: fewer cost Python's time, more fall out of the cache (measured)."""

CACHE_BYTES = 320 * 2**10
"""Signal beyond which a transform's cost grows faster than ``n log n`` (fitted to measurements)."""

CALL_COST = 2.0**14
"""Cost of a call, in the units of ``n log2 n``: that of about a thousand samples."""

ENVELOPE_POINTS = 2**12
"""Points at which a filter's envelope is measured."""

HALO_TOLERANCE = {"float32": 1e-7, "float64": 2e-12}
"""Joint envelope of the filters at the edge of a canonical block's halo.

Measured on noise with a spike of 1000 just beyond a block, over several J, Q, T and stride, what
lies outside then changes no coefficient by more than 5e-6 (float32) or 2e-11 (float64) of its
path's maximum, however small that path is.
"""


@dataclass(frozen=True)
class Scattering1D(Engine):
    """Scattering transform of signals: wavelet modulus, twice, and a moving average.

    ``S1 = |x * psi1| * phi`` and ``S2 = ||x * psi1| * psi2| * phi`` with Morlet wavelets, sampled
    every `stride` samples.

    Parameters
    ----------
    J : int
        log2 of the largest wavelet scale, in samples.
    shape : int or tuple of int, optional
        Samples of one signal. None: taken from each input.
    Q : int or tuple of int
        Wavelets per octave, of the first and the second layer (which has one by default).
    T : float, 0 or "global", optional
        Samples to average over; by default ``2**J``. 0 keeps the moduli themselves, each at its
        own sampling; "global" takes their mean over the signal.
    stride : int, optional
        Samples from one window to the next, a power of two up to `T`; by default the largest.
    max_order : int
        1 or 2.
    oversampling : int
        Deprecated: divides the default stride by ``2**oversampling``.
    out_type : {"array", "list", "dict"}
        Form of the output.
    backend : str, optional
        Library that computes: "numpy", "torch", "cupy" (or "skcuda"); None follows the input.
    scaling : {"kymatio", "kymatio-0.3"}
        Kymatio's current normalisation or that of its releases up to 0.3, which divides the
        coefficients by powers of two.

    Raises
    ------
    ValueError
        If a parameter makes no sense, or the scales do not fit into the signal.

    Examples
    --------
    >>> import numpy as np
    >>> S = Scattering1D(J=5, shape=1024, Q=8)
    >>> S(np.zeros((2, 1024), np.float32)).shape
    (2, 84, 32)
    >>> S.meta()["key"][:3]
    [(), (0,), (1,)]
    """

    kind: ClassVar[str] = "scattering1d"
    ndim: ClassVar[int] = 1

    J: int
    shape: Any = None
    Q: Any = 1
    T: Any = None
    stride: int | None = None
    max_order: int = 2
    oversampling: int = 0
    out_type: str = "array"
    backend: str | None = None
    scaling: str = "kymatio"

    def __post_init__(self) -> None:
        self._set(
            J=integer("J", self.J, 1, LARGEST_J),
            shape=shape_of(self.shape, 1),
            Q=_quality(self.Q),
            T=_averaging(self.T),
            max_order=one_of("max_order", integer("max_order", self.max_order, 1), (1, 2)),
            out_type=one_of("out_type", self.out_type, OUT_TYPES),
            backend=check_backend(self.backend),
            scaling=one_of("scaling", self.scaling, ("kymatio", "kymatio-0.3")),
        )
        self._set(stride=self._strided(), oversampling=0)
        if self.shape is not None:
            self.check_size(self.shape)
        if self.T == 0 and self.out_type == "array":
            raise ParameterError(
                "Cannot convert to out_type='array' with T=0. Please set out_type to 'dict' or "
                "'list': without averaging, each path has its own number of samples."
            )

    # --- parameters ---

    @property
    def averaging(self) -> str:
        """How moduli are kept: "local", "global" or "none"."""
        return "none" if self.T == 0 else "global" if self.T == "global" else "local"

    @property
    def window(self) -> float:
        """Samples that the low-pass filter averages over (``2**J`` where nothing is averaged)."""
        return float(2**self.J if self.T in (None, 0, "global") else self.T)

    @property
    def log2_stride(self) -> int:
        """log2 of the samples from one window to the next, for local averaging."""
        if self.stride is not None:
            return self.stride.bit_length() - 1
        return math.floor(math.log2(self.window))

    def _strided(self) -> int | None:
        """Return `stride` checked, with the deprecated `oversampling` turned into it."""
        if isinstance(self.oversampling, int) and self.oversampling < 0:
            raise ParameterError(f"oversampling must be nonnegative, not {self.oversampling}.")
        oversampling = integer("oversampling", self.oversampling, 0)
        if oversampling:
            warnings.warn(
                "oversampling is deprecated: pass stride, in samples.", DeprecationWarning, 4
            )
            if self.stride is not None:
                raise ParameterError("oversampling and stride are incompatible: pass only stride.")
            if self.averaging != "local":
                return None
            return int(2 ** max(math.floor(math.log2(self.window)) - oversampling, 0))
        return checked_stride("stride", self.stride, "T", self.T, self.window)

    def check_size(self, shape: tuple[int, ...]) -> None:
        """Say so if signals of a shape are too short for the scales."""
        check_length(self, self.J, self.T, shape[0])

    def scales(self) -> tuple[tuple[Scale, ...], tuple[Scale, ...]]:
        """Return the wavelets of the first and the second layer."""
        return scales_1d(self.J, self.Q[0]), scales_1d(self.J, self.Q[1])

    # --- output ---

    def _arrange(self, plan: Plan, x: Any) -> Any:
        if self.out_type == "array":
            return plan.apply(x)
        ragged = plan.tail == "ragged"
        coefficients = plan.apply_ragged(x) if ragged else plan.split(plan.apply(x))
        if self.out_type == "dict":
            return dict(zip(plan.paths.keys, coefficients, strict=True))
        meta = self.meta()
        return [
            {
                "coef": coefficient,
                "j": tuple(int(j) for j in meta["j"][i] if j == j),  # NaN where absent
                "n": key,
                "order": len(key),
            }
            for i, (key, coefficient) in enumerate(zip(plan.paths.keys, coefficients, strict=True))
        ]

    def meta(self) -> dict[str, Any]:
        """Describe the paths, in the order of the output's path axis.

        Returns
        -------
        dict
            `order` ``(C,)``; `key`, a list of tuples ``()``, ``(n1,)``, ``(n1, n2)``; `n`, `xi`,
            `sigma` (cycles/sample) and `j`, each ``(C, max_order)`` with NaN where absent.
        """
        paths = self.paths()
        columns, order = paths.columns, self.max_order
        j1, j2 = (np.where(columns[c] < 0, np.nan, columns[c]) for c in ("j1", "j2"))
        return {
            "order": columns["order"].copy(),
            "key": list(paths.keys),
            "n": paths.numbers(order),
            "xi": pairs(columns["xi1"], columns["xi2"], order),
            "sigma": pairs(columns["sigma1"], columns["sigma2"], order),
            "j": pairs(j1, j2, order),
        }

    def paths(self) -> PathTable:
        """Return the paths and their labels."""
        return path_table(self)

    # --- plans ---

    def _build(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], boundary: Boundary, backend: Backend
    ) -> Plan:
        (N,) = shape
        self.check_size(shape)
        return _plan(self, shape, *self.extent(N, dtype, boundary), dtype, backend)

    def extent(self, N: int, dtype: np.dtype[Any], boundary: Boundary) -> tuple[int, int]:
        """Return the length that signals of `N` samples are extended to, and the samples in front.

        None where they are taken as periods.
        """
        if boundary == "reflect":
            padded = padded_length(N, self.window)
            return self._trimmed(N, padded, (padded - N) // 2, dtype)
        if N % self.coarsest:
            raise ParameterError(
                f"A period of {N} samples cannot be decimated by {self.coarsest}: take a multiple."
            )
        return N, 0

    def _trimmed(self, N: int, padded: int, before: int, dtype: np.dtype[Any]) -> tuple[int, int]:
        """Return a shorter padding with the same windows, where all filters end within it.

        Beyond the reach of all filters together no padding is noticed, so a power of two is not
        needed; where they reach farther, border effects are what Kymatio's padding makes of them.
        """
        if self.averaging != "local":
            return padded, before
        unit = max(self.coarsest, 2 ** math.floor(math.log2(self.window)))
        reach = self._reach(dtype)
        if before < reach + unit:
            return padded, before
        start = reach + (before - reach) % unit  # whole units less, so that no window moves
        least = start + N + reach
        lengths = (unit * m * 2**k for m in (1, 3, 9, 27) for k in range(least.bit_length()))
        best = min(n for n in lengths if n >= least)
        return (best, start) if best < padded else (padded, before)

    def _reach(self, dtype: np.dtype[Any]) -> int:
        """Return how many samples both layers' widest wavelets and the low-pass reach together."""
        widest = [min(scale.sigma for scale in layer) for layer in self.scales()]
        sigmas = (*widest[: self.max_order], SIGMA0 / self.window)
        return math.ceil(gaussian_reach(sigmas, HALO_TOLERANCE[dtype.name]))

    @property
    def coarsest(self) -> int:
        """The largest decimation in the transform: periods must be multiples of it."""
        if self.averaging == "local":
            return int(2**self.log2_stride)
        return int(2 ** max(scale.j for layer in self.scales() for scale in layer))

    def _cheapest_grid(self, dtype: np.dtype[Any]) -> CanonicalGrid:
        """Return the canonical grid whose blocks cost least a sample.

        The halo is where the joint envelope of both layers' widest wavelets and the low-pass has
        fallen to a stated tolerance, as Gaussians and as it is measured.
        """
        if self.averaging != "local":
            raise ParameterError(
                f"T={self.T!r} has no windows along a record: a seamless transform needs a moving "
                "average. Leave T out or give it in samples."
            )
        unit, tolerance = self.coarsest, HALO_TOLERANCE[dtype.name]
        measured = self._measured_reach(dtype)
        halo = math.ceil(max(self._reach(dtype), measured) / unit) * unit
        block = _canonical_length(halo, unit, dtype.itemsize) - 2 * halo
        return CanonicalGrid(block, halo, 2**self.log2_stride, unit, 0, tolerance, measured)

    def _measured_reach(self, dtype: np.dtype[Any]) -> float:
        """Return :meth:`_reach` as it is measured of the filters in time."""
        N = 2 ** math.ceil(math.log2(4 * self._reach(dtype)))
        step = max(N // ENVELOPE_POINTS, 1)
        layers = [min(layer, key=lambda scale: scale.sigma) for layer in self.scales()]
        bands = [morlet_1d(N, scale.xi, scale.sigma) for scale in layers[: self.max_order]]
        bands.append(lowpass_1d(N, SIGMA0 / self.window))
        reach = joint_reach([envelope_1d(band, step) for band in bands], HALO_TOLERANCE[dtype.name])
        return float(step * reach)


def _canonical_length(halo: int, unit: int, itemsize: int) -> int:
    """Return the multiple of `unit` whose block costs least a sample, by a model of the cost.

    Lengths are ``9 * 2^k`` or ``27 * 2^k``: MKL is up to a third slower between them, at powers of
    two (which collide in caches) as at lengths with a factor 5. A transform costs ``n log n`` while
    it lies in the cache, and more by the root of its size beyond; its halos are computed in vain,
    and each call costs as much as some samples. The model depends on nothing but the parameters,
    since the bytes of a result do; ``tests/engines/test_canonical_grid.py`` holds what was
    measured.
    """
    least = 4 * halo // unit + 1  # Of the work, at most half is in vain.
    lengths = {
        unit * (m << k)
        for m in (9, 27)
        for k in range(max(least.bit_length() - 6, 0), least.bit_length() + 12)
    }

    def cost(n: int) -> float:
        spill = math.sqrt(1 + n * itemsize / CACHE_BYTES)
        return (n * math.log2(n) * spill + CALL_COST) / (n - 2 * halo)

    return min((n for n in sorted(lengths) if n >= least * unit), key=cost)


def checked_stride(name: str, stride: Any, scale: str, given: Any, window: float) -> int | None:
    """Return a stride between averages over `window`, which was `given` as `scale`, if any is."""
    if stride is None:
        return None
    if given in (0, "global"):
        raise ParameterError(
            f"{name}={stride!r} is incompatible with {scale}={given!r}: without a moving average "
            f"there are no windows to stride over. Leave {name} out."
        )
    value = scalar(stride)
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ParameterError(f"{name} must be integer, not {value!r}.")
    if value < 1 or value & (value - 1):
        raise ParameterError(f"{name} must be a power of two, not {value}.")
    if value > window:
        raise ParameterError(
            f"{name}={value} exceeds the averaging scale {scale}={window:g}, so samples between "
            f"windows would be lost. Take {name} <= {window:g}."
        )
    return int(value)


MOST_WAVELETS = 4096
"""Wavelets per octave, at most."""


def _quality(Q: Any) -> tuple[int, int]:
    """Return `Q` as wavelets per octave of both layers."""
    values = tuple(map(scalar, Q)) if isinstance(Q, tuple) else (scalar(Q),)
    if len(values) > 2:
        raise NotImplementedError(
            f"Scattering transforms beyond order 2 are not implemented, but Q={Q!r} has "
            f"{len(values)} layers. Give one or two integers."
        )
    if not values or any(isinstance(q, int | float | np.number) and q < 1 for q in values):
        raise ParameterError(f"Q must always be >= 1, not {Q!r}.")
    if not all(isinstance(q, int | np.integer) and not isinstance(q, bool) for q in values):
        raise ParameterError(f"Q must be an integer or a tuple of integers, not {Q!r}.")
    if max(values) > MOST_WAVELETS:
        raise ParameterError(f"Q must be at most {MOST_WAVELETS} wavelets per octave.")
    return int(values[0]), int(values[1]) if len(values) == 2 else 1


def _averaging(T: Any) -> Any:
    """Return `T` checked: None, 0, "global" or a number of samples."""
    if T is None or (isinstance(T, str) and T == "global"):
        return T
    value = number("T", T)
    if value != 0 and value < 1:
        raise ParameterError(f"T must be ==0 or >=1 (samples), 'global' or None, not {T!r}.")
    return int(value) if value == int(value) else value


def check_length(engine: Engine, J: int, T: Any, N: int) -> None:
    """Say so if signals of `N` samples are too short for the scales of an engine."""
    if T not in (None, 0, "global") and N < T:
        raise ParameterError(
            f"The support T of the low-pass filter cannot exceed input length: T={T:g}, "
            f"but the signal has {N} samples. Take T <= {N} or a longer signal."
        )
    if N < 2**J:
        raise ParameterError(
            f"{type(engine).__name__}(J={J}) has wavelets of {2**J} samples, but the signal "
            f"has {N}: every coefficient would be padding. "
            f"Take J <= {N.bit_length() - 1} or a longer signal."
        )


def padded_length(N: int, T: float) -> int:
    """Return the power of two that a signal of `N` samples is reflected to.

    Three supports of the low-pass filter to each side, as far as one reflection gives them.
    """
    support = lowpass_support(N, SIGMA0 / T)
    wanted = math.ceil(math.log2(N + 6 * support))
    return int(2 ** min(wanted, math.floor(math.log2(3 * N - 2))))


# --- paths ---------------------------------------------------------------------------------


LABELS = ("S0", "S1 n1=%d", "S2 n1=%d n2=%d")
"""Names of the paths of each order, by the numbers of their wavelets."""


@lru_cache(maxsize=64)
def path_table(engine: Scattering1D) -> PathTable:
    """List the paths: order 0, order 1 by n1, order 2 by (n1, n2) with ``j2 > j1``."""
    psi1, psi2 = engine.scales()
    keys: list[tuple[int, ...]] = [(), *((n1,) for n1 in range(len(psi1)))]
    if engine.max_order == 2:
        keys += [
            (n1, n2)
            for n1, first in enumerate(psi1)
            for n2, second in enumerate(psi2)
            if second.j > first.j
        ]
    labels = [LABELS[len(key)] % key for key in keys]
    columns: dict[str, NDArray[Any]] = {"order": np.array([len(key) for key in keys])}
    which = numbers(keys)
    for field, absent in (("j", -1), ("xi", np.nan), ("sigma", np.nan)):
        for i, scales in enumerate((psi1, psi2)):
            values = [*(getattr(scale, field) for scale in scales), absent]  # the last is number -1
            columns[f"{field}{i + 1}"] = np.array(values)[which[:, i]]
    return PathTable({**columns, "label": np.array(labels)}, tuple(keys))


# --- building a plan -----------------------------------------------------------------------


LayOut = Callable[[Sequence[Scale], int, Grid], Stage]
"""Lays out wavelets for moduli decimated by ``2**k`` and a grid."""


@dataclass(frozen=True)
class Frame:
    """Where the windows lie: what the building functions below share."""

    engine: Scattering1D
    N: int
    padded: int
    before: int
    dtype: np.dtype[Any]
    backend: Backend

    @cached_property
    def decimations(self) -> dict[int, int]:
        """log2 of the decimation after a wavelet of each octave j.

        As far as the wavelet and the stride allow; Kymatio's releases kept moduli finer than the
        wavelets ask for by as much as the output is.
        """
        engine = self.engine
        octaves = {0, *(scale.j for layer in engine.scales() for scale in layer)}
        if engine.averaging != "local":
            return {j: j for j in octaves}
        stride, largest = engine.log2_stride, math.floor(math.log2(engine.window))
        if engine.scaling == "kymatio":
            return {j: min(j, stride) for j in octaves}
        return {j: max(min(j, largest) - (largest - stride), 0) for j in octaves}

    def crop(self, k: int) -> tuple[slice, ...]:
        """Return the samples at decimation ``2**k`` that lie in the signal."""
        return (slice(-(-self.before // 2**k), -(-(self.before + self.N) // 2**k)),)

    def fold(self, band: Band, k: int) -> Band:
        """Return a filter as a signal decimated by ``2**k`` sees it.

        Aliases are added up; Kymatio's releases took their mean.
        """
        folded = fold_1d(band, self.padded // 2**k)
        return folded.scaled(2.0**-k) if self.engine.scaling == "kymatio-0.3" else folded

    def psi(self, scale: Scale) -> Band:
        """Return a wavelet."""
        return morlet_1d(self.padded, scale.xi, scale.sigma)

    @cached_property
    def phi(self) -> Band:
        """The low-pass filter."""
        return lowpass_1d(self.padded, SIGMA0 / self.engine.window)

    @cached_property
    def averages(self) -> dict[int, Kept]:
        """What is kept of moduli at each decimation; layers share it."""
        return {k: self.kept(k) for k in sorted({0, *self.decimations.values()})}

    def kept(self, k: int) -> Kept:
        """Return what is kept of a modulus at decimation ``2**k``."""
        if self.engine.averaging == "none":
            return Keep(self.crop(k))
        if self.engine.averaging == "global":
            return Mean(self.crop(k))
        s = self.engine.log2_stride
        return Lowpass((self.smoothing(k),), (self.padded // 2**s,), self.crop(s))

    def smoothing(self, k: int) -> NDArray[np.float64]:
        """Return what counts of the low-pass in the half spectrum of moduli at ``2**k``."""
        if self.phi.values.size > self.padded // 2**k:
            return self._significant(k)
        if self.engine.scaling == "kymatio-0.3":
            return self._undecimated * 2.0**-k
        return self._undecimated  # without aliases, it is the same at all decimations

    @cached_property
    def _undecimated(self) -> NDArray[np.float64]:
        return self._significant(0)

    def _significant(self, k: int) -> NDArray[np.float64]:
        half = self.fold(self.phi, k).half()
        significant = half > NEGLIGIBLE[self.dtype.name] * half[0]
        return half[: half.size - int(significant[::-1].argmax())].copy()

    def layer(
        self,
        lay_out: LayOut,
        scales: Sequence[Scale],
        parent: int,
        rows: NDArray[np.intp],
        children: tuple[Layer, ...] = (),
    ) -> Layer:
        """Return filters of one octave that are applied to moduli of octave `parent` (or to x)."""
        down = self.decimations[scales[0].j]
        grid = (self.padded // 2**down,)
        stage = lay_out(scales, self.decimations[parent], grid)
        return Layer(stage, rows, grid, self.averages[down], children)

    def bank(self, scales: Sequence[Scale]) -> LayOut:
        """Return what lays out some of these wavelets for moduli decimated by ``2**k``."""
        eps = NEGLIGIBLE[self.dtype.name]
        unique = list(dict.fromkeys(scales))
        wavelets = [(scale.xi, scale.sigma) for scale in unique]
        evaluate = getattr(self.backend, "morlets", None)
        firsts, ends, values = morlets_1d(self.padded, wavelets, evaluate)
        number = {scale: i for i, scale in enumerate(unique)}
        fan = getattr(self.backend, "fan", None)
        if fan is None:
            bands = [
                Band((first,), values[begin:end], (self.padded,))
                for first, (begin, end) in zip(firsts, itertools.pairwise(ends), strict=True)
            ]

            def lay_out(some: Sequence[Scale], k: int, target: Grid) -> Stage:
                trimmed = [trim(self.fold(bands[number[scale]], k), eps) for scale in some]
                return self.backend.prepare(trimmed, target, self.dtype)

            return lay_out
        made = fan(Bank(np.array(firsts), np.array(ends), values), eps, self.dtype)

        def spread(some: Sequence[Scale], k: int, target: Grid) -> Stage:
            factor = 2.0**-k if self.engine.scaling == "kymatio-0.3" else 1.0
            which = [number[scale] for scale in some]
            stage: Stage = made.prepare(which, self.padded // 2**k, target, factor)
            return stage

        return spread


def by_octave(scales: tuple[Scale, ...]) -> dict[int, list[int]]:
    """Return the indices of the wavelets of each octave j."""
    groups: dict[int, list[int]] = {}
    for n, scale in enumerate(scales):
        groups.setdefault(scale.j, []).append(n)
    return groups


def _plan(
    engine: Scattering1D,
    shape: tuple[int, ...],
    padded: int,
    before: int,
    dtype: np.dtype[Any],
    backend: Backend,
) -> Plan:
    """Assemble the tree and the labels."""
    frame = Frame(engine, shape[0], padded, before, dtype, backend)
    paths = path_table(engine)
    s = engine.log2_stride
    tree = Tree((padded,), frame.averages[0], _layers(frame), ELEMENTS)
    local = engine.averaging == "local"
    windows = len(range(padded // 2**s)[frame.crop(s)[0]]) if local else 1
    ragged = engine.averaging == "none"
    start = -(-before // 2**s) * 2**s - before
    return Plan(
        backend=frame.backend,
        dtype=dtype,
        shape=shape,
        padded=(padded,),
        before=(before,),
        tree=tree,
        paths=paths,
        output_shape=() if ragged else (len(paths), windows),
        labelled_shape=() if ragged else (len(paths), windows),
        tail="ragged" if ragged else "decimated",
        windows=((start, 2**s),) if local else (((shape[0] - 1) // 2, shape[0]),),
    )


@lru_cache(maxsize=64)
def _grouped(engine: Scattering1D) -> dict[tuple[int, ...], NDArray[np.intp]]:
    """Return the paths of each octave, and of each pair of them, by the numbers of wavelets."""
    psi1, psi2 = engine.scales()
    row = {key: i for i, key in enumerate(path_table(engine).keys)}
    found: dict[tuple[int, ...], NDArray[np.intp]] = {}
    for j1, group1 in by_octave(psi1).items():
        found[j1,] = np.array([[row[n1,] for n1 in group1]], np.intp)
        for j2, group2 in by_octave(psi2).items():
            if j2 > j1 and engine.max_order == 2:
                paths = [[row[n1, n2] for n2 in group2] for n1 in group1]
                found[j1, j2] = np.array(paths, np.intp)
    return found


def _layers(frame: Frame) -> tuple[Layer, ...]:
    """Group the wavelets of each layer by octave: they share parents and decimation."""
    psi1, psi2 = frame.engine.scales()
    first, second = (
        {j: [scales[n] for n in some] for j, some in by_octave(scales).items()}
        for scales in (psi1, psi2)
    )
    rows = _grouped(frame.engine)
    # A first layer with as many wavelets per octave has the same ones.
    lay_out = frame.bank((*psi1, *(psi2 if frame.engine.max_order == 2 else ())))
    layers = []
    for j1, some in first.items():
        children = tuple(
            frame.layer(lay_out, others, j1, rows[j1, j2])
            for j2, others in second.items()
            if (j1, j2) in rows
        )
        layers.append(frame.layer(lay_out, some, 0, rows[j1,], children))
    return tuple(layers)
