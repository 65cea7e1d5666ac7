"""The figures of the demonstration: a PNG is written, stand-in data are marked, the published band is there."""

import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from deepobs_func.analysis import figures, published
from deepobs_func.analysis.figures.demonstration import METRICS
from deepobs_func.records import RunRecord

PNG = b"\x89PNG\r\n\x1a\n"


def make_record(test_losses: list[float], *, synthetic: bool = False, optimizer: str = "sgd") -> RunRecord:
    return RunRecord(
        train_losses=test_losses,
        test_losses=test_losses,
        minibatch_train_losses=[3.0, 2.0],
        train_accuracies=[0.1] * len(test_losses),
        test_accuracies=[0.2] * len(test_losses),
        optimizer=optimizer,
        testproblem="mnist_mlp",
        weight_decay=None,
        batch_size=128,
        num_epochs=len(test_losses) - 1,
        learning_rate=0.1,
        lr_sched_epochs=None,
        lr_sched_factors=None,
        random_seed=42,
        train_log_interval=10,
        hyperparams={},
        extra={"data": {"synthetic": synthetic}},
    )


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    saved: list[Figure] = []
    savefig = Figure.savefig

    def spy(self: Figure, *args: Any, **kwargs: Any) -> None:
        saved.append(self)
        savefig(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", spy)
    return saved


def draw_training(runs: list[RunRecord], path: Path, metric: str = "test_losses") -> None:
    figures.training({"sgd": runs}, metric, "A title", path)


@pytest.mark.parametrize("metric", list(METRICS))
def test_a_png_is_written(tmp_path: Path, drawn: list[Figure], metric: str) -> None:
    path = tmp_path / "curves.png"
    figures.training({"sgd": [make_record([3.0, 2.0])], "adam": [make_record([3.0, 1.0])]}, metric, "A title", path)
    assert path.read_bytes().startswith(PNG)
    (figure,) = drawn
    assert figure.get_suptitle() == "A title"
    assert figure.axes[1].get_ylabel() == METRICS[metric]


def test_every_run_and_the_mean_are_drawn(tmp_path: Path, drawn: list[Figure]) -> None:
    draw_training([make_record([9.0, 3.0, 2.0]), make_record([9.0, 3.0, 1.0])], tmp_path / "curves.png")
    lines = [list(line.get_ydata()) for line in drawn[0].axes[1].lines]
    assert lines == [[3.0, 2.0], [3.0, 1.0], [3.0, 1.5]]
    assert drawn[0].axes[1].get_legend().get_texts()[0].get_text() == "sgd, mean of 2 seeds"


def test_mini_batch_losses_are_smoothed_over_the_epochs(tmp_path: Path, drawn: list[Figure]) -> None:
    record = make_record([3.0, 2.0, 1.0])
    record.minibatch_train_losses = [float(value) for value in range(20)]
    draw_training([record], tmp_path / "curves.png")
    line = drawn[0].axes[0].lines[0]
    assert list(line.get_xdata())[-1] == 2.0
    assert list(line.get_ydata()) == [sum(range(max(0, i - 9), i + 1)) / min(i + 1, 10) for i in range(20)]


@pytest.mark.parametrize("synthetic", [[True, True], [False, True]])
def test_stand_in_data_are_marked(tmp_path: Path, drawn: list[Figure], synthetic: list[bool]) -> None:
    groups = {str(n): [make_record([3.0, 2.0], synthetic=flag)] for n, flag in enumerate(synthetic)}
    figures.training(groups, "test_losses", "A title", tmp_path / "curves.png")
    title, mark = drawn[0].get_suptitle().split("\n")
    assert (title, mark) == ("A title", "STAND-IN DATA: NOT A RESULT")


def test_runs_that_diverged_are_drawn_as_far_as_they_go(tmp_path: Path) -> None:
    runs = [make_record([3.0, math.inf, math.nan]), make_record([3.0, 2.0, 1.0])]
    draw_training(runs, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)


def test_a_panel_with_its_band_for_each_baseline(tmp_path: Path, drawn: list[Figure]) -> None:
    baselines = published.baselines("quadratic_deep")
    groups = {found.optimizer: [make_record(found.curve_mean, optimizer=found.optimizer)] for found in baselines}
    figures.against_published(groups, baselines, "", tmp_path / "curves.png")
    axes = drawn[0].axes
    assert [axis.get_title(loc="left") for axis in axes] == ["sgd", "momentum", "adam"]
    for axis, found in zip(axes, baselines, strict=True):
        (band,) = axis.collections
        assert band.get_label() == "published, 10 seeds: mean ± 2 sd"
        heights = band.get_paths()[0].vertices[:, 1]
        pairs = zip(found.curve_mean, found.curve_sd, strict=True)
        assert heights.max() == pytest.approx(max(mean + 2 * sd for mean, sd in pairs))
        low, high = axis.get_ylim()
        assert low < found.final_mean < high < 353


def test_every_optimizer_is_drawn_in_a_style_of_its_own(tmp_path: Path, drawn: list[Figure]) -> None:
    names = ["sgd", "momentum", "adam", "adamw", "rmsprop", "my.Adam", "my.Other", "übung", "Adam", "SGD", "AdamW", "x"]
    groups = {name: [make_record([3.0, 2.0, 1.0]), make_record([3.0, 2.0, 2.0])] for name in names}
    figures.training(groups, "test_losses", "A title", tmp_path / "curves.png")
    for axis in drawn[0].axes:
        assert len(axis.get_legend().get_texts()) == len(names)
        means = [line for line in axis.lines if not line.get_label().startswith("_")]
        assert [line.get_label().partition(",")[0] for line in means] == names
        assert [line.get_color() for line in means] == [figures.styles(names)[name].colour for name in names]


def test_no_window_system_is_touched(tmp_path: Path) -> None:
    """A figure of pyplot's would stay in memory and may ask for a display."""
    import matplotlib.pyplot as plt

    draw_training([make_record([3.0, 2.0])], tmp_path / "curves.png")
    assert plt.get_fignums() == []
