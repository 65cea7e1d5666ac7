"""Initial distributions, DeepOBS 1.1.2's and others, as functions `(key, shape, dtype) -> Tensor` of a random key.

Shapes are PyTorch's: dense `(out, in)`, convolution `(out, in, height, width)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from deepobs_func import random

_CUT_STD = 0.87962566103423978  # the standard deviation of a standard normal cut at 2

Draw = Callable[[random.Key, Sequence[int], torch.dtype], Tensor]


@dataclass(frozen=True)
class Initializer:
    """An initial distribution: `(key, shape, dtype) -> Tensor`.

    Attributes:
        law: what it is, in words.
        draw: the function.
    """

    law: str
    draw: Draw

    def __call__(self, key: random.Key, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Draws a tensor."""
        return self.draw(key, shape, dtype)


def constant(value: float) -> Initializer:
    """Every coordinate is `value`; nothing is drawn."""

    def draw(key: random.Key, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.full(tuple(shape), value, dtype=dtype, device=key.device)

    return Initializer(f"{value:g}", draw)


def truncated_normal(std: float) -> Initializer:
    """A normal of the given `std` cut at `2 std`, so its standard deviation is `0.88 std`.

    Source: TensorFlow's `truncated_normal_initializer`, which does not correct for the cut.
    """

    def draw(key: random.Key, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return std * random.truncated_normal(key, shape, dtype)

    return Initializer(f"truncated normal, std {std:g}, cut at 2 std", draw)


def glorot_uniform() -> Initializer:
    """Uniform on `[-b, b]`, `b = sqrt(6 / (fan_in + fan_out))`, a fan counting the receptive field.

    Source: Glorot and Bengio, AISTATS 2010; TensorFlow's default for kernels.
    """

    def draw(key: random.Key, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        bound = math.sqrt(6.0 / ((shape[0] + shape[1]) * math.prod(shape[2:])))
        return random.uniform(key, shape, -bound, bound, dtype)

    return Initializer("Glorot uniform", draw)


def glorot_normal() -> Initializer:
    """A normal cut at two standard deviations, whose variance after the cut is `2 / (fan_in + fan_out)`.

    Source: Glorot and Bengio, AISTATS 2010; Keras's `glorot_normal`, which corrects for the cut.
    """

    def draw(key: random.Key, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        std = math.sqrt(2.0 / ((shape[0] + shape[1]) * math.prod(shape[2:])))
        return std / _CUT_STD * random.truncated_normal(key, shape, dtype)

    return Initializer("Glorot normal, cut at 2 std", draw)


def uniform(bound: float) -> Initializer:
    """Uniform on `[-bound, bound]`."""

    def draw(key: random.Key, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return random.uniform(key, shape, -bound, bound, dtype)

    return Initializer(f"uniform on [-{bound:g}, {bound:g}]", draw)


def normal(std: float) -> Initializer:
    """A normal of the given `std`."""

    def draw(key: random.Key, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return std * random.normal(key, shape, dtype)

    return Initializer(f"normal, std {std:g}", draw)


def he_normal(fan: Literal["in", "out"] = "in") -> Initializer:
    """A normal of variance `2 / fan`, a fan counting the receptive field: for layers before a ReLU.

    Source: He et al., ICCV 2015.
    """

    def draw(key: random.Key, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        connections = shape[1 if fan == "in" else 0] * math.prod(shape[2:])
        return math.sqrt(2.0 / connections) * random.normal(key, shape, dtype)

    return Initializer(f"He normal, by fan-{fan}", draw)
