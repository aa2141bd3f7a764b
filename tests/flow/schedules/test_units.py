"""Units of every scheduler: what they start, that they are found again, and what they leave out."""

import datetime
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scatflow.errors import JobError, ScheduleError
from scatflow.flow.schedules import crontab, kubernetes, slurm, systemd
from scatflow.flow.schedules.environment import carried, portable, withheld
from scatflow.flow.schedules.systems import SYSTEMS
from scatflow.flow.schedules.task import script, script_path, unit_name

# --- what a run needs ----------------------------------------------------------------------------


def test_a_job_without_a_schedule_is_refused_and_told_of_the_key(task, home):
    (home / "job.toml").write_text((home / "job.toml").read_text().replace("schedule", "# "))
    with pytest.raises(JobError, match=r"\[run\] schedule is missing .* --schedule"):
        task()
    assert task(schedule="5 4 * * *").cron.text == "5 4 * * *"
    with pytest.raises(JobError, match="--schedule: found '5 4'"):
        task(schedule="5 4")


def test_names_tell_jobs_apart_and_are_names_in_kubernetes(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    places = [tmp_path / f / n for f in "ab" for n in ("job.toml", "Job.toml", "j\x20ö%$'.toml")]
    places += [tmp_path / ("long" * 50 + ".toml"), tmp_path / "%%.toml"]
    names = [unit_name(place) for place in places]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?", name) for name in names)
    assert unit_name(tmp_path / "a" / ".." / "b" / "job.toml") == unit_name(places[3])


def test_secrets_are_withheld_and_paths_of_their_files_are_not(tmp_path):
    key = tmp_path / "key.pem"
    key.touch()
    kept = {
        "AWS_ENDPOINT_URL": "http://store:9000",
        "AWS_PROFILE": "lab",
        "AWS_SHARED_CREDENTIALS_FILE": str(key),
        "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY": str(key),
        "DASK_TEMPORARY_DIRECTORY": "/scratch",
        "SCATFLOW_FFT": "scipy",
        "PATH": "/opt/bin:/bin",
    }
    secret = {
        "AWS_SECRET_ACCESS_KEY": "/looks/like/a/path",
        "AWS_ACCESS_KEY_ID": "AKIA",
        "AWS_SESSION_TOKEN": "t",
        "AZURE_STORAGE_CONNECTION_STRING": "c",
        "AZURE_STORAGE_SAS_TOKEN": "s",
        "FSSPEC_S3": '{"secret": "x"}',
        "DASK_GATEWAY__AUTH__PASSWORD": "p",
        "https_proxy": "http://me:word@proxy:3128",
    }
    environment = {**kept, **secret, "EDITOR": "vi", "MY_SECRET": "no business of ours"}
    assert carried(environment) == kept
    assert sorted(withheld(environment)) == sorted(secret)
    assert portable(kept) == {
        "AWS_ENDPOINT_URL": "http://store:9000",
        "AWS_PROFILE": "lab",
        "SCATFLOW_FFT": "scipy",
    }


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_unit_holds_a_secret_and_the_user_is_told(system, task, home, monkeypatch):
    for store in ("archive.zarr", "out.zarr"):
        text = (home / "job.toml").read_text()
        (home / "job.toml").write_text(text.replace(f'"{store}"', f'"s3://bucket/{store}"'))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-word")
    monkeypatch.setenv("SCATFLOW_FFT", "scipy")
    made = task(image="image" if system == "kubernetes" else None)
    text = SYSTEMS[system].text(made)
    assert "very-secret-word" not in text
    assert "SCATFLOW_FFT" in text
    assert "AWS_SECRET_ACCESS_KEY" in "".join(SYSTEMS[system].notes(made))


def test_the_script_gives_a_run_its_folder_its_words_and_its_variables(
    task, home, tmp_path, monkeypatch
):
    odd = "a 'b' \"c\" $d `e` %f \\g\nh"
    monkeypatch.setenv("SCATFLOW_ODD", odd)
    teller = tmp_path / "te'ller"
    telling = "import json, os, sys; json.dump([sys.argv[1:], os.getcwd(), dict(os.environ)], "
    teller.write_text(f"#!{sys.executable}\n{telling}sys.stdout)\nsys.exit(int('3'))\n")
    teller.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(teller))
    job = home / "an 'odd' $job %.toml"
    (home / "job.toml").rename(job)
    made = task(job.name, cluster="tcp://host:1", log="logs/day $1.log")
    file = tmp_path / "script.sh"
    file.write_text(script(made))
    done = subprocess.run(
        ["/bin/sh", str(file)], env={}, cwd="/", capture_output=True, text=True, check=False
    )
    log = home / "logs" / "day $1.log"
    words, folder, variables = json.loads(log.read_text().split("\n", 1)[1])
    run = ["run", str(job), "--unless-running", "--cluster", "tcp://host:1"]
    assert words == ["-P", "-m", "scatflow.cli", *run]
    assert folder == str(home)
    assert variables["SCATFLOW_ODD"] == odd
    assert variables["PATH"] == os.environ["PATH"]
    assert done.returncode == 3
    assert done.stderr == f"scatflow run {job}: exit code 3, see {log}\n"
    assert done.stdout == ""


# --- cron ----------------------------------------------------------------------------------------

CRONTABS = st.lists(
    st.one_of(
        st.sampled_from([b"# >>> other: written by scatflow schedule", b"# <<< other", b"", b"\r"]),
        st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")),
    ),
    max_size=6,
).map(lambda lines: b"".join(line + b"\n" for line in lines))


@given(CRONTABS, CRONTABS)
def test_a_block_comes_once_and_goes_without_a_trace(before, after):
    once = crontab.with_block(before, "unit", ["line 1"])
    assert once.startswith(before)
    around = once + after
    twice = crontab.with_block(around, "unit", ["line 2", "line 3"])
    assert twice == around.replace(b"\nline 1\n", b"\nline 2\nline 3\n", 1)
    assert crontab.with_block(twice, "unit", []) == before + after
    assert crontab.with_block(before, "unit", []) == before


def test_a_block_without_an_end_is_not_guessed_at():
    begun = crontab.with_block(b"", "unit", ["line"]).splitlines(keepends=True)[:-1]
    with pytest.raises(ScheduleError, match="what belongs to the unit is not known"):
        crontab.with_block(b"".join(begun), "unit", [])


def test_debians_crontab_takes_a_unit_once_and_gives_it_back(alone, stand_in, task, home):
    stand_in("crontab", f'exec {shlex.join(alone)} /usr/bin/crontab "$@"')

    def crontabs(*words, text=None):
        return subprocess.run(["crontab", *words], input=text, capture_output=True, text=True)

    name = task().name
    crontab.install(task())
    crontab.remove(name)
    assert "no crontab for" in crontabs("-l").stderr  # As before.
    mine = "MAILTO=me\n\n  # spaces \n0 1 * * *\tbackup 100\\%\n"
    assert crontabs("-", text=mine).returncode == 0
    crontab.install(task())
    once = crontabs("-l").stdout
    assert once.startswith(mine)
    assert re.search(r"^0 3 \* \* \* /bin/sh '.*100\\%.*\.cron\.sh'$", once, re.MULTILINE)
    crontab.install(task())
    assert crontabs("-l").stdout == once
    crontab.install(task(schedule="7 4 * * *"))
    assert crontabs("-l").stdout == once.replace("0 3 * * *", "7 4 * * *")
    assert "is no longer in the crontab" in crontab.remove(name)[0]
    assert crontabs("-l").stdout == mine
    assert "was not in the crontab" in crontab.remove(name)[0]
    assert not list(home.rglob("*.cron.sh"))


def test_a_crontab_that_cannot_be_read_is_left_alone(task, stand_in):
    record = stand_in("crontab", "echo 'you are not allowed' >&2; exit 1")
    with pytest.raises(ScheduleError, match=r"crontab -l ended with exit code 1.*not allowed"):
        crontab.install(task())
    assert record.read_text() == "-l\n"


# --- systemd -------------------------------------------------------------------------------------


def test_systemd_finds_no_fault_with_its_units(task, home, need, tmp_path, stand_in):
    need("systemd-analyze", "systemd")
    record = stand_in("systemctl")
    job = home / "a $job of 100%.toml"
    (home / "job.toml").rename(job)
    made = task(job.name, schedule="*/20 3 1 * mon")
    systemd.install(made)
    systemd.install(made)
    timer = f"{made.name}.timer"
    assert set(record.read_text().splitlines()) == {
        "--user daemon-reload",
        f"--user enable {timer}",
        f"--user restart {timer}",
    }
    folder = home / ".config" / "systemd" / "user"
    assert sorted(p.name for p in folder.iterdir()) == [f"{made.name}.service", timer]
    runtime = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "LC_ALL": "C"}
    checked = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(folder / timer)],
        env=runtime,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
    service = (folder / f"{made.name}.service").read_text()
    (start,) = re.findall(r'^ExecStart=/bin/sh "(.*)"$', service, re.MULTILINE)
    assert start.replace("%%", "%").replace("$$", "$") == str(script_path(made.name, "systemd"))
    assert "Persistent=true" in (folder / timer).read_text()
    assert systemd.remove(made.name) == [f"{made.name} is no longer among the units in {folder}"]
    assert not list(folder.iterdir())
    assert not script_path(made.name, "systemd").exists()
    assert "was not" in systemd.remove(made.name)[0]


def test_without_systemd_the_commands_are_told(task, stand_in):
    stand_in("systemctl", "echo 'Failed to connect to bus' >&2; exit 1")
    with pytest.raises(ScheduleError, match=r"Failed to connect.* --user enable scatflow-job"):
        systemd.install(task())
    (*_, note) = systemd.remove(task().name)
    assert "Failed to connect to bus" in note


# --- Slurm ---------------------------------------------------------------------------------------


def test_scrontab_gets_a_block_with_the_options_of_the_batch_job(task, stand_in, tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("0 1 * * * mine\n")
    stand_in("scrontab", f'if [ "$1" = -l ]; then cat "{kept}"; else cat > "{kept}"; fi')
    made = task(schedule="30 3 * jan 7", batch="--partition=long --time=2:00:00")
    slurm.install(made)
    slurm.install(made)
    lines = kept.read_text().splitlines()
    assert lines[0] == "0 1 * * * mine"
    assert len(lines) == 11
    assert "#SCRON --partition=long" in lines
    assert "#SCRON --cpus-per-task=1" in lines
    assert "#SCRON --mem=2048M" in lines
    assert lines[-2].startswith("30 3 * 1 0 /bin/sh ")
    assert lines[-2].replace(r"\%", "%").endswith(shlex.quote(str(script_path(made.name, "slurm"))))
    with pytest.raises(ScheduleError, match="a day of the month and a day of the week at once"):
        slurm.install(task(schedule="0 0 */2 * mon"))
    slurm.remove(made.name)
    assert kept.read_text() == "0 1 * * * mine\n"


def test_where_scrontab_does_not_serve_a_batch_job_submits_its_successor(
    task, stand_in, tmp_path, monkeypatch
):
    stand_in("scrontab", "echo 'scrontab is disabled on this cluster' >&2; exit 1")
    cancelled, submitted = stand_in("scancel"), stand_in("sbatch", "echo 42")
    made = task(schedule="30 3 * * *")
    (told,) = slurm.install(made)
    assert "submitted as job 42" in told
    cancel = f"--state=PENDING --name={made.name} --user="
    assert cancelled.read_text().startswith(cancel)
    begin = re.fullmatch(
        rf"--begin=(\S+) --parsable {re.escape(str(script_path(made.name, 'slurm')))}\n",
        submitted.read_text(),
    )[1]
    first = datetime.datetime.fromisoformat(begin)
    assert datetime.timedelta() < first - datetime.datetime.now() < datetime.timedelta(days=1)
    assert (first.hour, first.minute) == (3, 30)
    # As Slurm would start it; the archive is not there, which is the run's error.
    job = subprocess.run(
        ["/bin/sh", str(script_path(made.name, "slurm"))], capture_output=True, check=False
    )
    assert job.returncode == 2
    assert submitted.read_text().count(f"--begin={begin}") == 2
    assert cancelled.read_text().count(cancel) == 2
    slurm.remove(made.name)
    assert cancelled.read_text().count(cancel) == 3
    assert not script_path(made.name, "slurm").exists()


@pytest.mark.parametrize(
    ("profile", "processors", "mib"),
    [
        ('kind = "local"\nworkers = 8\nthreads = 2\nmemory = "2 GiB"', 16, 17 * 1024),
        ('kind = "local"\nminimum = 0\nmaximum = 3', 3, 4 * 1024),
        ('kind = "threads"', 1, 2 * 1024),
        ('kind = "slurm"\nworkers = 8', 1, 1024),
    ],
)
@pytest.mark.parametrize("in_the_job", [True, False])
def test_a_batch_job_asks_for_what_the_workers_of_a_profile_take(
    task, home, profile, processors, mib, in_the_job
):
    (home / "place.toml").write_text(profile)
    if in_the_job:
        text = (home / "job.toml").read_text().replace('"threads"', '"place.toml"')
        (home / "job.toml").write_text(text)
    made = task(cluster=None if in_the_job else "place.toml")
    text = slurm.batch_script(made)
    assert f"\n#SBATCH --cpus-per-task={processors}\n" in text
    assert f"\n#SBATCH --mem={mib}M\n" in text
    assert "--workers" not in text


def test_a_batch_job_of_a_job_that_names_no_workers_has_one(task, home):
    text = (home / "job.toml").read_text().replace("workers = 1\n", "")
    (home / "job.toml").write_text(text)
    assert slurm.batch_script(task(cluster="local")).count(" --workers 1\n") == 1
    (home / "place.toml").write_text('kind = "local"')
    assert slurm.batch_script(task(cluster="place.toml")).count(" --workers 1\n") == 1


def test_without_slurm_nothing_is_installed(task, home, monkeypatch):
    made = task()
    monkeypatch.setenv("PATH", str(home))
    with pytest.raises(ScheduleError, match="neither scrontab nor sbatch"):
        slurm.install(made)
    assert not script_path(made.name, "slurm").exists()


# --- Kubernetes ----------------------------------------------------------------------------------

NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
TEXTS = [str]
SCHEMA = {
    "apiVersion": "batch/v1",
    "kind": "CronJob",
    "metadata": {"name": NAME, "labels": {"app.kubernetes.io/managed-by": "scatflow"}},
    "spec": {
        "schedule": "15 3 * * 0",
        "timeZone": str,
        "concurrencyPolicy": "Forbid",
        "jobTemplate": {
            "spec": {
                "backoffLimit": int,
                "podFailurePolicy": {
                    "rules": [
                        {
                            "action": "FailJob",
                            "onExitCodes": {
                                "containerName": "scatflow",
                                "operator": "In",
                                "values": [int],
                            },
                        }
                    ]
                },
                "template": {
                    "metadata": {"labels": {"app.kubernetes.io/managed-by": "scatflow"}},
                    "spec": {
                        "restartPolicy": "Never",
                        "automountServiceAccountToken": False,
                        "containers": [
                            {
                                "name": "scatflow",
                                "image": "registry/scatflow:1",
                                "command": TEXTS,
                                "workingDir": str,
                                "env": [{"name": str, "value": str}],
                                "envFrom": [{"secretRef": {"name": NAME, "optional": True}}],
                                "resources": {
                                    "requests": {
                                        "cpu": re.compile(r"\d+"),
                                        "memory": re.compile(r"\d+Mi"),
                                    }
                                },
                                "volumeMounts": [dict],
                            }
                        ],
                        "volumes": [dict],
                    },
                },
            }
        },
    },
}
"""Kubernetes' own names (it refuses or ignores others) and kinds of values."""


def differs(value, schema, where=""):
    """Yield where a value has other names or kinds of values than a schema."""
    if isinstance(schema, type):
        if type(value) is not schema:
            yield f"{where}: {value!r} is no {schema.__name__}"
    elif isinstance(schema, re.Pattern):
        if not isinstance(value, str) or not schema.fullmatch(value):
            yield f"{where}: {value!r}"
    elif isinstance(schema, dict):
        if set(value) != set(schema):
            yield f"{where}: {set(value) ^ set(schema)}"
        for key in set(value) & set(schema):
            yield from differs(value[key], schema[key], f"{where}.{key}")
    elif isinstance(schema, list):
        for i, item in enumerate(value):
            yield from differs(item, schema[0], f"{where}[{i}]")
    elif value != schema:
        yield f"{where}: {value!r} is not {schema!r}"


def test_kubernetes_gets_a_cron_job_of_its_own_names(task, home, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store:9000")
    made = task(schedule="15 3 * * SUN", image="registry/scatflow:1", claim="data")
    file, job = yaml.safe_load_all(kubernetes.text(made))
    assert list(differs(job, SCHEMA)) == []
    assert file["data"] == {"job.toml": (home / "job.toml").read_text()}
    assert job["metadata"]["name"] == file["metadata"]["name"] == made.name
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["scatflow", "run", "/etc/scatflow/job.toml", "--unless-running"]
    assert container["workingDir"] == str(home)
    assert {"name": "AWS_ENDPOINT_URL", "value": "http://store:9000"} in container["env"]
    assert container["resources"]["requests"] == {"cpu": "1", "memory": "2048Mi"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {"job", "data"}
    assert {volume["name"] for volume in pod["volumes"]} == {"job", "data"}


@pytest.mark.parametrize("in_the_job", [True, False])
def test_a_pod_has_the_profile_that_its_run_is_told_of(task, home, in_the_job):
    profile = 'kind = "address"\naddress = "tcp://scheduler:8786"\n'
    (home / "place.toml").write_text(profile)
    if in_the_job:
        text = (home / "job.toml").read_text().replace('"threads"', '"place.toml"')
        (home / "job.toml").write_text(text)
    made = task(cluster=None if in_the_job else "place.toml", image="image", claim="data")
    file, job = yaml.safe_load_all(kubernetes.text(made))
    assert file["data"]["cluster.toml"] == profile
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"][-2:] == ["--cluster", "/etc/scatflow/cluster.toml"]
    (home / "place.toml").write_text('kind = "slurm"\nworkers = 8')
    with pytest.raises(ScheduleError, match="'slurm', whose workers a pod cannot start"):
        kubernetes.text(task(cluster="place.toml", image="image", claim="data"))


def test_what_a_pod_could_not_do_is_refused(task):
    with pytest.raises(ScheduleError, match="needs an image"):
        kubernetes.text(task())
    with pytest.raises(ScheduleError, match=r"\[source\] store = 'archive.zarr' is a path"):
        kubernetes.text(task(image="image"))
    with pytest.raises(ScheduleError, match="Kubernetes would take either"):
        kubernetes.text(task(schedule="0 0 */2 * mon", image="image", claim="data"))


def test_kubectl_is_handed_what_is_printed_and_told_what_to_delete(task, stand_in, tmp_path):
    taken = tmp_path / "taken.yaml"
    record = stand_in("kubectl", f'[ "$1" = delete ] || cat > "{taken}"; echo done')
    made = task(image="image", claim="data")
    assert kubernetes.install(made) == ["done"]
    assert taken.read_text() == kubernetes.text(made)
    kubernetes.remove(made.name)
    deleted = f"delete --ignore-not-found cronjob/{made.name} configmap/{made.name}"
    assert record.read_text().splitlines() == ["apply -f -", deleted]
    stand_in("kubectl", "echo refused >&2; exit 1")
    with pytest.raises(ScheduleError, match="exit code 1: refused"):
        kubernetes.remove(made.name)


def test_programs_that_are_not_there_are_named(task, home, monkeypatch):
    made = task(image="image", claim="data")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    for system, program in (
        ("cron", "crontab"),
        ("systemd", "systemctl"),
        ("kubernetes", "kubectl"),
    ):
        with pytest.raises(ScheduleError, match=f"no program {program}"):
            SYSTEMS[system].install(made)
