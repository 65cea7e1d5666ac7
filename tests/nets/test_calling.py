"""Calls of a net with the tensors that it is given."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.func import functional_call

from deepobs_func import problems
from deepobs_func.nets.calling import call
from deepobs_func.nets.layers import Pass
from deepobs_func.nets.quadratic import Point


def tensors(u: float) -> dict[str, torch.Tensor]:
    return {"u": torch.tensor(u), "v": torch.tensor(-u)}


def test_it_is_functional_call_and_leaves_the_net_as_it_was() -> None:
    problem = problems.get("mnist_2c2d")
    params, batch = problem.init(0)[0], problem.fake_batch(2)
    own = dict(problem.net.named_parameters())
    ours = call(problem.net, params, (batch.x, Pass(True, {}, {})))
    assert torch.equal(ours, functional_call(problem.net, params, (batch.x, Pass(True, {}, {}))))
    assert all(parameter is own[name] for name, parameter in problem.net.named_parameters())
    assert all(problem.net.get_parameter(name).device.type == "meta" for name in own)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_net_that_was_called_has_tensors_of_its_own(duplicate: object) -> None:
    net, x = Point(0.0, 0.0), torch.zeros(3)
    call(net, tensors(1.0), (x, Pass(True, {}, {})))
    other = duplicate(net)  # type: ignore[operator]
    assert call(other, tensors(2.0), (x, Pass(True, {}, {})))[0].tolist() == [2, -2]
    assert call(net, tensors(1.0), (x, Pass(True, {}, {})))[0].tolist() == [1, -1]


def test_an_error_within_leaves_the_net_as_it_was() -> None:
    net = Point(0.0, 0.0)
    with pytest.raises(AttributeError):
        call(net, tensors(1.0), (None, Pass(True, {}, {})))
    assert net.u.device.type == "meta"


def test_a_missing_tensor_is_refused() -> None:
    with pytest.raises(RuntimeError, match="Missing key"):
        call(Point(0.0, 0.0), {"u": torch.ones(())}, (torch.zeros(3), Pass(True, {}, {})))
