"""The batches of an epoch and the chunks of an evaluation.

Either the data set lies on the device as one tensor, of which the compiled step gathers rows, or its batches come from
processes that read them. The run does not know which: both hand out a `Split` and the rows of it that count.
"""

from __future__ import annotations

import abc
import itertools
import time
from collections.abc import Generator
from contextlib import closing, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from deepobs_func import random
from deepobs_func.datasets.loading import Dataset, Split, check_stream, load, stream
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.problems.problem import Problem
from deepobs_func.runner.distributed import check_same_data, check_same_stream
from deepobs_func.runner.order import epoch_orders, evaluation_chunk
from deepobs_func.runner.plan import Plan
from deepobs_func.runner.signals import SHIELD
from deepobs_func.runner.step import StepInput, at

# Larger tensors are slower on a CPU, whose caches they leave: the evaluation of 3c3d takes 1.5 times as long with 13
# times as many examples. The least is for small nets, and for nets whose layers are not known.
CHUNK_BYTES = 32 * 2**20
LEAST_FLOATS = 1024
ROWS_AT_ONCE = 2**17  # whose order is drawn
Chunk = tuple[Split, Tensor]  # some examples to evaluate: split, rows (n,)


class Batches(abc.ABC):
    """Where the examples of a run come from.

    Attributes:
        streamed: whether batches are read while the device computes, so that a step may have to wait for its batch.
    """

    streamed: bool = False

    def __init__(self, plan: Plan, key: random.Key) -> None:
        self.plan: Plan = plan
        self.key: random.Key = key
        self.spec: DatasetSpec = plan.problem.dataset
        blocks = -(-plan.epochs // max(1, ROWS_AT_ONCE // self.spec.train_size))
        self._block = -(-plan.epochs // max(1, blocks))  # no more epochs than there are
        self._drawn: tuple[int, Tensor] = (-1, torch.empty(0))  # the number of a block of epochs, and its rows

    @property
    def waited(self) -> float:
        """Seconds, in the epoch under way, for which the device waited for its next batch."""
        return 0.0

    def epoch(self, epoch: int, steps_per_call: int, start: int = 0) -> Generator[StepInput]:
        """What each call of an epoch takes, from a step of it on. To be closed when it is left early."""
        calls = tree_map(lambda part: part[start:].unflatten(0, (-1, steps_per_call)), self.order(epoch))
        return self._calls(epoch, *calls)

    def first(self, steps_per_call: int) -> StepInput:
        """What the first call of the run takes, for warming up."""
        with closing(self._calls(0, *tree_map(lambda part: part[None, :steps_per_call], self.order(0)))) as calls:
            return next(calls)

    @abc.abstractmethod
    def _calls(self, epoch: int, rows: Tensor, keys: Tensor, draws: Any) -> Generator[StepInput]:
        """Yields what each call takes, of `rows (calls, k, B)`, `keys (calls, k, 2)` and draws `(calls, k, B)`."""

    @abc.abstractmethod
    def chunk(self, num_examples: int) -> int:
        """How many of the examples are evaluated at a time."""

    @abc.abstractmethod
    def chunks(self, split: str, rows: Tensor, key: random.Key, augment: bool) -> Generator[Chunk]:
        """Yields examples to evaluate, `rows (chunks, n)` of a split. To be closed when it is left early.

        Args:
            split: `"train"` or `"test"`.
            rows: a row for each chunk.
            key: for the augmentation of data that are augmented where they are read.
            augment: whether they are.
        """

    def order(self, epoch: int) -> tuple[Tensor, Tensor, Any]:
        """The rows `(steps, B)`, the keys of noise `(steps, 2)` and the draws of the augmentation `(steps, B)`.

        They are few, and drawn for a whole epoch at once they cost nothing: batch by batch, half a millisecond each.
        """
        plan, steps = self.plan, self.plan.steps_per_epoch
        rows = self._rows(epoch)
        if not (plan.problem.noises or self.spec.augment):
            return rows, self.key.expand(steps, 2), ()  # nobody reads the keys
        counts = torch.arange(epoch * steps, (epoch + 1) * steps, device=plan.device)
        noise, augmentation = (
            random.fold_in(random.fold_in(self.key, purpose), counts) for purpose in (random.NOISE, random.AUGMENTATION)
        )
        if not self.spec.augment:
            return rows, noise, ()
        return rows, noise, self.spec.function("draw")(augmentation, plan.batch_size, torch.float32)

    def _rows(self, epoch: int) -> Tensor:
        """The rows of an epoch, out of a block of epochs: a permutation of its own takes half a millisecond."""
        number, index = divmod(epoch, self._block)
        if number != self._drawn[0]:
            epochs = range(number * self._block, (number + 1) * self._block)
            plan = self.plan
            rows = epoch_orders(plan.protocol, self.spec, self.key, epochs, plan.batch_size, plan.valid)
            self._drawn = (number, rows)
        return self._drawn[1][index]


class Resident(Batches):
    """The whole data set on the device: a step takes rows of it."""

    def __init__(self, plan: Plan, key: random.Key, dataset: Dataset) -> None:
        super().__init__(plan, key)
        self._splits = {"train": dataset.train, "test": dataset.test}

    def _calls(self, epoch: int, rows: Tensor, keys: Tensor, draws: Any) -> Generator[StepInput]:
        train = self._splits["train"]
        for index, (batch_rows, batch_keys) in enumerate(zip(rows.unbind(), keys.unbind(), strict=True)):
            yield StepInput(train, batch_rows, batch_keys, at(draws, index))

    def chunk(self, num_examples: int) -> int:
        """Large; a recurrent net goes on batch by batch, since its state has the batch's size."""
        size, problem = self.plan.batch_size, self.plan.problem
        return size if problem.zero_carry(1) else evaluation_chunk(num_examples, size, chunk_limit(problem))

    def chunks(self, split: str, rows: Tensor, key: random.Key, augment: bool) -> Generator[Chunk]:
        yield from ((self._splits[split], part) for part in rows)


def chunk_limit(problem: Problem) -> int:
    """The examples that are evaluated at a time at most: their largest activation stays within `CHUNK_BYTES`."""
    floats = max((shape.numel() for _, shape in problem.layers.values()), default=0)
    return CHUNK_BYTES // (4 * max(floats, LEAST_FLOATS))


class Streamed(Batches):
    """Batches that are read while the device computes: a step takes all rows of its batch.

    Raises:
        DataError: the files are not there, or, later, one of them cannot be read.
    """

    streamed = True

    def __init__(self, plan: Plan, key: random.Key) -> None:
        super().__init__(plan, key)
        self._wait = _Wait(plan.device)
        # As numbers of the batch's examples, of which this process reads its shard alone.
        self._all = torch.arange(plan.batch_size, device=plan.device) - plan.ranks.rank * plan.shard_size
        check_stream(self.spec, plan.config.data)
        check_same_stream(plan)

    def _calls(self, epoch: int, rows: Tensor, keys: Tensor, draws: Any) -> Generator[StepInput]:
        assert rows.shape[1] == 1, "a batch that is read at its turn has a call of its own"
        self._wait = _Wait(self.plan.device)
        key = random.fold_in(random.fold_in(self.key, random.DATA), epoch)
        with closing(self._batches("train", rows[:, 0], key, True, self._wait)) as batches:
            for index, (batch, batch_keys) in enumerate(zip(batches, keys, strict=True)):
                yield StepInput(batch, self._all[None], batch_keys, at(draws, index))

    @property
    def waited(self) -> float:
        return self._wait.seconds()

    def chunk(self, num_examples: int) -> int:
        """A batch, so that the size of the set does not decide how much is in memory at a time."""
        return self.plan.batch_size

    def chunks(self, split: str, rows: Tensor, key: random.Key, augment: bool) -> Generator[Chunk]:
        (key,) = random.split(key, 1)  # apart from the evaluation's own draws
        with closing(self._batches(split, rows, key, augment)) as batches:
            yield from zip(batches, itertools.repeat(self._all), strict=False)

    def _batches(
        self, split: str, rows: Tensor, key: random.Key, augment: bool, wait: _Wait | None = None
    ) -> Generator[Split]:
        """Yields batches on the device, one for each row of `rows (steps, B)`."""
        device, data, workers = self.plan.device, self.plan.config.data, self.plan.workers or 0
        shard = self.plan.ranks.shard(rows, 1)
        with closing(
            stream(self.spec, data, split, shard.cpu(), key.cpu(), augment=augment, workers=workers)
        ) as batches:
            while True:
                # Nothing changes while it waits, and a worker that a signal ends would be an error if that came first.
                with wait or nullcontext(), SHIELD.raised(False):
                    batch = next(batches, None)
                    if batch is not None and device.type == "cuda":  # which copies by itself from pinned memory
                        batch = tree_map(Tensor.pin_memory, batch)
                if batch is None:
                    return
                yield Split(*tree_map(lambda tensor: tensor.to(device, non_blocking=True), batch))


class _Wait:
    """Adds up for how long a device has nothing to do because its next batch is not there.

    A GPU may be busy with earlier steps while this process waits already. So there the time is that between two events
    around the wait, on the GPU's own clock: next to nothing where it comes late to the first one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._marks = device, list[Any]()

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def __enter__(self) -> None:
        self._marks.append(self._mark())

    def __exit__(self, *exception: object) -> None:
        self._marks.append(self._mark())

    def seconds(self) -> float:
        """The sum so far."""
        pairs = list(zip(self._marks[::2], self._marks[1::2], strict=False))
        if self._device.type != "cuda" or not pairs:
            return sum(end - begin for begin, end in pairs)
        self._marks[-1].synchronize()
        return sum(begin.elapsed_time(end) for begin, end in pairs) / 1000  # of milliseconds


def make_batches(plan: Plan, key: random.Key, dataset: Dataset | None = None) -> Batches:
    """The kind that the data set asks for.

    Args:
        plan: the run.
        key: the run's.
        dataset: the data, as `resident` loads them, where several runs share them.

    Raises:
        DataError: the data are not there or cannot be read.
    """
    spec = plan.problem.dataset
    if spec.streamed:
        return Streamed(plan, key)
    return Resident(plan, key, dataset or resident(plan))


def resident(plan: Plan) -> Dataset:
    """The data of a run on its device, laid out for its batches.

    Raises:
        DataError: the data are not there or cannot be read.
    """
    found = load(plan.problem.dataset, plan.config.data, plan.device).arranged(plan.batch_size)
    check_same_data(plan, found)
    return found
