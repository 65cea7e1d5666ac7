"""First-order optimizers that came after Adam: NAdamW, Lion and Prodigy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deepobs_func import tree
from deepobs_func.base import Params
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.optimizers.first_order import average, power, zero_moments
from deepobs_func.optimizers.schedules import Schedule
from deepobs_func.optimizers.transforms import Hyper, OptState, Transform, View, compose
from deepobs_func.optimizers.transforms import weight_decay as decay

Transforms = Sequence[Transform]
Moments = tuple[Params, Params]


class NadamSlots(NamedTuple):
    """Averages of the gradient and its square, and the product of the momenta so far, 0-d float64."""

    first: Params
    second: Params
    product: Tensor


def _start_nadam(params: Params) -> NadamSlots:
    device = next(iter(params.values())).device
    return NadamSlots(*zero_moments(params), torch.ones((), dtype=torch.float64, device=device))


def _nadam(
    direction: Params, slots: NadamSlots, params: Params, hyper: Hyper, step: Tensor
) -> tuple[Params, NadamSlots]:
    beta1, beta2 = hyper["beta1"], hyper["beta2"]
    rate = hyper["momentum_decay"] * math.log(0.96)
    now, following = (beta1 * (1 - 0.5 * torch.exp(t * rate)) for t in (step, step + 1))
    product = slots.product * now
    of_gradient, of_average = (1 - now) / (1 - product), following / (1 - product * following)
    correction2 = torch.sqrt(1 - power(beta2, step))
    first = tree.map(lambda m, d: average(beta1, m, d), slots.first, direction)
    second = tree.map(lambda v, d: average(beta2, v, d * d), slots.second, direction)

    def rule(d: Tensor, m: Tensor, v: Tensor) -> Tensor:
        scale = torch.sqrt(v) / correction2.to(v.dtype) + hyper["epsilon"].to(v.dtype)
        return (of_gradient.to(d.dtype) * d + of_average.to(m.dtype) * m) / scale

    return tree.map(rule, direction, first, second), NadamSlots(first, second, product)


def nadamw(
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    momentum_decay: float = 4e-3,
    weight_decay: float = 1e-2,
    *,
    before: Transforms = (),
    after: Transforms = (),
    schedule: Schedule | None = None,
) -> Optimizer:
    """Adam with Nesterov's momentum and decoupled weight decay, `torch.optim.NAdam(decoupled_weight_decay=True)`.

    Formula: `mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2)`, `M_t = mu_1 ... mu_t`; `m`, `v` averages of `g`, `g^2`;
    `params - lr ((1 - mu_t) / (1 - M_t) g + mu_(t+1) / (1 - M_(t+1)) m) / (sqrt(v_hat) + epsilon)`, and minus
    `lr weight_decay params`.

    Args:
        lr: the base learning rate.
        beta1, beta2: the decay of the averages, from 0 to below 1.
        epsilon: 0 or more.
        momentum_decay: how fast the momentum grows from `beta1 / 2` to `beta1`.
        weight_decay: decoupled, 0 or more.
        before: transforms of the gradient, such as `clip_by_global_norm(1.0)`.
        after: transforms of the direction.
        schedule: the factor of the learning rate by update; by default 1.

    Returns:
        The optimizer.

    Raises:
        ConfigError: a value is out of its range.

    Source: Dozat, "Incorporating Nesterov momentum into Adam", ICLR workshop 2016, algorithm 2 with its momentum
    schedule; the decay is that of Loshchilov and Hutter, ICLR 2019. AlgoPerf's NAdamW (Dahl et al. 2023) has no such
    schedule.

    >>> optimizer = nadamw(1e-3, weight_decay=0.1)
    """
    hyper = {"beta1": beta1, "beta2": beta2, "epsilon": epsilon, "momentum_decay": momentum_decay}
    rule = Transform(hyper, _start_nadam, _nadam)
    return compose(*before, rule, decay(weight_decay), *after, lr=lr, schedule=schedule)


def _sign(x: Tensor) -> Tensor:
    """NaN of NaN, of which `torch.sign` makes 0, so that a run may diverge."""
    return torch.where(x.isnan(), x, torch.sign(x))


def _lion(direction: Params, slots: Params, params: Params, hyper: Hyper, step: Tensor) -> tuple[Params, Params]:
    signs = tree.map(lambda m, d: _sign(average(hyper["beta1"], m, d)), slots, direction)
    return signs, tree.map(lambda m, d: average(hyper["beta2"], m, d), slots, direction)


def lion(
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.99,
    weight_decay: float = 0.0,
    *,
    before: Transforms = (),
    after: Transforms = (),
    schedule: Schedule | None = None,
) -> Optimizer:
    """Lion: the sign of an interpolation between momentum and gradient.

    Formula: `params - lr (sign(beta1 m + (1 - beta1) g) + weight_decay params)`, then
    `m <- beta2 m + (1 - beta2) g`.

    Args:
        lr: the step of every coordinate; a third to a tenth of Adam's.
        beta1: of the interpolation, from 0 to below 1.
        beta2: of the momentum, from 0 to below 1.
        weight_decay: decoupled, 0 or more; three to ten times AdamW's.
        before: transforms of the gradient, such as `clip_by_global_norm(1.0)`.
        after: transforms of the direction.
        schedule: the factor of the learning rate by update; by default 1.

    Returns:
        The optimizer.

    Raises:
        ConfigError: a value is out of its range.

    Source: Chen et al., "Symbolic discovery of optimization algorithms", NeurIPS 2023, algorithm 2.

    >>> optimizer = lion(1e-4, weight_decay=0.1)
    """
    rule = Transform({"beta1": beta1, "beta2": beta2}, tree.zeros_like, _lion)
    return compose(*before, rule, decay(weight_decay), *after, lr=lr, schedule=schedule)


class ProdigySlots(NamedTuple):
    """What Prodigy remembers.

    Attributes:
        first, second: averages of `d g` and `(d g)^2`.
        start: the parameters before the first step.
        sums: the weighted sum of the gradients.
        numerator: of the estimate of the distance, 0-d float64.
        distance: d, in units of `d0`, 0-d float64.
    """

    first: Params
    second: Params
    start: Params
    sums: Params
    numerator: Tensor
    distance: Tensor


def _start_prodigy(params: Params) -> ProdigySlots:
    device = next(iter(params.values())).device
    zero, one = (torch.full((), value, dtype=torch.float64, device=device) for value in (0.0, 1.0))
    start = tree.map(torch.clone, params)
    return ProdigySlots(*zero_moments(params), start, tree.zeros_like(params), zero, one)


def _prodigy(view: View, direction: Params, slots: ProdigySlots) -> tuple[Params, ProdigySlots]:
    hyper, beta2 = view.hyper, view.hyper["beta2"]
    beta3, relative = torch.sqrt(beta2), slots.distance
    distance = relative * hyper["d0"]
    weight = relative * distance * view.lr
    numerator = beta3 * slots.numerator + weight * tree.dot(direction, tree.sub(slots.start, view.params))
    sums = tree.map(lambda s, g: beta3.to(s.dtype) * s + weight.to(s.dtype) * g, slots.sums, direction)
    scaled = tree.scale(distance, direction)
    first = tree.map(lambda m, d: average(hyper["beta1"], m, d), slots.first, scaled)
    second = tree.map(lambda v, d: average(beta2, v, d * d), slots.second, scaled)
    denominator = torch.stack([leaf.abs().sum().to(torch.float64) for leaf in sums.values()]).sum()
    estimate = hyper["d_coef"] * numerator / denominator / hyper["d0"]
    grown = torch.where(
        denominator != 0,  # which NaN is, so that a run may diverge
        torch.maximum(relative, estimate),
        relative,
    )

    def rule(m: Tensor, v: Tensor, p: Tensor) -> Tensor:
        adam = m / (torch.sqrt(v) + (grown * hyper["d0"] * hyper["epsilon"]).to(v.dtype))
        moved = distance.to(m.dtype) * (adam + hyper["weight_decay"].to(p.dtype) * p)
        return torch.where(denominator != 0, moved, torch.zeros_like(moved))

    moved = tree.map(rule, first, second, view.params)
    return moved, ProdigySlots(first, second, slots.start, sums, numerator.to(torch.float64), grown)


def _nothing(hyper: Hyper, step: Tensor, slots: ProdigySlots) -> dict[str, Tensor]:
    return {}


def prodigy(
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    d0: float = 1e-6,
    d_coef: float = 1.0,
    *,
    before: Transforms = (),
    schedule: Schedule | None = None,
) -> Optimizer:
    """Prodigy: Adam whose learning rate is an estimate d of the distance to the solution.

    Formula: with `beta3 = sqrt(beta2)`, `r <- beta3 r + lr d^2 / d0 <g, x_0 - x>`, `s <- beta3 s + lr d^2 / d0 g`;
    `m`, `v` averages of `d g`, `d^2 g^2`; `d' = max(d, d_coef r / |s|_1)`;
    `params - lr d (m / (sqrt(v) + d' epsilon) + weight_decay params)`, then `d <- d'`. Without bias correction.

    Args:
        lr: a factor of d; 1 is its authors' own, so that nothing need be tuned.
        beta1, beta2: the decay of the averages, from 0 to below 1.
        epsilon: 0 or more.
        weight_decay: decoupled, 0 or more.
        d0: the first estimate, more than 0; it only has to be small enough.
        d_coef: a factor of the estimates.
        before: transforms of the gradient, such as `clip_by_global_norm(1.0)`.
        schedule: the factor of the learning rate by update; by default 1.

    Returns:
        The optimizer; it reports `distance`, d.

    Raises:
        ConfigError: a value is out of its range.

    Source: Mishchenko and Defazio, "Prodigy: an expeditiously adaptive parameter-free learner", ICML 2024, algorithm 4;
    the weights of r and s, and the use of the old d in the step, are those of the authors' code.

    >>> optimizer = prodigy(1.0, d_coef=0.5)
    """
    hyper = {"beta1": beta1, "beta2": beta2, "epsilon": epsilon, "weight_decay": weight_decay}
    hyper |= {"d0": d0, "d_coef": d_coef}
    place = len(before)
    rule = Transform(hyper, _start_prodigy, calls=_nothing, act=_prodigy)

    def report(state: OptState) -> dict[str, Tensor]:
        return {"distance": state.slots[place].distance * state.hyper["d0"]}

    return compose(*before, rule, lr=lr, schedule=schedule)._replace(report=report)
