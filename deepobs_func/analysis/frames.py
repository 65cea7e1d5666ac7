"""From runs that were read to tidy pandas frames."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepobs_func.analysis import published
from deepobs_func.analysis.extras import need
from deepobs_func.analysis.naming import name_runs
from deepobs_func.analysis.parsing import CALLS, QUANTITIES, Column, Parsed

if TYPE_CHECKING:
    import pandas as pd

RUN_COLUMNS = (
    *("path", "problem", "optimizer", "setting", "seed", "status", "lr", "hyperparams", "schedule", "epochs"),
    *("batch_size", "weight_decay", "protocol", "data", "precision", "version", "machine", "metric"),
    *("higher_is_better", "target", "source", "study", "reported", "reason", "run_id", "execution_id"),
    *("steps_per_epoch", "waiting", "label", "name"),
)
"""Of `Results.runs`, in this order."""
EPOCH_COLUMNS = ("run", "epoch", "step", *QUANTITIES, "seconds", *CALLS, "cost")
STEP_COLUMNS = ("run", "step", "loss")
TRACKED_COLUMNS = ("run", "step", "quantity", "value")
ACCURACY, LOSS = "test_accuracy", "test_loss"


def make_frames(runs: Sequence[Parsed]) -> dict[str, pd.DataFrame]:
    """The frames of `Results`, by name.

    Args:
        runs: in the order of their index.
    """
    rows = [dict(run.facts) for run in runs]
    for row, run in zip(rows, runs, strict=True):
        row["steps_per_epoch"] = _steps_per_epoch(row, len(run.losses))
    _judge(rows)
    name_runs(rows)
    return {
        "runs": _runs(rows),
        "epochs": _epochs(runs, rows),
        "steps": _steps(runs, rows),
        "tracked": _tracked(runs),
    }


def _judge(rows: Sequence[dict[str, Any]]) -> None:
    """By what each problem is judged: as published, else by the accuracy where it has one."""
    with_accuracy = {row["problem"] for row in rows if row["has_accuracy"]}
    for row in rows:
        known = published.facts(row["problem"])
        default = ACCURACY if row["problem"] in with_accuracy else LOSS
        as_published = known is not None and known.quantity in (LOSS, default)
        row["metric"] = known.quantity if known is not None and as_published else default
        row["higher_is_better"] = row["metric"] == ACCURACY
        row["target"] = known.convergence_performance if known is not None and as_published else math.nan


def _steps_per_epoch(row: Mapping[str, Any], logged: int) -> float:
    """As recorded, else as published, else what the mini-batch losses tell; NaN where nothing does."""
    known = published.facts(row["problem"])
    if not math.isnan(row["steps_per_epoch"]):
        return float(row["steps_per_epoch"])
    if known is not None and known.batch_size == row["batch_size"]:
        return float(known.steps_per_epoch)
    # Every interval-th step of an epoch is logged, the first one too: this is the most that there can be.
    return float(math.ceil(logged / row["epochs"]) * row["log_interval"]) if logged and row["epochs"] else math.nan


def _runs(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    pandas = need("pandas", "Reading results")
    frame = pandas.DataFrame({name: [row[name] for row in rows] for name in RUN_COLUMNS})
    frame.index.name = "run"
    return frame


def _epochs(runs: Sequence[Parsed], rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    pandas = need("pandas", "Reading results")
    lengths = [len(run.curves[LOSS]) for run in runs]
    epoch = _joined([np.arange(length, dtype=np.int64) for length in lengths], np.int64)
    columns = {"run": np.repeat(np.arange(len(runs)), lengths), "epoch": epoch}
    columns["step"] = epoch * np.repeat(np.array([row["steps_per_epoch"] for row in rows], dtype=np.float64), lengths)
    columns |= {name: _joined([run.curves[name] for run in runs]) for name in EPOCH_COLUMNS[3:]}
    return pandas.DataFrame(columns)


def _steps(runs: Sequence[Parsed], rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    pandas = need("pandas", "Reading results")
    lengths = [len(run.losses) for run in runs]
    steps = [_logged_steps(row, length) for row, length in zip(rows, lengths, strict=True)]
    columns = {"run": np.repeat(np.arange(len(runs)), lengths), "step": _joined(steps)}
    return pandas.DataFrame(columns | {"loss": _joined([run.losses for run in runs])})


def _logged_steps(row: Mapping[str, Any], count: int) -> Column:
    """The steps of mini-batch losses: every `log_interval`-th of each epoch, from its first."""
    whole, interval = row["steps_per_epoch"], row["log_interval"]
    if not count or math.isnan(whole):
        return np.full(count, np.nan)
    each = max(1, math.ceil(whole / interval))
    index = np.arange(count)
    return index // each * whole + index % each * float(interval)


def _tracked(runs: Sequence[Parsed]) -> pd.DataFrame:
    pandas = need("pandas", "Reading results")
    found = [(number, name, *pair) for number, run in enumerate(runs) for name, pair in run.tracked.items()]
    lengths = [len(values) for *_, values in found]
    names = list(dict.fromkeys(name for _, name, *_ in found))
    codes = np.array([names.index(name) for _, name, *_ in found], dtype=np.int64)
    return pandas.DataFrame(
        {
            "run": np.repeat(np.array([number for number, *_ in found], dtype=np.int64), lengths),
            "step": _joined([steps for *_, steps, _ in found]),
            "quantity": pandas.Categorical.from_codes(np.repeat(codes, lengths), names),
            "value": _joined([values for *_, values in found]),
        }
    )


def _joined(parts: Sequence[Any], dtype: Any = np.float64) -> Any:
    return np.concatenate([np.empty(0, dtype), *parts]) if parts else np.empty(0, dtype)
