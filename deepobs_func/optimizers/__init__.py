"""Optimizers: functional ones by name, any `torch.optim.Optimizer` class by import path.

Listing the functional ones and their hyperparameters imports no torch; making one does.
"""

from __future__ import annotations

import math
import numbers
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deepobs_func.errors import ConfigError

if TYPE_CHECKING:
    from deepobs_func.optimizers.base import Optimizer as Optimizer
    from deepobs_func.optimizers.first_order import adam as adam
    from deepobs_func.optimizers.first_order import adamw as adamw
    from deepobs_func.optimizers.first_order import momentum as momentum
    from deepobs_func.optimizers.first_order import nesterov as nesterov
    from deepobs_func.optimizers.first_order import rmsprop as rmsprop
    from deepobs_func.optimizers.first_order import sgd as sgd
    from deepobs_func.optimizers.schedules import cosine as cosine
    from deepobs_func.optimizers.schedules import exponential as exponential
    from deepobs_func.optimizers.schedules import steps as steps
    from deepobs_func.optimizers.schedules import warm_up as warm_up
    from deepobs_func.optimizers.transforms import clip_by_global_norm as clip_by_global_norm
    from deepobs_func.optimizers.transforms import clip_by_value as clip_by_value
    from deepobs_func.optimizers.transforms import weight_decay as weight_decay


@dataclass(frozen=True)
class OptimizerRow:
    """A functional optimizer as data.

    Attributes:
        name: on the command line and in the results tree.
        make: the import path of its constructor, `(lr, **hyperparameters) -> Optimizer`.
        defaults: its hyperparameters beside the learning rate.
        summary: one line.
    """

    name: str
    make: str
    summary: str
    defaults: Mapping[str, float] = field(default_factory=dict, hash=False)


_FIRST_ORDER = "deepobs_func.optimizers.first_order"
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
    )
}

_LAZY = {
    **{name: row.make for name, row in FUNCTIONAL.items()},
    **{
        name: f"deepobs_func.optimizers.transforms:{name}"
        for name in ("clip_by_global_norm", "clip_by_value", "weight_decay")
    },
    **{name: f"deepobs_func.optimizers.schedules:{name}" for name in ("steps", "exponential", "cosine", "warm_up")},
    "Optimizer": "deepobs_func.optimizers.base:Optimizer",
}
__all__ = ["FUNCTIONAL", "OptimizerRow", *_LAZY]


_FRACTION, _POSITIVE = (0.0, 1.0), (0.0, math.inf)
RANGES = {
    "momentum": _FRACTION,
    "alpha": _FRACTION,
    "beta1": _FRACTION,
    "beta2": _FRACTION,
    "epsilon": _POSITIVE,
    "weight_decay": _POSITIVE,
    "max_norm": _POSITIVE,
    "max_value": _POSITIVE,
}
"""Where a hyperparameter may lie: from the first number up to, but without, the second."""


def checked(name: str, value: Any) -> float:
    """The value of a hyperparameter as a float.

    Raises:
        ConfigError: it is no finite number, or out of its range.
    """
    low, high = RANGES.get(name, (-math.inf, math.inf))
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ConfigError(f"The hyperparameter {name} is {value!r}; it must be a finite number.")
    if not low <= float(value) < high:
        bound = f" and below {high:g}" if math.isfinite(high) else ""
        raise ConfigError(f"The hyperparameter {name} is {value!r}; it must be at least {low:g}{bound}.")
    return float(value)


def check_lr(lr: float) -> None:
    """Refuses a learning rate that is not positive.

    Raises:
        ConfigError: it is zero, negative or not finite.
    """
    if not (lr > 0 and math.isfinite(lr)):
        raise ConfigError(f"--lr {lr}: a learning rate must be positive and finite.")


def names() -> list[str]:
    """The names of the functional optimizers."""
    return list(FUNCTIONAL)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return pkgutil.resolve_name(_LAZY[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
