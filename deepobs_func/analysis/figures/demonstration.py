"""The two figures of the demonstration, of records: beside published curves, and of the training itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from deepobs_func.analysis.figures.style import Style, grid, mark, save, shown, style, styles
from deepobs_func.analysis.published import Baseline
from deepobs_func.records import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS = {"test_losses": "test loss", "test_accuracies": "test accuracy"}
_WINDOW = 10  # records in the running mean of the mini-batch losses


def against_published(
    groups: Mapping[str, Sequence[RunRecord]], baselines: Sequence[Baseline], title: str, path: Path
) -> None:
    """Draws each optimizer's test curves over the published band, one panel an optimizer.

    Args:
        groups: runs by the name of their optimizer.
        baselines: the published settings of the same names; the band is their mean ± 2 standard deviations.
        title: over the figure.
        path: the PNG file.
    """
    chosen = styles(baseline.optimizer for baseline in baselines)
    with style():
        figure, panels = grid(len(baselines), 4, 4.4, 3.8)
        for axis, baseline in zip(panels, baselines, strict=True):
            series = [getattr(run, baseline.metric) for run in groups[baseline.optimizer]]
            low, high = _band(baseline, 2.0)
            label = f"published, {baseline.seeds} seeds: mean ± 2 sd"
            axis.fill_between(range(len(low)), low, high, color="0.75", label=label)
            _draw(axis, series, range(len(series[0])), "ours", chosen[baseline.optimizer])
            axis.set_title(baseline.optimizer)
            axis.set_ylabel(METRICS[baseline.metric])
            axis.set_ylim(*_limits(baseline))
        _finish(figure, panels, title, groups, path)


def training(groups: Mapping[str, Sequence[RunRecord]], metric: str, title: str, path: Path) -> None:
    """Draws the mini-batch training losses, smoothed, and the test metric after each epoch, one colour a group.

    Args:
        groups: runs by name.
        metric: `"test_losses"` or `"test_accuracies"`.
        title: over the figure.
        path: the PNG file.
    """
    from matplotlib.ticker import MaxNLocator

    chosen = styles(groups)
    with style():
        figure, (left, right) = grid(2, 2, 4.4, 3.8)
        for name, runs in groups.items():
            losses = [_smoothed(run.minibatch_train_losses) for run in runs]
            epochs = [runs[0].num_epochs * (index + 1) / len(losses[0]) for index in range(len(losses[0]))]
            _draw(left, losses, epochs, name, chosen[name])
            series = [getattr(run, metric)[1:] for run in runs]
            _draw(right, series, range(1, runs[0].num_epochs + 1), name, chosen[name], "o")
        left.set_ylabel(f"mini-batch training loss, mean of {_WINDOW} records")
        right.set_ylabel(METRICS[metric])
        right.xaxis.set_major_locator(MaxNLocator(integer=True))
        _finish(figure, (left, right), title, groups, path)


def _finish(
    figure: Figure, panels: Sequence[Axes], title: str, groups: Mapping[str, Sequence[RunRecord]], path: Path
) -> None:
    for axis in panels:
        axis.set_xlabel("epoch")
        axis.legend()
    figure.suptitle(title)
    save(mark(figure, any(run.synthetic for runs in groups.values() for run in runs)), path)


def _draw(
    axis: Axes, series: Sequence[Sequence[float]], epochs: Sequence[float], name: str, look: Style, marker: str = ""
) -> None:
    """Each run thin, their mean thick."""
    for values in series:
        axis.plot(epochs, values, color=look.colour, alpha=0.25, linewidth=0.7)
    means = [fmean(values) for values in zip(*series, strict=True)]
    axis.plot(epochs, means, **look.line, marker=marker, ms=4, label=f"{shown(name)}, mean of {len(series)} seeds")


def _smoothed(values: Sequence[float]) -> list[float]:
    return [fmean(values[max(0, index - _WINDOW + 1) : index + 1]) for index in range(len(values))]


def _band(baseline: Baseline, width: float) -> tuple[list[float], list[float]]:
    pairs = list(zip(baseline.curve_mean, baseline.curve_sd, strict=True))
    return [mean - width * sd for mean, sd in pairs], [mean + width * sd for mean, sd in pairs]


def _limits(baseline: Baseline) -> tuple[float, float]:
    """Vertical limits that show the later three quarters of the published curve, where the verdict is."""
    low, high = _band(baseline, 4.0)
    start = baseline.epochs // 4
    return min(low[start:]), max(high[start:])
