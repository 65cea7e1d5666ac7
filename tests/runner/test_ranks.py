"""Several processes give the numbers of one at the same global batch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from deepobs_func import problems
from deepobs_func.backend.ranks import ALONE, Ranks, current
from deepobs_func.datasets.loading import Dataset, Split
from deepobs_func.errors import ConfigError
from deepobs_func.problems.oracle import make_value_and_grad
from deepobs_func.problems.pieces import Parts, PiecewiseOracle, in_parts
from deepobs_func.runner import RunConfig, make_plan, run
from deepobs_func.runner.callbacks import Stop
from deepobs_func.runner.distributed import check_same_data
from deepobs_func.runner.parts import check_curvature
from tests.runner import ranks
from tests.runner.ranks import OPTIMIZERS, TOLERANCES, far, together

# Of the table of an hour that `python -m tests.runner.ranks` prints.
CASES = [
    *(("quadratic_deep", digits, size) for digits in TOLERANCES for size in (2, 4)),
    ("mnist_2c2d", "float64", 2),
    ("mnist_vae", "float32", 2),
    ("tolstoi_char_rnn", "float64", 2),
    ("svhn_wrn164", "float64", 2),
]


def test_shards_of_a_process() -> None:
    whole, ours = torch.arange(12).view(6, 2), Ranks(1, 3)
    assert ours.shard(whole).tolist() == [[4, 5], [6, 7]]
    assert Ranks(0, 2).shard(whole, 1).tolist() == [[0], [2], [4], [6], [8], [10]]
    assert ours.shards({"a": whole, "b": 3})["b"] == 3
    assert ALONE.shard(whole) is ALONE.sum(whole) is ALONE.gathered(whole) is whole
    assert ALONE.all(5) == [5]
    assert ALONE.from_first("x") == "x"


def means(owned: bool) -> dict[str, Any]:
    """Of tensors that are large, small, the same memory, and not in order there."""
    ranks = current()
    large = torch.arange(2**19, dtype=torch.float32) + ranks.rank
    given = {
        "large": large,
        "small": torch.tensor([1.0 + ranks.rank]),
        "same": large.view(2, -1),
        "turned": (torch.arange(2**19, dtype=torch.float32) + ranks.rank).view(2, -1).t(),
        "number": 3,
    }
    before = {name: leaf.clone() for name, leaf in given.items() if isinstance(leaf, torch.Tensor)}
    found = ranks.mean(given, owned=owned)
    if not owned:
        assert all(torch.equal(leaf, before[name]) for name, leaf in given.items() if isinstance(leaf, torch.Tensor))
    return {"found": found, "expected": {name: leaf + 0.5 for name, leaf in before.items()}}


@pytest.mark.parametrize("owned", [False, True])
def test_means_are_those_of_the_processes_in_place_or_not(owned: bool) -> None:
    answer = together(2, means, owned)
    assert answer["found"].pop("number") == 3
    assert all(torch.equal(leaf, answer["expected"][name]) for name, leaf in answer["found"].items())


@pytest.mark.parametrize("size", [2, 4])
def test_answers_are_those_of_one_process(size: int) -> None:
    expected = ranks.answers("mnist_logreg", 8)
    found = together(size, ranks.answers, "mnist_logreg", 8)
    assert {name: far(found[name], expected[name]) < 1e-10 for name in expected} == dict.fromkeys(expected, True)


def test_a_run_of_two_processes_has_the_record_of_one() -> None:
    """With pieces of shards, and augmentation of neither."""
    arguments = ("mnist_logreg", (64, 32), {"optimizer": "adam", "lr": 0.01, "batch_size": 16, "micro_batch": 4})
    expected, found = ranks.recorded(*arguments), together(2, ranks.recorded, *arguments)
    assert far(found["params"], expected["params"]) < 1e-5
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    assert found["accuracies"] == expected["accuracies"]
    assert found["run_id"] == expected["run_id"]
    assert (found["execution"]["processes"], expected["execution"]["processes"]) == (2, 1)


@pytest.mark.large
@pytest.mark.parametrize("name", ["svhn_wrn164", "mnist_vae", "tolstoi_char_rnn", "cifar10_3c3d"])
def test_answers_on_every_kind_of_net(name: str) -> None:
    """Batch norm synchronised: its statistics in every derivative."""
    expected, found = ranks.answers(name, 4), together(2, ranks.answers, name, 4)
    assert {
        each: far(found[each], expected[each]) for each in expected if far(found[each], expected[each]) > 1e-8
    } == {}


@pytest.mark.large
def test_processes_share_a_loss_scale() -> None:
    arguments = ("mnist_logreg", (64, 32), {"optimizer": "adam", "lr": 0.01, "batch_size": 16, "precision": "fp16"})
    expected, found = ranks.recorded(*arguments), together(2, ranks.recorded, *arguments)
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-3)


@pytest.mark.large
@pytest.mark.parametrize(("name", "digits", "size"), CASES)
def test_ten_steps_are_those_of_one_process(name: str, digits: str, size: int) -> None:
    chosen = tuple(OPTIMIZERS) if name in ("quadratic_deep", "mnist_2c2d") else ("sgd", "adam")
    found = ranks.apart(name, digits, size, chosen)
    assert {optimizer: each for optimizer, each in found.items() if each > TOLERANCES[digits]} == {}


@pytest.mark.large
def test_local_statistics_are_those_of_one_process_shard_by_shard() -> None:
    found = ranks.apart("svhn_wrn164", "float64", 2, ("sgd", "adam"), shards=2)
    assert max(found.values()) < TOLERANCES["float64"]


REFUSED = {
    "batch_size 10 does not divide among 4 processes. Take 8 or 12": {"batch_size": 10},
    "track looks at whole batches": {"batch_size": 8, "track": "grad_norm"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_processes_cannot_do_is_said(message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        together(4, ranks.recorded, "mnist_logreg", (64, 32), {"optimizer": "sgd", "lr": 0.01, **REFUSED[message]})


CURVATURE = {
    "optimizer kfac: its factors are computed from all examples at once, of which 2 processes have a shard": {
        "optimizer": "kfac"
    },
    "hyperparams.'curvature_batch'. 4: adahessian takes the curvature of the first examples": {
        "optimizer": "adahessian",
        "hyperparams": {"curvature_batch": 4},
    },
}


@pytest.mark.parametrize("message", CURVATURE)
def test_curvature_that_processes_would_not_share_is_refused(message: str) -> None:
    """Each would have its own, and the parameters would drift apart."""
    config = RunConfig("mnist_logreg", lr=0.01, batch_size=8, output_dir=None, **CURVATURE[message])
    optimizer = make_plan(config).optimizer
    with pytest.raises(ConfigError, match=message):
        check_curvature(config, optimizer, Ranks(0, 2))
    check_curvature(config, optimizer, ALONE)


def part_of_shared() -> str:
    problem = problems.get("mnist_logreg")
    params, parts = problem.init()[0], Parts(0, current())
    differentiate = in_parts(problem, make_value_and_grad(problem), parts)
    oracle = PiecewiseOracle(problem, differentiate, params, problem.fake_batch(4), parts)
    for question in (lambda: oracle.part(2), lambda: oracle.layer_gradients("empirical")):
        with pytest.raises(ConfigError, match="in one process"):
            question()
    return "refused"


def test_the_oracle_of_a_shard_refuses_what_is_of_one_process() -> None:
    assert together(2, part_of_shared) == "refused"


def differing() -> None:
    options = {"optimizer": "sgd", "lr": 0.01 * (1 + current().rank), "batch_size": 8}
    ranks.recorded("mnist_logreg", (64, 32), options)


def test_processes_that_run_something_else_are_named() -> None:
    with pytest.raises(
        RuntimeError, match=r"Process 1 of 2 differs from process 0: the run's lr is 0.02 there and 0.01"
    ):
        together(2, differing)


def with_other_data() -> None:
    plan = make_plan(RunConfig("mnist_logreg", "sgd", 0.1, data="synthetic", device="cpu", output_dir=None))
    sample = Split(torch.ones(100, 4), torch.zeros(100))
    check_same_data(plan, Dataset(plan.problem.dataset, sample, sample, True, "made up"))
    other = Split(sample.x + (current().rank == 1), sample.y)
    check_same_data(plan, Dataset(plan.problem.dataset, sample, other, True, "made up"))


def test_processes_with_other_data_are_named() -> None:
    with pytest.raises(RuntimeError, match="Process 1 of 2 differs from process 0: the test data is 100 examples"):
        together(2, with_other_data)


def test_a_module_of_ones_own_has_local_statistics_alone() -> None:
    with pytest.raises(RuntimeError, match="bn_sync: the batch norm of mine is of a module of your own"):
        together(2, own_batch_norm, "sync")
    assert together(2, own_batch_norm, "local") == "finished"


def stopped_by_the_second() -> list[Any]:
    def callback(event: Any) -> Stop | None:
        return Stop("the second has seen enough") if current().rank == 1 and event.epoch == 1 else None

    config = RunConfig("quadratic_deep", "sgd", 0.01, epochs=3, output_dir=None, device="cpu", compile="off")
    record = run(config, callbacks=[callback]).record
    return [record.status, record.extra["stopped"], len(record.test_losses)]


def test_any_process_may_end_the_run() -> None:
    assert together(2, stopped_by_the_second) == ["stopped", "the second has seen enough", 2]


def own_batch_norm(sync: str) -> str:
    import numpy as np
    from torch import nn

    from deepobs_func import RunConfig, datasets, problems, run
    from deepobs_func.problems import measures

    generator = np.random.default_rng(0)
    split = generator.normal(size=(32, 5)).astype(np.float32), generator.integers(0, 3, size=32)
    data = datasets.from_arrays("mine", split, split)
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    problem = problems.from_module(net, measures.cross_entropy, data, name="mine", batch_size=8)
    return str(
        run(RunConfig("mine", "sgd", 0.1, epochs=1, bn_sync=sync, output_dir=None, compile="off"), problem).status
    )


def of_torchrun(folder: Path, *arguments: str) -> dict[str, Any]:
    """What the record holds of a run that torchrun starts, and starts again when a process is lost."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m", "tests.runner.lost_ranks"]
    done = subprocess.run([*command, str(folder), *arguments], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = folder.rglob("*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.large
def test_a_run_that_loses_a_process_ends_with_the_same_numbers(tmp_path: Path) -> None:
    expected, found = of_torchrun(tmp_path / "whole"), of_torchrun(tmp_path / "lost", "10")
    for name in ("train_losses", "test_losses", "minibatch_train_losses"):
        assert found[name] == expected[name]
    assert len(found["test_losses"]) == 4
