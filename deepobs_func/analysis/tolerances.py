"""Runs beside the published ones of the same method: final loss within 1 %, accuracy within .5 %."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from deepobs_func.analysis import published
from deepobs_func.analysis.choosing import choose, is_accuracy, settings_of
from deepobs_func.analysis.extras import need
from deepobs_func.analysis.rendering import render, shown_metric

if TYPE_CHECKING:
    import pandas as pd

    from deepobs_func.analysis.results import Results

LOSS, ACCURACY = 0.01, 0.005
"""A port's usual tolerances: a loss relative to the published one, an accuracy in itself (half a percentage point)."""
_COLUMNS = (
    "problem",
    "optimizer",
    "published",
    "quantity",
    "ours",
    "theirs",
    "difference",
    "tolerance",
    "within",
    "note",
)
_QUANTITIES = {"test_losses": "test_loss", "test_accuracies": "test_accuracy"}


def against_published(results: Results, mode: str = "most") -> pd.DataFrame:
    """The final test loss and accuracy of each optimizer that is among the published ones, beside theirs.

    Args:
        results: what was read.
        mode: which setting stands for an optimizer, as in `Results.best`.

    Returns:
        A row for each problem, optimizer and quantity: `problem, optimizer, published, quantity, ours, theirs,
        difference, tolerance, within, note`: means over the seeds after the last epoch. The difference of losses is
        relative, that of accuracies is not. `note` says what makes the two differ: settings, protocol, epochs.

    >>> from deepobs_func import analysis
    >>> against_published(analysis.load("published")).empty
    True
    """
    rows = []
    for problem in results.problems:
        baselines = {each.optimizer: each for each in published.baselines(problem)}
        for optimizer in results.optimizers_on(problem):
            settings = settings_of(results, problem, optimizer) if baselines else []
            if not settings:
                continue
            chosen = choose(settings, mode, is_accuracy(results.metric(problem)))
            first = results.row(chosen.runs[0])
            baseline = baselines.get(published.counterpart(first["name"]) or "")
            if baseline is None or first["source"] == published.SOURCE:
                continue
            for key, curves in baseline.curves.items():
                if key in _QUANTITIES:
                    ours = fmean(float(results.values(run, _QUANTITIES[key])[-1]) for run in chosen.runs)
                    theirs = fmean(curve[-1] for curve in curves)
                    about = {"problem": problem, "optimizer": optimizer, "published": baseline.optimizer}
                    rows.append(about | _beside(_QUANTITIES[key], ours, theirs) | {"note": _note(first, baseline)})
    return need("pandas", "A table").DataFrame(rows, columns=list(_COLUMNS))


def _beside(quantity: str, ours: float, theirs: float) -> dict[str, Any]:
    relative, tolerance = (1.0, ACCURACY) if is_accuracy(quantity) else (abs(theirs), LOSS)
    difference = (ours - theirs) / relative
    within = math.isfinite(difference) and abs(difference) <= tolerance
    found = {"quantity": quantity, "ours": ours, "theirs": theirs}
    return found | {"difference": difference, "tolerance": tolerance, "within": within}


def _note(row: Mapping[str, Any], baseline: published.Baseline) -> str:
    """In what a run differs from the published ones."""
    about = published.facts(baseline.problem)
    assert about is not None
    facts = {"epochs": about.epochs, "batch_size": about.batch_size, "protocol": "deepobs-1.1.2", "schedule": ""}
    notes = [
        f"{name} {row[name] or 'none'}, theirs {value or 'none'}" for name, value in facts.items() if row[name] != value
    ]
    if not math.isclose(row["lr"], baseline.lr, rel_tol=1e-6):
        notes.insert(0, f"lr {row['lr']:.3g}, theirs {baseline.lr:.3g}")
    hyperparams = row["hyperparams"]
    notes += [
        f"{name} {hyperparams[name]}, theirs {value}"
        for name, value in baseline.hyperparams.items()
        if name in hyperparams and hyperparams[name] != value
    ]
    return "; ".join(notes + (["stand-in data"] if row["data"] == "synthetic" else []))


def tolerances_text(table: pd.DataFrame, format: str = "text") -> str:
    """The table of `against_published` to read.

    Args:
        table: as `against_published` makes it.
        format: as in `rendering.render`.

    Returns:
        Its lines, or a sentence where nothing is published of the runs.

    Raises:
        ConfigError: there is no such format.
    """
    rows: Sequence[Mapping[str, Any]] = table.to_dict("records")
    if not rows:
        return "Nothing is published of these optimizers on these problems."
    titles = ("problem", "optimizer", "quantity", "ours", "published", "difference", "allowed", "within", "differs in")
    cells = [
        (
            *(row["problem"], row["optimizer"], row["quantity"].replace("_", " ")),
            *(shown_metric(row[name], row["quantity"]) for name in ("ours", "theirs")),
            *(f"{100 * row['difference']:+.2f} %", f"{100 * row['tolerance']:g} %"),
            *("yes" if row["within"] else "no", row["note"]),
        )
        for row in rows
    ]
    return render(titles, cells, format)
