"""Draws of layers and of functions of torch: in place, of every signature, and what is said of wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepobs_func.errors import ConfigError
from deepobs_func.problems.problem import Problem
from tests.problems.conversion.stock import assert_test_phase, assert_training_phase, at_float64, close, data, make


class Between(nn.Module):
    """A function between two dense layers, whose result is left aside where it works in place."""

    def __init__(self, draw: Any, inplace: bool) -> None:
        super().__init__()
        self.draw, self.inplace = draw, inplace
        self.first, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        y = self.draw(h) if isinstance(self.draw, nn.Module) else self.draw(h, self.training)
        return self.head(h if self.inplace else y)


def between(draw: Any, inplace: bool = False) -> Problem:
    torch.manual_seed(0)
    return make(Between(draw, inplace), data("vector"))


def quick(table: dict[str, Any], *names: str) -> list[Any]:
    """The names of a table; those of the quick tests are given."""
    return [pytest.param(name, marks=() if name in names else pytest.mark.large) for name in table]


def hidden(params: dict[str, Tensor], x: Tensor) -> Tensor:
    return x @ params["first.weight"].mT + params["first.bias"]


IN_PLACE: dict[str, Any] = {
    "nn.Dropout": nn.Dropout(0.5, inplace=True),
    "F.dropout": lambda h, training: F.dropout(h, 0.5, training, inplace=True),
    "torch.dropout_": lambda h, training: torch.dropout_(h, 0.5, training),
}


@pytest.mark.parametrize("name", quick(IN_PLACE, "nn.Dropout", "F.dropout"))
def test_draws_in_place_are_in_the_input(name: str) -> None:
    problem = between(IN_PLACE[name], inplace=True)
    params, batch = at_float64(problem)
    (mask,) = batch.noise.values()
    logits = (hidden(params, batch.x) * mask / 0.5) @ params["head.weight"].mT + params["head.bias"]
    close(problem.outputs(params, batch), logits)
    assert_test_phase(problem)


@pytest.mark.parametrize(
    "draw",
    [
        nn.RReLU(inplace=True),
        pytest.param(lambda h, training: F.rrelu_(h, training=training), marks=pytest.mark.large),
    ],
)
def test_random_slopes_in_place_are_in_the_input(draw: Any) -> None:
    problem = between(draw, inplace=True)
    params, batch = at_float64(problem)
    (unit,) = batch.noise.values()
    h = hidden(params, batch.x)
    slopes = 1 / 8 + (1 / 3 - 1 / 8) * unit.double()
    logits = torch.where(h >= 0, h, slopes * h) @ params["head.weight"].mT + params["head.bias"]
    close(problem.outputs(params, batch), logits)
    assert_test_phase(problem)


def test_draws_in_place_on_the_data_are_refused() -> None:
    with pytest.raises(ConfigError, match="changes inputs x"):
        make(nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Linear(6, 3)), data("vector"))


@pytest.mark.large
def test_a_residual_around_a_draw_in_place() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.drop, self.head = nn.Linear(6, 6), nn.Dropout(0.5, inplace=True), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            return self.head(self.drop(h) + h)

    assert_training_phase(make(Residual(), data("vector")))


SIGNATURES: dict[str, tuple[str, Callable[[Tensor, bool], Tensor]]] = {
    "torch.dropout": ("F.dropout", lambda h, training: torch.dropout(h, p=0.5, train=training)),
    "torch.feature_dropout": ("F.dropout2d", lambda h, training: torch.feature_dropout(h, 0.5, training)),
    "torch.alpha_dropout": ("F.alpha_dropout", lambda h, training: torch.alpha_dropout(h, 0.5, train=training)),
    "torch.rrelu": ("F.rrelu", lambda h, training: torch.rrelu(h, 0.1, 0.3, training)),
}


@pytest.mark.parametrize("name", quick(SIGNATURES, "torch.dropout"))
def test_functions_of_torch_by_their_own_signatures(name: str) -> None:
    expected, draw = SIGNATURES[name]
    problem = between(draw)
    assert list(problem.noises) == [expected]
    assert_test_phase(problem)


def attend(h: Tensor, training: bool) -> Tensor:
    x = h[:, None]
    return F.scaled_dot_product_attention(x, x, x, torch.zeros(1, 1), 0.5 * training, is_causal=True)[:, 0]


WRONG: dict[str, tuple[Callable[[Tensor, bool], Tensor], str]] = {
    "an unknown argument": (lambda h, training: torch.dropout(h, p=0.5, training=training), r"TypeError: dropout\(\)"),
    "two masks": (attend, "RuntimeError: .*attn_mask or is_causal"),
    "no probability": (lambda h, training: F.dropout(h, 1.5, training), "between 0 and 1, but got 1.5"),
    "too many axes": (lambda h, training: F.dropout1d(h[:, None, None], 0.5, training), "Expected 2D or 3D input"),
}


@pytest.mark.parametrize("name", quick(WRONG, "an unknown argument", "two masks"))
def test_wrong_calls_raise_what_torch_raises(name: str) -> None:
    draw, message = WRONG[name]
    with pytest.raises(ConfigError, match=message):
        between(draw)


class Jitter(nn.Module):
    """Adds noise in training, and declares how it draws."""

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return x + scale * torch.randn_like(x) if self.training else x

    def draw_noise(self, key: Tensor, shape: tuple[int, ...]) -> Tensor:
        from deepobs_func import random

        return random.normal(key, shape)


class Scaled(Jitter):
    def forward_with_noise(self, x: Tensor, noise: Tensor, scale: float = 1.0) -> Tensor:
        return x + scale * noise.to(x.dtype)


class Unscaled(Jitter):
    def forward_with_noise(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + noise.to(x.dtype)


class Outer(nn.Module):
    def __init__(self, jitter: nn.Module) -> None:
        super().__init__()
        self.jitter, self.head = jitter, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.jitter(x, scale=2.0))


def test_a_declared_draw_of_several_arguments() -> None:
    problem = make(Outer(Scaled()), data("vector"))
    params, batch = at_float64(problem)
    logits = (batch.x + 2 * batch.noise["jitter"]) @ params["head.weight"].mT + params["head.bias"]
    close(problem.outputs(params, batch), logits)
    assert_test_phase(problem)
    with pytest.raises(ConfigError, match=r"The layer 'jitter' is called with 1 positional arguments and \['scale'\]"):
        make(Outer(Unscaled()), data("vector"))
