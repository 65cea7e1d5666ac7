"""Norms that take each example alone: layer norm and group norm.

A pass that allows fused kernels runs torch's, which serve the plain gradient. Any other pass computes them by
`backend.standardising`: reverse mode through torch's forward-mode formula of `layer_norm` takes its mean for a
constant.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deepobs_func.backend.standardising import affine_of_groups, standardised
from deepobs_func.base import Outer
from deepobs_func.nets.initializers import Initializer, constant
from deepobs_func.nets.layers import ZEROS, Layer, Pass

ONES = constant(1.0)


class LayerNorm(Layer):
    """Layer normalisation over the last axis, `(B, ..., width)`: mean 0 and variance 1, times `weight`, plus `bias`.

    Args:
        width: of the last axis.
        epsilon: added to the biased variance.

    Source: Ba, Kiros and Hinton, arXiv:1607.06450.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.declare("weight", (width,), ONES)
        self.declare("bias", (width,), ZEROS)

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        x = x.to(self.weight.dtype)  # statistics of a half-precision input would be rounded to it
        if p.fused and p.tap is None:
            return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)
        normalised = standardised(x, self.epsilon)
        return p.tapped(self, normalised, normalised * self.weight + self.bias)

    def factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        return {"weight": over_positions(g * x), "bias": over_positions(g)}  # x is the normalised input


class GroupNorm(Layer):
    """Group normalisation of `(B, C, H, W)`: mean 0 and variance 1 over each group of channels of an example.

    Args:
        groups: how many; they cut the channels into equal parts.
        channels: C.
        epsilon: added to the biased variance.

    Source: Wu and He, ECCV 2018.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, groups: int, channels: int, epsilon: float) -> None:
        super().__init__()
        self.groups, self.epsilon = groups, epsilon
        self.declare("weight", (channels,), ONES)
        self.declare("bias", (channels,), ZEROS)

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        x = x.to(self.weight.dtype)
        if p.fused and p.tap is None:
            return F.group_norm(x, self.groups, self.weight, self.bias, self.epsilon)
        if torch.compiler.is_compiling() and p.tap is None:
            return affine_of_groups(x, self.groups, self.weight, self.bias, self.epsilon)
        normalised = standardised(x.reshape(len(x), self.groups, -1), self.epsilon).reshape(x.shape)
        return p.tapped(self, normalised, normalised * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1))

    def factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        return {"weight": (g * x).sum((2, 3)), "bias": g.sum((2, 3))}  # x is the normalised input


class Scale(Layer):
    """A factor for each entry of the last axis, `x weight`: the layer scale of deep residual nets.

    Args:
        width: of the last axis.
        weight: the initial factors.

    Source: Touvron et al., "Going deeper with image transformers", ICCV 2021.
    """

    weight: Tensor

    def __init__(self, width: int, weight: Initializer) -> None:
        super().__init__()
        self.declare("weight", (width,), weight)

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        return p.tapped(self, x, x * self.weight)

    def factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        return {"weight": over_positions(g * x)}


def over_positions(values: Tensor) -> Tensor:
    """`(B, ..., width) -> (B, width)`: the sum over the positions of each example."""
    return values.flatten(1, -2).sum(1) if values.ndim > 2 else values
