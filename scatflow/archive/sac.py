"""SAC files to an archive: one row for each channel, on one grid of time.

The format is one header of fixed form and the samples behind it, so it is read here: the libraries
that read it (ObsPy, pysmo) hold whole files in memory and bring a plotting stack along.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scatflow.archive.axis import NS
from scatflow.archive.ingest import CHUNK, Ingested, PathName, Progress, input_paths
from scatflow.archive.regular import simplest
from scatflow.archive.traces import Channel, Meter, Piece, check_tolerance, write_traces
from scatflow.errors import IngestError

HEADER = 632
"""Bytes before the samples: 70 floats, 40 integers, 192 characters."""

FOOTER = 22 * 8
"""Bytes behind the samples, of version 7: some of the floats in double precision."""

VERSIONS = (6, 7)

UNDEFINED = -12345

SERIES = 1
"""Type of files that hold a time series."""

UNITS = {6: "nm", 7: "nm/s", 50: "V", 8: "nm/s2"}
"""Units by the header's kind of dependent variable; others are unknown."""


@dataclass(frozen=True)
class _Header:
    order: str
    codes: tuple[str, str, str, str]
    step: Fraction
    start: int
    samples: int
    units: str

    @property
    def sid(self) -> str:
        return ".".join(self.codes)

    @property
    def end(self) -> int:
        return self.start + round((self.samples - 1) * self.step * NS)


def ingest_sac(
    inputs: Sequence[PathName] | PathName,
    output: PathName,
    *,
    tolerance: float = 0.1,
    variable: str = "waveform",
    attrs: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Ingested:
    """Write SAC files to one archive with the dimensions ``station`` and ``time``.

    Files of one channel continue each other, on the grid of the earliest one; what lies between
    them is NaN. Where they overlap they must agree.

    Parameters
    ----------
    inputs : paths
        Files, and folders in which SAC files are searched for, by content.
    output : path
        The archive to make.
    tolerance : float
        How far from the grid a file may begin, in samples, below 0.5; it is moved onto the grid.
    variable : str
        Name of the array in the archive.
    attrs : mapping, optional
        Attributes of the variable.
    overwrite : bool
        Replace an archive of that name.
    on_progress : callable, optional
        Is told the bytes done, and of how many.

    Raises
    ------
    IngestError
        If a file is damaged, no SAC file or not evenly spaced, rates differ, a file lies off the
        grid, files contradict each other, or the output exists.
    """
    check_tolerance(tolerance)
    given = input_paths(inputs)
    headers = {path: _header(path) for path in _files(given)}
    channels: dict[str, Channel] = {}
    for head in headers.values():
        new = Channel(head.sid, head.codes, 1 / head.step, head.start, head.end)
        channel = channels.setdefault(head.sid, new)
        if channel.rate != new.rate:
            raise IngestError(
                f"{head.sid} has files of {float(channel.rate)} and {float(new.rate)} Hz: one "
                "archive has one sampling rate. Ingest them by themselves."
            )
        channel.start, channel.end = min(channel.start, new.start), max(channel.end, new.end)
        channel.types.add("f")
    meter = Meter(sum(path.stat().st_size for path in headers), on_progress)
    units = {head.units for head in headers.values()}
    known = {"units": units.pop()} if len(units) == 1 and units != {""} else {}
    return write_traces(
        output,
        given,
        sorted(headers, key=lambda path: (headers[path].start, path)),
        lambda path: _pieces(path, headers[path], meter),
        channels.values(),
        tolerance=tolerance,
        variable=variable,
        attrs={**known, **(attrs or {})},
        source="SAC",
        meter=meter,
        overwrite=overwrite,
    )


def _order(path: Path) -> str | None:
    """Return the byte order of a file, if its first bytes are those of SAC."""
    with path.open("rb") as file:
        head = file.read(HEADER)
    for order in "<>":
        if len(head) == HEADER and _integers(head, order)[6] in VERSIONS:
            return order
    return None


def _integers(head: bytes, order: str) -> NDArray[Any]:
    return np.frombuffer(head, f"{order}i4", 40, 280)


def _files(given: Sequence[Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for path in given:
        if not path.is_dir():
            found[path] = None
            continue
        inside = [p for p in sorted(path.rglob("*")) if p.is_file() and _order(p)]
        if not inside:
            raise IngestError(f"There is no SAC file in the folder {path} or below it.")
        found.update(dict.fromkeys(inside))
    return list(found)


def _header(path: Path) -> _Header:
    order = _order(path)
    if order is None:
        raise IngestError(f"{path} is no SAC file of version 6 or 7: leave it out.")
    with path.open("rb") as file:
        head = file.read(HEADER)
    floats, integers = np.frombuffer(head, f"{order}f4", 70), _integers(head, order)
    if integers[15] not in (SERIES, UNDEFINED) or not integers[35]:
        raise IngestError(
            f"{path} holds no evenly spaced time series (IFTYPE {integers[15]}, LEVEN "
            f"{integers[35]}): leave it out, or interpolate it."
        )
    samples, version = int(integers[9]), int(integers[6])
    end = HEADER + 4 * samples
    if samples < 1 or path.stat().st_size < end + (FOOTER if version == 7 else 0):
        raise IngestError(
            f"{path} is cut short: its header announces {samples} samples, and the file has "
            f"{path.stat().st_size} bytes. Fetch it again, or leave it out."
        )
    step, begin = _simple(floats[0]), _simple(floats[5])
    if version == 7:
        with path.open("rb") as file:
            file.seek(end)
            step, begin = map(_simple, np.frombuffer(file.read(16), f"{order}f8"))
    if step <= 0 or UNDEFINED in (float(floats[5]), *integers[:6]):
        raise IngestError(
            f"{path} does not say when it begins, or its step ({float(step)} s): fill in DELTA, B "
            "and NZYEAR to NZMSEC."
        )
    codes = (_text(head, 168), _text(head, 0), _text(head, 24), _text(head, 160))
    start = _reference(integers) + round(begin * NS)
    return _Header(order, codes, step, start, samples, UNITS.get(int(integers[16]), ""))


def _simple(value: Any) -> Fraction:
    """Return the simplest number that is stored as a float is: 1/100 rather than 0.00999999978."""
    exact, slack = Fraction(float(value)), Fraction(float(np.spacing(np.abs(value)))) / 2
    if exact == 0:
        return exact
    nearest = simplest(abs(exact) - slack, abs(exact) + slack)
    return nearest if exact > 0 else -nearest


def _reference(integers: NDArray[Any]) -> int:
    """Return the time to which a header's times refer, in nanoseconds since 1970."""
    year, day, hour, minute, second, milli = (int(n) for n in integers[:6])
    midnight = np.datetime64(f"{year:04d}", "D") + (day - 1)
    seconds = int(midnight.astype("datetime64[s]").astype(np.int64))
    return (seconds + hour * 3600 + minute * 60 + second) * NS + milli * 10**6


def _text(head: bytes, at: int) -> str:
    text = head[280 + 160 + at : 280 + 160 + at + 8].split(b"\0")[0].decode("latin-1").strip()
    return "" if text == str(UNDEFINED) else text


def _pieces(path: Path, head: _Header, meter: Meter) -> Iterator[Piece]:
    """Read a file in pieces of one chunk."""
    meter.add(path.stat().st_size - 4 * head.samples)
    with path.open("rb") as file:
        file.seek(HEADER)
        for at in range(0, head.samples, CHUNK):
            count = min(CHUNK, head.samples - at)
            samples = np.fromfile(file, f"{head.order}f4", count)
            if samples.size < count:
                raise IngestError(f"{path} became shorter while it was read: ingest it again.")
            start = head.start + round(at * head.step * NS)
            yield Piece(head.sid, start, samples, at + count)
            meter.add(4 * count)
