"""The interface of every optimizer: a pair of functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from deepobs_func import random
from deepobs_func.base import Params


class Oracle(Protocol):
    """What an optimizer may ask of the problem at the batch of this step."""

    def value(self) -> Tensor:
        """The objective, a 0-d tensor."""

    def grad(self) -> Params:
        """The gradient of the objective."""

    def loss_at(self, params: Params) -> Tensor:
        """The objective of the same batch at another point."""

    def at(self, params: Params) -> Oracle:
        """The oracle of the same batch at another point."""


class Optimizer(NamedTuple):
    """An optimizer.

    Attributes:
        init: `(params, key) -> opt_state`. The key is for optimizers that draw; most do not read it.
        update: `(oracle, opt_state, params) -> (params, opt_state)`.
        compiles: whether `update` is pure tensor code, so that it can stand inside a compiled step.
    """

    init: Callable[[Params, random.Key], Any]
    update: Callable[[Oracle, Any, Params], tuple[Params, Any]]
    compiles: bool = True
