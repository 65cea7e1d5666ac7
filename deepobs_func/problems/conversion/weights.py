"""Layers that multiply by a weight, whose per-example gradients are known: dense, convolutions, embeddings.

They compute what the stock layers compute; besides, they show their input and output to who listens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deepobs_func.base import Outer
from deepobs_func.nets.layers import positions_last
from deepobs_func.nets.patches import Patches, of_groups
from deepobs_func.problems.conversion.base import Converted

MOST_ENTRIES = 4096  # of an embedding whose ids are written out as rows of zeros and ones


class Linear(Converted):
    """`nn.Linear`."""

    weight: Tensor
    bias: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        return self.tapped(input, F.linear(input, self.weight, self.bias))

    def all_factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        return of_dense(x, g)


def of_dense(x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
    """The gradients of a weight and a bias, from the input and the output's gradient, `(B, ..., features)` both."""
    g = positions_last(g)
    return {"weight": Outer(g, positions_last(x)), "bias": g.sum(2)}


class Conv(Converted):
    """`nn.Conv1d` to `3d`, of any stride, padding, dilation and number of groups."""

    weight: Tensor
    bias: Tensor | None
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str
    _reversed_padding_repeated_twice: list[int]

    def forward(self, input: Tensor) -> Tensor:
        return self.tapped(input, super().forward(input))

    def all_factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        x, padding = self._padded(x)
        bias = {"bias": g.flatten(2).sum(2)}
        options: tuple[Any, ...] = (self.kernel_size, self.stride, padding, self.dilation)
        if len(self.kernel_size) == 1:  # a row of an image
            x, g = x.unsqueeze(2), g.unsqueeze(2)
            options = tuple((neutral, *given) for neutral, given in zip((1, 1, 0, 1), options, strict=True))
        if self.groups == 1 and x.ndim == 4:
            return {"weight": Patches(g, x, *options), **bias}
        return {"weight": of_groups(x, g, self.weight.shape, *options[1:], groups=self.groups), **bias}

    def _padded(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        if self.padding_mode != "zeros":
            return F.pad(x, self._reversed_padding_repeated_twice, self.padding_mode), (0,) * len(self.kernel_size)
        if isinstance(self.padding, str):
            return F.pad(x, self._reversed_padding_repeated_twice), (0,) * len(self.kernel_size)
        return x, self.padding


class ConvTranspose2d(Converted):
    """`nn.ConvTranspose2d` of one group: a convolution turned round."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        y = super().forward(input, output_size)
        return y if self.groups > 1 else self.tapped(input, y)

    def all_factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        weight = Patches(x, g, self.kernel_size, self.stride, self.padding, self.dilation)
        return {"weight": weight, "bias": g.sum((2, 3))}


class Embedding(Converted):
    """`nn.Embedding`; the row of the padding has no gradient."""

    weight: Tensor
    num_embeddings: int
    padding_idx: int | None
    max_norm: float | None
    scale_grad_by_freq: bool

    def forward(self, input: Tensor) -> Tensor:
        y = super().forward(input)
        plain = not self.scale_grad_by_freq and self.max_norm is None and self.num_embeddings <= MOST_ENTRIES
        return self.tapped(input, y) if plain else y

    def all_factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        x, g = x.flatten(1), g.reshape(len(g), -1, g.shape[-1])
        at = x.unsqueeze(1) == torch.arange(self.num_embeddings, device=x.device).unsqueeze(1)  # (B, entries, T)
        if self.padding_idx is not None:
            at = at & (x != self.padding_idx % self.num_embeddings).unsqueeze(1)
        return {"weight": Outer(at.to(g.dtype), g.mT)}
