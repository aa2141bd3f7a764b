"""Pictures of result stores: what a run computed, seen at once; and of the engines behind them.

Three doors: :func:`show_engine` draws an engine, :func:`show` a result store, and :func:`browse`
lets zoom into one. A store is opened lazily, its dimensions tell what was transformed, and what is
drawn is a scalogram (signals), what rises and falls (time-frequency scattering), maps (images) or
descriptors (volumes). It is read in pieces of a bounded size, so that a year of windows needs no
more memory than a day.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from scatflow.engines import Engine, engine_from_dict
from scatflow.errors import ParameterError, SourceError
from scatflow.pictures.browser import browse
from scatflow.pictures.canvas import picture_format, require_matplotlib
from scatflow.pictures.results import Results, open_results

if TYPE_CHECKING:
    from scatflow.pictures.spectrogram import Samples

__all__ = ["browse", "show", "show_engine"]


WHAT = ("results", "spectrogram", "filters", "support", "disk", "availability")
"""What can be drawn."""


def show(
    store: str,
    output: str | None = None,
    what: str = "results",
    samples: Callable[[], Samples] | None = None,
) -> list[str]:
    """Draw a result store into a PNG, PDF or SVG file and describe it in a few lines.

    Parameters
    ----------
    store : str
        Path or URL of a store that ``scatflow run`` wrote.
    output : str, optional
        The picture's file. By default the store's own name with ``.png`` in place of ``.zarr``
        (``-filters.png`` for filters), beside a local store and in the current folder for a remote
        one.
    what : {"results", "spectrogram", "filters", "support", "disk", "availability"}
        The coefficients; those of signals below the spectrogram of their samples; the filters of
        the engine that made them; what one of them sees, and the blocks of a run; those of images
        by direction and scale; or which windows hold values.
    samples : callable, optional
        Opens what the coefficients were computed from, which spectrograms are drawn of: for
        instance ``lambda: scatflow.archive.open_source("archive.zarr")``.

    Returns
    -------
    list of str
        Lines to print: what was drawn, what is missing, and for signals the most unusual windows.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    SourceNotFoundError
        There is no Zarr group at `store`.
    SourceError
        The group was not written by scatflow, or holds nothing that can be drawn.
    ParameterError
        `what` is none of these, the transform has no such picture, or the file's ending is none of
        a picture's.
    """
    if what not in WHAT:
        raise ParameterError(f"what={what!r} cannot be drawn; accepted: {', '.join(WHAT)}.")
    require_matplotlib()
    target = default_output(store, what) if output is None else output
    picture_format(target)
    results = open_results(store)
    if what == "spectrogram":
        lines = _show_spectrogram(results, samples, target)
        return [f"{target}: {lines[0]}", *lines[1:]]
    if what in ("filters", "support"):
        return show_engine(_engine(results), what, target, _rate(results))
    if what == "availability":
        from scatflow.pictures.availability import draw_availability as draw
    elif what == "disk":
        from scatflow.pictures.disk import draw_disk as draw
    elif results.spec.get("kind") == "timefrequency":
        from scatflow.pictures.spins import draw_spins as draw
    elif results.ndim == 1:
        from scatflow.pictures.scalogram import draw_scalogram as draw
    elif results.ndim == 2:
        from scatflow.pictures.maps import draw_maps as draw
    else:
        from scatflow.pictures.descriptors import draw_descriptors as draw
    lines = draw(results, target)
    return [f"{target}: {lines[0]}", *lines[1:]]


def show_engine(
    engine: Engine,
    what: str,
    output: str,
    rate: float | None = None,
    tile: int | None = None,
) -> list[str]:
    """Draw an engine's filters or its support into a PNG file and describe them.

    Parameters
    ----------
    engine : Engine
        What a job file or the attributes of a result describe.
    what : {"filters", "support"}
        See :func:`show`.
    output : str
        The picture's file.
    rate : float, optional
        Samples per second; without it axes are in cycles per sample and in samples.
    tile : int, optional
        Samples of a tile that a job has chosen, for its support.

    Returns
    -------
    list of str
        Lines to print.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    ParameterError
        `what` needs a result, the transform cannot be cut into blocks, or the file's ending is none
        of a picture's.
    """
    if what not in ("filters", "support"):
        raise ParameterError(
            f"what={what!r} is a picture of results, but a job has none by itself: give the store "
            "that its [output] names, or draw filters or support."
        )
    require_matplotlib()
    picture_format(output)
    if what == "filters":
        from scatflow.pictures.bank import draw_filters

        lines = draw_filters(engine, rate, output)
    else:
        from scatflow.pictures.support import draw_support

        lines = draw_support(engine, rate, output, tile)
    return [f"{output}: {lines[0]}", *lines[1:]]


def _show_spectrogram(
    results: Results, samples: Callable[[], Samples] | None, target: str
) -> list[str]:
    from scatflow.pictures.spectrogram import draw_spectrogram

    if samples is None:
        raise ParameterError(
            "A spectrogram is drawn of the samples, which a result does not hold: pass samples, a "
            "function that opens their source."
        )
    return draw_spectrogram(results, samples(), target)


def _engine(results: Results) -> Engine:
    """Make the engine that a result's attributes describe."""
    if not results.spec:
        raise SourceError(
            f"{results.store} does not say how it was made: it has no attribute `scatflow_spec`. "
            "Give the job file instead."
        )
    return engine_from_dict(dict(results.spec))


def _rate(results: Results) -> float | None:
    """Work out the samples per second from the centre frequencies of the wavelets in Hz."""
    if results.ndim != 1 or results.frequency_units() != "Hz":
        return None
    own = _engine(results).paths().columns
    for name in ("xi1", "xi2"):  # Of paths that see all rows of log-frequency, the second alone.
        stated = results.column(name).astype(float)
        usable = np.isfinite(stated) & (stated > 0)
        if name in own and usable.any():
            return float(np.median(stated[usable] / own[name][usable]))
    return None


def default_output(store: str, what: str = "results") -> str:
    """Name the picture of a store that was asked for without a name.

    Examples
    --------
    >>> default_output("results/seismic_day.zarr")
    'results/seismic_day.png'
    >>> default_output("s3://bucket/results/day.zarr/")
    'day.png'
    >>> default_output("pipelines/seismic_day.toml", "filters")
    'pipelines/seismic_day-filters.png'
    """
    trimmed = store.rstrip("/")
    if "://" in trimmed:
        trimmed = PurePosixPath(trimmed.split("://", 1)[1]).name
    suffix = "" if what == "results" else f"-{what}"
    return trimmed.removesuffix(".zarr").removesuffix(".toml") + f"{suffix}.png"
