"""Modules called with other tensors, of which some have two names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deepobs_func.nets.ties import call_tied, names_of, places_of


def tied() -> nn.Module:
    """One layer of two names, and another one with the same weight."""
    first, second = nn.Linear(2, 2, device="meta"), nn.Linear(2, 2, bias=False, device="meta")
    second.weight = first.weight
    return nn.Sequential(first, second, first)


def test_each_tensor_goes_to_all_of_its_places_and_out_of_them() -> None:
    net = tied()
    places = places_of(net)
    assert places == {"0.weight": "0.weight", "0.bias": "0.bias", "1.weight": "0.weight"}
    tensors = {"0.weight": torch.tensor([[1.0, 2.0], [0.0, 1.0]]), "0.bias": torch.tensor([1.0, 0.0])}
    assert call_tied(net, places, tensors, (torch.tensor([[1.0, 1.0]]),)).tolist() == [[9.0, 1.0]]
    assert names_of(net) == {id(net[0].weight): "0.weight", id(net[0].bias): "0.bias"}
    assert net[1].weight is net[0].weight
    assert net[0].weight.is_meta
    with pytest.raises(RuntimeError, match=r"Missing: \['0.bias'\]; unknown: \['2.bias'\]"):
        call_tied(net, places, {"0.weight": tensors["0.weight"], "2.bias": tensors["0.bias"]}, ())
