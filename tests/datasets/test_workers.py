"""Reading ahead: the order, a reader's mistakes, and no process that stays."""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import torch

from deepobs_func.datasets import workers
from deepobs_func.datasets.workers import read_ahead
from deepobs_func.errors import DataError


def square(step: int) -> torch.Tensor:
    return torch.tensor([step, step**2])


def broken_at_three(step: int) -> torch.Tensor:
    if step == 3:
        raise DataError("file_3 is torn")
    return square(step)


def defective(step: int) -> torch.Tensor:
    raise ZeroDivisionError("a defect")


@pytest.mark.filterwarnings("error")  # also with more workers than cores
@pytest.mark.parametrize("workers", [0, 1, 2, 9])
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_batches_come_in_order_whoever_reads_them(steps: int, workers: int) -> None:
    found = list(read_ahead(square, steps, workers))
    assert torch.equal(torch.stack([*found, torch.zeros(2)]), torch.stack([*map(square, range(steps)), torch.zeros(2)]))
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_is_told_in_its_turn_and_nobody_stays(workers: int) -> None:
    batches = read_ahead(broken_at_three, 7, workers)
    assert [next(batches).tolist() for _ in range(3)] == [[0, 0], [1, 1], [2, 4]]
    with pytest.raises(DataError, match=r"^file_3 is torn$") as caught:
        next(batches)
    assert caught.traceback  # which has the loader's frames, and would keep its workers
    assert multiprocessing.active_children() == []


def test_a_defect_of_a_reader_is_none_of_the_data() -> None:
    with pytest.raises(ZeroDivisionError, match="a defect"):
        list(read_ahead(defective, 4, 2))
    assert multiprocessing.active_children() == []


def test_closing_ends_the_workers() -> None:
    with closing(read_ahead(square, 1000, 2)) as batches:
        next(batches)
        assert len(multiprocessing.active_children()) == 2
    assert multiprocessing.active_children() == []


def test_workers_do_not_hear_a_ctrl_c_that_a_whole_group_of_processes_gets() -> None:
    with closing(read_ahead(square, 1000, 2)) as batches:
        next(batches)
        for child in multiprocessing.active_children():
            assert child.pid is not None
            os.kill(child.pid, signal.SIGINT)
        assert len([next(batches) for _ in range(50)]) == 50
        assert len(multiprocessing.active_children()) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_workers_start_comes_when_all_have(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any) -> Any:
        signal.raise_signal(number)
        return make_loader(*args)

    make_loader = workers._loader
    monkeypatch.setattr(workers, "_loader", interrupted)
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            next(read_ahead(square, 1000, 2))
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert multiprocessing.active_children() == []


def test_another_thread_may_read() -> None:
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(lambda: list(read_ahead(square, 3, 2))).result()
    assert [batch.tolist() for batch in found] == [[0, 0], [1, 1], [2, 4]]
    assert multiprocessing.active_children() == []
