"""Learnable stand-ins of the right shapes and sizes, for machines without the data.

A number made from a stand-in is no result: the record says `synthetic`, and so does its folder.
"""

from __future__ import annotations

import numpy as np

from deepobs_func.datasets.spec import DatasetSpec

_PROTOTYPES = 8  # a class is a mixture of this many smooth patterns, so that it is not linearly separable at once
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
