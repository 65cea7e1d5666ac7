"""Quantities that a run tracked, over its steps; a panel of all that is known of one run; spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepobs_func.analysis.figures.by_problem import empty, handles
from deepobs_func.analysis.figures.series import chosen as chosen_setting
from deepobs_func.analysis.figures.series import label
from deepobs_func.analysis.figures.style import COLOURS, any_synthetic, grid, legend, mark, shown, style, styles
from deepobs_func.errors import ConfigError, DataError, option, unknown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from deepobs_func.analysis.results import Results

_SIGNED = {"alpha", "early_stopping"}  # no logarithm, whatever the values
_DECADES = 1.5  # a quantity that spans more has a logarithmic axis
_WINDOW = 25  # records in the running median of a noisy quantity
_HISTOGRAM = "grad_hist_1d"
_PLANE = "grad_hist_2d"
_EDGE = 2.0  # of the bins of grad_hist_1d, and of those of the parameters in grad_hist_2d
PANEL: Mapping[str, tuple[str, ...]] = {
    "configuration": ("alpha", "update_size", "distance", "grad_norm"),
    "gradient noise": ("norm_test", "inner_test", "ortho_test", "noise_scale", "cabs", "early_stopping", "mean_gsnr"),
    "curvature": ("hess_max_ev", "hess_trace", "tic_trace", "tic_diag"),
}
"""The quantities of the panel, in the groups of Cockpit (Schneider, Dangel and Hennig, NeurIPS 2021)."""


def tracked(
    results: Results, quantities: Sequence[str] = (), *, problem: str | None = None, mode: str = "most"
) -> Figure:
    """Draws tracked quantities over the steps, one panel a quantity; thin each seed, thick their mean.

    Args:
        results: what was read.
        quantities: which; by default all of one number that were tracked.
        problem: of which; by default the only one that has any.
        mode: how the setting of each optimizer is chosen, as in `Results.best`.

    Returns:
        The figure, for `save`.

    Raises:
        DataError: nothing was tracked.
        ConfigError: there is no such quantity or problem, or several problems have some.
    """
    name = problem_with_some(results, problem)
    frame = of_problem(results, name)
    known = [each for each in dict.fromkeys(frame["quantity"].astype(str)) if "[" not in each]
    there = [each for each in known if "/" not in each]  # `layers` draws those of each layer
    for each in quantities:
        if each not in known:
            raise ConfigError(f"{option('quantity')}: {unknown('tracked quantity', each, known)}")
    wanted, every, looks = list(quantities) or there, results.optimizers, styles(results.optimizers)
    with style():
        figure, axes = grid(len(wanted), 3)
        for axis, quantity in zip(axes, wanted, strict=True):
            for optimizer in every:
                found = chosen_setting(results, name, optimizer, mode) if _ran(results, name, optimizer) else None
                runs = frame[frame["run"].isin(found.runs if found else ()) & (frame["quantity"] == quantity)]
                _curves(axis, runs, looks[optimizer].line)
            scale_axis(axis, quantity)
            axis.set_title(quantity)
        figure.suptitle(shown(name))
        legend(figure, handles([each for each in every if _ran(results, name, each)], looks))
    return mark(figure, any_synthetic(results, (name,)))


def panel(results: Results, run: int | None = None) -> Figure:
    """Draws all that is known of one run: losses, accuracy, and what it tracked, in the groups of Cockpit.

    Args:
        results: what was read.
        run: its number in `results.runs`; by default the only run, or the first that tracked something.

    Returns:
        The figure, for `save`.

    Raises:
        DataError: there is no run.
        ConfigError: there is no such run.
    """
    number = _run(results, run)
    row = results.row(number)
    frame = results.tracked[results.tracked["run"] == number]
    names = list(dict.fromkeys(frame["quantity"].astype(str)))
    there = [each for group in PANEL.values() for each in group if each in names]
    custom = [each for each in names if each not in there and not {"[", "/"} & set(each)]
    histogram = [f"{_HISTOGRAM}[{i}]" for i in range(100)]
    has_histogram = set(histogram) <= set(names)
    has_plane = f"{_PLANE}[0,0]" in names
    quantities = [*there, *custom]
    colour = styles(results.optimizers)[row["optimizer"]].line
    with style():
        figure, axes = grid(2 + has_histogram + has_plane + len(quantities), 4, 3.0, 2.2)
        _losses(axes[0], results, number, colour)
        _accuracies(axes[1], results, number)
        if has_histogram:
            _heat(axes[2], frame, histogram)
        if has_plane:
            _plane(axes[2 + has_histogram], frame)
        for axis, quantity in zip(axes[2 + has_histogram + has_plane :], quantities, strict=True):
            _one(axis, frame[frame["quantity"] == quantity], colour)
            scale_axis(axis, quantity)
            group = next((group for group, members in PANEL.items() if quantity in members), "")
            axis.set_title(quantity + (f" ({group})" if group else ""))
        title = f"{row['problem']}, {row['optimizer']}, lr {row['lr']:.4g}, seed {row['seed']}: {row['status']}"
        figure.suptitle(title.replace("$", r"\$"))
    return mark(figure, row["data"] == "synthetic")


def spectrum(
    grid_points: Sequence[float], density: Mapping[str, Sequence[float]] | Sequence[float], *, title: str = ""
) -> Figure:
    """Draws spectral densities, such as those of `probes.spectral_density`, on a logarithmic axis.

    Args:
        grid_points: where the density is, `(G,)`.
        density: `(G,)`, or several by name.
        title: over the figure.

    Returns:
        The figure, for `save`.

    Raises:
        DataError: a density is not as long as the grid.
    """
    several = density if isinstance(density, Mapping) else {"": density}
    points = np.asarray(grid_points, dtype=float)
    with style():
        figure, (axis,) = grid(1, 1, 5.0, 3.4)
        for colour, (name, values) in zip(_colours(len(several)), several.items(), strict=True):
            heights = np.asarray(values, dtype=float)
            if heights.shape != points.shape:
                raise DataError(f"The density has shape {heights.shape}, the grid {points.shape}: they must be equal.")
            axis.semilogy(points, np.where(heights > 0, heights, np.nan), color=colour, label=shown(name))
            axis.fill_between(points, heights, 1e-8, color=colour, alpha=0.15, lw=0)
        highest = max(float(np.max(values)) for values in several.values())
        axis.set(xlabel="eigenvalue", ylabel="density", ylim=(highest * 1e-6, highest * 3), title=title)
        if isinstance(density, Mapping):
            axis.legend()
    return figure


def _colours(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def problem_with_some(results: Results, problem: str | None) -> str:
    """The problem that is drawn, which has tracked quantities.

    Raises:
        DataError: nothing was tracked.
        ConfigError: there is no such problem, or several have some and none is named.
    """
    with_some = list(dict.fromkeys(results.runs.loc[results.tracked["run"].unique(), "problem"]))
    if not with_some:
        raise DataError("No run tracked anything. Run it with --track economy.")
    if problem is None and len(with_some) > 1:
        raise ConfigError(
            f"{option('problem')}: several problems have tracked quantities, {', '.join(with_some)}. Name one."
        )
    if problem is not None and problem not in with_some:
        raise ConfigError(f"{option('problem')}: {unknown('problem with tracked quantities', problem, with_some)}")
    return problem or with_some[0]


def of_problem(results: Results, problem: str) -> pd.DataFrame:
    """What was tracked on a problem."""
    runs = results.runs.index[results.runs["problem"] == problem]
    return results.tracked[results.tracked["run"].isin(runs)]


def _ran(results: Results, problem: str, optimizer: str) -> bool:
    return bool(((results.runs["problem"] == problem) & (results.runs["optimizer"] == optimizer)).any())


def _run(results: Results, run: int | None) -> int:
    if run is not None and run not in results.runs.index:
        raise ConfigError(
            f"{option('run')} {run}: the runs are {min(results.runs.index)} to {max(results.runs.index)}."
        )
    if run is None and not len(results.runs):
        raise DataError("There is no run to draw.")
    some = results.tracked["run"]
    first = int(some.iloc[0]) if len(some) else int(results.runs.index[0])
    return first if run is None else run


def _curves(axis: Axes, runs: pd.DataFrame, look: dict[str, Any]) -> None:
    if runs.empty:
        return
    table = runs.pivot(index="step", columns="run", values="value").sort_index()
    if table.shape[1] > 1:
        axis.plot(table.index, table, color=look["color"], alpha=0.25, lw=0.6)
    mean = table.mean(axis=1, skipna=False)
    axis.plot(mean.index, mean, **look)


def _one(axis: Axes, frame: pd.DataFrame, look: dict[str, Any]) -> None:
    values = frame.set_index("step")["value"].sort_index()
    axis.plot(values.index, values, ".", ms=2, color=look["color"], alpha=0.35)
    window = min(_WINDOW, max(1, len(values) // 8))
    axis.plot(values.index, values.rolling(window, min_periods=1, center=True).median(), **look)


def scale_axis(axis: Axes, quantity: str) -> None:
    """A logarithmic axis for a positive quantity that spans decades."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_xlabel("step")
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axis.lines] or [np.empty(0)])
    values = values[np.isfinite(values)]
    if not values.size:
        empty(axis, "nothing finite")
    elif quantity not in _SIGNED and values.min() > 0 and np.log10(values.max() / values.min()) > _DECADES:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(numticks=6))
        axis.yaxis.set_minor_formatter(NullFormatter())
    else:
        _without_outliers(axis, values)
    if quantity == "alpha":
        axis.axhline(0.0, color="0.35", lw=0.8, ls=(0, (2, 2)))


def _without_outliers(axis: Axes, values: Any) -> None:
    """Few values far off are no scale for all."""
    if np.ptp(values) < 1e-4 * np.abs(values).max():  # rounding is not to be seen
        middle = float(values.mean())
        axis.set_ylim(middle - 0.05 * abs(middle), middle + 0.05 * abs(middle))
        return
    low, high = np.quantile(values, (0.03, 0.97))
    if np.ptp(values) > 4 * (high - low) > 0:
        axis.set_ylim(low - 0.5 * (high - low), high + 0.5 * (high - low))


def _losses(axis: Axes, results: Results, run: int, look: dict[str, Any]) -> None:
    steps = results.steps[results.steps["run"] == run]
    row = results.row(run)
    epochs = np.arange(len(results.values(run, "train_loss")))
    per_epoch = row["steps_per_epoch"]
    if len(steps) and np.isfinite(per_epoch):
        axis.plot(steps["step"] / per_epoch, steps["loss"], lw=0.5, alpha=0.5, color=look["color"], label="mini-batch")
    for colour, split in zip(("#d55e00", "#009e73", "#000000"), ("train", "valid", "test"), strict=True):
        values = results.values(run, f"{split}_loss")
        if not np.isnan(values).all():
            axis.plot(epochs, values, color=colour, label=split, lw=1.2)
    axis.set(title="loss", xlabel="epoch")
    lines = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axis.lines] or [np.empty(0)])
    finite = lines[np.isfinite(lines)]
    if finite.size and finite.min() > 0 and finite.max() / finite.min() > 30:
        axis.set_yscale("log")
    axis.legend()


def _accuracies(axis: Axes, results: Results, run: int) -> None:
    found = False
    for colour, split in zip(("#d55e00", "#009e73", "#000000"), ("train", "valid", "test"), strict=True):
        values = results.values(run, f"{split}_accuracy")
        if not np.isnan(values).all():
            axis.plot(np.arange(len(values)), values, color=colour, label=split, lw=1.2)
            found = True
    axis.set_title(label("accuracy"))
    if found:
        axis.set_xlabel("epoch")
        axis.legend(loc="lower right")
    else:
        empty(axis, "the problem has none")


def _heat(axis: Axes, frame: pd.DataFrame, names: Sequence[str]) -> None:
    """The histogram of gradient elements over the steps, counts on a logarithmic scale."""
    table = frame[frame["quantity"].isin(names)].assign(quantity=lambda part: part["quantity"].astype(str))
    counts = table.pivot(index="quantity", columns="step", values="value").loc[list(names)]
    steps = counts.columns.to_numpy(dtype=float)
    image = axis.imshow(
        np.log10(1 + counts.to_numpy(dtype=float)),
        aspect="auto",
        origin="lower",
        cmap="cividis",
        extent=(steps[0], steps[-1] if len(steps) > 1 else steps[0] + 1, -_EDGE, _EDGE),
    )
    axis.grid(visible=False)
    axis.set(title="gradient elements", xlabel="step", ylabel="value")
    axis.figure.colorbar(image, ax=axis, label="lg(1 + count)")


def _plane(axis: Axes, frame: pd.DataFrame) -> None:
    """The last histogram of gradient elements over the values of their parameters, counts on a logarithmic scale."""
    table = frame[frame["quantity"].astype(str).str.startswith(f"{_PLANE}[")]
    table = table[table["step"] == table["step"].max()]
    places = [tuple(map(int, str(name)[len(_PLANE) + 1 : -1].split(","))) for name in table["quantity"]]
    counts = np.zeros(np.max(places, axis=0) + 1)
    counts[tuple(np.transpose(places))] = table["value"].to_numpy(dtype=float)
    image = axis.imshow(
        np.log10(1 + counts), aspect="auto", origin="lower", cmap="cividis", extent=(-_EDGE, _EDGE, -1.0, 1.0)
    )
    axis.grid(visible=False)
    axis.set(title=f"gradient elements, step {table['step'].max():.0f}", xlabel="parameter", ylabel="gradient")
    axis.figure.colorbar(image, ax=axis, label="lg(1 + count)")
