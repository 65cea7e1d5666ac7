"""Figures, by matplotlib (the extra `report`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from deepobs_func.analysis.published import Baseline
from deepobs_func.records import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS = {"test_losses": "test loss", "test_accuracies": "test accuracy"}
_SYNTHETIC = "STAND-IN DATA: NOT A RESULT"
_WINDOW = 10  # records in the running mean of the mini-batch losses
# Told apart by colour-blind readers; where they are used up, by their dashes.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933")
_DASHES = ("-", "--", ":", "-.")
_KNOWN = ("sgd", "momentum", "adam", "adamw", "rmsprop", "nesterov", "newton_cg", "adahessian", "sophia_h", "sgd_cabs")


class Style(NamedTuple):
    """How the curves of an optimizer are drawn."""

    colour: str
    dashes: str


def styles(names: Iterable[str]) -> dict[str, Style]:
    """A style of its own for each name, as far as there are: 8 colours, and then dashes.

    A functional optimizer has the same one in every figure. Another name has that which its hash says, or the next one
    where that is taken.

    >>> styles(["adam", "mine"])["adam"] == styles(["sgd", "momentum", "adam"])["adam"]
    True
    """
    names = list(dict.fromkeys(names))
    every = [Style(colour, dashes) for dashes in _DASHES for colour in _COLOURS]
    found = {name: every[_KNOWN.index(name)] for name in names if name in _KNOWN}
    for name in names:
        if name not in found:
            start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % len(_COLOURS)
            order = every[start : len(_COLOURS)] + every[:start] + every[len(_COLOURS) :]
            found[name] = next((style for style in order if style not in found.values()), order[0])
    return found


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
    figure, panels = _figure(len(baselines))
    chosen = styles(baseline.optimizer for baseline in baselines)
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

    figure, (left, right) = _figure(2)
    chosen = styles(groups)
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


def _figure(panels: int) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * panels, 3.8), layout="constrained")
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _finish(
    figure: Figure, panels: Sequence[Axes], title: str, groups: Mapping[str, Sequence[RunRecord]], path: Path
) -> None:
    for axis in panels:
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    synthetic = any(run.synthetic for runs in groups.values() for run in runs)
    figure.suptitle(f"{title}\n{_SYNTHETIC}" if synthetic else title, color="#b00020" if synthetic else None)
    figure.savefig(path, dpi=150)


def _draw(
    axis: Axes, series: Sequence[Sequence[float]], epochs: Sequence[float], name: str, style: Style, marker: str = ""
) -> None:
    """Each run thin, their mean thick."""
    for values in series:
        axis.plot(epochs, values, color=style.colour, alpha=0.25, linewidth=0.7)
    means = [fmean(values) for values in zip(*series, strict=True)]
    label = f"{name}, mean of {len(series)} seeds"
    axis.plot(epochs, means, color=style.colour, linestyle=style.dashes, linewidth=1.6, marker=marker, label=label)


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
