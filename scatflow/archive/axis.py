"""Regular coordinates as exact affine maps from sample number to time or position."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scatflow.errors import SourceError

NS = 10**9
"""Nanoseconds of one second."""

SECONDS_OF = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), Fraction(1)),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), Fraction(1, 10**3)),
    **dict.fromkeys(("us", "µs", "microsecond", "microseconds"), Fraction(1, 10**6)),
    **dict.fromkeys(("ns", "nanosecond", "nanoseconds"), Fraction(1, NS)),
}
"""Seconds of one unit, by the ways units of time are written."""

ISO = re.compile(r"(?P<time>(?P<year>\d{4})(-\d\d(-\d\d([T ]\d\d(:\d\d(:\d\d(\.\d+)?)?)?)?)?)?)Z?")
"""A time, or its beginning, in UTC."""

EXACT = 2**62
"""Products of integers stay below this in int64 arithmetic; above it Python's integers serve."""

INTEGERS, FLOATS = 2**63 - 1, 2**1000
"""Coordinates that are integers (or nanoseconds) and floats do not lie beyond these."""


@dataclass(frozen=True)
class Axis:
    """A regular coordinate: sample ``k`` lies at ``origin + (first + k) * exact_step``.

    Sums are formed over integers and rounded once, so that a coordinate does not drift: sample k
    of a selection has the very coordinate that it has in the whole record.

    Parameters
    ----------
    origin : int or float
        Coordinate of sample 0 of the whole record: nanoseconds since 1970 (`is_time`), or a
        number in `units`.
    exact_step : Fraction
        From one sample to the next, in nanoseconds (`is_time`) or in `units`; not 0.
    units : str
        Unit of `origin` and `exact_step`; "ns" for time, "" where unknown.
    is_time : bool
        The coordinate is a datetime64[ns].
    first : int
        Sample of the whole record at which this axis begins.
    integer : bool
        The coordinate was stored as integers: :meth:`at` gives int64.
    attrs : mapping
        What else the store says of the coordinate.

    Examples
    --------
    >>> Axis(0.0, Fraction(1, 100), "s").at([0, 1, 8_640_000])
    array([0.00e+00, 1.00e-02, 8.64e+04])
    """

    origin: int | float
    exact_step: Fraction
    units: str = ""
    is_time: bool = False
    first: int = 0
    integer: bool = False
    attrs: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def start(self) -> int | float:
        """Coordinate of sample 0: nanoseconds since 1970 (int) for time, else a float."""
        value = self.at(np.zeros(1, np.int64))[0]
        return int(value.astype(np.int64)) if self.is_time else float(value)

    @property
    def step(self) -> Fraction | float:
        """From one sample to the next: a Fraction of nanoseconds for time, else a float."""
        return self.exact_step if self.is_time else float(self.exact_step)

    @property
    def rate_hz(self) -> float | None:
        """Samples per second; None where the unit is not one of time."""
        seconds = Fraction(1, NS) if self.is_time else SECONDS_OF.get(self.units)
        return None if seconds is None else float(1 / abs(self.exact_step * seconds))

    def at(self, samples: ArrayLike) -> NDArray[Any]:
        """Return the coordinates of samples.

        Parameters
        ----------
        samples : array of int
            Sample numbers; they may lie outside of the record.

        Returns
        -------
        array, same shape
            datetime64[ns], each rounded to the nearest nanosecond by itself; or float64 (int64
            for integer coordinates).
        """
        k = np.asarray(samples)
        if k.dtype.kind not in "iu":
            raise TypeError(f"Sample numbers are integers, not {k.dtype}.")
        k = k.astype(np.int64) + self.first
        if self.is_time:
            ns = np.int64(self.origin) + self._whole(k)
            return ns.astype("datetime64[ns]")
        if self.integer:
            return np.int64(self.origin) + self._whole(k)
        return np.asarray(self.origin + self._real(k), np.float64)

    def _split(self, k: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Split sample numbers by the step's denominator: the whole steps are exact in int64."""
        den = self.exact_step.denominator
        return k // den, k % den

    def _whole(self, k: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return ``k * exact_step``, rounded to the nearest integer (halves upwards)."""
        num, den = self.exact_step.numerator, self.exact_step.denominator
        if 2 * abs(num) * den + den >= EXACT:
            whole = [(2 * num * int(i) + den) // (2 * den) for i in k.reshape(-1)]
            return np.array(whole, np.int64).reshape(k.shape)
        quotient, remainder = self._split(k)
        return quotient * num + (2 * num * remainder + den) // (2 * den)

    def _real(self, k: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return ``k * exact_step`` as floats, rounded once where the integers fit."""
        num, den = self.exact_step.numerator, self.exact_step.denominator
        largest = max(abs(int(k.max())), abs(int(k.min())), 1) if k.size else 1
        if largest * abs(num) < 2**53 and den < 2**53:
            return np.asarray(k * num / den, np.float64)
        if den < 2**53 and (largest // den + 1) * abs(num) < EXACT and abs(num) * den < 2**53:
            quotient, remainder = self._split(k)
            return (quotient * num).astype(np.float64) + remainder * num / den
        return np.asarray(k * float(self.exact_step), np.float64)

    def place(self, value: int | float) -> Fraction:
        """Return the (fractional) sample number at which a coordinate lies, exactly.

        Parameters
        ----------
        value : int or float
            Nanoseconds since 1970 for time, else a number in `units`.
        """
        return (Fraction(value) - Fraction(self.origin)) / self.exact_step - self.first

    def selected(self, start: int) -> Axis:
        """Return the axis of the part of the record that begins at sample `start`."""
        return replace(self, first=self.first + start)

    def every(self, start: int, stride: int) -> Axis:
        """Return the axis of every `stride`-th sample, from sample `start` on.

        Where it begins is rounded (to a nanosecond, for time) unless a record that began there
        would have the same samples; the step is exact in any case.
        """
        first, step = self.first + start, self.exact_step * stride
        if first % stride == 0:
            return replace(self, exact_step=step, first=first // stride)
        begin = self.at([start])[0]
        origin = begin.astype(np.int64).item() if self.is_time else begin.item()
        return replace(self, origin=origin, exact_step=step, first=0)

    def to_dict(self) -> dict[str, Any]:
        """Return what a store's attribute ``axes`` says of this axis: JSON-able and exact.

        Examples
        --------
        >>> Axis(0, Fraction(10**7), "ns", is_time=True).to_dict()
        {'start': '1970-01-01T00:00:00.000000000', 'step': [10000000, 1], 'units': 'ns'}
        """
        entry: dict[str, Any] = {"start": self.start}
        if self.is_time:
            entry["start"] = str(self.at([0])[0])
        elif self.integer:
            entry["start"] = int(self.start)
        entry["step"] = [self.exact_step.numerator, self.exact_step.denominator]
        entry["units"] = self.units
        return entry

    @classmethod
    def from_dict(cls, entry: Any, dim: str, size: int) -> Axis:
        """Rebuild an axis from a store's attribute ``axes``: the inverse of :meth:`to_dict`.

        Raises
        ------
        SourceError
            If the entry is not of that form, or one of its `size` samples lies beyond what its
            numbers can say.
        """
        try:
            num, den = entry["step"]
            step = Fraction(int(num), int(den))
            start, units = entry["start"], str(entry.get("units", ""))
            is_time = isinstance(start, str)
            origin = parse_time(start) if isinstance(start, str) else start
            if not is_time and not math.isfinite(origin):
                raise ValueError("start is not finite")
            if step == 0:
                raise ValueError("step is 0")
        except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise SourceError(
                f'The attribute "axes" says {entry!r} of {dim!r}, which is not a regular axis '
                f'({error}). It should read like {{"start": 0.0, "step": [1, 100], "units": "s"}}.'
            ) from error
        integer = isinstance(origin, int) and not is_time and step.denominator == 1
        axis = cls(origin, step, units, is_time, 0, integer)
        if not axis.holds(size):
            beyond = "leave the years 1678 to 2261 of datetime64[ns]" if is_time else "overflow"
            raise SourceError(
                f'The attribute "axes" says {entry!r} of {dim!r}, so that its {size} samples would '
                f"{beyond}. Write the true start and step, in nanoseconds for times."
            )
        return axis if is_time or integer else replace(axis, origin=float(origin))

    def holds(self, size: int) -> bool:
        """Tell whether so many samples and the step can be computed with."""
        most = INTEGERS if self.is_time or self.integer else FLOATS
        origin, step = Fraction(self.origin), abs(self.exact_step)
        last = origin + (self.first + size - 1) * self.exact_step
        return max(abs(origin), abs(last)) <= most and 1 / FLOATS < step < FLOATS


def time_axis(start_ns: int, rate: Fraction) -> Axis:
    """Return the axis of samples taken `rate` times a second, from `start_ns` (since 1970) on."""
    return Axis(start_ns, Fraction(NS) / rate, "ns", is_time=True)


def parse_time(text: str) -> int:
    """Return an ISO 8601 time in nanoseconds since 1970 (UTC).

    A partial time means its beginning: "2010-09-01" is midnight. A trailing "Z" is accepted,
    other offsets are not.

    Raises
    ------
    ValueError
        If the text is not a time.

    Examples
    --------
    >>> parse_time("1970-01-01T00:00:01Z")
    1000000000
    """
    match = ISO.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not an ISO 8601 time in UTC")
    if not 1678 <= int(match["year"]) <= 2261:
        raise ValueError(f"{text!r} is beyond the years 1678 to 2261 of datetime64[ns]")
    value = np.datetime64(match["time"].replace(" ", "T"), "ns")
    return int(value.astype(np.int64))
