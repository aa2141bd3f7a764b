"""What `scatflow bench` counts, measures and prints."""

import json
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from scatflow import HarmonicScattering3D, Scattering1D, Scattering2D
from scatflow.backends import fft
from scatflow.cli import app, speed
from scatflow.cli.speed import Case, bare_ffts, measure, relative_error, transforms

SMALL = (
    Case("1d", 4, 2, (300,), 3),
    Case("2d", 2, 3, (16, 20), 2),
    Case("3d", 1, 2, (8, 8, 8), 2),
)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    "S",
    [Scattering1D(5, 700, Q=3), Scattering2D(3, (24, 40), L=2)],
    ids=lambda S: S.kind,
)
def test_every_path_is_inverted_once_and_every_parent_transformed_once(S, order):
    S = type(S)(**{**S._parameters(), "max_order": order})
    keys = S.paths().keys
    parents = {key[0] for key in keys if len(key) == 2}
    counted = transforms(S.plan())
    assert sum(t.times for t in counted if t.inverse) == len(keys) - 1
    # Of the input itself, too.
    assert sum(t.times for t in counted if not t.inverse) == 1 + len(parents)


def test_inverse_ffts_have_the_decimated_lengths():
    S = Scattering1D(4, 1000, Q=1)
    plan = S.plan()
    expected = Counter(plan.padded[0] // 2 ** int(j[~np.isnan(j)][-1]) for j in S.meta()["j"][1:])
    found = Counter()
    for t in transforms(plan):
        if t.inverse:
            found[t.grid[0]] += t.times
    assert found == expected


def test_a_degree_of_a_volume_has_a_field_for_each_order_m():
    plan = HarmonicScattering3D(1, (8, 8, 8), L=2).plan()
    paths = 3  # j = 0, j = 1 and both
    assert sum(t.times for t in transforms(plan) if t.inverse) == paths * (1 + 3 + 5)
    assert all(t.grid == (8, 8, 8) for t in transforms(plan))


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_the_bare_ffts_do_the_transforms_that_are_counted(monkeypatch, case):
    done = Counter()

    def note(inverse, a, ndim):
        done[inverse, a.shape[-ndim:]] += math.prod(a.shape[:-ndim])

    fake = SimpleNamespace(
        ifft=lambda z, ndim: note(True, z, ndim),
        irfft=lambda half, out, ndim: note(True, out, ndim),  # noqa: ARG005
        rfft=lambda u, out, ndim: note(False, u, ndim),  # noqa: ARG005
    )
    plan = case.engine().plan()
    monkeypatch.setattr(speed, "fft", fake)
    monkeypatch.setattr(speed, "IN_CACHE", 2 * math.prod(case.shape))
    bare_ffts(plan, case.batch)()
    wanted = Counter()
    for t in transforms(plan):
        wanted[t.inverse, t.grid] += t.times * case.batch
    assert set(done) == set(wanted)
    # The last chunk of a job may be filled up.
    assert all(wanted[k] <= done[k] for k in wanted)
    assert sum(done.values()) < 1.5 * sum(wanted.values())


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_a_case_is_measured_and_right(case):
    told = measure(case, repetitions=2)
    assert 0 < told["error"] < 1e-5
    plan = case.engine().plan()
    assert told["peak_bytes"] == plan.peak_bytes(case.batch)
    assert told["unit"] == {1: "samples", 2: "pixels", 3: "voxels"}[len(case.shape)]
    assert told["over_ffts"] == pytest.approx(told["cpu_seconds"] / told["fft_seconds"])
    samples = case.batch * math.prod(case.shape)
    assert told["samples_per_second"] == pytest.approx(samples / told["wall_seconds"])


def test_threads_are_counted_in_the_peak():
    case = SMALL[0]
    one, two = (measure(case, threads, repetitions=1)["peak_bytes"] for threads in (1, 2))
    assert two > one


def test_a_wrong_transform_has_a_large_error(monkeypatch):
    case = SMALL[0]
    apply = type(case.engine().plan()).apply

    def wrong(plan, x):
        y = apply(plan, x)
        return 1.01 * y if x.dtype == np.float32 else y

    monkeypatch.setattr("scatflow.engines.plan.Plan.apply", wrong)
    assert measure(case, repetitions=1)["error"] == pytest.approx(0.01, rel=1e-3)


def test_the_error_is_relative_to_what_was_expected():
    assert relative_error(np.array([3.0, 4.4]), np.array([3.0, 4.0])) == pytest.approx(0.08)


def test_the_command_prints_a_row_a_case_within_80_columns(monkeypatch):
    monkeypatch.setattr(speed, "CASES", SMALL)
    done = CliRunner().invoke(app, ["bench"], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    for case in SMALL:
        assert str(case) in done.stdout
    assert "…" not in done.stdout
    assert fft.library().split()[0] in done.stdout


def test_the_command_prints_json_for_machines(monkeypatch):
    monkeypatch.setattr(speed, "CASES", SMALL[:1])
    done = CliRunner().invoke(app, ["bench", "--json", "--threads", "2"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["threads"] == 2
    assert told["fft"] == fft.library()
    assert [r["case"] for r in told["results"]] == [str(SMALL[0])]
    assert told["results"][0]["error"] < 1e-5


def test_the_command_wants_a_thread(monkeypatch):
    monkeypatch.setattr(speed, "CASES", ())
    assert CliRunner().invoke(app, ["bench", "--threads", "0"]).exit_code == 2


def test_the_cases_that_ship_fill_80_columns_at_most():
    assert max(len(str(case)) for case in speed.CASES) <= 23
