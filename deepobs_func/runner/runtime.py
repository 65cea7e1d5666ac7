"""What a step of an optimizer costs beside one of SGD: time, memory and allocations.

Optimizers take turns on one and the same batch, so that whatever slows the machine down slows all of them alike.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from deepobs_func.backend.allocations import allocations
from deepobs_func.errors import ConfigError, option
from deepobs_func.optimizers.counting import calls_so_far
from deepobs_func.problems.problem import Problem
from deepobs_func.records import gradient_equivalents
from deepobs_func.runner.config import RunConfig
from deepobs_func.runner.execution import Execution, synchronize
from deepobs_func.runner.plan import Plan, make_plan
from deepobs_func.runner.training import Training

LR = 1e-5
"""The learning rate, that of DeepOBS's script: small enough that nothing diverges."""
LEAST = 0.05  # seconds of a turn
SLOW = 2.0  # seconds of a step from which on a turn is one step, and rounds are few


class Entrant(NamedTuple):
    """An optimizer that is measured.

    Attributes:
        optimizer: a name, an import path, a class of `torch.optim.Optimizer`, a factory, or a functional optimizer.
        settings: hyperparameters that differ from the defaults, and `lr`.
        label: what to call it; by default its name.
    """

    optimizer: Any
    settings: Mapping[str, Any] = MappingProxyType({})
    label: str = ""

    @property
    def name(self) -> str:
        """Of the optimizer."""
        found = self.optimizer
        return found if isinstance(found, str) else getattr(found, "__name__", type(found).__name__)


@dataclass(frozen=True)
class Cost:
    """What a step of an optimizer costs.

    Attributes:
        name: of the optimizer.
        seconds: of one step, the median over the rounds.
        ratio: to the step of the baseline in the same round, the median.
        low, high: the quartiles of these ratios.
        run_seconds: of all steps of a whole run, without evaluation.
        peak_bytes: that a step holds at once, at most, beyond parameters, data and state.
        allocated: blocks of memory that a step asks for.
        state_bytes: of the floating-point numbers in the optimizer's state.
        calls: of the oracle a step, by kind, the mean over the steps that were timed; empty where they are not known.
        equivalents: these calls in gradients (`records.GRADIENTS`); NaN where they are not known. Beside `ratio` it
            says whether the time is that of the calls or of the update itself.
        peak_ratio: `peak_bytes` over that of the baseline.
        compiled: whether the step is one compiled graph.
    """

    name: str
    seconds: float
    ratio: float
    low: float
    high: float
    run_seconds: float
    peak_bytes: int
    allocated: int
    state_bytes: int
    compiled: bool
    calls: Mapping[str, float] = field(default_factory=dict)
    equivalents: float = math.nan
    peak_ratio: float = math.nan


@dataclass(frozen=True)
class Runtimes:
    """What optimizers cost on a problem.

    Attributes:
        problem: its name.
        batch_size, epochs: of the runs.
        device: where they were measured.
        threads: of torch, on a CPU.
        rounds: in which they took turns.
        costs: the baseline first.
    """

    problem: str
    batch_size: int
    epochs: int
    device: str
    threads: int
    rounds: int
    costs: tuple[Cost, ...]


def estimate_runtime(
    optimizers: Sequence[Any],
    problem: str | Problem = "mnist_mlp",
    *,
    baseline: Any = "sgd",
    rounds: int = 15,
    threads: int | None = None,
    **options: Any,
) -> Runtimes:
    """Measures the cost of a step of each optimizer, relative to a baseline.

    Every optimizer makes the steps of a real run, on its first batch, under the execution that the baseline's run would
    have; its parameters go on from step to step.

    Args:
        optimizers: each a name, an import path, a class of `torch.optim.Optimizer`, a factory, a functional optimizer,
            or one of these with its settings, an `Entrant`. What equals the baseline is left out.
        problem: a name, an import path, or a `Problem`; by default that of DeepOBS's own script.
        baseline: what it is relative to, likewise.
        rounds: in which they take turns, 3 or more.
        threads: of torch, on a CPU; by default those that a run would take.
        options: other fields of `RunConfig`, such as `batch_size`, `device`, `precision` and `compile`. By default the
            data are the stand-in, and nothing is compiled.

    Returns:
        The costs, the baseline first.

    Raises:
        ConfigError: there is no such optimizer or problem, one is there twice, or an option is none.

    >>> found = estimate_runtime(["adam"], "quadratic_deep", rounds=3)
    >>> [cost.name for cost in found.costs], found.costs[0].ratio, found.costs[1].state_bytes > 0
    (['sgd', 'adam'], 1.0, True)
    """
    if rounds < 3:
        raise ConfigError(f"{option('rounds')} {rounds}: it must be a whole number from 3.")
    if threads is not None and threads < 1:
        raise ConfigError(f"{option('threads')} {threads}: it must be a whole number from 1.")
    given = {"data": "synthetic", "compile": "off"} | options
    plans: dict[str, Plan] = {}
    for each in (baseline, *optimizers):
        entrant = each if isinstance(each, Entrant) else Entrant(each)
        label = entrant.label or entrant.name
        if label in list(plans)[1:]:
            raise ConfigError(f"{label} is there twice: give each optimizer once, or a label of its own.")
        if label not in plans:
            plans[label] = _plan(entrant, problem, given)
    first = _Stepping(next(iter(plans.values())), threads)
    execution = first.training.execution
    others = {label: _Stepping(plan, threads, execution) for label, plan in list(plans.items())[1:]}
    return Runtimes(
        problem=first.plan.problem.name,
        batch_size=first.plan.batch_size,
        epochs=first.plan.epochs,
        device=str(first.plan.environment["device"]),
        threads=execution.threads or torch.get_num_threads(),
        rounds=rounds,
        costs=_costs({next(iter(plans)): first, **others}, rounds),
    )


def _plan(entrant: Entrant, problem: str | Problem, options: Mapping[str, Any]) -> Plan:
    """Of a run that would train with it."""
    settings, own = dict(entrant.settings), not isinstance(entrant.optimizer, str)
    values = {"lr": settings.pop("lr", LR), "hyperparams": settings, "output_dir": None, **options}
    if isinstance(problem, str):
        return make_plan(RunConfig(problem, entrant.name, **values), None, entrant.optimizer if own else None)
    return make_plan(RunConfig(problem.name, entrant.name, **values), problem, entrant.optimizer if own else None)


class _Stepping:
    """Steps of a run, one after the other."""

    def __init__(self, plan: Plan, threads: int | None, execution: Execution | None = None) -> None:
        self.plan, self.training = plan, Training(plan, execution)
        if threads is not None:
            self.training.execution = replace(self.training.execution, threads=threads)
        self.steps = self.training.execution.steps_per_call
        self._inputs = self.training.batches.first(self.steps)
        self._carry = self.training.from_zero(self.training.start().carry)
        self._apply = partial(self.training.execution.apply, plan.config.precision, plan.device)
        self._made = 0
        self.once = min(self.seconds(1) for _ in range(3))

    def call(self) -> Tensor:
        """The next steps; their losses."""
        self._carry, metrics = self.training.train_step(self._carry, self._inputs)
        self._made += self.steps
        return metrics.loss

    def seconds(self, calls: int) -> float:
        """Of one step, on average over some calls, without the collection of garbage."""
        gc.collect()
        gc.disable()
        try:
            with self._apply():
                synchronize(self.plan.device)
                start = time.perf_counter()
                for _ in range(calls):
                    self.call()
                synchronize(self.plan.device)
                return (time.perf_counter() - start) / (calls * self.steps)
        finally:
            gc.enable()

    def turn(self) -> float:
        """Seconds of one step, over a turn that is long enough to be timed."""
        return self.seconds(max(1, round(LEAST / (self.once * self.steps))))

    def cost(self, name: str, mine: Sequence[float], theirs: Sequence[float]) -> Cost:
        """What it costs, beside the baseline's seconds in the same rounds."""
        ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        seconds = statistics.median(mine)
        with self._apply():
            watched = allocations(self.call, self.plan.device)
        made = calls_so_far(self.plan.optimizer, self._carry.opt_state)
        calls = {kind: number / self._made for kind, number in made.items()}
        state = tree_leaves(self.plan.optimizer.save(self._carry.opt_state))
        return Cost(
            name=name,
            seconds=seconds,
            ratio=statistics.median(ratios),
            low=low,
            high=high,
            run_seconds=seconds * self.plan.steps_per_epoch * self.plan.epochs,
            peak_bytes=watched.peak,
            allocated=round(watched.count / self.steps),
            state_bytes=sum(leaf.numel() * leaf.element_size() for leaf in state if _is_float(leaf)),
            compiled=self.training.execution.compile and self.plan.optimizer.compiles,
            calls=calls,
            equivalents=gradient_equivalents(calls) if calls else math.nan,
        )


def _is_float(leaf: Any) -> bool:
    """Whether a leaf of a state is more than a counter."""
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _costs(stepping: Mapping[str, _Stepping], rounds: int) -> tuple[Cost, ...]:
    """Lets them take turns, each round in another order."""
    slow = max(each.once for each in stepping.values()) > SLOW
    times: dict[str, list[float]] = {name: [] for name in stepping}
    names: list[str] = list(stepping)
    for turn in range(3 if slow else rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            times[name].append(stepping[name].turn())
    first = names[0]
    found = [stepping[name].cost(name, times[name], times[first]) for name in names]
    least = found[0].peak_bytes
    return tuple(replace(each, peak_ratio=each.peak_bytes / least if least else math.nan) for each in found)
