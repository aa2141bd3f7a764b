"""Wavelet scattering for archives: distributed, out of core, labelled."""

__version__ = "0.1.0"
