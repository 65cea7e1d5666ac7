"""What comes of runs that have ended, without processes: a scheduler whose runs end as a test says."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from deepobs_func import RunConfig
from deepobs_func.study import disk, scheduler
from deepobs_func.study.jobs import make_job
from deepobs_func.study.ledger import Ledger
from deepobs_func.study.scheduler import Entry, Scheduler
from deepobs_func.study.task import Ended, execute


class Scripted(Scheduler):
    """Executes each run here, or ends it as the script says."""

    def __init__(self, output_dir: Path, script: Callable[[Entry], Any] = lambda entry: None, **others: Any) -> None:
        super().__init__(output_dir, **others)
        self.script, self.given = script, list[tuple[str, ...]]()

    @property
    def running(self) -> Sequence[Entry]:
        return []

    @property
    def workers(self) -> int:
        return 1

    def advance(self) -> None:
        self._disk.look()
        entry = self._due()
        if entry is None:
            return
        self.given.append(tuple(job.run_id for job in entry.jobs))
        found = self.script(entry)
        if found == "killed":
            self._killed(entry, "The process was killed.", "its last words")
        else:
            self._ended(entry, found or execute(self._task(entry), lambda progress: None, lambda state: None))

    def close(self) -> None:
        pass


def config(seed: int = 1, **changes: Any) -> RunConfig:
    """Runs of several structures, so that each goes by itself."""
    return RunConfig("quadratic_deep", "sgd", 0.01, epochs=1, seed=seed, batch_size=100 + seed, **changes)


def test_each_run_ends_once(tmp_path: Path) -> None:
    with Scripted(tmp_path / "r") as mine:
        for seed in (1, 2):
            mine.submit(config(seed), about={"trial": seed})
        outcomes = [mine.next(), mine.next()]
        assert [each.record.extra["study"] for each in outcomes if each.record] == [{"trial": 1}, {"trial": 2}]
        with pytest.raises(LookupError):
            mine.next()
        mine.submit(config(1))
        again = mine.next()
    assert (again.status, again.new) == ("finished", False)
    assert len(mine.given) == 2


def test_a_stop_by_a_budget_holds_until_the_budget_is_larger(tmp_path: Path) -> None:
    """Seven gradients in an epoch, after which the budget is looked at; what was done is not done again."""
    folder = tmp_path / "r"
    job = make_job(RunConfig("quadratic_deep", "sgd", 0.01, epochs=3, output_dir=str(folder)))

    def ended(**limits: float) -> tuple[str, int, bool]:
        with Scripted(folder) as mine:
            mine.add(job, limits=limits)
            outcome = mine.next()
            assert outcome.record is not None
            return outcome.status, len(outcome.record.train_losses) - 1, outcome.new

    assert ended(gradients=7) == ("stopped", 1, True)
    assert ended(gradients=7) == ended(gradients=3) == ("stopped", 1, False)
    assert ended(gradients=14) == ("stopped", 2, True)
    assert ended(gradients=14, cost=1e9) == ended(gradients=10) == ("stopped", 2, False)
    assert ended(cost=1e9) == ("finished", 3, True)
    assert ended(gradients=7) == ("finished", 3, False)


def test_a_failure_is_tried_again_as_often_as_said(tmp_path: Path) -> None:
    told: list[str] = []
    with Scripted(tmp_path / "r", lambda entry: "killed", retries=2, tell=told.append) as mine:
        mine.submit(config())
        outcome = mine.next()
    assert outcome.status == "failed"
    assert "killed" in outcome.error
    assert outcome.record is not None
    assert outcome.record.extra["traceback"] == "its last words"
    assert len(mine.given) == 3
    assert len(told) == 2
    with Scripted(tmp_path / "r", retries=2) as later:  # failures count over sweeps
        later.submit(config())
        assert later.next().status == "failed"
        assert later.given == []
        later.add(make_job(config(output_dir=str(tmp_path / "r"))), again=True)
        assert later.next().status == "finished"


def test_a_run_that_is_claimed_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "ELSEWHERE", 0.0)
    answers = [[Ended("claimed")], [Ended("claimed")], None]
    with Scripted(tmp_path / "r", lambda entry: answers.pop(0)) as mine:
        mine.submit(config())
        assert mine.next().status == "finished"
    assert len(mine.given) == 3


def test_a_cancelled_run_is_not_asked_for_again(tmp_path: Path) -> None:
    with Scripted(tmp_path / "r") as mine:
        job = mine.submit(config())
        mine.ledger.cancel(job.run_id)
        assert mine.next().status == "cancelled"
        mine.script = lambda entry: [Ended("interrupted")]
        mine.ledger.cancel(mine.submit(config(2)).run_id)
        assert mine.next().status == "cancelled"


def test_a_population_that_dies_is_tried_run_by_run(tmp_path: Path) -> None:
    one = config(output_dir=str(tmp_path / "r"))
    jobs = [make_job(dataclasses.replace(one, seed=seed)) for seed in (1, 2, 3)]
    with Scripted(tmp_path / "r", lambda entry: "killed" if len(entry.jobs) > 1 else None) as mine:
        for job in jobs:
            mine.add(job)
        statuses = [mine.next().status for _ in jobs]
    assert statuses == ["finished"] * 3
    assert [len(given) for given in mine.given] == [3, 1, 1, 1]


def test_a_full_disk_pauses_it_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(disk.Disk, "_has_room", lambda self: False)

    def elsewhere(entry: Entry) -> list[Ended]:
        (ended,) = execute(mine._task(entry), lambda progress: None, lambda state: None)
        return [Ended("finished", str(Path(ended.path).rename(tmp_path / "rescued.json")), "", "The disk is full.")]

    with Scripted(tmp_path / "r", elsewhere, tell=told.append) as mine:
        mine.submit(config(1))
        mine.submit(config(2))
        assert mine.next().status == "finished"
        for _ in range(3):
            mine.step()
        assert len(mine.given) == 1
        assert "paused" in told[0]
        monkeypatch.setattr(disk.Disk, "_has_room", lambda self: True)
        mine.script = lambda entry: None
        assert mine.next().status == "finished"
    assert "goes on" in told[1]
    assert not (tmp_path / "rescued.json").exists()
    assert len(list((tmp_path / "r").rglob("*.json"))) == 2


def test_a_disk_that_takes_no_claim_pauses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(disk.Disk, "_has_room", lambda self: False)
    monkeypatch.setattr(scheduler, "ELSEWHERE", 0.0)
    full = [Ended("claimed", note="There is no room.")]
    with Scripted(tmp_path / "r", lambda entry: full, tell=told.append) as mine:
        mine.submit(config(1))
        for _ in range(3):
            mine.step()
        assert len(mine.given) == 1
        assert told == ["There is no room. The sweep is paused; it goes on when the results tree can be written again."]
        monkeypatch.setattr(disk.Disk, "_has_room", lambda self: True)
        mine.script = lambda entry: None
        assert mine.next().status == "finished"


def test_a_claim_that_is_refused_each_time_ends_as_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Ledger, run_id: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Ledger, "claim", refused)
    with Scripted(tmp_path / "r", retries=1) as mine:
        mine.submit(config(1))
        for _ in range(3):
            mine.step()
        assert mine.has_outcome
        outcome = mine.next()
    assert outcome.status == "failed"
    assert "Permission denied" in outcome.error
    assert len(mine.given) == 2


def test_it_looks_for_room_where_there_was_none(tmp_path: Path) -> None:
    told: list[str] = []
    place = tmp_path / "elsewhere"
    place.symlink_to("/dev/null")  # no file can be made in it
    watched = disk.Disk(tmp_path / "r", told.append)
    watched.fill("There is no room.", str(place))
    watched.look()
    assert watched.is_full
    assert told == [f"There is no room. The sweep is paused; it goes on when {place} can be written again."]
    place.unlink()
    watched.look()
    assert not watched.is_full
