"""A user's own arrays as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepobs_func import random
from deepobs_func.datasets.prepare import as_it_is
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.errors import DataError

Arrays = tuple[np.ndarray, np.ndarray]


def from_arrays(name: str, train: Sequence[Any], test: Sequence[Any]) -> DatasetSpec:
    """Makes a data set of arrays in memory.

    Args:
        name: for the record and its folder.
        train, test: `(x, y)` each, arrays or tensors with a leading axis of examples. `x` is what the model sees;
            class ids `y` are whole numbers from 0; None stands for no targets.

    Raises:
        DataError: an array is empty, `x` and `y` differ in length, a class id is negative, or the splits differ in
            the shape of an example.

    >>> from_arrays("mine", (np.zeros((6, 3)), np.zeros(6, int)), (np.zeros((4, 3)), np.zeros(4, int))).shape
    (3,)
    """
    train, test = (_as_arrays(x, y) for x, y in (train, test))
    for split, (x, y) in (("train", train), ("test", test)):
        if len(x) == 0:
            raise DataError(f"{name}: there are no examples in {split}.")
        if len(x) != len(y):
            raise DataError(f"{name}: expected as many inputs as targets in {split}, found {len(x)} and {len(y)}.")
        if np.issubdtype(y.dtype, np.integer) and y.min() < 0:
            raise DataError(f"{name}: expected class ids from 0 in {split}, found {y.min()}.")
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DataError(f"{name}: train and test differ in shape: {train[0].shape[1:]} and {test[0].shape[1:]}.")
    splits = {"train": train, "test": test}

    def read(spec: DatasetSpec, folder: Path | None, split: str) -> Arrays:
        return splits[split]

    def fake(spec: DatasetSpec, key: random.Key, batch_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Training examples drawn with replacement, so that shapes and ranges are right."""
        rows = random.integers(key, len(train[0]), (batch_size,)).cpu().numpy()
        x, y = (torch.from_numpy(array[rows]).to(key.device) for array in train)
        return as_it_is(x, dtype), as_it_is(y, dtype)

    labelled = np.issubdtype(train[1].dtype, np.integer)
    classes = int(max(train[1].max(), test[1].max())) + 1 if labelled else None
    return DatasetSpec(
        name=name,
        title=name,
        train_size=len(train[0]),
        test_size=len(test[0]),
        shape=train[0].shape[1:],
        num_classes=classes,
        reader=read,
        prepare=as_it_is,
        fake=fake,
        source="arrays",
    )


def _as_arrays(x: Any, y: Any) -> Arrays:
    inputs = np.asarray(x)
    targets = np.empty((len(inputs), 0), np.float32) if y is None else np.asarray(y)
    return inputs, targets.astype(np.int64) if np.issubdtype(targets.dtype, np.integer) else targets
