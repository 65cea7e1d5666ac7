"""The table of `benchmarks.jax_beside`, without JAX."""

from __future__ import annotations

from benchmarks import tables
from benchmarks.recording import Run
from benchmarks.tables import Target

MOST = 1.0
ROWS = {
    "adam": "a step of Adam",
    "hvp": "Hessian product",
    "ggnvp": "GGN product",
    "norms": "norms of per-example gradients",
    "evaluation": "evaluation",
}


def targets(run: Run) -> list[Target]:
    """At most as long as JAX."""
    return [Target(f"{ROWS[row['by']]}, times JAX's time:", row["ratio"], MOST, least=False) for row in run["rows"]]


def report(run: Run) -> str:
    """Ratios to JAX, and whether the targets are met."""
    header = [tables.heading(run, f"a batch of {run['batch_size']}"), "ours / JAX", "ours, ms", "JAX, ms"]
    lines = [
        [ROWS[row["by"]], tables.ratio(row), f"{row['milliseconds']:.4g}", f"{row['jax_milliseconds']:.4g}"]
        for row in run["rows"]
    ]
    return f"{tables.table(header, lines)}\n{tables.verdicts(targets(run))}\n"


def summary(runs: list[Run]) -> str:
    """All problems in one table: our time in units of JAX's, with quartiles."""
    lines = [[run["problem"], *(tables.ratio(row) for row in run["rows"])] for run in runs]
    return tables.table(["", *ROWS.values()], lines)
