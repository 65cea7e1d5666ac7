"""Which way a population goes, found by measuring some of its steps, and how many members train side by side."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

from torch.utils._pytree import tree_leaves

from deepobs_func.backend.memory import available_bytes
from deepobs_func.base import Params
from deepobs_func.problems.oracle import Metrics
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.measuring import SHORT_STEP, Timing, choose, decided, first_line, steps_per_call, timing
from deepobs_func.runner.plan import Plan
from deepobs_func.runner.population.way import Shared
from deepobs_func.runner.population.ways import WAYS
from deepobs_func.runner.series import Series
from deepobs_func.runner.step import Carry

MEMORY_SHARE = 0.4  # of what is free: gradients and activations are estimated, not known
MOST_TOGETHER = 4096
IN_CACHE = 2**20  # bytes: what a core has to itself
IN_A_CALL = 4  # members of a loop whose steps are short: compiling takes as many times as long as for one
TRIED = 4  # members of the first trial: where they are slower together than apart, more of them are too
GAIN = 0.95  # a way that has more to compile is taken from here on
SHRINKS = 0.5  # the share of its work that a population saves by a new graph, at least


def bytes_of(plan: Plan, carry: Carry) -> int:
    """An estimate of what a member needs: its state twice, gradients, and activations that the backward pass reads."""
    params = sum(leaf.nbytes for leaf in carry.params.values())
    state = sum(leaf.nbytes for leaf in tree_leaves(tuple(carry)) if hasattr(leaf, "nbytes"))
    outputs = sum(shape.numel() for _, shape in plan.problem.layers.values())
    own_net = 0 if plan.problem.layers else params  # of a net whose layers are not known
    floats = plan.batch_size * (3 * outputs + plan.problem.dataset.numbers)
    return 2 * state + 2 * params + own_net + 4 * floats


def most_together(plan: Plan, carry: Carry) -> int:
    """How many members fit into memory."""
    fitting = int(MEMORY_SHARE * available_bytes(plan.device)) // max(1, bytes_of(plan, carry))
    return max(1, min(fitting, MOST_TOGETHER))


def seeds_at_once(plan: Plan, members: int) -> int:
    """How many seeds train side by side: as many as leave inputs and activations in the cache, one at least.

    Members of one seed share its inputs, so that their first products are one; those of several seeds do not.

    Args:
        plan: of one of them.
        members: of each seed.
    """
    inputs = plan.problem.dataset.numbers
    widest = max((shape.numel() for _, shape in plan.problem.layers.values()), default=inputs)
    return max(1, IN_CACHE // (4 * plan.batch_size * (inputs + members * widest)))


def blocks(plans: Sequence[Plan], most: int) -> Iterator[list[int]]:
    """Members that train side by side: rectangles of seeds times members, at most so many.

    Seeds with equally many members go together, so that no place of a rectangle is empty.
    """
    by_seed: dict[int, list[int]] = {}
    for index, plan in enumerate(plans):
        by_seed.setdefault(plan.config.seed, []).append(index)
    ordered = sorted(by_seed.values(), key=len, reverse=True)
    for width, rows in itertools.groupby(ordered, key=len):
        size = -(-width // -(-width // most))  # members of a seed in a block
        height = min(max(1, most // size), seeds_at_once(plans[0], size))
        yield from _cut(list(rows), width, size, height)


def _cut(rows: list[list[int]], width: int, size: int, height: int) -> Iterator[list[int]]:
    """Rectangles, equally high as far as that goes: each shape asks for a graph of its own."""
    height = -(-len(rows) // -(-len(rows) // height))
    for start in range(0, len(rows), height):
        for begin in range(0, width, size):
            yield [member for row in rows[start : start + height] for member in row[begin : begin + size]]


def choose_way(shared: Shared, plans: Sequence[Plan], series: Series) -> Execution:
    """Decides how some members train, by measuring, unless that was done before for this machine and shape.

    Args:
        shared: what they share.
        plans: of the members of the first block.
        series: how many runs are to come, over which compilation is spread.
    """
    plan = shared.plan
    params, _ = plan.problem.init(shared.key(plan.config.seed))
    seeds = len({each.config.seed for each in plans})
    choice = _Choice(shared, plans, params, series)
    return decided(plan, params, choice.decide, "population", seeds, len(plans), series=series)


def _wait(metrics: Metrics) -> None:
    metrics.loss.sum().item()


class _Choice:
    """The measurements of one population."""

    def __init__(self, shared: Shared, plans: Sequence[Plan], params: Params, series: Series) -> None:
        self._shared, self._plans, self._params, self._series = shared, plans, params, series
        self._plan = shared.plan
        self._steps = self._plan.steps_per_epoch * self._plan.epochs * -(-series.runs // len(plans))  # of all blocks

    def _measure(self, execution: Execution, plans: Sequence[Plan]) -> Timing:
        """Seconds of a step of all of these members."""
        way = WAYS[execution.way](self._shared, plans, execution)
        calls = way.first_calls()
        with execution.apply(self._plan.config.precision, self._plan.device):
            return timing(lambda: _wait(next(calls)), execution.steps_per_call, self._plan.device)

    def decide(self) -> Execution:
        """The execution, measured."""
        one = self._plans[:1]
        single = choose(
            self._plan,
            self._params,
            lambda each: self._measure(dataclasses.replace(each, way="loop"), one),
            Series(self._series.runs, self._series.choices),
        )
        apart = dataclasses.replace(single, way="loop")
        seconds = self._measure(apart, one).step
        together = self._together(apart, seconds)
        if together is not None:
            return together
        if apart.compile and seconds <= SHORT_STEP and self._plan.optimizer.compiles:
            return self._in_calls(apart, seconds)
        reason = f"one after the other: {1e3 * seconds:.3g} ms a step of a member; {single.reason}"
        return dataclasses.replace(apart, reason=reason)

    def _together(self, apart: Execution, seconds: float) -> Execution | None:
        """By `vmap`, where that is faster: first a few members in eager code, then all of them as they would run."""
        plan, count = self._plan, len(self._plans)
        alike = all(each.optimizer.update is plan.optimizer.update for each in self._plans)
        if count == 1 or not (plan.optimizer.compiles and alike) or plan.problem.dataset.streamed:
            return None
        eager = dataclasses.replace(
            apart, compile=False, steps_per_call=1, way="vmap", members=count, channels_last=False
        )
        few = self._plans[:TRIED]
        alone = dataclasses.replace(eager, way="loop", members=1)
        try:  # short steps gain by every member more
            if seconds > SHORT_STEP and self._measure(eager, few).step > self._measure(alone, few).step:
                return None
            whole = self._measure(eager, self._plans).step
        except Exception:  # an operation that has no batching rule raises all kinds; one by one it has just run
            return None
        if apart.compile:
            return self._compiled(eager, whole, seconds)
        if whole > GAIN * count * seconds:
            return None
        reason = f"vmap: {1e3 * whole:.3g} ms a step of {count} members, {1e3 * seconds:.3g} ms of one by itself"
        return dataclasses.replace(eager, reason=f"{reason}; {apart.reason}")

    def _compiled(self, eager: Execution, whole: float, seconds: float) -> Execution | None:
        """The compiled vmapped step, if it is the fastest way, all its steps and its compilation taken together."""
        count = len(self._plans)
        compiled = dataclasses.replace(
            eager, compile=True, compile_batch=True, steps_per_call=steps_per_call(self._plan, whole / 10)
        )
        try:
            trial = self._measure(compiled, self._plans)
        except Exception as error:  # Dynamo, Inductor and the C++ compiler raise all kinds; eager code has just run
            if whole > GAIN * count * seconds:
                return None
            return dataclasses.replace(eager, reason=f"vmap, not compiled: {first_line(error)}")
        if trial.step > GAIN * count * seconds and trial.step <= whole:
            return None
        best = compiled if trial.step < whole else eager
        repack = math.ceil(trial.first / (SHRINKS * trial.step)) if best.compile else 0
        took = min(trial.step, whole)
        reason = f"vmap: {1e3 * took:.3g} ms a step of {count} members, {1e3 * seconds:.3g} ms of one by itself"
        return dataclasses.replace(best, repack=min(repack, 2**31), reason=reason)

    def _in_calls(self, apart: Execution, seconds: float) -> Execution:
        """Several members in a compiled call, or one."""
        first = self._plans[0].config.seed
        own = [plan for plan in self._plans if plan.config.seed == first][:IN_A_CALL]
        reason = f"one after the other: {1e3 * seconds:.3g} ms a step of a member"
        several = dataclasses.replace(apart, members=len(own))
        if len(own) > 1:
            try:
                step = self._measure(several, own).step / len(own)
            except Exception:  # what compiling raises
                step = math.inf
            if step < GAIN * seconds:
                return dataclasses.replace(several, reason=f"{len(own)} in a call: {1e3 * step:.3g} ms a member")
        return dataclasses.replace(apart, reason=reason)
