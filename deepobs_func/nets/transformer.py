"""Blocks of a transformer on tokens `(B, T, width)`, normalised before each branch; position and class embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepobs_func.backend.attending import attended, by_primitives
from deepobs_func.backend.eager import forward_levels
from deepobs_func.base import Outer
from deepobs_func.errors import ConfigError
from deepobs_func.nets.initializers import Initializer
from deepobs_func.nets.layers import Dense, Layer, Pass
from deepobs_func.nets.noise import Dropout
from deepobs_func.nets.norms import LayerNorm


def attend(q: Tensor, k: Tensor, v: Tensor, p: Pass, *, causal: bool) -> Tensor:
    """`softmax(q k^T / sqrt(d) + mask) v`, by heads.

    Args:
        q, k, v: `(B, heads, T, d)`.
        p: the pass. One that allows fused kernels takes torch's, which serve the plain gradient; any other takes the
            formula, which has derivatives of every order and mode.
        causal: whether position t looks at none after t.

    Returns:
        `(B, heads, T, d)`.

    Source: Vaswani et al., NeurIPS 2017.
    """
    if p.fused:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    hidden = torch.ones(q.shape[-2:-1] * 2, dtype=torch.bool, device=q.device).triu(1) if causal else None
    if torch.compiler.is_compiling() or forward_levels() != 1 or _is_mixed():
        return by_primitives(q, k, v, hidden)
    return attended(q.flatten(0, -3), k.flatten(0, -3), v.flatten(0, -3), hidden).view(q.shape)


def _is_mixed() -> bool:
    """Whether types differ by operation, by autocast."""
    return any(map(torch.is_autocast_enabled, ("cpu", "cuda")))


class Attention(nn.Module):
    """Self-attention of several heads.

    Args:
        width: of a token.
        heads: how many, each of `width / heads`.
        causal: whether a token looks at none after itself.
        weight: the initial distribution of the projections to queries, keys and values, which are one matrix.
        last: that of the projection back.
    """

    def __init__(self, width: int, heads: int, *, causal: bool, weight: Initializer, last: Initializer) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = Dense(width, 3 * width, weight)
        self.out = Dense(width, width, last)

    def forward(self, x: Tensor, p: Pass) -> Tensor:  # (B, T, width)
        size, length, width = x.shape
        of_heads = self.qkv(x, p).reshape(size, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = of_heads.unbind(0)  # (B, heads, T, width / heads)
        y = attend(q, k, v, p, causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(size, length, width), p)


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))` with a GELU and four times the width.

    Args:
        length, width: of the input, `(B, T, width)`.
        heads, causal: of the attention.
        weight: the initial distribution of all kernels but the last one of each branch; biases start at 0.
        last: that of these.
        rate: of dropout at the end of each branch; 0 for none.
        epsilon: of the norms.
    """

    def __init__(
        self,
        length: int,
        width: int,
        heads: int,
        *,
        causal: bool,
        weight: Initializer,
        last: Initializer,
        rate: float,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width, epsilon)
        self.attention = Attention(width, heads, causal=causal, weight=weight, last=last)
        self.norm2 = LayerNorm(width, epsilon)
        self.dense1, self.dense2 = Dense(width, 4 * width, weight), Dense(4 * width, width, last)
        self.dropout1, self.dropout2 = (Dropout(rate, (length, width)) if rate else None for _ in range(2))

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        y = self.attention(self.norm1(x, p), p)
        x = x + (y if self.dropout1 is None else self.dropout1(y, p))
        y = self.dense2(F.gelu(self.dense1(self.norm2(x, p), p)), p)
        return x + (y if self.dropout2 is None else self.dropout2(y, p))


class Positions(Layer):
    """Adds what is learned of each position: `x + weight`, of `weight (T, width)`.

    Args:
        length, width: of the input, `(B, T, width)`.
        weight: the initial distribution.
    """

    weight: Tensor

    def __init__(self, length: int, width: int, weight: Initializer) -> None:
        super().__init__()
        self.declare("weight", (length, width), weight)

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        """The sum.

        Raises:
            ConfigError: the input has another length. One of 1 would be spread over all positions.
        """
        given, length = x.shape[-2], len(self.weight)
        if given != length:
            raise ConfigError(
                f"Sequence length {given}: there is a position embedding for each of {length} tokens. Give {length}, "
                f"or make the net for {given}."
            )
        return p.tapped(self, x, x + self.weight)

    def factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        return {"weight": g}


class ClassToken(Layer):
    """Puts a learned token before the others, `(B, T, width) -> (B, 1 + T, width)`; `weight (width,)`.

    Source: Dosovitskiy et al., ICLR 2021.
    """

    weight: Tensor

    def __init__(self, width: int, weight: Initializer) -> None:
        super().__init__()
        self.declare("weight", (width,), weight)

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        return p.tapped(self, x, torch.cat((self.weight.expand(len(x), 1, -1), x), dim=1))

    def factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        return {"weight": g[:, 0]}
