"""Loss scaling: float16 has no numbers below 6e-8, so the loss is multiplied before it is differentiated.

The factor is a value of the optimizer's state. It is found by trying: it grows while gradients are finite, and shrinks
where one is not; that step is left out. Nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from deepobs_func import random
from deepobs_func.base import Params
from deepobs_func.errors import ConfigError
from deepobs_func.optimizers.base import Optimizer, Oracle

START, MOST, LEAST = 2.0**16, 2.0**24, 1.0
INTERVAL = 2000  # steps with finite gradients, one after the other, until the factor grows


class Scaled(NamedTuple):
    """The state of an optimizer under loss scaling.

    Attributes:
        state: the optimizer's own.
        scale: the factor of the loss in the next step, a power of two, 0-d float32.
        steps: how many steps were finite since it last changed, 0-d int64.
        finite: whether the last one was, 0-d boolean.
        skipped: how many steps were left out, 0-d int64.
    """

    state: Any
    scale: Tensor
    steps: Tensor
    finite: Tensor
    skipped: Tensor


def scaled(optimizer: Optimizer) -> Optimizer:
    """The optimizer under dynamic loss scaling.

    Formula: with g the gradient of `scale * objective`, the optimizer sees `g / scale`. Where g is finite, and so are
    parameters and state after the step as far as they were before it, the step is made, and after 2000 of them in a row
    `scale <- 2 scale`. Otherwise parameters and state stay as they are, and `scale <- scale / 2`; at a scale of 1 the
    step is made in any case, so that a run that diverges is seen to.

    A step of the runner asks for the gradient of the scaled loss where it finds a `Scaled` state. The gradient of
    several points of one batch (`oracle.at`) has the same factor.

    Args:
        optimizer: a functional one, which asks for gradients and values of the objective.

    Returns:
        The optimizer; it reports `loss_scale` and `skipped_steps`.

    Source: Micikevicius et al., "Mixed precision training", ICLR 2018; start, factors and interval are those of
    `torch.amp.GradScaler`, which has no least scale.

    >>> from deepobs_func.optimizers import adam
    >>> optimizer = scaled(adam(1e-3))
    """

    def init(params: Params, key: random.Key) -> Scaled:
        device = next(iter(params.values())).device
        whole = lambda: torch.zeros((), dtype=torch.int64, device=device)
        scale = torch.full((), START, dtype=torch.float32, device=device)
        finite = torch.ones((), dtype=torch.bool, device=device)
        return Scaled(optimizer.init(params, key), scale, whole(), finite, whole())

    def load(snapshot: Any, params: Params, key: random.Key) -> Scaled:
        state, *rest = snapshot
        return Scaled(optimizer.load(state, params, key), *rest)

    def report(state: Scaled) -> dict[str, Tensor]:
        return optimizer.report(state.state) | {"loss_scale": state.scale, "skipped_steps": state.skipped}

    def calls(state: Scaled) -> Mapping[str, Any]:
        assert optimizer.calls is not None, "asked only where it is declared"
        found = optimizer.calls(state.state)
        return {**found, "gradients": found["gradients"] + state.skipped}

    return optimizer._replace(
        init=init,
        update=_make_update(optimizer.update),
        report=report,
        eval_params=lambda state, params: optimizer.eval_params(state.state, params),
        save=lambda state: (optimizer.save(state.state), *state[1:]),
        load=load,
        calls=None if optimizer.calls is None else calls,
    )


@cache
def _make_update(inner: Callable[..., tuple[Params, Any]]) -> Callable[..., tuple[Params, Scaled]]:
    """One function for each update, so that a compiled step serves every value."""

    def update(oracle: Oracle, before: Scaled, params: Params) -> tuple[Params, Scaled]:
        finite = torch.stack([grad.isfinite().all() for grad in oracle.grad().values()]).all()
        moved, state = inner(GradientOnly(oracle), before.state, params)
        finite = finite & _stays_finite((moved, state), (params, before.state))
        made = finite | (before.scale <= LEAST)
        params, state = kept_where(made, (moved, state), (params, before.state))
        steps = torch.where(finite, before.steps + 1, 0)
        grows = steps >= INTERVAL
        larger = torch.where(grows, (2 * before.scale).clamp(max=MOST), before.scale)
        scale = torch.where(finite, larger, (before.scale / 2).clamp(min=LEAST))
        skipped = before.skipped + torch.where(made, 0, 1)
        return params, Scaled(state, scale, torch.where(grows, 0, steps), finite, skipped)

    return update


def _stays_finite(new: Any, old: Any) -> Tensor:
    """Whether all that was finite is so now: the gradient at another point, which nobody hands over, may overflow too.

    Args:
        new, old: trees of the same tensors.

    Returns:
        0-d, boolean.
    """
    pairs = zip(pytree.tree_leaves(new), pytree.tree_leaves(old), strict=True)
    return torch.stack(
        [after.isfinite().all() | ~before.isfinite().all() for after, before in pairs if after.is_floating_point()]
    ).all()


def kept_where(made: Tensor, new: Any, old: Any) -> Any:
    """The new tree where the step was made, the old one where it was not.

    Args:
        made: 0-d, boolean.
        new, old: trees of the same tensors.
    """
    return pytree.tree_map(lambda after, before: torch.where(made, after, before), new, old)


def unscaled(grads: Params, scale: Tensor) -> Params:
    """The gradient of the objective, from that of `scale` times the objective."""
    return {name: grad / scale.to(grad.dtype) for name, grad in grads.items()}


def _refuse() -> NoReturn:
    raise ConfigError(refusal("the optimizer"))


class GradientOnly:
    """An oracle of which only values and gradients are asked: products with curvature have no scale.

    Every other question raises a ConfigError.

    Args:
        oracle: the oracle.
    """

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle

    def value(self) -> Tensor:
        """The objective."""
        return self._oracle.value()

    def grad(self) -> Params:
        """The gradient of the objective."""
        return self._oracle.grad()

    def loss_at(self, params: Params) -> Tensor:
        """The objective at another point."""
        return self._oracle.loss_at(params)

    def at(self, params: Params) -> GradientOnly:
        """The oracle at another point."""
        return GradientOnly(self._oracle.at(params))

    def gradient_factors(self) -> None:
        """None: they would be of an unscaled loss."""

    def layerless(self) -> list[str]:
        """The parameters of layers that do not know their per-example gradients."""
        return self._oracle.layerless()

    def taps_in_branches(self) -> bool:
        """As the oracle says."""
        return self._oracle.taps_in_branches()

    def part(self, size: int | None) -> GradientOnly:
        """The oracle of the first examples of the batch."""
        return self if size is None else GradientOnly(self._oracle.part(size))

    def hvp(self, v: Any) -> NoReturn:
        """Refused."""
        _refuse()

    def ggnvp(self, v: Any) -> NoReturn:
        """Refused."""
        _refuse()

    def make_hvp(self) -> NoReturn:
        """Refused."""
        _refuse()

    def make_ggnvp(self) -> NoReturn:
        """Refused."""
        _refuse()

    def per_example_grads(self, *, bn: str | None = None) -> NoReturn:
        """Refused."""
        _refuse()

    def statistics(self, wanted: Iterable[Any], *, bn: str | None = None) -> NoReturn:
        """Refused."""
        _refuse()

    def layer_gradients(self, kind: Any, *, key: Any = None, bn: str | None = None) -> NoReturn:
        """Refused."""
        _refuse()


def refusal(optimizer: str) -> str:
    """Why an optimizer that asks for more than the gradient cannot be trained in float16."""
    return (
        f"precision fp16: {optimizer} asks for curvature or per-example gradients, which have no loss scale and would "
        "underflow. Take bf16, which needs none, or an optimizer of the gradient alone."
    )
