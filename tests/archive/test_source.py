import copy
import datetime as dt
import json
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr

from scatflow.archive import open_source
from scatflow.archive.decoding import decoding
from scatflow.archive.stores import unsafe_codec
from scatflow.errors import MissingExtraError, SourceError, SourceNotFoundError

TIME = {"time": {"start": "2010-09-01T00:00:00.000000000", "step": [10_000_000, 1], "units": "ns"}}
STATIONS = (("station",), np.array(["UV05", "UV06", "UV10"]), {"long_name": "station"})
DATA = np.arange(3 * 1000, dtype=np.int32).reshape(3, 1000)


def seismic(store, **options):
    wave = (("station", "time"), DATA, {"axes": TIME, "units": "counts"})
    return store({"waveform": wave, "station": STATIONS}, **options)


def everything(source):
    return source.read([slice(None)] * len(source.shape))


# --- what is opened ----------------------------------------------------------------------------


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_group_opens_with_its_dims_axes_and_names(store, zarr_format):
    source = open_source(seismic(store, zarr_format=zarr_format), "waveform")
    assert (source.dims, source.shape, source.dtype) == (("station", "time"), (3, 1000), "int32")
    assert source.variable == "waveform"
    assert source.axes["time"].rate_hz == 100.0
    assert source.coords["station"].values.tolist() == ["UV05", "UV06", "UV10"]
    assert source.attrs == {"units": "counts"}
    np.testing.assert_array_equal(everything(source), DATA)


def test_zeros_are_data_where_the_fill_value_is_only_zarrs_default(store):
    source = open_source(seismic(store, zarr_format=2), "waveform")
    assert source.read((slice(0, 1), slice(0, 1))) == 0
    assert "zeros are taken as data" in source.notes[0]
    assert open_source(seismic(store, name="v3.zarr"), "waveform").notes == []


def test_stray_files_in_a_store_do_no_harm(store):
    path = seismic(store)
    (Path(path) / "README").write_text("about")
    (Path(path) / "folder").mkdir()
    assert open_source(path).coords["station"].values.tolist() == ["UV05", "UV06", "UV10"]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_bare_array_opens_with_dims_given(tmp_path, zarr_format):
    path = str(tmp_path / "bare.zarr")
    zarr.create_array(path, data=DATA, zarr_format=zarr_format)
    source = open_source(path, dims=["y", "x"])
    assert (source.dims, source.variable, source.axes) == (("y", "x"), "bare", {})
    np.testing.assert_array_equal(everything(source), DATA)


def test_a_bare_array_opens_with_the_dims_of_its_store(tmp_path):
    zarr.create_array(str(tmp_path / "v3.zarr"), data=DATA, dimension_names=("y", "x"))
    assert open_source(str(tmp_path / "v3.zarr")).dims == ("y", "x")


def test_a_group_inside_a_store_is_opened_by_its_path(store):
    path = store({})
    inner = zarr.open_group(path, mode="a").create_group("a").create_group("b")
    inner.create_array("x", data=DATA, dimension_names=None)
    assert open_source(path, "x", group="a/b", dims=["y", "x"]).shape == (3, 1000)


def test_file_urls_and_memory_urls_open_like_paths(store):
    path = seismic(store)
    np.testing.assert_array_equal(everything(open_source(f"file://{path}", "waveform")), DATA)
    zarr.create_array("memory://scatflow/bare.zarr", data=DATA, overwrite=True)
    source = open_source("memory://scatflow/bare.zarr", dims=["y", "x"])
    np.testing.assert_array_equal(everything(source), DATA)


def test_a_relative_path_is_kept_as_given_and_travels_as_absolute(store, monkeypatch):
    path = Path(seismic(store))
    monkeypatch.chdir(path.parent)
    source = open_source(path.name, "waveform")
    assert source.store == path.name
    assert source.to_spec()["store"] == str(path)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_xarray_writes_reads_as_xarray_reads_it(tmp_path, zarr_format):
    dataset = xr.Dataset(
        {"t": (("time", "x"), np.array([[1.25, np.nan], [3.5, 4.0], [7.0, 8.0]]), {"units": "K"})},
        {"time": np.datetime64("2010-09-01", "ns") + np.arange(3) * np.timedelta64(500, "ms")},
    )
    path = str(tmp_path / "x.zarr")
    encoding = {"t": {"dtype": "int16", "scale_factor": 0.25, "add_offset": 2.0, "_FillValue": -9}}
    dataset.to_zarr(path, zarr_format=zarr_format, encoding=encoding, consolidated=False)
    source = open_source(path)
    assert source.dtype == np.float32
    np.testing.assert_array_equal(everything(source), dataset["t"].values)
    assert source.axes["time"].rate_hz == 2.0
    assert (source.axes["time"].at([0, 1, 2]) == dataset["time"].values).all()


def test_data_appended_after_metadata_were_consolidated_are_seen(store):
    path = seismic(store)
    with pytest.warns(zarr.errors.ZarrUserWarning, match="Consolidated"):
        zarr.consolidate_metadata(path)
    zarr.open_array(path, path="waveform", mode="r+").resize((3, 1200))
    assert open_source(path, "waveform").shape == (3, 1200)


# --- which variable ----------------------------------------------------------------------------


def test_the_only_variable_need_not_be_named(store):
    assert open_source(seismic(store)).variable == "waveform"


def test_coordinates_named_by_attributes_are_no_variables(store):
    path = store(
        {
            "x": (("y",), np.ones(4), {"coordinates": "height", "grid_mapping": "crs"}),
            "height": (("y",), np.ones(4), {}),
            "crs": ((), np.int32(1), {}),
        }
    )
    assert open_source(path).variable == "x"


def test_several_variables_ask_for_a_name(store):
    path = store({"a": (("y",), np.ones(4), {}), "b": (("y",), np.ones(4), {})})
    with pytest.raises(SourceError, match=r"holds 'a', 'b': say which"):
        open_source(path)


def test_a_missing_variable_is_answered_with_what_there_is(store):
    with pytest.raises(SourceNotFoundError, match=r"no variable 'wave' in .*'station', 'waveform'"):
        open_source(seismic(store), "wave")


def test_a_missing_group_is_named(store):
    with pytest.raises(SourceNotFoundError, match=r"nothing/here"):
        open_source(seismic(store), "waveform", group="nothing/here")


def test_a_group_is_no_variable(store):
    path = store({})
    zarr.open_group(path, mode="a").create_group("inner")
    with pytest.raises(SourceError, match="is a group"):
        open_source(path, "inner")


def test_an_empty_group_has_no_variable(store):
    with pytest.raises(SourceNotFoundError, match="no variable"):
        open_source(store({}))


def test_a_bare_array_has_no_variables(tmp_path):
    zarr.create_array(str(tmp_path / "bare.zarr"), data=DATA)
    with pytest.raises(SourceNotFoundError, match="single array"):
        open_source(str(tmp_path / "bare.zarr"), "waveform")


def test_a_missing_store_is_named_by_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceNotFoundError, match=str(tmp_path / "none.zarr")):
        open_source("none.zarr", "x")
    with pytest.raises(FileNotFoundError):
        open_source("memory://scatflow/none.zarr", "x")


def test_a_folder_that_is_no_zarr_is_refused(tmp_path):
    with pytest.raises(SourceNotFoundError, match="no Zarr array or group"):
        open_source(str(tmp_path))


def test_an_unknown_protocol_is_refused():
    with pytest.raises(SourceNotFoundError, match="nosuch"):
        open_source("nosuch://somewhere/x.zarr")


def test_a_missing_package_for_a_protocol_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtraError, match=r'pip install "scatflow\[s3\]"'):
        open_source("s3://bucket/x.zarr")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"zarr_format": 3,', "they are not JSON"),
        ("[]", "they are damaged"),
        ({"codecs": [{"name": "nobodys"}]}, "nobodys.*they are damaged, or of a program"),
        ({"data_type": "complex9"}, "complex9.*they are damaged, or of a program"),
        ({"shape": "long"}, "Got long.*they are damaged"),
    ],
)
def test_metadata_that_are_not_understood_are_called_what_they_are(tmp_path, text, why):
    path = tmp_path / "a.zarr"
    zarr.create_array(str(path), shape=(3,), dtype="i4")
    file = path / "zarr.json"
    if isinstance(text, dict):
        text = json.dumps(json.loads(file.read_text()) | text)
    file.write_text(text)
    with pytest.raises(SourceError, match=f"cannot be understood.*{why}") as caught:
        open_source(str(path), dims=["t"])
    assert "object and structured" not in str(caught.value)


def test_objects_are_refused_as_such(tmp_path):
    metadata = {"zarr_format": 2, "shape": [3], "chunks": [3], "fill_value": None, "order": "C"}
    metadata |= {"dtype": "|O", "filters": None, "compressor": None}
    (tmp_path / ".zarray").write_text(json.dumps(metadata))
    with pytest.raises(SourceError, match="object and structured types are not read"):
        open_source(str(tmp_path), dims=["t"])


def test_damaged_metadata_are_refused(store):
    path = seismic(store)
    (Path(path) / "waveform" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "array"}')
    with pytest.raises(SourceError, match="cannot be understood"):
        open_source(path, "waveform")


# --- dims --------------------------------------------------------------------------------------


def test_dims_without_names_are_asked_for(tmp_path):
    zarr.create_array(str(tmp_path / "bare.zarr"), data=DATA)
    with pytest.raises(SourceError, match=r"does not name.*dims = "):
        open_source(str(tmp_path / "bare.zarr"))


@pytest.mark.parametrize("dims", [["x"], ["x", "x"], ["z", "y", "x"]])
def test_a_wrong_number_of_dims_is_refused(tmp_path, dims):
    zarr.create_array(str(tmp_path / "bare.zarr"), data=DATA)
    with pytest.raises(SourceError, match="has 2"):
        open_source(str(tmp_path / "bare.zarr"), dims=dims)


def test_dims_that_contradict_the_store_are_refused(store):
    path = seismic(store)
    assert open_source(path, dims=["station", "time"]).dims == ("station", "time")
    with pytest.raises(SourceError, match=r"names its dimensions \['station', 'time'\]"):
        open_source(path, dims=["time", "station"])


def test_a_single_number_is_no_source(store):
    with pytest.raises(SourceError, match="no dimensions"):
        open_source(store({"x": ((), np.float32(1), {})}), "x")


def test_an_array_without_samples_is_no_source(store):
    with pytest.raises(SourceError, match="is empty"):
        open_source(store({"x": (("time",), np.ones(0), {})}), "x")


# --- what cannot be read -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.ones(3, np.complex64), "complex numbers"),
        (np.array(["a", "b", "c"]), "text"),
        (np.arange(3).astype("datetime64[ns]"), "times"),
        (np.arange(3).astype("timedelta64[ns]"), "durations"),
    ],
)
def test_what_is_no_real_number_is_refused(store, values, reason):
    with pytest.raises(SourceError, match=reason):
        open_source(store({"x": (("time",), values, {})}), "x")


def test_structures_are_refused(tmp_path):
    values = np.zeros(3, [("a", "f4"), ("b", "i2")])
    zarr.create_array(str(tmp_path / "s.zarr"), data=values, zarr_format=2)
    with pytest.raises(SourceError, match="structures"):
        open_source(str(tmp_path / "s.zarr"), dims=["time"])


@pytest.mark.parametrize(
    "metadata",
    [
        {"dtype": "|O", "filters": [{"id": "pickle"}], "compressor": None},
        {"dtype": "<f4", "filters": None, "compressor": {"id": "pickle"}},
        {"dtype": "<f4", "filters": [{"id": "pickle"}], "compressor": None},
    ],
)
def test_pickled_objects_are_never_loaded(tmp_path, metadata):
    path = tmp_path / "p.zarr"
    path.mkdir()
    common = {"zarr_format": 2, "shape": [2], "chunks": [2], "fill_value": None, "order": "C"}
    (path / ".zarray").write_text(json.dumps(common | metadata))
    (path / "0").write_bytes(pickle.dumps(np.ones(2)))
    with pytest.raises(SourceError, match=r"pickle"):
        open_source(str(path), dims=["time"])


@pytest.mark.parametrize("place", ["compressors", "filters"])
def test_codecs_that_load_objects_are_known_where_zarr_lets_them_pass(place):
    options = {place: [numcodecs.Pickle()] if place == "filters" else numcodecs.Pickle()}
    array = zarr.create_array({}, shape=(2,), dtype="f4", zarr_format=2, **options)
    assert unsafe_codec(array) == "pickle"
    assert unsafe_codec(zarr.create_array({}, shape=(2,), dtype="f4", zarr_format=2)) is None


def test_a_pickled_coordinate_is_left_out_with_a_note(store):
    path = seismic(store, zarr_format=2)
    metadata = {"zarr_format": 2, "shape": [3], "chunks": [3], "fill_value": None, "order": "C"}
    metadata |= {"dtype": "<i4", "filters": [{"id": "pickle"}], "compressor": None}
    (Path(path) / "station" / ".zarray").write_text(json.dumps(metadata))
    source = open_source(path, "waveform")
    assert source.coords == {}
    assert any("pickle" in note for note in source.notes)


# --- coordinates -------------------------------------------------------------------------------


def test_coordinates_of_all_kinds_are_kept(store):
    path = store(
        {
            "x": (("station", "time"), DATA, {"coordinates": "lat quality depth when"}),
            "station": STATIONS,
            "lat": (("station",), np.array([1.0, 2.5, 3.0]), {"units": "degrees_north"}),
            "quality": (("time",), np.arange(1000) % 7, {}),
            "depth": ((), np.float64(2.5), {"units": "m"}),
            "when": ((), np.int64(5), {"units": "days since 2010-01-01"}),
            "other": (("elsewhere",), np.ones(2), {}),
        }
    )
    source = open_source(path, "x", isel={"station": [1, 3], "time": [5, 7]})
    coords = source.coords
    assert coords["station"].values.tolist() == ["UV06", "UV10"]
    assert (coords["lat"].dims, coords["lat"].values.tolist()) == (("station",), [2.5, 3.0])
    assert coords["lat"].attrs == {"units": "degrees_north"}
    assert coords["quality"].values.tolist() == [5, 6]
    assert (coords["depth"].dims, float(coords["depth"].values)) == ((), 2.5)
    assert coords["when"].values == np.datetime64("2010-01-06", "ns")
    assert "other" not in coords


def test_a_dense_time_coordinate_becomes_an_axis(store):
    seconds = np.arange(1000) / 100
    path = store(
        {
            "x": (("time",), DATA[0], {}),
            "time": (("time",), seconds, {"units": "seconds since 2010-09-01", "long_name": "t"}),
        }
    )
    axis = open_source(path, "x").axes["time"]
    assert (axis.rate_hz, axis.is_time, axis.attrs) == (100.0, True, {"long_name": "t"})
    assert axis.at([999])[0] == np.datetime64("2010-09-01T00:00:09.990", "ns")


def test_dense_seconds_become_an_axis_with_a_rate(store):
    path = store(
        {
            "x": (("time",), DATA[0], {}),
            "time": (("time",), np.arange(1000) / 250, {"units": "s"}),
        }
    )
    assert open_source(path, "x").axes["time"].rate_hz == 250.0


def test_an_irregular_coordinate_is_kept_by_value_and_noted(store):
    times = np.cumsum(np.arange(1000.0))
    path = store({"x": (("time",), DATA[0], {}), "time": (("time",), times, {})})
    source = open_source(path, "x")
    assert source.axes == {}
    assert (source.coords["time"].values == times).all()
    assert "steps off a regular grid" in source.notes[0]


def test_coordinates_that_are_too_large_are_left_out_with_a_note(store, monkeypatch):
    monkeypatch.setattr("scatflow.archive.coordinates.LARGEST", 100)
    path = store(
        {
            "x": (("time",), DATA[0], {"coordinates": "quality"}),
            "quality": (("time",), np.arange(1000) % 7, {}),
            "time": (("time",), np.cumsum(np.arange(1000.0)), {}),
        }
    )
    source = open_source(path, "x")
    assert source.coords == {}
    assert len(source.notes) == 2
    assert all("left out" in note for note in source.notes)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_missing_values_of_coordinates_are_decoded(tmp_path, zarr_format):
    lat = np.array([1.0, np.nan, 2.5])
    dataset = xr.Dataset({"x": (("s",), np.ones(3))}, {"lat": (("s",), lat)})
    path = str(tmp_path / "x.zarr")
    encoding = {"lat": {"_FillValue": 1e20}}
    dataset.to_zarr(path, zarr_format=zarr_format, encoding=encoding, consolidated=False)
    np.testing.assert_array_equal(open_source(path, "x").coords["lat"].values, lat)


def test_a_coordinate_that_cannot_be_decoded_is_left_out_with_a_note(store):
    path = store(
        {
            "x": (("time",), DATA[0, :3], {}),
            "time": (("time",), np.arange(3), {"units": "days since the flood"}),
        }
    )
    source = open_source(path, "x")
    assert source.axes == {}
    assert "cannot be decoded" in source.notes[0]


# --- selections --------------------------------------------------------------------------------


def test_a_day_is_selected_with_its_end_left_out(store):
    source = open_source(
        seismic(store), sel={"time": ["2010-09-01T00:00:01", "2010-09-01T00:00:02"]}
    )
    assert source.shape == (3, 100)
    assert source.axes["time"].at([0])[0] == np.datetime64("2010-09-01T00:00:01", "ns")
    np.testing.assert_array_equal(everything(source), DATA[:, 100:200])


def test_a_range_whose_ends_lie_between_samples_holds_the_samples_inside(store):
    ends = ["2010-09-01T00:00:00.994", "2010-09-01T00:00:01.001"]
    source = open_source(seismic(store), sel={"time": ends})
    np.testing.assert_array_equal(everything(source), DATA[:, 100:101])


def test_times_are_selected_by_datetimes_too(store):
    ends = [dt.datetime(2010, 9, 1, 0, 0, 1), np.datetime64("2010-09-01T00:00:02")]
    assert open_source(seismic(store), sel={"time": ends}).shape == (3, 100)
    ends = [
        dt.date(2010, 9, 1),
        dt.datetime(2010, 9, 1, 2, 0, 2, tzinfo=dt.timezone(dt.timedelta(hours=2))),
    ]
    assert open_source(seismic(store), sel={"time": ends}).shape == (3, 200)


def test_a_range_may_be_open_and_reach_beyond_the_record(store):
    path = seismic(store)
    assert open_source(path, sel={"time": [None, "2010-09-01T00:00:01"]}).shape == (3, 100)
    assert open_source(path, sel={"time": ["1999", "2030"]}).shape == (3, 1000)


def test_one_time_keeps_the_dim(store):
    source = open_source(seismic(store), sel={"time": "2010-09-01T00:00:01"})
    np.testing.assert_array_equal(everything(source), DATA[:, 100:101])


def test_names_are_selected_in_the_order_that_was_asked_for(store):
    path = seismic(store)
    source = open_source(path, sel={"station": ["UV10", "UV05"]})
    np.testing.assert_array_equal(everything(source), DATA[[2, 0]])
    assert source.coords["station"].values.tolist() == ["UV10", "UV05"]
    assert open_source(path, sel={"station": "UV06"}).shape == (1, 1000)
    np.testing.assert_array_equal(
        source.read((slice(1, 2), slice(3, 5)), dtype="f4"), DATA[0:1, 3:5]
    )


def test_numbers_are_selected_by_range_in_either_direction(store):
    lat = (("lat",), np.linspace(90, -90, 181), {"units": "degrees_north"})
    path = store({"x": (("lat",), np.arange(181.0), {}), "lat": lat})
    for ends in ([60, 30], [30, 60]):
        got = open_source(path, sel={"lat": ends}).axes["lat"].at([0, 29])
        assert got.tolist() == ([60, 31] if ends == [60, 30] else [59, 30])
    assert open_source(path, sel={"lat": 45}).axes["lat"].start == 45


def test_irregular_numbers_are_selected_by_range(store):
    y = (("y",), np.array([5.0, 1.0, 3.0, 2.0]), {})
    path = store({"x": (("y",), np.arange(4.0), {}), "y": y})
    source = open_source(path, sel={"y": [2, 6]})
    np.testing.assert_array_equal(everything(source), [0, 2, 3])
    assert source.coords["y"].values.tolist() == [5, 3, 2]


@pytest.mark.parametrize(
    ("isel", "expected"),
    [
        ({"time": 5}, DATA[:, 5:6]),
        ({"time": -1}, DATA[:, -1:]),
        ({"time": [10, 20], "station": 1}, DATA[1:2, 10:20]),
        ({"time": [-5, None]}, DATA[:, -5:]),
        ({"time": [990, 5000]}, DATA[:, 990:]),
    ],
)
def test_samples_are_selected_by_number(store, isel, expected):
    np.testing.assert_array_equal(everything(open_source(seismic(store), isel=isel)), expected)


@pytest.mark.parametrize(
    ("selection", "reason"),
    [
        ({"sel": {"depth": 1}}, "no dimension"),
        ({"isel": {"depth": 1}}, "no dimension"),
        ({"sel": {"station": "UV05"}, "isel": {"station": 0}}, "twice"),
        ({"isel": {"time": 1000}}, "1000 samples: 0 to 999"),
        ({"isel": {"time": [5, 5]}}, "selects nothing"),
        ({"isel": {"time": [1, 2, 3]}}, "give a number"),
        ({"isel": {"time": "noon"}}, "give a number"),
        ({"isel": {"time": [0.5, 2]}}, "whole numbers"),
        ({"isel": {"time": True}}, "give a number"),
        ({"sel": {"station": "UV99"}}, "no 'UV99' in 'station', which holds 'UV05', 'UV06'"),
        ({"sel": {"station": []}}, "selects nothing"),
        ({"sel": {"time": ["2011", "2012"]}}, "selects nothing: 'time' runs from 2010-09-01"),
        ({"sel": {"time": ["2012", "2001"]}}, "selects nothing"),
        ({"sel": {"time": ["2011"]}}, "no range"),
        ({"sel": {"time": ["noon", "2012"]}}, "needs a time"),
        ({"sel": {"time": [1, 2]}}, "needs a time"),
        ({"sel": {"time": "2010-09-01T00:00:00.005"}}, "no sample at"),
    ],
)
def test_a_selection_that_does_not_fit_is_refused_with_the_reason(store, selection, reason):
    with pytest.raises(SourceError, match=reason):
        open_source(seismic(store), **selection)


def test_labels_of_a_dim_without_coordinate_are_refused(store):
    path = store({"x": (("y",), np.ones(4), {})})
    with pytest.raises(SourceError, match="no coordinate"):
        open_source(path, sel={"y": 1})


@pytest.mark.parametrize("wanted", ["text", True, [1, "text"], [float("nan"), 2]])
def test_labels_of_a_numeric_dim_are_numbers(store, wanted):
    path = store({"x": (("y",), np.ones(4), {}), "y": (("y",), np.arange(4.0), {})})
    with pytest.raises(SourceError, match="needs a number"):
        open_source(path, sel={"y": wanted})


# --- where it goes -----------------------------------------------------------------------------


def test_a_source_pickles_small_and_reads_the_same(store):
    source = open_source(seismic(store), sel={"station": ["UV10", "UV05"]}, isel={"time": [3, 900]})
    data = pickle.dumps(source)
    assert len(data) < 1000
    for again in (pickle.loads(data), copy.deepcopy(source), open_source(**source.to_spec())):
        np.testing.assert_array_equal(everything(again), everything(source))
        assert again.axes == source.axes
    assert pickle.loads(data).fingerprint() == source.fingerprint()


def test_a_source_opens_in_another_process_in_another_folder(store, tmp_path, monkeypatch):
    path = Path(seismic(store))
    monkeypatch.chdir(path.parent)
    (tmp_path / "source.pickle").write_bytes(pickle.dumps(open_source(path.name, "waveform")))
    code = (
        "import pickle, sys; s = pickle.load(open(sys.argv[1], 'rb'));"
        "print(int(s.read((slice(2, 3), slice(7, 8)))[0, 0]), 'xarray' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "source.pickle")]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2007", "False"]


def test_the_resolved_spec_does_not_grow_with_the_store(store):
    path = seismic(store)
    spec = open_source(path, sel={"time": ["2010", "2011"]}).to_spec()
    zarr.open_array(path, path="waveform", mode="r+").resize((3, 1200))
    assert open_source(**spec).shape == (3, 1000)


def test_the_resolved_spec_is_json_even_with_datetimes(store):
    times = np.array(["2010-09-01", "2010-09-03", "2010-09-04", "2010-09-02"], "datetime64[ns]")
    path = store({"x": (("t",), np.arange(4.0), {}), "t": (("t",), times, {})})
    ends = [dt.datetime(2010, 9, 1), dt.datetime(2010, 9, 3)]
    spec = json.loads(json.dumps(open_source(path, "x", sel={"t": ends}).to_spec()))
    assert spec["sel"] == {"t": ["2010-09-01T00:00:00.000000000", "2010-09-03T00:00:00.000000000"]}
    np.testing.assert_array_equal(everything(open_source(**spec)), [0, 3])


def test_a_fingerprint_is_json_and_knows_nothing_of_chunks(store):
    one = open_source(seismic(store, chunks=(1, 100)))
    other = open_source(seismic(store, chunks=(3, 77), zarr_format=2, name="other.zarr"))
    assert one.chunks != other.chunks
    same = json.loads(json.dumps(other.fingerprint()))
    assert one.fingerprint() == {**same, "store": one.store}


def test_a_fingerprint_tells_selections_and_axes_apart(store):
    path = seismic(store)
    whole = open_source(path).fingerprint()
    assert whole != open_source(path, isel={"time": [0, 999]}).fingerprint()
    attrs = zarr.open_array(path, path="waveform", mode="r+").attrs
    attrs["axes"] = {"time": {**TIME["time"], "step": [20_000_000, 1]}}
    assert whole != open_source(path).fingerprint()


def test_many_threads_may_read_one_source(store):
    source = pickle.loads(pickle.dumps(open_source(seismic(store, chunks=(1, 50)))))
    wrong = []

    def read(k):
        for i in range(k, 1000 - 20, 97):
            if not (source.read((slice(None), slice(i, i + 20))) == DATA[:, i : i + 20]).all():
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_slabs_that_do_not_fit_are_refused(store):
    source = open_source(seismic(store))
    with pytest.raises(SourceError, match="2 dimensions"):
        source.read((slice(None),))
    with pytest.raises(SourceError, match="step 2"):
        source.read((slice(None), slice(0, 10, 2)))
    with pytest.raises(SourceError, match="float32 or float64"):
        source.read((slice(None), slice(0, 10)), dtype="int32")


def test_a_damaged_chunk_is_an_error_and_not_a_number(tmp_path):
    path = tmp_path / "c.zarr"
    array = zarr.create_array(
        str(path), data=DATA, chunks=(1, 1000), compressors=[zarr.codecs.Crc32cCodec()]
    )
    del array
    chunk = path / "c" / "1" / "0"
    data = bytearray(chunk.read_bytes())
    data[100] ^= 1
    chunk.write_bytes(bytes(data))
    source = open_source(str(path), dims=["y", "x"])
    assert source.read((slice(0, 1), slice(None))).shape == (1, 1000)
    with pytest.raises(ValueError, match="checksum"):
        source.read((slice(1, 2), slice(None)))


@pytest.mark.parametrize("unsigned", ["true", "false"])
@pytest.mark.parametrize("value", [float("inf"), "-inf", float("nan")])
def test_values_that_integers_cannot_hold_mark_nothing(value, unsigned):
    attrs = {"_FillValue": value, "_Unsigned": unsigned}
    rule, _ = decoding(attrs, np.dtype(np.int16), 3, 0)
    assert rule.missing == ()
