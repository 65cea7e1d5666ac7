"""Runs of torch optimizers that ask for more than a gradient, beside plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from deepobs_func import datasets, problems
from deepobs_func.problems import measures
from deepobs_func.runner import RunConfig, run
from tests.optimizers import classes

GENERATOR = np.random.default_rng(0)
X, Y = GENERATOR.normal(size=(24, 5)).astype(np.float32), GENERATOR.integers(0, 3, size=24)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def losses_of_run(name: str) -> list[float]:
    """Epochs of one batch, which is the whole of the data, and the test set too."""
    data = datasets.from_arrays("mine", (X, Y), (X, Y))
    problem = problems.from_module(net(), measures.cross_entropy, data, name="mine", batch_size=24)
    path = f"tests.optimizers.classes.{name}"
    return run(RunConfig("mine", path, lr=0.2, epochs=4, output_dir=None, compile="off"), problem).test_losses


def losses_of_loop(cls: Any) -> list[float]:
    """The loop that everybody writes."""
    module, x, y = net(), torch.from_numpy(X), torch.from_numpy(Y)
    optimizer: Any = cls(module.parameters(), lr=0.2)
    losses = [cross_entropy(module(x), y).item()]
    for _ in range(4):
        if hasattr(optimizer, "train"):
            optimizer.train()
        optimizer.zero_grad()
        loss = cross_entropy(module(x), y)
        grads = torch.autograd.grad(loss, list(module.parameters()), create_graph=True)
        for leaf, grad in zip(module.parameters(), grads, strict=True):
            leaf.grad = grad.clone()
        optimizer.step()
        if hasattr(optimizer, "eval"):
            optimizer.eval()
        losses.append(cross_entropy(module(x), y).item())
    return losses


@pytest.mark.parametrize("name", ["Rounding", "NewtonDiagonal"])
def test_a_run_is_the_plain_loop(name: str) -> None:
    """One is evaluated at another point than its iterate, the other differentiates its gradient."""
    expected = losses_of_loop(getattr(classes, name))
    assert len(set(expected)) == 5
    np.testing.assert_allclose(losses_of_run(name), expected, rtol=1e-5)
