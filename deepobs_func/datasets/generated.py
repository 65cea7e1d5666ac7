"""The data of the problems that need no file, from the recipes of DeepOBS 1.1.2."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deepobs_func.datasets.spec import DatasetSpec


def quadratic(spec: DatasetSpec, folder: Path | None, split: str) -> tuple[np.ndarray, np.ndarray]:
    """`N(0, 0.6^2)`, `(1000, 100)` float32, from `RandomState(42)` (train) or `(43)` (test); no targets."""
    r = np.random.RandomState(42 if split == "train" else 43)
    x = r.normal(0.0, 0.6, (spec.train_size, *spec.shape)).astype(np.float32)
    return x, np.empty((len(x), 0), np.float32)


def two_d(spec: DatasetSpec, folder: Path | None, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The noises of u and of v, `(10000,)` float32 each: normal from `RandomState(42)` (train), zeros (test)."""
    if split == "test":
        return np.zeros(spec.test_size, np.float32), np.zeros(spec.test_size, np.float32)
    r = np.random.RandomState(42)
    x = r.normal(0.0, 1.0, spec.train_size).astype(np.float32)
    return x, r.normal(0.0, 1.0, spec.train_size).astype(np.float32)
