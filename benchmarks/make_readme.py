"""Writes the README's generated tables, between their markers, from the registry and from what was measured.

python -m benchmarks.make_readme
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import probes_report, report
from deepobs_func import datasets, optimizers, problems

PROBES = Path(__file__).parent / "results" / "probes.json"
README = Path(__file__).parents[1] / "README.md"


def problems_table() -> str:
    """One line a problem."""
    lines = [
        "| problem | data set | parameters | epochs | batch size | weight decay | measure |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in problems.names():
        row = problems.spec_of(name)
        chosen = "\\*" if row.defaults_chosen_here else ""
        decay = "-" if row.weight_decay is None else f"{row.weight_decay:g}"
        measure = "accuracy" if row.accuracy else "loss"
        lines.append(
            f"| {name} | {datasets.spec(row.dataset).title} | {row.parameters:,} | {row.epochs}{chosen} "
            f"| {row.batch_size}{chosen} | {decay} | {measure} |"
        )
    return "\n".join(lines)


def optimizers_table() -> str:
    """One line a functional optimizer."""
    lines = ["| optimizer | | hyperparameters beside `lr` |", "|---|---|---|"]
    for row in optimizers.FUNCTIONAL.values():
        values = (f"{v:g}" if isinstance(v, float) else str(v) for v in row.defaults.values())
        shown = ", ".join(f"`{name}={value}`" for name, value in zip(row.defaults, values, strict=True))
        lines.append(f"| {row.name} | {row.summary} | {shown} |")
    return "\n".join(lines)


def deviations_table() -> str:
    """One line a quirk of the reference, with the problems that it concerns."""
    found: dict[problems.Deviation, list[str]] = {}
    for name in problems.names():
        for deviation in problems.spec_of(name).deviations:
            found.setdefault(deviation, []).append(name)
    lines = ["| quirk of 1.1.2 | default | deepobs-1.1.2 | problems |", "|---|---|---|---|"]
    for deviation, names in found.items():
        concerned = "all" if len(names) == len(problems.names()) else ", ".join(names)
        lines.append(f"| {deviation.quirk} | {deviation.default} | {deviation.deepobs} | {concerned} |")
    return "\n".join(lines)


def probes_table() -> str:
    """One line a probe."""
    return probes_report.summary(json.loads(PROBES.read_text(encoding="utf-8"))) if PROBES.exists() else ""


def fill(text: str, marker: str, table: str) -> str:
    """The text with the table between the markers."""
    begin, end = f"<!-- {marker}: begin -->", f"<!-- {marker}: end -->"
    head, rest = text.split(begin)
    return f"{head}{begin}\n{table}\n{end}{rest.split(end)[1]}"


def readme(text: str) -> str:
    """The README with its generated tables."""
    tables = {
        "problems": problems_table(),
        "optimizers": optimizers_table(),
        "deviations": deviations_table(),
        "probes": probes_table(),
    } | {name: report.summary(name) for name in report.SUMMARIES}
    for marker, table in tables.items():
        text = fill(text, marker, table)
    return text


if __name__ == "__main__":
    README.write_text(readme(README.read_text(encoding="utf-8")), encoding="utf-8")
