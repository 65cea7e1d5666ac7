"""Small nets, each around one of torch.nn's layers, and what their derivatives are by plain autograd alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from deepobs_func import datasets

F64 = torch.float64
SHAPES = {"vector": (6,), "sequence": (4, 6), "signal": (4, 6), "image": (4, 4, 4), "volume": (2, 4, 4, 4)}
BATCH = 3
Tree = dict[str, Tensor]


class Last(nn.Module):
    """The first of a layer's results: outputs without a state, attention without its weights."""

    def __init__(self, layer: nn.Module, *, queries: int = 1) -> None:
        super().__init__()
        self.layer, self.queries = layer, queries

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(*[x] * self.queries)
        return found if isinstance(found, Tensor) else found[0]


class Pair(nn.Module):
    """A layer of two inputs, of which the second is made from the first."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, (x.roll(1, -1) + 0.3).sin()).reshape(len(x), -1)


class Unpooled(nn.Module):
    """Max pooling and back."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.unpool(*self.pool(x))


class Function(nn.Module):
    """Some functions of a vector, side by side."""

    def __init__(self, *functions: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([function(x).reshape(len(x), -1) for function in self.functions], 1)


def other(x: Tensor) -> Tensor:
    """A target in (0, 1)."""
    return torch.linspace(0.1, 0.9, 6, dtype=x.dtype).expand_as(x)


ARITHMETIC = (
    *(torch.exp, torch.sin, torch.cos, torch.erf, torch.atan, torch.expm1, torch.abs, torch.sinh),
    *(lambda x: (x.square() + 1).log(), lambda x: (x.square() + 1).sqrt(), lambda x: (x.square() + 1).reciprocal()),
    *(lambda x: x.clamp(-0.7, 0.7), lambda x: x.clamp(min=-0.2), lambda x: (x.square() + 1) ** 1.5, lambda x: 2.0**x),
    *(lambda x: x.square().log1p(), lambda x: x.logaddexp(2 * x), lambda x: torch.maximum(x, 2 * x - 0.1), torch.neg),
    *(lambda x: torch.addcmul(x, x, x), lambda x: torch.lerp(x, 2 * x, 0.3), lambda x: x / (x.square() + 2)),
)
REDUCTIONS = (
    *(lambda x: x.sum(1), lambda x: x.mean(1), lambda x: x.std(1), lambda x: x.var(1), lambda x: x.norm(dim=1)),
    *(lambda x: x.logsumexp(1), lambda x: x.cumsum(1), lambda x: x.amax(1), lambda x: x.max(1).values),
    *(lambda x: x.min(1).values, lambda x: x.softmax(1), F.normalize, lambda x: x.median(1).values),
)
INDEXING = (
    *(lambda x: x[:, [0, 2]], lambda x: x.gather(1, torch.tensor([[1, 3]]).expand(len(x), 2)), lambda x: x[..., 1:4]),
    *(lambda x: x.index_select(1, torch.tensor([4, 0])), lambda x: x.sort(1).values, lambda x: x.topk(2, 1).values),
    *(lambda x: x.masked_fill(x > 0.3, 0.1), lambda x: x.repeat(1, 2), lambda x: x.narrow(1, 1, 2), lambda x: x.T.T),
    *(lambda x: x.select(1, 2), lambda x: x.split([2, 4], 1)[1]),
    *(lambda x: torch.where(x > 0, x, x.square()), lambda x: x.unfold(1, 3, 1), lambda x: x.flip(1)),
)
PRODUCTS = (
    *(lambda x: torch.einsum("bi,bj->bij", x, x), lambda x: x.unsqueeze(1) @ x.unsqueeze(2)),
    *(lambda x: torch.baddbmm(x.unsqueeze(1), x.unsqueeze(1), x.new_ones(len(x), 6, 6)), lambda x: x @ x.new_ones(6)),
)
LOSSES = (
    *(lambda x: F.mse_loss(x, other(x), reduction="none"), lambda x: F.smooth_l1_loss(x, other(x), reduction="none")),
    lambda x: F.l1_loss(x, other(x), reduction="none"),
    lambda x: F.binary_cross_entropy_with_logits(x, other(x), reduction="none"),
    lambda x: F.binary_cross_entropy(x.sigmoid(), other(x), reduction="none"),
    lambda x: F.kl_div(x.log_softmax(1), other(x), reduction="none"),
)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(6, 2, 4, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x.flip(1))


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).mT


def symmetric() -> nn.Module:
    layer = nn.Linear(6, 6)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(6, 2, 4, dropout=0.0, batch_first=True)


LAYERS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "LayerNorm": ("vector", lambda: nn.LayerNorm(6)),
    "GroupNorm": ("image", lambda: nn.GroupNorm(2, 4)),
    "RMSNorm": ("vector", lambda: nn.RMSNorm(6)),
    "BatchNorm1d, batch statistics": ("vector", lambda: nn.BatchNorm1d(6, track_running_stats=False)),
    "BatchNorm2d, batch statistics": ("image", lambda: nn.BatchNorm2d(4, track_running_stats=False)),
    "BatchNorm2d, running statistics": ("image", lambda: nn.BatchNorm2d(4).eval()),
    "InstanceNorm1d": ("signal", lambda: nn.InstanceNorm1d(4, affine=True)),
    "InstanceNorm2d": ("image", lambda: nn.InstanceNorm2d(4, affine=True)),
    "LocalResponseNorm": ("image", lambda: nn.LocalResponseNorm(2)),
    "RNN": ("sequence", lambda: Last(nn.RNN(6, 3, batch_first=True))),
    "LSTM": ("sequence", lambda: Last(nn.LSTM(6, 3, batch_first=True, bidirectional=True))),
    "LSTM, projection": ("sequence", lambda: Last(nn.LSTM(6, 3, batch_first=True, proj_size=2))),
    "GRU": ("sequence", lambda: Last(nn.GRU(6, 3, num_layers=2, batch_first=True))),
    "RNNCell": ("vector", lambda: nn.RNNCell(6, 3)),
    "LSTMCell": ("vector", lambda: Last(nn.LSTMCell(6, 3))),
    "GRUCell": ("vector", lambda: nn.GRUCell(6, 3)),
    "MultiheadAttention": ("sequence", lambda: Last(nn.MultiheadAttention(6, 2, batch_first=True), queries=3)),
    "MultiheadAttention, eval": (
        "sequence",
        lambda: Last(nn.MultiheadAttention(6, 2, batch_first=True).eval(), queries=3),
    ),
    "TransformerEncoderLayer": ("sequence", encoder),
    "TransformerEncoderLayer, eval": ("sequence", lambda: encoder().eval()),
    "TransformerDecoderLayer": ("sequence", Decoder),
    "Embedding": ("ids", lambda: nn.Embedding(7, 3)),
    "Embedding, padding_idx": ("ids", lambda: nn.Embedding(7, 3, padding_idx=2)),
    "Embedding, sparse": ("ids", lambda: nn.Embedding(7, 3, sparse=True)),
    "EmbeddingBag": ("ids", lambda: nn.EmbeddingBag(7, 3)),
    "EmbeddingBag, max": ("ids", lambda: nn.EmbeddingBag(7, 3, mode="max")),
    "Linear": ("vector", lambda: nn.Linear(6, 4)),
    "Bilinear": ("vector", lambda: Pair(nn.Bilinear(6, 6, 3))),
    "Conv1d": ("signal", lambda: nn.Conv1d(4, 3, 3, padding="same")),
    "Conv2d": ("image", lambda: nn.Conv2d(4, 3, 3, stride=2, padding=1)),
    "Conv2d, groups and dilation": ("image", lambda: nn.Conv2d(4, 4, 2, groups=2, dilation=2)),
    "Conv3d": ("volume", lambda: nn.Conv3d(2, 2, 2, stride=2)),
    "ConvTranspose1d": ("signal", lambda: nn.ConvTranspose1d(4, 2, 3)),
    "ConvTranspose2d": ("image", lambda: nn.ConvTranspose2d(4, 2, 3, stride=2)),
    "weight_norm": ("vector", lambda: parametrizations.weight_norm(nn.Linear(6, 4))),
    "spectral_norm, eval": ("vector", lambda: parametrizations.spectral_norm(nn.Linear(6, 4)).eval()),
    "orthogonal": ("vector", lambda: parametrizations.orthogonal(nn.Linear(6, 6))),
    "a parametrization": ("vector", symmetric),
    "MaxPool1d": ("signal", lambda: nn.MaxPool1d(2)),
    "MaxPool2d": ("image", lambda: nn.MaxPool2d(2)),
    "MaxPool3d": ("volume", lambda: nn.MaxPool3d(2)),
    "MaxUnpool2d": ("image", Unpooled),
    "AvgPool1d": ("signal", lambda: nn.AvgPool1d(2)),
    "AvgPool2d": ("image", lambda: nn.AvgPool2d(2)),
    "AvgPool3d": ("volume", lambda: nn.AvgPool3d(2)),
    "LPPool2d": ("image", lambda: nn.LPPool2d(2, 2)),
    "AdaptiveAvgPool2d": ("image", lambda: nn.AdaptiveAvgPool2d(3)),
    "AdaptiveMaxPool2d": ("image", lambda: nn.AdaptiveMaxPool2d(3)),
    "ReflectionPad2d": ("image", lambda: nn.ReflectionPad2d(1)),
    "ReplicationPad2d": ("image", lambda: nn.ReplicationPad2d(1)),
    "ZeroPad2d": ("image", lambda: nn.ZeroPad2d(1)),
    "CircularPad2d": ("image", lambda: nn.CircularPad2d(1)),
    "PixelShuffle": ("image", lambda: nn.PixelShuffle(2)),
    "PixelUnshuffle": ("image", lambda: nn.PixelUnshuffle(2)),
    "ChannelShuffle": ("image", lambda: nn.ChannelShuffle(2)),
    "Unfold": ("image", lambda: nn.Unfold(3)),
    "Fold": ("signal", lambda: nn.Sequential(nn.Linear(6, 4), nn.Fold((3, 3), 2))),
    "Upsample, nearest": ("image", lambda: nn.Upsample(scale_factor=2)),
    "Upsample, bilinear": ("image", lambda: nn.Upsample(scale_factor=1.5, mode="bilinear")),
    "Upsample, bicubic": ("image", lambda: nn.Upsample(scale_factor=1.5, mode="bicubic")),
    "GLU": ("vector", nn.GLU),
    "PReLU": ("image", lambda: nn.PReLU(4)),
    "CosineSimilarity": ("vector", lambda: Pair(nn.CosineSimilarity())),
    "PairwiseDistance": ("vector", lambda: Pair(nn.PairwiseDistance())),
    "Softmax": ("vector", lambda: nn.Softmax(-1)),
    "Softmin": ("vector", lambda: nn.Softmin(-1)),
    "LogSoftmax": ("vector", lambda: nn.LogSoftmax(-1)),
    "Softmax2d": ("image", nn.Softmax2d),
    "RReLU, eval": ("vector", lambda: nn.RReLU().eval()),
    "Threshold": ("vector", lambda: nn.Threshold(0.05, 0.2)),
    "elementwise functions": ("vector", lambda: Function(*ARITHMETIC)),
    "reductions": ("vector", lambda: Function(*REDUCTIONS)),
    "indexing": ("vector", lambda: Function(*INDEXING)),
    "products": ("vector", lambda: Function(*PRODUCTS)),
    "losses": ("vector", lambda: Function(*LOSSES)),
    "HuberLoss": ("vector", lambda: Function(lambda x: F.huber_loss(x, other(x), reduction="none"))),
    **{
        name: ("vector", getattr(nn, name))
        for name in (
            *("ReLU", "LeakyReLU", "ELU", "CELU", "SELU", "GELU", "SiLU", "Mish", "Softplus", "Softsign", "Tanhshrink"),
            *("Sigmoid", "LogSigmoid", "Tanh", "Hardtanh", "ReLU6", "Hardsigmoid", "Hardswish", "Hardshrink"),
            *("Softshrink",),
        )
    },
}


class Net(nn.Module):
    """A product with each input, the layer, and a dense layer to three classes."""

    def __init__(self, shape: tuple[int, ...] | None, layer: nn.Module) -> None:
        super().__init__()
        self.scale = None if shape is None else nn.Parameter(1 + 0.3 * torch.randn(shape))
        self.layer = layer
        x = torch.zeros(BATCH, 4, dtype=torch.int64) if shape is None else torch.randn(BATCH, *shape)
        self.head = nn.Linear(layer(x).flatten(1).shape[1], 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.scale is None else x * self.scale
        return self.head(self.layer(x).flatten(1))


@dataclass
class Instance:
    """A net in float64 with its data: three examples."""

    net: Net
    x: Tensor
    y: Tensor

    def dataset(self) -> datasets.DatasetSpec:
        return datasets.from_arrays("layers", (self.x.numpy(), self.y.numpy()), (self.x.numpy(), self.y.numpy()))


def instance(name: str) -> Instance:
    kind, make = LAYERS[name]
    torch.manual_seed(0)
    net = Net(SHAPES.get(kind), make()).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.3).add_(0.05 * torch.randn_like(parameter))
    generator = np.random.default_rng(1)
    if kind == "ids":
        x = torch.tensor([[2, 1, 5, 2], [3, 3, 0, 2], [6, 4, 1, 0]])
    else:
        x = torch.from_numpy(generator.normal(size=(BATCH, *SHAPES[kind])))
    return Instance(net, x, torch.tensor([0, 2, 1]))


class Oracle:
    """Derivatives of the mean cross entropy of a module by `torch.autograd` in first order, and differences of it."""

    def __init__(self, case: Instance) -> None:
        self.net, self.x, self.y = copy.deepcopy(case.net), case.x, case.y
        self.parameters = dict(self.net.named_parameters())
        padding = getattr(self.net.layer, "padding_idx", None)
        self.held = {"layer.weight": padding} if isinstance(self.net.layer, nn.Embedding) and padding else {}

    def free(self, v: Tree) -> Tree:
        """The direction without what has no gradient though it enters: an embedding's padding."""
        v = {name: leaf.clone() for name, leaf in v.items()}
        for name, row in self.held.items():
            v[name][row] = 0
        return v

    def losses(self, outputs: Tensor) -> Tensor:
        return torch.stack([torch.logsumexp(z, 0) - z[t] for z, t in zip(outputs, self.y, strict=True)])

    def backward(self, value: Tensor) -> Tensor:
        leaves = list(self.parameters.values())
        grads = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        return torch.cat([grad.to_dense().reshape(-1) for grad in grads])

    def gradient_at(self, step: float, v: Tree) -> Tensor:
        with torch.no_grad():
            for name, leaf in self.parameters.items():
                leaf.add_(v[name], alpha=step)
        try:
            return self.backward(self.losses(self.net(self.x)).mean())
        finally:
            with torch.no_grad():
                for name, leaf in self.parameters.items():
                    leaf.sub_(v[name], alpha=step)

    def hvp(self, v: Tree, step: float = 1e-5) -> Tensor:
        v = self.free(v)
        return (self.gradient_at(step, v) - self.gradient_at(-step, v)) / (2 * step)

    def rows(self) -> Tensor:
        """The gradients of the losses, `(B, P)`."""
        return torch.stack([self.backward(loss) for loss in self.losses(self.net(self.x))])

    def ggn(self) -> Tensor:
        """The GGN, `(P, P)`, which is the Fisher matrix."""
        outputs = self.net(self.x)
        jacobian = torch.stack([self.backward(number) for number in outputs.reshape(-1)]).view(BATCH, 3, -1)
        p = outputs.detach().softmax(1)
        middle = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
        return torch.einsum("nip,nij,njq->pq", jacobian, middle, jacobian) / BATCH


def leaves(tree: Tree, count: int) -> Iterator[Tensor]:
    """The `count` vectors of a stacked tree, flat."""
    yield from torch.cat([leaf.reshape(count, -1) for leaf in tree.values()], 1)
