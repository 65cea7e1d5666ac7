"""The oracle: a problem at one batch and one point, as an optimizer asks it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deepobs_func import random, tree
from deepobs_func.backend.gradients import gradients
from deepobs_func.backend.kernels import using
from deepobs_func.base import BATCH_DIMS, Batch, ModelState, Outer, Params, size_of
from deepobs_func.errors import ConfigError
from deepobs_func.optimizers.scaling import unscaled
from deepobs_func.probes import curvature, per_example
from deepobs_func.probes.contract import check_batch
from deepobs_func.probes.fisher import Kind
from deepobs_func.probes.linear_map import LinearMap
from deepobs_func.probes.many import sliced
from deepobs_func.probes.outer import Statistic
from deepobs_func.probes.outer_products import LayerGradients, layer_gradients, layerless, named
from deepobs_func.problems.problem import Problem
from deepobs_func.tree import Tree


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


ValueAndGrad = Callable[..., Value]
"""`(params, batch, scale=None) -> Value`: with a scale, a 0-d tensor, the scaled objective is differentiated, and the
gradient is divided by the scale (`optimizers.scaling`)."""

Objective = Callable[[Params, Batch, Tensor | None], tuple[Tensor, tuple[Metrics, ModelState]]]


def make_value_and_grad(problem: Problem) -> ValueAndGrad:
    """Makes the pure function `(params, batch) -> Value`: one forward and one backward pass, for every transform."""
    differentiate = torch.func.grad_and_value(_make_objective(problem), has_aux=True)

    def value_and_grad(params: Params, batch: Batch, scale: Tensor | None = None) -> Value:
        grads, (value, (metrics, state)) = differentiate(params, batch, scale)
        if scale is not None:
            grads, value = unscaled(grads, scale), value / scale.to(value.dtype)
        return Value(value, grads, metrics, state)

    return value_and_grad


def make_plain_value_and_grad(problem: Problem, *, sparse: bool = False) -> ValueAndGrad:
    """The same function for eager code without transforms, by `torch.autograd` and through fused kernels.

    `torch.func.grad` always builds a graph of its backward pass, for which the fused LSTM has only a slow formula:
    three times slower than this.

    Args:
        problem: what is differentiated.
        sparse: whether a gradient that a layer makes sparse (`nn.Embedding(sparse=True)`) stays so.
    """

    def value_and_grad(params: Params, batch: Batch, scale: Tensor | None = None) -> Value:
        leaves = {name: parameter.detach().requires_grad_() for name, parameter in params.items()}
        with using(fused=True):
            losses, state = problem.loss_and_state(leaves, batch)
        penalty = problem.penalty(leaves)
        # The mean's gradient is known, so that the mean itself is none of what is differentiated.
        values, seen = [losses], losses.detach()
        seeds = [torch.full_like(seen, 1 / seen.numel())]
        if penalty.requires_grad:
            values.append(penalty)
            seeds.append(torch.ones_like(penalty))
        if scale is not None:
            seeds = [seed * scale.to(seed.dtype) for seed in seeds]
        grads = gradients(values, seeds, tuple(leaves.values()))
        if not sparse:
            grads = tuple([grad.to_dense() if grad.is_sparse else grad for grad in grads])
        named = dict(zip(leaves, grads, strict=True))
        if scale is not None:
            named = unscaled(named, scale)
        metrics = Metrics(seen.mean(), penalty.detach())
        value = metrics.loss if problem.weight_decay is None else metrics.loss + metrics.penalty
        moments, carry = state
        state = ModelState(_detached(moments), _detached(carry))
        return Value(value, named, metrics, state)

    return value_and_grad


def _detached(tensors: Params) -> Params:
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _make_objective(problem: Problem) -> Objective:
    """Makes `(params, batch, scale) -> (objective, (metrics, state))`; the objective alone is scaled."""

    def objective(params: Params, batch: Batch, scale: Tensor | None) -> tuple[Tensor, tuple[Metrics, ModelState]]:
        losses, state = problem.loss_and_state(params, batch)
        metrics = Metrics(losses.mean(), problem.penalty(params))
        value = metrics.loss if problem.weight_decay is None else metrics.loss + metrics.penalty
        return value if scale is None else value * scale.to(value.dtype), (metrics, state)

    return objective


class _Whole:
    """A problem whose loss is its objective, with what is known of its derivatives."""

    def __init__(self, problem: Problem) -> None:
        self.ways, self.shapes, self.loss = problem.ways, problem.shapes, problem.objective


def _whole(problem: Problem) -> Any:
    return _Whole(problem)


class Oracle:
    """The objective at one batch: value, gradient, curvature and per-example gradients, and the same at other points.

    Value and gradient are computed once, at the first question after either; everything else at each question. What is
    not asked for is not computed. Curvature is that of the objective: the Hessian of the penalty, `weight_decay` on the
    parameters that it counts, is part of every product. Per-example quantities are those of the losses alone.

    Args:
        problem: whose objective it is; without fused kernels, which have no second derivatives.
        value_and_grad: as `make_value_and_grad` makes it, compiled or not.
        params: the point.
        batch: the batch, with the model's state before it.
    """

    def __init__(self, problem: Problem, value_and_grad: ValueAndGrad, params: Params, batch: Batch) -> None:
        check_batch(batch)
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

    def hvp(self, v: Tree) -> Tree:
        """The Hessian of the objective times `v`, a tree like the parameters, or K of them; see `probes.hvp`.

        Raises:
            ConfigError: `v` does not match the parameters.
        """
        problem = self._problem
        return curvature.hvp(_whole(problem), self._params, self._batch, v, mode=problem.hvp_mode)

    def ggnvp(self, v: Tree) -> Tree:
        """The GGN of the mean loss, plus the Hessian of the penalty, times `v`; see `probes.ggnvp`.

        Raises:
            ConfigError: the criterion has no GGN, or `v` does not match the parameters.
        """
        return self._with_penalty(curvature.ggn_map(self._problem, self._params, self._batch, keep=False))(v)

    def make_hvp(self) -> LinearMap:
        """The map of `hvp`, for many products: the graph of the gradient is kept."""
        return curvature.make_hvp(_whole(self._problem), self._params, self._batch)

    def make_ggnvp(self) -> LinearMap:
        """The map of `ggnvp`, for many products: the forward pass is kept."""
        return self._with_penalty(curvature.make_ggnvp(self._problem, self._params, self._batch))

    def per_example_grads(self, *, bn: str | None = None) -> Params:
        """The gradient of each example's loss, `(B, *shape)` for each parameter; see `probes.per_example_grads`.

        Raises:
            ConfigError: batch norm couples the examples and `bn` does not say what their gradients are.
        """
        return per_example.per_example_grads(self._problem, self._params, self._batch, bn=bn)

    def statistics(self, wanted: Iterable[Statistic], *, bn: str | None = None) -> per_example.Statistics:
        """Statistics of the per-example gradients from one computation; see `probes.statistics`.

        Raises:
            ConfigError: as in `per_example_grads`.
        """
        return per_example.statistics(self._problem, self._params, self._batch, wanted, bn=bn)

    def layer_gradients(self, kind: Kind, *, key: random.Key | None = None, bn: str | None = None) -> LayerGradients:
        """Gradients of the examples as their layers have them; see `probes.layer_gradients`.

        Raises:
            ConfigError: as there.
        """
        return layer_gradients(self._problem, self._params, self._batch, kind=kind, key=key, bn=bn)

    def gradient_factors(self) -> LayerGradients | None:
        """The gradient of the objective as a sum over examples of outer products, from the pass that computes it.

        The sum is the gradient itself. None where it is more than that: with a penalty, batch norm, a recurrent state,
        or parameters of layers that do not know their gradients. Value and gradient are then those of this pass, so
        that a compiled step has no other.
        """
        problem = self._problem
        if problem.weight_decay or problem.description.remembers or not problem.separable or layerless(problem):
            return None
        before, size = self.all(), size_of(self._batch)
        zero = next(iter(self._params.values())).new_zeros(())
        zeros = {path: zero.expand(size, *shape) for path, (_, shape) in problem.layers.items()}

        def mean(params: Params, taps: Params) -> tuple[Tensor, Params]:
            inputs = {}

            def tap(layer: Any, x: Tensor, y: Tensor) -> Tensor:
                inputs[layer.path] = x
                return y + taps[layer.path] if layer.path in taps else y

            losses = problem.criterion(problem.tapped_outputs(params, self._batch, tap), self._batch)
            return losses.mean(), inputs

        differentiate = torch.func.grad_and_value(mean, (0, 1), has_aux=True)
        (grads, of_outputs), (value, inputs) = differentiate(self._params, zeros)
        self._computed = Value(value, grads, Metrics(value, before.metrics.penalty), before.state)
        found: dict[str, Outer | Tensor] = {}
        for path, g in of_outputs.items():
            found |= named(path, problem.layers[path][0].factors(inputs[path], g), self._params)
        return LayerGradients(found, size)

    def layerless(self) -> list[str]:
        """The parameters of layers that do not know their per-example gradients."""
        return layerless(self._problem)

    def taps_in_branches(self) -> bool:
        """Whether `layer_gradients` can be asked inside a branch of `torch.cond`.

        The layers of a user's module learn of the pass by a variable of the thread, which no branch may change.
        """
        return not hasattr(self._problem.call, "reads_pass")

    def part(self, size: int | None) -> Oracle:
        """The oracle of the first examples of the batch, for curvature that costs less; of all of them by None.

        Batch norm sees these alone.

        Raises:
            ConfigError: the batch has fewer.
        """
        if size is None:
            return self
        if size > size_of(self._batch):
            raise ConfigError(
                f"curvature_batch={size} is more than the batch has, {size_of(self._batch)} examples: take at most "
                "these, or a larger batch."
            )
        batch = sliced(self._batch, BATCH_DIMS, slice(0, size))
        return Oracle(self._problem, self._value_and_grad, self._params, batch)

    def _with_penalty(self, ggn: LinearMap) -> LinearMap:
        """The map plus the Hessian of the penalty, which is quadratic: its gradient at v is its Hessian times v."""
        if not self._problem.weight_decay:
            return ggn
        pull = torch.func.grad(self._problem.penalty)
        return LinearMap(lambda v: tree.add(ggn.product(v), pull(v)), ggn.like)
