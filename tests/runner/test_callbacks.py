"""Callbacks: what they return, what they write, how they end a run, and what becomes of it when they raise."""

from __future__ import annotations

import itertools
import json
import math
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest

from deepobs_func import records
from deepobs_func.errors import ConfigError
from deepobs_func.records import RunRecord
from deepobs_func.runner import run
from deepobs_func.runner.callbacks import (
    Callback,
    Evaluated,
    Event,
    Finished,
    JsonLines,
    Logged,
    Stop,
    max_seconds,
    stop_at,
)
from deepobs_func.runner.identity import problem_code
from tests.runner.small import config, recorded, small_problem


def made(**changes: object) -> RunRecord:
    return recorded(config(**changes), small_problem())


# Ending a run


@pytest.mark.parametrize("quantity", ["test_loss", "train_loss", "test_accuracy", "train_accuracy"])
def test_a_run_ends_at_the_first_evaluation_at_its_target(quantity: str) -> None:
    whole = made(epochs=4)
    split, _, kind = quantity.partition("_")
    column = getattr(whole, f"{split}_{'losses' if kind == 'loss' else 'accuracies'}")
    target = sorted(column)[2]
    reached = (lambda value: value <= target) if kind == "loss" else (lambda value: value >= target)
    first = next(epoch for epoch, value in enumerate(column) if reached(value))
    record = recorded(config(epochs=4), small_problem(), stop_at(quantity, target))
    assert len(record.test_losses) == first + 1
    assert record.test_losses == whole.test_losses[: first + 1]
    assert record.status == ("stopped" if first < 4 else "finished")


def test_a_target_that_is_reached_by_the_last_evaluation_is_a_finished_run(tmp_path: Path) -> None:
    last = made().test_losses[-1]
    record = recorded(config(output_dir=str(tmp_path)), small_problem(), stop_at("test_loss", last))
    assert record.status == "finished"
    assert str(record.path).endswith(".json")


def test_a_stopped_run_is_a_partial_and_goes_on_where_it_was(tmp_path: Path) -> None:
    settings = config(epochs=4, output_dir=str(tmp_path / "results"))
    whole = made(epochs=4)
    stopped = recorded(settings, small_problem(), lambda event: Stop("enough") if event.epoch == 2 else None)
    assert (stopped.status, stopped.extra["stopped"]) == ("stopped", "enough")
    assert str(stopped.path).endswith(".json.partial")
    assert not (tmp_path / "results").exists()
    again = run(settings, small_problem(), resume=True).record
    assert (again.status, again.test_losses) == ("finished", whole.test_losses)
    assert "stopped" not in again.extra


def test_the_first_of_two_stops_is_the_reason() -> None:
    record = recorded(config(), small_problem(), lambda event: Stop("first"), lambda event: Stop("second"))
    assert record.extra["stopped"] == "first"
    assert len(record.test_losses) == 1


def test_a_budget_is_of_training_alone() -> None:
    """Evaluations and callbacks do not count, so slow ones do not end a run."""
    slow = lambda event: time.sleep(0.3) if isinstance(event, Evaluated) else None
    record = recorded(config(), small_problem(), slow, max_seconds(1.0))
    assert record.status == "finished"


@pytest.mark.parametrize("seconds", [0, -1, math.nan])
def test_a_budget_is_positive(seconds: float) -> None:
    with pytest.raises(ConfigError, match=r"max_seconds .*positive number of seconds"):
        max_seconds(seconds)


def test_a_target_that_the_run_does_not_have_is_found_before_anything_is_read() -> None:
    with pytest.raises(ConfigError, match="stop_at test_loss=nan: the target must be a number"):
        stop_at("test_loss", math.nan)
    quadratic = config(problem="quadratic_deep")
    with pytest.raises(ConfigError, match=r"quadratic_deep has no accuracy\. Stop at test_loss"):
        recorded(quadratic, None, stop_at("test_accuracy", 0.9))
    with pytest.raises(ConfigError, match=r"valid_loss: no examples are set aside .*valid"):
        recorded(config(problem="mnist_mlp", data="nowhere"), None, stop_at("valid_loss", 0.9))


# Numbers


def test_numbers_of_any_kind_are_recorded_with_their_place() -> None:
    import numpy as np
    import torch

    def numbers(event: Event) -> dict[str, Any]:
        return {"whole": 1, "numpy": np.float32(0.5), "tensor": torch.tensor(2.0), "step": event.step}

    record = recorded(config(epochs=1, train_log_interval=1), small_problem(), numbers)
    places = [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0], [1, 0]]
    metrics = record.extra["metrics"]
    assert [entry[:2] for entry in metrics["whole"]] == places
    assert [metrics[name][0][2] for name in ("whole", "numpy", "tensor")] == [1.0, 0.5, 2.0]
    assert [entry[2] for entry in metrics["step"]] == [step for _, step in places]
    assert json.loads(json.dumps(metrics)) == metrics


@pytest.mark.parametrize("answer", [3, "a", {"a": "b"}, {"a": None}, {1: 2.0}, [1.0]])
def test_another_answer_is_refused(answer: object) -> None:
    with pytest.raises(ConfigError, match=r"A callback returned .*None, a mapping of names to numbers, or Stop"):
        recorded(config(), small_problem(), lambda event: answer)  # type: ignore[arg-type, return-value]


# Lines of JSON


def test_lines_of_json_follow_the_evaluations(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    record = recorded(config(), small_problem(), JsonLines(path))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["evaluated"] * 4 + ["finished"]
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3, 3]
    assert [line["test_loss"] for line in lines[:-1]] == record.test_losses
    assert [line["train_accuracy"] for line in lines[:-1]] == record.train_accuracies
    assert all(before["time"] <= after["time"] for before, after in itertools.pairwise(lines))
    recorded(config(epochs=1), small_problem(), JsonLines(path))
    assert len(path.read_text().splitlines()) == 5 + 3


def test_lines_that_cannot_be_written_are_found_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be written .*Name another file"):
        JsonLines(tmp_path)


def test_a_full_disk_behind_the_lines_ends_no_run() -> None:
    """They are for others to follow; the record has all of it."""
    record = recorded(config(), small_problem(), JsonLines("/dev/full"))
    assert (record.status, len(record.test_losses)) == ("finished", 4)


# Errors


class Raises:
    """Raises at an event, and is closed."""

    def __init__(self, kind: type[Event], epoch: int, error: BaseException) -> None:
        self.kind, self.epoch, self.error, self.closed = kind, epoch, error, 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, self.kind) and event.epoch == self.epoch:
            raise self.error

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("kind", [Evaluated, Logged, Finished])
@pytest.mark.parametrize("error", [RuntimeError("out of luck"), SystemExit(3), MemoryError()])
def test_a_callback_that_raises_loses_nothing(tmp_path: Path, kind: type[Event], error: BaseException) -> None:
    settings = config(output_dir=str(tmp_path / "results"), train_log_interval=1)
    raises, other = (Raises(kind, 3 if kind is Finished else 2, error), Raises(Event, -1, error))
    with pytest.raises(type(error)) as caught:
        recorded(settings, small_problem(), raises, other)
    (path,) = (tmp_path / "results.state").rglob("*.json.partial")
    kept, whole = records.read(path), made(train_log_interval=1)
    assert kept.status == "failed"
    assert kept.extra["error"].startswith(type(error).__name__)
    assert kept.test_losses == whole.test_losses[: 4 if kind is Finished else 3]
    assert any(str(path) in note for note in caught.value.__notes__)
    assert (raises.closed, other.closed) == (1, 1)
    again = run(settings, small_problem(), resume=True).record  # mended, it goes on where it was
    assert (again.test_losses, again.minibatch_train_losses) == (whole.test_losses, whole.minibatch_train_losses)


def test_one_that_raises_when_it_is_closed_costs_no_record(tmp_path: Path) -> None:
    class Closing(Raises):
        def close(self) -> None:
            super().close()
            raise OSError("gone")

    first, second = Closing(Event, -1, OSError()), Closing(Event, -1, OSError())
    with pytest.raises(OSError, match="gone"):
        recorded(config(output_dir=str(tmp_path / "results")), small_problem(), first, second)
    (path,) = (tmp_path / "results").rglob("*.json")
    assert records.read(path).status == "finished"
    assert (first.closed, second.closed) == (1, 1)


# Where runs are made


def test_runs_in_threads_are_the_runs_that_they_are() -> None:
    found: dict[int, RunRecord] = {}
    problem = small_problem()  # one net for all threads
    before = problem_code(problem)

    def work(seed: int) -> None:
        callbacks: list[Callback] = [max_seconds(60)]
        found[seed] = recorded(config(seed=seed, epochs=2), problem, *callbacks)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, record in found.items():
        assert record.test_losses == made(seed=seed, epochs=2).test_losses
    assert len(found) == 3
    assert problem_code(problem) == before


# TensorBoard


def test_without_tensorboard_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    from deepobs_func.runner.callbacks import TensorBoard

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'deepobs-func\[tensorboard\]'"):
        TensorBoard(tmp_path)


def test_a_folder_for_tensorboard_that_cannot_be_written_is_the_user_s_mistake(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from deepobs_func.runner.callbacks import TensorBoard

    there = types.ModuleType("torch.utils.tensorboard")
    there.SummaryWriter = lambda folder: Path(folder).mkdir(parents=True)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", there)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigError, match=r"file/logs cannot be written \(.*Name another folder"):
        TensorBoard(tmp_path / "file" / "logs")


@pytest.mark.bench
def test_what_tensorboard_shows_is_what_the_record_has(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from deepobs_func.runner.callbacks import TensorBoard

    settings = config(train_log_interval=1, track=("grad_norm",), track_every=2)
    top = lambda event: {"best": max(event.log.accuracies["test"])} if isinstance(event, Evaluated) else None
    record = recorded(settings, small_problem(), top, TensorBoard(tmp_path))
    shown = EventAccumulator(str(tmp_path))
    shown.Reload()
    column = lambda name: [(event.step, event.value) for event in shown.Scalars(name)]
    near = lambda values: [(step, pytest.approx(value, rel=1e-6)) for step, value in values]
    assert column("test/loss") == near(zip((0, 3, 6, 9), record.test_losses, strict=True))
    assert column("train/accuracy") == near(zip((0, 3, 6, 9), record.train_accuracies, strict=True))
    assert [step for step, _ in column("minibatch/loss")] == list(range(1, 10))
    tracked = record.extra["tracked"]
    assert column("tracked/grad_norm") == near(zip(tracked["steps"], tracked["quantities"]["grad_norm"], strict=True))
    best = [(3 * epoch, value) for epoch, _, value in record.extra["metrics"]["best"]]
    assert column("metrics/best") == near(best)
