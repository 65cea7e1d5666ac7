"""A pool that trains nothing: the record of a run is made up by a function of its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from deepobs_func.records import RunRecord
from deepobs_func.runner import RunConfig
from deepobs_func.runner.plan import make_plan
from deepobs_func.study.tuning import Decide
from tests.study.in_process import Outcome

Curve = Callable[[RunConfig], list[float]]


def record_of(config: RunConfig, losses: list[float], calls: Mapping[str, int] | None = None) -> RunRecord:
    """A record with a curve; the test loss is the same plus 1."""
    done = len(losses) - 1
    return RunRecord(
        train_losses=losses,
        test_losses=[loss + 1 for loss in losses],
        minibatch_train_losses=[],
        train_accuracies=None,
        test_accuracies=None,
        optimizer=config.optimizer,
        testproblem=config.problem,
        weight_decay=None,
        batch_size=1,
        num_epochs=done,
        learning_rate=config.lr,
        lr_sched_epochs=None,
        lr_sched_factors=None,
        random_seed=config.seed,
        train_log_interval=10,
        hyperparams={},
        valid_losses=losses,
        extra={
            "calls": {name: [value] * done for name, value in (calls or {}).items()},
            "timings": {"train": [0.5] * done},
        },
    )


class MadeUp:
    """Answers what was submitted, the last first if `backwards`, and dies after some answers."""

    def __init__(
        self, decide: Decide, curve: Curve, calls: Mapping[str, int] | None, backwards: bool, dies_after: int | None
    ) -> None:
        self.decide, self.curve, self.calls, self.backwards, self.dies_after = (
            decide,
            curve,
            calls,
            backwards,
            dies_after,
        )
        self.waiting: list[tuple[RunConfig, bool]] = []
        self.asked: list[RunConfig] = []
        self.about: list[Mapping[str, Any]] = []

    def submit(self, config: RunConfig, *, prune: bool = False, about: Mapping[str, Any] | None = None) -> None:
        self.asked.append(config)
        self.about.append(about or {})
        self.waiting.append((config, prune))

    def next(self) -> Outcome:
        if self.dies_after is not None and len(self.asked) - len(self.waiting) >= self.dies_after:
            raise KeyboardInterrupt
        config, prune = self.waiting.pop(-1 if self.backwards else 0)
        run_id, curve, seen = make_plan(config).run_id, self.curve(config), []
        for epoch, loss in enumerate(curve):
            seen.append(loss)
            if prune and epoch and self.decide(config, epoch, {"valid_loss": [*seen], "test_loss": [*seen]}):
                return Outcome(config, run_id, "stopped", record_of(config, seen, self.calls))
        return Outcome(config, run_id, "finished", record_of(config, curve, self.calls))


class MadeUpPools:
    """Makes pools, and keeps the last one."""

    def __init__(
        self,
        curve: Curve,
        calls: Mapping[str, int] | None = None,
        backwards: bool = False,
        dies_after: int | None = None,
    ) -> None:
        self.made = (curve, calls, backwards, dies_after)
        self.last: MadeUp

    def __call__(self, decide: Decide) -> AbstractContextManager[MadeUp]:
        self.last = MadeUp(decide, *self.made)
        return nullcontext(self.last)
