"""A functional optimizer as data. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from deepobs_func.optimizers.hyperparameters import (
    FRACTION,
    POSITIVE,
    Hyperparameter,
    OneOf,
    OrNone,
    Range,
    Search,
    Whole,
)

_ANY_RATES = Search(1e-5, 1.0)


@dataclass(frozen=True)
class OptimizerSpec:
    """A functional optimizer as data.

    Attributes:
        name: on the command line and in the results tree.
        make: the import path of its constructor, `(lr, **hyperparameters, schedule=None) -> Optimizer`; it may take
            `before=`, transforms of the gradient, too.
        summary: one line.
        hyperparameters: those besides the learning rate, each with its default, what it may be, and where tuning looks
            for it.
        lr: the learning rate that its authors take by default; None where they name none.
        lr_source: where that stands.
        lr_search: where tuning looks for a learning rate.
        gradient_only: whether it asks the oracle for nothing but values and gradients.
    """

    name: str
    make: str
    summary: str
    hyperparameters: Mapping[str, Hyperparameter] = field(default_factory=dict, hash=False)
    lr: float | None = None
    lr_source: str = ""
    lr_search: Search = _ANY_RATES
    gradient_only: bool = True

    @property
    def defaults(self) -> dict[str, float | int | str | None]:
        """The hyperparameters by name, with their defaults."""
        return {name: each.default for name, each in self.hyperparameters.items()}


FIRST_ORDER = "deepobs_func.optimizers.first_order"
SECOND_ORDER = "deepobs_func.optimizers.second_order"
ADAPTIVE = "deepobs_func.optimizers.adaptive"
# Where tuning looks. Momentum, beta1 and decoupled weight decay: the ranges of AlgoPerf's baselines (Dahl et al. 2023,
# `paper_baselines/{nesterov,adamw}/tuning_search_space.json`). Learning rates: theirs are for larger nets (2e-2 to 5,
# and 1e-4 to 1e-2); these hold what was best of the published 36 rates on each of 8 problems, with room on both sides.
SGD_RATES, MOMENTUM_RATES, ADAM_RATES = Search(1e-3, 10.0), Search(1e-5, 1.0), Search(1e-5, 1e-1)
ONE_MINUS = "one_minus_loguniform"
MOMENTA, BETAS = Search(0.7, 0.995, ONE_MINUS), Search(0.5, 0.98, ONE_MINUS)
MOMENTUM = {"momentum": Hyperparameter(0.9, FRACTION, MOMENTA)}
ABOVE_0, PART, BN = Range(0.0, above=True), OrNone(Whole()), OneOf(("coupled", "frozen", "eval", None))
KERAS_SGD = "Keras's SGD; the papers name none"


def of_betas(beta1: float, beta2: float) -> dict[str, Hyperparameter]:
    """The decays of two averages."""
    return {"beta1": Hyperparameter(beta1, FRACTION, BETAS), "beta2": Hyperparameter(beta2, FRACTION)}


def of_adam(epsilon: float, beta1: float = 0.9, beta2: float = 0.999) -> dict[str, Hyperparameter]:
    """Those of Adam."""
    return of_betas(beta1, beta2) | {"epsilon": Hyperparameter(epsilon, POSITIVE)}


def of_decay(default: float) -> Hyperparameter:
    """Weight decay; tuning looks for it where it is on by default."""
    return Hyperparameter(default, POSITIVE, Search(5e-3, 1.0) if default else None)


def of_averaging(decay: Hyperparameter, scale: Mapping[str, Hyperparameter] | None = None) -> dict[str, Hyperparameter]:
    """Those of the schedule-free methods, with those of what makes the direction."""
    found = {"interpolation": Hyperparameter(0.9, Range(0.01, 1.0), BETAS), **(scale or {}), "weight_decay": decay}
    return found | {"r": Hyperparameter(0.0, POSITIVE), "lr_power": Hyperparameter(2.0, POSITIVE)}


def of_kronecker() -> dict[str, Hyperparameter]:
    """Those of K-FAC and EKFAC."""
    return {
        "damping": Hyperparameter(1e-2, ABOVE_0, Search(1e-4, 1.0)),
        "beta": Hyperparameter(0.95, FRACTION),
        "momentum": Hyperparameter(0.9, FRACTION, MOMENTA),
        "kl_clip": Hyperparameter(1e-3, POSITIVE),
        "weight_decay": of_decay(0.0),
        "update_every": Hyperparameter(10, Whole()),
        "fisher": Hyperparameter("monte-carlo", OneOf(("exact", "monte-carlo", "empirical"))),
        "curvature_batch": Hyperparameter(None, PART),
        "bn": Hyperparameter(None, BN),
        "others": Hyperparameter(None, OneOf(("gradient", None))),
        "max_dim": Hyperparameter(10000, Whole()),
    }
