"""A problem's net as an ordinary module."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deepobs_func import problems
from deepobs_func.nets.layers import Conv, Dense
from tests.problems.test_registry import NAMES, instance, table


@pytest.mark.parametrize("name", table(NAMES))
def test_the_module_has_the_problem_s_outputs_and_parameters(name: str) -> None:
    problem = problems.get(name)
    params, batch = instance(problem)
    module = problem.to_module(params)
    ours, theirs = problem.outputs(params, batch), module(batch)
    torch.testing.assert_close(theirs, ours)
    held = {key.removeprefix("net."): p for key, p in module.named_parameters()}
    assert list(held) == list(params)
    assert all(p.data_ptr() == params[key].data_ptr() for key, p in held.items())
    assert not any(isinstance(layer, Dense | Conv) for layer in module.modules())
    assert all(tensor.is_meta for tensor in problem.net.state_dict().values())


def test_tied_parameters_stay_tied() -> None:
    first = nn.Linear(784, 784)
    second = nn.Linear(784, 784)
    second.weight = first.weight
    net = nn.Sequential(nn.Flatten(), first, nn.Tanh(), second, nn.Linear(784, 10))
    problem = problems.from_module(net, nn.CrossEntropyLoss(reduction="none"), "mnist")
    params, batch = problem.init()[0], problem.fake_batch(3)
    module = problem.batch_module(params)
    torch.testing.assert_close(module(batch), problem.outputs(params, batch))
    assert module.net[1].weight is module.net[3].weight


def test_frozen_parameters_come_with_the_batch() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.Tanh(), nn.Linear(20, 10))
    net[1].requires_grad_(False)
    problem = problems.from_module(net, nn.CrossEntropyLoss(reduction="none"), "mnist")
    params, batch = problem.init()[0], problem.fake_batch(3)
    torch.testing.assert_close(problem.batch_module(params)(batch), problem.outputs(params, batch))
