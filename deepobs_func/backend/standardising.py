"""Standardisation with a closed form of its second derivative, for eager code: half of the passes over memory.

torch differentiates a norm that is written in primitives operation by operation, and the formulas of its own kernel are
wrong in forward mode. `y = (x - mean) / sqrt(var + epsilon)` over N numbers is N times the gradient of the deviation
`sqrt(var + epsilon)`, so that its Jacobian `J = r (I - 1 1^T / N - y y^T / N)`, with r one over the deviation, is
symmetric, and so is the derivative of J: one formula serves forward and reverse mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.func import jvp, vjp

from deepobs_func.backend.eager import forward_levels

aten = torch.ops.aten
_FEW = 61  # a stride that no side of an image divides, so that the numbers are spread


def standardised(x: Tensor, epsilon: float) -> Tensor:
    """`(x - mean) / sqrt(var + epsilon)` over the last axis, of the biased variance.

    It has derivatives of every order and mode, and goes through `vmap`. A compiler, which fuses primitives, gets those,
    and so do tangents of tangents: of a gradient through a custom function, torch 2.13 makes them zero.
    """
    if torch.compiler.is_compiling() or forward_levels() > 1:
        return _by_primitives(x, epsilon)[0]
    return _Standardised.apply(x, epsilon)[0]


def affine_of_groups(x: Tensor, groups: int, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Group normalisation with its scale and shift, in primitives for a compiler: two passes forward, two backward.

    For any constant m, with `c = x - m`, the variance is `mean(c^2) - mean(c)^2`, and with s the weight over the
    deviation the norm is `c s + (bias - mean(c) s)`. So both moments go in one pass, and of the gradient all sums over
    pixels, `sum g` and `sum g c` of each channel. Differentiated as `standardised` has it, they take three, and those
    of weight and bias two more. m is the mean of a few of the group's numbers, so that little cancels.

    Args:
        x: `(B, C, ...)`.
        groups: how many; they cut the channels into equal parts.
        weight, bias: `(C,)`.
        epsilon: added to the biased variance.
    """
    parts = x.reshape(len(x), groups, x.shape[1] // groups, -1)
    centred = parts - parts[..., ::_FEW].mean((2, 3), keepdim=True).detach()
    offset = centred.mean((2, 3), keepdim=True)
    deviation = (centred.square().mean((2, 3), keepdim=True) - offset.square() + epsilon).sqrt()
    scale = weight.view(groups, -1, 1) / deviation
    return (centred * scale + (bias.view(groups, -1, 1) - offset * scale)).reshape(x.shape)


def _by_primitives(x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The same, and one over the deviation."""
    centred = x - x.mean(-1, keepdim=True)
    inverse = (centred.square().mean(-1, keepdim=True) + epsilon).rsqrt()
    return centred * inverse, inverse


class _Standardised(Function):
    """`(x, epsilon) -> (y, mean, r)`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
        return aten.native_layer_norm(x, [x.shape[-1]], None, None, epsilon)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        (x, ctx.epsilon), (_, mean, inverse) = inputs, output
        ctx.mark_non_differentiable(mean, inverse)
        ctx.save_for_backward(x, mean, inverse)
        ctx.save_for_forward(x, mean, inverse)

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Any) -> tuple[Tensor, None]:
        return _Product.apply(*ctx.saved_tensors, g, ctx.epsilon), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> tuple[Tensor, None, None]:
        return _Product.apply(*ctx.saved_tensors, tangent, ctx.epsilon), None, None


class _Product(Function):
    """`J(x) u`, of the mean and r as constants that are known."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, mean: Tensor, inverse: Tensor, u: Tensor, epsilon: float) -> Tensor:
        wanted = [True, False, False]
        u = u.contiguous()
        return aten.native_layer_norm_backward(u, x, [x.shape[-1]], mean, inverse, None, None, wanted)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        *tensors, ctx.epsilon = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None, None, Tensor | None, None]:
        x, mean, inverse, u = ctx.saved_tensors
        of_x = _Change.apply(x, u, g, ctx.epsilon) if ctx.needs_input_grad[0] else None
        return of_x, None, None, _Product.apply(x, mean, inverse, g, ctx.epsilon), None

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor | None, _: None, __: None, u_tangent: Tensor | None, ___: None) -> Tensor:
        x, mean, inverse, u = ctx.saved_tensors
        found = torch.zeros_like(u)
        if u_tangent is not None:
            found = _Product.apply(x, mean, inverse, u_tangent, ctx.epsilon)
        if x_tangent is None:
            return found
        return found + _Change.apply(x, u, x_tangent, ctx.epsilon)


class _Change(Function):
    """The derivative of `J(x) u` along v; its own derivatives are those of primitives."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, u: Tensor, v: Tensor, epsilon: float) -> Tensor:
        y, _, r = aten.native_layer_norm(x, [x.shape[-1]], None, None, epsilon)
        return _change(y, r, u, v)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        *tensors, ctx.epsilon = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return (*vjp(_change_of(ctx.epsilon), *ctx.saved_tensors)[1](g), None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        at = ctx.saved_tensors
        along = tuple(torch.zeros_like(like) if t is None else t for t, like in zip(tangents, at, strict=False))
        return jvp(_change_of(ctx.epsilon), at, along)[1]


def _change_of(epsilon: float) -> Callable[..., Tensor]:
    return lambda x, u, v: _change(*_by_primitives(x, epsilon), u, v)


def _change(y: Tensor, r: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """`-r^2 ((mean(u v) - mean(u) mean(v) - 3 a b) y + a (v - mean(v)) + b (u - mean(u)))`.

    a is `mean(y u)` and b is `mean(y v)`; y is standardised, and r one over the deviation.
    """
    mean = lambda values: values.mean(-1, keepdim=True)
    a, b, of_u, of_v, scale = mean(y * u), mean(y * v), mean(u), mean(v), -(r * r)
    found = torch.addcmul(-scale * (a * of_v + b * of_u), y, scale * (mean(u * v) - of_u * of_v - 3 * a * b))
    return torch.addcmul(torch.addcmul(found, v, scale * a), u, scale * b)
