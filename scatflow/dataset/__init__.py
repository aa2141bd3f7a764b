"""Label and keep: coordinates, the output's template, and the regions that tasks write."""

from scatflow.dataset.coordinates import (
    Coordinate,
    Ruler,
    frequency_units,
    path_coordinates,
    row_coordinates,
)
from scatflow.dataset.states import DONE, FAILED, MISSING, count, counts_in
from scatflow.dataset.template import Template, create, finish, inner_chunks
from scatflow.dataset.write import COEFFICIENTS, FRACTION, checksum, open_arrays, write_region

__all__ = [
    "COEFFICIENTS",
    "DONE",
    "FAILED",
    "FRACTION",
    "MISSING",
    "Coordinate",
    "Ruler",
    "Template",
    "checksum",
    "count",
    "counts_in",
    "create",
    "finish",
    "frequency_units",
    "inner_chunks",
    "open_arrays",
    "path_coordinates",
    "row_coordinates",
    "write_region",
]
