"""The tables of docs/statistics.md, of what `benchmarks.coverage` measured."""

from __future__ import annotations

from typing import Any

from benchmarks.coverage import FIXED, SHAPES, SIZES, STATISTICS
from benchmarks.tables import table

Result = dict[str, Any]
TESTS = {"t": "t, means", "sign": "sign, medians"}


def intervals(result: Result) -> str:
    """One line an interval and a distribution: how often it covered. What is not offered stands in brackets."""
    lines = []
    for row in result["intervals"]:
        statistic = STATISTICS[row["statistic"]]
        is_offered = row["shape"] in statistic.offered
        cells = [row["coverage"][str(size)] for size in SIZES]
        shown = ["-" if cell is None else f"{100 * cell:.1f}" for cell in cells]
        title = SHAPES[row["shape"]].title
        lines.append((statistic.title, title, *(cell if is_offered else f"({cell})" for cell in shown)))
    return table(("interval", "values", *(f"{size} seeds" for size in SIZES)), lines)


def duels(result: Result) -> str:
    """One line a simulated match: how the duel and a fixed number of seeds answer."""
    lines = []
    for each in result["duels"]:
        seeds = each["median_seeds"]
        delta = "none" if each["delta"] is None else f"{each['delta']:g}"
        told = [_answers(each[which], result["benchmarks"]) for which in ("answers", "fixed")]
        median = f"over {result['budget']}" if seeds is None else f"{seeds:g}"
        title = SHAPES[each["shape"]].title.split(" (")[0]
        lines.append((f"{each['difference']:g}", delta, title, TESTS[each["test"]], median, *told))
    header = ("difference, sd", "delta, sd", "values", "test", "median seeds", "the duel: A, B, tie, open")
    return table((*header, f"fixed {FIXED}: A, B, tie, open"), lines)


def _answers(counts: dict[str, int], of: int) -> str:
    """In percent."""
    return ", ".join(f"{100 * counts[name] / of:.1f}" for name in ("A", "B", "tie", "undecided"))
