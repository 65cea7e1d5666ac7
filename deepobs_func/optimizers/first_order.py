"""The functional first-order optimizers. Each equals its `torch.optim` twin; a test compares 50 steps in float64.

All of them take `before=` and `after=`, transforms of the gradient and of the direction, and `schedule=`:

>>> optimizer = adam(1e-3, before=[clip_by_global_norm(1.0)], after=[weight_decay(1e-2)], schedule=cosine(1000))
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deepobs_func import tree
from deepobs_func.base import Params
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.optimizers.schedules import Schedule, cosine
from deepobs_func.optimizers.transforms import Hyper, Transform, clip_by_global_norm, compose, weight_decay

__all__ = ["adam", "adamw", "clip_by_global_norm", "cosine", "momentum", "nesterov", "rmsprop", "sgd", "weight_decay"]

Transforms = Sequence[Transform]


def sgd(lr: float, *, before: Transforms = (), after: Transforms = (), schedule: Schedule | None = None) -> Optimizer:
    """Stochastic gradient descent, `torch.optim.SGD`.

    Formula: `params <- params - lr g`.

    Args:
        lr: the base learning rate.
        before: transforms of the gradient, such as `clip_by_global_norm(1.0)`.
        after: transforms of the direction, such as a decoupled `weight_decay(1e-2)`.
        schedule: the factor of the learning rate by update; by default 1.

    Returns:
        The optimizer.

    Raises:
        ConfigError: a value is out of its range.

    >>> sgd(0.1).update is sgd(0.01).update  # hyperparameters are state, so that a compiled step serves both
    True
    """
    return compose(*before, *after, lr=lr, schedule=schedule)


def _accumulate(direction: Params, buffer: Params, hyper: Hyper) -> Params:
    return tree.add_scaled(direction, 1, hyper["momentum"], buffer)


def _heavy_ball(direction: Params, buffer: Params, params: Params, hyper: Hyper, step: Tensor) -> tuple[Params, Params]:
    buffer = _accumulate(direction, buffer, hyper)
    return buffer, buffer


def momentum(
    lr: float,
    momentum: float = 0.9,
    *,
    before: Transforms = (),
    after: Transforms = (),
    schedule: Schedule | None = None,
) -> Optimizer:
    """Heavy-ball momentum, `torch.optim.SGD(momentum=...)` and TensorFlow's.

    Formula: `m <- momentum m + g`, `params <- params - lr m`.

    Args:
        lr: the base learning rate.
        momentum: from 0 to below 1.
        before: transforms of the gradient, such as `clip_by_global_norm(1.0)`.
        after: transforms of the direction, such as a decoupled `weight_decay(1e-2)`.
        schedule: the factor of the learning rate by update; by default 1.

    Returns:
        The optimizer.

    Raises:
        ConfigError: a value is out of its range.

    Source: Polyak, 1964.

    >>> optimizer = momentum(0.1, momentum=0.99)
    """
    rule = Transform({"momentum": momentum}, tree.zeros_like, _heavy_ball)
    return compose(*before, rule, *after, lr=lr, schedule=schedule)


def _nesterov(direction: Params, buffer: Params, params: Params, hyper: Hyper, step: Tensor) -> tuple[Params, Params]:
    buffer = _accumulate(direction, buffer, hyper)
    return _accumulate(direction, buffer, hyper), buffer


def nesterov(
    lr: float,
    momentum: float = 0.9,
    *,
    before: Transforms = (),
    after: Transforms = (),
    schedule: Schedule | None = None,
) -> Optimizer:
    """Nesterov's momentum, `torch.optim.SGD(nesterov=True)`.

    Formula: `m <- momentum m + g`, `params <- params - lr (g + momentum m)`.

    Args:
        lr: the base learning rate.
        momentum: from 0 to below 1.
        before: transforms of the gradient, such as `clip_by_global_norm(1.0)`.
        after: transforms of the direction, such as a decoupled `weight_decay(1e-2)`.
        schedule: the factor of the learning rate by update; by default 1.

    Returns:
        The optimizer.

    Raises:
        ConfigError: a value is out of its range.

    Source: Sutskever et al., ICML 2013, in the form without a look-ahead point.

    >>> optimizer = nesterov(0.1, momentum=0.99)
    """
    rule = Transform({"momentum": momentum}, tree.zeros_like, _nesterov)
    return compose(*before, rule, *after, lr=lr, schedule=schedule)


def average(beta: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """`beta old + (1 - beta) new`, in one pass over the memory."""
    return torch.lerp(old, new, (1 - beta).to(old.dtype))


def power(beta: Tensor, step: Tensor) -> Tensor:
    """`beta^step`, 0-d, by exponential and logarithm: those the compiler computes once and keeps.

    `**` it puts into the loop over the coordinates, and computes it anew for every register of them: an update of Adam
    with 1.3 million parameters takes 4.2 ms so, and 1.6 ms this way.
    """
    return torch.exp(step * torch.log(beta))


def zero_moments(params: Params) -> tuple[Params, Params]:
    """The slots of a rule with two averages."""
    return tree.zeros_like(params), tree.zeros_like(params)


def _adam(
    direction: Params, moments: tuple[Params, Params], params: Params, hyper: Hyper, step: Tensor
) -> tuple[Params, tuple[Params, Params]]:
    beta1, beta2 = hyper["beta1"], hyper["beta2"]
    correction1, correction2 = 1 - power(beta1, step), torch.sqrt(1 - power(beta2, step))

    first = tree.map(lambda m, d: average(beta1, m, d), moments[0], direction)
    second = tree.map(lambda v, d: average(beta2, v, d * d), moments[1], direction)

    def rule(m: Tensor, v: Tensor) -> Tensor:
        scale = torch.sqrt(v) / correction2.to(v.dtype) + hyper["epsilon"].to(v.dtype)
        return m / (correction1.to(m.dtype) * scale)

    return tree.map(rule, first, second), (first, second)


def adam(
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    *,
    before: Transforms = (),
    after: Transforms = (),
    schedule: Schedule | None = None,
) -> Optimizer:
    """Adam, `torch.optim.Adam`.

    Formula: `m`, `v` averages of `g`, `g^2`; `params <- params - lr m_hat / (sqrt(v_hat) + epsilon)` with
    `m_hat = m / (1 - beta1^t)`, `v_hat = v / (1 - beta2^t)`, t counting from 1.

    Args:
        lr: the base learning rate.
        beta1, beta2: the decay of the averages, from 0 to below 1.
        epsilon: 0 or more.
        before: transforms of the gradient, such as `clip_by_global_norm(1.0)`.
        after: transforms of the direction, such as a decoupled `weight_decay(1e-2)`.
        schedule: the factor of the learning rate by update; by default 1.

    Returns:
        The optimizer.

    Raises:
        ConfigError: a value is out of its range.

    Source: Kingma and Ba, ICLR 2015. TensorFlow adds epsilon to `sqrt(v)` before the correction, so its epsilon is
    larger by `1 / sqrt(1 - beta2^t)`; at 1e-8 that is not seen.

    >>> from deepobs_func import RunConfig, run
    >>> composed = adam(0.04, before=[clip_by_global_norm(1.0)], schedule=cosine(14))
    >>> record = run(RunConfig("quadratic_deep", "mine", 0.04, epochs=2, output_dir=None), optimizer=composed).record
    >>> record.test_losses[-1] < record.test_losses[0]
    True
    """
    rule = Transform({"beta1": beta1, "beta2": beta2, "epsilon": epsilon}, zero_moments, _adam)
    return compose(*before, rule, *after, lr=lr, schedule=schedule)


def adamw(
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 1e-2,
    *,
    before: Transforms = (),
    after: Transforms = (),
    schedule: Schedule | None = None,
) -> Optimizer:
    """Adam with decoupled weight decay, `torch.optim.AdamW`: the direction gains `weight_decay * params`.

    Args:
        lr: the base learning rate.
        beta1, beta2: the decay of the averages, from 0 to below 1.
        epsilon: 0 or more.
        weight_decay: 0 or more.
        before: transforms of the gradient, such as `clip_by_global_norm(1.0)`.
        after: transforms of the direction, such as a decoupled `weight_decay(1e-2)`.
        schedule: the factor of the learning rate by update; by default 1.

    Returns:
        The optimizer.

    Raises:
        ConfigError: a value is out of its range.

    Source: Loshchilov and Hutter, ICLR 2019.

    >>> optimizer = adamw(1e-3, weight_decay=0.1)
    """
    decay = _decay(weight_decay)
    return adam(lr, beta1, beta2, epsilon, before=before, after=(decay, *after), schedule=schedule)


_decay = weight_decay  # under a name that adamw's argument does not hide


def _rmsprop(
    direction: Params, slots: tuple[Params, Params], params: Params, hyper: Hyper, step: Tensor
) -> tuple[Params, tuple[Params, Params]]:
    squares = tree.map(lambda v, d: average(hyper["alpha"], v, d * d), slots[0], direction)
    scaled = tree.map(lambda d, v: d / (torch.sqrt(v) + hyper["epsilon"].to(v.dtype)), direction, squares)
    buffer = _accumulate(scaled, slots[1], hyper)
    return buffer, (squares, buffer)


def rmsprop(
    lr: float,
    alpha: float = 0.99,
    epsilon: float = 1e-8,
    momentum: float = 0.0,
    *,
    before: Transforms = (),
    after: Transforms = (),
    schedule: Schedule | None = None,
) -> Optimizer:
    """RMSprop, `torch.optim.RMSprop`.

    Formula: `v` an average of `g^2`; `m <- momentum m + g / (sqrt(v) + epsilon)`, `params <- params - lr m`.

    Args:
        lr: the base learning rate.
        alpha: the decay of the average, from 0 to below 1.
        epsilon: 0 or more.
        momentum: from 0 to below 1.
        before: transforms of the gradient, such as `clip_by_global_norm(1.0)`.
        after: transforms of the direction, such as a decoupled `weight_decay(1e-2)`.
        schedule: the factor of the learning rate by update; by default 1.

    Returns:
        The optimizer.

    Raises:
        ConfigError: a value is out of its range.

    Source: Tieleman and Hinton, 2012. TensorFlow starts `v` at 1 and adds epsilon under the root; this does neither.

    >>> optimizer = rmsprop(1e-3, momentum=0.9)
    """
    rule = Transform({"alpha": alpha, "epsilon": epsilon, "momentum": momentum}, zero_moments, _rmsprop)
    return compose(*before, rule, *after, lr=lr, schedule=schedule)
