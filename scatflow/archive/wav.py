"""Sound files (WAV, FLAC and what else libsndfile reads) to an archive."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from scatflow.archive.axis import Axis
from scatflow.archive.files import fitting, folders, input_files, labels
from scatflow.archive.ingest import (
    CHUNK,
    Ingested,
    Layout,
    PathName,
    Progress,
    extra,
)
from scatflow.archive.partial import new_archive
from scatflow.errors import IngestError

SUFFIXES = {"wav": (".wav", ".wave"), "flac": (".flac",), "ogg": (".ogg", ".oga", ".opus")}
"""Which files of a folder are taken."""


@dataclass(frozen=True)
class _Sound:
    rate: int
    channels: int
    frames: int
    subtype: str


def ingest_wav(
    inputs: Sequence[PathName] | PathName,
    output: PathName,
    *,
    variable: str = "sound",
    attrs: Mapping[str, Any] | None = None,
    kind: str = "wav",
    skip: bool = False,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Ingested:
    """Write sound files to one archive, a recording each.

    The dimensions are ``recording``, ``channel`` (where there are several) and ``time``. Samples
    are floats, integer formats in [-1, 1]; recordings shorter than the longest end in NaN, and the
    coordinate ``frames`` tells their lengths. Recordings from several folders have these in the
    coordinate ``folder``.

    Parameters
    ----------
    inputs : paths
        Files of one sampling rate and number of channels, or folders: all such files below them.
    output : path
        The archive to make.
    variable : str
        Name of the array in the archive.
    attrs : mapping, optional
        Attributes of the variable.
    kind : {"wav", "flac", "ogg"}
        Which files of a folder are taken.
    skip : bool
        Leave out files that cannot be read or are unlike most of the others, and say so.
    overwrite : bool
        Replace an archive of that name.
    on_progress : callable, optional
        Is told the frames done, and of how many.

    Raises
    ------
    IngestError
        If a file is damaged or empty, rates or channels differ, or the output exists.
    MissingExtraError
        If soundfile is not installed.
    """
    soundfile = extra("soundfile", "sound files")
    paths, sounds, left_out = fitting(
        input_files(inputs, SUFFIXES[kind], "sound files"),
        lambda path: _header(soundfile, path),
        lambda sound: {"rate": f"{sound.rate} Hz", "channels": f"{sound.channels} channel(s)"},
        skip=skip,
    )
    rate, channels = sounds[0].rate, sounds[0].channels
    longest = max(sound.frames for sound in sounds)
    many = channels > 1
    dtype = np.dtype(np.float64 if any(s.subtype == "DOUBLE" for s in sounds) else np.float32)
    layout = Layout(
        variable,
        ("recording", "channel", "time") if many else ("recording", "time"),
        (len(paths), channels, longest) if many else (len(paths), longest),
        (1, 1, min(CHUNK, longest)) if many else (1, min(CHUNK, longest)),
        dtype,
        np.nan,
        axes={"time": Axis(0.0, Fraction(1, rate), "s")},
        coords={
            "recording": (("recording",), labels(paths), {}),
            **folders(paths, "recording"),
            "frames": (
                ("recording",),
                np.array([sound.frames for sound in sounds], np.int64),
                {"long_name": "valid length of the recording", "units": "1"},
            ),
        },
        attrs={"sampling_rate": float(rate), "units": "1", **(attrs or {})},
        group_attrs={"source": f"sound files: {len(paths)}"},
    )
    with new_archive(output, paths, overwrite=overwrite) as partial:
        array = partial.create(layout)
        first, begin = partial.done or (0, 0)
        total = sum(sound.frames for sound in sounds)
        done = sum(sound.frames for sound in sounds[:first])
        for i in range(first, len(paths)):
            for at in _copy(soundfile, paths[i], sounds[i], array, i, begin):
                if partial.due():
                    partial.mark([i, at])
                if on_progress is not None:
                    on_progress(done + at, total)
            done, begin = done + sounds[i].frames, 0
    notes = (*partial.notes, *left_out)
    return Ingested(str(output), variable, layout.dims, layout.shape, str(dtype), notes)


def ingest_flac(
    inputs: Sequence[PathName] | PathName, output: PathName, **options: Any
) -> Ingested:
    """Write FLAC files to one archive; see :func:`ingest_wav`."""
    return ingest_wav(inputs, output, kind="flac", **options)


def ingest_ogg(inputs: Sequence[PathName] | PathName, output: PathName, **options: Any) -> Ingested:
    """Write Ogg files to one archive; see :func:`ingest_wav`."""
    return ingest_wav(inputs, output, kind="ogg", **options)


def _header(soundfile: Any, path: Path) -> _Sound:
    try:
        info = soundfile.info(str(path), verbose=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise IngestError(
            f"{path} is no sound file that can be read: {str(error).rstrip('.')}."
        ) from error
    if info.frames < 1:
        raise IngestError(f"{path} holds no samples: leave it out.")
    # libsndfile reads what is there of a file that was cut short, and says so in its log only.
    cut = re.search(r"data\s*:\s*(\d+) \(should be (\d+)\)", info.extra_info)
    if cut is not None and int(cut[2]) < int(cut[1]):
        raise IngestError(
            f"{path} is cut short: its header announces {cut[1]} bytes of samples, and {cut[2]} "
            "are there. Get it anew, or repair its header if the rest is lost."
        )
    return _Sound(int(info.samplerate), int(info.channels), int(info.frames), str(info.subtype))


def _copy(
    soundfile: Any, path: Path, sound: _Sound, array: zarr.Array[Any], i: int, begin: int
) -> Iterator[int]:
    """Copy one recording from frame `begin` on; yields how many frames are done."""
    at = 0
    try:
        with soundfile.SoundFile(str(path)) as file:
            while at < sound.frames:
                count = min(CHUNK, sound.frames - at)
                block = file.read(count, dtype=array.dtype.name, always_2d=True)
                if len(block) < count:
                    raise IngestError(
                        f"{path} ends after {at + len(block)} of {sound.frames} frames: the file "
                        "is incomplete. Fetch it again, or leave it out."
                    )
                part = slice(at, at + count)
                at += count
                if at <= begin:  # Decoded again: formats with loss give other numbers on a seek.
                    continue
                if array.ndim == 3:
                    array[i, :, part] = np.ascontiguousarray(block.T)
                else:
                    array[i, part] = block[:, 0]
                yield at
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise IngestError(f"{path} is damaged after frame {at}: {error}.") from error
