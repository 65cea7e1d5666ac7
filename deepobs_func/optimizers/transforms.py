"""Transforms of a direction, from which optimizers are composed.

A step is `params - lr * schedule(step) * direction`, and the direction is the gradient sent through a chain of
transforms. What stands before the optimizer's own rule sees the gradient, what stands after it sees the direction; so
`weight_decay` before it is the coupled kind (an L2 penalty), after it the decoupled kind. A transform that needs more
than the gradient (curvature, per-example statistics) asks the oracle itself, by its `observe`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deepobs_func import random, tree
from deepobs_func.base import Params
from deepobs_func.optimizers import check_lr, checked
from deepobs_func.optimizers.base import Optimizer, Oracle
from deepobs_func.optimizers.schedules import Schedule, constant

Hyper = dict[str, Tensor]
Init = Callable[[Params], Any]
Update = Callable[[Params, Any, Params, Hyper, Tensor], tuple[Params, Any]]


class View(NamedTuple):
    """What a transform that observes is shown.

    Attributes:
        oracle: the problem at the batch of this step.
        params: the point of the step.
        hyper: the transform's own hyperparameters.
        step: counted from 1, 0-d int64.
        lr: the learning rate in force, 0-d float64.
        key: the transform's own, the same in every step: fold the step into it.
    """

    oracle: Oracle
    params: Params
    hyper: Hyper
    step: Tensor
    lr: Tensor
    key: random.Key


Observe = Callable[[View, Any], Any]
Act = Callable[[View, Params, Any], tuple[Params, Any]]
Calls = Callable[[Hyper, Tensor, Any], Mapping[str, Tensor]]


class Transform(NamedTuple):
    """One link of the chain.

    Attributes:
        hyper: its hyperparameters by name. In a step they are 0-d tensors of the optimizer state, so that a grid of
            them can be `vmap`ped and none is a constant of the compiled graph.
        init: `params -> slots`, what it remembers.
        update: `(direction, slots, params, hyper, step) -> (direction, slots)`; `step` counts from 1, 0-d int64. None
            for a transform that acts.
        observe: `(view, slots) -> slots`, before `update`, for a transform that asks the oracle for more than the
            gradient; None for one that does not.
        calls: `(hyper, step, slots) -> {kind: n}`, how often it has asked the oracle after so many steps, beside the
            gradient of the optimizer (kinds as of `optimizers.counting`); None for one that does not say, or does not
            ask.
        act: `(view, direction, slots) -> (direction, slots)` in place of `observe` and `update`, for a transform whose
            direction depends on the learning rate in force, or on answers of the oracle that it does not keep.
    """

    hyper: dict[str, float]
    init: Init
    update: Update | None = None
    observe: Observe | None = None
    calls: Calls | None = None
    act: Act | None = None


class Move(NamedTuple):
    """How the direction moves the parameters, where that is not `params - lr direction`.

    Attributes:
        hyper: as of a transform.
        init: `params -> slots`.
        apply: `(params, direction, slots, lr, hyper, step) -> (params, slots)`, lr being that in force.
        eval_params: `(slots, params, hyper) -> params`, what is evaluated.
    """

    hyper: dict[str, float]
    init: Init
    apply: Callable[[Params, Params, Any, Tensor, Hyper, Tensor], tuple[Params, Any]]
    eval_params: Callable[[Any, Params, Hyper], Params]


class OptState(NamedTuple):
    """The state of a composed optimizer.

    Attributes:
        hyper: learning rate and hyperparameters, 0-d float64 (so that a float64 run has them exactly). Where two
            transforms have one of the same name, the second is `name_2`.
        step: how many updates were made, 0-d int64.
        slots: what each transform remembers; last, what a `Move` does.
        keys: of the transforms that observe, in order.
    """

    hyper: Hyper
    step: Tensor
    slots: tuple[Any, ...]
    keys: tuple[random.Key, ...] = ()


def no_slots(params: Params) -> Params:
    """The `init` of transforms that remember nothing."""
    return {}


class Link(NamedTuple):
    """What does not change in a transform, with the names of its hyperparameters: its own, and in the state."""

    update: Update | None
    observe: Observe | None
    act: Act | None
    names: tuple[tuple[str, str], ...]

    def hyper(self, of_all: Hyper) -> Hyper:
        """Its own hyperparameters, by its own names."""
        return {name: of_all[unique] for name, unique in self.names}


def compose(*transforms: Transform, lr: float, schedule: Schedule | None = None, move: Move | None = None) -> Optimizer:
    """Composes transforms to an optimizer: `params <- params - lr * schedule(step) * direction`.

    Args:
        transforms: the chain that the gradient goes through, in order.
        lr: the base learning rate.
        schedule: the factor of the learning rate by step, counted from 0; constant by default.
        move: what takes the place of `params - lr direction`.

    Returns:
        The optimizer. All that differ in numbers alone have one update, so that a compiled step serves them all.

    Raises:
        ConfigError: the learning rate or a hyperparameter is out of range.
    """
    check_lr(lr)
    hyper, links = {"lr": lr}, []
    for transform in transforms:
        names = _named(transform.hyper, hyper)
        links.append(Link(transform.update, transform.observe, transform.act, names))
    last = None if move is None else (move.apply, _named(move.hyper, hyper))
    observers = [index for index, link in enumerate(links) if link.observe is not None or link.act is not None]
    inits = [transform.init for transform in transforms] + ([] if move is None else [move.init])

    def init(params: Params, key: random.Key) -> OptState:
        device = next(iter(params.values())).device
        tensors = {name: torch.tensor(value, dtype=torch.float64, device=device) for name, value in hyper.items()}
        step = torch.zeros((), dtype=torch.int64, device=device)
        keys = tuple(random.fold_in(random.fold_in(key, random.OPTIMIZER), index) for index in observers)
        return OptState(tensors, step, tuple(each(params) for each in inits), keys)

    def calls(state: OptState) -> dict[str, Tensor]:
        found = {"gradients": state.step, "products": state.step * 0, "evaluations": state.step * 0}
        for index in observers:
            declared = transforms[index].calls
            assert declared is not None, "asked only where all are declared"
            more = declared(links[index].hyper(state.hyper), state.step, state.slots[index])
            found |= {kind: found[kind] + number for kind, number in more.items()}
        return found

    optimizer = Optimizer(init, _make_update(tuple(links), schedule or constant(), last))
    if all(transforms[index].calls is not None for index in observers):
        optimizer = optimizer._replace(calls=calls)
    return optimizer if move is None else optimizer._replace(eval_params=_make_eval_params(move, last))


def _named(own: Mapping[str, float], hyper: dict[str, float]) -> tuple[tuple[str, str], ...]:
    """Adds a transform's hyperparameters to those of all; its names for them, and theirs in the state."""
    names = tuple((name, _unused(name, hyper)) for name in own)
    hyper |= {unique: checked(name, own[name]) for name, unique in names}
    return names


def _make_eval_params(move: Move, last: Any) -> Callable[[OptState, Params], Params]:
    def eval_params(state: OptState, params: Params) -> Params:
        hyper = {name: state.hyper[unique] for name, unique in last[1]}
        return move.eval_params(state.slots[-1], params, hyper)

    return eval_params


def _unused(name: str, taken: dict[str, float]) -> str:
    """The name, or `name_2`, `name_3`, ... where transforms before it have the same."""
    candidates = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)


@cache
def _make_update(
    links: tuple[Link, ...], schedule: Schedule, last: Any = None
) -> Callable[..., tuple[Params, OptState]]:
    """One function for each structure, whatever the values, so that a compiled step serves every learning rate."""
    fixed = schedule == constant()

    def update(oracle: Oracle, state: OptState, params: Params) -> tuple[Params, OptState]:
        direction, slots, step, keys = oracle.grad(), [], state.step + 1, iter(state.keys)
        lr = state.hyper["lr"] if fixed else state.hyper["lr"] * schedule(state.step)
        for link, slot in zip(links, state.slots, strict=False):
            hyper = link.hyper(state.hyper)
            if link.act is not None:
                direction, slot = link.act(View(oracle, params, hyper, step, lr, next(keys)), direction, slot)
            else:
                if link.observe is not None:
                    slot = link.observe(View(oracle, params, hyper, step, lr, next(keys)), slot)
                assert link.update is not None, "of a transform that does not act"
                direction, slot = link.update(direction, slot, params, hyper, step)
            slots.append(slot)
        if last is None:
            params = tree.add_scaled(params, -1, lr, direction)
        else:
            apply, names = last
            hyper = {name: state.hyper[unique] for name, unique in names}
            params, slot = apply(params, direction, state.slots[-1], lr, hyper, step)
            slots.append(slot)
        return params, OptState(state.hyper, step, tuple(slots), state.keys)

    return update


def _clip_by_global_norm(
    direction: Params, slots: Any, params: Params, hyper: Hyper, step: Tensor
) -> tuple[Params, Any]:
    norm = tree.norm(direction)
    factor = torch.where(norm > hyper["max_norm"], hyper["max_norm"] / norm, 1.0)  # 0 / 0 is no number
    return tree.scale(factor, direction), slots


def clip_by_global_norm(max_norm: float) -> Transform:
    """Clips the norm over all parameters: `d <- d min(1, max_norm / |d|)`. A zero direction stays zero.

    Args:
        max_norm: 0 or more.

    Returns:
        The transform.

    Source: Pascanu, Mikolov and Bengio, ICML 2013.

    >>> from deepobs_func.optimizers import sgd
    >>> optimizer = sgd(0.1, before=[clip_by_global_norm(1.0)])
    """
    return Transform({"max_norm": max_norm}, no_slots, _clip_by_global_norm)


def _clip_by_value(direction: Params, slots: Any, params: Params, hyper: Hyper, step: Tensor) -> tuple[Params, Any]:
    bound = hyper["max_value"]
    return tree.map(lambda d: torch.clamp(d, -bound.to(d.dtype), bound.to(d.dtype)), direction), slots


def clip_by_value(max_value: float) -> Transform:
    """Clips every coordinate j: `d_j <- min(max(d_j, -max_value), max_value)`.

    Args:
        max_value: 0 or more.

    Returns:
        The transform.

    >>> from deepobs_func.optimizers import sgd
    >>> optimizer = sgd(0.1, before=[clip_by_value(0.5)])
    """
    return Transform({"max_value": max_value}, no_slots, _clip_by_value)


def _weight_decay(direction: Params, slots: Any, params: Params, hyper: Hyper, step: Tensor) -> tuple[Params, Any]:
    strength = hyper["weight_decay"]
    return tree.map(lambda d, p: d + strength.to(p.dtype) * p, direction, params), slots


def weight_decay(strength: float) -> Transform:
    """Adds the parameters to the direction, every one of them: `d <- d + strength * params`.

    Before an optimizer's rule it is coupled (the gradient of an L2 penalty), after it decoupled (Loshchilov and
    Hutter, ICLR 2019). It belongs to the optimizer; a problem's own penalty counts kernels only.

    Args:
        strength: 0 or more.

    Returns:
        The transform.

    >>> from deepobs_func.optimizers import adam
    >>> optimizer = adam(1e-3, after=[weight_decay(1e-2)])
    """
    return Transform({"weight_decay": strength}, no_slots, _weight_decay)
