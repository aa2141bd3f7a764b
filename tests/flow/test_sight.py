"""What a run tells of itself: terminal, log, report, panel, metrics, status and hooks."""

import dataclasses
import html
import io
import json
import os
import re
import sys
import time
import urllib.request

import numpy as np
import pytest
from bokeh.client import pull_session
from distributed import Client, LocalCluster
from prometheus_client import REGISTRY
from rich.console import Console

from scatflow.backends import choose
from scatflow.cli import main
from scatflow.errors import JobError
from scatflow.flow import layout, progress
from scatflow.flow.block import Receipt
from scatflow.flow.cluster import reached as cluster_module
from scatflow.flow.ledger import Ledger
from scatflow.flow.plan import prepare
from scatflow.flow.progress import Terminal, workers_table
from scatflow.flow.run import run
from scatflow.flow.sight import board as board_module
from scatflow.flow.sight import hooks, metrics, tally
from scatflow.flow.sight.board import Board, message
from scatflow.flow.sight.hooks import Hooks
from scatflow.flow.sight.log import Log
from scatflow.flow.sight.page import _failures, _summary
from scatflow.flow.sight.report import Report
from scatflow.flow.sight.report import page as report_page
from scatflow.flow.sight.tally import History, Point, Rates, Tally, rates
from scatflow.flow.sight.watch import End, Listener, Run, Watch
from scatflow.flow.status import status

WHOLE = 'kind = "scattering1d"\ndims = ["time"]\nJ = 4\nQ = 1\n'
SOMEONE = Run("some-run", "a <job>", "job.toml", "out.zarr", {"J": 4}, "block {}".format)


@pytest.fixture
def two_good_one_bad(place, noise, monkeypatch):
    """Lay out an archive of three records, one block each, of which the second cannot be done."""
    data = noise[:3, :4096].copy()
    data[1, 7] = np.inf
    place.archive(data, chunks=(1, 4096))
    monkeypatch.setattr(layout, "TARGET_SAMPLES", 4096)
    return place


def tallied(*receipts, total=10, **known):
    found = Tally(total, **known)
    for receipt in receipts:
        found.add(receipt)
    return found


# --- sums ----------------------------------------------------------------------------------------


def test_a_history_of_any_length_is_bounded_and_spread_over_all_of_it():
    history = History(Point(0.0, 0, 0, 0, 0, 0.0))
    for second in range(1, 20_001):
        history.add(Point(float(second), second, 0, 0, 0, 0.0))
        assert history.points[-1].seconds == second
    times = np.array([point.seconds for point in history.points])
    assert tally.POINTS / 4 < times.size <= tally.POINTS
    assert np.diff(times).max() < 20_000 / 100


def test_rates_are_of_the_time_before_each_point():
    points = [Point(float(t), 2 * t, 0, 100 * t, 10 * t, 1.5 * t) for t in range(30)]
    points += [Point(30.0 + t, 58, 0, 2900, 290, 43.5) for t in range(100)]
    found = rates(points, slots=2)
    assert found[0] == Rates(0, 0, 0)
    assert found[20] == pytest.approx(Rates(100.0, 10.0, 0.75))
    assert 0 < found[-1].samples < 10


def test_a_thousand_workers_are_told_of_by_those_that_stand_out():
    receipts = [Receipt(k, samples=1000 - k, worker=f"w{k}") for k in range(1000)]
    receipts[5] = dataclasses.replace(receipts[5], failure="[bold] is no markup")
    found = tallied(*receipts, total=1000)
    for worker in found.workers.values():
        worker.first, worker.last = 0.0, 1.0
    assert [name for name, _ in found.noteworthy(3)] == ["w5", "w999", "w998"]
    text = io.StringIO()
    Console(file=text, width=100).print(workers_table(found, 3, 100))
    assert "[bold] is no markup" in text.getvalue()
    assert "and 997 faster ones" in text.getvalue()
    assert len(json.dumps(message(SOMEONE, found, 0.0))) < 10_000


# --- the terminal --------------------------------------------------------------------------------


def test_a_terminal_shows_rate_time_left_failures_and_workers():
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100, height=30)
    found = Tally(4)
    with Terminal(console).begin(found) as view:
        for receipt in (
            Receipt(0, samples=500, worker="10.0.0.7:4000"),
            Receipt(1, failure="bad disk", worker="10.0.0.8:4000"),
        ):
            found.add(receipt)
            view.block(receipt)
            view.tick()
    assert "block 1 failed: bad disk" in text.getvalue()
    last = text.getvalue()[text.getvalue().rindex("running") :]
    for words in ("2/4", "1 failed", "samples/s", " left", "10.0.0.7:4000", "10.0.0.8:4000"):
        assert words in last


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_width_of_a_terminal_and_no_length_of_a_reason_costs_a_number(width):
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, no_color=True, width=width, height=12)
    found = Tally(123_456, at_start=12_000, slots=2, began=time.monotonic() - 10)
    view = Terminal(console).begin(found)
    found.add(Receipt(0, samples=2 * 10**9, seconds=10.0, worker="10.0.0.7:40007"))
    for block in range(1, 4):
        reason = f"no [bold]{'long reason ' * 20}"
        found.add(Receipt(block, samples=10**6, failure=reason, worker="10.0.0.8:40008"))
    view.stopped()
    lines = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", text.getvalue()).splitlines()
    assert max(map(len, lines)) <= width
    shown = " ".join(lines)
    for words in ("12004/123456 blocks", "3 failed", "samples/s", " left"):
        assert words in " ".join(shown.split())
    (*_, heads) = (line for line in lines if line.startswith("worker"))
    assert heads.split()[:4] == ["worker", "blocks", "failed", "samples/s"]
    bad, good = (next(line for line in lines if f"10.0.0.{n}" in line).split() for n in (8, 7))
    assert bad[1:3] == ["3", "3"]
    assert good[1] == "1"
    assert int(good[2].replace(",", "")) > 10**8
    assert ("last failure" in heads) == (width >= 80)


def test_elsewhere_lines_come_at_growing_intervals_and_failures_at_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    text = io.StringIO()
    found = Tally(5000, began=0.0)
    view = Terminal(Console(file=text, width=300)).begin(found)
    for second in range(5000):
        now[0] = float(second)
        receipt = Receipt(second, samples=10, failure="no" if second % 2 else None)
        found.add(receipt)
        view.block(receipt)
        view.tick()
    lines = text.getvalue().splitlines()
    assert sum("failed: no" in line for line in lines) == progress.FAILURES_TOLD
    said = [line for line in lines if "samples/s" in line]
    assert said[0].startswith("11/5000 blocks, 5 failed, 11 samples/s, ")
    assert 40 < len(said) < 90
    assert "\x1b" not in text.getvalue()


# --- whoever listens -----------------------------------------------------------------------------


def test_a_listener_that_cannot_go_on_is_told_of_and_let_go():
    class Full(Listener):
        def block(self, _):
            raise OSError("no space")

    heard, said = [], []

    class Good(Listener):
        def block(self, receipt):
            heard.append(receipt.block)

    watch = Watch(SOMEONE, [Full(), Good()], said.append)
    watch.block(Receipt(1))
    watch.block(Receipt(2))
    assert heard == [1, 2]
    assert said == ["note: Full stopped, the run goes on: OSError: no space"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_costs_the_log_and_the_report_which_are_named_and_no_run():
    said = []
    planned = dict.fromkeys(
        ("blocks", "workers", "bytes_read", "bytes_written", "peak_bytes_per_worker"), 7
    )
    report = Report("/dev/full", {**planned, "estimated_seconds": 70.0})
    watch = Watch(SOMEONE, [Log("/dev/full"), report], said.append)
    with watch.until_the_end():
        watch.started(Tally(1), "")
    full = "OSError: [Errno 28] No space left on device"
    assert said == [
        f"note: Log /dev/full stopped, the run goes on: {full}",
        f"note: Report /dev/full is not whole: {full}",
    ]


@pytest.mark.parametrize("seconds", [10.0, 0.0])
def test_a_run_goes_on_when_nobody_reads_what_it_prints(
    seconds, place, noise, inline, monkeypatch, capfd, settings
):
    """The line that finds the pipe closed is the run's own, or one of its progress."""
    place.archive(noise[:2, :4096])
    (place.path / "job.toml").write_text(place.text(transform=WHOLE))
    monkeypatch.setattr(progress, "LINE_SECONDS", seconds)
    monkeypatch.setattr(sys, "argv", ["scatflow", "run", "job.toml"])
    ours, nobodys = os.pipe()
    os.close(ours)
    with os.fdopen(nobodys, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        with pytest.raises(SystemExit) as end:
            main()
    assert end.value.code == 0
    assert status(place.job(transform=WHOLE))["state"] == "complete"
    assert "nothing can be printed, the run goes on" in capfd.readouterr().err


def test_a_terminal_that_nobody_reads_is_let_go():
    ours, nobodys = os.pipe()
    os.close(ours)
    said = []
    with open(os.devnull, "w") as nowhere, os.fdopen(nobodys, "w") as closed:
        watch = Watch(SOMEONE, [Terminal(progress.Screen(file=closed))], said.append)
        watch.started(Tally(2), "")
        watch.block(Receipt(0, failure="bad disk"))
        os.dup2(nowhere.fileno(), closed.fileno())  # What is left is written when it closes.
    assert said == [
        "note: Terminal stopped, the run goes on: BrokenPipeError: nobody reads what is printed"
    ]


# --- one run, all that it leaves -----------------------------------------------------------------


def test_a_log_has_a_line_for_each_block_and_both_ends(two_good_one_bad, inline):
    place, said = two_good_one_bad, []
    log, report = place.path / "log.jsonl", place.path / "report.html"
    log.write_text('{"an": "earlier line"}\n')
    plan = prepare(place.job(transform=WHOLE), str(place.path))
    code = run(plan, log=str(log), report=str(report), say=said.append)
    lines = [json.loads(line) for line in log.read_text().splitlines()][1:]
    assert [line["event"] for line in lines][:: len(lines) - 1] == ["run_started", "run_ended"]
    blocks = lines[1:-1]
    assert sorted(line["block"] for line in blocks) == list(range(plan.n_blocks))
    assert len({line["run"] for line in lines}) == 1
    bad = [line for line in blocks if line["event"] == "block_failed"]
    assert len(bad) == 1
    assert "YA.UV06" in bad[0]["place"]
    assert "not finite" in bad[0]["failure"]
    assert all(line["worker"] and line["seconds"] >= line["engine_seconds"] for line in blocks)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", e["time"]) for e in lines)
    assert (code, lines[-1]["state"], lines[-1]["blocks_failed"]) == (1, "failed", 1)


def test_a_log_tells_of_a_run_that_never_started(place, noise, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_module, "CONNECT_SECONDS", 0.2)
    place.archive(noise[:1, :4096])
    log = tmp_path / "log.jsonl"
    plan = place.plan(transform=WHOLE, cluster="tcp://127.0.0.1:1")
    with pytest.raises(Exception, match="No scheduler answers"):
        run(plan, log=str(log), say=str)
    (line,) = map(json.loads, log.read_text().splitlines())
    assert (line["event"], line["state"]) == ("run_ended", "error")
    assert "No scheduler answers" in line["message"]


def test_a_report_escapes_what_it_is_told():
    found = tallied(Receipt(3, failure="<script>alert(1)</script>", worker="<w>"), slots=2)
    found.history.add(Point(5.0, 1, 1, 0, 0, 1.0))
    planned = dict.fromkeys(
        ("blocks", "workers", "bytes_read", "bytes_written", "peak_bytes_per_worker"), 7
    )
    end = End("failed", "<b>bad</b>")
    text = report_page(SOMEONE, found, end, {**planned, "estimated_seconds": 70.0})
    for raw in ("<script>", "<w>", "<job>", "<b>bad"):
        assert raw not in text
        assert html.escape(raw) in text
    assert "1:10 min" in text
    assert text.count("<svg") == 5


def test_the_panel_escapes_what_it_is_told():
    found = tallied(Receipt(3, failure="<script>"))
    board = Board()
    board.take(message(SOMEONE, found, 0.0))
    shown = board.runs["some-run"]
    assert "<job>" not in _summary(shown, Rates(0, 0, 0))
    assert "<script>" not in _failures(shown)


def test_a_board_forgets_the_runs_that_have_been_silent_for_longest():
    board = Board()
    for k in range(board_module.RUNS + 5):
        board.take(message(dataclasses.replace(SOMEONE, id=f"r{k}"), Tally(1), 0.0))
        board.take(message(dataclasses.replace(SOMEONE, id="r0"), Tally(1), 0.0))
    assert len(board.runs) == board_module.RUNS
    assert {"r0", f"r{board_module.RUNS + 4}"} <= set(board.runs)


@pytest.fixture
def scheduler():
    """Start a scheduler with a worker and a dashboard, as somebody else would."""
    with LocalCluster(
        n_workers=1,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
    ) as cluster:
        yield cluster


def test_runs_on_one_scheduler_are_on_its_panel_and_in_its_metrics(two_good_one_bad, scheduler):
    place, said = two_good_one_bad, []
    address = scheduler.scheduler_address
    report = place.path / "report.html"
    for output in ("one.zarr", "two.zarr"):
        plan = prepare(place.job(transform=WHOLE, output=output, cluster=address), str(place.path))
        page = str(report) if output == "two.zarr" else None
        assert run(plan, report=page, say=said.append) == 1
    top = scheduler.dashboard_link.removesuffix("/status")
    assert f"this run: {top}/scatflow" in "\n".join(said)
    assert "note: the report has no part" not in "\n".join(said)

    session = pull_session(url=f"{top}/scatflow")
    try:
        choice = session.document.select_one({"name": "run"})
        assert [words.split(",")[1] for _, words in choice.options] == [" failed", " failed"]
        words = session.document.select_one({"name": "words"}).text
        assert "two.zarr" in words
        assert "not finite" in session.document.select_one({"name": "failures"}).text
        drawn = session.document.select_one({"name": "done"}).renderers[0].data_source.data
        assert list(drawn["done"])[-1] == plan.n_blocks
        assert list(drawn["failed"])[-1] == 1
        rows = session.document.select_one({"name": "workers"}).source.data
        assert rows["blocks"] == [plan.n_blocks]
    finally:
        session.close()
    with urllib.request.urlopen(f"{top}/status") as reply:
        assert 'href="scatflow"' in reply.read().decode()

    text = report.read_text()
    loaded = re.findall(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["']?https?:""", text)
    assert loaded == []
    assert "Dask Performance Report" in text
    assert "Task Stream" in text

    with urllib.request.urlopen(f"{top}/metrics") as reply:
        served = reply.read().decode()
    assert len(re.findall(r'scatflow_run_blocks_failed\{job="test",run=".*"\} 1\.0', served)) == 2
    # The worker is in this process.
    assert re.search(r'scatflow_blocks_failed_total\{job="test"\}', served)
    assert re.search(r'scatflow_samples_total\{job="test"\}', served)


def test_a_scheduler_that_cannot_have_the_panel_does_not_stop_a_run(
    two_good_one_bad, scheduler, monkeypatch
):
    def refuse(self, plugin):
        raise ModuleNotFoundError("No module named 'scatflow'")

    monkeypatch.setattr(Client, "register_plugin", refuse)
    said = []
    plan = two_good_one_bad.plan(transform=WHOLE, cluster=scheduler.scheduler_address)
    assert run(plan, say=said.append) == 1
    assert "without this run's own page: ModuleNotFoundError" in "\n".join(said)


def test_metrics_count_what_a_worker_does():
    for receipt in (Receipt(0, samples=5, bytes_written=7), Receipt(1, failure="no")):
        metrics.count("some job", receipt)

    def value(name):
        return REGISTRY.get_sample_value(name, {"job": "some job"})

    assert value("scatflow_blocks_done_total") == 1
    assert value("scatflow_blocks_failed_total") == 1
    assert value("scatflow_samples_total") == 5
    assert value("scatflow_written_bytes_total") == 7


def test_status_tells_of_a_run_at_work(two_good_one_bad, inline, monkeypatch):
    place, found = two_good_one_bad, []
    flush = Ledger.flush

    def look(ledger, who):
        flush(ledger, who)
        if who is not None and who["left"] is not None:
            found.append(status(place.job(transform=WHOLE), str(place.path)))

    monkeypatch.setattr(Ledger, "flush", look)
    monkeypatch.setattr(Ledger, "due", lambda _: True)
    place.run(transform=WHOLE)
    assert found[0]["state"] == "running"
    assert found[0]["rate"] > 0
    assert found[0]["eta_seconds"] >= 0
    assert found[0]["run"]["dashboard"] == "nowhere"
    ended = status(place.job(transform=WHOLE), str(place.path))
    assert (ended["run"], ended["rate"], ended["eta_seconds"]) == (None, None, None)
    assert "not finite" in next(iter(ended["failures"].values()))


# --- commands at the end -------------------------------------------------------------------------


@pytest.fixture
def settings(monkeypatch):
    """Stand in for the user's configuration file."""
    found = {}
    monkeypatch.setattr(hooks, "user_settings", lambda: ("config.toml", found))
    return found


WRITE = f"{sys.executable} -c \"import os; open('told', 'a').write(os.environ['SCATFLOW_{{}}'])\""


def test_a_hook_is_told_how_a_run_ended(tmp_path, monkeypatch, settings):
    monkeypatch.chdir(tmp_path)
    hook = Hooks("job.toml", "false", WRITE.format("BLOCKS_FAILED"))
    hook.ended(SOMEONE, End("failed", "3 of 9", {"done": 6, "missing": 0, "failed": 3}))
    said = []
    hook.call(1, "", said.append)
    assert (tmp_path / "told").read_text() == "3"
    assert said == []
    hook.call(0, "", said.append)
    assert said == ["note: the command false (on_success) ended with exit code 1."]


def test_a_hook_that_does_not_end_is_ended(monkeypatch, settings):
    monkeypatch.setattr(hooks, "HOOK_SECONDS", 0.1)
    said, begun = [], time.monotonic()
    Hooks("job.toml", "sleep 60").call(0, "", said.append)
    assert time.monotonic() - begun < 30
    assert "took longer than 0.1 s" in said[0]


def test_no_shell_sees_a_hook(tmp_path, monkeypatch, settings):
    monkeypatch.chdir(tmp_path)
    said = []
    Hooks("job.toml", "echo '; touch planted' && touch planted").call(0, "", said.append)
    assert not (tmp_path / "planted").exists()
    Hooks("job.toml", "no-such-command").call(0, "", said.append)
    assert "could not be called" in said[0]
    with pytest.raises(JobError, match="Close the quotes"):
        Hooks("job.toml", "echo 'a")


def test_a_users_own_configuration_may_name_hooks(tmp_path, monkeypatch, settings):
    monkeypatch.chdir(tmp_path)
    words = [sys.executable, "-c", "import os; open('told', 'w').write(os.environ['SCATFLOW_JOB'])"]
    settings["run"] = {"on_failure": words}
    Hooks("job.toml").call(2, "no such source", pytest.fail)
    assert (tmp_path / "told").read_text() == "job.toml"
    (tmp_path / "told").unlink()
    Hooks("job.toml", on_failure="").call(2, "", pytest.fail)
    assert not (tmp_path / "told").exists()
    for wrong in ({"on_success": "a line"}, {"on_tuesday": []}):
        settings["run"] = wrong
        with pytest.raises(JobError, match=r"config\.toml"):
            Hooks("job.toml")


def test_a_job_file_cannot_name_a_command(place, monkeypatch, capsys, settings):
    text = place.text() + 'on_success = ["touch", "planted"]\n'
    (place.path / "job.toml").write_text(text)
    monkeypatch.setattr(sys, "argv", ["scatflow", "run", "job.toml"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "on_success" in capsys.readouterr().err


def test_the_command_line_calls_hooks_for_errors_too(tmp_path, monkeypatch, capfd, settings):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["scatflow", "run", "no.toml", "--on-failure"])
    sys.argv.append(WRITE.format("MESSAGE"))
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "no.toml" in (tmp_path / "told").read_text()
    assert "error: " in capfd.readouterr().err


def test_the_table_run_of_the_users_configuration_is_no_backends_business(monkeypatch, tmp_path):
    import platformdirs

    (tmp_path / "config.toml").write_text('[run]\non_success = ["true"]\n')
    monkeypatch.setattr(platformdirs, "user_config_path", lambda _: tmp_path)
    choose.user_settings.cache_clear()
    try:
        assert choose.chosen(None, 1).why == "by the input"
        assert Hooks("job.toml")._commands["on_success"] == ["true"]
    finally:
        choose.user_settings.cache_clear()
