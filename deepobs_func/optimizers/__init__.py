"""Optimizers: functional ones by name, any `torch.optim.Optimizer` class by import path.

Listing the functional ones and their hyperparameters imports no torch; making one does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deepobs_func import lazy
from deepobs_func.errors import ConfigError, option
from deepobs_func.optimizers.hyperparameters import (
    ANY,
    FRACTION,
    POSITIVE,
    SHARE,
    Hyperparameter,
    Kind,
    OneOf,
    Range,
    Search,
    Whole,
)
from deepobs_func.registry import Registry

if TYPE_CHECKING:
    from deepobs_func.optimizers.base import Optimizer as Optimizer
    from deepobs_func.optimizers.cabs import sgd_cabs as sgd_cabs
    from deepobs_func.optimizers.first_order import adam as adam
    from deepobs_func.optimizers.first_order import adamw as adamw
    from deepobs_func.optimizers.first_order import momentum as momentum
    from deepobs_func.optimizers.first_order import nesterov as nesterov
    from deepobs_func.optimizers.first_order import rmsprop as rmsprop
    from deepobs_func.optimizers.first_order import sgd as sgd
    from deepobs_func.optimizers.newton import newton_cg as newton_cg
    from deepobs_func.optimizers.schedules import cosine as cosine
    from deepobs_func.optimizers.schedules import exponential as exponential
    from deepobs_func.optimizers.schedules import linear as linear
    from deepobs_func.optimizers.schedules import steps as steps
    from deepobs_func.optimizers.schedules import warm_up as warm_up
    from deepobs_func.optimizers.second_order import adahessian as adahessian
    from deepobs_func.optimizers.second_order import sophia_h as sophia_h
    from deepobs_func.optimizers.torch_optim import from_class as from_class
    from deepobs_func.optimizers.torch_optim import from_factory as from_factory
    from deepobs_func.optimizers.transforms import clip_by_global_norm as clip_by_global_norm
    from deepobs_func.optimizers.transforms import clip_by_value as clip_by_value
    from deepobs_func.optimizers.transforms import weight_decay as weight_decay

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
    """

    name: str
    make: str
    summary: str
    hyperparameters: Mapping[str, Hyperparameter] = field(default_factory=dict, hash=False)
    lr: float | None = None
    lr_source: str = ""
    lr_search: Search = _ANY_RATES

    @property
    def defaults(self) -> dict[str, float | int | str | None]:
        """The hyperparameters by name, with their defaults."""
        return {name: each.default for name, each in self.hyperparameters.items()}


_FIRST_ORDER = "deepobs_func.optimizers.first_order"
_SECOND_ORDER = "deepobs_func.optimizers.second_order"
# Where tuning looks. Momentum, beta1 and decoupled weight decay: the ranges of AlgoPerf's baselines (Dahl et al. 2023,
# `paper_baselines/{nesterov,adamw}/tuning_search_space.json`). Learning rates: theirs are for larger nets (2e-2 to 5,
# and 1e-4 to 1e-2); these hold what was best of the published 36 rates on each of 8 problems, with room on both sides.
_SGD_RATES, _MOMENTUM_RATES, _ADAM_RATES = Search(1e-3, 10.0), Search(1e-5, 1.0), Search(1e-5, 1e-1)
_ONE_MINUS = "one_minus_loguniform"
_MOMENTUM = {"momentum": Hyperparameter(0.9, FRACTION, Search(0.7, 0.995, _ONE_MINUS))}
_KERAS_SGD = "Keras's SGD; the papers name none"


def _adam(epsilon: float, beta1: float = 0.9, beta2: float = 0.999) -> dict[str, Hyperparameter]:
    betas = {
        "beta1": Hyperparameter(beta1, FRACTION, Search(0.5, 0.98, _ONE_MINUS)),
        "beta2": Hyperparameter(beta2, FRACTION),
    }
    return betas | {"epsilon": Hyperparameter(epsilon, POSITIVE)}


FUNCTIONAL = Registry(
    "optimizer",
    OptimizerSpec,
    (
        OptimizerSpec(
            "sgd",
            f"{_FIRST_ORDER}:sgd",
            "stochastic gradient descent",
            lr=1e-2,
            lr_source=_KERAS_SGD,
            lr_search=_SGD_RATES,
        ),
        OptimizerSpec(
            "momentum",
            f"{_FIRST_ORDER}:momentum",
            "heavy-ball momentum",
            _MOMENTUM,
            lr=1e-2,
            lr_source=_KERAS_SGD,
            lr_search=_MOMENTUM_RATES,
        ),
        OptimizerSpec(
            "nesterov",
            f"{_FIRST_ORDER}:nesterov",
            "Nesterov's momentum",
            _MOMENTUM,
            lr=1e-2,
            lr_source=_KERAS_SGD,
            lr_search=_MOMENTUM_RATES,
        ),
        OptimizerSpec(
            "adam",
            f"{_FIRST_ORDER}:adam",
            "Adam",
            _adam(1e-8),
            lr=1e-3,
            lr_source="Kingma and Ba, ICLR 2015, algorithm 1",
            lr_search=_ADAM_RATES,
        ),
        OptimizerSpec(
            "adamw",
            f"{_FIRST_ORDER}:adamw",
            "Adam with decoupled weight decay",
            _adam(1e-8) | {"weight_decay": Hyperparameter(1e-2, POSITIVE, Search(5e-3, 1.0))},
            lr=1e-3,
            lr_source="Loshchilov and Hutter, ICLR 2019, algorithm 2",
            lr_search=_ADAM_RATES,
        ),
        OptimizerSpec(
            "rmsprop",
            f"{_FIRST_ORDER}:rmsprop",
            "RMSprop",
            {
                "alpha": Hyperparameter(0.99, FRACTION, Search(0.9, 0.999, _ONE_MINUS)),
                "epsilon": Hyperparameter(1e-8, POSITIVE),
                "momentum": Hyperparameter(0.0, FRACTION),
            },
            lr=1e-2,
            lr_source="torch.optim.RMSprop, from which the other defaults are, too",
            lr_search=_ADAM_RATES,
        ),
        OptimizerSpec(
            "newton_cg",
            "deepobs_func.optimizers.newton:newton_cg",
            "Hessian-free Newton on the GGN, damped by Levenberg-Marquardt",
            {
                "damping": Hyperparameter(1.0, POSITIVE, Search(1e-3, 1e2)),
                "damping_factor": Hyperparameter(1.5, Range(1.0)),
                "warm_start": Hyperparameter(0.95, SHARE),
                "cg_tol": Hyperparameter(1e-3, POSITIVE),
                "cg_steps": Hyperparameter(10, Whole()),
            },
            lr=1.0,
            lr_source="Martens, ICML 2010: the whole step, which damping shortens",
            lr_search=Search(1e-2, 1.0),
        ),
        OptimizerSpec(
            "adahessian",
            f"{_SECOND_ORDER}:adahessian",
            "AdaHessian: Adam on the Hessian's diagonal",
            _adam(1e-4) | {"hessian_power": Hyperparameter(1.0, SHARE), "weight_decay": Hyperparameter(0.0, POSITIVE)},
            lr=0.15,
            lr_source="the code of Yao et al., AAAI 2021",
            lr_search=Search(1e-3, 1.0),
        ),
        OptimizerSpec(
            "sophia_h",
            f"{_SECOND_ORDER}:sophia_h",
            "Sophia with Hutchinson's estimate of the Hessian's diagonal",
            {
                "beta1": Hyperparameter(0.96, FRACTION, Search(0.5, 0.98, _ONE_MINUS)),
                "beta2": Hyperparameter(0.99, FRACTION),
                "gamma": Hyperparameter(0.01, POSITIVE, Search(1e-3, 1e-1)),
                "epsilon": Hyperparameter(1e-12, POSITIVE),
                "weight_decay": Hyperparameter(0.1, POSITIVE),
                "update_every": Hyperparameter(10, Whole()),
            },
            lr=1e-4,
            lr_source="the code of Liu et al., ICLR 2024 (SophiaG; theirs has no Sophia-H)",
            lr_search=_ADAM_RATES,
        ),
        OptimizerSpec(
            "sgd_cabs",
            "deepobs_func.optimizers.cabs:sgd_cabs",
            "SGD that records the batch size which CABS advises, and follows it by whole micro-batches",
            {
                "bn": Hyperparameter(None, OneOf(("coupled", "frozen", "eval", None))),
                "micro_batches": Hyperparameter(1, Whole()),
            },
            lr_search=_SGD_RATES,  # Balles, Romero and Hennig (UAI 2017) tune the rate of each problem
        ),
    ),
    group="deepobs_func.optimizers",
    listing="deepobs list",
)

_PATHS = {
    **{name: spec.make for name, spec in FUNCTIONAL.own.items()},
    **{
        name: f"deepobs_func.optimizers.transforms:{name}"
        for name in ("clip_by_global_norm", "clip_by_value", "weight_decay")
    },
    **{
        name: f"deepobs_func.optimizers.schedules:{name}"
        for name in ("steps", "exponential", "cosine", "linear", "warm_up")
    },
    **{name: f"deepobs_func.optimizers.torch_optim:{name}" for name in ("from_class", "from_factory")},
    "Optimizer": "deepobs_func.optimizers.base:Optimizer",
}
__getattr__, __dir__, __all__ = lazy.attach(
    __name__, _PATHS, also=["FUNCTIONAL", "Hyperparameter", "OptimizerSpec", "Search", "names"]
)


KINDS: Mapping[str, Kind] = {"max_norm": POSITIVE, "max_value": POSITIVE} | {
    name: each.kind for spec in FUNCTIONAL.own.values() for name, each in spec.hyperparameters.items()
}
"""Of the hyperparameters of this package's transforms, by name; one that is not here may be any finite number."""


def checked(name: str, value: Any) -> Any:
    """The value of a transform's hyperparameter: a float, a whole number or a name.

    Raises:
        ConfigError: it is of another kind, or out of its range.
    """
    return KINDS.get(name, ANY).checked(name, value)


def check_lr(lr: float) -> None:
    """Refuses a learning rate that is not positive.

    Raises:
        ConfigError: it is zero, negative or not finite.
    """
    if not (lr > 0 and math.isfinite(lr)):
        raise ConfigError(f"{option('lr')} {lr}: a learning rate must be positive and finite.")


def names() -> list[str]:
    """The names of the functional optimizers."""
    return list(FUNCTIONAL)
