"""What the examination of an optimizer finds: of good ones, and of ones with a fault each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from deepobs_func import tree
from deepobs_func.base import Params
from deepobs_func.errors import ConfigError
from deepobs_func.optimizers import Optimizer
from deepobs_func.runner.checking import Finding
from deepobs_func.runner.checking_optimizers import _rates, examine_optimizer
from deepobs_func.runner.trial import Trial, trial_problem

Update = Callable[[Any, Any, Params], tuple[Params, Any]]


def functional(update: Update, state: Any = None, **more: Any) -> Optimizer:
    return Optimizer(lambda params, key: state if state is not None else tree.zeros_like(params), update, **more)


def examined(value: Any, name: str = "mine", **options: Any) -> dict[str, Finding]:
    found = examine_optimizer(name, value, compile=False, lr=0.1, **options)
    return {finding.check: finding for finding in found}


def finding(value: Any, check: str, name: str = "mine", **options: Any) -> Finding:
    """One of them; what comes later is not looked at."""
    found = examine_optimizer(name, value, compile=False, **options)
    return next(each for each in found if each.check == check)


def down(oracle: Any, params: Params) -> Params:
    return tree.sub(params, tree.scale(0.1, oracle.grad()))


def test_a_good_one_is_good() -> None:
    found = examined(functional(lambda oracle, state, params: (down(oracle, params), oracle.grad())))
    assert [finding.check for finding in found.values() if finding.good is False] == []
    good = ("steps", "pure", "resumed", "alone and in a population", "learning rates")
    assert all(found[check].good for check in good)
    assert found["asks for"].found == "grad (2 times)"
    assert "a state of 1.0 parameter vectors" in found["beside SGD"].found
    assert "finite at 0.1, its own" in found["learning rates"].found


def impure_by_count() -> Optimizer:
    calls = []

    def update(oracle: Any, state: Any, params: Params) -> tuple[Params, Any]:
        calls.append(0)
        return tree.sub(params, tree.scale(0.1 / len(calls), oracle.grad())), state

    return functional(update)


def impure_in_place(oracle: Any, state: Any, params: Params) -> tuple[Params, Any]:
    for mean, grad in zip(state.values(), oracle.grad().values(), strict=True):
        mean += grad
    return tree.sub(params, tree.scale(0.01, state)), state


def draws(oracle: Any, state: Any, params: Params) -> tuple[Params, Any]:
    return tree.map(lambda leaf: leaf + 0.01 * torch.randn_like(leaf), down(oracle, params)), state


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (impure_by_count(), "two steps from one state differ"),
        (functional(impure_in_place), "it changes its state in place"),
        (functional(draws), "it draws from the generator of torch"),
    ],
)
def test_what_is_not_pure_is_said(made: Optimizer, words: str) -> None:
    found = finding(made, "pure", problem=trial_problem())
    assert found.good is False
    assert words in found.found


def test_the_generators_are_as_before() -> None:
    before = torch.get_rng_state()
    finding(functional(draws), "resumed", problem=trial_problem())
    assert torch.equal(torch.get_rng_state(), before)


def raises(oracle: Any, state: Any, params: Params) -> tuple[Params, Any]:
    raise KeyError("momentum")


@pytest.mark.parametrize(
    ("update", "words"),
    [
        (raises, "a step raised KeyError: 'momentum' (" + __file__),
        (lambda oracle, state, params: (tree.map(torch.flatten, params), state), "other parameters than it was given"),
        (lambda oracle, state, params: (tree.map(lambda p: p / 0, params), state), "not finite after 3 steps"),
    ],
)
def test_a_step_that_fails_ends_the_examination(update: Update, words: str) -> None:
    found = examined(functional(update))
    assert list(found) == ["kind", "steps"]
    assert found["steps"].good is False
    assert words in found["steps"].found


def test_a_state_that_is_not_all_saved_is_found() -> None:
    def update(oracle: Any, mean: Params, params: Params) -> tuple[Params, Params]:
        mean = tree.add(mean, oracle.grad())
        return tree.sub(params, tree.scale(0.01, mean)), mean

    forgets = functional(update, load=lambda snapshot, params, key: tree.zeros_like(params))
    good = [finding(forgets, check, problem=trial_problem()).good for check in ("resumed", "pure")]
    assert good == [False, True]


def test_values_that_are_looked_at_do_not_go_through_a_population() -> None:
    def update(oracle: Any, state: Any, params: Params) -> tuple[Params, Any]:
        rate = 0.1 if float(oracle.value()) > 0 else 0.2
        return tree.sub(params, tree.scale(rate, oracle.grad())), state

    found = finding(functional(update), "alone and in a population", problem=trial_problem())
    assert found.good is False
    assert "under vmap a step raised" in found.found


def test_what_asks_for_curvature_says_so() -> None:
    asked, refused = (
        finding(None, check, "newton_cg", hyperparams={"cg_steps": 2})
        for check in ("asks for", "on a loss without a GGN")
    )
    assert "make_ggnvp" in asked.found
    assert refused.good is None
    assert "refused: " in refused.found


def test_classes_of_torch_go_by_their_own_rate() -> None:
    checks = ("kind", "pure", "resumed", "alone and in a population")
    kind, *others = (finding(None, check, "torch.optim.Adam", problem=trial_problem()) for check in checks)
    assert kind.found.endswith("checked at lr=0.001")
    assert [each.good for each in others] == [True, True, None]
    with pytest.raises(ConfigError, match="momentun"):
        list(examine_optimizer("torch.optim.SGD", hyperparams={"momentun": 0.9}))


def test_a_loss_that_falls_nowhere_is_bad() -> None:
    up = functional(lambda oracle, state, params: (tree.add(params, tree.scale(0.1, oracle.grad())), state))
    found = _rates(Trial("mine", up, {}, trial_problem()), 0.1)
    assert found.good is False
    assert "falls nowhere" in found.found


@pytest.mark.large
@pytest.mark.parametrize("name", ["sgd", "torch.optim.SGD"])
def test_steps_are_compiled(name: str) -> None:
    found = {each.check: each for each in examine_optimizer(name, problem=trial_problem())}
    assert found["compiled"].good is (True if name == "sgd" else None)


class Strict(torch.optim.SGD):
    def __init__(self, params: Any, lr: float = 0.01) -> None:
        if lr > 1:
            raise ValueError(f"Invalid learning rate: {lr}")
        super().__init__(params, lr=lr)


def test_learning_rates_that_are_refused_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepobs_func.runner.checking_optimizers.RATES", (0.1, 10.0))
    trial = Trial("mine", Strict, {}, trial_problem())
    found = _rates(trial, 0.01)
    assert found.good
    assert "refused at 10: " in found.found
    assert "Invalid learning rate: 10.0" in found.found


def its_own_rate(named: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD([leaf for _, leaf in named], lr=0.03)


def test_a_factory_without_a_learning_rate_is_tried_at_its_own() -> None:
    assert "checked at lr=0.03" in next(examine_optimizer("mine", its_own_rate, compile=False)).found
    assert "finite at 0.03, its own" in _rates(Trial("mine", its_own_rate, {}, trial_problem()), 0.03).found
    with pytest.raises(ConfigError, match=r"lr 0.5: .* does not use it"):
        next(examine_optimizer("mine", its_own_rate, compile=False, lr=0.5))
