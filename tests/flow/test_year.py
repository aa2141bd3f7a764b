"""A long record against Kymatio, which sees only what is around some windows."""

import sys
from fractions import Fraction
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import year

from scatflow.flow.job import parse
from scatflow.flow.plan import prepare
from scatflow.flow.run import run


def test_coefficients_and_times_of_a_long_record_are_those_of_kymatio_and_of_the_calendar(
    tmp_path, inline, monkeypatch
):
    """The step of 20.83 Hz is no whole number of nanoseconds."""
    monkeypatch.setattr(year, "J", 8)
    monkeypatch.setattr(year, "LENGTH", 2**14)
    record = year.Record(channels=1, days=Fraction(1, 12), rate=Fraction("125/6"))
    record.write(tmp_path / "year.zarr")
    text = year.JOB.format(folder=tmp_path, J=year.J, Q=year.Q, dtype="float64", workers=1)
    plan = prepare(parse(text, tmp_path / "job.toml"), str(tmp_path))
    assert run(plan, say=lambda _: None) == 0
    gap, exact = year.compare(record, tmp_path / "result.zarr", plan.work.layout.unit[0], 3)
    assert gap <= year.TOLERANCE["float64"]
    assert exact
