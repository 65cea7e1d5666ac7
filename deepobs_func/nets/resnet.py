"""The residual net of 18 layers on 32 x 32 images, with batch norm or group norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from deepobs_func.nets.initializers import he_normal, normal
from deepobs_func.nets.layers import BatchNorm, Conv, Dense, Layer, Pass
from deepobs_func.nets.norms import GroupNorm

Norm = Literal["batch", "group"]
NORMS: dict[Norm, Callable[[int], Layer]] = {
    "batch": lambda channels: BatchNorm(channels, momentum=0.9, epsilon=1e-5),
    "group": lambda channels: GroupNorm(min(32, channels), channels, epsilon=1e-5),
}


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> Conv:
    return Conv(inputs, outputs, kernel, stride, padding=kernel // 2, weight=he_normal("out"), bias=None)


class Unit(nn.Module):
    """`relu(shortcut + norm(3x3(relu(norm(3x3)))))`; a strided shortcut is a 1x1 convolution and a norm."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(inputs, outputs, 3, stride), NORMS[norm](outputs)
        self.conv2, self.norm2 = _conv(outputs, outputs, 3), NORMS[norm](outputs)
        self.shortcut = _conv(inputs, outputs, 1, stride) if stride > 1 else None
        self.norm3 = NORMS[norm](outputs) if stride > 1 else None

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x, p), p))
        y = self.norm2(self.conv2(y, p), p)
        if self.shortcut is not None and self.norm3 is not None:
            x = self.norm3(self.shortcut(x, p), p)
        return torch.relu(x + y)


class ResNet18(nn.Module):
    """3x32x32 -> classes: a 3x3 convolution, four stages of two units, a mean over the pixels, a dense layer.

    The first convolution has stride 1 and no pool follows, as for small images: DeVries and Taylor, arXiv:1708.04552.
    Convolutions start as He et al., ICCV 2015, have it, by fan-out; the dense layer as a normal of 0.01, Goyal et al.,
    arXiv:1706.02677.

    Args:
        classes: of the dense layer.
        norm: `"batch"`, or `"group"` of up to 32 groups.
        channels: of the first stage; each later one has twice as many.

    Source: He et al., CVPR 2016.
    """

    in_blocks = True

    def __init__(self, classes: int, norm: Norm, channels: int = 64) -> None:
        super().__init__()
        self.conv, self.norm = _conv(3, channels, 3), NORMS[norm](channels)
        units, inputs = [], channels
        for stage in range(4):
            outputs = channels * 2**stage
            units += [Unit(inputs, outputs, 2 if stage else 1, norm), Unit(outputs, outputs, 1, norm)]
            inputs = outputs
        self.units = nn.ModuleList(units)
        self.dense = Dense(inputs, classes, normal(0.01))

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        x = torch.relu(self.norm(self.conv(x, p), p))
        for unit in self.units:
            x = p.through(unit, x)
        return self.dense(x.mean((2, 3)), p)
