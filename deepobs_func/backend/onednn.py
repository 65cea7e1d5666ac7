"""Products of float32 matrices by oneDNN, instead of the BLAS library that torch was built with.

torch computes matrix products on a CPU with MKL, which does not use the wide registers of processors that Intel did not
make: there oneDNN, with which torch computes convolutions, is twice as fast. Both round in float32 and add up in an
order of their own. `is_faster` says which is better here; then eager code calls `linear`, and compiled code has its
products replaced (`backend/matmul_pass.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Measured: 128 x 500 x 100 takes 0.6 times as long as by MKL, 128 x 100 x 100 as long, 128 x 100 x 10 longer.
LEAST_MULTIPLICATIONS = 4_000_000
LEAST_GAIN = 0.9
TRIAL = (128, 784, 1000)  # examples, inputs, outputs
TRIALS = 5


def available() -> bool:
    """Whether this build of torch has oneDNN, and its product of dense tensors."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def is_faster(device: torch.device) -> bool:
    """Whether a product of a middling size takes at most 0.9 times as long by oneDNN, with the threads torch has now.

    Measured in turns, 5 of each, about 20 ms in all; the fastest ones are compared.
    """
    if device.type != "cpu" or not available():
        return False
    examples, inputs, outputs = TRIAL
    x, weight = torch.ones(examples, inputs), torch.ones(outputs, inputs)
    turns = [(_seconds(product, x, weight), _seconds(F.linear, x, weight)) for _ in range(TRIALS)]
    ours, theirs = (min(seconds) for seconds in zip(*turns, strict=True))
    return ours <= LEAST_GAIN * theirs


def _seconds(way: Callable[..., Tensor], x: Tensor, weight: Tensor) -> float:
    start = time.perf_counter()
    way(x, weight)
    return time.perf_counter() - start


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x W^T + b` of `x (..., inputs)`, `weight (outputs, inputs)`, `bias (outputs,)`; strides are free."""
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")


def is_plain(x: Tensor) -> bool:
    """Whether it is of the kind that this is about: float32, on a CPU."""
    return x.dtype == torch.float32 and x.device.type == "cpu"


def is_large(rows: int, inner: int, columns: int) -> bool:
    """Whether a product of `(rows, inner)` and `(inner, columns)` is worth the way to oneDNN."""
    return rows * inner * columns >= LEAST_MULTIPLICATIONS


class _Linear(torch.autograd.Function):
    """The product with the gradients that `torch.autograd` asks for; no transform goes through it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows, columns = g.flatten(0, -2), x.flatten(0, -2)
        needed = ctx.needs_input_grad
        return (
            linear(g, weight.t()) if needed[0] else None,  # which has derivatives in its turn
            linear(rows.t(), columns.t()) if needed[1] else None,
            rows.sum(0) if needed[2] else None,
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` of float32 tensors on a CPU, for evaluation and the plain gradient.

    Args:
        x: `(..., inputs)`.
        weight: `(outputs, inputs)`.
        bias: `(outputs,)`, or none.

    Returns:
        `(..., outputs)`, by oneDNN where that is large enough to pay; other types and devices take `F.linear`, and so
        does `torch.autocast`.
    """
    outputs, inputs = weight.shape
    if torch.is_autocast_enabled("cpu") or not (is_plain(x) and is_large(x.numel() // inputs, inputs, outputs)):
        return F.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias)
