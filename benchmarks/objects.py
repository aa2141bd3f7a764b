"""Count what runs ask of an object store, and what they read of their source.

    python benchmarks/objects.py [--chunks 20 18 16] [--mib 64]

Runs a job from and to an object store on this machine (moto's S3, of the extra `test`), which logs
each request with its bytes, at J=10, Q=8 with default blocks; with chunks of 2^20 samples, then
smaller ones. Prints requests for each block by what they are for, and the bytes that were read over
the bytes of the source: what blocks share of halos and of chunks.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import s3fs
import zarr
from archive import CHANNELS, job_text
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from scatflow.flow.job import parse
from scatflow.flow.plan import prepare
from scatflow.flow.run import run

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing-name",
    "AWS_SECRET_ACCESS_KEY": "testing-word",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}

PURPOSES = {
    "source, samples": "archive.zarr/waveform/c/",
    "source, metadata": "archive.zarr",
    "lock": "result.zarr.lock",
    "output, coefficients": "result.zarr/scattering/c/",
    "ledger, arrays": ("result.zarr/ledger/state", "ledger/checksum", "ledger/source"),
    "ledger, looks and words": "result.zarr/ledger",
    "output, metadata and labels": "result.zarr",
}
"""What a request is for: the first of these that its path has in it."""


class Counting:
    """A web application that counts what another one is asked, and the bytes it moves."""

    def __init__(self, app) -> None:
        self.app, self.lock = app, threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget what was counted."""
        self.requests: Counter = Counter()
        self.bytes: Counter = Counter()

    def __call__(self, environ, start_response):
        """Answer a request."""
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        query = environ.get("QUERY_STRING", "")
        if method == "GET" and "list-type" in query:
            method, path = "LIST", path + "/" + query.replace("%2F", "/")
        answer = list(self.app(environ, start_response))
        size = sum(map(len, answer)) if method == "GET" else int(environ.get("CONTENT_LENGTH") or 0)
        with self.lock:
            self.requests[purpose(path), method] += 1
            self.bytes[purpose(path), method] += size
        return answer


def purpose(path: str) -> str:
    for name, parts in PURPOSES.items():
        if any(part in path for part in ([parts] if isinstance(parts, str) else parts)):
            return name
    return "other"


def fill(records: np.ndarray, chunk: int) -> None:
    group = zarr.open_group("s3://bucket/archive.zarr", mode="w")
    array = group.create_array(
        "waveform",
        shape=records.shape,
        chunks=(1, chunk),
        dtype=records.dtype,
        compressors=None,
        dimension_names=["channel", "time"],
        attributes={"axes": {"time": {"start": 0.0, "step": [1, 100], "units": "s"}}},
    )
    array[...] = records


def measure(counting: Counting, records: np.ndarray, chunk: int, folder: Path) -> dict:
    """Run a job over records in chunks of that many samples, and return what was counted."""
    fill(records, chunk)
    text = job_text("s3://bucket", cluster="threads", memory="2 GiB")
    plan = prepare(parse(text, folder / "job.toml"), fresh=True)
    counting.clear()
    said: list[str] = []
    if run(plan, fresh=True, say=said.append):
        raise SystemExit("\n".join(said))
    source = "source, samples", "GET"
    layout = plan.work.layout
    slabs = sum(
        int(np.prod([b - a for a, b in part.slab]))
        for block in range(plan.n_blocks)
        for part in layout.parts(block)
    )
    return {
        "chunk": chunk,
        "blocks": plan.n_blocks,
        "source_bytes": records.nbytes,
        "read": counting.bytes[source] / records.nbytes,
        "halo": slabs / records.size,
        "written_bytes": counting.bytes["output, coefficients", "PUT"],
        "requests": {f"{who}|{how}": n for (who, how), n in sorted(counting.requests.items())},
    }


def count(exponents: list[int], mib: float) -> list[dict]:
    """Return what was counted for chunks of 2^k samples."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    counting = Counting(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, counting, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ.update(ENVIRONMENT, AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.port}")
    shape = (CHANNELS, max(int(mib * 2**20) // 4 // CHANNELS, 1))
    records = np.random.default_rng(0).standard_normal(shape, np.float32)
    s3fs.S3FileSystem().mkdir("bucket")
    try:
        with tempfile.TemporaryDirectory() as folder:
            return [measure(counting, records, 2**k, Path(folder)) for k in exponents]
    finally:
        server.shutdown()


def lines(results: list[dict]) -> list[str]:
    """Return what was counted as two tables."""
    asked = dict.fromkeys(key for one in results for key in one["requests"])
    sizes = " | ".join(f"chunks of {one['chunk']:,}" for one in results)
    rows = [f"| requests per block | | {sizes} |", "| --- | --- |" + " --- |" * len(results)]
    for key in asked:
        who, how = key.split("|")
        cells = (f"{one['requests'].get(key, 0) / one['blocks']:.2f}" for one in results)
        rows.append(f"| {who} | {how} | {' | '.join(cells)} |")
    rows += ["", "| | " + sizes + " |", "| --- |" + " --- |" * len(results)]
    for label, words in (
        ("blocks", lambda one: f"{one['blocks']}"),
        ("bytes read / bytes of the source", lambda one: f"{one['read']:.2f}"),
        ("of that, halos", lambda one: f"{one['halo']:.2f}"),
        (
            "bytes written / bytes of source",
            lambda o: f"{o['written_bytes'] / o['source_bytes']:.2f}",
        ),
    ):
        rows.append(f"| {label} | {' | '.join(words(one) for one in results)} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--chunks", type=int, nargs="+", default=[20, 18, 16], help="exponents of 2"
    )
    parser.add_argument("--mib", type=float, default=64.0)
    parser.add_argument("--output", type=Path, help="folder for the figures")
    options = parser.parse_args()
    results = count(options.chunks, options.mib)
    print("\n".join(lines(results)))
    if options.output is not None:
        (options.output / "objects.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
