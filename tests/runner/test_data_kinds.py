"""Runs on the other kinds of data: augmented images, batch norm, and texts with a recurrent net."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from deepobs_func import problems, random
from deepobs_func.base import Batch, ModelState
from deepobs_func.datasets.loading import load
from deepobs_func.errors import ConfigError
from deepobs_func.problems.problem import Problem
from deepobs_func.records import RunRecord
from deepobs_func.runner import RunConfig
from deepobs_func.runner.batches import Resident
from deepobs_func.runner.evaluation import Evaluator
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.plan import make_plan
from deepobs_func.runner.step import Carry
from tests.problems.small_nets import narrow_resnet
from tests.runner.small import recorded

BATCH = 4


def small(name: str, **sizes: object) -> Problem:
    """The problem on a stand-in of few examples; WRN-16-1 for WRN-16-4."""
    problem = narrow_resnet() if name == "svhn_wrn164" else problems.get(name)
    return replace(problem, dataset=replace(problem.dataset, **sizes))


IMAGES = {"train_size": 4 * BATCH, "test_size": 2 * BATCH, "file_sizes": (2 * BATCH, 2 * BATCH)}
TEXT = {"train_size": 4 * BATCH * 50 + 30, "test_size": 2 * BATCH * 50 + 7, "train_eval_size": 4 * BATCH * 50 + 30}


def config(name: str, **changes: object) -> RunConfig:
    values = {"epochs": 1, "batch_size": BATCH, "data": "synthetic", "output_dir": None, "train_log_interval": 1}
    return RunConfig(name, "sgd", 0.01, **(values | changes))


def numbers(record: RunRecord) -> list[object]:
    return [record.train_losses, record.test_losses, record.minibatch_train_losses, record.test_accuracies]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("cifar10_3c3d", IMAGES),
        pytest.param("svhn_wrn164", IMAGES, marks=pytest.mark.large),
        ("tolstoi_char_rnn", TEXT),
    ],
)
@pytest.mark.parametrize("protocol", [pytest.param("default", marks=pytest.mark.large), "deepobs-1.1.2"])
def test_the_same_configuration_gives_the_same_numbers(name: str, sizes: dict[str, object], protocol: str) -> None:
    made, problem = config(name, protocol=protocol), small(name, **sizes)
    first, again = recorded(made, problem), recorded(made, problem)
    assert numbers(first) == numbers(again)
    assert len(first.minibatch_train_losses) == 4
    assert first.train_losses[0] != first.train_losses[1]
    assert numbers(first) != numbers(recorded(config(name, protocol=protocol, seed=43), problem))


def test_the_training_set_is_evaluated_augmented_under_the_reference_s_protocol() -> None:
    """With no step to speak of, only the augmentation changes from one evaluation to the next."""
    problem = small("cifar10_3c3d", **IMAGES, train_eval_size=4 * BATCH)
    still = {"hyperparams": {}, "lr": 1e-30, "epochs": 1}
    default, reference = (
        recorded(replace(config("cifar10_3c3d", protocol=p), **still), problem) for p in ("default", "deepobs-1.1.2")
    )
    assert default.train_losses[0] == default.train_losses[1]
    assert reference.train_losses[0] != reference.train_losses[1]
    assert default.test_losses[0] == reference.test_losses[1]


def test_a_text_is_evaluated_with_its_state_carried_from_zero() -> None:
    problem = small("tolstoi_char_rnn", **TEXT)
    plan, key = make_plan(config("tolstoi_char_rnn"), problem), random.key(0)
    data = load(problem.dataset, "synthetic").arranged(BATCH)
    params, _ = problem.init(0)
    test = Evaluator(plan, Resident(plan, key, data), key, Execution())(
        0, Carry(params, None, ModelState({}, problem.zero_carry(BATCH)))
    )["test"]
    losses, state = [], ModelState({}, {})
    for start in (0, BATCH):
        rows = slice(start, start + BATCH)
        evaluation, state = problem.evaluate_and_state(params, Batch(data.test.x[rows], data.test.y[rows], {}, state))
        losses.append(evaluation.losses)
    assert test.loss == pytest.approx(float(torch.cat(losses).mean()), rel=1e-5)


def test_a_batch_without_a_window_is_refused() -> None:
    with pytest.raises(ConfigError, match="characters, so a batch has at most"):
        make_plan(config("tolstoi_char_rnn", batch_size=100), small("tolstoi_char_rnn", **TEXT))
