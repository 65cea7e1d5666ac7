"""Figures, by matplotlib (the extra `report`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from deepobs_func.analysis.published import Baseline
from deepobs_func.records import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRICS = {"test_losses": "test loss", "test_accuracies": "test accuracy"}
_SYNTHETIC = "STAND-IN DATA: NOT A RESULT"
_COLOURS = ("#0072b2", "#d55e00", "#009e73")  # told apart by colour-blind readers


def curves(
    groups: Mapping[str, Sequence[RunRecord]], metric: str, title: str, path: Path, baselines: Sequence[Baseline] = ()
) -> None:
    """Draws the curves of some groups of runs, each with its mean, and the published band where there is one.

    Args:
        groups: runs by the name of their optimizer; one panel for each where there are baselines, else one for all.
        metric: `"test_losses"` or `"test_accuracies"`.
        title: over the figure.
        path: the PNG file.
        baselines: the band is their mean plus and minus two standard deviations.
    """
    from matplotlib.figure import Figure

    bands = {baseline.optimizer: baseline for baseline in baselines}
    panels = len(groups) if bands else 1
    figure = Figure(figsize=(4.2 * panels if bands else 6.4, 3.8), layout="constrained")
    axes: Sequence[Axes] = figure.subplots(1, panels, squeeze=False, sharey=True)[0]
    for index, (name, runs) in enumerate(groups.items()):
        axis = axes[index if bands else 0]
        if name in bands:
            _draw_band(axis, bands[name])
            axis.set_title(name)
        _draw_runs(axis, runs, metric, name, _COLOURS[index % len(_COLOURS)])
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    axes[0].set_ylabel(METRICS[metric])
    if bands:
        axes[0].set_ylim(*_limits(baselines))
    synthetic = any(run.synthetic for runs in groups.values() for run in runs)
    figure.suptitle(f"{title}\n{_SYNTHETIC}" if synthetic else title, color="#b00020" if synthetic else None)
    figure.savefig(path, dpi=150)


def _draw_band(axis: Any, baseline: Baseline) -> None:
    epochs = range(len(baseline.curve_mean))
    pairs = list(zip(baseline.curve_mean, baseline.curve_sd, strict=True))
    axis.fill_between(
        epochs,
        [mean - 2 * sd for mean, sd in pairs],
        [mean + 2 * sd for mean, sd in pairs],
        color="0.75",
        label=f"published, {baseline.seeds} seeds: mean ± 2 sd",
    )


def _draw_runs(axis: Any, runs: Sequence[RunRecord], metric: str, name: str, colour: str) -> None:
    series = [getattr(run, metric) for run in runs]
    for values in series:
        axis.plot(values, color=colour, alpha=0.25, linewidth=0.7)
    label = f"{name}, {len(runs)} seeds: mean"
    axis.plot([fmean(values) for values in zip(*series, strict=True)], color=colour, linewidth=1.6, label=label)


def _limits(baselines: Sequence[Baseline]) -> tuple[float, float]:
    """Vertical limits that show the second half of the published curves, where the verdict is."""
    late = [
        (mean - 4 * sd, mean + 4 * sd)
        for baseline in baselines
        for mean, sd in list(zip(baseline.curve_mean, baseline.curve_sd, strict=True))[baseline.epochs // 4 :]
        if math.isfinite(mean)
    ]
    return min(low for low, _ in late), max(high for _, high in late)
