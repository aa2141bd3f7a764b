"""NumPy arrays on the CPU: fused kernels around the fastest FFT that is installed."""

from __future__ import annotations

from scatflow.backends.plain import average, pad, prepare, spectrum, wavelet_modulus

name = "numpy"
__all__ = ["average", "name", "pad", "prepare", "spectrum", "wavelet_modulus"]
