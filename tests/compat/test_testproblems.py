"""DeepOBS's test problems and data sets: loaders, phases, penalty, the migration guide's loops."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import DataLoader, TensorDataset

from deepobs_func import problems
from deepobs_func.compat import config, datasets, testproblems
from deepobs_func.datasets import loading
from deepobs_func.errors import ConfigError


@pytest.fixture(autouse=True)
def on_synthetic_data() -> None:
    config.set_data_dir("synthetic")
    config.set_default_device("cpu")


@pytest.fixture(scope="module")
def logreg() -> Any:
    """MNIST's, kept loaded for this file: its data are shared by those who hold them."""
    config.set_data_dir("synthetic")
    tproblem = testproblems.mnist_logreg(batch_size=128, device="cpu")
    tproblem.set_up()
    return tproblem


def quadratic(**how: Any) -> Any:
    tproblem = testproblems.quadratic_deep(batch_size=100, **how)
    tproblem.set_up()
    return tproblem


def test_all_problems_are_classes() -> None:
    for name in problems.names():
        cls = getattr(testproblems, name)
        assert cls.__name__ == name
        assert issubclass(cls, testproblems.TestProblem)
        assert getattr(testproblems, name) is cls
        assert name in dir(testproblems)
    with pytest.raises(ConfigError, match="mnist_mlp"):
        testproblems.testproblem("mnist_mpl", batch_size=32)
    listed = [name for name in dir(testproblems) if not name.lower().startswith("test")]
    assert listed == sorted(problems.names()), "as scripts of DeepOBS 1.2 list them"


def test_a_plain_training_loop(logreg: Any) -> None:
    tproblem = logreg
    optimizer = torch.optim.SGD(tproblem.model.parameters(), lr=0.01)
    tproblem.model.train()
    for step, batch in enumerate(tproblem.dataset.train_loader):
        optimizer.zero_grad()
        losses, accuracy = tproblem.get_batch_loss_and_accuracy(batch)
        losses.mean().backward()
        optimizer.step()
        if step == 3:
            break
    tproblem.model.eval()
    with torch.no_grad():
        batch = next(iter(tproblem.dataset.test_loader))
        loss, accuracy = tproblem.get_batch_loss_and_accuracy(batch)
    assert loss.shape == ()
    assert f"{loss:.4f}, {accuracy:.4f}".count(".") == 2


def test_loaders_are_torch_s_and_whole(logreg: Any) -> None:
    data = logreg.dataset
    assert data.batch_size == data.train_loader.batch_size == 128
    assert [len(each) for each in (data.train_loader, data.train_eval_loader, data.test_loader)] == [468, 78, 78]
    assert all(isinstance(each, DataLoader) for each in (data.train_loader, data.valid_loader))
    assert len(data.train_loader.dataset) == 60_000
    x, y = data.train_loader.dataset[3]
    assert (x.shape, y.shape) == ((1, 28, 28), ())
    assert logreg.train_loader is data.train_loader


def test_the_order_follows_torch_s_generator_and_changes_with_each_pass() -> None:
    data = datasets.Quadratic(batch_size=100)

    def first() -> torch.Tensor:
        return next(iter(data.train_loader))[0]

    torch.manual_seed(3)
    before, then = first(), first()
    torch.manual_seed(3)
    assert torch.equal(first(), before)
    assert not torch.equal(before, then)
    whole = torch.cat([x for x, _ in data.train_loader])
    assert torch.equal(whole.sum(1).sort().values, torch.cat([x for x, _ in data.train_loader]).sum(1).sort().values)


def test_initial_values_follow_torch_s_generator(logreg: Any) -> None:
    def made(seed: int) -> Any:
        torch.manual_seed(seed)
        return testproblems.testproblem("mnist_mlp", batch_size=128)

    one, same, other = made(42), made(42), made(43)
    after = torch.rand(1)
    weights = [next(tproblem.model.parameters()) for tproblem in (one, same, other, one)]
    assert torch.equal(weights[0], weights[1]), "of the seed when it was made, not when it is first used"
    assert not torch.equal(weights[0], weights[2])
    made(43)
    assert torch.equal(torch.rand(1), after), "to look at a model draws nothing"
    torch.manual_seed(42)
    one.set_up()
    assert not torch.equal(next(one.model.parameters()), weights[0]), "set up again, it is another"


def test_examples_are_set_aside_when_they_are_first_asked_for() -> None:
    data = datasets.Quadratic(batch_size=100)
    assert len(data.train_loader) == 10
    validated = torch.cat([x for x, _ in data.valid_loader])
    assert len(data.train_loader) == 5
    trained = torch.cat([x for x, _ in data.train_loader])
    assert not (trained[:, None, 0] == validated[None, :, 0]).any()


def test_phases_of_deepobs_1_2() -> None:
    tproblem = quadratic()
    with pytest.raises(ConfigError, match="train_init_op"):
        tproblem.get_batch_loss_and_accuracy()
    for phase in ("train", "train_eval", "valid", "test"):
        getattr(tproblem, f"{phase}_init_op")()
        assert tproblem.phase == phase
        assert tproblem.net.training is (phase == "train")
        loss, accuracy = tproblem.get_batch_loss_and_accuracy()
        assert (accuracy, loss.requires_grad) == (0.0, phase == "train")
        assert tproblem.get_batch_loss_and_accuracy("none")[0].shape == (100,)
    for _ in range(8):
        tproblem.get_batch_loss_and_accuracy(reduction="sum")
    with pytest.raises(StopIteration):
        tproblem.get_batch_loss_and_accuracy(reduction="sum")


def test_one_batch_is_evaluated_again_and_again() -> None:
    tproblem = quadratic()
    tproblem.train_init_op()
    evaluate = tproblem.get_batch_loss_and_accuracy_func()
    first, _ = evaluate()
    assert torch.equal(evaluate()[0], first)
    with torch.no_grad():
        tproblem.net.theta.mul_(0.5)
    assert evaluate()[0] < first


def test_the_hessian_by_the_names_of_1_2() -> None:
    """90 eigenvalues in (0, 1), 10 in (30, 60); the loss is made of it."""
    made = testproblems.quadratic_deep._make_hessian()
    tproblem = quadratic()
    assert torch.equal(made, tproblem._hessian)
    eigenvalues = torch.linalg.eigvalsh(made.double())
    assert ((eigenvalues[:90] > 0) & (eigenvalues[:90] < 1)).all()
    assert ((eigenvalues[90:] > 30) & (eigenvalues[90:] < 60)).all()
    x, y = next(iter(tproblem.train_loader))
    shifted = tproblem.net.theta.detach() - x
    expected = 0.5 * torch.einsum("bi,ij,bj->b", shifted, made, shifted)
    torch.testing.assert_close(tproblem.get_batch_loss_and_accuracy((x, y), reduction="none")[0].detach(), expected)


def test_reductions() -> None:
    tproblem = quadratic()
    batch = next(iter(tproblem.train_loader))
    none, mean, total = (tproblem.get_batch_loss_and_accuracy(batch, reduction=r)[0] for r in ("none", "mean", "sum"))
    torch.testing.assert_close(none.mean(), mean)
    torch.testing.assert_close(none.sum(), total)
    torch.testing.assert_close(tproblem.loss_function(reduction="mean")(tproblem.net(batch[0]), batch[1]), mean)
    with pytest.raises(ConfigError, match="'mean'"):
        tproblem.get_batch_loss_and_accuracy(batch, reduction="meen")


def test_the_penalty_is_the_core_s_and_leaves_biases_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.CIFAR10, "_make_loaders", lambda self: None)
    tproblem = testproblems.cifar10_3c3d(batch_size=2)
    assert tproblem.weight_decay == 0.002
    params, _ = tproblem.core_state()
    torch.testing.assert_close(tproblem.get_regularization_loss(), tproblem.core.penalty(params))
    groups = tproblem.regularization_groups
    assert {factor: len(group) for factor, group in groups.items()} == {0.0: 6, 0.002: 6}
    assert all(parameter.ndim == 1 for parameter in groups[0.0])
    other = testproblems.cifar10_3c3d(batch_size=2, weight_decay=0.5)
    other.load_core_state(*tproblem.core_state())
    torch.testing.assert_close(other.get_regularization_loss(), 250 * tproblem.get_regularization_loss())


def test_a_weight_decay_that_means_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    tproblem = testproblems.mnist_mlp(batch_size=32, weight_decay=0.001)
    assert "WARNING: Weight decay" in capsys.readouterr().out
    assert tproblem.weight_decay is None
    assert float(quadratic().get_regularization_loss()) == 0.0
    with pytest.raises(ConfigError, match="weight decay"):
        testproblems.cifar10_3c3d(batch_size=32, weight_decay=-1.0)


def test_what_the_migration_guides_show(logreg: Any) -> None:
    """Clipping, a schedule, the penalty, accumulation over two batches."""
    tproblem = logreg
    optimizer = torch.optim.SGD(tproblem.model.parameters(), lr=0.1, momentum=0.9)
    scheduler = MultiStepLR(optimizer, milestones=[1], gamma=0.1)
    batches = iter(tproblem.train_loader)
    for _ in range(2):
        optimizer.zero_grad()
        for _ in range(2):
            loss, _ = tproblem.get_batch_loss_and_accuracy(next(batches))
            ((loss + tproblem.get_regularization_loss()) / 2).backward()
        norm = nn.utils.clip_grad_norm_(tproblem.model.parameters(), max_norm=0.01)
        assert norm > 0.01
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_a_lstm_starts_each_pass_with_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = problems.get("tolstoi_char_rnn").dataset
    small = {"train_size": 4 * 50 * 3 + 1, "test_size": 4 * 50 * 2 + 1, "train_eval_size": 4 * 50 * 2 + 1}
    cut = dataclasses.replace(spec, **small)
    ids = torch.arange(small["train_size"]) % 83
    text = {
        split: loading.Split(ids[: small[f"{split}_size"]], ids[: small[f"{split}_size"]])
        for split in ("train", "test")
    }
    loaded = loading.Dataset(cut, text["train"], text["test"], True, "synthetic")
    monkeypatch.setattr("deepobs_func.datasets.spec", lambda name: cut)
    monkeypatch.setattr("deepobs_func.compat.datasets.dataset.load", lambda *args: loaded)
    tproblem = testproblems.tolstoi_char_rnn(batch_size=4)
    tproblem.set_up()
    tproblem.model.eval()

    def losses(loader: Any) -> list[float]:
        return [one(batch) for batch in loader]

    @torch.no_grad()
    def one(batch: Any) -> float:
        return float(tproblem.get_batch_loss_and_accuracy(batch)[0])

    once = losses(tproblem.test_loader)
    assert losses(tproblem.test_loader) == once
    train = iter(tproblem.train_loader)
    first = next(train)
    before = one(first)
    losses(tproblem.test_loader)
    second = next(train)
    after = one(second)
    assert [before, after] == losses(tproblem.train_loader)[:2], "an evaluation in between changes nothing"
    tproblem.test_init_op()
    evaluate = tproblem.get_batch_loss_and_accuracy_func()
    assert evaluate()[0] == evaluate()[0], "the state before a batch is the same at each evaluation"


def test_a_user_s_own_problem_in_the_words_of_1_2() -> None:
    class Own(testproblems.UnregularizedTestproblem):
        def set_up(self) -> None:
            self.data = datasets.Quadratic(self._batch_size)
            self.net = nn.Linear(100, 1)
            self.loss_function = nn.MSELoss

        def _compute_accuracy(self, outputs: Any, targets: Any) -> None:
            return None

    tproblem = Own(100)
    tproblem.set_up()
    x, _ = next(iter(tproblem.data._train_dataloader))
    loss, accuracy = tproblem.get_batch_loss_and_accuracy((x, torch.zeros(100, 1)))
    torch.testing.assert_close(loss, tproblem.net(x).square().mean())
    assert accuracy is None
    assert tproblem.model is tproblem.net

    with pytest.raises(ConfigError, match="_make_valid_dataset"):
        _ = Points(2).valid_loader


class Points(datasets.DataSet):
    def _make_train_dataset(self) -> Any:
        return TensorDataset(torch.zeros(8, 3), torch.zeros(8))

    _make_test_dataset = _make_train_dataset


@pytest.mark.parametrize(
    ("outputs", "targets", "accuracy"),
    [
        ([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], torch.tensor([1, 1, 1, 0]), 0.5),
        ([[0.0, 1.0], [1.0, 0.0]], torch.tensor([[0.0, 1.0], [0.0, 1.0]]), 0.5),
        ([[[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]], torch.tensor([[1, 0, 1]]), 2 / 3),  # ids of a sequence
        ([[0.3], [0.7]], torch.tensor([[0.0], [1.0]]), None),  # regression
        ([[0.3, 0.1], [0.7, 0.2]], torch.tensor([[0.3, 0.1], [0.7, 0.5]]), None),  # regression on two numbers
        ([[0.3, 0.1], [0.7, 0.2]], torch.tensor([[1, 1], [0, 1]]), None),  # several labels an example
        ([0.3, 0.7], torch.tensor([0.0, 1.0]), None),
    ],
)
def test_the_default_accuracy_is_of_classes_alone(outputs: Any, targets: torch.Tensor, accuracy: float | None) -> None:
    found = testproblems.TestProblem._compute_accuracy(None, torch.tensor(outputs), targets)  # type: ignore[arg-type]
    assert found is None if accuracy is None else float(found) == pytest.approx(accuracy)


def test_streamed_data() -> None:
    """ImageNet's batches are read as they are visited."""
    data = datasets.ImageNet(batch_size=2)
    assert len(data.train_loader) == 640_583
    x, y = next(iter(data.test_loader))
    assert (x.shape, y.shape, x.dtype) == ((2, 3, 224, 224), (2,), torch.float32)


def test_settings() -> None:
    assert config.get_dtype() == config.get_float_dtype() == torch.float32
    with pytest.raises(ConfigError, match="float64"):
        config.set_dtype("float16")
    with pytest.raises(ConfigError, match="pytorch"):
        config.set_framework("tensorflow")
    assert config.get_testproblem_default_setting("cifar100_allcnnc") == {"batch_size": 256, "num_epochs": 350}
    assert "svhn_wrn164" in config.get_large_test_set()
    with pytest.raises(ConfigError, match="svhn_wrn164"):
        config.set_large_test_set(["svhn_wrn_164"])


@pytest.mark.parametrize("size", [0, 2.5, 2000])
def test_a_batch_size_that_does_not_go(size: Any) -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        datasets.Quadratic(batch_size=size)
