"""Small convolutional nets: 2c2d."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepobs_func.nets.initializers import constant, truncated_normal
from deepobs_func.nets.layers import Conv, Dense, Pass, flatten, max_pool


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
        x = max_pool(torch.relu(self.conv1(x)), 2, 2)  # (B, 32, 14, 14)
        x = max_pool(torch.relu(self.conv2(x)), 2, 2)  # (B, 64, 7, 7)
        return self.dense2(torch.relu(self.dense1(flatten(x))))
