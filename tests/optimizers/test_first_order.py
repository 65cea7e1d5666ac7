"""Every first-order optimizer equals its `torch.optim` twin; one row of `TWINS` for one row of the registry."""

import inspect
import math
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from deepobs_func import optimizers, random
from tests.optimizers import toy


def _adam_words(hyper):
    words = {"betas": (hyper["beta1"], hyper["beta2"]), "eps": hyper["epsilon"]}
    return words | ({"weight_decay": hyper["weight_decay"]} if "weight_decay" in hyper else {})


@dataclass(frozen=True)
class Twin:
    """A torch class and how our hyperparameters are called there.

    Attributes:
        others: hyperparameters that are not the defaults, to be compared too.
        couples: whether the class's own weight decay is coupled.
        comparable: whether the defaults are torch's as well.
    """

    cls: type[torch.optim.Optimizer]
    lr: float
    words: Callable[[dict[str, float]], dict[str, Any]]
    others: dict[str, float] = field(default_factory=dict)
    couples: bool = True
    comparable: bool = True


TWINS = {
    "sgd": Twin(torch.optim.SGD, 0.3, dict),
    "momentum": Twin(torch.optim.SGD, 0.1, dict, {"momentum": 0.5}, comparable=False),
    "nesterov": Twin(torch.optim.SGD, 0.1, lambda h: h | {"nesterov": True}, {"momentum": 0.5}, comparable=False),
    "adam": Twin(torch.optim.Adam, 0.05, _adam_words, {"beta1": 0.5, "beta2": 0.9, "epsilon": 1e-2}),
    "adamw": Twin(
        torch.optim.AdamW,
        0.05,
        _adam_words,
        {"beta1": 0.5, "beta2": 0.9, "epsilon": 1e-2, "weight_decay": 0.3},
        couples=False,
    ),
    "rmsprop": Twin(
        torch.optim.RMSprop,
        0.01,
        lambda h: {"alpha": h["alpha"], "eps": h["epsilon"], "momentum": h["momentum"]},
        {"alpha": 0.8, "epsilon": 1e-2, "momentum": 0.7},
    ),
}
COUPLING = [name for name, twin in TWINS.items() if twin.couples]
DEFAULTS = {name: dict(row.defaults) for name, row in optimizers.FUNCTIONAL.items()}
SETTINGS = [(name, hyper) for name, twin in TWINS.items() for hyper in (DEFAULTS[name], twin.others) if hyper]
SCHEDULES = {
    "exponential": (optimizers.exponential(0.95), lambda step: 0.95**step),
    "cosine": (optimizers.cosine(40), lambda step: 0.5 * (1 + math.cos(math.pi * min(step, 40) / 40))),
    "steps": (optimizers.steps((10, 30), (0.1, 0.5)), lambda step: 1.0 if step < 10 else 0.1 if step < 30 else 0.5),
    "warm-up": (optimizers.warm_up(7), lambda step: min((step + 1) / 7, 1.0)),
}


def make(name, hyper=None, **options):
    twin = TWINS[name]
    return pkgutil.resolve_name(optimizers.FUNCTIONAL[name].make)(twin.lr, **(hyper or {}), **options)


def make_twin(name, hyper=None, **options):
    twin = TWINS[name]
    return lambda leaves: twin.cls(leaves, lr=twin.lr, **twin.words(DEFAULTS[name] | (hyper or {})), **options)


def test_every_first_order_optimizer_has_a_twin():
    rows = [name for name, row in optimizers.FUNCTIONAL.items() if ".first_order:" in row.make]
    assert list(TWINS) == rows


@pytest.mark.parametrize("name", [name for name, twin in TWINS.items() if twin.comparable])
def test_defaults_are_those_of_torch(name):
    parameters = inspect.signature(TWINS[name].cls).parameters
    for word, value in TWINS[name].words(DEFAULTS[name]).items():
        assert parameters[word].default == value


@pytest.mark.parametrize(("name", "hyper"), [("sgd", {}), *SETTINGS])
def test_50_steps_equal_those_of_torch(name, hyper):
    toy.assert_close(toy.run(make(name, hyper)), toy.run_torch(make_twin(name, hyper)))


@pytest.mark.parametrize("name", COUPLING)
def test_weight_decay_before_the_rule_is_torchs_coupled_one(name):
    ours = toy.run(make(name, before=[optimizers.weight_decay(0.03)]))
    toy.assert_close(ours, toy.run_torch(make_twin(name, weight_decay=0.03)))


def test_weight_decay_after_adam_is_adamw():
    ours = toy.run(make("adam", after=[optimizers.weight_decay(0.2)]))
    toy.assert_close(ours, toy.run_torch(make_twin("adamw", {"weight_decay": 0.2})))
    toy.assert_close(ours, toy.run(make("adamw", {"weight_decay": 0.2})))


@pytest.mark.parametrize("name", COUPLING)
def test_weight_decay_after_the_rule_shrinks_the_parameters_by_lr_times_strength(name):
    @torch.no_grad()
    def shrink(leaves):
        for leaf in leaves:
            leaf.mul_(1 - 0.2 * TWINS[name].lr)

    ours = toy.run(make(name, after=[optimizers.weight_decay(0.2)]))
    toy.assert_close(ours, toy.run_torch(make_twin(name), edit_grads=shrink))


def clip_norm(leaves):
    """`clip_grad_norm_`, without the 1e-6 that torch adds to the norm."""
    norm = torch.nn.utils.get_total_norm([leaf.grad for leaf in leaves])
    torch.nn.utils.clip_grads_with_norm_(leaves, 0.2, norm - 1e-6)


@pytest.mark.parametrize("name", TWINS)
def test_clipping_by_global_norm_equals_torch(name):
    ours = toy.run(make(name, before=[optimizers.clip_by_global_norm(0.2)]))
    toy.assert_close(ours, toy.run_torch(make_twin(name), edit_grads=clip_norm))


@pytest.mark.parametrize("name", TWINS)
def test_clipping_by_value_equals_torch(name):
    clip = lambda leaves: torch.nn.utils.clip_grad_value_(leaves, 0.05)
    ours = toy.run(make(name, before=[optimizers.clip_by_value(0.05)]))
    toy.assert_close(ours, toy.run_torch(make_twin(name), edit_grads=clip))


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_equals_lambda_lr(name, schedule):
    factor, closed_form = SCHEDULES[schedule]
    scheduler = lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, closed_form)
    toy.assert_close(toy.run(make(name, schedule=factor)), toy.run_torch(make_twin(name), make_scheduler=scheduler))


def test_coupled_and_decoupled_weight_decay_go_together():
    hyper = make("adamw", before=[optimizers.weight_decay(0.1)]).init(toy.params(), random.key(0)).hyper
    assert (float(hyper["weight_decay"]), float(hyper["weight_decay_2"])) == (0.1, 1e-2)
