"""Products of matrices in compiled code: those that `deepobs_func.onednn` is for are handed to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass

from deepobs_func import onednn
from deepobs_func.operators import opaque


def _like_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


PRODUCT = opaque("product(Tensor x, Tensor weight, Tensor? bias) -> Tensor", onednn.product, _like_product)


class Products(CustomGraphPass):
    """Replaces the products of a compiled graph, forward and backward, that are large enough.

    An operator of our own stands in for oneDNN's, since Inductor would copy transposed matrices for that one.
    """

    def __call__(self, graph: torch.fx.Graph) -> None:
        aten = torch.ops.aten
        for node in list(graph.nodes):
            if node.op != "call_function" or node.target not in (aten.mm.default, aten.addmm.default):
                continue
            *bias, x, weight = node.args
            if node.kwargs or not _replaceable(x, weight, *bias):
                continue
            with graph.inserting_before(node):
                turned = _call(graph, aten.permute.default, weight, [1, 0])
                if not x.meta["val"].is_contiguous():  # oneDNN copies it; Inductor writes it down so in the first place
                    x = _call(graph, aten.clone.default, x, memory_format=torch.contiguous_format)
                arguments = (x, turned, bias[0] if bias else None)
                new = graph.call_function(PRODUCT, arguments)
            new.meta.update(node.meta)
            node.replace_all_uses_with(new)
            graph.erase_node(node)

    def uuid(self) -> Any:
        """What the compile cache tells this pass by."""
        return __name__, onednn.LEAST_MULTIPLICATIONS


def _call(graph: torch.fx.Graph, operator: Any, x: torch.fx.Node, *arguments: Any, **options: Any) -> torch.fx.Node:
    """Adds a call, with what it returns as its value."""
    node = graph.call_function(operator, (x, *arguments), options)
    node.meta["val"] = operator(x.meta["val"], *arguments, **options)
    return node


def _replaceable(x: torch.fx.Node, weight: torch.fx.Node, *bias: torch.fx.Node) -> bool:
    """Whether it is a large product of float32 matrices on a CPU, with a bias, if any, of a number a column."""
    values = [node.meta["val"] for node in (x, weight, *bias)]
    sizes = (*values[0].shape, values[1].shape[1])
    fixed = all(isinstance(size, int) for size in sizes)
    rows = all(value.ndim == 1 for value in values[2:])
    return fixed and rows and all(map(onednn.is_plain, values)) and onednn.is_large(*sizes)
