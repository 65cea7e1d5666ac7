"""Gradients by torch's engine, without the checks of `torch.autograd.grad`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_ENGINE = torch.autograd.Variable._execution_engine


def gradients(values: Sequence[Tensor], seeds: Sequence[Tensor], leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """`torch.autograd.grad(values, leaves, seeds, allow_unused=True, materialize_grads=True)`.

    The same call of the engine. The Python code around it takes 0.06 ms, an eighth of a step of a small problem. It is
    left out on a CPU only: what it hands to the engine's threads for GPUs is needed there.

    Args:
        values: their graph is freed.
        seeds: the gradient of what is differentiated with respect to each value, of its shape.
        leaves: with respect to which.
    """
    if values[0].device.type != "cpu":
        return torch.autograd.grad(values, leaves, seeds, allow_unused=True, materialize_grads=True)
    keep_graph, create_graph, allow_unused, accumulate = False, False, True, False
    found: tuple[Tensor | None, ...] = _ENGINE.run_backward(
        tuple(values), tuple(seeds), keep_graph, create_graph, tuple(leaves), allow_unused, accumulate
    )
    return tuple([torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, found, strict=True)])
