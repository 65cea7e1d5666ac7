"""Steps of many members at once: one vectorised function, or a loop over members inside one call.

Members are ordered by seed, S seeds of N members each. Members of one seed see the same examples and the same noise, so
rows are gathered and noise is drawn once for all of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from deepobs_func.backend.compiling import compiled
from deepobs_func.backend.graphs import Graphed
from deepobs_func.backend.kernels import Kernels
from deepobs_func.base import Batch, Inputs, ModelState, map_inputs
from deepobs_func.datasets.loading import Split
from deepobs_func.nets.layers import Layer
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.problems.oracle import Metrics, ValueAndGrad
from deepobs_func.problems.problem import Problem, Tensors
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.step import (
    Carry,
    Drawn,
    Step,
    StepInput,
    drawn_for,
    laid_out,
    make_gather,
    make_gradient,
    make_prepare,
    make_step,
)

StepOfAll = Callable[[Carry, Tensors, Batch], tuple[Carry, Metrics]]
"""`(carry, constants, batch)`: of a carry with two leading axes (S, N), and a batch with one (S)."""
StepsOfAll = Callable[[Carry, Tensors, Sequence[StepInput]], tuple[Carry, Metrics]]
StepsInTurn = Callable[[tuple[Carry, ...], StepInput, list[Drawn]], tuple[tuple[Carry, ...], Metrics]]


def constants_of(problem: Problem) -> set[str]:
    """The names of moments that training never changes, which all members of a population share."""
    layers = [(path, layer) for path, layer in problem.net.named_modules() if isinstance(layer, Layer)]
    found = {f"{path}.{name}" if path else name for path, layer in layers for name in layer.constants}
    return found | {name for name, leaf in problem.net.named_parameters() if not leaf.requires_grad}


def over(function: Callable[..., Any], axes: tuple[int | None, ...]) -> Callable[..., Any]:
    """`vmap` of a function over the first axis of some arguments; an axis of one element is taken away instead.

    Products with what members share then stay products of matrices.
    """
    mapped = torch.vmap(function, in_dims=axes)

    def whole(*arguments: Any) -> Any:
        led = next(arg for arg, axis in zip(arguments, axes, strict=True) if axis == 0)
        if len(_first(led)) > 1:
            return mapped(*arguments)
        given = (
            tree_map(lambda leaf: leaf[0], arg) if axis == 0 else arg for arg, axis in zip(arguments, axes, strict=True)
        )
        return tree_map(lambda leaf: leaf.unsqueeze(0), function(*given))

    return whole


def _first(tree: Any) -> Tensor:
    """The first tensor of a tree."""
    while not isinstance(tree, Tensor):
        parts = tree.values() if isinstance(tree, dict) else tree
        tree = next(part for part in parts if isinstance(part, Tensor) or len(part))
    return tree


def make_step_of_all(problem: Problem, optimizer: Optimizer) -> StepOfAll:
    """Makes one training step of all members, by `vmap`: over the members of a seed, then over seeds.

    Args:
        problem: what is trained.
        optimizer: of all members; learning rates and hyperparameters are in its state.

    Returns:
        The step; its metrics are `(S, N)`.

    >>> from deepobs_func import optimizers, problems, random
    >>> problem, optimizer = problems.get("two_d_beale"), optimizers.sgd(1e-3)
    >>> params, state = problem.init(seed=0)
    >>> carry = Carry(params, optimizer.init(params, random.key(0)), state)
    >>> carries = tree_map(lambda leaf: torch.stack([leaf, leaf, leaf]).unsqueeze(0), carry)
    >>> batch = tree_map(lambda leaf: leaf.unsqueeze(0), problem.fake_batch(8))
    >>> carries, metrics = make_step_of_all(problem, optimizer)(carries, {}, batch)
    >>> metrics.loss.shape
    torch.Size([1, 3])
    """
    step = make_step(problem, optimizer)

    def of_member(carry: Carry, constants: Tensors, batch: Batch) -> tuple[Carry, Metrics]:
        state = ModelState({**carry.state.moments, **constants}, carry.state.carry)
        after, metrics = step(carry._replace(state=state), batch)
        kept = {name: moment for name, moment in after.state.moments.items() if name not in constants}
        return after._replace(state=ModelState(kept, after.state.carry)), metrics

    return over(over(of_member, (0, None, None)), (0, None, 0))


def make_steps_of_all(problem: Problem, optimizer: Optimizer, execution: Execution, precision: str) -> StepsOfAll:
    """Makes k steps of all members, `(carry, constants, [input of each seed]) -> (carry, metrics)`, `(k, S, N)`.

    Args:
        problem: what is trained.
        optimizer: of all members, whose `update` is one function.
        execution: how.
        precision: of products.
    """
    how = (problem, optimizer.update, execution.compile, execution.kernels(precision))
    together = _graphed_of_all(*how) if execution.cuda_graphs else _steps_of_all(*how)

    draws_nothing = not problem.noises and not problem.dataset.augment

    def steps(carry: Carry, constants: Tensors, given: Sequence[StepInput]) -> tuple[Carry, Metrics]:
        drawn = [drawn_for(problem, each, execution.compile_batch) for each in given]
        # Inside the graph, code that is fused would gather the examples of a seed for each of its members anew.
        split, rows = given[0].split, torch.stack([each.rows for each in given], 1)
        x, y = tree_map(lambda leaf: leaf.index_select(0, rows.flatten()).unflatten(0, rows.shape), tuple(split))
        # Stacking what is empty takes as long as the steps of a small net.
        stacked = drawn[0] if draws_nothing else [_stacked(each) for each in zip(*drawn, strict=True)]
        return together(carry, constants, x, y, stacked)

    return steps


def _stacked(trees: Sequence[Any]) -> Any:
    """Trees of one structure with a new leading axis; of one tree, a view."""
    return tree_map(lambda *leaves: torch.stack(leaves) if len(leaves) > 1 else leaves[0].unsqueeze(0), *trees)


@functools.lru_cache(maxsize=32)
def _graphed_of_all(*how: Any) -> Any:
    return Graphed(_steps_of_all(*how))


@functools.lru_cache(maxsize=32)
def _steps_of_all(problem: Problem, update: Callable[..., Any], compile: bool, kernels: Kernels) -> Any:
    step = make_step_of_all(problem, Optimizer(_no_init, update))
    prepare = over(make_prepare(problem, augment=True), (0, 0))

    def steps(carry: Carry, constants: Tensors, x: Inputs, y: Tensor, drawn: list[Drawn]) -> tuple[Carry, Metrics]:
        found = []
        by_step = [map_inputs(itemgetter(k), x) for k in range(len(y))]
        for inputs, targets, (noise, draws) in zip(by_step, y.unbind(), drawn, strict=True):
            batch = Batch(prepare(inputs, draws), targets, noise, ModelState({}, {}))
            carry, metrics = step(carry, constants, batch)
            found.append(metrics)
        return carry, Metrics(*(torch.stack(column) for column in zip(*found, strict=True)))

    return compiled(steps, problem, onednn=kernels.onednn) if compile else steps


def make_steps_in_turn(
    problem: Problem, optimizers: Sequence[Optimizer], execution: Execution, precision: str
) -> StepsInTurn:
    """Makes k steps of some members of one seed, one member after the other: `(carries, input, drawn)`.

    The input is gathered once. Functional optimizers whose `update` is one function are one compiled call, where the
    execution says so; otherwise the gradient is compiled, or nothing.

    Args:
        problem: what is trained.
        optimizers: of the members.
        execution: how.
        precision: of products.

    Returns:
        The function; its metrics are `(k, members)`.
    """
    how = (execution.compile, execution.compile_batch, execution.channels_last, execution.kernels(precision))
    updates = tuple(optimizer.update for optimizer in optimizers)
    arguments = (problem, updates, optimizers[0].compiles, *how)
    in_a_graph = execution.cuda_graphs and optimizers[0].compiles
    together = _graphed_in_turn(*arguments) if in_a_graph else _steps_in_turn(*arguments)
    return lambda carries, given, drawn: together(carries, given.split, given.rows, drawn)


@functools.lru_cache(maxsize=512)
def _graphed_in_turn(problem: Problem, *how: Any) -> Any:
    return Graphed(_steps_in_turn(problem, *how), fixed=[] if problem.dataset.streamed else [1])


@functools.lru_cache(maxsize=512)
def _steps_in_turn(
    problem: Problem,
    updates: tuple[Callable[..., Any], ...],
    compiles: bool,
    compile: bool,
    compile_batch: bool,
    channels_last: bool,
    kernels: Kernels,
) -> Any:
    gradient = _gradient(problem, compiles, compile, kernels)
    of = [make_step(problem, Optimizer(_no_init, update, compiles), value_and_grad=gradient) for update in updates]
    gather = make_gather(problem, augment=True, channels_last=channels_last)
    whole = compile and compiles
    if compile_batch and not whole and problem.dataset.augment:
        gather = _compiled_gather(problem, channels_last)

    def steps(carries: tuple[Carry, ...], split: Split, rows: Tensor, drawn: list[Drawn]) -> Any:
        columns = []
        for batch_rows, (noise, draws) in zip(rows.unbind(), drawn, strict=True):
            x, y = gather(split, batch_rows, draws)
            found = [_stepped(step, carry, x, y, noise) for step, carry in zip(of, carries, strict=True)]
            carries = tuple(carry for carry, _ in found)
            columns.append([metrics for _, metrics in found])
        return carries, Metrics(*(_table(columns, index) for index in range(2)))

    return compiled(steps, problem, onednn=kernels.onednn) if whole else steps


def _stepped(step: Step, carry: Carry, x: Inputs, y: Tensor, noise: Tensors) -> tuple[Carry, Metrics]:
    return step(carry, Batch(x, y, noise, carry.state))


def _table(columns: list[list[Metrics]], index: int) -> Tensor:
    """One of the metrics, `(k, members)`."""
    return torch.stack([torch.stack([metrics[index] for metrics in row]) for row in columns])


@functools.lru_cache(maxsize=32)
def _gradient(problem: Problem, compiles: bool, compile: bool, kernels: Kernels) -> ValueAndGrad:
    """One for all members: their compiled steps, or the optimizers of torch that share it."""
    return make_gradient(problem, Optimizer(_no_init, _no_init, compiles), compile=compile, plain=not compile)


@functools.lru_cache(maxsize=32)
def _compiled_gather(problem: Problem, channels_last: bool) -> Any:
    return compiled(make_gather(problem, augment=True, channels_last=channels_last), ahead=False)


def laid_out_carry(carry: Carry, optimizer: Optimizer, key: Any, channels_last: bool) -> Carry:
    """A carry at the start of a run, with the kernels of its convolutions as the execution wants them in memory."""
    if not channels_last:
        return carry
    params = {name: laid_out(leaf) for name, leaf in carry.params.items()}
    return Carry(params, optimizer.init(params, key), carry.state)


def _no_init(*arguments: Any) -> Any:
    raise AssertionError("a step initialises nothing")
