"""Steps of members beside steps of one, in float64, and on the nets of the registry."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map

from deepobs_func import optimizers, problems, random
from deepobs_func.base import Batch, ModelState
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.problems.problem import Problem
from deepobs_func.runner import Execution
from deepobs_func.runner.population.step import constants_of, make_step_of_all, make_steps_in_turn
from deepobs_func.runner.step import Carry, StepInput, make_step
from tests.runner.small_nets import PROBLEMS

MAKES = {
    "sgd": lambda lr: optimizers.sgd(lr),
    "momentum": lambda lr: optimizers.momentum(lr, 1 - lr),
    "nesterov": lambda lr: optimizers.nesterov(lr, schedule=optimizers.cosine(100)),
    "adam": lambda lr: optimizers.adam(lr, epsilon=1e-3, before=[optimizers.clip_by_global_norm(1.0)]),
    "adamw": lambda lr: optimizers.adamw(lr, epsilon=1e-3),
    "rmsprop": lambda lr: optimizers.rmsprop(lr, epsilon=1e-3),
}
RATES = {"quadratic_deep": 1e-3, "two_d_beale": 1e-6}


@cache
def _batch(problem: Problem, size: int, seed: int) -> Batch:
    """Members and their own runs see it, those of all optimizers."""
    return problem.fake_batch(size, seed, dtype=torch.float64)


class Members:
    """Two seeds with two learning rates each, and batches with noise of each seed, in float64."""

    def __init__(self, problem: Problem, make: Any, size: int, rate: float) -> None:
        self.problem, self.size = problem, size
        self.optimizers = [make(rate), make(rate / 2)]
        self.starts = [[self._start(seed, each) for each in self.optimizers] for seed in (0, 1)]

    def _start(self, seed: int, optimizer: Optimizer) -> Carry:
        params, state = self.problem.init(seed, dtype=torch.float64)
        carry = self.problem.zero_carry(self.size, dtype=torch.float64)
        return Carry(params, optimizer.init(params, random.key(seed)), state._replace(carry=carry))

    def batch(self, seed: int, step: int) -> Batch:
        return _batch(self.problem, self.size, 100 * step + seed)

    def alone(self, seed: int, column: int, steps: int) -> tuple[Carry, list[float]]:
        carry, losses = self.starts[seed][column], []
        step = make_step(self.problem, self.optimizers[column])
        for index in range(steps):
            carry, metrics = step(carry, self.batch(seed, index))
            losses.append(float(metrics.loss))
        return carry, losses

    def together(self, steps: int) -> tuple[Any, torch.Tensor]:
        names = constants_of(self.problem)
        constants = {name: self.starts[0][0].state.moments[name] for name in names}

        def stripped(carry: Carry) -> Carry:
            moments = {k: v for k, v in carry.state.moments.items() if k not in names}
            return carry._replace(state=carry.state._replace(moments=moments))

        carry = _stack([_stack([stripped(each) for each in row]) for row in self.starts])
        step, losses = make_step_of_all(self.problem, self.optimizers[0]), []
        for index in range(steps):
            batch = _stack([self.batch(seed, index)._replace(state=ModelState({}, {})) for seed in (0, 1)])
            carry, metrics = step(carry, constants, batch)
            losses.append(metrics.loss)
        return carry, torch.stack(losses)


def _stack(trees: list[Any]) -> Any:
    return tree_map(lambda *leaves: torch.stack(leaves), *trees)


EACH = ((0, 0), (0, 1), (1, 0), (1, 1))
TWO = ((0, 0), (1, 1))  # each seed, and each learning rate


def far(members: Members, steps: int, compared: Sequence[tuple[int, int]] = EACH) -> float:
    """The largest relative difference of a loss, or of a parameter, between members and runs of their own."""
    carry, losses = members.together(steps)
    found = []
    for seed, column in compared:
        alone, own = members.alone(seed, column, steps)
        expected = torch.tensor(own, dtype=torch.float64)
        found.append(((losses[:, seed, column] - expected) / expected).abs().max())
        found += [
            (carry.params[name][seed, column] - leaf).norm() / (1e-12 + leaf.norm())
            for name, leaf in alone.params.items()
        ]
    return float(torch.stack(found).max())


@pytest.mark.large
@pytest.mark.parametrize("kind", PROBLEMS)
def test_after_a_hundred_steps_in_float64(kind: str) -> None:
    problem = PROBLEMS[kind]()
    name = list(MAKES)[list(PROBLEMS).index(kind)]  # each kind of net with another optimizer
    members = Members(problem, MAKES[name], 4, RATES.get(problem.name, 1e-2))
    assert far(members, 100) < 1e-10


@pytest.mark.parametrize(
    "name", [name if name in ("nesterov", "adam") else pytest.param(name, marks=pytest.mark.large) for name in MAKES]
)
def test_every_optimizer_after_a_hundred_steps_in_float64(name: str) -> None:
    assert far(Members(PROBLEMS["linear"](), MAKES[name], 4, 1e-2), 100, compared=TWO) < 1e-10


@pytest.mark.large
@pytest.mark.parametrize(("name", "size"), [("mnist_mlp", 4), ("mnist_2c2d", 2), ("tolstoi_char_rnn", 2)])
def test_the_nets_of_the_registry_after_ten_steps(name: str, size: int) -> None:
    # By momentum: of a gradient that is rounding alone, as of a bias before batch norm, Adam makes a whole step.
    assert far(Members(problems.get(name), MAKES["momentum"], size, 1e-3), 10) < 1e-10


def test_members_in_turn_see_one_gather() -> None:
    problem = PROBLEMS["linear"]()
    first, second = optimizers.sgd(0.1), optimizers.sgd(0.2)
    params, state = problem.init(0)
    carries = tuple(Carry(params, each.init(params, random.key(0)), state) for each in (first, second))
    batch = problem.fake_batch(8)
    given = StepInput(type("Split", (), {"x": batch.x, "y": batch.y}), torch.arange(8).view(2, 4), torch.zeros(2, 2))
    steps = make_steps_in_turn(problem, [first, second], Execution(), "float32")
    after, metrics = steps(carries, given, [({}, ()), ({}, ())])
    assert metrics.loss.shape == (2, 2)
    step, own = make_step(problem, second, plain=True), carries[1]
    for rows in given.rows:
        own, _ = step(own, Batch(batch.x[rows], batch.y[rows], {}, state))
    assert all(torch.equal(after[1].params[name], leaf) for name, leaf in own.params.items())


@pytest.mark.large
@pytest.mark.parametrize("seeds", [1, 2])
def test_a_compiled_step_of_all_is_the_eager_one(seeds: int) -> None:
    from deepobs_func.backend.compiling import compiled

    for kind in ("dropout and batch norm", "quadratic"):
        problem = PROBLEMS[kind]()
        members = Members(problem, MAKES["adam"], 4, 1e-3)
        names = constants_of(problem)
        constants = {name: members.starts[0][0].state.moments[name] for name in names}
        rest = {k: v for k, v in members.starts[0][0].state.moments.items() if k not in names}
        start = members.starts[0][0]._replace(state=ModelState(rest, {}))
        carry = tree_map(lambda leaf: leaf.expand(seeds, 3, *leaf.shape).clone(), start)
        own = members.batch(0, 0)._replace(state=ModelState({}, {}))
        batch = tree_map(lambda leaf: leaf.expand(seeds, *leaf.shape).clone(), own)
        step = make_step_of_all(problem, members.optimizers[0])
        eager, fast = step(carry, constants, batch), compiled(step, problem, ahead=False)(carry, constants, batch)
        for name, leaf in eager[0].params.items():
            assert torch.allclose(leaf, fast[0].params[name], rtol=1e-10, atol=1e-14)
