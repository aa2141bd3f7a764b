"""Pure transforms: spec, plan, apply. No files, no cluster, no labels."""

from scatflow.engines.scattering1d import Scattering1D

__all__ = ["Scattering1D"]
