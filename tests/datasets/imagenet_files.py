"""A small image folder in ImageNet's layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from deepobs_func import datasets
from deepobs_func.datasets import DatasetSpec

SIZES = [(256, 300), (300, 256), (180, 97), (512, 600), (400, 257), (256, 256)]  # height, width


def tiny_spec(train: int = 6, test: int = 3) -> DatasetSpec:
    """ImageNet with three classes beside the background and few images."""
    return replace(datasets.spec("imagenet"), num_classes=4, train_size=train, test_size=test)


def smooth(height: int, width: int, seed: int) -> np.ndarray:
    """A picture that survives JPEG: coarse blocks, `(H, W, 3)` uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
    return coarse.repeat(16, 0).repeat(16, 1)[:height, :width]


def write_images(folder: Path, spec: DatasetSpec) -> Path:
    """Writes the images of both splits below a folder, which it returns."""
    for split, count in (("train", spec.train_size), ("val", spec.test_size)):
        for i in range(count):
            path = folder / split / f"n0000000{i % 3}" / f"{split}_{i}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(smooth(*SIZES[i % len(SIZES)], seed=i)).save(path, quality=95)
    return folder


def cut(path: Path) -> Path:
    """Leaves the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path
