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
from deepobs_func.datasets.stored import Arrays, as_stored, check, extreme_rows
from deepobs_func.errors import DataError


def from_arrays(name: str, train: Sequence[Any], test: Sequence[Any]) -> DatasetSpec:
    """Makes a data set of arrays in memory.

    Floating-point numbers are kept as float32, the type of a run, in inputs and targets alike. Whole numbers stay
    whole: inputs as they are, targets as int64.

    Args:
        name: for the record and its folder.
        train, test: `(x, y)` each, arrays or tensors with a leading axis of examples. `x` is what the model sees;
            whole numbers in `y` are class ids from 0, everything else in `y` is floating-point; None stands for no
            targets.

    Returns:
        The data set, for `problems.from_module`.

    Raises:
        DataError: an array is empty, holds NaN or infinite numbers or anything but numbers; `x` and `y` differ in
            length; a class id is negative; or the splits differ in the shape of an example or in the kind of numbers.

    >>> from_arrays("mine", (np.zeros((6, 3)), np.zeros(6, int)), (np.zeros((4, 3)), np.zeros(4, int))).shape
    (3,)
    """
    train, test = _as_arrays(name, "train", train), _as_arrays(name, "test", test)
    for index, what in enumerate(("inputs", "targets")):
        first, second = (split[index] for split in (train, test))
        if first.shape[1:] != second.shape[1:]:
            shapes = f"{first.shape[1:]} and {second.shape[1:]}"
            raise DataError(f"{name}: train and test differ in shape: {shapes}, one example of the {what} each.")
        if first.dtype != second.dtype:
            types = f"{first.dtype} and {second.dtype}"
            raise DataError(f"{name}: train and test differ in type: {types}, the {what}. Convert one of them.")
    splits = {"train": train, "test": test}

    def read(spec: DatasetSpec, folder: Path | None, split: str) -> Arrays:
        return splits[split]

    def fake(spec: DatasetSpec, key: random.Key, batch_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Training examples drawn with replacement, so that shapes and ranges are right."""
        rows = random.integers(key, len(train[0]), (batch_size,)).cpu().numpy()
        x, y = (torch.from_numpy(array[rows]).to(key.device) for array in train)
        return as_it_is(x, dtype), as_it_is(y, dtype)

    def extremes(spec: DatasetSpec, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        rows = {split: np.union1d(*map(extreme_rows, pair)) for split, pair in splits.items()}
        x, y = (
            torch.from_numpy(np.concatenate([splits[split][part][rows[split]] for split in splits])) for part in (0, 1)
        )
        return as_it_is(x, dtype), as_it_is(y, dtype)

    labelled = np.issubdtype(train[1].dtype, np.integer) and train[1].size
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
        extremes=extremes,
        source="arrays",
    )


def _as_arrays(name: str, split: str, pair: Sequence[Any]) -> Arrays:
    try:
        x, y = pair
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: expected inputs and targets, (x, y), as {split}. Pass None as y for none.") from error
    inputs = as_stored(name, f"the inputs of {split}", x)
    targets = np.empty((len(inputs), 0), np.float32)
    if y is not None:
        targets = as_stored(name, f"the targets of {split}", y, targets=True)
    if len(inputs) == 0:
        raise DataError(f"{name}: there are no examples in {split}.")
    check(name, split, inputs, targets)
    return inputs, targets
