"""What a problem measures of a net's outputs: the loss of each example and, where there is one, its correctness."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from deepobs_func import random
from deepobs_func.backend import onednn
from deepobs_func.base import Batch
from deepobs_func.errors import ConfigError
from deepobs_func.nets.inception import InceptionOutputs
from deepobs_func.nets.vae import VAEOutputs

Measurement = Callable[[Any, Batch], Tensor]
Sampler = Callable[[Any, Batch, random.Key], Any]


class Measure(NamedTuple):
    """The loss and the correctness of each example, and what is known of the loss's curvature.

    Attributes:
        losses: `(outputs, batch) -> (B,)`, the problem's criterion, without the penalty.
        correct: `(outputs, batch) -> (B,)` in `[0, 1]`, or None where there is no accuracy.
        convex: whether the losses are convex in the outputs, so that a GGN is positive semi-definite.
        likelihood: whether they are negative log-likelihoods up to a factor, so that the GGN is a Fisher matrix.
        sample: `(outputs, batch, key) -> s`, a tree like the outputs of random vectors, independent from example to
            example, with mean 0 and `E[s s^T]` = the Hessian of an example's loss in its outputs; or None.
        by_onednn: the losses by oneDNN's products, for evaluation and the plain gradient; None where they have none.
    """

    losses: Measurement
    correct: Measurement | None = None
    convex: bool = False
    likelihood: bool = False
    sample: Sampler | None = None
    by_onednn: Measurement | None = None


def check_same_shape(name: str, outputs: Any, targets: Tensor) -> None:
    """Refuses tensors that would be broadcast, `(B, 1)` against `(B,)` to `(B, B)`.

    Raises:
        ConfigError: the outputs are not a tensor of the shape of the targets.
    """
    shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if shape != tuple(targets.shape):
        raise ConfigError(
            f"{name} compares tensors of one shape; the outputs are {shape}, the targets {tuple(targets.shape)}. For "
            "outputs (B, 1) and targets (B,) end the module with nn.Flatten(0), or give targets y[:, None]."
        )


def _cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(logits, batch.y, reduction="none")


def _labels(logits: Tensor, y: Tensor) -> Tensor:
    """The class ids that targets stand for: their own, or the most probable ones of rows of probabilities."""
    return y.argmax(-1) if y.is_floating_point() and y.shape == logits.shape else y


def _top1(logits: Tensor, batch: Batch) -> Tensor:
    return logits.argmax(-1) == _labels(logits, batch.y)


def _sample_categorical(logits: Tensor, batch: Batch, key: random.Key) -> Tensor:
    """`p - onehot(y)` with `y ~ p = softmax(logits)`, of covariance `diag(p) - p p^T`."""
    probabilities = logits.softmax(-1)
    uniform = random.uniform(key, probabilities.shape[:-1], dtype=logits.dtype).unsqueeze(-1)
    below = probabilities.cumsum(-1) <= uniform  # the inverse of the distribution function, as an index
    drawn = below.sum(-1).clamp(max=logits.shape[-1] - 1)
    onehot = torch.arange(logits.shape[-1], device=logits.device) == drawn.unsqueeze(-1)  # F.one_hot has no vmap
    return probabilities - onehot.to(logits.dtype)


def _sample_cross_entropy(logits: Tensor, batch: Batch, key: random.Key) -> Tensor:
    """Targets q that do not sum to 1 scale the Hessian, `(sum q) (diag(p) - p p^T)`."""
    drawn = _sample_categorical(logits, batch, key)
    return batch.y.sum(-1, keepdim=True).sqrt() * drawn if batch.y.is_floating_point() else drawn


cross_entropy = Measure(_cross_entropy, _top1, convex=True, likelihood=True, sample=_sample_cross_entropy)
"""`-log softmax(logits)[y]` of `logits (B, classes)` and class ids `y (B,)`; correct where the largest logit is y's.

Probabilities `y (B, classes)` give `-sum_c y[c] log softmax(logits)[c]`; the largest one of them counts as the label.
"""


def _square(outputs: Tensor, batch: Batch) -> Tensor:
    check_same_shape("measures.square", outputs, batch.y)
    squares = (outputs - batch.y).square()
    return squares.flatten(1).sum(1) if squares.ndim > 1 else squares


def _sample_square(outputs: Tensor, batch: Batch, key: random.Key) -> Tensor:
    return math.sqrt(2.0) * random.normal(key, outputs.shape, outputs.dtype)


square = Measure(_square, convex=True, likelihood=True, sample=_sample_square)
"""`|outputs - y|^2` of tensors `(B, ...)`, summed over all but the examples."""


SMOOTHING, AUXILIARY_WEIGHT = 0.1, 0.4  # of Inception, on both heads, in every phase


def _inception(outputs: InceptionOutputs, batch: Batch) -> Tensor:
    def smoothed(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, batch.y, reduction="none", label_smoothing=SMOOTHING)

    losses = smoothed(outputs.main)
    return losses if outputs.auxiliary is None else losses + AUXILIARY_WEIGHT * smoothed(outputs.auxiliary)


def _sample_inception(outputs: InceptionOutputs, batch: Batch, key: random.Key) -> InceptionOutputs:
    """For targets q the loss is `logsumexp(z) - q.z`, so smoothing leaves the Hessian as it is."""
    main_key, auxiliary_key = random.split(key)
    main = _sample_categorical(outputs.main, batch, main_key)
    if outputs.auxiliary is None:
        return InceptionOutputs(main, None)
    auxiliary = _sample_categorical(outputs.auxiliary, batch, auxiliary_key)
    return InceptionOutputs(main, math.sqrt(AUXILIARY_WEIGHT) * auxiliary)


inception = Measure(
    _inception, lambda outputs, batch: _top1(outputs.main, batch), convex=True, sample=_sample_inception
)
"""Cross entropy with label smoothing 0.1, plus 0.4 times that of the auxiliary head in training."""


def _per_character(logits: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(logits.mT, batch.y, reduction="none").mean(1)


def _sample_sequence(logits: Tensor, batch: Batch, key: random.Key) -> Tensor:
    return _sample_categorical(logits, batch, key) / math.sqrt(logits.shape[1])


sequence = Measure(
    _per_character,
    lambda logits, batch: (logits.argmax(-1) == batch.y).to(logits.dtype).mean(1),
    convex=True,
    likelihood=True,
    sample=_sample_sequence,
)
"""The mean over time of the cross entropy of `logits (B, T, V)` and ids `y (B, T)`; the share of right characters."""


def _vae(outputs: VAEOutputs, batch: Batch) -> Tensor:
    pixels = batch.x.flatten(1)  # one channel, so that TensorFlow's order and ours agree
    check_same_shape("measures.vae", outputs.image, pixels)
    image_loss = (outputs.image - pixels).square().sum(1)
    variance = torch.exp(2.0 * outputs.log_std)
    divergence = -0.5 * (1.0 + 2.0 * outputs.log_std - outputs.mean.square() - variance).sum(1)
    return image_loss + divergence


def _sample_vae(outputs: VAEOutputs, batch: Batch, key: random.Key) -> VAEOutputs:
    """The Hessian is diagonal: 2 for a pixel, 1 for a mean, `2 exp(2 log_std)` for a log standard deviation."""
    image, mean, log_std = (
        random.normal(key, part.shape, part.dtype) for key, part in zip(random.split(key, 3), outputs, strict=True)
    )
    root = math.sqrt(2.0)
    return VAEOutputs(root * image, mean, root * torch.exp(outputs.log_std) * log_std)


vae = Measure(_vae, convex=True, sample=_sample_vae)
"""`|image - x|^2 + KL(N(mean, exp(log_std)^2) | N(0, 1))`, summed over pixels and latent variables."""


def _quadratic(offset: Tensor, batch: Batch) -> Tensor:
    return 0.5 * ((offset @ batch.state.moments["hessian"]) * offset).sum(1)


def _quadratic_by_onednn(offset: Tensor, batch: Batch) -> Tensor:
    return 0.5 * (onednn.linear(offset, batch.state.moments["hessian"].t()) * offset).sum(1)


def _sample_quadratic(offset: Tensor, batch: Batch, key: random.Key) -> Tensor:
    root = torch.linalg.cholesky(batch.state.moments["hessian"])  # L with L L^T = H
    return random.normal(key, offset.shape, offset.dtype) @ root.mT


quadratic = Measure(_quadratic, convex=True, likelihood=True, sample=_sample_quadratic, by_onednn=_quadratic_by_onednn)
"""`0.5 (theta - x)^T H (theta - x)` of `offset = theta - x (B, 100)`, H being `moments["hessian"]`."""


def _two_d(function: Callable[[Tensor, Tensor], Tensor]) -> Measure:
    """A test function with the noise of its data: `f(u, v) + u x + v y`."""

    def losses(point: Tensor, batch: Batch) -> Tensor:
        # Eager code is faster with one backward for both columns, compiled code with one each, which it fuses.
        u, v = (point[..., 0], point[..., 1]) if torch.compiler.is_compiling() else point.unbind(-1)
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
