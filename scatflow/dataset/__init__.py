"""Label and keep: coordinates, the output's template, and the regions that tasks write."""

from scatflow.dataset.coordinates import Coordinate, Ruler, frequency_units, path_coordinates
from scatflow.dataset.template import Template, create, finish, inner_chunks, stored_bytes
from scatflow.dataset.write import open_coefficients, write_region

__all__ = [
    "Coordinate",
    "Ruler",
    "Template",
    "create",
    "finish",
    "frequency_units",
    "inner_chunks",
    "open_coefficients",
    "path_coordinates",
    "stored_bytes",
    "write_region",
]
