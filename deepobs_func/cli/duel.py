"""`deepobs duel`: which of two optimizers is better on a problem, with as many seeds as it takes."""

from __future__ import annotations

import ast
import json
import re
import sys
from typing import TYPE_CHECKING, Any

import click

from deepobs_func import optimizers, problems
from deepobs_func.cli.options import of_every_run
from deepobs_func.cli.types import Value, complete
from deepobs_func.errors import ConfigError, option
from deepobs_func.runner import signals
from deepobs_func.runner.config import (
    RunConfig,
    is_path,
    unknown_optimizer,
)

if TYPE_CHECKING:
    from deepobs_func.study.dueling import Delta, Standings

_COMMAS = re.compile(r",(?![^([]*[)\]])")  # outside brackets
_FIELDS = (
    "lr",
    "schedule",
    "warm_up",
    "decay_factor",
    "clip_norm",
    "clip_value",
    "lr_sched_epochs",
    "lr_sched_factors",
)


@click.command("duel")
@click.argument("a", metavar="A", shell_complete=complete(optimizers.FUNCTIONAL))
@click.argument("b", metavar="B", shell_complete=complete(optimizers.FUNCTIONAL))
@click.option("--problem", "-p", required=True, metavar="P", shell_complete=complete(problems.REGISTRY))
@click.option("--delta", metavar="D", help="What counts as a tie: 0.005, or 1% of B's mean. Default: 0.005 or 1%.")
@click.option("--level", type=float, default=0.95, show_default=True, help="How certain the answer must be.")
@click.option("--test", default="t", show_default=True, help="t, of means, or sign, of medians of any distribution.")
@click.option("--max-seeds", type=int, default=30, show_default=True, help="The budget: seeds of each.")
@click.option("--first-seed", type=int, default=42, show_default=True, help="The next ones follow.")
@click.option("--metric", metavar="accuracy|loss", help="On the test set, at the end. Default: the problem's.")
@click.option("--jobs", "-j", type=int, default=1, show_default=True, help="Runs at a time.")
@of_every_run
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Print the verdict alone.")
def duel_command(
    a: str,
    b: str,
    problem: str,
    delta: str | None,
    level: float,
    test: str,
    max_seeds: int,
    first_seed: int,
    metric: str | None,
    jobs: int,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Run A and B seed by seed until it is certain which is better, or that they tie within a delta.

    A and B are a name or an import path, with settings: adam,lr=1e-3,beta1=0.95. Without lr, the published rate of the
    problem, or else the optimizer's default. One may look at any time and stop at any time: a wrong answer has a
    probability of 1 - LEVEL at most. The same command goes on where it was. Exit status 3 if it stays undecided.
    """
    with signals.caught():
        from deepobs_func.study.dueling import Dueling, duel

        dueling = Dueling(
            contestant(a, problem, options),
            contestant(b, problem, options),
            delta=None if delta is None else delta_of(delta),
            level=level,
            test=test,
            seeds=range(first_seed, first_seed + max(0, max_seeds)),
            metric=metric,
            names=(a, b),
        )
        ended = duel(dueling, watch=lambda standings: None if quiet or as_json else _say(standings), jobs=jobs)
    if ended.dueling.a.data == "synthetic" and not as_json:
        click.echo("Stand-in data: not a result.", err=True)
    click.echo(json.dumps(ended.plain(), indent=2) if as_json else str(ended))
    sys.exit(0 if ended.answer != "undecided" else 3)


def contestant(text: str, problem: str, options: dict[str, Any]) -> RunConfig:
    """An optimizer as the command line has it, `adam,lr=1e-3,beta1=0.95`, as a run of a problem.

    Args:
        text: a name or an import path, and settings: fields of `RunConfig` on the learning rate and clipping,
            everything else a hyperparameter.
        problem: on which it runs.
        options: other fields of `RunConfig`.

    Returns:
        The configuration.

    Raises:
        ConfigError: a part is no `NAME=VALUE`, or no learning rate is given or known.
    """
    name, given = settings_of(text)
    taken = {key: given.pop(key) for key in _FIELDS if key in given}
    if "lr" not in taken:
        taken["lr"] = _rate(name, problem)
    return RunConfig(problem, name, hyperparams=given, **taken, **options)


def settings_of(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the settings of an optimizer in one word.

    Raises:
        ConfigError: a part is no `NAME=VALUE`.

    >>> settings_of("torch.optim.AdamW,betas=(0.9, 0.99),amsgrad=true")
    ('torch.optim.AdamW', {'betas': (0.9, 0.99), 'amsgrad': True})
    """
    name, *parts = (part.strip() for part in _COMMAS.split(text))
    given: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not (key and equals and value) or key in given:
            raise ConfigError(f"{part!r} in {text!r} must be NAME=VALUE, each once, such as lr=1e-3.")
        given[key] = _value(value)
    return name, given


def delta_of(text: str) -> Delta:
    """What `--delta` says: a number, or a percentage.

    Raises:
        ConfigError: it is neither.
    """
    from deepobs_func.study.dueling import Delta

    try:
        number = float(text.removesuffix("%"))
    except ValueError as error:
        raise ConfigError(f"{option('delta')} {text}: it must be a number or a percentage, 0.005 or 1%.") from error
    return Delta(number / 100, relative=True) if text.endswith("%") else Delta(number)


def _rate(name: str, problem: str) -> float:
    """The published learning rate, or the optimizer's default."""
    from deepobs_func.analysis.published import baselines

    published = [each.lr for each in baselines(problem) if each.optimizer == name]
    spec = optimizers.FUNCTIONAL.get(name)
    if spec is None and not is_path(name):
        raise ConfigError(unknown_optimizer(name))
    default = published[0] if published else (None if spec is None else spec.lr)
    if default is None:
        raise ConfigError(f"{name} has no learning rate for {problem} that is known: give one, {name},lr=1e-3.")
    return float(default)


def _value(text: str) -> Any:
    """A number, a list, a flag, or a text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return Value(None).convert(text, None, None)


def _say(standings: Standings) -> None:
    """A line on the last seed."""
    a, b = (column[-1] for column in standings.values)
    low, high = standings.bounds[-1] if standings.bounds else (float("-inf"), float("inf"))
    click.echo(f"seed {standings.seeds[-1]}: {a:.5g} and {b:.5g}; advantage of the first in [{low:.4g}, {high:.4g}]")
