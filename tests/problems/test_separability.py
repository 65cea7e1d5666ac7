"""Whether examples are apart, where a gate that begins at zero hides what couples them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from deepobs_func.errors import ConfigError
from deepobs_func.problems.problem import Problem
from deepobs_func.problems.separability import away
from tests.problems.user_functions import data, problem_of

IMAGES = torch.randn(12, 4, 5, 5, generator=torch.Generator().manual_seed(1))


def centred(h: Tensor) -> Tensor:
    return h - h.mean(0)


class Gated(nn.Module):
    """A branch behind gates that begin at zero, or cancel."""

    def __init__(self, branch: Callable[[Tensor], Tensor], gates: int = 1, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 6), norm or nn.Identity(), nn.Linear(6, 3)
        self.gates = nn.ParameterList(
            nn.Parameter(torch.zeros(()) if gates == 1 else torch.ones(1)) for _ in range(gates)
        )
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.first(x))
        gate = self.gates[0] if len(self.gates) == 1 else self.gates[0] - self.gates[1]
        return self.last(h + gate * self.branch(h))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)
        self.last = nn.Linear(100, 3)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.last((x + self.norm(self.conv(x))).tanh().flatten(1))


def coupled_in_truth(problem: Problem) -> bool:
    params, state = problem.init()
    params = {name: leaf + 0.3 for name, leaf in params.items()}
    batch = problem.fake_batch(4)._replace(state=state)
    alone = problem.fake_batch(4)._replace(x=batch.x[:1], y=batch.y[:1], noise={}, state=state)
    return bool((problem.loss(params, batch)[:1] - problem.loss(params, alone)).abs() > 1e-3)


def test_a_gate_that_begins_at_zero() -> None:
    problem = problem_of(Gated(centred))
    assert not problem.separable
    assert coupled_in_truth(problem)
    assert problem_of(Gated(torch.tanh)).separable


def test_gates_that_cancel() -> None:
    assert not problem_of(Gated(centred, gates=2)).separable
    assert problem_of(Gated(torch.tanh, gates=2)).separable


def test_a_batch_norm_without_statistics_whose_scale_begins_at_zero() -> None:
    problem = problem_of(Residual(), dataset=data(IMAGES, torch.arange(12) % 3))
    assert not problem.separable
    assert not problem.normalizes


def test_moments_do_not_part_what_a_gate_couples() -> None:
    assert not problem_of(Gated(centred, norm=nn.BatchNorm1d(6))).normalizes
    assert problem_of(Gated(torch.tanh, norm=nn.BatchNorm1d(6))).normalizes


@pytest.mark.parametrize("norm", [None, nn.BatchNorm1d(6)])
def test_masks_of_other_examples_behind_a_gate(norm: nn.Module | None) -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, h: Tensor) -> Tensor:
            pairs = torch.stack((h, 2 * h))  # (2, B, features): examples are not in front
            return self.drop(pairs.flatten(0, 1)).view_as(pairs).sum(0)

    with pytest.raises(ConfigError, match="masks"):
        problem_of(Gated(Turned(), norm=norm))


@pytest.mark.parametrize("factor", [1.0, 1e6])
def test_rounding_of_a_deep_net_couples_nothing(factor: float) -> None:
    layers = [layer for _ in range(30) for layer in (nn.Linear(6, 6), nn.ReLU())]
    for layer in layers[::2]:
        assert isinstance(layer.weight, Tensor)
        nn.init.orthogonal_(layer.weight, gain=2.0)
    problem = problem_of(
        nn.Sequential(*layers, nn.Linear(6, 1), nn.Flatten(0)),
        lambda z, y: factor * (z - y).square(),
        data(y=torch.ones(20)),
    )
    assert problem.separable


def test_a_point_without_finite_losses_says_nothing() -> None:
    class Exploding(nn.Module):
        """Finite where it starts alone."""

        def __init__(self) -> None:
            super().__init__()
            self.layer, self.power = nn.Linear(6, 3), nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + (1e5 * self.power.square()).exp() - 1.0

    assert problem_of(Exploding()).separable


def test_every_number_moves() -> None:
    params = {
        "gate": torch.zeros(()),
        "small": torch.full((64, 32, 3), 1e-6),
        "scale": torch.ones(9000),
        "none": torch.ones(0, 3),
    }
    there = away(params)
    for name in ("gate", "small", "scale"):
        distance = (there[name] - params[name]).abs()
        assert distance.min() >= 0.4 * distance.max(), name
        assert distance.max() >= 0.03, name
    assert there["none"].shape == (0, 3)
    assert all(torch.equal(there[name], again) for name, again in away(params).items())
