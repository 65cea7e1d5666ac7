"""What was probed is kept: by probes that overlap, by a run that is resumed, apart where machines differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deepobs_func import probe_run, records
from deepobs_func.runner import RunConfig, run
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.probe_entries import merged, write_record

EAGER = Execution(reason="as asked")


def config(folder: Path) -> RunConfig:
    kept: dict[str, Any] = {"checkpoint_every": 1, "keep": 9, "output_dir": str(folder / "results")}
    return RunConfig("quadratic_deep", "sgd", 0.01, epochs=2, **kept)


def entry(over: str, name: str, steps: list[int], value: float, **more: Any) -> dict[str, Any]:
    column = {"steps": steps, "values": [value] * len(steps)}
    return {"over": over, "batches": 1, "bn": None, "layers": None, "quantities": {name: column}, **more}


def test_entries_are_joined_by_what_they_measure() -> None:
    old = [entry("batch", "a", [0, 5], 1.0), entry("train", "a", [0], 2.0)]
    found = merged(old, entry("batch", "a", [3, 5], 9.0))
    assert [each["over"] for each in found] == ["train", "batch"]
    assert found[1]["quantities"]["a"] == {"steps": [0, 3, 5], "values": [1.0, 9.0, 9.0]}
    found = merged(old, entry("batch", "b", [1], 7.0))
    assert found[1]["quantities"] == {"a": old[0]["quantities"]["a"], "b": {"steps": [1], "values": [7.0]}}


@pytest.mark.parametrize("differing", [{"execution_id": "2"}, {"environment": {"torch": "2.9"}}])
def test_values_of_another_execution_or_machine_stay_apart(differing: dict[str, Any]) -> None:
    here = {"execution_id": "1", "environment": {"torch": "2.13"}}
    old = entry("batch", "a", [0, 5], 1.0, **here)
    new = entry("batch", "a", [5], 9.0, **(here | differing))
    found = merged([old], new)
    assert found == [old, new]
    third = entry("batch", "a", [5], 2.0, **here)
    assert [each["quantities"]["a"]["values"] for each in merged(found, third)] == [[9.0], [1.0, 2.0]]


def test_probes_that_overlap_lose_nothing(tmp_path: Path) -> None:
    """The second one starts and ends while the first one computes."""
    path = run(config(tmp_path), execution=EAGER).record.path
    assert path is not None

    def second(done: int, of: int) -> None:
        probe_run(path, "distance", at=[1])

    probe_run(path, "grad_norm", at=[0], progress=second)
    (found,) = records.read(path).extra["probed"]
    assert {name: column["steps"] for name, column in found["quantities"].items()} == {
        "distance": [7],
        "grad_norm": [0],
    }


def test_a_resumed_run_keeps_what_was_probed_before(tmp_path: Path) -> None:
    made = config(tmp_path)
    path = run(made, execution=EAGER).record.path
    assert path is not None
    path.unlink()  # as if it had been killed before its end
    checkpoint = sorted(tmp_path.rglob("*.safetensors"))[0]
    partial = probe_run(checkpoint, "grad_norm")
    assert str(partial.path).endswith(".partial")
    ended = run(made, execution=EAGER, resume=True).record
    assert ended.path is not None
    assert ended.status == "finished"
    assert records.read(ended.path).extra["probed"] == partial.extra["probed"]
    # What is probed at the partial record from now on is the finished run's.
    assert partial.path is not None
    later = probe_run(partial.path, "grad_norm", at=[2])
    assert later.path == ended.path
    assert later.extra["probed"][0]["quantities"]["grad_norm"]["steps"] == [7, 14]


def test_a_run_that_ends_while_it_is_probed(tmp_path: Path) -> None:
    """The probe reads the record of a run that goes on; its end is neither overwritten nor without the probe."""
    made = config(tmp_path)
    path = run(made, execution=EAGER).record.path
    assert path is not None
    path.unlink()
    partial = probe_run(sorted(tmp_path.rglob("*.safetensors"))[0], "grad_norm").path
    assert partial is not None

    def end(done: int, of: int) -> None:
        run(made, execution=EAGER, resume=True)

    found = probe_run(partial, "distance", at=[1], progress=end)
    assert found.path is not None
    assert found.path.suffix == ".json"
    assert found.status == "finished"
    assert list(records.read(found.path).extra["probed"][0]["quantities"]) == ["grad_norm", "distance"]


def test_only_entries_of_the_same_run_are_taken_over(tmp_path: Path) -> None:
    made = config(tmp_path)
    record = run(made, execution=EAGER).record
    assert made.output_dir is not None
    record.extra |= {"status": "failed", "probed": [entry("batch", "a", [0], 1.0)]}
    records.write(record, made.output_dir)
    del record.extra["probed"]
    written = write_record(record, made.output_dir)
    assert records.read(written.path).extra["probed"] == [entry("batch", "a", [0], 1.0)]
    record.extra |= {"run_id": "another"}
    del record.extra["probed"]
    assert "probed" not in records.read(write_record(record, made.output_dir).path).extra
