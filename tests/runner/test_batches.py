"""What feeds a run: the same numbers wherever the data lie and whoever reads them, and clean ends."""

from __future__ import annotations

import io
import math
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from deepobs_func import random, records
from deepobs_func.errors import DataError
from deepobs_func.records import RunRecord
from deepobs_func.runner import RunInterrupted, batches
from deepobs_func.runner.batches import make_batches
from deepobs_func.runner.config import PROTOCOLS
from deepobs_func.runner.events import Evaluated, Event, Logged
from deepobs_func.runner.order import epoch_order, train_eval_rows
from deepobs_func.runner.plan import make_plan
from deepobs_func.runner.progress import Bar, Lines
from tests.datasets.imagenet_files import cut
from tests.runner import small as small_set
from tests.runner import test_data_kinds as kinds
from tests.runner.small import recorded, small_problem
from tests.runner.small_nets import dropping
from tests.runner.streamed import BATCH, TEST, TRAIN, as_stream, config, pictures, write_pictures

ONE_BATCH = {"train_size": 18, "test_size": 5}  # in the evaluation, so that both feeds evaluate equal chunks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def numbers(record: RunRecord) -> list[Any]:
    return [*kinds.numbers(record), record.train_accuracies, record.extra["penalties"], record.extra["run_id"]]


# The numbers


@pytest.mark.parametrize(  # augmented on the device; noise in every phase
    "name", ["cifar10_3c3d", pytest.param("mnist_vae", marks=pytest.mark.large)]
)
@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_streamed_data_give_the_numbers_of_resident_ones(name: str, protocol: str) -> None:
    problem = kinds.small(name, **ONE_BATCH, file_sizes=())
    made = kinds.config(name, protocol=protocol, epochs=2)
    held, streamed = recorded(made, problem), recorded(made, as_stream(problem))
    assert numbers(held)[:-1] == numbers(streamed)[:-1]  # their ids differ: the code that reads them does
    assert len(streamed.minibatch_train_losses) == 8
    assert ("data_wait" in held.extra["timings"], "data_wait" in streamed.extra["timings"]) == (False, True)


def test_more_than_one_batch_is_evaluated() -> None:
    made = small_set.config(batch_size=16)
    held, streamed = recorded(made, small_problem()), recorded(made, as_stream(small_problem()))
    np.testing.assert_allclose(held.test_losses, streamed.test_losses, rtol=1e-6)
    np.testing.assert_allclose(held.train_losses, streamed.train_losses, rtol=1e-6)
    assert held.test_accuracies == streamed.test_accuracies


@pytest.mark.parametrize("protocol", ["default", pytest.param("deepobs-1.1.2", marks=pytest.mark.large)])
def test_who_reads_changes_no_number(folder: Path, protocol: str) -> None:
    """Bit for bit, also from one run to the next; and another seed gives others."""
    runs = [recorded(config(folder, protocol=protocol, workers=workers), pictures()) for workers in (0, 2)]
    assert numbers(runs[0]) == numbers(runs[1])
    assert [record.extra["workers"] for record in runs] == [0, 2]
    assert len(runs[0].minibatch_train_losses) == 2 * (TRAIN // BATCH)
    other = recorded(config(folder, protocol=protocol, seed=43), pictures())
    assert numbers(other)[:3] != numbers(runs[0])[:3]


@pytest.mark.large
def test_compiled_steps_take_the_same_streamed_batches_and_noise() -> None:
    """With Inductor; the whole run compiles each function once."""
    made, problem = small_set.config(problem="dropout", train_log_interval=1), as_stream(dropping())
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled = recorded(replace(made, compile="on"), problem)
    eager, other = recorded(made, problem), recorded(replace(made, seed=1), problem)
    np.testing.assert_allclose(compiled.test_losses, eager.test_losses, rtol=1e-4)
    np.testing.assert_allclose(compiled.minibatch_train_losses, eager.minibatch_train_losses, rtol=1e-4)
    assert not np.allclose(other.minibatch_train_losses, eager.minibatch_train_losses, rtol=1e-2)


def test_the_training_set_is_evaluated_augmented_under_the_reference_s_protocol_only(folder: Path) -> None:
    """With no step to speak of, only the crops change from one evaluation to the next."""
    default, reference = (recorded(config(folder, protocol=name, lr=1e-30), pictures()) for name in PROTOCOLS)
    assert len(set(default.train_losses)) == 1
    assert len(set(reference.train_losses)) == 3
    assert set(default.test_losses) == set(reference.test_losses)


# The batches


def test_an_epoch_has_whole_batches_in_the_run_s_order_and_crops_of_its_own(folder: Path) -> None:
    plan, key = make_plan(config(folder, protocol="deepobs-1.1.2"), pictures()), random.key(42)
    made = make_batches(plan, key)
    first, second = list(made.epoch(0, 1)), list(made.epoch(1, 1))
    labels = torch.arange(3).repeat_interleave(TRAIN // 3) + 1  # rows are numbered class by class
    order = epoch_order(plan.protocol, plan.problem.dataset, key, 0, BATCH)
    assert len(first) == len(order) == TRAIN // BATCH
    for (split, rows, _, _), (later, *_), expected in zip(first, second, order, strict=True):
        assert split.x.shape == (BATCH, 3, 224, 224)
        assert rows.tolist() == [list(range(BATCH))]
        assert torch.equal(split.y, labels[expected])
        assert torch.equal(split.y, later.y)
        assert not torch.equal(split.x, later.x)
    assert torch.equal(made.first(1)[0].x, first[0][0].x)


def test_what_is_evaluated_is_read_batch_by_batch() -> None:
    seen: list[Tensor] = []
    problem = as_stream(small_problem(), seen=seen.append)
    made = make_batches(make_plan(small_set.config(batch_size=8), problem), random.key(0))
    assert (made.chunk(10_000), seen) == (8, [])
    chunks = made.chunks("test", torch.arange(64).view(8, 8), random.key(0), False)
    (split, rows) = next(chunks)
    assert (len(split.x), len(split.y), len(rows), len(seen)) == (8, 8, 8, 1)
    chunks.close()
    assert len(seen) == 1


def test_the_warm_up_reads_a_step_and_two_batches_of_each_evaluation() -> None:
    seen: list[Tensor] = []
    at: list[int] = []

    def count(event: Event) -> None:
        if isinstance(event, Evaluated):
            at.append(len(seen))

    recorded(small_set.config(batch_size=8, epochs=1), as_stream(small_problem(), seen=seen.append), count)
    assert at == [1 + 2 + 2 + 8 + 8, 1 + 2 + 2 + 8 + 8 + 12 + 8 + 8]


# Waiting


def test_waiting_for_data_is_in_the_record_and_said() -> None:
    console, terminal = Console(file=io.StringIO(), width=200), Console(file=io.StringIO(), width=200)
    terminal._force_terminal = True
    for reporter, shown in ((Lines(console), console), (Bar(terminal), terminal)):
        record = recorded(small_set.config(epochs=2), as_stream(small_problem(), delay=0.03), reporter)
        waits, trained = record.extra["timings"]["data_wait"], record.extra["timings"]["train"]
        assert len(waits) == len(trained) == 2
        assert all(3 * 0.03 <= wait <= train for wait, train in zip(waits, trained, strict=True))
        assert "of the epoch spent waiting for data (--workers)" in shown.file.getvalue()


def test_nothing_is_said_where_the_data_keep_ahead() -> None:
    console = Console(file=io.StringIO(), width=200)
    recorded(small_set.config(epochs=1), small_problem(), Lines(console))
    assert "waiting" not in console.file.getvalue()


def test_a_gpu_s_own_clock_tells_how_long_it_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that the GPU reaches at these milliseconds: it came late to the second pair and waited 0.25 s in all."""
    reached = iter([0.0, 200.0, 900.0, 900.0, 1000.0, 1050.0])

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            assert stream == "the stream of cuda:1"
            self.time = next(reached)

        def elapsed_time(self, later: Any) -> float:
            return later.time - self.time

        def synchronize(self) -> None:
            assert self.time == 1050.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    wait = batches._Wait(torch.device("cuda:1"))
    for _ in range(3):
        with wait:
            pass
    assert wait.seconds() == pytest.approx(0.25)


# Ends


def test_a_diverged_run_is_filled_up() -> None:
    problem = small_problem()
    for changes, epochs in (({}, 1), ({"protocol": "deepobs-1.1.2"}, 3)):
        held, streamed = (
            recorded(small_set.config(lr=1e30, **changes), made) for made in (problem, as_stream(small_problem()))
        )
        assert streamed.status == "diverged"
        assert len(streamed.extra["timings"]["train"]) == len(streamed.extra["timings"]["data_wait"]) == epochs
        assert held.train_accuracies == streamed.train_accuracies
        assert held.test_accuracies == streamed.test_accuracies
        assert math.isnan(streamed.test_losses[-1])


def interrupting(event: Event) -> None:
    """Ctrl-C in the middle of the second epoch."""
    if isinstance(event, Logged) and (event.epoch, event.step) == (1, 2):
        assert multiprocessing.active_children()
        raise KeyboardInterrupt


@pytest.mark.large
def test_an_interrupted_run_keeps_its_epochs_and_no_workers(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunInterrupted, match="after 1 of 2 epochs") as caught:
        recorded(config(folder, workers=2, output_dir=str(tmp_path / "results")), pictures(), interrupting)
    assert multiprocessing.active_children() == []
    kept = records.read(caught.value.record.path)
    assert (kept.status, len(kept.test_losses), len(kept.extra["timings"]["data_wait"])) == ("interrupted", 2, 1)


def trained_only(seed: int) -> int:
    """A row that is read in the third step of the first epoch, and in no evaluation of the default protocol."""
    spec, key = pictures().dataset, random.key(seed)
    order = epoch_order(PROTOCOLS["default"], spec, key, 0, BATCH)
    evaluated = set(train_eval_rows(PROTOCOLS["default"], spec, key, BATCH).tolist())
    return next(row for row in order[2].tolist() if row not in evaluated)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.large)])
def test_a_broken_file_ends_the_run_in_the_middle_and_is_named(tmp_path: Path, workers: int) -> None:
    data = write_pictures(tmp_path / "data")
    path = cut(sorted((data / "train").rglob("*.JPEG"))[trained_only(42)])
    with pytest.raises(DataError) as caught:
        recorded(config(data, workers=workers, output_dir=str(tmp_path / "results")), pictures())
    assert str(caught.value).startswith(f"{path}: expected a whole JPEG image")
    assert multiprocessing.active_children() == []
    (kept,) = (tmp_path / "results.state").rglob("*.partial")
    assert not (tmp_path / "results").exists()
    record = records.read(kept)
    assert (record.status, len(record.test_losses)) == ("failed", 1)
    assert str(path) in record.extra["error"]
    assert str(kept) in caught.value.__notes__[0]


def test_a_failure_that_is_not_written_points_to_no_file(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data")
    cut(sorted((data / "train").rglob("*.JPEG"))[trained_only(42)])
    with pytest.raises(DataError) as caught:
        recorded(config(data), pictures())
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize(
    ("changes", "words"), [({}, "expected 3 folders"), ({"train_size": 19}, "expected 19 images, found 18")]
)
def test_a_wrong_folder_is_found_before_anything_is_done(
    folder: Path, tmp_path: Path, changes: dict[str, int], words: str
) -> None:
    data = folder if changes else tmp_path
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=words):
        recorded(config(data, output_dir=str(tmp_path / "results")), pictures(**changes))
    assert not (tmp_path / "results").exists()


def test_a_batch_larger_than_the_set_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=f"{TRAIN} training and {TEST} test examples, so a batch has at most {TEST}"):
        recorded(config(folder, batch_size=8), pictures())
