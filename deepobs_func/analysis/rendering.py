"""Tables as text, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deepobs_func.analysis.extras import need
from deepobs_func.errors import ConfigError, option, unknown

Rows = Sequence[Sequence[str]]


def render(titles: Sequence[str], rows: Rows, format: str = "text") -> str:
    r"""A table of texts.

    Args:
        titles: of the columns.
        rows: as many cells each.
        format: one of `FORMATS`.

    Returns:
        Its lines, without a newline at the end.

    Raises:
        ConfigError: there is no such format.

    >>> print(render(("problem", "speed"), [("mnist_vae", "1"), ("a|b", "51.1")], "md"))
    | problem | speed |
    |---|---|
    | mnist_vae | 1 |
    | a\|b | 51.1 |
    """
    if format not in FORMATS:
        raise ConfigError(f"{option('format')}: {unknown('format', format, FORMATS)}")
    return FORMATS[format](titles, rows).rstrip("\n")


def _text(titles: Sequence[str], rows: Rows) -> str:
    """Columns with two spaces between, by the width of letters on a terminal; columns of numbers are flush right."""
    from rich.cells import cell_len

    lines = [titles, *rows]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    right = [bool(rows) and all(_is_number(row[index]) for row in rows) for index in range(len(titles))]

    def padded(cell: str, index: int) -> str:
        space = " " * (widths[index] - cell_len(cell))
        return space + cell if right[index] else cell + space

    return "\n".join("  ".join(padded(cell, index) for index, cell in enumerate(line)).rstrip() for line in lines)


def _is_number(cell: str) -> bool:
    try:
        return float(cell.split(" ")[0]) is not None
    except ValueError:
        return cell in ("", "-")


def _markdown(titles: Sequence[str], rows: Rows) -> str:
    def line(cells: Sequence[str]) -> str:
        escaped = (cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") for cell in cells)
        return f"| {' | '.join(escaped)} |"

    return "\n".join([line(titles), f"|{'---|' * len(titles)}", *map(line, rows)])


def _csv(titles: Sequence[str], rows: Rows) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([titles, *rows])
    return file.getvalue()


def _latex(titles: Sequence[str], rows: Rows) -> str:
    """By pandas, with booktabs. `±` is kept out of the way of its escaping."""
    frame = need("pandas", "LaTeX").DataFrame(list(rows), columns=list(titles))
    return str(frame.to_latex(index=False, escape=True)).replace("±", r"$\pm$")


FORMATS: Mapping[str, Callable[[Sequence[str], Rows], str]] = {
    "text": _text,
    "md": _markdown,
    "csv": _csv,
    "latex": _latex,
}
"""By name."""


def shown(value: Any, digits: int = 4) -> str:
    """A value in a cell: numbers with so many digits, what is not there as `-`.

    >>> shown(0.613), shown(float("nan")), shown(12.46, 2), shown(None)
    ('0.6130', '-', '12', '-')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:#.{digits}g}".rstrip(".") if isinstance(value, float) else str(value)


def shown_metric(value: float, metric: str) -> str:
    """A loss with six digits, an accuracy with four, as the published table has them.

    >>> shown_metric(0.613, "test_accuracy"), shown_metric(87.045, "test_loss")
    ('0.6130', '87.0450')
    """
    return shown(value, 4 if metric.endswith("accuracy") else 6)


def shown_sd(value: float, metric: str) -> str:
    """A standard deviation: of an accuracy with as many decimals as the accuracy, of a loss with three digits.

    >>> shown_sd(0.00181, "test_accuracy"), shown_sd(12.46, "test_loss"), shown_sd(0.169, "test_loss")
    ('0.0018', '12.5', '0.169')
    """
    if metric.endswith("accuracy") and not math.isnan(value):
        return f"{value:.4f}"
    return shown(value, 3)


def described(lr: float, hyperparams: Mapping[str, Any], schedule: str = "") -> str:
    """A setting in words.

    Args:
        lr: the learning rate.
        hyperparams: the others.
        schedule: its name.

    Returns:
        The learning rate as DeepOBS prints it, then the others.

    >>> described(0.01584893, {"momentum": 0.99})
    'lr 1.58e-02, momentum 0.99'
    """
    words = [] if math.isnan(lr) else [f"lr {lr:0.2e}"]
    words += [
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in hyperparams.items()
    ]
    return ", ".join([*words, *([f"schedule {schedule}"] if schedule else [])])
