"""Whether a problem of a user's functions is a pure function of parameters and batch, found by calling it.

Each function is called on a few examples, and what it does besides returning its result is looked at: numbers drawn,
tensors changed, things remembered. What it returns is checked for shape, type and finite values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from deepobs_func.base import BATCH_DIMS, Batch, ModelState, Params, map_inputs, size_of
from deepobs_func.errors import ConfigError
from deepobs_func.probes.many import sliced
from deepobs_func.problems.problem import Problem, Tensors
from deepobs_func.problems.results import Found, Functions, is_close, leaves_of, said
from deepobs_func.problems.separability import agree_elsewhere, in_parts
from deepobs_func.problems.watch import attributes, is_same


def check(problem: Problem, again: Problem, held: Tensors) -> bool:
    """Refuses a problem that is not pure, or whose functions do not fit the data.

    Args:
        problem: made of a user's functions.
        again: the same problem on another copy of the module, which has not been called.
        held: the tensors that the module holds as plain attributes.

    Returns:
        Whether the problem is separable: an example's loss is the same alone as in a batch.

    Raises:
        ConfigError: it is not pure or does not fit; the message says which function does what, and how to fix it.
    """
    with torch.inference_mode(False), torch.enable_grad():
        params, state = problem.init()
        batch = _plain(problem.fake_batch(3), state)
        functions = Functions(problem, params)
        found = functions.called(batch)
        functions.called(_edge(problem, state))
        _check_memory(problem, again, params, batch, found)
        _check_gradient(again, params, batch, held)
        if not _is_separable(problem, params, batch, found):
            return False
        return agree_elsewhere(lambda p, b: (in_parts(problem.loss, p, b), problem.loss(p, b)), params, batch)


def _plain(batch: Batch, state: ModelState) -> Batch:
    return Batch(batch.x, batch.y, {}, ModelState(state.moments, {}))


def _edge(problem: Problem, state: ModelState) -> Batch:
    """Examples with the smallest and the largest ids of both splits, and of another number than the others."""
    spec, batch = problem.dataset, problem.fake_batch(4, seed=1)
    x, y = batch.x, batch.y
    if spec.extremes:
        more_x, more_y = spec.function("extremes")(spec, torch.float32)
        x, y = pytree.tree_map(lambda *parts: torch.cat(parts), (x, y), (more_x, more_y))
    elif spec.num_classes is not None:
        ids = (spec.num_classes - 1) * (torch.arange(4) % 2)
        x, y = pytree.tree_map(
            lambda part: part if part.is_floating_point() else ids.view(4, *[1] * (part.ndim - 1)).expand_as(part),
            (x, y),
        )
    return _plain(Batch(map_inputs(Tensor.contiguous, x), y.contiguous(), {}, state), state)


def _check_memory(problem: Problem, again: Problem, params: Params, batch: Batch, found: Found) -> None:
    """Refuses a module that remembers: calls, or parameters that it was called at."""
    # Any other point will do; random numbers for all of a large net take seconds.
    other = {
        name: 2 * leaf + torch.linspace(-0.1, 0.1, leaf.numel(), dtype=leaf.dtype).view_as(leaf)
        for name, leaf in params.items()
    }
    elsewhere, back = problem.outputs(other, batch), problem.outputs(params, batch)
    if not all(map(is_same, leaves_of(found.outputs), leaves_of(back))):
        raise ConfigError(
            "Two calls of the module on the same input differ, so it keeps state or draws random numbers outside of "
            "the generators of torch, NumPy and Python. A test problem must be a pure function; remove what it "
            "remembers."
        )
    if not is_same(found.losses, problem.criterion(back, batch)):
        raise ConfigError(
            "Two calls of the criterion on the same outputs differ, so it keeps state or draws random numbers. A test "
            "problem must be a pure function; remove what it remembers."
        )
    if not all(map(is_close, leaves_of(elsewhere), leaves_of(again.outputs(other, batch)))):
        raise ConfigError(
            "The module's result at some parameters depends on the parameters of an earlier call, so it keeps what it "
            "computed from them. Compute it anew in each forward pass (some layers keep it in eval mode only: call "
            "module.train())."
        )
    before = attributes(problem.net)
    problem.outputs(params, batch)
    after = attributes(problem.net)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if changed:
        raise ConfigError(
            f"The module's attributes {changed} change from call to call, so it may compute something else after some "
            "calls. A test problem must be a pure function; remove what counts or collects."
        )


def _check_gradient(problem: Problem, params: Params, batch: Batch, held: Tensors) -> None:
    """Refuses a loss that does not follow the parameters, or has no gradient."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in params.items()}
    try:
        losses = problem.loss(leaves, batch)
        grads: Any = [None] * len(leaves)
        if losses.requires_grad:
            grads = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
    except Exception as error:  # whatever a function of the user's raises
        raise ConfigError(f"The gradient of the loss raised {said(error)} {_mend_gradient(error)}") from error
    unused = [name for name, grad in zip(leaves, grads, strict=True) if grad is None]
    if len(unused) == len(leaves):
        raise ConfigError(
            f"The loss does not depend on the parameters {unused} in a way that can be differentiated. The module or "
            "the criterion cuts the graph (torch.no_grad, detach, argmax, NumPy), or keeps what it computed from the "
            "parameters earlier."
        )
    for name in unused:
        path = name.rpartition(".")[0]
        kept = [
            other for other, tensor in held.items() if other.rpartition(".")[0] == path and tensor.is_floating_point()
        ]
        if kept:
            raise ConfigError(
                f"The loss does not depend on the parameter {name!r}, beside which the module holds {kept}: it seems "
                "that this was computed from the parameter and is kept. Compute it in each forward pass; register a "
                "constant with register_buffer, or freeze an unused parameter with requires_grad_(False)."
            )


@torch.no_grad()
def _is_separable(problem: Problem, params: Params, batch: Batch, found: Found) -> bool:
    """Whether an example's loss is the same alone as in the batch, at the initial parameters.

    Raises:
        ConfigError: one example alone has no loss, or it is the criterion or `correct` that mixes examples.
    """
    size = size_of(batch)
    examples = [sliced(batch, BATCH_DIMS, slice(n, n + 1)) for n in range(size)]
    parts = []
    try:
        alone = [problem.loss(params, example) for example in examples]
        if all(leaf.ndim and len(leaf) == size for leaf in leaves_of(found.outputs)):
            parts = [_of_part(problem, example, found, n) for n, example in enumerate(examples)]
    except ConfigError:
        raise
    except ValueError:  # a batch norm refuses a single value per channel
        return False
    except Exception as error:  # whatever a function of the user's raises
        raise ConfigError(
            f"The module and its functions work for a batch of {size} and not for one example: {said(error)} Name the "
            "axis that squeeze() removes, as in squeeze(1)."
        ) from error
    if any(losses.shape != (1,) for losses in alone):
        raise ConfigError(
            f"The criterion returned the shape {tuple(alone[0].shape)} for a batch of one example; it must return "
            "(1,), one loss for each example. Name the axis that squeeze() removes, as in squeeze(1)."
        )
    if parts:
        _check_mixing(batch, found, parts)
    return is_close(torch.cat(alone), found.losses)


def _of_part(problem: Problem, example: Batch, found: Found, n: int) -> Found:
    """What criterion and `correct` return for one example's part of the outputs of a batch."""
    outputs = pytree.tree_map(lambda leaf: leaf[n : n + 1] if isinstance(leaf, Tensor) else leaf, found.outputs)
    right = problem.measure.correct
    return Found(outputs, problem.criterion(outputs, example), None if right is None else right(outputs, example))


def _check_mixing(batch: Batch, found: Found, parts: list[Found]) -> None:
    """Refuses targets that a criterion broadcasts against outputs, and an accuracy that mixes examples."""
    outputs, y = found.outputs, batch.y
    broadcast = isinstance(outputs, Tensor) and outputs.shape != y.shape and outputs.numel() == y.numel()
    if broadcast and not is_close(torch.cat([part.losses.reshape(-1) for part in parts]), found.losses):
        raise ConfigError(
            f"The criterion compares outputs {tuple(outputs.shape)} with targets {tuple(y.shape)}, which are "
            "broadcast, so that each example's loss depends on the targets of all. End the module with nn.Flatten(0), "
            "or give targets y[:, None]."
        )
    if found.correct is not None:
        alone = torch.cat([part.correct.reshape(-1).double() for part in parts if part.correct is not None])
        if not is_close(alone, found.correct.double()):
            raise ConfigError(
                f"The function correct returned {found.correct.tolist()} for a batch and {alone.tolist()} for its "
                "examples one by one; it must say of each example whether it is correct, whatever the others are."
            )


def _mend_gradient(error: Exception) -> str:
    if any(word in str(error) for word in ("checkpoint", "meta", "saved tensor")):
        return (
            "Leave out activation checkpointing (torch.utils.checkpoint): the parameters are put into the module for "
            "one call, and not for that of the backward pass."
        )
    return (
        "The module and the criterion must be differentiable by torch.autograd. Targets that are compared with outputs "
        "must be floating-point numbers like them."
    )
