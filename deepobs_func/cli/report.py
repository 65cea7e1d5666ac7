"""`deepobs report` and `deepobs plot`: runs to look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from deepobs_func.cli.options import CLOCKS, shared
from deepobs_func.cli.types import Names, complete, files, folders
from deepobs_func.errors import ConfigError, option, unknown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deepobs_func.analysis import Results


@click.command("report")
@click.argument("paths", nargs=-1, metavar="[DIR]...", shell_complete=folders())
@click.option(
    "--out", default="report.html", show_default=True, metavar="FILE", help="The page.", shell_complete=files()
)
@click.option("--title", default="", metavar="TEXT", help="Of the page.")
@shared("mode", "problem", "optimizer", "baselines")
@click.option("--json", "as_json", is_flag=True, help="What was written, as JSON.")
def report_command(
    paths: tuple[str, ...],
    out: str,
    title: str,
    mode: str,
    problem: tuple[str, ...] | None,
    optimizer: tuple[str, ...] | None,
    baselines: str | None,
    as_json: bool,
) -> None:
    """Write one HTML page of all runs below DIR: the verdict, each problem, and where it comes from.

    It works offline and sends nothing. By default DIR is results.
    """
    from deepobs_func.analysis.plain import as_json as to_json
    from deepobs_func.analysis.reports import write_report

    sources = paths or ("results",)
    results = _read(sources, problem, optimizer, baselines)
    written = write_report(results, out, mode=mode, title=title, sources=sources)
    if as_json:
        facts = {"file": str(written), "bytes": written.stat().st_size, "runs": len(results.runs)}
        click.echo(to_json(facts | {"unread": results.unread}))
        return
    click.echo(f"{written}: {len(results.runs):,} runs, {written.stat().st_size / 1e6:.1f} MB")
    if results.unread:
        click.echo(f"{len(results.unread)} files could not be read; the page lists them.", err=True)


def _complete_kind(ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
    return complete(KINDS)(ctx, param, incomplete)


@click.command("plot")
@click.argument("kind", metavar="KIND", shell_complete=_complete_kind)
@click.argument("paths", nargs=-1, metavar="[PATH]...", shell_complete=files())
@click.option(
    "--out", metavar="FILE", help="PNG, PDF, PGF or SVG, by its name. Default: KIND.png.", shell_complete=files()
)
@shared("problem", "optimizer", "mode")
@click.option("--metric", metavar="NAME", help="Of curves: test_loss, train_accuracy, ... Default: the problem's.")
@click.option(
    "--against",
    default="epoch",
    show_default=True,
    help="Of curves: epoch, step, seconds, gradients or cost.",
    shell_complete=complete(CLOCKS),
)
@click.option(
    "--band",
    default="sd",
    show_default=True,
    help="Of curves: sd, quartiles, range or none.",
    shell_complete=complete(("sd", "quartiles", "range", "none")),
)
@click.option(
    "--set",
    "which",
    default="small",
    show_default=True,
    help="Of performance: small, large or all.",
    shell_complete=complete(("small", "large", "all")),
)
@click.option("--quantity", type=Names(), metavar="NAMES", help="Of tracked: which quantities.")
@click.option("--reference", metavar="NAME", help="Of wins: the optimizer to beat. Default: that with the best trial.")
@click.option("--run", type=int, metavar="N", help="Of panel: which run, from 0, as they were read.")
@shared("baselines")
@click.option("--json", "as_json", is_flag=True, help="What was written, as JSON.")
def plot_command(
    kind: str,
    paths: tuple[str, ...],
    out: str | None,
    problem: tuple[str, ...] | None,
    optimizer: tuple[str, ...] | None,
    baselines: str | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Draw the runs below PATH; by default those in results.

    \b
    curves              mean and band of each optimizer, by problem
    performance         losses and accuracies of a set, 4 x 4, as in the paper
    sensitivity         the final metric over the learning rate
    paper-sensitivity   the same of the eight published problems, 2 x 4
    batch-sizes         the final metric over the batch size, each at its best setting
    profiles            how often an optimizer is nearly the fastest to the target, and AlgoPerf's score
    targets             how that score moves as targets tighten
    differences         mean ranks, and who cannot be told apart
    tuning              the median best of k trials
    wins                how likely the best of k trials beats that of the reference
    tracked             tracked quantities over the steps
    panel               all that is known of one run
    trajectories        paths on the two_d problems, of runs with --track position
    layers              quantities of each layer over the steps, of runs with --track grad_norm/layer
    spectrum            the largest eigenvalue and the trace of the Hessian, where they were tracked
    densities           spectral densities of the Hessian, of runs with --track spectrum or `deepobs probe`
    """  # noqa: D301  # a backspace is Click's mark of lines that stay as they are
    if kind not in KINDS:
        raise ConfigError(f"{option('kind')}: {unknown('kind of figure', kind, KINDS)}")
    from deepobs_func.analysis.extras import need

    need("matplotlib", "A figure")
    from deepobs_func.analysis.figures import save
    from deepobs_func.analysis.figures.style import check
    from deepobs_func.analysis.plain import as_json as to_json

    path = check(out or f"{kind}.png")
    results = _read(paths or ("results",), problem, optimizer, baselines)
    figure = KINDS[kind](results, how)
    written = save(figure, path)
    click.echo(to_json({"file": str(written), "runs": len(results.runs)}) if as_json else str(written))


def _read(
    paths: tuple[str, ...], problem: tuple[str, ...] | None, optimizer: tuple[str, ...] | None, baselines: str | None
) -> Results:
    from deepobs_func import analysis
    from deepobs_func.errors import DataError

    results = analysis.load(paths, baselines=baselines or False)
    if not len(results.runs):
        first = f" The first file that could not be read: {': '.join(results.unread[0])}." if results.unread else ""
        raise DataError(f"There is no run in {', '.join(paths)}.{first}")
    chosen = {"problem": list(problem or ()), "optimizer": list(optimizer or ())}
    return results.select(**{name: names for name, names in chosen.items() if names})


def _synthetic(results: Results) -> bool:
    return bool((results.runs["data"] == "synthetic").any())


def _curves(results: Results, how: Mapping[str, Any]) -> Figure:
    from deepobs_func.analysis import figures

    return figures.curves(results, how["metric"], against=how["against"], band=how["band"], mode=how["mode"])


def _performance(results: Results, how: Mapping[str, Any]) -> Figure:
    from deepobs_func.analysis import figures

    return figures.performance(results, how["which"], band=how["band"], mode=how["mode"])


def _sensitivity(results: Results, how: Mapping[str, Any]) -> Figure:
    from deepobs_func.analysis import figures

    return figures.sensitivity(results)


def _paper_sensitivity(results: Results, how: Mapping[str, Any]) -> Figure:
    from deepobs_func.analysis import figures

    return figures.sensitivity(results, paper=True)


def _profiles(results: Results, how: Mapping[str, Any]) -> Figure:
    from deepobs_func.analysis import figures
    from deepobs_func.analysis.parsing import CLOCK_NAMES
    from deepobs_func.analysis.reports.scoring import times_to_target

    times = times_to_target(results, clock=how["against"], mode=how["mode"])
    return figures.profile(times, unit=CLOCK_NAMES[how["against"]], synthetic=_synthetic(results))


def _differences(results: Results, how: Mapping[str, Any]) -> Figure:
    from deepobs_func.analysis import figures
    from deepobs_func.analysis.reports.scoring import costs

    return figures.critical_difference(
        costs(results, mode=how["mode"]), higher_is_better=False, synthetic=_synthetic(results)
    )


def _targets(results: Results, how: Mapping[str, Any]) -> Figure:
    from deepobs_func.analysis import figures
    from deepobs_func.analysis.reports.scoring import moves_to_target

    moves = moves_to_target(results, clock=how["against"], mode=how["mode"])
    return figures.targets(moves, synthetic=_synthetic(results))


def _wins(results: Results, how: Mapping[str, Any]) -> Figure:
    from deepobs_func.analysis import figures

    return figures.wins(results, how["reference"])


def _tuning(results: Results, how: Mapping[str, Any]) -> Figure:
    from deepobs_func.analysis import figures

    return figures.tuning(results)


def _tracked(results: Results, how: Mapping[str, Any]) -> Figure:
    from deepobs_func.analysis import figures

    return figures.tracked(results, how["quantity"] or (), mode=how["mode"])


def _panel(results: Results, how: Mapping[str, Any]) -> Figure:
    from deepobs_func.analysis import figures

    return figures.panel(results, how["run"])


def _trajectories(results: Results, how: Mapping[str, Any]) -> Figure:
    from deepobs_func.analysis import figures

    return figures.trajectories(results, mode=how["mode"])


def _spectrum(results: Results, how: Mapping[str, Any]) -> Figure:
    from deepobs_func.analysis import figures

    return figures.tracked(results, ("hess_max_ev", "hess_trace"), mode=how["mode"])


def _layers(results: Results, how: Mapping[str, Any]) -> Figure:
    from deepobs_func.analysis import figures

    return figures.layers(results, how["quantity"] or (), mode=how["mode"])


def _densities(results: Results, how: Mapping[str, Any]) -> Figure:
    from deepobs_func.analysis import figures

    return figures.densities(results, mode=how["mode"])


def _batch_sizes(results: Results, how: Mapping[str, Any]) -> Figure:
    from deepobs_func.analysis import figures

    return figures.batch_sizes(results)


KINDS: Mapping[str, Callable[[Results, Mapping[str, Any]], Figure]] = {
    "curves": _curves,
    "performance": _performance,
    "sensitivity": _sensitivity,
    "paper-sensitivity": _paper_sensitivity,
    "batch-sizes": _batch_sizes,
    "profiles": _profiles,
    "targets": _targets,
    "differences": _differences,
    "tuning": _tuning,
    "wins": _wins,
    "tracked": _tracked,
    "panel": _panel,
    "trajectories": _trajectories,
    "layers": _layers,
    "spectrum": _spectrum,
    "densities": _densities,
}
"""By the word of the command line, what draws results, given the options."""
