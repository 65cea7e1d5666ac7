"""Inception v3 (Szegedy et al., CVPR 2016), as `_inception_v3.py` of DeepOBS 1.1.2 has it."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepobs_func.nets.images import flatten, resize_bilinear
from deepobs_func.nets.layers import BatchNorm, Conv, Dense, Pass

CLASSES = 1001
Extent = int | tuple[int, int]


class InceptionOutputs(NamedTuple):
    """Logits `(B, 1001)` of the main head, and of the auxiliary head, which counts in training only (else None)."""

    main: Tensor
    auxiliary: Tensor | None


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: Extent, stride: int = 1, *, valid: bool = False) -> None:
        super().__init__()
        self.conv = Conv(inputs, outputs, kernel, stride, padding="valid" if valid else "same", bias=None)
        self.norm = BatchNorm(outputs, momentum=0.9997, epsilon=1e-3)

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        return torch.relu(self.norm(self.conv(x, p), p))


class Chain(nn.Module):
    """Several `ConvNorm`, one after the other: `(outputs, kernel)`, or `(outputs, kernel, stride)` without padding."""

    def __init__(self, inputs: int, *layers: tuple[int, Extent] | tuple[int, Extent, int]) -> None:
        super().__init__()
        made = []
        for outputs, kernel, *stride in layers:
            made.append(ConvNorm(inputs, outputs, kernel, *stride, valid=bool(stride)))
            inputs = outputs
        self.layers: nn.ModuleList = nn.ModuleList(made)

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        for layer in self.layers:
            x = layer(x, p)
        return x


def _mean_pool(x: Tensor) -> Tensor:
    """3x3 means with `SAME` padding, which does not count."""
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class Block5(nn.Module):
    """35x35: 1x1, pool and 1x1, 5x5, two 3x3."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch0 = Chain(inputs, (64, 1))
        self.branch1 = Chain(inputs, (pooled, 1))
        self.branch2 = Chain(inputs, (48, 1), (64, 5))
        self.branch3 = Chain(inputs, (64, 1), (96, 3), (96, 3))

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        branches = self.branch0(x, p), self.branch1(_mean_pool(x), p), self.branch2(x, p), self.branch3(x, p)
        return torch.cat(branches, 1)


class Block6(nn.Module):
    """17x17: 1x1, pool and 1x1, 7x7 as 1x7 and 7x1, twice 7x7."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.branch0 = Chain(768, (192, 1))
        self.branch1 = Chain(768, (192, 1))
        self.branch2 = Chain(768, (c, 1), (c, (1, 7)), (192, (7, 1)))
        self.branch3 = Chain(768, (c, 1), (c, (7, 1)), (c, (1, 7)), (c, (7, 1)), (192, (1, 7)))

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        branches = self.branch0(x, p), self.branch1(_mean_pool(x), p), self.branch2(x, p), self.branch3(x, p)
        return torch.cat(branches, 1)


class Reduction(nn.Module):
    """Halves the image: max pool beside two strided chains (blocks 10 and D)."""

    def __init__(self, branch1: Chain, branch2: Chain) -> None:
        super().__init__()
        self.branch1: Chain = branch1
        self.branch2: Chain = branch2

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        return torch.cat((F.max_pool2d(x, 3, 2), self.branch1(x, p), self.branch2(x, p)), 1)


class Block7(nn.Module):
    """8x8: 1x1, a split 3x3, a 3x3 and a split 3x3, pool and 1x1."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch0 = Chain(inputs, (320, 1))
        self.branch1 = Chain(inputs, (384, 1))
        self.branch1_wide, self.branch1_high = Chain(384, (384, (1, 3))), Chain(384, (384, (3, 1)))
        self.branch2 = Chain(inputs, (448, 1), (384, 3))
        self.branch2_wide, self.branch2_high = Chain(384, (384, (1, 3))), Chain(384, (384, (3, 1)))
        self.branch3 = Chain(inputs, (192, 1))

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        one, two = self.branch1(x, p), self.branch2(x, p)
        one = torch.cat((self.branch1_wide(one, p), self.branch1_high(one, p)), 1)
        two = torch.cat((self.branch2_wide(two, p), self.branch2_high(two, p)), 1)
        return torch.cat((self.branch0(x, p), one, two, self.branch3(_mean_pool(x), p)), 1)


class AuxiliaryHead(nn.Module):
    """17x17x768 -> logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvNorm(768, 128, 1)
        self.conv2 = ConvNorm(128, 768, 5, valid=True)
        self.dense = Dense(768, CLASSES)

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        x = self.conv1(F.avg_pool2d(x, 5, 3), p)  # (B, 128, 5, 5)
        return self.dense(flatten(self.conv2(x, p)), p)


class InceptionV3(nn.Module):
    """Images resized to 299x299 -> 1001 classes. The reference's dropout never fires, so there is none."""

    in_blocks = True

    def __init__(self) -> None:
        super().__init__()
        self.stem1, self.stem2 = ConvNorm(3, 32, 3, 2, valid=True), ConvNorm(32, 32, 3, valid=True)
        self.stem3 = ConvNorm(32, 64, 3)
        self.stem4, self.stem5 = ConvNorm(64, 80, 1, valid=True), ConvNorm(80, 192, 3, valid=True)
        self.blocks5 = nn.ModuleList((Block5(192, 32), Block5(256, 64), Block5(288, 64)))
        self.block10 = Reduction(Chain(288, (384, 3, 2)), Chain(288, (64, 1), (96, 3), (96, 3, 2)))
        self.blocks6 = nn.ModuleList(Block6(channels) for channels in (128, 160, 160, 192))
        self.auxiliary = AuxiliaryHead()
        to_192 = Chain(768, (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2))
        self.block_d = Reduction(to_192, Chain(768, (192, 1), (320, 3, 2)))
        self.blocks7 = nn.ModuleList((Block7(1280), Block7(2048)))
        self.dense = Dense(2048, CLASSES)

    def forward(self, x: Tensor, p: Pass) -> InceptionOutputs:
        x = resize_bilinear(x, 299, 299)
        x = self.stem3(self.stem2(self.stem1(x, p), p), p)  # (B, 64, 147, 147)
        x = self.stem5(self.stem4(F.max_pool2d(x, 3, 2), p), p)  # (B, 192, 71, 71)
        x = F.max_pool2d(x, 3, 2)  # (B, 192, 35, 35)
        for block in self.blocks5:
            x = p.through(block, x)
        x = self.block10(x, p)  # (B, 768, 17, 17)
        for block in self.blocks6:
            x = p.through(block, x)
        auxiliary = self.auxiliary(x, p) if p.train else None
        x = self.block_d(x, p)  # (B, 1280, 8, 8)
        for block in self.blocks7:
            x = p.through(block, x)
        return InceptionOutputs(self.dense(x.mean((2, 3)), p), auxiliary)
