"""Problems and optimizers of a user's own, for studies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from deepobs_func import optimizers, problems
from deepobs_func.optimizers import Optimizer
from deepobs_func.problems import Problem


def quadratic() -> Problem:
    """A problem that a function makes."""
    return problems.get("two_d_beale")


def few_images(name: str = "mnist_logreg") -> Problem:
    """A problem on the first images of its data set."""
    problem = problems.get(name)
    return replace(problem, name="few_images", dataset=replace(problem.dataset, train_size=256, test_size=128))


def half_sgd(lr: float, factor: float = 0.5) -> Optimizer:
    """A functional optimizer that a function makes."""
    return optimizers.sgd(lr * factor)


def momentum(
    named_parameters: Sequence[tuple[str, nn.Parameter]], lr: float, beta: float = 0.9
) -> torch.optim.Optimizer:
    """A torch optimizer that a function makes."""
    return torch.optim.SGD([parameter for _, parameter in named_parameters], lr=lr, momentum=beta)


class OwnSGD(torch.optim.SGD):
    """A class."""

    def __init__(self, params: Any, lr: float = 0.1, momentum: float = 0.0) -> None:
        super().__init__(params, lr=lr, momentum=momentum)


class Outer:
    """What holds another class."""

    class Inner(torch.optim.SGD):
        """A class that is not at the top level."""
