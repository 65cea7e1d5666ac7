"""Branches of a compiled `torch.cond` that change nothing hand their inputs on instead of copies.

torch refuses a branch that returns what it was given, so `lambda same: same` must be written with copies. A step of
K-FAC on `mnist_mlp` that renews no factors copied 25 MB so, which took longer than the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch.fx import Graph, GraphModule, Node

aten = torch.ops.aten


def keep_inputs(graph: Graph) -> None:
    """Replaces what a branch copies by what it copies, where that is an argument of the whole function.

    Only an argument that becomes a result: nothing is written to the memory of either, while that of other tensors is
    used again after their last use. A result then is an argument itself, as in eager code.

    Args:
        graph: of a function that contains `torch.cond`; its branches are changed in place.
    """
    results = set(_outputs(graph))
    for node in graph.find_nodes(op="call_function", target=torch.ops.higher_order.cond):
        operands = cast("Sequence[Node]", node.args[3])
        places = {user.args[1] for user in node.users if user in results}
        for branch in cast("Sequence[Node]", node.args[1:3]):
            module = cast("GraphModule", getattr(graph.owning_module, cast("str", branch.target)))
            given = dict(zip(module.graph.find_nodes(op="placeholder"), operands, strict=True))
            for place, output in enumerate(_outputs(module.graph)):
                if place in places and isinstance(output, Node) and _is_copy(output, given):
                    output.replace_all_uses_with(cast("Node", output.args[0]))
            module.graph.eliminate_dead_code()
            module.recompile()


def _outputs(graph: Graph) -> Sequence[object]:
    (node,) = graph.find_nodes(op="output")
    found = node.args[0]
    return found if isinstance(found, (tuple, list)) else (found,)  # a graph of one result may have it alone


def _is_copy(output: Node, given: dict[Node, Node]) -> bool:
    """Whether it is a whole copy, as the argument lies in memory, of an argument that is not written to."""
    if output.target is not aten.clone.default:
        return False
    copied = cast("Node", output.args[0])
    operand = given.get(copied)
    if operand is None or operand.op != "placeholder":
        return False
    values = output.meta["val"], copied.meta["val"]
    written = any(user.target is aten.copy_.default and user.args[0] is operand for user in operand.users)
    return values[0].stride() == values[1].stride() and not written
