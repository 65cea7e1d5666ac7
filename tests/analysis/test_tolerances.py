"""Runs beside the published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deepobs_func.analysis import Results, against_published, load, published
from deepobs_func.analysis.tolerances import tolerances_text
from deepobs_func.records import RunRecord
from tests.analysis.trees import record, write


def test_the_published_runs_are_within(sample: Results) -> None:
    table = against_published(sample)
    assert len(table) == 8 * 3 + 5 * 3
    assert table["within"].all()
    assert (table["difference"].abs() < 1e-6).all()
    assert set(table["note"]) == {""}


def runs(problem: str, optimizer: str, loss: float, accuracy: float | None, **changes: Any) -> list[RunRecord]:
    about = published.facts(problem)
    assert about is not None
    losses = [loss] * (about.epochs + 1)
    accuracies = None if accuracy is None else [accuracy] * (about.epochs + 1)
    fields = {"losses": losses, "accuracies": accuracies, "batch_size": about.batch_size, **changes}
    return [record(problem, optimizer, seed=seed, **fields) for seed in (1, 2)]


@pytest.mark.parametrize("optimizer", ["adam", "AdamOptimizer", "Adam"])
@pytest.mark.parametrize(("loss", "accuracy"), [(1.005, 0.004), (0.985, 0.004), (1.005, -0.006)])
def test_a_loss_by_one_percent_and_an_accuracy_by_half_a_point(
    tmp_path: Path, optimizer: str, loss: float, accuracy: float
) -> None:
    (baseline,) = (each for each in published.baselines("cifar10_3c3d") if each.optimizer == "adam")
    theirs = sum(curve[-1] for curve in baseline.curves["test_losses"]) / 10
    found = runs("cifar10_3c3d", optimizer, theirs * loss, baseline.final_mean + accuracy, lr=baseline.lr)
    write(tmp_path, *found)
    rows = {row["quantity"]: row for row in against_published(load(tmp_path)).to_dict("records")}
    assert rows["test_loss"]["within"] == (abs(loss - 1) <= 0.01)
    assert rows["test_accuracy"]["within"] == (abs(accuracy) <= 0.005)
    assert rows["test_loss"]["difference"] == pytest.approx(loss - 1)
    assert rows["test_accuracy"]["difference"] == pytest.approx(accuracy)
    assert (rows["test_loss"]["published"], rows["test_loss"]["note"]) == ("adam", "")


def test_what_differs_is_said(tmp_path: Path) -> None:
    extra = {"protocol": "default", "data": {"synthetic": True}}
    write(tmp_path, record("quadratic_deep", "momentum", accuracies=None, hyperparams={"momentum": 0.9}, extra=extra))
    (row,) = against_published(load(tmp_path)).to_dict("records")
    assert row["note"] == (
        "lr 0.1, theirs 0.00251; epochs 2, theirs 100; protocol default, theirs deepobs-1.1.2; momentum 0.9, theirs "
        "0.99; stand-in data"
    )
    assert not row["within"]
    text = tolerances_text(against_published(load(tmp_path)))
    assert "quadratic_deep  momentum   test loss  0.500000    87.0450    -99.43 %      1 %  no" in text


def test_optimizers_and_problems_that_are_not_published(tmp_path: Path) -> None:
    write(tmp_path, record("mnist_mlp", "adam"), record("fmnist_2c2d", "lion"))
    table = against_published(load(tmp_path))
    assert table.empty
    assert tolerances_text(table) == "Nothing is published of these optimizers on these problems."
