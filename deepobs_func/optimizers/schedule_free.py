"""Schedule-free methods: what is evaluated is an average of the iterates, in the place of a learning rate that falls.

Three sequences: gradients are taken at `y = (1 - beta) z + beta x`, z makes the steps, and x is a weighted average of
the z. The parameters of a run are y; `eval_params` gives x.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deepobs_func import tree
from deepobs_func.base import Params
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.optimizers.first_order import average, power
from deepobs_func.optimizers.schedules import Schedule
from deepobs_func.optimizers.transforms import Hyper, Move, Transform, compose
from deepobs_func.optimizers.transforms import weight_decay as decay

Transforms = Sequence[Transform]


class Averaged(NamedTuple):
    """What the average needs.

    Attributes:
        z: the sequence that makes the steps.
        weights: the sum of the weights so far, 0-d float64.
        highest: the highest learning rate so far, 0-d float64.
    """

    z: Params
    weights: Tensor
    highest: Tensor


def _start(params: Params) -> Averaged:
    device = next(iter(params.values())).device
    weights, highest = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))
    return Averaged(tree.map(torch.clone, params), weights, highest)


def _average(
    params: Params, direction: Params, slots: Averaged, lr: Tensor, hyper: Hyper, step: Tensor
) -> tuple[Params, Averaged]:
    """`y <- (1 - c) y + c z - lr (1 - beta (1 - c)) d`, `z <- z - lr d`, c being the weight of this step's z."""
    highest = torch.maximum(slots.highest, lr)
    weight = torch.pow(step.to(lr.dtype), hyper["r"]) * torch.pow(highest, hyper["lr_power"])
    total = slots.weights + weight
    share = torch.where(total > 0, weight / total, 0.0)
    factor = lr * (1 - hyper["interpolation"] * (1 - share))
    y = tree.map(lambda y, z: torch.lerp(y, z, share.to(y.dtype)), params, slots.z)
    return tree.add_scaled(y, -1, factor, direction), Averaged(
        tree.add_scaled(slots.z, -1, lr, direction), total, highest
    )


def _averaged(slots: Averaged, params: Params, hyper: Hyper) -> Params:
    """`x = y + (1 - 1 / beta) (z - y)`."""
    back = 1 - 1 / hyper["interpolation"]
    return tree.map(lambda y, z: torch.lerp(y, z, back.to(y.dtype)), params, slots.z)


def averaging(interpolation: float = 0.9, r: float = 0.0, lr_power: float = 2.0) -> Move:
    """The schedule-free average as the last part of a composition, whatever makes the direction.

    Formula: `y <- (1 - c) y + c z - lr (1 - beta (1 - c)) d`, `z <- z - lr d`; c is the share of this step in the sum
    of the weights `t^r max(lr)^lr_power`, t counting from 1. `eval_params` gives `x = (y - (1 - beta) z) / beta`.

    Args:
        interpolation: beta, how close the gradient's point is to the average, from 0.01 to below 1.
        r: more of it gives later steps more weight.
        lr_power: makes the steps of a warm-up count less.

    Returns:
        The move, for `compose(..., move=...)`.

    Source: Defazio et al., "The road less scheduled", NeurIPS 2024; the weights are those of the authors' code.

    >>> from deepobs_func.optimizers.transforms import clip_by_value, compose
    >>> optimizer = compose(clip_by_value(1.0), lr=0.1, move=averaging(0.95))
    """
    return Move({"interpolation": interpolation, "r": r, "lr_power": lr_power}, _start, _average, _averaged)


def schedule_free_sgd(
    lr: float,
    interpolation: float = 0.9,
    weight_decay: float = 0.0,
    r: float = 0.0,
    lr_power: float = 2.0,
    *,
    before: Transforms = (),
    after: Transforms = (),
    schedule: Schedule | None = None,
) -> Optimizer:
    """Schedule-free SGD: `averaging` of the gradient, in the place of momentum and of a schedule.

    Args:
        lr: the learning rate; larger than SGD's.
        interpolation: beta, how close the gradient's point is to the average, in the place of momentum; from 0.01 to
            below 1.
        weight_decay: at y; 0 or more.
        r, lr_power: of the weights in the average, see `averaging`.
        before: transforms of the gradient, such as `clip_by_global_norm(1.0)`.
        after: transforms of the direction.
        schedule: the factor of the learning rate by update; `warm_up` is what the authors use.

    Returns:
        The optimizer; its `eval_params` is the average.

    Raises:
        ConfigError: a value is out of its range.

    Source: Defazio, Yang, Mehta, Mishchenko, Khaled and Cutkosky, "The road less scheduled", NeurIPS 2024. The moving
    moments of batch norm are those at y, where the gradients are taken; the authors' code recomputes them at x.

    >>> optimizer = schedule_free_sgd(1.0, interpolation=0.95)
    """
    chain = (*before, decay(weight_decay), *after)
    return compose(*chain, lr=lr, schedule=schedule, move=averaging(interpolation, r, lr_power))


def _scale(direction: Params, second: Params, params: Params, hyper: Hyper, step: Tensor) -> tuple[Params, Params]:
    correction = torch.sqrt(1 - power(hyper["beta2"], step))
    second = tree.map(lambda v, d: average(hyper["beta2"], v, d * d), second, direction)

    def rule(d: Tensor, v: Tensor) -> Tensor:
        return d / (torch.sqrt(v) / correction.to(v.dtype) + hyper["epsilon"].to(v.dtype))

    return tree.map(rule, direction, second), second


def schedule_free_adamw(
    lr: float,
    interpolation: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    r: float = 0.0,
    lr_power: float = 2.0,
    *,
    before: Transforms = (),
    after: Transforms = (),
    schedule: Schedule | None = None,
) -> Optimizer:
    """Schedule-free AdamW: `averaging` of `g / (sqrt(v_hat) + epsilon) + weight_decay y`, v an average of `g^2`.

    Args:
        lr: the learning rate.
        interpolation: beta, how close the gradient's point is to the average, in the place of Adam's beta1; from 0.01
            to below 1.
        beta2: the decay of v, from 0 to below 1.
        epsilon: 0 or more.
        weight_decay: decoupled, at y; 0 or more.
        r, lr_power: of the weights in the average, see `averaging`.
        before: transforms of the gradient, such as `clip_by_global_norm(1.0)`.
        after: transforms of the direction.
        schedule: the factor of the learning rate by update; `warm_up` is what the authors use.

    Returns:
        The optimizer; its `eval_params` is the average.

    Raises:
        ConfigError: a value is out of its range.

    Source: Defazio et al., "The road less scheduled", NeurIPS 2024, algorithm 1; the rest as in `schedule_free_sgd`.

    >>> optimizer = schedule_free_adamw(2.5e-3, weight_decay=1e-2)
    """
    rule = Transform({"beta2": beta2, "epsilon": epsilon}, tree.zeros_like, _scale)
    chain = (*before, rule, decay(weight_decay), *after)
    return compose(*chain, lr=lr, schedule=schedule, move=averaging(interpolation, r, lr_power))
