"""Stored values to model inputs, a whole batch at a time on any device; and random inputs of the right shape."""

from __future__ import annotations

import torch
from torch import Tensor

from deepobs_func import random
from deepobs_func.base import Inputs, map_inputs
from deepobs_func.datasets.augment import standardize
from deepobs_func.datasets.spec import DatasetSpec


def unit_interval(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels 0..255 to `[0, 1]`: `x / 255`."""
    if not x.is_floating_point() and dtype == torch.get_default_dtype():
        return x / 255  # converts and divides in one pass, three times as fast
    return x.to(dtype) / 255


def sixteenths(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Whole numbers 0..16 to `[0, 1]`: `x / 16`."""
    return x.to(dtype) / 16


def standardized(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels 0..255, `(B, C, H, W)`, to mean 0 and standard deviation 1 per image; see `augment.standardize`."""
    return standardize(x.to(dtype))


def as_it_is(x: Inputs, dtype: torch.dtype) -> Inputs:
    """The stored values; whole numbers (token ids) and truth values (masks) stay what they are."""
    if not isinstance(x, Tensor):
        return map_inputs(lambda each: as_it_is(each, dtype), x)
    return x.to(dtype) if x.is_floating_point() else x


def symbols(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Ids of symbols stay int64, whatever the dtype of the model."""
    return x


def fake_images(spec: DatasetSpec, key: random.Key, batch_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Uniform pixels `(B, C, H, W)` in [0, 1) and class ids `(B,)`."""
    x_key, y_key = random.split(key)
    assert spec.num_classes is not None
    x = random.uniform(x_key, (batch_size, *spec.shape), dtype=dtype)
    return x, random.integers(y_key, spec.num_classes, (batch_size,))


def fake_standardized(spec: DatasetSpec, key: random.Key, batch_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Standard normal pixels `(B, C, H, W)` and class ids `(B,)`."""
    x_key, y_key = random.split(key)
    assert spec.num_classes is not None
    x = random.normal(x_key, (batch_size, *spec.shape), dtype)
    return x, random.integers(y_key, spec.num_classes, (batch_size,))


def fake_text(spec: DatasetSpec, key: random.Key, batch_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Ids of symbols and of their successors, `(B, T)` int64 both, all equally likely."""
    assert spec.num_classes is not None
    assert spec.sequence_length is not None
    ids = random.integers(key, spec.num_classes, (batch_size, spec.sequence_length + 1))
    return ids[:, :-1], ids[:, 1:]


def fake_quadratic(spec: DatasetSpec, key: random.Key, batch_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`N(0, 0.6^2)`, `(B, 100)`, and no targets."""
    x = 0.6 * random.normal(key, (batch_size, *spec.shape), dtype)
    return x, x.new_empty((batch_size, 0))


def fake_two_d(spec: DatasetSpec, key: random.Key, batch_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two standard normal noises, each `(B,)`."""
    x, y = random.normal(key, (2, batch_size), dtype)
    return x, y
