"""Small archives and jobs on them, run without or with a cluster."""

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import zarr

from scatflow.dataset import COEFFICIENTS, open_arrays
from scatflow.flow import layout
from scatflow.flow import run as run_module
from scatflow.flow.answers import Answers
from scatflow.flow.block import compute
from scatflow.flow.job import parse
from scatflow.flow.output import make
from scatflow.flow.plan import prepare
from scatflow.flow.run import run
from scatflow.flow.work import written

TIME = {"time": {"start": "2010-09-01T00:00:00.000000000", "step": [10_000_000, 1], "units": "ns"}}
STATIONS = [f"YA.UV{i:02d}" for i in range(5, 15)]

JOB = """
name = "test"
[source]
store = "archive.zarr"
variable = "waveform"
{source}
[transform]
{transform}
[output]
store = "{output}"
dtype = "{dtype}"
[run]
cluster = "{cluster}"
workers = {workers}
threads = {threads}
memory = "{memory}"
"""

SEAMLESS = """kind = "scattering1d"
dims = ["time"]
J = 4
Q = [2, 1]
boundary = "seamless"
"""


@dataclasses.dataclass
class Place:
    """A folder with an archive and jobs."""

    path: Path

    def archive(self, data, dims=("station", "time"), chunks=None, shards=None, name="waveform"):
        """Write an archive; an earlier one at the same place is replaced."""
        group = zarr.open_group(str(self.path / "archive.zarr"), mode="w", zarr_format=3)
        axes = TIME if "time" in dims else {}
        array = group.create_array(
            name,
            shape=data.shape,
            dtype=data.dtype,
            chunks=chunks or data.shape,
            shards=shards,
            dimension_names=dims,
            attributes={"axes": axes, "units": "count"},
        )
        array[...] = data
        if "station" in dims:
            n = data.shape[dims.index("station")]
            names = group.create_array(
                "station", shape=(n,), dtype=str, dimension_names=["station"]
            )
            names[...] = np.array(STATIONS[:n])
        return array

    def text(self, transform=SEAMLESS, output="out.zarr", dtype="float32", source="", **run):
        run = {"cluster": "threads", "workers": 2, "threads": 1, "memory": "2 GiB", **run}
        return JOB.format(transform=transform, output=output, dtype=dtype, source=source, **run)

    def job(self, **changes):
        return parse(self.text(**changes), self.path / "job.toml")

    def plan(self, **changes):
        return prepare(self.job(**changes), str(self.path))

    def run(self, fresh=False, **changes):
        """Run a job on threads of this process; return the exit code and what was said."""
        said = []
        plan = prepare(self.job(**changes), str(self.path), fresh=fresh)
        code = run(plan, fresh=fresh, say=said.append)
        return code, "\n".join(said)

    def compute(self, order=None, **changes):
        """Compute every block in this thread, without a cluster, and return the coefficients."""
        plan = self.plan(**changes)
        make(plan.output, plan.work, plan.template)
        arrays = open_arrays(plan.output, written(plan.work))
        blocks = range(plan.n_blocks) if order is None else order(plan.n_blocks)
        receipts = [compute(plan.work, arrays, int(index)) for index in blocks]
        return np.asarray(arrays[COEFFICIENTS][...]), receipts

    def bytes(self, output="out.zarr"):
        """Return all objects of a store."""
        top = self.path / output
        return {str(p.relative_to(top)): p.read_bytes() for p in top.rglob("*") if p.is_file()}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path)


@pytest.fixture(scope="module")
def shared_place(tmp_path_factory):
    """Return a place that the tests of a module share."""
    return Place(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def small_blocks(monkeypatch):
    """Cut small archives into many blocks."""
    monkeypatch.setattr(layout, "TARGET_SAMPLES", 2**17)


class Inline:
    """A cluster that computes each block in this thread, at once: a future that has ended."""

    def __init__(self, result=None):
        self._result = result
        self.held = self.slots = 1
        self.workers, self.processors, self.each = {}, {}, 1
        self.coming = False
        self.dashboard, self.lasting = "nowhere", False
        self.check = lambda: None
        self.status, self.key = "finished", "the only task"

    client = property(lambda self: self)

    def subscribe_topic(self, topic, hear):
        pass

    def submit(self, function, *words, **_):
        return Inline(function(*words))

    def gather(self, futures):
        return [future.result() for future in futures]

    def add_done_callback(self, call):
        call(self)

    def result(self):
        return self._result

    def release(self):
        pass

    def cancel(self, futures):
        pass


@pytest.fixture
def inline(monkeypatch):
    """Compute without a cluster's threads, which take a second to start."""
    monkeypatch.setattr(run_module, "connect", lambda _: contextlib.nullcontext(Inline()))
    monkeypatch.setattr(run_module, "ask", lambda *_: Answers({}, []))


@pytest.fixture
def noise():
    """Return four records of 300 001 samples: two or three canonical blocks each."""
    return np.random.default_rng(0).standard_normal((4, 300_001)).astype(np.float32)
