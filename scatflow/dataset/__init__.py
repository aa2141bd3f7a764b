"""Label and keep: coordinates, the output's template, and the regions that tasks write."""

from scatflow.dataset.coordinates import (
    Coordinate,
    Ruler,
    frequency_units,
    path_coordinates,
    row_coordinates,
)
from scatflow.dataset.shards import UNFINISHED
from scatflow.dataset.states import DONE, FAILED, MISSING, PARTIAL, count, counts_in
from scatflow.dataset.template import (
    DAMAGE,
    Template,
    create,
    differing,
    extend,
    finish,
    inner_chunks,
    metadata_of,
    parsed_metadata,
    relabelled,
    rewrite,
    same_json,
)
from scatflow.dataset.timely import DEADLINE
from scatflow.dataset.write import (
    COEFFICIENTS,
    FRACTION,
    checksum,
    erase_region,
    open_arrays,
    shard_key,
    write_region,
)

__all__ = [
    "COEFFICIENTS",
    "DAMAGE",
    "DEADLINE",
    "DONE",
    "FAILED",
    "FRACTION",
    "MISSING",
    "PARTIAL",
    "UNFINISHED",
    "Coordinate",
    "Ruler",
    "Template",
    "checksum",
    "count",
    "counts_in",
    "create",
    "differing",
    "erase_region",
    "extend",
    "finish",
    "frequency_units",
    "inner_chunks",
    "metadata_of",
    "open_arrays",
    "parsed_metadata",
    "path_coordinates",
    "relabelled",
    "rewrite",
    "row_coordinates",
    "same_json",
    "shard_key",
    "write_region",
]
