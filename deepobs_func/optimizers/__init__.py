"""Optimizers: functional ones by name, any `torch.optim.Optimizer` class by import path.

Listing the functional ones and their hyperparameters imports no torch; making one does.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deepobs_func import lazy
from deepobs_func.errors import ConfigError, option, unknown

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
    from deepobs_func.optimizers.schedules import steps as steps
    from deepobs_func.optimizers.schedules import warm_up as warm_up
    from deepobs_func.optimizers.second_order import adahessian as adahessian
    from deepobs_func.optimizers.second_order import sophia_h as sophia_h
    from deepobs_func.optimizers.torch_optim import from_class as from_class
    from deepobs_func.optimizers.torch_optim import from_factory as from_factory
    from deepobs_func.optimizers.transforms import clip_by_global_norm as clip_by_global_norm
    from deepobs_func.optimizers.transforms import clip_by_value as clip_by_value
    from deepobs_func.optimizers.transforms import weight_decay as weight_decay


@dataclass(frozen=True)
class OptimizerRow:
    """A functional optimizer as data.

    Attributes:
        name: on the command line and in the results tree.
        make: the import path of its constructor, `(lr, **hyperparameters) -> Optimizer`.
        defaults: its hyperparameters beside the learning rate: numbers, whole numbers, or one of some names.
        summary: one line.
    """

    name: str
    make: str
    summary: str
    defaults: Mapping[str, float | int | str | None] = field(default_factory=dict, hash=False)


_FIRST_ORDER = "deepobs_func.optimizers.first_order"
_SECOND_ORDER = "deepobs_func.optimizers.second_order"
FUNCTIONAL = {
    row.name: row
    for row in (
        OptimizerRow("sgd", f"{_FIRST_ORDER}:sgd", "stochastic gradient descent"),
        OptimizerRow("momentum", f"{_FIRST_ORDER}:momentum", "heavy-ball momentum", {"momentum": 0.9}),
        OptimizerRow("nesterov", f"{_FIRST_ORDER}:nesterov", "Nesterov's momentum", {"momentum": 0.9}),
        OptimizerRow("adam", f"{_FIRST_ORDER}:adam", "Adam", {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}),
        OptimizerRow(
            "adamw",
            f"{_FIRST_ORDER}:adamw",
            "Adam with decoupled weight decay",
            {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 1e-2},
        ),
        OptimizerRow(
            "rmsprop", f"{_FIRST_ORDER}:rmsprop", "RMSprop", {"alpha": 0.99, "epsilon": 1e-8, "momentum": 0.0}
        ),
        OptimizerRow(
            "newton_cg",
            "deepobs_func.optimizers.newton:newton_cg",
            "Hessian-free Newton on the GGN, damped by Levenberg-Marquardt",
            {"damping": 1.0, "damping_factor": 1.5, "warm_start": 0.95, "cg_tol": 1e-3, "cg_steps": 10},
        ),
        OptimizerRow(
            "adahessian",
            f"{_SECOND_ORDER}:adahessian",
            "AdaHessian: Adam on the Hessian's diagonal",
            {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-4, "hessian_power": 1.0, "weight_decay": 0.0},
        ),
        OptimizerRow(
            "sophia_h",
            f"{_SECOND_ORDER}:sophia_h",
            "Sophia with Hutchinson's estimate of the Hessian's diagonal",
            {"beta1": 0.96, "beta2": 0.99, "gamma": 0.01, "epsilon": 1e-12, "weight_decay": 0.1, "update_every": 10},
        ),
        OptimizerRow(
            "sgd_cabs",
            "deepobs_func.optimizers.cabs:sgd_cabs",
            "SGD that records the batch size which CABS advises",
            {"bn": None},
        ),
    )
}

_PATHS = {
    **{name: row.make for name, row in FUNCTIONAL.items()},
    **{
        name: f"deepobs_func.optimizers.transforms:{name}"
        for name in ("clip_by_global_norm", "clip_by_value", "weight_decay")
    },
    **{name: f"deepobs_func.optimizers.schedules:{name}" for name in ("steps", "exponential", "cosine", "warm_up")},
    **{name: f"deepobs_func.optimizers.torch_optim:{name}" for name in ("from_class", "from_factory")},
    "Optimizer": "deepobs_func.optimizers.base:Optimizer",
}
__getattr__, __dir__, __all__ = lazy.attach(__name__, _PATHS, also=["FUNCTIONAL", "OptimizerRow", "names"])


@dataclass(frozen=True)
class Range:
    """Where a hyperparameter may lie: from `low` up to, but without, `high`; with it, if `closed`."""

    low: float = -math.inf
    high: float = math.inf
    closed: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value < self.high or (self.closed and value == self.high)

    def __str__(self) -> str:
        if not math.isfinite(self.high):
            return f"at least {self.low:g}"
        return f"at least {self.low:g} and {'at most' if self.closed else 'below'} {self.high:g}"


_FRACTION, _POSITIVE = Range(0.0, 1.0), Range(0.0)
RANGES = {
    "momentum": _FRACTION,
    "alpha": _FRACTION,
    "beta1": _FRACTION,
    "beta2": _FRACTION,
    "epsilon": _POSITIVE,
    "weight_decay": _POSITIVE,
    "max_norm": _POSITIVE,
    "max_value": _POSITIVE,
    "hessian_power": Range(0.0, 1.0, closed=True),
    "gamma": _POSITIVE,
    "damping": _POSITIVE,
    "damping_factor": Range(1.0),
    "warm_start": Range(0.0, 1.0, closed=True),
    "cg_tol": _POSITIVE,
}
"""Of the hyperparameters that are numbers; one that is not here may be any finite number."""

WHOLE = ("cg_steps", "update_every")
"""Hyperparameters that are whole numbers from 1."""

CHOICES = {"bn": ("coupled", "frozen", "eval", None)}
"""Hyperparameters that are one of some names; None where there is no default, and a problem may need none."""


def checked(name: str, value: Any) -> Any:
    """The value of a hyperparameter: a float, a whole number or a name.

    Raises:
        ConfigError: it is of another kind, or out of its range.
    """
    if name in CHOICES:
        if value not in CHOICES[name]:
            raise ConfigError(unknown(f"choice for the hyperparameter {name}:", str(value), map(str, CHOICES[name])))
        return value
    if name in WHOLE:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
            raise ConfigError(f"The hyperparameter {name} is {value!r}; it must be a whole number from 1.")
        return int(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ConfigError(f"The hyperparameter {name} is {value!r}; it must be a finite number.")
    if float(value) not in RANGES.get(name, Range()):
        raise ConfigError(f"The hyperparameter {name} is {value!r}; it must be {RANGES[name]}.")
    return float(value)


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
