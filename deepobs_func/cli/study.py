"""`deepobs sweep`, `status`, `logs`, `cancel`, `merge`: many runs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from deepobs_func.cli.types import Share, folders
from deepobs_func.errors import ConfigError, option
from deepobs_func.runner import signals

if TYPE_CHECKING:
    from deepobs_func.study import Study
    from deepobs_func.study.estimate import Estimate
    from deepobs_func.study.sweeping import Swept

ENGINES = ("processes", "ray", "slurm")
_SPEC = click.argument("spec", type=click.Path(path_type=Path))
_DIR = click.argument("output_dir", default="results", metavar="DIR", shell_complete=folders())


_USED_BY = {
    **dict.fromkeys(("jobs", "threads"), ("processes", "slurm")),
    "share": ("processes", "ray"),
    **dict.fromkeys(("cpus", "gpus"), ("ray", "slurm")),
    "ray_address": ("ray",),
    **dict.fromkeys(("tasks", "limit", "memory", "partition", "extra", "emit"), ("slurm",)),
}
"""Which engines look at an option, by the name of its value."""


def _engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """What the engines beyond this machine take."""
    options = (
        click.option("--engine", default=ENGINES[0], show_default=True, help=f"{', '.join(ENGINES)}."),
        click.option("--cpus", type=int, default=1, show_default=True, help="Cores of a run (ray) or a task (slurm)."),
        click.option("--gpus", type=float, default=0, show_default=True, help="GPUs of each; of Ray, 0.25 too."),
        click.option(
            "--ray-address", metavar="ADDRESS", help="Of the Ray cluster. Default: $RAY_ADDRESS, or one here."
        ),
        click.option("--tasks", type=int, default=1, show_default=True, help="Slurm: how many tasks share the runs."),
        click.option("--time", "limit", metavar="TIME", help="Slurm: the most that a task takes, 4:00:00."),
        click.option("--memory", metavar="SIZE", help="Slurm: of a task, 8G."),
        click.option("--partition", metavar="NAME", help="Slurm: where it runs."),
        click.option("--sbatch", "extra", multiple=True, metavar="OPTION", help="Slurm: another option, --account=me."),
        click.option(
            "--emit", type=click.Path(path_type=Path), help="Slurm: write the script here, and submit nothing."
        ),
    )
    for each in reversed(options):
        command = each(command)
    return command


@click.command("sweep")
@_SPEC
@click.option("--jobs", "-j", type=int, help="Runs at a time. Default: what the spec says, or 1.")
@click.option("--threads", type=int, help="Of each run. Default: as before, at first an equal share of the cores.")
@click.option("--retry", is_flag=True, help="Try runs again that failed, or were cancelled, in earlier sweeps.")
@click.option("--dry-run", is_flag=True, help="Show the runs, how many are there already, and what the rest will take.")
@click.option("--share", type=Share(), default="0/1", metavar="I/N", help="Run the runs I, I + N, I + 2 N, ... alone.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but what went wrong.")
@_engine_options
def sweep_command(
    spec: Path, jobs: int | None, threads: int | None, retry: bool, dry_run: bool, quiet: bool, **options: Any
) -> None:
    """Run all the runs of a study, and go on with what an earlier sweep has left.

    SPEC is a YAML file. The same command, after whatever ended it, skips what is finished and resumes what is half
    done. The exit status is 1 if a run failed.
    """
    with signals.caught():
        from deepobs_func.study import Study
        from deepobs_func.study.sweeping import jobs_at_a_time

        study = Study.read(spec)
        jobs_at_a_time(study, jobs)
        for note in study.notes:
            click.echo(note, err=True)
        if options["engine"] not in ENGINES:
            raise ConfigError(f"{option('engine')} {options['engine']}: it must be one of {', '.join(ENGINES)}.")
        _check_used(options["engine"], options["gpus"])
        if dry_run:
            _show_plan(study, jobs_at_a_time(study, jobs), options["share"])
            return
        if options["engine"] == "slurm":
            _to_slurm(spec, study, jobs, threads, retry, **options)
            return
        _sweep(study, jobs, threads, retry, quiet, **options)


def _check_used(engine: str, gpus: float) -> None:
    """Checks that the engine looks at all that was given.

    Raises:
        ConfigError: it has no use for an option, or for a part of a GPU.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        engines = _USED_BY.get(parameter.name or "", ENGINES)
        is_given = context.get_parameter_source(parameter.name or "") is not ParameterSource.DEFAULT
        if is_given and engine not in engines:
            raise ConfigError(
                f"{parameter.opts[0]} is of {option('engine')} {' or '.join(engines)}, not of {engine}: leave one out."
            )
    if engine == "slurm" and gpus != int(gpus):
        raise ConfigError(f"{option('gpus')} {gpus:g}: Slurm gives whole GPUs. Give a whole number, or use Ray.")


def _sweep(
    study: Study, jobs: int | None, threads: int | None, retry: bool, quiet: bool, share: tuple[int, int], **engine: Any
) -> None:
    from deepobs_func.study.live import Table
    from deepobs_func.study.sweeping import sweep

    make = _ray(**engine) if engine["engine"] == "ray" else None
    table = Table(study.size if share[1] == 1 else None, quiet=quiet)
    with table:
        swept = sweep(
            study, jobs=jobs, threads=threads, retry=retry, share=share, make=make, watch=table.show, tell=table.tell
        )
    _say_ended(study, swept, quiet)


def _say_ended(study: Study, swept: Swept, quiet: bool) -> None:
    """How it ended; exit status 1 if a run failed."""
    if not quiet:
        counts = ", ".join(f"{number} {status}" for status, number in swept.counts().items())
        click.echo(f"{study.output_dir}: {counts or 'nothing to run'}.")
    for outcome in swept.failed:
        where = outcome.record.path if outcome.record else ""
        reason = f"failed: {outcome.error}" if outcome.status == "failed" else "cancelled"
        click.echo(f"{outcome.run_id[:12]} {outcome.config.problem} {reason} {where}".rstrip(), err=True)
    if swept.failed:
        click.echo(f"deepobs logs {study.output_dir} RUN shows why; deepobs sweep --retry tries again.", err=True)
        sys.exit(1)


def _ray(cpus: int, gpus: float, ray_address: str | None, **others: Any) -> Callable[..., Any]:
    from functools import partial

    from deepobs_func.study.engines.ray import RayPool

    return partial(RayPool, cpus=cpus, gpus=gpus, address=ray_address)


def _to_slurm(spec: Path, study: Study, jobs: int | None, threads: int | None, retry: bool, **options: Any) -> None:
    """Writes the array script, and submits it unless it is only to be written."""
    from deepobs_func.study.engines import slurm
    from deepobs_func.study.ledger import Ledger
    from deepobs_func.study.sweeping import jobs_of

    jobs_of(study)  # what is wrong is said here, not in the log of a task
    array = slurm.Array(
        options["tasks"], options["cpus"], int(options["gpus"]), options["limit"], options["memory"],
        options["partition"], options["extra"],
    )  # fmt: skip
    command = [*slurm.this_command(), "sweep", str(spec.absolute()), "--quiet"]
    for name, value in (("jobs", jobs), ("threads", threads)):
        command += [f"--{name}", str(value)] if value is not None else []
    command += ["--retry"] if retry else []
    logs = Ledger(study.output_dir).folder.absolute()
    logs.mkdir(parents=True, exist_ok=True)
    text = slurm.script(command, array, logs, Path.cwd())
    path = options["emit"] or logs / "sweep.sh"
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror or error}). Give another file with {option('emit')}."
        ) from error
    click.echo(path if options["emit"] else slurm.submit(path))


def _show_plan(study: Study, jobs: int, share: tuple[int, int]) -> None:
    """What would be run."""
    from deepobs_func.study import estimate
    from deepobs_func.study.jobs import standing
    from deepobs_func.study.sweeping import jobs_of, limits_of

    runs = jobs_of(study, share)
    for data in estimate.missing_data(runs):
        click.echo(
            f"{data.title} is not in {data.data}; {data.runs} runs need it. A run downloads it where that can be done. "
            "Their time, below, is that on a stand-in."
        )
    for row in study.table():
        click.echo("{problem}  {optimizer}: {settings} settings x {seeds} seeds = {runs} runs".format(**row))
    stages = [standing(job, study.output_dir, limits_of(study)).stage for job in runs]
    counts = ", ".join(f"{number} {stage}" for stage, number in estimate.by_stage(stages).items())
    click.echo(f"{len(runs)} runs in {study.output_dir}: {counts}.")
    left = [job for job, stage in zip(runs, stages, strict=True) if stage in ("waiting", "interrupted", "failed")]
    found = estimate.estimate(left)
    said: set[str] = set()
    for each in found:
        click.echo(f"{each.problem}  {each.optimizer}: {each.runs} runs {_takes(each, said)}")
    timed = [each for each in found if not each.error]
    if timed:
        seconds = duration(estimate.total(timed, jobs))
        which = "" if len(timed) == len(found) else " for the others"
        click.echo(
            f"In eager code, {jobs} at a time: about {seconds}{which}. Compiled runs and populations are faster."
        )


def _takes(each: Estimate, said: set[str]) -> str:
    """How long runs take, or why that cannot be told, which is said once."""
    if not each.error:
        return f"of about {duration(each.seconds)}"
    if each.error in said:
        return "that cannot be timed either"
    said.add(each.error)
    return f"that cannot be timed: {each.error}"


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(0.5), duration(90), duration(7200)
    ('0.5 s', '1.5 min', '2.0 h')
    """
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


@click.command("status")
@_DIR
@click.option("--json", "as_json", is_flag=True, help="As JSON, a list of runs.")
@click.option("--watch", is_flag=True, help="Again every two seconds, until all have ended.")
@click.option("--all", "show_all", is_flag=True, help="Every run; else those that are under way or went wrong.")
def status_command(output_dir: str, as_json: bool, watch: bool, show_all: bool) -> None:
    """Show how far the studies in DIR are."""
    import dataclasses

    from deepobs_func.study.status import study_status, summary

    while True:
        rows = study_status(output_dir)
        if as_json:
            click.echo(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
        else:
            counts = summary(rows)
            click.echo(f"{output_dir}: {len(rows)} runs, " + ", ".join(f"{n} {stage}" for stage, n in counts.items()))
            shown = ("running", "failed", "interrupted", "cancelled")
            for row in rows:
                if show_all or row.stage in shown:
                    click.echo(_line(row))
        if not watch or not any(row.stage in ("running", "waiting", "interrupted") for row in rows):
            return
        time.sleep(2)


def _line(row: Any) -> str:
    where = "" if row.epoch is None else f"  epoch {row.epoch}/{row.epochs}"
    last = "".join(f"  {name} {value:.4g}" for name, value in row.last.items() if name.startswith("test"))
    error = f"  {row.error}" if row.error else ""
    return f"{row.run_id[:12]}  {row.stage:11}  {row.label}{where}{last}{error}"


@click.command("logs")
@_DIR
@click.argument("run", required=False)
@click.option("--lines", "-n", type=int, default=40, show_default=True, help="Of the end of the log.")
@click.option("--follow", "-f", is_flag=True, help="Go on while the run does.")
def logs_command(output_dir: str, run: str | None, lines: int, follow: bool) -> None:
    """Show what a run printed, and its traceback if it failed.

    RUN is the beginning of its id, as deepobs status shows it. Without it, the logs of all runs that failed.
    """
    from deepobs_func.study.ledger import Ledger
    from deepobs_func.study.status import find_run, study_status

    if run is None:
        failed = [row for row in study_status(output_dir) if row.stage == "failed"]
        for row in failed:
            click.echo(f"== {row.run_id[:12]}  {row.label}\n{_end_of(Ledger(output_dir).log(row.run_id), lines)}")
        if not failed:
            click.echo("No run has failed.")
        return
    row = find_run(output_dir, run)
    path = Ledger(output_dir).log(row.run_id)
    click.echo(_end_of(path, lines) or f"The run has printed nothing; it is {row.stage}.")
    position = path.stat().st_size if path.exists() else 0
    while follow and Ledger(output_dir).is_claimed(row.run_id):
        time.sleep(0.5)
        if path.exists() and path.stat().st_size > position:
            with path.open("rb") as file:
                file.seek(position)
                new = file.read()
            position += len(new)
            click.echo(new.decode(errors="replace"), nl=False)


def _end_of(path: Path, lines: int) -> str:
    if not path.exists():
        return ""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


@click.command("cancel")
@_DIR
@click.argument("runs", nargs=-1)
def cancel_command(output_dir: str, runs: tuple[str, ...]) -> None:
    """End runs of a study, with a checkpoint, and start no other: those named, or all that are not finished.

    RUNS are the beginnings of ids, as deepobs status shows them. deepobs sweep --retry goes on with them.
    """
    from deepobs_func.study.ledger import Ledger
    from deepobs_func.study.status import find_run, study_status

    rows = [find_run(output_dir, run) for run in runs] or study_status(output_dir)
    ended = ("finished", "diverged", "stopped", "cancelled")
    cancelled = [row for row in rows if row.stage not in ended]
    for row in cancelled:
        Ledger(output_dir).cancel(row.run_id)
    click.echo(f"{len(cancelled)} of {len(rows)} runs are cancelled; the others have ended.")


@click.command("merge")
@click.argument("into", shell_complete=folders())
@click.argument("sources", nargs=-1, required=True, shell_complete=folders())
def merge_command(into: str, sources: tuple[str, ...]) -> None:
    """Copy the finished runs of other results trees into INTO, each once; the others are only read."""
    from deepobs_func.study.merging import merge

    found = merge(into, list(sources))
    click.echo(f"{len(found.copied)} runs copied into {into}; {len(found.known)} were there.")
    for path in found.differing:
        click.echo(f"Not copied: {path} is a run that is there with other numbers, executed otherwise.", err=True)
    for path in found.unreadable:
        click.echo(f"Not copied: {path} is no record of a run.", err=True)
