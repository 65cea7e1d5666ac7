"""The ways in which members train side by side: as one vectorised step, or one after the other in a call."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from deepobs_func.base import ModelState, Params
from deepobs_func.optimizers.base import report_nothing, the_iterate
from deepobs_func.optimizers.counting import Counted, calls_so_far
from deepobs_func.problems.oracle import Metrics
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.plan import Plan
from deepobs_func.runner.population.evaluation import EvaluationOfAll, Found
from deepobs_func.runner.population.step import (
    make_steps_in_turn,
    make_steps_of_all,
    over,
)
from deepobs_func.runner.population.way import Shared, Way, table
from deepobs_func.runner.step import Carry, StepInput, drawn_for


class Together(Way):
    """All members in one step, by `vmap`: tensors with two leading axes, S seeds and N members of each."""

    def __init__(self, shared: Shared, plans: Sequence[Plan], execution: Execution) -> None:
        super().__init__(shared, plans, execution)
        self.slots = [self.of_seed(index) for index in range(len(self.seeds))]
        self.order = list(range(len(self.seeds)))  # the seeds that are left
        rows = [_stack([self._stripped(self.initial(member)) for member in row]) for row in self.slots]
        self.carry = _stack(rows)
        self.optimizer = plans[0].optimizer
        self.steps = make_steps_of_all(self.problem, self.optimizer, execution, self.plan.config.precision)
        self.evaluation = EvaluationOfAll(self.problem, self.evaluators, compile=execution.compile)
        self._number()

    def _number(self) -> None:
        self.ids = torch.tensor(self.slots).flatten()

    def _stripped(self, carry: Carry) -> Carry:
        """A carry without what is constant."""
        moments = {k: v for k, v in carry.state.moments.items() if k not in self.shared.constants}
        return carry._replace(state=carry.state._replace(moments=moments))

    def from_zero(self) -> None:
        self.carry = self._zeroed(self.carry)

    def _zeroed(self, carry: Carry) -> Carry:
        zeros = self.problem.zero_carry(self.plan.batch_size, device=self.plan.device)
        size = (len(self.order), len(self.slots[0]))
        wide = {name: zero.expand(*size, *zero.shape).contiguous() for name, zero in zeros.items()}
        return carry._replace(state=carry.state._replace(carry=wide))

    def calls(self, epoch: int, start: int) -> Generator[Metrics]:
        with ExitStack() as stack:
            given = [self.batches[index].epoch(epoch, self.execution.steps_per_call, start) for index in self.order]
            for each in given:
                stack.enter_context(closing(each))
            for inputs in zip(*given, strict=True):
                self.carry, metrics = self.steps(self.carry, self.shared.constants, inputs)
                yield Metrics(*(each.flatten(1) for each in metrics))

    def first_calls(self) -> Iterator[Metrics]:
        inputs = [self.batches[index].first(self.execution.steps_per_call) for index in self.order]
        carry = self._zeroed(self.carry)
        while True:
            carry, metrics = self.steps(carry, self.shared.constants, inputs)
            yield metrics

    def evaluate(self, epoch: int) -> tuple[Tensor, dict[str, Found]]:
        params = self._eval_params()
        penalties = torch.vmap(torch.vmap(self.problem.penalty))(params).flatten().double().cpu()
        moments = self.carry.state.moments
        return penalties, self.evaluation(epoch, self.order, params, moments, self.shared.constants)

    def _eval_params(self) -> Params:
        if self.optimizer.eval_params is the_iterate:
            return self.carry.params
        return over(over(self.optimizer.eval_params, (0, 0)), (0, 0))(self.carry.opt_state, self.carry.params)

    def reports(self) -> dict[str, Tensor]:
        if self.optimizer.report is report_nothing:
            return {}
        found = over(over(self.optimizer.report, (0,)), (0,))(self.carry.opt_state)
        return {name: values.flatten().cpu() for name, values in found.items()}

    def calls_made(self) -> dict[str, Tensor]:
        state = self.carry.opt_state
        if self.optimizer.calls is None or isinstance(state, Counted):
            return table([calls_so_far(self.optimizer, self._opt_state(*place)) for place in self._places()])
        found = over(over(self.optimizer.calls, (0,)), (0,))(state)
        return {kind: numbers.flatten().cpu() for kind, numbers in found.items()}

    def _places(self) -> list[tuple[int, int]]:
        return list(itertools.product(range(len(self.slots)), range(len(self.slots[0]))))

    def _opt_state(self, seed: int, column: int) -> Any:
        return tree_map(operator.itemgetter((seed, column)), self.carry.opt_state)

    def keep(self, alive: Collection[int], steps: int) -> None:
        """Seeds without a living member go; of the others, as many members stay as the seed with most has.

        Compiled steps then need a new graph: half of the work must be saved, in steps enough. No time is looked at, so
        that a population that goes on from a checkpoint does the same.
        """
        rows = [index for index, row in enumerate(self.slots) if any(member in alive for member in row)]
        width = max((sum(member in alive for member in self.slots[index]) for index in rows), default=0)
        now = len(self.slots) * len(self.slots[0])
        is_dear = self.execution.compile and (2 * len(rows) * width > now or steps < self.execution.repack)
        if not rows or len(rows) * width == now or is_dear:
            return
        columns = [_first_alive([member in alive for member in self.slots[index]], width) for index in rows]
        at = torch.tensor(rows).unsqueeze(1).to(self.plan.device), torch.tensor(columns).to(self.plan.device)
        self.carry = tree_map(operator.itemgetter(at), self.carry)
        self.slots = [[self.slots[index][column] for column in own] for index, own in zip(rows, columns, strict=True)]
        self.order = [self.order[index] for index in rows]
        self._number()

    def save(self) -> Any:
        carry = self.carry._replace(opt_state=self.optimizer.save(self.carry.opt_state))
        return {"slots": self.slots, "order": self.order, "carry": carry}

    def load(self, tree: Any) -> None:
        self.slots, self.order, carry = tree["slots"], tree["order"], tree["carry"]
        params, opt_state, (moments, recurrent) = carry
        load = self.optimizer.load(opt_state, params, self.shared.key(self.seeds[0]))
        self.carry = Carry(params, load, ModelState(moments, recurrent))
        self._number()

    def eval_params(self, member: int) -> Params:
        seed, column = divmod(self.ids.tolist().index(member), len(self.slots[0]))
        return {name: leaf[seed, column] for name, leaf in self._eval_params().items()}


class InTurn(Way):
    """One member after the other, some of a seed in a call: they share examples, noise and evaluation."""

    def __init__(self, shared: Shared, plans: Sequence[Plan], execution: Execution) -> None:
        super().__init__(shared, plans, execution)
        self.carries: dict[int, Carry] = {}
        for index in range(len(self.seeds)):
            self.carries |= {member: self.initial(member) for member in self.of_seed(index)}
        self._group()

    def _group(self) -> None:
        """Which members of each seed are in one call."""
        size, self.groups = self.execution.members, list[tuple[int, list[int]]]()
        for index in range(len(self.seeds)):
            own = [member for member in self.of_seed(index) if member in self.carries]
            self.groups += [(index, own[start : start + size]) for start in range(0, len(own), size)]
        self.ids = torch.tensor([member for _, group in self.groups for member in group])

    def from_zero(self) -> None:
        self.carries = {member: self._zeroed(carry) for member, carry in self.carries.items()}

    def _zeroed(self, carry: Carry) -> Carry:
        zeros = self.problem.zero_carry(self.plan.batch_size, device=self.plan.device)
        return carry._replace(state=carry.state._replace(carry=zeros))

    def _call(self, carries: dict[int, Carry], given: Mapping[int, StepInput]) -> Metrics:
        """Makes k steps of each member; changes the carries."""
        drawn = {seed: drawn_for(self.problem, each, self.execution.compile_batch) for seed, each in given.items()}
        found = []
        for seed, group in self.groups:
            optimizers = [self.plans[member].optimizer for member in group]
            steps = make_steps_in_turn(self.problem, optimizers, self.execution, self.plan.config.precision)
            after, metrics = steps(tuple(carries[member] for member in group), given[seed], drawn[seed])
            carries |= dict(zip(group, after, strict=True))
            found.append(metrics)
        return Metrics(*(torch.cat(column, 1) for column in zip(*found, strict=True)))

    def calls(self, epoch: int, start: int) -> Generator[Metrics]:
        seeds = list(dict.fromkeys(seed for seed, _ in self.groups))
        with ExitStack() as stack:
            given = [self.batches[seed].epoch(epoch, self.execution.steps_per_call, start) for seed in seeds]
            for each in given:
                stack.enter_context(closing(each))
            for inputs in zip(*given, strict=True):
                yield self._call(self.carries, dict(zip(seeds, inputs, strict=True)))

    def first_calls(self) -> Iterator[Metrics]:
        inputs = {seed: self.batches[seed].first(self.execution.steps_per_call) for seed, _ in self.groups}
        carries = {member: self._throwaway(member, carry) for member, carry in self.carries.items()}
        while True:
            yield self._call(carries, inputs)

    def _throwaway(self, member: int, carry: Carry) -> Carry:
        """With a state that an optimizer of torch's may change."""
        plan = self.plans[member]
        fresh = plan.optimizer.init(carry.params, self.shared.key(plan.config.seed))
        return self._zeroed(carry)._replace(opt_state=fresh)

    def evaluate(self, epoch: int) -> tuple[Tensor, dict[str, Found]]:
        penalties, results = [], []
        for seed, group in itertools.groupby(self.ids.tolist(), key=self._seed):
            carries = [self.carries[member]._replace(params=self.eval_params(member)) for member in group]
            penalties += [float(self.problem.penalty(carry.params)) for carry in carries]
            results += self.evaluators[seed].all(epoch, carries)
        found = {}
        for split in results[0]:
            of_split = [each[split] for each in results]
            found[split] = Found(*(_column(list(column)) for column in zip(*of_split, strict=True)))
        return torch.tensor(penalties, dtype=torch.float64), found

    def _seed(self, member: int) -> int:
        return self.seeds.index(self.plans[member].config.seed)

    def reports(self) -> dict[str, Tensor]:
        members = self.ids.tolist()
        found = [self.plans[member].optimizer.report(self.carries[member].opt_state) for member in members]
        return table([{name: float(value) for name, value in each.items()} for each in found])

    def calls_made(self) -> dict[str, Tensor]:
        members = self.ids.tolist()
        return table([calls_so_far(self.plans[each].optimizer, self.carries[each].opt_state) for each in members])

    def keep(self, alive: Collection[int], steps: int) -> None:
        """Members that are not alive go; groups stay as large, so that no new graph is needed but for the last one."""
        gone = set(self.carries) - set(alive)
        if gone:
            self.carries = {member: carry for member, carry in self.carries.items() if member in alive}
            self._group()

    def save(self) -> Any:
        saved = {}
        for member, carry in self.carries.items():
            saved[member] = carry._replace(opt_state=self.plans[member].optimizer.save(carry.opt_state))
        return {"carries": saved}

    def load(self, tree: Any) -> None:
        self.carries = {}
        for member, (params, opt_state, (moments, recurrent)) in tree["carries"].items():
            plan = self.plans[member]
            state = plan.optimizer.load(opt_state, params, self.shared.key(plan.config.seed))
            self.carries[member] = Carry(params, state, ModelState(moments, recurrent))
        self._group()

    def eval_params(self, member: int) -> Params:
        carry = self.carries[member]
        return self.plans[member].optimizer.eval_params(carry.opt_state, carry.params)


WAYS: dict[str, type[Way]] = {"vmap": Together, "loop": InTurn}


def _first_alive(alive: list[bool], width: int) -> list[int]:
    """So many places, in order: those that are alive, and others."""
    return sorted(sorted(range(len(alive)), key=lambda place: not alive[place])[:width])


def _column(values: list[float | None]) -> Any:
    """The values of members; None where they have none."""
    return None if values[0] is None else torch.tensor(values, dtype=torch.float64)


def _stack(trees: Sequence[Any]) -> Any:
    return tree_map(lambda *leaves: torch.stack(leaves), *trees)
