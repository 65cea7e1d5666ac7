"""Hessian-free Newton: each step solves with the GGN by conjugate gradients, damped by Levenberg-Marquardt."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deepobs_func import random, tree
from deepobs_func.base import Params
from deepobs_func.errors import ConfigError
from deepobs_func.optimizers import check_lr, checked
from deepobs_func.optimizers.base import Optimizer, Oracle
from deepobs_func.optimizers.counting import products_of
from deepobs_func.optimizers.schedules import Schedule, constant
from deepobs_func.optimizers.transforms import Hyper
from deepobs_func.probes.linear_map import LinearMap
from deepobs_func.probes.solve import conjugate_gradients

SCALES = (1e-12, 1e12)
"""How far the damping may go from where it started: a product that underflows to 0 or overflows never comes back."""


class NewtonState(NamedTuple):
    """The state of `newton_cg`.

    Attributes:
        hyper: learning rate and hyperparameters, 0-d float64.
        step: how many updates were made, 0-d int64.
        scale: the damping in force is `hyper["damping"] * scale`, 0-d float64.
        direction: the last solution, where the next one starts.
        ratio: the last reduction ratio, 0-d; NaN where no reduction was predicted.
        cg_steps: of the last solution, 0-d int64.
        products: with the GGN so far, 0-d int64.
    """

    hyper: Hyper
    step: Tensor
    scale: Tensor
    direction: Params
    ratio: Tensor
    cg_steps: Tensor
    products: Tensor


def newton_cg(
    lr: float,
    damping: float = 1.0,
    damping_factor: float = 1.5,
    warm_start: float = 0.95,
    cg_tol: float = 1e-3,
    cg_steps: int = 10,
    curvature_batch: int | None = None,
    *,
    schedule: Schedule | None = None,
) -> Optimizer:
    """Newton-CG on the GGN: `(G + damping I) p = -g` by conjugate gradients, `params + lr p`.

    G is the GGN of the mean loss at the batch of the step, plus the Hessian of the penalty. With
    `rho = (f(params + lr p) - f(params)) / (lr g.p + lr^2/2 p.G p)`, the reduction of the objective of the same batch
    over that of its quadratic model, the damping is divided by `damping_factor` where `rho > 3/4` and multiplied by it
    where `rho < 1/4`. A step that does not reduce the objective of its batch is not taken.

    A step costs `cg_steps + 2` products, each about as expensive as a gradient, besides the gradient; in eager code,
    fewer where the solution is found sooner. The step is of the batch, and so is the judgement of it: small batches are
    fitted too well. Take as many examples as memory allows, or more damping.

    Args:
        lr: the factor of the step; 1 is Newton's own, and less of it averages over noise.
        damping: at the start.
        damping_factor: of its changes.
        warm_start: conjugate gradients start from this times the last solution, where that is better than from 0.
        cg_tol: they end when the residual has shrunk to this times that of their start.
        cg_steps: and after this many steps.
        curvature_batch: how many examples of the batch, from the first on, G is of; None for all. Gradient and
            reduction ratio are of the whole batch.
        schedule: the factor of the learning rate by step.

    Returns:
        The optimizer.

    Raises:
        ConfigError: a value is out of its range; (from `check`) the problem has no GGN; (in a step) `curvature_batch`
            is more than the batch.

    Source: Martens, "Deep learning via Hessian-free optimization", ICML 2010; the decaying warm start is that of
    Martens and Sutskever, 2012. Without their preconditioner, backtracking and line search: a step is taken or it is
    not.

    >>> optimizer = newton_cg(1.0, damping=10.0, cg_steps=5)
    """
    check_lr(lr)
    numbers = {"damping": damping, "damping_factor": damping_factor, "warm_start": warm_start, "cg_tol": cg_tol}
    hyper = {"lr": float(lr)} | {name: checked(name, value) for name, value in numbers.items()}

    def init(params: Params, key: random.Key) -> NewtonState:
        device = next(iter(params.values())).device
        tensors = {name: torch.tensor(value, dtype=torch.float64, device=device) for name, value in hyper.items()}
        # A tensor each: of one in two places, compiled code would assume that it stays one.
        step, *counts = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(3))
        one = torch.ones((), dtype=torch.float64, device=device)
        return NewtonState(tensors, step, one, tree.zeros_like(params), torch.full_like(one, torch.nan), *counts)

    update = _make_update(
        checked("cg_steps", cg_steps), checked("curvature_batch", curvature_batch), schedule or constant()
    )
    found = Optimizer(init, update, check=_check, report=_report, calls=_calls, curvature_batch=curvature_batch)
    return found if curvature_batch is None else found._replace(calls_at=products_of(found))


def _check(problem: Any) -> None:
    if not problem.measure.convex:
        raise ConfigError(
            f"newton_cg needs a GGN, and {problem.name} has none: its criterion is not known to be convex in the "
            "outputs (Measure.convex). Use adahessian or sophia_h, which take products with the Hessian."
        )


def _report(state: NewtonState) -> dict[str, Tensor]:
    damping = state.hyper["damping"] * state.scale
    return {"damping": damping, "reduction_ratio": state.ratio, "cg_steps": state.cg_steps}


def _calls(state: NewtonState) -> dict[str, Tensor]:
    return {"gradients": state.step, "products": state.products, "evaluations": state.step}


class _Products:
    """Counts products as they are computed: in a compiled graph, those that it holds."""

    def __init__(self, ggn: LinearMap) -> None:
        self._ggn, self.number = ggn, 0

    def __call__(self, v: Params) -> Params:
        self.number += 1
        return self._ggn(v)


@cache
def _make_update(
    cg_steps: int, curvature_batch: int | None, schedule: Schedule
) -> Callable[..., tuple[Params, NewtonState]]:
    """One function for each structure, so that a compiled step serves every learning rate."""

    def update(oracle: Oracle, state: NewtonState, params: Params) -> tuple[Params, NewtonState]:
        part = oracle if curvature_batch is None else oracle.part(curvature_batch)
        hyper, grads, ggn = state.hyper, oracle.grad(), _Products(part.make_ggnvp())
        damping = hyper["damping"] * state.scale
        guess = tree.scale(hyper["warm_start"], state.direction)
        start, residual = _start(ggn, damping, grads, guess)
        solution = conjugate_gradients(ggn, residual, damping=damping, tol=hyper["cg_tol"], max_steps=cg_steps)
        direction = tree.add(start, solution.x)
        step = tree.scale(hyper["lr"] * schedule(state.step), direction)
        moved = tree.add(params, step)
        change = oracle.loss_at(moved) - oracle.value()
        predicted = tree.dot(step, tree.add(grads, tree.scale(0.5, ggn(step))))
        taken = change < 0
        params = tree.map(lambda new, old: torch.where(taken, new, old), moved, params)
        ratio = torch.where(predicted < 0, change / predicted, torch.nan).to(torch.float64)
        scale = _adapted(state.scale, change, predicted, hyper["damping_factor"])
        products = state.products + ggn.number
        return params, NewtonState(hyper, state.step + 1, scale, direction, ratio, solution.steps, products)

    return update


def _start(ggn: _Products, damping: Tensor, grads: Params, guess: Params) -> tuple[Params, Params]:
    """Where conjugate gradients start, and the residual there: the guess, if its quadratic model is below that of 0.

    With A the damped GGN and r the residual, `-g - A x`, the model is `g.x + x.A x / 2 = (g - r).x / 2`.
    """
    residual = tree.scale(-1.0, tree.add(grads, tree.add(ggn(guess), tree.scale(damping, guess))))
    helps = tree.dot(tree.sub(grads, residual), guess) < 0
    start = tree.map(lambda x: torch.where(helps, x, 0.0), guess)
    return start, tree.map(lambda r, g: torch.where(helps, r, -g), residual, grads)


def _adapted(scale: Tensor, change: Tensor, predicted: Tensor, factor: Tensor) -> Tensor:
    """The scale of the damping after a step; a change that is not a number asks for more."""
    good = (predicted < 0) & (change < 0.75 * predicted)
    bad = ~(change <= 0.25 * predicted)
    return torch.where(bad, scale * factor, torch.where(good, scale / factor, scale)).clamp(*SCALES)
