"""Products of the form `J^T M J v`, of which the GGN and every Fisher matrix is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vjp
from torch.utils import _pytree as pytree

from deepobs_func.base import Params
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
