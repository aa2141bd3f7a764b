"""Prometheus metrics, on the addresses that Dask serves its own on (``/metrics``).

Workers count what they compute; the scheduler, which has the panel, tells of each run. Dask serves
metrics where the package prometheus_client is installed, and elsewhere none of this is done.
"""

from __future__ import annotations

import functools
import importlib.util
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scatflow.flow.block import Receipt
    from scatflow.flow.sight.board import Shown

COUNTERS = {
    "scatflow_blocks_done": "Blocks that this worker has computed.",
    "scatflow_blocks_failed": "Attempts at a block that failed on this worker.",
    "scatflow_samples": "Samples of the blocks that this worker has ended.",
    "scatflow_written_bytes": "Bytes of coefficients before compression.",
    "scatflow_engine_seconds": "Seconds in the engine.",
    "scatflow_block_seconds": "Seconds from the beginning of a block to its end.",
}
"""What workers count, by job; Prometheus adds ``_total``."""

GAUGES = {
    "scatflow_run_blocks": "Blocks of the output.",
    "scatflow_run_blocks_done": "Blocks that have ended, in this run or before it.",
    "scatflow_run_blocks_failed": "Blocks that failed in this run.",
    "scatflow_run_samples": "Samples that this run has gone through.",
    "scatflow_run_written_bytes": "Bytes of coefficients before compression.",
    "scatflow_run_engine_seconds": "Seconds in the engine, summed over the workers.",
    "scatflow_run_at_work": "1 while the run goes on.",
}
"""What the scheduler tells, by job and run."""

LOCK = threading.Lock()


@functools.lru_cache(maxsize=64)
def _counters(job: str) -> tuple[Any, ...]:
    return tuple(counter.labels(job=job) for counter in _registered())


@functools.cache
def _registered() -> tuple[Any, ...]:
    """Return this process's counters, none where there is no prometheus_client."""
    if importlib.util.find_spec("prometheus_client") is None:
        return ()
    from prometheus_client import Counter

    return tuple(Counter(name, words, ["job"]) for name, words in COUNTERS.items())


def count(job: str, receipt: Receipt) -> None:
    """Count one attempt at a block that this process made."""
    with LOCK:  # A counter can be registered once.
        counters = _counters(job)
    if not counters:
        return
    done, failed, samples, written, engine, seconds = counters
    (done if receipt.failure is None else failed).inc()
    samples.inc(receipt.samples)
    written.inc(receipt.bytes_written)
    engine.inc(receipt.engine_seconds)
    seconds.inc(receipt.seconds)


class RunsCollector:
    """Tells Prometheus of the runs that a scheduler knows.

    Parameters
    ----------
    runs : callable
        Returns them.
    """

    def __init__(self, runs: Callable[[], Iterable[Shown]]) -> None:
        self._runs = runs

    def collect(self) -> Iterator[Any]:
        """Yield one family of metrics after the other."""
        from prometheus_client.core import GaugeMetricFamily

        families = [GaugeMetricFamily(n, w, labels=["job", "run"]) for n, w in GAUGES.items()]
        for run in self._runs():
            last = run.history.points[-1]
            values = (
                run.total,
                last.done,
                last.failed,
                last.samples,
                last.bytes,
                last.engine_seconds,
                run.state == "running",
            )
            for family, value in zip(families, values, strict=True):
                family.add_metric([run.job, run.id], float(value))
        yield from families

    def register(self) -> Callable[[], None]:
        """Have Prometheus ask from now on; return what ends that."""
        if importlib.util.find_spec("prometheus_client") is None:
            return lambda: None
        from prometheus_client import REGISTRY

        REGISTRY.register(self)
        return functools.partial(REGISTRY.unregister, self)
