"""Loaders: torch's `DataLoader` over the package's data sets, a batch at a time, and over data sets of torch's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from deepobs_func import random
from deepobs_func.compat.model import Stream
from deepobs_func.datasets.loading import Split, stream
from deepobs_func.datasets.spec import DatasetSpec

Pair = tuple[Tensor, Tensor]
Listener = Callable[[Stream], None]


class Loader(DataLoader[Any]):
    """A `DataLoader` that says, before each batch, which pass over it the batch is of.

    Args:
        dataset: what it loads.
        size: of a batch, as its attribute `batch_size`.
        listeners: who is told.
        entered: called when a pass begins.
        how: of `DataLoader`.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        size: int,
        listeners: list[Listener],
        entered: Callable[[], None] = lambda: None,
        **how: Any,
    ) -> None:
        super().__init__(dataset, **how)
        self.__dict__["batch_size"] = size  # torch has None where batches come whole
        self._listeners, self._entered = listeners, entered

    def __len__(self) -> int:
        """How many batches a pass has."""
        return len(self.dataset) if isinstance(self.dataset, Streamed) else super().__len__()

    def __iter__(self) -> Any:
        self._entered()
        return self._batches(super().__iter__())

    def _batches(self, batches: Iterator[Any]) -> Iterator[Any]:
        current = Stream()
        for batch in batches:
            for listener in self._listeners:
                listener(current)
            yield batch


class Rows(NamedTuple):
    """The examples of a batch, `rows (B,)`, and the key of their augmentation; None where there is none."""

    rows: Tensor
    key: random.Key | None


class Order(Sampler[Rows]):
    """The batches of a split.

    Args:
        rows: makes the rows `(steps, B)` of a pass, from its key.
        steps: counts them.
        device: where the rows are.
        augment: whether training inputs are augmented.

    Attributes:
        rows, device, augment: as given.
    """

    def __init__(
        self, rows: Callable[[random.Key], Tensor], steps: Callable[[], int], device: torch.device, augment: bool
    ) -> None:
        self.rows: Callable[[random.Key], Tensor] = rows
        self.device: torch.device = device
        self.augment: bool = augment
        self._steps = steps

    def __iter__(self) -> Iterator[Rows]:
        key = pass_key(self.device)
        augmentation = random.fold_in(key, random.AUGMENTATION)
        for step, rows in enumerate(self.rows(key)):
            yield Rows(rows, random.fold_in(augmentation, step) if self.augment else None)

    def __len__(self) -> int:
        return self._steps()


def pass_key(device: torch.device) -> random.Key:
    """A key that torch's generator draws, as `DataLoader` draws its own seed."""
    return random.key(drawn_seed(), device)


def drawn_seed() -> int:
    """A number that torch's generator draws."""
    return int(torch.empty((), dtype=torch.int64).random_())


class Examples(Dataset[Pair]):
    """A split on the device, as the model sees it.

    Args:
        spec: the data set.
        split: its examples as stored.
        dtype: of inputs and of targets that are no class ids.
        shown: what the loader yields of inputs and targets.
    """

    def __init__(
        self, spec: DatasetSpec, split: Split, dtype: torch.dtype, shown: Callable[[Tensor, Tensor], Pair]
    ) -> None:
        self._spec, self._split, self._dtype, self._shown = spec, split, dtype, shown

    def __len__(self) -> int:
        return len(self._split.x)

    def __getitem__(self, index: int) -> Pair:
        """One example, without augmentation."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        rows = torch.tensor([index % len(self)], device=self._split.x.device)
        x, y = self.__getitems__(Rows(rows, None))
        return x[0], y[0]

    def __getitems__(self, batch: Rows) -> Pair:
        """A whole batch at once, as `DataLoader` asks for it."""
        x, y = (part.index_select(0, batch.rows) for part in self._split)
        if batch.key is None:
            x = self._spec.function("prepare")(x, self._dtype)
        else:
            draws = self._spec.function("draw")(batch.key, len(batch.rows), self._dtype)
            x = self._spec.function("augment")(x, draws)
        return self._shown(x, y.to(self._dtype) if y.is_floating_point() else y)


class Streamed(IterableDataset[Pair]):
    """The batches of a split that is read from its files while they are visited.

    Args:
        spec: the data set.
        data: the data folder.
        split: `"train"` or `"test"`.
        order: the batches.
        dtype, device: of what is yielded.
        workers: processes that read.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        data: str,
        split: str,
        order: Order,
        dtype: torch.dtype,
        device: torch.device,
        workers: int,
    ) -> None:
        self._spec, self._data, self._split, self._order = spec, data, split, order
        self._dtype, self._device, self._workers = dtype, device, workers

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Pair]:
        rows = self._order.rows(pass_key(self._order.device)).cpu()
        prepare = self._spec.function("prepare")
        key, how = pass_key(torch.device("cpu")), {"augment": self._order.augment, "workers": self._workers}
        for x, y in stream(self._spec, self._data, self._split, rows, key, **how):  # type: ignore[arg-type]
            yield prepare(x.to(self._device), self._dtype), y.to(self._device)


def as_it_comes(batch: Any) -> Any:
    """What is collated already."""
    return batch
