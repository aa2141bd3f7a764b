"""Time runs of many tiny blocks: what a block costs beyond the engine, and whose memory grows.

    python benchmarks/blocks.py [--blocks 100 1000 10000 100000] [--cluster local] [--output FOLDER]

Each run transforms that many records of 256 samples, one a block, in an interpreter of its own.
Printed are the seconds per block beyond the engine, the resident memory of the process that holds
client and scheduler, before the first block and at its peak, and the time to plan.
With `--plan N` only the planning of N blocks is timed: opening the source, laying out, making the
output's template and its ledger.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr

SAMPLES, PER_CHUNK = 256, 256

JOB = """
[source]
store = "{folder}/archive.zarr"
variable = "waveform"
[transform]
kind = "scattering1d"
dims = ["time"]
J = 5
[output]
store = "{folder}/result.zarr"
[run]
cluster = "{cluster}"
workers = 2
memory = "1 GiB"
"""

READY = re.compile(r"ready after ([\d.]+) s")
PACE = re.compile(r"(\d+) blocks in ([\d.:]+)(?: (s|min))?:.*the engine took (\d+)%")


def make_archive(path: Path, records: int) -> None:
    """Write one chunk of noise and link it as often as there are chunks."""
    array = zarr.open_group(path, mode="w").create_array(
        "waveform",
        shape=(records, SAMPLES),
        chunks=(PER_CHUNK, SAMPLES),
        dtype=np.float32,
        compressors=None,
        dimension_names=["record", "time"],
    )
    shape = (min(PER_CHUNK, records), SAMPLES)
    array[: shape[0]] = np.random.default_rng(0).standard_normal(shape, np.float32)
    first = path / "waveform/c/0/0"
    for chunk in range(1, -(-records // PER_CHUNK)):
        folder = path / f"waveform/c/{chunk}"
        folder.mkdir()
        os.link(first, folder / "0")


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def prepared(folder: Path, cluster: str):
    """Return the plan of a job with one record a block."""
    from scatflow.flow.job import parse
    from scatflow.flow.labels import template
    from scatflow.flow.plan import prepare

    plan = prepare(parse(JOB.format(folder=folder, cluster=cluster), folder / "job.toml"))
    work = plan.work.cut_into((1,))
    return dataclasses.replace(plan, work=work, template=template(work))


def one(folder: Path, records: int, cluster: str, only_plan: bool) -> dict:
    """Run in this interpreter and return the figures."""
    from scatflow.flow.output import make
    from scatflow.flow.run import run

    make_archive(folder / "archive.zarr", records)
    found: dict = {"blocks": records, "cluster": cluster}
    begun = time.perf_counter()
    plan = prepared(folder, cluster)
    found["plan_seconds"] = time.perf_counter() - begun
    if only_plan:
        begun = time.perf_counter()
        ledger = make(plan.output, plan.work, plan.template)
        ledger.pending()
        found["make_seconds"] = time.perf_counter() - begun
        found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return found

    def say(text: str) -> None:
        if READY.search(text):
            found["start_bytes"], found["begun"] = resident(), time.perf_counter()
            found["processor_seconds"] = -time.process_time()
        if PACE.search(text):
            seconds = time.perf_counter() - found.pop("begun")
            share = int(PACE.search(text)[4]) / 100
            found["processor_seconds"] += time.process_time()
            found.update(
                seconds=seconds,
                engine_share=share,
                beyond_engine_ms=1e3 * seconds * (1 - share) / records,
                end_bytes=resident(),
            )

    code = run(plan, say=say)
    if code:
        sys.exit(f"the run ended with exit code {code}")
    found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found


def row(found: dict) -> str:
    mib = {k: found[k] / 2**20 for k in ("start_bytes", "end_bytes", "peak_bytes")}
    return (
        f"| {found['blocks']} | {found['seconds']:.1f} s | {found['beyond_engine_ms']:.2f} ms | "
        f"{1e3 * found['processor_seconds'] / found['blocks']:.2f} ms | "
        f"{mib['start_bytes']:.0f} MiB | {mib['end_bytes']:.0f} MiB | {mib['peak_bytes']:.0f} MiB |"
    )


HEAD = (
    "| blocks | run | beyond the engine, per block | client's processor time, per block | "
    "memory at the start | at the end | at the peak |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, nargs="*", default=[100, 1000, 10_000, 100_000])
    parser.add_argument("--cluster", default="local", choices=["local", "threads"])
    parser.add_argument("--plan", type=int, help="only plan so many blocks")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help="folder for the figures")
    options = parser.parse_args()
    if options.child:
        folder = Path(os.environ["SCATFLOW_BLOCKS"])
        print(json.dumps(one(folder, options.child, options.cluster, bool(options.plan))))
        return
    results = []
    if not options.plan:
        print(HEAD, "|" + " --- |" * (HEAD.count("|") - 1), sep="\n", flush=True)
    for blocks in [options.plan] if options.plan else options.blocks:
        folder = tempfile.mkdtemp(prefix="scatflow-")
        words = ["--child", str(blocks), "--cluster", options.cluster]
        try:
            done = subprocess.run(
                [sys.executable, __file__, *words, *(["--plan", "1"] if options.plan else [])],
                env={**os.environ, "SCATFLOW_BLOCKS": folder},
                stdout=subprocess.PIPE,
                check=True,
                text=True,
            )
        finally:
            shutil.rmtree(folder)
        results.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(results[-1]) if options.plan else row(results[-1]), flush=True)
    if options.output:
        (options.output / "blocks.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
