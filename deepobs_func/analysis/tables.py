"""DeepOBS's own tables: Performance, Speed and Tuneability, and the best settings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepobs_func.analysis.choosing import MODES, choose, is_accuracy, settings_of
from deepobs_func.analysis.extras import need
from deepobs_func.analysis.honesty import caveats
from deepobs_func.analysis.parsing import Column
from deepobs_func.analysis.rendering import described, render, shown_metric, shown_sd
from deepobs_func.errors import ConfigError, option, unknown

if TYPE_CHECKING:
    import pandas as pd

    from deepobs_func.analysis.results import Results

_COLUMNS = (
    *("problem", "optimizer", "performance", "speed", "tuneability", "metric", "sd", "seeds", "reached", "target"),
    *("lr", "hyperparams", "settings", "setting", "note"),
)
MEASURES = ("performance", "speed", "tuneability")


def benchmark_table(results: Results, mode: str = "most", metric: str | None = None) -> pd.DataFrame:
    """Performance, Speed and Tuneability of each optimizer on each problem, as DeepOBS defines them.

    Performance is the mean over the seeds of the metric after the last epoch. Speed is the mean over the seeds of the
    first epoch, 0 for before training, at or past the published convergence performance; a seed that never gets there
    counts as one more than the last epoch. Tuneability is the setting that it took.

    Args:
        results: what was read.
        mode: which setting stands for an optimizer: `"most"`, `"final"` or `"best"`; see `Results.best`.
        metric: a column of `results.epochs`; None for that by which each problem is judged.

    Returns:
        A row for each problem and optimizer with runs: `problem, optimizer, performance, speed, tuneability, metric,
        sd, seeds, reached, target, lr, hyperparams, settings, setting, note`. `sd` is that of a sample (DeepOBS plots
        that of a population), `reached` how many seeds reached the target, `settings` how many were tried. `note` says
        what to know before a row is believed, by `honesty.caveats`; one without a complete run is NaN. Speed is NaN
        where the problem has no target.

    Raises:
        ConfigError: no run is complete, or there is no such mode or metric.

    Source: Schneider, Balles and Hennig, ICLR 2019; `deepobs.analyzer` of DeepOBS 1.1.2.

    >>> from deepobs_func import analysis
    >>> table = benchmark_table(analysis.load("published").select(problem="fmnist_2c2d"))
    >>> table[["optimizer", "performance", "speed"]].round(4).values.tolist()
    [['adam (published)', 0.9234, 40.1], ['momentum (published)', 0.9214, 59.1], ['sgd (published)', 0.9227, 40.6]]
    """
    if mode not in MODES:
        raise ConfigError(f"{option('mode')}: {unknown('mode', mode, MODES)}")
    check_complete(results)
    rows = [
        _row(results, problem, optimizer, mode, metric)
        for problem in results.problems
        for optimizer in results.optimizers_on(problem)
    ]
    _add_notes(results, rows)
    return need("pandas", "A table").DataFrame(rows, columns=list(_COLUMNS))


def _add_notes(results: Results, rows: Sequence[dict[str, Any]]) -> None:
    """Adds what makes the chosen settings less than they look, each caveat in the rows that it concerns."""
    chosen = {(row["problem"], row["optimizer"]): row["setting"] for row in rows if row["setting"]}
    found: dict[tuple[str, str], list[str]] = {}
    for each in caveats(results.runs, chosen):
        for optimizer in each.optimizers:
            found.setdefault((each.problem, optimizer), []).append(each.text)
    for row in rows:
        row["note"] = "; ".join(filter(None, [row.get("note", ""), *found.get((row["problem"], row["optimizer"]), ())]))


def best_settings(results: Results, metric: str | None = None) -> pd.DataFrame:
    """The best setting of each optimizer on each problem, in every mode.

    Args:
        results: what was read.
        metric: as for `benchmark_table`.

    Returns:
        A row for each problem, optimizer and mode: `problem, optimizer, mode, metric, value, seeds, lr, hyperparams,
        settings, setting, note`. `value` is the best mean of any epoch in mode `best`, else the mean after the last
        epoch; `note` as in `benchmark_table`.

    Raises:
        ConfigError: no run is complete, or there is no such metric.
    """
    check_complete(results)
    rows: list[dict[str, Any]] = []
    for problem in results.problems:
        quantity = results.metric(problem, metric)
        for optimizer in results.optimizers_on(problem):
            found = settings_of(results, problem, optimizer, metric)
            for mode in MODES if found else ():
                chosen = choose(found, mode, is_accuracy(quantity))
                first = results.row(chosen.runs[0])
                rows.append(
                    {
                        "problem": problem,
                        "optimizer": optimizer,
                        "mode": mode,
                        "metric": quantity,
                        "value": chosen.best if mode == "best" else chosen.final,
                        "seeds": len(chosen.runs),
                        "lr": chosen.lr,
                        "hyperparams": first["hyperparams"],
                        "settings": len(found),
                        "setting": chosen.setting,
                    }
                )
    for mode in MODES:
        _add_notes(results, [row for row in rows if row["mode"] == mode])
    return need("pandas", "A table").DataFrame(rows)


def check_complete(results: Results, *, timed: bool = False) -> None:
    """Checks that there is something to compare.

    Args:
        results: what was read.
        timed: whether stopped runs are something to compare, too.

    Raises:
        ConfigError: there is no run, or none is complete; the message says what there is instead.
    """
    unread = f" {len(results.unread)} files could not be read." if results.unread else ""
    first = f" The first: {results.unread[0].path}: {results.unread[0].reason}." if results.unread else ""
    if not len(results.runs):
        raise ConfigError(f"There is no run to look at.{unread}{first} `deepobs run --help` says how to make one.")
    pairs = [(problem, optimizer) for problem in results.problems for optimizer in results.optimizers_on(problem)]
    if not any(results.complete_runs(*pair) or (timed and results.stopped_runs(*pair)) for pair in pairs):
        counts = results.runs["status"].value_counts().sort_index()
        there = ", ".join(f"{count} {status}" for status, count in counts.items())
        raise ConfigError(f"No run is complete: {there}.{unread} `deepobs resume` goes on with one.")


def _first_reached(curve: Column, target: float, higher_is_better: bool) -> float:
    """The first epoch at or past a target; NaN where there is none."""
    with np.errstate(invalid="ignore"):
        reached = curve >= target if higher_is_better else curve <= target
    return float(np.argmax(reached)) if reached.any() else math.nan


def _row(results: Results, problem: str, optimizer: str, mode: str, metric: str | None) -> dict[str, Any]:
    quantity = results.metric(problem, metric)
    higher = is_accuracy(quantity)
    found = settings_of(results, problem, optimizer, metric)
    empty = dict.fromkeys(_COLUMNS, math.nan) | {"tuneability": {}, "hyperparams": {}, "setting": "", "reached": 0}
    row = empty | {"problem": problem, "optimizer": optimizer, "metric": quantity, "seeds": 0, "settings": len(found)}
    if not found:
        return row | {"note": f"no complete run: {results.statuses(problem, optimizer)}"}
    chosen = choose(found, mode, higher)
    first = results.row(chosen.runs[0])
    curves = [results.values(run, quantity) for run in chosen.runs]
    target = first["target"] if quantity == first["metric"] else math.nan
    reached = [_first_reached(curve, target, higher) for curve in curves]
    epochs = [len(curve) if math.isnan(each) else each for each, curve in zip(reached, curves, strict=True)]
    finals = [float(curve[-1]) for curve in curves]
    hyperparams = first["hyperparams"]
    return row | {
        "performance": chosen.final,
        "speed": math.nan if math.isnan(target) else float(np.mean(epochs)),
        "tuneability": {"lr": f"{chosen.lr:0.2e}", **hyperparams},
        "sd": sample_sd(finals),
        "seeds": len(chosen.runs),
        "reached": sum(not math.isnan(each) for each in reached),
        "target": target,
        "lr": chosen.lr,
        "hyperparams": hyperparams,
        "setting": chosen.setting,
        "note": _late(reached, target, len(curves[0])),
    }


def _late(reached: Sequence[float], target: float, length: int) -> str:
    """What Speed does not say: how many seeds never got to the target."""
    count = sum(map(math.isnan, reached))
    if math.isnan(target) or not count:
        return ""
    return f"{count} of {len(reached)} seeds did not reach the target of {target:.6g}, and count as {length} epochs"


def sample_sd(values: Sequence[float]) -> float:
    """The standard deviation of a sample, ddof 1; NaN for one value, or where one is not finite."""
    finite = len(values) > 1 and all(map(math.isfinite, values))
    return float(np.std(values, ddof=1)) if finite else math.nan


def table_text(table: pd.DataFrame, format: str = "text", *, wide: bool = False) -> str:
    """A benchmark table to read.

    Args:
        table: as `benchmark_table` makes it.
        format: `"text"`, `"md"`, `"csv"` (all columns and digits) or `"latex"`.
        wide: DeepOBS's own layout: a row for each problem and measure, a column for each optimizer.

    Returns:
        Its lines.

    Raises:
        ConfigError: there is no such format.
    """
    rows = table.to_dict("records")
    if format == "csv" and not wide:
        return str(table.to_csv(index=False)).rstrip("\n")
    marks, notes = _footnotes(rows, format)
    if wide:
        optimizers = list(dict.fromkeys(row["optimizer"] for row in rows))
        lines = _wide(rows, optimizers, marks, apart=format == "csv")
        return _noted(render(("problem", "", *optimizers), list(lines), format), notes, format)
    titles = ("problem", "optimizer", "performance", "sd", "speed", "tuneability", "seeds", "note")
    cells = [
        (*(row["problem"], row["optimizer"], value, shown_sd(row["sd"], row["metric"])), *rest, str(row["seeds"]), mark)
        for row, mark in zip(rows, marks, strict=True)
        for value, *rest in [_cells(row)]
    ]
    return _noted(render(titles, cells, format), notes, format)


def _footnotes(rows: Sequence[Mapping[str, Any]], format: str) -> tuple[list[str], list[str]]:
    """The numbers of the notes of each row, and the notes: what concerns many rows is said once. CSV has the texts."""
    if format == "csv":
        return [str(row["note"]) for row in rows], []
    several = [str(row["note"]).split("; ") if row["note"] else [] for row in rows]
    notes = list(dict.fromkeys(note for each in several for note in each))
    return [", ".join(str(notes.index(note) + 1) for note in each) for each in several], notes


def _noted(table: str, notes: Sequence[str], format: str) -> str:
    """A table with its notes below."""
    numbered = [(str(number), note) for number, note in enumerate(notes, 1)]
    if not numbered:
        return table
    if format == "latex":
        return f"{table}\n\n{render(('note', ''), numbered, format)}"
    mark = "{}. {}." if format == "md" else "[{}] {}."
    return "\n".join([table, "", *(mark.format(*each) for each in numbered)])


def _wide(
    rows: Sequence[Mapping[str, Any]], optimizers: Sequence[str], marks: Sequence[str], *, apart: bool
) -> Iterable[tuple[str, ...]]:
    """The lines; a mark stands behind the performance, or apart from the numbers in a line of its own."""
    cells = {}
    for row, mark in zip(rows, marks, strict=True):
        performance, *others = _cells(row)
        beside = f"{performance} [{mark}]" if mark and not apart else performance
        cells[row["problem"], row["optimizer"]] = (beside, *others, mark)
    none = ("-",) * len(MEASURES) + ("",)
    for problem in dict.fromkeys(row["problem"] for row in rows):
        for index, measure in enumerate((*MEASURES, "note") if apart else MEASURES):
            yield (problem, measure, *(cells.get((problem, each), none)[index] for each in optimizers))


def _cells(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Performance, speed and tuneability."""
    speed = "-" if math.isnan(row["speed"]) else f"{row['speed']:.1f}"
    tuneability = described(row["lr"], row["hyperparams"]) if row["setting"] else "-"
    return shown_metric(row["performance"], row["metric"]), speed, tuneability


def best_text(table: pd.DataFrame, format: str = "text") -> str:
    """The table of `best_settings` to read.

    Args:
        table: as `best_settings` makes it.
        format: as for `table_text`.

    Returns:
        Its lines.

    Raises:
        ConfigError: there is no such format.
    """
    titles = ("problem", "optimizer", "settings", "mode", "value", "seeds", "setting", "note")
    rows = table.to_dict("records")
    marks, notes = _footnotes(rows, format)
    cells = [
        (
            *(row["problem"], row["optimizer"], str(row["settings"]), row["mode"]),
            *(shown_metric(row["value"], row["metric"]), str(row["seeds"])),
            *(described(row["lr"], row["hyperparams"]), mark),
        )
        for row, mark in zip(rows, marks, strict=True)
    ]
    return _noted(render(titles, cells, format), notes, format)
