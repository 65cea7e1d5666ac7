"""Which per-example gradients are confirmed: those whose parameters go through their layer alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepobs_func import probes
from deepobs_func.probes.per_example import explain
from tests.problems.conversion.stock import at_float64, close, data, make


def test_a_use_that_the_first_examples_do_not_show() -> None:
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            rare = F.linear(x, self.first.weight) * 2
            return self.head(torch.where(x[:, :1] > 3.0, rare, self.first(x)))

    problem = make(Sometimes(), data("vector"))
    params, batch = at_float64(problem)
    batch = batch._replace(x=batch.x + 4.0)
    ways = explain(problem, params)
    assert [name for name, way in ways.items() if "layer" not in way and "Linear" not in way] == ["first.weight"]
    found = probes.per_example_grads(problem, params, batch)
    right = torch.func.jacrev(lambda p: problem.loss(p, batch))(params)
    for name in params:
        close(found[name], right[name])


def test_hooks_that_read_a_weight() -> None:
    net = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    net[0].register_forward_hook(lambda layer, _, y: y + (layer.weight.sum() - layer.weight.sum().detach()) * 1e-9)
    problem = make(net, data("vector"))
    assert {path: layer.taken for path, (layer, _) in problem.layers.items()} == {
        "0": ("bias",),
        "2": ("weight", "bias"),
    }
