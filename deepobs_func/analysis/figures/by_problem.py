"""Training curves with their bands, one panel a problem; and DeepOBS's performance figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepobs_func.analysis.choosing import is_accuracy
from deepobs_func.analysis.figures.series import AGAINST, BANDS, Series, check_against, has, label, series
from deepobs_func.analysis.figures.style import Style, any_synthetic, grid, legend, mark, shown, style, styles
from deepobs_func.errors import ConfigError, option, unknown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from deepobs_func.analysis.results import Results

SMALL_SET = ("quadratic_deep", "mnist_vae", "fmnist_2c2d", "cifar10_3c3d")
LARGE_SET = ("fmnist_vae", "cifar100_allcnnc", "svhn_wrn164", "tolstoi_char_rnn")
SETS: Mapping[str, tuple[str, ...]] = {"small": SMALL_SET, "large": LARGE_SET}
"""DeepOBS's two sets of problems."""
_ROWS = ("test_loss", "train_loss", "test_accuracy", "train_accuracy")  # of the performance figures
_THIN_LINES = 12  # in a panel; more of them are a smear


def curves(
    results: Results,
    quantity: str | None = None,
    *,
    against: str = "epoch",
    band: str = "sd",
    mode: str = "most",
    problems: Sequence[str] = (),
) -> Figure:
    """Draws the mean over seeds with its band, thin the seeds themselves, one panel a problem.

    Args:
        results: what was read.
        quantity: a column of `results.epochs`, such as `"train_loss"`; None for that by which each problem is judged.
        against: `"epoch"`, `"step"`, `"seconds"`, `"gradients"` or `"cost"`.
        band: `"sd"`, `"quartiles"`, `"range"` or `"none"`, as in `series`.
        mode: how the setting of each optimizer is chosen, as in `Results.best`.
        problems: those that are drawn, in this order; by default all.

    Returns:
        The figure, for `save`.

    Raises:
        ConfigError: there is no such quantity, axis, band, mode or problem.
    """
    check_against(against, band)
    every = results.optimizers
    names = list(problems) or results.problems
    for name in names:
        results.metric(name)  # is there
    chosen = styles(every)
    with style():
        figure, axes = grid(max(1, len(names)))
        for axis, problem in zip(axes, names, strict=False):
            found = _found(results, problem, quantity, against=against, band=band, mode=mode)
            draw(axis, found, chosen, higher=is_accuracy(quantity or results.metric(problem)))
            axis.set_title(shown(problem))
            axis.set_xlabel(AGAINST[against])
            axis.set_ylabel(label(quantity or results.metric(problem)))
            _target(axis, results, problem, quantity)
        legend(figure, handles(every, chosen), title=_title(band))
    return mark(figure, any_synthetic(results, names))


def performance(results: Results, which: str = "small", *, band: str = "sd", mode: str = "most") -> Figure:
    """Draws the 4 x 4 figure of the DeepOBS paper: losses and accuracies of test and training set by problem.

    Args:
        results: what was read.
        which: `"small"` or `"large"`, the set; problems that have no run have empty panels. `"all"` has a column for
            each problem that has runs.
        band: as in `curves`; the paper's is one standard deviation.
        mode: as in `curves`.

    Returns:
        The figure, for `save`.

    Raises:
        ConfigError: there is no such set, band or mode.
    """
    if which not in (*SETS, "all"):
        raise ConfigError(f"{option('set')}: {unknown('set', which, (*SETS, 'all'))}")
    check_against("epoch", band)
    names = SETS.get(which) or results.problems
    every = results.optimizers
    chosen = styles(every)
    with style():
        figure, axes = grid(len(_ROWS) * max(1, len(names)), max(1, len(names)), 2.7, 1.9)
        for index, axis in enumerate(axes):
            row, problem = _ROWS[index // len(names)], names[index % len(names)]
            found = _found(results, problem, row, against="epoch", band=band, mode=mode)
            draw(axis, found, chosen, higher=is_accuracy(row), thin=False)
            if index < len(names):
                axis.set_title(shown(problem))
            if index % len(names) == 0:
                axis.set_ylabel(label(row))
            if index // len(names) == len(_ROWS) - 1:
                axis.set_xlabel("epoch")
        legend(figure, handles(every, chosen), title=_title(band))
    return mark(figure, any_synthetic(results, names))


def _found(results: Results, problem: str, quantity: str | None, **how: Any) -> list[Series]:
    if problem not in results.problems or not has(results, problem, quantity):
        return []
    there = results.runs.loc[results.runs["problem"] == problem, "optimizer"]
    each = (series(results, problem, name, quantity, **how) for name in results.optimizers if name in set(there))
    return [found for found in each if found is not None]


def draw(axis: Axes, found: Sequence[Series], chosen: Mapping[str, Style], *, higher: bool, thin: bool = True) -> None:
    """Draws curves into a panel, and says so where there are none.

    Args:
        axis: the panel.
        found: the curves.
        chosen: the style of each optimizer.
        higher: whether more is better.
        thin: whether the seeds are drawn, too, where they are few.
    """
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(6, integer=all(float(each.x[-1]).is_integer() for each in found)))
    thin = thin and sum(each.seeds for each in found) <= _THIN_LINES
    for each in found:
        look = chosen[each.optimizer]
        if thin and each.seeds > 1:
            axis.plot(
                each.x, np.where(np.isfinite(each.runs), each.runs, np.nan), color=look.colour, alpha=0.25, lw=0.6
            )
        axis.fill_between(each.x, each.low, each.high, color=look.colour, alpha=0.2, lw=0)
        axis.plot(each.x, each.mean, **look.line)
    if not found:
        empty(axis, "nothing recorded")
    elif not any(np.isfinite(each.mean[1:]).any() for each in found):
        empty(axis, "a seed of each diverged at once")
    else:
        _limit(axis, found, higher)


def empty(axis: Axes, reason: str) -> None:
    """A panel of which nothing is drawn says why."""
    for artist in (*axis.lines, *axis.collections):
        artist.remove()
    axis.text(0.5, 0.5, reason, transform=axis.transAxes, ha="center", va="center", color="0.4")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)


def _limit(axis: Axes, found: Sequence[Series], higher: bool) -> None:
    """Vertical limits for what happens after the first tenth, and for runs that end well: a bad start is no scale."""
    sign = -1.0 if higher else 1.0  # from here on less is better
    later = [sign * each.mean[max(1, len(each.mean) // 10) :] for each in found]
    ends = np.concatenate([part[np.isfinite(part)] for part in later])
    starts = sign * np.array([each.mean[0] for each in found])
    starts = starts[np.isfinite(starts)]
    if not ends.size or not starts.size:
        return
    best, worst = min(ends.min(), starts.min()), max(np.quantile(ends, 0.98), np.median(ends))
    bands = [sign * array[-1] for each in found for array in (each.low, each.high) if np.isfinite(array[-1])]
    calm = [value for value in bands if value <= worst + 2 * (worst - best)]
    best, worst = min([best, *calm]), max([worst, *calm])
    if worst - best >= 0.5 * (starts.max() - best):  # else most of the panel would be the first epoch
        worst = max(worst, starts.max())
    margin = 0.06 * (worst - best) or 0.05 * abs(worst) or 1.0
    axis.set_ylim(*sorted((sign * (best - margin), sign * (worst + margin))))


def _target(axis: Axes, results: Results, problem: str, quantity: str | None) -> None:
    runs = results.runs[results.runs["problem"] == problem]
    target = float(runs["target"].iloc[0])
    if np.isfinite(target) and quantity in (None, runs["metric"].iloc[0]):
        axis.axhline(target, color="0.35", lw=0.8, ls=(0, (2, 2)), zorder=0.5)


def _title(band: str) -> str:
    return "" if band == "none" else f"mean over seeds;\nband: {BANDS[band]}"


def handles(names: Iterable[str], chosen: Mapping[str, Style]) -> list[Any]:
    """A line for each optimizer, for `legend`."""
    from matplotlib.lines import Line2D

    return [Line2D([], [], label=shown(name), **chosen[name].line) for name in names]
