from datetime import date, time

import edfio
import numpy as np
import pytest

from scatflow.archive import open_source
from scatflow.archive.ingest import ingest
from scatflow.errors import IngestError

RNG = np.random.default_rng(0)


def write(path, seconds=7, rates=(100, 100), start=time(23, 59, 58, 250000), seed=0):
    kind, signal = (
        (edfio.Edf, edfio.EdfSignal) if path.suffix == ".edf" else (edfio.Bdf, edfio.BdfSignal)
    )
    rng = np.random.default_rng(seed)
    values = [rng.standard_normal(seconds * rate) * 50 for rate in rates]
    signals = [
        signal(v, rate, label=label, physical_dimension=unit)
        for v, rate, label, unit in zip(
            values, rates, ("EEG Fz", "Temp"), ("uV", "degC"), strict=True
        )
    ]
    annotations = [edfio.EdfAnnotation(1.0, None, "blink")]
    kind(
        signals,
        recording=edfio.Recording(startdate=date(2010, 12, 31)),
        starttime=start,
        annotations=annotations,
    ).write(path)
    return path


@pytest.mark.parametrize("form", ["edf", "bdf"])
def test_a_recording_keeps_its_channels_units_and_time(tmp_path, form, monkeypatch):
    monkeypatch.setattr("scatflow.archive.stack.slabs.__defaults__", (1000,))
    monkeypatch.setattr("scatflow.archive.stack.chunk_shape.__defaults__", (130,))
    path = write(tmp_path / f"a.{form}")
    ingest(form, path, tmp_path / "o.zarr")
    source = open_source(str(tmp_path / "o.zarr"))
    expected = edfio.read_edf(path) if form == "edf" else edfio.read_bdf(path)
    values = source.read([slice(None)] * 2)
    np.testing.assert_allclose(values, [s.data for s in expected.signals], rtol=1e-5, atol=1e-5)
    assert source.dims == ("channel", "time")
    assert source.axes["time"].rate_hz == 100
    assert source.axes["time"].at([0])[0] == np.datetime64("2010-12-31T23:59:58.250", "ns")
    assert source.coords["channel"].values.tolist() == ["EEG Fz", "Temp"]
    assert source.coords["unit"].values.tolist() == ["uV", "degC"]


def test_signals_of_one_rate_are_chosen_and_files_stacked(tmp_path):
    paths = [
        write(tmp_path / f"{i}.edf", rates=(128, 1), start=time(10, i), seed=i) for i in range(2)
    ]
    with pytest.raises(IngestError, match=r"EEG Fz 128 Hz, Temp 1 Hz.*--channels"):
        ingest("edf", paths, tmp_path / "o.zarr")
    with pytest.raises(IngestError, match="no signal 'ECG'"):
        ingest("edf", paths, tmp_path / "o.zarr", channels=["ECG"])
    ingest("edf", paths, tmp_path / "o.zarr", channels=["EEG Fz"])
    source = open_source(str(tmp_path / "o.zarr"))
    assert source.dims == ("file", "channel", "time")
    assert source.attrs["units"] == "uV"
    starts = source.coords["start"].values
    assert starts.tolist() == [
        np.datetime64(f"2010-12-31T10:0{i}", "ns").astype(int) for i in range(2)
    ]
    expected = [edfio.read_edf(path).signals[0].data for path in paths]
    values = source.read([slice(None)] * 3)[:, 0]
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)


def test_recordings_that_are_cut_short_or_interrupted_are_refused(tmp_path):
    data = write(tmp_path / "a.edf").read_bytes()
    (tmp_path / "cut.edf").write_bytes(data[:-100])
    with pytest.raises(IngestError, match="cut short: its header announces 7 data records, and 6"):
        ingest("edf", tmp_path / "cut.edf", tmp_path / "o.zarr")
    (tmp_path / "d.edf").write_bytes(data.replace(b"EDF+C", b"EDF+D", 1))
    with pytest.raises(IngestError, match="is interrupted"):
        ingest("edf", tmp_path / "d.edf", tmp_path / "o.zarr")
    (tmp_path / "t.edf").write_text("text")
    with pytest.raises(IngestError, match="neither EDF nor BDF"):
        ingest("edf", tmp_path / "t.edf", tmp_path / "o.zarr")


def test_a_recording_without_its_date_begins_at_zero_seconds(tmp_path):
    edfio.Edf([edfio.EdfSignal(RNG.standard_normal(300), 100, label="ECG")]).write(
        tmp_path / "a.edf"
    )
    ingest("edf", tmp_path / "a.edf", tmp_path / "o.zarr")
    axis = open_source(str(tmp_path / "o.zarr")).axes["time"]
    assert (axis.is_time, axis.start, axis.rate_hz) == (False, 0, 100)
