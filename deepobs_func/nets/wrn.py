"""Wide residual networks (Zagoruyko and Komodakis, BMVC 2016), as `_wrn.py` of DeepOBS 1.1.2 has them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepobs_func.nets.layers import BatchNorm, Conv, Dense, Pass


def _norm(channels: int) -> BatchNorm:
    return BatchNorm(channels, momentum=0.9, epsilon=1e-5)


class Unit(nn.Module):
    """A residual unit before activation: norm, ReLU, 3x3, norm, ReLU, 3x3.

    The shortcut is the raw input, or, in the first unit of a stage, a 1x1 convolution of the input after norm and ReLU.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, first: bool) -> None:
        super().__init__()
        self.norm1 = _norm(inputs)
        self.shortcut = Conv(inputs, outputs, 1, stride, bias=None) if first else None
        self.conv1 = Conv(inputs, outputs, 3, stride, bias=None)
        self.norm2 = _norm(outputs)
        self.conv2 = Conv(outputs, outputs, 3, bias=None)

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        activated = torch.relu(self.norm1(x, p))
        residual = self.conv2(torch.relu(self.norm2(self.conv1(activated, p), p)), p)
        return residual + (x if self.shortcut is None else self.shortcut(activated, p))


class WideResNet(nn.Module):
    """WRN-d-k: 3x32x32 -> classes.

    Args:
        depth: d = 6 n + 4, n units a stage.
        widening: k, so that the three stages have 16 k, 32 k and 64 k channels.
        classes: of the dense layer.
    """

    in_blocks = True

    def __init__(self, depth: int, widening: int, classes: int) -> None:
        super().__init__()
        self.conv = Conv(3, 16, 3, bias=None)
        units, inputs = [], 16
        for stage, base in enumerate((16, 32, 64)):
            for index in range((depth - 4) // 6):
                stride = 2 if stage > 0 and index == 0 else 1
                units.append(Unit(inputs, base * widening, stride, first=index == 0))
                inputs = base * widening
        self.units = nn.ModuleList(units)
        self.norm = _norm(inputs)
        self.dense = Dense(inputs, classes)

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        x = self.conv(x, p)
        for unit in self.units:
            x = p.through(unit, x)
        return self.dense(torch.relu(self.norm(x, p)).mean((2, 3)), p)
