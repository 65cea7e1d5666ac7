"""What a problem measures of a net's outputs: the loss of each example and, where there is one, its correctness."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from deepobs_func import random
from deepobs_func.backend import kernels, onednn
from deepobs_func.base import Batch
from deepobs_func.datasets.stored import whole_ids
from deepobs_func.errors import ConfigError
from deepobs_func.nets.inception import InceptionOutputs
from deepobs_func.nets.vae import VAEOutputs

FILLS_A_REGISTER = 16  # numbers of float32: so many classes or more
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
        fused: the same losses by other kernels, for evaluation and the plain gradient, which have no need of `vmap`
            and of second derivatives; None where they have none. It takes what all examples share once (`Pass.shared`).
        ignore_index: the id in targets that does not count, which a data set of that `ignore_index` needs; None where
            all count.
        targets: the range of targets, as far as they are floating-point numbers or `of_ids` is False; None where any
            number is one. `from_module` compares both splits with it.
        of_ids: whether whole numbers in targets are class ids.
    """

    losses: Measurement
    correct: Measurement | None = None
    convex: bool = False
    likelihood: bool = False
    sample: Sampler | None = None
    fused: Measurement | None = None
    ignore_index: int | None = None
    targets: tuple[float, float] | None = None
    of_ids: bool = False


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


def _cross_entropy_of_columns(logits: Tensor, batch: Batch) -> Tensor:
    """The same, class after class in memory: torch's softmax of rows that fill no register goes number by number.

    Measured on one core, of 10 classes: 9 microseconds in place of 28 for 128 examples, 69 in place of 630 for 4096.
    """
    if logits.ndim != 2 or logits.shape[-1] >= FILLS_A_REGISTER or logits.device.type != "cpu" or batch.y.ndim > 1:
        return _cross_entropy(logits, batch)
    return F.nll_loss(logits.t().log_softmax(0).t(), batch.y, reduction="none")


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


cross_entropy: Measure = Measure(
    _cross_entropy, _top1, True, True, _sample_cross_entropy, _cross_entropy_of_columns, targets=(0.0, 1.0), of_ids=True
)
"""`-log softmax(logits)[y]` of `logits (B, classes)` and class ids `y (B,)`; correct where the largest logit is y's.

Probabilities `y (B, classes)` give `-sum_c y[c] log softmax(logits)[c]`; the largest one of them counts as the label.
"""


def _square(outputs: Tensor, batch: Batch) -> Tensor:
    check_same_shape("measures.square", outputs, batch.y)
    squares = (outputs - batch.y).square()
    return squares.flatten(1).sum(1) if squares.ndim > 1 else squares


def _sample_square(outputs: Tensor, batch: Batch, key: random.Key) -> Tensor:
    return math.sqrt(2.0) * random.normal(key, outputs.shape, outputs.dtype)


square: Measure = Measure(_square, convex=True, likelihood=True, sample=_sample_square)
"""`|outputs - y|^2` of tensors `(B, ...)`, summed over all but the examples."""


def _binary(logits: Tensor, batch: Batch) -> Tensor:
    check_same_shape("measures.binary", logits, batch.y)
    losses = F.binary_cross_entropy_with_logits(logits, batch.y.to(logits.dtype), reduction="none")
    return losses.flatten(1).mean(1) if losses.ndim > 1 else losses


def _right_bits(logits: Tensor, batch: Batch) -> Tensor:
    right = ((logits > 0) == (batch.y > 0.5)).to(logits.dtype)
    return right.flatten(1).mean(1) if right.ndim > 1 else right


def _sample_binary(logits: Tensor, batch: Batch, key: random.Key) -> Tensor:
    """`(p - b) / sqrt(labels)` with `b ~ Bernoulli(p)`, of variance `p (1 - p) / labels`."""
    p = logits.sigmoid()
    drawn = random.uniform(key, logits.shape, dtype=logits.dtype) < p
    return (p - drawn.to(logits.dtype)) / math.sqrt(max(1, logits[:1].numel()))


binary: Measure = Measure(_binary, _right_bits, convex=True, likelihood=True, sample=_sample_binary, targets=(0.0, 1.0))
"""The mean over an example's labels of `-y log sigmoid(z) - (1 - y) log sigmoid(-z)`; the share of right labels.

`logits` and `y` in [0, 1] have one shape: `(B,)` is binary, `(B, labels)` multi-label classification.
"""


def classes(weight: Sequence[float]) -> Measure:
    """Cross entropy with a weight for each class, `logits (B, classes)` and ids `y (B,)`: `w[y] (-log softmax(z)[y])`.

    As `F.cross_entropy(..., weight=w, reduction="none")`; the objective is its mean over the batch, not divided by the
    weights. Correct is where the largest logit is y's.

    Args:
        weight: of each class, finite and at least 0.

    Returns:
        The measure.

    Raises:
        ConfigError: a weight is negative or not finite; or, in a call, the logits have another number of classes.

    >>> logits, y = torch.zeros(2, 2), torch.tensor([0, 1])
    >>> classes((1.0, 3.0)).losses(logits, Batch.of(logits, y))
    tensor([0.6931, 2.0794])
    """
    weight = _checked_weights("weight", weight)

    def weights(logits: Tensor, y: Tensor) -> Tensor:
        _check_count("weight", weight, logits, "classes")
        return logits.new_tensor(weight)[y]

    def losses(logits: Tensor, batch: Batch) -> Tensor:
        return weights(logits, batch.y) * F.cross_entropy(logits, batch.y, reduction="none")

    def sample(logits: Tensor, batch: Batch, key: random.Key) -> Tensor:
        return weights(logits, batch.y).sqrt().unsqueeze(-1) * _sample_categorical(logits, batch, key)

    return Measure(losses, _top1, convex=True, sample=sample)


def labels(pos_weight: Sequence[float]) -> Measure:
    """`binary` of `logits (B, labels)`, with a weight for the positive examples of each label.

    The mean over labels of `-(w y log sigmoid(z) + (1 - y) log sigmoid(-z))`, as `nn.BCEWithLogitsLoss(pos_weight=w)`.

    Args:
        pos_weight: of each label, finite and at least 0.

    Returns:
        The measure.

    Raises:
        ConfigError: a weight is negative or not finite; or, in a call, the logits have another number of labels.
    """
    pos_weight = _checked_weights("pos_weight", pos_weight)

    def losses(logits: Tensor, batch: Batch) -> Tensor:
        check_same_shape("measures.labels", logits, batch.y)
        if logits.ndim < 2:
            raise ConfigError(
                f"measures.labels takes logits (B, labels), not {tuple(logits.shape)}. For one label end the module "
                "with (B, 1) and give targets y[:, None]."
            )
        _check_count("pos_weight", pos_weight, logits, "labels")
        y, w = batch.y.to(logits.dtype), logits.new_tensor(pos_weight)
        each = F.binary_cross_entropy_with_logits(logits, y, pos_weight=w, reduction="none")
        return each.flatten(1).mean(1)

    def sample(logits: Tensor, batch: Batch, key: random.Key) -> Tensor:
        """The Hessian of a label is `(w y + 1 - y) p (1 - p) / labels`."""
        y = batch.y.to(logits.dtype)
        weights = logits.new_tensor(pos_weight) * y + 1.0 - y
        return weights.sqrt() * _sample_binary(logits, batch, key)

    return Measure(losses, _right_bits, convex=True, sample=sample, targets=(0.0, 1.0))


def _checked_weights(name: str, weight: Any) -> tuple[float, ...]:
    """Weights as numbers; they may come as a tensor or an array."""
    try:
        numbers = tuple(float(each) for each in weight)
    except (TypeError, ValueError, RuntimeError) as error:  # of a number alone, of words, of a table
        given = " ".join(repr(weight).split())
        raise ConfigError(f"{name}={given}: give a number for each class, (1.0, 2.0, ...).") from error
    if not all(math.isfinite(each) and each >= 0 for each in numbers):
        raise ConfigError(f"{name}={list(numbers)!r}: weights of classes are finite and at least 0.")
    return numbers


def _check_count(name: str, weight: Sequence[float], logits: Tensor, of: str) -> None:
    if len(weight) != logits.shape[-1]:
        count = "1 number" if len(weight) == 1 else f"{len(weight)} numbers"
        raise ConfigError(f"{name}= has {count} for logits of {logits.shape[-1]} {of}.")


def tokens(ignore_index: int | None = None, weight: Sequence[float] | None = None) -> Measure:
    """The mean cross entropy of an example's positions that count, `logits (B, ..., V)` and ids `y (B, ...)`.

    `sum_t w[y_t] (-log softmax(z_t)[y_t]) / sum_t w[y_t]` over the positions with `y_t != ignore_index`; an example
    whose weights sum to 0 has the loss 0. Correct is the share of these positions whose largest logit is y's, and 1 for
    an example without such positions, so that a net that makes no mistake has the accuracy 1.

    Args:
        ignore_index: the id of positions that do not count, such as padding; None where all count. A negative one,
            such as torch's -100, is named to the data set too (`datasets.from_arrays(..., ignore_index=-100)`); and
            one that the data set names is named here.
        weight: of each class of the logits, finite and at least 0; by default 1.

    Returns:
        The measure.

    Raises:
        ConfigError: `ignore_index` is no whole number; a weight is negative or not finite; or, in a call, the logits
            have another number of classes, or another shape than the ids in front.

    >>> measure = tokens(ignore_index=0)
    >>> logits, y = torch.zeros(2, 4, 5), torch.tensor([[1, 2, 0, 0], [3, 0, 0, 0]])
    >>> measure.losses(logits, Batch.of(logits, y))
    tensor([1.6094, 1.6094])
    """
    _, ignore_index = whole_ids(None, ignore_index)
    if weight is not None:
        weight = _checked_weights("weight", weight)

    def counting(y: Tensor) -> Tensor:
        return torch.ones_like(y, dtype=torch.bool) if ignore_index is None else y != ignore_index

    def counted(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The ids, and the share of each position in its example's loss."""
        counts = counting(y)
        ids = torch.where(counts, y, 0)
        weights = counts.to(logits.dtype)
        if weight is not None:
            _check_count("weight", weight, logits, "classes")
            weights = weights * logits.new_tensor(weight)[ids]
        flat = weights.flatten(1)
        total = flat.sum(1)
        return ids, (flat / torch.where(total > 0, total, 1.0).unsqueeze(1)).view(y.shape)

    def losses(logits: Tensor, batch: Batch) -> Tensor:
        if batch.y.ndim < 2 or logits.shape[:-1] != batch.y.shape:
            raise ConfigError(
                f"measures.tokens takes logits (B, ..., V) of ids (B, ...), not {tuple(logits.shape)} of "
                f"{tuple(batch.y.shape)}. For one id an example take measures.cross_entropy or measures.classes."
            )
        ids, shares = counted(logits, batch.y)
        of_positions = F.cross_entropy(logits.movedim(-1, 1), ids, reduction="none")
        return (shares * of_positions).flatten(1).sum(1)

    def correct(logits: Tensor, batch: Batch) -> Tensor:
        counts = counting(batch.y).to(logits.dtype).flatten(1)
        right = (logits.argmax(-1) == batch.y).to(logits.dtype).flatten(1)
        number = counts.sum(1)
        return torch.where(number > 0, (right * counts).sum(1) / number.clamp(min=1.0), 1.0)

    def sample(logits: Tensor, batch: Batch, key: random.Key) -> Tensor:
        _, shares = counted(logits, batch.y)
        return shares.sqrt().unsqueeze(-1) * _sample_categorical(logits, batch, key)

    return Measure(losses, correct, convex=True, likelihood=weight is None, sample=sample, ignore_index=ignore_index)


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


inception: Measure = Measure(
    _inception, lambda outputs, batch: _top1(outputs.main, batch), convex=True, sample=_sample_inception
)
"""Cross entropy with label smoothing 0.1, plus 0.4 times that of the auxiliary head in training."""


def _per_character(logits: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(logits.mT, batch.y, reduction="none").mean(1)


def _sample_sequence(logits: Tensor, batch: Batch, key: random.Key) -> Tensor:
    return _sample_categorical(logits, batch, key) / math.sqrt(logits.shape[1])


sequence: Measure = Measure(
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


vae: Measure = Measure(_vae, convex=True, sample=_sample_vae)
"""`|image - x|^2 + KL(N(mean, exp(log_std)^2) | N(0, 1))`, summed over pixels and latent variables."""


def _quadratic(offset: Tensor, batch: Batch) -> Tensor:
    return 0.5 * ((offset @ batch.state.moments["hessian"]) * offset).sum(1)


def _quadratic_by_one_product(offset: Tensor, batch: Batch) -> Tensor:
    """With the gradient `H offset`, H being symmetric: the product of the loss itself, where autograd takes another."""
    place, hessian = offset.detach(), batch.state.moments["hessian"]
    product = onednn.linear(place, hessian.t()) if kernels.current().onednn else place @ hessian
    return (product * (offset - 0.5 * place)).sum(1)


def _sample_quadratic(offset: Tensor, batch: Batch, key: random.Key) -> Tensor:
    root = torch.linalg.cholesky(batch.state.moments["hessian"])  # L with L L^T = H
    return random.normal(key, offset.shape, offset.dtype) @ root.mT


quadratic: Measure = Measure(
    _quadratic, convex=True, likelihood=True, sample=_sample_quadratic, fused=_quadratic_by_one_product
)
"""`0.5 (theta - x)^T H (theta - x)` of `offset = theta - x (B, 100)`; H is `moments["hessian"]`, which is symmetric."""


def _two_d(function: Callable[[Tensor, Tensor], Tensor]) -> Measure:
    """A test function with the noise of its data: `f(u, v) + u x + v y`."""

    def losses(point: Tensor, batch: Batch) -> Tensor:
        # Eager code is faster with one backward for both columns, compiled code with one each, which it fuses.
        u, v = (point[..., 0], point[..., 1]) if torch.compiler.is_compiling() else point.unbind(-1)
        return function(u, v) + u * batch.x + v * batch.y

    def fused(point: Tensor | tuple[Tensor, Tensor], batch: Batch) -> Tensor:
        if isinstance(point, Tensor):
            return losses(point, batch)
        u, v = point
        return torch.addcmul(torch.addcmul(function(u, v), u, batch.x), v, batch.y)

    return Measure(losses, fused=fused)


def _squared(x: Tensor) -> Tensor:
    """As a product: the derivative of a power takes torch three operations and a product's two cheaper ones."""
    return x * x


def rosenbrock_function(u: Tensor, v: Tensor) -> Tensor:
    """`(1 - u)^2 + 100 (v - u^2)^2`."""
    return _squared(1 - u) + 100 * _squared(v - u * u)


def beale_function(u: Tensor, v: Tensor) -> Tensor:
    """`(1.5 - u + u v)^2 + (2.25 - u + u v^2)^2 + (2.625 - u + u v^3)^2`."""
    first = u * v
    second = first * v
    return _squared(1.5 - u + first) + _squared(2.25 - u + second) + _squared(2.625 - u + second * v)


def branin_function(u: Tensor, v: Tensor) -> Tensor:
    """`(v - 5.1/(4 pi^2) u^2 + 5/pi u - 6)^2 + 10 (1 - 1/(8 pi)) cos u + 10`."""
    valley = v - 5.1 / (4 * math.pi**2) * (u * u) + 5 / math.pi * u - 6
    return valley * valley + 10 * (1 - 1 / (8 * math.pi)) * torch.cos(u) + 10


rosenbrock: Measure = _two_d(rosenbrock_function)
beale: Measure = _two_d(beale_function)
branin: Measure = _two_d(branin_function)
