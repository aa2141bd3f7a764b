"""A job file that is wrong says what was found and what is accepted, all at once."""

from pathlib import Path

import pytest

from scatflow.errors import JobError
from scatflow.flow.job import load, parse, suggest_memory

GOOD = """
[source]
store = "a.zarr"
variable = "x"
[transform]
kind = "scattering1d"
dims = ["time"]
J = 5
Q = [8, 1]
boundary = "seamless"
[output]
store = "b.zarr"
[run]
workers = 2
memory = "1 GiB"
"""


def wrong(old, new):
    assert old in GOOD
    with pytest.raises(JobError) as caught:
        parse(GOOD.replace(old, new), Path("job.toml"))
    return str(caught.value)


def test_a_good_job_is_read():
    job = parse(GOOD, Path("job.toml"))
    assert job.engine.J == 5
    assert job.engine.Q == (8, 1)
    assert job.memory == 2**30
    assert job.name == "job"
    assert job.output.dtype == "float32"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            'store = "a.zarr"',
            'stor = "a.zarr"',
            ["[source] store is missing", "[source] stor: unknown key", "Did you mean `store`?"],
        ),
        ("J = 5", "j = 5", ["[transform] j: unknown key", "J, Q, T, stride", "mean `J`?"]),
        ("J = 5", 'J = "five"', ["[transform] J must be an integer, not 'five'"]),
        ("J = 5", "J = -1", ["[transform] J must be at least 1, not -1"]),
        ("J = 5", "", ["[transform] Scattering1D needs J"]),
        ("J = 5", "J = 5\nT = 0", ["[transform] T = 0 gives each path its own sampling"]),
        ("J = 5", "J = 5\nshape = 4096", ["[transform] shape cannot be set in a job", "Remove"]),
        ("Q = [8, 1]", "Q = [8, 1, 1]", ["[transform] Scattering", "Q=(8, 1, 1) has 3 layers"]),
        ("J = 5", "J = 5 5", ["job.toml is not valid TOML", "line 8"]),
        ('"a.zarr"', '"a\\u0000.zarr"', ["source.store holds the character U+0000", "leave it"]),
        (
            '"seamless"',
            '"seamles"',
            ["[transform] boundary: found 'seamles'", '"whole", "frames"', "mean `seamless`?"],
        ),
        ('"scattering1d"', '"scattering4d"', ["[transform] kind: found", "scattering3d"]),
        ('"scattering1d"', '"timefrequency"', ["TimeFrequencyScattering needs J_fr, log2 of"]),
        ('dims = ["time"]', 'dims = "time"', ["[transform] dims: found 'time' (string)"]),
        ('dims = ["time"]', 'dims = ["y", "x"]', ["transforms 1 dimension(s), found 2"]),
        ('"seamless"', '"frames"', ["needs frame"]),
        ('"seamless"', '"frames"\nframe = 64\nhop = -3', ["[transform] hop: found -3", "positive"]),
        ('"seamless"', '"frames"\nframe = [64, 64]', ["frame: found 2 numbers for the 1"]),
        ('"seamless"', '"whole"\nframe = 64', ['frame goes with boundary = "frames"']),
        ("workers = 2", "workers = true", ["[run] workers: found true (boolean)", "integer"]),
        ("workers = 2", "workers = 0", ["[run] workers: found 0 (integer)"]),
        ("workers = 2", 'workers = "2"', ["[run] workers: found '2' (string)"]),
        ('"1 GiB"', '"1 gibbon"', ["[run] memory: found '1 gibbon'", "2 GiB"]),
        ('"1 GiB"', "1024", ["[run] memory: found 1024 (integer)"]),
        ('"1 GiB"', '"1e400 GiB"', ["[run] memory: found '1e400 GiB'", "2 GiB"]),
        (
            "J = 5",
            'J = 5\nbackend = "torch"',
            ['[transform] backend = "torch": workers compute with "numpy" or "cupy"'],
        ),
        ("workers = 2", 'backend = "torch"', ["[run] backend: found 'torch'", '"any"']),
        (
            "workers = 2",
            'backend = "cupy"\n[transform]\nbackend = "cupy"',
            ["Cannot declare"],
        ),
        (
            "J = 5",
            'J = 5\ngaps = "zero"',
            ["[transform] gaps: found 'zero'", '"raise"'],
        ),
        ('variable = "x"', 'absent = "nan"', ["[source] absent: found 'nan'", '"gap"', '"fill"']),
        (
            'variable = "x"',
            "mask = true",
            ["[source] mask: found true", "are missing"],
        ),
        *(
            ("workers = 2", f'schedule = "{line}"', [f"[run] schedule: found '{line}'", "0 3 * *"])
            for line in (
                "nightly",
                "@daily",
                "0 3 * *",
                "0 3 * * * *",
                "60 3 * * *",
                "0 24 * * *",
                "0 3 0 * *",
                "0 3 * foo *",
                "0 3 * * 8",
                "5-1 3 * * *",
                "*/0 3 * * *",
                "1, 3 * * *",
            )
        ),
        (
            "workers = 2",
            'cluster = "cluster/slurm"',
            ["[run] cluster: found 'cluster/slurm'", "threads", "tcp://", "profile"],
        ),
        (
            'store = "b.zarr"',
            'store = "b.zarr"\ndtype = "float16"',
            ["[output] dtype: found 'float16'", "float64"],
        ),
        ('[output]\nstore = "b.zarr"', "", ["[output] is missing"]),
        ("[source]", "nam = 1\n[source]", ["nam: unknown key", "mean `name`?"]),
        ("[run]", "[ruin]", ["ruin: unknown key", "mean `run`?"]),
        ('variable = "x"', "sel = 3", ["[source] sel: found 3 (integer)", "table"]),
    ],
)
def test_a_wrong_job_is_told_what_is_accepted(old, new, words):
    message = wrong(old, new)
    for word in words:
        assert word in message


def test_all_problems_are_listed_at_once():
    text = GOOD.replace("J = 5", "j = 5").replace("workers = 2", "worker = 2")
    with pytest.raises(JobError, match="3 problems") as caught:
        parse(text.replace('"a.zarr"', "7"), Path("job.toml"))
    assert "[source] store: found 7" in str(caught.value)


def test_frames_of_images_need_a_number_per_dimension():
    message = wrong(
        'kind = "scattering1d"\ndims = ["time"]\nJ = 5\nQ = [8, 1]\nboundary = "seamless"',
        'kind = "scattering2d"\ndims = ["y", "x"]\nJ = 5\nboundary = "frames"\nframe = 256',
    )
    assert "must be lists of one number per dimension of ['y', 'x']" in message


@pytest.mark.parametrize(
    ("frame", "hop", "words"), [([32, 32], [16, 0], "found 0 for x"), ([32, 0], [16, 8], "found 8")]
)
def test_a_hop_belongs_to_a_dimension_that_is_cut(frame, hop, words):
    message = wrong(
        'kind = "scattering1d"\ndims = ["time"]\nJ = 5\nQ = [8, 1]\nboundary = "seamless"',
        'kind = "scattering2d"\ndims = ["y", "x"]\nJ = 5\nboundary = "frames"\n'
        f"frame = {frame}\nhop = {hop}",
    )
    assert words in message


def test_hop_is_the_frame_by_default_and_nothing_where_a_dim_is_not_cut():
    text = GOOD.replace(
        'kind = "scattering1d"\ndims = ["time"]\nJ = 5\nQ = [8, 1]\nboundary = "seamless"',
        'kind = "scattering2d"\ndims = ["y", "x"]\nJ = 5\nboundary = "frames"\nframe = [256, 0]',
    )
    job = parse(text, Path("job.toml"))
    assert job.frame == (256, 0)
    assert job.hop == (256, 0)


def test_a_missing_job_file_is_named_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JobError, match=f"{tmp_path}/no.toml cannot be read: No such file"):
        load("no.toml")


def test_options_of_the_command_line_are_checked_too():
    job = parse(GOOD, Path("job.toml"))
    assert job.override(workers=5, cluster=None).workers == 5
    with pytest.raises(JobError, match="--workers: found 0"):
        job.override(workers=0)
    with pytest.raises(JobError, match="--cluster: found 'slurm'"):
        job.override(cluster="slurm")


@pytest.mark.parametrize(
    "line", ["0 3 * * *", "*/15 8-18 1,15 jan-mar MON-FRI", "0,30 */2 * * 7", "1-59/2 * * * sun"]
)
def test_a_cron_line_is_accepted(line):
    text = GOOD.replace("workers = 2", f'schedule = "{line}"')
    assert parse(text, Path("job.toml")).run.schedule == line


def test_times_with_a_zone_become_utc():
    times = "sel = { time = [2010-09-01T02:00:00+02:00, 2010-09-01T01:00:00Z] }"
    job = parse(GOOD.replace('variable = "x"', times), Path("job.toml"))
    assert job.source.sel == {"time": ["2010-09-01T00:00:00", "2010-09-01T01:00:00"]}


def test_workers_are_counted_where_the_system_does_not_tell_of_affinity(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    assert parse(GOOD.replace("workers = 2", ""), Path("job.toml")).workers >= 1


def test_workers_and_their_threads_take_no_more_than_the_processors(monkeypatch):
    monkeypatch.setattr("scatflow.flow.job.CPU_COUNT", 8)
    for threads, workers in ((1, 8), (2, 4), (3, 2), (8, 1), (9, 1)):
        job = parse(GOOD.replace("workers = 2", f"threads = {threads}"), Path("job.toml"))
        assert (job.run.threads, job.workers) == (threads, workers)
    assert parse(GOOD, Path("job.toml")).run.threads == 1
    assert "[run] threads: found 0" in wrong("workers = 2", "threads = 0")
    assert "[run] threads: found 'all' (string)" in wrong("workers = 2", 'threads = "all"')


def test_the_line_of_a_key_is_found():
    job = parse(GOOD, Path("job.toml"))
    assert GOOD.splitlines()[job.line_of("memory") - 1] == 'memory = "1 GiB"'
    assert job.line_of("schedule") is None


def test_a_suggested_budget_holds_what_is_needed():
    assert suggest_memory(50 * 2**20) == "50 MiB"
    assert suggest_memory(50 * 2**20 + 1) == "100 MiB"
