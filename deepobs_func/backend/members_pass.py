"""Products of a compiled graph that `vmap` made of those of one member: what members share is multiplied once.

`vmap` expands what members share to all of them and multiplies a batch of matrices: for 36 members of `mnist_logreg`,
36 products of 128 x 784 x 10, each of which reads the inputs anew, in place of one of 128 x 784 x 360.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch.fx import Graph, Node

aten = torch.ops.aten
EXACT = (torch.float32, torch.float64)
RESHAPES = (aten.reshape.default, aten.view.default)
SAME = (aten.clone.default, aten.expand.default)
SUMS = (aten.add.Tensor, aten.sub.Tensor)
FEWER = 4  # times as many elements has a sum as its two terms together, at least, where these are multiplied


def merge_products(graph: Graph) -> None:
    """Replaces products of many rows by products of few: those of what is shared, and those of sums.

    Args:
        graph: of a function of members; changed in place.
    """
    for node in graph.find_nodes(op="call_function", target=aten.bmm.default):
        _share(graph, node)
    for node in graph.find_nodes(op="call_function", target=aten.sum.dim_IntList):
        _sum_first(graph, node)
    for node in graph.find_nodes(op="call_function", target=aten.mm.default):
        _multiply_first(graph, node)


def _share(graph: Graph, product: Node) -> None:
    """`X W[m]` becomes `X [W[0] ... W[M-1]]`, and `G[m] X` becomes `[G[0]; ... G[M-1]] X`."""
    left, right = cast("tuple[Node, Node]", product.args)
    members, rows, columns = product.meta["val"].shape
    x, y = _shared(left), _shared(right)
    if product.kwargs or members == 1 or (x is None) == (y is None):
        return
    with graph.inserting_before(product):
        if x is not None:
            turned = _call(graph, aten.permute.default, right, [0, 2, 1])
            whole = _call(graph, aten.reshape.default, turned, [members * columns, -1])
            found = _call(graph, aten.mm.default, x, _call(graph, aten.permute.default, whole, [1, 0]))
            table = _call(graph, aten.reshape.default, found, [rows, members, columns])
            new = _call(graph, aten.permute.default, table, [1, 0, 2])
        else:
            whole = _call(graph, aten.reshape.default, left, [members * rows, -1])
            found = _call(graph, aten.mm.default, whole, cast("Node", y))
            new = _call(graph, aten.reshape.default, found, [members, rows, columns])
    _replace_by(graph, product, new)


def _shared(node: Node) -> Node | None:
    """The matrix that is expanded to all members; None where each has its own."""
    while node.target in SAME and node.meta["val"].shape == cast("Node", node.args[0]).meta["val"].shape:
        node = cast("Node", node.args[0])
    if node.target is not aten.expand.default:
        return None
    inner = cast("Node", node.args[0])
    value = inner.meta["val"]
    if value.ndim == 2:
        return inner
    if value.ndim == 3 and value.shape[0] == 1 and inner.target in (aten.unsqueeze.default, *RESHAPES):
        matrix = cast("Node", inner.args[0])
        return matrix if matrix.meta["val"].shape == value.shape[1:] else None
    return None


def _sum_first(graph: Graph, total: Node) -> None:
    """Replaces the sum over b of `u[m, b] (A[m, b] B) + (u[m, b] A[m, b]) C` by `(sum over b of u A) (B + C)`.

    The gradient of each `a B a^T`, as of `quadratic_deep`: a product of a row for each member in place of a matrix.
    """
    added = cast("Node", total.args[0])
    if total.args[1:] != ([1], True) or total.kwargs or added.target is not aten.add.Tensor or len(added.args) != 2:
        return
    if added.meta["val"].ndim != 3 or added.meta["val"].dtype not in EXACT or len(added.users) > 1:
        return
    for scaled, other in (added.args, added.args[::-1]):
        found = _factors(cast("Node", scaled), cast("Node", other))
        if found is not None:
            u, a, b, c = found
            with graph.inserting_before(total):
                rows = _call(graph, aten.sum.dim_IntList, _call(graph, aten.mul.Tensor, u, a), [1])
                product = _call(graph, aten.mm.default, rows, _call(graph, aten.add.Tensor, b, c))
                new = _call(graph, aten.unsqueeze.default, product, 1)
            _replace_by(graph, total, new)
            return


def _factors(scaled: Node, other: Node) -> tuple[Node, Node, Node, Node] | None:
    """`u, A, B, C` of `u (A B)` and `(u A) C`, where u is one number for each row."""
    if scaled.target is not aten.mul.Tensor or len(scaled.args) != 2:
        return None
    second = _product(other)
    if second is None or second[0].target is not aten.mul.Tensor or len(second[0].args) != 2:
        return None
    (first_u, product), (second_u, a), c = scaled.args, second[0].args, second[1]
    first = _product(product) if isinstance(product, Node) else None
    if first is None or not isinstance(a, Node) or not isinstance(first_u, Node) or first_u is not second_u:
        return None
    u, (left, b) = first_u, first
    if left is not a or u.meta["val"].ndim != 3 or u.meta["val"].stride(2) != 0:
        return None
    return (u, a, b, c) if b.meta["val"].shape == c.meta["val"].shape else None


def _product(node: Node) -> tuple[Node, Node] | None:
    """`A, B` of `A B`, A being `(M, B, n)` and folded to a matrix for its product."""
    if node.target not in RESHAPES:
        return None
    product = cast("Node", node.args[0])
    if product.target is not aten.mm.default or product.kwargs:
        return None
    folded, right = cast("tuple[Node, Node]", product.args)
    if folded.target not in RESHAPES:
        return None
    left = cast("Node", folded.args[0])
    is_folded = left.meta["val"].ndim == 3 and left.meta["val"].shape[:2] == node.meta["val"].shape[:2]
    return (left, right) if is_folded else None


def _multiply_first(graph: Graph, product: Node) -> None:
    """Replaces `(a[m] - x[b]) W` by `(a[m] - x[0]) W - (x[b] - x[0]) W`: products of M + B rows in place of M B.

    So does each member of `quadratic_deep` share the products of its examples. An example is taken from both first:
    of inputs that lie around 1000, the products `a W` and `x W` would cancel.
    """
    folded, right = cast("tuple[Node, Node]", product.args)
    total = cast("Node", folded.args[0]) if folded.target in RESHAPES else folded
    if product.kwargs or total.target not in SUMS or len(total.args) != 2 or total.kwargs:
        return
    if not all(isinstance(term, Node) for term in total.args):
        return
    value, terms = total.meta["val"], [_unexpanded(cast("Node", term)) for term in total.args]
    inner, dtype = value.shape[-1], value.dtype
    if dtype not in EXACT or folded.meta["val"].shape[1] != inner:
        return
    if any(term.meta["val"].shape[-1:] != (inner,) or term.meta["val"].dtype != dtype for term in terms):
        return
    if FEWER * sum(term.meta["val"].numel() for term in terms) > value.numel():
        return
    with graph.inserting_before(product):
        near = _less_an_example(graph, terms, adds=total.target is aten.add.Tensor)
        multiplied = [_of_rows(graph, term, right) for term in near]
        found = _call(graph, cast("Any", total.target), *multiplied)
        new = _call(graph, aten.reshape.default, found, list(product.meta["val"].shape))
    _replace_by(graph, product, new)


def _unexpanded(node: Node) -> Node:
    """What is expanded, if anything."""
    while node.target is aten.expand.default:
        node = cast("Node", node.args[0])
    return node


def _less_an_example(graph: Graph, terms: list[Node], *, adds: bool) -> list[Node]:
    """Terms of the same sum or difference, one example nearer to zero: the first of those that members share.

    It is never a member's, of which one may have diverged.
    """
    rank = max(term.meta["val"].ndim for term in terms)
    shapes = [(1,) * (rank - term.meta["val"].ndim) + tuple(term.meta["val"].shape) for term in terms]
    axis = next(axis for axis in range(rank) if shapes[0][axis] != shapes[1][axis])  # of the members: it leads
    shared = 0 if shapes[0][axis] == 1 else 1
    example = terms[shared]
    for axis in range(rank):
        if shapes[1 - shared][axis] == 1 != shapes[shared][axis]:
            example = _call(graph, aten.slice.Tensor, example, axis - rank, 0, 1)
    less, more = aten.sub.Tensor, aten.add.Tensor if adds else aten.sub.Tensor
    return [_call(graph, less if at == shared else more, term, example) for at, term in enumerate(terms)]


def _of_rows(graph: Graph, left: Node, right: Node) -> Node:
    """The product of each row of a tensor, `(..., n)`, and a matrix."""
    *lead, inner = left.meta["val"].shape
    rows = _call(graph, aten.reshape.default, left, [math.prod(lead), inner])
    found = _call(graph, aten.mm.default, rows, right)
    return _call(graph, aten.reshape.default, found, [*lead, right.meta["val"].shape[1]])


def _call(graph: Graph, operator: Any, *arguments: Any) -> Node:
    """Adds a call, with what it returns as its value."""
    node = graph.call_function(operator, arguments)
    node.meta["val"] = operator(*(each.meta["val"] if isinstance(each, Node) else each for each in arguments))
    return node


def _replace_by(graph: Graph, node: Node, new: Node) -> None:
    node.replace_all_uses_with(new)
    graph.erase_node(node)
