"""Learnable stand-ins of the right shapes and sizes, for machines without the data.

A number made from a stand-in is no result: the record says `synthetic`, and so does its folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deepobs_func import random
from deepobs_func.datasets.augment import standardize
from deepobs_func.datasets.spec import DatasetSpec

_PROTOTYPES = 8  # a class is a mixture of this many smooth patterns, so that it is not linearly separable at once
_SUCCESSORS = np.array([0.6, 0.2, 0.1, 0.05, 0.05])  # how likely the successors of a pair of symbols are
_CHAINS = 1 << 10  # drawn side by side and put in a row
_GREY, _CONTRAST, _NOISE = 64.0, 45.0, 45.0
_MISLABELLED = 0.1  # so that the best accuracy is known, 1 - 0.1 (C - 1) / C, and no loss goes to 0


def images(spec: DatasetSpec, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Noisy copies of smooth random patterns, eight of them a class; one label in ten is drawn at random.

    Args:
        spec: gives the sizes, the shape `(C, H, W)` and the number of classes.
        split: both splits show the same patterns with other noise.

    Returns:
        Images `(N, C, H, W)` uint8 and class ids `(N,)` int64, the same on every machine.
    """
    assert spec.num_classes is not None
    channels, height, width = spec.shape
    coarse = np.random.Generator(np.random.PCG64(0)).standard_normal(
        (spec.num_classes * _PROTOTYPES, channels, height // 4 + 1, width // 4 + 1), np.float32
    )
    patterns = _GREY + _CONTRAST * coarse.repeat(4, 2).repeat(4, 3)[..., :height, :width]
    generator = np.random.Generator(np.random.PCG64(1 if split == "train" else 2))
    size = spec.train_size if split == "train" else spec.test_size
    which = generator.integers(0, len(patterns), size)
    result = np.empty((size, *spec.shape), np.uint8)
    for start in range(0, size, 10_000):  # in pieces, to bound the memory
        part = which[start : start + 10_000]
        noise = generator.standard_normal((len(part), *spec.shape), np.float32)
        result[start : start + 10_000] = np.clip(patterns[part] + _NOISE * noise, 0, 255)
    wrong = generator.random(size) < _MISLABELLED
    return result, np.where(wrong, generator.integers(0, spec.num_classes, size), which // _PROTOTYPES)


def text(spec: DatasetSpec, split: str) -> tuple[np.ndarray, np.ndarray]:
    """A sparse Markov chain of order two: five successors of each symbol, whose odds the symbol before it decides.

    So the last symbol alone predicts the next one somewhat, and the last two predict it in 60 of 100 cases.

    Args:
        spec: gives the number of symbols and the lengths of the splits, which share the chain.
        split: `"train"` or `"test"`.

    Returns:
        The ids of each symbol but the last, and of its successor, `(n - 1,)` int64, the same on every machine.
    """
    assert spec.num_classes is not None
    num, kinds = spec.num_classes, len(_SUCCESSORS)
    table = np.random.Generator(np.random.PCG64(0))
    successors = table.integers(0, num, (num, kinds))
    ranks = table.permuted(np.tile(np.arange(kinds), (num, num, 1)), axis=2)
    generator = np.random.Generator(np.random.PCG64(1 if split == "train" else 2))
    size = spec.train_size if split == "train" else spec.test_size
    steps = -(-size // _CHAINS)
    chains = np.empty((steps + 2, _CHAINS), np.int64)
    chains[:2] = generator.integers(0, num, (2, _CHAINS))
    choices = np.searchsorted(np.cumsum(_SUCCESSORS)[:-1], generator.random((steps, _CHAINS)))
    for step in range(steps):
        before, last = chains[step], chains[step + 1]
        chains[step + 2] = successors[last, ranks[before, last, choices[step]]]
    ids = chains[2:].T.reshape(-1)[:size]
    return ids[:-1], ids[1:]


def image_stream(
    spec: DatasetSpec,
    folder: Path | None,
    split: str,
    rows: Tensor,
    key: random.Key,
    *,
    augment: bool,
    workers: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Standardized images made when they are asked for: a coarse pattern of the class under finer noise.

    Args:
        spec: gives the shape `(C, H, W)`, sides being multiples of 32, and the classes, of which 0 is never shown.
        folder: not read.
        split: both splits show the same patterns with other noise.
        rows: which examples each batch has, `(steps, B)` int64; an example is the same whenever it is asked for.
        key, augment: not read, since nothing is augmented.
        workers: not needed.

    Yields:
        `x`, `(B, C, H, W)` float32, and class ids `y`, `(B,)` int64.
    """
    assert spec.num_classes is not None
    channels, height, width = spec.shape
    examples, classes = random.split(random.key(0))
    examples = random.fold_in(examples, 1 if split == "train" else 2)

    def blocks(keys: Tensor, side: int) -> Tensor:
        shape = (channels, height // side, width // side)
        coarse = torch.func.vmap(lambda key: random.normal(key, shape))(keys)
        return coarse.repeat_interleave(side, 2).repeat_interleave(side, 3)

    for batch in rows.cpu():
        keys = random.fold_in(examples, batch)
        y = 1 + ((keys[:, 0] * (spec.num_classes - 1)) >> 32)
        yield standardize(blocks(random.fold_in(classes, y), 32) + 2 * blocks(keys, 4)), y
