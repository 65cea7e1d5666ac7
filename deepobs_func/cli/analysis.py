"""`deepobs show`, `compare`, `best`, `table`: what came of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from deepobs_func.cli.options import CLOCKS, shared
from deepobs_func.cli.types import complete, files, folders

if TYPE_CHECKING:
    from deepobs_func.analysis import Results


@click.command("show")
@click.argument("run", shell_complete=files())
@shared("results", "json")
def show_command(run: str, results_dir: str, as_json: bool) -> None:
    """Show one run: how it ended, what came of it, and how to run it again.

    RUN is the file of its record, or the beginning of its id.
    """
    from deepobs_func import analysis

    _print(analysis.show_run(run, results_dir), as_json)


@click.command("compare")
@click.argument("names", nargs=-1, metavar="[A B]...")
@shared("results", "problem", "metric", "mode", "baselines")
@click.option("--delta", type=float, help="The largest difference that counts as a tie, in units of the metric.")
@click.option("--level", type=float, default=0.95, show_default=True, help="Of intervals and tests.")
@click.option("--paired", is_flag=True, help="Compare the seeds that all have, each with itself.")
@click.option(
    "--against",
    metavar="CLOCK",
    help="Compare the time to a target: epoch, step, seconds, gradients or cost.",
    shell_complete=complete(CLOCKS),
)
@click.option("--target", type=float, help="With --against: of the metric. Default: the published one.")
@shared("json")
def compare_command(
    names: tuple[str, ...],
    results_dir: str,
    problem: tuple[str, ...] | None,
    baselines: str | None,
    against: str | None,
    target: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Say which optimizer is better, by how much, and how sure that is.

    A, B, ... are optimizers in the results tree, or paths of other trees, folders or files, of which all optimizers are
    compared; `published` stands for the published ones. Without a name, all in the tree are.
    """
    from deepobs_func import analysis

    results, meant = analysis.gather(names, results_dir, baselines=_baselines(baselines))
    if against is not None or target is not None:
        _race(_selected(results, problem), meant, against or "epoch", target, as_json, options)
        _say_unread(results)
        return
    found = analysis.compare(_selected(results, problem), meant, **options)
    tolerances = analysis.against_published(_selected(results, problem), options["mode"]) if baselines else None
    _print(found, as_json, published=tolerances)
    if not as_json:
        _say_tolerances(tolerances)
    _say_unread(results)


def _race(
    results: Results, meant: list[str], clock: str, target: float | None, as_json: bool, options: dict[str, Any]
) -> None:
    """The time to a target, which the options of means do not concern."""
    from deepobs_func import analysis
    from deepobs_func.errors import ConfigError

    if options["paired"] or options["delta"] is not None or options["level"] != 0.95:
        raise ConfigError(
            "--against compares times by log-rank tests at the level .95: --delta, --level and --paired do not apply."
        )
    _print(
        analysis.race(results, meant, clock=clock, target=target, mode=options["mode"], metric=options["metric"]),
        as_json,
    )


@click.command("best")
@click.argument("paths", nargs=-1, metavar="[DIR]...", shell_complete=folders())
@shared("problem", "optimizer", "metric", "json")
def best_command(
    paths: tuple[str, ...],
    problem: tuple[str, ...] | None,
    optimizer: tuple[str, ...] | None,
    metric: str | None,
    as_json: bool,
) -> None:
    """Show the best setting of each optimizer on each problem, by DeepOBS's three modes."""
    from deepobs_func import analysis
    from deepobs_func.analysis.tables import best_text

    results = _selected(analysis.load(paths or ("results",)), problem, optimizer)
    table = analysis.best_settings(results, metric)
    _print(table if as_json else best_text(table), as_json)
    _say_unread(results)


@click.command("table")
@click.argument("paths", nargs=-1, metavar="[DIR]...", shell_complete=folders())
@shared("problem", "optimizer", "metric", "mode", "baselines")
@click.option(
    "--format",
    default="text",
    show_default=True,
    metavar="NAME",
    help="text, md, csv or latex.",
    shell_complete=complete(("text", "md", "csv", "latex")),
)
@click.option("--wide", is_flag=True, help="DeepOBS's own layout: a column for each optimizer.")
@shared("json")
def table_command(
    paths: tuple[str, ...],
    problem: tuple[str, ...] | None,
    optimizer: tuple[str, ...] | None,
    metric: str | None,
    mode: str,
    baselines: str | None,
    format: str,
    wide: bool,
    as_json: bool,
) -> None:
    """Show DeepOBS's table: performance, speed and tuneability of each optimizer on each problem."""
    from deepobs_func import analysis

    results = _selected(analysis.load(paths or ("results",), baselines=_baselines(baselines)), problem, optimizer)
    table = analysis.benchmark_table(results, mode, metric)
    tolerances = analysis.against_published(results, mode) if baselines else None
    _print(table if as_json else analysis.table_text(table, format, wide=wide), as_json, published=tolerances)
    if format == "text" and not as_json:
        _say_tolerances(tolerances)
    _say_unread(results)


def _baselines(given: str | None) -> bool | str:
    return given or False


def _selected(results: Results, problem: tuple[str, ...] | None, optimizer: tuple[str, ...] | None = None) -> Results:
    wanted = {"problem": problem, "optimizer": optimizer}
    return results.select(**{name: list(values) for name, values in wanted.items() if values})


def _print(found: Any, as_json: bool, **more: Any) -> None:
    """Prints a result, with more beside it in JSON where there is more."""
    if not as_json:
        click.echo(str(found))
        return
    from deepobs_func.analysis.plain import as_json as to_json

    beside = {name: value for name, value in more.items() if value is not None}
    click.echo(to_json({"table": found, **beside} if beside else found))


def _say_tolerances(table: Any) -> None:
    """How far runs are from the published ones of the same method."""
    if table is None:
        return
    from deepobs_func.analysis.tolerances import tolerances_text

    click.echo(f"\nBeside the published runs, final loss within 1 %, accuracy within .5 %:\n{tolerances_text(table)}")


def _say_unread(results: Results) -> None:
    """What could not be read, on standard error."""
    for path, reason in results.unread[:_MOST]:
        click.echo(f"Not read: {path}: {reason}.", err=True)
    if len(results.unread) > _MOST:
        click.echo(f"Not read: {len(results.unread) - _MOST} more files.", err=True)


_MOST = 10
