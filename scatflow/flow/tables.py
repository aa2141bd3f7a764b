"""Strict tables of TOML: what job files and cluster profiles are made of.

Nothing is coerced, nothing unknown is passed over, and all that is wrong with a file is told at
once.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

from dask.utils import parse_bytes
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import ErrorDetails

from scatflow.errors import JobError

UNSHOWN = "unshown"
"""Type of an error whose input may hold secrets: its message tells of it instead."""

SECRET = "secret"
"""Type of the error of an address with credentials, which must not be shown either."""


MOST_BYTES = 2**50


def _bytes(text: str) -> str:
    if not 0 < memory_bytes(text) <= MOST_BYTES:
        raise ValueError("not positive, or more than any machine has")
    return text


def memory_bytes(text: str) -> int:
    """Return the bytes that a budget such as ``"2 GiB"`` stands for.

    Raises
    ------
    ValueError
        It stands for no finite number of bytes.
    """
    try:
        return int(parse_bytes(text))
    except OverflowError as problem:
        raise ValueError(f"{text!r} is not finite") from problem


Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Some = Annotated[int, Field(ge=1, le=100_000)]
"""Of workers, threads or processors: what is more is a slip."""
Bytes = Annotated[str, AfterValidator(_bytes)]


class Table(BaseModel):
    """A table of a job file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def read_toml(path: str | Path, what: str) -> tuple[Path, str]:
    """Return a file and its text.

    Raises
    ------
    JobError
        It cannot be read.
    """
    file = Path(path)
    try:
        return file, file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or "it is not UTF-8 text"
        raise JobError(
            f"The {what} {file.absolute()} cannot be read: {reason}. "
            "Give the path of a TOML file, relative to the current directory."
        ) from None


def parse_toml(text: str, path: Path) -> dict[str, Any]:
    """Return what a TOML file says.

    Raises
    ------
    JobError
        It is no TOML, or a text in it holds the character that ends a path for the system.
    """
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as problem:  # of numbers too long, and nesting too deep
        raise JobError(f"{path} is not valid TOML: {problem}.") from None
    for place, found in _texts(raw):
        if "\0" in found:
            raise JobError(
                f"{path}: {place} holds the character U+0000, which no path and no name can. "
                "Nothing was run; leave it out."
            )
    return raw


def _texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield the place of each text in a TOML document, and the text."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            inside = f"{place}.{key}".lstrip(".").replace("\0", "\\u0000")
            yield from _texts(key, f"the key {inside}")
            yield from _texts(item, inside)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, place)


def unique(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Keep one error per key: a union of types reports each of its members.

    Where one of them is a table whose keys are told of, that is enough.
    """
    seen: dict[tuple[Any, ...], ErrorDetails] = {}
    for error in errors:
        seen.setdefault(_key(error), error)
    inside = {key[0] for key, error in seen.items() if len(key) > 1 and _tagged(error)}
    return [error for key, error in seen.items() if len(key) > 1 or key[0] not in inside]


def _key(error: ErrorDetails) -> tuple[Any, ...]:
    loc = error["loc"]
    parts = [*loc[:1], *loc[2:]] if _tagged(error) else loc
    return tuple(part for part in parts if isinstance(part, str))[:2]


def _tagged(error: ErrorDetails) -> bool:
    """Tell whether the second part of a place is the member of a union, which no file holds."""
    tags = {table.__name__ for table in Table.__subclasses__()}
    second = str(error["loc"][1]) if len(error["loc"]) > 1 else ""
    return second in tags or second.startswith("literal[")


def _table(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Return the model of a table inside a table, None where its keys are free."""
    found = model.model_fields[name].annotation if name in model.model_fields else None
    kinds = [found, *get_args(found)]
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)


def describe(error: ErrorDetails, form: str | None, model: type[BaseModel]) -> str:
    """Say which key is wrong, what was found and what is accepted."""
    *tables, key = _key(error)
    while tables and _table(model, tables[0]) is None:
        tables, key = tables[:-1], tables[-1]  # A key of a free table: the table itself is told.
    for table in tables:
        model = _table(model, table) or model
    where = form.format(key=key) if form else "".join(f"[{table}] " for table in tables) + key
    if error["type"] == "extra_forbidden":
        accepted = list(model.model_fields)
        return f"{where}: unknown key. Accepted: {', '.join(accepted)}.{near(key, accepted)}"
    description = model.model_fields[key].description
    if error["type"] == "missing":
        where = f"[{key}]" if description == f"a table [{key}]" else where
        return f"{where} is missing. It takes {description}."
    if error["type"] == SECRET:
        return (
            f"{where} holds a name or a password, which would be written into the results and "
            "their ledger. Take it out: credentials come from the environment, profile files or "
            "the machine's role, as the store's own tools have it."
        )
    if error["type"] == UNSHOWN:
        return f"{where}: {error['msg']}. Accepted: {description}."
    found = error["input"]
    options = [w.strip('",') for w in (description or "").split() if w.startswith('"')]
    guess = near(found, options) if isinstance(found, str) else ""
    return f"{where}: found {_show(found)}. Accepted: {description}.{guess}"


def _show(value: Any) -> str:
    names = {
        bool: "boolean",
        int: "integer",
        float: "number",
        str: "string",
        list: "list",
        dict: "table",
    }
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return f"{text} ({names.get(type(value), type(value).__name__)})"


def near(word: str, options: list[str]) -> str:
    """Guess which option was meant."""
    folded = {option.lower(): option for option in options}
    close = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    return f" Did you mean `{folded[close[0]]}`?" if close else ""
