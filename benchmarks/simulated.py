"""Drive a thousand workers that sleep: what a run asks of its client and its scheduler.

    python benchmarks/simulated.py [--workers 10 100 300 1000] [--seconds 1 0.2] [--last 12]

The scheduler is Dask's own, in a process of its own; workers are Dask's, many in each of two
processes; the window, the groups, the ledger and what a run tells are those of `scatflow run`. Only
what workers do with a block is replaced: they sleep for the time that a block takes and return its
receipt. Each line is measured over so many seconds once all workers are busy:

blocks/s, tasks/s
    Of those that would be if workers never waited (`ideal`): blocks shorter than a second are put
    together into tasks.
scheduler, client, workers
    Processor time per second of the scheduler's process, of the client's, and of those of all
    workers, which share the machine with the other two here and would not elsewhere: where all
    three together come near the machine's processors, the rate is the machine's.
flush
    Mean time and bytes of a flush of the ledger, which is a local store.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import dask
import numpy as np
import psutil
import zarr
from distributed import Client, get_worker

import scatflow.flow.run as run_module
from scatflow.flow import window as window_module
from scatflow.flow.block import Key, Receipt
from scatflow.flow.cluster.reached import existing
from scatflow.flow.cluster.ready import CONFIG
from scatflow.flow.devices import Lot, Staff
from scatflow.flow.groups import TASK_SECONDS
from scatflow.flow.ledger import Ledger
from scatflow.flow.progress import Terminal
from scatflow.flow.sight.watch import Run, Watch

HOSTS = 2
"""Processes that the workers share."""

BLOCKS = 2**23
"""Of the ledger: more than are computed, so that the end of a run is not measured."""

SAMPLES = 1_277_952
"""Of a block at J=10, Q=8 (4 bytes each); nothing here depends on it."""

QUIET = {
    # What a worker samples of its own machine: a thousand of them are on one here.
    "distributed.admin.system-monitor.interval": "60s",
    "distributed.worker.profile.enabled": False,
}


def sleep_all(seconds: float, _key: Key, blocks: list[int]) -> list[Receipt]:
    """Do as `process_all` does, asleep."""
    begun, receipts = time.monotonic(), []
    worker = get_worker().address.rpartition("://")[2]
    for block in blocks:
        time.sleep(seconds)
        receipts.append(
            Receipt(block, seconds, seconds, 4 * SAMPLES, SAMPLES, 1, block, block, worker=worker)
        )
        if time.monotonic() - begun > TASK_SECONDS:
            break
    return receipts


HOST = """
import asyncio, sys
import dask, simulated
from distributed import Worker

async def main(address, n):
    words = dict(nthreads=1, memory_limit=0, host="127.0.0.1", dashboard=False)
    workers = []
    for first in range(0, n, 50):
        few = range(min(50, n - first))
        some = [Worker(address, local_directory={local!r}, **words) for _ in few]
        workers += await asyncio.gather(*some)
    await asyncio.gather(*(worker.finished() for worker in workers))

dask.config.set(simulated.CONFIG | simulated.QUIET)
asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@contextlib.contextmanager
def started(n: int, folder: Path) -> Iterator[tuple[Client, psutil.Process, list[psutil.Process]]]:
    """Have a scheduler and `n` workers: a client of it, its process and theirs."""
    with contextlib.ExitStack() as stack:

        def start(*words: str) -> psutil.Process:
            process = subprocess.Popen(
                [sys.executable, *words],
                env={**os.environ, "PYTHONPATH": ":".join(found)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return psutil.Process(process.pid)

        # The scheduler has to know what tasks call, as it has to know scatflow.
        found = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        told = folder / f"scheduler-{n}.json"
        words = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
        scheduler = start(
            "-m", "distributed.cli.dask_scheduler", "--scheduler-file", str(told), *words
        )
        while not told.exists():
            time.sleep(0.1)
        address = json.loads(told.read_text())["address"]
        host = HOST.format(local=str(folder))
        hosts = min(HOSTS, n)
        shares = [n // hosts + (k < n % hosts) for k in range(hosts)]
        workers = [start("-c", host, address, str(share)) for share in shares]
        client = stack.enter_context(Client(address))
        client.wait_for_workers(n, timeout=300)
        # All have loaded what they need before anything is counted.
        client.gather(client.map(partial(sleep_all, 0.1, None), 3 * n * [[0]], pure=False))
        yield client, scheduler, workers


class EnoughError(Exception):
    """Ends a run once it has been measured."""


@dataclass
class Meter:
    """Counts between two moments of a run; called between its ticks."""

    ledger: Ledger
    watch: Watch
    processes: dict[str, list[psutil.Process]]
    warm: float
    last: float
    window: window_module.Window | None = None
    flushes: list[tuple[float, int]] = field(default_factory=list)
    tasks: int = 0
    found: dict[str, float] = field(default_factory=dict)
    _begun: float = field(default_factory=time.monotonic)
    _before: dict[str, float] | None = None

    def __call__(self) -> None:
        """Look at the clock."""
        now = time.monotonic() - self._begun
        if self._before is None:
            if now >= self.warm:
                self._before = self._state()
                self.flushes.clear()
        elif now >= self.warm + self.last:
            after = self._state()
            seconds = after["time"] - self._before["time"]
            self.found = {k: (after[k] - self._before[k]) / seconds for k in after}
            raise EnoughError

    def _state(self) -> dict[str, float]:
        found = {"time": time.monotonic(), "blocks": self.watch.tally.blocks, "tasks": self.tasks}
        for name, some in self.processes.items():
            found[name] = sum(sum(one.cpu_times()[:2]) for one in some)
        return found

    def flush(self, real, run) -> None:
        """Flush, and note seconds and bytes."""
        begun, stamp = time.monotonic(), time.time() - 0.01
        real(run)
        seconds = time.monotonic() - begun
        files = (path.stat() for path in self.folder.rglob("*") if path.is_file())
        self.flushes.append((seconds, sum(one.st_size for one in files if one.st_mtime >= stamp)))

    @property
    def folder(self) -> Path:
        """Where the ledger is."""
        return Path(str(self.ledger._group.store_path).removeprefix("file://"))


def measure(client: Client, processes: dict, seconds: float, last: float, folder: Path) -> dict:
    """Run with blocks that take so long, and return the figures."""
    name = f"{time.monotonic_ns()}.zarr"
    root = zarr.open_group(folder / name, mode="w")
    ledger = Ledger.create(root, {}, "simulated", BLOCKS)
    told = Run("simulated", "simulated", "simulated", name, {}, str)
    with open("/dev/null", "w") as nowhere:
        from rich.console import Console

        watch = Watch(told, [Terminal(Console(file=nowhere))], lambda _: None)
        cluster = existing(client, client.scheduler.address, 1)
        warm = 3 * max(seconds, TASK_SECONDS) + cluster.held / 300
        meter = Meter(ledger, watch, processes, warm, last)
        cluster = run_module.replace(cluster, check=meter, lasting=False)
        watched(meter)
        window_module.process_all = partial(sleep_all, seconds)
        key = Key(name, "", "simulated")
        with contextlib.suppress(EnoughError):
            some = [Lot(ledger.pending(), "numpy", Staff(cluster, {}))]
            run_module._work_through(cluster, key, some, ledger, watch, lambda _: None)
    if watch.tally.failed:
        sys.exit(f"blocks failed: {next(iter(watch.tally.failures.items()))}")
    while any(client.processing().values()):  # What was cancelled while it slept.
        time.sleep(0.1)
    each = min(int(TASK_SECONDS / seconds) or 1, 256)
    flush_seconds, flush_bytes = np.mean(meter.flushes, axis=0)
    return {
        "workers": cluster.held,
        "block_seconds": seconds,
        "blocks_per_task": each,
        "window": meter.window._most,
        "ideal": cluster.held / seconds,
        **{k: v for k, v in meter.found.items() if k != "time"},
        "flushes": len(meter.flushes),
        "flush_ms": 1e3 * flush_seconds,
        "flush_bytes": flush_bytes,
    }


def watched(meter: Meter) -> None:
    """Have the next run's window counted, and its ledger's flushes."""

    class Counted(window_module.Window):
        def __init__(self, *words) -> None:
            super().__init__(*words)
            meter.window = self

        def _submit(self, blocks):
            meter.tasks += 1
            return super()._submit(blocks)

    run_module.Window = Counted
    meter.ledger.flush = partial(meter.flush, meter.ledger.flush)


HEAD = [
    "| workers | block | ideal | blocks/s | tasks/s | window | scheduler | client | workers' "
    "processes | flush |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
]


def row(one: dict) -> str:
    return (
        f"| {one['workers']} | {one['block_seconds']:g} s | {one['ideal']:,.0f}/s "
        f"| {one['blocks']:,.0f} ({one['blocks'] / one['ideal']:.0%}) | {one['tasks']:,.0f} "
        f"| {one['window']:,} | {one['scheduler']:.0%} | {one['client']:.0%} "
        f"| {one['hosts']:.0%} | {one['flush_ms']:.0f} ms, {one['flush_bytes'] / 1024:,.0f} KiB |"
    )


def simulate(workers: list[int], seconds: list[float], last: float) -> Iterator[dict]:
    """Yield the figures of each number of workers with each time of a block."""
    with tempfile.TemporaryDirectory(prefix="scatflow-", ignore_cleanup_errors=True) as name:
        for n in workers:
            with started(n, Path(name)) as (client, scheduler, hosts):
                processes = {"scheduler": [scheduler], "client": [psutil.Process()], "hosts": hosts}
                for one in seconds:
                    found = measure(client, processes, one, last, Path(name))
                    found["scheduler_bytes"] = scheduler.memory_info().rss
                    found["client_bytes"] = psutil.Process().memory_info().rss
                    yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[10, 100, 300, 1000])
    parser.add_argument("--seconds", type=float, nargs="+", default=[1.0, 0.2])
    parser.add_argument("--last", type=float, default=12.0)
    parser.add_argument("--output", type=Path, help="folder for the figures")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that its processes end, too.
    with dask.config.set(CONFIG):
        results = []
        print(*HEAD, sep="\n", flush=True)
        for one in simulate(options.workers, options.seconds, options.last):
            results.append(one)
            print(row(one), flush=True)
    if options.output is not None:
        (options.output / "simulated.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    import simulated  # By its name, so that tasks name its function instead of carrying it.

    simulated.main()
