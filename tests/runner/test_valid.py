"""The validation split of a run: what is set aside, how it is evaluated, where it is recorded."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from deepobs_func import problems, random, records
from deepobs_func.base import Batch, ModelState
from deepobs_func.datasets.loading import stream
from deepobs_func.errors import ConfigError, as_flag
from deepobs_func.problems.problem import Problem
from deepobs_func.runner import RunConfig, run
from deepobs_func.runner.order import train_eval_rows, valid_rows
from deepobs_func.runner.plan import make_plan
from tests.runner import streamed
from tests.runner.small import config, recorded, small_problem

VALID = 34  # of 100: one batch of 32, and two steps an epoch


def plain(problem: Problem, params: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Mean loss plus penalty, and accuracy, in float64."""
    weight, bias = (params[name].double() for name in ("weight", "bias"))
    logits = x.double() @ weight.T + bias
    loss = torch.nn.functional.cross_entropy(logits, y) + 0.005 * weight.square().sum()
    return float(loss), float((logits.argmax(1) == y).double().mean())


@pytest.mark.parametrize("protocol", ["default", "deepobs-1.1.2"])
def test_three_splits_against_a_plain_evaluation(protocol: str) -> None:
    problem = small_problem()
    done = run(config(valid=VALID, protocol=protocol, epochs=2), problem)
    spec, key, cpu = problem.dataset, random.key(42), torch.device("cpu")
    x, y = (torch.from_numpy(array) for array in spec.function("reader")(spec, None, "train"))
    test_x, test_y = (torch.from_numpy(array)[:64] for array in spec.function("reader")(spec, None, "test"))
    train, valid = train_eval_rows(done.plan.protocol, spec, key, 32, VALID), valid_rows(spec, 32, VALID, cpu)
    assert (len(train), len(valid), done.plan.steps_per_epoch) == (64, 32, 2)
    splits = {"train": (x[train], y[train]), "valid": (x[valid], y[valid]), "test": (test_x, test_y)}
    for split, data in splits.items():
        loss, accuracy = plain(problem, done.params, *data)
        assert getattr(done.record, f"{split}_losses")[-1] == pytest.approx(loss, rel=1e-6)
        assert getattr(done.record, f"{split}_accuracies")[-1] == pytest.approx(accuracy)


def test_the_split_is_where_deepobs_1_2_has_it(tmp_path: Path) -> None:
    record = recorded(config(valid=VALID, output_dir=str(tmp_path / "results")), small_problem())
    content = json.loads(record.path.read_text())
    names = [name for name in content if "losses" in name or "accuracies" in name]
    assert names == [
        *("train_losses", "valid_losses", "test_losses", "minibatch_train_losses"),
        *("train_accuracies", "valid_accuracies", "test_accuracies"),
    ]
    assert [len(content[name]) for name in ("valid_losses", "valid_accuracies")] == [4, 4]
    again = records.read(record.path)
    assert (again.valid_losses, again.valid_accuracies) == (record.valid_losses, record.valid_accuracies)
    assert f"__valid__{VALID}__" in record.path.parent.name


def test_without_it_nothing_is_recorded_of_it(tmp_path: Path) -> None:
    record = recorded(config(output_dir=str(tmp_path / "results")), small_problem())
    assert "valid" not in " ".join(json.loads(record.path.read_text())) + record.path.parent.name
    assert records.read(record.path).valid_losses is None


def test_as_large_as_the_test_set_is_one_run_however_it_is_asked_for() -> None:
    asked, counted, other, off = (
        make_plan(config(valid=valid, batch_size=8), small_problem()) for valid in (True, 70, 64, False)
    )
    assert (asked.valid, asked.steps_per_epoch) == (70, 3)
    assert asked.run_id == counted.run_id
    assert len({asked.run_id, other.run_id, off.run_id}) == 3
    assert off.run_id == make_plan(config(batch_size=8), small_problem()).run_id


@pytest.mark.parametrize(
    ("valid", "words"),
    [
        (31, "--valid 31: a batch of 32 takes 32 examples"),
        (69, "--valid 69: of 100 training examples, fewer are left than the 32"),
        (100, "--valid 100: of 100"),
        (1000, "--valid 1000: of 100"),
    ],
)
def test_too_few_examples_are_refused(valid: int, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(config(valid=valid), small_problem())
    assert words in caught.value.told(as_flag)


def test_a_diverged_run_is_filled_up() -> None:
    record = recorded(config(lr=1e30, valid=VALID), small_problem())
    assert record.status == "diverged"
    assert [len(column) for column in (record.valid_losses, record.valid_accuracies)] == [4, 4]
    assert all(math.isnan(loss) for loss in record.valid_losses[1:])


def test_streamed_data_have_the_same_splits(tmp_path: Path) -> None:
    """Pictures in the test phase: the validation split is that of the training folder, not augmented."""
    problem, folder = streamed.pictures(), streamed.write_pictures(tmp_path)
    done = run(streamed.config(folder, valid=True), problem)
    assert (done.plan.valid, done.plan.steps_per_epoch) == (7, 2)
    spec = problem.dataset
    rows = valid_rows(spec, 4, 7, torch.device("cpu")).view(1, 4)
    ((x, y),) = stream(spec, str(folder), "train", rows, random.key(0), augment=False)
    batch = Batch(spec.function("prepare")(x, torch.float32), y, {}, ModelState({}, {}))
    expected = float(problem.evaluate(done.params, batch).losses.mean())
    assert done.valid_losses[-1] == pytest.approx(expected, rel=1e-6)


def test_a_text_validates_on_the_end_of_its_streams() -> None:
    """The recurrent state starts at zero in the first of the windows that are set aside."""
    problem = problems.get("tolstoi_char_rnn")
    spec = dataclasses.replace(problem.dataset, train_size=2001, test_size=501, train_eval_size=None)
    problem = dataclasses.replace(problem, dataset=spec)
    made = RunConfig(
        "tolstoi_char_rnn", "sgd", 0.1, epochs=1, batch_size=4, data="synthetic", output_dir=None, valid=True
    )
    done = run(made, problem)
    assert (done.plan.steps_per_epoch, len(done.valid_losses)) == (8, 2)
    x, y = (torch.from_numpy(array) for array in spec.function("stand_in")(spec, "train"))
    x, y = spec.function("arrange")(x, y, 4)
    state, losses = problem.zero_carry(4), []
    for start in (32, 36):
        batch = Batch(x[start : start + 4], y[start : start + 4], {}, ModelState({}, state))
        noise = problem.draw_noise(random.key(0), 4, train=False)
        found, after = problem.evaluate_and_state(done.params, batch._replace(noise=noise))
        losses.append(found.losses)
        state = after.carry
    np.testing.assert_allclose(done.valid_losses[-1], float(torch.cat(losses).mean()), rtol=1e-5)
