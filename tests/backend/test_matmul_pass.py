"""Compiled code hands its large products to oneDNN, and computes the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from deepobs_func import optimizers, probes, problems
from deepobs_func.backend.compiling import compiled
from deepobs_func.backend.matmul_pass import PRODUCT, Products, Zeros
from deepobs_func.base import Batch
from deepobs_func.problems.oracle import make_value_and_grad
from deepobs_func.runner import make_step
from deepobs_func.runner.step import Carry


def replaced(
    rows: int, inner: int, columns: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.fx.GraphModule, int]:
    """A traced gradient and how many of its products go to oneDNN; the graph computes the same afterwards."""

    def loss(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.addmm(bias, x, weight.t()).square().sum()

    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, inner), (columns, inner), (columns,))
    inputs = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    traced, expected, found = before_and_after(torch.func.grad(loss, argnums=(0, 1, 2)), inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)
    return traced, sum(node.target is PRODUCT for node in traced.graph.nodes)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((128, 784, 1000), 3), ((64, 3136, 40), 3), ((128, 100, 100), 0), ((128, 784, 1000, torch.float64), 0)],
)
def test_large_float32_products_are_replaced(sizes: tuple[int, int, int], expected: int) -> None:
    assert replaced(*sizes)[1] == expected


@pytest.mark.parametrize(("sizes", "expected"), [((128, 784, 10), 1), ((128, 100, 100), 0), ((16, 300, 10), 0)])
def test_thin_products_are_turned(sizes: tuple[int, int, int], expected: int) -> None:
    """Whose result has many rows of a few numbers: the logits. Their gradients have not."""
    traced, _ = replaced(*sizes)
    shapes = [node.meta["val"].shape for node in traced.graph.nodes if node.target is torch.ops.aten.mm.default]
    assert shapes.count((sizes[2], sizes[0])) == expected


def test_a_scaled_sum_stays_as_it_is() -> None:
    """`beta b + alpha A B` has no counterpart."""
    matrix = torch.ones(200, 200)
    traced = make_fx(lambda b, x: torch.addmm(b, x, x, beta=2.0), tracing_mode="fake")(matrix, matrix)
    Products(onednn=True)(traced.graph)
    assert not any(node.target is PRODUCT for node in traced.graph.nodes)


@pytest.mark.parametrize("added", [False, True])
def test_the_sum_of_a_product_s_rows_is_the_product_of_the_sum(added: bool) -> None:
    def total(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return (torch.addmm(x.square(), x, weight) if added else x @ weight).sum(0, keepdim=True)

    traced, expected, found = before_and_after(total, matrices(torch.float64))
    torch.testing.assert_close(found, expected)
    assert rows_of_products(traced.graph) == [1]


OTHER_SUMS: dict[str, Callable[..., torch.Tensor]] = {
    "read twice": lambda x, weight: (lambda product: product.sum(0, keepdim=True) + product)(x @ weight),
    "a bias for each column": lambda x, weight: torch.addmm(weight[0], x, weight).sum(0, keepdim=True),
    "scaled": lambda x, weight: torch.addmm(x, x, weight, alpha=2.0).sum(0, keepdim=True),
    "over the columns": lambda x, weight: (x @ weight).sum(1, keepdim=True),
    "of another type": lambda x, weight: (x @ weight).sum(0, keepdim=True, dtype=torch.float32),
    "without the axis": lambda x, weight: (x @ weight).sum(0),
}


@pytest.mark.parametrize("name", OTHER_SUMS)
def test_other_sums_of_products_stay_as_they_are(name: str) -> None:
    traced, expected, found = before_and_after(OTHER_SUMS[name], matrices(torch.float64))
    torch.testing.assert_close(found, expected)
    assert rows_of_products(traced.graph) == [6]


@pytest.mark.parametrize("graph_pass", [Zeros(), Products(onednn=False)])
def test_zeros_of_forward_mode_get_memory(graph_pass: Zeros) -> None:
    def plus_zeros(x: torch.Tensor) -> torch.Tensor:
        return x + torch.ops.aten._efficientzerotensor.default(x.shape, dtype=x.dtype, device=x.device)

    traced = make_fx(plus_zeros, tracing_mode="fake")(torch.ones(3, dtype=torch.float64))
    graph_pass(traced.graph)
    traced.graph.lint()
    traced.recompile()
    assert not any("zerotensor" in str(node.target) for node in traced.graph.nodes)
    torch.testing.assert_close(traced(torch.ones(3, dtype=torch.float64)), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("added", [False, True])
def test_there_is_no_product_with_zeros(added: bool) -> None:
    def function(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        zeros = torch.full((), 0.0, dtype=x.dtype).expand(6, 5)
        return torch.addmm(weight[0], zeros, weight) + x if added else zeros @ weight + x

    traced, expected, found = before_and_after(function, matrices(torch.float64))
    torch.testing.assert_close(found, expected)
    assert not rows_of_products(traced.graph)


@pytest.mark.large
def test_the_compiled_hessian_product_of_the_vae_reads_no_zeros_without_memory() -> None:
    """With torch 2.13 it crashed the process."""
    problem = problems.get("mnist_vae")
    params, _ = problem.init(0)
    batch = problem.fake_batch(4)
    v = {name: torch.ones_like(leaf) for name, leaf in params.items()}
    found = compiled(lambda params, batch, v: probes.hvp(problem, params, batch, v), problem)(params, batch, v)
    for name, leaf in probes.hvp(problem, params, batch, v).items():
        torch.testing.assert_close(found[name], leaf, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("copied", [False, True])
def test_the_product_of_equal_rows_is_that_of_one(copied: bool) -> None:
    def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        rows = x[0].expand(6, 5)
        return (rows.clone() if copied else rows) @ weight

    traced, expected, found = before_and_after(product, matrices(torch.float64))
    torch.testing.assert_close(found, expected)
    assert rows_of_products(traced.graph) == [1]


def test_products_of_other_rows_stay_as_they_are() -> None:
    """Equal columns, and a copy in another type."""
    cases: list[Callable[..., torch.Tensor]] = [
        lambda x, weight: x[:, :1].expand(6, 5) @ weight,
        lambda x, weight: x[0].expand(6, 5).to(torch.float32) @ weight.to(torch.float32),
    ]
    for case in cases:
        traced, expected, found = before_and_after(case, matrices(torch.float64))
        torch.testing.assert_close(found, expected)
        assert rows_of_products(traced.graph) == [6]


def quadratic_gradient(x: torch.Tensor, weight: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Of `factor . (A W . A)`, each row's."""
    return torch.addmm(factor * (x @ weight), factor * x, weight.t())


def test_two_products_of_the_same_rows_are_one() -> None:
    function = lambda x, weight: quadratic_gradient(x, weight, x[:, :1].square().expand(6, 5))
    traced, expected, found = before_and_after(function, matrices(torch.float64))
    torch.testing.assert_close(found, expected)
    assert rows_of_products(traced.graph) == [6]


@pytest.mark.parametrize("case", ["columns differ", "other rows", "read elsewhere", "read twice", "a number"])
def test_products_that_cannot_go_together_stay_two(case: str) -> None:
    def function(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if case == "columns differ":
            return quadratic_gradient(x, weight, weight[0].expand(6, 5))
        if case == "other rows":
            row = weight[:1, :1].expand(6, 5)
            return torch.addmm(row * (x @ weight), row * (x + 1), weight.t())
        if case == "read twice":
            square = x[:5]
            scaled = weight[:1, :1].expand(5, 5) * (square @ weight)
            return torch.addmm(scaled, weight[:1, :1].expand(5, 5) * square, scaled)
        if case == "a number":
            return torch.addmm(x * 2.0, x * 3.0, weight) + x @ weight
        row, product = weight[:1, :1].expand(6, 5), x @ weight
        return torch.addmm(row * product, row * x, weight.t()) + product

    traced, expected, found = before_and_after(function, matrices(torch.float64))
    torch.testing.assert_close(found, expected)
    assert len(rows_of_products(traced.graph)) == 2


@pytest.mark.large
def test_what_differs_in_type_is_not_put_together() -> None:
    def function(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        row = weight[:1, :1].expand(6, 5)
        return row * (x.float() @ weight.float()) + (row * x.float()) @ weight

    inputs = matrices(torch.float64)
    torch.testing.assert_close(compiled(function, problems.get("quadratic_deep"))(*inputs), function(*inputs))


def test_a_product_with_zeros_is_a_result_of_its_own() -> None:
    """Not the argument that was to be added; and other changes of the graph go on from it."""
    b, weight = matrices(torch.float32)
    added = compiled(lambda b, weight: torch.addmm(b, torch.zeros(6, 5), weight))(b, weight)
    torch.testing.assert_close(added, b)
    assert added.data_ptr() != b.data_ptr()

    def total(b: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.addmm(torch.full((6, 5), 0.0) @ weight, b, weight).sum(0, keepdim=True)

    torch.testing.assert_close(compiled(total, problems.get("quadratic_deep"))(b, weight), total(b, weight))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int32])
def test_sums_of_inexact_products_stay_as_they_are(dtype: torch.dtype) -> None:
    """Sums of half precision would lose digits, those of integers change their type."""
    traced, _, _ = before_and_after(lambda x, weight: (x @ weight).sum(0, keepdim=True), matrices(dtype))
    assert rows_of_products(traced.graph) == [6]


def matrices(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in ((6, 5), (5, 5))]


def before_and_after(function: Callable[..., Any], inputs: list[torch.Tensor]) -> tuple[torch.fx.GraphModule, Any, Any]:
    """A graph after the pass, what it computed before and what it computes now."""
    traced = make_fx(function, tracing_mode="fake")(*inputs)
    expected = traced(*inputs)
    Products(onednn=True)(traced.graph)
    traced.graph.lint()
    traced.recompile()
    return traced, expected, traced(*inputs)


def rows_of_products(graph: torch.fx.Graph) -> list[int]:
    products = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
    return [node.meta["val"].shape[0] for node in graph.nodes if node.target in products]


def test_the_step_of_quadratic_deep_multiplies_a_batch_once() -> None:
    """Its gradient, the sum over the examples of `H (theta - x)`, multiplies the sum."""
    problem = problems.get("quadratic_deep")
    params, _ = problem.init(0)
    batch = problem.fake_batch(8)
    rows = []

    class Recorded(Products):
        def __call__(self, graph: torch.fx.Graph) -> None:
            super().__call__(graph)
            rows.extend(rows_of_products(graph))

    function = make_value_and_grad(problem)
    options = {"post_grad_custom_post_pass": Recorded(onednn=False), "fx_graph_cache": False}
    found = torch.compile(function, fullgraph=True, options=options)(params, batch)
    torch.testing.assert_close(found.grads, function(params, batch).grads)
    assert sorted(rows) == [1, 8]


@pytest.mark.large
def test_a_compiled_step_is_the_same_step() -> None:
    """Two steps of a net with a large product, which is replaced, in one graph."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 10))
    problem = problems.from_module(net, nn.CrossEntropyLoss(reduction="none"), "mnist")
    optimizer = optimizers.sgd(1e-2)
    step = make_step(problem, optimizer)
    batch = problem.fake_batch(64)
    params, state = problem.init(0)

    def two(carry: Carry, batch: Batch) -> Carry:
        for _ in range(2):
            carry, _ = step(carry, batch)
        return carry

    start = Carry(params, optimizer.init(params, torch.zeros(2, dtype=torch.int64)), state)
    expected = two(start, batch).params
    found = compiled(two, problem, onednn=True)(start, batch).params
    for name, leaf in expected.items():
        torch.testing.assert_close(found[name], leaf, rtol=1e-4, atol=1e-6)
