"""What is sent to batch systems, against what their manuals say; nothing here needs one."""

import gc
import os
import re
import socket
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from scatflow.cli import app
from scatflow.errors import ClusterError, OutputBusyError
from scatflow.flow.cluster import batch
from scatflow.flow.lock import locked
from scatflow.flow.plan import prepare
from scatflow.flow.profiles import parse_profile
from scatflow.flow.status import status
from scatflow.flow.submit import cancel, scripts, sent, submit
from scatflow.flow.systems import SYSTEMS

PROFILE = """
kind = "{kind}"
workers = 4
processes = 2
threads = 2
memory = "1 GiB"
walltime = "2-01:30:00"
account = "physics"
host = "127.0.0.1"
environment = {{ GREETING = "it's \\"fine\\" 😀" }}
prologue = ["module load python"]
{more}
"""

DRIVER = '[driver]\nwalltime = "3-00:00:00"\nmemory = "3 GiB"\n'

DIRECTIVES = {
    "slurm": (
        "#SBATCH",
        'queue = "long"\ndirectives = ["--exclusive"]\n' + DRIVER,
        ["-p long", "-A physics", "--cpus-per-task=4", "--mem=3G", "-t 49:30:00", "--exclusive"],
        ["--time=72:00:00", "--partition=long", "--account=physics", "--mem=3072M", "--requeue"],
    ),
    "pbs": (
        "#PBS",
        'queue = "long"\ndirectives = ["-l place=excl"]\n' + DRIVER,
        ["-q long", "-A physics", "-l select=1:ncpus=4:mem=3072mb", "-l walltime=49:30:00"],
        ["-q long", "-A physics", "-l select=1:ncpus=1:mem=3072mb", "-l walltime=72:00:00", "-r y"],
    ),
    "lsf": (
        "#BSUB",
        'queue = "long"\ndirectives = ["-x"]\n' + DRIVER,
        ["-q long", '-P "physics"', "-n 4", '-R "span[hosts=1]"', "-W 2970", "-x"],
        ["-q long", "-P physics", "-n 1", "-M 3072MB", "-W 4320", "-Q 99", "-r"],
    ),
    "sge": (
        "#$",
        'queue = "long"\nparallel_environment = "smp"\n' + DRIVER,
        ["-q long", "-P physics", "-pe smp 4", "-l h_vmem=768M", "-l h_rt=49:30:00"],
        ["-q long", "-P physics", "-l h_vmem=3072M", "-l h_rt=259200", "-r y", "-S /bin/bash"],
    ),
}


@pytest.fixture
def job(place):
    place.archive(np.zeros((2, 2**14), "float32"))

    def make(kind, more=None, **changes):
        text = more if more is not None else DIRECTIVES[kind][1] if kind in DIRECTIVES else ""
        (place.path / "site.toml").write_text(PROFILE.format(kind=kind, more=text))
        return place.job(cluster="site.toml", **changes)

    return make


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Put a shell script before all programs of its name; it records its words."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def make(name, answer=""):
        calls = folder / f"{name}.calls"
        (folder / name).write_text(f"#!/bin/sh\necho $* >> '{calls}'\n{answer}\n")
        (folder / name).chmod(0o755)
        return calls

    return make


def head(text, mark):
    return [x.removeprefix(f"{mark} ") for x in text.splitlines() if x.startswith(mark)]


# --- scripts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DIRECTIVES)
def test_jobs_ask_for_what_the_profile_states_in_the_words_of_the_system(kind, job, place):
    mark, _, worker, driver = DIRECTIVES[kind]
    plan = prepare(job(kind))
    before = sorted(place.path.rglob("*"))
    shares, end, _ = scripts(plan, 2).values()
    alone = [line for line in worker if line in ("-q long", "-p long", "-x", "--exclusive")]
    for text, wanted in (*zip(scripts(plan).values(), (driver, worker), strict=True),):
        assert [line for line in wanted if line not in head(text, mark)] == [], text
    for text in (shares, end):
        told = [line.replace("--partition=", "-p ") for line in head(text, mark)]
        assert [line for line in alone if line not in told] == [], text
    for text in (shares, end, *scripts(plan).values()):
        assert "\nmodule load python\n" in text
        assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    assert sorted(place.path.rglob("*")) == before


@pytest.mark.parametrize("kind", DIRECTIVES)
def test_every_job_has_the_environment_of_the_profile(kind, job):
    plan = prepare(job(kind))
    driver, worker = scripts(plan).values()
    for text in (driver, worker):
        exports = "\n".join(line for line in text.splitlines() if line.startswith("export "))
        said = subprocess.run(
            ["bash", "-c", f'{exports}\necho "$GREETING"'], capture_output=True, text=True
        )
        assert said.stdout == 'it\'s "fine" 😀\n'
    assert "\nexport OMP_NUM_THREADS=1\n" in worker
    (line,) = [line for line in worker.splitlines() if "distributed.cli.dask_worker" in line]
    assert "tcp://SCHEDULER:PORT" in line
    assert "--nworkers 2" in line
    assert "--nthreads 3" in line or "--nthreads 2" in line
    assert re.search(r"--lifetime 1779\d\ds", line)
    (own,) = [text for what, text in scripts(plan, 2).items() if "profile" in what]
    assert tomllib.loads(own)["environment"] == {"GREETING": 'it\'s "fine" 😀'}
    assert parse_profile(own, Path("own.toml")).workers == 2


@pytest.mark.parametrize("kind", DIRECTIVES)
def test_workers_of_a_profile_with_gpus_have_them_as_a_resource(kind, job):
    stated = DIRECTIVES[kind][1]
    assert "--resources GPU=1" in batch.script(job(kind, 'device = "cuda"\n' + stated))
    assert "--resources" not in batch.script(job(kind, stated))


def test_jobs_of_htcondor_ask_for_processors_and_a_group(job):
    text = batch.script(job("htcondor", 'disk = "4 GiB"\ndirectives = ["request_gpus = 1"]'))
    told = dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line)
    assert told["RequestCpus"] == "4"
    assert told["MY.DaskWorkerMemory"] == str(3 * 2**30)
    assert told["MY.DaskWorkerDisk"] == str(4 * 2**30)
    assert told["accounting_group"] == "physics"
    assert told["request_gpus"] == "1"
    assert told["Executable"] == "/bin/sh"
    assert text.rstrip().endswith("Queue")
    # condor_submit's own quoting: '' and "" stand for one inside, spaces hold in single quotes.
    inner = re.fullmatch(r"\"-c '(.*)'\"", told["Arguments"])[1]
    shell = inner.replace("''", "'").replace('""', '"')
    assert subprocess.run(["sh", "-n", "-c", shell]).returncode == 0
    assert "module load python; export OMP_NUM_THREADS=1; " in shell


def test_a_run_is_sent_to_batch_systems_alone_and_is_told_how_it_goes_on(place):
    place.archive(np.zeros((2, 2**14), "float32"))
    for ask in (scripts, submit):
        with pytest.raises(ClusterError, match=r'kind "threads".*slurm, pbs, lsf, sge.*stays'):
            ask(place.plan(cluster="threads"))


@pytest.mark.parametrize(
    ("kind", "index"),
    [("slurm", "0"), ("pbs", "0"), ("lsf", "1"), ("sge", "1"), ("htcondor", "0")],
)
def test_each_job_of_an_array_has_its_share_and_there_are_no_more_than_blocks(kind, index, job):
    plan = prepare(job(kind))
    n = plan.n_blocks
    text = scripts(plan, 1000)[f"shares ({n} jobs)"]
    share = re.search(r'--share (".*?")', text).group(1)
    names = ("SLURM_ARRAY_TASK_ID", "PBS_ARRAY_INDEX", "LSB_JOBINDEX", "SGE_TASK_ID")
    told = subprocess.run(
        ["bash", "-c", f"echo {share}", "bash", index],
        env={**os.environ, **dict.fromkeys(names, index)},
        capture_output=True,
        text=True,
    )
    assert told.stdout == f"0/{n}\n"


def run_by_bash(script, path, stand_in):
    """Run a script whose scatflow command is another one; one that sleeps has had its time."""
    text = re.sub(r"timeout .*? &$", f"{stand_in} &", script, flags=re.M)
    if "sleep 0" not in stand_in:  # Else a second may begin meanwhile.
        text = re.sub(r"-ge \d+", "-ge 1", text)
    text = text.replace("module load python", "true")
    (path / "script.sh").write_text(text)
    return subprocess.run(
        ["bash", str(path / "script.sh")],
        capture_output=True,
        text=True,
        timeout=20,
        env={**os.environ, "SLURM_JOB_ID": "7"},
    )


@pytest.mark.parametrize(("slept", "code", "again"), [(0, 0, False), (0, 1, False), (1, 124, True)])
def test_a_job_is_queued_again_only_when_its_time_was_up(slept, code, again, job, place, stand_in):
    stand_in("scontrol", "echo again: $*")
    text = scripts(prepare(job("slurm")))["driver"]
    done = run_by_bash(text, place.path, f"(sleep {slept}; exit {code})")
    assert ("again: requeue 7" in done.stdout) == again, done
    assert done.returncode == code


@pytest.mark.parametrize(("slept", "code", "given"), [(0, 1, 1), (1, 124, 99)])
def test_a_job_of_htcondor_asks_to_run_again_by_its_exit_code(slept, code, given, job, place):
    text = scripts(prepare(job("htcondor", DRIVER)))["driver"]
    assert run_by_bash(text, place.path, f"(sleep {slept}; exit {code})").returncode == given


def test_a_job_of_an_array_does_not_send_the_whole_array_again(job, place, stand_in):
    sends = stand_in("qsub", "echo 8.server")
    shares, end, _ = scripts(prepare(job("pbs")), 2).values()
    run_by_bash(shares, place.path, "(sleep 1; exit 124)")
    assert not sends.exists()
    (place.path / ".scatflow").mkdir()
    run_by_bash(end, place.path, "(sleep 1; exit 124)")
    assert sends.exists()


def test_workers_of_the_command_line_reach_the_driver(job):
    given = job("slurm").override(workers=6)
    assert " --workers 6 " in scripts(prepare(given))["driver"]


@pytest.mark.parametrize("name", ['été "x" 日本; rm', "a\nb", "%j$HOME^"])
def test_names_of_batch_jobs_are_plain_whatever_the_job_is_called(name, job):
    named = batch.tag(replace(job("slurm"), name=name))
    assert re.fullmatch(r"scatflow-[A-Za-z0-9_-]+", named)


@pytest.mark.parametrize("folder", ["my data", "100%j", "a:b", "$HOME"])
def test_a_folder_that_directives_cannot_name_is_refused_before_anything_is_sent(
    folder, job, place, stand_in
):
    sends = stand_in("sbatch", "echo 41")
    plan = prepare(job("slurm", output=f"{folder}/out.zarr"))
    for ask in (scripts, submit, lambda plan: batch.script(plan.job)):
        with pytest.raises(ClusterError, match=r"options of batch systems cannot hold.*shared"):
            ask(plan)
    assert not sends.exists()
    assert not (place.path / folder).exists()
    shared = f'shared = "{place.path}/plain"\n' + DIRECTIVES["slurm"][1]
    assert submit(prepare(job("slurm", shared, output=f"{folder}/out.zarr"))).number == "41"


def test_a_file_is_no_folder_for_logs(job, place):
    plan = prepare(job("slurm", f'shared = "{place.path}/site.toml"'))
    for ask in (scripts, submit):
        with pytest.raises(ClusterError, match=r"site.toml, which is no folder"):
            ask(plan)


# --- sending -------------------------------------------------------------------------------------

ANSWERS = {
    "slurm": ("sbatch", "41", "41", "RUNNING"),
    "pbs": ("qsub", "41.server", "41.server", "41.server day me 00:00:00 R long"),
    "lsf": ("bsub", "Job <41> is submitted to queue <long>.", "41", "RUN"),
    "sge": ("qsub", "41", "41", "job_number: 41"),
    "htcondor": ("condor_submit", "41.0 - 41.0", "41", "2"),
}

ENDED = {
    "slurm": ["", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"],
    "pbs": [
        "echo 'qstat: Unknown Job Id 41.server' >&2; exit 153",
        "echo 'qstat: 41.server Job has finished, use -x or -H to obtain it' >&2; exit 35",
    ],
    "lsf": ["echo DONE", "echo EXIT; echo DONE", "echo 'Job <41> is not found' >&2; exit 255"],
    "sge": ["echo 'Following jobs do not exist:' >&2; echo 41 >&2; exit 1"],
    "htcondor": ["", "echo '4 3'"],
}

SILENT = "echo 'Unable to contact the controller (connect failure)' >&2; exit 1"


@pytest.fixture
def system(job, stand_in):
    """Return a batch system's stand-ins, whose job runs: what `job` makes, and records of calls."""

    def make(kind):
        command, answer, _, state = ANSWERS[kind]
        calls = {command: stand_in(command, f"echo '{answer}'")}
        found = SYSTEMS[kind]
        calls["state"] = stand_in(found.state[0], f"echo '{state}'")
        calls["cancel"] = stand_in(found.cancel[0])
        return prepare(job(kind)), calls

    return make


@pytest.mark.parametrize("kind", SYSTEMS)
def test_what_is_sent_is_remembered_watched_and_cancelled(kind, system):
    plan, calls = system(kind)
    number = ANSWERS[kind][2]
    record = submit(plan)
    assert (record.number, sent(plan.job)) == (number, record)
    named = {
        "slurm": f"--output={record.log.replace('-41.log', '-%j.log')}",
        "pbs": f"-o {record.log}",
    }
    assert named.get(kind, "") in Path(record.script).read_text()
    assert status(plan.job)["batch"]["at_work"] is True
    with pytest.raises(OutputBusyError, match=number):
        submit(plan)
    assert "is cancelled" in cancel(plan.job)[0]
    assert number in calls["cancel"].read_text()


@pytest.mark.parametrize(("kind", "answer"), [(k, a) for k, all_ in ENDED.items() for a in all_])
def test_a_job_that_has_ended_is_known_to_have(kind, answer, system, stand_in):
    plan, _ = system(kind)
    submit(plan)
    stand_in(SYSTEMS[kind].state[0], answer)
    assert status(plan.job)["batch"]["at_work"] is False
    assert "has ended already" in cancel(plan.job)[0]
    assert submit(plan) is not None


def test_of_two_that_send_a_run_at_the_same_instant_one_is_refused(system):
    plan, calls = system("slurm")
    submit(plan)
    calls["sbatch"].unlink()
    with (
        locked(sent(plan.job).script.removesuffix("sh") + "json"),
        pytest.raises(OutputBusyError, match="sending this run at this moment"),
    ):
        submit(plan)
    assert not calls["sbatch"].exists()


@pytest.mark.parametrize(
    ("scratch", "word"),
    [("/scratch", "/scratch"), ("/my data", "'/my data'"), ("$TMPDIR/a b", '"$TMPDIR/a b"')],
)
def test_the_scratch_folder_is_one_word_and_may_be_the_nodes_own(scratch, word, job):
    text = batch.script(job("slurm", f'scratch = "{scratch}"'))
    assert f"--local-directory {word}" in text


def test_jobs_of_an_array_compute_on_what_the_profile_says(job):
    plan = prepare(job("slurm", 'device = "cuda"\n' + DIRECTIVES["slurm"][1]))
    (own,) = [text for what, text in scripts(plan, 2).items() if "profile" in what]
    assert parse_profile(own, Path("own.toml")).device == "cuda"


@pytest.mark.parametrize("kind", SYSTEMS)
def test_a_system_that_does_not_answer_has_not_ended_a_job(kind, system, stand_in):
    plan, calls = system(kind)
    submit(plan)
    stand_in(SYSTEMS[kind].state[0], SILENT)
    for ask in (lambda: submit(plan), lambda: cancel(plan.job)):
        with pytest.raises(ClusterError, match="refused: Unable to contact the controller"):
            ask()
    assert status(plan.job)["batch"]["at_work"] is None
    assert len(calls[ANSWERS[kind][0]].read_text().splitlines()) == 1


def test_what_is_left_of_a_cancelled_run_and_cannot_be_cancelled_is_told(system, stand_in):
    plan, _ = system("slurm")
    submit(plan)
    stand_in("scancel", f'case "$*" in *--name*) {SILENT};; esac')
    with pytest.raises(ClusterError, match="scancel refused: Unable to contact"):
        cancel(plan.job)
    stand_in("scancel", 'case "$*" in *--name*) echo "Job already completed" >&2; exit 1;; esac')
    assert "is cancelled" in cancel(plan.job)[0]


def test_an_array_without_the_job_after_it_is_taken_back(system, stand_in):
    plan, calls = system("slurm")
    stand_in("sbatch", 'grep -q dependency "$2" && { echo "held" >&2; exit 1; }; echo 41')
    with pytest.raises(ClusterError, match="sbatch refused: held"):
        submit(plan, 2)
    assert calls["cancel"].read_text() == "41\n"


def test_the_job_that_pbs_has_in_place_of_the_first_one_is_watched_and_cancelled(system, place):
    plan, calls = system("pbs")
    submit(plan)
    calls["qsub"].with_suffix("").write_text("#!/bin/sh\necho 57.server\n")
    run_by_bash(Path(sent(plan.job).script).read_text(), place.path, "(sleep 1; exit 124)")
    assert sent(plan.job).number == "57.server"
    cancel(plan.job)
    assert "57.server" in calls["cancel"].read_text()


def test_an_array_of_htcondor_is_one_cluster_whose_last_job_concludes(system):
    plan, calls = system("htcondor")
    record = submit(plan, 2)
    assert (record.numbers, Path(record.log).name.endswith("-41-*.log")) == (["41"], True)
    (told,) = calls["condor_submit"].read_text().splitlines()
    assert told == f"-terse {record.script.removesuffix('.sh')}.sub"
    n = plan.n_blocks
    assert list(scripts(plan, n)) == [
        f"shares ({n} jobs)",
        f"shares ({n} jobs): what is sent",
        f"profile of all jobs, {Path(record.script).stem}.toml",
    ]


def test_a_job_of_htcondor_that_is_held_still_waits(system, stand_in):
    plan, _ = system("htcondor")
    submit(plan)
    stand_in("condor_q", "echo 5")
    with pytest.raises(OutputBusyError, match="41"):
        submit(plan)


@pytest.mark.parametrize("kind", SYSTEMS)
def test_a_system_whose_commands_are_missing_is_named(kind, job, monkeypatch):
    plan = prepare(job(kind))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterError, match=f"The command {ANSWERS[kind][0]} is not there"):
        submit(plan)
    with pytest.raises(ClusterError, match="was not sent"):
        cancel(plan.job)


@pytest.mark.parametrize("array", [None, 2])
def test_certificates_that_are_not_there_are_told_before_anything_is_sent(
    array, job, place, stand_in
):
    sends = stand_in("sbatch", "echo 41")
    more = '[tls]\nca = "no.pem"\ncert = "no.pem"\nkey = "no.key"'
    plan = prepare(job("slurm", more))
    for ask in (scripts, submit):
        with pytest.raises(ClusterError, match=r"\[tls\] ca = 'no.pem': there is no file"):
            ask(plan, array)
    assert not sends.exists()


def test_an_array_is_not_laid_out_where_nothing_can_be_sent(job, monkeypatch):
    plan = prepare(job("slurm"))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterError, match="The command sbatch is not there"):
        submit(plan, 2)
    assert not Path(plan.output).exists()


def test_workers_are_not_for_an_array(job, place):
    job("slurm")
    (place.path / "job.toml").write_text(place.text(cluster="site.toml"))
    words = ["submit", "job.toml", "--array", "2", "--workers", "2", "--dry-run"]
    told = CliRunner().invoke(app, words)
    assert (told.exit_code, "--workers has no meaning" in told.output) == (2, True)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_dashboards_port_that_is_taken_this_moment_warns_nobody(job, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setattr(batch, "dashboard_port", lambda: other.getsockname()[1])
        with pytest.raises(ClusterError, match="command sbatch"), batch.connect(job("slurm")):
            pass
        gc.collect()


def test_what_a_command_says_is_told_and_not_the_marks_around_it():
    said = "Command exited with non-zero exit code.\nstdout:\n{}\nstderr:\n{}\n"
    assert batch._said(RuntimeError(said.format("", "no queue"))) == "no queue"
    assert batch._said(RuntimeError(said.format("held", ""))) == "held"
    assert "non-zero exit code" in batch._said(RuntimeError(said.format("", "")))


@pytest.mark.parametrize("kind", SYSTEMS)
def test_a_system_that_refuses_a_job_is_told_with_what_to_look_at(kind, system, stand_in):
    plan, _ = system(kind)
    stand_in(ANSWERS[kind][0], "echo 'no such account' >&2; exit 1")
    with pytest.raises(ClusterError, match=r"no such account\n.* account, .* directives"):
        submit(plan)


def test_a_run_goes_on_while_its_batch_system_does_not_answer(job, stand_in):
    jobs = SimpleNamespace(
        scheduler=SimpleNamespace(workers={}), workers={0: SimpleNamespace(job_id="41")}
    )
    stand_in("squeue", SILENT)
    arrivals = batch._Arrivals(jobs, job("slurm").profile, Path("."))
    assert arrivals._ended() == []
    stand_in("squeue")
    assert arrivals._ended() == [0]
