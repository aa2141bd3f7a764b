"""What plans say of memory, and what workers take."""

import sys
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from scatflow.cli.texts import plan_lines
from scatflow.flow.job import load
from scatflow.flow.plan import memory, peak_bytes, summary

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import memory as suite
import threads


@pytest.mark.parametrize("name", ["tight", "whole64"])
def test_a_worker_takes_no_more_than_was_announced(name, tmp_path):
    taken, told = suite.measure(suite.CASES[name], tmp_path)
    announced = told["peak_bytes_per_worker"]
    assert announced / 2.5 < taken <= announced


def test_a_plan_names_what_the_memory_is_for(place, noise):
    place.archive(noise)
    told = summary(place.plan(), None)
    items = told["memory_per_worker"]
    assert sum(items.values()) == told["peak_bytes_per_worker"]
    assert {"libraries", "filters", "output", "encoding"} == {k for k, n in items.items() if n}
    reading = memory(place.plan(source="isel = {time = [0, 20000]}").work, 1, 2)
    assert {"block", "chunks being decoded"} <= {k for k, n in reading.items() if n}
    text = "\n".join(plan_lines(told))
    assert all(name in text for name, n in items.items() if n)


def test_a_longer_archive_takes_no_more_memory(place, noise):
    """Beyond the length of one block, what a worker holds does not know the archive's length."""
    sizes = []
    for copies in (20, 40):
        place.archive(np.tile(noise[:1], (1, copies)), chunks=(1, 2**16))
        work = place.plan().work
        sizes.append(memory(work, 1, 2))
        assert peak_bytes(work, 1, 2) == sum(sizes[-1].values())
    assert sizes[0] == sizes[1]


def test_the_job_that_benchmarks_of_whole_runs_share_is_one(tmp_path, monkeypatch):
    said = "ready after 1.0 s\n9 samples/s, 9 per thread; the engine took 90% of the time"
    ended = CompletedProcess([], 0, said, "")
    monkeypatch.setattr(threads.subprocess, "run", lambda *_, **__: ended)
    threads.run(tmp_path, {"cluster": "local", "workers": 2, "threads": 1})
    job = load(tmp_path / "job.toml")
    assert (job.name, job.workers, job.engine.Q) == ("archive-benchmark", 2, (8, 1))
