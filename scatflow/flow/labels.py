"""Labels of the output: the source's own coordinates where they still apply, and new ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

import scatflow
from scatflow.archive import Axis
from scatflow.dataset import Coordinate, Ruler, Template, path_coordinates, row_coordinates
from scatflow.flow.layout import frame_dims
from scatflow.flow.work import Work

At = Callable[[NDArray[np.int64]], NDArray[Any]]

NOT_KEPT = {
    "scale_factor",
    "add_offset",
    "_FillValue",
    "missing_value",
    "valid_range",
    "valid_min",
    "valid_max",
    "dtype",
    "axes",
    "sampling_rate",
    "time_tolerance_samples",
    "time_jitter_samples",
    "standard_name",
    "coordinates",
    "grid_mapping",
    "cell_methods",
    "_ARRAY_DIMENSIONS",
}
"""Attributes of the input that say how it is stored or sampled, which the output is not."""


def template(work: Work) -> Template:
    """Describe the whole output of some work: dimensions, labels, attributes."""
    laid = work.layout
    coordinates = [*_kept(work), *_frames(work), *_paths(work), *_rows(work), *_tail(work)]
    attrs = {k: v for k, v in work.source.attrs.items() if k not in NOT_KEPT}
    if laid.plan.tail == "power":  # Each power of the moduli would have units of its own.
        attrs.pop("units", None)
    return Template(
        dims=laid.dims,
        shape=laid.shape,
        dtype=work.dtype,
        shards=laid.shards,
        cut=laid.cut,
        path_axis=laid.path_axis,
        coordinates=coordinates,
        attrs={**attrs, "long_name": "scattering coefficients"},
        dataset_attrs={
            "Conventions": "CF-1.11",
            "source": _source_name(work),
            "history": _history(work),
            "scatflow_spec": json.dumps(work.engine.to_dict()),
            "scatflow_version": scatflow.__version__,
            **_provisional(work),
        },
        fraction=_fraction(work) if work.shares else None,
        windowed=laid.windowed,
    )


def _provisional(work: Work) -> dict[str, str]:
    """Say from which window on coefficients see the reflection at the end of the record, as JSON.

    They are what a record of this length has, and others when it has grown.
    """
    laid = work.layout
    if not laid.seamless:
        return {}
    sizes = dict(zip(laid.dims, laid.shape, strict=True))
    found = {}
    for k, dim in enumerate(laid.transform.dims):
        if laid.by_tile:  # There are no windows.
            continue
        first = laid.settled[k] * laid.tiles[k].width
        value = _windows(work, k, dim, sizes[dim]).values(first, first + 1)[0]
        place = str(value) if value.dtype.kind == "M" else value.item()
        found[dim] = {"index": first, "coordinate": place}
    return {PROVISIONAL: json.dumps(found)}


PROVISIONAL = "provisional_from"


def attrs_meanwhile(stored: Mapping[str, Any], described: Template) -> dict[str, Any]:
    """Return a dataset's attributes while blocks of a longer record are still to be computed.

    They are the template's, but say of no window that it is final which a shorter record did not.
    """
    attrs = dict(described.dataset_attrs)
    try:
        before, after = (_indices(found[PROVISIONAL]) for found in (stored, attrs))
    except (KeyError, TypeError, ValueError):  # There is none, or it is damaged.
        return attrs
    if before.keys() == after.keys() and all(0 <= before[dim] <= after[dim] for dim in after):
        attrs[PROVISIONAL] = stored[PROVISIONAL]
    return attrs


def _indices(told: str) -> dict[str, int]:
    return {dim: int(first["index"]) for dim, first in json.loads(told).items()}


def _fraction(work: Work) -> dict[str, Any]:
    """Describe the shares of valid samples: of how many samples they are."""
    attrs: dict[str, Any] = {
        "long_name": "share of valid samples among those that a window sees",
        "units": "1",
    }
    dims, grid = " and ".join(work.layout.transform.dims), work.layout.grid
    if work.layout.transform.tile is not None and grid is not None and not work.layout.summed:
        comment = (
            f"A window sees all of its tile, {grid.block} samples from a multiple of that on, and "
            f"{grid.halo} to each side of it along {dims}."
        )
        return {**attrs, "comment": comment}
    if work.seen is None:
        return {**attrs, "comment": "A window sees all samples of its signal, image or volume."}
    comment = f"A window sees {work.seen} samples to each side of its centre along {dims}."
    return {**attrs, "samples_to_each_side": work.seen, "comment": comment}


def left_out(work: Work) -> list[str]:
    """Name the source's coordinates that have no place in the output."""
    untouched, new = set(work.layout.untouched), _new_names(work)
    left = []
    for name, coord in work.source.coords.items():
        what = f"coordinate {name}" + (f" along {', '.join(coord.dims)}" if coord.dims else "")
        if not set(coord.dims) <= untouched:
            left.append(f"{what} is left out: it follows a transformed dimension")
        elif name in new:
            left.append(f"{what} is left out: the output has a label of that name")
    return left


def _new_names(work: Work) -> set[str]:
    """Return the names that the output gives to its own variables, dimensions and labels."""
    laid = work.layout
    own = {"path", "scattering", "valid_fraction", "ledger", *laid.dims[len(laid.untouched) :]}
    return own | {*laid.plan.paths.columns, *laid.plan.paths.rows}


def _source_name(work: Work) -> str:
    return f"{work.settings['source']['store']}: {work.source.variable}"


def _history(work: Work) -> str:
    """Say how the output was made. Without the date: its bytes depend on the settings alone."""
    t = work.layout.transform
    made = f"{type(work.engine).__name__} along {', '.join(t.dims)}, boundary {t.boundary}"
    made += "" if t.tile is None else f", tile {t.tile}"
    return f"scatflow {scatflow.__version__}: {made}, from {_source_name(work)}"


def _kept(work: Work) -> Iterator[Coordinate]:
    """Yield the coordinates along untouched dimensions."""
    laid, source = work.layout, work.source
    new = _new_names(work)
    for dim in laid.untouched:
        axis = source.axes.get(dim)
        if axis is not None:
            size = source.shape[source.dims.index(dim)]
            yield Coordinate.along(dim, size, axis.at, _units(axis))
    for name, coord in source.coords.items():
        if set(coord.dims) <= set(laid.untouched) and name not in new:
            yield Coordinate.of(name, coord.dims, coord.values, coord.attrs)


def _units(axis: Axis) -> dict[str, Any]:
    return {} if axis.is_time or not axis.units else {"units": axis.units}


def _frames(work: Work) -> Iterator[Coordinate]:
    """Yield the coordinate of each frame's first sample."""
    laid = work.layout
    names = iter(frame_dims(laid.transform)) if any(laid.framed) else iter(())
    for dim, count, step, framed in zip(
        laid.transform.dims, laid.units, laid.step, laid.framed, strict=True
    ):
        if framed:
            axis = work.source.axes.get(dim)
            attrs = {"dim": dim, "long_name": f"first sample of the frame along {dim}"}
            at = _positions(axis, 0, step)
            yield Coordinate.along(next(names), count, at, {**attrs, **_axis_attrs(axis)})


def _tail(work: Work) -> Iterator[Coordinate]:
    """Yield the coordinates of the axes behind the path axis."""
    laid = work.layout
    sizes = dict(zip(laid.dims, laid.shape, strict=True))
    if laid.plan.tail == "power":
        powers = getattr(work.engine, "integral_powers", ())
        yield Coordinate.of("power", ("power",), np.asarray(powers, np.float64))
    elif laid.plan.tail == "point":
        yield Coordinate.of("point", ("point",), np.arange(sizes["point"]))
    else:
        for k, dim in enumerate(laid.transform.dims):
            yield _windows(work, k, dim, sizes[dim])


def _windows(work: Work, k: int, dim: str, size: int) -> Coordinate:
    """Return where the centres of the averaging windows lie along a transformed dimension."""
    laid, axis = work.layout, work.source.axes.get(dim)
    start, step = (0, laid.tiles[k].stride) if laid.seamless else laid.plan.windows[k]
    attrs = {"long_name": "centre of the averaging window"}
    if not laid.framed[k]:
        at = _positions(axis, start, step)
        return Coordinate.along(dim, size, at, {**attrs, **_axis_attrs(axis)})
    scale, own = 1.0, _axis_attrs(axis)
    if axis is not None:
        # Datetimes have no zero to count from, so their offsets are in seconds.
        scale = float(axis.step) * (1e-9 if axis.is_time else 1.0)
        own = {"units": "s"} if axis.is_time else own
    attrs = {"long_name": "centre of the averaging window, from the frame's first sample"}

    def offset(windows: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray((start + windows * step) * scale, np.float64)

    return Coordinate.along(dim, size, offset, {**attrs, **own})


def _axis_attrs(axis: Axis | None) -> dict[str, Any]:
    return {"units": "samples"} if axis is None else _units(axis)


def _positions(axis: Axis | None, start: int, step: int) -> At:
    """Return the function from window or frame numbers to the coordinate of the input."""

    def at(numbers: NDArray[np.int64]) -> NDArray[Any]:
        samples = start + numbers * step
        return samples if axis is None else axis.at(samples)

    return at


def _paths(work: Work) -> list[Coordinate]:
    rulers = [_ruler(work, dim) for dim in work.layout.transform.dims]
    return path_coordinates(work.layout.plan.paths.columns, rulers)


def _rows(work: Work) -> list[Coordinate]:
    """Label the axis of rows that paths have in the joint format."""
    rulers = [_ruler(work, dim) for dim in work.layout.transform.dims]
    return row_coordinates(work.layout.plan.paths.rows, rulers)


def _ruler(work: Work, dim: str) -> Ruler:
    """Return the sampling along a dimension, in seconds where it is time."""
    axis = work.source.axes.get(dim)
    if axis is None:
        return Ruler(dim, None, "", False)
    rate = axis.rate_hz
    if rate is not None:
        return Ruler(dim, 1.0 / rate, "s", True)
    return Ruler(dim, float(axis.step), axis.units or "", False)
