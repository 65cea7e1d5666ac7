"""Tracking: quantities of some of a run's steps, computed between the steps and off the clock."""

from __future__ import annotations

from typing import Any

import torch

from deepobs_func import random
from deepobs_func.errors import ConfigError, option
from deepobs_func.optimizers import FUNCTIONAL
from deepobs_func.optimizers.torch_optim import load_class
from deepobs_func.probes.rows import PRESETS, QUANTITIES, chosen
from deepobs_func.probes.tracked import Step, track
from deepobs_func.problems.problem import Problem
from deepobs_func.runner.config import RunConfig, undefined
from deepobs_func.runner.events import Event, Stepped
from deepobs_func.runner.plan import Plan

PER_DECADE = 10


def tracked_names(config: RunConfig, problem: Problem) -> tuple[str, ...]:
    """The quantities that a run tracks: those asked for by name, and what of a preset is defined here.

    Raises:
        ConfigError: one that was asked for by name is not defined for this run; or batch norm couples the examples and
            no choice was made.
    """
    asked = {name for name in config.track if name not in PRESETS}
    names = []
    for name in chosen(config.track):
        reason = _undefined(name, config, problem)
        if reason and name in asked:
            raise ConfigError(f"{option('track')} {name}: {reason}")
        if not reason:
            names.append(name)
    per_example = [name for name in names if QUANTITIES[name].per_example]
    if per_example and not problem.separable and config.track_bn is None:
        raise ConfigError(
            f"{option('track')} {per_example[0]}: {problem.name} couples the examples of a batch through batch norm. "
            f"Say what its per-example gradients mean with {option('track_bn')} coupled, frozen or eval."
        )
    return tuple(names)


def _undefined(name: str, config: RunConfig, problem: Problem) -> str:
    """Why a quantity is not defined for a run; "" where it is."""
    if QUANTITIES[name].ggn and problem.measure.sample is None:
        return f"{problem.name} has no GGN; tic_trace takes the Hessian's trace instead."
    row = QUANTITIES[name]
    if row.plain_sgd and not _is_plain_sgd(config):
        return f"it is derived for SGD without momentum, not for {config.optimizer}; noise_scale is for any optimizer."
    return undefined(row, config)


def _is_plain_sgd(config: RunConfig) -> bool:
    """Whether the update is `-lr g`: by the class itself, whatever path leads to it. A subclass may do anything."""
    if config.optimizer in FUNCTIONAL:
        return config.optimizer in ("sgd", "sgd_cabs")
    changed = any(config.hyperparams.get(name) for name in ("momentum", "maximize"))
    return load_class(config.optimizer) is torch.optim.SGD and not changed


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
    """The callback that measures some steps of a run, between them and off the clock.

    What it finds goes into `log.tracked`: the quantities by name, each a list, and the steps that they are of.

    Args:
        plan: the run.

    Raises:
        ConfigError: a quantity is not defined for this run.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan, self._config = plan, plan.config
        self._names = tracked_names(plan.config, plan.problem)
        key = random.key(plan.config.seed, plan.device)
        self._key, self._start = random.fold_in(key, random.PROBE), plan.problem.init(key)[0]

    def watches(self, step: int) -> bool:
        """Whether a step is measured."""
        return bool(self._names) and is_due(step, self._config.track_every)

    def __call__(self, event: Event) -> None:
        """Measures a step that was made, on its own batch."""
        tracked = event.log.tracked
        if not tracked:
            quantities: dict[str, list[Any]] = {name: [] for name in self._names}
            about = {"every": self._config.track_every, "bn": self._config.track_bn}
            tracked |= {**about, "steps": [], "quantities": quantities}
        if isinstance(event, Stepped) and self.watches(event.index):
            values = track(self._step(event))
            tracked["steps"].append(event.index)
            for name, value in values.items():
                tracked["quantities"][name].append(value)

    def _step(self, event: Stepped) -> Step:
        return Step(
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
