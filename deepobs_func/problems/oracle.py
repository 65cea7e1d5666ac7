"""The oracle: a problem at one batch and one point, as an optimizer asks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from deepobs_func.base import Batch, ModelState, Params
from deepobs_func.problems.problem import Problem


class Metrics(NamedTuple):
    """What a step reports: the mean loss over the batch and the penalty, 0-d; the objective is their sum."""

    loss: Tensor
    penalty: Tensor


class Value(NamedTuple):
    """Objective, gradient and by-products at one point."""

    objective: Tensor
    grads: Params
    metrics: Metrics
    state: ModelState


ValueAndGrad = Callable[[Params, Batch], Value]


Objective = Callable[[Params, Batch], tuple[Tensor, tuple[Metrics, ModelState]]]


def make_value_and_grad(problem: Problem) -> ValueAndGrad:
    """Makes the pure function `(params, batch) -> Value`: one forward and one backward pass, for every transform."""
    differentiate = torch.func.grad_and_value(_make_objective(problem), has_aux=True)

    def value_and_grad(params: Params, batch: Batch) -> Value:
        grads, (value, (metrics, state)) = differentiate(params, batch)
        return Value(value, grads, metrics, state)

    return value_and_grad


def make_plain_value_and_grad(problem: Problem) -> ValueAndGrad:
    """The same function for eager code without transforms, by `torch.autograd` and through fused kernels.

    `torch.func.grad` always builds a graph of its backward pass, for which the fused LSTM has only a slow formula:
    three times slower than this.
    """
    objective = _make_objective(problem.with_fused_kernels())

    def value_and_grad(params: Params, batch: Batch) -> Value:
        leaves = {name: parameter.detach().requires_grad_() for name, parameter in params.items()}
        value, (metrics, state) = objective(leaves, batch)
        grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
        detached = pytree.tree_map(torch.Tensor.detach, (value, metrics, state))
        return Value(detached[0], dict(zip(leaves, grads, strict=True)), *detached[1:])

    return value_and_grad


def _make_objective(problem: Problem) -> Objective:
    """Makes `(params, batch) -> (objective, (metrics, state))`."""

    def objective(params: Params, batch: Batch) -> tuple[Tensor, tuple[Metrics, ModelState]]:
        losses, state = problem.loss_and_state(params, batch)
        metrics = Metrics(losses.mean(), problem.penalty(params))
        return metrics.loss + metrics.penalty, (metrics, state)

    return objective


class Oracle:
    """The objective at one batch: value, gradient, and the same at other points.

    What is asked for is computed once; what is not asked for is not computed.

    Args:
        problem: whose objective it is.
        value_and_grad: as `make_value_and_grad` makes it, compiled or not.
        params: the point.
        batch: the batch, with the model's state before it.
    """

    def __init__(self, problem: Problem, value_and_grad: ValueAndGrad, params: Params, batch: Batch) -> None:
        self._problem, self._value_and_grad = problem, value_and_grad
        self._params, self._batch = params, batch
        self._computed: Value | None = None

    def all(self) -> Value:
        """Objective, gradient, metrics and the state after the batch."""
        if self._computed is None:
            self._computed = self._value_and_grad(self._params, self._batch)
        return self._computed

    def value(self) -> Tensor:
        """The objective, mean loss plus penalty, a 0-d tensor."""
        return self.all().objective

    def grad(self) -> Params:
        """The gradient of the objective."""
        return self.all().grads

    def at(self, params: Params) -> Oracle:
        """The oracle of the same batch at another point."""
        return Oracle(self._problem, self._value_and_grad, params, self._batch)

    def loss_at(self, params: Params) -> Tensor:
        """The objective of the same batch at another point, a 0-d tensor; a forward pass only."""
        return self._problem.objective(params, self._batch)
