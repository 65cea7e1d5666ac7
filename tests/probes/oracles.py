"""Slow float64 oracles that share no code with the probes: Python loops over examples, one backward pass each."""

from __future__ import annotations

import torch
from torch import Tensor

from deepobs_func.base import Batch, ModelState
from deepobs_func.problems.problem import Problem

Tree = dict[str, Tensor]


def gradient(value: Tensor, leaves: Tree) -> Tree:
    grads = torch.autograd.grad(value, list(leaves.values()), retain_graph=True, allow_unused=True)
    pairs = zip(leaves.items(), grads, strict=True)
    return {name: torch.zeros_like(leaf) if g is None else g.detach() for (name, leaf), g in pairs}


def rows_of_the_jacobian(problem: Problem, params: Tree, batch: Batch) -> list[Tree]:
    """One backward pass from each entry of the loss vector."""
    leaves = {name: leaf.detach().requires_grad_() for name, leaf in params.items()}
    return [gradient(loss, leaves) for loss in problem.loss(leaves, batch)]


def example(batch: Batch, n: int) -> Batch:
    """A batch of example n alone."""
    noise, carry = ({name: leaf[n : n + 1] for name, leaf in part.items()} for part in (batch.noise, batch.state.carry))
    return Batch(batch.x[n : n + 1], batch.y[n : n + 1], noise, ModelState(batch.state.moments, carry))


def one_at_a_time(problem: Problem, params: Tree, batch: Batch) -> list[Tree]:
    """The gradient of a batch of one, for each example; of a separable problem."""
    return [rows_of_the_jacobian(problem, params, example(batch, n))[0] for n in range(len(batch.x))]


def flat(tree: Tree) -> Tensor:
    return torch.cat([leaf.flatten() for leaf in tree.values()])
