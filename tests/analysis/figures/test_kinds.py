"""Every kind of figure: what is drawn is what the runs say, and odd runs are drawn as far as they go."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deepobs_func.analysis import figures, load
from deepobs_func.analysis.figures.paths import FUNCTIONS, MINIMA
from deepobs_func.analysis.figures.series import middle, series
from deepobs_func.analysis.figures.style import SYNTHETIC
from deepobs_func.analysis.profiles import scores
from deepobs_func.analysis.reports.scoring import costs, times_to_target
from deepobs_func.analysis.results import Results
from deepobs_func.errors import ConfigError, DataError
from tests.analysis import made

LEVELS = {"quadratic_deep": {"adam": 0.2, "sgd": 0.4}, "mine": {"adam": 0.3, "sgd": 0.25, "优化器": 0.1}}
STEPS = list(range(0, 50, 10))
POSITIONS = [[-0.5, 1.5], [0.0, 1.0], [0.5, 0.5], [0.9, 0.9], [math.inf, math.nan]]


def tracked(**quantities: list[object]) -> dict[str, object]:
    return {"tracked": {"every": 10, "bn": None, "steps": STEPS, "quantities": quantities}}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    records = made.benchmark(LEVELS, seeds=3, accuracy=("mine",))
    for lr in (0.01, 1.0, 10.0):
        curve = [1.0, 0.5, math.nan if lr == 10.0 else lr / 10]
        records.append(made.record("quadratic_deep", "sgd", curve, lr=lr))
    extra = tracked(
        grad_norm=[100.0, 10.0, 1.0, 0.1, 0.01],
        alpha=[-1.0, -0.5, 0.0, 0.5, 1.0],
        position=POSITIONS,
        grad_hist_1d=[list(range(100))] * 5,
        grad_hist_2d=[[[0, 1, 2], [3, 4, 5 + step]] for step in range(5)],
        mine=[1.0, 2.0, 3.0, 4.0, 5.0],
    )
    records += [made.record("two_d_rosenbrock", name, [9.0, 2.0, 1.0], **extra) for name in ("adam", "sgd")]
    return load(made.write(tmp_path_factory.mktemp("tree"), records))


def panel(figure: Figure, title: str) -> Axes:
    (found,) = (axis for axis in figure.axes if axis.get_title(loc="left") == title)
    return found


def test_a_curve_is_the_mean_of_its_seeds_and_the_band_is_theirs(results: Results) -> None:
    found = series(results, "mine", "adam")
    assert found is not None
    runs = results.runs[(results.runs["problem"] == "mine") & (results.runs["optimizer"] == "adam")].index
    every = np.array([results.values(run, "test_accuracy") for run in runs]).T
    np.testing.assert_allclose(found.mean, every.mean(axis=1))
    np.testing.assert_allclose(found.high - found.mean, every.std(axis=1, ddof=1))
    axis = panel(figures.curves(results), "mine")
    assert any(np.array_equal(line.get_ydata(), found.mean) for line in axis.lines)
    assert axis.get_ylabel() == "test accuracy"


def test_layers_have_a_line_each_and_densities_their_steps(tmp_path: Path) -> None:
    layers = {"grad_norm/layer": [[1.0, 2.0], [3.0, 4.0]], "hess_spectrum": [[[0.0, 1.0], [0.5, 0.25]]] * 2}
    extra = {"tracked": {"steps": [0, 10], "layers": ["first", "last"], "quantities": layers}}
    results = load(made.write(tmp_path / "tree", [made.record("mine", "adam", [1.0, 0.5], **extra)]))
    names = set(results.tracked["quantity"].astype(str))
    assert {"grad_norm/first", "grad_norm/last", "hess_spectrum[0,1]"} <= names
    axis = panel(figures.layers(results), "grad_norm, adam")
    assert [list(line.get_ydata()) for line in axis.lines] == [[1.0, 3.0], [2.0, 4.0]]
    assert [line.get_label() for line in axis.lines] == ["first", "last"]
    axis = panel(figures.densities(results), "adam")
    assert [list(line.get_ydata()) for line in axis.lines] == [[0.5, 0.25]] * 2
    assert [list(line.get_xdata()) for line in axis.lines] == [[0.0, 1.0]] * 2
    with pytest.raises(ConfigError, match="quantity: Unknown quantity of each layer 'grad_nrm'"):
        figures.layers(results, ["grad_nrm"])
    assert [axis.get_title(loc="left") for axis in figures.panel(results).axes] == ["loss", "accuracy"]


def test_densities_over_a_data_set_have_a_panel_of_their_own(tmp_path: Path) -> None:
    def density(over: str, batches: int | None, high: float) -> dict[str, Any]:
        column = {"steps": [5], "values": [[[0.0, 1.0], [0.5, high]]]}
        return {"over": over, "batches": batches, "quantities": {"hess_spectrum": column}}

    def drawn(*probed: dict[str, Any]) -> dict[str, list[float]]:
        folder = tmp_path / str(len(probed))
        figure = figures.densities(load(made.write(folder, [made.record("mine", "adam", [1.0, 0.5], probed=probed)])))
        return {axis.get_title(loc="left"): list(axis.lines[0].get_ydata()) for axis in figure.axes if axis.lines}

    assert drawn(density("train", None, 0.25)) == {"adam (train)": [0.5, 0.25]}
    several = (density("train", None, 0.25), density("batch", 1, 0.125), density("test", 2, 0.75))
    expected = {"adam (train)": [0.5, 0.25], "adam": [0.5, 0.125], "adam (test, 2 batches)": [0.5, 0.75]}
    assert drawn(*several) == expected


def test_batch_sizes_are_drawn_at_the_best_setting_of_each(tmp_path: Path) -> None:
    records = []
    for size, lr, end in ((32, 0.1, 0.4), (32, 1.0, 0.2), (128, 0.1, 0.3), (128, 1.0, math.nan)):
        for seed in (42, 43):
            record = made.record("mine", "sgd", [1.0, end + 0.01 * (seed - 42)], lr=lr, seed=seed)
            record.batch_size = size
            records.append(record)
    results = load(made.write(tmp_path / "tree", records))
    axis = panel(figures.batch_sizes(results), "mine")
    line = axis.lines[0]
    np.testing.assert_allclose(line.get_xdata(), [32, 128])
    np.testing.assert_allclose(line.get_ydata(), [0.205, 0.305])
    with pytest.raises(DataError, match="No optimizer has two batch sizes"):
        figures.batch_sizes(results.select(batch_size=32))


@pytest.mark.parametrize(
    ("band", "low", "high"), [("range", 1.0, 5.0), ("quartiles", 2.0, 4.0), ("none", math.nan, math.nan)]
)
def test_bands(band: str, low: float, high: float) -> None:
    runs = np.array([[1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, math.inf, 4.0, 5.0]])
    mean, lower, upper = middle(runs, band)
    np.testing.assert_array_equal(mean, [3.0, math.nan])
    np.testing.assert_array_equal(lower, [low, math.nan])
    np.testing.assert_array_equal(upper, [high, math.nan])


@pytest.mark.parametrize(("against", "last"), [("epoch", 6.0), ("seconds", 3.0), ("gradients", 42.0), ("cost", 42.0)])
def test_curves_against(results: Results, against: str, last: float) -> None:
    found = series(results, "mine", "sgd", against=against)
    assert found is not None
    assert found.x[-1] == last


def test_what_a_run_does_not_know_is_not_drawn(results: Results) -> None:
    assert series(results, "mine", "sgd", against="step") is None
    assert any("nothing recorded" in text.get_text() for text in figures.curves(results, against="step").axes[0].texts)
    with pytest.raises(ConfigError, match="Did you mean 'seconds'"):
        figures.curves(results, against="second")
    with pytest.raises(ConfigError, match="band"):
        figures.curves(results, band="wide")


def test_sensitivity_has_a_point_for_each_rate_and_marks_what_diverged(results: Results) -> None:
    axis = panel(figures.sensitivity(results), "quadratic_deep")
    points = [line for line in axis.lines if list(line.get_xdata()) == [0.01, 1.0] and line.get_marker() == "o"]
    assert len(points) == 1
    assert any(list(line.get_xdata()) == [10.0] and line.get_marker() == "x" for line in axis.lines)


def test_the_figures_of_the_paper_have_its_panels(results: Results) -> None:
    assert len(figures.sensitivity(results, paper=True).axes) == 8
    for which in ("small", "large"):
        assert len(figures.performance(results, which).axes) == 16
    assert len(figures.performance(results, "all").axes) == 4 * len(results.problems)
    with pytest.raises(ConfigError, match="Did you mean 'small'"):
        figures.performance(results, "smal")


def test_profile_and_differences(results: Results) -> None:
    whole = results.select(problem=["quadratic_deep", "mine"])
    assert figures.profile(times_to_target(whole)).axes[0].get_xlim() == (1.0, 4.0)
    texts = [text.get_text() for text in figures.profile(times_to_target(whole)).legends[0].get_texts()]
    assert texts == [f"{name}  {score:.3f}" for name, score in scores(times_to_target(whole)).items()]
    two = results.select(optimizer=["adam", "sgd"])
    texts = [text.get_text() for text in figures.critical_difference(costs(two), higher_is_better=False).axes[0].texts]
    assert [text.split()[0] for text in texts] == ["adam", "sgd"]


def test_tuning_rises_with_the_trials(results: Results) -> None:
    figure = figures.tuning(results)
    (line,) = panel(figure, "quadratic_deep").lines
    assert list(line.get_xdata()) == [1, 2, 3, 4]
    medians = np.asarray(line.get_ydata(), dtype=float)
    assert (np.diff(medians[np.isfinite(medians)]) <= 0).all()
    with pytest.raises(DataError, match="two settings"):
        figures.tuning(results.select(problem="mine"))


def test_targets_are_the_scores_at_each_tightness() -> None:
    moves = pd.DataFrame([[1.0, 0.5], [0.25, 0.0]], index=["adam", "sgd"], columns=[0.5, 1.0])
    (axis,) = figures.targets(moves).axes
    assert [list(line.get_ydata()) for line in axis.lines[:2]] == [[1.0, 0.5], [0.25, 0.0]]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["50%", "100%"]


def test_wins_are_against_the_best_or_a_reference(tmp_path: Path) -> None:
    records = [
        made.record("p", name, [1.0, final], lr=lr)
        for name, pair in (("adam", (0.1, 0.4)), ("sgd", (0.2, 0.3)), ("one", (0.5,)))
        for lr, final in enumerate(pair, 1)
    ]
    found = load(made.write(tmp_path, records))
    axis = panel(figures.wins(found), "p")
    assert axis.get_ylabel() == "P(beats adam)"
    np.testing.assert_allclose(axis.lines[0].get_ydata(), [0.5, 0.25])
    np.testing.assert_allclose(panel(figures.wins(found, "sgd"), "p").lines[0].get_ydata(), [0.5, 0.75])
    with pytest.raises(ConfigError, match="Did you mean 'adam'"):
        figures.wins(found, "adm")
    with pytest.raises(DataError, match="reference one: it has no two settings on a problem on which two others have"):
        figures.wins(found, "one")
    with pytest.raises(DataError, match="No two optimizers have two settings"):
        figures.wins(found.select(optimizer=["adam", "one"]), "one")


def test_tracked_quantities_and_their_scale(results: Results) -> None:
    figure = figures.tracked(results)
    assert panel(figure, "grad_norm").get_yscale() == "log"
    assert panel(figure, "alpha").get_yscale() == "linear"
    assert not [axis for axis in figure.axes if "[" in axis.get_title(loc="left")]
    with pytest.raises(ConfigError, match="Did you mean 'alpha'"):
        figures.tracked(results, ["alphas"])
    with pytest.raises(DataError, match="--track economy"):
        figures.tracked(results.select(problem="mine"))


def test_the_panel_of_a_run(results: Results) -> None:
    figure = figures.panel(results)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    elements = ["gradient elements", "gradient elements, step 40"]
    assert titles[:6] == ["loss", "accuracy", *elements, "alpha (configuration)", "grad_norm (configuration)"]
    np.testing.assert_allclose(figure.axes[3].images[0].get_array(), np.log10([[1, 2, 3], [4, 5, 10]]))
    assert "mine" in titles  # a quantity of the user's
    assert "two_d_rosenbrock, adam" in figure.get_suptitle()
    with pytest.raises(ConfigError, match="run 1000"):
        figures.panel(results, 1000)


def test_trajectories_end_where_they_are_not_finite(results: Results) -> None:
    axis = figures.trajectories(results).axes[0]
    lines = [line for line in axis.lines if len(line.get_xdata()) == 4]
    assert len(lines) == 2
    np.testing.assert_array_equal(lines[0].get_xydata(), POSITIONS[:4])
    with pytest.raises(DataError, match="--track position"):
        figures.trajectories(results.select(problem="mine"))


@pytest.mark.parametrize("problem", list(FUNCTIONS))
def test_the_functions_are_those_of_the_problems(problem: str) -> None:
    """The same values as the problem's loss without noise, and no neighbour of a minimum is lower."""
    import torch

    from deepobs_func import problems
    from deepobs_func.base import Batch

    there = problems.get(problem)
    params, _ = there.init(0)
    u, v = (float(value) for value in params.values())
    batch = there.fake_batch(4, 0)
    quiet: Batch = batch._replace(x=torch.zeros_like(batch.x), y=torch.zeros_like(batch.y))
    assert float(there.loss(params, quiet).mean()) == pytest.approx(FUNCTIONS[problem](u, v), rel=1e-5)
    for minimum in MINIMA[problem]:
        around = [FUNCTIONS[problem](minimum[0] + du, minimum[1] + dv) for du in (-0.01, 0.01) for dv in (-0.01, 0.01)]
        assert min(around) > FUNCTIONS[problem](*minimum) - 1e-4


def test_spectrum() -> None:
    axis = figures.spectrum([0.0, 1.0, 2.0], {"a": [1.0, 0.5, 0.0], "b": [0.1, 0.2, 0.3]}).axes[0]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b"]
    with pytest.raises(DataError, match="must be equal"):
        figures.spectrum([0.0, 1.0], [1.0])


KINDS: dict[str, Callable[[Results], Figure]] = {
    "curves": figures.curves,
    "performance": lambda results: figures.performance(results, "all"),
    "sensitivity": figures.sensitivity,
    "panel": figures.panel,
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_runs_that_diverged_at_once_are_said_to(tmp_path: Path, kind: str) -> None:
    records = [made.record("p", "a", [1.0, math.nan, math.inf], seed=seed) for seed in (1, 2)]
    figure = KINDS[kind](load(made.write(tmp_path / "tree", records)))
    figures.save(figure, tmp_path / "figure.png")
    texts = " ".join(text.get_text() for axis in figure.axes for text in axis.texts)
    assert "diverged" in texts + figure.get_suptitle()


@pytest.mark.parametrize("kind", list(KINDS))
def test_stand_in_data_are_marked(tmp_path: Path, kind: str) -> None:
    records = [made.record("p", "a", [1.0, 0.5, 0.4], data={"synthetic": True, "source": "stand-in"})]
    assert SYNTHETIC in KINDS[kind](load(made.write(tmp_path, records))).get_suptitle()


def test_stand_in_data_of_another_problem_are_not(tmp_path: Path) -> None:
    records = [made.record("p", "a", [1.0, 0.5], data={"synthetic": True}), made.record("q", "a", [1.0, 0.5])]
    found = load(made.write(tmp_path, records))
    assert figures.curves(found, problems=["q"]).get_suptitle() == ""
    assert SYNTHETIC in figures.curves(found).get_suptitle()


def test_an_optimizer_keeps_its_colour_in_a_panel_of_few(results: Results) -> None:
    """The optimizer that one problem lacks does not shift the others."""
    found = series(results, "quadratic_deep", "sgd")
    assert found is not None
    colour = figures.styles(results.optimizers)["sgd"].colour
    axis = panel(figures.curves(results), "quadratic_deep")
    assert [line.get_color() for line in axis.lines if np.array_equal(line.get_ydata(), found.mean)] == [colour]
