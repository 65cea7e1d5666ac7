"""Optimizers over all problems: performance profiles, critical differences, and what tuning buys."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepobs_func.analysis.choosing import Setting, is_accuracy, settings_of
from deepobs_func.analysis.figures.by_problem import empty, handles
from deepobs_func.analysis.figures.series import has, label
from deepobs_func.analysis.figures.style import any_synthetic, grid, legend, mark, shown, style, styles
from deepobs_func.analysis.profiles import MOST, profiles, scores
from deepobs_func.analysis.ranks import PostHoc, Ranking, rank
from deepobs_func.analysis.tuning_curves import TuningCurve, tuning_curve, win_probability
from deepobs_func.errors import ConfigError, DataError, option, unknown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

    from deepobs_func.analysis.results import Results

    Array = NDArray[np.float64]

_LANE = 0.22  # inches between two names of a critical-difference diagram


def profile(times: Mapping[str, Mapping[str, float]], *, unit: str = "epochs", synthetic: bool = False) -> Figure:
    """Draws performance profiles: the share of problems on which an optimizer takes at most tau times the fastest.

    Args:
        times: `times[optimizer][problem]`, the median over seeds to the target, infinite where it was not reached, as
            `report.ranking` and `analysis.profiles` have them.
        unit: of the times, for the axis.
        synthetic: whether any of them is of stand-in data.

    Returns:
        The figure, for `save`.

    Raises:
        DataError: there is no optimizer.
    """
    frame, looks = profiles(times), styles(times)
    problems = max(map(len, times.values()))
    with style():
        figure, (axis,) = grid(1, 1, 4.6, 3.4)
        for name, shares in frame.iterrows():
            line = {**looks[str(name)].line, "drawstyle": "steps-post"}
            axis.plot(frame.columns, shares, **line)
        axis.set(xlim=(1, MOST), ylim=(-0.02, 1.02), xlabel=f"tau: {unit} to the target, over those of the fastest")
        axis.set_ylabel(f"share of {problems} problem{'s' * (problems != 1)}")
        names, found = handles(times, looks), scores(times)
        for handle, name in zip(names, times, strict=True):
            handle.set_label(f"{handle.get_label()}  {found[name]:.3f}")
        legend(figure, names, title="AlgoPerf's score")
    return mark(figure, synthetic)


def targets(moves: pd.DataFrame, *, synthetic: bool = False) -> Figure:
    """Draws how AlgoPerf's score moves as all targets tighten.

    Args:
        moves: a frame of an optimizer a row and a tightness a column, as `profiles.score_by_target` and
            `reports.scoring.score_by_tightness` have them; a tightness of 1 is the target.
        synthetic: whether any run is of stand-in data.

    Returns:
        The figure, for `save`.
    """
    names = [str(name) for name in moves.index]
    looks, at = styles(names), np.arange(moves.shape[1])
    with style():
        figure, (axis,) = grid(1, 1, 5.2, 3.4)
        for name, row in zip(names, moves.to_numpy(dtype=float), strict=True):
            axis.plot(at, row, **looks[name].line, marker="o", ms=3)
        axis.set_xticks(at, [f"{100 * float(tight):g}%" for tight in moves.columns], rotation=45, ha="right")
        for tight in np.flatnonzero(moves.columns == 1.0):
            axis.axvline(float(tight), color="0.35", lw=0.8, ls=(0, (2, 2)), zorder=0.5)
        axis.set(ylim=(-0.02, 1.02), xlabel="way from before training to the target", ylabel="score")
        legend(figure, handles(names, looks))
    return mark(figure, synthetic)


def critical_difference(
    scores: Mapping[str, Mapping[str, float]],
    *,
    higher_is_better: bool,
    post_hoc: PostHoc = "wilcoxon",
    synthetic: bool = False,
) -> Figure:
    """Draws mean ranks over problems; a bar joins optimizers that cannot be told apart (Demsar, JMLR 2006).

    Args:
        scores, higher_is_better, post_hoc: as for `analysis.ranks.rank`.
        synthetic: whether any of them is of stand-in data.

    Returns:
        The figure, for `save`.

    Raises:
        DataError: there are fewer than two optimizers, or no problem that all have.
    """
    found = rank(scores, higher_is_better=higher_is_better, post_hoc=post_hoc)
    count, looks = len(found.names), styles(scores)
    lanes = -(-count // 2)
    with style():
        figure, (axis,) = grid(1, 1, 6.4, 1.15 + _LANE * (lanes + len(found.groups)))
        depth = 0.9 + 0.45 * len(found.groups)
        for index, (name, mean) in enumerate(zip(found.names, found.mean_ranks, strict=True)):
            left = index < lanes
            height = -depth - 0.75 * (index if left else count - 1 - index)
            end = 1 - 0.06 * count if left else count + 0.06 * count
            colour = looks[name].colour
            axis.plot([mean, mean, end], [0, height, height], color=colour, lw=1.2, clip_on=False)
            text = f"{shown(name)} {mean:.2f}"
            axis.text(end, height, f"{text} " if left else f" {text}", ha="right" if left else "left", va="center")
        _bars(axis, found)
        _ruler(axis, found, depth + 0.75 * lanes)
    return mark(figure, synthetic)


def _bars(axis: Axes, found: Ranking) -> None:
    means = dict(zip(found.names, found.mean_ranks, strict=True))
    for index, group in enumerate(found.groups):
        height, ends = -0.5 - 0.45 * index, (means[group[0]] - 0.03, means[group[-1]] + 0.03)
        axis.plot(ends, [height, height], color="0.15", lw=3.5, solid_capstyle="butt")


def _ruler(axis: Axes, found: Ranking, depth: float) -> None:
    count = len(found.names)
    axis.set(xlim=(1 - 0.06 * count, count + 0.06 * count), ylim=(-depth, 0.2))
    axis.xaxis.tick_top()
    axis.xaxis.set_label_position("top")
    axis.set_xticks(range(1, count + 1, max(1, count // 10)))
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.spines["top"].set_visible(True)
    axis.spines["top"].set_bounds(1, count)
    axis.set_yticks([])
    axis.grid(visible=False)
    p = "" if np.isnan(found.p_friedman) else f"; Friedman's test: p = {found.p_friedman:.2g}"
    axis.set_xlabel(f"mean rank over {len(found.problems)} problem{'s' * (len(found.problems) != 1)}{p}")


def tuning(results: Results, *, problems: Sequence[str] = ()) -> Figure:
    """Draws the median of the best final metric after k trials of tuning, one panel a problem, with 95 % bands.

    The trials of an optimizer are its settings; of each, its first seed counts. A median, unlike a mean, is known where
    trials diverge. A band ends where so few trials do not bound it.

    Args:
        results: what was read.
        problems: those that are drawn, in this order; by default all on which an optimizer has several settings.

    Returns:
        The figure, for `save`.

    Raises:
        DataError: no optimizer has several settings on a problem.
        ConfigError: there is no such problem.
    """
    every = results.optimizers
    trials = _trials(results, problems)
    trials = {problem: found for problem, found in trials.items() if found or problems}
    if not any(trials.values()):
        raise DataError("No optimizer has two settings on a problem: there are no trials to choose from.")
    looks = styles(every)
    with style():
        figure, axes = grid(len(trials))
        for axis, (problem, groups) in zip(axes, trials.items(), strict=True):
            metric = results.metric(problem)
            higher = is_accuracy(metric)
            axis.set(title=shown(problem), xlabel="trials", ylabel=label(f"best {metric}"))
            curves = {name: tuning_curve(found, higher_is_better=higher) for name, found in groups.items()}
            for name, curve in curves.items():
                low, middle, high = (_finite(each) for each in (curve.low, curve.median, curve.high))
                axis.fill_between(curve.budgets, low, high, color=looks[name].colour, alpha=0.12, lw=0)
                axis.plot(curve.budgets, middle, **looks[name].line)
            if groups:
                _cut(axis, curves.values(), higher)
            else:
                empty(axis, "one setting each")
        legend(figure, handles(every, looks), title="median best of k trials;\nband: 95 %")
    return mark(figure, any_synthetic(results, trials))


def wins(results: Results, reference: str | None = None, *, problems: Sequence[str] = ()) -> Figure:
    """Draws, for each budget, the probability that the best of k trials beats that of a reference, one panel a problem.

    Args:
        results: what was read.
        reference: an optimizer; by default, on each problem, that with the best trial of all.
        problems: those that are drawn, in this order; by default all on which two optimizers have several settings.

    Returns:
        The figure, for `save`.

    Raises:
        DataError: no two optimizers have several settings on a problem, or the reference is none of them.
        ConfigError: there is no such optimizer or problem.
    """
    if reference is not None and reference not in results.optimizers:
        raise ConfigError(f"{option('reference')}: {unknown('optimizer', reference, results.optimizers)}")
    every = results.optimizers
    trials = _trials(results, problems)
    trials = {problem: found for problem, found in trials.items() if len(found) > 1}
    if not trials:
        raise DataError("No two optimizers have two settings on a problem: there are no trials to compare.")
    trials = {problem: found for problem, found in trials.items() if reference in (None, *found)}
    if not trials:
        raise DataError(
            f"{option('reference')} {reference}: it has no two settings on a problem on which two others have. Run "
            "more settings of it, or choose another reference."
        )
    from matplotlib.ticker import MaxNLocator

    looks = styles(every)
    with style():
        figure, axes = grid(len(trials))
        for axis, (problem, groups) in zip(axes, trials.items(), strict=True):
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            higher = is_accuracy(results.metric(problem))
            against = reference or _leader(groups, higher)
            for name in groups:
                if name != against:
                    share = win_probability(groups[name], groups[against], higher_is_better=higher)
                    axis.plot(np.arange(1, len(share) + 1), share, **looks[name].line)
            axis.axhline(0.5, color="0.35", lw=0.8, ls=(0, (2, 2)), zorder=0.5)
            axis.set(title=shown(problem), xlabel="trials of each", ylim=(-0.02, 1.02))
            axis.set_ylabel(f"P(beats {shown(against)})")
        legend(figure, handles(every, looks))
    return mark(figure, any_synthetic(results, trials))


def _leader(groups: Mapping[str, Sequence[float]], higher: bool) -> str:
    """The optimizer with the best trial."""
    sign = -1.0 if higher else 1.0
    return min(groups, key=lambda name: min(math.inf if math.isnan(each) else sign * each for each in groups[name]))


def _trials(results: Results, problems: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """By problem, the trials of each optimizer that has several."""
    return {
        problem: {name: found for name in results.optimizers if len(found := finals(results, problem, name)) > 1}
        for problem in problems or results.problems
    }


def _finite(values: ArrayLike) -> Array:
    found = np.asarray(values, dtype=float)
    return np.where(np.isfinite(found), found, np.nan)


def finals(results: Results, problem: str, optimizer: str) -> list[float]:
    """The final metric of the first seed of each setting of an optimizer on a problem; NaN where it diverged."""
    metric = results.metric(problem)
    if not has(results, problem, metric):
        return []
    return finals_of(results, metric, settings_of(results, problem, optimizer))


def finals_of(results: Results, metric: str, settings: Iterable[Setting]) -> list[float]:
    """As `finals`, of the settings of an optimizer on a problem."""
    first = (min(each.runs, key=lambda run: results.row(run)["seed"]) for each in settings)
    return [float(results.values(run, metric)[-1]) for run in first]


def _cut(axis: Axes, curves: Iterable[TuningCurve], higher: bool) -> None:
    """What comes of the first trials is no scale for what is worth tuning for."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    sign = -1.0 if higher else 1.0
    medians = [sign * _finite(curve.median) for curve in curves]
    later = np.concatenate([found[max(1, len(found) // 10) :] for found in medians])
    later = later[np.isfinite(later)]
    if not later.size:
        return
    best, worst = later.min(), later.max()
    if later.size > 4:
        worst = min(worst, best + 8 * (np.median(later) - best) + 1e-12)
    margin = 0.06 * (worst - best) or 0.05 * abs(best) or 1.0
    axis.set_ylim(*sorted((sign * (best - margin), sign * (worst + margin))))
