"""Look through a long result: each zoom draws anew, from no more columns than a screen has."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from scatflow.errors import MissingExtraError, SourceError
from scatflow.pictures.canvas import band_edges, spread
from scatflow.pictures.results import PIECE_BYTES, Grid, Results, open_results
from scatflow.pictures.scalogram import Strip, column_edges
from scatflow.pictures.windows import Bands, find_bands, log_positive, read_windows

COLUMNS = 1200  # Of one drawing: about the pixels of a wide plot.
NS_OF_MS = 10**6  # Bokeh counts milliseconds since 1970.


@dataclass(frozen=True, eq=False)
class Browser:
    """What a result holds of order 1, any stretch of which can be drawn."""

    results: Results
    grid: Grid
    bands: Bands
    records: dict[str, dict[str, int]]

    def span(self, x_range: tuple[Any, Any] | None) -> slice:
        """Return the windows that a zoom shows, one at least and all without a zoom."""
        positions = self.grid.positions
        if x_range is None or None in x_range:
            return slice(0, positions.size)
        low, high = sorted(self._moment(x) for x in x_range)
        shown = np.flatnonzero((positions >= low) & (positions <= high))
        if not shown.size:
            nearest = int(np.abs(positions - low).argmin())
            return slice(nearest, nearest + 1)
        return slice(int(shown.min()), int(shown.max()) + 1)

    def _moment(self, x: Any) -> Any:
        if not self.grid.is_time:
            return float(x)
        if isinstance(x, int | float):
            return np.datetime64(round(x * NS_OF_MS), "ns")
        return np.datetime64(x, "ns")

    def strip(self, record: str, span: slice) -> Strip:
        """Read a stretch of a record in pieces: the largest of each column's windows."""
        factor = -(-(span.stop - span.start) // COLUMNS)
        n_paths, itemsize = self.results.data.sizes["path"], self.results.data.dtype.itemsize
        step = factor * max(1, PIECE_BYTES // (n_paths * itemsize * factor))
        parts = []
        for start in range(span.start, span.stop, step):
            stop = min(start + step, span.stop)
            values = read_windows(
                self.results, self.records[record], self.grid, start, stop, self.paths
            )
            rows = values[self.bands.first - self.paths.start]
            parts.append(np.fmax.reduceat(rows, np.arange(0, stop - start, factor), axis=1))
        return Strip(self.grid, span, factor, log_positive(np.concatenate(parts, axis=1)))

    @property
    def paths(self) -> slice:
        """The paths that hold order 1, often a fifth of all."""
        return slice(int(self.bands.first.min()), int(self.bands.first.max()) + 1)

    def draw(self, record: str, x_range: tuple[Any, Any] | None = None) -> Any:
        """Draw what a zoom shows of a record, as an element of HoloViews."""
        import holoviews as hv

        strip = self.strip(record, self.span(x_range))
        edges, values = column_edges(strip, strip.values)
        if self.grid.is_time:  # Days since 1970, for matplotlib.
            edges = np.round(edges * 86_400e9).astype("datetime64[ns]")
        units = self.results.frequency_units()
        x = hv.Dimension(self.grid.dim, unit=self.grid.units or "samples")
        y = hv.Dimension("frequency", unit=units)
        z = hv.Dimension("order 1", unit="log10")
        columns = "each window" if strip.factor == 1 else f"largest of {strip.factor} windows"
        mesh = hv.QuadMesh((edges, band_edges(self.bands.xi1), values), [x, y], z)
        return mesh.opts(
            title=f"{record}  ·  {columns}", clim=spread(values), cmap="viridis", colorbar=True,
            logy=True, responsive=True, height=420, tools=["hover"], active_tools=["xwheel_zoom"],
        )  # fmt: skip


def make_browser(store: str) -> Browser:
    """Open a result for browsing; nothing is read yet but labels."""
    results = open_results(store)
    if len(results.tail_dims) != 1 or results.ndim != 1 or results.row_dim is not None:
        raise SourceError(
            f"{results.store} has no signals over one dimension: only scalograms can be browsed. "
            "Show it without --interactive."
        )
    bands = find_bands(results)
    if not bands.first.size:
        raise SourceError(f"{results.store} holds no path of order 1, so there is none to browse.")
    distinct = np.unique(bands.xi1)
    if distinct.size != bands.xi1.size:
        raise SourceError(
            f"Several paths of order 1 in {results.store} have the same frequency: only results of "
            "Scattering1D can be browsed. Show it without --interactive."
        )
    records = {name or "record": where for name, where in results.records()}
    return Browser(results, results.grid(results.tail_dims[0]), bands, records)


def browse(store: str) -> Any:
    """Return order 1 of a result as a plot that reads and draws anew at each zoom.

    In a notebook it is what a cell ends with; ``scatflow show STORE --interactive`` serves it.

    Parameters
    ----------
    store : str
        Path or URL of a store that ``scatflow run`` wrote.

    Returns
    -------
    holoviews.DynamicMap
        With a selector of records.

    Raises
    ------
    MissingExtraError
        HoloViews is not installed.
    SourceError
        The store does not hold coefficients of signals.
    """
    if find_spec("holoviews") is None:
        raise MissingExtraError(
            "holoviews is not installed, so nothing can be browsed. "
            'Install it with: pip install "scatflow[browse]"'
        )
    browser = make_browser(store)
    import holoviews as hv

    hv.extension("bokeh")
    plot = hv.DynamicMap(browser.draw, kdims=["record"], streams=[hv.streams.RangeX()])
    return plot.redim.values(record=list(browser.records))


def serve(store: str) -> None:
    """Serve :func:`browse` on this machine, until interrupted; the address is printed."""
    plot = browse(store)
    import panel

    panel.serve(
        panel.panel(plot, sizing_mode="stretch_width"),
        address="127.0.0.1",
        title=f"scatflow: {store}",
        show=False,
    )
