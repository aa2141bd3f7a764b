"""The front door for programs that say ``from kymatio import Scattering1D``.

There the library is named by a parameter, `frontend`; what comes back is the object of
:mod:`scatflow.numpy` (unless told otherwise), :mod:`scatflow.torch` or :mod:`scatflow.sklearn`.

>>> from scatflow.kymatio import Scattering1D
>>> type(Scattering1D(J=6, shape=1024, Q=8)).__module__
'scatflow.numpy'
>>> type(Scattering1D(J=6, shape=1024, Q=8, frontend="sklearn")).__module__
'scatflow.sklearn'
"""

from __future__ import annotations

import importlib
from typing import Any

from scatflow.errors import ParameterError

FRONTENDS = ("numpy", "torch", "sklearn")
"""Libraries with a front door of their own."""


def Scattering1D(*args: Any, frontend: str = "numpy", **parameters: Any) -> Any:  # noqa: N802
    """Make the scattering of signals that `frontend` has, see :class:`scatflow.Scattering1D`."""
    return _front_door(frontend).Scattering1D(*args, **parameters)


def Scattering2D(*args: Any, frontend: str = "numpy", **parameters: Any) -> Any:  # noqa: N802
    """Make the scattering of images that `frontend` has, see :class:`scatflow.Scattering2D`."""
    return _front_door(frontend).Scattering2D(*args, **parameters)


def HarmonicScattering3D(*args: Any, frontend: str = "numpy", **parameters: Any) -> Any:  # noqa: N802
    """Make that of volumes, see :class:`scatflow.HarmonicScattering3D`."""
    return _front_door(frontend).HarmonicScattering3D(*args, **parameters)


def TimeFrequencyScattering(  # noqa: N802
    *args: Any, frontend: str = "numpy", **parameters: Any
) -> Any:
    """Make the joint one, see :class:`scatflow.TimeFrequencyScattering`."""
    return _front_door(frontend).TimeFrequencyScattering(*args, **parameters)


def _front_door(frontend: str) -> Any:
    name = str(frontend).lower()
    if name not in FRONTENDS:
        raise ParameterError(
            f"frontend={frontend!r} is not valid: it must be one of "
            f"{', '.join(map(repr, FRONTENDS))}. Arrays of other libraries go through the engines "
            "themselves (from scatflow import ...)."
        )
    return importlib.import_module(f"scatflow.{name}")


__all__ = [
    "HarmonicScattering3D",
    "Scattering1D",
    "Scattering2D",
    "TimeFrequencyScattering",
]
