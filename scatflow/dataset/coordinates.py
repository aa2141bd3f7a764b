"""Coordinates of the output: what each path is, and where each window lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

PIECE = 2**16
"""Values of a coordinate that are made and written at a time: a year of windows never is whole."""


@dataclass(frozen=True, eq=False)
class Coordinate:
    """A labelled coordinate whose values are made piece by piece."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    values: Callable[[int, int], NDArray[Any]]
    """``values(a, b)``: entries a to b along the first axis (all of a scalar)."""
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, name: str, dims: Sequence[str], values: Any, attrs: Mapping[str, Any] | None = None
    ) -> Coordinate:
        """Make a coordinate from values that are in memory."""
        array = np.asarray(values)

        def take(a: int, b: int) -> NDArray[Any]:
            return array[a:b] if array.ndim else array

        return cls(name, tuple(dims), array.shape, array.dtype, take, dict(attrs or {}))

    @classmethod
    def along(
        cls,
        name: str,
        size: int,
        at: Callable[[NDArray[np.int64]], NDArray[Any]],
        attrs: Mapping[str, Any] | None = None,
    ) -> Coordinate:
        """Make the coordinate of dimension `name` from a function of the index."""
        dtype = at(np.arange(min(size, 1), dtype=np.int64)).dtype
        return cls(
            name,
            (name,),
            (size,),
            dtype,
            lambda a, b: at(np.arange(a, b, dtype=np.int64)),
            dict(attrs or {}),
        )

    def pieces(self, begin: int = 0) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Yield slices of the first axis from `begin` on, a bounded number long, and the values."""
        if not self.shape:
            yield slice(None), self.values(0, 1)
            return
        for a in range(begin, self.shape[0], PIECE):
            b = min(a + PIECE, self.shape[0])
            yield slice(a, b), self.values(a, b)


@dataclass(frozen=True)
class Ruler:
    """Sampling along one transformed dimension, as far as frequencies are concerned."""

    dim: str
    step: float | None
    """Coordinate units per sample; seconds for time; None without a coordinate."""
    units: str
    """Units of the coordinate; empty where it has none."""
    is_time: bool

    @property
    def measure(self) -> str:
        """Units without a direction: degrees_north and degrees_east are both degrees."""
        return "degree" if self.units.startswith("degree") else self.units


def frequency_units(rulers: Sequence[Ruler]) -> tuple[float, str]:
    """Return the factor and the units that turn cycles/sample into physical frequencies.

    Several dimensions share one frequency axis only where they are sampled alike; otherwise
    frequencies stay in cycles/sample.

    Examples
    --------
    >>> frequency_units([Ruler("time", 0.01, "s", True)])
    (100.0, 'Hz')
    >>> frequency_units([Ruler("depth", 0.5, "m", False)])
    (2.0, 'cycles/m')
    >>> frequency_units([Ruler("y", None, "", False), Ruler("x", None, "", False)])
    (1.0, 'cycles/sample')
    """
    first = rulers[0]
    alike = all(
        r.step is not None
        and first.step is not None
        and r.measure == first.measure
        and abs(abs(r.step) - abs(first.step)) <= 1e-9 * abs(first.step)
        for r in rulers
    )
    if not alike or not first.step:
        return 1.0, "cycles/sample"
    factor = round(1.0 / abs(first.step), 12)
    if first.is_time:
        return factor, "Hz"
    return factor, f"cycles/{first.measure}" if first.units else f"cycles per unit of {first.dim}"


LONG_NAMES = {
    "order": "number of wavelets along the path",
    "j1": "octave of the first wavelet",
    "j2": "octave of the second wavelet",
    "xi1": "centre frequency of the first wavelet",
    "xi2": "centre frequency of the second wavelet",
    "sigma1": "bandwidth of the first wavelet",
    "sigma2": "bandwidth of the second wavelet",
    "theta1": "orientation of the first wavelet",
    "theta2": "orientation of the second wavelet",
    "l": "degree of the solid harmonic",
    "j_fr": "octave of the wavelet along log-frequency",
    "xi_fr": "centre frequency of the wavelet along log-frequency",
    "sigma_fr": "bandwidth of the wavelet along log-frequency",
    "spin": "1: rises with time, -1: falls, 0: neither",
    "q": "number of the first wavelet, from the highest frequency",
    "octave": "octaves of the first wavelet below the highest frequency",
    "label": "path",
}


def path_coordinates(
    columns: Mapping[str, NDArray[Any]], rulers: Sequence[Ruler]
) -> list[Coordinate]:
    """Label the path axis.

    Parameters
    ----------
    columns : mapping
        One array per label; frequencies (``xi*``, ``sigma*``) in cycles/sample, angles
        (``theta*``) in radians.
    rulers : sequence of Ruler
        Sampling of the transformed dimensions.

    Returns
    -------
    list of Coordinate
        With frequencies in the units that :func:`frequency_units` found.
    """
    return _coordinates("path", columns, rulers)


def row_coordinates(
    columns: Mapping[str, NDArray[Any]], rulers: Sequence[Ruler]
) -> list[Coordinate]:
    """Label the axis of rows that paths may have, which the first column names."""
    return _coordinates(next(iter(columns)), columns, rulers) if columns else []


def _coordinates(
    dim: str, columns: Mapping[str, NDArray[Any]], rulers: Sequence[Ruler]
) -> list[Coordinate]:
    factor, units = frequency_units(rulers)
    made = []
    for name, column in columns.items():
        attrs = {"long_name": LONG_NAMES[name]} if name in LONG_NAMES else {}
        values = np.asarray(column)
        if name in ("xi_fr", "sigma_fr"):
            attrs["units"] = "cycles/wavelet"
        elif name.startswith(("xi", "sigma")):
            values = values.astype(np.float64) * factor
            attrs["units"] = units
        elif name.startswith("theta"):
            attrs["units"] = "radian"
        elif values.dtype.kind in "iu":
            values = values.astype(np.int64)
        if name == "label":
            values = _readable(values, columns, factor, units)
        made.append(Coordinate.of(name, (dim,), values, attrs))
    return made


def three_digits(value: float) -> str:
    """Write a number to three digits, as a person would: 2460 and not 2.46e+03.

    Examples
    --------
    >>> three_digits(2461.3), three_digits(30.84), three_digits(0.0242)
    ('2460', '30.8', '0.0242')
    """
    return f"{float(f'{value:.3g}'):g}"


def _readable(
    names: NDArray[Any], columns: Mapping[str, NDArray[Any]], factor: float, units: str
) -> NDArray[Any]:
    """Name each path by its frequencies and angles; solid harmonics keep scale and degree."""
    if "l" in columns:
        return names
    labels = []
    for row, order in enumerate(columns["order"]):
        words = []
        for i in range(1, int(order) + 1):
            if f"xi{i}" not in columns or np.isnan(columns[f"xi{i}"][row]):
                continue  # a row for many wavelets, or an axis of rows
            word = f"{three_digits(columns[f'xi{i}'][row] * factor)} {units}"
            if f"theta{i}" in columns:
                word += f" at {np.degrees(columns[f'theta{i}'][row]):.3g}\N{DEGREE SIGN}"
            words.append(word)
        if "xi_fr" in columns and order:
            words.append(f"{columns['xi_fr'][row]:+.3g} cycles/wavelet")
        labels.append(f"S{order}" + (": " + ", ".join(words) if words else ""))
    return np.array(labels)
