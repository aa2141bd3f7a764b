"""Which files make one archive: those below folders, their labels, and which fit together."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from scatflow.archive.ingest import PathName, input_paths
from scatflow.errors import IngestError

SHOWN = 10
"""Files that an error names one by one."""

T = TypeVar("T")


def input_files(
    inputs: Sequence[PathName] | PathName, suffixes: Sequence[str], what: str
) -> list[Path]:
    """Return the input files, and those below input folders whose suffix is one of `suffixes`.

    Hidden files are left out: copies by macOS have ``._name.wav`` beside each sound.

    Raises
    ------
    IngestError
        If there are none, one is missing, or a folder holds no such file.
    """
    paths: list[Path] = []
    for path in input_paths(inputs):
        if not path.is_dir():
            paths.append(path)
            continue
        inside = [p for p in sorted(path.rglob("*")) if _is_one(p, suffixes) and p.is_file()]
        if not inside:
            raise IngestError(
                f"{path} holds no {what} ({', '.join(suffixes)}), nor do the folders in it: check "
                "the folder and the format."
            )
        paths += inside
    return list(dict.fromkeys(paths))


def _is_one(path: Path, suffixes: Sequence[str]) -> bool:
    return path.name.lower().endswith(tuple(suffixes)) and not path.name.startswith(".")


def labels(paths: Sequence[Path]) -> list[str]:
    """Return a label for each file: its name without suffix, after its folders where names repeat.

    Examples
    --------
    >>> labels([Path("/data/a/1.wav"), Path("/data/b/1.wav")])
    ['a/1', 'b/1']
    """
    stems = [_stem(path) for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    above = _above(paths)
    longer = [path.relative_to(above).with_name(_stem(path)).as_posix() for path in paths]
    return longer if len(set(longer)) == len(longer) else [str(path) for path in paths]


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(Path(path.name.removesuffix(".gz")).suffix)


def _above(paths: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([path.parent for path in paths]))


def folders(paths: Sequence[Path], along: str) -> dict[str, tuple[tuple[str, ...], Any, Any]]:
    """Return the coordinate ``folder`` of files that lie in several: often their classes.

    Examples
    --------
    >>> folders([Path("/data/dogs/1.wav"), Path("/data/cats/2.wav")], "recording")["folder"][1]
    array(['dogs', 'cats'], dtype='<U4')
    """
    above = _above(paths)
    names = [path.parent.relative_to(above).as_posix() for path in paths]
    if len(set(names)) == 1:
        return {}
    return {"folder": ((along,), np.array(names), {"long_name": "folder of the file"})}


def fitting(
    paths: Sequence[Path],
    look: Callable[[Path], T],
    kind: Callable[[T], Mapping[str, Any]],
    *,
    skip: bool,
) -> tuple[list[Path], list[T], list[str]]:
    """Look into files and return those that can be read and are like most of them.

    Parameters
    ----------
    look : callable
        Returns what a file holds, or raises IngestError.
    kind : callable
        What files of one archive have in common, by a word for each.
    skip : bool
        Leave the others out, and say so, rather than refuse all.

    Returns
    -------
    paths, found, notes : list
        Files, what they hold, and a line for each that was left out.

    Raises
    ------
    IngestError
        If there are others and `skip` is false, or if nothing is left; all of them are named.
    """
    found: dict[Path, T] = {}
    odd: dict[Path, str] = {}
    for path in paths:
        try:
            found[path] = look(path)
        except IngestError as problem:
            odd[path] = str(problem)
    kinds = {path: {word: str(v) for word, v in kind(it).items()} for path, it in found.items()}
    if kinds:
        # Of several that are as frequent, the first.
        usual = Counter(tuple(each.items()) for each in kinds.values()).most_common(1)[0][0]
        one = next(path for path, each in kinds.items() if tuple(each.items()) == usual)
        for path, each in kinds.items():
            if own := [v for word, v in each.items() if v != kinds[one][word]]:
                theirs = [v for word, v in kinds[one].items() if v != each[word]]
                odd[path] = f"{path} has {', '.join(own)}, but {one} {', '.join(theirs)}."
    lines = [odd[path] for path in paths if path in odd]
    if lines and (not skip or len(lines) == len(paths)):
        raise IngestError(_refusal(lines, len(paths)))
    kept = [path for path in paths if path not in odd]
    return kept, [found[path] for path in kept], [f"Left out: {line}" for line in lines]


def _refusal(lines: Sequence[str], n: int) -> str:
    remedy = (
        "Files of one archive are alike: convert these, ingest them apart, or leave them out "
        "(--skip; in Python skip=True)."
    )
    if n == 1:
        return lines[0]
    if len(lines) == 1:
        return f"{lines[0]} {remedy}"
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    listed = "\n".join(f"  {line}" for line in [*lines[:SHOWN], *more])
    return f"{len(lines)} of {n} files do not fit into one archive:\n{listed}\n{remedy}"
