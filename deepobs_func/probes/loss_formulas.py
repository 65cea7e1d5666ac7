"""Criteria of torch that have no forward mode, or no second derivative, written out by operations that have both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


def _huber(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """`0.5 d^2` where `|d| <= delta`, else `delta (|d| - 0.5 delta)`, d the difference."""
    distance = input - target
    near = distance.abs() <= delta
    losses = torch.where(near, 0.5 * distance * distance, delta * (distance.abs() - 0.5 * delta))
    return _reduced(losses if weight is None else weight * losses, reduction)


def _soft_margin(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """`log(1 + exp(-target input))`."""
    if size_average is not None or reduce is not None:
        return F.soft_margin_loss(input, target, size_average, reduce, reduction)
    return _reduced(F.softplus(-target * input), reduction)


def _multi_margin(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """`sum_j max(0, margin - x_y + x_j)^p / C` over the other classes j, times `weight_y`."""
    if size_average is not None or reduce is not None or input.ndim != 2:
        return F.multi_margin_loss(input, target, p, margin, weight, size_average, reduce, reduction)
    classes = torch.arange(input.shape[1], device=input.device)
    right = input.gather(1, target.unsqueeze(1))
    excess = (margin - right + input).clamp(min=0.0)
    terms = excess if p == 1 else excess * excess
    terms = terms if weight is None else terms * weight[target].unsqueeze(1)
    losses = torch.where(classes == target.unsqueeze(1), 0.0, terms).sum(1) / input.shape[1]
    return _reduced(losses, reduction)


def functions() -> Iterable[tuple[Any, Any]]:
    """Each of torch's functions with its formula."""
    yield F.huber_loss, _huber
    yield F.soft_margin_loss, _soft_margin
    yield F.multi_margin_loss, _multi_margin
