"""Labelled arrays: what a run writes, lazily, for any chunks."""

import subprocess
import sys
import threading
import weakref
from unittest import mock

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.callbacks import Callback
from dask.delayed import delayed
from hypothesis import given, settings
from hypothesis import strategies as st

import scatflow
from scatflow.errors import InputShapeError, InputTypeError, ParameterError, SourceError
from scatflow.flow.job import parse
from scatflow.flow.plan import prepare
from scatflow.flow.run import run
from scatflow.labelled import scattering

RNG = np.random.default_rng(0)

JOB = """
name = "labelled"
[source]
store = "archive.zarr"
variable = "waveform"
[transform]
{transform}
[output]
store = "out.zarr"
dtype = "{dtype}"
[run]
cluster = "threads"
"""


def signals(n=4096, stations=3, dtype="float32"):
    time = np.datetime64("2010-09-01", "ns") + np.arange(n) * np.timedelta64(10, "ms")
    return xr.DataArray(
        RNG.standard_normal((stations, n)).astype(dtype),
        {
            "station": [f"UV{i}" for i in range(stations)],
            "time": time,
            "lat": ("station", np.arange(stations) / 2, {"units": "degrees_north"}),
            "network": "YA",
        },
        ("station", "time"),
        "waveform",
        {"units": "m/s"},
    )


def gappy():
    found = signals(60_000, 2)
    found[0, 20_000:21_000] = np.nan
    found[1, 5] = np.nan
    return found


def images():
    x = RNG.standard_normal((2, 40, 48))
    return xr.DataArray(x, {"y": np.arange(40) * 0.5}, ("file", "y", "x"), "waveform")


def volumes():
    return xr.DataArray(
        RNG.standard_normal((2, 16, 16, 16)), dims=("mol", "z", "y", "x"), name="waveform"
    )


CASES = {
    "whole signals": (
        signals,
        'kind = "scattering1d"\ndims = ["time"]\nJ = 6\nQ = [4, 1]',
        lambda x: x.scat.scattering1d(J=6, Q=4),
    ),
    "frames": (
        signals,
        'kind = "scattering1d"\ndims = ["time"]\nJ = 5\nboundary = "frames"\n'
        "frame = 1000\nhop = 700",
        lambda x: x.scat.scattering1d(J=5, boundary="frames", frame=1000, hop=700),
    ),
    "seamless with gaps": (
        gappy,
        'kind = "scattering1d"\ndims = ["time"]\nJ = 6\nQ = [4, 1]\nboundary = "seamless"',
        lambda x: x.scat.scattering1d(J=6, Q=4, boundary="seamless"),
    ),
    "gaps by weight": (
        gappy,
        'kind = "scattering1d"\ndims = ["time"]\nJ = 6\ngaps = "weight"',
        lambda x: x.scat.scattering1d(J=6, gaps="weight"),
    ),
    "images": (
        images,
        'kind = "scattering2d"\ndims = ["y", "x"]\nJ = 2\nL = 4',
        lambda x: x.scat.scattering2d(["y", "x"], J=2, L=4),
    ),
    "volumes": (
        volumes,
        'kind = "scattering3d"\ndims = ["z", "y", "x"]\nJ = 1\nL = 2',
        lambda x: x.scat.scattering3d(["z", "y", "x"], J=1, L=2),
    ),
    "periodic volumes in tiles": (
        volumes,
        'kind = "scattering3d"\ndims = ["z", "y", "x"]\nJ = 1\nL = 1\nsigma_0 = 2.0\n'
        'boundary = "seamless"\nedges = "periodic"',
        lambda x: x.scat.scattering3d(
            ["z", "y", "x"], J=1, L=1, sigma_0=2.0, boundary="seamless", edges="periodic"
        ),
    ),
    "time and frequency": (
        signals,
        'kind = "timefrequency"\ndims = ["time"]\nJ = 6\nJ_fr = 3\nQ = 4',
        lambda x: x.scat.timefrequency(J=6, J_fr=3, Q=4),
    ),
}


SLOW = "periodic volumes in tiles"  # of 16 voxels, in a tile of many more


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("lazy", [False, True], ids=["numpy", "dask"])
@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
def test_a_labelled_array_gives_what_a_run_writes(case, lazy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, transform, scatter = CASES[case]
    array = make()[: 1 if case == SLOW else None]
    array.to_dataset().to_zarr("archive.zarr", zarr_format=3)
    text = JOB.format(transform=transform, dtype=array.dtype)
    job = parse(text, tmp_path / "job.toml")
    assert run(prepare(job, str(tmp_path)), say=lambda _: None) == 0
    with xr.open_zarr("out.zarr") as written:
        expected = written.drop_vars([n for n in written.variables if n.startswith("ledger")])
        found = scatter(array.chunk(dict.fromkeys(array.dims, 7)) if lazy else array)
        assert found["scattering"].chunks is not None or not lazy
        assert found["scattering"].dims == expected["scattering"].dims
        for each in (expected, found):  # A job names its backend, and its store.
            assert each.scat.engine.kind in transform
            for name in ("source", "history", "scatflow_spec"):
                del each.attrs[name]
        xr.testing.assert_identical(found.compute(), expected.compute())


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_seamless_coefficients_are_the_same_bytes_for_any_chunks(data):
    array = SEAMLESS
    sizes = {
        dim: data.draw(st.integers(1, n) if n < 10 else st.integers(n // 9, n), dim)
        for dim, n in array.sizes.items()
    }
    expected = scatflow.scatter(array, ENGINE, boundary="seamless").scattering
    found = scatflow.scatter(array.chunk(sizes), ENGINE, boundary="seamless").scattering
    assert found.compute().values.tobytes() == expected.values.tobytes()


ENGINE = scatflow.Scattering1D(J=5, Q=2)
SEAMLESS = signals(30_000, 3)


def unread():
    """Return an array that nobody may look at."""

    @delayed
    def fail():
        raise AssertionError("computed")

    return signals().copy(data=da.from_delayed(fail(), (3, 4096), "float32"))


def unknown(array):
    """Return a lazy array that does not know how long it is."""
    data = array.chunk(time=1000).data[0]
    return xr.DataArray(data[data > 0], dims="time")


def test_nothing_is_computed_before_it_is_asked_for():
    found = scatflow.scatter(unread(), ENGINE)
    found = found.scat.order(1).scat.log(1e-6).scat.downsample(time=4)
    assert found.scat.n_blocks == 1
    assert found.scat.features("station").shape[0] == 3
    assert len(found.scat.paths) == len(found.path)
    with pytest.raises(AssertionError, match="computed"):
        found.compute()


def test_one_task_a_block_whatever_the_chunks():
    long = xr.DataArray(da.zeros((4, 2**23), "float32", chunks=(1, 2**16)), dims=("c", "time"))
    found = scatflow.scatter(long, ENGINE, boundary="seamless")
    assert 10 < found.scat.n_blocks < 100
    assert found.scattering.shape == (4, len(ENGINE.paths()), 2**18)


class Watched:
    """An archive that counts how many samples of it were read, and are in memory at once."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim
        self.lock, self.now, self.most, self.read = threading.Lock(), 0, 0, 0

    def __getitem__(self, where):
        values = self.array[where].copy()
        with self.lock:
            self.read += values.size
            self.now += values.size
            self.most = max(self.most, self.now)
        weakref.finalize(values, self.forget, values.size)
        return values

    def forget(self, size):
        with self.lock:
            self.now -= size


@pytest.fixture
def cheap(monkeypatch):
    """Let engines give something that takes no time, but depends on all samples of a tile."""

    def apply(plan, x):
        return np.full(plan.labelled_shape, x.std(), plan.dtype), 0.0

    monkeypatch.setattr("scatflow.flow.block._apply", apply)


VOLUME = {"J": 0, "L": 0, "sigma_0": 2.0, "max_order": 1, "boundary": "seamless"}


@pytest.mark.usefixtures("cheap")
def test_sums_over_a_volume_hold_some_of_its_tiles_at_a_time():
    x = RNG.standard_normal((8, 8, 1000), dtype=np.float32)
    watched = Watched(x)
    dims = ("z", "y", "x")
    lazy = xr.DataArray(da.from_array(watched, chunks=(8, 8, 25)), dims=dims)
    made = lazy.scat.scattering3d(**VOLUME)
    with dask.config.set(scheduler="threads", num_workers=2):
        found = made.compute()
    assert 0 < watched.most < 0.5 * x.size
    expected = xr.DataArray(x, dims=dims).scat.scattering3d(**VOLUME)
    assert found.scattering.values.tobytes() == expected.scattering.values.tobytes()


def of_many_channels(monkeypatch, waiting):
    """Return how much of an array lazy scattering holds at a time, and how much it reads."""
    monkeypatch.setattr(scattering, "WAITING_BYTES", waiting)
    x = RNG.standard_normal((16, 600_000), dtype=np.float32)
    watched = Watched(x)
    lazy = xr.DataArray(da.from_array(watched, chunks=(16, 15_000)), dims=("channel", "time"))
    made = scatflow.scatter(lazy, scatflow.Scattering1D(J=3), boundary="seamless")
    assert made.scat.n_blocks >= 8
    most = [0]

    def look(_key, _result, _graph, state, _worker):
        kept = [value for value in state["cache"].values() if isinstance(value, np.ndarray)]
        most.append(sum(value.nbytes for value in kept if value.shape[-1] <= 15_000))

    with dask.config.set(scheduler="synchronous"), Callback(posttask=look):
        found = made.scattering.compute().values
    expected = scatflow.scatter(
        xr.DataArray(x, dims=lazy.dims), scatflow.Scattering1D(J=3), boundary="seamless"
    )
    assert found.tobytes() == expected.scattering.values.tobytes()
    return max(most) / x.nbytes, watched.read / x.size


def test_chunks_of_many_channels_are_read_once_where_all_may_wait(monkeypatch):
    held, read = of_many_channels(monkeypatch, 2**28)
    assert read == 1
    assert held > 0.5  # So the next test measures something.


def test_chunks_of_many_channels_do_not_wait_where_they_would_be_too_many(monkeypatch):
    held, read = of_many_channels(monkeypatch, 2**20)
    assert held < 0.2
    assert read < 1.1  # Each channel by itself: the cut goes into the reading.


@given(st.data())
@settings(max_examples=15)
def test_shared_chunks_and_those_read_anew_give_the_same(data):
    x = RNG.standard_normal((3, 6_000), dtype=np.float32)
    cuts = [sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=5))) for n in x.shape]
    chunks = tuple(
        tuple(np.diff([0, *cut, n]).tolist()) for cut, n in zip(cuts, x.shape, strict=True)
    )
    edges = data.draw(st.sampled_from(["reflect", "periodic"]))
    engine, dims = scatflow.Scattering1D(J=3), ("channel", "time")
    words = {"boundary": "seamless", "edges": edges}
    expected = scatflow.scatter(xr.DataArray(x, dims=dims), engine, **words).scattering
    for waiting in (0, 2**28):
        with mock.patch.object(scattering, "WAITING_BYTES", waiting):
            lazy = xr.DataArray(da.from_array(x, chunks=chunks), dims=dims)
            found = scatflow.scatter(lazy, engine, **words).scattering
        assert found.compute(scheduler="synchronous").values.tobytes() == expected.values.tobytes()


@pytest.mark.usefixtures("cheap")
def test_values_at_points_of_a_lazy_volume_are_those_of_one_in_memory():
    x = xr.DataArray(RNG.standard_normal((2, 8, 8, 200), dtype=np.float32), dims=("m", *"zyx"))
    x[1, :, :, 199] = np.nan
    local = {**VOLUME, "method": "local", "points": ((1, 2, 3), (4, 4, 190), (0, 1, 100))}
    expected = x.scat.scattering3d(**local)
    assert expected.scattering[1].isnull().any()
    assert expected.scattering[1].notnull().any()
    xr.testing.assert_identical(x.chunk(x=50).scat.scattering3d(**local).compute(), expected)


def test_a_mask_says_where_samples_are_missing():
    array = signals()
    mask = xr.zeros_like(array, dtype=bool)
    mask[1, 2000:2100] = True
    found = scatflow.scatter(array, ENGINE, mask=mask)
    assert found.scattering[1].isnull().any()
    assert found.scattering[0].notnull().all()
    assert float(found.valid_fraction[1].min()) < 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda mask: mask.isel(time=slice(0, 100)), "different samples"),
        (lambda mask: mask.rename(station="sensor"), "those of the mask"),
        (lambda mask: mask.values, "ndarray"),
    ],
)
def test_a_mask_of_other_samples_is_refused(change, words):
    array = signals()
    with pytest.raises(ParameterError, match=words):
        scatflow.scatter(array, ENGINE, mask=change(xr.zeros_like(array, dtype=bool)))


def test_missing_samples_are_refused_where_that_is_asked_for():
    with pytest.raises(SourceError, match="1 of 60000 samples are not finite"):
        scatflow.scatter(gappy()[1:], ENGINE, gaps="raise")


def test_infinite_samples_are_refused():
    array = signals()
    array[2, 7] = np.inf
    with pytest.raises(SourceError, match="not finite"):
        scatflow.scatter(array, ENGINE)


def test_frequencies_follow_the_coordinate():
    array = xr.DataArray(np.zeros(512), {"depth": np.arange(512) * 0.25}, ("depth",))
    array.depth.attrs["units"] = "m"
    found = scatflow.scatter(array, scatflow.Scattering1D(J=4))
    assert found.xi1.attrs["units"] == "cycles/m"
    plain = scatflow.scatter(array.drop_vars("depth"), scatflow.Scattering1D(J=4))
    assert plain.xi1.attrs["units"] == "cycles/sample"
    np.testing.assert_allclose(found.xi1[1:], 4 * plain.xi1[1:])


@pytest.mark.parametrize("boundary", [{}, {"boundary": "frames", "frame": 256}])
def test_durations_are_time(boundary):
    steps = np.arange(512) * np.timedelta64(10_000_000, "ns")
    array = xr.DataArray(RNG.standard_normal(512), {"time": steps}, ("time",))
    found = scatflow.scatter(array, scatflow.Scattering1D(J=4), **boundary)
    seconds = array.assign_coords(time=("time", np.arange(512) / 100, {"units": "s"}))
    expected = scatflow.scatter(seconds, scatflow.Scattering1D(J=4), **boundary)
    assert found.xi1.attrs["units"] == "Hz"
    xr.testing.assert_allclose(found.xi1, expected.xi1)
    for dim in {"time", "frame"} & set(found.coords):
        assert found[dim].dtype == "timedelta64[ns]"
        np.testing.assert_allclose(found[dim] / np.timedelta64(1, "s"), expected[dim])


def test_a_coordinate_that_a_label_would_hide_is_refused():
    array = signals().assign_coords(label=("station", ["quake", "noise", "quake"]))
    with pytest.raises(ParameterError, match=r"coordinate 'label'.*\.rename\(label="):
        scatflow.scatter(array, ENGINE)
    found = scatflow.scatter(array.rename(label="class"), ENGINE)
    assert list(found["class"].values) == ["quake", "noise", "quake"]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda x: scatflow.scatter(x.values, ENGINE), ParameterError, "xarray.DataArray"),
        (lambda x: scatflow.scatter(x, "S"), ParameterError, "engine"),
        (lambda x: scatflow.scatter(x, ENGINE, dim="tim"), ParameterError, "'tim'"),
        (lambda x: scatflow.scatter(x, ENGINE, dim=["station", "time"]), ParameterError, "1 dim"),
        (lambda x: scatflow.scatter(x + 1j, ENGINE), InputTypeError, "complex64"),
        (lambda x: scatflow.scatter(x[:, :16], ENGINE), ParameterError, "J"),
        (lambda x: scatflow.scatter(x, ENGINE, gaps="zero"), ParameterError, "gaps"),
        (lambda x: scatflow.scatter(x, ENGINE, frame=9), ParameterError, "frames"),
        (lambda x: scatflow.scatter(x, ENGINE, boundary="frames"), ParameterError, "frame"),
        (lambda x: x.scat.scattering1d(J=4, shape=64), InputShapeError, "(64,)"),
        (lambda x: x.scat.scattering1d(J=4, q=8), ParameterError, "'q'"),
        (lambda x: scatflow.scatter(x, ENGINE, threads=0), ParameterError, "threads"),
        (lambda x: scatflow.scatter(x[:0], ENGINE), ParameterError, "empty"),
        (lambda x: scatflow.scatter(x[:, :0], ENGINE), ParameterError, "empty"),
        (lambda x: scatflow.scatter(x.rename(station="path"), ENGINE), ParameterError, "'path'"),
        (
            lambda x: scatflow.scatter(xr.DataArray(x.values, dims=(0, "time")), ENGINE),
            ParameterError,
            "named by a int",
        ),
        (lambda x: scatflow.scatter(unknown(x), ENGINE), InputShapeError, "compute_chunk_sizes"),
        (
            lambda x: x.to_dataset().scat.order(1),
            SourceError,
            "holds no",
        ),
        (lambda x: x.to_dataset().scat.engine, SourceError, "scatflow_spec"),
        (lambda x: scatflow.scatter(x[:, [0, *range(2, 999)]], ENGINE), SourceError, "interp"),
    ],
)
def test_mistakes_are_told_before_anything_is_computed(change, error, words):
    with pytest.raises(error) as told:
        change(signals())
    assert words in str(told.value)


@pytest.mark.parametrize(
    "imports",
    [
        "import scatflow\nimport xarray as xr",
        "import xarray as xr\nimport scatflow",
        "import scatflow, importlib.util\nimportlib.util.find_spec('xarray')\nimport xarray as xr",
    ],
    ids=["before xarray", "after xarray", "before others look whether xarray is installed"],
)
def test_the_accessor_is_there_whichever_is_imported_first(imports):
    program = (
        f"{imports}\nimport numpy as np, sys\nassert 'dask' not in sys.modules\n"
        "print(xr.DataArray(np.zeros(64), dims='time').scat.scattering1d(J=3).sizes['path'])"
    )
    words = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "8\n"), done.stderr
