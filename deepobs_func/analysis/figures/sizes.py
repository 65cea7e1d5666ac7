"""The final metric over the batch size, each at its best learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepobs_func.analysis.choosing import is_accuracy, settings_of
from deepobs_func.analysis.figures.by_problem import empty, handles
from deepobs_func.analysis.figures.series import has, label
from deepobs_func.analysis.figures.style import any_synthetic, grid, legend, mark, shown, style, styles
from deepobs_func.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deepobs_func.analysis.results import Results


def batch_sizes(results: Results, *, problems: Sequence[str] = ()) -> Figure:
    """Draws the final metric over the batch size, one panel a problem: the mean over seeds, and a standard deviation.

    At each batch size an optimizer has the setting with the best mean. With equal epochs all have seen as many
    examples, so that a curve that bends says where a larger batch no longer saves steps.

    Args:
        results: what was read.
        problems: those that are drawn, in this order; by default all on which an optimizer has several batch sizes.

    Returns:
        The figure, for `save`.

    Raises:
        DataError: no optimizer has several batch sizes on a problem.
        ConfigError: there is no such problem.
    """
    every = results.optimizers
    names = list(problems) or results.problems
    found = {problem: {name: by_batch_size(results, problem, name) for name in every} for problem in names}
    several = {
        problem: of for problem, of in found.items() if problems or any(len(sizes) > 1 for sizes, *_ in of.values())
    }
    if not any(len(sizes) > 1 for of in several.values() for sizes, *_ in of.values()):
        raise DataError("No optimizer has two batch sizes on a problem. Run a study with batch_sizes: [32, 64, 128].")
    looks = styles(every)
    with style():
        figure, axes = grid(len(several))
        for axis, (problem, of) in zip(axes, several.items(), strict=True):
            drawn = [axis_of for axis_of in of.items() if len(axis_of[1][0])]
            for name, (sizes, means, deviations) in drawn:
                finite = np.isfinite(means)
                look: dict[str, Any] = {**looks[name].line, "marker": "o", "ms": 3, "capsize": 2}
                axis.errorbar(sizes[finite], means[finite], np.nan_to_num(deviations[finite]), **look)
            axis.set_xscale("log", base=2)
            axis.set(title=shown(problem), xlabel="batch size", ylabel=label(f"final {results.metric(problem)}"))
            if not drawn:
                empty(axis, "no complete run")
        legend(figure, handles(every, looks), title="best setting of each size;\nbar: one standard deviation")
    return mark(figure, any_synthetic(results, several))


def by_batch_size(results: Results, problem: str, optimizer: str) -> tuple[Any, Any, Any]:
    """Of the best setting at each batch size of an optimizer, the final metric.

    Returns:
        Batch sizes, rising, the mean over seeds and its standard deviation (NaN of one seed); empty where nothing is
        complete.
    """
    metric = results.metric(problem)
    if optimizer not in results.optimizers_on(problem) or not has(results, problem, metric):
        return np.empty(0), np.empty(0), np.empty(0)
    sign = -1.0 if is_accuracy(metric) else 1.0
    best: dict[int, Any] = {}
    for each in settings_of(results, problem, optimizer):
        size = int(results.row(each.runs[0])["batch_size"])
        cost = sign * each.final if np.isfinite(each.final) else np.inf
        if size not in best or cost < best[size][0]:
            best[size] = (cost, [float(results.values(run, metric)[-1]) for run in each.runs])
    sizes = sorted(best)
    finals = [np.array(best[size][1]) for size in sizes]
    deviations = [values.std(ddof=1) if len(values) > 1 else np.nan for values in finals]
    return np.array(sizes), np.array([values.mean() for values in finals]), np.array(deviations)
