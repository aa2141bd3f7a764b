import os

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from scatflow.archive import open_source
from scatflow.archive import traces as module
from scatflow.archive.mseed import ingest_mseed, is_miniseed
from scatflow.archive.traces import GAP
from scatflow.errors import IngestError, MissingExtraError

MIDNIGHT = np.datetime64("2010-09-01", "ns")
A, B = "FDSN:XX_AAA__H_H_Z", "FDSN:XX_BBB_00_H_H_Z"


def after(samples, rate=100.0):
    """Return the time so many samples after midnight, as miniSEED writes it."""
    return f"{MIDNIGHT + np.timedelta64(round(samples * 1e9 / rate), 'ns')}Z"


@pytest.fixture
def write(tmp_path):
    def make(name, *parts):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(parts))
        return path

    return make


def everything(source):
    return source.read([slice(None)] * len(source.shape))


def noise(n, seed=0):
    return np.random.default_rng(seed).integers(-(10**5), 10**5, n).astype(np.int32)


# --- round trips -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
def test_counts_round_trip_with_time_rate_units_and_codes(write, record, tmp_path, version):
    a, b = noise(5000), noise(5000, 1)
    path = write("x", record(a, sid=A, version=version), record(b, sid=B, version=version))
    done = ingest_mseed(path, tmp_path / "o.zarr")
    source = open_source(str(tmp_path / "o.zarr"))
    assert (done.variable, done.dims, done.shape) == ("waveform", ("station", "time"), (2, 5000))
    assert (source.dtype, source.dims, source.shape) == ("int32", done.dims, done.shape)
    np.testing.assert_array_equal(everything(source), [a, b])
    assert source.coords["station"].values.tolist() == ["AAA", "BBB"]
    assert source.coords["network"].values.tolist() == ["XX", "XX"]
    assert source.coords["location"].values.tolist() == ["", "00"]
    assert source.coords["channel"].values.tolist() == ["HHZ", "HHZ"]
    assert source.attrs["units"] == "counts"
    assert source.axes["time"].rate_hz == source.attrs["sampling_rate"] == 100.0
    assert source.axes["time"].at([0])[0] == MIDNIGHT
    assert done.notes == ()


@pytest.mark.parametrize(("dtype", "encoding"), [("f4", 4), ("f8", 5), ("i4", 10), ("i4", 3)])
def test_the_type_of_samples_is_kept(write, record, tmp_path, dtype, encoding):
    samples = noise(3000).astype(dtype) / (1 if dtype == "i4" else 8)
    samples = samples.astype(dtype)
    ingest_mseed(write("x", record(samples, encoding=encoding)), tmp_path / "o.zarr")
    source = open_source(str(tmp_path / "o.zarr"))
    assert source.dtype == np.dtype(dtype)
    assert ("units" in source.attrs) == (dtype == "i4")
    np.testing.assert_array_equal(everything(source)[0], samples)


def test_channels_of_one_station_are_labelled_in_full(write, record, tmp_path):
    samples = noise(100)
    sids = [A, "FDSN:XX_AAA__H_H_N", "FDSN:XX_BBB__H_H_Z"]
    ingest_mseed(write("x", *[record(samples, sid=s) for s in sids]), tmp_path / "o.zarr")
    names = open_source(str(tmp_path / "o.zarr")).coords["station"].values.tolist()
    assert names == ["XX.AAA..HHN", "XX.AAA..HHZ", "XX.BBB..HHZ"]


def test_low_rates_given_as_periods_are_exact(write, record, tmp_path):
    ingest_mseed(write("x", record(noise(50), rate=-10.0)), tmp_path / "o.zarr")
    axis = open_source(str(tmp_path / "o.zarr")).axes["time"]
    assert axis.step == 10 * 10**9


# --- gaps and overlaps -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["i4", "f4"])
def test_gaps_stay_gaps(write, record, tmp_path, dtype):
    x = noise(1000).astype(dtype)
    encoding = 11 if dtype == "i4" else 4
    path = write(
        "x",
        record(x[:300], encoding=encoding),
        record(x[500:], start=after(500), encoding=encoding),
        record(x[:100], start=after(1500), encoding=encoding, sid=B),
    )
    done = ingest_mseed(path, tmp_path / "o.zarr")
    source = open_source(str(tmp_path / "o.zarr"))
    expected = np.full((2, 1600), np.nan)
    expected[0, :300], expected[0, 500:1000], expected[1, 1500:] = x[:300], x[500:], x[:100]
    assert source.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(everything(source), expected)
    assert done.notes == (
        f"{A}: 800 of 1600 samples are missing.",
        f"{B}: 1500 of 1600 samples are missing.",
    )
    seen = xr.open_zarr(str(tmp_path / "o.zarr"), consolidated=False, chunks=None)
    np.testing.assert_array_equal(seen["waveform"].values, expected)


def test_records_may_come_in_any_order_and_twice(write, record, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 128)
    monkeypatch.setattr(module, "SPARE", 0)
    x = noise(2000)
    pieces = [(a, a + 150) for a in range(0, 1900, 100)] + [(1900, 2000)]
    order = np.random.default_rng(1).permutation(len(pieces))
    parts = [record(x[slice(*pieces[i])], start=after(pieces[i][0])) for i in order]
    done = ingest_mseed([write("b", *parts[:8]), write("a", *parts[5:])], tmp_path / "o.zarr")
    np.testing.assert_array_equal(everything(open_source(str(tmp_path / "o.zarr")))[0], x)
    assert done.notes == ()


@settings(max_examples=25)
@given(data=st.data())
def test_any_set_of_pieces_gives_their_union(data, tmp_path_factory):
    x = noise(400)
    spans = data.draw(
        st.lists(st.tuples(st.integers(0, 399), st.integers(1, 90)), min_size=1, max_size=8)
    )
    folder = tmp_path_factory.mktemp("union")
    parts = [make_record(x[a : a + n], after(a)) for a, n in spans]
    (folder / "x").write_bytes(b"".join(parts))
    ingest_mseed(folder / "x", folder / "o.zarr")
    got = everything(open_source(str(folder / "o.zarr")))[0]
    expected = np.full(400, np.nan)
    for a, n in spans:
        expected[a : a + n] = x[a : a + n]
    first = min(a for a, _ in spans)
    last = max(min(a + n, 400) for a, n in spans)
    np.testing.assert_array_equal(got, expected[first:last])


def make_record(samples, start):
    import pymseed

    record = pymseed.MS3Record(reclen=512)
    record.sourceid, record.formatversion, record.encoding = A, 3, 11
    record.samprate = 100.0
    record.set_starttime_str(start)
    return b"".join(record.generate(samples.tolist(), "i"))


def test_a_conflicting_overlap_is_refused_with_its_time(write, record, tmp_path):
    x = noise(200)
    y = x[100:].copy()
    y[50] += 1
    path = write("x", record(x), record(y, start=after(100)))
    with pytest.raises(IngestError, match=r"contradict.* at 2010-09-01T00:00:01\.5000"):
        ingest_mseed(path, tmp_path / "o.zarr")
    assert not list(tmp_path.glob("o.zarr*"))


def test_a_sample_that_equals_the_fill_value_is_missing(write, record, tmp_path):
    x = np.array([1, GAP, 3], np.int32)
    ingest_mseed(write("x", record(x, encoding=3)), tmp_path / "o.zarr")
    got = everything(open_source(str(tmp_path / "o.zarr")))[0]
    np.testing.assert_array_equal(got, [1, np.nan, 3])


# --- time --------------------------------------------------------------------------------------


def test_small_jitter_is_moved_onto_the_grid_and_noted(write, record, tmp_path):
    x = noise(300)
    path = write("x", record(x[:100]), record(x[100:], start=after(100.04)))
    ingest_mseed(path, tmp_path / "o.zarr")
    source = open_source(str(tmp_path / "o.zarr"))
    np.testing.assert_array_equal(everything(source)[0], x)
    assert source.attrs["time_tolerance_samples"] == 0.1
    assert source.attrs["time_jitter_samples"] == pytest.approx(0.04, abs=1e-6)


def test_a_record_off_the_grid_is_refused_with_its_time(write, record, tmp_path):
    path = write("x", record(noise(100)), record(noise(100), start=after(100.3)))
    with pytest.raises(IngestError, match=r"at 2010-09-01T00:00:01\.003.* lies 0\.300 samples off"):
        ingest_mseed(path, tmp_path / "o.zarr")
    ingest_mseed(path, tmp_path / "o.zarr", tolerance=0.4)
    assert open_source(str(tmp_path / "o.zarr")).shape == (1, 200)


@pytest.mark.parametrize("tolerance", [0.5, -0.1, float("nan")])
def test_a_tolerance_of_half_a_sample_makes_no_sense(write, record, tmp_path, tolerance):
    with pytest.raises(IngestError, match="no sense"):
        ingest_mseed(write("x", record(noise(9))), tmp_path / "o.zarr", tolerance=tolerance)


def test_a_rate_that_is_no_whole_number_of_nanoseconds_does_not_drift(write, record, tmp_path):
    x = noise(3000)
    parts = [record(x[a : a + 10], start=after(a, 300.0), rate=300.0) for a in range(0, 3000, 10)]
    ingest_mseed(write("x", *parts), tmp_path / "o.zarr", tolerance=0.0)
    source = open_source(str(tmp_path / "o.zarr"))
    np.testing.assert_array_equal(everything(source)[0], x)
    assert source.axes["time"].at([300])[0] == MIDNIGHT + np.timedelta64(1, "s")


@pytest.mark.parametrize("sid", [A, B])
def test_mixed_rates_are_refused_naming_both(write, record, tmp_path, sid):
    path = write("x", record(noise(100)), record(noise(100), start=after(200), rate=50.0, sid=sid))
    with pytest.raises(IngestError, match=r"50\.0 Hz.*100\.0 Hz|100\.0 Hz.*50\.0 Hz"):
        ingest_mseed(path, tmp_path / "o.zarr")


# --- files -------------------------------------------------------------------------------------


def test_folders_are_searched_by_content_and_files_taken_once(write, record, tmp_path):
    x = noise(300)
    write("in/deep/er/day.244", record(x[:100]))
    second = write("in/other", record(x[100:], start=after(100)))
    write("in/notes.mseed", b"no miniSEED at all")
    write("in/empty")
    done = ingest_mseed([tmp_path / "in", second], tmp_path / "o.zarr")
    assert done.shape == (1, 300)
    np.testing.assert_array_equal(everything(open_source(str(tmp_path / "o.zarr")))[0], x)


@pytest.mark.parametrize("version", [2, 3])
def test_miniseed_is_known_by_its_first_bytes(write, record, version):
    assert is_miniseed(write("x", record(noise(10), version=version)))
    assert not is_miniseed(write("y", b"RIFF....WAVE"))


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "is empty"), (b"hello world", "is no miniSEED")]
)
def test_a_file_that_is_no_miniseed_is_refused(write, tmp_path, content, reason):
    with pytest.raises(IngestError, match=reason):
        ingest_mseed(write("x", content), tmp_path / "o.zarr")


def test_a_folder_without_miniseed_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(IngestError, match="no miniSEED in the folder"):
        ingest_mseed(tmp_path / "in", tmp_path / "o.zarr")


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-100],
        lambda b: b + b"garbage" * 100,
        lambda b: b[:512] + b"x" + b[513:],
        lambda b: b[:800] + bytes([b[800] ^ 255]) + b[801:],
    ],
    ids=["cut", "garbage", "header", "samples"],
)
@pytest.mark.parametrize("version", [2, 3])
def test_a_damaged_file_is_refused_with_the_place(write, record, tmp_path, damage, version):
    path = write("x", damage(record(noise(2000), version=version)))
    with pytest.raises(IngestError, match=r"damaged.* at byte \d+"):
        ingest_mseed(path, tmp_path / "o.zarr")
    assert not list(tmp_path.glob("o.zarr*"))


def test_logs_are_left_out_and_counted(write, record, tmp_path):
    text = make_text()
    done = ingest_mseed(write("x", text, record(noise(10))), tmp_path / "o.zarr")
    assert done.notes == ("1 records hold no samples (logs or headers): left out.",)
    with pytest.raises(IngestError, match="all 1 records are logs"):
        ingest_mseed(write("y", text), tmp_path / "p.zarr")


def make_text():
    import pymseed

    record = pymseed.MS3Record(reclen=512)
    record.sourceid, record.formatversion, record.encoding = "FDSN:XX_AAA__L_O_G", 3, 0
    record.samprate = 0
    record.set_starttime_str(after(0))
    return b"".join(record.generate("the clock was set", "t"))


def test_a_missing_package_is_named_with_the_line_that_installs_it(
    write, record, tmp_path, monkeypatch
):
    path = write("x", record(noise(9)))
    monkeypatch.setitem(__import__("sys").modules, "pymseed", None)
    with pytest.raises(MissingExtraError, match=r'pip install "scatflow\[ingest\]"'):
        ingest_mseed(path, tmp_path / "o.zarr")


def test_progress_counts_the_bytes_of_both_passes(write, record, tmp_path):
    path = write("x", record(noise(10_000)))
    seen = []
    ingest_mseed(path, tmp_path / "o.zarr", on_progress=lambda *a: seen.append(a))
    assert seen[-1] == (2 * os.path.getsize(path),) * 2


def test_very_many_channels_get_shorter_chunks():
    assert module._chunk(10, 4) == 2**18
    assert 1000 * module._chunk(1000, 4) * 4 <= module.BUFFERS


def test_a_tree_of_days_is_one_record_with_its_gaps(record, tmp_path):
    # SDS: YEAR/NET/STA/CHAN.D/NET.STA.LOC.CHAN.D.YEAR.DAY; a file may run past midnight.
    day, x = 86400, noise(5 * 86400)
    for sid, station in ((A, "AAA"), (B, "BBB")):
        folder = tmp_path / "sds" / "2010" / "XX" / station / "HHZ.D"
        folder.mkdir(parents=True)
        for k in (0, 1, 3, 4):
            if station == "BBB" and k > 1:
                continue
            part = x[max(k * day - 30, 0) : (k + 1) * day + 70]
            start = np.datetime64("2010-12-29", "s") + max(k * day - 30, 0)
            name = f"XX.{station}..HHZ.D.2010.{363 + k}"
            (folder / name).write_bytes(record(part, start=f"{start}Z", rate=1.0, sid=sid))
    (tmp_path / "sds" / "README").write_text("no records")
    done = ingest_mseed(tmp_path / "sds", tmp_path / "o.zarr")
    values = everything(open_source(str(tmp_path / "o.zarr")))
    expected = np.stack([x, x]).astype(float)
    expected[0, 2 * day + 70 : 3 * day - 30] = np.nan
    expected[1, 2 * day + 70 :] = np.nan
    np.testing.assert_array_equal(values, expected)
    assert done.notes[0] == f"{A}: {day - 100} of {5 * day} samples are missing."
