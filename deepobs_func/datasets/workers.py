"""Batches that worker processes read ahead, in order; whoever stops asking leaves no process behind."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from deepobs_func.errors import DataError, UserError

Batch = TypeVar("Batch")


def read_ahead(read: Callable[[int], Batch], steps: int, workers: int) -> Iterator[Batch]:
    """Yields `read(0), ..., read(steps - 1)`, of which each worker has up to two ready before they are asked for.

    Args:
        read: returns the batch of a step, the same in every process.
        steps: how many there are.
        workers: processes that call `read`; 0 calls it here.

    Raises:
        DataError: as `read` raises it, in its turn.
    """
    workers = min(workers, steps)
    if workers == 0:
        yield from map(read, range(steps))
        return
    batches: Any = None
    try:
        with _signals_held_back(), warnings.catch_warnings():
            batches = iter(_loader(_Steps(read, steps), workers))
        for batch in _as_they_come(batches):
            if isinstance(batch, UserError):
                raise batch
            yield batch
    finally:
        if batches is not None:  # left to itself, it would keep its workers as long as a traceback keeps it
            batches._shutdown_workers()


def _as_they_come(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches of a loader.

    Raises:
        DataError: a worker is gone, e.g. killed since there was no memory left.
    """
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (EOFError, ConnectionError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "worker" not in str(error):
                raise
            raise DataError(
                f"A process that read items ahead has ended ({type(error).__name__}: {error}), as it does where it is "
                "killed or memory runs out. Give fewer workers, or workers=0 to see what happens."
            ) from error
        yield batch


def _loader(steps: _Steps, workers: int) -> DataLoader[Any]:
    # More workers than cores are the user's choice, e.g. where files come slowly over a network.
    warnings.filterwarnings("ignore", "This DataLoader will create")
    # The loader draws a seed for its workers, who need none; left alone it would take it from the global generator.
    generator = torch.Generator()
    return DataLoader(steps, batch_size=None, num_workers=workers, collate_fn=_unchanged, generator=generator)


class _Steps(Dataset[Any]):
    """One batch per index; lives in the workers."""

    def __init__(self, read: Callable[[int], Any], steps: int) -> None:
        self.read, self.steps = read, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Any:
        try:
            return self.read(step)
        except UserError as error:
            return error  # returned, since the loader would bury a worker's message under its traceback


def _unchanged(batch: Any) -> Any:
    return batch


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM come when the block is left, and not between the starts of two workers.

    A terminal sends Ctrl-C to all processes of a group. Workers that are forked in here inherit what is done with it:
    they take no notice, and this process, which does, ends them.
    """
    if threading.current_thread() is not threading.main_thread():  # where no signal is heard
        yield
        return
    came: list[int] = []
    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not None:  # None is one that Python could not put back
                before[number] = signal.signal(number, lambda number, frame: came.append(number))
        yield
    finally:
        for held, handler in before.items():
            signal.signal(held, handler)
        for held in came:
            signal.raise_signal(held)
