"""SGD that looks at its per-example gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from deepobs_func.base import Params
from deepobs_func.optimizers import checked
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.optimizers.schedules import Schedule
from deepobs_func.optimizers.transforms import Hyper, OptState, Transform, View, compose
from deepobs_func.probes import quantities
from deepobs_func.probes.example_losses import check_batch_norm


def _no_advice(params: Params) -> Tensor:
    like = next(iter(params.values()))
    return torch.full((), torch.nan, dtype=torch.float64, device=like.device)


def _pass_on(direction: Params, slots: Any, params: Params, hyper: Hyper, step: Tensor) -> tuple[Params, Any]:
    return direction, slots


@cache
def _make_advise(bn: str | None) -> Callable[[View, Tensor], Tensor]:
    """One function for each `bn`, so that a compiled step serves every learning rate."""

    def advise(view: View, slots: Tensor) -> Tensor:
        found = view.oracle.statistics(["gram"], bn=bn)
        assert found.gram is not None, "what was asked for is there"
        advice = quantities.cabs(found.gram, found.losses, view.lr).to(torch.float64)
        return torch.where(found.losses.mean() > 0, advice, torch.nan)

    return advise


def _a_pass_a_step(hyper: Hyper, step: Tensor, slots: Any) -> dict[str, Tensor]:
    return {"gradients": step}


def _report(state: OptState) -> dict[str, Tensor]:
    return {"advised_batch_size": state.slots[0]}


def sgd_cabs(lr: float, bn: str | None = None, *, schedule: Schedule | None = None) -> Optimizer:
    """SGD, `params - lr g`, that keeps and records the batch size which CABS advises for the step, `lr tr S / loss`.

    S is the covariance of the per-example gradients at the batch, and the loss their mean, both without the penalty.
    The advice is not followed: the batch size of a run is fixed. It is not rounded, and NaN where the mean loss, which
    CABS takes to be at least 0, is not positive. It is derived for SGD without momentum, so there are no transforms.

    Args:
        lr: the learning rate.
        bn: what a per-example gradient is where batch norm couples the examples: `"coupled"`, `"frozen"` or `"eval"`,
            as in `probes.statistics`; required there.
        schedule: the factor of the learning rate by step.

    Returns:
        The optimizer.

    Raises:
        ConfigError: (from `check`) the problem couples its examples and `bn` is None or does not fit.

    Source: Balles, Romero and Hennig, "Coupling adaptive batch sizes with learning rates", UAI 2017, equation 22,
    without its running averages.

    >>> optimizer = sgd_cabs(0.1, bn="frozen")
    """
    bn = checked("bn", bn)
    optimizer = compose(Transform({}, _no_advice, _pass_on, _make_advise(bn), _a_pass_a_step), lr=lr, schedule=schedule)
    return optimizer._replace(check=partial(check_batch_norm, bn=bn), report=_report)
