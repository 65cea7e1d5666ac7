"""What a data set is, as data: names, sizes, shapes and where its functions live. Imports no torch."""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class DatasetSpec:
    """A data set, without its data.

    Functions are named by import path (`"package.module:function"`), so that a listing costs no import; a user's own
    data set may hold the function itself.

    Attributes:
        name: as DeepOBS has it, e.g. `"fmnist"`.
        title: for people, e.g. `"Fashion-MNIST"`.
        train_size, test_size: examples in each split; characters, where the data set is a text.
        shape: one example as the model sees it, e.g. `(1, 28, 28)`; of several inputs, a tuple or dict of shapes.
        num_classes: or None where there are no classes.
        folders: where its files may lie under a data folder: DeepOBS's name first, then torchvision's.
        files: the names that its reader asks for (each may also end in `.gz`); a folder's name ends in `/`.
        alternatives: whether the reader takes one of several layouts, so that not all `files` are needed.
        reader: `(spec, folder, split) -> (x, y)` NumPy arrays, `split` being `"train"` or `"test"`.
        download: `(spec, folder) -> None`, which fills an empty folder; "" where it is generated.
        stand_in: `(spec, split) -> (x, y)`, learnable, of the right shapes and sizes; "" where the data are generated
            and need none.
        prepare: `(x, dtype) -> x`, stored values to model inputs, for a whole batch on any device.
        fake: `(spec, key, batch_size, dtype) -> (x, y)`, random model inputs of the right shape and range.
        extremes: `(spec, dtype) -> (x, y)`, model inputs and targets of the examples, of both splits, that hold the
            smallest and the largest whole numbers, possibly none; "" where ids reach from 0 to `num_classes - 1`.
        train_eval_size: examples of the training-set evaluation; None for as many as the test set has.
        ignore_index: a whole number in the targets that is no class id, such as that of padding; None for none.
        source: what the record says of data that come from no file of the user's: `"generated"`, `"package"` where
            this package holds them, `"items"` where a data set of the user's is read item by item.
        draw: `(key, batch_size, dtype) -> draws`, the random numbers of a batch's augmentation, a tuple of `(B,)`.
        augment: `(x, draws) -> x`, stored values to training inputs for a whole batch, in the dtype of the draws; ""
            where training inputs are those of `prepare`, and nothing is drawn.
        shuffle: whether the training examples are visited in random order; False: the batches come in stored order,
            every epoch the same.
        arrange: `(x, y, batch_size) -> (x, y)`, applied to what was read, so that rows `k B : (k + 1) B` are batch k;
            "" where any `B` rows make a batch.
        file_sizes: training examples in each of the reference's files, which it reads one after the other; empty for
            one file.
        sequence_length: symbols in one example of a text, or None.
        digest: the SHA-256 of what the reader gives for the published files (`datasets.verifying`); "" where the reader
            compares checksums itself, or none is known.
        streamed: whether the set is too large to hold. Then `reader` and `stand_in` are
            `(spec, folder, split, rows, key, *, augment, workers) -> generator of (x, y)`: one batch of tensors on the
            CPU for each row of `rows (steps, B)`, augmented from `key` or not; see `loading.stream`. Asked for no
            batch, a reader still checks that its files are there. `prepare` and `augment` apply to what it yields.
    """

    name: str
    title: str
    train_size: int
    test_size: int
    shape: Any = field(hash=False)
    num_classes: int | None
    reader: str | Callable[..., Any]
    prepare: str | Callable[..., Any]
    fake: str | Callable[..., Any]
    extremes: str | Callable[..., Any] = ""
    folders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    alternatives: bool = False
    download: str = ""
    stand_in: str = ""
    train_eval_size: int | None = None
    ignore_index: int | None = None
    source: str = "generated"
    draw: str | Callable[..., Any] = ""
    augment: str | Callable[..., Any] = ""
    shuffle: bool = True
    arrange: str | Callable[..., Any] = ""
    file_sizes: tuple[int, ...] = ()
    sequence_length: int | None = None
    digest: str = ""
    streamed: bool = False

    def function(self, field: str) -> Callable[..., Any]:
        """The function that a field names, imported now, or holds."""
        value = getattr(self, field)
        return pkgutil.resolve_name(value) if isinstance(value, str) else value

    def batches(self, size: int, batch_size: int) -> int:
        """How many whole batches a split of that size has; of a text, windows of `batch_size` rows."""
        if self.sequence_length is None:
            return size // batch_size
        return (size - 1) // (self.sequence_length * batch_size)

    @property
    def numbers(self) -> int:
        """How many numbers an example has, in all of its inputs."""
        shape = self.shape
        if isinstance(shape, dict):
            return sum(map(math.prod, shape.values()))
        several = bool(shape) and isinstance(shape[0], tuple)
        return sum(map(math.prod, shape)) if several else math.prod(shape)

    @property
    def generated(self) -> bool:
        """Whether no file of the user's is needed, and no stand-in exists: data from a recipe, or of this package."""
        return not self.files

    @property
    def without_files(self) -> str:
        """Where data without files come from, in words."""
        return "part of this package" if self.source == "package" else "generated"
