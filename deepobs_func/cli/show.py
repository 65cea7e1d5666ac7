"""`deepobs list`: what there is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click

from deepobs_func import datasets, optimizers, problems
from deepobs_func.optimizers import OptimizerSpec
from deepobs_func.probes.catalog import PRESETS, QUANTITIES


@click.command("list")
def list_command() -> None:
    """List the test problems, the data sets, the optimizers and the quantities that can be tracked."""
    titles = ("problem", "data set", "measure", "parameters", "epochs", "batch size", "weight decay")
    _print_table(titles, map(_problem, problems.names()), numbers=4)
    click.echo("* chosen here; nothing is published\n")
    _print_table(("data set", "", "training", "test"), map(_dataset, datasets.names()), numbers=2)
    click.echo()
    rows = [(each.name, _hyperparameters(each), each.summary) for each in optimizers.FUNCTIONAL.values()]
    rows.append(("torch.optim.X", "those of the class", "any torch.optim.Optimizer class, by import path"))
    _print_table(("optimizer", "hyperparameters beside --lr", ""), rows)
    click.echo()
    economy = PRESETS["economy"]
    quantities = ((each.name, "yes" if each.name in economy else "", each.summary) for each in QUANTITIES.values())
    _print_table(("quantity", "in preset economy", ""), quantities)


def _problem(name: str) -> tuple[str, ...]:
    spec = problems.spec_of(name)
    chosen = "*" if spec.defaults_chosen_here else ""
    decay = "-" if spec.weight_decay is None else f"{spec.weight_decay:g}"
    defaults = (f"{spec.epochs}{chosen}", f"{spec.batch_size}{chosen}", decay)
    title, measure = datasets.spec(spec.dataset).title, "accuracy" if spec.accuracy else "loss"
    return (name, title, measure, f"{spec.parameters:,}", *defaults)


def _dataset(name: str) -> tuple[str, ...]:
    spec = datasets.spec(name)
    return (name, spec.title, f"{spec.train_size:,}", f"{spec.test_size:,}")


def _hyperparameters(spec: OptimizerSpec) -> str:
    return " ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in spec.defaults.items()
    )


def _print_table(titles: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> None:
    """Columns with two spaces between; the last `numbers` ones are flush right. rich would take 0.1 s to import."""
    lines = [titles, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    first_number = len(titles) - numbers
    for number, line in enumerate(lines):
        aligned = (str.rjust if i >= first_number else str.ljust for i in range(len(titles)))
        text = "  ".join(align(cell, width) for align, cell, width in zip(aligned, line, widths, strict=True))
        click.secho(text.rstrip(), bold=number == 0)
