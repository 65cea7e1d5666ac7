"""What a worker does with a task: in this process, without a sweep around it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import deepobs_func
from deepobs_func import RunConfig, records
from deepobs_func.errors import ConfigError
from deepobs_func.records import writing
from deepobs_func.study.jobs import Job, make_job, standing
from deepobs_func.study.ledger import Ledger
from deepobs_func.study.task import Ended, Task, execute
from deepobs_func.study.worker import printing_to_log


def config(tmp_path: Path, **changes: Any) -> RunConfig:
    values = {"problem": "quadratic_deep", "optimizer": "sgd", "lr": 0.01, "epochs": 3, "output_dir": tmp_path / "r"}
    return RunConfig(**(values | changes))


def job(tmp_path: Path, **changes: Any) -> Job:
    return make_job(config(tmp_path, **changes))


def done(task: Task, **how: Any) -> Ended:
    (ended,) = execute(task, how.get("say", lambda progress: None), how.get("ask", lambda state: None))
    return ended


def test_a_task_goes_through_json(tmp_path: Path) -> None:
    mine = replace(
        Task((job(tmp_path, hyperparams={}, checkpoint_every="5steps", seed=3),), str(tmp_path / "r")),
        runs=7,
        asks=True,
        about={"x": {"trial": 1}},
        limits={"gradients": 3},
    )
    there = Task.from_plain_data(json.loads(json.dumps(mine.as_plain_data())))
    assert make_job(there.jobs[0].config).run_id == mine.jobs[0].run_id
    assert replace(there, jobs=()) == replace(mine, jobs=())


def test_a_run_is_written_and_not_run_again(tmp_path: Path) -> None:
    seen: list[Mapping[str, Any]] = []
    mine = job(tmp_path)
    task = Task((mine,), str(tmp_path / "r"), about={mine.run_id: {"trial": 4}})
    first = done(task, say=seen.append)
    assert first.status == "finished"
    assert records.read(first.path).extra["study"] == {"trial": 4}
    assert [each["epoch"] for each in seen if "last" in each] == [0, 1, 2, 3]
    assert seen[-1]["share"] == 1.0
    before = len(seen)
    assert done(task, say=seen.append) == first
    assert len(seen) == before
    assert len(list((tmp_path / "r").rglob("*.json"))) == 1


def test_a_run_that_another_process_has_is_left_alone(tmp_path: Path) -> None:
    mine = job(tmp_path)
    claim = Ledger(tmp_path / "r").claim(mine.run_id)
    assert claim.acquire()
    assert done(Task((mine,), str(tmp_path / "r"))).status == "claimed"
    claim.release()
    assert done(Task((mine,), str(tmp_path / "r"))).status == "finished"


def test_members_whose_place_is_full_are_told_of_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(record: records.RunRecord, output_dir: str) -> writing.Written:
        return writing.Written(records.write(record, tmp_path / "there"), "The disk is full.")

    monkeypatch.setattr(records, "write_anywhere", elsewhere)
    jobs = tuple(job(tmp_path, seed=seed, epochs=1) for seed in (1, 2))
    found = execute(Task(jobs, str(tmp_path / "r")), lambda progress: None, lambda state: None)
    assert [(each.status, each.note) for each in found] == [("finished", "The disk is full.")] * 2
    assert [records.read(each.path).random_seed for each in found] == [1, 2]


def test_a_run_that_cannot_be_claimed_on_a_full_disk_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Ledger, run_id: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    task = Task((job(tmp_path),), str(tmp_path / "r"))
    monkeypatch.setattr(Ledger, "claim", full)
    ended = done(task)
    assert ended.status == "claimed"
    assert "cannot be written (No space left on device)." in ended.note
    assert ended.place == str(Ledger(tmp_path / "r").folder)
    monkeypatch.undo()
    assert done(task).status == "finished"


@pytest.mark.parametrize("fault", [errno.EMFILE, errno.EACCES])
def test_a_claim_that_fails_for_another_reason_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    def refused(self: Ledger, run_id: str) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(Ledger, "claim", refused)
    ended = done(Task((job(tmp_path),), str(tmp_path / "r")))
    assert (ended.status, ended.note) == ("failed", "")
    assert f"cannot be written ({os.strerror(fault)})." in ended.error


def test_a_log_without_room_costs_itself_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = job(tmp_path, optimizer="tests.study.optimizers_that_fail:Raises", epochs=20)
    task, log = Task((mine,), str(tmp_path / "r")), Ledger(tmp_path / "r").log(mine.run_id)
    log.parent.mkdir(parents=True)
    log.symlink_to("/dev/full")
    with capsys.disabled(), printing_to_log(task):
        ended = done(task)
    assert ended.status == "failed"
    assert "Traceback" in records.read(ended.path).extra["traceback"]
    log.unlink()
    log.mkdir()  # which cannot be opened
    with printing_to_log(task):
        assert done(task).status == "failed"


def test_a_cancelled_run_does_not_start(tmp_path: Path) -> None:
    mine, ledger = job(tmp_path), Ledger(tmp_path / "r")
    ledger.cancel(mine.run_id)
    assert done(Task((mine,), str(tmp_path / "r"))).status == "cancelled"
    ledger.allow(mine.run_id)
    assert done(Task((mine,), str(tmp_path / "r"))).status == "finished"


@pytest.mark.parametrize(
    ("name", "words"),
    [("Raises", "RuntimeError: no more of this"), ("Exits", "SystemExit: 3"), ("Reshapes", "Error")],
)
def test_a_failing_optimizer_leaves_its_traceback(tmp_path: Path, name: str, words: str) -> None:
    mine = job(tmp_path, optimizer=f"tests.study.optimizers_that_fail:{name}", epochs=20)
    ended = done(Task((mine,), str(tmp_path / "r")))
    assert ended.status == "failed"
    assert words in ended.error
    record = records.read(ended.path)
    assert record.status == "failed"
    assert "Traceback" in record.extra["traceback"]
    assert standing(mine, tmp_path / "r").failures == 1
    assert not (tmp_path / "r").exists()


def test_a_run_that_becomes_nan_has_diverged(tmp_path: Path) -> None:
    mine = job(tmp_path, optimizer="tests.study.optimizers_that_fail:Diverges", epochs=10)
    assert done(Task((mine,), str(tmp_path / "r"))).status == "diverged"


def test_a_run_that_cannot_start_is_recorded(tmp_path: Path) -> None:
    mine = make_job(config(tmp_path, problem="mnist_logreg", data=str(tmp_path / "file"), epochs=1))
    (tmp_path / "file").write_text("no folder")
    ended = done(Task((mine,), str(tmp_path / "r")))
    assert ended.status == "failed"
    assert "DataError" in ended.error
    assert records.read(ended.path).status == "failed"


def test_a_sweep_may_end_a_run(tmp_path: Path) -> None:
    asked: list[Mapping[str, Any]] = []

    def ask(state: Mapping[str, Any]) -> str | None:
        asked.append(state)
        return "worse than the median" if state["epoch"] == 1 else None

    mine = job(tmp_path)
    ended = done(Task((mine,), str(tmp_path / "r"), asks=True), ask=ask)
    assert ended.status == "stopped"
    assert [state["epoch"] for state in asked] == [0, 1]
    assert len(asked[-1]["curves"]["test_loss"]) == 2
    assert records.read(ended.path).extra["stopped"] == "worse than the median"
    assert done(Task((mine,), str(tmp_path / "r"))) == ended  # which is final


@pytest.mark.parametrize("limits", [{"gradients": 14}, {"cost": 13.5}, {"max_seconds": 1e-9}])
def test_a_spent_budget_ends_a_run(tmp_path: Path, limits: dict[str, Any]) -> None:
    ended = done(Task((job(tmp_path, epochs=9),), str(tmp_path / "r"), limits=limits))
    assert ended.status == "stopped"
    found = records.read(ended.path)
    assert len(found.train_losses) - 1 <= 2
    if "max_seconds" not in limits:  # seven gradients in an epoch, after which the budget is looked at
        assert found.extra["calls"]["gradients"][-1] == 14


def test_a_half_done_run_of_another_machine_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = job(tmp_path, epochs=3, checkpoint_every=1)
    assert done(Task((mine,), str(tmp_path / "r"), limits={"gradients": 7})).status == "stopped"
    for partial in tmp_path.rglob("*.json.partial"):
        partial.unlink()
    monkeypatch.setattr("deepobs_func.runner.checkpoint.machine", lambda device: {"processor": "another"})
    assert done(Task((mine,), str(tmp_path / "r"))).status == "finished"


def test_a_half_done_run_of_another_version_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside its checkpoint, which is the user's; alone, and as a member of a population."""
    changes: dict[str, Any] = {"epochs": 3, "checkpoint_every": 1, "output_dir": tmp_path / "r"}
    monkeypatch.setattr(deepobs_func, "__version__", "0.0.9")
    assert done(Task((job(tmp_path, **changes),), str(tmp_path / "r"), limits={"gradients": 7})).status == "stopped"
    monkeypatch.undo()
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    assert len(kept) == 1
    assert done(Task((job(tmp_path, **changes),), str(tmp_path / "r"))).status == "finished"
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_member_that_was_begun_by_itself_on_another_machine_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = tuple(job(tmp_path, seed=seed, epochs=2) for seed in (1, 2))
    assert done(Task(jobs[:1], str(tmp_path / "r"), limits={"gradients": 7})).status == "stopped"
    for partial in tmp_path.rglob("*.json.partial"):
        partial.unlink()
    monkeypatch.setattr("deepobs_func.runner.checkpoint.machine", lambda device: {"processor": "another"})
    found = execute(Task(jobs, str(tmp_path / "r")), lambda progress: None, lambda state: None)
    assert [each.status for each in found] == ["finished", "finished"]


def test_a_hyperparameter_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="handed to other processes as text"):
        job(tmp_path, optimizer="torch.optim.Adam", hyperparams={"betas": {1, 2}})
