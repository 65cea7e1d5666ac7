"""Products by oneDNN are those of torch, with their gradients; small ones and other types take the usual way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from deepobs_func import problems
from deepobs_func.backend import onednn
from deepobs_func.backend.kernels import using
from deepobs_func.problems.oracle import make_plain_value_and_grad

CPU = torch.device("cpu")
FLOATS = st.sampled_from([torch.float32, torch.float64])


def layer(rows: tuple[int, ...], inputs: int, outputs: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((*rows, inputs), (outputs, inputs), (outputs,))
    return [torch.randn(shape, generator=generator, dtype=dtype, requires_grad=True) for shape in shapes]


@given(
    rows=st.lists(st.integers(1, 12), min_size=1, max_size=3),  # up to 40 times what makes it worth the way to oneDNN
    inputs=st.integers(1, 300),
    outputs=st.integers(1, 300),
    dtype=FLOATS,
)
def test_value_and_gradients_are_torch_s(rows: list[int], inputs: int, outputs: int, dtype: torch.dtype) -> None:
    x, weight, bias = layer(tuple(rows), inputs, outputs, dtype)
    y = onednn.linear(x, weight, bias)
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    exact = [leaf.detach().double().requires_grad_() for leaf in (x, weight, bias)]
    expected = F.linear(*exact)
    assert y.dtype == dtype
    found = (y.detach(), *torch.autograd.grad(y, (x, weight, bias), direction))
    wanted = (expected.detach(), *torch.autograd.grad(expected, exact, direction.double()))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5 * float(other.abs().max()) + 1e-30)


def goes_there(y: torch.Tensor) -> bool:
    return type(y.grad_fn).__name__ == "_LinearBackward"


def test_large_float32_products_alone_go_there() -> None:
    assert goes_there(onednn.linear(*layer((128,), 784, 1000, torch.float32)))
    assert goes_there(onednn.linear(*layer((16, 8), 784, 1000, torch.float32)))
    assert not goes_there(onednn.linear(*layer((128,), 784, 10, torch.float32)))
    assert not goes_there(onednn.linear(*layer((128,), 784, 1000, torch.float64)))


def test_its_gradient_has_a_derivative() -> None:
    """As of a net that is itself a gradient."""
    x, weight, _ = layer((128,), 784, 100, torch.float32)
    found, expected = (twice(product, x, weight) for product in (onednn.linear, F.linear))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def twice(product: Callable[..., torch.Tensor], x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    (slope,) = torch.autograd.grad(product(x, weight).tanh().sum(), x, create_graph=True)
    return torch.autograd.grad(slope.square().sum(), (x, weight))


def test_autocast_decides_on_the_type() -> None:
    x, weight, bias = layer((128,), 784, 1000, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert onednn.linear(x, weight, bias).dtype == torch.bfloat16


def test_gradients_that_nobody_asks_for_are_left_out() -> None:
    x, weight, bias = layer((128,), 784, 100, torch.float32)
    (gradient,) = torch.autograd.grad(onednn.linear(x.detach(), weight, bias.detach()).sum(), weight)
    torch.testing.assert_close(gradient, x.detach().sum(0).expand(100, 784), rtol=1e-4, atol=1e-4)


def test_it_is_no_faster_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "available", lambda: False)
    assert not onednn.is_faster(CPU)


def test_other_devices_have_products_of_their_own() -> None:
    assert not onednn.is_faster(torch.device("meta"))


@pytest.mark.parametrize(("seconds", "expected"), [((0.5, 1.0), True), ((0.85, 1.0), False), ((2.0, 1.0), False)])
def test_it_is_taken_from_a_fifth_on(
    monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float], expected: bool
) -> None:
    taken = dict(zip((onednn.product, F.linear), seconds, strict=True))
    monkeypatch.setattr(onednn, "_seconds", lambda way, x, weight: taken[way])
    monkeypatch.setattr(onednn, "available", lambda: True)
    assert onednn.is_faster(CPU) == expected


def test_it_is_asked_about_the_matrices_of_the_net(monkeypatch: pytest.MonkeyPatch) -> None:
    """By sides of 8 to 1,024, on as many examples as are worth it; the seconds of all are compared."""
    tried = []

    def taken(way: Callable[..., torch.Tensor], x: torch.Tensor, weight: torch.Tensor) -> float:
        tried.append((len(x), *weight.shape))
        narrow = len(weight) < 100
        return (0.5 if narrow else 1.0) if way is onednn.product else (1.0 if narrow else 0.9)

    monkeypatch.setattr(onednn, "_seconds", taken)
    monkeypatch.setattr(onednn, "available", lambda: True)
    shaped = {name: torch.zeros(shape) for name, shape in {"a": (10, 784), "b": (10, 784), "bias": (10,)}.items()}
    assert onednn.is_faster(CPU, shaped)
    assert set(tried) == {(511, 10, 784)}
    assert onednn.is_faster(CPU, {"long": torch.zeros(4096, 9000), "thin": torch.zeros(1, 1000)})
    assert set(tried[10:]) == {(128, 1024, 1024), (500, 8, 1000)}
    assert not onednn.is_faster(CPU, {"bias": torch.zeros(3)})
    assert set(tried[30:]) == {(128, 1000, 784)}


@pytest.mark.parametrize("name", ["mnist_mlp", "mnist_2c2d", "mnist_vae", "quadratic_deep"])
def test_a_problem_has_the_same_value_gradient_and_evaluation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, product = [], onednn.product
    monkeypatch.setattr(onednn, "product", lambda *arguments: taken.append(1) or product(*arguments))
    problem = problems.get(name)
    params, _ = problem.init(0)
    # As few examples as make a large product: of millions of ReLUs one lies so near 0 that rounding takes its gradient.
    batch = problem.fake_batch(onednn.LEAST_MULTIPLICATIONS // 100**2 if name == "quadratic_deep" else 8)
    value_and_grad = make_plain_value_and_grad(problem)
    usual = value_and_grad(params, batch)
    with using(onednn=True):
        other = value_and_grad(params, batch)
    torch.testing.assert_close(other.metrics, usual.metrics, rtol=1e-5, atol=1e-6)
    for leaf in params:
        scale = float(usual.grads[leaf].abs().max())
        torch.testing.assert_close(other.grads[leaf], usual.grads[leaf], rtol=1e-4, atol=1e-5 * scale)
    assert taken
    with using(fused=True, onednn=True):
        evaluation = problem.evaluate(params, batch)
    torch.testing.assert_close(evaluation.losses, problem.evaluate(params, batch).losses, rtol=1e-5, atol=1e-6)


@given(rows=st.integers(1, 90), inputs=st.integers(1, 60), outputs=st.integers(1, 60), dtype=FLOATS)
def test_a_turned_product_is_torch_s(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> None:
    """Its memory says which way it went: with two examples for each output, example lies beside example."""
    x, weight, bias = (leaf.detach() for leaf in layer((rows,), inputs, outputs, dtype))
    y = onednn.turned(x, weight, bias)
    torch.testing.assert_close(y.double(), F.linear(x.double(), weight.double(), bias.double()), rtol=1e-4, atol=1e-4)
    if outputs > 1:
        many = dtype == torch.float32 and rows >= 2 * outputs
        assert y.stride() == ((1, rows) if many else (outputs, 1))


def test_other_products_are_not_turned() -> None:
    x, weight, bias = layer((64, 2), 30, 3, torch.float32)
    assert onednn.turned(x, weight, bias).is_contiguous()
    with torch.autocast("cpu", torch.bfloat16):
        assert onednn.turned(x[:, 0], weight, bias).dtype == torch.bfloat16


def test_an_evaluation_is_turned_and_a_gradient_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, turned = [], onednn.turned
    monkeypatch.setattr(onednn, "turned", lambda x, *rest: taken.append(tuple(x.shape)) or turned(x, *rest))
    problem = problems.get("mnist_mlp")
    params, _ = problem.init(0)
    batch = problem.fake_batch(256)
    make_plain_value_and_grad(problem)(params, batch)
    expected = problem.evaluate(params, batch)
    assert not taken
    with using(fused=True):
        found = problem.evaluate(params, batch)
    assert taken == [(256, 784), (256, 1000), (256, 500), (256, 100)]
    torch.testing.assert_close(found.losses, expected.losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.correct, expected.correct)
    with using(fused=True, onednn=True):
        problem.evaluate(params, batch)
    assert len(taken) == 4
