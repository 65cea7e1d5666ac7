"""Loops of a runner's subclass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deepobs_func import records
from deepobs_func.analysis import parsing
from deepobs_func.compat import config
from deepobs_func.compat.runners import PTRunner
from deepobs_func.errors import ConfigError
from tests.documents import cut_data


@pytest.fixture(autouse=True)
def on_a_cpu() -> None:
    config.set_default_device("cpu")


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.json"))


class OwnLoop(PTRunner):
    def training(self, tproblem: Any, hyperparams: Any, num_epochs: int, every: int = 1) -> dict[str, Any]:
        optimizer = self._optimizer_class(tproblem.net.parameters(), **hyperparams)
        losses = {name: [self.evaluate(tproblem, name)[0]] for name in ("TRAIN", "TEST")}
        for _ in range(num_epochs):
            tproblem.train_init_op()
            while True:
                try:
                    loss, _ = tproblem.get_batch_loss_and_accuracy()
                except StopIteration:
                    break
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            for name, column in losses.items():
                column.append(self.evaluate(tproblem, name)[0])
        return {"train_losses": losses["TRAIN"], "test_losses": losses["TEST"]}


def test_a_runner_with_a_loop_of_its_own(tmp_path: Path) -> None:
    runner = OwnLoop(torch.optim.SGD, {"lr": {"type": float}})
    output = runner.run("quadratic_deep", {"lr": 0.01}, num_epochs=1, output_dir=tmp_path, every=3)
    (file,) = files(tmp_path)
    assert len(output["test_losses"]) == 2
    assert output["test_losses"][1] < output["test_losses"][0]
    assert "every__3" in file.parent.name


class ScheduledLoop(PTRunner):
    def training(
        self,
        tproblem: Any,
        hyperparams: Any,
        num_epochs: int,
        lr_sched_epochs: Any = None,
        lr_sched_factors: Any = None,
    ) -> dict[str, Any]:
        vars(self).setdefault("calls", []).append((lr_sched_epochs, lr_sched_factors))
        return {"train_losses": [1.0] * (num_epochs + 1), "test_losses": [2.0] * (num_epochs + 1)}


@pytest.mark.parametrize(
    ("problem", "data"),
    [
        ("digits_mlp", {"source": "package", "synthetic": False}),
        ("quadratic_deep", {"source": "generated", "synthetic": False}),
        ("mnist_logreg", {"synthetic": True}),
    ],
)
def test_the_record_of_a_loop_says_where_the_data_are_from(
    problem: str, data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.set_data_dir("synthetic")
    runner = ScheduledLoop(torch.optim.SGD, {"lr": {"type": float}})
    with cut_data(monkeypatch):
        runner._run(problem, {"lr": 0.1}, num_epochs=1, output_dir=tmp_path)
    (file,) = files(tmp_path)
    found = records.read(file)
    assert found.extra["data"] == data
    assert parsing._data(found) == data.get("source", "synthetic")


class LooseLoop(ScheduledLoop):
    def training(self, tproblem: Any, hyperparams: Any, num_epochs: int, **how: Any) -> dict[str, Any]:
        return super().training(tproblem, hyperparams, num_epochs, **how)


@pytest.mark.parametrize("cls", [ScheduledLoop, LooseLoop])
def test_a_loop_of_its_own_has_the_schedule_and_is_not_run_again(cls: Any, tmp_path: Path) -> None:
    runner = cls(torch.optim.SGD, {"lr": {"type": float}})
    how: dict[str, Any] = {"num_epochs": 2, "output_dir": tmp_path, "skip_if_exists": True}
    schedule = {"lr_sched_epochs": [1], "lr_sched_factors": [0.1]}
    first = runner._run("quadratic_deep", {"lr": 0.1}, **how, **schedule)
    again = runner._run("quadratic_deep", {"lr": 0.1}, **how, **schedule)
    assert runner.calls == [([1], [0.1])]
    assert first["test_losses"] == again["test_losses"] == [2.0] * 3
    assert first["lr_sched_epochs"] == again["lr_sched_epochs"] == [1]
    (file,) = files(tmp_path)
    assert "lr_schedule__0_1.e-01_1_1.e-02" in file.parent.name
    for other in ({"random_seed": 1}, {"num_epochs": 3}, {"skip_if_exists": None}):
        runner._run("quadratic_deep", {"lr": 0.1}, **how | other, **schedule)
    assert len(runner.calls) == len(files(tmp_path)) == 4


def test_a_loop_that_takes_no_schedule_is_not_given_one() -> None:
    with pytest.raises(ConfigError, match=r"OwnLoop.training takes no schedule"):
        OwnLoop(torch.optim.SGD, {"lr": {"type": float}})._run(
            "quadratic_deep", {"lr": 0.1}, lr_sched_epochs=[1], lr_sched_factors=[0.1], num_epochs=1, no_logs=True
        )
