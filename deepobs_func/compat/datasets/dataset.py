"""The base of DeepOBS's data sets, to be subclassed, and the data sets of the package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Subset

from deepobs_func import datasets, random
from deepobs_func.compat import config
from deepobs_func.compat.datasets.loaders import Examples, Listener, Loader, Order, Pair, Streamed, as_it_comes
from deepobs_func.datasets.loading import Dataset, check_stream, load
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.errors import ConfigError
from deepobs_func.runner.config import PROTOCOLS
from deepobs_func.runner.order import epoch_order, test_rows, train_eval_rows, train_steps, valid_rows

_PROTOCOL = PROTOCOLS["default"]
_LOADED: WeakValueDictionary[Any, Dataset] = WeakValueDictionary()


class DataSet(ABC):
    """A data set with its loaders. A subclass makes the two splits as data sets of torch's.

    The last partial batch of each split is dropped. The loaders draw from torch's generator.

    Args:
        batch_size: B.
        train_eval_size: how many training examples are evaluated; all by default.
        num_workers: processes that read.

    Attributes:
        train_loader: training examples, in a new order in every pass.
        train_eval_loader: the training examples that are evaluated.
        test_loader: test examples, in stored order.
    """

    train_loader: Loader
    train_eval_loader: Loader
    test_loader: Loader

    def __init__(self, batch_size: int, train_eval_size: int | None = None, num_workers: int = 0) -> None:
        self._batch_size, self._train_eval_size, self._num_workers = _checked(batch_size), train_eval_size, num_workers
        self.listeners: list[Listener] = []
        self._valid_loader: Loader | None = None
        self._make_loaders()

    @abstractmethod
    def _make_train_dataset(self) -> TorchDataset[Any]:
        """The training examples `(input, target)`, as a data set of torch's."""

    @abstractmethod
    def _make_test_dataset(self) -> TorchDataset[Any]:
        """The test examples."""

    def _make_valid_dataset(self) -> TorchDataset[Any] | None:
        """Examples to validate on; None where there are none, as here."""
        return None

    def _make_loaders(self) -> None:
        train, test = self._make_train_dataset(), self._make_test_dataset()
        evaluated, valid = train, self._make_valid_dataset()
        if self._train_eval_size is not None:
            evaluated = Subset(train, range(min(self._train_eval_size, len(train))))  # type: ignore[arg-type]
        self.train_loader: Loader = self._loader(train, shuffle=True)
        self.train_eval_loader: Loader = self._loader(evaluated)
        self.test_loader: Loader = self._loader(test)
        self._valid_loader = None if valid is None else self._loader(valid)

    def _loader(self, dataset: TorchDataset[Any], *, shuffle: bool = False) -> Loader:
        if len(dataset) < self._batch_size:  # type: ignore[arg-type]
            raise ConfigError(
                f"batch_size {self._batch_size}: a split of {type(self).__name__} has only {len(dataset)} examples."  # type: ignore[arg-type]
            )
        how: dict[str, Any] = {"shuffle": shuffle, "num_workers": self._num_workers, "drop_last": True}
        return Loader(dataset, self._batch_size, self.listeners, batch_size=self._batch_size, **how)

    @property
    def batch_size(self) -> int:
        """B."""
        return self._batch_size

    @property
    def valid_loader(self) -> Loader:
        """Validation examples.

        Raises:
            ConfigError: the data set has none.
        """
        if self._valid_loader is None:
            raise ConfigError(f"{type(self).__name__} has no examples to validate on: define _make_valid_dataset.")
        return self._valid_loader

    @property
    def _train_dataloader(self) -> Loader:
        """DeepOBS 1.2's name."""
        return self.train_loader

    @property
    def _train_eval_dataloader(self) -> Loader:
        return self.train_eval_loader

    @property
    def _valid_dataloader(self) -> Loader:
        return self.valid_loader

    @property
    def _test_dataloader(self) -> Loader:
        return self.test_loader


class RegisteredDataSet(DataSet):
    """A data set of the package, on a device. Its batches come whole, out of one gather.

    As many examples as the test set has are set aside to validate on when `valid_loader` is entered for the first
    time; until then training visits all of them, as in DeepOBS 1.1.2, from then on the others, as in 1.2.

    Args:
        batch_size: B.
        train_eval_size: how many training examples are evaluated, a fixed sample; by default as many as the test set
            has.
        num_workers: processes that read data which are streamed (ImageNet); the others are held on the device.
        data_augmentation: whether training inputs are augmented, where the data set has an augmentation.
        device: where batches are; by default `config.get_default_device()`.

    Raises:
        ConfigError: a split has too few examples for a batch.
        DataError: the data are not there.
    """

    name: ClassVar[str]

    def __init_subclass__(cls) -> None:
        """Completes the docstring of a data set, whose arguments are those of all."""
        super().__init_subclass__()
        _, _, arguments = (RegisteredDataSet.__doc__ or "").partition("    Args:")
        cls.__doc__ = f"{cls.__doc__ or cls.__name__}\n\n    Args:{arguments}"

    def __init__(
        self,
        batch_size: int,
        train_eval_size: int | None = None,
        num_workers: int = 0,
        *,
        data_augmentation: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        self.device: torch.device = torch.device(device or config.get_default_device())
        self.spec: DatasetSpec = datasets.spec(self.name)
        self._augments, self._valid = data_augmentation, 0
        self._data: Dataset | None = None
        _checked(batch_size)
        if min(self.spec.batches(size, batch_size) for size in (self.spec.train_size, self.spec.test_size)) < 1:
            raise ConfigError(f"batch_size {batch_size}: {self.spec.title} has too few examples for one batch.")
        super().__init__(batch_size, train_eval_size, num_workers)

    def shown(self, x: Tensor, y: Tensor) -> Pair:
        """What a loader yields of the core's inputs and targets."""
        return x, y

    def for_core(self, inputs: Tensor, targets: Tensor) -> Pair:
        """The inverse of `shown`."""
        return inputs, targets

    def for_runner(self) -> DatasetSpec | None:
        """The core's data set as these settings have it; None where a subclass shows other examples than it.

        Raises:
            ConfigError: a run of the core cannot have the settings or the changes of a subclass.
        """
        augments, name = self._augments or not (self.spec.augment or self.spec.streamed), type(self).__name__
        if not self._is_plain() and self.spec.generated:
            return None
        if not self._is_plain():
            raise ConfigError(
                f"{name} changes the package's data set {self.name}, which the runner reads by itself. Make its "
                "examples in a subclass of DataSet, in _make_train_dataset and _make_test_dataset."
            )
        if self.spec.streamed and not augments:
            raise ConfigError(f"data_augmentation False: a run of {self.spec.title} augments. Leave it at True.")
        size = self.spec.train_eval_size if self._train_eval_size is None else self._train_eval_size
        if augments and size == self.spec.train_eval_size:
            return self.spec
        return replace(self.spec, augment=self.spec.augment if augments else "", train_eval_size=size)

    def _is_plain(self) -> bool:
        """Whether neither a subclass nor who made it changed what the loaders yield."""
        below = type(self).__mro__[: type(self).__mro__.index(RegisteredDataSet)]
        own = {name for cls in below for name in vars(cls) if not name.startswith("__")} & {*dir(RegisteredDataSet)}
        shown = (self.train_loader.dataset, self.test_loader.dataset)
        return own <= {"name", "_abc_impl"} and all(isinstance(each, Examples | Streamed) for each in shown)

    def _make_train_dataset(self) -> TorchDataset[Any]:
        return self._examples("train")

    def _make_test_dataset(self) -> TorchDataset[Any]:
        return self._examples("test")

    def _make_loaders(self) -> None:
        augments = self._augments and bool(self.spec.augment or self.spec.streamed)
        train, evaluated, valid, test = self._orders(augments)
        if self.spec.streamed:
            check_stream(self.spec, config.get_data_dir())
            make: Callable[..., Loader] = self._streamed
        else:
            make = self._held
        self.train_loader: Loader = make("train", train)
        self.train_eval_loader: Loader = make("train", evaluated)
        self.test_loader: Loader = make("test", test)
        self._valid_loader = make("train", valid, entered=self._set_aside)

    def _orders(self, augments: bool) -> tuple[Order, Order, Order, Order]:
        """Of training, its evaluation, validation and test."""
        spec, size, device = self.spec, self._batch_size, self.device

        def evaluated(key: random.Key) -> Tensor:
            rows = train_eval_rows(_PROTOCOL, spec, key, size, self._valid)
            limit = len(rows) if self._train_eval_size is None else self._train_eval_size // size * size
            return rows[:limit].unflatten(0, (-1, size))

        def fixed(rows: Callable[[], Tensor]) -> Order:
            return Order(
                lambda key: rows().unflatten(0, (-1, size)), lambda: len(rows()) // size, device, augment=False
            )

        train = Order(
            lambda key: epoch_order(_PROTOCOL, spec, key, 0, size, self._valid),
            lambda: train_steps(spec, size, self._valid),
            device,
            augments,
        )
        train_eval = Order(evaluated, lambda: len(evaluated(random.key(0, device))), device, augment=False)
        valid = fixed(lambda: valid_rows(spec, size, self._aside(), device))
        return train, train_eval, valid, fixed(lambda: test_rows(spec, size, device))

    def _aside(self) -> int:
        return self._valid or min(self.spec.test_size, self.spec.train_size // 2)

    def _set_aside(self) -> None:
        self._valid = self._aside()

    def _examples(self, split: str) -> TorchDataset[Any]:
        """A split on the device; both splits are laid out once."""
        if self._data is None:
            self._data = _loaded(self.spec, config.get_data_dir(), self.device).arranged(self._batch_size)
        return Examples(self.spec, getattr(self._data, split), config.get_dtype(), self.shown)

    def _held(self, split: str, order: Order, **how: Any) -> Loader:
        batches: dict[str, Any] = {"batch_sampler": order, "collate_fn": as_it_comes}
        return Loader(self._examples(split), self._batch_size, self.listeners, **batches, **how)

    def _streamed(self, split: str, order: Order, **how: Any) -> Loader:
        where = (config.get_data_dir(), split, order, config.get_dtype(), self.device, self._num_workers)
        return Loader(Streamed(self.spec, *where), self._batch_size, self.listeners, batch_size=None, **how)


def _loaded(spec: DatasetSpec, data: str, device: torch.device) -> Dataset:
    """The data, shared by all who hold them at a time."""
    key = (spec, data, device)
    found = _LOADED.get(key)
    if found is None:
        found = _LOADED[key] = load(spec, data, device)
    return found


def _checked(batch_size: Any) -> int:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f"batch_size {batch_size!r}: it must be a whole number from 1.")
    return batch_size
