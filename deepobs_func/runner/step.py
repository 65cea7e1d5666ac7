"""The training step and the evaluation, as pure functions; the runner compiles the whole of each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deepobs_func import random
from deepobs_func.backend.compiling import compiled
from deepobs_func.backend.graphs import Graphed
from deepobs_func.backend.kernels import Kernels, using
from deepobs_func.backend.ranks import ALONE, Ranks
from deepobs_func.base import Batch, Inputs, ModelState, Params, first_of, inputs_by_name, map_inputs
from deepobs_func.datasets.loading import Split
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.optimizers.scaling import Scaled, kept_where
from deepobs_func.problems.oracle import (
    Metrics,
    Oracle,
    ValueAndGrad,
    make_plain_value_and_grad,
    make_value_and_grad,
)
from deepobs_func.problems.pieces import WHOLE, Parts, PiecewiseOracle, in_parts
from deepobs_func.problems.problem import Problem, Tensors
from deepobs_func.runner.execution import Execution


class Carry(NamedTuple):
    """What a step hands to the next one."""

    params: Params
    opt_state: Any
    state: ModelState


class StepInput(NamedTuple):
    """What k training steps take besides their carry.

    Attributes:
        split: examples on the device.
        rows: those of k batches, `(k, B)`.
        keys: of their noise, `(k, 2)`.
        draws: the numbers of their augmentation, a tuple of tensors `(k, B)`; empty where nothing is augmented here.
    """

    split: Split
    rows: Tensor
    keys: Tensor
    draws: Any = ()

    def one(self, index: int) -> StepInput:
        """What a step takes, without the leading axis."""
        return StepInput(self.split, self.rows[index], self.keys[index], at(self.draws, index))


def at(draws: Any, index: int) -> Any:
    """One of the draws that are stacked in a named tuple, or in an empty one."""
    return draws and draws._make(column[index] for column in draws)


Step = Callable[[Carry, Batch], tuple[Carry, Metrics]]
Drawn = tuple[Tensors, Any]  # the noise and the numbers of the augmentation
TrainStep = Callable[[Carry, StepInput], tuple[Carry, Metrics]]
StepsOfRows = Callable[[Carry, Split, Tensor, list[Drawn]], tuple[Carry, Metrics]]
Gather = Callable[[Split, Tensor, Any], tuple[Inputs, Tensor]]
Evaluated = tuple[Any, dict[str, Tensor]]
Evaluate = Callable[
    [Sequence[tuple[Params, ModelState]], Split, Tensor, dict[str, Tensor], random.Key], list[Evaluated]
]


def make_step(
    problem: Problem,
    optimizer: Optimizer,
    *,
    compile: bool = False,
    plain: bool = False,
    value_and_grad: ValueAndGrad | None = None,
    parts: Parts = WHOLE,
) -> Step:
    """Makes one training step, `(carry, batch) -> (carry, metrics)`.

    The model state of the carry replaces that of the batch. For a functional optimizer the step is pure and can be
    compiled or `vmap`ped as a whole; for one of torch `compile=True` compiles the gradient inside.

    Args:
        problem: its objective is minimised.
        optimizer: updates the parameters.
        compile: whether to compile the gradient of a torch optimizer's step.
        plain: whether the gradient is `torch.autograd`'s, through fused kernels; then the step goes through neither
            `vmap` nor `compile`.
        value_and_grad: the gradient, where several steps share one; by default made as `make_gradient` does.
        parts: how the batch is cut, into pieces and among processes; by default not at all.

    Returns:
        The step; its metrics are the mean loss over the batch and the penalty, before the update.

    >>> from deepobs_func import optimizers, problems
    >>> problem, optimizer = problems.get("quadratic_deep"), optimizers.sgd(1e-3)
    >>> params, state = problem.init(seed=0)
    >>> carry = Carry(params, optimizer.init(params, random.key(0)), state)
    >>> carry, metrics = make_step(problem, optimizer)(carry, problem.fake_batch(128))
    >>> metrics.loss.shape, int(carry.opt_state.step)
    (torch.Size([]), 1)
    """
    differentiate = value_and_grad or make_gradient(problem, optimizer, compile=compile, plain=plain, parts=parts)
    is_whole = parts.is_whole  # here: Dynamo of torch 2.9 traces no property of a named tuple
    if not is_whole:
        differentiate = in_parts(problem, differentiate, parts)

    def step(carry: Carry, batch: Batch) -> tuple[Carry, Metrics]:
        before, opt_state, state = carry
        batch, is_scaled = Batch(batch.x, batch.y, batch.noise, state), isinstance(opt_state, Scaled)
        by = functools.partial(differentiate, scale=opt_state.scale) if is_scaled else differentiate
        oracle = Oracle(problem, by, before, batch) if is_whole else PiecewiseOracle(problem, by, before, batch, parts)
        params, opt_state = optimizer.update(oracle, opt_state, before)
        value = oracle.all()
        after = kept_where(opt_state.finite, value.state, state) if is_scaled else value.state
        return Carry(params, opt_state, after), value.metrics

    return step


def make_gradient(
    problem: Problem,
    optimizer: Optimizer,
    *,
    compile: bool = False,
    plain: bool = False,
    parts: Parts = WHOLE,
) -> ValueAndGrad:
    """Makes the gradient that a step of an optimizer asks for, of a part; the arguments are those of `make_step`."""
    sparse = not optimizer.compiles  # a class of torch's may want it so
    made = make_plain_value_and_grad(problem, sparse=sparse) if plain else make_value_and_grad(problem)
    by_itself = not (optimizer.compiles and parts.is_whole)  # else the whole step is compiled
    return compiled(made, problem, ahead=False) if compile and by_itself else made


def make_train_step(
    problem: Problem, optimizer: Optimizer, execution: Execution, precision: str = "float32"
) -> TrainStep:
    """Makes some steps over data on the device, `(carry, input) -> (carry, metrics)`; metrics are `(k,)`.

    It is to be called within `execution.apply(precision, device)`, under whose kernels it is compiled.

    The noise is drawn first: the compiler takes 13 s for every draw in a graph, minutes for the VAE's. Then the gather,
    the preparation and the steps are one compiled graph, or eager code in which only the preparation may be compiled.
    """
    is_short = execution.steps_per_call > 1  # so that what a call costs beside its steps counts
    graphs = execution.cuda_graphs and optimizer.compiles
    return _make_train_step(
        graphs,
        problem,
        optimizer.update,
        optimizer.compiles,
        execution.compile,
        execution.compile_batch,
        execution.channels_last,
        is_short,
        execution.kernels(precision),
        execution.parts,
    )


@functools.lru_cache(maxsize=32)
def _make_train_step(graphs: bool, problem: Problem, *how: Any) -> TrainStep:
    """Shared by all runs of one structure: learning rates and hyperparameters are in the carry."""
    compile_batch, ranks = how[3], how[-1].ranks
    together = _make_steps(problem, *how)
    if graphs:  # held data stay where they are; a batch that is read is copied
        together = Graphed(together, fixed=[] if problem.dataset.streamed else [1])

    def train_step(carry: Carry, given: StepInput) -> tuple[Carry, Metrics]:
        drawn = drawn_for(problem, given, compile_batch)
        return together(carry, given.split, ranks.shard(given.rows, 1), ranks.shards(drawn))

    return train_step


@functools.lru_cache(maxsize=32)
def _make_steps(
    problem: Problem,
    update: Callable[..., Any],
    compiles: bool,
    compile: bool,
    compile_batch: bool,
    channels_last: bool,
    is_short: bool,
    kernels: Kernels,
    parts: Parts,
) -> StepsOfRows:
    """The steps of given rows; with graphs and without, the same compiled code."""
    optimizer = Optimizer(_no_init, update, compiles)
    step = make_step(problem, optimizer, compile=compile, plain=not compile, parts=parts)
    whole = compile and optimizer.compiles and parts.is_whole
    gather = make_gather(problem, augment=True, channels_last=channels_last)
    if compile_batch and not whole and problem.dataset.augment:
        gather = compiled(gather, ahead=False)

    def steps(carry: Carry, split: Split, rows: Tensor, drawn: list[Drawn]) -> tuple[Carry, Metrics]:
        losses, penalties = [], []
        for batch_rows, (noise, draws) in zip(rows.unbind(), drawn, strict=True):
            x, y = gather(split, batch_rows, draws)
            carry, (loss, penalty) = step(carry, Batch(x, y, noise, carry.state))
            losses.append(loss)
            penalties.append(penalty)
        if len(losses) == 1:
            return carry, Metrics(losses[0].unsqueeze(0), penalties[0].unsqueeze(0))
        return carry, Metrics(torch.stack(losses), torch.stack(penalties))

    return compiled(steps, problem, onednn=kernels.onednn, ahead=is_short) if whole else steps


def drawn_for(problem: Problem, given: StepInput, compile_batch: bool) -> list[Drawn]:
    """What each of the k steps needs besides its rows: its noise, and the numbers of its augmentation.

    Args:
        problem: whose noise it is.
        given: what the steps take.
        compile_batch: whether long draws are hashed by compiled code.
    """
    noises: list[Tensors] = [{}] * len(given.rows)
    if problem.noises:
        with random.compiled_draws(compile_batch):
            noises = [problem.draw_noise(key, given.rows.shape[1]) for key in given.keys.unbind()]
    return [(noise, at(given.draws, index)) for index, noise in enumerate(noises)]


def make_batch(problem: Problem, ranks: Ranks = ALONE) -> Callable[[ModelState, StepInput], Batch]:
    """Makes `(state, input) -> Batch`: what one training step sees, here, the same whenever it is called."""
    gather = make_gather(problem, augment=True)

    def batch_of(state: ModelState, given: StepInput) -> Batch:
        noise = problem.draw_noise(given.keys, len(given.rows)) if problem.noises else {}
        drawn, noise = ranks.shards((given.draws, noise))
        return Batch(*gather(given.split, ranks.shard(given.rows), drawn), noise, state)

    return batch_of


def _no_init(params: Params, key: random.Key) -> Any:
    raise AssertionError("a step initialises nothing")


def make_evaluate(
    problem: Problem,
    *,
    augment: bool,
    channels_last: bool = False,
    keep: int = 0,
    function: Callable[[Params, Batch], tuple[Any, ModelState]] | None = None,
    ranks: Ranks = ALONE,
) -> Evaluate:
    """Makes the evaluation of examples: `(points, split, rows, noise, key) -> [(Evaluation, carry), ...]`.

    A point is `(params, state)`; all see the same inputs. The carry is that after these examples; with `augment`, the
    inputs are those of training, drawn from the key. It is eager code, in chunks that are large enough: compiled, it
    was no faster. Another `function` of parameters and batch, with the state after the batch, replaces the problem's
    own evaluation. Up to `keep` bytes of inputs are kept prepared from call to call, of splits that do not change.
    Rows, noise and states are those of this process's shard of a chunk.
    """
    gather = make_gather(problem, augment=augment, channels_last=channels_last)
    if keep:
        gather = kept(gather, keep)
    draw = problem.dataset.function("draw") if augment and problem.dataset.augment else None
    evaluate_and_state = function or problem.evaluate_and_state

    def evaluate(
        points: Sequence[tuple[Params, ModelState]],
        split: Split,
        rows: Tensor,
        noise: dict[str, Tensor],
        key: random.Key,
    ) -> list[Evaluated]:
        x, y = gather(split, rows, ranks.shards(draw(key, ranks.size * len(rows), torch.float32)) if draw else ())
        with using(fused=True):
            found = [evaluate_and_state(params, Batch(x, y, noise, state)) for params, state in points]
        return [(evaluation, after.carry) for evaluation, after in found]

    return evaluate


def make_gather(problem: Problem, *, augment: bool, channels_last: bool = False) -> Gather:
    """Makes `(split, rows, draws) -> (x, y)`: inputs and targets of some examples, prepared for the model.

    With `augment`, the inputs are augmented as training inputs are, where the data set has an augmentation.
    """
    prepare = make_prepare(problem, augment=augment)

    def gather(split: Split, rows: Tensor, draws: Any) -> tuple[Inputs, Tensor]:
        x = prepare(map_inputs(lambda each: each.index_select(0, rows), split.x), draws)
        return map_inputs(laid_out, x) if channels_last else x, split.y.index_select(0, rows)

    return gather


def make_prepare(problem: Problem, *, augment: bool) -> Callable[[Inputs, Any], Inputs]:
    """Makes `(x, draws) -> x`: the inputs of some examples as the model takes them; the rest is as in `make_gather`."""
    spec = problem.dataset
    prepare = spec.function("prepare")
    if augment and spec.augment:
        return spec.function("augment")
    return lambda x, draws: prepare(x, torch.float32)


def kept(gather: Gather, most: int) -> Gather:
    """The same, of rows that do not change: what was gathered is kept, up to so many bytes."""
    found: dict[tuple[int, int, torch.Size], tuple[Split, Tensor, Inputs, Tensor]] = {}
    left = most

    def gather_once(split: Split, rows: Tensor, draws: Any) -> tuple[Inputs, Tensor]:
        nonlocal left
        place = first_of(split.x).data_ptr(), rows.data_ptr(), rows.shape
        if place in found:
            return found[place][2:]
        x, y = gather(split, rows, draws)
        size = y.nbytes + sum(each.nbytes for each in inputs_by_name(x).values())
        if size <= left:
            left -= size
            found[place] = split, rows, x, y  # which stay alive, so that nothing else comes to lie there
        return x, y

    return gather_once


def laid_out(tensor: Tensor) -> Tensor:
    """Images, or kernels of convolutions, with their channels last in memory; other tensors as they are."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
