"""What a report holds, as JSON and one array of numbers: exact, NaN and infinity too, and small."""

from __future__ import annotations

import base64
import gzip
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from deepobs_func.analysis.choosing import is_accuracy
from deepobs_func.analysis.figures.style import styles
from deepobs_func.analysis.intervals import median_rank
from deepobs_func.analysis.plain import as_plain
from deepobs_func.analysis.rate_sensitivity import rate_sensitivity
from deepobs_func.analysis.reports.collecting import ProblemData, Shown, Stopped
from deepobs_func.analysis.reports.ranking import sample_intervals
from deepobs_func.analysis.reports.scoring import TIGHTNESS
from deepobs_func.analysis.samples import LEVEL
from deepobs_func.analysis.showing import rerun_command
from deepobs_func.analysis.tolerances import ACCURACY, LOSS
from deepobs_func.analysis.tuning_curves import margin
from deepobs_func.errors import DataError
from deepobs_func.records import read

if TYPE_CHECKING:
    from deepobs_func.analysis.results import Results

_LISTED = 200  # links of a setting, and files that were not read
_ENVIRONMENT = ("deepobs_func", "torch", "python", "platform", "device", "threads")


def compressed(content: bytes) -> str:
    """Bytes as text for the page: gzip, the same for the same bytes, in base64."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode("ascii")


def pack(results: Results, problems: Sequence[ProblemData]) -> tuple[dict[str, Any], str]:
    """What the page needs.

    Args:
        results: what was read.
        problems: what is shown.

    Returns:
        Plain data, and the numbers to which its `[offset, rows, columns]` point: float64, little-endian, compressed.
    """
    parts: list[Any] = []
    offsets = {"next": 0}

    def put(array: Any) -> list[int]:
        table = np.ascontiguousarray(array, dtype="<f8")
        start = offsets["next"]
        parts.append(table.tobytes())
        offsets["next"] += table.size
        return [start, table.shape[0], table.shape[1] if table.ndim == 2 else 1]

    looks = styles(results.optimizers)
    sizes = (sum(len(part.seeds) for part in each.parts) for problem in problems for each in problem.shown)
    trials = {len(each.trials) for problem in problems for each in problem.shown}
    content = {
        "level": LEVEL,
        "optimizers": [
            {"name": name, "colour": looks[name].colour, "dashes": looks[name].dashes} for name in results.optimizers
        ],
        "problems": [_problem(results, each, put) for each in problems],
        "medianRanks": [0] + [median_rank(count, LEVEL) for count in range(1, max(sizes, default=1) + 1)],
        "margins": {size: margin(size, LEVEL) for size in sorted(trials - {0})},
        "tightness": TIGHTNESS,
    }
    return as_plain(content), compressed(b"".join(parts))


def _problem(results: Results, problem: ProblemData, put: Any) -> dict[str, Any]:
    return {
        "name": problem.name,
        "metric": problem.metric,
        "target": problem.target,
        "published": problem.published,
        "quantities": problem.quantities,
        "tracked": problem.tracked,
        "synthetic": problem.synthetic,
        "every": problem.every,
        "incomplete": problem.incomplete,
        "shown": [_setting(results, each, problem.metric, put) for each in problem.shown],
    }


def _setting(results: Results, each: Shown, metric: str, put: Any) -> dict[str, Any]:
    row = results.row(each.runs[0])
    lrs, finals = each.rates
    return {
        "optimizer": each.optimizer,
        "lr": float(row["lr"]),
        "setting": setting_text(row),
        "seeds": each.seeds,
        "statuses": each.statuses,
        **_tables(each, put),
        "stopped": {"seeds": each.stopped.seeds, **_tables(each.stopped, put)},
        "intervals": {name: sample_intervals(array, name) for name, array in each.curves.items()},
        "rates": put(np.column_stack((lrs, finals))) if len(lrs) else None,
        "good": good_rates(each, metric),
        "trials": put(np.array(each.trials)) if each.trials else None,
        "tracked": {name: put(array) for name, array in each.tracked.items()},
    }


def _tables(part: Shown | Stopped, put: Any) -> dict[str, Any]:
    tables = {"curves": part.curves, "clocks": part.clocks}
    return {which: {name: put(array) for name, array in table.items()} for which, table in tables.items()}


def good_rates(each: Shown, metric: str) -> dict[str, Any] | None:
    """The learning rates that are within a port's usual tolerance of the best one; None for a single rate."""
    lrs, finals = each.rates
    if len(set(lrs.tolist())) < 2 or len(set(lrs.tolist())) < len(lrs) or not (lrs > 0).all():
        return None
    higher = is_accuracy(metric)
    finite = finals[np.isfinite(finals)]
    if not finite.size:
        return None
    best = float(finite.max() if higher else finite.min())
    tolerance = ACCURACY if higher else LOSS * abs(best) or LOSS
    found = rate_sensitivity(lrs, finals, higher_is_better=higher, tolerance=tolerance)
    names = ("best_rate", "low", "high", "width", "low_is_open", "high_is_open")
    return {name: getattr(found, name) for name in names} | {"tolerance": tolerance}


def setting_text(row: Any) -> str:
    """The hyperparameters of a run, in one line."""
    values = {"lr": row["lr"], **row["hyperparams"]}
    shown = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()]
    shown += [str(row["schedule"])] if row["schedule"] else []
    shown += [f"{row['epochs']} epochs", f"batch {row['batch_size']}"]
    return ", ".join(shown)


def provenance(results: Results, each: Shown, folder: Path) -> dict[str, Any]:
    """Configuration, environment and command of the first run of a setting, and where the records are."""
    rows = [results.row(run) for run in each.runs]
    found: dict[str, Any] = {
        "source": rows[0]["source"],
        "protocol": rows[0]["protocol"],
        "data": rows[0]["data"],
        "precision": rows[0]["precision"],
        "versions": sorted({str(row["version"]) for row in rows if row["version"]}),
        "machines": sorted({str(row["machine"]) for row in rows if row["machine"]}),
        "links": [_link(row["path"], folder) for row in rows[:_LISTED]],
        "command": "",
        "configuration": {},
        "environment": {},
    }
    try:
        extra = read(rows[0]["path"]).extra
    except DataError:  # of another dialect, or not a file
        return found
    if extra.get("configuration"):
        found["command"] = rerun_command(extra["configuration"])
        found["configuration"] = extra["configuration"]
    found["environment"] = {name: extra.get("environment", {}).get(name) for name in _ENVIRONMENT}
    found["environment"] = {name: value for name, value in found["environment"].items() if value is not None}
    return found


def _link(path: str, folder: Path) -> tuple[str, str]:
    """What is shown of a record's path, and where it leads from the report; the latter is "" where it is no file."""
    if not Path(path).is_file():
        return path, ""
    try:
        there = os.path.relpath(Path(path).resolve(), folder.resolve())
    except ValueError:  # another drive of Windows
        return path, ""
    return path, quote(there.replace(os.sep, "/"))


def unread_rows(results: Results) -> list[tuple[str, str]]:
    """The files that were not read and why, at most 200, and how many more there are."""
    rows = [(str(path), str(reason)) for path, reason in results.unread[:_LISTED]]
    more = len(results.unread) - len(rows)
    return [*rows, (f"and {more} more", "")] if more > 0 else rows


def number(value: float) -> str:
    """A number as the page shows it.

    >>> number(0.91981), number(float("nan")), number(87.70323), number(float("inf"))
    ('0.9198', '-', '87.70', '∞')
    """
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}" if 1e-4 <= abs(value) < 1e5 else f"{value:.3e}"
