"""The front door for programs that use ``kymatio.numpy``: NumPy arrays in and out.

>>> import numpy as np
>>> import scatflow.numpy as kn
>>> S = kn.Scattering1D(J=6, shape=1024, Q=8)
>>> S(np.zeros((2, 1024))).shape
(2, 126, 16)
>>> S.max_order = 1
>>> S(np.zeros(1024)).shape
(39, 16)
"""

from __future__ import annotations

from typing import Any

from scatflow.engines.doors import Door, Door1D, Door2D, Door3D, DoorTimeFrequency


class _Numpy(Door):
    library = "numpy"
    backends = ("numpy", "plain", "torch", "cupy")

    def __call__(self, x: Any) -> Any:
        """Transform signals."""
        return self.scattering(x)


class Scattering1D(_Numpy, Door1D):
    """Scattering of signals; parameters as in :class:`scatflow.Scattering1D`."""


class Scattering2D(_Numpy, Door2D):
    """Scattering of images; parameters as in :class:`scatflow.Scattering2D`."""


class HarmonicScattering3D(_Numpy, Door3D):
    """Scattering of volumes; parameters as in :class:`scatflow.HarmonicScattering3D`."""


class TimeFrequencyScattering(_Numpy, DoorTimeFrequency):
    """Joint time-frequency scattering; as in :class:`scatflow.TimeFrequencyScattering`."""


__all__ = [
    "HarmonicScattering3D",
    "Scattering1D",
    "Scattering2D",
    "TimeFrequencyScattering",
]
