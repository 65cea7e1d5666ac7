"""A population under way: members of one structure that train side by side, with one log."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from deepobs_func.problems.oracle import Metrics
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.log import Log
from deepobs_func.runner.plan import Plan
from deepobs_func.runner.population.log import PopulationLog
from deepobs_func.runner.population.way import Shared, Way
from deepobs_func.runner.population.ways import WAYS
from deepobs_func.runner.signals import SHIELD


class Block:
    """Members that train side by side.

    Attributes:
        way: where their carries are.
        log: what they have found.
        epoch: how many epochs are complete.
        step: how many steps of the next one were made.

    Args:
        shared: what they share.
        plans: of the members, which differ in seed, learning rate and hyperparameters.
        execution: how; its way is not `"alone"`.
        warm: whether a call and an evaluation that are thrown away come first, off the clock.
    """

    def __init__(self, shared: Shared, plans: Sequence[Plan], execution: Execution, *, warm: bool = True) -> None:
        start = time.perf_counter()
        self.shared: Shared = shared
        self.plan: Plan = shared.plan
        self.plans: list[Plan] = list(plans)
        self.execution: Execution = execution
        self.way: Way = WAYS[execution.way](shared, plans, execution)
        self.log: PopulationLog = PopulationLog(len(plans))
        self.epoch: int = 0
        self.step: int = 0
        self._seconds = 0.0
        self._columns: list[Metrics] = []  # of the epoch under way, on the device: (k, m)
        self._reports: list[dict[str, Tensor]] = []
        if warm:
            with execution.apply(self.plan.config.precision, self.plan.device):
                next(self.way.first_calls()).loss.sum().item()
                self.way.evaluate(0)
        self.log.timings["warm_up"] = (time.perf_counter() - start) / len(plans)

    @property
    def alive(self) -> set[int]:
        """Members that no divergence has stopped."""
        if self.plan.config.on_divergence != "stop":
            return set(range(len(self.plans)))
        return self.log.finite()

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to be done."""
        return not self.alive or (self.epoch == self.plan.epochs and self.log.evaluations > self.epoch)

    def run(self) -> Iterator[int]:
        """From here to the end.

        Yields:
            How many epochs are complete, after each evaluation.

        Raises:
            Signalled: a signal came between two calls; the state is whole.
        """
        with self.execution.apply(self.plan.config.precision, self.plan.device):
            while not self.has_ended:
                SHIELD.check()
                if self.log.evaluations <= self.epoch:
                    self._evaluate()
                    yield self.epoch
                else:
                    self._train_epoch()
                left = (self.plan.epochs - self.epoch) * self.plan.steps_per_epoch
                self.way.keep(self.alive, left)

    def _evaluate(self) -> None:
        start = time.perf_counter()
        penalties, found = self.way.evaluate(self.epoch)
        self.log.evaluated(self.epoch, self.way.ids, penalties, found)
        self.log.timings["evaluate"].append((time.perf_counter() - start) / len(self.way.ids))

    def _train_epoch(self) -> None:
        """From the step that was reached to the end of the epoch."""
        interval, k, start = self.plan.config.train_log_interval, self.execution.steps_per_call, time.perf_counter()
        if self.step == 0:
            self.way.from_zero()
        before = self._seconds
        with closing(self.way.calls(self.epoch, self.step)) as calls:
            for metrics in calls:
                self._columns.append(metrics)
                if -self.step % interval < k:
                    self._reports.append(self.way.reports())
                self.step += k
                self._seconds = before + time.perf_counter() - start
                SHIELD.check()
        losses, penalties = self._fetched()
        reports = {name: torch.stack([each[name] for each in self._reports]) for name in self._reports[0]}
        self.log.end_epoch(self.epoch + 1, self.way.ids, losses, penalties, reports, interval)
        self.log.called(self.way.ids, self.way.calls_made())
        self.log.timings["train"].append((before + time.perf_counter() - start) / len(self.way.ids))
        self._columns, self._reports, self._seconds = [], [], 0.0
        self.epoch, self.step = self.epoch + 1, 0

    def _fetched(self) -> list[Tensor]:
        """Losses and penalties of the epoch under way, `(steps, m)` float64, on the CPU."""
        return [torch.cat(column).double().cpu() for column in zip(*self._columns, strict=True)]

    def logs(self) -> list[Log]:
        """The log of each member; those of members that have not ended are without the epoch under way."""
        return self.log.logs(self.plans, ended=self.has_ended)

    def save(self) -> dict[str, Any]:
        """The state as a tree of tensors and plain data."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self._seconds,
            "columns": [tuple(column) for column in self._columns],
            "reports": list(self._reports),
            "log": self.log.as_plain_data(),
            "way": self.way.save(),
        }

    def load(self, tree: dict[str, Any]) -> None:
        """The inverse of `save`: the block goes on from there."""
        self.epoch, self.step, self._seconds = tree["epoch"], tree["step"], tree["seconds"]
        self._columns = [Metrics(*column) for column in tree["columns"]]
        self._reports = list(tree["reports"])
        self.log = PopulationLog(**tree["log"])
        self.way.load(tree["way"])
