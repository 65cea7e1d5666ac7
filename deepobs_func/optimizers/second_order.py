"""Optimizers that scale each coordinate by an estimate of the Hessian's diagonal.

The estimate is Hutchinson's, `u * (H u)` for one random vector u: one Hessian product, about 2.5 gradients. H is the
Hessian of the objective at the batch of the step, or at its first `curvature_batch` examples, the penalty included. All
of them take `before=`, `after=` and `schedule=`, as the first-order ones do; a transform of the gradient leaves the
Hessian as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from deepobs_func import random, tree
from deepobs_func.base import Params
from deepobs_func.optimizers import checked
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.optimizers.conditional import only_if
from deepobs_func.optimizers.counting import products_of
from deepobs_func.optimizers.first_order import average, power, zero_moments
from deepobs_func.optimizers.schedules import Schedule
from deepobs_func.optimizers.transforms import Hyper, Transform, View, compose
from deepobs_func.optimizers.transforms import weight_decay as decay
from deepobs_func.probes.contract import Distribution, draw

Transforms = Sequence[Transform]
Moments = tuple[Params, Params]


def _hutchinson(view: View, distribution: Distribution, size: int | None) -> Params:
    """`u * (H u)`, whose mean is the diagonal of H, for one vector u of this step, on some of the examples."""
    vector = draw(random.fold_in(view.key, view.step), view.params, distribution)
    oracle = view.oracle if size is None else view.oracle.part(size)
    return tree.map(torch.mul, vector, oracle.hvp(vector))


def _on_part(optimizer: Optimizer, size: int | None) -> Optimizer:
    """The optimizer, which says how many examples its curvature is computed from."""
    if size is None:
        return optimizer
    optimizer = optimizer._replace(curvature_batch=size)
    return optimizer._replace(calls_at=products_of(optimizer))


def _a_product_a_step(hyper: Hyper, step: Tensor, slots: Any) -> dict[str, Tensor]:
    return {"products": step}


def _over_positions(diagonal: Tensor) -> Tensor:
    """The mean over the positions of a convolution's kernel, `(outputs, inputs, *positions)`; nothing else has any."""
    if diagonal.ndim < 3:
        return diagonal
    return diagonal.mean(tuple(range(2, diagonal.ndim)), keepdim=True).expand_as(diagonal)


@cache
def _make_observe_squares(size: int | None) -> Callable[[View, Moments], Moments]:
    """One function for each size, so that a compiled step serves every value."""

    def observe_squares(view: View, moments: Moments) -> Moments:
        beta2 = view.hyper["beta2"]
        diagonal = tree.map(_over_positions, _hutchinson(view, "rademacher", size))
        return moments[0], tree.map(lambda v, d: average(beta2, v, d * d), moments[1], diagonal)

    return observe_squares


def _adahessian(
    direction: Params, moments: Moments, params: Params, hyper: Hyper, step: Tensor
) -> tuple[Params, Moments]:
    beta1, beta2 = hyper["beta1"], hyper["beta2"]
    correction1, correction2 = 1 - power(beta1, step), torch.sqrt(1 - power(beta2, step))
    first = tree.map(lambda m, d: average(beta1, m, d), moments[0], direction)

    def rule(m: Tensor, v: Tensor) -> Tensor:
        root = torch.sqrt(v) / correction2.to(v.dtype)
        return m / (
            correction1.to(m.dtype) * (root ** hyper["hessian_power"].to(v.dtype) + hyper["epsilon"].to(v.dtype))
        )

    return tree.map(rule, first, moments[1]), (first, moments[1])


def adahessian(
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-4,
    hessian_power: float = 1.0,
    weight_decay: float = 0.0,
    curvature_batch: int | None = None,
    *,
    before: Transforms = (),
    after: Transforms = (),
    schedule: Schedule | None = None,
) -> Optimizer:
    """AdaHessian: Adam with the Hessian's diagonal instead of the gradient in the second moment.

    `D = u * (H u)`, u of -1 and 1, averaged over the positions of each convolution kernel; `m`, `v` averages of `g`,
    `D^2`; `params - lr (m_hat / (sqrt(v_hat)^hessian_power + epsilon) + weight_decay params)`, with the bias
    corrections of Adam. One Hessian product a step.

    Args:
        lr: the authors' own is 0.15, larger than Adam's.
        beta1, beta2, epsilon: as in Adam.
        hessian_power: from 0, momentum, to 1, Newton.
        weight_decay: decoupled.
        curvature_batch: how many examples of the batch, from the first on, the Hessian is of; None for all.
        before, after, schedule: as in the first-order optimizers.

    Returns:
        The optimizer.

    Raises:
        ConfigError: a value is out of its range; (in a step) `curvature_batch` is more than the batch.

    Source: Yao, Gholami, Shen, Mustafa, Keutzer and Mahoney, "ADAHESSIAN", AAAI 2021. Epsilon and the order of its
    terms are those of the authors' code, which averages `|D|` over a kernel where the paper, and this, averages D.

    >>> optimizer = adahessian(0.15, hessian_power=0.5)
    """
    hyper = {"beta1": beta1, "beta2": beta2, "epsilon": epsilon, "hessian_power": hessian_power}
    observe = _make_observe_squares(checked("curvature_batch", curvature_batch))
    rule = Transform(hyper, zero_moments, _adahessian, observe, _a_product_a_step)
    return _on_part(compose(*before, rule, decay(weight_decay), *after, lr=lr, schedule=schedule), curvature_batch)


@cache
def _make_observe_diagonal(size: int | None) -> Callable[[View, Moments], Moments]:
    """One function for each size, so that a compiled step serves every value."""

    def observe_diagonal(view: View, moments: Moments) -> Moments:
        """Every `update_every` steps, from the first on."""
        beta2 = view.hyper["beta2"]

        def updated(curvature: Params) -> Params:
            return tree.map(lambda h, d: average(beta2, h, d), curvature, _hutchinson(view, "normal", size))

        due = torch.remainder(view.step - 1, view.hyper["update_every"]) == 0
        return moments[0], only_if(due, updated, moments[1])

    return observe_diagonal


def _products_when_due(hyper: Hyper, step: Tensor, slots: Any) -> dict[str, Tensor]:
    """In steps 1, 1 + update_every, and so on."""
    return {"products": torch.ceil(step / hyper["update_every"]).to(step.dtype)}


def _sophia(direction: Params, moments: Moments, params: Params, hyper: Hyper, step: Tensor) -> tuple[Params, Moments]:
    first = tree.map(lambda m, d: average(hyper["beta1"], m, d), moments[0], direction)

    def rule(m: Tensor, h: Tensor) -> Tensor:
        return (m / torch.maximum(hyper["gamma"].to(h.dtype) * h, hyper["epsilon"].to(h.dtype))).clamp(-1.0, 1.0)

    return tree.map(rule, first, moments[1]), (first, moments[1])


def sophia_h(
    lr: float,
    beta1: float = 0.96,
    beta2: float = 0.99,
    gamma: float = 0.01,
    epsilon: float = 1e-12,
    weight_decay: float = 0.1,
    update_every: int = 10,
    curvature_batch: int | None = None,
    *,
    before: Transforms = (),
    after: Transforms = (),
    schedule: Schedule | None = None,
) -> Optimizer:
    """Sophia-H: a clipped step, scaled by the Hessian's diagonal.

    `m`, `h` averages of `g` and of `u * (H u)`, u standard normal, without bias correction, h in every
    `update_every`-th step, from the first on; `params - lr (clip(m / max(gamma h, epsilon), 1) + weight_decay params)`.

    Args:
        lr: also the largest step of a coordinate.
        beta1, beta2: of the two averages.
        gamma: how many coordinates are clipped: fewer for a larger one.
        epsilon: what h is at least, so that coordinates of negative curvature go by the sign of m.
        weight_decay: decoupled; the default is that of the authors' code.
        update_every: steps between two Hessian products. In eager and in compiled code the steps between do not compute
            one; a population, whose members count their own steps, computes one in every step.
        curvature_batch: how many examples of the batch, from the first on, the Hessian is of; None for all.
        before, after, schedule: as in the first-order optimizers.

    Returns:
        The optimizer.

    Raises:
        ConfigError: a value is out of its range; (in a step) `curvature_batch` is more than the batch.

    Source: Liu, Li, Hall, Liang and Ma, "Sophia", ICLR 2024, algorithm 3 with algorithm 1, and its hyperparameters.

    >>> optimizer = sophia_h(1e-3, update_every=20)
    """
    hyper = {"beta1": beta1, "beta2": beta2, "gamma": gamma, "epsilon": epsilon, "update_every": update_every}
    observe = _make_observe_diagonal(checked("curvature_batch", curvature_batch))
    rule = Transform(hyper, zero_moments, _sophia, observe, _products_when_due)
    return _on_part(compose(*before, rule, decay(weight_decay), *after, lr=lr, schedule=schedule), curvature_batch)
