"""SGD that looks at its per-example gradients, and may take larger batches where their noise asks for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deepobs_func import tree
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


class Gathered(NamedTuple):
    """What the micro-batches since the last update add up to.

    Attributes:
        advice: the batch size that CABS advised at the last update; NaN before the first.
        wanted: how many micro-batches the next update is of, 0-d int64.
        made: how many there are already.
        is_last: whether the last one of them completed an update, 0-d bool.
        batch_size: of the update that the last micro-batch was part of, in examples, 0-d float64.
        squares, losses: sums over their examples of `|g_n|^2` and of the losses, 0-d float64.
        sums: the sum over their examples of `g_n`, of the losses alone.
        grads: the sum over the micro-batches of the gradient of the objective.
    """

    advice: Tensor
    wanted: Tensor
    made: Tensor
    is_last: Tensor
    batch_size: Tensor
    squares: Tensor
    losses: Tensor
    sums: Params
    grads: Params


def _nothing_gathered(params: Params) -> Gathered:
    nan, zero = _no_advice(params), torch.zeros_like(_no_advice(params))
    one = torch.ones((), dtype=torch.int64, device=nan.device)
    return Gathered(nan, one, one * 0, one < 0, zero, zero, zero, tree.zeros_like(params), tree.zeros_like(params))


@cache
def _make_gather(bn: str | None, most: int) -> Callable[[View, Gathered], Gathered]:
    """Adds a micro-batch; at the last one of an update, says how many the next one is of."""

    def gather(view: View, before: Gathered) -> Gathered:
        found = view.oracle.statistics(["grad", "sq_norms"], bn=bn)
        assert found.grad is not None, "what was asked for is there"
        assert found.sq_norms is not None, "what was asked for is there"
        size, count = len(found.losses), before.made + 1
        sums = tree.add(before.sums, found.grad)
        squares = before.squares + found.sq_norms.sum().to(torch.float64)
        losses = before.losses + found.losses.sum().to(torch.float64)
        examples = count * size
        squared_mean = tree.dot(sums, sums).to(torch.float64) / examples.square()
        variance = (squares / examples - squared_mean).clamp(min=0)
        advice = torch.where(losses > 0, view.lr * variance / (losses / examples), torch.nan)
        is_last = count >= before.wanted
        wanted = (advice / size).round().nan_to_num(1.0, most).clamp(1, most).to(torch.int64)
        wanted = torch.where(is_last & ~advice.isnan(), wanted, before.wanted)
        advice = torch.where(is_last, advice, before.advice)
        batch_size = (before.wanted * size).to(torch.float64)
        return Gathered(advice, wanted, count, is_last, batch_size, squares, losses, sums, before.grads)

    return gather


def _let_through(
    direction: Params, slots: Gathered, params: Params, hyper: Hyper, step: Tensor
) -> tuple[Params, Gathered]:
    """The mean gradient of all micro-batches at the last one, zero before it."""
    grads = tree.add(slots.grads, direction)
    direction = tree.map(lambda g: torch.where(slots.is_last, g / slots.made.to(g.dtype), 0.0), grads)
    left = lambda leaf: torch.where(slots.is_last, torch.zeros_like(leaf), leaf)
    return direction, slots._replace(
        made=left(slots.made),
        squares=left(slots.squares),
        losses=left(slots.losses),
        sums=tree.map(left, slots.sums),
        grads=tree.map(left, grads),
    )


def _report_gathered(state: OptState) -> dict[str, Tensor]:
    slots: Gathered = state.slots[0]
    return {"advised_batch_size": slots.advice, "batch_size": slots.batch_size}


def sgd_cabs(
    lr: float, bn: str | None = None, micro_batches: int = 1, *, schedule: Schedule | None = None
) -> Optimizer:
    """SGD, `params - lr g`, whose batch size CABS advises for the next update: `lr tr S / loss`.

    S is the covariance of the per-example gradients of the batch, and the loss their mean, both without the penalty.
    The advice is NaN where the mean loss, which CABS takes to be at least 0, is not positive. It is derived for SGD
    without momentum, so there are no transforms.

    With `micro_batches` 1 it is recorded, not rounded, and not followed: every update is of the run's batch. With more
    it is followed: the run's batch is a micro-batch, and an update is of as many of them as come nearest to the advice
    of the update before, from 1 to `micro_batches`, the first of 1. Their gradients are averaged at one point, so that
    it is the update of one large batch; a step of the run that is not the last of its update leaves the parameters.
    The number of examples in an epoch is that of any other run, and a schedule goes by it. Batch norm normalises each
    micro-batch by itself. It holds two trees like the parameters.

    Args:
        lr: the learning rate.
        bn: what a per-example gradient is where batch norm couples the examples: `"coupled"`, `"frozen"` or `"eval"`,
            as in `probes.statistics`; required there.
        micro_batches: the most that are in a batch.
        schedule: the factor of the learning rate by step.

    Returns:
        The optimizer. It reports `advised_batch_size`, and where the advice is followed `batch_size`.

    Raises:
        ConfigError: `micro_batches` is out of range; (from `check`) the problem couples its examples and `bn` is None
            or does not fit.

    Source: Balles, Romero and Hennig, "Coupling adaptive batch sizes with learning rates", UAI 2017, equation 22,
    without its running averages.

    >>> optimizer = sgd_cabs(0.1, bn="frozen", micro_batches=8)
    """
    bn, most = checked("bn", bn), checked("micro_batches", micro_batches)
    if most == 1:
        chain = Transform({}, _no_advice, _pass_on, _make_advise(bn), _a_pass_a_step)
    else:
        chain = Transform({}, _nothing_gathered, _let_through, _make_gather(bn, most), _a_pass_a_step)
    optimizer = compose(chain, lr=lr, schedule=schedule)
    report = _report if most == 1 else _report_gathered
    return optimizer._replace(check=partial(check_batch_norm, bn=bn), report=report)
