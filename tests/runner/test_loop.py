"""Whole runs: what they compute, what they record, how they end."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from deepobs_func import records, tree
from deepobs_func.records import RunRecord
from deepobs_func.runner import RunConfig, RunInterrupted
from deepobs_func.runner.events import Evaluated, Event
from tests.runner.small import config, recorded, small_problem

QUADRATIC = {"problem": "quadratic_deep", "optimizer": "sgd", "lr": 0.01, "epochs": 2, "output_dir": None}


def numbers(record: RunRecord) -> list[list[float] | None]:
    return [
        record.train_losses,
        record.test_losses,
        record.minibatch_train_losses,
        record.train_accuracies,
        record.test_accuracies,
    ]


def test_quadratic_deep_starts_at_the_published_loss() -> None:
    record = recorded(RunConfig(**QUADRATIC))
    assert record.test_losses[0] == pytest.approx(353.4467, abs=1e-3)
    assert record.test_losses[-1] < 200


@pytest.mark.parametrize("optimizer", ["adam", "torch.optim.Adam"])
@pytest.mark.parametrize("protocol", ["default", "deepobs-1.1.2"])
def test_the_same_configuration_gives_the_same_numbers(optimizer: str, protocol: str) -> None:
    """Bit for bit; and another seed gives others."""
    made = config(optimizer=optimizer, protocol=protocol)
    first, again = recorded(made, small_problem()), recorded(made, small_problem())
    other = recorded(config(optimizer=optimizer, protocol=protocol, seed=43), small_problem())
    assert numbers(first) == numbers(again)
    assert numbers(first) != numbers(other)
    assert first.extra["run_id"] == again.extra["run_id"] != other.extra["run_id"]


def test_a_run_equals_a_plain_loop() -> None:
    """The mini-batch losses against a loop in plain PyTorch that shares only the order of the data."""
    from deepobs_func import random
    from deepobs_func.runner.config import PROTOCOLS
    from deepobs_func.runner.order import epoch_order

    problem = small_problem()
    record = recorded(config(train_log_interval=1), problem)
    x, y = (torch.from_numpy(array) for array in problem.dataset.function("reader")(problem.dataset, None, "train"))
    net = torch.nn.Linear(5, 3)
    net.load_state_dict(problem.init()[0])
    losses = []
    for epoch in range(3):
        for rows in epoch_order(PROTOCOLS["default"], problem.dataset, random.key(42), epoch, 32):
            loss = torch.nn.functional.cross_entropy(net(x[rows]), y[rows]) + 0.005 * net.weight.square().sum()
            losses.append(loss.item())
            net.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter -= 0.1 * parameter.grad
    np.testing.assert_allclose(record.minibatch_train_losses, losses, rtol=1e-5)


def test_losses_are_reported_with_the_penalty_which_is_also_apart() -> None:
    problem = small_problem()
    record = recorded(config(epochs=1), problem)
    params, _ = problem.init()
    assert record.extra["penalties"][0] == pytest.approx(float(problem.penalty(params)))
    bare = recorded(config(epochs=1, weight_decay=0.0), small_problem())
    assert record.test_losses[0] == pytest.approx(bare.test_losses[0] + record.extra["penalties"][0])
    assert len(record.extra["minibatch_penalties"]) == len(record.minibatch_train_losses)


def test_evaluation_counts_whole_batches_only() -> None:
    """70 test examples at batch 32: the first 64 count."""
    problem = small_problem()
    record = recorded(config(epochs=1), problem)
    x, y = (torch.from_numpy(array) for array in problem.dataset.function("reader")(problem.dataset, None, "test"))
    net = torch.nn.Linear(5, 3)
    net.load_state_dict(problem.init()[0])
    correct = (net(x[:64]).argmax(1) == y[:64]).double().mean()
    assert record.test_accuracies[0] == pytest.approx(float(correct))


def test_the_record_has_deepobs_s_entries() -> None:
    record = recorded(config(train_log_interval=2), small_problem())
    assert [len(column) for column in numbers(record)] == [4, 4, 6, 4, 4]
    assert (record.status, record.optimizer, record.testproblem) == ("finished", "sgd", "small")
    assert (record.num_epochs, record.batch_size, record.random_seed) == (3, 32, 42)
    assert record.weight_decay is None
    assert record.extra["data"] == {"source": "arrays", "synthetic": False}
    assert len(record.extra["timings"]["train"]) == 3
    assert not record.extra["execution"]["compile"]
    assert "too few" in record.extra["execution"]["reason"]


def test_a_schedule_changes_the_rate_before_its_epoch() -> None:
    """With a factor of next to nothing from epoch 1 on, nothing moves after it."""
    for optimizer in ("sgd", "torch.optim.SGD"):
        record = recorded(
            config(optimizer=optimizer, lr_sched_epochs=(1,), lr_sched_factors=(1e-30,)),
            small_problem(),
        )
        assert record.test_losses[0] != record.test_losses[1]
        assert record.test_losses[1] == record.test_losses[2] == record.test_losses[3]


@pytest.mark.parametrize(("ours", "theirs"), [("sgd", "SGD"), ("adam", "Adam"), ("rmsprop", "RMSprop")])
def test_functional_and_foreign_twins_agree(ours: str, theirs: str) -> None:
    first = recorded(config(optimizer=ours, lr=0.01), small_problem())
    second = recorded(config(optimizer=f"torch.optim.{theirs}", lr=0.01), small_problem())
    np.testing.assert_allclose(first.test_losses, second.test_losses, rtol=1e-5)
    assert second.optimizer == theirs


def test_a_diverged_run_ends_early_and_is_filled_up() -> None:
    problem = small_problem()
    record = recorded(config(lr=1e30, train_log_interval=1), problem)
    assert record.status == "diverged"
    assert [len(column) for column in numbers(record)] == [4, 4, 9, 4, 4]
    assert [len(record.extra[name]) for name in ("penalties", "minibatch_penalties")] == [4, 9]
    assert all(math.isnan(loss) for loss in record.test_losses[1:])
    y = problem.dataset.function("reader")(problem.dataset, None, "test")[1][:64]
    assert record.test_accuracies[1:] == [pytest.approx((y == 0).mean())] * 3
    seen = [loss for loss in record.minibatch_train_losses if math.isfinite(loss)]
    assert len(seen) < 4
    assert record.extra["divergence"] == {"epoch": 1, "step": len(seen)}


def test_a_diverged_run_goes_on_where_it_is_asked_to() -> None:
    for made in (config(lr=1e30, on_divergence="continue"), config(lr=1e30, protocol="deepobs-1.1.2")):
        record = recorded(made, small_problem())
        assert record.status == "diverged"
        assert len(record.extra["timings"]["train"]) == 3


class At:
    """Raises an exception after the evaluation of an epoch."""

    def __init__(self, epoch: int, error: BaseException) -> None:
        self.at, self.error, self.closed = epoch, error, False

    def __call__(self, event: Event) -> None:
        if isinstance(event, Evaluated) and event.epoch == self.at:
            raise self.error

    def close(self) -> None:
        self.closed = True


def test_an_interrupted_run_keeps_its_epochs(tmp_path: Path) -> None:
    reporter = At(2, KeyboardInterrupt())
    with pytest.raises(RunInterrupted, match="after 2 of 3 epochs") as caught:
        recorded(config(output_dir=str(tmp_path / "results")), small_problem(), reporter)
    path = caught.value.record.path
    assert path.name.endswith(".json.partial")
    assert not list((tmp_path / "results").rglob("*.json"))
    kept = records.read(path)
    assert (kept.status, len(kept.test_losses)) == ("interrupted", 3)
    assert reporter.closed


def test_a_failed_run_keeps_its_epochs_and_its_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of luck"):
        recorded(config(output_dir=str(tmp_path / "results")), small_problem(), At(1, RuntimeError("out of luck")))
    (path,) = (tmp_path / "results.state").rglob("*.partial")
    assert not (tmp_path / "results").exists()
    kept = records.read(path)
    assert (kept.status, kept.extra["error"]) == ("failed", "RuntimeError: out of luck")


def test_a_finished_run_lies_where_deepobs_looks(tmp_path: Path) -> None:
    output_dir = tmp_path / "results"
    record = recorded(config(optimizer="momentum", output_dir=str(output_dir)), small_problem())
    assert record.path.parent.parent == output_dir / "small" / "momentum"
    setting = "num_epochs__3__batch_size__32__momentum__9.e-01__lr__1.e-01__protocol__default__code__"
    assert record.path.parent.name.startswith(setting)  # and a digest of the problem, which is of the user's own
    content = json.loads(record.path.read_text())
    assert list(content)[:3] == ["train_losses", "test_losses", "minibatch_train_losses"]
    assert list(content)[-1] == "deepobs_func"
    assert numbers(records.read(record.path)) == numbers(record)


@pytest.mark.large
def test_the_stand_in_is_marked(tmp_path: Path) -> None:
    record = recorded(
        RunConfig("mnist_logreg", "sgd", 0.1, epochs=1, data="synthetic", output_dir=str(tmp_path / "results"))
    )
    assert record.synthetic
    assert record.path.parent.name.endswith("__data__synthetic")
    assert 0.5 < record.test_accuracies[-1] < 1.0


def test_parameters_and_data_are_not_changed_by_the_warm_up() -> None:
    """The step that warms up is thrown away: the first mini-batch loss is that of the initial parameters."""
    problem = small_problem()
    record = recorded(config(train_log_interval=1, optimizer="torch.optim.SGD"), problem)
    params, _ = problem.init()
    before = tree.map(torch.clone, params)
    assert record.minibatch_train_losses[0] == recorded(config(train_log_interval=1), problem).minibatch_train_losses[0]
    assert all(torch.equal(before[name], problem.init()[0][name]) for name in before)


def test_the_calls_of_the_oracle_are_recorded_by_kind_after_each_epoch() -> None:
    """Three steps an epoch; Sophia's products are in steps 1, 5 and 9."""
    record = recorded(config(optimizer="sophia_h", hyperparams={"update_every": 4}, lr=0.01), small_problem())
    assert record.extra["calls"] == {"gradients": [3, 6, 9], "products": [1, 2, 3], "evaluations": [0, 0, 0]}
    record = recorded(config(optimizer="tests.optimizers.classes.Extragradient"), small_problem())
    assert record.extra["calls"] == {"gradients": [6, 12, 18], "products": [0, 0, 0], "evaluations": [0, 0, 0]}
