"""The evaluation of several seeds: the numbers of each by itself, of inputs that are prepared once and bounded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from deepobs_func.runner import Execution, evaluation
from deepobs_func.runner import step as step_module
from deepobs_func.runner.evaluation import Evaluator
from deepobs_func.runner.plan import make_plan
from deepobs_func.runner.population import evaluation as evaluation_of_all
from deepobs_func.runner.population.evaluation import EvaluationOfAll
from deepobs_func.runner.population.way import Shared
from deepobs_func.runner.step import Carry
from tests.runner.small import config, small_problem

SEEDS = (1, 2, 3)
ROW = 4 * 5 + 8  # bytes of an example: five inputs and a class


class Seeds:
    """Evaluators of several seeds, and how many chunks they gathered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int, **changes: Any) -> None:
        self.gathered = 0
        make_gather = step_module.make_gather

        def counting(*args: Any, **others: Any) -> step_module.Gather:
            gather = make_gather(*args, **others)

            def counted(*given: Any) -> tuple[Tensor, Tensor]:
                self.gathered += 1
                return gather(*given)

            return counted

        for module in (step_module, evaluation_of_all):
            monkeypatch.setattr(module, "make_gather", counting)
        monkeypatch.setattr(evaluation, "KEPT_BYTES", most)
        self.plan = make_plan(config(**changes), small_problem())
        self.shared = Shared.of(self.plan)
        first = self.alone(SEEDS[0])
        self.evaluators = [first, *(first.of_seed(*self._of(seed)) for seed in SEEDS[1:])]
        params, state = self.plan.problem.init(0)
        self.carry = Carry(params, None, state)

    def _of(self, seed: int) -> tuple[Any, Any]:
        return self.shared.batches(seed), self.shared.key(seed)

    def alone(self, seed: int) -> Evaluator:
        return Evaluator(self.plan, *self._of(seed), Execution())


@pytest.mark.parametrize("protocol", ["default", "deepobs-1.1.2"])
def test_each_seed_has_the_numbers_that_it_has_alone(monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    seeds = Seeds(monkeypatch, 2**20, protocol=protocol, valid=34)
    found = [evaluator(1, seeds.carry) for evaluator in seeds.evaluators]
    assert found == [seeds.alone(seed)(1, seeds.carry) for seed in SEEDS]
    assert (found[0] == found[1]) is (protocol == "default")  # else the training examples are its own
    params = {name: torch.stack([leaf] * 3).unsqueeze(1) for name, leaf in seeds.carry.params.items()}
    for _ in range(2):
        results = EvaluationOfAll(seeds.plan.problem, seeds.evaluators, compile=False)(1, [0, 1, 2], params, {}, {})
        for split, of_split in results.items():
            assert of_split.losses.tolist() == pytest.approx([each[split].loss for each in found])


def test_seeds_share_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = Seeds(monkeypatch, 2**20, protocol="deepobs-1.1.2")
    for evaluator in seeds.evaluators:
        evaluator(0, seeds.carry)
    chunks = {split: len(part.rows) for split, part in seeds.evaluators[0].parts.items()}
    assert seeds.gathered == len(SEEDS) * chunks["train"] + chunks["test"]
    for evaluator in seeds.evaluators:
        evaluator(1, seeds.carry)
    assert seeds.gathered == len(SEEDS) * chunks["train"] + chunks["test"]  # nothing is augmented


def test_each_split_has_its_own_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = Seeds(monkeypatch, 64 * ROW)  # as large as either
    params = {name: leaf.expand(3, 1, *leaf.shape) for name, leaf in seeds.carry.params.items()}
    of_all = EvaluationOfAll(seeds.plan.problem, seeds.evaluators, compile=False)
    of_all(0, [0, 1, 2], params, {}, {})
    before = seeds.gathered
    of_all(1, [0, 1, 2], params, {}, {})
    assert seeds.gathered == before > 0


def test_rows_that_begin_alike_are_told_apart() -> None:
    split, rows = Shared.of(make_plan(config(), small_problem())).dataset, torch.arange(8)
    assert split is not None
    gather = step_module.kept(step_module.make_gather(small_problem(), augment=False), 2**20)
    assert [len(gather(split.test, rows[:size], ())[0]) for size in (8, 4, 8)] == [8, 4, 8]
