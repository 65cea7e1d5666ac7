"""Optimizers over all problems: times to targets, the score as targets tighten, and who cannot be told apart.

`assets/scoring.js` does the same in the browser, by what the reader chooses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deepobs_func.analysis.choosing import is_accuracy
from deepobs_func.analysis.parsing import CLOCK_NAMES
from deepobs_func.analysis.profiles import ratios, score_by_target, scores, tightened
from deepobs_func.analysis.ranks import Ranking, rank
from deepobs_func.analysis.reports.collecting import ProblemData, collect
from deepobs_func.analysis.reports.ranking import Choice, target_of, values_of
from deepobs_func.analysis.samples import average
from deepobs_func.errors import ConfigError, option, unknown

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from deepobs_func.analysis.results import Results

    Array = NDArray[np.float64]

TIGHTNESS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0, 1.005, 1.01, 1.02, 1.05, 1.1, 1.2, 1.5)
"""How far targets lie on the way from the metric before training (0) to the target (1), and beyond it."""


def times_of(problems: Sequence[ProblemData], choice: Choice) -> dict[str, dict[str, float]]:
    """The median times to the targets, as `analysis.profiles` takes them; a problem without a target is left out.

    Args:
        problems: what is shown of each.
        choice: whose clock, quantity, targets and hidden optimizers count.

    Returns:
        `times[optimizer][problem]`; infinite where half of the seeds did not reach it.
    """
    timed, found = replace(choice, measure="time"), dict[str, dict[str, float]]()
    for problem in problems:
        if not math.isnan(target_of(problem, timed)):
            for optimizer, value in values_of(problem, timed).items():
                found.setdefault(optimizer, {})[problem.name] = value
    return {name: found[name] for name in sorted(found)}


class Scored(NamedTuple):
    """An optimizer over all problems that have a target.

    Attributes:
        optimizer: its name.
        rank: from 1; equal scores share the mean of their ranks.
        score: AlgoPerf's, from 0 to 1.
        fastest, arrived: on how many problems it is the fastest, and reached the target in 4 times the fastest's time.
        problems: how many there are.
    """

    optimizer: str
    rank: float
    score: float
    fastest: int
    arrived: int
    problems: int


def score_rows(problems: Sequence[ProblemData], choice: Choice | None = None) -> list[Scored]:
    """The scores of all optimizers, the best first.

    Args:
        problems, choice: as for `times_of`; by default times are in epochs.

    Returns:
        One for each optimizer; none where no problem has a target.
    """
    times = times_of(problems, choice or Choice())
    if not times:
        return []
    found = {name: round(score, 12) for name, score in scores(times).items()}  # equal ones are summed alike
    by = ratios(times)
    rows = [
        Scored(
            name,
            sum(other > score for other in found.values()) + (1 + sum(other == score for other in found.values())) / 2,
            score,
            int((by.loc[name] == 1.0).sum()),
            int(np.isfinite(by.loc[name]).sum()),
            by.shape[1],
        )
        for name, score in found.items()
    ]
    return sorted(rows, key=lambda row: (-row.score, row.optimizer))


def times_to_target(results: Results, *, clock: str = "epoch", mode: str = "most") -> dict[str, dict[str, float]]:
    """The median times to the targets of some runs, as `analysis.profiles` takes them.

    Args:
        results: what was read.
        clock: in what they are counted, one of `parsing.CLOCK_NAMES`.
        mode: how the setting of each optimizer is chosen, as in `Results.best`.

    Returns:
        `times[optimizer][problem]`; infinite where half of the seeds did not reach it.

    Raises:
        ConfigError: there is no such clock, no run has it, or no problem has a target.
    """
    return _timed(results, clock, mode)[2]


def moves_to_target(results: Results, *, clock: str = "epoch", mode: str = "most") -> pd.DataFrame:
    """AlgoPerf's score of some runs as all targets tighten, by `score_by_tightness`.

    Args:
        results, clock, mode: as for `times_to_target`.

    Returns:
        A frame of an optimizer a row and a tightness a column.

    Raises:
        ConfigError: there is no such clock, no run has it, or no problem has a target.
    """
    problems, choice, _ = _timed(results, clock, mode)
    return score_by_tightness(problems, choice)


def _timed(
    results: Results, clock: str, mode: str
) -> tuple[Sequence[ProblemData], Choice, dict[str, dict[str, float]]]:
    """What is shown of some runs, and the times to the targets, of which there is one at least."""
    choice, problems = timed_by(clock), collect(results, mode)
    found = times_of(problems, choice)
    if not found:
        raise ConfigError(f"{option('against')} {clock}: no run has recorded it, or no problem has a target.")
    return problems, choice, found


def timed_by(clock: str) -> Choice:
    """The choice that ranks by times.

    Raises:
        ConfigError: there is no such clock.
    """
    if clock not in CLOCK_NAMES:
        raise ConfigError(f"{option('against')}: {unknown('clock', clock, CLOCK_NAMES)}")
    return Choice("time", clock=clock)


def start_of(problem: ProblemData, quantity: str) -> float:
    """The metric before training: the mean over the optimizers of a problem; NaN where none is finite."""
    curves = (each.curves[quantity] for each in problem.shown if quantity in each.curves)
    starts = [average(curve[0]) for curve in curves]
    finite = [each for each in starts if math.isfinite(each)]
    return average(finite) if finite else math.nan


def score_by_tightness(
    problems: Sequence[ProblemData], choice: Choice, tightness: Sequence[float] = TIGHTNESS
) -> pd.DataFrame:
    """AlgoPerf's score as all targets tighten, from the metric before training to the target and beyond.

    Args:
        problems, choice: as for `times_of`.
        tightness: as `TIGHTNESS`.

    Returns:
        A frame of an optimizer a row and a tightness a column.

    Raises:
        DataError: no problem has a target.
    """

    def times_at(tight: float) -> Mapping[str, Mapping[str, float]]:
        targets = {each.name: _tightened(each, choice, tight) for each in problems}
        return times_of(problems, replace(choice, targets=targets))

    return score_by_target(times_at, tightness)


def _tightened(problem: ProblemData, choice: Choice, tight: float) -> float:
    target = target_of(problem, choice)
    if tight == 1.0:  # the target itself: start + (target - start) is rounded past it
        return target
    return tightened(start_of(problem, choice.quantity or problem.metric), target, tight)


def costs_of(problems: Sequence[ProblemData], choice: Choice) -> dict[str, dict[str, float]]:
    """What `ranks.rank` takes, on one scale for all problems, less being better.

    A metric is counted in units of the way from its value before training to the target, a time in units of the
    longest run: only the sizes of differences matter to the test, and a loss of 87 has others than an accuracy.

    Args:
        problems, choice: by what optimizers are ranked.

    Returns:
        `costs[optimizer][problem]`; infinite where a seed diverged, or the target was not reached.
    """
    found: dict[str, dict[str, float]] = {}
    for problem in problems:
        sign = -1.0 if choice.measure != "time" and is_accuracy(choice.quantity or problem.metric) else 1.0
        unit = _longest(problem, choice.clock) if choice.measure == "time" else _way(problem, choice)
        for optimizer, value in values_of(problem, choice).items():
            cost = sign * value / unit if math.isfinite(value) else math.inf
            found.setdefault(optimizer, {})[problem.name] = cost
    return {name: found[name] for name in sorted(found)}


def _longest(problem: ProblemData, clock: str) -> float:
    ends = (
        float(np.nanmax(part.clocks[clock])) for each in problem.shown for part in each.parts if clock in part.clocks
    )
    return max(ends, default=1.0) or 1.0


def _way(problem: ProblemData, choice: Choice) -> float:
    """From before training to the target; without a target, to the best mean at the end."""
    quantity = choice.quantity or problem.metric
    target = target_of(problem, choice)
    if math.isnan(target):
        ends = [average(each.curves[quantity][-1]) for each in problem.shown if quantity in each.curves]
        finite = [end for end in ends if math.isfinite(end)]
        target = (max if is_accuracy(quantity) else min)(finite, default=math.nan)
    way = abs(start_of(problem, quantity) - target)
    return way if math.isfinite(way) and way > 0 else 1.0


def differences(problems: Sequence[ProblemData], choice: Choice) -> Ranking | None:
    """Mean ranks, and the optimizers that cannot be told apart over all problems: a critical-difference diagram.

    Args:
        problems, choice: by what they are ranked.

    Returns:
        The ranking; None where there are fewer than two optimizers, or no problem that all of them have.
    """
    found = costs_of(problems, choice)
    shared = set.intersection(*map(set, found.values())) if found else set()
    return rank(found, higher_is_better=False) if len(found) > 1 and shared else None


def costs(results: Results, *, mode: str = "most") -> dict[str, dict[str, float]]:
    """The mean final metrics of some runs as `ranks.rank` takes them, by `costs_of`.

    Args:
        results: what was read.
        mode: as for `times_to_target`.

    Returns:
        `costs[optimizer][problem]`; infinite where a seed diverged.
    """
    return costs_of(collect(results, mode), Choice())
