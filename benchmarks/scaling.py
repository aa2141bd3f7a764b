"""Time whole runs with one worker and with two: the same archive, and twice the archive for two.

    python benchmarks/scaling.py [--gib 0.125] [--repeat 3] [--output docs/benchmarks]

Makes two archives of noise, one twice as long as the other, and runs `scatflow run` from store to
store at J=10, Q=8 with workers of one thread: one and two of them on the short archive (strong
scaling), two on the long one (weak scaling). The three take turns, as often as asked, so that other
programs on the machine hit all alike; each figure is a median. The rate is from the first block to
the last. Efficiency is the rate of two workers over twice that of one. Processor time is that of
all processes of a run and of each million of samples: the figure that other programs disturb least,
and what it grows by with two workers is what they lose to each other. With --output it writes JSON
and a page.
"""

from __future__ import annotations

import os
import statistics
from pathlib import Path

from archive import make_archive
from threads import publish, run

RUNS = {
    "1 worker": (1, 1),
    "2 workers, same archive": (2, 1),
    "2 workers, twice the archive": (2, 2),
}
"""Workers, and how many times the short archive they are given."""


def measure(gib: float, repeat: int, folder: Path) -> dict:
    """Return the medians of all runs."""
    folders, samples = {}, {}
    for times in (1, 2):
        folders[times] = folder / f"{times}"
        folders[times].mkdir()
        samples[times] = make_archive(folders[times] / "archive.zarr", times * gib) // 4
    runs: dict[str, list[dict]] = {name: [] for name in RUNS}
    run(folders[1], {"cluster": "local", "workers": 1, "threads": 1})  # The first may compile.
    for _ in range(repeat):
        for name, (workers, times) in RUNS.items():
            settings = {"cluster": "local", "workers": workers, "threads": 1}
            found = run(folders[times], settings)
            found["cpu_per_million"] = 1e6 * found["cpu_seconds"] / samples[times]
            found["load"] = os.getloadavg()[0]
            runs[name].append(found)
    results = {}
    for name, (workers, times) in RUNS.items():
        found = runs[name]
        results[name] = {key: statistics.median(one[key] for one in found) for key in found[0]}
        rates = [one["samples_per_second"] for one in found]
        results[name] |= {"range": [min(rates), max(rates)], "samples": samples[times]}
        alone = workers * results["1 worker"]["samples_per_second"]
        results[name]["efficiency"] = results[name]["samples_per_second"] / alone
    return {"repetitions": repeat, "results": results}


def lines(told: dict) -> list[str]:
    """Return the results as a table."""
    rows = [
        "| run | samples | samples/s (range) | efficiency | whole run | processor time "
        "| of a million samples | load |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in told["results"].items():
        low, high = (n / 1e6 for n in one["range"])
        rows.append(
            f"| {name} | {one['samples'] / 1e6:.0f} million "
            f"| {one['samples_per_second'] / 1e6:.2f} million ({low:.2f} to {high:.2f}) "
            f"| {one['efficiency']:.0%} | {one['total_seconds']:.1f} s "
            f"| {one['cpu_seconds']:.1f} s | {one['cpu_per_million']:.3f} s | {one['load']:.1f} |"
        )
    return rows


def page(told: dict) -> str:
    return "\n".join(
        [
            "# Whole runs: one worker and two",
            "",
            f"Taken on {told['date']} by `{told['command']}`: {told['machine']}.",
            "",
            "Archives of 8 channels, float32, not compressed, from store to store at J=10, Q=8, "
            f"seamless; medians of {told['repetitions']} alternating repetitions. The rate is from "
            "the first block to the last; the whole run has the start of Python and of the workers "
            "in it. Efficiency is the rate over that of as many single workers. Where the load is "
            "above the machine's processors, other programs were at work: rates and efficiency "
            "are then theirs as much as ours, and processor time is the figure to rely on.",
            "",
            *lines(told),
            "",
        ]
    )


if __name__ == "__main__":
    publish("scaling", __doc__, 0.125, measure, lines, page)
