"""Batches that worker processes read ahead, in order; whoever stops asking leaves no process behind."""

from __future__ import annotations

import atexit
import functools
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from deepobs_func.errors import DataError

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
    started: list[Any] = []
    end = functools.partial(_end, started)
    atexit.register(end)  # for a stream that is dropped half-read when Python exits
    try:
        _start(started, _Steps(read, steps), workers)
        for batch in started[0]:
            if isinstance(batch, DataError):
                raise batch
            yield batch
    finally:
        end()
        atexit.unregister(end)


def _start(started: list[Any], steps: _Steps, workers: int) -> None:
    """Appends the loader's iterator at once: a Ctrl-C that was held back comes when the block is left."""
    with _signals_blocked(), warnings.catch_warnings():
        # More workers than cores are the user's choice, e.g. where files come slowly over a network.
        warnings.filterwarnings("ignore", "This DataLoader will create")
        # The loader draws a seed for its workers, who need none; left alone it would take it from the global generator.
        generator = torch.Generator()
        loader = DataLoader(steps, batch_size=None, num_workers=workers, collate_fn=_unchanged, generator=generator)
        started.append(iter(loader))


class _Steps(Dataset[Any]):
    """One batch per index; lives in the workers."""

    def __init__(self, read: Callable[[int], Any], steps: int) -> None:
        self.read, self.steps = read, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Any:
        try:
            return self.read(step)
        except DataError as error:
            return error  # returned, since the loader would bury a worker's message under its traceback


def _unchanged(batch: Any) -> Any:
    return batch


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Processes that are started in here never hear Ctrl-C or SIGTERM, which reach a whole group of processes.

    They are for this process alone, which then ends its workers. A worker that died of one of them would raise an
    exception here, in the middle of whatever writes the record.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows, which sends neither to a group
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(started: list[Any]) -> None:
    """Ends the workers now. Left to the loader, they would live as long as a traceback that has its iterator."""
    for batches in started:
        batches._shutdown_workers()
        for worker in batches._workers:
            if worker.is_alive():  # reading something that does not come; SIGTERM, which torch tries, is blocked
                worker.kill()
    started.clear()
