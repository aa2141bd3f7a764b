"""MiniSEED (versions 2 and 3) to an archive: one row for each channel, on one grid of time.

Two passes: the headers say what there is; then the records are written, each channel through a
buffer of one chunk. What is held in memory depends on neither the length nor the number of files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from scatflow.archive.ingest import Ingested, PathName, Progress, extra, input_paths
from scatflow.archive.stores import listed
from scatflow.archive.traces import (
    SAME_RATE,
    TYPES,
    Channel,
    Meter,
    Piece,
    check_tolerance,
    utc,
    write_traces,
)
from scatflow.errors import IngestError


@dataclass
class _Survey:
    """What the headers say of all files."""

    channels: dict[str, Channel] = field(default_factory=dict)
    first_time: dict[Path, int] = field(default_factory=dict)
    formats: set[int] = field(default_factory=set)
    skipped: int = 0


def ingest_mseed(
    inputs: Sequence[PathName] | PathName,
    output: PathName,
    *,
    tolerance: float = 0.1,
    variable: str = "waveform",
    attrs: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Ingested:
    """Write miniSEED files to one archive with the dimensions ``station`` and ``time``.

    The time axis spans all records, on the grid of the earliest one. Samples keep their type;
    gaps stay gaps (NaN, or -2147483648 among integers, which is named as ``_FillValue``).
    Records that overlap must agree.

    Parameters
    ----------
    inputs : paths
        Files, and folders in which miniSEED is searched for, by content.
    output : path
        The archive to make.
    tolerance : float
        How far from the grid a record may begin, in samples, below 0.5; it is moved onto the grid.
    variable : str
        Name of the array in the archive.
    attrs : mapping, optional
        Attributes of the variable.
    overwrite : bool
        Replace an archive of that name.
    on_progress : callable, optional
        Is told the bytes done, and of how many (each file is read twice).

    Returns
    -------
    Ingested
        The notes tell what is missing, and which records hold no samples.

    Raises
    ------
    IngestError
        If a file is damaged or no miniSEED, rates differ, a record lies off the grid, records
        contradict each other, or the output exists.
    MissingExtraError
        If pymseed is not installed.
    """
    check_tolerance(tolerance)
    pymseed = extra("pymseed", "miniSEED")
    given = input_paths(inputs)
    files = list(_miniseed_files(given))
    meter = Meter(2 * sum(path.stat().st_size for path in files), on_progress)
    survey = _survey(pymseed, files, meter)

    def pieces(path: Path) -> Iterator[Piece]:
        offset = 0
        for record in _records(pymseed, path, meter, unpack=True):
            offset += record.reclen
            if _has_samples(record):
                yield Piece(record.sourceid, record.starttime, record.np_datasamples, offset)

    integers = all(channel.types == {"i"} for channel in survey.channels.values())
    left_out = f"{survey.skipped} records hold no samples (logs or headers): left out."
    return write_traces(
        output,
        given,
        sorted(files, key=lambda p: (survey.first_time.get(p, 0), p)),
        pieces,
        survey.channels.values(),
        tolerance=tolerance,
        variable=variable,
        attrs={**({"units": "counts"} if integers else {}), **(attrs or {})},
        source=f"miniSEED {' and '.join(str(v) for v in sorted(survey.formats))}",
        meter=meter,
        overwrite=overwrite,
        notes=[left_out] if survey.skipped else [],
    )


# --- files and records -----------------------------------------------------------------------


def is_miniseed(path: Path) -> bool:
    """Tell by its first bytes whether a file holds miniSEED, version 2 or 3."""
    with path.open("rb") as file:
        head = file.read(8)
    if head[:3] == b"MS\x03":
        return True
    digits = head[:6].replace(b" ", b"0").replace(b"\0", b"0")
    return len(head) == 8 and digits.isdigit() and head[6:7] in b"DRQM" and head[7:8] in b" \0"


def _miniseed_files(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the miniSEED files among paths and in folders, sorted, none twice."""
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            if not is_miniseed(path):
                what = "is empty" if path.stat().st_size == 0 else "is no miniSEED"
                raise IngestError(f"{path} {what}: leave it out.")
            found[path] = None
            continue
        inside = [p for p in sorted(path.rglob("*")) if p.is_file() and is_miniseed(p)]
        if not inside:
            raise IngestError(f"There is no miniSEED in the folder {path} or below it.")
        found.update(dict.fromkeys(inside))
    yield from found


def _records(pymseed: Any, path: Path, meter: Meter, *, unpack: bool) -> Iterator[Any]:
    """Yield the records of a file; each is valid until the next one.

    Raises
    ------
    IngestError
        If the file is damaged.
    """
    at = 0
    try:
        with pymseed.MS3Record.from_file(path, unpack_data=unpack) as reader:
            for record in reader:
                length = record.reclen
                if unpack:
                    _check_unpacked(pymseed, record, path, at)
                yield record
                at += length
                meter.add(length)
    except pymseed.MiniSEEDError as error:
        raise IngestError(
            f"{path} is damaged or incomplete at byte {at}: {error}. Fetch it again, or leave it "
            "out."
        ) from error


def _check_unpacked(pymseed: Any, record: Any, path: Path, at: int) -> None:
    """Refuse a record whose samples do not match its own checks: libmseed only logs that."""
    messages = [m for m in map(str, pymseed.get_error_messages()) if "integrity" in m]
    if messages or (_has_samples(record) and record.numsamples != record.samplecnt):
        said = "; ".join(messages) or (
            f"{record.numsamples} of {record.samplecnt} samples could be decoded"
        )
        raise IngestError(
            f"{path} is damaged at byte {at}, in the record of {record.sourceid} at "
            f"{utc(record.starttime)}: {said}. Fetch it again, or leave it out."
        )


def _has_samples(record: Any) -> bool:
    """Tell whether a record holds a piece of a time series rather than a log or only a header."""
    return bool(record.samplecnt > 0 and record.samprate_raw != 0 and record.encoding != 0)


# --- first pass: what there is ---------------------------------------------------------------


def _survey(pymseed: Any, files: Sequence[Path], meter: Meter) -> _Survey:
    survey = _Survey()
    for path in files:
        for record in _records(pymseed, path, meter, unpack=False):
            survey.formats.add(int(record.formatversion))
            if not _has_samples(record):
                survey.skipped += 1
                continue
            start, end = int(record.starttime), int(record.endtime)
            survey.first_time[path] = min(start, survey.first_time.get(path, start))
            channel = survey.channels.get(record.sourceid)
            rate = _rate(record.samprate_raw)
            if channel is None:
                codes = _codes(pymseed, record.sourceid)
                channel = Channel(record.sourceid, codes, rate, start, end)
                survey.channels[record.sourceid] = channel
            elif abs(rate - channel.rate) > SAME_RATE * channel.rate:
                raise IngestError(
                    f"{record.sourceid} has {float(channel.rate)} Hz, but {float(rate)} Hz in "
                    f"{path} from {utc(start)} on: one archive has one sampling rate. Ingest the "
                    "parts by themselves."
                )
            channel.start, channel.end = min(start, channel.start), max(end, channel.end)
            channel.types.add(_sample_type(pymseed, record, path))
    if not survey.channels:
        raise IngestError(
            f"There are no samples in {listed(map(str, files))}: all {survey.skipped} records are "
            "logs or empty."
        )
    return survey


def _rate(raw: float) -> Fraction:
    """Return a rate in Hz from a header, in which negative numbers are periods in seconds."""
    number = Fraction(abs(raw))
    short = number.limit_denominator(10**6)
    # Headers hold ratios of small integers, or floats of them.
    number = short if abs(short - number) <= number / 10**12 else number
    return number if raw > 0 else 1 / number


def _codes(pymseed: Any, sid: str) -> tuple[str, str, str, str]:
    """Return network, station, location and channel of a source identifier."""
    try:
        network, station, location, channel = pymseed.sourceid2nslc(sid)
    except (ValueError, pymseed.PymseedError):
        return "", sid, "", ""  # An identifier of some other scheme names the station.
    return network, station, location, channel


def _sample_type(pymseed: Any, record: Any, path: Path) -> str:
    try:
        code = str(pymseed.util.encoding_sizetype(record.encoding)[1])
    except ValueError:
        code = "?"
    if code not in TYPES:
        raise IngestError(
            f"{record.sourceid} in {path} is encoded as {record.encoding_str()}, which holds no "
            "samples that can be read: leave it out."
        )
    return code
