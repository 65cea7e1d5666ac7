"""Writes the generated tables of README and docs/, between their markers, from the registries and from measurements.

python -m benchmarks.make_readme
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from benchmarks import (
    coverage,
    coverage_report,
    gpu_report,
    jax_report,
    population_report,
    probes_report,
    ranks,
    recording,
    report,
)
from deepobs_func import datasets, files, optimizers, problems
from deepobs_func.probes.catalog import PRESETS, QUANTITIES

PROBES = Path(__file__).parent / "results" / "probes.json"
ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "howto").glob("*.md")))


def problems_table(names: Iterable[str] = problems.SETS["deepobs"]) -> str:
    """One line a problem; by default of DeepOBS's."""
    lines = [
        "| problem | data set | parameters | epochs | batch size | weight decay | judged by |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        spec = problems.spec_of(name)
        chosen = "\\*" if spec.defaults_chosen_here else ""
        decay = "-" if spec.weight_decay is None else f"{spec.weight_decay:g}"
        judged = "accuracy" if spec.accuracy else "loss"
        lines.append(
            f"| {name} | {datasets.spec(spec.dataset).title} | {spec.parameters:,} | {spec.epochs}{chosen} "
            f"| {spec.batch_size}{chosen} | {decay} | {judged} |"
        )
    return "\n".join(lines)


def recipes_table() -> str:
    """One line a problem of our own, with settings to train it with."""
    lines = ["| problem | `deepobs run NAME` | source |", "|---|---|---|"]
    for name in problems.SETS["modern"]:
        recipe = problems.spec_of(name).recipe
        if recipe is not None:
            lines.append(f"| {name} | `{recipe.options}` | {recipe.source} |")
    return "\n".join(lines)


def optimizers_table() -> str:
    """One line a functional optimizer."""
    lines = ["| optimizer | | hyperparameters beside `lr` |", "|---|---|---|"]
    for spec in optimizers.FUNCTIONAL.values():
        values = (f"{v:g}" if isinstance(v, float) else str(v) for v in spec.defaults.values())
        shown = ", ".join(f"`{name}={value}`" for name, value in zip(spec.defaults, values, strict=True))
        lines.append(f"| {spec.name} | {spec.summary} | {shown} |")
    return "\n".join(lines)


def quantities_table() -> str:
    """One line a quantity that a run can track."""
    lines = ["| quantity | formula | in the preset `economy` |", "|---|---|---|"]
    for name, quantity in QUANTITIES.items():
        summary = quantity.summary.replace("|", "\\|")
        lines.append(f"| {name} | {summary} | {'yes' if name in PRESETS['economy'] else ''} |")
    return "\n".join(lines)


def deviations_table() -> str:
    """One line a quirk of the reference, with the problems that it concerns."""
    found: dict[problems.Deviation, list[str]] = {}
    for name in problems.SETS["deepobs"]:
        for deviation in problems.spec_of(name).deviations:
            found.setdefault(deviation, []).append(name)
    lines = ["| quirk of 1.1.2 | default | deepobs-1.1.2 | problems |", "|---|---|---|---|"]
    for deviation, names in found.items():
        concerned = "all" if len(names) == len(problems.SETS["deepobs"]) else ", ".join(names)
        lines.append(f"| {deviation.quirk} | {deviation.default} | {deviation.deepobs} | {concerned} |")
    return "\n".join(lines)


def probes_table() -> str:
    """One line a probe."""
    return probes_report.summary(json.loads(PROBES.read_text(encoding="utf-8"))) if PROBES.exists() else ""


def modern_costs() -> str:
    """One line a net of the modern set that is measured."""
    runs, steps = (recording.read(recording.RESULTS / f"{name}.json") for name in ("probes", "steps"))
    return probes_report.modern(runs, steps)


def population_table() -> str:
    """Populations beside sequences of runs, and beside JAX."""
    read = [recording.read(recording.RESULTS / f"{name}.json") for name in ("population", "population_jax")]
    return population_report.summary(*read)


def tables() -> dict[str, str]:
    """Every generated table by its marker."""
    covered = json.loads(coverage.RESULT.read_text(encoding="utf-8"))
    return {
        "problems": problems_table(),
        "modern": problems_table(problems.SETS["modern"]),
        "recipes": recipes_table(),
        "optimizers": optimizers_table(),
        "deviations": deviations_table(),
        "population": population_table(),
        "quantities": quantities_table(),
        "probes": probes_table(),
        "modern_costs": modern_costs(),
        "coverage": coverage_report.intervals(covered),
        "duels": coverage_report.duels(covered),
        "gpu": gpu_report.summary(),
        "ranks": ranks.summary(recording.read(recording.RESULTS / "ranks.json")),
        "jax": jax_report.summary(recording.read(recording.RESULTS / "jax.json")),
    } | {name: report.summary(name) for name in report.SUMMARIES}


def marks(marker: str) -> tuple[str, str]:
    """What stands before and after a generated table."""
    return f"<!-- {marker}: begin -->", f"<!-- {marker}: end -->"


def filled(text: str) -> str:
    """A page with the tables that it has a place for."""
    for marker, table in tables().items():
        begin, end = marks(marker)
        if begin in text:
            head, rest = text.split(begin)
            text = f"{head}{begin}\n{table}\n{end}{rest.split(end)[1]}"
    return text


if __name__ == "__main__":
    for page in PAGES:
        files.replace(page, filled(page.read_text(encoding="utf-8")).encode())
