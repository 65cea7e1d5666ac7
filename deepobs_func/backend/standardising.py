"""Standardisation with a closed form of its second derivative, for eager code: half of the passes over memory.

torch differentiates a norm that is written in primitives operation by operation, and the formulas of its own kernel are
wrong in forward mode. `y = (x - mean) / sqrt(var + epsilon)` over N numbers is N times the gradient of the deviation
`sqrt(var + epsilon)`, so that its Jacobian `J = r (I - 1 1^T / N - y y^T / N)`, with r one over the deviation, is
symmetric, and so is the derivative of J: one formula serves forward and reverse mode.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

aten = torch.ops.aten


def standardised(x: Tensor, epsilon: float) -> Tensor:
    """`(x - mean) / sqrt(var + epsilon)` over the last axis, of the biased variance.

    It has derivatives of every order and mode, and goes through `vmap`. A compiler, which fuses primitives, gets those,
    and so do tangents of tangents: of a gradient through a custom function, torch 2.13 makes them zero.
    """
    if torch.compiler.is_compiling() or _forward_levels() > 1:
        return _by_primitives(x, epsilon)[0]
    return _Standardised.apply(x, epsilon)[0]


def _forward_levels() -> int:
    """How many transforms in forward mode are under way, one inside of the other."""
    levels = torch._C._functorch.get_interpreter_stack() or ()
    return sum(level.key() == torch._C._functorch.TransformType.Jvp for level in levels)


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
        of_g = _Product.apply(x, mean, inverse, g, ctx.epsilon)
        of_x = _change(x, mean, inverse, u, g, of_g, ctx.epsilon) if ctx.needs_input_grad[0] else None
        return of_x, None, None, of_g, None

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor | None, _: None, __: None, u_tangent: Tensor | None, ___: None) -> Tensor:
        x, mean, inverse, u = ctx.saved_tensors
        found = torch.zeros_like(u)
        if u_tangent is not None:
            found = _Product.apply(x, mean, inverse, u_tangent, ctx.epsilon)
        if x_tangent is None:
            return found
        of_x = _Product.apply(x, mean, inverse, x_tangent, ctx.epsilon)
        return found + _change(x, mean, inverse, u, x_tangent, of_x, ctx.epsilon)


def _change(x: Tensor, mean: Tensor, inverse: Tensor, u: Tensor, v: Tensor, product: Tensor, epsilon: float) -> Tensor:
    """The derivative of `J(x) u` along v, given `product = J(x) v`.

    `-r^2 q y / N - r (a J v + b J u)` with `a = y.u / N`, `b = y.v / N` and `q = u.v - sum u sum v / N - N a b`.
    """
    y, r = _by_primitives(x, epsilon)
    a, b = (y * u).mean(-1, keepdim=True), (y * v).mean(-1, keepdim=True)
    q = (u * v).mean(-1, keepdim=True) - u.mean(-1, keepdim=True) * v.mean(-1, keepdim=True) - a * b
    own = _Product.apply(x, mean, inverse, u, epsilon)
    return -(r * r * q) * y - (r * a) * product - (r * b) * own
