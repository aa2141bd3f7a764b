"""Time runs of many tiny blocks: what a block costs beyond the engine, and whose memory grows.

    python benchmarks/blocks.py [--blocks 100 1000 10000 100000] [--cluster local] [--output FOLDER]

Each run transforms that many records of 256 samples, one a block, in an interpreter of its own.
What is counted begins when the workers are ready and ends with the receipt of the last block:

cost per block
    Processor time (user and system) of all processes, that is of the one that holds client and
    scheduler and of its workers, with all their threads; less the processor time of the threads
    that were inside `Plan.apply`, measured by the same workers in the same run (with one thread an
    engine, as here, that is all of it); divided by the number of blocks. Reading, checking,
    encoding, writing, messages, the ledger and whatever Dask does by itself are in it; starting
    and stopping are not. Other programs on the machine do not count, though they slow its caches.
elapsed time per block
    By the clock, engine included, all workers together. Other programs do count.
memory
    Resident bytes of the process of client and scheduler when the workers are ready, when the last
    block has ended, and the most since the interpreter began; and the most of any worker.

With `--plan N` only the planning of N blocks is timed: opening the source, laying out, making the
output's template and its ledger.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dask
import numpy as np
import psutil
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

PRELOAD = """
import threading, time
from scatflow.flow import block

def timing(real):
    lock = threading.Lock()

    def timed(plan, x):
        begun = time.thread_time()
        found = real(plan, x)
        with lock:
            block.benchmark_engine_seconds += time.thread_time() - begun
        return found

    return timed

if block._apply.__module__ == block.__name__:  # Some processes load this twice.
    block.benchmark_engine_seconds = 0.0
    block._apply = timing(block._apply)
"""


def engine_seconds() -> float:
    """Return the processor time that this worker has spent in the engine so far."""
    from scatflow.flow import block

    return block.benchmark_engine_seconds


def processor_seconds() -> tuple[float, float]:
    """Return the processor time of this process so far, and that of its workers."""
    own, *others = (process.cpu_times() for process in _family())
    return own.user + own.system, sum(times.user + times.system for times in others)


def _family() -> list[psutil.Process]:
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def peak_bytes(process: psutil.Process) -> int:
    """Return the most that was resident of a process so far (Linux)."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if "VmHWM" in line) * 1024


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
    import scatflow.flow.run as run_module
    from scatflow.flow.output import make

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
        found["peak_bytes"] = peak_bytes(psutil.Process())
        return found

    real = run_module._work_through

    def counted(cluster, *words):
        before, of_engine = processor_seconds(), sum(cluster.client.run(engine_seconds).values())
        found["start_bytes"], begun = psutil.Process().memory_info().rss, time.perf_counter()
        totals = real(cluster, *words)
        seconds, after = time.perf_counter() - begun, processor_seconds()
        of_engine = sum(cluster.client.run(engine_seconds).values()) - of_engine
        client, workers = (b - a for a, b in zip(before, after, strict=True))
        own, *others = _family()
        found.update(
            elapsed_ms=1e3 * seconds / records,
            engine_ms=1e3 * of_engine / records,
            client_ms=1e3 * client / records,
            workers_ms=1e3 * workers / records,
            beyond_engine_ms=1e3 * (client + workers - of_engine) / records,
            end_bytes=own.memory_info().rss,
            worker_peak_bytes=max(map(peak_bytes, others), default=0),
        )
        return totals

    run_module._work_through = counted
    script = folder / "preload.py"
    script.write_text(PRELOAD)
    with dask.config.set({"distributed.worker.preload": [str(script)]}):
        said: list[str] = []
        code = run_module.run(plan, say=said.append)
    if code:
        sys.exit("\n".join([*said[-20:], f"the run ended with exit code {code}"]))
    found["peak_bytes"] = peak_bytes(psutil.Process())
    return found


COLUMNS = {
    "blocks": ("blocks", "d", 1),
    "beyond the engine": ("beyond_engine_ms", ".2f", 1),
    "engine": ("engine_ms", ".2f", 1),
    "client and scheduler": ("client_ms", ".2f", 1),
    "workers": ("workers_ms", ".2f", 1),
    "elapsed": ("elapsed_ms", ".2f", 1),
    "start": ("start_bytes", ".0f", 2**20),
    "end": ("end_bytes", ".0f", 2**20),
    "peak": ("peak_bytes", ".0f", 2**20),
    "peak of a worker": ("worker_peak_bytes", ".0f", 2**20),
}
"""Milliseconds a block, and MiB."""


def row(found: dict) -> str:
    cells = (
        f"{found[key] / unit:{form}}" if unit > 1 else f"{found[key]:{form}}"
        for key, form, unit in COLUMNS.values()
    )
    return f"| {' | '.join(cells)} |"


HEAD = f"| {' | '.join(COLUMNS)} |"


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
