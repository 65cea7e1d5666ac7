"""Test problems and data sets of the user's own in DeepOBS's runners."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from deepobs_func.compat import config, datasets, testproblems
from deepobs_func.compat.runners import StandardRunner, own
from deepobs_func.datasets import loading
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.errors import ConfigError

MOMENTUM = [{"name": "momentum", "type": float, "default": 0.0}]


@pytest.fixture(autouse=True)
def on_a_cpu() -> None:
    config.set_default_device("cpu")


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.json"))


X, Y = torch.randn(64, 3, generator=torch.manual_seed(0)), torch.arange(64) % 2


class Points(datasets.DataSet):
    def _make_train_dataset(self) -> Dataset[Any]:
        return TensorDataset(X + Y[:, None], Y)

    def _make_test_dataset(self) -> Dataset[Any]:
        return TensorDataset(X[:32] + Y[:32, None], Y[:32])


class two_points(testproblems.TestProblem):  # noqa: N801
    def set_up(self) -> None:
        self.dataset = Points(self.batch_size)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

    def _compute_loss(self, outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        return nn.functional.cross_entropy(outputs, targets, reduction=reduction)


class two_points_by_item(two_points):  # noqa: N801
    """Whose accuracy is a number of Python's."""

    def _compute_accuracy(self, outputs: Tensor, targets: Tensor) -> Any:
        return sum(int(a == b) for a, b in zip(outputs.argmax(1).tolist(), targets.tolist(), strict=True)) / len(
            targets
        )


class Jittered(Dataset[Any]):
    """A data set of torch's with a random transform."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index] + 0.01 * torch.randn(3), self.y[index]


class JitteredPoints(Points):
    def _make_train_dataset(self) -> Dataset[Any]:
        return Jittered(X + Y[:, None], Y)

    def _make_test_dataset(self) -> Dataset[Any]:
        return Jittered(X[:32] + Y[:32, None], Y[:32])


class jittered_points(two_points):  # noqa: N801
    def set_up(self) -> None:
        super().set_up()
        self.dataset = JitteredPoints(self.batch_size)


OWN = {"batch_size": 16, "num_epochs": 2, "learning_rate": 0.5}


@pytest.mark.parametrize("problem", [two_points, two_points_by_item, jittered_points])
def test_the_runner_takes_a_test_problem_of_the_user_s_own(problem: Any, tmp_path: Path) -> None:
    runner = StandardRunner(torch.optim.SGD, MOMENTUM)
    output = runner.run(problem, **OWN, weight_decay=0.01, output_dir=tmp_path)
    (file,) = files(tmp_path)
    assert file.relative_to(tmp_path).parts[:2] == (problem.__name__, "SGD")
    assert output["test_losses"][-1] < output["test_losses"][0]
    assert output["test_accuracies"][-1] > output["test_accuracies"][0]
    again = runner.run(problem, **OWN, weight_decay=0.01, no_logs=True)
    assert again["test_losses"] == output["test_losses"]

    torch.manual_seed(42)
    tproblem = problem(16, 0.01)
    tproblem.set_up()
    with torch.no_grad():
        losses = [tproblem.get_batch_loss_and_accuracy(batch)[0] for batch in tproblem.test_loader]
        first = torch.stack(losses).mean() + tproblem.get_regularization_loss()
    assert output["test_losses"][0] == pytest.approx(float(first), rel=1e-3)


class one_hot_points(two_points):  # noqa: N801
    def set_up(self) -> None:
        super().set_up()
        x, y = X + Y[:, None], nn.functional.one_hot(Y).float()
        self.dataset = held(TensorDataset(x, y), 16)


class two_points_of_ids(two_points):  # noqa: N801
    def set_up(self) -> None:
        super().set_up()
        self.dataset = held(TensorDataset(X + Y[:, None], Y), 16)


class a_line(two_points):  # noqa: N801
    def set_up(self) -> None:
        self.dataset, self.model = held(TensorDataset(X, X[:, :1]), 16), nn.Linear(3, 1)

    def _compute_loss(self, outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        return nn.functional.mse_loss(outputs, targets, reduction=reduction).flatten()


def held(examples: Dataset[Any], batch_size: int) -> datasets.DataSet:
    """A data set whose two splits are these examples."""
    make = {f"_make_{split}_dataset": lambda self: examples for split in ("train", "test")}
    made: datasets.DataSet = type("Held", (datasets.DataSet,), make)(batch_size)
    return made


def test_a_problem_has_an_accuracy_where_its_targets_are_classes() -> None:
    runner = StandardRunner(torch.optim.SGD, [])
    accuracies = runner._run(one_hot_points, **OWN, no_logs=True)["test_accuracies"]
    assert accuracies == runner._run(two_points_of_ids, **OWN, no_logs=True)["test_accuracies"]
    assert "test_accuracies" not in runner._run(a_line, **OWN, no_logs=True)


class NamedLikeAnother(Points):
    name = "mnist"


class Unaugmented(datasets.CIFAR10):
    pass


class Shifted(datasets.MNIST):
    def shown(self, x: Tensor, y: Tensor) -> Any:
        return x + 1, y


def on(data: Any, features: int, outputs: int) -> Any:
    """A test problem on a data set."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(features, outputs))
    return type("on_data", (two_points,), {"set_up": lambda self: vars(self).update(_dataset=data, _model=net)})


def core_data(data: Any, features: int, outputs: int = 10) -> Any:
    problem = own.core_problem(on(data, features, outputs), 16, None, 1)[1]
    assert problem is not None
    return problem.dataset


def test_a_run_is_on_the_data_that_the_loaders_show(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(spec: DatasetSpec, *where: Any) -> loading.Dataset:
        two = loading.Split(torch.zeros(2, *spec.shape, dtype=torch.uint8), torch.arange(2))
        return loading.Dataset(spec, two, two, True, "synthetic")

    monkeypatch.setattr("deepobs_func.compat.datasets.dataset.load", load)
    found = core_data(NamedLikeAnother(16, train_eval_size=32), 3)
    assert (found.train_size, found.train_eval_size) == (64, 32)
    kept = datasets.CIFAR10(16)
    for cls in (Unaugmented, datasets.CIFAR10):
        plain = core_data(cls(16, train_eval_size=48, data_augmentation=False), 3072)
        assert (plain.name, plain.augment, plain.train_eval_size) == ("cifar10", "", 48)
    assert core_data(kept, 3072) == kept.spec
    with pytest.raises(ConfigError, match="Shifted changes the package's data set mnist"):
        core_data(Shifted(16), 784)


class to_itself(two_points):  # noqa: N801
    """On a data set whose loaders show the inputs as targets, which the core's has not."""

    def set_up(self) -> None:
        self.dataset, self.model = datasets.Quadratic(100), nn.Linear(100, 100)

    def _compute_loss(self, outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        losses = (outputs - targets).square().sum(1)
        return losses if reduction == "none" else losses.mean()


def test_targets_are_those_that_the_loaders_show() -> None:
    output = StandardRunner(torch.optim.SGD, [])._run(
        to_itself, batch_size=100, num_epochs=1, learning_rate=1e-3, no_logs=True
    )
    torch.manual_seed(42)
    tproblem = to_itself(100)
    tproblem.set_up()
    losses = [tproblem.get_batch_loss_and_accuracy(batch)[0].detach() for batch in tproblem.test_loader]
    assert output["test_losses"][0] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


def test_a_problem_with_a_module_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_broken.py").write_text("import not_there_at_all\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"my_broken cannot be imported: .*not_there_at_all"):
        StandardRunner(torch.optim.SGD, [])._run("my_broken", **OWN, no_logs=True)


@pytest.mark.parametrize("given", [{"weight_decay": 0.1}, {"batch_size": 8}])
def test_an_instance_has_its_batch_size_and_weight_decay(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(ConfigError, match=rf"{name}.*the class two_points"):
        StandardRunner(torch.optim.SGD, [])._run(two_points(16), num_epochs=1, learning_rate=0.1, no_logs=True, **given)
    output = StandardRunner(torch.optim.SGD, [])._run(
        two_points(16, 0.1), num_epochs=1, learning_rate=0.1, no_logs=True
    )
    assert (output["batch_size"], output["weight_decay"]) == (16, 0.1)


def test_an_instance_is_not_touched() -> None:
    tproblem = two_points(16)
    tproblem.set_up()
    tproblem.model.insert(1, nn.BatchNorm1d(4))
    before = {name: (id(value), value.clone()) for name, value in tproblem.model.state_dict(keep_vars=True).items()}
    _, problem = own.core_problem(tproblem, 16, None, 1)
    assert problem is not None
    for name, value in tproblem.model.state_dict(keep_vars=True).items():
        assert (id(value), value.tolist()) == (before[name][0], before[name][1].tolist())
    moments = problem.init(1)[1].moments
    assert [float(value.sum()) for name, value in moments.items() if name.endswith("mean")] == [0.0]


def test_a_problem_in_a_module_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_points.py").write_text(
        f"from {__name__} import two_points as base\nclass my_points(base):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    output = StandardRunner(torch.optim.SGD, MOMENTUM).run("my_points", **OWN, no_logs=True)
    assert output["testproblem"] == "my_points"
