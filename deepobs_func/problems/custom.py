"""A test problem out of any `nn.Module`, so that users benchmark their own network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from deepobs_func import datasets, random
from deepobs_func.base import Batch, ModelState, Params
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.errors import ConfigError
from deepobs_func.nets.layers import Pass
from deepobs_func.problems.measures import Measure
from deepobs_func.problems.problem import Problem, Tensors


def from_module(
    module: nn.Module,
    criterion: Callable[[Any, Tensor], Tensor],
    dataset: str | DatasetSpec,
    *,
    correct: Callable[[Any, Tensor], Tensor] | None = None,
    weight_decay: float | None = None,
    regularize: Callable[[str, Tensor], bool] = lambda name, parameter: parameter.ndim >= 2,
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
        criterion: `(outputs, y) -> (B,)`, e.g. `partial(F.cross_entropy, reduction="none")`.
        dataset: the name of a data set, or one made by `datasets.from_arrays`.
        correct: `(outputs, y) -> (B,)` in [0, 1], where an accuracy is wanted.
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
    described = copy.deepcopy(module)
    params = {key: tensor.detach().clone() for key, tensor in module.named_parameters()}
    buffers = {key: tensor.detach().clone() for key, tensor in module.named_buffers()}
    described.to("meta")

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
        measure=Measure(
            lambda outputs, batch: criterion(outputs, batch.y),
            None if correct is None else lambda outputs, batch: correct(outputs, batch.y),
        ),
        weight_decay=weight_decay,
        separable=True,
        epochs=epochs,
        batch_size=batch_size,
        draw=draw,
        call=_call_plain,
        regularize=regularize,
    )
    _check_purity(problem)
    return problem


def _call_plain(net: nn.Module, tensors: Tensors, x: Tensor, p: Pass) -> Any:
    return functional_call(net, tensors, (x,), strict=True)


def _check_purity(problem: Problem) -> None:
    """Runs the problem once on two random examples and looks at what changed."""
    params, state = problem.init()
    batch = problem.fake_batch(2)
    before = {name: moment.clone() for name, moment in state.moments.items()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        generator = torch.get_rng_state()
        losses = problem.loss(params, Batch(batch.x, batch.y, {}, ModelState(state.moments, {})))
        drew = not torch.equal(generator, torch.get_rng_state())
    if drew:
        raise ConfigError(
            "The module draws random numbers of its own, so its loss would be another function at each call. Call "
            "module.eval() first, or leave out layers such as nn.Dropout."
        )
    changed = [name for name, moment in state.moments.items() if not torch.equal(moment, before[name])]
    if changed:
        raise ConfigError(
            f"The module changes its buffers {changed} in a forward pass, so its loss would depend on what was "
            "computed before. Call module.eval() first, or use a layer without running statistics (e.g. GroupNorm)."
        )
    if losses.shape != (2,):
        raise ConfigError(
            f"The criterion returned the shape {tuple(losses.shape)} for a batch of 2; it must return one loss for "
            "each example, (2,). With torch's losses pass reduction='none'."
        )
