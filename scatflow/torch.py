"""The front door for programs that use ``kymatio.torch``: modules that take and give tensors.

They have no parameters and no buffers: filters are made where the input is, in its precision, and
kept by the process. So a module may be moved, copied to several devices (``DataParallel``), saved
and loaded as any other; what Kymatio saved of its filters is skipped.

>>> import torch
>>> import scatflow.torch as kt
>>> S = kt.Scattering2D(J=2, shape=(32, 32), L=4)
>>> x = torch.zeros(3, 32, 32, requires_grad=True)
>>> S(x).sum().backward()
>>> x.grad.shape
torch.Size([3, 32, 32])
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from scatflow.engines.doors import Door, Door1D, Door2D, Door3D, DoorTimeFrequency

FILTERS = re.compile(r"tensor(\d+|_gaussian_filter)")
"""Names of the buffers that Kymatio's modules keep their filters in."""


class _Module(Door, nn.Module):
    library = "torch"

    def forward(self, x: torch.Tensor) -> Any:
        """Transform signals."""
        return self.scattering(x)

    def scattering(self, x: torch.Tensor) -> Any:
        """Transform signals, ``(..., *shape)``, on their device and in their precision."""
        self._no_tensor(x, torch.Tensor, "torch.Tensor")
        return super().scattering(x)

    def extra_repr(self) -> str:
        """Return the parameters."""
        return repr(self.engine).partition("(")[2].removesuffix(")")

    __repr__ = nn.Module.__repr__

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        for key in list(state_dict):
            if key.startswith(prefix) and FILTERS.fullmatch(key.removeprefix(prefix)):
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Scattering1D(_Module, Door1D):
    """Scattering of signals; parameters as in :class:`scatflow.Scattering1D`."""


class Scattering2D(_Module, Door2D):
    """Scattering of images; parameters as in :class:`scatflow.Scattering2D`."""


class HarmonicScattering3D(_Module, Door3D):
    """Scattering of volumes; parameters as in :class:`scatflow.HarmonicScattering3D`."""


class TimeFrequencyScattering(_Module, DoorTimeFrequency):
    """Joint time-frequency scattering; as in :class:`scatflow.TimeFrequencyScattering`."""


__all__ = [
    "HarmonicScattering3D",
    "Scattering1D",
    "Scattering2D",
    "TimeFrequencyScattering",
]
