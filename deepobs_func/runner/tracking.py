"""Tracking: quantities of some of a run's steps, computed between the steps and off the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from deepobs_func import random
from deepobs_func.base import Batch, Params
from deepobs_func.errors import ConfigError
from deepobs_func.optimizers import FUNCTIONAL
from deepobs_func.optimizers.torch_optim import load_class
from deepobs_func.probes.rows import PRESETS, QUANTITIES, chosen
from deepobs_func.probes.tracked import Step, track
from deepobs_func.problems.problem import Problem
from deepobs_func.runner.config import RunConfig
from deepobs_func.runner.step import Carry, StepInput, make_batch

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
            raise ConfigError(f"--track {name}: {reason}")
        if not reason:
            names.append(name)
    per_example = [name for name in names if QUANTITIES[name].per_example]
    if per_example and not problem.separable and config.track_bn is None:
        raise ConfigError(
            f"--track {per_example[0]}: {problem.name} couples the examples of a batch through batch norm. Say what "
            "its per-example gradients mean with --track-bn coupled, frozen or eval."
        )
    return tuple(names)


def _undefined(name: str, config: RunConfig, problem: Problem) -> str:
    """Why a quantity is not defined for a run; "" where it is."""
    row = QUANTITIES[name]
    if row.plain_sgd and not _is_plain_sgd(config):
        return f"it is derived for SGD without momentum, not for {config.optimizer}; noise_scale is for any optimizer."
    if config.batch_size is not None and config.batch_size < row.least:
        return f"it needs the variance over a batch of {row.least} or more; the batch size is {config.batch_size}."
    if row.ggn and problem.measure.sample is None:
        return f"{problem.name} has no GGN; tic_trace takes the Hessian's trace instead."
    return ""


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
    """Measures some steps of a run.

    Attributes:
        tracked: what stands in the record: the quantities by name, each a list, and the steps that they are of.
    """

    def __init__(
        self, problem: Problem, config: RunConfig, lr_at: Callable[[int], float], key: random.Key, start: Params
    ) -> None:
        self._problem, self._config, self._lr_at, self._start = problem, config, lr_at, start
        self._names = tracked_names(config, problem)
        self._key = random.fold_in(key, random.PROBE)
        self._make_batch = make_batch(problem)
        self.tracked: dict[str, Any] = {
            "every": config.track_every,
            "bn": config.track_bn,
            "steps": [],
            "quantities": {name: [] for name in self._names},
        }

    def is_due(self, step: int) -> bool:
        """Whether the step is measured."""
        return bool(self._names) and is_due(step, self._config.track_every)

    def measure(self, step: int, before: Carry, inputs: StepInput, after: Carry) -> float:
        """Measures a step that was made, on its own batch, and says how many seconds that took."""
        if before.params and next(iter(after.params.values())).is_cuda:
            torch.cuda.synchronize()  # what the step itself still takes is no cost of tracking
        start = time.perf_counter()
        batch = self._make_batch(before.state, inputs.one(0))
        values = track(self._step(step, batch, before.params, after.params))
        self.tracked["steps"].append(step)
        for name, value in values.items():
            self.tracked["quantities"][name].append(value)
        return time.perf_counter() - start

    def _step(self, step: int, batch: Batch, before: Params, after: Params) -> Step:
        return Step(
            problem=self._problem,
            batch=batch,
            before=before,
            after=after,
            start=self._start,
            lr=self._lr_at(step),
            key=random.fold_in(self._key, step),
            names=self._names,
            bn=self._config.track_bn,
        )
