"""What an optimizer is tried on: small learnable problems without files, and a few of their steps."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import nn

from deepobs_func import datasets, problems, random
from deepobs_func.base import Batch
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.problems import measures
from deepobs_func.problems.problem import Problem
from deepobs_func.runner.config import RunConfig
from deepobs_func.runner.plan import make_plan
from deepobs_func.runner.step import Carry, Step, make_step

BATCHES = 4  # which come again and again
SIDE, CLASSES, EXAMPLES, BATCH = 8, 4, 256, 32
NOISE = 0.5  # beside patterns of standard deviation 1


@functools.cache
def trial_problem() -> Problem:
    """A convolution, a dense layer and biases, 188 numbers; separable, with a convex criterion."""
    return _problem("trial", _net)


@functools.cache
def trial_with_batch_norm() -> Problem:
    """The same with batch norm, which couples the examples of a batch."""
    return _problem("trial_bn", functools.partial(_net, norm=True))


@functools.cache
def trial_without_ggn() -> Problem:
    """The same with a criterion of which nothing is known."""
    return _problem("trial_plain", _net, functools.partial(F.cross_entropy, reduction="none"))


@functools.cache
def _data() -> DatasetSpec:
    """Noisy pictures of one pattern a class."""
    pattern_key, noise_key, label_key = random.split(random.key(0), 3)
    patterns = random.normal(pattern_key, (CLASSES, 1, SIDE, SIDE))
    y = random.integers(label_key, CLASSES, (EXAMPLES,))
    x = patterns[y] + NOISE * random.normal(noise_key, (EXAMPLES, 1, SIDE, SIDE))
    half = EXAMPLES // 2
    return datasets.from_arrays("trial", (x[:half], y[:half]), (x[half:], y[half:]))


def _net(norm: bool = False) -> nn.Module:
    normalized = (nn.BatchNorm2d(4),) if norm else ()
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), *normalized, nn.Softplus(), nn.Flatten(), nn.Linear(36, CLASSES))


def _problem(name: str, make: Any, criterion: Any = measures.cross_entropy) -> Problem:
    return problems.from_module(make, criterion, _data(), name=name, batch_size=BATCH)


@dataclass(frozen=True)
class Trial:
    """An optimizer on a problem.

    Attributes:
        name: of the optimizer, as a `RunConfig` has it.
        value: the optimizer, where it is none of a name.
        hyperparams: of it.
        problem: what it is tried on.
    """

    name: str
    value: Any
    hyperparams: Mapping[str, Any]
    problem: Problem

    def at(self, lr: float) -> Optimizer:
        """The optimizer at a learning rate.

        Raises:
            ConfigError: as `make_plan` does.
        """
        config = RunConfig(
            self.problem.name,
            self.name,
            lr,
            hyperparams=dict(self.hyperparams),
            batch_size=self.problem.batch_size,
            data="synthetic",
            output_dir=None,
            device="cpu",
        )
        return make_plan(config, self.problem, self.value).optimizer

    def start(self, optimizer: Optimizer, seed: int = 0) -> Carry:
        """Where a run starts."""
        params, state = self.problem.init(seed)
        return Carry(params, optimizer.init(params, random.key(seed)), state)

    def batch(self, number: int) -> Batch:
        """One of a few batches, which come again, so that random targets can be learned too."""
        return self.problem.fake_batch(self.problem.batch_size, seed=number % BATCHES)

    def after(self, optimizer: Optimizer, steps: int, step: Step | None = None, carry: Carry | None = None) -> Carry:
        """Where it is after some steps."""
        step, carry = step or make_step(self.problem, optimizer), carry or self.start(optimizer)
        for number in range(steps):
            carry, _ = step(carry, self.batch(number))
        return carry
