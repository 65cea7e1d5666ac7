"""Quantities of each layer over the steps, and spectral densities as they change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepobs_func.analysis.figures.one_run import of_problem, problem_with_some, scale_axis
from deepobs_func.analysis.figures.series import chosen
from deepobs_func.analysis.figures.style import any_synthetic, grid, mark, shown, style
from deepobs_func.errors import ConfigError, DataError, option, unknown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from deepobs_func.analysis.results import Results

_ENTRY = r"^hess_spectrum(?P<over>(?: \(.*\))?)\[(?P<row>\d+),(?P<place>\d+)\]$"
"""The name of a number of a density, as `analysis.parsing` makes it: over what, which row, which point."""
_MOST_LINES = 12  # that are named in a panel


def layers(
    results: Results, quantities: Sequence[str] = (), *, problem: str | None = None, mode: str = "most"
) -> Figure:
    """Draws quantities of each layer over the steps: a panel for each quantity and optimizer, a line for each layer.

    Args:
        results: what was read.
        quantities: which, as `grad_norm`; by default all that were tracked of each layer.
        problem: of which; by default the only one that has any.
        mode: how the setting of each optimizer is chosen, as in `Results.best`. Of it, the first seed is drawn.

    Returns:
        The figure, for `save`. Layers go from dark to light in their order.

    Raises:
        DataError: nothing was tracked of layers.
        ConfigError: there is no such quantity or problem, or several problems have some.
    """
    name = problem_with_some(results, problem)
    frame = of_problem(results, name)
    frame = frame[frame["quantity"].astype(str).str.contains("/")].assign(quantity=lambda f: f["quantity"].astype(str))
    if frame.empty:
        raise DataError(f"No quantity of each layer is there for {name}. Run it with --track grad_norm/layer.")
    there = list(dict.fromkeys(each.partition("/")[0] for each in frame["quantity"]))
    for each in quantities:
        if each.removesuffix("/layer") not in there:
            raise ConfigError(f"{option('quantity')}: {unknown('quantity of each layer', each, there)}")
    wanted = [each.removesuffix("/layer") for each in quantities] or there
    runs = _first_runs(results, name, frame, mode)
    with style():
        figure, axes = grid(len(wanted) * len(runs), len(runs) if len(runs) > 1 else 2, 4.2, 3.0)
        panels = [(quantity, optimizer, run) for quantity in wanted for optimizer, run in runs.items()]
        for axis, (quantity, optimizer, run) in zip(axes, panels, strict=False):
            own = frame[(frame["run"] == run) & frame["quantity"].str.startswith(f"{quantity}/")]
            _lines(axis, own, len(quantity) + 1)
            scale_axis(axis, quantity)
            axis.set_title(f"{quantity}, {shown(optimizer)}")
        figure.suptitle(shown(name))
    return mark(figure, any_synthetic(results, (name,)))


def densities(results: Results, *, problem: str | None = None, mode: str = "most") -> Figure:
    """Draws spectral densities of the Hessian, from dark to light in the order of steps.

    There is a panel for each optimizer and, where it was probed over several things, for each of these.

    Args:
        results: what was read; runs with `hess_spectrum` tracked or probed.
        problem, mode: as in `layers`.

    Returns:
        The figure, for `save`.

    Raises:
        DataError: no run has a density.
        ConfigError: there is no such problem, or several problems have some.
    """
    name = problem_with_some(results, problem)
    frame = of_problem(results, name)
    parts = frame["quantity"].astype(str).str.extract(_ENTRY)
    frame = frame.assign(over=parts["over"], row=parts["row"], place=parts["place"]).dropna(subset=["row"])
    if frame.empty:
        raise DataError(f"No run of {name} has a spectral density. Run it with --track spectrum, or probe it.")
    runs = _first_runs(results, name, frame, mode)
    with style():
        panels = [
            (f"{shown(optimizer)}{over}", own)
            for optimizer, run in runs.items()
            for over, own in frame[frame["run"] == run].groupby("over", sort=False)
        ]
        figure, axes = grid(len(panels), min(3, len(panels)), 4.6, 3.2)
        for axis, (title, own) in zip(axes, panels, strict=False):
            steps = sorted(own["step"].unique())
            highest = 0.0
            for colour, step in zip(_ramp(len(steps)), steps, strict=True):
                points, heights = _density(own[own["step"] == step])
                axis.semilogy(points, np.where(heights > 0, heights, np.nan), color=colour, label=f"step {step:.0f}")
                highest = max(highest, float(heights.max()))
            axis.set(xlabel="eigenvalue", ylabel="density", ylim=(highest * 1e-6, highest * 3), title=title)
            if len(steps) <= _MOST_LINES:
                axis.legend()
        figure.suptitle(shown(name))
    return mark(figure, any_synthetic(results, (name,)))


def _first_runs(results: Results, problem: str, frame: pd.DataFrame, mode: str) -> dict[str, int]:
    """By optimizer, the run that is drawn: of the setting that stands for it, the first seed that has something."""
    some, found = set(frame["run"]), {}
    for optimizer in results.optimizers_on(problem):
        setting = chosen(results, problem, optimizer, mode)
        runs = [run for run in (setting.runs if setting else ()) if run in some]
        own = results.runs[(results.runs["problem"] == problem) & (results.runs["optimizer"] == optimizer)]
        runs = runs or [int(run) for run in own.index if run in some]  # a run that is not complete, too
        if runs:
            found[optimizer] = min(runs, key=lambda run: results.row(run)["seed"])
    return found


def _lines(axis: Axes, frame: pd.DataFrame, skip: int) -> None:
    names = list(dict.fromkeys(frame["quantity"]))
    for colour, name in zip(_ramp(len(names)), names, strict=True):
        values = frame[frame["quantity"] == name].set_index("step")["value"].sort_index()
        axis.plot(values.index, values, color=colour, label=shown(name[skip:]))
    if len(names) <= _MOST_LINES:
        axis.legend()


def _density(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Grid and density, in the order of the grid."""
    rows: dict[str, dict[int, float]] = {"0": {}, "1": {}}
    for row, place, value in zip(frame["row"], frame["place"], frame["value"], strict=True):
        rows[row][int(place)] = float(value)
    grid_points, heights = (np.array([row[place] for place in sorted(row)]) for row in rows.values())
    return grid_points, heights


def _ramp(count: int) -> list[tuple[float, ...]]:
    """Colours from dark to light, all of which stand out from white."""
    from matplotlib import colormaps

    return [tuple(colormaps["viridis"](0.85 * index / max(1, count - 1))) for index in range(count)]
