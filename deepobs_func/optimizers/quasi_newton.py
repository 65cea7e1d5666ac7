"""Limited-memory BFGS on batches: differences of gradients at the same batch, and a search on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from deepobs_func import tree
from deepobs_func.base import Params
from deepobs_func.optimizers import checked
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.optimizers.line_search import backtracking, report_of
from deepobs_func.optimizers.schedules import Schedule
from deepobs_func.optimizers.transforms import Hyper, Transform, View, compose

Transforms = Sequence[Transform]
SMALL = 1e-10  # of s.y, as torch.optim.LBFGS has it


class Pairs(NamedTuple):
    """The memory of L-BFGS, with vectors of all P parameters.

    Attributes:
        last: the parameters of the last step, `(P,)`.
        s, y: differences of parameters and of gradients, the newest last, `(m, P)`.
        inverses: `1 / s.y`, `(m,)`; 0 where there is no pair yet.
        scale: `s.y / y.y` of the newest, 0-d.
    """

    last: Tensor
    s: Tensor
    y: Tensor
    inverses: Tensor
    scale: Tensor


@cache
def _make_rule(memory: int) -> tuple[Callable[[Params], Pairs], Callable[..., tuple[Params, Pairs]]]:
    """The functions of a structure, so that a compiled step serves every learning rate."""

    def init(params: Params) -> Pairs:
        flat = tree.flatten(params)
        s, y = (flat.new_zeros(memory, flat.numel()) for _ in range(2))
        return Pairs(flat.clone(), s, y, flat.new_zeros(memory), flat.new_ones(()))

    def act(view: View, direction: Params, pairs: Pairs) -> tuple[Params, Pairs]:
        here, flat = tree.flatten(view.params), tree.flatten(direction)
        there = view.oracle.at(tree.unflatten(pairs.last, view.params)).grad()
        pairs = _with_pair(pairs, here - pairs.last, tree.flatten(view.oracle.grad()) - tree.flatten(there), view.hyper)
        found = _two_loops(pairs, flat)
        first = (1 / flat.abs().sum()).clamp(max=1.0)
        found = torch.where(view.step == 1, first * flat, found)
        # copies: a search that is compiled takes no two views of one tensor
        return tree.map(torch.clone, tree.unflatten(found, view.params)), pairs._replace(last=here)

    return init, act


def _with_pair(pairs: Pairs, s: Tensor, y: Tensor, hyper: Hyper) -> Pairs:
    """The memory with one pair more, where its curvature is positive; the oldest goes."""
    y = y + hyper["damping"].to(y.dtype) * s
    product = s @ y
    good = product > SMALL
    shifted = lambda rows, new: torch.where(good, torch.cat([rows[1:], new.unsqueeze(0)]), rows)
    inverse = torch.where(good, 1 / product, 0.0)
    scale = torch.where(good, product / (y @ y), pairs.scale)
    return Pairs(pairs.last, shifted(pairs.s, s), shifted(pairs.y, y), shifted(pairs.inverses, inverse), scale)


def _two_loops(pairs: Pairs, grad: Tensor) -> Tensor:
    """The inverse of BFGS's matrix times a gradient."""
    kept, found = [], grad
    for s, y, inverse in reversed(list(zip(pairs.s, pairs.y, pairs.inverses, strict=True))):
        alpha = inverse * (s @ found)
        kept.append(alpha)
        found = found - alpha * y
    found = pairs.scale * found
    for s, y, inverse, alpha in zip(pairs.s, pairs.y, pairs.inverses, reversed(kept), strict=True):
        found = found + (alpha - inverse * (y @ found)) * s
    return found


def _a_gradient_a_step(hyper: Hyper, step: Tensor, slots: Pairs) -> dict[str, Tensor]:
    return {"gradients": step}


def lbfgs(
    lr: float,
    damping: float = 0.0,
    armijo: float = 1e-4,
    memory: int = 10,
    max_backtracks: int = 10,
    *,
    before: Transforms = (),
    schedule: Schedule | None = None,
) -> Optimizer:
    """Stochastic L-BFGS with backtracking on the batch of the step.

    With s the last step and y the difference of the gradients of this batch after and before it, plus `damping s`, the
    direction is `H g`, H being BFGS's inverse from the last `memory` pairs with `s.y > 1e-10` (two loops, from
    `s.y / y.y` of the newest). In the first step it is `min(1, 1 / |g|_1) g`. Its length is found as in `backtracking`,
    which halves a step that is too long and starts each search at `lr`; none is made with `max_backtracks=0`.

    A step costs two gradients and, with a search, 1 to `1 + max_backtracks` forward passes; with P parameters the state
    holds `(2 memory + 1) P` numbers.

    Args:
        lr: the longest step; 1 is quasi-Newton's own.
        damping: what is added to the curvature of every pair; more of it for small batches.
        armijo: the decrease that is asked for, as a share of the slope's.
        memory: the number of pairs.
        max_backtracks: after so many too long steps, the parameters stay; 0 for no search.
        before: transforms of the gradient, such as `clip_by_global_norm(1.0)`.
        schedule: the factor of `lr` by update; by default 1.

    Returns:
        The optimizer; it reports `step_size`, the last step that was tried, where it searches.

    Raises:
        ConfigError: a value is out of its range.

    Source: Schraudolph, Yu and Guenter, "A stochastic quasi-Newton method for online convex optimization", AISTATS
    2007: both gradients of a pair are of one batch, and damped. Here that is the batch after the step. On a full batch,
    without search and damping, the steps are those of `torch.optim.LBFGS(max_iter=1)`.

    >>> optimizer = lbfgs(1.0, memory=20, damping=1e-2)
    """
    init, act = _make_rule(checked("memory", memory))
    search = checked("max_backtracks", max_backtracks)
    chain = [*before, Transform({"damping": damping}, init, calls=_a_gradient_a_step, act=act)]
    if not search:
        return compose(*chain, lr=lr, schedule=schedule)
    found = compose(*chain, backtracking(armijo, 0.5, 1e12, search), lr=lr, schedule=schedule)
    return found._replace(report=report_of(len(chain), schedule))
