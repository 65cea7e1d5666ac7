"""Compiled code hands its large products to oneDNN, and computes the same."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from deepobs_func import optimizers, problems
from deepobs_func.base import Batch
from deepobs_func.runner import make_step
from deepobs_func.runner.products import PRODUCT, Products
from deepobs_func.runner.step import Carry, compiled


def replaced(
    rows: int, inner: int, columns: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.fx.GraphModule, int]:
    """A traced gradient and how many of its products go to oneDNN; the graph computes the same afterwards."""

    def loss(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.addmm(bias, x, weight.t()).square().sum()

    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, inner), (columns, inner), (columns,))
    inputs = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    traced = make_fx(torch.func.grad(loss, argnums=(0, 1, 2)), tracing_mode="fake")(*inputs)
    expected = traced(*inputs)
    Products()(traced.graph)
    traced.graph.lint()
    traced.recompile()
    torch.testing.assert_close(traced(*inputs), expected, rtol=1e-4, atol=1e-2)
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
    Products()(traced.graph)
    assert not any(node.target is PRODUCT for node in traced.graph.nodes)


def test_a_compiled_step_is_the_same_step() -> None:
    """Three steps of the MLP, whose products are replaced, in one graph."""
    problem = problems.get("mnist_mlp")
    optimizer = optimizers.sgd(1e-2)
    step = make_step(problem, optimizer)
    batch = problem.fake_batch(64)
    params, state = problem.init(0)

    def three(carry: Carry, batch: Batch) -> Carry:
        for _ in range(3):
            carry, _ = step(carry, batch)
        return carry

    start = Carry(params, optimizer.init(params, torch.zeros(2, dtype=torch.int64)), state)
    expected = three(start, batch).params
    found = compiled(three, problem.with_onednn())(start, batch).params
    for name, leaf in expected.items():
        torch.testing.assert_close(found[name], leaf, rtol=1e-4, atol=1e-6)
