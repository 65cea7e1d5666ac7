"""Shampoo, and SOAP, which is Adam in Shampoo's eigenbasis.

Both keep averages of `G_k G_k^T` for each axis k of a parameter. What is computed from them every `update_every`-th
step (roots; eigenvectors) costs nothing in the steps between, in eager and in compiled code (`torch.cond`); a
population, whose members count their own steps, computes it in every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from deepobs_func import tree
from deepobs_func.base import Params
from deepobs_func.optimizers import checked
from deepobs_func.optimizers.axes import axes_of, eigh, fresh, grams, matrices_like, name_of, rotated, wide
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.optimizers.conditional import only_if
from deepobs_func.optimizers.first_order import average, power
from deepobs_func.optimizers.schedules import Schedule
from deepobs_func.optimizers.transforms import Hyper, Transform, View, compose, no_slots
from deepobs_func.optimizers.transforms import weight_decay as decay
from deepobs_func.tree import Tree

_PARTS = ("bases", "first", "second")  # of what turns with the bases

Transforms = Sequence[Transform]
Functions = tuple[Callable[[Params], "Roots"], Callable[..., tuple[Params, "Roots"]]]


class Roots(NamedTuple):
    """What Shampoo remembers.

    Attributes:
        grams: the sums or averages of `G_k G_k^T`, by parameter and axis.
        roots: their inverse roots, when they were last computed.
        buffer: of the momentum.
    """

    grams: Tree
    roots: Tree
    buffer: Params


def _eye(leaf: Tensor, size: int) -> Tensor:
    return torch.eye(size, dtype=wide(leaf), device=leaf.device)


@cache
def _make_shampoo(max_dim: int) -> Functions:
    """The functions of a structure, so that a compiled step serves every value."""

    def init(params: Params) -> Roots:
        zeros = matrices_like(params, max_dim, vectors=True, make=lambda leaf, size: 0 * _eye(leaf, size))
        roots = matrices_like(params, max_dim, vectors=True, make=_eye)
        return Roots(zeros, roots, tree.zeros_like(params))

    def update(direction: Params, slots: Roots, params: Params, hyper: Hyper, step: Tensor) -> tuple[Params, Roots]:
        sums = _accumulated(slots.grams, direction, hyper["gram_beta"])
        orders = {
            name_of(name, axis): 2 * len(axes_of(leaf.shape, max_dim, vectors=True))
            for name, leaf in params.items()
            for axis in axes_of(leaf.shape, max_dim, vectors=True)
        }

        def roots_of(_: Tree) -> Tree:
            return {name: inverse_root(gram, orders[name], hyper["epsilon"]) for name, gram in sums.items()}

        due = torch.remainder(step - 1, hyper["update_every"]) == 0
        roots = only_if(due, roots_of, slots.roots)
        found = rotated(direction, roots)
        buffer = tree.add_scaled(found, 1, hyper["momentum"], slots.buffer)
        return buffer, Roots(sums, roots, buffer)

    return init, update


def _accumulated(sums: Tree, grads: Params, beta: Tensor) -> Tree:
    """The averages with one gradient more; sums where beta is 1."""
    weight = torch.where(beta < 1, 1 - beta, 1.0)
    return tree.map(lambda s, g: beta.to(s.dtype) * s + weight.to(s.dtype) * g, sums, grams(grads, sums))


def inverse_root(gram: Tensor, order: int, epsilon: Tensor) -> Tensor:
    """`(gram + epsilon I)^(-1 / order)` of a symmetric matrix, by its eigenvalues; none counts as less than epsilon."""
    values, vectors = eigh(gram)
    floor = epsilon.to(values.dtype)
    scale = torch.pow(values.clamp(min=0) + floor, -1 / order)
    return fresh((vectors * scale) @ vectors.transpose(0, 1))


def shampoo(
    lr: float,
    momentum: float = 0.0,
    gram_beta: float = 1.0,
    epsilon: float = 1e-6,
    weight_decay: float = 0.0,
    update_every: int = 10,
    max_dim: int = 10000,
    *,
    before: Transforms = (),
    after: Transforms = (),
    schedule: Schedule | None = None,
) -> Optimizer:
    """Shampoo: each axis of the gradient is multiplied by an inverse root of the sum of its outer products.

    Formula: for a gradient with n axes, `L_k <- gram_beta L_k + (1 - gram_beta) G_k G_k^T` (with 1 in the place of
    `1 - gram_beta` where that is 0), `D = G` with each axis k multiplied by `(L_k + epsilon I)^(-1 / (2 n))`,
    `m <- momentum m + D`, `params - lr (m + weight_decay params)`. A vector has one axis, a scalar none.

    Args:
        lr: the base learning rate.
        momentum: of the direction, from 0 to below 1.
        gram_beta: 1 for sums, as in AdaGrad; below 1 for averages.
        epsilon: more than 0: the first matrices have a rank of 1.
        weight_decay: decoupled, 0 or more.
        update_every: steps between two computations of the roots, from the first step on.
        max_dim: a longer axis has no matrix, and does not count in n.
        before: transforms of the gradient, such as `clip_by_global_norm(1.0)`.
        after: transforms of the direction.
        schedule: the factor of the learning rate by update; by default 1.

    Returns:
        The optimizer.

    Raises:
        ConfigError: a value is out of its range.

    Source: Gupta, Koren and Singer, "Shampoo: preconditioned stochastic tensor optimization", ICML 2018, algorithm 2;
    averages and delayed roots as in Anil et al., 2020. Without grafting and without blocks of long axes.

    >>> optimizer = shampoo(0.1, momentum=0.9, gram_beta=0.99)
    """
    init, update = _make_shampoo(checked("max_dim", max_dim))
    epsilon = checked("epsilon", epsilon, of="shampoo")
    hyper = {"momentum": momentum, "gram_beta": gram_beta, "epsilon": epsilon, "update_every": update_every}
    rule = Transform(hyper, init, update)
    return compose(*before, rule, decay(weight_decay), *after, lr=lr, schedule=schedule)


class Eigen(NamedTuple):
    """What SOAP remembers.

    Attributes:
        grams: averages of `G_k G_k^T`, by parameter and axis.
        bases: approximate eigenvectors of them, in columns, of falling eigenvalues.
        first, second: averages of the gradient and of its square, in these bases.
    """

    grams: Tree
    bases: Tree
    first: Params
    second: Params


@cache
def _make_soap(max_dim: int) -> tuple[Callable[[Params], Eigen], Callable[..., tuple[Params, Eigen]]]:
    """The functions of a structure, so that a compiled step serves every value."""

    def init(params: Params) -> Eigen:
        zeros = matrices_like(params, max_dim, vectors=False, make=lambda leaf, size: 0 * _eye(leaf, size))
        bases = matrices_like(params, max_dim, vectors=False, make=_eye)
        return Eigen(zeros, bases, tree.zeros_like(params), tree.zeros_like(params))

    def update(direction: Params, slots: Eigen, params: Params, hyper: Hyper, step: Tensor) -> tuple[Params, Eigen]:
        moved, first, second = _adam_in(slots, direction, hyper, step)
        sums = _accumulated(slots.grams, direction, hyper["gram_beta"])
        bases = only_if(step == 1, lambda _: {name: _eigenvectors(gram) for name, gram in sums.items()}, slots.bases)
        due = (torch.remainder(step - 1, hyper["update_every"]) == 0) & (step > 1)
        whole = tree.joined(bases=bases, first=first, second=second)
        bases, first, second = tree.parted(only_if(due, lambda now: _turned(now, sums, params), whole), *_PARTS)
        return moved, Eigen(sums, bases, first, second)

    return init, update


def _adam_in(slots: Eigen, direction: Params, hyper: Hyper, step: Tensor) -> tuple[Params, Params, Params]:
    """Adam's direction in the bases; none in the first step, whose gradient makes the bases."""
    is_first, count = step == 1, (step - 1).clamp(min=1)
    beta1, beta2 = hyper["beta1"], hyper["beta2"]
    correction1, correction2 = 1 - power(beta1, count), torch.sqrt(1 - power(beta2, count))
    turned = rotated(direction, slots.bases)
    kept = lambda new, old: torch.where(is_first, old, new)
    first = tree.map(lambda m, d: kept(average(beta1, m, d), m), slots.first, turned)
    second = tree.map(lambda v, d: kept(average(beta2, v, d * d), v), slots.second, turned)

    def rule(m: Tensor, v: Tensor) -> Tensor:
        factor = torch.where(is_first, 0.0, correction2 / correction1)
        return factor.to(m.dtype) * m / (torch.sqrt(v) + hyper["epsilon"].to(v.dtype))

    return rotated(tree.map(rule, first, second), slots.bases, back=True), first, second


def _eigenvectors(gram: Tensor) -> Tensor:
    return fresh(eigh(gram)[1].flip(1))


def _turned(now: Tree, sums: Tree, params: Params) -> Tree:
    """One step of orthogonal iteration of the bases; the averages go along."""
    bases, first, second = tree.parted(now, *_PARTS)
    first = rotated(first, bases, back=True)
    found: Tree = {}
    for name in params:
        for axis in range(params[name].ndim):
            place = name_of(name, axis)
            if place in bases:
                product = sums[place] @ bases[place]
                order = torch.argsort((bases[place] * product).sum(0), descending=True)
                found[place] = fresh(torch.linalg.qr(product.index_select(1, order))[0])
                second[name] = second[name].index_select(axis, order)
    first = rotated(first, found)
    return tree.joined(bases=found, first=tree.map(fresh, first), second=tree.map(fresh, second))


def _shrink(view: View, direction: Params, slots: Params) -> tuple[Params, Params]:
    """Decoupled decay of the parameters after the step, from the second on: `d + weight_decay (params - lr d)`."""
    strength = torch.where(view.step == 1, 0.0, view.hyper["weight_decay"])
    moved = tree.add_scaled(view.params, -1, view.lr, direction)
    return tree.add_scaled(direction, 1, strength, moved), slots


def _nothing(hyper: Hyper, step: Tensor, slots: Params) -> dict[str, Tensor]:
    return {}


def soap(
    lr: float,
    beta1: float = 0.95,
    beta2: float = 0.95,
    gram_beta: float = 0.95,
    epsilon: float = 1e-8,
    weight_decay: float = 1e-2,
    update_every: int = 10,
    max_dim: int = 10000,
    *,
    before: Transforms = (),
    after: Transforms = (),
    schedule: Schedule | None = None,
) -> Optimizer:
    """SOAP: Adam in the eigenbasis of Shampoo's matrices.

    Formula: `L_k <- gram_beta L_k + (1 - gram_beta) G_k G_k^T` for each axis k of a matrix or a kernel; `Q_k` its
    eigenvectors, from the first gradient by an eigendecomposition, then every `update_every`-th step by one step of
    orthogonal iteration, `qr(L_k Q_k)`. With `m`, `v` averages of `G Q` and `(G Q)^2` and
    `c = sqrt(1 - beta2^(t-1)) / (1 - beta1^(t-1))`, the direction is `c m / (sqrt(v) + epsilon)`, turned back by
    `Q^T`; `(1 - lr weight_decay) (params - lr direction)`. The first step makes the bases and leaves the parameters as
    they are. For vectors the direction is Adam's.

    Args:
        lr: the base learning rate.
        beta1, beta2: of Adam's averages, from 0 to below 1.
        gram_beta: of the matrices, as in `shampoo`.
        epsilon: 0 or more.
        weight_decay: decoupled, 0 or more.
        update_every: steps between two updates of the bases.
        max_dim: a longer axis has no basis.
        before: transforms of the gradient, such as `clip_by_global_norm(1.0)`.
        after: transforms of the direction.
        schedule: the factor of the learning rate by update; by default 1.

    Returns:
        The optimizer.

    Raises:
        ConfigError: a value is out of its range.

    Source: Vyas et al., "SOAP: improving and stabilizing Shampoo using Adam", ICLR 2025, algorithm 3, and its code,
    which computes the QR decomposition in float32.

    >>> optimizer = soap(3e-3, update_every=5)
    """
    init, update = _make_soap(checked("max_dim", max_dim))
    hyper = {"beta1": beta1, "beta2": beta2, "gram_beta": gram_beta, "epsilon": epsilon, "update_every": update_every}
    rule = Transform(hyper, init, update)
    shrink = Transform({"weight_decay": weight_decay}, no_slots, calls=_nothing, act=_shrink)
    return compose(*before, rule, shrink, *after, lr=lr, schedule=schedule)
