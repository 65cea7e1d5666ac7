"""Layers that read a draw of their own from the batch: nothing is drawn in a forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deepobs_func import random
from deepobs_func.nets.layers import Layer, Pass


class Noise(Layer):
    """A layer that reads a draw of its own from the batch.

    Attributes:
        in_evaluation: whether the test phase draws it too.
    """

    in_evaluation: bool = False

    def draw(self, key: random.Key, batch_size: int) -> Tensor:
        """The draw for one batch, leading axis `B`."""
        raise NotImplementedError  # abstract: every kind of noise says how it is drawn


class Dropout(Noise):
    """Drops single values in the training phase: `x mask / keep`, of the batch's keep-mask.

    As a product with one float mask, both passes together take 0.2 of the time of `torch.where` in eager code.

    Args:
        rate: the probability of dropping a value.
        shape: the shape of one example at this place, without the batch axis.
    """

    def __init__(self, rate: float, shape: Sequence[int]) -> None:
        super().__init__()
        self.keep, self.shape = 1.0 - rate, tuple(shape)

    def draw(self, key: random.Key, batch_size: int) -> Tensor:
        return random.bernoulli(key, self.keep, (batch_size, *self.shape))

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        mask = p.noise.get(self.path) if p.train else None
        return x if mask is None else x * (mask.to(x.dtype) / self.keep)


class Epsilon(Noise):
    """Standard normal draws of a given shape, in both phases; zeros where the batch has none."""

    in_evaluation = True

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def draw(self, key: random.Key, batch_size: int) -> Tensor:
        return random.normal(key, (batch_size, *self.shape))

    def forward(self, like: Tensor, p: Pass) -> Tensor:
        epsilon = p.noise.get(self.path)
        return torch.zeros_like(like) if epsilon is None else epsilon.to(like.dtype)
