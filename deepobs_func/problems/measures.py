"""What a problem measures of a net's outputs: the loss of each example and, where there is one, its correctness."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from deepobs_func.base import Batch
from deepobs_func.nets.inception import InceptionOutputs
from deepobs_func.nets.vae import VAEOutputs

Measurement = Callable[[Any, Batch], Tensor]


class Measure(NamedTuple):
    """The loss and the correctness of each example.

    Attributes:
        losses: `(outputs, batch) -> (B,)`, the problem's criterion, without the penalty.
        correct: `(outputs, batch) -> (B,)` in `[0, 1]`, or None where there is no accuracy.
    """

    losses: Measurement
    correct: Measurement | None = None


def _cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(logits, batch.y, reduction="none")


def _top1(logits: Tensor, batch: Batch) -> Tensor:
    return logits.argmax(-1) == batch.y


cross_entropy = Measure(_cross_entropy, _top1)
"""`-log softmax(logits)[y]` of `logits (B, classes)` and class ids `y (B,)`; correct where the largest logit is y's."""


SMOOTHING, AUXILIARY_WEIGHT = 0.1, 0.4  # of Inception, on both heads, in every phase


def _inception(outputs: InceptionOutputs, batch: Batch) -> Tensor:
    def smoothed(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, batch.y, reduction="none", label_smoothing=SMOOTHING)

    losses = smoothed(outputs.main)
    return losses if outputs.auxiliary is None else losses + AUXILIARY_WEIGHT * smoothed(outputs.auxiliary)


inception = Measure(_inception, lambda outputs, batch: _top1(outputs.main, batch))
"""Cross entropy with label smoothing 0.1, plus 0.4 times that of the auxiliary head in training."""


def _per_character(logits: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(logits.mT, batch.y, reduction="none").mean(1)


sequence = Measure(_per_character, lambda logits, batch: (logits.argmax(-1) == batch.y).to(logits.dtype).mean(1))
"""The mean over time of the cross entropy of `logits (B, T, V)` and ids `y (B, T)`; the share of right characters."""


def _vae(outputs: VAEOutputs, batch: Batch) -> Tensor:
    pixels = batch.x.flatten(1)  # one channel, so that TensorFlow's order and ours agree
    image_loss = (outputs.image - pixels).square().sum(1)
    variance = torch.exp(2.0 * outputs.log_std)
    divergence = -0.5 * (1.0 + 2.0 * outputs.log_std - outputs.mean.square() - variance).sum(1)
    return image_loss + divergence


vae = Measure(_vae)
"""`|image - x|^2 + KL(N(mean, exp(log_std)^2) | N(0, 1))`, summed over pixels and latent variables."""


def _quadratic(offset: Tensor, batch: Batch) -> Tensor:
    return 0.5 * ((offset @ batch.state.moments["hessian"]) * offset).sum(1)


quadratic = Measure(_quadratic)
"""`0.5 (theta - x)^T H (theta - x)` of `offset = theta - x (B, 100)`, H being `moments["hessian"]`."""


def _two_d(function: Callable[[Tensor, Tensor], Tensor]) -> Measure:
    """A test function with the noise of its data: `f(u, v) + u x + v y`."""

    def losses(point: Tensor, batch: Batch) -> Tensor:
        u, v = point[..., 0], point[..., 1]
        return function(u, v) + u * batch.x + v * batch.y

    return Measure(losses)


def rosenbrock_function(u: Tensor, v: Tensor) -> Tensor:
    """`(1 - u)^2 + 100 (v - u^2)^2`."""
    return (1 - u) ** 2 + 100 * (v - u**2) ** 2


def beale_function(u: Tensor, v: Tensor) -> Tensor:
    """`(1.5 - u + u v)^2 + (2.25 - u + u v^2)^2 + (2.625 - u + u v^3)^2`."""
    return (1.5 - u + u * v) ** 2 + (2.25 - u + u * v**2) ** 2 + (2.625 - u + u * v**3) ** 2


def branin_function(u: Tensor, v: Tensor) -> Tensor:
    """`(v - 5.1/(4 pi^2) u^2 + 5/pi u - 6)^2 + 10 (1 - 1/(8 pi)) cos u + 10`."""
    valley = v - 5.1 / (4 * math.pi**2) * u**2 + 5 / math.pi * u - 6
    return valley**2 + 10 * (1 - 1 / (8 * math.pi)) * torch.cos(u) + 10


rosenbrock = _two_d(rosenbrock_function)
beale = _two_d(beale_function)
branin = _two_d(branin_function)
