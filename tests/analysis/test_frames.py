"""Steps and metrics, from what a record says and what is published."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from deepobs_func.analysis import load
from tests.analysis.trees import record, write


@pytest.mark.parametrize(
    ("problem", "fields", "steps"),
    [
        ("mnist_mlp", {"extra": {"steps_per_epoch": 468}}, 468.0),  # as recorded
        ("fmnist_2c2d", {}, 468.0),  # as published, at the published batch size
        ("fmnist_2c2d", {"batch_size": 64}, math.nan),
        ("mnist_mlp", {"minibatch_train_losses": [1.0] * 6}, 30.0),  # at most: every tenth step is logged
        ("mnist_mlp", {"minibatch_train_losses": [1.0] * 6, "train_log_interval": 1}, 3.0),
    ],
)
def test_steps_of_an_epoch(tmp_path: Path, problem: str, fields: dict[str, Any], steps: float) -> None:
    write(tmp_path, record(problem, **fields))
    results = load(tmp_path)
    assert results.runs["steps_per_epoch"].tolist() == pytest.approx([steps], nan_ok=True)
    assert results.epochs["step"].tolist() == pytest.approx([0.0 * steps, steps, 2 * steps], nan_ok=True)


def test_losses_are_logged_from_the_first_step_of_each_epoch(tmp_path: Path) -> None:
    """Of 7 steps the first, fourth and seventh, then the first of the next epoch."""
    fields = {"minibatch_train_losses": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "train_log_interval": 3}
    write(tmp_path, record("quadratic_deep", accuracies=None, **fields))
    assert load(tmp_path).steps["step"].tolist() == [0.0, 3.0, 6.0, 7.0, 10.0, 13.0]


def test_by_what_problems_are_judged(tmp_path: Path) -> None:
    write(tmp_path, record("mnist_vae"), record("mine"), record("other", accuracies=None))
    write(tmp_path, record("cifar10_3c3d", accuracies=None))
    runs = load(tmp_path).runs.set_index("problem")
    assert runs["metric"].to_dict() == {
        "mnist_vae": "test_loss",  # as published, whatever it has
        "mine": "test_accuracy",
        "other": "test_loss",
        "cifar10_3c3d": "test_loss",  # judged by the accuracy, which no run has
    }
    assert runs["target"].notna().to_dict() == {"mnist_vae": True, "mine": False, "other": False, "cifar10_3c3d": False}
    assert runs["higher_is_better"].tolist().count(True) == 1
