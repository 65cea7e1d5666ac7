"""How the result depends on the learning rate, and on the number of trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepobs_func.analysis.choosing import Setting, is_accuracy, settings_of
from deepobs_func.analysis.figures.by_problem import LARGE_SET, SMALL_SET, empty, handles
from deepobs_func.analysis.figures.series import has, label
from deepobs_func.analysis.figures.style import any_synthetic, grid, legend, mark, shown, style, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from deepobs_func.analysis.results import Results

    Array = NDArray[np.float64]

PAPER = (*SMALL_SET, *LARGE_SET)
"""The order of the 2 x 4 panels of the paper."""


def sensitivity(results: Results, *, problems: Sequence[str] = (), paper: bool = False) -> Figure:
    """Draws the metric after the last epoch over the learning rate, one panel a problem.

    One point is a setting of those hyperparameters with which the optimizer was run at the most rates; it is the mean
    over its seeds. The best one is marked. Rates at which a run diverged stand on the lower (of a loss: upper) edge.

    Args:
        results: what was read.
        problems: those that are drawn, in this order; by default all that have more than one rate, or all.
        paper: draw the 2 x 4 panels of the DeepOBS paper: the small set above the large one, filled or empty.

    Returns:
        The figure, for `save`.

    Raises:
        ConfigError: there is no such problem.
    """
    for problem in problems:
        results.metric(problem)
    names = list(PAPER) if paper else list(problems) or _with_rates(results)
    every = results.optimizers
    chosen = styles(every)
    with style():
        figure, axes = grid(max(1, len(names)))
        for index, (axis, problem) in enumerate(zip(axes, names, strict=False)):
            points = {name: by_rate(results, problem, name) for name in every}
            points = {name: found for name, found in points.items() if len(found[0])}
            if not points:
                empty(axis, "no complete run")
            elif not any(np.isfinite(finals).any() for _, finals in points.values()):
                empty(axis, "every rate diverged")
            else:
                higher = is_accuracy(results.metric(problem))
                for name, (lrs, finals) in points.items():
                    _draw(axis, lrs, finals, higher, {**chosen[name].line, "marker": "o", "ms": 2.5, "lw": 1.1})
                _scale(axis, [finals for _, finals in points.values()], higher)
                axis.set_ylabel(label(f"final {results.metric(problem)}"))
            axis.set_title(shown(problem))
            if index >= len(names) - 4:
                axis.set_xlabel("learning rate")
        legend(figure, handles(every, chosen))
    return mark(figure, any_synthetic(results, names))


def _with_rates(results: Results) -> list[str]:
    counts = results.runs.groupby("problem")["lr"].nunique()
    return [name for name in results.problems if counts[name] > 1] or results.problems


def by_rate(results: Results, problem: str, optimizer: str) -> tuple[Array, Array]:
    """The learning rates of an optimizer and the final metric at each, of the settings that differ in nothing else.

    Returns:
        Rates, rising, and the mean over seeds of the metric after the last epoch; both empty where nothing is complete.
    """
    if problem not in results.problems or not has(results, problem, results.metric(problem)):
        return np.empty(0), np.empty(0)
    return rates_of(results, settings_of(results, problem, optimizer))


def rates_of(results: Results, settings: Sequence[Setting]) -> tuple[Array, Array]:
    """As `by_rate`, of the settings of an optimizer on a problem."""
    families: dict[str, list[tuple[float, float]]] = {}
    for each in settings:
        row = results.row(each.runs[0])
        family = repr((row["hyperparams"], row["schedule"], row["epochs"], row["batch_size"], row["weight_decay"]))
        families.setdefault(family, []).append((each.lr, each.final))
    if not families:
        return np.empty(0), np.empty(0)
    longest = max(len(found) for found in families.values())
    pairs = sorted(next(found for found in families.values() if len(found) == longest))
    return np.array([lr for lr, _ in pairs]), np.array([final for _, final in pairs])


def _draw(axis: Axes, lrs: Array, finals: Array, higher: bool, look: dict[str, Any]) -> None:
    finite = np.isfinite(finals)
    axis.plot(lrs[finite], finals[finite], **look)
    axis.set_xscale("log")
    if finite.any():
        best = (
            np.nanargmax(np.where(finite, finals, -np.inf))
            if higher
            else np.nanargmin(np.where(finite, finals, np.inf))
        )
        axis.plot(lrs[best], finals[best], "*", ms=9, color=look["color"], mec="white", mew=0.5, zorder=3)
    edge = 0.02 if higher else 0.98
    where = axis.get_xaxis_transform()
    (marks,) = axis.plot(lrs[~finite], np.full((~finite).sum(), edge), "x", ms=4, color=look["color"], transform=where)
    marks.set_in_layout(False)


def _scale(axis: Axes, finals: Sequence[Array], higher: bool) -> None:
    """Losses far above the best ones are cut off, as in the paper: it is there that nothing is to be seen."""
    every = np.concatenate(finals)
    every = every[np.isfinite(every)]
    if higher or not every.size:
        return
    best, worst = every.min(), every.max()
    high = min(worst, best + 6 * (np.median(every) - best)) if every.size > 4 else worst
    margin = 0.06 * (high - best) or 0.05 * abs(best) or 1.0
    axis.set_ylim(best - margin, high + margin)
