"""Small convolutional nets: 2c2d, 3c3d, All-CNN-C.

A ReLU comes after the pool, the padding or the dropout that follows it in the reference: the result is the same bit for
bit, and one tensor less is computed on, or kept for the backward pass.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from deepobs_func.nets.images import flatten, max_pool, pad_fully
from deepobs_func.nets.initializers import constant, glorot_normal, truncated_normal
from deepobs_func.nets.layers import Conv, Dense, Pass
from deepobs_func.nets.noise import Dropout


class Net2c2d(nn.Module):
    """Two 5x5 convolutions with pools, two dense layers, 1x28x28 -> 10. Source: `_2c2d.py` of DeepOBS 1.1.2."""

    def __init__(self) -> None:
        super().__init__()
        weight, bias = truncated_normal(0.05), constant(0.05)
        self.conv1 = Conv(1, 32, 5, weight=weight, bias=bias)
        self.conv2 = Conv(32, 64, 5, weight=weight, bias=bias)
        self.dense1 = Dense(7 * 7 * 64, 1024, weight, bias)
        self.dense2 = Dense(1024, 10, weight, bias)

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        x = torch.relu(max_pool(self.conv1(x, p), 2, 2))  # (B, 32, 14, 14)
        x = torch.relu(max_pool(self.conv2(x, p), 2, 2))  # (B, 64, 7, 7)
        return self.dense2(torch.relu(self.dense1(flatten(x), p)), p)


class Net3c3d(nn.Module):
    """Three convolutions with pools, three dense layers, 3x32x32 -> classes. Source: `_3c3d.py` of DeepOBS 1.1.2."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        weight = glorot_normal()
        self.conv1 = Conv(3, 64, 5, padding="valid", weight=weight)
        self.conv2 = Conv(64, 96, 3, padding="valid", weight=weight)
        self.conv3 = Conv(96, 128, 3, weight=weight)
        self.dense1 = Dense(3 * 3 * 128, 512)
        self.dense2 = Dense(512, 256)
        self.dense3 = Dense(256, classes)

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        x = torch.relu(max_pool(self.conv1(x, p), 3, 2))  # (B, 64, 14, 14)
        x = torch.relu(max_pool(self.conv2(x, p), 3, 2))  # (B, 96, 6, 6)
        x = torch.relu(max_pool(self.conv3(x, p), 3, 2))  # (B, 128, 3, 3)
        x = torch.relu(self.dense1(flatten(x), p))
        return self.dense3(torch.relu(self.dense2(x, p)), p)


class AllCNNC(nn.Module):
    """Nine convolutions and a mean, 3x32x32 -> 100, a ReLU after the last one too. Source: `cifar100_allcnnc.py`.

    Springenberg et al., "Striving for simplicity", ICLR 2015 workshop.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dropout0 = Dropout(0.2, (3, 32, 32))
        self.conv1, self.conv2, self.conv3 = _conv(3, 96), _conv(96, 96), _conv(96, 96, stride=2, padding="valid")
        self.dropout1 = Dropout(0.5, (96, 16, 16))
        self.conv4, self.conv5, self.conv6 = _conv(96, 192), _conv(192, 192), _conv(192, 192, stride=2, padding="valid")
        self.dropout2 = Dropout(0.5, (192, 8, 8))
        self.conv7 = _conv(192, 192, padding="valid")
        self.conv8, self.conv9 = _conv(192, 192, kernel=1), _conv(192, 100, kernel=1)

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        x = torch.relu(self.conv1(self.dropout0(x, p), p))
        x = torch.relu(_padded(self.conv2(x, p)))  # (B, 96, 33, 33)
        x = torch.relu(self.dropout1(self.conv3(x, p), p))  # (B, 96, 16, 16)
        x = torch.relu(self.conv4(x, p))
        x = torch.relu(_padded(self.conv5(x, p)))  # (B, 192, 17, 17)
        x = torch.relu(self.dropout2(self.conv6(x, p), p))  # (B, 192, 8, 8)
        for conv in (self.conv7, self.conv8, self.conv9):
            x = torch.relu(conv(x, p))
        return x.mean((2, 3))  # over (6, 6)


def _padded(x: Tensor) -> Tensor:
    """`SAME` padding for a 3x3 convolution with stride 2."""
    return pad_fully(x, (3, 3), 2)


def _conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, padding: Literal["same", "valid"] = "same"
) -> Conv:
    """All-CNN-C's convolution: Glorot's normal, and a bias that starts at 0.1."""
    return Conv(inputs, outputs, kernel, stride, padding=padding, weight=glorot_normal(), bias=constant(0.1))
