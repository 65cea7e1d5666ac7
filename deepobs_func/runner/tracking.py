"""Tracking: quantities of some of a run's steps, computed between the steps and off the clock."""

from __future__ import annotations

from typing import Any

from deepobs_func import random
from deepobs_func.base import Batch, Params
from deepobs_func.probes.by_layer import layers_of
from deepobs_func.probes.catalog import LAYER
from deepobs_func.probes.tracked import TrackedStep, track
from deepobs_func.runner.events import Event, Stepped
from deepobs_func.runner.plan import Plan

PER_DECADE = 10


def is_due(step: int, every: int | str) -> bool:
    """Whether a step is tracked: each `every`-th, or, with `"log"`, about ten in each decade of steps.

    >>> [step for step in range(40) if is_due(step, "log")]
    [0, 1, 2, 3, 5, 6, 7, 10, 12, 15, 19, 25, 31, 39]
    >>> [step for step in range(40) if is_due(step, 15)]
    [0, 15, 30]
    """
    if every != "log":
        return step % int(every) == 0
    return step == 0 or any(int(10 ** (k / PER_DECADE)) == step for k in range(PER_DECADE * len(str(step)) + 1))


class Tracker:
    """The callback that tracks quantities of some steps of a run, off the clock.

    What it finds goes into `log.tracked`: the quantities by name, each a list, and the steps that they are of.

    Args:
        plan: the run.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan, self._config = plan, plan.config
        self._names = plan.tracked
        self._start = plan.problem.init(random.key(plan.config.seed, plan.device))[0]

    def watches(self, step: int) -> bool:
        """Whether a step is tracked."""
        return bool(self._names) and is_due(step, self._config.track_every)

    def __call__(self, event: Event) -> None:
        """Computes the quantities of a step that was made, on its own batch."""
        tracked = event.log.tracked
        if not tracked:
            quantities: dict[str, list[Any]] = {name: [] for name in self._names}
            about: dict[str, Any] = {"every": self._config.track_every, "bn": self._config.track_bn}
            if any(name.endswith(LAYER) for name in self._names):
                about["layers"] = list(layers_of(self._start))
            tracked |= {**about, "steps": [], "quantities": quantities}
        if isinstance(event, Stepped) and self.watches(event.index):
            with event.execution.apply(self._config.precision, self._plan.device):
                values = track(self._step(event))
            tracked["steps"].append(event.index)
            for name, value in values.items():
                tracked["quantities"][name].append(value)

    def _step(self, event: Stepped) -> TrackedStep:
        before, after = event.before.params, event.after.params
        return make_tracked_step(self._plan, event.index, event.make_batch(), before, after, self._start)


def make_tracked_step(
    plan: Plan, index: int, batch: Batch, before: Params, after: Params, start: Params
) -> TrackedStep:
    """A step of a run as its quantities see it, while it is made or, at a checkpoint, later.

    Args:
        plan: the run, with the names of the quantities.
        index: the number of the step, from 0 over the whole run.
        batch: of the step, with the model's state before it.
        before, after: the parameters around it.
        start: those at the start of the run.
    """
    key = random.fold_in(random.fold_in(random.key(plan.config.seed, plan.device), random.PROBE), index)
    names, bn = plan.tracked, plan.config.track_bn
    return TrackedStep(plan.problem, batch, before, after, start, plan.lr_at(index), key, names, bn)
