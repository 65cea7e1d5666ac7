"""How far a study is, read from its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepobs_func import Study
from deepobs_func.errors import ConfigError
from deepobs_func.study.estimate import estimate, total
from deepobs_func.study.jobs import Job
from deepobs_func.study.ledger import Ledger
from deepobs_func.study.scheduler import Scheduler
from deepobs_func.study.status import find_run, study_status, summary
from deepobs_func.study.sweeping import jobs_of, sweep
from tests.study.test_scheduler import Scripted


def study(tmp_path: Path, **changes: object) -> Study:
    optimizers = {"sgd": {"lr": [1e-2, 1e-3]}, "tests.study.optimizers_that_fail:Raises": {"lr": 1e-3}}
    return Study(["quadratic_deep"], optimizers, epochs=9, output_dir=str(tmp_path / "r"), retries=0, **changes)


def test_every_stage_is_told_apart(tmp_path: Path) -> None:
    mine = study(tmp_path)
    jobs = jobs_of(mine)
    ledger = Ledger(tmp_path / "r")
    ledger.remember(jobs)
    assert summary(study_status(tmp_path / "r")) == {"waiting": 3}
    ledger.cancel(jobs[0].run_id)
    claim = ledger.claim(jobs[1].run_id)
    assert claim.acquire()
    ledger.note(jobs[1].run_id, {"epoch": 2, "epochs": 9, "last": {"test_loss": 1.5}})
    rows = study_status(tmp_path / "r")
    assert [row.stage for row in rows] == ["cancelled", "running", "waiting"]
    assert (rows[1].epoch, rows[1].epochs, rows[1].last) == (2, 9, {"test_loss": 1.5})
    claim.release()
    assert study_status(tmp_path / "r")[1].stage == "interrupted"
    swept = sweep(mine, make=Scripted, retry=True)
    assert swept.counts() == {"finished": 2, "failed": 1}
    rows = study_status(tmp_path / "r")
    assert summary(rows) == {"finished": 2, "failed": 1}
    assert rows[2].error == "RuntimeError: no more of this"
    assert rows[0].epoch == 9
    assert rows[0].path.endswith(".json")
    assert set(rows[0].last) == {"train_loss", "test_loss"}


def test_a_run_is_found_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    jobs = jobs_of(study(tmp_path))
    Ledger(tmp_path / "r").remember(jobs)
    assert find_run(tmp_path / "r", jobs[0].run_id[:10]).run_id == jobs[0].run_id
    with pytest.raises(ConfigError, match="no run of the study"):
        find_run(tmp_path / "r", "xyz")
    with pytest.raises(ConfigError, match="3 runs of the study"):
        find_run(tmp_path / "r", "")


def test_a_folder_without_a_study_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No study was run in"):
        study_status(tmp_path / "r")


def test_a_sweep_goes_on_with_what_is_left(tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def watch(scheduler: Scheduler, outcomes: object) -> None:
        if len(outcomes) == 1:  # type: ignore[arg-type]
            raise StopError

    with pytest.raises(StopError):
        sweep(study(tmp_path), make=Scripted, watch=watch)
    told: list[str] = []
    swept = sweep(study(tmp_path, seeds=[42, 43]), make=Scripted, tell=told.append)
    assert swept.counts() == {"finished": 4, "failed": 2}
    assert sum(not outcome.new for outcome in swept.outcomes) == 2  # they were trained as one
    swept = sweep(study(tmp_path), make=Scripted, tell=told.append)
    assert any("holds another study: 3 of its runs are not asked for now" in line for line in told)
    assert "  seeds: without [43]" in told
    assert not any(outcome.new for outcome in swept.outcomes)


def test_shares_are_disjoint_and_whole(tmp_path: Path) -> None:
    whole = {job.run_id for job in jobs_of(study(tmp_path))}
    parts = [{job.run_id for job in jobs_of(study(tmp_path), (index, 2))} for index in range(2)]
    assert parts[0] | parts[1] == whole
    assert not parts[0] & parts[1]
    with pytest.raises(ConfigError, match=r"share 2/2: it must be I/N"):
        jobs_of(study(tmp_path), (2, 2))


def test_what_is_left_is_estimated_from_a_few_steps(tmp_path: Path) -> None:
    jobs: list[Job] = jobs_of(study(tmp_path))[:2]
    (found,) = estimate(jobs)
    assert (found.problem, found.optimizer, found.runs) == ("quadratic_deep", "sgd", 2)
    assert 0.0 < found.seconds < 60.0
    assert total([found], jobs=2) == found.seconds
    assert not (tmp_path / "r").exists()
