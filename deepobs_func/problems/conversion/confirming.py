"""Per-example gradients by layer formulas, compared with one backward pass for each example."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from deepobs_func.base import BATCH_DIMS, Batch, Params
from deepobs_func.errors import ConfigError
from deepobs_func.nets.layers import Pass
from deepobs_func.nets.noise import Place
from deepobs_func.probes.differences import gradient
from deepobs_func.probes.many import sliced
from deepobs_func.probes.per_example import per_example_grads
from deepobs_func.problems.conversion.base import Converted
from deepobs_func.problems.conversion.norms import BatchNorm
from deepobs_func.problems.derivatives import EXAMPLES, place
from deepobs_func.problems.modules import copied
from deepobs_func.problems.problem import Problem
from deepobs_func.problems.results import is_close
from deepobs_func.problems.separability import agree_elsewhere, alone_and_together, in_parts

TOLERANCE = 1e-2  # relative; rounding in float32 stays below


def confirmed(problem: Problem) -> Problem:
    """The same problem, without formulas for those parameters whose gradients they are not.

    Such a parameter enters the loss by other ways than its layer's call: it is tied, or the user's code reads it.
    """
    if not problem.layers or not (problem.separable or problem.normalizes):
        return problem
    with torch.inference_mode(False), torch.enable_grad():
        wrong = _wrong(problem)
    if not wrong:
        return problem
    for layer in _converted(problem):
        layer.taken = tuple(name for name in layer.taken if layer.named(name) not in wrong)
    return replace(problem, description=None)  # type: ignore[arg-type]  # is made anew


def taken_apart(problem: Problem) -> Problem:
    """The same problem; where batch norm is not all that couples examples, moments are not said to part them."""
    if not problem.normalizes:
        return problem
    params, state = problem.init()
    batch = problem.fake_batch(EXAMPLES)._replace(state=state)

    def apart(params: Params, batch: Batch) -> tuple[Tensor, Tensor]:
        """Of examples apart, by the moments of all; and in the training phase."""
        frozen = batch._replace(state=problem.batch_moments(params, batch))
        return in_parts(problem.loss_by_moments, params, frozen), problem.loss(params, batch)

    with torch.inference_mode(False), torch.no_grad():
        frozen = batch._replace(state=problem.batch_moments(params, batch))
        right = is_close(problem.loss_by_moments(params, frozen), problem.loss(params, batch))
        if right and _is_separable_here(problem, params, batch) and agree_elsewhere(apart, params, batch):
            return problem
    for module in problem.net.modules():
        if isinstance(module, BatchNorm):
            module.coupled_anyway = True
    return replace(problem, description=None)  # type: ignore[arg-type]  # is made anew


def _is_separable_here(problem: Problem, params: Params, batch: Batch) -> bool:
    """Whether each example's loss by moments is the same alone as in the batch, with its own noise."""
    try:
        return is_close(*alone_and_together(problem.loss_by_moments, params, batch))
    except ValueError:  # a batch norm refuses a single value per channel
        return False


def _is_separable(problem: Problem, params: Params, batch: Batch) -> bool:
    """The same, also away from these parameters."""
    loss = problem.loss_by_moments
    return _is_separable_here(problem, params, batch) and agree_elsewhere(
        lambda p, b: (in_parts(loss, p, b), loss(p, b)), params, batch
    )


def check_masks(problem: Problem) -> None:
    """Refuses draws of which example n does not read the n-th part.

    Raises:
        ConfigError: an example's loss is the same alone as in a batch without noise, and another one with noise;
            with batch norm, in passes by moments.
    """
    if not problem.noises or not (problem.separable or problem.normalizes):
        return
    params, state = problem.init()
    batch = problem.fake_batch(EXAMPLES)._replace(state=state)
    with torch.inference_mode(False), torch.no_grad():
        by_noise = _is_separable(problem, params, batch)
        if by_noise or not (problem.separable or _is_separable(problem, params, _silent(batch))):
            return
    several = [name for name, each in problem.noises.items() if isinstance(each, Place) and each.block > 1]
    raise ConfigError(
        f"The masks that the layers {several or list(problem.noises)} draw for a batch are not those of its examples "
        "one after the other, so that its loss depends on its place in the batch. Keep the examples in front, as "
        "in x.flatten(0, 1) of (B, T, ...), in what these layers are given."
    )


def _silent(batch: Batch) -> Batch:
    return batch._replace(noise={})


def _wrong(problem: Problem) -> set[str]:
    """The parameters whose formulas do not give what a backward pass gives."""
    params, batch = place(problem, torch.float32, torch.float64)
    loss = problem.loss if problem.separable else problem.loss_by_moments
    known = {layer.named(name) for layer in _converted(problem) for name in layer.taken} & params.keys()
    rows = []
    for n in range(EXAMPLES):
        example = sliced(batch, BATCH_DIMS, slice(n, n + 1))
        grads = gradient(lambda p, example=example: loss(p, example).sum(), params)  # type: ignore[misc]  # one each
        rows.append(dict(zip(params, grads, strict=True)))
    try:
        found = per_example_grads(problem, params, batch, bn=None if problem.separable else "eval")
    except Exception:  # whatever a user's code raises on what the formulas are made of
        return known
    whole = torch.stack([leaf.norm() for row in rows for leaf in row.values()]).norm()
    wrong = {name for name in known if _distance(found, rows, name) > TOLERANCE * max(_norm(rows, name), 1e-3 * whole)}
    return wrong | _read_elsewhere(problem, params, batch, sorted(known - wrong))


def _read_elsewhere(problem: Problem, params: Params, batch: Batch, names: list[str]) -> set[str]:
    """Those of some parameters that reach the outputs by other ways than their layers' own calls.

    Whatever the values of a few examples, which may not go those ways: a layer's call gets constants for its
    parameters, and what is left of the graph must not lead to them.
    """
    net = copied(problem.net, {})
    for layer in net.modules():
        if isinstance(layer, Converted) and layer.path in problem.layers:
            layer.forward = functools.partial(_by_constants, layer, layer.forward)
    leaves = {name: leaf.detach().requires_grad_() for name, leaf in params.items()}
    p = Pass(True, batch.noise, {}, by_moments=not problem.separable)
    outputs = problem.call(net, {**leaves, **batch.state.moments}, batch.x, p)
    parts = [part.sum() for part in pytree.tree_leaves(outputs) if isinstance(part, Tensor) and part.requires_grad]
    if not parts or not names:
        return set()
    grads = torch.autograd.grad(parts, [leaves[name] for name in names], allow_unused=True)
    return {name for name, grad in zip(names, grads, strict=True) if grad is not None}


def _by_constants(layer: Converted, forward: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """A layer's call, of whose parameters it has constants; the user's hooks around it have them as they are."""
    own = {name: layer._parameters[name] for name in layer.taken}
    constants: dict[str, Any] = {name: leaf.detach() for name, leaf in own.items() if leaf is not None}
    layer._parameters.update(constants)
    try:
        return forward(*args, **options)
    finally:
        layer._parameters.update(own)


def _converted(problem: Problem) -> list[Converted]:
    layers = [layer for layer, _ in problem.layers.values()]
    return [layer for layer in layers if isinstance(layer, Converted)]


def _norm(rows: list[Params], name: str) -> Tensor:
    return torch.stack([row[name].norm() for row in rows]).norm()


def _distance(found: Params, rows: list[Params], name: str) -> Tensor:
    return torch.stack([(one - row[name]).norm() for one, row in zip(found[name], rows, strict=True)]).norm()
