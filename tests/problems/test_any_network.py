"""Networks as people train them, each by one call of `from_module`, beside the stock module in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap
from torch.utils import _pytree as pytree

from deepobs_func import datasets, probes
from deepobs_func.base import Batch, ModelState, Params
from deepobs_func.datasets.torchvision_parts import torchvision_datasets
from deepobs_func.problems.oracle import make_value_and_grad
from deepobs_func.problems.problem import Problem
from tests.problems.conversion.stock import F64, at_float64, close, losses, make, masks, stock

torchvision_datasets()  # so that torchvision can be imported
from torchvision import models  # noqa: E402
from torchvision.models import mobilenetv3  # noqa: E402
from torchvision.models.convnext import CNBlockConfig, ConvNeXt  # noqa: E402
from torchvision.models.efficientnet import EfficientNet, MBConvConfig  # noqa: E402

pytestmark = pytest.mark.large
CLASSES, TOKENS = 5, 11
LR = 1e-5  # of ten steps on four examples: batch norm of four values makes larger ones chaotic


def images(size: int = 32) -> datasets.DatasetSpec:
    r = np.random.RandomState(0)
    x = r.normal(size=(12, 3, size, size)).astype(np.float32)
    return datasets.from_arrays("images", (x, np.arange(12) % CLASSES), (x, np.arange(12) % CLASSES))


def texts() -> datasets.DatasetSpec:
    r = np.random.RandomState(0)
    x = r.randint(1, TOKENS, (12, 6))
    for row, length in enumerate(r.randint(3, 7, 12)):
        x[row, length:] = 0  # padding
    return datasets.from_arrays("texts", (x, np.arange(12) % CLASSES), (x, np.arange(12) % CLASSES))


class Sequences(nn.Module):
    """An embedding, a recurrent net, a dense layer on its last output."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, 8)
        self.net = kind(8, 6, batch_first=True)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.net(self.embed(x))[0][:, -1]))


class Encoder(nn.Module):
    """`nn.TransformerEncoder` with a mask of the padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, 8, padding_idx=0)
        self.positions = nn.Parameter(0.1 * torch.randn(6, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        found = self.encoder(self.embed(x) + self.positions, src_key_padding_mask=x == 0)
        kept = (x != 0).unsqueeze(-1)
        return self.head((found * kept).sum(1) / kept.sum(1))


class GPT(nn.Module):
    """Two causal blocks whose `forward` calls torch's functions, and a head that is tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(TOKENS, 8), nn.Embedding(6, 8)
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(5))
        self.into, self.out = (nn.ModuleList(nn.Linear(8, width) for _ in range(2)) for width in (24, 8))
        self.wide = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(2))
        self.head = nn.Linear(8, TOKENS, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        h = F.dropout(self.embed(x) + self.positions(torch.arange(6, device=x.device)), 0.1, self.training)
        for n in range(2):
            q, k, v = (
                part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.into[n](self.norms[2 * n](h)).chunk(3, -1)
            )
            drop = 0.1 if self.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=drop, is_causal=True)
            h = h + self.out[n](y.transpose(1, 2).flatten(2))
            h = h + F.dropout(self.wide[n](self.norms[2 * n + 1](h)), 0.1, self.training)
        return self.head(self.norms[4](h))[:, -1]


class UNet(nn.Module):
    """Two scales down and up, with skip connections, and the mean of its pixels."""

    def __init__(self) -> None:
        super().__init__()
        block = lambda a, b: nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.SiLU())
        self.first, self.second, self.middle = block(3, 4), block(4, 8), block(8, 8)
        self.up, self.last = nn.ConvTranspose2d(8, 4, 2, 2), block(8, 4)
        self.drop, self.out = nn.Dropout2d(0.1), nn.Conv2d(4, CLASSES, 1)
        self.pool, self.grow = nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear")

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x)
        b = self.second(self.pool(a))
        c = self.grow(self.middle(self.pool(b))) + b
        return self.out(self.drop(self.last(torch.cat((self.up(c), a), 1)))).mean((2, 3))


def mobilenet() -> nn.Module:
    """The first half of its blocks, with half of the channels."""
    blocks, last = mobilenetv3._mobilenet_v3_conf("mobilenet_v3_small", width_mult=0.5)
    return mobilenetv3.MobileNetV3(blocks[:5], last // 8, num_classes=CLASSES)


def efficientnet() -> nn.Module:
    """Its blocks with narrow channels, two of each kind."""
    blocks = [MBConvConfig(1, 3, 1, 8, 8, 1), MBConvConfig(6, 3, 2, 8, 8, 2), MBConvConfig(6, 5, 2, 8, 16, 2)]
    return EfficientNet(blocks, dropout=0.2, stochastic_depth_prob=0.2, num_classes=CLASSES, last_channel=32)


@dataclass(frozen=True)
class Case:
    """A network; whether its examples can be taken apart, and torch compiles the stock one to one graph."""

    make: Callable[[], nn.Module]
    data: Callable[[], datasets.DatasetSpec] = images
    separable: bool = False
    compiles: bool = True


CASES = {
    "resnet18": Case(lambda: models.resnet18(num_classes=CLASSES)),
    "mobilenet_v3_small": Case(mobilenet),
    "densenet121": Case(lambda: models.DenseNet(4, (2, 2, 2, 2), 8, num_classes=CLASSES)),
    "efficientnet_b0": Case(efficientnet),
    "convnext_tiny": Case(
        lambda: ConvNeXt([CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 2)], 0.3, num_classes=CLASSES),
        separable=True,
    ),
    "vit_b_16": Case(
        lambda: models.VisionTransformer(32, 16, 2, 2, 16, 32, 0.1, 0.1, num_classes=CLASSES), separable=True
    ),
    "LSTM": Case(functools.partial(Sequences, nn.LSTM), texts, separable=True, compiles=False),
    "GRU": Case(functools.partial(Sequences, nn.GRU), texts, separable=True, compiles=False),
    "TransformerEncoder": Case(Encoder, texts, separable=True),
    "GPT": Case(GPT, texts, separable=True),
    "UNet": Case(UNet, lambda: images(8)),
}
NAMES = pytest.mark.parametrize("name", CASES)


@functools.cache
def problem_of(name: str) -> Problem:
    return make(CASES[name].make, CASES[name].data(), epochs=1)


def batches(problem: Problem, state: ModelState, count: int) -> list[Batch]:
    return [problem.fake_batch(4, seed, dtype=F64)._replace(state=state) for seed in range(count)]


@NAMES
def test_ten_steps_are_those_of_the_stock_module(name: str) -> None:
    problem = problem_of(name)
    assert problem.separable == CASES[name].separable
    params, state = problem.init(3, dtype=F64)
    net = stock(problem, params, state)
    optimizer, value_and_grad = torch.optim.SGD(net.parameters(), lr=LR), make_value_and_grad(problem)
    for index, batch in enumerate(batches(problem, state, 10)):
        right = losses(problem, net, batch)
        if index in (0, 9):
            rtol = 1e-10 if index == 0 else 1e-6  # steps magnify the rounding
            close(problem.loss(params, batch._replace(state=state)), right.detach(), rtol)
        optimizer.zero_grad()
        right.mean().backward()
        optimizer.step()
        found = value_and_grad(params, batch._replace(state=state))
        params, state = {key: leaf - LR * found.grads[key] for key, leaf in params.items()}, found.state
    own = net.state_dict()
    for key, leaf in {**params, **state.moments}.items():
        close(leaf, own[key], 1e-8)
    batch = batches(problem, state, 1)[0]
    with torch.no_grad():
        close(problem.evaluate(params, batch).losses, problem.measure.losses(net.eval()(batch.x), batch), 1e-8)
    back = CASES[name].make().double()
    back.load_state_dict(problem.to_module(params, state).state_dict())
    close(back.eval()(batch.x), net(batch.x), 1e-8)


def flat(tensors: Any) -> Tensor:
    return torch.cat([leaf.reshape(-1) for leaf in tensors])


def rows(problem: Problem, params: Params, batch: Batch) -> list[dict[str, Tensor]]:
    """The gradient of each example's loss by one backward pass."""
    trained = {key: leaf.clone().requires_grad_() for key, leaf in params.items()}
    loss = problem.loss if problem.separable else problem.loss_by_moments
    each = [torch.autograd.grad(one, list(trained.values()), retain_graph=True) for one in loss(trained, batch)]
    return [dict(zip(params, grads, strict=True)) for grads in each]


@NAMES
def test_derivatives_are_those_of_plain_autograd(name: str) -> None:
    problem = problem_of(name)
    params, batch = at_float64(problem, 4)
    right = rows(problem, params, batch)
    bn = None if problem.separable else "eval"
    found = probes.statistics(problem, params, batch, ["grads", "sq_norms"], bn=bn)
    for key in params:
        close(found.grads[key], torch.stack([row[key] for row in right]), 1e-8)
    close(found.sq_norms, torch.stack([flat(row.values()).square().sum() for row in right]), 1e-8)
    generator = torch.Generator().manual_seed(2)
    v = {key: torch.randn(leaf.shape, generator=generator, dtype=F64) for key, leaf in params.items()}
    net = stock(problem, params, batch.state)
    own = dict(net.named_parameters())
    leaves = [own[key] for key in params]
    with masks(batch.noise), mock.patch.object(F, "hardsigmoid", lambda x, inplace=False: F.relu6(x + 3) / 6):
        outputs = net(batch.x)  # of torch's own hardsigmoid there is no second derivative
    mean = problem.measure.losses(outputs, batch).mean()
    grads = torch.autograd.grad(mean, leaves, create_graph=True)
    product = torch.autograd.grad(flat(grads) @ flat(v.values()), leaves, retain_graph=True)
    assert_like(flat(probes.hvp(problem, params, batch, v).values()), flat(product))
    assert_like(flat(probes.ggnvp(problem, params, batch, v).values()), ggn_product(outputs, leaves, v))


def ggn_product(outputs: Tensor, leaves: list[Tensor], v: Params) -> Tensor:
    """`J^T H J v / B` of cross entropy, by double backward."""
    cotangents = torch.zeros_like(outputs, requires_grad=True)
    pulled = torch.autograd.grad(outputs, leaves, cotangents, create_graph=True)
    (pushed,) = torch.autograd.grad(flat(pulled) @ flat(v.values()), cotangents, retain_graph=True)
    p = outputs.detach().softmax(1)
    middle = p * pushed - p * (p * pushed).sum(1, keepdim=True)
    return flat(torch.autograd.grad(outputs, leaves, middle / len(outputs)))


def assert_like(found: Tensor, right: Tensor) -> None:
    assert float((found - right).norm() / right.norm()) < 1e-6


@NAMES
def test_a_population_equals_its_members(name: str) -> None:
    problem = problem_of(name)
    starts = [problem.init(seed, dtype=F64) for seed in range(3)]
    params, state = pytree.tree_map(lambda *leaves: torch.stack(leaves), *starts)
    (batch,) = batches(problem, ModelState({}, {}), 1)

    def of_member(params: Params, state: ModelState) -> Any:
        found = make_value_and_grad(problem)(params, batch._replace(state=state))
        return found.grads, found.metrics.loss, found.state

    together = vmap(of_member)(params, state)
    for member, start in enumerate(starts):
        alone = of_member(*start)
        for one, all_of_them in zip(pytree.tree_leaves(alone), pytree.tree_leaves(together), strict=True):
            close(all_of_them[member], one, 1e-8)


def graphs(function: Callable[..., Any], *inputs: Any) -> int:
    """How many graphs the compiler makes of a function without a break; 0 where there would be one."""
    seen: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        seen.append(len(graph.graph.nodes))
        return graph.forward

    torch._dynamo.reset()
    try:
        torch.compile(function, backend=backend, fullgraph=True)(*inputs)
    except torch._dynamo.exc.Unsupported:
        return 0
    return len(seen)


@NAMES
def test_it_is_one_graph_where_the_stock_module_is(name: str) -> None:
    """torch's compiler takes no recurrent layer, neither the stock one nor the converted one."""
    problem, expected = problem_of(name), int(CASES[name].compiles)
    params, state = problem.init()
    batch = problem.fake_batch(4)._replace(state=state)
    assert graphs(problem.to_module(params, state).train(), batch.x) == expected
    assert graphs(problem.loss_and_state, params, batch) == expected
