"""Products of float32 matrices by oneDNN, instead of the BLAS library that torch was built with.

torch computes matrix products on a CPU with MKL, which does not use the wide registers of processors that Intel did not
make: there oneDNN, with which torch computes convolutions, can be twice as fast. Both round in float32 and add up in an
order of their own. `is_faster` says which is better for a net here; then eager code calls `linear`, and compiled code
has its products replaced (`backend/matmul_pass.py`). Where it is MKL, an evaluation calls `turned`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deepobs_func.base import Params

# Measured: 128 x 500 x 100 takes 0.6 times as long as by MKL, 128 x 100 x 100 as long, 128 x 100 x 10 longer.
LEAST_MULTIPLICATIONS = 4_000_000
# Where oneDNN's forward products take 0.9 to 0.95 of MKL's time, those of gradients take more, and an Adam step of
# mnist_mlp took 1.1 times as long.
LEAST_GAIN = 0.8
TRIAL_EXAMPLES, TRIAL_SHAPE = 128, (1000, 784)  # a batch, and a matrix (outputs, inputs) where none is given
LENGTHS = (8, 1024)  # of the sides of a matrix that is tried: longer ones have the ratio of this one
TRIALS = 5
EXAMPLES_AN_OUTPUT = 2  # at least, for which the transpose of a product is computed


def available() -> bool:
    """Whether this build of torch has oneDNN, and its product of dense tensors."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def is_faster(device: torch.device, params: Params | None = None) -> bool:
    """Whether products with the matrices among some parameters take at most 0.8 times as long by oneDNN.

    With the threads that torch has now, on 128 examples, or as many more as make a product worth the way to oneDNN.
    Measured in turns, 5 of each; the fastest ones are compared, a few ms for each shape. On one processor a product
    with 10 outputs takes half as long as by MKL, one with 1,000 outputs 0.95 times as long: it depends on the net.

    Args:
        device: where the products are computed; only a CPU has both.
        params: of the net; without them, or without a matrix among them, one of middling size is tried.
    """
    if device.type != "cpu" or not available():
        return False
    shapes = sorted({_cut(leaf.shape) for leaf in (params or {}).values() if leaf.ndim == 2}) or [TRIAL_SHAPE]
    ours, theirs = (sum(seconds) for seconds in zip(*map(_trial, shapes), strict=True))
    return ours <= LEAST_GAIN * theirs


def _cut(shape: Sequence[int]) -> tuple[int, int]:
    shortest, longest = LENGTHS
    outputs, inputs = (min(max(side, shortest), longest) for side in shape)
    return outputs, inputs


def _trial(shape: tuple[int, int]) -> tuple[float, float]:
    """Seconds of a product by oneDNN and by torch's own kernel."""
    outputs, inputs = shape
    examples = max(TRIAL_EXAMPLES, math.ceil(LEAST_MULTIPLICATIONS / (outputs * inputs)))
    x, weight = torch.ones(examples, inputs), torch.ones(outputs, inputs)
    turns = [(_seconds(product, x, weight), _seconds(F.linear, x, weight)) for _ in range(TRIALS)]
    ours, theirs = (min(seconds) for seconds in zip(*turns, strict=True))
    return ours, theirs


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


def turned(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear` for evaluation without oneDNN: `(W x^T + b)^T`, a view, where there are many examples for each output.

    Kernels of BLAS libraries fill registers along the axis that is contiguous in the result, which is then the longer
    one. By MKL on one core, 1664 x 1000 x 500 takes 0.88 times as long so, 1664 x 500 x 100 0.93 times, 1664 x 100 x 10
    0.4 times, and 1664 x 784 x 1000 as long.

    Args:
        x: `(..., inputs)`.
        weight: `(outputs, inputs)`.
        bias: `(outputs,)`.

    Returns:
        `(..., outputs)`; not of two axes, of other types than float32 or on another device than a CPU, or with fewer
        than two examples for each output, by `F.linear`; and so under `torch.autocast`.
    """
    few = x.ndim != 2 or len(x) < EXAMPLES_AN_OUTPUT * len(weight)
    if few or not is_plain(x) or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    return torch.addmm(bias.unsqueeze(1), weight, x.t()).t()
