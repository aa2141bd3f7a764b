"""Joint time-frequency scattering of signals.

The scalogram of a signal, ``|x * psi1|`` over time and log-frequency, is convolved with wavelets of
two variables, products of one in time and one along log-frequency. The latter's sign of frequency,
the spin, tells patterns that rise from those that fall.

References
----------
J. Andén, V. Lostanlen and S. Mallat, Joint time-frequency scattering, IEEE Trans. Signal Process.
67 (2019), doi:10.1109/TSP.2019.2918992.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from scatflow.backends.choose import check as check_backend
from scatflow.backends.protocol import Backend, Keep, Kept, Layer, Lowpass, Mean
from scatflow.engines.engine import LARGEST_J, Engine, integer, number, one_of, scalar, shape_of
from scatflow.engines.joint import Across, JointPlan, JointTree, Second
from scatflow.engines.paths import PathTable, pairs, stack
from scatflow.engines.plan import Boundary, CanonicalGrid
from scatflow.engines.scattering1d import (
    ELEMENTS,
    OUT_TYPES,
    Frame,
    LayOut,
    Scattering1D,
    by_octave,
    check_length,
    checked_stride,
)
from scatflow.errors import ParameterError
from scatflow.wavelets.morlet import lowpass_1d, morlet_1d
from scatflow.wavelets.scales import SIGMA0, Scale, scales_1d
from scatflow.wavelets.support import NEGLIGIBLE, Band, fold_1d, trim

FORMATS = ("time", "joint")


@dataclass(frozen=True)
class TimeFrequencyScattering(Engine):
    """Joint time-frequency scattering of signals.

    The moduli ``U1(n1, t) = |x * psi1[n1]|(t)`` are transformed along time t and log-frequency,
    their number n1: ``S2 = |U1 * psi2 * psi_fr| * phi * phi_fr``, and the averaged ``U1 * phi``
    along log-frequency alone: ``S1 = |U1 * phi * psi_fr| * phi_fr``.

    Parameters
    ----------
    J : int
        log2 of the largest scale in time, in samples.
    J_fr : int
        log2 of the largest scale along log-frequency, in first-order wavelets, Q to an octave.
    Q : int or tuple of int
        Wavelets in time per octave, of the first and the second layer (which has one by default).
    shape : int or tuple of int, optional
        Samples of one signal. None: taken from each input.
    T : float, 0 or "global", optional
        Samples to average over; by default ``2**J``. 0 keeps what is not averaged, each path at its
        own sampling and the first order at the signal's; "global" takes means over the signal.
    stride : int, optional
        Samples from one window to the next, a power of two up to `T`; by default the largest.
    Q_fr : int
        Wavelets along log-frequency per octave.
    F : float, 0 or "global", optional
        First-order wavelets to average over; by default ``2**J_fr``. 0 keeps what is not averaged,
        "global" takes means over all.
    stride_fr : int, optional
        First-order wavelets from one kept row to the next, a power of two up to `F`; by default
        the largest.
    out_type : {"array", "list", "dict"}
        Form of the output.
    format : {"time", "joint"}
        Whether each kept row is a path of its own, ``(..., paths, windows)``, or paths have an axis
        of log-frequency, ``(..., paths, rows, windows)``.
    backend : str, optional
        Library that computes; None follows the input.

    Raises
    ------
    ValueError
        If a parameter makes no sense, or the scales do not fit.

    Notes
    -----
    Rows of an array in the joint format go on below the last first-order wavelet, where its
    averages fade out; lists and dicts have the rows of existing wavelets, and order 0.

    Examples
    --------
    >>> import numpy as np
    >>> S = TimeFrequencyScattering(J=8, J_fr=3, Q=8, shape=4096)
    >>> S(np.zeros((2, 4096), np.float32)).shape
    (2, 279, 16)
    >>> S.meta()["key"][:3]
    [(), (0, 0), (0, 1)]
    """

    kind: ClassVar[str] = "timefrequency"
    ndim: ClassVar[int] = 1
    cost: ClassVar[int] = 16
    max_order: ClassVar[int] = 2

    J: int
    J_fr: int
    Q: Any
    shape: Any = None
    T: Any = None
    stride: int | None = None
    Q_fr: Any = 1
    F: Any = None
    stride_fr: int | None = None
    out_type: str = "array"
    format: str = "time"
    backend: str | None = None

    def __post_init__(self) -> None:
        self._set(
            J=integer("J", self.J, 1, LARGEST_J),
            shape=shape_of(self.shape, 1),
            out_type=one_of("out_type", self.out_type, OUT_TYPES),
            format=one_of("format", self.format, FORMATS),
            backend=check_backend(self.backend),
        )
        in_time = Scattering1D(self.J, None, self.Q, self.T, self.stride, out_type="list")
        self._set(Q=in_time.Q, T=in_time.T, stride=in_time.stride)
        self._set(J_fr=_largest_scale(self.J_fr, self.rows_expected), Q_fr=_quality(self.Q_fr))
        self._set(F=_averaging(self.F, self.rows_expected))
        stride_fr = checked_stride("stride_fr", self.stride_fr, "F", self.F, self.window_fr)
        self._set(stride_fr=stride_fr)
        if self.shape is not None:
            self.check_size(self.shape)
        self._check_form()

    def _check_form(self) -> None:
        """Say so if an array cannot hold the output."""
        if self.out_type != "array":
            return
        if self.T == 0:
            raise ParameterError(
                "Cannot convert to out_type='array' with T=0. Please set out_type to 'dict' or "
                "'list': without averaging, each path has its own number of samples."
            )
        if self.F == 0 and self.format == "joint":
            raise ParameterError(
                "Cannot convert to out_type='array' with format='joint' and F=0. Please set "
                "out_type to 'dict' or 'list', or format to 'time': without averaging along "
                "log-frequency, each path has its own number of rows."
            )

    # --- parameters ---

    @property
    def in_time(self) -> Scattering1D:
        """The transform in time alone, which has the same filters."""
        return _in_time(self.J, self.Q, self.T, self.stride)

    @property
    def averaging(self) -> str:
        """How moduli are kept in time: "local", "global" or "none"."""
        return self.in_time.averaging

    @property
    def window(self) -> float:
        """Samples that the low-pass filter in time averages over."""
        return self.in_time.window

    @property
    def log2_stride(self) -> int:
        """log2 of the samples from one window to the next, for local averaging."""
        return self.in_time.log2_stride

    @property
    def averaging_fr(self) -> str:
        """How moduli are kept along log-frequency: "local", "global" or "none"."""
        return "none" if self.F == 0 else "global" if self.F == "global" else "local"

    @property
    def window_fr(self) -> float:
        """First-order wavelets that are averaged over."""
        return float(2**self.J_fr if self.F in (None, 0, "global") else self.F)

    @property
    def log2_stride_fr(self) -> int:
        """log2 of the wavelets from one kept row to the next, for local averaging."""
        if self.stride_fr is not None:
            return self.stride_fr.bit_length() - 1
        return math.floor(math.log2(self.window_fr))

    @property
    def rows_expected(self) -> int:
        """First-order wavelets that J octaves, and one to zero, would have: what F goes up to."""
        return int((self.J + 1) * self.Q[0])

    def scales(self) -> tuple[tuple[Scale, ...], tuple[Scale, ...]]:
        """Return the wavelets in time of the first and the second layer."""
        return self.in_time.scales()

    def scales_fr(self) -> tuple[Scale, ...]:
        """Return the filters along log-frequency: the low-pass, rising and falling wavelets.

        Frequencies are in cycles per first-order wavelet.
        """
        low = Scale(0.0, SIGMA0 / 2**self.J_fr, self.J_fr)
        psi = scales_1d(self.J_fr, self.Q_fr)
        return (low, *psi, *(scale._replace(xi=-scale.xi) for scale in psi))

    # --- output ---

    def _arrange(self, plan: Any, x: Any) -> Any:
        if self.out_type == "array":
            return plan.apply(x)
        ragged = plan.tail == "ragged"
        coefficients = plan.apply_ragged(x) if ragged else plan.split(plan.apply(x))
        if self.out_type == "dict":
            return dict(zip(plan.paths.keys, coefficients, strict=True))
        return [
            {"coef": coefficient, **path}
            for coefficient, path in zip(coefficients, described(self), strict=True)
        ]

    def meta(self) -> dict[str, Any]:
        """Describe the paths, in the order of the output's path axis.

        Returns
        -------
        dict
            `order` ``(C,)``; `key`, a list of tuples: ``()``, ``(n1, n_fr)``, ``(n1, n2, n_fr)``
            or, in the joint format, ``(n_fr,)``, ``(n2, n_fr)``; `n`, `xi`, `sigma` (cycles/sample)
            and `j`, each ``(C, 2)`` with NaN where absent, `n` in the joint format with the range
            of n1 that rows stand for; `n_fr`, `xi_fr`, `sigma_fr` (cycles per first-order wavelet),
            `j_fr`, ``(C,)`` with NaN where absent, and `spin`, 1 for rising, -1 for falling
            patterns, 0 for neither.
        """
        table = path_table(self)
        none = np.full(len(table), np.nan)  # rows have an axis of their own
        columns = {"j1": none, "xi1": none, "sigma1": none, **table.columns}
        j1, j2 = (np.where(columns[c] < 0, np.nan, columns[c]) for c in ("j1", "j2"))
        listed = described(self)
        n_fr = [path["n_fr"][0] if path["n_fr"] else np.nan for path in listed]
        return {
            "order": columns["order"].copy(),
            "key": list(table.keys),
            "n": _numbers(self, listed),
            "n_fr": np.array(n_fr),
            "xi": pairs(columns["xi1"], columns["xi2"], 2),
            "sigma": pairs(columns["sigma1"], columns["sigma2"], 2),
            "j": pairs(j1, j2, 2),
            "xi_fr": columns["xi_fr"].copy(),
            "sigma_fr": columns["sigma_fr"].copy(),
            "j_fr": np.where(columns["j_fr"] < 0, np.nan, columns["j_fr"]),
            "spin": columns["spin"].copy(),
        }

    def paths(self) -> PathTable:
        """Return the paths and their labels."""
        return path_table(self)

    # --- plans ---

    def _build(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], boundary: Boundary, backend: Backend
    ) -> JointPlan:
        (N,) = shape
        self.check_size(shape)
        in_time = self.in_time
        frame = Frame(in_time, N, *in_time.extent(N, dtype, boundary), dtype, backend)
        return _plan(self, frame)

    def check_size(self, shape: tuple[int, ...]) -> None:
        """Say so if signals of a shape are too short for the scales."""
        check_length(self, self.J, self.T, shape[0])

    def _cheapest_grid(self, dtype: np.dtype[Any]) -> CanonicalGrid:
        """Return the canonical grid of :class:`Scattering1D`.

        What is done along log-frequency is done at each time by itself.
        """
        return self.in_time.canonical_grid(dtype)


@lru_cache(maxsize=64)
def _in_time(J: int, Q: tuple[int, int], T: Any, stride: int | None) -> Scattering1D:
    return Scattering1D(J, None, Q, T, stride, out_type="list")


def _largest_scale(J_fr: Any, rows: int) -> int:
    """Return `J_fr` checked against the number of first-order wavelets."""
    value = integer("J_fr", J_fr, 1, LARGEST_J)
    if 2**value > 2 * rows:
        largest = (2 * rows).bit_length() - 1
        raise ParameterError(
            f"J_fr={value} has wavelets of {2**value} rows, but J and Q give {rows} first-order "
            f"wavelets: every coefficient would be padding. Take J_fr <= {largest}."
        )
    return value


def _quality(Q_fr: Any) -> int:
    """Return `Q_fr` as an integer."""
    value = scalar(Q_fr)
    if isinstance(value, tuple):
        if len(value) > 1:
            raise NotImplementedError(
                f"Q_fr must be an integer or 1-tuple, not {Q_fr!r}: there is one layer of wavelets "
                "along log-frequency."
            )
        value = value[0] if value else None
    if not isinstance(value, int | float | np.integer) or isinstance(value, bool):
        raise ParameterError(f"Q_fr must be an integer or 1-tuple, not {Q_fr!r}.")
    if value < 1:
        raise ParameterError(f"Q_fr must be >= 1, not {Q_fr!r}.")
    if value != int(value):
        raise ParameterError(f"Q_fr must be an integer or 1-tuple, not {Q_fr!r}.")
    return int(value)


def _averaging(F: Any, rows: int) -> Any:
    """Return `F` checked: None, 0, "global" or a number of first-order wavelets."""
    if F is None or (isinstance(F, str) and F == "global"):
        return F
    value = number("F", F)
    if value != 0 and value < 1:
        raise ParameterError(
            f"F must be ==0 or >=1 (first-order wavelets), 'global' or None, not {F!r}."
        )
    if value > rows:
        raise ParameterError(
            f"The support F of the low-pass filter cannot exceed input length: F={value:g}, but J "
            f"and Q give (J + 1) Q = {rows} first-order wavelets. Take F <= {rows}."
        )
    return int(value) if value == int(value) else value


# --- paths ---------------------------------------------------------------------------------


def parents(engine: TimeFrequencyScattering, n2: int | None) -> int:
    """Return how many first-order wavelets the wavelet n2 is applied to (None: the first order)."""
    psi1, psi2 = engine.scales()
    return len(psi1) if n2 is None else sum(scale.j < psi2[n2].j for scale in psi1)


def row_stride(engine: TimeFrequencyScattering, n_fr: int) -> int | None:
    """Return first-order wavelets from one kept row to the next; None where one row is kept."""
    if engine.averaging_fr == "global":
        return None
    if engine.averaging_fr == "none":
        return int(2 ** engine.scales_fr()[n_fr].j)
    return int(2**engine.log2_stride_fr)


def kept_rows(engine: TimeFrequencyScattering, count: int, n_fr: int) -> int:
    """Return how many rows are kept of `count` first-order wavelets, in lists and dicts."""
    stride = row_stride(engine, n_fr)
    if stride is None:
        return 1
    if engine.format == "time":
        return -(-count // stride)
    return min(1 + count // stride, padded_rows(engine) // stride)


def drops_order_0(engine: TimeFrequencyScattering) -> bool:
    """Return whether the output leaves out order 0, which has no rows to fill."""
    return engine.format == "joint" and engine.out_type == "array"


def _keys(engine: TimeFrequencyScattering) -> list[tuple[int | None, int | None, int]]:
    """List (n1, n2, n_fr) of all paths of orders 1 and 2, n1 None where it is an axis."""
    keys: list[tuple[int | None, int | None, int]] = []
    filters = range(len(engine.scales_fr()))
    for n2 in (None, *range(len(engine.scales()[1]))):
        count = parents(engine, n2)
        for n_fr in filters:
            if count == 0 or (n2 is None and engine.scales_fr()[n_fr].xi < 0):
                continue  # the first order is real, so both spins are alike
            if engine.format == "joint":
                keys.append((None, n2, n_fr))
            else:
                stride = row_stride(engine, n_fr) or 1
                rows = kept_rows(engine, count, n_fr)
                keys += [(row * stride, n2, n_fr) for row in range(rows)]
    return keys


@lru_cache(maxsize=64)
def path_table(engine: TimeFrequencyScattering) -> PathTable:
    """List the paths by order, then by their keys."""
    psi1 = engine.scales()[0]
    found = {tuple(n for n in path if n is not None): path for path in _keys(engine)}
    second = {key for key, path in found.items() if path[1] is not None}
    ordered = sorted(found, key=lambda key: (key in second, key))
    rows = [] if drops_order_0(engine) else [_labels(engine, None, None, None)]
    rows += [_labels(engine, *found[key]) for key in ordered]
    keys = [*([] if drops_order_0(engine) else [()]), *ordered]
    table = stack(rows)
    if engine.format == "joint":
        return PathTable(table, tuple(keys), _row_labels(engine, psi1))
    return PathTable(table, tuple(keys))


def _labels(
    engine: TimeFrequencyScattering, n1: int | None, n2: int | None, n_fr: int | None
) -> dict[str, Any]:
    """Return the labels of one path."""
    psi1, psi2 = engine.scales()
    # One row for all first-order wavelets is none of them.
    first = psi1[n1] if n1 is not None and engine.averaging_fr != "global" else None
    second = psi2[n2] if n2 is not None else None
    across = engine.scales_fr()[n_fr] if n_fr is not None else None
    order = 0 if across is None else 1 if second is None else 2
    numbers = {"n1": n1 if first else None, "n2": n2, "n_fr": n_fr}
    words = [f"{name}={n}" for name, n in numbers.items() if n is not None]
    of_first = {
        "j1": first.j if first else -1,
        "xi1": first.xi if first else np.nan,
        "sigma1": first.sigma if first else np.nan,
        "q": n1 if first else -1,
        "octave": math.log2(psi1[0].xi / first.xi) if first else np.nan,
    }
    return {
        "order": order,
        **(of_first if engine.format == "time" else {}),
        "j2": second.j if second else -1,
        "xi2": second.xi if second else np.nan,
        "sigma2": second.sigma if second else np.nan,
        "j_fr": across.j if across else -1,
        "xi_fr": across.xi if across else np.nan,
        "sigma_fr": across.sigma if across else np.nan,
        "spin": int(np.sign(across.xi)) if across else 0,
        "label": " ".join([f"S{order}", *words]),
    }


def _row_labels(
    engine: TimeFrequencyScattering, psi1: tuple[Scale, ...]
) -> dict[str, NDArray[Any]]:
    """Label the rows of the joint format's array: the first-order wavelets they are centred on."""
    stride = row_stride(engine, 0) or padded_rows(engine)
    q = np.arange(0, padded_rows(engine), stride)
    there = (q < len(psi1)) & (engine.averaging_fr == "local")
    xi = np.array([psi1[n].xi if ok else np.nan for n, ok in zip(q, there, strict=True)])
    sigma = np.array([psi1[n].sigma if ok else np.nan for n, ok in zip(q, there, strict=True)])
    j = np.array([psi1[n].j if ok else -1 for n, ok in zip(q, there, strict=True)])
    return {"q": q, "octave": np.log2(psi1[0].xi / xi), "j1": j, "xi1": xi, "sigma1": sigma}


@lru_cache(maxsize=64)
def described(engine: TimeFrequencyScattering) -> tuple[dict[str, Any], ...]:
    """Describe each path as lists do, but for the coefficients."""
    table = path_table(engine)
    columns, joint = table.columns, engine.format == "joint"
    psi1, psi2 = engine.scales()
    rows = []
    for i, key in enumerate(table.keys):
        order = int(columns["order"][i])
        numbers, n_fr = key[:-1], key[-1:]
        layers = (psi2,) if joint else (psi1, psi2)
        path = {
            "j": tuple(layer[n].j for layer, n in zip(layers, numbers, strict=False)),
            "n": numbers,
            "j_fr": tuple(engine.scales_fr()[n].j for n in n_fr),
            "n_fr": n_fr,
            "spin": int(columns["spin"][i]),
            "order": order,
        }
        if joint and order:
            path["n1_max"] = parents(engine, numbers[0] if numbers else None)
            path["n1_stride"] = row_stride(engine, n_fr[0]) or path["n1_max"]
        rows.append(path)
    return tuple(rows)


def _numbers(engine: TimeFrequencyScattering, listed: tuple[dict[str, Any], ...]) -> NDArray[Any]:
    """Return (n1, n2) of each path, NaN where absent; in the joint format n1 is a range."""
    if engine.format == "time":
        return np.array([(*path["n"], np.nan, np.nan)[:2] for path in listed], np.float64)
    numbers = np.full((len(listed), 2), np.nan, object)
    for i, path in enumerate(listed):
        if path["order"]:
            numbers[i, 0] = range(0, path["n1_max"], path["n1_stride"])
        if path["n"]:
            numbers[i, 1] = path["n"][0]
    return numbers


# --- filters along log-frequency -----------------------------------------------------------


@lru_cache(maxsize=256)
def padded_rows(engine: TimeFrequencyScattering) -> int:
    """Return the rows that first-order wavelets are extended to, by zeros below.

    Where the average is no longer than the widest wavelet, this is the published length; a longer
    one finds room for itself.
    """
    largest = math.floor(math.log2(engine.window_fr))
    unit = 2 ** max(engine.J_fr, largest)
    scale = engine.window_fr if largest > engine.J_fr else min(engine.window_fr, 2**engine.J_fr)
    length = math.floor((engine.rows_expected + 8 * scale) / unit) * unit
    return int(max(length, -(-len(engine.scales()[0]) // unit) * unit))


@dataclass(frozen=True)
class FrequencyFrame:
    """The filters along log-frequency: what the building functions below share."""

    engine: TimeFrequencyScattering
    dtype: np.dtype[Any]
    backend: Any

    @cached_property
    def N(self) -> int:  # noqa: N802 - the name of the mathematics
        """Rows with those of zeros."""
        return padded_rows(self.engine)

    def psi(self, scale: Scale) -> Band:
        """Return a filter of the bank."""
        if scale.xi == 0:
            return lowpass_1d(self.N, scale.sigma)
        return morlet_1d(self.N, scale.xi, scale.sigma)

    def decimation(self, scale: Scale) -> int:
        """Return log2 of the decimation after a filter."""
        local = self.engine.averaging_fr == "local"
        return min(scale.j, self.engine.log2_stride_fr) if local else scale.j

    def smoothed(self, scale: Scale) -> bool:
        """Return whether moduli are averaged along log-frequency.

        The low-pass of the bank has done it as far as the widest wavelet reaches; published
        coefficients average it no further unless F is a whole octave longer.
        """
        longer = math.floor(math.log2(self.engine.window_fr)) > self.engine.J_fr
        return scale.xi != 0 or longer

    def groups(self, first_order: bool) -> dict[tuple[int, bool], list[int]]:
        """Return the numbers of filters that are decimated and averaged alike."""
        found: dict[tuple[int, bool], list[int]] = {}
        for n, scale in enumerate(self.engine.scales_fr()):
            if scale.xi >= 0 or not first_order:
                found.setdefault((self.decimation(scale), self.smoothed(scale)), []).append(n)
        return found

    @cached_property
    def stages(self) -> dict[tuple[int, ...], Any]:
        """Filters as the backend lays them out, by their numbers."""
        eps = NEGLIGIBLE[self.dtype.name]
        bank = self.engine.scales_fr()
        made: dict[tuple[int, ...], Any] = {}
        for first_order in (True, False):
            for (k, _), some in self.groups(first_order).items():
                if tuple(some) not in made:
                    bands = [trim(self.psi(bank[n]), eps) for n in some]
                    made[tuple(some)] = self.backend.prepare_joint(
                        bands, self.N // 2**k, self.dtype
                    )
        return made

    @cached_property
    def phi(self) -> Band:
        """The low-pass along log-frequency."""
        return lowpass_1d(self.N, SIGMA0 / self.engine.window_fr)

    def kept(self, k: int, smoothed: bool, count: int, n_fr: int) -> tuple[Kept, int]:
        """Return what is kept of moduli at decimation ``2**k`` of `count` rows, and how many."""
        engine = self.engine
        rows = kept_rows(engine, count, n_fr)
        if drops_order_0(engine) and engine.averaging_fr == "local":
            rows = self.N // 2**engine.log2_stride_fr
        if engine.averaging_fr == "global":
            return Mean((slice(0, -(-count // 2**k)),)), 1
        s = engine.log2_stride_fr
        if engine.averaging_fr == "none" or not smoothed:
            return Keep((slice(0, rows),)), rows
        n = self.N // 2**k
        dense = fold_1d(self.phi, n).dense()[: n // 2 + 1]
        significant = np.flatnonzero(dense > NEGLIGIBLE[self.dtype.name] * dense[0])
        factor = dense[: significant[-1] + 1].copy()
        return Lowpass((factor,), (self.N // 2**s,), (slice(0, rows),)), rows

    def across(self, n2s: list[int | None], row: dict[tuple[int, ...], int]) -> tuple[Across, ...]:
        """Return the filters for moduli that the wavelets `n2s` are applied to, all to as many."""
        count = parents(self.engine, n2s[0])
        made = []
        for (k, smoothed), some in self.groups(n2s[0] is None).items():
            average, rows = self.kept(k, smoothed, count, some[0])
            paths = tuple(self._paths(n2, some, rows, row) for n2 in n2s)
            stage = self.stages[tuple(some)]
            made.append(Across(stage, paths, average, rows, self.N, self.N // 2**k))
        return tuple(made)

    def _paths(
        self, n2: int | None, filters: list[int], rows: int, row: dict[tuple[int, ...], int]
    ) -> NDArray[np.intp]:
        middle = () if n2 is None else (n2,)
        if self.engine.format == "joint":
            return np.array([row[(*middle, n)] for n in filters], np.intp)
        stride = row_stride(self.engine, filters[0]) or 1
        return np.array(
            [[row[(i * stride, *middle, n)] for i in range(rows)] for n in filters], np.intp
        )


# --- building a plan -----------------------------------------------------------------------


def _plan(engine: TimeFrequencyScattering, frame: Frame) -> JointPlan:
    """Assemble the tree and the labels."""
    paths = path_table(engine)
    local = engine.averaging == "local"
    s = engine.log2_stride
    windows = len(range(frame.padded // 2**s)[frame.crop(s)[0]]) if local else 1
    start = -(-frame.before // 2**s) * 2**s - frame.before
    ragged = engine.averaging == "none" or (engine.format == "joint" and engine.out_type != "array")
    inner = (next(iter(paths.rows.values())).size,) if engine.format == "joint" else ()
    shape = () if ragged else (len(paths), *inner, windows)
    return JointPlan(
        backend=frame.backend,
        dtype=frame.dtype,
        shape=(frame.N,),
        padded=(frame.padded,),
        before=(frame.before,),
        tree=_tree(engine, frame, paths),
        paths=paths,
        output_shape=shape,
        labelled_shape=shape,
        tail="ragged" if ragged else "decimated",
        windows=((start, 2**s),) if local else (((frame.N - 1) // 2, frame.N),),
    )


def _tree(engine: TimeFrequencyScattering, frame: Frame, paths: PathTable) -> JointTree:
    """Group wavelets by octave: they share parents and decimation."""
    psi1, psi2 = engine.scales()
    across = FrequencyFrame(engine, frame.dtype, frame.backend)
    row = {key: i for i, key in enumerate(paths.keys)}
    lay_out = frame.bank((*psi1, *psi2))
    layers = tuple(
        frame.layer(lay_out, [psi1[n] for n in some], 0, np.array([some], np.intp))
        for some in by_octave(psi1).values()
    )
    finest = None
    if engine.averaging == "none":
        stage = lay_out(psi1, 0, (frame.padded,))
        numbers = np.arange(len(psi1))[None]
        finest = Layer(stage, numbers, (frame.padded,), Keep(frame.crop(0)))
    second = tuple(
        _second(frame, lay_out, across, some, j, row)
        for j, some in by_octave(psi2).items()
        if parents(engine, some[0])
    )
    return JointTree(
        grid=(frame.padded,),
        average=None if drops_order_0(engine) else frame.averages[0],
        layers=layers,
        elements=ELEMENTS,
        finest=finest,
        first=across.across([None], row),
        second=second,
    )


def _second(
    frame: Frame,
    lay_out: LayOut,
    across: FrequencyFrame,
    some: list[int],
    j2: int,
    row: dict[tuple[int, ...], int],
) -> Second:
    """Return wavelets of one octave of the second layer, as the octaves below see them."""
    psi1, psi2 = across.engine.scales()
    scales = [psi2[n] for n in some]
    none = np.zeros((1, len(some)), np.intp)
    below = [frame.layer(lay_out, scales, j1, none) for j1 in by_octave(psi1) if j1 < j2]
    return Second(
        stages=tuple(layer.stage for layer in below),
        parents=parents(across.engine, some[0]),
        wavelets=len(some),
        grid=below[0].grid,
        average=below[0].average,
        across=across.across(list(some), row),
    )
