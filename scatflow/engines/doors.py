"""Engines as objects with Kymatio's manners: what programs written for it set and read.

A door holds an engine, an immutable value, and replaces it where a program assigns a parameter.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any, ClassVar

from scatflow.backends import choose
from scatflow.engines import filters
from scatflow.engines.engine import Engine
from scatflow.engines.scattering1d import Scattering1D
from scatflow.engines.scattering2d import Scattering2D
from scatflow.engines.scattering3d import HarmonicScattering3D
from scatflow.engines.timefrequency import TimeFrequencyScattering, padded_rows
from scatflow.errors import BackendError, InputTypeError


class Parameter:
    """A parameter of the engine, which some programs assign."""

    def __init__(self, settable: bool = False) -> None:
        self.settable = settable

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, door: Any, owner: type) -> Any:
        return self if door is None else getattr(door.engine, self.name)

    def __set__(self, door: Any, value: Any) -> None:
        if not self.settable:
            raise AttributeError(
                f"{self.name} cannot be set: filters depend on it. "
                f"Make another {type(door).__name__}."
            )
        door.engine = dataclasses.replace(door.engine, **{self.name: value})


class Door:
    """What the doors of all transforms share."""

    kind: ClassVar[type[Engine]]
    library: ClassVar[str]
    backends: ClassVar[tuple[str, ...]]
    """Those that take the library's arrays."""
    engine: Any

    backend = Parameter()
    J = Parameter()
    max_order = Parameter(settable=True)

    def __init__(self, *args: Any, **parameters: Any) -> None:
        super().__init__()
        given = inspect.signature(self.kind).bind(*args, **parameters).arguments
        if given.get("backend") is None:
            given["backend"] = self.library
        self.engine = self.kind(**given)
        if self.engine.backend not in self.backends:
            raise BackendError(
                f"backend={self.engine.backend!r} can not be called from scatflow.{self.library}, "
                f"which serves {' and '.join(map(repr, self.backends))}. Leave it out."
            )
        choose.present(self.engine.backend)

    @property
    def shape(self) -> Any:
        """Shape of one signal."""
        return self.engine.shape

    @property
    def frontend_name(self) -> str:
        """The library whose arrays this door takes."""
        return self.library

    def scattering(self, x: Any) -> Any:
        """Transform signals; see :meth:`scatflow.engines.engine.Engine.scattering`."""
        return self.engine.scattering(x)

    def meta(self) -> dict[str, Any]:
        """Describe the paths, in the order of the output's path axis."""
        return dict(self.engine.meta())

    def output_size(self, detail: bool = False) -> Any:
        """Return the length of the output's path axis, or with `detail` that of each order."""
        return self.engine.output_size(detail)

    def __repr__(self) -> str:
        return repr(self.engine)

    def _check_kind(self, x: Any, kind: type, what: str) -> None:
        if not isinstance(x, kind):
            raise InputTypeError(
                f"The input should be a {what}, but it is a {type(x).__module__}."
                f"{type(x).__name__}. Convert it, or call the engine itself "
                f"(scatflow.{type(self).__name__}), which takes either."
            )


class Door1D(Door):
    """What programs read from a :class:`~scatflow.Scattering1D`."""

    kind: ClassVar[type[Engine]] = Scattering1D
    Q = Parameter()
    log2_stride = Parameter()
    out_type = Parameter(settable=True)
    oversampling = Parameter()

    r_psi = math.sqrt(0.5)
    sigma0 = 0.1
    alpha = 5.0

    @property
    def _in_time(self) -> Scattering1D:
        """The transform in time."""
        engine: Scattering1D = self.engine
        return engine

    @property
    def T(self) -> Any:  # noqa: N802 - the name of the mathematics
        """Samples that are averaged over, or would be but for ``T=0``; or "global" as given."""
        return self.engine.T or 2**self.J

    @property
    def log2_T(self) -> int:  # noqa: N802
        """log2 of the averaging scale, rounded down."""
        return math.floor(math.log2(self.engine.window))

    @property
    def stride(self) -> int | None:
        """Samples from one window to the next."""
        return 1 << int(self.log2_stride) if self.engine.averaging == "local" else None

    @property
    def average(self) -> Any:
        """How moduli are kept: "local", "global" or False."""
        return False if self.engine.averaging == "none" else self.engine.averaging

    @property
    def _N_padded(self) -> int:  # noqa: N802
        return filters.padded(self._in_time)[0]

    @property
    def pad_left(self) -> int:
        """Samples padded in front."""
        return filters.padded(self._in_time)[1]

    @property
    def pad_right(self) -> int:
        """Samples padded behind."""
        return self._N_padded - int(self.shape[0]) - self.pad_left

    @property
    def ind_start(self) -> dict[int, int]:
        """Where the signal begins at each decimation ``2**k``."""
        return {k: -(-self.pad_left // 2**k) for k in range(max(self.log2_T, self.J) + 1)}

    @property
    def ind_end(self) -> dict[int, int]:
        """Where the signal ends at each decimation ``2**k``."""
        end = self.pad_left + self.shape[0]
        return {k: -(-end // 2**k) for k in range(max(self.log2_T, self.J) + 1)}

    @property
    def phi_f(self) -> filters.Filter:
        """The low-pass filter, see :func:`scatflow.engines.filters.signals`."""
        return filters.signals(self._in_time)[0]

    @property
    def psi1_f(self) -> list[filters.Filter]:
        """The wavelets of the first order."""
        return filters.signals(self._in_time)[1]

    @property
    def psi2_f(self) -> list[filters.Filter]:
        """The wavelets of the second order."""
        return filters.signals(self._in_time)[2]


class DoorTimeFrequency(Door1D):
    """What programs read from a :class:`~scatflow.TimeFrequencyScattering`."""

    kind = TimeFrequencyScattering
    max_order = Parameter()
    J_fr = Parameter()
    stride_fr = Parameter()
    format = Parameter(settable=True)
    oversampling = 0
    oversampling_fr = 0

    @property
    def _in_time(self) -> Scattering1D:
        engine: Scattering1D = self.engine.in_time
        return dataclasses.replace(engine, shape=self.engine.shape)

    @property
    def Q_fr(self) -> tuple[int]:  # noqa: N802
        """Wavelets along log-frequency per octave."""
        return (self.engine.Q_fr,)

    @property
    def F(self) -> Any:  # noqa: N802
        """First-order wavelets that are averaged over; 0 or "global" as given."""
        return 2**self.J_fr if self.engine.F is None else self.engine.F

    @property
    def log2_F(self) -> int:  # noqa: N802
        """log2 of the averaging scale along log-frequency, rounded down."""
        return math.floor(math.log2(self.engine.window_fr))

    @property
    def average_fr(self) -> Any:
        """How moduli are kept along log-frequency: "local", "global" or False."""
        return False if self.engine.averaging_fr == "none" else self.engine.averaging_fr

    @property
    def _N_padded_fr(self) -> int:  # noqa: N802
        return padded_rows(self.engine)

    @property
    def filters_fr(self) -> tuple[filters.Filter, list[filters.Filter]]:
        """The low-pass and the bank, see :func:`scatflow.engines.filters.rows`."""
        return filters.rows(self.engine)


class _Grid(Door):
    """What doors of images and volumes share."""

    @property
    def M(self) -> int:  # noqa: N802
        """Length of the first axis."""
        return int(self.shape[0])

    @property
    def N(self) -> int:  # noqa: N802
        """Length of the second axis."""
        return int(self.shape[1])


class Door2D(_Grid):
    """What programs read from a :class:`~scatflow.Scattering2D`."""

    kind = Scattering2D
    L = Parameter()
    pre_pad = Parameter()
    out_type = Parameter(settable=True)

    @property
    def _M_padded(self) -> int:  # noqa: N802
        return int(self.engine.plan().padded[0])

    @property
    def _N_padded(self) -> int:  # noqa: N802
        return int(self.engine.plan().padded[1])

    @property
    def phi(self) -> filters.Filter:
        """The low-pass filter, see :func:`scatflow.engines.filters.images`."""
        return filters.images(self.engine)[0]

    @property
    def psi(self) -> list[filters.Filter]:
        """The wavelets."""
        return filters.images(self.engine)[1]


class Door3D(_Grid):
    """What programs read from a :class:`~scatflow.HarmonicScattering3D`."""

    kind = HarmonicScattering3D
    L = Parameter()
    sigma_0 = Parameter()
    rotation_covariant = Parameter()
    points = Parameter()
    method = Parameter(settable=True)
    integral_powers = Parameter(settable=True)

    @property
    def O(self) -> int:  # noqa: N802
        """Length of the third axis."""
        return int(self.shape[2])

    @property
    def filters(self) -> list[Any]:
        """Solid harmonics of each degree, see :func:`scatflow.engines.filters.volumes`."""
        return filters.volumes(self.engine)[0]

    @property
    def gaussian_filters(self) -> Any:
        """Gaussians of each scale."""
        return filters.volumes(self.engine)[1]
