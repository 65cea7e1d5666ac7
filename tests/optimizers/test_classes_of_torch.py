"""Every optimizer class of `torch.optim`: behind the adapter it does what it does by itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deepobs_func import random
from deepobs_func.optimizers.torch_optim import from_class
from tests.optimizers.loops import STEPS, Case, check

CLASSES = {
    name: value
    for name, value in vars(torch.optim).items()
    if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
}
OTHERWISE = {
    "LBFGS": Case(torch.optim.LBFGS, 0.5, {"max_iter": 20, "line_search_fn": "strong_wolfe"}, closure=True),
    "Muon": Case(torch.optim.Muon, matrices=True),
}


@pytest.mark.parametrize("name", sorted(CLASSES.keys() - {"SparseAdam"}))
def test_a_class_equals_itself_in_a_plain_loop(name: str) -> None:
    check(OTHERWISE.get(name, Case(CLASSES[name])))


def test_sparse_adam_is_given_the_rows_that_are_not_zero() -> None:
    """The rows of an embedding that a batch looks up; the moments of the others stay."""
    rows = [torch.tensor(row) for row in ([0, 2, 2], [1, 2], [5], [0, 1], [2, 5])]
    target = torch.arange(21.0, dtype=torch.float64).view(7, 3)
    embedding = nn.Embedding(7, 3, sparse=True, dtype=torch.float64)
    first = {"weight": embedding.weight.detach().clone()}
    theirs = torch.optim.SparseAdam(embedding.parameters(), lr=0.1)
    for batch in rows:
        theirs.zero_grad()
        (embedding(batch) - target[batch]).square().sum().backward()
        theirs.step()

    class Oracle:
        def __init__(self, batch):
            self.batch = batch

        def value(self):
            return torch.zeros(())

        def grad(self):
            loss = lambda p: (p["weight"][self.batch] - target[self.batch]).square().sum()
            return torch.func.grad(loss)(params)

    optimizer, params = from_class(torch.optim.SparseAdam, 0.1, {}), first
    state = optimizer.init(params, random.key(0))
    for step in range(STEPS):
        if step == 2:
            state = optimizer.load(optimizer.save(state), params, random.key(0))
        params, state = optimizer.update(Oracle(rows[step]), state, params)
    torch.testing.assert_close(params["weight"], embedding.weight.detach(), rtol=1e-12, atol=0)
    assert torch.equal(params["weight"][[3, 4, 6]], first["weight"][[3, 4, 6]])
