"""The front door for programs that use ``kymatio.torch``: modules that take and give tensors.

They have no parameters and no buffers: filters are made where the input is, in its precision, and
kept by the process. So a module may be moved, copied to several devices (``DataParallel``), saved
and loaded as any other; what Kymatio saved of its filters is skipped.

With ``checkpoint=True`` derivatives of long signals take little memory: moduli are computed again
instead of being kept.

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
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from scatflow.engines.doors import Door, Door1D, Door2D, Door3D, DoorTimeFrequency
from scatflow.engines.engine import flag
from scatflow.errors import InputTypeError

FILTERS = re.compile(r"tensor(\d+|_gaussian_filter)")
"""Names of the buffers that Kymatio's modules keep their filters in."""


class _Module(Door, nn.Module):
    """A module around an engine.

    With ``checkpoint=True``, which can be assigned, too, autograd does not keep the moduli of all
    paths until the derivative is asked for but computes them again there, a few first-order paths
    and all below them at a time: the same derivatives, first and second, in less memory
    (:meth:`saved_bytes` states what is kept), in up to twice the time.
    """

    library = "torch"
    backends = ("torch", "cupy")

    def __init__(self, *args: Any, checkpoint: bool = False, **parameters: Any) -> None:
        super().__init__(*args, **parameters)
        self.checkpoint = checkpoint

    @property
    def checkpoint(self) -> bool:
        """Whether derivatives compute moduli again instead of keeping them."""
        return self._checkpoint

    @checkpoint.setter
    def checkpoint(self, value: bool) -> None:
        self._checkpoint = flag("checkpoint", value)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: torch.Tensor) -> Any:
        """Transform signals; compilers go around it, since they would break it into many graphs."""
        return self.scattering(x)

    def scattering(self, x: torch.Tensor) -> Any:
        """Transform signals, ``(..., *shape)``, on their device and in their precision."""
        self._check_kind(x, torch.Tensor, "torch.Tensor")
        if torch._C._get_tracing_state() is not None:
            raise InputTypeError(
                "torch.jit.trace cannot record a transform: filters are made for the shape of the "
                "input, which it hides. Use torch.export or torch.compile."
            )
        return self.engine._scattered(x, recompute=self.checkpoint)

    def saved_bytes(
        self, shape: int | Sequence[int] | None = None, dtype: torch.dtype = torch.float32
    ) -> int:
        """Return the bytes that autograd keeps from a transform until its derivative is asked for.

        Nothing is computed: the transform is recorded on torch's device `meta`, whose tensors have
        shapes alone.

        Parameters
        ----------
        shape : sequence of int, optional
            The input, batch axes included; by default one signal of the module's shape.
        dtype : torch.dtype
            float32 or float64.

        Returns
        -------
        int
            Bytes, without the input and the filters, which are there in any case.
        """
        if shape is None:
            shape = self.engine.plan().shape
        given = (shape,) if isinstance(shape, int) else tuple(shape)
        x = torch.empty(given, dtype=dtype, device="meta", requires_grad=True)
        first, again = self._saved(x), self._saved(x)
        return sum(again[one].nbytes() for one in again.keys() - first.keys())

    def _saved(self, x: torch.Tensor) -> dict[int, torch.UntypedStorage]:
        """Return the storages that autograd keeps from a transform, by their addresses."""
        kept: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage
            return tensor

        with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
            self(x)
        return kept

    def extra_repr(self) -> str:
        """Return the parameters."""
        parameters = repr(self.engine).partition("(")[2].removesuffix(")")
        return f"{parameters}, checkpoint=True" if self.checkpoint else parameters

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
