"""The command's exit codes and words."""

import contextlib
import fnmatch
import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import zarr

from scatflow import cli
from scatflow.backends.fft import library
from scatflow.cli import texts
from scatflow.errors import BudgetError, OutputError

JOB = """
[source]
store = "archive.zarr"
variable = "waveform"
[transform]
kind = "scattering1d"
dims = ["time"]
J = 4
[output]
store = "out.zarr"
[run]
cluster = "threads"
workers = 1
memory = "1 GiB"
"""


@pytest.fixture
def folder(tmp_path, rng):
    group = zarr.open_group(str(tmp_path / "archive.zarr"), mode="w", zarr_format=3)
    array = group.create_array(
        "waveform", shape=(3, 4096), dtype="float32", dimension_names=["station", "time"]
    )
    array[...] = rng.standard_normal((3, 4096))
    (tmp_path / "job.toml").write_text(JOB)
    return tmp_path


def scatflow(folder, *words, env=None):
    return subprocess.run(
        [sys.executable, "-m", "scatflow.cli", *words],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_job_from_plan_to_status(folder):
    planned = scatflow(folder, "plan", "job.toml")
    assert planned.returncode == 0, planned.stderr
    assert "(station: 3, path: 13, time: 256) float32" in planned.stdout
    assert "note" not in planned.stdout
    told = json.loads(scatflow(folder, "plan", "job.toml", "--json").stdout)
    assert told["output"]["shape"] == [3, 13, 256]
    assert told["bytes_read"] == told["bytes_source"] == 3 * 4096 * 4
    assert told["peak_bytes_per_worker"] < told["budget_bytes_per_worker"]
    dry = scatflow(folder, "run", "job.toml", "--dry-run")
    assert dry.returncode == 0
    assert not (folder / "out.zarr").exists()
    assert scatflow(folder, "status", "job.toml").stdout.strip().endswith("not started")
    run = scatflow(folder, "run", "job.toml", "--report", "report.html")
    assert (run.returncode, run.stderr) == (0, "")
    assert "http://127.0.0.1:" in run.stdout
    assert (folder / "report.html").stat().st_size > 10_000
    again = scatflow(folder, "run", "job.toml")
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    told = json.loads(scatflow(folder, "status", "job.toml", "--json").stdout)
    assert (told["state"], told["done"], told["failed"]) == ("complete", 1, 0)


def test_verify_tells_sound_from_damaged_and_repairs(folder):
    assert scatflow(folder, "verify", "job.toml").returncode == 2
    assert scatflow(folder, "run", "job.toml").returncode == 0
    sound = scatflow(folder, "verify", "job.toml", "--seed", "1")
    assert (sound.returncode, sound.stderr) == (0, "")
    assert "1 of 1 blocks done and read; 1 computed again with backend plain" in sound.stdout
    shard = folder / "out.zarr/scattering/c/0/0/0"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    damaged = scatflow(folder, "verify", "job.toml", "--json")
    assert damaged.returncode == 1
    told = json.loads(damaged.stdout)
    assert not told["sound"]
    assert told["problems"][0]["object"] == "scattering/c/0/0/0"
    repaired = scatflow(folder, "verify", "job.toml", "--repair", "--json")
    assert repaired.returncode == 0, repaired.stderr
    assert json.loads(repaired.stdout)["repaired"] == told["problems"]
    assert shard.read_bytes() == whole


def test_failed_blocks_end_in_1(folder):
    array = zarr.open_array(str(folder / "archive.zarr"), path="waveform", mode="r+")
    array[1, 5] = np.inf
    run = scatflow(folder, "run", "job.toml")
    assert run.returncode == 1
    assert "block 0: station 1: 1 of 4096 samples are not finite" in run.stdout


HANGS = """
import sys
import numpy
from scatflow import cli
from scatflow.flow import patience, run, verify
run.LAST_TASKS_SECONDS = 0.2
verify.lost = lambda *_: numpy.zeros(0, int)  # Which takes a pipe for an empty file.
patience.PATIENCE_SECONDS = float(sys.argv.pop(1))
cli.main()
"""


@pytest.mark.parametrize(
    ("command", "array", "patience", "number", "code"),
    [
        ("run", "archive.zarr/waveform", 60, signal.SIGTERM, 130),
        ("run", "archive.zarr/waveform", 0.1, None, 1),
        ("verify", "out.zarr/scattering", 60, signal.SIGINT, 130),
    ],
)
def test_a_command_whose_read_hangs_ends(folder, command, array, patience, number, code):
    """The interpreter itself would wait for the thread that reads."""
    if command == "verify":
        assert scatflow(folder, "run", "job.toml").returncode == 0
    file = next(p for p in (folder / array / "c").rglob("*") if p.is_file())
    file.unlink()
    os.mkfifo(file)
    words = [sys.executable, "-c", HANGS, str(patience), command, "job.toml"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, cwd=folder, stdout=pipe, stderr=subprocess.STDOUT, text=True)
    end = None
    try:
        while end is None and process.poll() is None:
            with contextlib.suppress(OSError):  # Nobody reads yet.
                end = os.open(file, os.O_WRONLY | os.O_NONBLOCK)
            time.sleep(0.02)
        if number is not None:
            process.send_signal(number)
        said, _ = process.communicate(timeout=30)
        assert process.returncode == code, said
        assert "Traceback" not in said
        assert number or "has not ended" in said
    finally:
        process.kill()
        if end is not None:
            os.close(end)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("J = 4", "j = 4", "Did you mean `J`?"),
        ('"archive.zarr"', '"archiv.zarr"', "/archiv.zarr"),
        ('"waveform"', '"waveforms"', "waveform"),
        ('["time"]', '["t"]', "'station', 'time'"),
        ("J = 4", "J = 14", "J <= 12"),
        ('"out.zarr"', '"archive.zarr/out.zarr"', "lies inside the source"),
    ],
)
def test_mistakes_end_in_2_without_a_traceback(folder, old, new, words):
    (folder / "job.toml").write_text(JOB.replace(old, new))
    for command in ("plan", "run"):
        done = scatflow(folder, command, "job.toml")
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["archive.zarr", "job.toml"]


def test_a_budget_too_small_ends_in_3(folder):
    (folder / "job.toml").write_text(JOB.replace("1 GiB", "64 MiB"))
    for command in ("plan", "run"):
        done = scatflow(folder, command, "job.toml")
        assert done.returncode == 3
        assert 'line 14, change memory = "64 MiB" to memory = "' in done.stderr
        assert ("memory" in done.stdout) == (command == "plan")
        assert "time       about" not in done.stdout
    assert not (folder / "out.zarr").exists()


def test_usage_errors_end_in_2(folder):
    for words in (
        ["runn"],
        ["run"],
        ["run", "job.toml", "--workers", "two"],
        ["run", "no.toml"],
        ["run", "job.toml", "--workers", "0"],
        ["ingest", "telex", "a", "b"],
        ["run", "job.toml", "--report", "nowhere/report.html"],
        ["run", "job.toml", "--report", "archive.zarr"],
    ):
        done = scatflow(folder, *words)
        assert done.returncode == 2, words
        assert done.stderr
        assert "Traceback" not in done.stderr
    assert not (folder / "out.zarr").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--report", "job.toml"], "--report: * is the job file"),
        (["--log", "same/job.toml"], "--log: * is the job file"),
        (["--report", "new.html", "--log", "same/new.html"], "--log: * is what --report writes"),
    ],
)
def test_files_of_a_run_are_neither_its_job_nor_the_same(
    folder, monkeypatch, capsys, words, problem
):
    (folder / "same").symlink_to(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["scatflow", "run", "job.toml", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    told = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert fnmatch.fnmatch(told, f"*{problem}*")
    assert (folder / "job.toml").read_text() == JOB
    assert not (folder / "new.html").exists()


@pytest.mark.parametrize(
    ("problem", "code", "words"),
    [
        (OSError(28, "No space left on device", "out.zarr"), 2, "No space left on device"),
        (OverflowError("too large"), 70, "a mistake in scatflow"),
        (BudgetError("too little"), 3, "error: too little"),
        (OutputError("taken"), 2, "error: taken"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_every_error_has_its_exit_code(monkeypatch, capsys, problem, code, words):
    def fail(*_, **__):
        raise problem

    monkeypatch.setattr("sys.argv", ["scatflow", "status", "job.toml"])
    monkeypatch.setattr(cli, "_job", fail)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    told = capsys.readouterr().err
    assert caught.value.code == code
    assert words in told
    assert ("Traceback" in told) == (code == 70)


def test_doctor_works_where_the_system_does_not_tell_of_affinity(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    assert any("processors to use" in line for line in texts.doctor_lines())


@pytest.mark.parametrize(
    ("packages", "in_use", "words"),
    [
        ({"mkl": "2026.2"}, "SciPy 1.17", "present"),  # installed, but another is wanted
        ({}, "MKL 2026.2", "present"),  # from conda
        ({"mkl_fft": "2.0"}, "SciPy 1.17", "not installed (mkl)"),
    ],
)
def test_doctor_looks_for_the_library_of_mkl_itself(monkeypatch, packages, in_use, words):
    def version(name):
        if name not in packages and name not in texts.LIBRARIES:
            raise PackageNotFoundError(name)
        return packages.get(name, "1.0")

    monkeypatch.setattr("importlib.metadata.version", version)
    monkeypatch.setattr("scatflow.backends.fft.library", lambda: in_use)
    assert f"  mkl: {words}" in texts.doctor_lines()


def test_an_array_becomes_an_archive_and_a_job_runs_on_it(folder, rng):
    np.save(folder / "x.npy", rng.standard_normal((2, 4096)).astype(np.float32))
    done = scatflow(
        folder, "ingest", "npy", "x.npy", "new.zarr", "--dims", "station,time",
        "--variable", "waveform",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "new.zarr: waveform (station: 2, time: 4096) float32" in done.stdout
    (folder / "job.toml").write_text(JOB.replace("archive.zarr", "new.zarr"))
    assert scatflow(folder, "run", "job.toml").returncode == 0
    wrong = scatflow(folder, "ingest", "wav", "x.wav", "new2.zarr", "--step", "1")
    assert wrong.returncode == 2


def test_version_and_doctor(folder):
    assert scatflow(folder, "--version").stdout.startswith("scatflow 0.")
    doctor = scatflow(folder, "doctor")
    assert doctor.returncode == 0
    for word in ("numpy", library(), "processors", "memory", "ingest"):
        assert word in doctor.stdout


def test_what_was_compiled_ahead_is_all_that_signals_use(folder):
    cache = folder / "kernels"
    env = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    done = scatflow(folder, "compile", "scattering1d", "--dtype", "float32", env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("scattering1d float32: ready after")
    kept = sorted(cache.rglob("*.nbc"))
    assert kept
    use = (
        "import numpy as np, scatflow\n"
        "for J, N, Q, more in ((3, 97, 1, {}), (8, 5000, (4, 2), {}), (5, 300, 2, {'T': 'global'}),"
        " (7, 2**15, 8, {'max_order': 1}), (4, 250, 3, {'T': 0, 'out_type': 'list'})):\n"
        "    for batch in ((), (3,), (40,)):\n"
        "        scatflow.Scattering1D(J, N, Q, **more)(np.ones((*batch, N), 'f4'))"
    )
    subprocess.run([sys.executable, "-c", use], env=env, check=True)
    assert sorted(cache.rglob("*.nbc")) == kept


def test_kernels_of_an_unknown_kind_are_refused(folder):
    done = scatflow(folder, "compile", "scattering4d")
    assert done.returncode == 2
    assert "'scattering4d' is none of" in done.stderr


def test_help_answers_at_once(folder):
    begun = time.perf_counter()
    assert scatflow(folder, "--help").returncode == 0
    assert time.perf_counter() - begun < 5.0
    loaded = "import sys, scatflow.cli; print({'dask', 'zarr', 'xarray'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
