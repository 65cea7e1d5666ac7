"""Networks and data of a user's, small enough to make a problem of each in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepobs_func import datasets, problems
from deepobs_func.datasets import DatasetSpec
from deepobs_func.problems.problem import Problem

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(20) % 3
VALUES = X @ torch.linspace(-1, 1, 6)

cross_entropy = partial(F.cross_entropy, reduction="none")
square_error = partial(F.mse_loss, reduction="none")


def data(x: Any = X, y: Any = LABELS, test_x: Any = None, test_y: Any = None) -> DatasetSpec:
    return datasets.from_arrays("toy", (x, y), (x if test_x is None else test_x, y if test_y is None else test_y))


def problem_of(net: nn.Module, criterion: Any = cross_entropy, dataset: Any = None, **options: Any) -> Problem:
    return problems.from_module(net, criterion, dataset or data(), batch_size=8, **options)


class Net(nn.Module):
    """A layer 6 -> 3 and whatever else `forward` does with it."""

    def __init__(self, function: Callable[[Net, Tensor], Any], **attributes: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.function = function
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)
