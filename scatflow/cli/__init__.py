"""The `scatflow` command: thin doors to the other rooms.

Heavy modules are imported inside the commands, so that ``scatflow --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import scatflow
from scatflow.errors import BudgetError, OutputBusyError, ScatflowError

if TYPE_CHECKING:
    from scatflow.flow.sight.hooks import Hooks

USAGE, OVER_BUDGET, INTERNAL, INTERRUPTED = 2, 3, 70, 130
"""Exit codes besides 0 (complete) and 1 (finished with failed blocks); 70 is an internal error."""

app = typer.Typer(
    name="scatflow",
    help="Wavelet scattering for archives: distributed, out of core, labelled.",
    epilog="Exit codes: 0 complete; 1 finished with failed blocks, or verify found a fault; "
    "2 usage, job, source or output error; 3 the memory budget is too small; 70 internal error; "
    "130 interrupted, resumable.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

JobPath = Annotated[str, typer.Argument(metavar="JOB", help="A job file (TOML).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]
Runner = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help='"local", "threads", a scheduler\'s address, or a profile (.toml).',
    ),
]
Workers = Annotated[int | None, typer.Option("--workers", help="Workers to start.")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"scatflow {scatflow.__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hold the options of `scatflow` itself."""


def _job(path: str, **run: Any) -> Any:
    from scatflow.flow.job import load

    return load(path).override(**run)


@app.command()
def plan(
    job: JobPath, cluster: Runner = None, workers: Workers = None, as_json: AsJson = False
) -> None:
    """Show what a job would do: output, blocks, memory against the budget, time."""
    from scatflow.cli.texts import as_text, plan_lines
    from scatflow.flow.plan import check_budget, estimate_seconds, prepare, summary

    prepared = prepare(_job(job, cluster=cluster, workers=workers))
    too_little: BudgetError | None = None
    try:
        check_budget(prepared)
    except BudgetError as problem:
        too_little = problem
    # A unit of a block that does not fit is not measured here either.
    told = summary(prepared, None if too_little else estimate_seconds(prepared))
    typer.echo(as_text(told) if as_json else "\n".join(plan_lines(told)))
    if too_little is not None:
        raise too_little


@app.command()
def run(
    job: JobPath,
    cluster: Runner = None,
    workers: Workers = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete the job's earlier output and start over.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and show the plan; write nothing.")
    ] = False,
    report: Annotated[
        str | None,
        typer.Option(
            "--report",
            metavar="FILE.html",
            help="Write a page on the run that stands alone, with Dask's performance report.",
        ),
    ] = None,
    log: Annotated[
        str | None,
        typer.Option("--log", metavar="FILE.jsonl", help="Append a JSON line for each block."),
    ] = None,
    on_success: Annotated[
        str | None,
        typer.Option("--on-success", metavar="COMMAND", help="Call a command when all is done."),
    ] = None,
    on_failure: Annotated[
        str | None,
        typer.Option("--on-failure", metavar="COMMAND", help="Call a command when it is not."),
    ] = None,
    share: Annotated[
        str | None,
        typer.Option(
            "--share",
            metavar="I/N",
            help="Compute the blocks of one share, beside runs of the others (submit --array).",
        ),
    ] = None,
    unless_running: Annotated[
        bool,
        typer.Option(
            "--unless-running", help="Do nothing, and exit with 0, while another run is at it."
        ),
    ] = False,
) -> None:
    """Run a job, or what is missing of it."""
    from scatflow.flow.plan import prepare

    _check_files(job, report, log)
    if dry_run:
        plan(job, cluster, workers)
        return
    from scatflow.flow.cluster import join
    from scatflow.flow.run import run as run_plan
    from scatflow.flow.sight.hooks import Hooks

    hooks = Hooks(job, on_success, on_failure)
    from scatflow.flow.shares import parse_share

    part = None if share is None else parse_share(share)
    if part is not None and fresh:
        raise typer.BadParameter("--fresh would delete what other shares write: leave one out")
    busy: tuple[type[Exception], ...] = (OutputBusyError,) if unless_running else ()
    try:
        # Ranks of MPI that are not the client end in `join` without having run anything.
        with _told(hooks, but=(*busy, SystemExit)):
            checked = _job(job, cluster=cluster, workers=workers)
            join(checked)
            prepared = prepare(checked, fresh=fresh)
            for note in prepared.notes:
                typer.echo(f"note: {note}")
            code = run_plan(
                prepared,
                fresh=fresh,
                report=report,
                log=log,
                share=part,
                listeners=[hooks],
                say=_say,
            )
            raise typer.Exit(code)
    except busy as other:
        typer.echo(f"{other} Nothing was done: the next run takes what this one would have.")


def _say(line: str) -> None:
    """Print a line; where that cannot be done any more (`| head`), a run goes on and says so."""
    try:
        typer.echo(line)
    except OSError as problem:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # What is left in its buffer goes there, too.
        os.close(nowhere)
        with suppress(OSError):
            typer.echo(f"note: nothing can be printed, the run goes on: {problem}", err=True)


def _check_files(job: str, report: str | None, log: str | None) -> None:
    """Refuse files that a run could not write at its end, or by which it would lose another."""
    taken = {Path(job).resolve(): "the job file"}
    for option, file in (("--report", report), ("--log", log)):
        if file is None:
            continue
        path = Path(file).absolute()
        if not path.parent.is_dir():
            raise typer.BadParameter(f"{option}: there is no folder {path.parent}")
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise typer.BadParameter(
                f"{option}: {path} cannot be written: name a file, not a folder"
            )
        if other := taken.get(path.resolve()):
            raise typer.BadParameter(f"{option}: {path} is {other}: name another file")
        taken[path.resolve()] = f"what {option} writes"


@contextmanager
def _told(hooks: Hooks, but: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """Call the command that is meant for however this ends, but for some exceptions."""
    code, message = INTERNAL, ""
    try:
        yield
    except typer.Exit as end:
        code = end.exit_code
        raise
    except but:
        hooks.forget()
        raise
    except BaseException as problem:
        code, message = _told_of(problem)
        raise
    finally:
        hooks.call(code, message, partial(typer.echo, err=True))


@app.command()
def submit(
    job: JobPath,
    cluster: Runner = None,
    workers: Workers = None,
    array: Annotated[
        int | None,
        typer.Option(
            "--array",
            min=1,
            help="Share the blocks out to so many jobs that need no scheduler and no driver.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the scripts that would be sent; send nothing.")
    ] = False,
) -> None:
    """Send the run itself to a batch system, where it goes on without this shell."""
    from scatflow.flow.plan import check_budget, prepare
    from scatflow.flow.submit import scripts
    from scatflow.flow.submit import submit as send

    if array is not None and workers is not None:
        raise typer.BadParameter("--workers has no meaning for --array: its jobs have no driver")
    prepared = prepare(_job(job, cluster=cluster, workers=workers))
    check_budget(prepared)
    if dry_run:
        for what, text in scripts(prepared, array).items():
            typer.echo(f"# --- {what} ---\n{text}")
        return
    for note in prepared.notes:
        typer.echo(f"note: {note}")
    record = send(prepared, array, typer.echo)
    if record is None:
        return
    where = f" --cluster {cluster}" if cluster else ""
    typer.echo(
        f"Sent as job {record.number}. Its log: {record.log}\n"
        f"How far it is: scatflow status {job}{where}\nTo end it: scatflow cancel {job}{where}"
    )


@app.command()
def cancel(job: JobPath, cluster: Runner = None) -> None:
    """Cancel a run that was sent to a batch system; what is done is kept."""
    from scatflow.flow.submit import cancel as end

    typer.echo("\n".join(end(_job(job, cluster=cluster))))


@app.command()
def status(job: JobPath, cluster: Runner = None, as_json: AsJson = False) -> None:
    """Show how far a job is, also while another process runs it.

    Ends with 0 whenever that could be read, whatever is missing or has failed; --json says what.
    """
    from scatflow.cli.texts import as_text, status_lines
    from scatflow.flow.status import status as read

    told = read(_job(job, cluster=cluster))
    typer.echo(as_text(told) if as_json else "\n".join(status_lines(told)))


@app.command()
def verify(
    job: JobPath,
    sample: Annotated[
        int, typer.Option("--sample", min=0, help="Blocks to compute again on another backend.")
    ] = 4,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Choose the same blocks as another time.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Compute wrong blocks again, write wrong labels anew.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check what a job has written: every byte, all labels, and some blocks computed again."""
    from contextlib import nullcontext, redirect_stdout

    from scatflow.cli.texts import as_text, verify_lines
    from scatflow.flow.plan import prepare
    from scatflow.flow.verify import verify as check

    with redirect_stdout(sys.stderr) if as_json else nullcontext():  # Progress, too.
        told = check(prepare(_job(job)), sample=sample, seed=seed, repair=repair, say=typer.echo)
    typer.echo(as_text(told.to_dict()) if as_json else "\n".join(verify_lines(told)))
    raise typer.Exit(0 if told.sound else 1)


@app.command()
def schedule(
    job: JobPath,
    system: Annotated[
        str, typer.Option("--as", metavar="SYSTEM", help="cron, systemd, slurm or kubernetes.")
    ],
    install: Annotated[
        bool, typer.Option("--install", help="Install the unit, or bring it up to date.")
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the unit.")] = False,
    cron: Annotated[
        str | None,
        typer.Option("--schedule", metavar="CRON", help="A cron line instead of the job's."),
    ] = None,
    cluster: Runner = None,
    log: Annotated[
        str | None, typer.Option("--log", metavar="FILE", help="Where runs add what they say.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="OPTIONS", help="slurm: further options of the batch job.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="kubernetes: a container image that holds scatflow.")
    ] = None,
    claim: Annotated[
        str | None,
        typer.Option(help="kubernetes: a volume claim to mount as the current folder."),
    ] = None,
) -> None:
    """Print, install or remove the unit that runs a job on its schedule."""
    from pathlib import Path

    from scatflow.flow.schedules import systems, task

    if system not in systems.SYSTEMS:
        names = ", ".join(systems.SYSTEMS)
        raise typer.BadParameter(f"unknown system {system!r}; accepted: {names}")
    if install and remove:
        raise typer.BadParameter("--install and --remove exclude each other")
    chosen = systems.SYSTEMS[system]
    options = {"log": log, "batch": batch, "image": image, "claim": claim}
    given = {name: value for name, value in options.items() if value is not None}
    for name in set(given) - set(chosen.options):
        raise typer.BadParameter(f"--{name} has no meaning for {system}")
    if remove:
        typer.echo("\n".join(chosen.remove(task.unit_name(Path(job)))))
        return
    found = task.make_task(_job(job, schedule=cron, cluster=cluster), cluster=cluster, **given)
    typer.echo("\n".join(chosen.install(found)) if install else chosen.text(found).rstrip("\n"))
    for line in chosen.notes(found):
        typer.echo(f"note: {line}", err=True)


@app.command()
def show(
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="A store that a run wrote, or a job file.")
    ],
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="FILE", help="The picture: .png, .pdf or .svg."),
    ] = None,
    what: Annotated[
        str,
        typer.Option(
            "--what",
            help="results, spectrogram or availability (signals), disk (images), filters, support.",
        ),
    ] = "results",
    interactive: Annotated[
        bool,
        typer.Option("--interactive", help="Serve a scalogram to zoom into, until interrupted."),
    ] = False,
) -> None:
    """Draw the results of a run, its samples, or the filters and the support of its transform."""
    if interactive:
        from scatflow.pictures.browser import serve

        if output is not None or what != "results":
            raise typer.BadParameter("--interactive shows results, and writes no picture")
        serve(store)
        return
    from scatflow import pictures
    from scatflow.flow.origin import open_origin

    if store.endswith(".toml"):
        target = output or pictures.default_output(store, what)
        job = _job(store)
        lines = pictures.show_engine(job.engine, what, target, tile=job.transform.tile)
    else:
        lines = pictures.show(store, output, what, lambda: open_origin(store))
    typer.echo("\n".join(lines))


def _each(text: str | None) -> str | list[str] | None:
    """Return one value for all axes, or a list of one for each."""
    return text.split(",") if text is not None and "," in text else text


FORMATS = (
    "bdf, dicom, edf, flac, hdf5, jpeg, mseed, netcdf, nifti, npy, npz, ogg, ome-zarr, png, sac,"
    " tiff or wav."
)

INGEST_OPTIONS = {
    "mseed": ("variable", "tolerance"),
    "sac": ("variable", "tolerance"),
    "netcdf": ("variable", "reference"),
    "hdf5": ("variable", "reference"),
    "edf": ("variable", "channels"),
    "bdf": ("variable", "channels"),
    "npy": ("variable", "dims", "step", "units"),
    "npz": ("variable", "dims", "step", "units"),
    **dict.fromkeys(("wav", "flac", "ogg", "tiff", "png", "jpeg", "nifti"), ("variable", "skip")),
}
"""Options that make sense for a format, besides --overwrite; all others have --variable."""


@app.command()
def ingest(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help=FORMATS)],
    paths: Annotated[
        list[str], typer.Argument(metavar="IN... OUT", help="Files or folders, then a store.")
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the store if it exists.")
    ] = False,
    variable: Annotated[str | None, typer.Option(help="Name of the array in the store.")] = None,
    dims: Annotated[str | None, typer.Option(help="npy(z): names of the axes, as in y,x.")] = None,
    step: Annotated[
        str | None, typer.Option(help="npy(z): sampling step, as in 1/100, or one per axis: 2,2.")
    ] = None,
    units: Annotated[
        str | None,
        typer.Option(help="npy(z): units of the steps, as in s, or one per axis: m,m."),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="mseed, sac: clock jitter to accept, in samples.")
    ] = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="netcdf, hdf5: copy nothing, write OUT.json.")
    ] = False,
    channels: Annotated[
        str | None, typer.Option(help="edf, bdf: labels of the signals to take, with commas.")
    ] = None,
    skip: Annotated[
        bool,
        typer.Option(
            "--skip",
            help="Sounds, images, nifti: leave out files that cannot be read or are unlike most.",
        ),
    ] = False,
) -> None:
    """Bring files of another format into a labelled Zarr store."""
    from scatflow.archive import readers
    from scatflow.cli.texts import copying

    known = readers()
    if form not in known:
        raise typer.BadParameter(f"unknown format {form!r}; accepted: {', '.join(sorted(known))}")
    if len(paths) < 2:
        raise typer.BadParameter("give at least one input and the store to write")
    given: dict[str, Any] = {
        "variable": variable,
        "dims": dims.split(",") if dims else None,
        "step": _each(step),
        "units": _each(units),
        "tolerance": tolerance,
        "reference": True if reference else None,
        "channels": channels.split(",") if channels else None,
        "skip": True if skip else None,
    }
    options = {name: value for name, value in given.items() if value is not None}
    for name in set(options) - set(INGEST_OPTIONS.get(form, ("variable",))):
        raise typer.BadParameter(f"--{name} has no meaning for {form}")
    with copying() as on_progress:
        ingested = known[form](
            paths[:-1], paths[-1], overwrite=overwrite, on_progress=on_progress, **options
        )
    for line in ingested:
        typer.echo(line)


@app.command()
def doctor() -> None:
    """Print versions, backends, FFT library, threads, memory and extras."""
    from scatflow.cli.texts import doctor_lines

    typer.echo("\n".join(doctor_lines()))


@app.command("compile")
def compile_kernels(
    kinds: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KIND]...", help="Kinds of jobs; all of them by default."),
    ] = None,
    dtypes: Annotated[
        list[str] | None, typer.Option("--dtype", help="float32 or float64; both by default.")
    ] = None,
) -> None:
    """Compile the engines' kernels now, so that no first call waits; they are kept on disk."""
    from scatflow.cli.kernels import DTYPES, ENGINES, prepare

    for asked, known, hint in (
        (kinds, ENGINES, "KIND"),
        (dtypes, DTYPES, "--dtype"),
    ):
        for word in asked or ():
            if word not in known:
                raise typer.BadParameter(f"{word!r} is none of {', '.join(known)}", param_hint=hint)
    for line in prepare(kinds or ENGINES, dtypes or DTYPES):
        typer.echo(line)


@app.command()
def bench(
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="Threads that one transform may keep busy.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Time the engines on this machine, beside the bare FFTs they need; takes ten seconds."""
    from rich.console import Console

    from scatflow.cli.speed import CASES, machine, measure, table
    from scatflow.cli.texts import as_text

    results = []
    with Console(stderr=True).status("compiling and measuring") as status:
        for case in CASES:
            status.update(f"measuring {case}")
            results.append(measure(case, threads))
    about = machine(threads)
    if as_json:
        typer.echo(as_text({**about, "results": results}))
    else:
        Console().print(table(about, results))


def main() -> None:
    """Run the command line; errors made for users are printed without a traceback.

    All others are mistakes in scatflow: they keep their traceback and end in 70.
    """
    try:
        _main()
    except SystemExit as end:
        _leave_calls_behind(end.code)
        raise


def _main() -> None:
    try:
        app()
    except (Exception, KeyboardInterrupt) as problem:
        code, message = _told_of(problem)
        if code == INTERNAL:
            traceback.print_exc()
            message = "This is a mistake in scatflow: please report it with the lines above."
        typer.echo(message if code == INTERRUPTED else f"error: {_cut(message)}", err=True)
        sys.exit(code)


def _leave_calls_behind(code: str | int | None) -> None:
    """End at once where a store does not answer: the interpreter would wait for Zarr's threads."""
    patience = sys.modules.get("scatflow.flow.patience")
    if patience is None or not patience.under_way() or isinstance(code, str):
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code or 0)


def _told_of(problem: BaseException) -> tuple[int, str]:
    """Return the exit code of what ended a command, and what to say of it."""
    if isinstance(problem, ScatflowError):
        return OVER_BUDGET if isinstance(problem, BudgetError) else USAGE, str(problem)
    if isinstance(problem, OSError):
        return USAGE, f"{problem}. Check that this can be read or written, and that there is room."
    if isinstance(problem, KeyboardInterrupt):
        return INTERRUPTED, "Interrupted."
    if type(problem).__module__.partition(".")[0] in STORE_CLIENTS:
        return USAGE, f"{problem}. Check that the store can be reached, and its credentials."
    return INTERNAL, f"{type(problem).__name__}: {problem}"


STORE_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "adlfs", "azure")
"""Packages whose exceptions are an object store's, or its absence."""

MESSAGE = 8000
"""Characters of a message, at most: names in other people's stores may be of any length."""


def _cut(text: str) -> str:
    return text if len(text) <= MESSAGE else f"{text[: MESSAGE // 2]} ... {text[-MESSAGE // 2 :]}"
