"""Tracking: quantities of some of a run's steps, computed between the steps and off the clock."""

from __future__ import annotations

from typing import Any

from deepobs_func import random
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
        key = random.key(plan.config.seed, plan.device)
        self._key, self._start = random.fold_in(key, random.PROBE), plan.problem.init(key)[0]

    def watches(self, step: int) -> bool:
        """Whether a step is tracked."""
        return bool(self._names) and is_due(step, self._config.track_every)

    def __call__(self, event: Event) -> None:
        """Computes the quantities of a step that was made, on its own batch."""
        tracked = event.log.tracked
        if not tracked:
            quantities: dict[str, list[Any]] = {name: [] for name in self._names}
            about = {"every": self._config.track_every, "bn": self._config.track_bn}
            tracked |= {**about, "steps": [], "quantities": quantities}
        if isinstance(event, Stepped) and self.watches(event.index):
            with event.execution.apply(self._config.precision, self._plan.device):
                values = track(self._step(event))
            tracked["steps"].append(event.index)
            for name, value in values.items():
                tracked["quantities"][name].append(value)

    def _step(self, event: Stepped) -> TrackedStep:
        return TrackedStep(
            problem=self._plan.problem,
            batch=event.make_batch(),
            before=event.before.params,
            after=event.after.params,
            start=self._start,
            lr=self._plan.lr_at(event.index),
            key=random.fold_in(self._key, event.index),
            names=self._names,
            bn=self._config.track_bn,
        )
