"""Attention with closed forms of its derivatives of second order, for products in eager code.

With weights `P = softmax(s q k^T)` and `y = P v`, a tangent is `dP v + P dv` with `dP = P (dL - sum P dL)`. In the
logits L, the gradient of `<h, dy>` is `P (F - sum P F) + Z - P sum Z`, with `E = h v^T`, `F = h dv^T` and
`Z = dP (E - sum P E)`; sums are over a row. torch differentiates the formulas of its products, its mask and its softmax
one by one, in twice as many passes over memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.func import jvp, vjp

aten = torch.ops.aten


def attended(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None) -> Tensor:
    """`softmax(q k^T / sqrt(d) + mask) v`, for one transform in forward mode (`backend.standardising` says why one).

    Args:
        q, k, v: `(N, T, d)`.
        hidden: `(T, T)`, true where a query may not look; not a whole row. None where it may look at everything.
    """
    return _Attention.apply(q, k, v, hidden)[0]


def by_primitives(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None) -> Tensor:
    """The same, with derivatives of every order and mode by torch's formulas of each operation."""
    return _weights(q, k, hidden) @ v


def _weights(q: Tensor, k: Tensor, hidden: Tensor | None) -> Tensor:
    logits = (q / math.sqrt(q.shape[-1])) @ k.mT
    return (logits if hidden is None else logits.masked_fill(hidden, -math.inf)).softmax(-1)


class _Attention(Function):
    """`(q, k, v, hidden) -> (y, P)`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        weights = _weights(q, k, hidden)
        return weights @ v, weights

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[1])
        _save(ctx, *inputs, output[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        q, k, v, hidden, weights = ctx.saved_tensors
        return (*_Known.apply(_gradient, _formula_of_gradient, hidden, (weights,), q, k, v, g), None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, None]:
        q, k, v, hidden, weights = ctx.saved_tensors
        dq, dk, dv = (_or_zeros(t, like) for t, like in zip(tangents, (q, k, v), strict=False))
        return _Tangent.apply(q, k, v, dq, dk, dv, hidden, weights)[0], None


class _Tangent(Function):
    """`(q, k, v, dq, dk, dv, hidden, P) -> (dy, dP)`, of P as a constant that is known."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, hidden: Tensor | None, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        scale = 1 / math.sqrt(q.shape[-1])
        change = torch.baddbmm(dq @ k.mT, q, dk.mT, beta=scale, alpha=scale)
        change = aten._softmax_backward_data(change, weights, -1, weights.dtype)
        return torch.baddbmm(change @ v, weights, dv), change

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[1])
        _save(ctx, *inputs, output[1])

    @staticmethod
    def backward(ctx: Any, h: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        *tensors, hidden, weights, change = ctx.saved_tensors
        found = _Known.apply(_gradient_of_tangent, _formula_of_tangent, hidden, (weights, change), *tensors, h)
        return (*found, None, None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, None]:
        *tensors, hidden, _, _ = ctx.saved_tensors
        along = [_or_zeros(t, like) for t, like in zip(tangents, tensors, strict=False)]
        return jvp(lambda *parts: _tangent(hidden, *parts), tuple(tensors), tuple(along))[1], None


def _save(ctx: Any, *tensors: Tensor | None) -> None:
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


def _or_zeros(tangent: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if tangent is None else tangent


class _Known(Function):
    """What is computed from intermediate results that are known, and differentiated by a formula without them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        value: Callable[..., Any], formula: Callable[..., Any], hidden: Tensor | None, known: Any, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        return value(*known, *tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, ctx.formula, hidden, _, *tensors = inputs
        _save(ctx, hidden, *tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, *tensors = ctx.saved_tensors
        pull = vjp(lambda *parts: ctx.formula(hidden, *parts), *tensors)[1]
        return (None, None, None, None, *pull(grads))

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, ...]:
        hidden, *tensors = ctx.saved_tensors
        along = [_or_zeros(t, like) for t, like in zip(tangents[4:], tensors, strict=True)]
        return jvp(lambda *parts: ctx.formula(hidden, *parts), tuple(tensors), tuple(along))[1]


def _gradient(weights: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    """Of `<g, y>` in q, k, v."""
    of_logits = aten._softmax_backward_data(g @ v.mT, weights, -1, weights.dtype) / math.sqrt(q.shape[-1])
    return of_logits @ k, of_logits.mT @ q, weights.mT @ g


def _gradient_of_tangent(
    weights: Tensor, change: Tensor, q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, h: Tensor
) -> tuple[Tensor, ...]:
    """Of `<h, dy>` in q, k, v, dq, dk, dv."""
    scale = 1 / math.sqrt(q.shape[-1])
    of_change = h @ v.mT
    centred = of_change - (weights * of_change).sum(-1, keepdim=True)
    z = change * centred
    of_logits = aten._softmax_backward_data(h @ dv.mT, weights, -1, weights.dtype) + z
    of_logits = scale * torch.addcmul(of_logits, weights, z.sum(-1, keepdim=True), value=-1.0)
    of_dlogits = scale * (weights * centred)
    return (
        torch.baddbmm(of_logits @ k, of_dlogits, dk),
        torch.baddbmm(of_logits.mT @ q, of_dlogits.mT, dq),
        change.mT @ h,
        of_dlogits @ k,
        of_dlogits.mT @ q,
        weights.mT @ h,
    )


def _tangent(hidden: Tensor | None, *parts: Tensor) -> Tensor:
    return jvp(lambda q, k, v: by_primitives(q, k, v, hidden), parts[:3], parts[3:])[1]


def _formula_of_gradient(hidden: Tensor | None, *parts: Tensor) -> Sequence[Tensor]:
    *at, g = parts
    return vjp(lambda q, k, v: by_primitives(q, k, v, hidden), *at)[1](g)


def _formula_of_tangent(hidden: Tensor | None, *parts: Tensor) -> Sequence[Tensor]:
    *at, h = parts
    return vjp(lambda *each: _tangent(hidden, *each), *at)[1](h)
