"""Small nets of every kind that a population must treat as runs do: with noise, moments, a recurrent state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepobs_func import datasets, problems
from deepobs_func.nets.layers import BatchNorm, Conv, Dense, Pass
from deepobs_func.nets.noise import Dropout, Epsilon
from deepobs_func.nets.rnn import LSTM
from deepobs_func.nets.vae import VAEOutputs
from deepobs_func.problems import measures
from deepobs_func.problems.problem import Problem, call_with_pass, draw_declared
from tests.runner.small import small_problem


@cache  # as in `small_problem`
def _with(name: str, make_net: Callable[[], nn.Module], *shape: int, **changes: Any) -> Problem:
    """A problem of classes, or of images in (0, 1), with a net of this package's layers."""
    r = np.random.RandomState(0)

    def split(size: int) -> tuple[np.ndarray, np.ndarray]:
        return r.uniform(size=(size, *shape)).astype(np.float32), r.randint(0, 3, size)

    made = problems.from_module(
        nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 3)),
        partial(F.cross_entropy, reduction="none"),
        datasets.from_arrays(name, split(100), split(70)),
        epochs=2,
        batch_size=32,
        name=name,
    )
    own: dict[str, Any] = {"make_net": make_net, "measure": measures.cross_entropy, "draw": draw_declared}
    return replace(made, description=None, call=call_with_pass, **(own | changes))


class Dropping(nn.Module):
    """Half of the inputs is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.dense = Dropout(0.5, (5,)), Dense(5, 3)

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        return self.dense(self.dropout(x, p), p)


def dropping() -> Problem:
    """The small problem with noise."""
    own: dict[str, Any] = {"make_net": Dropping, "draw": draw_declared, "call": call_with_pass, "description": None}
    return replace(small_problem(), name="dropout", **own)


class Normalised(nn.Module):
    """A convolution, batch norm, dropout, a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = (
            Conv(1, 4, 3, bias=None),
            BatchNorm(4, 0.9, 1e-3),
        )  # a bias would be noise, which Adam scales
        self.dropout, self.out = Dropout(0.3, (4, 6, 6)), Dense(4 * 6 * 6, 3)

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        x = torch.relu(self.norm(self.conv(x, p), p))
        return self.out(self.dropout(x, p).flatten(1), p)


class Recurrent(nn.Module):
    """An LSTM whose state goes on from batch to batch, and a dense layer on its last output."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.dropout, self.out = LSTM(4, 6), Dropout(0.2, (6,)), Dense(6, 3)

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        return self.out(self.dropout(self.lstm(x, p)[:, -1], p), p)


class Variational(nn.Module):
    """An encoder and a decoder, a dense layer each, with noise in both phases."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_std, self.epsilon, self.image = Dense(9, 2), Dense(9, 2), Epsilon((2,)), Dense(2, 9)

    def forward(self, x: Tensor, p: Pass) -> VAEOutputs:
        flat = x.flatten(1)
        mean, log_std = self.mean(flat, p), self.log_std(flat, p)
        z = mean + self.epsilon(mean, p) * torch.exp(log_std)
        return VAEOutputs(torch.sigmoid(self.image(z, p)), mean, log_std)


class Small(nn.Module):
    """A convolution and a dense layer on a corner of CIFAR-10's images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = Conv(3, 4, 5, 4), Dense(4 * 6 * 6, 10)

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        return self.out(torch.relu(self.conv(x, p)[:, :, :6, :6]).flatten(1), p)


def augmented() -> Problem:
    """A small net on a cut of CIFAR-10, with its augmentation."""
    problem = problems.get("cifar10_3c3d")
    cut = replace(problem.dataset, train_size=64, test_size=32, file_sizes=())
    own: dict[str, Any] = {"make_net": Small, "description": None, "dataset": cut, "weight_decay": None}
    return replace(problem, name="augmented", batch_size=16, epochs=2, **own)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "linear": small_problem,
    "dropout and batch norm": partial(_with, "normalised", Normalised, 1, 6, 6, separable=False, weight_decay=0.01),
    "recurrent": partial(_with, "recurrent", Recurrent, 5, 4, separable=False),
    "variational": partial(_with, "variational", Variational, 1, 3, 3, measure=measures.vae),
    "quadratic": lambda: problems.get("quadratic_deep"),
    "two_d": lambda: problems.get("two_d_beale"),
}
