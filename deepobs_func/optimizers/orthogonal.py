"""Muon: momentum, orthogonalised matrix by matrix; Adam for the parameters that are not matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from deepobs_func import tree
from deepobs_func.base import Params
from deepobs_func.optimizers import checked
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.optimizers.first_order import average, power
from deepobs_func.optimizers.schedules import Schedule
from deepobs_func.optimizers.transforms import Hyper, Transform, compose

Transforms = Sequence[Transform]
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of `a X + b (X X^T) X + c (X X^T)^2 X`: the steepest at 0 that keeps singular values within about 0.7 and 1.2."""


class MuonSlots(NamedTuple):
    """Averages of the gradient, and of its square where Adam makes the step (0-d elsewhere)."""

    first: Params
    second: Params


def orthogonalized(matrix: Tensor, steps: int = 5) -> Tensor:
    """A matrix with its singular values moved towards 1, by Newton-Schulz iterations of degree 5.

    Formula: `X / |X|_F`, then as often as told `X <- a X + (b A + c A^2) X` with `A = X X^T`.

    Args:
        matrix: `(m, n)`.
        steps: 5 bring singular values from 0.01 of the Frobenius norm on to within 0.68 and 1.2.

    Returns:
        `(m, n)`, computed in its own precision; the authors' code computes in bfloat16.

    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.

    >>> import torch
    >>> singular = torch.linalg.svdvals(orthogonalized(torch.randn(4, 7, generator=torch.manual_seed(0))))
    >>> bool((singular > 0.6).all() and (singular < 1.3).all())
    True
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix
    x = x / torch.linalg.vector_norm(x).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


def _are_matrices(params: Params, adam_for: str) -> dict[str, bool]:
    """Which parameters are orthogonalised."""
    matrices = [name for name, leaf in params.items() if leaf.ndim >= 2]
    if adam_for == "ends":
        matrices = matrices[1:-1]
    return {name: name in matrices for name in params}


@cache
def _make_rule(
    ns_steps: int, adam_for: str
) -> tuple[Callable[..., MuonSlots], Callable[..., tuple[Params, MuonSlots]]]:
    """The functions of a structure, so that a compiled step serves every value."""

    def init(params: Params) -> MuonSlots:
        chosen = _are_matrices(params, adam_for)
        second = {name: leaf.new_zeros(() if chosen[name] else leaf.shape) for name, leaf in params.items()}
        return MuonSlots(tree.zeros_like(params), second)

    def rule(
        direction: Params, slots: MuonSlots, params: Params, hyper: Hyper, step: Tensor
    ) -> tuple[Params, MuonSlots]:
        chosen, moved, first, second = _are_matrices(params, adam_for), {}, {}, {}
        for name, d in direction.items():
            decayed = hyper["weight_decay"].to(d.dtype) * params[name]
            if chosen[name]:
                first[name], second[name] = average(hyper["momentum"], slots.first[name], d), slots.second[name]
                ahead = torch.lerp(d, first[name], hyper["momentum"].to(d.dtype)).flatten(1)
                scale = math.sqrt(max(1.0, ahead.shape[0] / ahead.shape[1]))
                moved[name] = scale * orthogonalized(ahead, ns_steps).view(d.shape) + decayed
            else:
                adam, first[name], second[name] = _adam(d, slots.first[name], slots.second[name], hyper, step)
                moved[name] = hyper["adam_factor"].to(d.dtype) * (adam + decayed)
        return moved, MuonSlots(first, second)

    return init, rule


def _adam(d: Tensor, first: Tensor, second: Tensor, hyper: Hyper, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    beta1, beta2 = hyper["beta1"], hyper["beta2"]
    first, second = average(beta1, first, d), average(beta2, second, d * d)
    correction1, correction2 = 1 - power(beta1, step), torch.sqrt(1 - power(beta2, step))
    scale = torch.sqrt(second) / correction2.to(d.dtype) + hyper["epsilon"].to(d.dtype)
    return first / (correction1.to(d.dtype) * scale), first, second


def muon(
    lr: float,
    momentum: float = 0.95,
    weight_decay: float = 0.0,
    adam_factor: float = 0.015,
    beta1: float = 0.9,
    beta2: float = 0.95,
    epsilon: float = 1e-10,
    ns_steps: int = 5,
    adam_for: str = "vectors",
    *,
    before: Transforms = (),
    after: Transforms = (),
    schedule: Schedule | None = None,
) -> Optimizer:
    """Muon: Nesterov's momentum, orthogonalised matrix by matrix; Adam for the rest.

    Formula: for a matrix W `(m, n)`, `M <- momentum M + (1 - momentum) G`,
    `W - lr (sqrt(max(1, m / n)) O((1 - momentum) G + momentum M) + weight_decay W)`, O being `orthogonalized`. A
    convolution's kernel `(outputs, inputs, *positions)` is a matrix of `outputs` rows. For the rest,
    `p - lr adam_factor (adam + weight_decay p)`.

    Args:
        lr: of matrices; the norm of a step does not depend on the gradient's.
        momentum: from 0 to below 1.
        weight_decay: decoupled, 0 or more.
        adam_factor: the learning rate of Adam as a multiple of `lr`; by default 3e-4 / 0.02, its authors' rates.
        beta1, beta2, epsilon: of Adam.
        ns_steps: Newton-Schulz iterations.
        adam_for: `"vectors"`, what has fewer than two axes; `"ends"`, the first and the last matrix too, as the authors
            advise for embeddings and heads.
        before: transforms of the gradient, such as `clip_by_global_norm(1.0)`.
        after: transforms of the direction.
        schedule: the factor of both learning rates by update; by default 1.

    Returns:
        The optimizer.

    Raises:
        ConfigError: a value is out of its range.

    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024, and its code, which computes
    the iterations in bfloat16; here they are in the parameters' precision.

    >>> optimizer = muon(0.02, weight_decay=0.01, adam_for="ends")
    """
    init, update = _make_rule(checked("ns_steps", ns_steps), checked("adam_for", adam_for))
    hyper = {"momentum": momentum, "weight_decay": weight_decay, "adam_factor": adam_factor}
    hyper |= {"beta1": beta1, "beta2": beta2, "epsilon": epsilon}
    return compose(*before, Transform(hyper, init, update), *after, lr=lr, schedule=schedule)
