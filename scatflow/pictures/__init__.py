"""Pictures of result stores: what a run computed, seen at once.

One door, :func:`show`: it opens a result store lazily, decides from its dimensions what was
transformed, and draws a scalogram (signals), what rises and falls (time-frequency scattering), maps
(images) or descriptors (volumes). A store is read in pieces of a bounded size, so that a year of
windows needs no more memory than a day.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from scatflow.pictures.canvas import require_matplotlib
from scatflow.pictures.results import open_results

__all__ = ["show"]


def show(store: str, output: str | None = None) -> list[str]:
    """Draw a result store into a PNG file and describe it in a few lines.

    Parameters
    ----------
    store : str
        Path or URL of a store that ``scatflow run`` wrote.
    output : str, optional
        The picture's file. By default the store's own name with ``.png`` in place of ``.zarr``,
        beside a local store and in the current folder for a remote one.

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
    """
    require_matplotlib()
    results = open_results(store)
    target = default_output(store) if output is None else output
    if results.spec.get("kind") == "timefrequency":
        from scatflow.pictures.spins import draw_spins

        lines = draw_spins(results, target)
    elif results.ndim == 1:
        from scatflow.pictures.scalogram import draw_scalogram

        lines = draw_scalogram(results, target)
    elif results.ndim == 2:
        from scatflow.pictures.maps import draw_maps

        lines = draw_maps(results, target)
    else:
        from scatflow.pictures.descriptors import draw_descriptors

        lines = draw_descriptors(results, target)
    return [f"{target}: {lines[0]}", *lines[1:]]


def default_output(store: str) -> str:
    """Name the picture of a store that was asked for without a name.

    Examples
    --------
    >>> default_output("results/seismic_day.zarr")
    'results/seismic_day.png'
    >>> default_output("s3://bucket/results/day.zarr/")
    'day.png'
    """
    trimmed = store.rstrip("/")
    if "://" in trimmed:
        trimmed = PurePosixPath(trimmed.split("://", 1)[1]).name
    return trimmed.removesuffix(".zarr") + ".png"
