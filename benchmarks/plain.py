"""The test problems as one would write them today in plain PyTorch: `nn.Module`s of stock layers, a loss each.

What the functional ones are timed beside. Each is the same function with as many parameters, with these exceptions:
`nn.LSTM` has a second bias a layer, and VGG resizes with `nn.Upsample`, which aligns pixels in another way.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepobs_func import problems
from deepobs_func.problems.problem import Problem
from deepobs_func.problems.spec import ProblemSpec


class Sums(NamedTuple):
    """What an evaluation adds up over batches: of the losses, and of the correct answers where there are such."""

    losses: Tensor
    correct: Tensor | None


class Plain(nn.Module):
    """A net with its loss."""

    def restart(self) -> None:
        """Before a pass over the data: forgets a recurrent state."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The mean loss of a batch, without a penalty."""
        raise NotImplementedError  # abstract

    def sums(self, x: Tensor, y: Tensor) -> Sums:
        """For an evaluation."""
        return Sums(self.loss(x, y) * len(x), None)


class Classifier(Plain):
    """Any net under cross entropy."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(*parts)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.net(x), y)

    def sums(self, x: Tensor, y: Tensor) -> Sums:
        logits = self.net(x)
        return Sums(F.cross_entropy(logits, y, reduction="sum"), (logits.argmax(1) == y).sum())


def logreg() -> Plain:
    """784-10."""
    return Classifier(nn.Flatten(), nn.Linear(784, 10))


def mlp() -> Plain:
    """784-1000-500-100-10."""
    hidden = [part for a, b in ((784, 1000), (1000, 500), (500, 100)) for part in (nn.Linear(a, b), nn.ReLU())]
    return Classifier(nn.Flatten(), *hidden, nn.Linear(100, 10))


def net_2c2d() -> Plain:
    """Two convolutions, two dense layers."""
    parts = [nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    parts += [nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    return Classifier(*parts, nn.Flatten(), nn.Linear(3136, 1024), nn.ReLU(), nn.Linear(1024, 10))


def net_3c3d(classes: int) -> Plain:
    """Three convolutions, three dense layers; the edge cuts off the pools' last windows."""
    parts: list[nn.Module] = []
    for conv in (nn.Conv2d(3, 64, 5), nn.Conv2d(64, 96, 3), nn.Conv2d(96, 128, 3, padding=1)):
        parts += [conv, nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)]
    parts += [nn.Flatten(), nn.Linear(1152, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU()]
    return Classifier(*parts, nn.Linear(256, classes))


def _conv(inputs: int, outputs: int, stride: int = 1, *, bias: bool = True) -> nn.Module:
    """Three by three. At stride 2, TensorFlow pads an image of even size at the bottom and right only."""
    if stride == 1:
        return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
    return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(inputs, outputs, 3, stride, bias=bias))


def allcnnc() -> Plain:
    """Nine convolutions and a mean."""
    convs = [_conv(3, 96), _conv(96, 96), _conv(96, 96, 2), _conv(96, 192), _conv(192, 192), _conv(192, 192, 2)]
    convs += [nn.Conv2d(192, 192, 3), nn.Conv2d(192, 192, 1), nn.Conv2d(192, 100, 1)]
    dropout = {0: 0.2, 3: 0.5, 6: 0.5}
    parts: list[nn.Module] = []
    for index, conv in enumerate(convs):
        parts += [*([nn.Dropout(dropout[index])] if index in dropout else []), conv, nn.ReLU()]
    return Classifier(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def vgg(depth: int, classes: int) -> Plain:
    """VGG-16 or VGG-19 on images that are resized to 224 x 224."""
    parts: list[nn.Module] = [nn.Upsample((224, 224), mode="bilinear")]
    deep, inputs = {16: 3, 19: 4}[depth], 3
    for channels, convs in ((64, 2), (128, 2), (256, deep), (512, deep), (512, deep)):
        for _ in range(convs):
            parts += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()]
            inputs = channels
        parts.append(nn.MaxPool2d(2))
    parts += [nn.Flatten(), nn.Linear(7 * 7 * 512, 4096), nn.ReLU(), nn.Dropout()]
    return Classifier(*parts, nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, classes))


class Unit(nn.Module):
    """A residual unit before activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, first: bool) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if first else None
        self.conv1 = _conv(inputs, outputs, stride, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv(outputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.norm1(x))
        residual = self.conv2(F.relu(self.norm2(self.conv1(activated))))
        return residual + (x if self.shortcut is None else self.shortcut(activated))


def wide_resnet(depth: int, widening: int, classes: int) -> Plain:
    """WRN-depth-widening."""
    parts: list[nn.Module] = [_conv(3, 16, bias=False)]
    inputs = 16
    for stage, outputs in enumerate((16 * widening, 32 * widening, 64 * widening)):
        for index in range((depth - 4) // 6):
            parts.append(Unit(inputs, outputs, 2 if stage > 0 and index == 0 else 1, first=index == 0))
            inputs = outputs
    parts += [nn.BatchNorm2d(inputs), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return Classifier(*parts, nn.Linear(inputs, classes))


_MODULES: dict[str, Callable[..., Plain] | str] = {
    "mlp:logreg": logreg,
    "mlp:mlp": mlp,
    "cnn:Net2c2d": net_2c2d,
    "cnn:Net3c3d": net_3c3d,
    "cnn:AllCNNC": allcnnc,
    "vgg:VGG": vgg,
    "wrn:WideResNet": wide_resnet,
    "vae:VAE": "benchmarks.plain_losses:VAE",
    "rnn:CharRNN": "benchmarks.plain_losses:CharRNN",
    "quadratic:Quadratic": "benchmarks.plain_losses:Quadratic",
    "quadratic:Point": "benchmarks.plain_losses:Point",
    "resnet:ResNet18": "benchmarks.plain_modern:resnet18",
    "vit:VisionTransformer": "benchmarks.plain_modern:vit",
    "gpt:GPT": "benchmarks.plain_modern:GPT",
}


def _known(spec: ProblemSpec) -> Callable[..., Plain] | str | None:
    return _MODULES.get(spec.net.removeprefix("deepobs_func.nets."))


def names() -> list[str]:
    """The problems of which there is a plain module."""
    return [name for name in problems.names() if _known(problems.spec_of(name))]


def module(name: str) -> Plain:
    """The plain module of a problem, freshly initialised."""
    row = problems.spec_of(name)
    known, arguments = _known(row), dict[str, Any](row.net_args)
    if isinstance(known, str):
        known = pkgutil.resolve_name(known)
        assert callable(known)
        arguments |= {"function": row.measure.split(":")[1]} if row.dataset == "two_d" else {}
    assert known is not None, f"there is no plain module of {name}"
    return known(**arguments)


def sgd(module: nn.Module, problem: Problem, lr: float, **options: Any) -> torch.optim.SGD:
    """SGD in which what the problem's penalty counts decays, so that its gradient is that of the objective."""
    if problem.weight_decay is None:
        return torch.optim.SGD(module.parameters(), lr=lr, **options)
    decays: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in module.named_parameters():
        decays[problem.regularize(name, parameter)].append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decays[True], "weight_decay": problem.weight_decay},
        {"params": decays[False]},
    ]
    return torch.optim.SGD(groups, lr=lr, **options)
