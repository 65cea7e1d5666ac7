"""Optimizers: functional ones by name, any `torch.optim.Optimizer` class by import path.

Listing the functional ones and their hyperparameters imports no torch; making one does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deepobs_func import lazy
from deepobs_func.errors import ConfigError, option
from deepobs_func.optimizers.catalog import LATER
from deepobs_func.optimizers.hyperparameters import (
    ANY,
    FRACTION,
    POSITIVE,
    SHARE,
    Hyperparameter,
    Kind,
    Range,
    Search,
    Whole,
)
from deepobs_func.optimizers.spec import (
    ADAM_RATES,
    BN,
    FIRST_ORDER,
    KERAS_SGD,
    MOMENTUM,
    MOMENTUM_RATES,
    ONE_MINUS,
    PART,
    SECOND_ORDER,
    SGD_RATES,
    OptimizerSpec,
    of_adam,
    of_decay,
)
from deepobs_func.registry import Registry

if TYPE_CHECKING:
    from deepobs_func.optimizers.adaptive import lion as lion
    from deepobs_func.optimizers.adaptive import nadamw as nadamw
    from deepobs_func.optimizers.adaptive import prodigy as prodigy
    from deepobs_func.optimizers.base import Optimizer as Optimizer
    from deepobs_func.optimizers.cabs import sgd_cabs as sgd_cabs
    from deepobs_func.optimizers.first_order import adam as adam
    from deepobs_func.optimizers.first_order import adamw as adamw
    from deepobs_func.optimizers.first_order import momentum as momentum
    from deepobs_func.optimizers.first_order import nesterov as nesterov
    from deepobs_func.optimizers.first_order import rmsprop as rmsprop
    from deepobs_func.optimizers.first_order import sgd as sgd
    from deepobs_func.optimizers.line_search import backtracking as backtracking
    from deepobs_func.optimizers.line_search import sgd_line_search as sgd_line_search
    from deepobs_func.optimizers.natural import ekfac as ekfac
    from deepobs_func.optimizers.natural import kfac as kfac
    from deepobs_func.optimizers.newton import newton_cg as newton_cg
    from deepobs_func.optimizers.orthogonal import muon as muon
    from deepobs_func.optimizers.preconditioned import shampoo as shampoo
    from deepobs_func.optimizers.preconditioned import soap as soap
    from deepobs_func.optimizers.quasi_newton import lbfgs as lbfgs
    from deepobs_func.optimizers.schedule_free import averaging as averaging
    from deepobs_func.optimizers.schedule_free import schedule_free_adamw as schedule_free_adamw
    from deepobs_func.optimizers.schedule_free import schedule_free_sgd as schedule_free_sgd
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

FUNCTIONAL = Registry(
    "optimizer",
    OptimizerSpec,
    (
        OptimizerSpec(
            "sgd",
            f"{FIRST_ORDER}:sgd",
            "stochastic gradient descent",
            lr=1e-2,
            lr_source=KERAS_SGD,
            lr_search=SGD_RATES,
        ),
        OptimizerSpec(
            "momentum",
            f"{FIRST_ORDER}:momentum",
            "heavy-ball momentum",
            MOMENTUM,
            lr=1e-2,
            lr_source=KERAS_SGD,
            lr_search=MOMENTUM_RATES,
        ),
        OptimizerSpec(
            "nesterov",
            f"{FIRST_ORDER}:nesterov",
            "Nesterov's momentum",
            MOMENTUM,
            lr=1e-2,
            lr_source=KERAS_SGD,
            lr_search=MOMENTUM_RATES,
        ),
        OptimizerSpec(
            "adam",
            f"{FIRST_ORDER}:adam",
            "Adam",
            of_adam(1e-8),
            lr=1e-3,
            lr_source="Kingma and Ba, ICLR 2015, algorithm 1",
            lr_search=ADAM_RATES,
        ),
        OptimizerSpec(
            "adamw",
            f"{FIRST_ORDER}:adamw",
            "Adam with decoupled weight decay",
            of_adam(1e-8) | {"weight_decay": of_decay(1e-2)},
            lr=1e-3,
            lr_source="Loshchilov and Hutter, ICLR 2019, algorithm 2",
            lr_search=ADAM_RATES,
        ),
        OptimizerSpec(
            "rmsprop",
            f"{FIRST_ORDER}:rmsprop",
            "RMSprop",
            {
                "alpha": Hyperparameter(0.99, FRACTION, Search(0.9, 0.999, ONE_MINUS)),
                "epsilon": Hyperparameter(1e-8, POSITIVE),
                "momentum": Hyperparameter(0.0, FRACTION),
            },
            lr=1e-2,
            lr_source="torch.optim.RMSprop, from which the other defaults are, too",
            lr_search=ADAM_RATES,
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
                "curvature_batch": Hyperparameter(None, PART),
            },
            lr=1.0,
            lr_source="Martens, ICML 2010: the whole step, which damping shortens",
            lr_search=Search(1e-2, 1.0),
            gradient_only=False,
        ),
        OptimizerSpec(
            "adahessian",
            f"{SECOND_ORDER}:adahessian",
            "AdaHessian: Adam on the Hessian's diagonal",
            of_adam(1e-4)
            | {"hessian_power": Hyperparameter(1.0, SHARE), "weight_decay": Hyperparameter(0.0, POSITIVE)}
            | {"curvature_batch": Hyperparameter(None, PART)},
            lr=0.15,
            lr_source="the code of Yao et al., AAAI 2021",
            lr_search=Search(1e-3, 1.0),
            gradient_only=False,
        ),
        OptimizerSpec(
            "sophia_h",
            f"{SECOND_ORDER}:sophia_h",
            "Sophia with Hutchinson's estimate of the Hessian's diagonal",
            {
                "beta1": Hyperparameter(0.96, FRACTION, Search(0.5, 0.98, ONE_MINUS)),
                "beta2": Hyperparameter(0.99, FRACTION),
                "gamma": Hyperparameter(0.01, POSITIVE, Search(1e-3, 1e-1)),
                "epsilon": Hyperparameter(1e-12, POSITIVE),
                "weight_decay": Hyperparameter(0.1, POSITIVE),
                "update_every": Hyperparameter(10, Whole()),
                "curvature_batch": Hyperparameter(None, PART),
            },
            lr=1e-4,
            lr_source="the code of Liu et al., ICLR 2024 (SophiaG; theirs has no Sophia-H)",
            lr_search=ADAM_RATES,
            gradient_only=False,
        ),
        OptimizerSpec(
            "sgd_cabs",
            "deepobs_func.optimizers.cabs:sgd_cabs",
            "SGD that records the batch size which CABS advises, and follows it by whole micro-batches",
            {"bn": Hyperparameter(None, BN), "micro_batches": Hyperparameter(1, Whole())},
            lr_search=SGD_RATES,  # Balles, Romero and Hennig (UAI 2017) tune the rate of each problem
            gradient_only=False,
        ),
        *LATER,
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
    "averaging": "deepobs_func.optimizers.schedule_free:averaging",
    "backtracking": "deepobs_func.optimizers.line_search:backtracking",
    "Optimizer": "deepobs_func.optimizers.base:Optimizer",
}
__getattr__, __dir__, __all__ = lazy.attach(
    __name__, _PATHS, also=["FUNCTIONAL", "Hyperparameter", "OptimizerSpec", "Search", "names"]
)


KINDS: Mapping[str, Kind] = {"max_norm": POSITIVE, "max_value": POSITIVE} | {
    name: each.kind for spec in FUNCTIONAL.own.values() for name, each in spec.hyperparameters.items()
}
"""Of the hyperparameters of this package's transforms, by name; one that is not here may be any finite number."""


def checked(name: str, value: Any, of: str | None = None) -> Any:
    """The value of a transform's hyperparameter: a float, a whole number or a name.

    Args:
        name: of the hyperparameter.
        value: what was given.
        of: the optimizer whose range it must be in; None for that of most optimizers which have one of this name.

    Raises:
        ConfigError: it is of another kind, or out of its range.
    """
    kind = KINDS.get(name, ANY) if of is None else FUNCTIONAL.own[of].hyperparameters[name].kind
    return kind.checked(name, value)


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
