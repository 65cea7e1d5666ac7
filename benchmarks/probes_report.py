"""Tables of what `benchmarks/probes.py` measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks import tables
from benchmarks.shares import MODERN

Run = dict[str, Any]
Row = dict[str, Any]

TITLES = {
    "sq_norms": "squared norms",
    "sum_of_squares": "sum of squares",
    "variance": "variance",
    "gram": "Gram matrix",
    "dots": "dot products",
    "hvp": "Hessian product",
    "ggnvp": "GGN product",
}
BOUNDS = {"sq_norms": 1.5, "sum_of_squares": 2.0, "variance": 2.0, "gram": 2.5, "hvp": 2.8, "ggnvp": 2.8}
"""Of the time, in plain gradients, in the better of eager and compiled; there is none on dot products."""

WIDER = {("mnist_2c2d", "sq_norms"): 2.0}
OF_MODERN = {"sq_norms": 2.0, "hvp": 3.0}
"""Of the modern set, whose probes are measured in eager code alone."""

MEMORY_BOUND = 2.0  # of the peak memory, for the quantities of per-example gradients
OF_EXAMPLES = ("sq_norms", "sum_of_squares", "variance", "gram")
OTHERS = ("BackPACK", "Opacus", "Opacus ghost", "vmap(grad)", "curvlinops")


def bound(problem: str, quantity: str) -> float | None:
    """What the time should be at most, in plain gradients."""
    return OF_MODERN.get(quantity) if problem in MODERN else WIDER.get((problem, quantity), BOUNDS.get(quantity))


def rows_of(run: Run, quantity: str, by: str) -> list[Row]:
    """Eager first, then compiled where there is such."""
    return [row for row in run["rows"] if row["quantity"] == quantity and row["by"] == by]


def best(rows: Iterable[Row], what: str) -> float:
    """The smallest number of a kind."""
    return min(row[what] for row in rows)


def missed(run: Run) -> list[str]:
    """What does not keep its bound, in words."""
    found = []
    for quantity, title in TITLES.items():
        rows, limit = rows_of(run, quantity, "ours"), bound(run["problem"], quantity)
        if not rows:
            continue
        if limit is not None and best(rows, "ratio") > limit:
            found.append(f"{title}: {best(rows, 'ratio'):.2f} gradients, should be {limit} at most")
        if quantity in OF_EXAMPLES and best(rows, "memory_ratio") > MEMORY_BOUND:
            found.append(f"{title}: {best(rows, 'memory_ratio'):.2f} times the memory, should be {MEMORY_BOUND}")
        for by in OTHERS:
            theirs = rows_of(run, quantity, by)
            if theirs and best(theirs, "milliseconds") < best(rows, "milliseconds"):
                times = best(rows, "milliseconds") / best(theirs, "milliseconds")
                found.append(f"{title}: {by} takes less time, by a factor of {times:.2f}")
    return found


def report(run: Run) -> str:
    """One problem: ratios to the plain gradient, those of others beside, and what is missed."""
    header = ["", "eager", "compiled", "bound", "memory", "bound", *OTHERS]
    lines = [[f"**{run['problem']}**, {run['threads']} thread(s)", *header[1:]], ["---"] * len(header)]
    for quantity, title in TITLES.items():
        rows, limit = rows_of(run, quantity, "ours"), bound(run["problem"], quantity)
        if not rows:
            continue
        memory = " / ".join(f"{row['memory_ratio']:.2f}" for row in rows)
        memory_bound = f"{MEMORY_BOUND:g}" if quantity in OF_EXAMPLES else ""
        cells = [title, *map(_timed, rows), f"{limit or ''}", memory, memory_bound]
        lines.append(cells + [" / ".join(map(_timed, rows_of(run, quantity, by))) for by in OTHERS])
    plain = ", ".join(
        f"{row['mode']} {row['milliseconds']:.3g} ms and {row['peak_mebibytes']:.3g} MiB"
        for row in rows_of(run, "grad", "ours")
    )
    verdict = [f"MISSED {each}" for each in missed(run)] or ["every bound is kept"]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([table, f"one plain gradient: {plain}; a batch of {run['batch_size']}", *verdict, ""])


def summary(runs: Iterable[Run]) -> str:
    """All problems in one table: ours in plain gradients, in the better mode, and the next best beside it."""
    runs = [run for run in runs if run["threads"] == 1 and run["problem"] not in MODERN]
    lines = [["", "bound", *(run["problem"] for run in runs)], ["---"] * (len(runs) + 2)]
    for quantity, title in TITLES.items():
        limit = BOUNDS.get(quantity)
        lines.append([title, f"{limit or '-'}", *(_beside_the_next(run, quantity) for run in runs)])
    peaks = [max(best(rows_of(run, each, "ours"), "memory_ratio") for each in OF_EXAMPLES) for run in runs]
    lines.append(["peak memory of the first four", f"{MEMORY_BOUND}", *(f"{peak:.1f}" for peak in peaks)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def modern(runs: Iterable[Run], steps: Iterable[Run]) -> str:
    """The modern set: the step beside the compiled module's, probes in plain gradients."""
    of_steps = {run["problem"]: run for run in steps if run["threads"] == 1}
    lines = []
    for run in runs:
        if run["problem"] not in MODERN or run["threads"] != 1:
            continue
        name, step = run["problem"], of_steps.get(run["problem"])
        shown = [_ratios(run, *key) for key in (("sq_norms", "ours"), ("sq_norms", "vmap(grad)"))]
        shown += [_ratios(run, *key) for key in (("sq_norms", "Opacus"), ("hvp", "ours"), ("ggnvp", "ours"))]
        beside = "-" if step is None else tables.ratio(next(row for row in step["rows"] if row["by"] == OUR_STEP))
        gradient = " / ".join(f"{row['milliseconds']:.0f} ms" for row in rows_of(run, "grad", "ours"))
        lines.append([f"{name} (stand-in batch)", gradient, beside, *shown, "; ".join(_out_of_bounds(run)) or "met"])
    header = ["", "a gradient", "step / compiled module", "squared norms", "by vmap(grad)", "by Opacus"]
    return tables.table([*header, "Hessian product", "GGN product", "targets of the probes"], lines)


OUR_STEP = "ours, compiled"


def _out_of_bounds(run: Run) -> list[str]:
    """The quantities that take longer than they should."""
    return [each for each in missed(run) if "should be" in each and "gradients" in each]


def _ratios(run: Run, quantity: str, by: str) -> str:
    """To the plain gradient."""
    return " / ".join(f"{row['ratio']:.2f}" for row in rows_of(run, quantity, by)) or "-"


def _beside_the_next(run: Run, quantity: str) -> str:
    """Our ratio, and how many times as long the best of the others takes."""
    rows = rows_of(run, quantity, "ours")
    theirs = {by: best(found, "milliseconds") for by in OTHERS if (found := rows_of(run, quantity, by))}
    ratio = f"{best(rows, 'ratio'):.2f}"
    if not theirs:
        return ratio
    by = min(theirs, key=lambda each: theirs[each])
    return f"{ratio} ({by} {theirs[by] / best(rows, 'milliseconds'):.1f}x)"


def _timed(row: Row) -> str:
    low, high = row["quartiles"]
    return f"{row['ratio']:.2f} ({low:.2f}-{high:.2f})"
