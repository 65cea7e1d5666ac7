"""A line search on the batch of the step, as a transform of any direction; SGD with it."""

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
from deepobs_func.optimizers.conditional import repeat_while
from deepobs_func.optimizers.schedules import Schedule
from deepobs_func.optimizers.transforms import Hyper, OptState, Transform, View, compose

Transforms = Sequence[Transform]


class Searched(NamedTuple):
    """What a line search remembers.

    Attributes:
        factor: the last step as a multiple of `lr`, 0-d float64; 1 before the first.
        evaluations: of the objective so far, 0-d int64.
    """

    factor: Tensor
    evaluations: Tensor


def _start(params: Params) -> Searched:
    device = next(iter(params.values())).device
    return Searched(
        torch.ones((), dtype=torch.float64, device=device), torch.zeros((), dtype=torch.int64, device=device)
    )


@cache
def _make_search(max_backtracks: int) -> Callable[[View, Params, Searched], tuple[Params, Searched]]:
    """One function for each structure, so that a compiled step serves every value."""

    def search(view: View, direction: Params, slots: Searched) -> tuple[Params, Searched]:
        hyper, oracle = view.hyper, view.oracle
        slope = tree.dot(oracle.grad(), direction).to(torch.float64).clamp(min=0)
        value = oracle.value().to(torch.float64)

        def value_at(factor: Tensor) -> Tensor:
            step = view.lr * factor
            return oracle.loss_at(tree.add_scaled(view.params, -1, step, direction)).to(torch.float64)

        def is_too_long(factor: Tensor, reached: Tensor, tries: Tensor) -> Tensor:
            return ~(reached <= value - hyper["armijo"] * view.lr * factor * slope)

        def shorter(factor: Tensor, reached: Tensor, tries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            factor = factor * hyper["shrink"]
            return factor, value_at(factor), tries + 1

        first = (slots.factor * hyper["grow"]).clamp(max=1.0)
        start = (first, value_at(first), torch.ones_like(slots.evaluations))
        factor, reached, tries = repeat_while(is_too_long, shorter, start, max_backtracks)
        taken = torch.where(is_too_long(factor, reached, tries), 0.0, factor)
        return tree.scale(taken, direction), Searched(factor, slots.evaluations + tries)

    return search


def _evaluations(hyper: Hyper, step: Tensor, slots: Searched) -> dict[str, Tensor]:
    return {"evaluations": slots.evaluations}


def backtracking(armijo: float = 0.1, shrink: float = 0.7, grow: float = 1.5, max_backtracks: int = 10) -> Transform:
    """Backtracking on the batch of the step until Armijo's condition holds, for any direction d that descends.

    Formula: the first t of `min(1, grow t_last) shrink^k`, k = 0, 1, ..., for which
    `f(params - lr t d) <= f(params) - armijo lr t max(0, <g, d>)`, f being the objective of the batch; then `d <- t d`.
    Where no k up to `max_backtracks` satisfies it, the parameters stay. `t_last` is the last t that the step before has
    tried, taken or not, and 1 in the first step. A direction that ascends is taken as far as f does not rise.

    Args:
        armijo: from 0 to 1.
        shrink: more than 0 and below 1.
        grow: 1 or more.
        max_backtracks: a whole number from 0.

    Returns:
        The transform. It is the last that changes the length of the direction.

    Source: Armijo, 1966; Vaswani et al., "Painless stochastic gradient", NeurIPS 2019.

    >>> from deepobs_func.optimizers import adam
    >>> optimizer = adam(0.1, after=[backtracking(max_backtracks=5)])
    """
    search = _make_search(checked("max_backtracks", max_backtracks))
    hyper = {"armijo": armijo, "shrink": shrink, "grow": grow}
    return Transform(hyper, _start, calls=_evaluations, act=search)


def report_of(place: int, schedule: Schedule | None) -> Callable[[OptState], dict[str, Tensor]]:
    """A `report` with `step_size`, the learning rate in force times the last factor that was tried.

    Args:
        place: of the search among the transforms.
        schedule: of the optimizer.
    """

    def report(state: OptState) -> dict[str, Tensor]:
        size = state.slots[place].factor * state.hyper["lr"]
        return {"step_size": size if schedule is None else size * schedule((state.step - 1).clamp(min=0))}

    return report


def sgd_line_search(
    lr: float,
    armijo: float = 0.1,
    shrink: float = 0.7,
    grow: float = 1.5,
    max_backtracks: int = 10,
    *,
    before: Transforms = (),
    schedule: Schedule | None = None,
) -> Optimizer:
    """SGD whose step is found by `backtracking` on the batch, from 1 to `1 + max_backtracks` forward passes.

    Args:
        lr: the longest step.
        armijo: the decrease that is asked for, as a share of the slope's; from 0 to 1.
        shrink: the factor of a step that is too long, more than 0 and below 1.
        grow: the next search starts at this times the last step; 1 or more.
        max_backtracks: after so many too long steps, the parameters stay.
        before: transforms of the gradient, such as `clip_by_global_norm(1.0)`.
        schedule: the factor of `lr` by update; by default 1.

    Returns:
        The optimizer; it reports `step_size`, the last step that was tried. The slope is that of the objective's own
        gradient, so that the transforms before it change the direction and not the condition.

    Raises:
        ConfigError: a value is out of its range.

    Source: Vaswani, Mishkin, Laradji, Schmidt, Gidel and Lacoste-Julien, "Painless stochastic gradient: interpolation,
    line-search, and convergence rates", NeurIPS 2019, algorithm 1 with Armijo's condition. Their code starts a search
    at `2^(B / N)` times the last step; here the factor is given.

    >>> optimizer = sgd_line_search(10.0, shrink=0.5)
    """
    place = len(before)
    rule = backtracking(armijo, shrink, grow, max_backtracks)

    return compose(*before, rule, lr=lr, schedule=schedule)._replace(report=report_of(place, schedule))
