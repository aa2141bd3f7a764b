"""MiniSEED (versions 2 and 3) to an archive: one row for each channel, on one grid of time.

Two passes: the headers say what there is; then the records are written, each channel through a
buffer of one chunk. What is held in memory depends on neither the length nor the number of files.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from scatflow.archive.axis import Axis, time_axis
from scatflow.archive.ingest import (
    CHUNK,
    Ingested,
    Layout,
    PathName,
    Progress,
    extra,
    input_paths,
)
from scatflow.archive.partial import Partial, new_archive
from scatflow.archive.stores import listed
from scatflow.errors import IngestError

TYPES: dict[str, np.dtype[Any]] = {
    "i": np.dtype(np.int32),
    "f": np.dtype(np.float32),
    "d": np.dtype(np.float64),
}
"""Types of miniSEED's samples."""

GAP = int(np.iinfo(np.int32).min)
"""Integer that stands for a missing sample: no digitizer gives it."""

SAME_RATE = Fraction(1, 10**6)
"""Rates that differ by less than this part are one rate, written with fewer digits."""

BUFFERS = 64 * 2**20
"""Bytes of the buffers of all channels: with very many of them, chunks become shorter."""

SPARE = 8
"""Buffers beyond one for each channel, for records that come late."""

REPORT = 2**20
"""Bytes between reports of progress."""


@dataclass
class _Channel:
    """What the headers say of one channel."""

    sid: str
    codes: tuple[str, str, str, str]
    rate: Fraction
    start: int
    end: int
    types: set[str] = field(default_factory=set)


@dataclass
class _Survey:
    """What the headers say of all files."""

    channels: dict[str, _Channel] = field(default_factory=dict)
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
    if not 0 <= tolerance < 0.5:
        raise IngestError(
            f"A tolerance of {tolerance} samples makes no sense: from 0.5 on a record could be "
            "moved to either of two samples. Take one from 0 to below 0.5."
        )
    pymseed = extra("pymseed", "miniSEED")
    given = input_paths(inputs)
    files = list(_miniseed_files(given))
    meter = _Meter(2 * sum(path.stat().st_size for path in files), on_progress)
    survey = _survey(pymseed, files, meter)
    channels = sorted(survey.channels.values(), key=lambda c: c.codes)
    _check_rates(channels)
    grid = _Grid(time_axis(min(c.start for c in channels), channels[0].rate), tolerance)
    layout = _layout(channels, grid, survey, variable, attrs)
    with new_archive(output, dict.fromkeys([*given, *files]), overwrite=overwrite) as partial:
        array = partial.create(layout)
        writer = _Writer(array, layout.fill, [c.sid for c in channels], grid.axis)
        in_time = sorted(files, key=lambda p: (survey.first_time.get(p, 0), p))
        _copy(pymseed, in_time, grid, writer, meter, partial)
        # Known only now: how far records lay from the grid.
        array.attrs["time_jitter_samples"] = float(grid.worst)
    notes = (*partial.notes, *_notes(channels, writer.written, layout.shape[1], survey))
    return Ingested(str(output), variable, layout.dims, layout.shape, str(layout.dtype), notes)


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


class _Meter:
    """Adds up the bytes done, and reports them now and then."""

    def __init__(self, total: int, on_progress: Progress | None) -> None:
        self.total, self.on_progress = total, on_progress
        self.done = self.reported = 0

    def add(self, count: int) -> None:
        self.done += count
        due = self.done - self.reported >= REPORT or self.done >= self.total
        if self.on_progress is not None and due:
            self.reported = self.done
            self.on_progress(self.done, self.total)


def _records(pymseed: Any, path: Path, meter: _Meter, *, unpack: bool) -> Iterator[Any]:
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
            f"{_utc(record.starttime)}: {said}. Fetch it again, or leave it out."
        )


def _has_samples(record: Any) -> bool:
    """Tell whether a record holds a piece of a time series rather than a log or only a header."""
    return bool(record.samplecnt > 0 and record.samprate_raw != 0 and record.encoding != 0)


# --- first pass: what there is ---------------------------------------------------------------


def _survey(pymseed: Any, files: Sequence[Path], meter: _Meter) -> _Survey:
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
                channel = _Channel(record.sourceid, codes, rate, start, end)
                survey.channels[record.sourceid] = channel
            elif abs(rate - channel.rate) > SAME_RATE * channel.rate:
                raise IngestError(
                    f"{record.sourceid} has {float(channel.rate)} Hz, but {float(rate)} Hz in "
                    f"{path} from {_utc(start)} on: one archive has one sampling rate. Ingest the "
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


def _check_rates(channels: Sequence[_Channel]) -> None:
    first = channels[0]
    for channel in channels:
        if abs(channel.rate - first.rate) > SAME_RATE * first.rate:
            raise IngestError(
                f"{channel.sid} has {float(channel.rate)} Hz, but {first.sid} "
                f"{float(first.rate)} Hz: one archive has one time axis. Ingest them apart."
            )


class _Grid:
    """The samples' times: the earliest record begins at sample 0."""

    def __init__(self, axis: Axis, tolerance: float) -> None:
        self.axis, self.tolerance, self.worst = axis, Fraction(tolerance), Fraction(0)

    def sample(self, time: int, sid: str, path: Path) -> int:
        """Return the sample at which a record begins.

        Raises
        ------
        IngestError
            If it begins between two samples.
        """
        place = self.axis.place(time)
        sample = round(place)
        # Times are whole nanoseconds: a sample's own time is off by up to half of one.
        off = max(abs(place - sample) - Fraction(1, 2) / self.axis.exact_step, Fraction(0))
        if off > self.tolerance:
            raise IngestError(
                f"The record of {sid} at {_utc(time)} in {path} lies {float(off):.3f} samples off "
                f"the grid that begins at {_utc(int(self.axis.origin))}, and "
                f"{float(self.tolerance):g} is tolerated. Raise the tolerance (below 0.5), or "
                "ingest it by itself."
            )
        self.worst = max(self.worst, off)
        return sample


def _layout(
    channels: Sequence[_Channel],
    grid: _Grid,
    survey: _Survey,
    variable: str,
    attrs: Mapping[str, Any] | None,
) -> Layout:
    types = {kind for channel in channels for kind in channel.types}
    dtype: np.dtype[Any] = np.result_type(*[TYPES[kind] for kind in sorted(types)])
    n = max(round(grid.axis.place(channel.end)) for channel in channels) + 1
    integer = dtype.kind == "i"
    about: dict[str, Any] = {"units": "counts"} if types == {"i"} else {}
    about["sampling_rate"] = float(channels[0].rate)
    about["time_tolerance_samples"] = float(grid.tolerance)
    if integer:
        about["_FillValue"] = GAP
    codes = [np.array([c.codes[i] for c in channels]) for i in range(4)]
    coords: dict[str, tuple[tuple[str, ...], Any, Mapping[str, Any]]] = {
        "station": (("station",), np.array(_labels(channels)), {"long_name": "station"})
    }
    for name, i in (("network", 0), ("location", 2), ("channel", 3)):
        coords[name] = (("station",), codes[i], {"long_name": f"{name} code"})
    versions = " and ".join(str(v) for v in sorted(survey.formats))
    return Layout(
        variable,
        ("station", "time"),
        (len(channels), n),
        (1, min(_chunk(len(channels), dtype.itemsize), n)),
        dtype,
        GAP if integer else np.nan,
        axes={"time": grid.axis},
        coords=coords,
        attrs=about | dict(attrs or {}),
        group_attrs={"source": f"miniSEED {versions}"},
    )


def _chunk(channels: int, itemsize: int) -> int:
    """Return the samples of one chunk, such that every channel can have one in memory."""
    chunk = CHUNK
    while channels * chunk * itemsize > BUFFERS and chunk > 2**12:
        chunk //= 2
    return chunk


def _labels(channels: Sequence[_Channel]) -> list[str]:
    """Return the shortest labels that differ: station codes, or all four codes with dots."""
    stations = [channel.codes[1] for channel in channels]
    if len(set(stations)) == len(stations):
        return stations
    full = [".".join(c.codes) if c.codes[0] or c.codes[3] else c.sid for c in channels]
    return full if len(set(full)) == len(full) else [channel.sid for channel in channels]


# --- second pass: the samples ----------------------------------------------------------------


def _copy(
    pymseed: Any,
    files: Sequence[Path],
    grid: _Grid,
    writer: _Writer,
    meter: _Meter,
    partial: Partial,
) -> None:
    """Write the samples of all files, from where an interrupted ingest stood."""
    first, begin = 0, 0
    if partial.done is not None:
        first, begin = partial.done["at"]
        grid.worst = Fraction(*partial.done["jitter"])
        writer.resume(partial.done["counts"])
    for path in files[:first]:
        meter.add(path.stat().st_size)
    for i, path in enumerate(files[first:], first):
        offset = 0
        for record in _records(pymseed, path, meter, unpack=True):
            offset += record.reclen
            if offset <= begin or not _has_samples(record):
                continue
            where = grid.sample(record.starttime, record.sourceid, path)
            writer.write(record.sourceid, where, record.np_datasamples, path)
            if partial.due():
                writer.flush()
                jitter = grid.worst.as_integer_ratio()
                counts = writer.counts.tolist()
                partial.mark({"at": [i, offset], "jitter": jitter, "counts": counts})
        begin = 0
    writer.flush()


class _Writer:
    """Writes pieces of rows, in any order, through buffers of one chunk each."""

    def __init__(
        self, array: zarr.Array[Any], fill: float, names: Sequence[str], axis: Axis
    ) -> None:
        self.array, self.fill, self.axis = array, fill, axis
        self.rows = {name: i for i, name in enumerate(names)}
        self.chunk = array.chunks[1]
        self.counts = np.zeros((array.shape[0], -(-array.shape[1] // self.chunk)), np.int32)
        """Samples that each chunk holds."""
        self.buffers: OrderedDict[tuple[int, int], NDArray[Any]] = OrderedDict()
        self.unsaved: set[tuple[int, int]] = set()
        self.resumed = False

    @property
    def written(self) -> list[int]:
        """Samples of each row."""
        return [int(n) for n in self.counts.sum(axis=1, dtype=np.int64)]

    def resume(self, counts: Sequence[Sequence[int]]) -> None:
        """Go on with what the array holds, of which `counts` tells at least a part."""
        self.counts[...] = counts
        self.resumed = True

    def write(self, name: str, start: int, samples: NDArray[Any], path: Path) -> None:
        """Write the samples of one record.

        Raises
        ------
        IngestError
            If other samples have been written there.
        """
        row, at = self.rows[name], 0
        while at < samples.size:
            index, offset = divmod(start + at, self.chunk)
            count = min(samples.size - at, self.chunk - offset)
            there = self._buffer(row, index)[offset : offset + count]
            new = samples[at : at + count].astype(there.dtype)
            missing_there, missing_new = self._missing(there), self._missing(new)
            conflict = ~missing_there & ~missing_new & (there != new)
            if conflict.any():
                self._refuse(name, start + at + int(conflict.argmax()), path)
            fresh = missing_there & ~missing_new
            np.copyto(there, new, where=fresh)
            self.counts[row, index] += np.count_nonzero(fresh)
            self.unsaved.add((row, index))
            at += count

    def _missing(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        return np.asarray(values == self.fill if values.dtype.kind == "i" else np.isnan(values))

    def _refuse(self, name: str, sample: int, path: Path) -> None:
        time = self.axis.at([sample])[0]
        raise IngestError(
            f"Two records of {name} contradict each other at {time}: {path} holds "
            "another sample than was read before. Leave one of the files out."
        )

    def _buffer(self, row: int, index: int) -> NDArray[Any]:
        key = (row, index)
        if key not in self.buffers:
            if len(self.buffers) >= len(self.rows) + SPARE:
                self._save(*self.buffers.popitem(last=False))
            part = self._part(index)
            if self.resumed or self.counts[key]:
                # More may be there than an interrupted ingest has noted: it is written again.
                there = self.buffers[key] = np.array(self.array[row, part])
                self.counts[key] = np.count_nonzero(~self._missing(there))
            else:
                self.buffers[key] = np.full(part.stop - part.start, self.fill, self.array.dtype)
        self.buffers.move_to_end(key)
        return self.buffers[key]

    def _part(self, index: int) -> slice:
        return slice(index * self.chunk, min((index + 1) * self.chunk, self.array.shape[1]))

    def _save(self, key: tuple[int, int], values: NDArray[Any]) -> None:
        if key in self.unsaved:
            row, index = key
            self.array[row, self._part(index)] = values
            self.unsaved.remove(key)

    def flush(self) -> None:
        """Write what is only held so far."""
        for key, values in self.buffers.items():
            self._save(key, values)


def _notes(
    channels: Sequence[_Channel], written: Sequence[int], n: int, survey: _Survey
) -> tuple[str, ...]:
    notes = []
    for channel, count in zip(channels, written, strict=True):
        if count < n:
            notes.append(f"{channel.sid}: {n - count} of {n} samples are missing.")
    if survey.skipped:
        notes.append(f"{survey.skipped} records hold no samples (logs or headers): left out.")
    return tuple(notes)


def _utc(time: int) -> str:
    return f"{np.datetime64(int(time), 'ns')}Z"
