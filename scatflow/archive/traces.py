"""Traces of many channels on one grid of time: what the formats of records have in common.

A first pass over the files says what there is; then the samples are written, in pieces of any
order, each channel through a buffer of one chunk.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray

from scatflow.archive.axis import Axis, time_axis
from scatflow.archive.ingest import CHUNK, Ingested, Layout, PathName, Progress
from scatflow.archive.partial import Partial, new_archive
from scatflow.errors import IngestError

TYPES: dict[str, np.dtype[Any]] = {
    "i": np.dtype(np.int32),
    "f": np.dtype(np.float32),
    "d": np.dtype(np.float64),
}
"""Types of samples."""

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
class Channel:
    """What the headers say of one channel."""

    sid: str
    codes: tuple[str, str, str, str]
    rate: Fraction
    start: int
    end: int
    types: set[str] = field(default_factory=set)


class Piece(NamedTuple):
    """Samples of a channel that follow each other."""

    sid: str
    start: int
    samples: NDArray[Any]
    offset: int
    """Of the file, behind them: an interrupted ingest goes on from there."""


def write_traces(
    output: PathName,
    given: Sequence[Path],
    files: Sequence[Path],
    pieces: Callable[[Path], Iterator[Piece]],
    channels: Iterable[Channel],
    *,
    tolerance: float,
    variable: str,
    attrs: Mapping[str, Any],
    source: str,
    meter: Meter,
    overwrite: bool,
    notes: Sequence[str] = (),
) -> Ingested:
    """Write the pieces of all files to one archive, a row for each channel.

    Parameters
    ----------
    output : path
        The archive to make.
    given : sequence of Path
        What was asked for: files and folders.
    files : sequence of Path
        The files, in the order of their times.
    pieces : callable
        Reads a file.
    channels : iterable of Channel
        What a first pass has found.
    tolerance : float
        How far from the grid a piece may begin, in samples.
    variable : str
        Name of the array.
    attrs : mapping
        Of the variable.
    source : str
        What the files are, for the archive's attributes.
    meter : Meter
        Adds up the bytes that were read.
    overwrite : bool
        Replace an archive of that name.
    notes : sequence of str
        What else to tell of the files.

    Raises
    ------
    IngestError
        If rates differ, a piece lies off the grid, pieces contradict each other, or the output
        exists.
    """
    channels = sorted(channels, key=lambda c: c.codes)
    _check_rates(channels)
    grid = Grid(time_axis(min(c.start for c in channels), channels[0].rate), tolerance)
    layout = _layout(channels, grid, variable, attrs, source)
    with new_archive(output, dict.fromkeys([*given, *files]), overwrite=overwrite) as partial:
        array = partial.create(layout)
        writer = Writer(array, layout.fill, [c.sid for c in channels], grid.axis)
        _copy(files, pieces, grid, writer, meter, partial)
        # Known only now: how far pieces lay from the grid.
        array.attrs["time_jitter_samples"] = float(grid.worst)
    told = (*partial.notes, *_missing(channels, writer.written, layout.shape[1]), *notes)
    return Ingested(str(output), variable, layout.dims, layout.shape, str(layout.dtype), told)


def _copy(
    files: Sequence[Path],
    pieces: Callable[[Path], Iterator[Piece]],
    grid: Grid,
    writer: Writer,
    meter: Meter,
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
        for sid, start, samples, offset in pieces(path):
            if offset <= begin:
                continue
            writer.write(sid, grid.sample(start, sid, path), samples, path)
            if partial.due():
                writer.flush()
                jitter = grid.worst.as_integer_ratio()
                counts = writer.counts.tolist()
                partial.mark({"at": [i, offset], "jitter": jitter, "counts": counts})
        begin = 0
    writer.flush()


def check_tolerance(tolerance: float) -> None:
    """Refuse a tolerance that could mean two samples.

    Raises
    ------
    IngestError
        If it is not from 0 to below 0.5.
    """
    if not 0 <= tolerance < 0.5:
        raise IngestError(
            f"A tolerance of {tolerance} samples makes no sense: from 0.5 on a record could be "
            "moved to either of two samples. Take one from 0 to below 0.5."
        )


class Meter:
    """Adds up the bytes done, and reports them now and then."""

    def __init__(self, total: int, on_progress: Progress | None) -> None:
        self.total, self.on_progress = total, on_progress
        self.done = self.reported = 0

    def add(self, count: int) -> None:
        """Add what was read."""
        self.done += count
        due = self.done - self.reported >= REPORT or self.done >= self.total
        if self.on_progress is not None and due:
            self.reported = self.done
            self.on_progress(self.done, self.total)


def _check_rates(channels: Sequence[Channel]) -> None:
    first = channels[0]
    for channel in channels:
        if abs(channel.rate - first.rate) > SAME_RATE * first.rate:
            raise IngestError(
                f"{channel.sid} has {float(channel.rate)} Hz, but {first.sid} "
                f"{float(first.rate)} Hz: one archive has one time axis. Ingest them apart."
            )


class Grid:
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
                f"The record of {sid} at {utc(time)} in {path} lies {float(off):.3f} samples off "
                f"the grid that begins at {utc(int(self.axis.origin))}, and "
                f"{float(self.tolerance):g} is tolerated. Raise the tolerance (below 0.5), or "
                "ingest it by itself."
            )
        self.worst = max(self.worst, off)
        return sample


def _layout(
    channels: Sequence[Channel],
    grid: Grid,
    variable: str,
    attrs: Mapping[str, Any],
    source: str,
) -> Layout:
    types = {kind for channel in channels for kind in channel.types}
    dtype: np.dtype[Any] = np.result_type(*[TYPES[kind] for kind in sorted(types)])
    n = max(round(grid.axis.place(channel.end)) for channel in channels) + 1
    integer = dtype.kind == "i"
    about: dict[str, Any] = {"sampling_rate": float(channels[0].rate)}
    about["time_tolerance_samples"] = float(grid.tolerance)
    if integer:
        about["_FillValue"] = GAP
    codes = [np.array([c.codes[i] for c in channels]) for i in range(4)]
    coords: dict[str, tuple[tuple[str, ...], Any, Mapping[str, Any]]] = {
        "station": (("station",), np.array(_labels(channels)), {"long_name": "station"})
    }
    for name, i in (("network", 0), ("location", 2), ("channel", 3)):
        coords[name] = (("station",), codes[i], {"long_name": f"{name} code"})
    return Layout(
        variable,
        ("station", "time"),
        (len(channels), n),
        (1, min(_chunk(len(channels), dtype.itemsize), n)),
        dtype,
        GAP if integer else np.nan,
        axes={"time": grid.axis},
        coords=coords,
        attrs=about | dict(attrs),
        group_attrs={"source": source},
    )


def _chunk(channels: int, itemsize: int) -> int:
    """Return the samples of one chunk, such that every channel can have one in memory."""
    chunk = CHUNK
    while channels * chunk * itemsize > BUFFERS and chunk > 2**12:
        chunk //= 2
    return chunk


def _labels(channels: Sequence[Channel]) -> list[str]:
    """Return the shortest labels that differ: station codes, or all four codes with dots."""
    stations = [channel.codes[1] for channel in channels]
    if len(set(stations)) == len(stations):
        return stations
    full = [".".join(c.codes) if c.codes[0] or c.codes[3] else c.sid for c in channels]
    return full if len(set(full)) == len(full) else [channel.sid for channel in channels]


class Writer:
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


def _missing(channels: Sequence[Channel], written: Sequence[int], n: int) -> list[str]:
    """Tell which samples are missing."""
    return [
        f"{channel.sid}: {n - count} of {n} samples are missing."
        for channel, count in zip(channels, written, strict=True)
        if count < n
    ]


def utc(time: int) -> str:
    """Return a time, in nanoseconds since 1970, for a message."""
    return f"{np.datetime64(int(time), 'ns')}Z"
