"""What the commands print: tables in columns, and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")


def print_json(found: Any) -> None:
    """Prints plain data; paths as text, tuples as lists."""
    click.echo(json.dumps(found, indent=2, default=str))


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> None:
    """Prints columns with two spaces between. rich would take 0.1 s to import.

    Args:
        titles: of the columns.
        rows: as many cells each.
        numbers: how many columns, the last ones, are flush right.
    """
    lines = [titles, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    first_number = len(titles) - numbers
    for number, line in enumerate(lines):
        aligned = (str.rjust if i >= first_number else str.ljust for i in range(len(titles)))
        text = "  ".join(align(cell, width) for align, cell, width in zip(aligned, line, widths, strict=True))
        click.secho(text.rstrip(), bold=number == 0)
