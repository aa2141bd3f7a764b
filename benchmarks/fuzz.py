"""Feed broken job files and hostile stores to the beginning of a run, and see that it says so.

    python benchmarks/fuzz.py [--seconds 600] [--seed 0] [--case N]

Job files are mutated byte by byte and value by value; stores get metadata, attributes and chunks
that no honest program writes. Each case must end in one of scatflow's own errors, or in a plan, of
which one block is then computed: into a receipt, whatever it says. Anything else is a fault, and so
is a case that takes more memory or time than it may. A case is repeated by its number.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import string
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import zarr

JOB = """name = "day"
[source]
store = "archive.zarr"
variable = "waveform"
dims = ["station", "time"]
sel = { time = ["2010-09-01", "2010-09-02"] }
[transform]
kind = "scattering1d"
dims = ["time"]
J = 4
Q = [2, 1]
T = 16
boundary = "seamless"
[output]
store = "results.zarr"
dtype = "float32"
[run]
cluster = "threads"
workers = 2
threads = 1
memory = "1 GiB"
schedule = "0 3 * * *"
"""

IMAGES = """[source]
store = "archive.zarr"
variable = "waveform"
isel = { station = [0, 2] }
[transform]
kind = "scattering2d"
dims = ["station", "time"]
J = 1
L = 4
boundary = "frames"
frame = [2, 32]
hop = [2, 16]
[output]
store = "results.zarr"
[run]
memory = "500 MiB"
"""

AXES = {"time": {"start": "2010-09-01T00:00:00.000000000", "step": [10_000_000, 1], "units": "ns"}}

VALUES = (
    "0", "-1", "1", "2", "64", "1e308", "nan", "inf", "-inf", "9" * 18, "9" * 400, "9" * 5000,
    "true", '""', '"x"', '"../../x"', '"/etc/passwd"', '"\\u0000"', "[]", "[[]]",
    "[0]", "{}", "{ a = 1 }",
    "1979-05-27", '"' + "a" * 5000 + '"', "[" * 200 + "]" * 200, "0x7fffffffffffffff", "1.5",
    '"memory://x"', '"s3://user:word@bucket/x"', '"file:///nowhere"', '"999999999 TiB"',
    "[1, 2, 3]",
    '["time", "time"]', '["station"]', '"seamless"', '"frames"', '"whole"', '"timefrequency"',
    '"scattering3d"', '"tcp://127.0.0.1:1"', '"plain"',
)  # fmt: skip
"""What takes the place of a value."""

BIG = (2**31, 2**40, 2**62, 2**63 - 1, 2**64, 10**30)
NAMES = (
    "../x",
    "a/b",
    "/abs",
    ".",
    "..",
    "",
    "\x00",
    "zarr.json",
    "path",
    "n" * 5000,
    "scattering",
)

MOST_BYTES, MOST_SECONDS = 3 * 2**30, 60.0


# --- job files -----------------------------------------------------------------------------------


def broken_job(rng: random.Random) -> bytes:
    """Return a job file with a few mutations."""
    text = rng.choice((JOB, IMAGES))
    for _ in range(rng.randint(1, 4)):
        lines = text.split("\n")
        at = rng.randrange(len(lines))
        match rng.randrange(5):
            case 0:
                lines[at] = ""
            case 1 if "=" in lines[at]:
                lines[at] = lines[at].split("=")[0] + "= " + rng.choice(VALUES)
            case 2:
                lines.insert(at, lines[rng.randrange(len(lines))])
            case 3:
                word = "".join(rng.choices(string.ascii_letters + "._-\"'", k=rng.randint(1, 8)))
                lines.insert(at, f"{word} = {rng.choice(VALUES)}")
            case _:
                lines[at] = lines[at].replace("=", rng.choice(("", "==", ".", "= #")))
        text = "\n".join(lines)
    raw = bytearray(text.encode())
    for _ in range(rng.choice((0, 0, 0, 1, 5))):
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    return bytes(raw)


# --- stores --------------------------------------------------------------------------------------


def honest_store(path: Path, version: int = 3) -> None:
    """Write what the jobs expect."""
    shutil.rmtree(path, ignore_errors=True)
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    more = {"attributes": {"axes": AXES}}
    names = {"dimension_names": ("station", "time")} if version == 3 else {}
    if version == 2:
        more["attributes"]["_ARRAY_DIMENSIONS"] = ["station", "time"]
    array = group.create_array(
        "waveform", shape=(4, 4096), chunks=(1, 1024), dtype="i2", **names, **more
    )
    array[...] = np.arange(4 * 4096, dtype=np.int16).reshape(4, 4096)


def paths_of(value, path=()):
    """Yield the place of every value of a JSON document."""
    if path:
        yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in items:
        yield from paths_of(item, (*path, key))


def hostile_value(rng: random.Random):
    return rng.choice(
        (
            None, True, -1, 0, 1, 1.5, "", "x", [], {}, [[]], rng.choice(BIG), -rng.choice(BIG),
            rng.choice(NAMES), [rng.choice(BIG)] * rng.randint(1, 4), ["time", "time"], [0, 0],
            [-1, -1], [1, 10**9], "float64", "<f8", "|O", "object", "int16", "NaN", "bytes",
            "numpy.datetime64",
            {"name": "pickle"}, {"id": "pickle"}, [{"id": "pickle"}], {"name": "gzip"},
            [{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 99}}],
            [{"name": "nothing"}], {"name": "regular", "configuration": {"chunk_shape": [0, 0]}},
            {"a": {"b": {"c": [1] * 1000}}}, "A" * 10**6,
            {"name": "vlen-utf8"}, [{"name": "transpose", "configuration": {"order": [1, 1]}}],
        )
    )  # fmt: skip


def hostile_store(path: Path, rng: random.Random) -> None:
    """Write a store with something wrong in it."""
    version = rng.choice((2, 3))
    honest_store(path, version)
    names = ["zarr.json", "waveform/zarr.json"]
    if version == 2:
        names = [".zgroup", "waveform/.zarray", "waveform/.zattrs"]
    for _ in range(rng.randint(1, 3)):
        file = path / rng.choice(names)
        match rng.randrange(6):
            case 0:
                raw = bytearray(file.read_bytes() or b" ")
                for _ in range(rng.randint(1, 4)):
                    raw[rng.randrange(len(raw))] = rng.randrange(256)
                file.write_bytes(bytes(raw))
            case 1:
                file.write_text("[" * rng.choice((10, 5000)) + "]" * 10)
            case 2:
                chunks = [p for p in path.rglob("*") if p.is_file() and "json" not in p.name]
                rng.choice(chunks).write_bytes(rng.randbytes(rng.choice((0, 1, 100, 5000))))
            case _:
                damage(file, rng)
    if rng.random() < 0.2:
        add_coordinate(path, rng, version)


def damage(file: Path, rng: random.Random) -> None:
    """Replace, remove or add a value of a metadata document."""
    try:
        document = json.loads(file.read_text())
    except (ValueError, RecursionError):
        return  # an earlier mutation has been there
    places = list(paths_of(document))
    if not places:
        return
    *way, last = rng.choice(places)
    inner = document
    for key in way:
        inner = inner[key]
    if rng.random() < 0.2:
        del inner[last]
    elif rng.random() < 0.2 and isinstance(inner, dict):
        inner[rng.choice(NAMES)] = hostile_value(rng)
    else:
        inner[last] = hostile_value(rng)
    file.write_text(json.dumps(document))


def add_coordinate(path: Path, rng: random.Random, version: int) -> None:
    """Add an array that claims to be a coordinate, with a name or size that it should not have."""
    try:
        group = zarr.open_group(str(path), mode="r+", zarr_format=version)
        size = rng.choice((4, 10**6, 10**11))
        names = {"dimension_names": ("station",)} if version == 3 else {}
        array = group.create_array(
            rng.choice(("station", "path", "scattering", "ledger", "x y", "n" * 200)),
            shape=(size,), chunks=(min(size, 10**6),),
            dtype=rng.choice(("i8", "f8", "bool")), **names,
        )  # fmt: skip
        array.attrs["_ARRAY_DIMENSIONS"] = ["station"]
    except (ValueError, TypeError, KeyError, OSError, AttributeError, RecursionError):
        return  # the store is beyond repair already


# --- what must happen ----------------------------------------------------------------------------


def attempt(folder: Path) -> str:
    """Take a job as far as its first block; return how it ended, raise what must not be."""
    from scatflow.errors import ScatflowError

    try:
        return first_block(folder)
    except ScatflowError as problem:
        if not str(problem).strip():
            raise AssertionError("an error without a message") from problem
        return type(problem).__name__


def first_block(folder: Path) -> str:
    """Take the job in a folder as far as its first block and return how that ended."""
    from scatflow.flow.block import Key, process
    from scatflow.flow.job import load
    from scatflow.flow.output import make
    from scatflow.flow.plan import check_budget, prepare

    plan = prepare(load(folder / "job.toml"), str(folder))
    check_budget(plan)
    if plan.n_blocks > 10**6 or not plan.output.startswith(str(folder)):
        return "a plan"
    make(plan.output, plan.work, plan.template)
    receipt = process(Key(plan.output, plan.base, plan.work.fingerprint), 0)
    return "a failed block" if receipt.failure else "a block"


def case(number: int, folder: Path) -> str:
    """Make and run one case."""
    rng = random.Random(number)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    outside = {p.name for p in folder.parent.iterdir()}
    job: bytes = rng.choice((JOB, IMAGES)).encode()
    if number % 2:
        honest_store(folder / "archive.zarr", 2 + number % 4 // 2)
        job = broken_job(rng)
    else:
        hostile_store(folder / "archive.zarr", rng)
    (folder / "job.toml").write_bytes(job)
    begun = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ended = attempt(folder)
    if time.monotonic() - begun > MOST_SECONDS:
        raise AssertionError(f"took {time.monotonic() - begun:.0f} s")
    if {p.name for p in folder.parent.iterdir()} != outside:
        raise AssertionError("wrote outside of its folder")
    return ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--cases", type=int, help="so many cases instead of so many seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="repeat one case, with its traceback")
    options = parser.parse_args()
    top = Path(tempfile.mkdtemp(prefix="scatflow-"))
    folder = top / "case"
    try:
        if options.case is not None:
            print(case(options.case, folder))
            return
        case(1, folder)  # Libraries are loaded before the limit is set.
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, used + MOST_BYTES))
        sys.exit(loop(options.seed, options.cases, options.seconds, folder))
    finally:
        shutil.rmtree(top, ignore_errors=True)


def loop(seed: int, cases: int | None, seconds: float, folder: Path) -> int:
    """Run so many cases, or for some time, and return how many faults there were; print all."""
    ended: dict[str, int] = {}
    faults: dict[str, list[int]] = {}
    until, number = time.monotonic() + seconds, seed
    while number - seed < cases if cases else time.monotonic() < until:
        try:
            found = case(number, folder)
            ended[found] = ended.get(found, 0) + 1
        except Exception as problem:  # What it is about.
            last = traceback.extract_tb(problem.__traceback__)[-1]
            where = f"{Path(last.filename).name}:{last.lineno}"
            what = f"{type(problem).__name__}: {str(problem)[:160]} ({where})"
            faults.setdefault(what, []).append(number)
        number += 1
    print(f"{number - seed} cases: {dict(sorted(ended.items()))}")
    for what, numbers in sorted(faults.items(), key=lambda item: -len(item[1])):
        print(f"{len(numbers)} x {what}, cases {numbers[:5]}")
    return len(faults)


if __name__ == "__main__":
    main()
