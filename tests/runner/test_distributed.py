"""What processes that train together must have in common, seen from one of them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from deepobs_func.backend.ranks import Ranks
from deepobs_func.errors import ConfigError, DataError
from deepobs_func.runner import Execution, RunConfig, checkpoint, distributed, loop, make_plan
from deepobs_func.runner.distributed import check_alike, check_same_stream, joined
from deepobs_func.runner.plan import Plan
from tests.command import Deepobs
from tests.runner import streamed
from tests.runner.small import config, small_problem


class Beside(Ranks):
    """Process 0 of two, beside a process 1 whose messages are given; what it sends is kept."""

    def __init__(self, theirs: Sequence[Any] = ()) -> None:
        super().__init__(0, 2)
        self.theirs, self.sent = list(theirs), list[Any]()

    def all(self, value: Any) -> Any:
        self.sent.append(value)
        return [value, self.theirs.pop(0) if self.theirs else value]

    def from_first(self, value: Any) -> Any:
        self.sent.append(value)
        return value


def of_two(plan: Plan, theirs: Sequence[Any] = ()) -> Plan:
    return dataclasses.replace(plan, ranks=Beside(theirs))


def says(execution: Execution | None = None, watches: bool = False, **changes: Any) -> Any:
    """What a process tells the others of its run."""
    plan = of_two(make_plan(config(**changes), small_problem()))
    check_alike(plan, execution, watches)
    (sent,) = plan.ranks.sent  # type: ignore[attr-defined]
    return sent


DIFFERENT: dict[str, dict[str, Any]] = {
    "the run's output_dir": {"output_dir": "results"},
    "the run's train_log_interval": {"train_log_interval": 3},
    "the run's checkpoint_every": {"checkpoint_every": 2},
    "the run's micro_batch": {"micro_batch": 8},
    "the run's bn_sync": {"bn_sync": "local"},
    "the run's deterministic": {"deterministic": True},
    "the run's compile": {"compile": "off"},
    "the execution": {"execution": Execution()},
    "callbacks that watch steps": {"watches": True},
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_decides_the_calls_is_the_same_everywhere(what: str) -> None:
    theirs = says(**DIFFERENT[what])
    with pytest.raises(ConfigError, match=f"Process 1 of 2 differs from process 0: {what} is "):
        check_alike(of_two(make_plan(config(), small_problem()), [theirs]))


def test_places_may_differ() -> None:
    mine = of_two(make_plan(config(output_dir="here", data="synthetic"), small_problem()), [])
    theirs = says(output_dir="there", data="synthetic", workers=1)
    mine.ranks.theirs.append(theirs)  # type: ignore[attr-defined]
    check_alike(mine)


def test_streams_are_compared_by_some_examples() -> None:
    problem = streamed.as_stream(small_problem())
    plan = of_two(make_plan(config(), problem))
    check_same_stream(plan)
    (mine,) = plan.ranks.sent  # type: ignore[attr-defined]
    assert set(mine) == {"the training data", "the test data"}
    reader = problem.dataset.reader
    assert callable(reader)

    def other(*arguments: Any, **options: Any) -> Any:
        for x, y in reader(*arguments, **options):
            yield x, (y + 1) % 3

    changed = dataclasses.replace(problem, dataset=dataclasses.replace(problem.dataset, reader=other))
    with pytest.raises(ConfigError, match="differs from process 0: the training data is 100 examples"):
        check_same_stream(of_two(make_plan(config(), changed), [mine]))


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with (
        pytest.raises(ConfigError, match=r"Process 2 .* 2 are there\. Start at most 2: --nproc-per-node 2"),
        joined("auto"),
    ):
        pass


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_each_process_has_a_gpu_and_all_have_one_configuration(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """So that a checkpoint, which process 0 writes, sends nobody to the GPU of process 0."""
    current: list[int] = []
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: current.append(torch.device("cuda", number).index))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    monkeypatch.setattr(distributed, "rendezvous", lambda *args, **how: iter([(dist.HashStore(), 1, 2)]))
    groups: list[str] = []
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **how: groups.append(backend))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr("deepobs_func.backend.ranks.current", lambda: Ranks(1, 2))
    with joined(device):
        plan = make_plan(config(device=device), small_problem())
    assert groups == ["nccl"]
    assert str(plan.device) == "cuda:1"
    assert plan.config.device == device


def test_the_command_line_hands_over_the_device_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, deepobs: Deepobs
) -> None:
    seen: list[str] = []

    def run(config: RunConfig, **how: Any) -> None:
        seen.append(config.device)
        raise ConfigError("seen")

    monkeypatch.setattr(distributed, "joined", lambda device: contextlib.nullcontext("cuda:0"))
    monkeypatch.setattr(loop, "run", run)
    monkeypatch.setattr("deepobs_func.runner.run", run, raising=False)
    assert deepobs("run", "two_d_beale", "--optimizer", "sgd", "--lr", "1e-4", "-q").code == 2
    assert seen == ["auto"]


def test_what_process_0_does_not_find_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others wait for its message."""
    ranks = Beside()
    monkeypatch.setattr("deepobs_func.backend.ranks.current", lambda: ranks)
    with pytest.raises(DataError, match="is no readable checkpoint"):
        loop.run(config(), small_problem(), resume=tmp_path / f"none{checkpoint.SUFFIX}")
    assert isinstance(ranks.sent[-1][1], DataError)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError):
        loop.run(config(output_dir=tmp_path / "file"), small_problem())
    assert isinstance(ranks.sent[-1][1], ConfigError)
