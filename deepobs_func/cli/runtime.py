"""`deepobs estimate-runtime`: what an optimizer costs beside SGD."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import click

from deepobs_func import optimizers, problems
from deepobs_func.cli.duel import settings_of
from deepobs_func.cli.options import shared
from deepobs_func.cli.printing import print_table
from deepobs_func.cli.types import complete, folders
from deepobs_func.runner import signals
from deepobs_func.runner.config import COMPILE

if TYPE_CHECKING:
    from deepobs_func.runner.runtime import Cost, Runtimes


@click.command("estimate-runtime")
@click.argument("optimizer", nargs=-1, required=True, shell_complete=complete(optimizers.FUNCTIONAL))
@click.option(
    "--problem", "-p", default="mnist_mlp", show_default=True, metavar="P", shell_complete=complete(problems.REGISTRY)
)
@click.option("--baseline", default="sgd", show_default=True, metavar="NAME", help="What it is relative to.")
@click.option("--rounds", type=int, default=15, show_default=True, help="In which they take turns.")
@click.option("--threads", type=int, help="Of torch, on a CPU. Default: those that a run would take.")
@shared("batch_size")
@click.option("--epochs", "-N", type=int, help="Of the whole run. Default: the problem's published value.")
@click.option(
    "--data",
    default="synthetic",
    show_default=True,
    metavar="DIR|synthetic",
    help="Times do not mind.",
    shell_complete=folders("synthetic"),
)
@shared("device")
@click.option(
    "--compile", default="off", show_default=True, help=f"{', '.join(COMPILE)}.", shell_complete=complete(COMPILE)
)
@shared("precision")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def runtime_command(optimizer: tuple[str, ...], problem: str, baseline: str, as_json: bool, **options: Any) -> None:
    """Estimate what optimizers cost relative to SGD: time, calls of the oracle, memory and allocations of a step.

    Calls are gradients (g), products (p) and evaluations (e), on average; "gradients" is their sum in gradient
    equivalents: g + 2 p + e / 3.

    OPTIMIZER is a name, or the import path of a class or a factory, with settings after it: adam,beta1=0.95. They take
    turns, so that whatever else the machine does slows all of them alike.
    """
    with signals.caught():
        from deepobs_func.runner.runtime import Entrant, estimate_runtime

        first, *others = (Entrant(*settings_of(text), text) for text in (baseline, *optimizer))
        found = estimate_runtime(others, problem, baseline=first, **options)
    if as_json:
        from deepobs_func.analysis.plain import as_json as to_json

        click.echo(to_json(dataclasses.asdict(found)))
        return
    _show(found)


def _show(found: Runtimes) -> None:
    """A table, and what it was measured on."""
    threads = "" if found.device.startswith("NVIDIA") else f", {found.threads} thread(s)"
    click.echo(f"{found.problem}, batch size {found.batch_size}, {found.device}{threads}, {found.rounds} rounds")
    titles = ("optimizer", f"times {found.costs[0].name}", "quartiles", "ms a step", "whole run", "calls a step")
    more = ("gradients", "peak MB", "times", "allocations", "state MB")
    print_table((*titles, *more), map(_row, found.costs), numbers=10)


def _calls(cost: Cost) -> str:
    """As `1g 10p 1e`: gradients, products and evaluations."""
    return " ".join(f"{number:.3g}{kind[0]}" for kind, number in cost.calls.items() if number) or "?"


def _row(cost: Cost) -> tuple[str, ...]:
    minutes = cost.run_seconds / 60
    whole = f"{minutes / 60:.1f} h" if minutes >= 90 else f"{minutes:.1f} min"
    return (
        f"{cost.name}{' (compiled)' if cost.compiled else ''}",
        f"{cost.ratio:.2f}",
        f"{cost.low:.2f}-{cost.high:.2f}",
        f"{1e3 * cost.seconds:.3g}",
        whole,
        _calls(cost),
        "" if math.isnan(cost.equivalents) else f"{cost.equivalents:.3g}",
        f"{cost.peak_bytes / 1e6:.3g}",
        f"{cost.peak_ratio:.2f}",
        str(cost.allocated),
        f"{cost.state_bytes / 1e6:.3g}",
    )
