"""Learning-rate schedules: frozen values, called with the number of updates made so far.

A schedule returns the factor of the base learning rate, a 0-d float64 tensor, so that it runs inside a compiled step
and never recompiles it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Schedule = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Steps:
    """See `steps`."""

    boundaries: tuple[int, ...]
    factors: tuple[float, ...]

    def __call__(self, step: Tensor) -> Tensor:
        factor = torch.ones_like(step, dtype=torch.float64)
        for boundary, value in zip(self.boundaries, self.factors, strict=True):
            factor = torch.where(step >= boundary, value, factor)
        return factor


def steps(boundaries: tuple[int, ...], factors: tuple[float, ...]) -> Steps:
    """Constant pieces: from update `boundaries[i]` on, the rate is `factors[i]` times the base rate.

    Args:
        boundaries: counted in updates from 0, increasing.
        factors: of the base rate, as DeepOBS has them, not of the rate before.

    Returns:
        The schedule: `step -> factor`, 0-d float64.

    Raises:
        ValueError: the lengths differ, or the boundaries do not increase.

    >>> [float(steps((2, 3), (0.1, 0.01))(torch.tensor(step))) for step in range(4)]
    [1.0, 1.0, 0.1, 0.01]
    """
    if len(boundaries) != len(factors):
        raise ValueError(f"As many factors as boundaries are needed: {len(factors)} for {len(boundaries)}.")
    if list(boundaries) != sorted(set(boundaries)):
        raise ValueError(f"The boundaries must increase: {boundaries}.")
    return Steps(tuple(boundaries), tuple(factors))


def constant() -> Steps:
    """The base rate throughout."""
    return Steps((), ())


@dataclass(frozen=True)
class Exponential:
    """See `exponential`."""

    decay: float
    every: int
    staircase: bool

    def __call__(self, step: Tensor) -> Tensor:
        exponent = step.to(torch.float64) / self.every
        return self.decay ** (torch.floor(exponent) if self.staircase else exponent)


def exponential(decay: float, every: int = 1, *, staircase: bool = False) -> Exponential:
    """`decay ^ (step / every)`; with `staircase`, the exponent is rounded down.

    Args:
        decay: positive.
        every: updates in which the rate is multiplied by `decay` once, at least 1.
        staircase: whether the rate changes in steps.

    Returns:
        The schedule: `step -> factor`, 0-d float64.

    Raises:
        ValueError: the decay is not positive, or `every` is below 1.

    >>> [float(exponential(0.25, every=2)(torch.tensor(step))) for step in range(4)]
    [1.0, 0.5, 0.25, 0.125]
    >>> [float(exponential(0.25, every=2, staircase=True)(torch.tensor(step))) for step in range(4)]
    [1.0, 1.0, 0.25, 0.25]
    """
    if decay <= 0 or every < 1:
        raise ValueError(f"An exponential schedule needs decay > 0 and every >= 1, not {decay} and {every}.")
    return Exponential(decay, every, staircase)


@dataclass(frozen=True)
class Cosine:
    """See `cosine`."""

    total: int
    final: float

    def __call__(self, step: Tensor) -> Tensor:
        progress = (step.to(torch.float64) / self.total).clamp(max=1.0)
        return self.final + (1 - self.final) * 0.5 * (1 + torch.cos(math.pi * progress))


def cosine(total: int, final: float = 0.0) -> Cosine:
    """Half a cosine from 1 at step 0 to `final` at step `total`, and constant after it.

    Formula: `final + (1 - final) (1 + cos(pi step / total)) / 2`.

    Args:
        total: updates, at least 1.
        final: the last factor.

    Returns:
        The schedule: `step -> factor`, 0-d float64.

    Raises:
        ValueError: `total` is below 1.

    Source: Loshchilov and Hutter, "SGDR", ICLR 2017, without restarts.

    >>> [round(float(cosine(4)(torch.tensor(step))), 3) for step in (0, 1, 2, 4, 9)]
    [1.0, 0.854, 0.5, 0.0, 0.0]
    """
    if total < 1:
        raise ValueError(f"A cosine schedule needs total >= 1, not {total}.")
    return Cosine(total, final)


@dataclass(frozen=True)
class Linear:
    """See `linear`."""

    total: int
    final: float

    def __call__(self, step: Tensor) -> Tensor:
        progress = (step.to(torch.float64) / self.total).clamp(max=1.0)
        return 1 + (self.final - 1) * progress


def linear(total: int, final: float = 0.0) -> Linear:
    """A line from 1 at step 0 to `final` at step `total`, and constant after it.

    Args:
        total: updates, at least 1.
        final: the last factor.

    Returns:
        The schedule: `step -> factor`, 0-d float64.

    Raises:
        ValueError: `total` is below 1.

    >>> [float(linear(4)(torch.tensor(step))) for step in (0, 1, 4, 9)]
    [1.0, 0.75, 0.0, 0.0]
    """
    if total < 1:
        raise ValueError(f"A linear schedule needs total >= 1, not {total}.")
    return Linear(total, final)


@dataclass(frozen=True)
class WarmUp:
    """See `warm_up`."""

    length: int
    then: Schedule

    def __call__(self, step: Tensor) -> Tensor:
        ramp = (step + 1).to(torch.float64) / self.length
        return torch.where(step < self.length, ramp, self.then((step - self.length).clamp(min=0)))


def warm_up(length: int, then: Schedule | None = None) -> WarmUp:
    """A linear ramp `(step + 1) / length`, then another schedule from its own step 0.

    Args:
        length: updates of the ramp, at least 1.
        then: the schedule after it; by default constant.

    Returns:
        The schedule: `step -> factor`, 0-d float64.

    Raises:
        ValueError: `length` is below 1.

    >>> [float(warm_up(2, then=linear(4))(torch.tensor(step))) for step in range(5)]
    [0.5, 1.0, 1.0, 0.75, 0.5]
    """
    if length < 1:
        raise ValueError(f"A warm-up needs length >= 1, not {length}.")
    return WarmUp(length, then or constant())
