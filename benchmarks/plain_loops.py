"""Training loops as one would write them today in plain PyTorch: in memory, and with transforms and a DataLoader.

An epoch is what DeepOBS asks for: every whole batch of the training set once, a look at the loss at every tenth, and
then the loss and the accuracy on the test set and on as many training examples.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset

from benchmarks import plain
from benchmarks.plain_images import Images, augmented, flips, prepared, transforms
from benchmarks.shares import learning_rate
from deepobs_func.datasets.loading import Dataset, Split
from deepobs_func.problems.problem import Problem

LOG_INTERVAL = 10
EVALUATED = 1000  # examples at a time
Batches = Iterable[Sequence[Tensor]]


class Loop(abc.ABC):
    """A loop under way.

    Args:
        problem: which net, and how many examples.
        data: loaded, on the device; those of a text arranged in batches.
    """

    def __init__(self, problem: Problem, data: Dataset) -> None:
        self.device, self.batch_size, self.spec = data.train.x.device, problem.batch_size, problem.dataset
        self.module = plain.module(problem.name).to(self.device)
        self.optimizer = plain.sgd(self.module, problem, learning_rate(problem))

    @abc.abstractmethod
    def training(self) -> Batches:
        """The batches of an epoch."""

    @abc.abstractmethod
    def evaluation(self) -> tuple[Batches, Batches]:
        """Of training examples and of the test set."""

    def epoch(self) -> list[float]:
        """Trains and evaluates: the losses of some steps, then loss and accuracy on both splits."""
        self.module.train()
        self.module.restart()
        logged = []
        for step, (x, y) in enumerate(self.training()):
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.module.loss(x.to(self.device), y.to(self.device))
            loss.backward()
            self.optimizer.step()
            if step % LOG_INTERVAL == 0:
                logged.append(loss.item())
        return logged + [number for part in self.evaluation() for number in self._evaluated(part)]

    @torch.inference_mode()
    def _evaluated(self, batches: Batches) -> list[float]:
        """The mean loss, and the accuracy if there is one."""
        self.module.eval()
        self.module.restart()
        count, found = 0, []
        for x, y in batches:
            found.append(self.module.sums(x.to(self.device), y.to(self.device)))
            count += len(x)
        return [
            float(torch.stack(column).sum()) / count for column in zip(*found, strict=True) if column[0] is not None
        ]

    def whole(self, size: int) -> int:
        """How many examples, or windows of a text, there are in whole batches."""
        return self.spec.batches(size, self.batch_size) * self.batch_size

    def sample(self, data: Dataset) -> tuple[Tensor, Tensor]:
        """The rows to evaluate, of the training set and of the test set."""
        num = self.whole(self.spec.train_eval_size or min(self.spec.train_size, self.spec.test_size))
        train = torch.randperm(len(data.train.x)) if self.spec.shuffle else torch.arange(len(data.train.x))
        return train[:num], torch.arange(self.whole(self.spec.test_size))


class InMemory(Loop):
    """Everything is a tensor on the device, ready for the net but for the augmentation."""

    def __init__(self, problem: Problem, data: Dataset) -> None:
        super().__init__(problem, data)
        self.x, self.y = data.train if self.spec.augment else (prepared(data.train.x), data.train.y)
        # A recurrent net goes on where its last batch ended, so that there the batches are those of the run.
        size = self.batch_size if self.spec.sequence_length else EVALUATED
        self.held = [
            list(zip(prepared(x[rows]).split(size), y[rows].split(size), strict=True))
            for (x, y), rows in zip((data.train, data.test), self.sample(data), strict=True)
        ]

    def training(self) -> Batches:
        order = torch.randperm if self.spec.shuffle else torch.arange
        rows = order(len(self.x), device=self.device)[: self.whole(self.spec.train_size)]
        for batch in rows.split(self.batch_size):
            x = self.x[batch]
            yield augmented(x, flip=flips(self.spec)) if self.spec.augment else x, self.y[batch]

    def evaluation(self) -> tuple[Batches, Batches]:
        train, test = self.held
        return train, test


class WithLoader(Loop):
    """torchvision's transforms of one image at a time, and DataLoaders, as the ports of DeepOBS have them.

    Args:
        problem, data: as for every loop.
        workers: processes that load; 0 for none.
        kept: whether they outlive an epoch.
    """

    def __init__(self, problem: Problem, data: Dataset, workers: int, kept: bool = False) -> None:
        super().__init__(problem, data)
        self.workers, self.kept = workers, kept
        train_rows, test_rows = self.sample(data)
        train = self._dataset(data.train, augment=bool(self.spec.augment))
        plain_train, test = (self._dataset(split, augment=False) for split in (data.train, data.test))
        self.train = self._loader(train, shuffle=self.spec.shuffle)
        self.evaluated = (
            self._loader(Subset(plain_train, train_rows.tolist())),
            self._loader(Subset(test, test_rows.tolist())),
        )

    def training(self) -> Batches:
        return self.train

    def evaluation(self) -> tuple[Batches, Batches]:
        return self.evaluated

    def _dataset(self, split: Split, *, augment: bool) -> Images | TensorDataset:
        if split.x.dtype == torch.uint8:
            return Images(split, transforms(self.spec, augment=augment))
        return TensorDataset(split.x.cpu(), split.y.cpu())

    def _loader(self, dataset: Images | TensorDataset | Subset[object], *, shuffle: bool = False) -> Batches:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            shuffle=shuffle,
            drop_last=True,
            num_workers=self.workers,
            persistent_workers=self.kept,
            multiprocessing_context="fork"
            if self.workers
            else None,  # as it was by default; others import it all again
            pin_memory=self.device.type == "cuda",
        )
