"""Where an optimizer went on a function of two variables, over its contours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from deepobs_func.analysis.figures.by_problem import handles
from deepobs_func.analysis.figures.series import chosen as chosen_setting
from deepobs_func.analysis.figures.style import any_synthetic, grid, legend, mark, shown, style, styles
from deepobs_func.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from deepobs_func.analysis.results import Results

    Array = NDArray[np.float64]


def _rosenbrock(u: Any, v: Any) -> Any:
    return (1 - u) ** 2 + 100 * (v - u**2) ** 2


def _beale(u: Any, v: Any) -> Any:
    return (1.5 - u + u * v) ** 2 + (2.25 - u + u * v**2) ** 2 + (2.625 - u + u * v**3) ** 2


def _branin(u: Any, v: Any) -> Any:
    inner = v - 5.1 / (4 * np.pi**2) * u**2 + 5 / np.pi * u - 6
    return inner**2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(u) + 10


FUNCTIONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "two_d_rosenbrock": _rosenbrock,
    "two_d_beale": _beale,
    "two_d_branin": _branin,
}
"""The functions without their noise, whose mean is zero (REFERENCE: `loss(u, v) + u x + v y`)."""
MINIMA: Mapping[str, tuple[tuple[float, float], ...]] = {
    "two_d_rosenbrock": ((1.0, 1.0),),
    "two_d_beale": ((3.0, 0.5),),
    "two_d_branin": ((-np.pi, 12.275), (np.pi, 2.275), (9.42478, 2.475)),
}
_POINTS = 200  # of the grid, each way


def trajectories(results: Results, *, mode: str = "most") -> Figure:
    """Draws the positions of runs that tracked them over the contours of the function, one panel a problem.

    One run of each optimizer is drawn, the first seed of the setting that stands for it. A circle is where it started,
    a square where it ended, a star a minimum.

    Args:
        results: what was read; runs made with `--track position` have what is drawn.
        mode: as in `Results.best`.

    Returns:
        The figure, for `save`.

    Raises:
        DataError: no run of a `two_d` problem tracked its position.
    """
    found = {name: positions(results, name, mode) for name in FUNCTIONS if name in results.problems}
    found = {name: walks for name, walks in found.items() if walks}
    if not found:
        raise DataError(
            "No run of two_d_rosenbrock, two_d_beale or two_d_branin has its positions. Run it with --track position."
        )
    names = [name for name in results.optimizers if any(name in walks for walks in found.values())]
    looks = styles(results.optimizers)
    with style():
        figure, axes = grid(len(found), 3, 4.2, 3.6)
        for axis, (problem, walks) in zip(axes, found.items(), strict=True):
            u, v, height = surface(problem, list(walks.values()))
            axis.contourf(u, v, height, levels=24, cmap="Greys", alpha=0.55)
            axis.contour(u, v, height, levels=24, colors="0.55", linewidths=0.35)
            for name, walk in walks.items():
                line = looks[name].line
                axis.plot(*walk.T, **{**line, "linewidth": 1.3})
                axis.plot(*walk[0], "o", ms=5, color="white", mec="black", mew=0.8, zorder=4)
                axis.plot(*walk[-1], "s", ms=5, color=line["color"], mec="white", mew=0.7, zorder=5)
            for minimum in MINIMA[problem]:
                if u[0] <= minimum[0] <= u[-1] and v[0] <= minimum[1] <= v[-1]:
                    axis.plot(*minimum, "*", ms=11, color="white", mec="black", mew=0.8, zorder=3)
            axis.set(title=shown(problem), xlabel="u", ylabel="v", xlim=(u[0], u[-1]), ylim=(v[0], v[-1]))
            axis.grid(visible=False)
        legend(figure, [*handles(names, looks), *_marks()])
    return mark(figure, any_synthetic(results, found))


def positions(results: Results, problem: str, mode: str = "most") -> dict[str, Array]:
    """The positions of one run of each optimizer that tracked them, `(steps, 2)`, as far as they are finite."""
    found = {}
    for name in results.optimizers:
        if not ((results.runs["problem"] == problem) & (results.runs["optimizer"] == name)).any():
            continue
        setting = chosen_setting(results, problem, name, mode)
        runs = setting.runs if setting else ()
        tracked = results.tracked[results.tracked["run"].isin(runs)]
        tracked = tracked[tracked["quantity"].isin(["position[0]", "position[1]"])]
        if tracked.empty:
            continue
        first = tracked[tracked["run"] == tracked["run"].iloc[0]]
        table = first.pivot(index="step", columns="quantity", values="value").sort_index().to_numpy(dtype=float)
        finite = np.isfinite(table).all(axis=1)
        end = len(table) if finite.all() else int(np.argmin(finite))
        if end:
            found[name] = table[:end]
    return found


def surface(problem: str, walks: list[Array]) -> tuple[Array, Array, Array]:
    """A grid around the walks and the minima, and the logarithm of the function there.

    Args:
        problem: one of `FUNCTIONS`.
        walks: positions, `(steps, 2)` each. One that leaves the neighbourhood of the start and the minima is cut off.

    Returns:
        `(200,)`, `(200,)` and `(200, 200)`.
    """
    points = np.array([*MINIMA[problem][:1], *(walk[0] for walk in walks)])
    reach = np.ptp(points, axis=0) + 1.0
    inside = np.concatenate([points, *walks])
    near = (np.abs(inside - points.mean(axis=0)) <= 2.0 * reach).all(axis=1)
    low, high = inside[near].min(axis=0), inside[near].max(axis=0)
    margin = 0.15 * (high - low) + 0.2
    u, v = (np.linspace(low[i] - margin[i], high[i] + margin[i], _POINTS) for i in (0, 1))
    height = FUNCTIONS[problem](u[None, :], v[:, None])
    return u, v, np.log10(height - height.min() + 1e-2)


def _marks() -> list[Any]:
    from matplotlib.lines import Line2D

    shapes = (("start", "o", "white", "black"), ("end", "s", "0.5", "white"), ("minimum", "*", "white", "black"))
    return [
        Line2D([], [], ls="", marker=marker, mfc=face, mec=edge, ms=7, label=text)
        for text, marker, face, edge in shapes
    ]
