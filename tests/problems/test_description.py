"""The tensors of a user's module: trained, constant, tied, and what is refused."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from deepobs_func.errors import ConfigError
from deepobs_func.problems.description import describe, on_meta
from tests.problems.user_functions import Net


def test_trained_parameters_and_constants() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    net[0].bias.requires_grad_(False)
    found = describe(net)
    assert list(found.params) == ["0.weight", "1.weight", "1.bias"]
    assert list(found.constants) == ["0.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert all(tensor is not net.state_dict()[name] for name, tensor in found.params.items())


def test_the_copy_holds_no_data_and_keeps_ties_and_freezing() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    net[0].weight.requires_grad_(False)
    copy = on_meta(net)
    assert copy[1].weight is copy[0].weight
    assert not copy[0].weight.requires_grad
    assert copy[0].bias.requires_grad
    assert all(tensor.is_meta for tensor in copy.state_dict().values())


def test_a_parameter_that_is_a_buffer_too_is_one_tensor() -> None:
    net = Net(lambda self, x: self.layer(x) + x @ self.same.T)
    net.register_buffer("same", net.layer.weight)
    assert list(describe(net).constants) == []
    assert on_meta(net).same is not net.same


def test_tensors_with_a_graph_are_copied() -> None:
    net = nn.utils.weight_norm(nn.Linear(2, 3))  # keeps the weight that it computed as a plain attribute
    net(torch.ones(1, 2))
    assert on_meta(net).weight.is_leaf
    assert net.weight.grad_fn is not None


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (nn.LazyLinear(3), r"\['weight', 'bias'\] have no shape before its first call.*module\(x\[:2\]\)"),
        (nn.LazyBatchNorm1d(affine=False), "running_mean.*no shape before"),
        (nn.Linear(2, 3, dtype=torch.complex64), r"\['weight', 'bias'\] are complex.*view_as_complex"),
        (nn.Linear(2, 3).requires_grad_(False), "no parameter to train"),
        (nn.ReLU(), "no parameter to train"),
    ],
)
def test_what_cannot_be_trained_is_refused(net: nn.Module, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        describe(net)


def test_parameters_over_one_memory_are_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight.data = net[0].weight.data
    with pytest.raises(ConfigError, match=r"'0.weight' and '1.weight' are two that share memory.*one nn.Parameter"):
        describe(net)
    parts = torch.zeros(12).split(6)  # one memory, and no number of it twice
    net = nn.ParameterList(nn.Parameter(part) for part in parts)
    assert list(describe(net).params) == ["0", "1"]


def test_what_cannot_be_copied_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Net cannot be copied: .*lock"):
        on_meta(Net(lambda self, x: self.layer(x), lock=threading.Lock()))
