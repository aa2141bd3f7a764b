"""The flows that the page on schedules has for other programs, read out of it and run."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from scatflow.flow.job import load
from scatflow.flow.status import status

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "schedules.md").read_text(encoding="utf-8")

PREFECT = """
from prefect.testing.utilities import prefect_test_harness
import flow

flow.run_job = flow.run_job.with_options(retry_delay_seconds=0)
with prefect_test_harness(server_startup_timeout=150):
    for job in ("job.toml", "mistake.toml", "failing.toml"):
        print(job, flow.scattering(job, return_state=True).type.value)
"""

DAGSTER = """
import flow

(schedule,) = flow.defs.get_repository_def().schedule_defs
print(schedule.job_name, schedule.cron_schedule)
print(flow.scattering.execute_in_process(raise_on_error=False).success)
"""


@pytest.fixture
def execute(home, stand_in, grow):
    """Return a function that runs a program beside the page's flow, and what it called.

    Of the jobs, `mistake.toml` has one, and blocks of `failing.toml` fail the first time.
    """
    grow(20_000)
    calls = stand_in(
        "scatflow",
        'case "$2" in\nmistake.toml) exit 2 ;;\n'
        "failing.toml) [ -e tried ] || { : > tried; exit 1; }; exit 0 ;;\nesac\n"
        f'exec {shlex.join([sys.executable, "-P", "-m", "scatflow.cli"])} "$@"',
    )

    def execute(package, program, job="job.toml"):
        (text,) = (b for b in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if package in b)
        flow = text.replace("/data/volcano", str(home)).replace("day.toml", job)
        (home / "flow.py").write_text(flow)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(home)]),
            "PREFECT_HOME": str(home / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "DAGSTER_DISABLE_TELEMETRY": "1",
        }
        done = subprocess.run(
            [sys.executable, "-u", "-c", program],
            env=environment,
            cwd=home,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.splitlines(), calls.read_text().splitlines()

    return execute


def called(*jobs):
    return [f"run {job} --unless-running" for job in jobs]


def test_the_flow_for_prefect_runs_a_job_and_tries_again_what_may_mend(execute, home):
    told, calls = execute("prefect", PREFECT)
    ends = ["job.toml COMPLETED", "mistake.toml FAILED", "failing.toml COMPLETED"]
    assert [line for line in told if ".toml " in line and "|" not in line][-3:] == ends
    assert calls == called("job.toml", "mistake.toml", "failing.toml", "failing.toml")
    assert status(load("job.toml"))["state"] == "complete"


@pytest.mark.ways
@pytest.mark.skipif(
    importlib.util.find_spec("dagster") is None, reason="not run: dagster is missing"
)
@pytest.mark.parametrize(("job", "good"), [("job.toml", True), ("mistake.toml", False)])
def test_the_job_for_dagster_runs_and_a_mistake_is_not_tried_again(job, good, execute):
    told, calls = execute("dagster", DAGSTER, job)
    assert (told[0], told[-1]) == ("scattering 0 3 * * *", str(good))
    assert calls == called(job)
