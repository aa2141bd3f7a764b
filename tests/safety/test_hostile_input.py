"""Broken job files and hostile stores end in errors of ours, whatever is in them."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import zarr

from scatflow.errors import BudgetError, JobError, ScatflowError, SourceError
from scatflow.flow.job import parse
from scatflow.flow.output import clear, make
from scatflow.flow.plan import check_budget, prepare

PATH = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"
SPEC = importlib.util.spec_from_file_location("fuzz", PATH)
fuzz = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fuzz)


def test_hundreds_of_broken_jobs_and_hostile_stores_end_in_errors_or_blocks():
    """In a process of its own, whose memory is limited."""
    command = [sys.executable, str(PATH), "--cases", "300", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "300 cases" in done.stdout
    for kind in ("JobError", "SourceError", "a block"):
        assert kind in done.stdout


@pytest.mark.parametrize("number", ["9" * 400, "9" * 5000, "-" + "9" * 400])
@pytest.mark.parametrize("key", ["J", "T", "Q", "max_order"])
def test_numbers_beyond_all_bounds_are_job_errors(tmp_path, key, number):
    lines = [
        f"{key} = {number}" if one.startswith(f"{key} =") else one for one in fuzz.JOB.split("\n")
    ]
    text = "\n".join(lines)
    text = text if f"{key} = " in text else text.replace("J = 4", f"J = 4\n{key} = {number}")
    with pytest.raises(JobError):
        parse(text, tmp_path / "job.toml")


def test_tables_nested_without_end_are_a_job_error(tmp_path):
    with pytest.raises(JobError, match="not valid TOML"):
        parse("a = " + "[" * 100_000, tmp_path / "job.toml")


def metadata(path, **changes):
    file = path / "archive.zarr/waveform/zarr.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def planned(path):
    return prepare(parse(fuzz.JOB, path / "job.toml"), str(path))


def test_a_pickling_codec_is_refused_before_it_is_used(tmp_path):
    fuzz.honest_store(tmp_path / "archive.zarr", 2)
    file = tmp_path / "archive.zarr/waveform/.zarray"
    entry = json.loads(file.read_text())
    file.write_text(
        json.dumps({**entry, "dtype": "|O", "filters": [{"id": "pickle", "protocol": 4}]})
    )
    with pytest.raises(SourceError):
        planned(tmp_path)


def test_a_store_whose_metadata_nest_without_end_is_a_source_error(tmp_path):
    fuzz.honest_store(tmp_path / "archive.zarr")
    (tmp_path / "archive.zarr/waveform/zarr.json").write_text("[" * 100_000)
    with pytest.raises(SourceError, match="cannot be understood"):
        planned(tmp_path)


def test_attributes_that_are_no_table_are_a_source_error(tmp_path):
    fuzz.honest_store(tmp_path / "archive.zarr")
    metadata(tmp_path, attributes=["x"])
    with pytest.raises(SourceError, match="cannot be understood"):
        planned(tmp_path)


def test_an_archive_of_impossible_size_is_refused_or_planned_without_being_read(tmp_path):
    fuzz.honest_store(tmp_path / "archive.zarr")
    grid = {"name": "regular", "configuration": {"chunk_shape": [1, 2**40]}}
    metadata(tmp_path, shape=[4, 2**50], chunk_grid=grid)
    with pytest.raises(SourceError, match="leave the years 1678 to 2261"):
        planned(tmp_path)
    finer = {**fuzz.AXES["time"], "step": [5000, 1]}
    metadata(tmp_path, attributes={"axes": {**fuzz.AXES, "time": finer}})
    plan = planned(tmp_path)
    with pytest.raises(BudgetError):
        check_budget(plan)


@pytest.mark.parametrize("n", [2**57, 2**63, 2**100])
def test_a_shape_of_more_samples_than_can_be_counted_is_a_source_error(tmp_path, n):
    fuzz.honest_store(tmp_path / "archive.zarr")
    metadata(tmp_path, shape=[4, n])
    with pytest.raises(SourceError, match="metadata are damaged"):
        planned(tmp_path)


@pytest.mark.parametrize("name", ["../../out", "a/b", ".."])
def test_a_variable_of_a_name_that_leads_elsewhere_is_not_found(tmp_path, name):
    fuzz.honest_store(tmp_path / "archive.zarr")
    text = fuzz.JOB.replace('variable = "waveform"', f'variable = "{name}"')
    with pytest.raises(ScatflowError, match="variable"):
        prepare(parse(text, tmp_path / "job.toml"), str(tmp_path))


def test_coordinates_cannot_be_written_outside_of_the_output(tmp_path):
    """A dimension's name becomes that of an array in the output."""
    fuzz.honest_store(tmp_path / "archive.zarr")
    metadata(tmp_path, dimension_names=["../../outside", "time"])
    text = fuzz.JOB.replace('dims = ["station", "time"]\n', "", 1)
    (tmp_path / "job.toml").write_text(text)
    with pytest.raises(SourceError, match="cannot be the name of an array"):
        fuzz.first_block(tmp_path)
    assert not (tmp_path.parent / "outside").exists()


def test_clearing_an_output_does_not_follow_links(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fuzz.honest_store(tmp_path / "archive.zarr")
    plan = planned(tmp_path)
    make(plan.output, plan.work, plan.template)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").write_text("of worth")
    os.symlink(tmp_path / "kept", Path(plan.output) / "link")
    clear(plan.output)
    assert (tmp_path / "kept/file").read_text() == "of worth"


def test_a_bomb_of_a_chunk_is_within_what_the_plan_counts(tmp_path):
    """Zarr decodes a chunk to what its metadata say, which the plan has counted."""
    group = zarr.open_group(str(tmp_path / "archive.zarr"), mode="w", zarr_format=3)
    array = group.create_array(
        "waveform",
        shape=(1, 2**28),
        chunks=(1, 2**28),
        dtype="f4",
        dimension_names=("station", "time"),
        attributes={"axes": fuzz.AXES},
    )
    array[0, :1000] = 1.0
    assert planned(tmp_path).peak_bytes > 2**30
