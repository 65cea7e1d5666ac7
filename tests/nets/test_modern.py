"""Norms, attention, embeddings and convolutions in groups: values beside torch's, gradients beside loops."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import grad, jvp

from deepobs_func import probes, problems, random, tree
from deepobs_func.backend.kernels import using
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.errors import ConfigError
from deepobs_func.nets.convnext import ConvNeXt
from deepobs_func.nets.gpt import GPT
from deepobs_func.nets.initializers import constant, normal
from deepobs_func.nets.layers import Conv, Layer, Pass
from deepobs_func.nets.norms import GroupNorm, LayerNorm, Scale
from deepobs_func.nets.resnet import ResNet18
from deepobs_func.nets.transformer import ClassToken, Positions, attend
from deepobs_func.nets.vit import VisionTransformer
from deepobs_func.probes.outer import STATISTICS, of_layer
from deepobs_func.probes.per_example import explain, statistics
from deepobs_func.problems.problem import Problem
from tests.probes.oracles import flat, one_at_a_time
from tests.problems.test_registry import perturbed

F64 = torch.float64
LAYERS = {  # a layer, and the shape of an example
    "layer norm": (LayerNorm(5, 1e-5), (5,)),
    "layer norm of positions": (LayerNorm(5, 1e-5), (2, 3, 5)),
    "group norm": (GroupNorm(2, 4, 1e-5), (4, 3, 2)),
    "scale": (Scale(5, constant(1e-6)), (2, 5)),
    "positions": (Positions(3, 4, normal(0.02)), (3, 4)),
    "class token": (ClassToken(4, normal(0.02)), (3, 4)),
    "depthwise": (Conv(3, 6, 3, padding=1, groups=3), (3, 4, 5)),
    "grouped": (Conv(4, 6, (2, 3), stride=2, groups=2), (4, 5, 5)),
}


def drawn(index: int, shape: tuple[int, ...]) -> Tensor:
    return random.normal(random.fold_in(random.key(3), index), shape, F64)


def parameters(layer: Layer) -> tree.Tree:
    return {name: drawn(index, leaf.shape) for index, (name, leaf) in enumerate(layer.named_parameters())}


def called(layer: Layer, params: tree.Tree, x: Tensor, p: Pass | None = None) -> Tensor:
    return torch.func.functional_call(layer, params, (x, p or Pass(True, {}, {})), strict=True)


@pytest.mark.parametrize("name", LAYERS)
def test_every_statistic_of_a_layer(name: str) -> None:
    layer, shape = LAYERS[name]
    params, x = parameters(layer), drawn(9, (3, *shape))
    shown = []
    y = called(layer, params, x, Pass(True, {}, {}, tap=lambda layer, x, y: shown.append(x) or y))
    g = drawn(10, tuple(y.shape))
    shapes = {name: leaf.shape for name, leaf in params.items()}
    loss = lambda p, batch: (called(layer, p, batch[0]) * batch[1]).flatten(1).sum(1)
    expected = statistics(loss, params, (x, g), STATISTICS)
    found = of_layer(layer, shown[0], g, shapes, STATISTICS, 2**26)
    for leaf in params:
        torch.testing.assert_close(found[leaf]["grads"], expected.grads[leaf])
        torch.testing.assert_close(found[leaf]["scatter"], expected.scatter[leaf])
    torch.testing.assert_close(sum(each["gram"] for each in found.values()), expected.gram)


STOCK = {
    "layer norm of positions": nn.LayerNorm(5, dtype=F64),
    "group norm": nn.GroupNorm(2, 4, dtype=F64),
    "depthwise": nn.Conv2d(3, 6, 3, padding=1, groups=3, dtype=F64),
}


@pytest.mark.parametrize("name", STOCK)
@pytest.mark.parametrize("fused", [False, True])
def test_values_are_those_of_torch(name: str, fused: bool) -> None:
    layer, shape = LAYERS[name]
    params, x = parameters(layer), drawn(9, (3, *shape))
    expected = torch.func.functional_call(STOCK[name], params, (x,))
    torch.testing.assert_close(called(layer, params, x, Pass(True, {}, {}, fused=fused)), expected)


PRODUCTS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]] = {
    "reverse-over-forward": lambda f, x, t: grad(lambda x: jvp(f, (x,), (t,))[1])(x),
    "reverse-over-reverse": lambda f, x, t: grad(lambda x: (grad(f)(x) * t).sum())(x),
    "forward-over-reverse": lambda f, x, t: jvp(grad(f), (x,), (t,))[1],
}


@pytest.mark.parametrize("name", ["layer norm of positions", "group norm"])
@pytest.mark.parametrize("mode", PRODUCTS)
def test_products_through_norms_compile(name: str, mode: str) -> None:
    """A compiler gets other formulas than eager code."""
    layer, shape = LAYERS[name]
    params, x, t = parameters(layer), drawn(9, (3, *shape)), drawn(10, (3, *shape))
    product = partial(PRODUCTS[mode], lambda x: called(layer, params, x).pow(3).sum())
    compiled = torch.compile(lambda x, t: product(x, t), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, t), product(x, t), rtol=1e-10, atol=1e-10)


@given(
    groups=st.integers(1, 3), inputs=st.integers(1, 2), outputs=st.integers(1, 2), kernel=st.integers(1, 3),
    stride=st.integers(1, 2), padding=st.sampled_from(["same", "valid", 0, 1, 2]), side=st.integers(4, 6),
)  # fmt: skip
@settings(deadline=None, max_examples=20)
def test_convolutions_in_groups(
    groups: int, inputs: int, outputs: int, kernel: int, stride: int, padding: str | int, side: int
) -> None:
    conv = Conv(groups * inputs, groups * outputs, kernel, stride, padding=padding, groups=groups)
    params, x = parameters(conv), drawn(9, (3, groups * inputs, side, side))
    y = called(conv, params, x)
    parts = zip(x.chunk(groups, 1), params["weight"].chunk(groups), params["bias"].chunk(groups), strict=True)
    alone = Conv(inputs, outputs, kernel, stride, padding=padding)
    expected = [called(alone, {"weight": weight, "bias": bias}, part) for part, weight, bias in parts]
    torch.testing.assert_close(y, torch.cat(expected, 1))
    leaf = params["weight"].requires_grad_()
    ys = called(conv, {"weight": leaf, "bias": params["bias"]}, x)
    grads = [torch.autograd.grad(one.square().sum(), leaf, retain_graph=True)[0] for one in ys]
    found = of_layer(conv, x, 2 * y, {"weight": leaf.shape, "bias": params["bias"].shape}, ["grads"], 2**26)
    torch.testing.assert_close(found["weight"]["grads"], torch.stack(grads))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_a_loop_over_what_may_be_looked_at(causal: bool) -> None:
    q, k, v = drawn(0, (3, 2, 2, 4, 5))
    expected = torch.empty_like(v)
    for n, h, t in torch.cartesian_prod(torch.arange(2), torch.arange(2), torch.arange(4)).tolist():
        seen = slice(0, t + 1) if causal else slice(None)
        weights = torch.exp(k[n, h, seen] @ q[n, h, t] / 5**0.5)
        expected[n, h, t] = weights @ v[n, h, seen] / weights.sum()
    for fused in (False, True):
        torch.testing.assert_close(attend(q, k, v, Pass(True, {}, {}, fused=fused), causal=causal), expected)


def narrow(name: str) -> Problem:
    """A problem of the modern set with a net of its layers and a few hundred or thousand parameters."""
    nets = {
        "cifar10_resnet18": partial(ResNet18, 10, "batch", channels=2),
        "cifar10_resnet18_gn": partial(ResNet18, 10, "group", channels=2),
        "cifar100_vit": partial(VisionTransformer, 1, 100, width=6, heads=2),
        "tolstoi_gpt": partial(GPT, 83, 4, blocks=1, width=6, heads=2, rate=0.5),
        "mnist_convnext": partial(ConvNeXt, (2, 3), 1, 10),
    }
    problem = problems.get(name)
    data: DatasetSpec = problem.dataset
    if data.sequence_length:
        data = DatasetSpec(**{**vars(data), "shape": (4,), "sequence_length": 4})
    return Problem(name, data, nets[name], problem.measure, None, problem.separable, 1, 2)


NARROW = [name for name in problems.SETS["modern"] if name != "digits_mlp"]


@pytest.mark.parametrize("name", NARROW)
def test_gradients_and_curvature_of_each_net_made_narrow(name: str) -> None:
    problem = narrow(name)
    params, batch = perturbed(problem.init(0, dtype=F64)[0]), problem.fake_batch(2, seed=1, dtype=F64)
    if problem.separable:
        found = statistics(problem, params, batch, ["grads", "sq_norms"])
        rows = torch.stack([flat(row) for row in one_at_a_time(problem, params, batch)])
        torch.testing.assert_close(torch.stack([flat({k: g[n] for k, g in found.grads.items()}) for n in (0, 1)]), rows)
        torch.testing.assert_close(found.sq_norms, rows.square().sum(1))
    v = perturbed(params, 5)
    products = [
        flat(probes.hvp(problem, params, batch, v, mode=mode))
        for mode in ("forward-over-reverse", "reverse-over-forward", "reverse-over-reverse")
    ]
    assert products[0].norm() > 0
    for product in products[1:]:
        torch.testing.assert_close(product, products[0], rtol=1e-8, atol=1e-10)
    with using(fused=True):
        plain = problem.loss(params, batch)
    torch.testing.assert_close(plain, problem.loss(params, batch))


@pytest.mark.parametrize("name", problems.SETS["modern"])
def test_every_parameter_has_a_formula(name: str) -> None:
    problem = problems.get(name)
    shapes = {leaf: torch.empty(shape, device="meta") for leaf, shape in problem.shapes.items()}
    ways = explain(problem, shapes, bn=None if problem.separable else "frozen")
    assert {way for way in ways.values() if not way.startswith("input and output gradient of")} == set()


def test_a_character_does_not_see_those_after_it() -> None:
    problem = narrow("tolstoi_gpt")
    params, batch = perturbed(problem.init(0)[0]), problem.fake_batch(2)
    changed = batch.x.clone()
    changed[:, 2] = (changed[:, 2] + 1) % 83
    before, after = (problem.outputs(params, batch._replace(x=x, noise={})) for x in (batch.x, changed))
    torch.testing.assert_close(after[:, :2], before[:, :2])
    assert not torch.isclose(after[:, 2:], before[:, 2:]).all(-1).any()


@pytest.mark.parametrize("net", [VisionTransformer(1, 100, width=48, heads=2), ConvNeXt((16, 32), 1, 10)])
def test_kernels_start_from_a_normal_that_is_not_cut(net: nn.Module) -> None:
    """timm's `trunc_normal_(std=.02)` cuts at -2 and 2. Cut at two deviations, the standard one were 0.0176."""
    data = problems.get("cifar100_vit" if isinstance(net, VisionTransformer) else "mnist_convnext").dataset
    params, _ = Problem("narrow", data, lambda: net, problems.get("mnist_mlp").measure, None, True, 1, 2).init(0)
    drawn = torch.cat([leaf.flatten() for leaf in params.values() if leaf.ndim > 1])
    assert abs(float(drawn.std()) / 0.02 - 1) < 4 / (2 * len(drawn)) ** 0.5
    assert float(drawn.abs().max()) > 0.06


@pytest.mark.parametrize("length", [1, 3, 5])
def test_a_text_of_another_length_is_refused(length: int) -> None:
    problem = narrow("tolstoi_gpt")
    params, batch = problem.init(0)[0], problem.fake_batch(2)
    x = torch.zeros((2, length), dtype=batch.x.dtype)
    with pytest.raises(ConfigError, match=f"Sequence length {length}: .* each of 4 tokens"):
        problem.outputs(params, batch._replace(x=x, noise={}))


def test_gelu_is_the_exact_one() -> None:
    """`x Phi(x)`, of which torch's tanh approximation differs by 1e-4."""
    x = torch.linspace(-3, 3, 7, dtype=F64)
    torch.testing.assert_close(F.gelu(x), x * 0.5 * (1 + torch.erf(x / 2**0.5)))
