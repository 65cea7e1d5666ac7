"""Fully connected nets on images: logistic regression and the four-layer perceptron."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deepobs_func.nets.images import flatten
from deepobs_func.nets.initializers import Initializer, constant, he_normal, truncated_normal
from deepobs_func.nets.layers import Dense, Pass


class MLP(nn.Module):
    """Dense layers with ReLU between them.

    Args:
        widths: from the number of inputs to the number of classes.
        weight: the initial distribution of every kernel; biases start at 0.
    """

    def __init__(self, widths: Sequence[int], weight: Initializer) -> None:
        super().__init__()
        pairs = itertools.pairwise(widths)
        self.dense: nn.ModuleList = nn.ModuleList(Dense(inputs, outputs, weight) for inputs, outputs in pairs)

    def forward(self, x: Tensor, p: Pass) -> Tensor:  # (B, C, H, W) -> (B, classes)
        x = flatten(x)
        *hidden, last = self.dense
        for layer in hidden:
            x = torch.relu(layer(x, p))
        return last(x, p)


def logreg() -> MLP:
    """Logistic regression, 784-10, starting at 0. Source: `_logreg.py` of DeepOBS 1.1.2."""
    return MLP((784, 10), constant(0.0))


def mlp() -> MLP:
    """784-1000-500-100-10, truncated normal of 0.03. Source: `_mlp.py` of DeepOBS 1.1.2."""
    return MLP((784, 1000, 500, 100, 10), truncated_normal(0.03))


def digits() -> MLP:
    """64-128-64-10 on images of 8x8, started as He et al., ICCV 2015, have it for ReLU."""
    return MLP((64, 128, 64, 10), he_normal())
