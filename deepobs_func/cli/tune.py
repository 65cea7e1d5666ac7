"""`deepobs tune`: optimizers under one budget, and what came of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from deepobs_func import optimizers, problems
from deepobs_func.cli.options import of_every_run
from deepobs_func.cli.printing import print_table
from deepobs_func.cli.types import Names, Numbers, Search, Seeds, Whole, complete, complete_list
from deepobs_func.runner.config import SCHEDULES

if TYPE_CHECKING:
    from deepobs_func.study.tuned import Tuned

_TUNING = (
    *("studies", "tune_on", "quantity", "tuning_seed", "seeds", "report_tuning_seed", "schedules", "sampler"),
    *("pruner", "amount", "warm_ups", "valid", "at_once"),
)
_BUDGETS = "one-shot, published, random-K, halton or optuna-K, with a number of trials for K, such as random-20."
_COLUMNS = (1, 2, 3, 5, 10, 20, 36, 50, 100, 200, 500, 1000)  # trials after which the best so far is shown


class Listed(Names):
    """Names with commas between them, of an option that may be given several times."""

    name = "names"


@click.command("tune")
@click.argument("problem", nargs=-1, required=True, shell_complete=complete(problems.REGISTRY))
@click.option(
    "--optimizer",
    type=Listed(),
    multiple=True,
    required=True,
    metavar="NAMES",
    help="Names or import paths, with commas, or the option several times.",
    shell_complete=complete_list(optimizers.FUNCTIONAL),
)
@click.option("--budget", required=True, metavar="NAME", help=_BUDGETS)
@click.option(
    "--budget-unit",
    default="trials",
    show_default=True,
    metavar="UNIT",
    help="trials, gradients, seconds.",
    shell_complete=complete(("trials", "gradients", "seconds")),
)
@click.option(
    "--amount", type=float, help="Of gradients or seconds. Default: the gradients that the trials would take."
)
@click.option("--search", type=Search(), multiple=True, metavar="NAME=SPACE", help="lr=loguniform:1e-5:1e-1 or lr=1,2.")
@click.option(
    "--schedules",
    type=Names(),
    metavar="NAMES",
    help=f"To search: constant, {', '.join(SCHEDULES)}.",
    shell_complete=complete_list(SCHEDULES, ["constant"]),
)
@click.option("--warm-ups", type=Numbers(float), metavar="EPOCHS", help="To search: epochs of linear growth, 0,1,2.")
@click.option(
    "--sampler",
    metavar="NAME",
    help="Of budget optuna-K: tpe, cmaes, qmc, gp, random, halton.",
    shell_complete=complete(("tpe", "cmaes", "qmc", "gp", "random", "halton")),
)
@click.option(
    "--pruner",
    metavar="NAME",
    help="median, percentile, successive-halving, hyperband.",
    shell_complete=complete(("median", "percentile", "successive-halving", "hyperband")),
)
@click.option("--studies", type=int, help="Repetitions, each with its own tuning seed and winner.")
@click.option(
    "--tune-on",
    metavar="valid|test",
    help="The split that trials are judged by. Default: the budget's.",
    shell_complete=complete(("valid", "test")),
)
@click.option(
    "--valid", type=Whole(), default=True, metavar="N", help="Training examples set aside. Default: as the test set."
)
@click.option("--quantity", metavar="final|best", help="The value after the last epoch, or the best of all.")
@click.option("--tuning-seed", type=int, help="Default: the budget's, 42.")
@click.option("--seeds", type=Seeds(), metavar="43..52", help="That the winner is run on. Default: the budget's.")
@click.option("--report-tuning-seed", is_flag=True, default=None, help="Report the winning trial beside them.")
@click.option("--at-once", type=int, default=1, show_default=True, help="Trials that are asked for together.")
@click.option("--jobs", "-j", type=int, default=1, show_default=True, help="Processes.")
@of_every_run
@click.option("--quiet", "-q", is_flag=True, help="Print the tables alone.")
def tune_command(
    problem: tuple[str, ...],
    optimizer: tuple[tuple[str, ...], ...],
    budget: str,
    budget_unit: str,
    search: tuple[tuple[str, Any], ...],
    jobs: int,
    quiet: bool,
    **options: Any,
) -> None:
    """Tune optimizers on problems, all under the same budget, and run the winners on other seeds.

    The same command again goes on where it was. Trials are judged on examples that are set aside from the training set,
    unless the budget is the published one. `NAME` of --search may have an optimizer before it: adam.beta1=0.8,0.9.
    """
    from deepobs_func.study.tuning import Tuning, tune

    chosen = {name: options.pop(name) for name in _TUNING}
    names = tuple(dict.fromkeys(name for each in optimizer for name in each))
    tuning = Tuning(problem, names, budget, search=dict(search), unit=budget_unit, settings=options, **chosen)
    watch = (lambda tuned: None) if quiet else _say
    for results in _by_problem(tune(tuning, watch=watch, jobs=jobs)):
        _show(results)


def _by_problem(results: Iterable[Tuned]) -> Iterable[list[Tuned]]:
    found: dict[str, list[Tuned]] = {}
    for each in results:
        found.setdefault(each.problem, []).append(each)
    return found.values()


def _say(tuned: Tuned) -> None:
    """A line on the last trial, or on what is reported."""
    if tuned.reported:
        return click.echo(f"{_name(tuned)}: the winner was run on {len(tuned.reported)} seeds")
    last = tuned.trials[-1]
    of = (
        f" of {tuned.amount:g}"
        if tuned.unit == "trials"
        else f", {tuned.spent[-1]:.4g} of {tuned.amount:g} {tuned.unit}"
    )
    shown = "not finite" if last.value is None else f"{last.value:.5g}"
    best = "" if tuned.best[-1] is None else f", best {tuned.best[-1]:.5g}"
    click.echo(f"{_name(tuned)}: trial {len(tuned.trials)}{of}, {last.status}, {tuned.metric.name} {shown}{best}")
    return None


def _show(results: Sequence[Tuned]) -> None:
    """The winners of a problem, and how the best so far went."""
    first = results[0]
    click.echo(f"\n{first.problem}, budget {first.budget}, {first.amount:g} {first.unit} each, by {first.metric.name}")
    titles = ("optimizer", "winner", "trials", "spent", "best", "test, mean", "sd", "seeds")
    print_table(titles, map(_winner, results), numbers=6)
    most = max(len(each.trials) for each in results)
    columns = [column for column in _COLUMNS if column < most] + [most]
    click.echo(f"\nbest {first.metric.name} so far, after trial")
    rows = [(_name(each, False), *(_value(_after(each, column)) for column in columns)) for each in results]
    print_table(("optimizer", *map(str, columns)), rows, numbers=len(columns))
    for each in results:
        if each.path is not None:
            click.echo(str(each.path))


def _winner(tuned: Tuned) -> tuple[str, ...]:
    winner = tuned.winner
    values = {} if winner is None else winner.values
    chosen = " ".join(f"{name.removeprefix('hyperparams.')}={_value(value)}" for name, value in values.items())
    finals = [math.nan if each.value is None else each.value for each in tuned.reported]
    mean = _value(statistics.fmean(finals)) if finals else "-"
    sd = _value(statistics.stdev(finals)) if len(finals) > 1 else "-"
    spent = f"{tuned.spent[-1]:.4g}" if tuned.spent else "0"
    none = "none is finite" if winner is None else "defaults"
    best = _value(tuned.best[-1]) if tuned.best else "-"
    return (_name(tuned, False), chosen or none, str(len(tuned.trials)), spent, best, mean, sd, str(len(finals)))


def _name(tuned: Tuned, with_problem: bool = True) -> str:
    return " ".join(
        [*([tuned.problem] if with_problem else []), tuned.optimizer, *([f"#{tuned.study}"] if tuned.study else [])]
    )


def _after(tuned: Tuned, trials: int) -> float | None:
    return tuned.best[min(trials, len(tuned.best)) - 1] if tuned.best else None


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
