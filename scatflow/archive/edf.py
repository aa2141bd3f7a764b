"""EDF and BDF recordings to an archive, in physical units."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scatflow.archive.axis import Axis, time_axis
from scatflow.archive.files import input_files
from scatflow.archive.ingest import SLAB, Ingested, PathName, Progress, extra
from scatflow.archive.stack import Box, Head, write_stack
from scatflow.archive.stores import listed
from scatflow.errors import IngestError

ANNOTATIONS = ("EDF Annotations", "BDF Annotations")
"""Labels of signals that hold text."""


@dataclass(frozen=True)
class _Signal:
    label: str
    units: str
    first: int
    count: int
    """Samples of a data record, which lie behind the first one."""
    gain: float
    offset: float


@dataclass(frozen=True)
class _Recording:
    """What the header of a file says."""

    path: Path
    begin: int
    records: int
    record: int
    """Samples of one data record, of all signals."""
    width: int
    """Bytes of a sample."""
    seconds: Fraction
    start: int | None
    """Nanoseconds since 1970; None where the date was taken out."""
    signals: tuple[_Signal, ...]


def ingest_edf(
    inputs: Sequence[PathName] | PathName,
    output: PathName,
    *,
    channels: Sequence[str] | None = None,
    variable: str = "recording",
    attrs: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Ingested:
    """Write EDF or BDF recordings to one archive with the dimensions ``channel`` and ``time``.

    Samples are float32 in physical units (the coordinate ``unit``; also ``units`` where all are the
    same). The times of a single recording are absolute, if its date was not taken out; several, of
    one length, are stacked along ``file``, in seconds from their ``start``. Annotations are left
    out.

    Parameters
    ----------
    inputs : paths
        Files with the same signals.
    output : path
        The archive to make.
    channels : sequence of str, optional
        Labels of the signals to take, needed where their rates differ; all by default.
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
        A file is damaged, none of EDF or BDF or interrupted (EDF+D), rates or files differ, a
        signal is not there, or the output exists.
    MissingExtraError
        edfio is not installed.
    """
    edfio = extra("edfio", "EDF and BDF")
    paths = input_files(inputs, (".edf", ".bdf"), "recordings")
    files = {path: _recording(edfio, path, channels) for path in paths}
    starts = [file.start for file in files.values()]
    heads = [_head(file, attrs or {}, absolute=len(paths) == 1) for file in files.values()]
    if len(paths) > 1 and None not in starts:
        told = {"units": "nanoseconds since 1970-01-01", "calendar": "proleptic_gregorian"}
        heads[0] = _with(heads[0], {"start": (("file",), np.array(starts, np.int64), told)})

    @contextmanager
    def open_file(path: Path) -> Iterator[Callable[[Box], NDArray[Any]]]:
        yield lambda box: _read(files[path], box)

    return write_stack(
        paths,
        heads,
        open_file,
        output,
        along="file",
        variable=variable,
        source="EDF or BDF",
        overwrite=overwrite,
        on_progress=on_progress,
        channels=channels,
    )


def _recording(edfio: Any, path: Path, channels: Sequence[str] | None) -> _Recording:
    with path.open("rb") as file:
        fixed = file.read(256)
        kind = {b"0       ": "EDF", b"\xffBIOSEMI": "BDF"}.get(fixed[:8])
        if kind is None or len(fixed) < 256:
            raise IngestError(f"{path} is neither EDF nor BDF: leave it out.")
        try:
            begin, announced = int(fixed[184:192]), int(fixed[236:244])
            file.seek(0)
            # The header, and a record for the fraction of a second at which it begins: edfio holds
            # BDF files whole.
            head = file.read(begin + SLAB)
            read = edfio.read_edf if kind == "EDF" else edfio.read_bdf
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # That the rest is not there.
                told = read(head, header_encoding="latin-1")
            start = _start(edfio, told)
        except (ValueError, IndexError, KeyError) as problem:
            raise IngestError(f"{path} cannot be read as {kind}: {problem}.") from problem
    if b"+D" in fixed[192:197]:
        raise IngestError(
            f"{path} is interrupted ({kind}+D), and an archive has one axis of time: split it into "
            "its parts, as EDFbrowser does."
        )
    signals = _signals(path, told, channels)
    width, record = 2 if kind == "EDF" else 3, sum(s.samples_per_data_record for s in told._signals)
    there = (path.stat().st_size - begin) // (record * width)
    if there < max(announced, 1):
        raise IngestError(
            f"{path} is cut short: its header announces {announced} data records, and {there} are "
            "there. Fetch it again, or leave it out."
        )
    seconds = Fraction(fixed[244:252].decode().strip())
    return _Recording(path, begin, there, record, width, seconds, start, signals)


def _start(edfio: Any, told: Any) -> int | None:
    try:
        return int(np.datetime64(told.startdatetime, "ns").astype(np.int64))
    except edfio.AnonymizedDateError:
        return None


def _signals(path: Path, told: Any, channels: Sequence[str] | None) -> tuple[_Signal, ...]:
    """Return the signals to take, all of one rate."""
    found, first = [], 0
    for signal in told._signals:
        count = signal.samples_per_data_record
        if signal.label not in ANNOTATIONS and (channels is None or signal.label in channels):
            digital = signal.digital_max - signal.digital_min
            gain = (signal.physical_max - signal.physical_min) / (digital or 1) or 1.0
            offset = signal.physical_min - gain * signal.digital_min
            unit = signal.physical_dimension
            found.append(_Signal(signal.label, unit, first, count, gain, offset))
        first += count
    labels = {signal.label for signal in found}
    if missing := [label for label in channels or () if label not in labels]:
        raise IngestError(f"{path} has no signal {missing[0]!r}: it has {listed(told.labels)}.")
    if len({signal.count for signal in found}) != 1:
        rates = ", ".join(f"{s.label} {s.sampling_frequency:g} Hz" for s in told.signals)
        raise IngestError(
            f"The signals of {path} have several rates, or there are none ({rates}): name those of "
            "one rate with --channels."
        )
    return tuple(found)


def _head(file: _Recording, attrs: Mapping[str, Any], *, absolute: bool) -> Head:
    rate = file.signals[0].count / file.seconds
    time = Axis(0.0, 1 / rate, "s")
    if absolute and file.start is not None:
        time = time_axis(file.start, rate)
    units = [signal.units for signal in file.signals]
    known = {"units": units[0]} if len(set(units)) == 1 and units[0] else {}
    labels = [signal.label for signal in file.signals]
    return Head(
        ("channel", "time"),
        (len(labels), file.records * file.signals[0].count),
        np.dtype(np.float32),
        {"time": time},
        {
            "channel": (("channel",), np.array(labels), {}),
            "unit": (("channel",), np.array(units), {"long_name": "unit of the channel"}),
        },
        {"sampling_rate": float(rate), **known, **attrs},
    )


def _with(head: Head, coords: Mapping[str, Any]) -> Head:
    told = {**head.coords, **coords}
    return Head(head.dims, head.shape, head.dtype, head.axes, told, head.attrs)


def _read(file: _Recording, box: Box) -> NDArray[Any]:
    """Read a box of samples in physical units: the data records around it, mapped anew."""
    count = file.signals[0].count
    first, last = box[1].start // count, -(-box[1].stop // count)
    size = file.record * file.width
    shape = (last - first, size)
    raw = np.memmap(file.path, np.uint8, "r", file.begin + first * size, shape)
    within = slice(box[1].start - first * count, box[1].stop - first * count)
    values = np.empty((box[0].stop - box[0].start, box[1].stop - box[1].start), np.float32)
    for row, signal in zip(values, file.signals[box[0]], strict=True):
        part = slice(signal.first * file.width, (signal.first + count) * file.width)
        digital = _integers(np.ascontiguousarray(raw[:, part]), file.width)[within]
        row[...] = digital * signal.gain + signal.offset
    return values


def _integers(raw: NDArray[np.uint8], width: int) -> NDArray[Any]:
    """Return little-endian integers of 2 or 3 bytes."""
    if width == 2:
        return raw.reshape(-1).view("<i2")
    wide = np.zeros((raw.size // 3, 4), np.uint8)
    wide[:, 1:] = raw.reshape(-1, 3)
    return wide.reshape(-1).view("<i4") >> 8
