"""Wavelet scattering for archives: distributed, out of core, labelled.

>>> import numpy as np
>>> from scatflow import Scattering1D
>>> S = Scattering1D(J=8, shape=4096, Q=8)
>>> S(np.zeros((3, 4096), np.float32)).shape
(3, 234, 16)
"""

from scatflow.engines import (
    HarmonicScattering3D,
    Scattering1D,
    Scattering2D,
    TimeFrequencyScattering,
)
from scatflow.labelled import open_archive, register, scatter

__version__ = "0.1.0"

__all__ = [
    "HarmonicScattering3D",
    "Scattering1D",
    "Scattering2D",
    "TimeFrequencyScattering",
    "__version__",
    "open_archive",
    "scatter",
]

register()
del register
