"""Read: open stores as lazy labelled sources, and bring other formats into them."""

from scatflow.archive.axis import Axis
from scatflow.archive.coordinates import Coord
from scatflow.archive.ingest import readers
from scatflow.archive.source import Loaded, Source, open_source

__all__ = ["Axis", "Coord", "Loaded", "Source", "open_source", "readers"]
