"""Attention: its dropout as masks of the batch, its projections' gradients known, no fast path without derivatives."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deepobs_func.base import Outer
from deepobs_func.probes.formulas import attention_weights
from deepobs_func.problems.conversion.base import Converted
from deepobs_func.problems.conversion.draws import drop, whole
from deepobs_func.problems.conversion.weights import of_dense


class MultiheadAttention(Converted):
    """`nn.MultiheadAttention`: `softmax(q k^T / sqrt(d) + mask) v` of projections, by heads.

    Torch's attention kernel serves where nothing is dropped and no weights are asked for; where derivatives of second
    order or forward mode are asked for, it is computed by its formula (`probes.formulas`).
    """

    embed_dim: int
    num_heads: int
    head_dim: int
    dropout: float
    batch_first: bool
    in_proj_weight: Tensor | None
    in_proj_bias: Tensor | None
    q_proj_weight: Tensor
    k_proj_weight: Tensor
    v_proj_weight: Tensor
    bias_k: Tensor | None
    bias_v: Tensor | None
    add_zero_attn: bool
    out_proj: Any

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if query.ndim == 2:  # one example without an axis of examples
            at = 0 if self.batch_first else 1
            q, k, v = (part.unsqueeze(at) for part in (query, key, value))
            padding = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
            y, weights = self.forward(q, k, v, padding, need_weights, attn_mask, average_attn_weights, is_causal)
            return y.squeeze(at), None if weights is None else weights.squeeze(0)
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal=True is a hint about attn_mask, which is missing.")
        q, k, v = self._projected(query, key, value)
        mask = _merged(attn_mask, key_padding_mask, len(q), self.num_heads, q.dtype)
        k, v, mask = self._extended(k, v, mask)
        q, k, v = (part.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for part in (q, k, v))
        y, weights = self._attended(q, k, v, mask, need_weights)
        y = self.out_proj(y.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        return y if self.batch_first else y.transpose(0, 1), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all heads, `(B, T, embed_dim)` each."""
        alike = query is key and key is value
        if not self.batch_first:
            query, key, value = (part.transpose(0, 1) for part in (query, key, value))
        if self.in_proj_weight is not None and alike:
            q, k, v = self.tapped(query, F.linear(query, self.in_proj_weight, self.in_proj_bias)).chunk(3, -1)
            return q, k, v
        weights = self.in_proj_weight.chunk(3) if self.in_proj_weight is not None else None
        own = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight) if weights is None else weights
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (F.linear(*each) for each in zip((query, key, value), own, biases, strict=True))
        return q, k, v

    def _extended(self, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values with those that every query may look at behind them."""
        more = 0
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (torch.cat((a, b.expand(len(a), 1, -1)), 1) for a, b in ((k, self.bias_k), (v, self.bias_v)))
            more += 1
        if self.add_zero_attn:
            k, v = (F.pad(part, (0, 0, 0, 1)) for part in (k, v))
            more += 1
        return k, v, mask if mask is None or not more else F.pad(mask, (0, more))

    def _attended(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """`(B, heads, T, head_dim)`, and the weights `(B, heads, T, S)` where they are asked for."""
        drops = self.training and self.dropout > 0.0
        if not need_weights and not drops:
            return F.scaled_dot_product_attention(q, k, v, mask), None
        weights = attention_weights((q * math.sqrt(1.0 / self.head_dim)) @ k.mT, mask)
        if drops:
            weights = drop(self.path, weights, self.dropout, whole, self.places)
        return weights @ v, weights if need_weights else None

    def all_factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        return {f"in_proj_{name}": found for name, found in of_dense(x, g).items()}


def _merged(mask: Tensor | None, padding: Tensor | None, size: int, heads: int, dtype: torch.dtype) -> Tensor | None:
    """Both masks as one that is added to the logits, broadcast against `(B, heads, T, S)`; None where there is none."""
    found = None
    if mask is not None:
        found = _added("attn_mask", mask, dtype)
        found = found.unflatten(0, (size, heads)) if found.ndim == 3 else found
    if padding is not None:
        of_keys = _added("key_padding_mask", padding, dtype)[:, None, None, :]
        found = of_keys if found is None else found + of_keys
    return found


def _added(name: str, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Truth values, of what is hidden, as numbers that are added; whole numbers are refused, as torch refuses them."""
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise AssertionError(f"only bool and floating types of {name} are supported, not {mask.dtype}")
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)


class EncoderLayer(Converted):
    """`nn.TransformerEncoderLayer`, without the fast path of the test phase, which has no derivative and no `vmap`."""

    def adapt(self) -> None:
        self.activation_relu_or_gelu = 0  # torch's own sign that the fast path does not apply


class Encoder(Converted):
    """`nn.TransformerEncoder`, without nested tensors; whether a mask is causal is not looked up in its values."""

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        return super().forward(src, mask, src_key_padding_mask, bool(is_causal))

    def adapt(self) -> None:
        self.use_nested_tensor = self.enable_nested_tensor = False


class Decoder(Converted):
    """`nn.TransformerDecoder`; whether a mask is causal is not looked up in its values."""

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
        return super().forward(tgt, memory, *masks, bool(tgt_is_causal), memory_is_causal)
