"""Optimizers: functional ones by name, any `torch.optim.Optimizer` class by import path.

Listing the functional ones and their hyperparameters imports no torch; making one does.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
    **{name: f"{_FIRST_ORDER}:{name}" for name in FUNCTIONAL},
    **{
        name: f"deepobs_func.optimizers.transforms:{name}"
        for name in ("clip_by_global_norm", "clip_by_value", "weight_decay")
    },
    **{name: f"deepobs_func.optimizers.schedules:{name}" for name in ("steps", "exponential", "cosine", "warm_up")},
    "Optimizer": "deepobs_func.optimizers.base:Optimizer",
}
__all__ = ["FUNCTIONAL", "OptimizerRow", *_LAZY]


def names() -> list[str]:
    """The names of the functional optimizers."""
    return list(FUNCTIONAL)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return pkgutil.resolve_name(_LAZY[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
