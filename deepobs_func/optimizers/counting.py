"""How often an optimizer calls its oracle, by kind.

* A gradient is the gradient at one point, with the value there, or one pass of per-example statistics.
* A product is one Hessian or GGN product with one vector.
* An evaluation is one forward pass, `loss_at`.

An optimizer declares its numbers by `Optimizer.calls`. For one that does not, `counted` counts in eager code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deepobs_func import random
from deepobs_func.base import Params
from deepobs_func.optimizers.base import Optimizer, Oracle
from deepobs_func.probes.contract import count_vectors
from deepobs_func.probes.linear_map import LinearMap
from deepobs_func.tree import Tree

KINDS = ("gradients", "products", "evaluations")


@dataclass
class Count:
    """Numbers of calls so far."""

    gradients: int = 0
    products: int = 0
    evaluations: int = 0


def calls_so_far(optimizer: Optimizer, opt_state: Any) -> dict[str, int]:
    """How often an optimizer has called its oracle since the start of the run, by kind; empty where it is not known.

    Args:
        optimizer: any.
        opt_state: its state.
    """
    if optimizer.calls is None:
        return {}
    found = {kind: int(number) for kind, number in optimizer.calls(opt_state).items()}
    return {} if any(number < 0 for number in found.values()) else found


def share_of(curvature_batch: int | None, batch_size: int) -> float:
    """The part of a batch that curvature is computed from."""
    return 1.0 if curvature_batch is None else curvature_batch / batch_size


def rounded_up(number: Tensor) -> Tensor:
    """A sum of calls, each of a part of the batch, as a whole number. An excess of 1e-9 is rounding."""
    return torch.ceil(number.double() - 1e-9).to(torch.int64)


def products_of(optimizer: Optimizer) -> Callable[[Any, int], Callable[[Any], Mapping[str, Any]]]:
    """The `calls_at` of an optimizer all of whose products are with the curvature of `curvature_batch` examples."""

    def calls_at(problem: Any, batch_size: int) -> Callable[[Any], Mapping[str, Any]]:
        share = share_of(optimizer.curvature_batch, batch_size)

        def calls(state: Any) -> Mapping[str, Any]:
            assert optimizer.calls is not None, "it declares its calls"
            found = optimizer.calls(state)
            return {**found, "products": rounded_up(share * found["products"])}

        return calls

    return calls_at


def counting_at(optimizer: Optimizer, problem: Any, batch_size: int) -> Optimizer:
    """The optimizer with the `calls` of a problem and a batch size.

    Args:
        optimizer: any.
        problem: of the run.
        batch_size: of the run.
    """
    if optimizer.calls_at is None:
        return optimizer
    return optimizer._replace(calls=optimizer.calls_at(problem, batch_size))


class CountingOracle:
    """An oracle that counts what it is asked.

    Args:
        oracle: the oracle.
        params: its point.
        count: where the calls are added up.
    """

    def __init__(self, oracle: Oracle, params: Params, count: Count) -> None:
        self._oracle, self._params, self._count = oracle, params, count
        self._is_differentiated = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._oracle, name)

    def _differentiate(self) -> Oracle:
        """Value and gradient are computed once."""
        self._count.gradients += not self._is_differentiated
        self._is_differentiated = True
        return self._oracle

    def value(self) -> Tensor:
        """The objective."""
        return self._differentiate().value()

    def grad(self) -> Params:
        """The gradient of the objective."""
        return self._differentiate().grad()

    def loss_at(self, params: Params) -> Tensor:
        """The objective at another point."""
        self._count.evaluations += 1
        return self._oracle.loss_at(params)

    def at(self, params: Params) -> CountingOracle:
        """The oracle at another point, counted in the same place."""
        return CountingOracle(self._oracle.at(params), params, self._count)

    def hvp(self, v: Tree) -> Tree:
        """The Hessian times one vector or several."""
        self._count.products += count_vectors(self._params, v) or 1
        return self._oracle.hvp(v)

    def ggnvp(self, v: Tree) -> Tree:
        """The GGN times one vector or several."""
        self._count.products += count_vectors(self._params, v) or 1
        return self._oracle.ggnvp(v)

    def make_hvp(self) -> LinearMap:
        """The Hessian as a map, whose products are counted."""
        return _counted_map(self._oracle.make_hvp(), self._count)

    def make_ggnvp(self) -> LinearMap:
        """The GGN as a map, whose products are counted."""
        return _counted_map(self._oracle.make_ggnvp(), self._count)

    def per_example_grads(self, *, bn: str | None = None) -> Params:
        """The gradients of the examples."""
        self._count.gradients += 1
        return self._oracle.per_example_grads(bn=bn)

    def statistics(self, wanted: Iterable[Any], *, bn: str | None = None) -> Any:
        """Statistics of the gradients of the examples."""
        self._count.gradients += 1
        return self._oracle.statistics(wanted, bn=bn)

    def layer_gradients(self, kind: Any, *, key: random.Key | None = None, bn: str | None = None) -> Any:
        """Gradients by layers."""
        self._count.gradients += 1
        return self._oracle.layer_gradients(kind, key=key, bn=bn)

    def gradient_factors(self) -> Any:
        """The gradient by layers, from the pass that computes it."""
        return self._differentiate().gradient_factors()

    def part(self, size: int | None) -> CountingOracle:
        """The oracle of a part of the batch, counted in the same place."""
        return self if size is None else CountingOracle(self._oracle.part(size), self._params, self._count)


@dataclass(frozen=True)
class _CountedMap(LinearMap):
    """A linear map that counts vectors, not calls."""

    count: Count = field(default_factory=Count)

    def __call__(self, v: Tree) -> Tree:
        self.count.products += count_vectors(self.like, v) or 1
        return super().__call__(v)

    def flat(self, vector: Tensor) -> Tensor:
        self.count.products += 1
        return super().flat(vector)

    def columns(self, matrix: Tensor) -> Tensor:
        self.count.products += matrix.shape[1]
        return LinearMap(self.product, self.like, self.at_once).columns(matrix)


def _counted_map(found: LinearMap, count: Count) -> LinearMap:
    return _CountedMap(found.product, found.like, found.at_once, count)


class Counted(NamedTuple):
    """The state of an optimizer whose calls are counted from outside.

    Attributes:
        state: the optimizer's own.
        calls: the numbers of `KINDS`, `(3,)` int64; -1 where a step was compiled.
    """

    state: Any
    calls: Tensor


def counted(optimizer: Optimizer) -> Optimizer:
    """The optimizer with `calls`, counted where it declares none.

    A compiled step is not counted, since it may hold both branches of a condition: then the numbers are unknown.

    Args:
        optimizer: any; one that declares its calls is returned as it is.
    """
    if optimizer.calls is not None:
        return optimizer

    def init(params: Params, key: random.Key) -> Counted:
        device = next(iter(params.values())).device
        return Counted(optimizer.init(params, key), torch.zeros(len(KINDS), dtype=torch.int64, device=device))

    def load(tree: Any, params: Params, key: random.Key) -> Counted:
        return Counted(optimizer.load(tree[0], params, key), tree[1])

    return optimizer._replace(
        init=init,
        update=_counting(optimizer.update),
        report=lambda opt_state: optimizer.report(opt_state.state),
        eval_params=lambda opt_state, params: optimizer.eval_params(opt_state.state, params),
        save=lambda opt_state: (optimizer.save(opt_state.state), opt_state.calls),
        load=load,
        calls=lambda opt_state: dict(zip(KINDS, opt_state.calls.tolist(), strict=True)),
    )


@cache
def _counting(update: Callable[..., Any]) -> Callable[..., tuple[Params, Counted]]:
    """One function for each update, so that a compiled step serves every run of it."""

    def counting(oracle: Oracle, before: Counted, params: Params) -> tuple[Params, Counted]:
        if torch.compiler.is_compiling():
            params, state = update(oracle, before.state, params)
            return params, Counted(state, torch.full_like(before.calls, -1))
        count = Count()
        params, state = update(CountingOracle(oracle, params, count), before.state, params)
        new = [getattr(count, kind) for kind in KINDS]
        # Numbers go to a GPU with the kernel; a tensor of them would be a copy, which the processor waits for.
        calls = [
            before_each + number if number else before_each
            for before_each, number in zip(before.calls.unbind(-1), new, strict=True)
        ]
        return params, Counted(state, torch.where(before.calls < 0, before.calls, torch.stack(calls, -1)))

    return counting
