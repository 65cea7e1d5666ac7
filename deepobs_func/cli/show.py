"""`deepobs list`: what there is."""

from __future__ import annotations

import sys

import click

from deepobs_func import datasets, optimizers, problems
from deepobs_func.probes.catalog import PRESETS, QUANTITIES


@click.command("list")
def list_command() -> None:
    """List the test problems, the optimizers and the quantities that can be tracked."""
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True) if sys.stdout.isatty() else Console(width=110)
    table = Table("problem", "data set", "measure", box=None)
    for title in ("parameters", "epochs", "batch size", "weight decay"):
        table.add_column(title, justify="right")
    for name in problems.names():
        row = problems.spec_of(name)
        decay = "-" if row.weight_decay is None else f"{row.weight_decay:g}"
        measure = "accuracy" if row.accuracy else "loss"
        title = datasets.spec(row.dataset).title
        chosen = "*" if row.defaults_chosen_here else ""
        numbers = (f"{row.parameters:,}", f"{row.epochs}{chosen}", f"{row.batch_size}{chosen}", decay)
        table.add_row(name, title, measure, *numbers)
    console.print(table)
    console.print("* chosen here; nothing is published\n")
    table = Table("optimizer", "hyperparameters beside --lr", "", box=None)
    for functional in optimizers.FUNCTIONAL.values():
        defaults = " ".join(f"{name}={_shown(value)}" for name, value in functional.defaults.items())
        table.add_row(functional.name, defaults, functional.summary)
    table.add_row("torch.optim.X", "those of the class", "any torch.optim.Optimizer class, by import path")
    console.print(table)
    console.print()
    table = Table("quantity", "in preset economy", "", box=None)
    for quantity in QUANTITIES.values():
        table.add_row(quantity.name, "yes" if quantity.name in PRESETS["economy"] else "", quantity.summary)
    console.print(table)


def _shown(value: float | str | None) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
