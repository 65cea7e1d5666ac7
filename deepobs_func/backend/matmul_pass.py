"""Changes to compiled graphs: smaller products of matrices, products for oneDNN, thin ones turned for MKL, zeros."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

from deepobs_func.backend import branches_pass, members_pass, onednn
from deepobs_func.backend.operators import opaque

aten = torch.ops.aten
EXACT = (torch.float32, torch.float64)
COPIES = (aten.clone.default, torch.ops.prims.convert_element_type.default)
VIEWS = (aten.expand.default, aten.reshape.default, aten.view.default, aten.permute.default, aten.unsqueeze.default)
THIN, TALL = 16, 4  # columns at most, and rows for each of them at least


def _like_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


PRODUCT = opaque("product(Tensor x, Tensor weight, Tensor? bias) -> Tensor", onednn.product, _like_product)


class Zeros(CustomGraphPass):
    """Replaces zeros without memory, as forward mode makes them, and computes no product with zeros.

    Inductor's code crashes when it reads zeros without memory. The tangent of a batch is zero, but torch's formula of a
    product multiplies it: in `mnist_mlp`'s first layer, an eighth of what its GGN product multiplies. Zero times
    infinity, or times what is not a number, counts as zero here.
    """

    def __call__(self, graph: Graph) -> None:
        branches_pass.keep_inputs(graph)
        for node in graph.find_nodes(op="call_function", target=aten._efficientzerotensor.default):
            _fill(graph, node)
        for node in graph.find_nodes(op="call_function", target=aten.mm.default):
            if any(map(_is_zero, node.args)):
                _fill(graph, node)
        for node in graph.find_nodes(op="call_function", target=aten.addmm.default):
            if not node.kwargs and any(map(_is_zero, node.args[1:])):
                with graph.inserting_before(node):
                    rows = _call(graph, aten.expand.default, node.args[0], list(node.meta["val"].shape))
                    new = _call(graph, aten.clone.default, rows)  # no result is an argument itself
                _replace_by(graph, node, new)

    def uuid(self) -> Any:
        """What the compile cache tells this pass by."""
        return get_hash_for_files((__file__, branches_pass.__file__))


class Products(Zeros):
    """Replaces products of a compiled graph, forward and backward.

    The sum of a product's rows becomes the product of the sum: half of what `quadratic_deep` multiplies in a step. The
    product of equal rows becomes that of one of them: half of what its Hessian product multiplies. Two products of the
    same rows become one: half of what its per-example gradients multiply.

    Args:
        onednn: whether large ones go to oneDNN, through an operator of our own, since Inductor would copy transposed
            matrices for its own; and a thin one becomes the transpose of its transpose: MKL, where it is the slower
            one, takes 58 microseconds for 128 x 784 x 10 and 33 so.
    """

    def __init__(self, *, onednn: bool) -> None:
        self._onednn = onednn

    def __call__(self, graph: Graph) -> None:
        super().__call__(graph)
        members_pass.merge_products(graph)
        for node in graph.find_nodes(op="call_function", target=aten.mm.default):
            _once(graph, node)
        for node in graph.find_nodes(op="call_function", target=aten.addmm.default):
            _together(graph, node)
        for node in graph.find_nodes(op="call_function", target=aten.sum.dim_IntList):
            _sum_first(graph, node)
        if not self._onednn:
            return
        for target in (aten.mm.default, aten.addmm.default):
            for node in graph.find_nodes(op="call_function", target=target):
                _replace(graph, node)

    def uuid(self) -> Any:
        """What the compile cache tells this pass by."""
        return get_hash_for_files(
            (__file__, branches_pass.__file__, onednn.__file__, members_pass.__file__), str(self._onednn)
        )


def _is_zero(node: Any) -> bool:
    """Whether a matrix is known to be zero."""
    while node.target in (*VIEWS, *COPIES):
        node = node.args[0]
    return node.target is aten.full.default and node.args[1] == 0


def _fill(graph: Graph, node: Node) -> None:
    """Puts zeros in its place."""
    value = node.meta["val"]
    with graph.inserting_before(node):
        options: dict[str, Any] = {"dtype": value.dtype, "device": value.device}
        new = graph.call_function(aten.full.default, (list(value.shape), 0), options)
    with getattr(value, "fake_mode", nullcontext()):
        new.meta["val"] = torch.zeros(value.shape, **options)
    _replace_by(graph, node, new)


def _replace_by(graph: Graph, node: Node, new: Node) -> None:
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def _replace(graph: Graph, node: Node) -> None:
    """Hands a large product to oneDNN, turns a thin one, and leaves others as they are."""
    *bias, x, weight = cast("tuple[Node, ...]", node.args)
    if node.kwargs or not _is_plain(x, weight, *bias):
        return
    (rows, inner), (_, columns) = x.meta["val"].shape, weight.meta["val"].shape
    with graph.inserting_before(node):
        if onednn.is_large(rows, inner, columns):
            new = _by_onednn(graph, x, weight, *bias)
        elif columns <= THIN and columns * TALL <= rows:
            new = _turned(graph, x, weight, *bias)
        else:
            return
    _replace_by(graph, node, new)


def _once(graph: Graph, product: Node) -> None:
    """Replaces `A B`, where A is one row that is expanded to all, by the product of that row, expanded."""
    x, weight = cast("tuple[Node, Node]", product.args)
    shape, dtype = product.meta["val"].shape, product.meta["val"].dtype
    while x.target in COPIES and (copied := cast("Node", x.args[0])).meta["val"].dtype == dtype:
        x = copied
    if product.kwargs or x.meta["val"].stride(0) != 0 or shape[0] == 1:
        return
    with graph.inserting_before(product):
        one = _call(graph, aten.mm.default, _call(graph, aten.slice.Tensor, x, 0, 0, 1), weight)
        new = _call(graph, aten.expand.default, one, list(shape))
    _replace_by(graph, product, new)


def _together(graph: Graph, total: Node) -> None:
    """Replaces `u (A B) + (u A) C`, u being a factor of each row, by `u (A (B + C))`: the gradient of each `a B a^T`.

    It rounds otherwise, and `B + C` may overflow where the small factor of a product would not.
    """
    scaled, right, c = cast("tuple[Node, Node, Node]", total.args)
    if total.kwargs or c is scaled or len(scaled.users) > 1:
        return
    if not (scaled.target == right.target == aten.mul.Tensor and len(scaled.args) == len(right.args) == 2):
        return
    u, left, other, a = (*scaled.args, *right.args)
    if not (isinstance(u, Node) and isinstance(left, Node) and isinstance(a, Node)) or u is not other:
        return
    if left.target is not aten.mm.default or left.args[0] is not a or len(left.users) > 1 or u in (left, a):
        return
    values = [node.meta["val"] for node in (u, a, left, c, scaled)]
    if values[0].stride()[1:] != (0,) or len({value.dtype for value in values}) > 1 or values[0].dtype not in EXACT:
        return
    if not values[0].shape[0] == values[1].shape[0] == values[2].shape[0] or right.meta["val"].shape != values[1].shape:
        return
    with graph.inserting_before(total):
        product = _call(graph, aten.mm.default, a, _call(graph, aten.add.Tensor, left.args[1], c))
        new = _call(graph, aten.mul.Tensor, u, product)
    _replace_by(graph, total, new)
    for node in (scaled, left):
        graph.erase_node(node)


def _sum_first(graph: Graph, total: Node) -> None:
    """Replaces the sum of all rows of `A B`, or of `C + A B`, which nothing else reads, by that of A times B.

    It adds up in another order. In half precision, whose products are summed up in float32, that would cost digits.
    """
    product = cast("Node", total.args[0])
    if total.args[1:] != ([0], True) or total.kwargs or product.kwargs or len(product.users) > 1:
        return
    if product.target not in (aten.mm.default, aten.addmm.default) or product.meta["val"].dtype not in EXACT:
        return
    *addend, x, weight = cast("tuple[Node, ...]", product.args)
    if any(each.meta["val"].shape != product.meta["val"].shape for each in addend):  # a bias for each column
        return
    with graph.inserting_before(total):
        new = _call(graph, aten.mm.default, _call(graph, aten.sum.dim_IntList, x, [0], True), weight)
        for each in addend:
            new = _call(graph, aten.add.Tensor, new, _call(graph, aten.sum.dim_IntList, each, [0], True))
    _replace_by(graph, total, new)
    graph.erase_node(product)


def _by_onednn(graph: Graph, x: Node, weight: Node, bias: Node | None = None) -> Node:
    if not x.meta["val"].is_contiguous():  # oneDNN would copy it; Inductor writes it down so in the first place
        x = _call(graph, aten.clone.default, x, memory_format=torch.contiguous_format)
    return _call(graph, PRODUCT, x, _call(graph, aten.permute.default, weight, [1, 0]), bias)


def _turned(graph: Graph, x: Node, weight: Node, bias: Node | None = None) -> Node:
    turned = (_call(graph, aten.permute.default, each, [1, 0]) for each in (weight, x))
    product = _call(graph, aten.permute.default, _call(graph, aten.mm.default, *turned), [1, 0])
    return product if bias is None else _call(graph, aten.add.Tensor, product, bias)


def _call(graph: Graph, operator: Any, *arguments: Any, **options: Any) -> Node:
    """Adds a call, with what it returns as its value."""
    node = graph.call_function(operator, arguments, options)
    values = (each.meta["val"] if isinstance(each, Node) else each for each in arguments)
    node.meta["val"] = operator(*values, **options)
    return node


def _is_plain(x: Node, weight: Node, *bias: Node) -> bool:
    """Whether it is a product of float32 matrices of known sizes on a CPU, with a bias, if any, for each column."""
    values = [node.meta["val"] for node in (x, weight, *bias)]
    fixed = all(isinstance(size, int) for value in values for size in value.shape)
    return fixed and all(map(onednn.is_plain, values)) and all(value.ndim == 1 for value in values[2:])
