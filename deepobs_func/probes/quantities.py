"""Gradient-noise quantities: one short pure function each, of the statistics that it needs.

With B examples, `g_n` is the gradient of example n's loss, `g` their mean, `K` their Gram matrix; S their covariance,
divided by B. All are of the loss without the penalty; where batch norm couples the examples, in whatever mode `g_n` was
computed. Where a quantity takes `total`, that is `sum_n g_n`, and
`scatter` is `sum_n (g_n - g)^2`, both trees, as `probes.statistics` gives them. Differences of nearly equal numbers
(a trace of S far below `|g|^2`) are only as good as the dtype; take float64 there.

Source of the definitions, unless another is named: Schneider, Dangel and Hennig, "Cockpit", NeurIPS 2021, and its code.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deepobs_func import tree
from deepobs_func.base import Params
from deepobs_func.errors import ConfigError

Scalar = Float[Tensor, ""]
Gram = Float[Tensor, "B B"]


def norm_test(gram: Gram) -> Scalar:
    """`sqrt(V / (B |g|^2))`, `V = (sum_n |g_n|^2 - B |g|^2) / (B - 1)`.

    The norm test holds at a bound theta where this is at most theta. Source: Byrd et al. (2012).
    """
    size, squared = _several(gram, "the norm test"), gram.mean()
    variance = (gram.diagonal().sum() - size * squared) / (size - 1)
    return (variance / (size * squared)).clamp(min=0).sqrt()


def inner_product_test(gram: Gram) -> Scalar:
    """`sqrt(V / (B |g|^4))`, `V = (sum_n (g_n . g)^2 - B |g|^4) / (B - 1)`. Source: Bollapragada et al. (2018)."""
    size, squared = _several(gram, "the inner-product test"), gram.mean()
    variance = (gram.mean(0).square().sum() - size * squared**2) / (size - 1)
    return (variance / (size * squared**2)).clamp(min=0).sqrt()


def orthogonality_test(gram: Gram) -> Scalar:
    """`sqrt(V / (B |g|^2))`, `V = sum_n (|g_n|^2 - (g_n . g)^2 / |g|^2) / (B - 1)`. Source: Bollapragada et al."""
    size, squared = _several(gram, "the orthogonality test"), gram.mean()
    variance = (gram.diagonal() - gram.mean(0).square() / squared).sum() / (size - 1)
    return (variance / (size * squared)).clamp(min=0).sqrt()


def covariance_trace(gram: Gram) -> Scalar:
    """`tr S = mean_n |g_n|^2 - |g|^2`."""
    return (gram.diagonal().mean() - gram.mean()).clamp(min=0)


def noise_scale(gram: Gram) -> Scalar:
    """`tr S / |g|^2`, the simple noise scale. Source: McCandlish et al. (2018)."""
    return covariance_trace(gram) / gram.mean()


def sample_covariance_trace(gram: Gram) -> Scalar:
    """`B / (B - 1) tr S`, an unbiased estimate of the trace of the covariance of the examples' gradients.

    Raises:
        ConfigError: there is one example, which has no sample variance.
    """
    size = _several(gram, "the trace of the covariance")
    return covariance_trace(gram) * (size / (size - 1))


def squared_gradient(gram: Gram) -> Scalar:
    """`|g|^2 - sample_covariance_trace / B`, an unbiased estimate of `|E g_n|^2`; it may be negative.

    Source: McCandlish et al. (2018), appendix A.1.
    """
    return gram.mean() - sample_covariance_trace(gram) / len(gram)


def critical_batch_size(gram: Gram) -> Scalar:
    """`sample_covariance_trace / squared_gradient`, the simple noise scale from unbiased estimates.

    The batch size beyond which a larger one saves little: at it, half of the expected squared norm of a mini-batch
    gradient is noise. Infinite where the estimate of `|E g_n|^2` is not positive. Over several batches, divide the mean
    of the one by the mean of the other; a mean of ratios is biased.

    Source: McCandlish, Kaplan, Amodei et al., "An empirical model of large-batch training", 2018, equations 2.9, A.1.

    Raises:
        ConfigError: there is one example, which has no sample variance.
    """
    squared = squared_gradient(gram)
    return torch.where(squared > 0, sample_covariance_trace(gram) / squared, torch.inf)


def grad_diversity(gram: Gram) -> Scalar:
    """`sum_n |g_n|^2 / |sum_n g_n|^2`: 1 / B where all gradients are equal, 1 where they are orthogonal.

    Source: Yin, Pananjady, Lam, Papailiopoulos, Ramchandran and Bartlett, "Gradient diversity", AISTATS 2018,
    definition 1.
    """
    return gram.diagonal().sum() / gram.sum()


def covariance_eigenvalues(gram: Gram) -> Float[Tensor, " B"]:
    """The eigenvalues of S that may differ from 0, descending: those of `(I - 1/B) K (I - 1/B) / B`, at most B - 1."""
    centred = gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()
    return eigenvalues(centred / len(gram))


def eigenvalues(matrix: Float[Tensor, "N N"]) -> Float[Tensor, " N"]:
    """Of a symmetric matrix, descending; NaN where it is not finite, of which LAPACK finds none."""
    finite = matrix.isfinite().all()
    values = torch.linalg.eigvalsh(torch.where(finite, matrix, torch.zeros_like(matrix))).flip(0)
    return torch.where(finite, values, torch.nan)


def cabs(gram: Gram, losses: Float[Tensor, " B"], lr: float | Tensor) -> Scalar:
    """`lr tr S / mean loss`, the batch size that CABS advises for SGD without momentum.

    Source: Balles, Romero and Hennig (2017), equation 22.
    """
    return lr * covariance_trace(gram) / losses.mean()


def early_stopping(total: Params, scatter: Params, size: int) -> Scalar:
    """`1 - B mean_j(g_j^2 / (s_j^2 + 1e-5))`, `s^2` the sample variance; training may stop where it is positive.

    Source: Mahsereci et al. (2017).

    Raises:
        ConfigError: there is one example, which has no sample variance.
    """
    if size < 2:
        raise ConfigError(_TOO_FEW.format("the early-stopping criterion", size))
    ratios = tree.map(lambda g, s: (g / size).square() / (s / (size - 1) + 1e-5), total, scatter)
    return 1 - size * _mean_over_parameters(ratios)


def mean_gsnr(total: Params, scatter: Params, size: int) -> Scalar:
    """`mean_j g_j^2 / (mean_n g_nj^2 - g_j^2 + 1e-5)`, the gradient's signal to noise. Source: Liu et al. (2020)."""
    ratios = tree.map(lambda g, s: (g / size).square() / (s / size + 1e-5), total, scatter)
    return _mean_over_parameters(ratios)


def tic_diag(total: Params, scatter: Params, diagonal: Params, size: int, eps: float = 1e-7) -> Scalar:
    """`sum_j mean_n g_nj^2 / (h_j + eps)`, h the diagonal of the curvature. Source: Thomas et al. (2020)."""
    ratios = tree.map(lambda g, s, h: (s / size + (g / size).square()) / (h + eps), total, scatter, diagonal)
    return _sum_over_parameters(ratios)


def tic_trace(gram: Gram, trace: Tensor, eps: float = 1e-7) -> Scalar:
    """`mean_n |g_n|^2 / (tr H + eps)`. Source: Thomas et al. (2020)."""
    return gram.diagonal().mean() / (trace + eps)


class LineSample(NamedTuple):
    """What is seen of a loss at one point of a line.

    Attributes:
        losses: of each example, `(B,)`.
        slopes: of each example along the unit vector of the line, `(B,)`.
    """

    losses: Float[Tensor, " B"]
    slopes: Float[Tensor, " B"]


def alpha(start: LineSample, end: LineSample, length: Float[Tensor, ""]) -> Scalar:
    """How far a step went: -1 is no step, 0 the minimum of a local quadratic, 1 its other side.

    A quadratic `q(t) = a + b t + c t^2` is fitted by weighted least squares to the mean loss and the mean slope at both
    ends of the step, t = 0 and t = length, each weighted by the inverse of its sample variance over the batch (at least
    1e-10). Then `alpha = t / (-b / 2c) - 1`, and -1 where the fit is concave: it still goes downhill.

    Cockpit takes the next mini-batch at the end of a step; here both ends are seen on the batch of the step. Losses and
    slopes must be of one function: where batch norm couples the examples, of one mode.

    Raises:
        ConfigError: there is one example, which has no sample variance.
    """
    if len(start.losses) < 2:
        raise ConfigError(_TOO_FEW.format("alpha", len(start.losses)))
    t, one, zero = length, torch.ones_like(length), torch.zeros_like(length)
    rows = ((one, zero, zero), (one, t, t * t), (zero, one, zero), (zero, one, 2 * t))
    design = torch.stack([torch.stack(row) for row in rows]).double()
    seen = (start.losses, end.losses, start.slopes, end.slopes)
    target = torch.stack([values.double().mean() for values in seen])
    weight = 1 / torch.stack([values.double().var() for values in seen]).clamp(min=1e-10)
    normal = design.mT * weight
    _, b, c = torch.linalg.solve_ex(normal @ design, normal @ target)[0]
    bent = torch.where(c > 0, -2 * c * t / b - 1, -1.0)
    return torch.where(t > 0, bent, -1.0).to(length.dtype)


def grad_hist_1d(grads: Params, bins: int = 100, limit: float = 2.0) -> Int[Tensor, " bins"]:
    """How many elements of per-example gradients lie in each equal bin of `[-limit, limit]`.

    What lies outside counts in the outermost bins, NaN nowhere.

    Args:
        grads: `(examples, *shape)` for each parameter; counts of several chunks add up.
    """
    return _sum_over_parameters(tree.map(lambda leaf: _counts([(leaf, bins, limit)]), grads))


def grad_hist_2d(
    grads: Params, params: Params, bins: tuple[int, int] = (40, 50), limits: tuple[float, float] = (1.0, 2.0)
) -> Int[Tensor, "X Y"]:
    """The same over two axes: an element of a per-example gradient, and the value of its parameter."""

    def count(leaf: Tensor, parameter: Tensor) -> Tensor:
        return _counts([(leaf, bins[0], limits[0]), (parameter.expand_as(leaf), bins[1], limits[1])])

    return _sum_over_parameters(tree.map(count, grads, params)).view(bins)


def distance(params: Params, start: Params) -> Scalar:
    """`|theta - theta_0|`, how far the parameters are from where the run started."""
    return tree.norm(tree.sub(params, start))


def update_size(before: Params, after: Params) -> Scalar:
    """`|theta_(t+1) - theta_t|`."""
    return distance(after, before)


def update_ratio(before: Params, after: Params) -> Scalar:
    """`|theta_(t+1) - theta_t| / |theta_t|`; infinite, or NaN without a step, at `theta_t = 0`."""
    return distance(after, before) / tree.norm(before)


_TOO_FEW = "{} needs the variance over a batch, which {} example(s) do not have; take a batch of 2 or more."


def _several(gram: Tensor, what: str) -> int:
    if len(gram) < 2:
        raise ConfigError(_TOO_FEW.format(what, len(gram)))
    return len(gram)


def _sum_over_parameters(leaves: Params) -> Tensor:
    first, *rest = (leaf.sum() if leaf.is_floating_point() else leaf for leaf in leaves.values())
    return sum(rest, first)


def _mean_over_parameters(leaves: Params) -> Tensor:
    return _sum_over_parameters(leaves) / tree.size(leaves)


def _counts(axes: list[tuple[Tensor, int, float]]) -> Tensor:
    """How many values fall into each cell of a grid, flat; an axis is values, a number of bins and a limit."""
    cell = torch.zeros_like(axes[0][0], dtype=torch.long)
    seen = torch.ones_like(cell, dtype=torch.bool)
    for values, bins, limit in axes:
        place = values.mul(bins / (2 * limit)).add_(bins / 2).clamp_(0, bins - 1)
        cell, seen = cell * bins + place.nan_to_num(0.0).long(), seen & ~place.isnan()
    counts = torch.zeros(math.prod(bins for _, bins, _ in axes), dtype=torch.long, device=cell.device)
    return counts.index_add(0, cell.flatten(), seen.flatten().long())
