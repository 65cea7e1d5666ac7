"""Clipping in front of an optimizer that is not a composition of transforms: its oracle has a clipped gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from deepobs_func.base import Params
from deepobs_func.optimizers.base import Optimizer, Oracle
from deepobs_func.optimizers.transforms import Transform

Change = Callable[[Params], Params]
Link = tuple[Callable[..., Any], tuple[tuple[str, float], ...]]  # a transform's update, and its hyperparameters


class _Clipped:
    """An oracle with another gradient; all else is the oracle's own."""

    def __init__(self, oracle: Oracle, change: Change) -> None:
        self._oracle, self._change = oracle, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._oracle, name)

    def changed(self, grads: Params) -> Params:
        """A gradient after the transforms."""
        return self._change(grads)

    def grad(self) -> Params:
        """The gradient after the transforms."""
        return self._change(self._oracle.grad())

    def gradient_factors(self) -> None:
        """None: they would be of the gradient before the transforms."""

    def at(self, params: Params) -> Any:
        """The oracle at another point, clipped alike."""
        return _Clipped(self._oracle.at(params), self._change)


def clipped(optimizer: Optimizer, transforms: Sequence[Transform]) -> Optimizer:
    """The optimizer behind transforms of the gradient that remember nothing, such as `clip_by_global_norm`.

    Args:
        optimizer: any.
        transforms: in the order in which they are applied; none leaves the optimizer as it is.
    """
    if not transforms:
        return optimizer
    links = tuple((each.update, tuple(each.hyper.items())) for each in transforms)
    return optimizer._replace(update=_make_update(optimizer.update, links))


@cache
def _make_update(update: Callable[..., Any], links: tuple[Link, ...]) -> Callable[..., tuple[Params, Any]]:
    """One function for each update and value, so that runs which clip alike share a compiled step."""

    def change(grads: Params) -> Params:
        like = next(iter(grads.values()))
        for transform, hyper in links:
            values = {name: torch.tensor(value, dtype=torch.float64, device=like.device) for name, value in hyper}
            grads, _ = transform(grads, {}, grads, values, _no_step(like))
        return grads

    def clip_and_update(oracle: Oracle, opt_state: Any, params: Params) -> tuple[Params, Any]:
        return update(_Clipped(oracle, change), opt_state, params)

    return clip_and_update


def _no_step(like: Tensor) -> Tensor:
    return torch.zeros((), dtype=torch.int64, device=like.device)
