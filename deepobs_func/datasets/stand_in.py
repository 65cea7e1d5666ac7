"""Learnable stand-ins of the right shapes and sizes, for machines without the data.

A number made from a stand-in is no result: the record says `synthetic`, and so does its folder.
"""

from __future__ import annotations

import numpy as np

from deepobs_func.datasets.spec import DatasetSpec

_PROTOTYPES = 8  # a class is a mixture of this many smooth patterns, so that it is not linearly separable at once
_SUCCESSORS = np.array([0.6, 0.2, 0.1, 0.05, 0.05])  # how likely the successors of a pair of symbols are
_CHAINS = 1 << 10  # drawn side by side and put in a row
_CONTRAST, _NOISE = 55.0, 60.0


def images(spec: DatasetSpec, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Noisy copies of smooth random patterns, eight of them a class.

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
    patterns = 128.0 + _CONTRAST * coarse.repeat(4, 2).repeat(4, 3)[..., :height, :width]
    generator = np.random.Generator(np.random.PCG64(1 if split == "train" else 2))
    size = spec.train_size if split == "train" else spec.test_size
    which = generator.integers(0, len(patterns), size)
    result = np.empty((size, *spec.shape), np.uint8)
    for start in range(0, size, 10_000):  # in pieces, to bound the memory
        part = which[start : start + 10_000]
        noise = generator.standard_normal((len(part), *spec.shape), np.float32)
        result[start : start + 10_000] = np.clip(patterns[part] + _NOISE * noise, 0, 255)
    return result, which // _PROTOTYPES


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
