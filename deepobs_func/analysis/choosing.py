"""Which setting stands for an optimizer on a problem: DeepOBS's modes `most`, `final` and `best`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deepobs_func.analysis.samples import average
from deepobs_func.errors import ConfigError, option, unknown

if TYPE_CHECKING:
    from deepobs_func.analysis.parsing import Column
    from deepobs_func.analysis.results import Results

COMPLETE = ("finished", "diverged")
"""The statuses of runs that have an entry for every epoch."""
STOPPED = "stopped"
"""The status of runs that a callback ended, by a target or a budget: they count where times are compared."""


class Setting(NamedTuple):
    """A setting of an optimizer on a problem, and how it did.

    Attributes:
        setting: its text.
        lr: its learning rate.
        runs: those that count, by seed: complete ones, of a study those on the reported seeds, if there are any; of a
            seed that was run several times, the last.
        reported: how many of them are on reported seeds.
        final: the mean over the runs of the metric after the last epoch.
        best: the best, over the epochs, of that mean; before training is an epoch, too.
        stopped: numbers of stopped runs of other seeds, chosen like `runs`: they count in times alone. Of a setting
            without a complete run, `reported`, `final` and `best` are of these.
    """

    setting: str
    lr: float
    runs: tuple[int, ...]
    reported: int
    final: float
    best: float
    stopped: tuple[int, ...] = ()


def settings_of(
    results: Results, problem: str, optimizer: str, metric: str | None = None, *, timed: bool = False
) -> list[Setting]:
    """The settings of an optimizer on a problem that have a complete run, by learning rate.

    Args:
        results: what was read.
        problem, optimizer: names.
        metric: a column of `results.epochs`; None for that by which the problem is judged.
        timed: whether settings of stopped runs alone are among them where no run is complete.

    Returns:
        One for each setting; none where there is no such run.

    Raises:
        ConfigError: there is no such problem, optimizer or metric.
    """
    quantity = results.metric(problem, metric)
    complete, stopped = results.complete_runs(problem, optimizer), results.stopped_runs(problem, optimizer)
    found = []
    for setting in complete or (stopped if timed else ()):
        counted = one_a_seed(results, complete.get(setting, ()))
        rows = [results.row(run) for run in counted]
        seeds, kinds = {row["seed"] for row in rows}, {row["reported"] for row in rows} or {True, False}
        early = [(run, results.row(run)) for run in stopped.get(setting, ())]
        ended = one_a_seed(
            results, [run for run, row in early if row["seed"] not in seeds and row["reported"] in kinds]
        )
        there = counted or ended
        curves = [results.values(run, quantity) for run in there]
        means = mean_curve(curves)
        final = float(means[-1]) if counted else average([curve[-1] for curve in curves])
        lr, best = float(results.row(there[0])["lr"]), _best(means, is_accuracy(quantity))
        count = sum(results.row(run)["reported"] for run in there)
        found.append(Setting(setting, lr, counted, count, final, best, ended))
    return sorted(found, key=lambda each: (math.isnan(each.lr), each.lr, each.setting))


def one_a_seed(results: Results, runs: Sequence[int]) -> tuple[int, ...]:
    """The last run of each seed: a copy is no second observation. Of a study the reported seeds, if any is there.

    Args:
        results: what was read.
        runs: numbers of runs of one setting.

    Returns:
        The runs, by seed.
    """
    found: dict[int, list[int]] = {}
    for run in [run for run in runs if results.row(run)["reported"]] or runs:
        found.setdefault(int(results.row(run)["seed"]), []).append(run)
    return tuple(max(found[seed], key=lambda run: Path(results.row(run)["path"]).name) for seed in sorted(found))


def mean_curve(curves: Sequence[Column]) -> Column:
    """The mean over runs; where one is not finite, neither is the mean.

    Args:
        curves: of each run. Of different lengths, the mean is NaN after the end of the shortest.

    Returns:
        As long as the longest.
    """
    length = max(map(len, curves))
    padded = [np.concatenate((curve, np.full(length - len(curve), np.nan))) for curve in curves]
    with np.errstate(invalid="ignore"):  # infinity - infinity
        return np.mean(padded, axis=0)


def is_accuracy(quantity: str) -> bool:
    """Whether more of a quantity is better."""
    return quantity.endswith("accuracy")


def _best(means: Column, higher: bool) -> float:
    """As Python's `min` and `max` of a list, which DeepOBS takes: NaN counts only as the first entry."""
    if math.isnan(means[0]):
        return math.nan
    return float(np.nanmax(means) if higher else np.nanmin(means))


def _most(each: Setting, sign: float) -> tuple[float, ...]:
    return (-each.reported, -len(each.runs or each.stopped), *_final(each, sign))


def _final(each: Setting, sign: float) -> tuple[float, ...]:
    return _order(each.final, sign)


def _best_mean(each: Setting, sign: float) -> tuple[float, ...]:
    return _order(each.best, sign)


def _order(value: float, sign: float) -> tuple[float, float]:
    """NaN stands behind infinity."""
    return (1.0, 0.0) if math.isnan(value) else (0.0, sign * value)


MODES: Mapping[str, Callable[[Setting, float], tuple[float, ...]]] = {
    "most": _most,
    "final": _final,
    "best": _best_mean,
}
"""By name, the order of settings: the most runs; the best final mean; the best mean of any epoch."""


def choose(settings: Sequence[Setting], mode: str, higher_is_better: bool) -> Setting:
    """The setting that stands for an optimizer.

    Of settings that are equal in `most`, the better final mean is taken; of others, the lower learning rate. What is
    NaN is never better than what is not.

    Args:
        settings: of an optimizer on a problem, as `settings_of` has them; one at least.
        mode: one of `MODES`.
        higher_is_better: of the metric.

    Returns:
        One of them.

    Raises:
        ConfigError: there is no such mode.
    """
    if mode not in MODES:
        raise ConfigError(f"{option('mode')}: {unknown('mode', mode, MODES)}")
    sign = -1.0 if higher_is_better else 1.0
    return min(settings, key=lambda each: MODES[mode](each, sign))
