"""A test problem out of any `nn.Module`, so that users benchmark their own network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from deepobs_func import datasets, random
from deepobs_func.base import Batch, ModelState, Params
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.errors import ConfigError
from deepobs_func.nets.layers import Pass
from deepobs_func.problems import derivatives
from deepobs_func.problems.measures import Measure
from deepobs_func.problems.problem import Problem, Tensors, kernels


def from_module(
    module: nn.Module,
    criterion: Callable[[Any, Tensor], Tensor] | Measure,
    dataset: str | DatasetSpec,
    *,
    correct: Callable[[Any, Tensor], Tensor] | None = None,
    weight_decay: float | None = None,
    regularize: Callable[[str, Tensor], bool] = kernels,
    epochs: int = 10,
    batch_size: int = 128,
    name: str | None = None,
) -> Problem:
    """Makes a test problem of any module and a per-example criterion.

    The module's own values are where every run starts, whatever its seed; the seed still decides the order of the
    data. The module is copied and its tensors are not touched.

    Args:
        module: maps inputs `(B, ...)` to outputs with a leading `B`. Its `train()` or `eval()` setting holds in both
            phases.
        criterion: `(outputs, y) -> (B,)`, e.g. `partial(F.cross_entropy, reduction="none")`; or a `Measure`, such as
            `problems.measures.cross_entropy`, which says beside what a GGN and its samples need to know.
        dataset: the name of a data set, or one made by `datasets.from_arrays`.
        correct: `(outputs, y) -> (B,)` in [0, 1], where an accuracy is wanted; a `Measure` has its own.
        weight_decay: the factor of the L2 penalty; None for a problem without one.
        regularize: `(name, parameter) -> bool`, which parameters the penalty counts; by default those of rank 2 and up.
        epochs, batch_size: the defaults of a run.
        name: for the record; by default the class of the module.

    Raises:
        ConfigError: the module draws random numbers, changes its buffers, or does not fit the data; or the criterion
            is not `(B,)`. Each would make the loss impure, and the message says what to use instead.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    >>> problem = from_module(net, lambda logits, y: nn.functional.cross_entropy(logits, y, reduction="none"), "mnist")
    >>> problem.loss(problem.init(seed=0)[0], problem.fake_batch(4)).shape
    torch.Size([4])
    """
    described = _on_meta(module)
    frozen = {key: tensor for key, tensor in module.named_parameters() if not tensor.requires_grad}
    params = {key: tensor.detach().clone() for key, tensor in module.named_parameters() if key not in frozen}
    buffers = {key: tensor.detach().clone() for key, tensor in (*frozen.items(), *module.named_buffers())}
    if not params:
        raise ConfigError("The module has no parameter to train: none has requires_grad=True.")

    def draw(net: nn.Module, key: random.Key, dtype: torch.dtype) -> tuple[Params, Tensors]:
        def fresh(tensors: Tensors) -> Tensors:
            return {
                name: tensor.to(key.device, dtype if tensor.is_floating_point() else None, copy=True)
                for name, tensor in tensors.items()
            }

        return fresh(params), fresh(buffers)

    problem = Problem(
        name=name or type(module).__name__.lower(),
        dataset=datasets.spec(dataset) if isinstance(dataset, str) else dataset,
        make_net=lambda: described,
        measure=_measure(criterion, correct),
        weight_decay=weight_decay,
        separable=True,
        epochs=epochs,
        batch_size=batch_size,
        draw=draw,
        call=_call_plain,
        regularize=regularize,
    )
    losses = _checked_losses(problem)
    return derivatives.chosen(replace(problem, separable=_is_separable(problem, losses)))


def _measure(
    criterion: Callable[[Any, Tensor], Tensor] | Measure, correct: Callable[[Any, Tensor], Tensor] | None
) -> Measure:
    if not isinstance(criterion, Measure):
        right = None if correct is None else lambda outputs, batch: correct(outputs, batch.y)
        return Measure(lambda outputs, batch: criterion(outputs, batch.y), right)
    if correct is not None:
        raise ConfigError("The criterion is a Measure, which has its own correct; leave correct= out.")
    return criterion


def _on_meta(module: nn.Module) -> nn.Module:
    """A copy without data, in which tied tensors stay tied."""
    tensors = (*module.parameters(), *module.buffers())
    empty = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors}
    memo = {key: nn.Parameter(empty[key]) for key in map(id, module.parameters())}
    return copy.deepcopy(module, {**empty, **memo})


def _call_plain(net: nn.Module, tensors: Tensors, x: Tensor, p: Pass) -> Any:
    return functional_call(net, tensors, (x,), strict=True)


def _losses_of(problem: Problem, batch: Batch) -> Tensor:
    params, state = problem.init()
    return problem.loss(params, Batch(batch.x, batch.y, {}, ModelState(state.moments, {})))


@torch.no_grad()
def _checked_losses(problem: Problem) -> Tensor:
    """The losses of three random examples, `(3,)`, after looking at what the module does beside computing them."""
    batch = problem.fake_batch(3)
    with torch.random.fork_rng(devices=[]):
        generator = torch.get_rng_state()
        try:
            losses = _losses_of(problem, batch)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ConfigError(
                f"The module and its criterion do not fit {problem.dataset.title}, whose inputs are "
                f"{tuple(batch.x.shape)} {batch.x.dtype} for a batch of 3: {error}"
            ) from error
        drew = not torch.equal(generator, torch.get_rng_state())
    if drew:
        raise ConfigError(
            "The module draws random numbers of its own, so its loss would be another function at each call. Call "
            "module.eval() first, or leave out layers such as nn.Dropout."
        )
    if losses.shape != (3,):
        raise ConfigError(
            f"The criterion returned the shape {tuple(losses.shape)} for a batch of 3; it must return one loss for "
            "each example, (3,). With torch's losses pass reduction='none'."
        )
    _check_state(problem, batch, losses)
    return losses


def _check_state(problem: Problem, batch: Batch, losses: Tensor) -> None:
    """Refuses a module that remembers: in a buffer, or anywhere else, which a second call shows."""
    params, state = problem.init()
    before = {name: moment.clone() for name, moment in state.moments.items()}
    problem.loss(params, Batch(batch.x, batch.y, {}, state))
    changed = [name for name, moment in state.moments.items() if not torch.equal(moment, before[name])]
    if changed:
        raise ConfigError(
            f"The module changes its buffers {changed} in a forward pass, so its loss would depend on what was "
            "computed before. Call module.eval() first, or use a layer without running statistics (e.g. GroupNorm)."
        )
    if not torch.equal(losses, _losses_of(problem, batch)):
        raise ConfigError(
            "Two calls of the module on the same input differ, so it keeps state or draws random numbers outside of "
            "torch's generator. A test problem must be a pure function; remove what it remembers."
        )


@torch.no_grad()
def _is_separable(problem: Problem, losses: Tensor) -> bool:
    """Whether an example's loss is the same alone as in the batch."""
    batch = problem.fake_batch(3)
    try:
        alone = [_losses_of(problem, Batch.of(batch.x[n : n + 1], batch.y[n : n + 1])) for n in range(3)]
    except ValueError:  # a batch norm refuses a single value per channel
        return False
    return torch.allclose(torch.cat(alone), losses, rtol=1e-4, atol=1e-5)
