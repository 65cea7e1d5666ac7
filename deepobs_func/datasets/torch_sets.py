"""Data sets of `torch.utils.data`, and Hugging Face's `datasets` by the same door: held in memory, or streamed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from deepobs_func import random
from deepobs_func.backend.memory import available_bytes
from deepobs_func.datasets.arrays import check_alike, from_arrays
from deepobs_func.datasets.item_stream import streamed
from deepobs_func.datasets.items import KEY, Columns, Items, Pairs
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.datasets.stored import Arrays, whole_ids
from deepobs_func.errors import ConfigError, DataError

MEMORY_SHARE = 0.25  # of what is free, for items that are held: they are there twice while they are stacked
LOOKED_AT = 5  # items of each split, from end to end


def from_torch(
    name: str,
    train: Any,
    test: Any,
    *,
    columns: Columns | None = None,
    ignore_index: int | None = None,
    classes: int | None = None,
    stream: bool | None = None,
) -> DatasetSpec:
    """Makes a data set of two map-style data sets, or of pairs of arrays: read once into memory, or streamed.

    Streamed items are read while a run goes on, by `workers` processes, batch by batch. The batches, and so the numbers
    of a run, are those of the same items in memory, whatever the number of workers.

    A streamed data set counts in a run's id by its attributes. One that keeps items as it reads them has another id
    after a run; a string attribute `_fingerprint` stands for all others, as that of a Hugging Face `Dataset`.

    Args:
        name: for the record and its folder.
        train, test: a `torch.utils.data.Dataset`, or anything else with a length and items `(x, y)`; or whose items are
            mappings, as those of a Hugging Face `Dataset`; or a pair of arrays, as `from_arrays` takes it. Items hold
            tensors, arrays, numbers or images, of one shape throughout. An `x` that is a mapping, or a tuple of
            tensors, is several inputs: keywords or positional arguments of the module. An image of 8 bits is taken as
            it is, whole numbers `(H, W, C)`: let the data set transform it, e.g. by torchvision's `ToTensor`, into
            floating-point `(C, H, W)`.
        columns: the entries of `x` and of `y` where items are mappings, e.g. `("image", "label")`. Several inputs are
            a list of entries, or `{keyword of the module: entry}`.
        ignore_index: a whole number in `y` that is no class id, such as -100 at positions of padding.
        classes: class ids in `y` are below it: held ones are compared with it here, streamed ones as they are read. By
            default held ones give it.
        stream: True or False; by default, items are streamed where they would take more than a quarter of the free
            memory: say it where a run is to be resumed, since the two have different ids. It must be said of items that
            draw random numbers: False draws once, True in each epoch anew, from the run's key. They draw from torch's,
            NumPy's or Python's global generator, which is seeded for each item.

    Returns:
        The data set, for `problems.from_module`.

    Raises:
        DataError: it has no length, no items, items of several shapes, items without these entries, or an item cannot
            be read; or as in `from_arrays`.
        ConfigError: `columns`, `classes` or `ignore_index` is of another form; items differ from reading to reading,
            and `stream` does not say what is wanted; or they draw from a generator of their own.

    >>> from torch.utils.data import TensorDataset
    >>> data = TensorDataset(torch.zeros(6, 3), torch.arange(6) % 2)
    >>> from_torch("mine", data, data).shape
    (3,)
    """
    classes, ignore_index = whole_ids(classes, ignore_index)
    pairs = [_is_pair(given) for given in (train, test)]
    if all(pairs) and stream is not True and _bytes((train, test)) <= _room():
        return from_arrays(name, train, test, ignore_index=ignore_index, classes=classes)
    splits = [
        Items(name, split, Pairs(name, split, *given) if is_pair else given, columns, ignore_index, stream is not None)
        for split, given, is_pair in zip(("train", "test"), (train, test), pairs, strict=True)
    ]
    samples = [_sample(items, stream) for items in splits]
    check_alike(name, *samples)
    if stream or (stream is None and sum(map(_bytes_of, splits, samples)) > _room()):
        first = pytree.tree_map(lambda array: array[:1], samples[0])
        return streamed(splits[0], splits[1], first, classes)
    whole = [items.whole(classes) for items in splits]
    return from_arrays(name, *whole, ignore_index=ignore_index, classes=classes)


def _is_pair(given: Any) -> bool:
    return isinstance(given, tuple) and len(given) == 2


def _room() -> float:
    return MEMORY_SHARE * available_bytes(torch.device("cpu"))


def _bytes(arrays: Any) -> int:
    return sum(getattr(leaf, "nbytes", 0) for leaf in pytree.tree_leaves(arrays))


def _bytes_of(items: Items, sample: Arrays) -> int:
    """Of a whole split, by some of its items."""
    return _bytes(sample) * len(items) // len(sample[1])


def _sample(items: Items, stream: bool | None) -> Arrays:
    """Some items of a split, which are looked at.

    Raises:
        DataError: there is none, or they are not of one shape.
        ConfigError: they draw, and `stream` does not say what becomes of it.
    """
    given = items.given
    if not hasattr(given, "__len__") or not hasattr(given, "__getitem__"):
        raise DataError(
            f"{items.name}: expected a data set with a length and items by number as {items.split}, found "
            f"{type(given).__name__}. Read a stream into arrays first, and use datasets.from_arrays."
        )
    if not len(items):
        raise DataError(f"{items.name}: expected items in {items.split}, found none.")
    rows = np.unique(np.linspace(0, len(items) - 1, LOOKED_AT).astype(int)).tolist()
    sample = items.read(rows, random.key(KEY))
    if stream is False:
        return sample
    if not _is_same(sample, items.read(rows, random.key(KEY))):
        raise ConfigError(
            f"{items.name}: items of {items.split} differ from reading to reading, and not by the global generators of "
            "torch, NumPy and Python, which are seeded for each item. Let them draw from one of these; or keep one "
            "draw, by stream=False."
        )
    if stream is None and not _is_same(sample, items.read(rows, random.key(KEY + 1))):
        raise ConfigError(items.random_items(rows[0]))
    return sample


def _is_same(one: Arrays, other: Arrays) -> bool:
    return all(map(np.array_equal, pytree.tree_leaves(one), pytree.tree_leaves(other)))
