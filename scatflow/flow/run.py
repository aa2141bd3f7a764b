"""Run or resume a job: a window of blocks in flight, a ledger of those that ended."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scatflow.dataset import DONE, FAILED, PARTIAL
from scatflow.errors import OutputBusyError, OutputError, OutputTakenError
from scatflow.flow.answers import ask
from scatflow.flow.block import Key, Receipt, active, place, warm_up
from scatflow.flow.cluster import Cluster, connect
from scatflow.flow.devices import Lot, choose_workers, elsewhere, listed, lots, mixed
from scatflow.flow.earlier import erase_block, settled_cells, shorter
from scatflow.flow.grow import go_on, grow, settle
from scatflow.flow.layout import Layout
from scatflow.flow.ledger import Hold, Ledger, versions
from scatflow.flow.lock import locked, me, refuse_if_held, shared
from scatflow.flow.output import check, check_readable, look, lost, make, sweep
from scatflow.flow.patience import stop_reading
from scatflow.flow.plan import (
    RunPlan,
    block_bytes,
    check_budget,
    check_workers,
    crowded_machines,
    estimate_seconds,
    summary,
)
from scatflow.flow.progress import Terminal
from scatflow.flow.reading import source_checksum
from scatflow.flow.shares import Part, Share, part
from scatflow.flow.sight import feed
from scatflow.flow.sight.feed import dashboard_lines
from scatflow.flow.sight.log import Log
from scatflow.flow.sight.report import Report
from scatflow.flow.sight.tally import Tally, clock
from scatflow.flow.sight.watch import End, Listener, Run, Watch, new_id
from scatflow.flow.window import TICK_SECONDS, Window
from scatflow.flow.work import Work

LAST_TASKS_SECONDS = 10.0
"""How long a run that stops early waits for the blocks that are being computed at that moment."""

CHECKED_BLOCKS, CHECKED_BYTES = 8, 256 * 2**20
"""What is read again of the source, at most, to see that it is still what it was."""

COMPLETE, INCOMPLETE, INTERRUPTED = 0, 1, 130


def run(
    plan: RunPlan,
    *,
    fresh: bool = False,
    report: str | None = None,
    log: str | None = None,
    share: Share | None = None,
    listeners: Sequence[Listener] = (),
    say: Callable[[str], None] = print,
) -> int:
    """Run what is missing of a job.

    Parameters
    ----------
    plan : RunPlan
        The prepared job.
    fresh : bool
        Delete an output of scatflow's that is there and start over.
    report : str, optional
        HTML file for a report of the run, with Dask's performance report inside.
    log : str, optional
        File to which a JSON line is appended for each block.
    share : Share, optional
        Compute only these blocks, beside other runs that compute the others.
    listeners : sequence of Listener
        Who else is told what happens.
    say : callable
        Prints one line.

    Returns
    -------
    int
        0 complete, 1 with failed blocks, 130 interrupted.

    Raises
    ------
    BudgetError
        A block needs more memory than a worker may use; nothing is written.
    OutputError, OutputBusyError, OutputTakenError
        The output belongs to something else, to other settings, or to a run that goes on.
    ClusterError
        The workers cannot be reached.
    """
    check_budget(plan)
    page = None if report is None else Report(report, summary(plan, estimate_seconds(plan)))
    heard = [Terminal(), *([] if page is None else [page]), *([] if log is None else [Log(log)])]
    watch = Watch(_who(plan), [*heard, *listeners], say)
    with _interruptible(), watch.until_the_end(), contextlib.ExitStack() as stack:
        if share is None:
            refuse_if_held(plan.output)  # What a run is making may look like anything.
        check(plan.output, look(plan.output), plan.work, fresh)  # Before anything is written.
        try:
            if share is not None:
                with shared(plan.output, share.index) as hold:
                    code = _run_share(plan, share, watch, page, hold)
                _end_shares(plan)
                return code
            hold = stack.enter_context(locked(plan.output))
            ledger = _found(plan, hold, fresh)
            return _resume(plan, ledger, watch, page, hold)
        except KeyboardInterrupt:
            resumes = f"Interrupted. The same command resumes: scatflow run {plan.job.path}"
            say(resumes)
            watch.ends(End("interrupted", resumes))
            return INTERRUPTED


def _found(plan: RunPlan, hold: Hold, fresh: bool = False) -> Ledger | None:
    """Return the ledger of what is there under the lock, None where the output is to be made."""
    ledger = check(plan.output, look(plan.output), plan.work, fresh)
    if ledger is not None:
        ledger.hold = hold
    return ledger


def _who(plan: RunPlan) -> Run:
    """Say which run this is."""
    return Run(
        id=new_id(),
        job=plan.job.name,
        path=str(plan.job.path),
        output=plan.output,
        settings=plan.work.settings,
        place=partial(place, plan.work),
        threads=plan.job.threads,
    )


def _run_share(plan: RunPlan, share: Share, watch: Watch, page: Report | None, hold: Hold) -> int:
    """Compute the blocks of one share."""
    found = check(plan.output, look(plan.output), plan.work, False)
    if found is not None:
        check_readable(plan.output, plan.template)
    if found is not None and not found.shares and not found.pending().size:
        watch.say("All shares are complete: nothing to do.")  # It is started anew, by itself.
        return COMPLETE
    ledger = part(found, share, plan.work.fingerprint, plan.output)
    ledger.hold = hold
    if not ledger.pending().size:
        watch.say(f"Share {share.index} of {share.of} is complete: nothing to do.")
        return COMPLETE
    return _conclude(_compute(plan, ledger, watch, page, hold), watch)


def _end_shares(plan: RunPlan) -> None:
    """Take over what all shares did, where nothing is left to do: the last of them does."""
    ledger = look(plan.output).ledger
    if ledger is None or not ledger.shares or ledger.pending().size:
        return
    # Others may be at work still.
    with contextlib.suppress(OutputBusyError), locked(plan.output) as hold:
        ledger = _found(plan, hold)
        if ledger is not None and not ledger.pending().size:
            ledger.absorb()
            _finish(plan, ledger)


def lay_out(plan: RunPlan, shares: int, say: Callable[[str], None] = print) -> bool:
    """Make the output, or go on with it, for runs that share its blocks.

    Returns
    -------
    bool
        Whether there is anything to compute.

    Raises
    ------
    BudgetError, OutputError, OutputBusyError
        As :func:`run` does.
    """
    check_budget(plan)
    refuse_if_held(plan.output)
    check(plan.output, look(plan.output), plan.work, False)
    with locked(plan.output) as hold:
        ledger = _found(plan, hold)
        if ledger is not None and not _look_over(plan, ledger, Watch(_who(plan), [], say)):
            return False
        ledger = ledger or make(plan.output, plan.work, plan.template)
        ledger.share_out(min(shares, ledger.state.size))
    return True


def _resume(
    plan: RunPlan, ledger: Ledger | None, watch: Watch, page: Report | None, hold: Hold
) -> int:
    """Make the output or go on with it, until every block has ended."""
    if ledger is not None and not _look_over(plan, ledger, watch):
        return COMPLETE
    return _conclude(_compute(plan, ledger, watch, page, hold), watch)


def _look_over(plan: RunPlan, ledger: Ledger, watch: Watch) -> bool:
    """Check what earlier runs left, and tell whether there is anything to do."""
    check_readable(plan.output, plan.template)
    ledger.absorb()
    say = watch.say
    _catch_up(plan, ledger, say)
    if ledger.versions != versions():
        say(
            f"note: blocks were computed with {_listed(ledger.versions)}, and this is "
            f"{_listed(versions())}: the last bits of new ones may differ."
        )
    gone = lost(plan.output, ledger, plan.work)
    if gone.size:
        say(f"{gone.size} blocks that were done are gone from the store: computed again.")
        ledger.forget(gone)
    pending, total = ledger.pending().size, ledger.state.size
    if not pending:
        if ledger.run is not None:  # A run that died between its last block and its last words.
            _finish(plan, ledger)
        settle(plan.output, plan.template)  # What has grown may have had nothing to compute.
        nothing = f"{plan.output} is complete ({total} blocks): nothing to do."
        say(nothing)
        watch.counts = ledger.counts()
        watch.ends(End("complete", nothing))
    elif pending < total:
        computed = ledger.computed()
        by = f" ({listed(computed)})" if len(computed) > 1 else ""
        say(f"Resuming: {total - pending} of {total} blocks are done{by}.")
    return bool(pending)


def _finish(plan: RunPlan, ledger: Ledger) -> None:
    """Write the ledger's last state and remove what killed processes left."""
    ledger.check_ours()
    if not isinstance(ledger, Part):  # Others may be writing.
        if not ledger.pending().size:
            settle(plan.output, plan.template)
        sweep(plan.output)
    ledger.flush(None)


def _listed(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items()) or "other libraries"


def _catch_up(plan: RunPlan, ledger: Ledger, say: Callable[[str], None]) -> None:
    """Check that the source is still what it was, and make the output longer if it has grown."""
    work = plan.work
    go_on(plan.output, ledger, plan.base, work, plan.template)
    if ledger.fingerprint == work.fingerprint:
        _check_source(plan.output, work, ledger)
        return
    old = replace(work, layout=shorter(work, ledger.settings["source"]["shape"]))
    _check_source(plan.output, old, ledger, _at_the_end(old.layout, work.layout))
    say(grow(plan.output, ledger, old.layout, work, plan.template))


def _at_the_end(old: Layout, new: Layout) -> NDArray[np.int64]:
    """Return the blocks of a shorter source beside which new ones come to lie."""
    last = np.zeros(old.cuts.counts, bool)
    pairs = zip(old.cuts.counts, settled_cells(old, new), new.cuts.shape, strict=True)
    for axis, (count, settled, now) in enumerate(pairs):
        if settled != now:
            last[(slice(None),) * axis + (count - 1,)] = True
    return np.flatnonzero(last)


def _check_source(
    output: str, work: Work, ledger: Ledger, first: NDArray[np.int64] | tuple[()] = ()
) -> None:
    """Read some finished blocks again: the first, the last, and a few between.

    Parameters
    ----------
    output : str
        Where the results are.
    work : Work
        What was done.
    ledger : Ledger
        Its ledger.
    first : array of int, optional
        Blocks of which half of the checked ones are taken.

    Raises
    ------
    OutputError
        The source holds other samples than those the blocks were computed from.
    """
    done = np.flatnonzero(ledger.state == DONE)
    some = _some(np.intersect1d(first, done).astype(int), CHECKED_BLOCKS // 2)
    left = CHECKED_BYTES
    for block in [*some, *(b for b in _some(done, CHECKED_BLOCKS - len(some)) if b not in some)]:
        if left < 0:
            break  # One block is read in any case.
        left -= block_bytes(work, block)
        if source_checksum(work, block) != ledger.source[block]:
            raise OutputError(
                f"The source changed: block {block} ({place(work, block)}) differs from what "
                f"was read for {output}, so old and new results would be mixed. Restore the "
                "source, name another [output] store, or start over with --fresh, which deletes "
                "what is there."
            )


def _some(blocks: NDArray[np.int64], most: int) -> list[int]:
    """Return so many of some blocks, evenly spread, the first and the last among them."""
    if not blocks.size:
        return []
    picked = np.unique(np.linspace(0, blocks.size - 1, most).round().astype(int))
    return [int(block) for block in blocks[picked]]


def _compute(
    plan: RunPlan, ledger: Ledger | None, watch: Watch, page: Report | None, hold: Hold
) -> Ledger:
    """Compute the pending blocks on a cluster; the output is made once there is one."""
    say, ours = watch.say, True
    try:
        with contextlib.ExitStack() as stack:
            called, job = time.monotonic(), plan.job
            cluster = stack.enter_context(connect(job))
            there = choose_workers(cluster, job.backend, say)
            cluster = there[job.backend].cluster
            check_workers(plan, cluster.workers, cluster.processors)
            hold()  # Workers may have taken an hour to come, and what is there is deleted now.
            ledger = ledger or make(plan.output, plan.work, plan.template)
            ledger.hold = hold
            ledger.flush(_words(watch, cluster.dashboard, time.time()))
            stack.enter_context(_dashboard(cluster, watch))
            notes = crowded_machines(plan, cluster.workers, cluster.processors)
            for note in (*notes, elsewhere(ledger, there)):
                if note is not None:
                    say(f"note: {note}")
            key = Key(
                plan.output,
                plan.base,
                plan.work.fingerprint,
                job.threads,
                cluster.each,
                job.name,
                job.backend,
            )
            # Only a head start: a worker that dies of it is replaced, and blocks tell what fails.
            if silence := ask(cluster.client, warm_up, key).silence():
                say(f"note: {silence}")
            # Libraries may have taken a while to load.
            ledger.flush(_words(watch, cluster.dashboard, time.time()))
            say(_called(cluster, time.monotonic() - called))
            if page is not None:
                stack.enter_context(page.of_dask(say))
            erase = partial(erase_block, plan.work, plan.output)
            some = lots(ledger, job.backend, there)
            _work_through(cluster, key, some, ledger, watch, erase)
    except OutputTakenError:
        ours = False
        raise
    finally:
        if ledger is not None and ours:
            watch.counts = ledger.counts()
            with _uninterrupted():
                _finish(plan, ledger)
    tally = watch.tally
    say(_pace(tally, job.threads))
    if both := mixed(ledger.computed()):
        say(both)
    if missing := tally.missing(plan.work.shares):
        say(missing)
    return ledger


def _called(cluster: Cluster, seconds: float) -> str:
    are = "worker is" if cluster.slots == 1 else "workers are"
    if cluster.coming:
        return f"{cluster.slots} {are} asked for; blocks begin as they come."
    return f"{cluster.slots} {are} ready after {clock(seconds)}."


def _pace(tally: Tally, threads: int) -> str:
    """Say how fast a run was, and how much of its time the engine took."""
    seconds = max(tally.history.points[-1].seconds, 1e-9)
    rate, share = tally.samples / seconds, tally.engine_seconds / (seconds * tally.slots)
    return (
        f"{tally.blocks} blocks in {clock(seconds)}: {rate:,.0f} samples/s, "
        f"{rate / (tally.slots * threads):,.0f} per thread; {tally.bytes_written / 2**20:,.0f} MiB "
        f"written; the engine took {share:.0%} of the workers' time, all else {1 - share:.0%}."
    )


def _work_through(
    cluster: Cluster,
    key: Key,
    some: Sequence[Lot],
    ledger: Ledger,
    watch: Watch,
    erase: Callable[[int], None],
) -> None:
    """Keep a window of futures full, record each receipt, and let each future go at once.

    A block that could not be computed and has coefficients of a shorter record is erased.
    """
    started, total = time.time(), ledger.state.size
    window: Window | None = None
    try:
        left = sum(lot.blocks.size for lot in some)
        watch.started(Tally(total, total - left, cluster.slots), cluster.dashboard)
        for blocks, backend, staff in some:
            mine = replace(key, backend=backend)
            window = Window(staff.cluster, mine, blocks, staff.resources)
            while window.fill():
                ledger.hold()  # A block that has failed is erased, and may be another run's.
                for receipt in window.ended():
                    _record(ledger, receipt, erase)
                    watch.block(receipt)
                cluster.check()
                watch.tick()
                if ledger.due():
                    ledger.flush(_words(watch, watch.run.dashboard, started))
    finally:
        watch.stopped()
        if window:
            with contextlib.suppress(OSError):  # The scheduler may be gone.
                with _uninterrupted():
                    window.cancel()
                _wait_for_last_tasks(cluster, key)


def _record(ledger: Ledger, receipt: Receipt, erase: Callable[[int], None]) -> None:
    """Note in the ledger how a block ended."""
    if ledger.state[receipt.block] >= PARTIAL and not receipt.checksum:
        erase(receipt.block)
    ledger.record(
        receipt.block,
        receipt.checksum,
        receipt.source_checksum,
        receipt.failure,
        receipt.backend,
    )


def _wait_for_last_tasks(cluster: Cluster, key: Key) -> None:
    """Wait until no worker computes a block of this run, so that none writes after its end."""
    until = time.monotonic() + LAST_TASKS_SECONDS
    while cluster.lasting and cluster.client.status == "running" and time.monotonic() < until:
        ask = partial(cluster.client._run, active, key, on_error="ignore")
        try:  # A worker that is stopped does not answer, and computes nothing.
            told = cluster.client.sync(ask, callback_timeout=LAST_TASKS_SECONDS)
        except TimeoutError:
            break
        if not any(told.values()):
            return
        time.sleep(TICK_SECONDS / 5)
    stop_reading()  # Of threads of this process, for which the cluster would wait.


def _words(watch: Watch, dashboard: str, started: float) -> dict[str, Any]:
    """Return what the ledger says of a run at work."""
    left = watch.tally.left
    return {
        **me(),
        "id": watch.run.id,
        "dashboard": dashboard,
        "started": started,
        "updated": time.time(),
        "rate": round(watch.tally.rate, 3),
        "left": None if left is None else round(left, 3),
    }


@contextlib.contextmanager
def _dashboard(cluster: Cluster, watch: Watch) -> Iterator[None]:
    """Say where the dashboard is and how to get there, and have this run shown on it."""
    missing = feed.install(cluster.client)
    for line in dashboard_lines(cluster.dashboard, socket.gethostname(), missing):
        watch.say(line)
    if missing is not None:
        yield
        return
    with feed.Feed(cluster.client) as told:
        watch.add(told)
        yield


def _conclude(ledger: Ledger, watch: Watch) -> int:
    """Name every failed block and return the exit code."""
    say, counts = watch.say, ledger.counts()
    if not counts["failed"]:
        complete = f"Complete: {counts['done']} blocks."
        say(complete)
        watch.ends(End("complete", complete))
        return COMPLETE
    failed = f"{counts['failed']} of {ledger.state.size} blocks failed"
    watch.ends(End("failed", f"{failed}."))
    say(f"{failed} and hold NaN where they did:")
    for block in np.flatnonzero(ledger.state == FAILED).tolist():
        say(f"  block {block}: {ledger.reason(block)}")
    say("The same command tries them again.")
    return INCOMPLETE


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM interrupt a run as Ctrl-C does (signals reach the main thread only)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C while the ledger is written: one that comes then has no effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
