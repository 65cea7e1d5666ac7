"""Products that members share: fewer of them, with the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import Graph
from torch.fx.experimental.proxy_tensor import make_fx

from deepobs_func.backend.members_pass import merge_products

aten = torch.ops.aten


def rewritten(function: Callable[..., Any], *arguments: Tensor) -> tuple[Any, Graph, int]:
    """What the function returns after the pass, its graph, and how many batches of products it had before."""
    module = make_fx(function, tracing_mode="fake")(*arguments)
    before = len(module.graph.find_nodes(op="call_function", target=aten.bmm.default))
    merge_products(module.graph)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return module(*arguments), module.graph, before


def batches(graph: Graph) -> int:
    return len(graph.find_nodes(op="call_function", target=aten.bmm.default))


def draws(*shapes: tuple[int, ...]) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("turned", [False, True])
def test_inputs_that_members_share_are_multiplied_once(turned: bool) -> None:
    x, weight = draws((6, 5), (3, 4, 5))

    def function(x: Tensor, weight: Tensor) -> Tensor:
        shared = x.expand(3, 6, 5)
        return torch.bmm(shared, weight.mT) if not turned else torch.bmm(weight, shared.mT.contiguous())

    found, graph, before = rewritten(function, x, weight)
    assert torch.allclose(found, function(x, weight), rtol=1e-12)
    assert before == 1
    assert batches(graph) == (1 if turned else 0)  # what is copied first is no shared matrix any more


def test_gradients_of_what_is_shared_are_one_product() -> None:
    x, outer = draws((6, 5), (3, 4, 6))
    found, graph, before = rewritten(lambda x, g: torch.bmm(g, x.unsqueeze(0).expand(3, 6, 5)), x, outer)
    assert torch.allclose(found, outer @ x, rtol=1e-12)
    assert (before, batches(graph)) == (1, 0)


def test_products_of_each_member_stay() -> None:
    left, right = draws((3, 6, 5), (3, 5, 4))
    found, graph, before = rewritten(torch.bmm, left, right)
    assert torch.equal(found, torch.bmm(left, right))
    assert batches(graph) == before == 1


def test_one_member_stays_as_it_is() -> None:
    x, weight = draws((6, 5), (1, 5, 4))
    found, graph, _ = rewritten(lambda x, w: torch.bmm(x.unsqueeze(0).expand(1, 6, 5), w), x, weight)
    assert torch.allclose(found, x @ weight)
    assert batches(graph) == 1


def test_the_gradient_of_quadratic_forms_sums_first() -> None:
    offset, hessian, factor = draws((3, 6, 5), (5, 5), (3, 6))

    def function(a: Tensor, b: Tensor, u: Tensor) -> Tensor:
        u = u.unsqueeze(2).expand(3, 6, 5)
        left = u * (a.reshape(18, 5) @ b).reshape(3, 6, 5)
        right = ((u * a).reshape(18, 5) @ b.t()).reshape(3, 6, 5)
        return (left + right).sum([1], keepdim=True)

    found, graph, _ = rewritten(function, offset, hessian, factor)
    assert torch.allclose(found, function(offset, hessian, factor), rtol=1e-12)
    (product,) = graph.find_nodes(op="call_function", target=aten.mm.default)
    assert product.meta["val"].shape == (3, 5)


@pytest.mark.parametrize("lead", [(8,), (2, 6)])
@pytest.mark.parametrize("sign", [1, -1])
def test_what_members_and_examples_add_is_multiplied_first(sign: int, lead: tuple[int, ...]) -> None:
    own, shared, weight = draws((*lead, 1, 5), (*lead[:-1], *(1 for _ in lead[1:]), 30, 5), (5, 4))

    def function(own: Tensor, shared: Tensor, weight: Tensor) -> Tensor:
        total = own + shared if sign == 1 else own - shared
        return (total.reshape(-1, 5) @ weight).reshape(*lead, 30, 4)

    found, graph, _ = rewritten(function, own, shared, weight)
    assert torch.allclose(found, function(own, shared, weight), rtol=1e-12)
    products = graph.find_nodes(op="call_function", target=aten.mm.default)
    rows = sorted(product.meta["val"].shape[0] for product in products)
    assert rows == sorted([own.numel() // 5, shared.numel() // 5])


def test_a_sum_of_few_rows_is_multiplied_as_it_is() -> None:
    own, shared, weight = draws((2, 1, 5), (6, 5), (5, 4))

    def function(own: Tensor, shared: Tensor, weight: Tensor) -> Tensor:
        return ((own - shared).reshape(12, 5) @ weight).reshape(2, 6, 4)

    found, graph, _ = rewritten(function, own, shared, weight)
    assert torch.equal(found, function(own, shared, weight))
    assert len(graph.find_nodes(op="call_function", target=aten.mm.default)) == 1


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("turned", [False, True])
def test_inputs_far_from_zero_lose_no_digits(sign: int, turned: bool) -> None:
    torch.manual_seed(0)
    own, shared, weight = torch.randn(8, 1, 5) - sign * 1e4, torch.randn(30, 5) + 1e4, torch.randn(5, 4)

    def function(own: Tensor, shared: Tensor, weight: Tensor) -> Tensor:
        first, second = (shared, own) if turned else (own, shared)
        total = first + second if sign == 1 else first - second
        return (total.reshape(-1, 5) @ weight).reshape(8, 30, 4)

    found, graph, _ = rewritten(function, own, shared, weight)
    assert len(graph.find_nodes(op="call_function", target=aten.mm.default)) == 2
    expected = function(own.double(), shared.double(), weight.double())
    assert (found - expected).norm() < 1e-6 * expected.norm()


def test_a_member_that_diverged_spoils_no_other() -> None:
    own, shared, weight = draws((8, 1, 5), (30, 5), (5, 4))
    own[0] = torch.nan

    def function(own: Tensor, shared: Tensor, weight: Tensor) -> Tensor:
        return ((own - shared).reshape(-1, 5) @ weight).reshape(8, 30, 4)

    found, _, _ = rewritten(function, own, shared, weight)
    assert torch.allclose(found, function(own, shared, weight), rtol=1e-12, equal_nan=True)
