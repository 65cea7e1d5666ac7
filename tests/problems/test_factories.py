"""Functions that make modules: a fresh initialisation for each seed, the same one for the same seed."""

from __future__ import annotations

import itertools
import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from deepobs_func import problems
from deepobs_func.errors import ConfigError
from deepobs_func.problems.problem import Problem
from deepobs_func.runner import RunConfig, run
from tests.problems.user_functions import cross_entropy, problem_of


class Mixed(nn.Module):
    """Draws from the generators of torch, NumPy and Python."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, width), nn.Linear(width, 3)
        with torch.no_grad():
            self.layer.bias.fill_(random.random())
            self.head.bias.copy_(torch.from_numpy(np.random.normal(size=3)))
        self.head.weight.requires_grad_(False)
        self.register_buffer("shift", torch.randn(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x + self.shift).tanh())


def values(problem: Problem, seed: int) -> dict[str, torch.Tensor]:
    params, state = problem.init(seed)
    return {**params, **state.moments}


def test_each_seed_has_values_of_its_own() -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    problem = problem_of(Mixed)
    assert problem.name == "mixed"
    assert problem_of(partial(Mixed, 5)).shapes["layer.weight"] == (5, 6)
    first, again, other = (values(problem, seed) for seed in (0, 0, 1))
    assert set(first) == {"layer.weight", "layer.bias", "head.bias", "head.weight", "shift"}
    for name, leaf in first.items():
        assert torch.equal(leaf, again[name])
        assert not torch.equal(leaf, other[name])
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    torch.manual_seed(7)
    assert torch.equal(values(problem, 0)["shift"], first["shift"])


def test_a_module_keeps_its_own_values() -> None:
    problem = problem_of(Mixed())
    assert all(torch.equal(leaf, values(problem, 1)[name]) for name, leaf in values(problem, 0).items())


@pytest.mark.large
def test_runs_of_two_seeds_differ_and_repeat() -> None:
    problem = problem_of(Mixed)
    config = [RunConfig("mixed", "sgd", lr=0.1, epochs=1, output_dir=None, compile="off", seed=s) for s in (0, 0, 1)]
    first, again, other = (run(each, problem).test_losses for each in config)
    assert first == again
    assert first[0] != other[0]


def test_functions_that_are_refused() -> None:
    count = itertools.count(1)
    made = itertools.count(3)

    def counting() -> nn.Module:
        net = nn.Linear(6, 3)
        nn.init.constant_(net.bias, next(count))
        return net

    def growing() -> nn.Module:
        return nn.Sequential(nn.Linear(6, next(made)), nn.Flatten())

    def failing() -> nn.Module:
        raise KeyError("width")

    for make, words in (
        (counting, r"The function counting makes different modules under the same key: \['bias'\] differ"),
        (growing, r"modules of different tensors from call to call: \['0.bias', '0.weight'\]"),
        (failing, "The function failing that makes the module raised KeyError: 'width'"),
        (lambda: 3, "returned int; it must return an nn.Module"),
        (3, "a function without arguments that makes one; not of 3"),
        (nn.Linear, "raised TypeError.*functools.partial"),
    ):
        with pytest.raises(ConfigError, match=words):
            problems.from_module(make, cross_entropy, "mnist")
