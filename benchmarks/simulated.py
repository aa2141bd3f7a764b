"""Drive a thousand workers that sleep: what a run asks of its client and its scheduler.

    python benchmarks/simulated.py [--workers 10 100 300 1000] [--seconds 10 1 0.2 0.1]
        [--limit 100] [--lengths 1 0.5 0.2 0.1 0.05] [--last 10] [--output docs/benchmarks]

The scheduler is Dask's own, in a process of its own; workers are Dask's, many in each of two
processes; the window, the groups, the ledger and what a run tells are those of `scatflow run`. Only
what workers do with a block is replaced: they sleep for the time that a block takes (half to one
and a half of it, so that they do not end all at once) and send its receipt. Each line is measured
over so many seconds once all workers are busy:

blocks/s, tasks/s
    Of those that would be if workers never waited (`ideal`): blocks shorter than a second are put
    together into tasks.
scheduler, client, workers
    Processor time for each task, and per second: the reliable figures where other programs share
    the machine. Those of all workers would be spread over their machines elsewhere.
waits
    Part of the time in which the scheduler's thread had work and no processor, as Linux counts it.
    With its processor time it makes up how busy the scheduler was: at 100 % it is at its limit.
idle
    Processor time per second of a scheduler of so many workers that compute nothing: heartbeats.
flush
    Mean time and bytes of a flush of the ledger, which is a local store.

A second table looks for the limit of a scheduler: `--limit` workers and tasks of one block each,
shorter and shorter, until the scheduler is busy all the time or the machine is.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import dask
import numpy as np
import psutil
import zarr
from distributed import Client, get_worker
from rich.console import Console

import scatflow.flow.run as run_module
from scatflow.flow import groups as groups_module
from scatflow.flow import window as window_module
from scatflow.flow.block import Key, Receipt
from scatflow.flow.cluster.reached import existing
from scatflow.flow.cluster.ready import CONFIG
from scatflow.flow.devices import Lot, Staff
from scatflow.flow.groups import MOST, TASK_SECONDS
from scatflow.flow.ledger import Ledger
from scatflow.flow.progress import Terminal
from scatflow.flow.receipts import send
from scatflow.flow.sight.watch import Run, Watch

HOSTS = 2
"""Processes that the workers share."""

BLOCKS = 2**23
"""Of the ledger: more than are computed, so that the end of a run is not measured."""

SAMPLES = 1_277_952
"""Of a block at J=10, Q=8 (4 bytes each); nothing here depends on it."""

IDLE_SECONDS = 5.0

BUSY = 0.95
"""Part of the time at which a thread is called busy all the time."""

QUIET = {
    # What a worker does fifty times a second or samples of its own machine, whatever it computes: a
    # thousand of them are on one machine here.
    "distributed.admin.tick.interval": "60s",
    "distributed.admin.system-monitor.interval": "60s",
    "distributed.worker.profile.enabled": False,
}


def sleep_all(seconds: float, most: float, key: Key, blocks: list[int]) -> list[Receipt]:
    """Do as `process_all` does, asleep, until the task has lasted longer than `most` seconds."""
    begun, receipts, worker = time.monotonic(), [], get_worker()
    here = worker.address.rpartition("://")[2]
    for block in blocks:
        slept = seconds * random.uniform(0.5, 1.5)
        time.sleep(slept)
        receipts.append(
            Receipt(block, slept, slept, 4 * SAMPLES, SAMPLES, 1, block, block, worker=here)
        )
        if time.monotonic() - begun > most:
            break
    send(worker, key.token, receipts)
    return receipts


HEARTBEATS: Counter[str] = Counter()
"""That the scheduler has heard, in its process."""


def count_heartbeats(dask_scheduler) -> None:
    """Have a scheduler count the heartbeats of its workers."""
    real = dask_scheduler.handlers["heartbeat_worker"]

    def counted(*words, **named):
        HEARTBEATS["heard"] += 1
        return real(*words, **named)

    dask_scheduler.handlers["heartbeat_worker"] = counted


def heartbeats() -> int:
    return HEARTBEATS["heard"]


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


@dataclass
class Simulation:
    """A scheduler and its sleeping workers."""

    client: Client
    processes: dict[str, list[psutil.Process]]
    folder: Path

    def state(self) -> dict[str, float]:
        """Return the processor time of all so far, and what the scheduler waited for and heard."""
        found = {"time": time.monotonic(), "heartbeats": self.client.run_on_scheduler(heartbeats)}
        for name, some in self.processes.items():
            found[name] = sum(sum(one.cpu_times()[:2]) for one in some)
        thread = self.processes["scheduler"][0].pid
        ran, waited, _ = Path(f"/proc/{thread}/task/{thread}/schedstat").read_text().split()
        return found | {"busy": (int(ran) + int(waited)) / 1e9, "waits": int(waited) / 1e9}


def per_second(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    seconds = after["time"] - before["time"]
    return {name: (after[name] - before[name]) / seconds for name in after if name != "time"}


@contextlib.contextmanager
def started(n: int, folder: Path) -> Iterator[Simulation]:
    """Have a scheduler and `n` workers."""
    with contextlib.ExitStack() as stack:

        def start(*words: str) -> psutil.Process:
            process = subprocess.Popen(
                [sys.executable, *words],
                env={
                    **os.environ,
                    "PYTHONPATH": ":".join(found),
                    "DASK_INTERNAL_INHERIT_CONFIG": dask.config.serialize(CONFIG),
                },
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return psutil.Process(process.pid)

        # The scheduler has to know what tasks call, as it has to know scatflow.
        found = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        told = folder / f"scheduler-{time.monotonic_ns()}.json"
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
        client.run_on_scheduler(count_heartbeats)
        # All have loaded what they need before anything is counted.
        first = partial(sleep_all, 0.1, 0.0, Key("", "", ""))
        client.gather(client.map(first, 3 * n * [[0]], pure=False))
        processes = {"scheduler": [scheduler], "client": [psutil.Process()], "hosts": workers}
        yield Simulation(client, processes, folder)


class EnoughError(Exception):
    """Ends a run once it has been measured."""


@dataclass
class Meter:
    """Counts between two moments of a run; called between its ticks."""

    simulation: Simulation
    ledger: Ledger
    watch: Watch
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
        elif now >= self.warm + self.last:
            self.found = per_second(self._before, self._state())
            raise EnoughError

    def _state(self) -> dict[str, float]:
        told = {"blocks": self.watch.tally.blocks, "tasks": self.tasks}
        return self.simulation.state() | told

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


def measure(simulation: Simulation, seconds: float, most: float, last: float) -> dict:
    """Run with blocks that take so long, in tasks of `most` seconds, and return the figures."""
    name, client = f"{time.monotonic_ns()}.zarr", simulation.client
    ledger = Ledger.create(
        zarr.open_group(simulation.folder / name, mode="w"), {}, "simulated", BLOCKS
    )
    told = Run("simulated", "simulated", "simulated", name, {}, str)
    with open(os.devnull, "w") as nowhere:
        watch = Watch(told, [Terminal(Console(file=nowhere))], lambda _: None)
        cluster = existing(client, client.scheduler.address, 1)
        warm = 1.5 * max(seconds, most) + 2 + cluster.held / 300
        meter = Meter(simulation, ledger, watch, warm, max(last, 2 * seconds))
        cluster = replace(cluster, check=meter, lasting=False)
        watched(meter)
        groups_module.TASK_SECONDS = most
        window_module.process_all = partial(sleep_all, seconds, most)
        key = Key(name, "", "simulated")
        with contextlib.suppress(EnoughError):
            some = [Lot(ledger.pending(), "numpy", Staff(cluster, {}))]
            run_module._work_through(cluster, key, some, ledger, watch, lambda _: None)
    if watch.tally.failed:
        sys.exit(f"blocks failed: {next(iter(watch.tally.failures.items()))}")
    while any(client.processing().values()):  # What was cancelled while it slept.
        time.sleep(0.1)
    flush_seconds, flush_bytes = np.mean(meter.flushes, axis=0)
    return {
        "workers": cluster.held,
        "block_seconds": seconds,
        "blocks_per_task": max(1, min(int(most / seconds), MOST)),
        "window": meter.window._most,
        "ideal": cluster.held / seconds,
        **meter.found,
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


def idle(simulation: Simulation) -> dict[str, float]:
    """Return what workers and scheduler do while there is nothing to compute."""
    before = simulation.state()
    time.sleep(IDLE_SECONDS)
    found = per_second(before, simulation.state())
    return {"idle_scheduler": found["scheduler"], "idle_heartbeats": found["heartbeats"]}


HEAD = (
    "workers | block | ideal | blocks/s | tasks/s | window | scheduler | waits | client | workers "
    "| heartbeats | flush | memory"
)


def head() -> list[str]:
    return [f"| {HEAD} |", "| --- " * (HEAD.count("|") + 1) + "|"]


def row(one: dict) -> str:
    def each(name: str) -> str:
        return f"{1e3 * one[name] / max(one['tasks'], 1e-9):.1f} ms, {one[name]:.0%}"

    cells = (
        f"{one['workers']:,}",
        f"{one['block_seconds']:g} s",
        f"{one['ideal']:,.0f}/s",
        f"{one['blocks']:,.0f} ({one['blocks'] / one['ideal']:.0%})",
        f"{one['tasks']:,.0f}",
        f"{one['window']:,}",
        f"{each('scheduler')} (idle {one['idle_scheduler']:.0%})",
        f"{one['waits']:.0%}",
        each("client"),
        each("hosts"),
        f"{one['heartbeats']:.0f}/s",
        f"{one['flush_ms']:.0f} ms, {one['flush_bytes'] / 1024:,.0f} KiB",
        f"{one['scheduler_bytes'] / 2**20:.0f} and {one['client_bytes'] / 2**20:.0f} MiB",
    )
    return f"| {' | '.join(cells)} |"


def simulate(
    workers: list[int], seconds: list[float], last: float, most: float = TASK_SECONDS
) -> Iterator[dict]:
    """Yield the figures of each number of workers with each time of a block."""
    with tempfile.TemporaryDirectory(prefix="scatflow-", ignore_cleanup_errors=True) as name:
        for n, one in itertools.product(workers, seconds):
            # A scheduler of its own for each: it remembers how long tasks of a name took.
            with started(n, Path(name)) as simulation:
                found = idle(simulation) | measure(simulation, one, most, last)
                for who in ("scheduler", "client"):
                    found[f"{who}_bytes"] = simulation.processes[who][0].memory_info().rss
                found["load"] = os.getloadavg()[0]
            yield found


def limit(n: int, lengths: list[float], last: float) -> Iterator[dict]:
    """Yield the figures of tasks of one block, shorter and shorter, until something is busy."""
    for one in simulate([n], lengths, last, most=0.0):
        yield one
        if one["busy"] >= BUSY:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, nargs="*", default=[10, 100, 300, 1000])
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0, 1.0, 0.2, 0.1])
    parser.add_argument("--limit", type=int, default=100, help="workers (0: leave it out)")
    parser.add_argument(
        "--lengths", type=float, nargs="+", default=[1.0, 0.5, 0.2, 0.1, 0.05, 0.02]
    )
    parser.add_argument("--last", type=float, default=10.0)
    parser.add_argument("--output", type=Path, help="folder for the figures")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that its processes end, too.
    results: dict[str, list[dict]] = {"grid": [], "limit": []}
    with dask.config.set(CONFIG):
        print(*head(), sep="\n", flush=True)
        for one in simulate(options.workers, options.seconds, options.last):
            results["grid"].append(one)
            print(row(one), flush=True)
        if options.limit:
            print("", "Tasks of one block each:", "", *head(), sep="\n", flush=True)
            for one in limit(options.limit, options.lengths, options.last):
                results["limit"].append(one)
                print(row(one), flush=True)
    if options.output is not None:
        results["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
        (options.output / "simulated.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    import simulated  # By its name, so that tasks name its function instead of carrying it.

    simulated.main()
