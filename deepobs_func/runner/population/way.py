"""What members of one structure share, and what a way of training them side by side does."""

from __future__ import annotations

import abc
import functools
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepobs_func import random
from deepobs_func.base import ModelState, Params
from deepobs_func.datasets.loading import Dataset
from deepobs_func.problems.oracle import Metrics
from deepobs_func.problems.problem import Problem, Tensors
from deepobs_func.runner.batches import Batches, make_batches, resident
from deepobs_func.runner.checkpoint import like
from deepobs_func.runner.evaluation import Evaluator
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.plan import Plan
from deepobs_func.runner.population.evaluation import Found
from deepobs_func.runner.population.step import (
    constants_of,
    laid_out_carry,
)
from deepobs_func.runner.step import Carry


@dataclass
class Shared:
    """What members of one structure share.

    Attributes:
        plan: of one of them.
        dataset: on the device; None where it is streamed.
    """

    plan: Plan
    dataset: Dataset | None

    @classmethod
    def of(cls, plan: Plan) -> Shared:
        """Loads it.

        Raises:
            DataError: the data are not there or cannot be read.
        """
        return cls(plan, None if plan.problem.dataset.streamed else resident(plan))

    @functools.cached_property
    def constants(self) -> Tensors:
        """Moments that training never changes and no seed decides."""
        names = constants_of(self.plan.problem)
        if not names:
            return {}
        (_, state), (_, other) = (self.plan.problem.init(random.key(seed, self.plan.device)) for seed in (0, 1))
        return {name: state.moments[name] for name in names if torch.equal(state.moments[name], other.moments[name])}

    def key(self, seed: int) -> random.Key:
        """The key of a run."""
        return random.key(seed, self.plan.device)

    def batches(self, seed: int) -> Batches:
        """The batches of a run."""
        return make_batches(self.plan, self.key(seed), self.dataset)


class Way(abc.ABC):
    """Members under way.

    Attributes:
        ids: which members train, `(m,)`: their places among those that were given.

    Args:
        shared: what they share.
        plans: of all members.
        execution: how.
    """

    ids: Tensor

    def __init__(self, shared: Shared, plans: Sequence[Plan], execution: Execution) -> None:
        self.shared: Shared = shared
        self.plans: Sequence[Plan] = plans
        self.execution: Execution = execution
        self.plan: Plan = shared.plan
        self.problem: Problem = shared.plan.problem
        self.seeds: list[int] = list(dict.fromkeys(plan.config.seed for plan in plans))
        self._started: tuple[int, tuple[Params, ModelState]] | None = None
        self.batches: list[Batches] = [shared.batches(seed) for seed in self.seeds]
        keys = [shared.key(seed) for seed in self.seeds]
        first = Evaluator(self.plan, self.batches[0], keys[0], execution)
        rest = zip(self.batches[1:], keys[1:], strict=True)
        self.evaluators: list[Evaluator] = [first, *(first.of_seed(batches, key) for batches, key in rest)]

    def initial(self, member: int) -> Carry:
        """The carry of a member at the start of its run."""
        plan = self.plans[member]
        key = self.shared.key(plan.config.seed)
        params, state = self._start(plan.config.seed)
        carry = Carry(params, plan.optimizer.init(params, key), state)
        return laid_out_carry(carry, plan.optimizer, key, self.execution.channels_last)

    def _start(self, seed: int) -> tuple[Params, ModelState]:
        """What members of a seed begin with; that of the last seed is kept."""
        if self._started is None or self._started[0] != seed:
            self._started = seed, self.problem.init(self.shared.key(seed))
        return self._started[1]

    def of_seed(self, index: int) -> list[int]:
        """The members of a seed."""
        return [member for member, plan in enumerate(self.plans) if plan.config.seed == self.seeds[index]]

    @abc.abstractmethod
    def from_zero(self) -> None:
        """Recurrent states are zero at the start of an epoch."""

    @abc.abstractmethod
    def calls(self, epoch: int, start: int) -> Generator[Metrics]:
        """Makes the calls of an epoch, from a step on; yields the metrics of each, `(k, m)`."""

    @abc.abstractmethod
    def first_calls(self) -> Iterator[Metrics]:
        """Makes the first call of the run again and again, to be timed or thrown away."""

    @abc.abstractmethod
    def evaluate(self, epoch: int) -> tuple[Tensor, dict[str, Found]]:
        """Penalties `(m,)`, and the results by split."""

    @abc.abstractmethod
    def reports(self) -> dict[str, Tensor]:
        """What the optimizer reports now, `(m,)` by name."""

    @abc.abstractmethod
    def calls_made(self) -> dict[str, Tensor]:
        """How often the oracle was called, `(m,)` by kind."""

    @abc.abstractmethod
    def keep(self, alive: Collection[int], steps: int) -> None:
        """Leaves out members that are not alive, as far as that pays in the steps that are left."""

    @abc.abstractmethod
    def save(self) -> Any:
        """The carries as a tree of tensors and plain data."""

    @abc.abstractmethod
    def load(self, tree: Any) -> None:
        """The inverse of `save`."""

    def like(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """A tree of a file, with named tuples where those of `save` are."""
        return {name: like(part, tree[name]) for name, part in self.save().items()}

    @abc.abstractmethod
    def eval_params(self, member: int) -> Params:
        """The parameters of a member that are evaluated."""


def table(rows: Sequence[Mapping[str, float]]) -> dict[str, Tensor]:
    """Numbers by name of several members, `(m,)` by name, as far as all have them."""
    return {
        name: torch.tensor([float(row[name]) for row in rows]) for name in rows[0] if all(name in row for row in rows)
    }
