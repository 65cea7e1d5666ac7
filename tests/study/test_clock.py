"""A clock that jumps, forth and back, between any two times that it is read."""

from __future__ import annotations

import datetime
import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deepobs_func import records
from deepobs_func.records import writing
from deepobs_func.study.jobs import standing
from deepobs_func.study.task import Task
from tests.study.test_task import done, job

YEARS = (2036, 1999, 2036, 2026, 1980)


@pytest.fixture(autouse=True)
def jumping(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process; what is measured goes by a clock that cannot be set."""
    years = itertools.cycle(YEARS)

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime(next(years), 1, 1, tzinfo=tz)

    real = time.time
    monkeypatch.setattr(writing, "datetime", Jumping)
    monkeypatch.setattr(time, "time", lambda: real() + (next(years) - 2026) * 3e7)


def test_an_interrupted_run_goes_on_and_is_not_run_again(tmp_path: Path) -> None:
    def interrupt(progress: Mapping[str, Any]) -> None:
        if progress["epoch"] == 2:
            raise KeyboardInterrupt

    mine, whole = job(tmp_path, checkpoint_every=1), job(tmp_path / "whole")
    task = Task((mine,), str(tmp_path / "r"))
    assert done(task, say=interrupt).status == "interrupted"
    assert standing(mine, tmp_path / "r").resumable
    seen: list[Mapping[str, Any]] = []
    ended = done(task, say=seen.append)
    assert ended.status == "finished"
    assert [each["epoch"] for each in seen if "last" in each] == [3]  # from where it was
    assert done(task) == ended
    assert len(list((tmp_path / "r").rglob("*.json"))) == 1
    expected = done(Task((whole,), str(tmp_path / "whole" / "r")))
    assert records.read(ended.path).test_losses == records.read(expected.path).test_losses


def test_failures_are_counted_whenever_they_were(tmp_path: Path) -> None:
    mine = job(tmp_path, optimizer="tests.study.optimizers_that_fail:Raises", epochs=20)
    for number in (1, 2, 3):
        assert done(Task((mine,), str(tmp_path / "r"))).status == "failed"
        assert standing(mine, tmp_path / "r").failures == number
