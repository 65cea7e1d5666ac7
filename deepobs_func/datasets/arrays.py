"""A user's own arrays as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from deepobs_func import random
from deepobs_func.base import Inputs, first_of, inputs_by_name, map_inputs
from deepobs_func.datasets.prepare import as_it_is
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.datasets.stored import Arrays, as_stored, check, extreme_rows, inputs_as_stored, whole_ids
from deepobs_func.errors import DataError


def from_arrays(
    name: str,
    train: Sequence[Any],
    test: Sequence[Any],
    *,
    ignore_index: int | None = None,
    classes: int | None = None,
) -> DatasetSpec:
    """Makes a data set of arrays in memory.

    Floating-point numbers are kept as float32, the type of a run, in inputs and targets alike. Whole numbers stay
    whole: inputs as they are, targets as int64. The arrays are copied, so that a later change of them changes nothing.

    Args:
        name: for the record and its folder.
        train, test: `(x, y)` each, arrays or tensors with a leading axis of examples. `x` is what the model sees, or
            several arrays: a tuple of them becomes positional arguments of the module, a dict keywords. Whole numbers
            in `y` are class ids from 0, everything else in `y` is floating-point; None stands for no targets.
        ignore_index: a whole number in `y` that is no class id, such as -100 at positions of padding.
        classes: class ids in `y` are below it; by default there are as many as the largest id of either split says.

    Returns:
        The data set, for `problems.from_module`.

    Raises:
        DataError: an array is empty, holds NaN or infinite numbers or anything but numbers; `x` and `y` differ in
            length; a class id is negative or not below `classes`; or the splits differ in the inputs that they have, in
            the shape of an example or in the kind of numbers.
        ConfigError: `classes` or `ignore_index` is no whole number.

    >>> from_arrays("mine", (np.zeros((6, 3)), np.zeros(6, int)), (np.zeros((4, 3)), np.zeros(4, int))).shape
    (3,)
    """
    classes, ignore_index = whole_ids(classes, ignore_index)
    train, test = (
        _as_arrays(name, split, given, ignore_index, classes) for split, given in (("train", train), ("test", test))
    )
    check_alike(name, train, test)
    splits = {"train": train, "test": test}

    def read(spec: DatasetSpec, folder: Path | None, split: str) -> Arrays:
        return splits[split]

    def fake(spec: DatasetSpec, key: random.Key, batch_size: int, dtype: torch.dtype) -> tuple[Inputs, Tensor]:
        """Training examples drawn with replacement, so that shapes and ranges are right."""
        rows = random.integers(key, size, (batch_size,)).cpu().numpy()
        return as_tensors(train, rows, dtype, key.device)

    def extremes(spec: DatasetSpec, dtype: torch.dtype) -> tuple[Inputs, Tensor]:
        parts = [as_tensors(pair, _extreme_rows(pair, ignore_index), dtype) for pair in splits.values()]
        found: tuple[Inputs, Tensor] = pytree.tree_map(lambda *leaves: torch.cat(leaves), *parts)
        return found

    size = len(train[1])
    if classes is None:
        classes = _classes_of(train[1], test[1], ignore_index)
    return DatasetSpec(
        name=name,
        title=name,
        train_size=size,
        test_size=len(test[1]),
        shape=map_inputs(lambda each: each.shape[1:], train[0]),
        num_classes=classes,
        reader=read,
        prepare=as_it_is,
        fake=fake,
        extremes=extremes,
        ignore_index=ignore_index,
        source="arrays",
    )


def as_tensors(
    pair: Arrays, rows: np.ndarray, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> tuple[Inputs, Tensor]:
    """Some examples, as the model takes them."""
    inputs, targets = pair
    x = map_inputs(lambda array: torch.from_numpy(array[rows]).to(device), inputs)
    return as_it_is(x, dtype), as_it_is(torch.from_numpy(targets[rows]).to(device), dtype)


def check_alike(name: str, train: Arrays, test: Arrays) -> None:
    """Refuses splits that differ in more than values.

    Raises:
        DataError: they differ in the inputs that they have, in the shape of an example or in the kind of numbers.
    """
    first, second = ({**inputs_by_name(x), "targets": y} for x, y in (train, test))
    if first.keys() != second.keys():
        raise DataError(f"{name}: train and test differ in their inputs: {[*first][:-1]} and {[*second][:-1]}.")
    for what in first:
        one, other, of = first[what], second[what], what if what == "targets" else f"inputs {what}".rstrip()
        if one.shape[1:] != other.shape[1:]:
            shapes = f"{one.shape[1:]} and {other.shape[1:]}"
            raise DataError(f"{name}: train and test differ in shape: {shapes}, one example of the {of} each.")
        if one.dtype != other.dtype:
            types = f"{one.dtype} and {other.dtype}"
            raise DataError(f"{name}: train and test differ in type: {types}, the {of}. Convert one of them.")


def _extreme_rows(pair: Arrays, ignore_index: int | None) -> np.ndarray:
    arrays = [*inputs_by_name(pair[0]).values(), pair[1]]
    if ignore_index is not None:
        arrays.append(np.where(pair[1] == ignore_index, 0, pair[1]))  # else it could hide the largest id
    return np.unique(np.concatenate([*(extreme_rows(array) for array in arrays), _ends(pair[1])]))


def _ends(targets: np.ndarray) -> np.ndarray:
    """The examples with the smallest and the largest number in floating-point targets, which a measure may refuse."""
    if targets.dtype.kind != "f" or targets.size == 0:
        return np.empty(0, np.int64)
    return np.array([targets.argmin(), targets.argmax()]) // (targets.size // len(targets))


def _classes_of(train: np.ndarray, test: np.ndarray, ignore_index: int | None) -> int | None:
    """How many classes there are by the largest id of both splits; None where there are no ids."""
    if not np.issubdtype(train.dtype, np.integer):
        return None
    ids = [y if ignore_index is None else y[y != ignore_index] for y in (train, test)]
    found = [int(each.max()) + 1 for each in ids if each.size]
    return max(found, default=None)


def _as_arrays(
    name: str, split: str, pair: Sequence[Any], ignore_index: int | None, classes: int | None = None
) -> Arrays:
    try:
        x, y = pair
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: expected inputs and targets, (x, y), as {split}. Pass None as y for none.") from error
    if isinstance(x, tuple) and y is not None and len(x) == len(y):
        x = list(x)  # of examples, as zip(*pairs) gives them, and not of inputs
    inputs = inputs_as_stored(name, split, x, own=True)
    size = len(first_of(inputs))
    targets = np.empty((size, 0), np.float32)
    if y is not None:
        targets = as_stored(name, f"the targets of {split}", y, targets=True, own=True)
    if size == 0:
        raise DataError(f"{name}: there are no examples in {split}.")
    check(name, split, inputs, targets, classes, ignore_index)
    return inputs, targets
