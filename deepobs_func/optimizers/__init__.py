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
    OrNone,
    Range,
    Search,
    Whole,
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
_ADAPTIVE = "deepobs_func.optimizers.adaptive"
# Where tuning looks. Momentum, beta1 and decoupled weight decay: the ranges of AlgoPerf's baselines (Dahl et al. 2023,
# `paper_baselines/{nesterov,adamw}/tuning_search_space.json`). Learning rates: theirs are for larger nets (2e-2 to 5,
# and 1e-4 to 1e-2); these hold what was best of the published 36 rates on each of 8 problems, with room on both sides.
_SGD_RATES, _MOMENTUM_RATES, _ADAM_RATES = Search(1e-3, 10.0), Search(1e-5, 1.0), Search(1e-5, 1e-1)
_ONE_MINUS = "one_minus_loguniform"
_MOMENTA, _BETAS = Search(0.7, 0.995, _ONE_MINUS), Search(0.5, 0.98, _ONE_MINUS)
_MOMENTUM = {"momentum": Hyperparameter(0.9, FRACTION, _MOMENTA)}
_ABOVE_0, _PART, _BN = Range(1e-30), OrNone(Whole()), OneOf(("coupled", "frozen", "eval", None))
_KERAS_SGD = "Keras's SGD; the papers name none"


def _betas(beta1: float, beta2: float) -> dict[str, Hyperparameter]:
    return {"beta1": Hyperparameter(beta1, FRACTION, _BETAS), "beta2": Hyperparameter(beta2, FRACTION)}


def _adam(epsilon: float, beta1: float = 0.9, beta2: float = 0.999) -> dict[str, Hyperparameter]:
    return _betas(beta1, beta2) | {"epsilon": Hyperparameter(epsilon, POSITIVE)}


def _decay(default: float) -> Hyperparameter:
    return Hyperparameter(default, POSITIVE, Search(5e-3, 1.0) if default else None)


def _averaging(decay: Hyperparameter, scale: Mapping[str, Hyperparameter] | None = None) -> dict[str, Hyperparameter]:
    """Those of the schedule-free methods, with those of what makes the direction."""
    found = {"interpolation": Hyperparameter(0.9, Range(0.01, 1.0), _BETAS), **(scale or {}), "weight_decay": decay}
    return found | {"r": Hyperparameter(0.0, POSITIVE), "lr_power": Hyperparameter(2.0, POSITIVE)}


def _kronecker() -> dict[str, Hyperparameter]:
    """Those of K-FAC and EKFAC."""
    return {
        "damping": Hyperparameter(1e-2, POSITIVE, Search(1e-4, 1.0)),
        "beta": Hyperparameter(0.95, FRACTION),
        "momentum": Hyperparameter(0.9, FRACTION, _MOMENTA),
        "kl_clip": Hyperparameter(1e-3, POSITIVE),
        "weight_decay": _decay(0.0),
        "update_every": Hyperparameter(10, Whole()),
        "fisher": Hyperparameter("monte-carlo", OneOf(("exact", "monte-carlo", "empirical"))),
        "curvature_batch": Hyperparameter(None, _PART),
        "bn": Hyperparameter(None, _BN),
        "others": Hyperparameter(None, OneOf(("gradient", None))),
        "max_dim": Hyperparameter(10000, Whole()),
    }


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
            _adam(1e-8) | {"weight_decay": _decay(1e-2)},
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
                "curvature_batch": Hyperparameter(None, _PART),
            },
            lr=1.0,
            lr_source="Martens, ICML 2010: the whole step, which damping shortens",
            lr_search=Search(1e-2, 1.0),
        ),
        OptimizerSpec(
            "adahessian",
            f"{_SECOND_ORDER}:adahessian",
            "AdaHessian: Adam on the Hessian's diagonal",
            _adam(1e-4)
            | {"hessian_power": Hyperparameter(1.0, SHARE), "weight_decay": Hyperparameter(0.0, POSITIVE)}
            | {"curvature_batch": Hyperparameter(None, _PART)},
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
                "curvature_batch": Hyperparameter(None, _PART),
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
                "bn": Hyperparameter(None, _BN),
                "micro_batches": Hyperparameter(1, Whole()),
            },
            lr_search=_SGD_RATES,  # Balles, Romero and Hennig (UAI 2017) tune the rate of each problem
        ),
        OptimizerSpec(
            "nadamw",
            f"{_ADAPTIVE}:nadamw",
            "Adam with Nesterov's momentum and decoupled weight decay",
            _adam(1e-8) | {"momentum_decay": Hyperparameter(4e-3, POSITIVE), "weight_decay": _decay(1e-2)},
            lr=2e-3,
            lr_source="torch.optim.NAdam, from which the other defaults are, too",
            lr_search=_ADAM_RATES,
        ),
        OptimizerSpec(
            "lion",
            f"{_ADAPTIVE}:lion",
            "Lion: the sign of an interpolation between momentum and gradient",
            _betas(0.9, 0.99) | {"weight_decay": _decay(0.0)},
            lr=1e-4,
            lr_source="Chen et al., NeurIPS 2023, and their code",
            lr_search=Search(1e-6, 1e-2),
        ),
        OptimizerSpec(
            "prodigy",
            f"{_ADAPTIVE}:prodigy",
            "Prodigy: Adam whose learning rate is an estimate of the distance to the solution",
            _adam(1e-8)
            | {
                "weight_decay": _decay(0.0),
                "d0": Hyperparameter(1e-6, _ABOVE_0),
                "d_coef": Hyperparameter(1.0, _ABOVE_0, Search(0.1, 10.0)),
            },
            lr=1.0,
            lr_source="Mishchenko and Defazio, ICML 2024: a factor of the estimate",
            lr_search=Search(0.1, 10.0),
        ),
        OptimizerSpec(
            "schedule_free_sgd",
            "deepobs_func.optimizers.schedule_free:schedule_free_sgd",
            "SGD that averages its iterates in the place of a schedule",
            _averaging(_decay(0.0)),
            lr=1.0,
            lr_source="the code of Defazio et al., NeurIPS 2024",
            lr_search=_SGD_RATES,
        ),
        OptimizerSpec(
            "schedule_free_adamw",
            "deepobs_func.optimizers.schedule_free:schedule_free_adamw",
            "AdamW that averages its iterates in the place of a schedule",
            _averaging(
                _decay(0.0), {"beta2": Hyperparameter(0.999, FRACTION), "epsilon": Hyperparameter(1e-8, POSITIVE)}
            ),
            lr=2.5e-3,
            lr_source="the code of Defazio et al., NeurIPS 2024",
            lr_search=_ADAM_RATES,
        ),
        OptimizerSpec(
            "muon",
            "deepobs_func.optimizers.orthogonal:muon",
            "Muon: orthogonalised momentum for matrices, Adam for the rest",
            {
                "momentum": Hyperparameter(0.95, FRACTION, _MOMENTA),
                "weight_decay": _decay(0.0),
                "adam_factor": Hyperparameter(0.015, POSITIVE, Search(1e-3, 1.0)),
                **_betas(0.9, 0.95),
                "epsilon": Hyperparameter(1e-10, POSITIVE),
                "ns_steps": Hyperparameter(5, Whole()),
                "adam_for": Hyperparameter("vectors", OneOf(("vectors", "ends"))),
            },
            lr=0.02,
            lr_source="the code of Jordan et al., 2024",
            lr_search=Search(1e-4, 1e-1),
        ),
        OptimizerSpec(
            "shampoo",
            "deepobs_func.optimizers.preconditioned:shampoo",
            "Shampoo: inverse roots of the gradient's outer products, axis by axis",
            {
                "momentum": Hyperparameter(0.0, FRACTION, _MOMENTA),
                "gram_beta": Hyperparameter(1.0, SHARE),
                "epsilon": Hyperparameter(1e-6, POSITIVE, Search(1e-8, 1e-2)),
                "weight_decay": _decay(0.0),
                "update_every": Hyperparameter(10, Whole()),
                "max_dim": Hyperparameter(10000, Whole()),
            },
            lr=0.1,
            lr_source="chosen here; Gupta, Koren and Singer (ICML 2018) tune it on each problem",
            lr_search=Search(1e-3, 10.0),
        ),
        OptimizerSpec(
            "soap",
            "deepobs_func.optimizers.preconditioned:soap",
            "SOAP: Adam in the eigenbasis of Shampoo",
            {
                **_betas(0.95, 0.95),
                "gram_beta": Hyperparameter(0.95, SHARE),
                "epsilon": Hyperparameter(1e-8, POSITIVE),
                "weight_decay": _decay(1e-2),
                "update_every": Hyperparameter(10, Whole()),
                "max_dim": Hyperparameter(10000, Whole()),
            },
            lr=3e-3,
            lr_source="Vyas et al., ICLR 2025, and their code",
            lr_search=_ADAM_RATES,
        ),
        OptimizerSpec(
            "kfac",
            "deepobs_func.optimizers.natural:kfac",
            "K-FAC: natural gradients by Kronecker factors of each layer",
            _kronecker(),
            lr=0.1,
            lr_source="chosen here",
            lr_search=Search(1e-3, 1.0),
        ),
        OptimizerSpec(
            "ekfac",
            "deepobs_func.optimizers.natural:ekfac",
            "EKFAC: K-FAC with corrected eigenvalues",
            _kronecker(),
            lr=0.1,
            lr_source="chosen here",
            lr_search=Search(1e-3, 1.0),
        ),
        OptimizerSpec(
            "sgd_line_search",
            "deepobs_func.optimizers.line_search:sgd_line_search",
            "SGD with Armijo's line search on the batch",
            {
                "armijo": Hyperparameter(0.1, SHARE, Search(1e-4, 0.5)),
                "shrink": Hyperparameter(0.7, FRACTION),
                "grow": Hyperparameter(1.5, Range(1.0)),
                "max_backtracks": Hyperparameter(10, Whole(0)),
            },
            lr=10.0,
            lr_source="Vaswani et al., NeurIPS 2019: the longest step",
            lr_search=Search(0.1, 100.0),
        ),
        OptimizerSpec(
            "lbfgs",
            "deepobs_func.optimizers.quasi_newton:lbfgs",
            "L-BFGS on batches, with a line search on each",
            {
                "damping": Hyperparameter(0.0, POSITIVE, Search(1e-4, 1.0)),
                "armijo": Hyperparameter(1e-4, SHARE),
                "memory": Hyperparameter(10, Whole()),
                "max_backtracks": Hyperparameter(10, Whole(0)),
            },
            lr=1.0,
            lr_source="quasi-Newton's whole step, which the search shortens",
            lr_search=Search(1e-2, 1.0),
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
