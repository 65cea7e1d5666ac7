"""Products `H v` and `J^T M J v`, of which the GGN and every Fisher matrix is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp
from torch.utils import _pytree as pytree

from deepobs_func.base import Params
from deepobs_func.probes.catalog import HVPMode
from deepobs_func.probes.linear_map import LinearMap
from deepobs_func.tree import Tree

Tensors = list[Tensor]
Middle = Callable[[Tensors], Tensors]


class TensorsOf:
    """A function to a pytree, as a function to the list of its tensors, for transforms that take nothing else.

    Inception's outputs hold a None where its auxiliary head does not count.
    """

    def __init__(self, function: Callable[[Params], Any]) -> None:
        self._function = function
        self._others: Any = None  # the last result without its tensors

    def __call__(self, params: Params) -> Tensors:
        result = self._function(params)
        self._others = pytree.tree_map(lambda leaf: ... if isinstance(leaf, Tensor) else leaf, result)
        return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]

    def rebuilt(self, tensors: Tensors) -> Any:
        """The pytree of these tensors."""
        rest = iter(tensors)
        return pytree.tree_map(lambda leaf: next(rest) if leaf is ... else leaf, self._others)


def hessian(function: Callable[[Params], Tensor], params: Params, mode: HVPMode) -> LinearMap:
    """The Hessian of a 0-d function by one of the modes of `probes.hvp`.

    Reverse over reverse keeps the gradient's graph, so that a product is one pass through it; the others keep nothing.
    """
    gradient = grad(function)
    if mode == "reverse-over-forward":  # never multiplies for the gradient's own weights: 8 products a layer, not 9
        return LinearMap(lambda v: grad(lambda p: jvp(function, (p,), (v,))[1])(params), params)
    if mode == "forward-over-reverse":
        return LinearMap(lambda v: jvp(gradient, (params,), (v,))[1], params)
    pull = vjp(gradient, params)[1]  # H is symmetric, so that v^T H is H v
    return LinearMap(lambda v: pull(v)[0], params)


def sandwich(
    function: Callable[[Params], Tensors], params: Params, make_middle: Callable[[Tensors], Middle], *, keep: bool
) -> LinearMap:
    """`v -> J^T M J v`, where J is the Jacobian of `function` and `M = make_middle(outputs)`.

    Kept, `J v` is a backward pass through the backward pass, which is linear in its cotangents. Once, it comes with
    the forward pass that the backward pass needs anyway.
    """
    if keep:
        outputs, pull = vjp(function, params)[:2]
        push = vjp(lambda cotangents: pull(cotangents)[0], [torch.zeros_like(part) for part in outputs])[1]
        middle = make_middle(outputs)
        return LinearMap(lambda v: pull(middle(push(v)[0]))[0], params)

    def product(v: Tree) -> Tree:
        outputs, pull, tangents = vjp(lambda p: jvp(function, (p,), (v,)), params, has_aux=True)  # type: ignore[misc]
        return pull(make_middle(outputs)(tangents))[0]

    return LinearMap(product, params)
