"""Items of a user's data set, read while a run goes on, by worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deepobs_func import random
from deepobs_func.base import Inputs, map_inputs
from deepobs_func.datasets.arrays import as_tensors
from deepobs_func.datasets.items import KEY, Items
from deepobs_func.datasets.prepare import as_it_is
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.datasets.stored import Arrays, by_name, outside
from deepobs_func.datasets.workers import read_ahead
from deepobs_func.errors import DataError

EXTREMES = 2  # examples that stand for those with the largest class id


@dataclass(frozen=True, eq=False)
class Reader:
    """The reader of a streamed `DatasetSpec`, whose splits are items.

    What an item draws is drawn anew in each epoch, from the epoch's key and the item's number alone; in evaluations it
    is always the same.

    Attributes:
        splits: by name.
        like: the first item of the training set, whose shapes and types all items have.
        targets: the range of targets that the problem's measure takes; None where any number is one.
    """

    splits: dict[str, Items]
    like: Arrays
    targets: tuple[float, float] | None = field(default=None, metadata={"in_digest": False})  # others are refused

    def __call__(
        self,
        spec: DatasetSpec,
        folder: Path | None,
        split: str,
        rows: Tensor,
        key: random.Key,
        *,
        augment: bool,
        workers: int = 0,
    ) -> Iterator[tuple[Inputs, Tensor]]:
        key = key if augment else random.key(KEY)
        read = _Batches(self.splits[split], rows.cpu(), key.cpu(), spec.num_classes, self.like, self.targets)
        yield from read_ahead(read, len(rows), workers)


@dataclass(frozen=True, eq=False)
class _Batches:
    """Reads the batch of a step; lives in the workers."""

    items: Items
    rows: Tensor
    key: random.Key
    classes: int | None
    like: Arrays
    targets: tuple[float, float] | None

    def __call__(self, step: int) -> tuple[Inputs, Tensor]:
        found = self.items.read(self.rows[step].tolist(), self.key, self.classes)
        check_like(self.items, found, self.like)
        x, y = found
        wrong = outside(y, self.targets) if self.targets is not None and y.size else ""
        if wrong:
            raise DataError(
                f"{self.items.name}: targets of {self.items.split}, items {self.rows[step].tolist()}, {wrong}"
            )
        return map_inputs(torch.from_numpy, x), torch.from_numpy(y)


def check_like(items: Items, found: Arrays, like: Arrays) -> None:
    """Refuses items of another shape or type than the first one of the training set.

    Raises:
        DataError: they are.
    """
    seen, known = (
        {name: (each.shape[1:], each.dtype) for name, each in by_name(arrays).items()} for arrays in (found, like)
    )
    if seen != known:
        shown = "; ".join(
            f"{one[0]} {one[1]} and {' '.join(map(str, seen.get(name, ('none', ''))))}" for name, one in known.items()
        )
        raise DataError(
            f"{items.name}: expected items of one shape and type, those of the first item of train; found in "
            f"{items.split}, beside these: {shown}. Crop or pad them to one length."
        )


def streamed(train: Items, test: Items, like: Arrays, classes: int | None) -> DatasetSpec:
    """The data set of items that are read when they are asked for.

    Args:
        train, test: the splits.
        like: the first item of the training set.
        classes: class ids are below it; None where that is not known.
    """

    def fake(spec: DatasetSpec, key: random.Key, batch_size: int, dtype: torch.dtype) -> tuple[Inputs, Tensor]:
        """Training examples drawn with replacement, so that shapes and ranges are right."""
        rows = random.integers(key, len(train), (batch_size,)).tolist()
        return as_tensors(train.read(rows, random.key(KEY), classes), np.arange(batch_size), dtype, key.device)

    def extremes(spec: DatasetSpec, dtype: torch.dtype) -> tuple[Inputs, Tensor]:
        """A few examples under the largest class id, where that is known."""
        x, y = fake(spec, random.key(1), EXTREMES, dtype)
        return x, y if classes is None or y.is_floating_point() else torch.full_like(y, classes - 1)

    return DatasetSpec(
        name=train.name,
        title=train.name,
        train_size=len(train),
        test_size=len(test),
        shape=map_inputs(lambda each: each.shape[1:], like[0]),
        num_classes=classes,
        reader=Reader({"train": train, "test": test}, like),
        prepare=as_it_is,
        fake=fake,
        extremes=extremes,
        ignore_index=train.ignore_index,
        source="items",
        streamed=True,
    )
