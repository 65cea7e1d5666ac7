"""Worker processes: what one run does costs that run alone."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from deepobs_func import RunConfig
from deepobs_func.errors import ConfigError
from deepobs_func.study.pool import Pool
from deepobs_func.study.processes import Message, places
from deepobs_func.study.scheduler import Outcome
from deepobs_func.study.task import Ended

FAILING = "tests.study.optimizers_that_fail"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """One pool, one worker at a time, in which all goes wrong that can."""
    found = {}
    with Pool(tmp_path_factory.mktemp("pool") / "r", jobs=1, threads=1, retries=0) as pool:
        for optimizer in ("sgd", f"{FAILING}:Raises", f"{FAILING}:IsKilled", "adam"):
            pool.submit(RunConfig("quadratic_deep", optimizer, 0.01, epochs=10, compile="off"))
        pool.submit(RunConfig("quadratic_deep", "sgd", 0.02, epochs=10, compile="off"), prune=True)
        while pool.has_more:
            outcome = pool.next()
            found[f"{outcome.config.optimizer} {outcome.config.lr}"] = outcome
    return found


@pytest.mark.large
def test_good_runs_finish_beside_bad_ones(swept: dict[str, Outcome]) -> None:
    assert len(swept) == 5
    for name in ("sgd 0.01", "adam 0.01", "sgd 0.02"):
        outcome = swept[name]
        assert outcome.status == "finished"
        assert outcome.record is not None
        assert len(outcome.record.test_losses) == 11


@pytest.mark.large
def test_an_exception_is_in_the_record(swept: dict[str, Outcome]) -> None:
    outcome = swept[f"{FAILING}:Raises 0.01"]
    assert (outcome.status, outcome.error) == ("failed", "RuntimeError: no more of this")
    assert outcome.record is not None
    assert "in go_wrong" in outcome.record.extra["traceback"]


@pytest.mark.large
def test_a_killed_process_is_in_the_record(swept: dict[str, Outcome]) -> None:
    outcome = swept[f"{FAILING}:IsKilled 0.01"]
    assert outcome.status == "failed"
    assert "SIGKILL, as the system does when memory ends" in outcome.error
    assert outcome.record is not None
    assert outcome.record.status == "failed"


@pytest.mark.parametrize("wrong", [{"jobs": 0}, {"threads": 0}])
def test_numbers_below_one_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must be a whole number from 1"):
        Pool(tmp_path / "r", **wrong)


def test_cores_are_shared_out() -> None:
    several = places(1, 1)
    assert all(len(place.cores) == 1 for place in several)
    assert [place.device for place in places(3, 1, ("0", "1"))] == ["0", "1", "0"]
    assert places(1, 2)[0].environment()["OMP_NUM_THREADS"] == "2"


@pytest.mark.parametrize(
    ("granted", "expected"),
    [
        (None, ["0", "1", "0"]),
        ("2,3", ["2", "3", "2"]),
        ("GPU-6f, GPU-8c", ["GPU-6f", "GPU-8c", "GPU-6f"]),
        ("3,1,-1,0", ["3", "1", "3"]),  # CUDA sees those before the first that is none
    ],
)
def test_workers_use_the_gpus_that_were_granted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, granted: str | None, expected: list[str]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if granted is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", granted)
    found = Pool(tmp_path / "r", jobs=3, threads=1)._places
    assert [place.environment()["CUDA_VISIBLE_DEVICES"] for place in found] == expected


class Told:
    """What a worker process is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def send(self, do: str, **values: object) -> None:
        self.said.append(do)


def test_a_cancelled_run_is_told_to_end_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second signal comes at once, within a step, so that what was done since the last checkpoint were lost."""
    monkeypatch.setattr("deepobs_func.study.pool.LOOK", 0.0)
    mine, worker = Pool(tmp_path / "r", jobs=1, threads=1), Told()
    monkeypatch.setattr("deepobs_func.study.pool.Process", lambda *args: worker)
    for seed in (1, 2):
        config = RunConfig("quadratic_deep", "sgd", 0.01, epochs=1, seed=seed, batch_size=100 + seed)
        job = mine.submit(config)
        mine._group()
        mine._give_out()
        mine.ledger.cancel(job.run_id)
        for _ in range(3):
            mine._look()
        mine._handle(Message(0, "ended", {"runs": [asdict(Ended("interrupted"))]}))
        assert mine.next().status == "cancelled"
    assert worker.said == ["run", "interrupt", "run", "interrupt"]


def test_threads_stay_with_the_study(tmp_path: Path) -> None:
    assert Pool(tmp_path / "r", jobs=1, threads=1)._places[0].threads == 1
    assert Pool(tmp_path / "r", jobs=1)._places[0].threads == 1
