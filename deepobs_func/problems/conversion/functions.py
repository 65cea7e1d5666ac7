"""Draws that a user's `forward` makes by functions of torch, such as `F.dropout(x, 0.1, self.training)`.

They are known by their order: the masks of the first call of `F.dropout` in a pass are `F.dropout` in `batch.noise`,
those of the second `F.dropout#1`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from deepobs_func.nets.noise import Place
from deepobs_func.probes.formulas import attention_weights, called
from deepobs_func.problems.conversion.draws import (
    Apply,
    Shape,
    alpha_dropped,
    channels,
    channels_of_signals,
    channels_of_volumes,
    drop,
    dropped,
    random_slopes,
    whole,
)


class _Given(NamedTuple):
    """The arguments of a function that drops."""

    input: Tensor
    p: float
    training: bool
    inplace: bool


def _of_dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> _Given:
    return _Given(input, p, training, inplace)


def _of_bare(input: Tensor, p: float, train: bool) -> _Given:
    return _Given(input, p, train, False)


def _of_bare_in_place(input: Tensor, p: float, train: bool) -> _Given:
    return _Given(input, p, train, True)


class _Drop(NamedTuple):
    """A function that drops: where its masks are found, what each value shares its draw with, and its signature."""

    name: str
    shape_of: Callable[[Tensor], Shape]
    apply: Apply
    given: Callable[..., _Given]


_DROPS: dict[Any, _Drop] = {
    F.dropout: _Drop("F.dropout", whole, dropped, _of_dropout),
    F.dropout1d: _Drop("F.dropout1d", channels_of_signals, dropped, _of_dropout),
    F.dropout2d: _Drop("F.dropout2d", channels, dropped, _of_dropout),
    F.dropout3d: _Drop("F.dropout3d", channels_of_volumes, dropped, _of_dropout),
    F.alpha_dropout: _Drop("F.alpha_dropout", whole, alpha_dropped, _of_dropout),
    F.feature_alpha_dropout: _Drop("F.feature_alpha_dropout", channels, alpha_dropped, _of_dropout),
}
for _like, _bare, _in_place in (
    (F.dropout, torch.dropout, torch.dropout_),
    (F.dropout2d, torch.feature_dropout, torch.feature_dropout_),
    (F.alpha_dropout, torch.alpha_dropout, torch.alpha_dropout_),
    (F.feature_alpha_dropout, torch.feature_alpha_dropout, torch.feature_alpha_dropout_),
):
    _DROPS[_bare] = _DROPS[_like]._replace(given=_of_bare)
    _DROPS[_in_place] = _DROPS[_like]._replace(given=_of_bare_in_place)

_ATTENTION = "F.scaled_dot_product_attention"
NAMES = frozenset({*(each.name for each in _DROPS.values()), "F.rrelu", _ATTENTION})
"""Of the draws of these functions."""


class Drawing(TorchFunctionMode):
    """Within it, functions of torch that draw take their draw from the pass.

    Args:
        places: where they draw, by name.
    """

    def __init__(self, places: dict[str, Place]) -> None:
        super().__init__()
        self._places = places

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DROPS:
            return self._dropout(_DROPS[func], *args, **kwargs)
        if func is F.rrelu:
            return self._slopes(*args, **kwargs)
        if func in (torch.rrelu, torch.rrelu_):
            return self._slopes(*args, **{**kwargs, "inplace": func is torch.rrelu_})
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        return called(func, args, kwargs)

    def _dropout(self, drops: _Drop, *args: Any, **kwargs: Any) -> Tensor:
        x, p, training, inplace = drops.given(*args, **kwargs)
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        if not training:
            return x
        return drop(drops.name, x, p, drops.shape_of, self._places, drops.apply, inplace)

    def _slopes(
        self, input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
    ) -> Tensor:
        return random_slopes("F.rrelu", input, (lower, upper), training, self._places, inplace)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if not dropout_p:
            options: dict[str, Any] = {"scale": scale, "enable_gqa": enable_gqa}
            return F.scaled_dot_product_attention(query, key, value, attn_mask, 0.0, is_causal, **options)
        if enable_gqa:
            key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
        if is_causal and attn_mask is not None:
            raise RuntimeError("scaled_dot_product_attention takes attn_mask or is_causal=True, not both.")
        if is_causal:
            attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        logits = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        return drop(_ATTENTION, attention_weights(logits, attn_mask), dropout_p, whole, self._places) @ value
