"""A given execution and what the run asks for agree, or the run does not start."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from deepobs_func.backend.ranks import Ranks
from deepobs_func.errors import ConfigError
from deepobs_func.runner import Execution, make_plan, run
from deepobs_func.runner.agreeing import agreed, check_kept
from deepobs_func.runner.callbacks import Stop
from deepobs_func.runner.events import Evaluated, Event
from deepobs_func.runner.population.running import run_population
from tests.runner.small import config, small_problem
from tests.runner.streamed import as_stream


def test_the_options_of_a_run_hold_with_a_given_execution() -> None:
    made = config(micro_batch=8, deterministic=True, bn_sync="local", epochs=1)
    how = run(made, small_problem(), execution=Execution(threads=1)).record.extra["execution"]
    found = {name: how[name] for name in ("micro_batch", "deterministic", "bn_sync", "threads")}
    assert found == {"micro_batch": 8, "deterministic": True, "bn_sync": False, "threads": 1}


def test_a_process_of_two_steps_on_its_shard() -> None:
    plan = dataclasses.replace(make_plan(config(), small_problem()), ranks=Ranks(1, 2))
    assert agreed(plan, Execution()).processes == 2
    assert agreed(plan, Execution(micro_batch=16)).micro_batch == 0  # as large as the shard


CONTRADICTIONS: dict[str, dict[str, Any]] = {
    "micro_batch 8, and the run 0. Give micro_batch 8,": {"micro_batch": 8},
    "deterministic True, and the run False. Give deterministic,": {"deterministic": True},
    "activation_checkpointing True, and the run False. Give activation_checkpointing,": {
        "activation_checkpointing": True
    },
    "bn_sync False, and the run True. Give bn_sync local,": {"bn_sync": False},
    "processes 2, and the run 1. Start 2 processes,": {"processes": 2},
}


@pytest.mark.parametrize("message", CONTRADICTIONS)
def test_contradictions_are_refused(message: str) -> None:
    with pytest.raises(ConfigError, match=f"execution has {message}"):
        run(config(epochs=1), small_problem(), execution=Execution(**CONTRADICTIONS[message]))
    with pytest.raises(ConfigError, match=f"execution has {message}"):
        run_population(config(epochs=1), problem=small_problem(), execution=Execution(**CONTRADICTIONS[message]))


IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "cuda_graphs true, which needs an NVIDIA GPU; the device is cpu": {"cuda_graphs": True},
    "steps_per_call 2; it must divide the 3 steps of an epoch": {"steps_per_call": 2},
}


@pytest.mark.parametrize("message", IMPOSSIBLE)
def test_what_cannot_be_done_here_is_refused_and_leaves_no_record(tmp_path: Path, message: str) -> None:
    made, execution = config(epochs=1, output_dir=tmp_path / "r", device="cpu"), Execution(**IMPOSSIBLE[message])
    with pytest.raises(ConfigError, match=f"execution has {message}"):
        run(made, small_problem(), execution=execution)
    with pytest.raises(ConfigError, match=f"execution has {message}"):
        run_population(made, problem=small_problem(), execution=execution)
    assert not list(tmp_path.rglob("*.partial"))


def test_streamed_batches_come_one_by_one() -> None:
    plan = make_plan(config(problem="small", batch_size=8), as_stream(small_problem()))
    with pytest.raises(ConfigError, match="steps_per_call 2; batches that are streamed are read one by one"):
        agreed(plan, Execution(steps_per_call=2))
    assert agreed(plan, Execution()).steps_per_call == 1


def stopping(event: Event) -> Stop | None:
    return Stop("enough") if isinstance(event, Evaluated) and event.epoch == 1 else None


@pytest.mark.parametrize("changes", [{"micro_batch": 8}, {"deterministic": True}])
def test_a_run_goes_on_as_it_was_asked_for(tmp_path: Path, changes: dict[str, Any]) -> None:
    made = config(epochs=2, checkpoint_every=1, output_dir=tmp_path / "results", compile="off")
    run(made, small_problem(), callbacks=[stopping])
    with pytest.raises(ConfigError, match=f"was executed with {next(iter(changes))} .*start anew, without resuming"):
        run(dataclasses.replace(made, **changes), small_problem(), resume=True)
    assert run(made, small_problem(), execution=None, resume=True).status == "finished"


def test_another_number_of_processes_is_another_execution() -> None:
    plan = dataclasses.replace(make_plan(config(), small_problem()), ranks=Ranks(0, 2))
    with pytest.raises(ConfigError, match=r"processes 1, and the run now asks for 2.* Start 1 process,"):
        check_kept(plan, Execution(), Path("a.safetensors"))


def test_members_in_pieces_go_by_themselves() -> None:
    """A population has no pieces."""
    made = config(micro_batch=8, epochs=1, compile="off", train_log_interval=1)
    population = run_population(made, seeds=[1, 2], problem=small_problem())
    for member in population.members:
        assert "population" not in member.record.extra
        assert member.record.extra["execution"]["micro_batch"] == 8
        assert member.record.extra["execution"]["way"] == "alone"


def test_a_population_is_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepobs_func.backend.ranks.current", lambda: Ranks(0, 2))
    with pytest.raises(ConfigError, match="A population trains in one process, and this one is one of 2"):
        run_population(config(epochs=1), seeds=[1, 2], problem=small_problem())


def test_fields_that_came_later_leave_ids_alone() -> None:
    """At their defaults; else they are told apart."""
    import torch

    from deepobs_func import records
    from deepobs_func.runner.identity import machine

    device = torch.device("cpu")
    earlier = {"compile": False, "compile_batch": False, "steps_per_call": 1, "channels_last": False, "threads": None}
    earlier |= {"onednn": False, "way": "alone", "members": 1, "repack": 0}
    assert Execution().id(device) == records.execution_id(earlier | machine(device))
    others = [Execution(**change) for change in CONTRADICTIONS.values()]
    assert len({each.id(device) for each in (Execution(), *others)}) == 1 + len(CONTRADICTIONS)
