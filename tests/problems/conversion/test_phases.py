"""How a converted module is called: names of tensors and of draws."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from deepobs_func import optimizers, random
from deepobs_func.errors import ConfigError
from deepobs_func.runner.step import Carry, Step, make_step
from tests.problems.conversion.stock import assert_test_phase, assert_training_phase, at_float64, close, data, make


def test_a_module_of_two_names_keeps_no_tensors_of_a_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.norm = nn.Linear(6, 6), nn.Linear(6, 3), nn.BatchNorm1d(6)
            self.net = nn.Sequential(self.first, self.norm, nn.ReLU(), self.second)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    problem = make(Twice(), data("vector"), weight_decay=1.0)
    params, batch = at_float64(problem)
    kernels = ("first.weight", "second.weight")
    assert problem.regularized == kernels
    close(problem.penalty(params), sum(params[name].square().sum() / 2 for name in kernels))
    stacked = {name: leaf.expand(2, *leaf.shape) for name, leaf in params.items()}
    torch.func.vmap(lambda p: problem.loss(p, batch))(stacked)
    assert all(leaf.is_meta for leaf in copy.deepcopy(problem.net).state_dict().values())
    assert_training_phase(problem)
    assert_test_phase(problem)
    with pytest.raises(RuntimeError, match=r"Missing: \['first.bias'\]; unknown: \['net.0.bias'\]"):
        problem.loss({name.replace("first.bias", "net.0.bias"): leaf for name, leaf in params.items()}, batch)


def test_draws_have_names_of_their_own() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.test, self.a, self.head = nn.Module(), nn.Dropout(0.3), nn.Linear(6, 3)
            self.test.a = nn.Dropout(0.5)
            self.a.add_module("1", nn.Dropout(0.6))

        def forward(self, x: Tensor) -> Tensor:
            self.a.train()  # in the test phase too
            return self.head(self.test.a(getattr(self.a, "1")(self.a(self.a(x)))))

    problem = make(Named(), data("vector"))
    means = {name: float(mask.float().mean()) for name, mask in problem.fake_batch(4000).noise.items()}
    assert means == pytest.approx({"a": 0.7, "a#1": 0.7, "a.1": 0.4, "test.a": 0.5}, abs=0.02)
    assert {name for name, place in problem.noises.items() if place.in_evaluation} == {"test:a", "test:a#1", "test:a.1"}
    assert_training_phase(problem)


def test_a_fault_of_the_forward_method_is_put_there() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(6, 3, batch_first=True), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            steps = nn.utils.rnn.pack_padded_sequence(x, [4] * len(x), batch_first=True, enforce_sorted=False)
            return self.head(self.lstm(steps)[1][0][-1])

    problem = make(Packed(), data("signal"))
    assert "vmap" in problem.ways.faults
    assert problem.ways.where == "the module's forward method"


@pytest.mark.parametrize(
    ("name", "layer"),
    [("a#1", nn.Dropout()), ("test:a", nn.Dropout()), ("F", nn.ModuleDict({"dropout": nn.Dropout()}))],
)
def test_layers_with_names_of_other_draws_are_refused(name: str, layer: nn.Module) -> None:
    net = nn.Sequential(nn.Linear(6, 3))
    net.add_module(name, layer)
    with pytest.raises(ConfigError, match=r"have names that draws have in batch.noise"):
        make(net, data("vector"))


class Forgetful(nn.Module):
    """Draws by a layer and by a function, and keeps statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3)
        self.drop, self.head = nn.Dropout2d(0.3), nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(torch.tanh(self.norm(self.conv(x))))
        return self.head(F.dropout(y.flatten(1), 0.2, self.training))


@pytest.mark.large
def test_work_of_some_steps_compiles_with_draws_and_statistics() -> None:
    """A branch of `torch.cond` calls the net: the compiler lets nothing outside of it be set there."""
    problem = make(Forgetful, data("image"))
    optimizer = optimizers.sophia_h(1e-2, update_every=3)
    params, batch = at_float64(problem)
    start = Carry(params, optimizer.init(params, random.key(0)), batch.state)
    batches = [problem.fake_batch(3, seed, dtype=torch.float64) for seed in range(5)]
    step = make_step(problem, optimizer)

    def after(step: Step) -> list[Tensor]:
        carry = start
        for each in batches:
            carry, _ = step(carry, each)
        return pytree.tree_leaves(carry)

    compiled = after(torch.compile(step, backend="eager", fullgraph=True, dynamic=False))
    for found, right in zip(compiled, after(step), strict=True):
        assert torch.equal(found, right)
