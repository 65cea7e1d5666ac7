"""ConvNeXt for 28 x 28 images: depthwise convolutions and layer norm."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from deepobs_func.nets.initializers import constant, normal
from deepobs_func.nets.layers import Conv, Dense, Pass
from deepobs_func.nets.norms import LayerNorm, Scale

EPSILON = 1e-6
WEIGHT = normal(0.02)


class Unit(nn.Module):
    """`x + scale(1x1(gelu(1x1(norm(depthwise 7x7)))))`, with four times the channels in between; `(B, C, H, W)`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, 7, padding=3, groups=channels, weight=WEIGHT)
        self.norm = LayerNorm(channels, EPSILON)
        self.dense1, self.dense2 = Dense(channels, 4 * channels, WEIGHT), Dense(4 * channels, channels, WEIGHT)
        self.scale = Scale(channels, constant(1e-6))

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        y = self.norm(self.conv(x, p).permute(0, 2, 3, 1), p)  # (B, H, W, C)
        y = self.dense2(F.gelu(self.dense1(y, p)), p)
        return x + self.scale(y, p).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """A convolution 2x2 with stride 2 and units; a norm comes after the convolution at the start, else before it."""

    def __init__(self, inputs: int, channels: int, units: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.down = Conv(inputs, channels, 2, stride=2, padding="valid", weight=WEIGHT)
        self.norm = LayerNorm(channels if first else inputs, EPSILON)
        self.units = nn.ModuleList(Unit(channels) for _ in range(units))

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        x = self._normed(self.down(x, p), p) if self.first else self.down(self._normed(x, p), p)
        for unit in self.units:
            x = p.through(unit, x)
        return x

    def _normed(self, x: Tensor, p: Pass) -> Tensor:
        """Over the channels of each pixel."""
        return self.norm(x.permute(0, 2, 3, 1), p).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """1x28x28 -> classes: stages, each at half the resolution of the one before, a mean, a norm, a dense layer.

    Args:
        channels: of each stage.
        units: in each stage.
        classes: of the dense layer.

    Kernels are drawn from a normal of 0.02: timm's `trunc_normal_(std=.02)`, by which the authors draw, cuts at -2 and
    2 and not at two deviations, so it cuts nothing.

    Source: Liu et al., CVPR 2022; with patches of 2 in place of 4 at the start, for small images.
    """

    in_blocks = True

    def __init__(self, channels: Sequence[int], units: int, classes: int) -> None:
        super().__init__()
        sizes = enumerate(itertools.pairwise((1, *channels)))
        self.stages = nn.ModuleList(Stage(a, b, units, first=index == 0) for index, (a, b) in sizes)
        self.norm = LayerNorm(channels[-1], EPSILON)
        self.dense = Dense(channels[-1], classes, WEIGHT)

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        for stage in self.stages:
            x = stage(x, p)
        return self.dense(self.norm(x.mean((2, 3)), p), p)
