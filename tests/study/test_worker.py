"""A worker between its sweep's words: ends that come before a run can hear them, and questions that nobody answers."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deepobs_func import RunConfig
from deepobs_func.runner.signals import Unanswered
from deepobs_func.study import worker
from deepobs_func.study.jobs import make_job
from deepobs_func.study.task import Task, execute

SECONDS = 20.0  # for a run of milliseconds


def asking(tmp_path: Path) -> Task:
    config = RunConfig(
        "two_d_beale", "sgd", 1e-7, epochs=3, output_dir=tmp_path / "r", compile="off", checkpoint_every="1epochs"
    )
    return Task((make_job(config),), str(tmp_path / "r"), asks=True)


class Sweep:
    """Says one run to a worker, and dies when it is told to; what the worker replied is in `replies`."""

    def __init__(self, task: Task) -> None:
        self._task, self._is_dead, self.replies = task, threading.Event(), io.StringIO()
        self.worker = worker.Worker(self, self)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[str]:
        yield json.dumps({"do": "run", "task": self._task.as_plain_data()})
        self._is_dead.wait(SECONDS)

    def die(self) -> None:
        """And wait until the worker's listener has seen it."""
        self._is_dead.set()
        listener = next(each for each in threading.enumerate() if "_listen" in each.name)
        listener.join(SECONDS)

    def write(self, line: str) -> None:
        self.replies.write(line)
        if json.loads(line)["kind"] == "evaluated":
            threading.Thread(target=self.die).start()

    def flush(self) -> None:
        pass

    def works(self) -> list[str]:
        """How its runs ended. In a thread of its own, so that a worker that never ends fails the test alone."""
        thread = threading.Thread(target=self.worker.work, daemon=True)
        thread.start()
        thread.join(SECONDS)
        assert not thread.is_alive(), "the worker waits for a sweep that is dead"
        replies = map(json.loads, self.replies.getvalue().splitlines())
        return [run["status"] for reply in replies if reply["kind"] == "ended" for run in reply["runs"]]


def test_a_sweep_that_dies_before_its_run_begins_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Sweep(asking(tmp_path))

    @contextmanager
    def slowly(task: Task) -> Iterator[None]:
        sweep.die()
        yield

    monkeypatch.setattr(worker, "printing_to_log", slowly)
    assert sweep.works() == ["interrupted"]
    assert "evaluated" not in sweep.replies.getvalue()


def test_a_run_whose_question_is_not_answered_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signals: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append(number))
    monkeypatch.setattr(worker, "printing_to_log", lambda task: contextmanager(lambda: iter([None]))())
    assert Sweep(asking(tmp_path)).works() == ["interrupted"]
    assert signals == [signal.SIGTERM]


def test_a_run_that_is_told_to_end_twice_gets_one_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its sweep, which then dies: a second signal would come within a step."""
    signals: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append(number))
    monkeypatch.setattr(worker, "printing_to_log", lambda task: contextmanager(lambda: iter([None]))())
    sweep = Sweep(asking(tmp_path))
    lines = Sweep.__iter__

    def told(self: Sweep) -> Iterator[str]:
        yield from lines(self)
        yield json.dumps({"do": "interrupt"})

    monkeypatch.setattr(Sweep, "__iter__", told)
    assert sweep.works() == ["interrupted"]
    assert signals == [signal.SIGTERM]


def test_what_was_not_answered_is_asked_again(tmp_path: Path) -> None:
    task, asked = asking(tmp_path), list[int]()

    def ask(state: Any) -> str | None:
        asked.append(state["epoch"])
        if asked == [0, 1, 2]:
            raise Unanswered
        return "pruned" if state["epoch"] == 2 else None

    ended = [execute(task, lambda progress: None, ask)[0].status for _ in range(2)]
    assert ended == ["interrupted", "stopped"]
    assert asked == [0, 1, 2, 2]  # from the checkpoint of epoch 1
