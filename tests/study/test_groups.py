"""Which runs are trained as one: of one structure, small, and again as they were."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deepobs_func import RunConfig, records
from deepobs_func.errors import ConfigError
from deepobs_func.study import Study, sweep
from deepobs_func.study.groups import groups
from deepobs_func.study.jobs import Job, make_job
from deepobs_func.study.ledger import Ledger
from deepobs_func.study.scheduler import Entry
from deepobs_func.study.task import Ended, Task, execute
from tests.study.test_scheduler import Scripted


def jobs(tmp_path: Path, *lrs: float, problem: str = "two_d_beale", optimizer: str = "sgd") -> list[Job]:
    how = {"epochs": 1, "output_dir": str(tmp_path / "r"), "compile": "off"}
    return [make_job(RunConfig(problem, optimizer, lr, **how)) for lr in lrs]


def shape(found: list[tuple[Job, ...]]) -> list[list[float]]:
    return [[job.config.lr for job in group] for group in found]


def test_small_runs_are_shared_among_workers(tmp_path: Path) -> None:
    several = [*jobs(tmp_path, 1.0, 2.0, 3.0), *jobs(tmp_path, 1.0, problem="two_d_branin")]
    assert shape(groups(several, 2, Ledger(tmp_path / "r"))) == [[1.0, 3.0], [2.0], [1.0]]


@pytest.mark.parametrize(
    "large", [{"problem": "mnist_mlp"}, {"optimizer": "torch.optim.SGD"}, {"problem": "imagenet_vgg16"}]
)
def test_large_runs_and_classes_go_by_themselves(tmp_path: Path, large: dict[str, str]) -> None:
    assert shape(groups(jobs(tmp_path, 1.0, 2.0, **large), 2, Ledger(tmp_path / "r"))) == [[1.0], [2.0]]


def test_who_was_together_is_so_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "r")
    first = shape(groups(jobs(tmp_path, 1.0, 2.0, 3.0, 4.0), 2, ledger))
    again = shape(groups(jobs(tmp_path, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0), 1, ledger))
    assert again == [*first, [5.0, 6.0]]


def test_a_study_that_was_narrower_for_a_while_has_each_run_in_one_group(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "r")
    for lrs in ((1.0, 2.0, 3.0, 4.0), (1.0, 2.0), (2.0, 3.0, 5.0), (1.0, 2.0, 3.0, 4.0, 5.0)):
        found = shape(groups(jobs(tmp_path, *lrs), 1, ledger))
        assert sorted(lr for group in found for lr in group) == list(lrs)
    assert found == [[1.0, 2.0, 3.0, 4.0], [5.0]]


def test_what_a_scheduler_of_one_s_own_does_not_look_at_is_refused(tmp_path: Path) -> None:
    study = Study(["two_d_beale"], {"sgd": {"lr": [1e-4]}}, epochs=1, output_dir=str(tmp_path / "r"))
    for given in ({"jobs": 2}, {"threads": 2}):
        with pytest.raises(ConfigError, match="jobs and threads are of the worker processes"):
            sweep(study, make=Scripted, **given)


def test_a_group_that_was_torn_computes_the_same_numbers(tmp_path: Path) -> None:
    """Killed between two files: what is there stays, what is missing is computed beside it."""

    def numbers(folder: Path) -> dict[str, object]:
        found = [records.read(path) for path in sorted(folder.rglob("*.json"))]
        assert len(found) == 4
        return {record.extra["run_id"]: (record.test_losses, record.minibatch_train_losses) for record in found}

    def study(name: str) -> Study:
        lrs = [1e-5, 1e-4, 2e-4, 1e-3]
        folder = str(tmp_path / name)
        return Study(["two_d_beale"], {"momentum": {"lr": lrs}}, epochs=2, output_dir=folder, compile="off")

    sweep(study("whole"), make=Scripted)
    # How runs are executed is measured once a study, and decides rounding.
    choices = [Ledger(str(tmp_path / name)).choices for name in ("whole", "torn")]
    if choices[0].exists():
        shutil.copytree(*choices)
    sweep(study("torn"), make=Scripted)
    paths = sorted((tmp_path / "torn").rglob("*.json"))
    kept = {path: path.read_bytes() for path in paths[:2]}
    for path in paths[2:]:
        path.unlink()
    swept = sweep(study("torn"), make=Scripted)
    assert sorted(outcome.new for outcome in swept.outcomes) == [False, False, True, True]
    assert numbers(tmp_path / "torn") == numbers(tmp_path / "whole")
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_member_that_fails_costs_itself(tmp_path: Path) -> None:
    several = jobs(tmp_path, 1e-6, 1.0, 1e-7, optimizer="tests.study.optimizers_that_fail:frail")
    found = execute(Task(tuple(several), str(tmp_path / "r")), lambda progress: None, lambda state: None)
    assert [each.status for each in found] == ["finished", "failed", "finished"]
    assert found[1].error == "RuntimeError: too fast"
    assert "Traceback" in records.read(found[1].path).extra["traceback"]


def test_a_cancelled_member_leaves_the_others(tmp_path: Path) -> None:
    several = jobs(tmp_path, 1e-7, 1e-5, 1e-6)

    def cancel_one(entry: Entry) -> list[Ended] | None:
        if len(entry.jobs) == 3:
            mine.ledger.cancel(several[1].run_id)
            return [Ended("interrupted")] * 3
        return None

    with Scripted(tmp_path / "r", cancel_one) as mine:
        for job in several:
            mine.add(job)
        outcomes = [mine.next() for _ in several]
    assert sorted(outcome.status for outcome in outcomes) == ["cancelled", "finished", "finished"]
