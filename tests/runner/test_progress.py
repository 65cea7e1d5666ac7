"""What a run shows: a bar on a terminal, lines elsewhere, nothing when quiet."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from deepobs_func.runner.log import Log
from deepobs_func.runner.progress import MEASURING, Bar, Lines, make_progress, waiting
from tests.runner.small import config, recorded, small_problem


def test_the_reporter_fits_the_console() -> None:
    assert [type(each) for each in make_progress(Console(force_terminal=True), quiet=False)] == [Bar]
    assert [type(each) for each in make_progress(Console(force_terminal=False), quiet=False)] == [Lines]
    assert make_progress(Console(force_terminal=True), quiet=True) == []


def test_lines_have_losses_accuracy_speed_and_time_left() -> None:
    console = Console(file=io.StringIO(), width=200)
    record = recorded(config(epochs=2), small_problem(), Lines(console))
    measuring, how, first, _, last = console.file.getvalue().splitlines()
    assert measuring == MEASURING
    assert how == record.extra["execution"]["reason"]
    assert first.startswith(f"epoch 0/2  train {record.train_losses[0]:.4f}  test {record.test_losses[0]:.4f}")
    assert f"test accuracy {record.test_accuracies[2]:.2%}" in last
    assert "steps/s" in last
    assert last.endswith("0 s left")


def test_that_it_measures_is_said_only_where_it_does() -> None:
    for expected in (1, 0):
        console = Console(file=io.StringIO(), width=200)
        recorded(config(epochs=1), small_problem(), Lines(console))
        assert console.file.getvalue().count(MEASURING) == expected


def test_the_bar_ends_full_with_the_last_accuracy() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    record = recorded(config(epochs=2, train_log_interval=1), small_problem(), Bar(console))
    shown = console.file.getvalue()
    assert "100%" in shown
    assert f"accuracy {record.test_accuracies[-1]:.2%}" in shown
    assert "loss" in shown
    assert "steps/s" in shown


@pytest.mark.parametrize(
    ("waits", "said"),
    [
        (None, ""),
        ([], ""),
        ([9.0, 0.9], ""),
        ([0.0, 3.5], "  35% of the epoch spent waiting for data (--workers)"),
    ],
)
def test_waiting_is_said_from_a_tenth_of_the_last_epoch_on(waits: list[float] | None, said: str) -> None:
    log = Log(timings={"train": [10.0, 10.0]} | ({} if waits is None else {"data_wait": waits}))
    assert waiting(log) == said
