"""Whether an example's loss is the same alone as in a batch, also away from the initial parameters.

A gate that begins at zero hides what it lets through: a branch that couples the examples shows only where the gate is
open. So what holds at the initial parameters must hold at a point at which every parameter has moved.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from deepobs_func import random
from deepobs_func.base import BATCH_DIMS, Batch, Params, size_of
from deepobs_func.probes.many import sliced

Losses = Callable[[Params, Batch], Tensor]
Ways = Callable[[Params, Batch], tuple[Tensor, Tensor]]
"""Losses that must be the same, computed in two ways."""

MOVES = (1.0, 0.1)  # a nearer point where the first one has no finite losses
SHARE = 0.5  # of its own size, or of the scale of a usual initialisation, by which a parameter moves
TOLERANCE = 1e-4  # of the largest loss
PATTERN = 8191  # random numbers, repeated, as one for each of a large net takes seconds; a prime, so that rows differ


def alone_and_together(loss: Losses, params: Params, batch: Batch) -> tuple[Tensor, Tensor]:
    """The losses of the examples one by one, and those of the batch, `(B,)` each."""
    examples = [sliced(batch, BATCH_DIMS, slice(n, n + 1)) for n in range(size_of(batch))]
    return torch.cat([loss(params, example) for example in examples]), loss(params, batch)


def in_parts(loss: Losses, params: Params, batch: Batch) -> Tensor:
    """The losses of the first example alone and of the others together, `(B,)`.

    Two passes, where one for each example takes a large net more of the time in which a problem is made.
    """
    parts = [sliced(batch, BATCH_DIMS, piece) for piece in (slice(0, 1), slice(1, None))]
    return torch.cat([loss(params, part) for part in parts])


@torch.no_grad()
def agree_elsewhere(ways: Ways, params: Params, batch: Batch) -> bool:
    """Whether losses that agree at the initial parameters agree away from them, too.

    What differs in the precision of the batch is compared in float64 as well, so that no rounding counts. Where there
    is no point with finite losses, nothing speaks against it.

    Args:
        ways: computes the losses.
        params: the initial ones.
        batch: of a few examples.
    """
    for move in MOVES:
        there = away(params, move)
        found = _agree(ways, there, batch)
        if found is None:
            continue
        return found or bool(_agree(ways, *pytree.tree_map(_wide, (there, batch))))
    return True


def away(params: Params, move: float = 1.0) -> Params:
    """Where every number has moved: by `SHARE` of its tensor's size, or of `1 / sqrt(fan)` where that is more.

    So zeros move, and activations keep their size from layer to layer.

    Args:
        params: the initial ones.
        move: a factor of how far.
    """
    uniform = random.uniform(random.key(0), (PATTERN,)) - 0.5
    pattern = uniform + 0.5 * uniform.sign()  # from 0.5 to 1 away from zero
    return {name: _away(leaf, pattern.roll(37 * n), SHARE * move) for n, (name, leaf) in enumerate(params.items())}


def _away(leaf: Tensor, pattern: Tensor, share: float) -> Tensor:
    size = leaf.numel()
    if not size:
        return leaf
    fan = size // min(leaf.shape[:2]) if leaf.ndim > 1 else 1
    scale = max(float(leaf.square().mean().sqrt()), 1 / math.sqrt(fan))
    steps = pattern.to(leaf).repeat(-(-size // PATTERN))[:size]
    return leaf + share * scale * steps.view(leaf.shape)


def _agree(ways: Ways, params: Params, batch: Batch) -> bool | None:
    """Whether they do up to rounding; None where the losses cannot be computed, or are not finite."""
    try:
        one, other = ways(params, batch)
    except Exception:  # whatever a user's code raises at parameters that it does not know
        return None
    if not bool((one.isfinite() & other.isfinite()).all()):
        return None
    return float((one - other).abs().max()) <= TOLERANCE * float(other.abs().max())


def _wide(leaf: object) -> object:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
