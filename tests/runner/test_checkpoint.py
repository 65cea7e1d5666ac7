"""Checkpoints: when they are written, what stays, what a crash leaves, and what they refuse."""

from __future__ import annotations

import json
import os
import signal
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

import deepobs_func
from deepobs_func import probes, problems, records
from deepobs_func.errors import ConfigError, DataError
from deepobs_func.problems.problem import Problem
from deepobs_func.records import RunRecord
from deepobs_func.runner import RunConfig, RunInterrupted, Training, TrainState, checkpoint, keeping, make_plan, run
from deepobs_func.runner.callbacks import Evaluated, Event, Stop
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.resuming import configuration_of, output_dir_of
from tests.runner import moments
from tests.runner.small import config, small_problem

EAGER = Execution()


def training_of(made: RunConfig, problem: Problem | None = None) -> Training:
    return Training(make_plan(made, problem or small_problem()), EAGER)


def after(training: Training, events: int) -> TrainState:
    iteration = training(training.start())
    for _ in range(events):
        event = next(iteration)
    iteration.close()
    return event.state


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.rglob("*.safetensors"))


def interrupted_at(epoch: int) -> Any:
    def callback(event: Event) -> None:
        if isinstance(event, Evaluated) and event.epoch == epoch:
            raise KeyboardInterrupt

    return callback


# Runs left at any moment, continued in a new process


def test_runs_that_were_left_and_continued_elsewhere_have_the_records_of_undisturbed_ones() -> None:
    """Bit for bit, from checkpoints that another process reads. `python -m tests.runner.moments` has more."""
    found = moments.agreeing(list(moments.CHEAP), count=len(moments.CHEAP), seed=1)
    assert {name: others for name, (_, others) in found.items()} == {name: [] for name in moments.CHEAP}


@pytest.mark.large
@pytest.mark.parametrize("name", [name for name in moments.CASES if name not in moments.CHEAP])
def test_every_family_at_some_moments(name: str) -> None:
    assert moments.agreeing([name], count=3, seed=2) == {name: (3, [])}


# What is written when


@pytest.mark.parametrize(
    ("every", "keep", "expected"),
    [
        ("never", 1, []),
        ("auto", 1, []),
        (2, 1, ["epoch_0000005_step_0000000"]),
        (2, 3, ["epoch_0000002_step_0000000", "epoch_0000004_step_0000000", "epoch_0000005_step_0000000"]),
        ("4steps", 2, ["epoch_0000004_step_0000000", "epoch_0000005_step_0000000"]),
        (
            "4steps",
            9,
            [
                *("epoch_0000001_step_0000001", "epoch_0000002_step_0000002", "epoch_0000003_step_0000003"),
                "epoch_0000005_step_0000000",
            ],
        ),
    ],
)
def test_what_stays_of_a_finished_run(tmp_path: Path, every: str | int, keep: int, expected: list[str]) -> None:
    made = config(epochs=5, train_log_interval=1, checkpoint_every=every, keep=keep, output_dir=str(tmp_path / "out"))
    run(made, small_problem(), execution=EAGER)
    found = checkpoints(tmp_path)
    if every == "4steps" and keep == 2:  # the 12th step is the last of its epoch
        expected = ["epoch_0000003_step_0000003", "epoch_0000005_step_0000000"]
    assert found == expected
    assert checkpoints(tmp_path / "out") == []


def test_a_checkpoint_is_written_a_minute_after_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = config(epochs=2, output_dir=str(tmp_path / "out"))
    seen = []
    monkeypatch.setattr(keeping, "AUTO_SECONDS", 0.0)
    run(made, small_problem(), callbacks=[lambda event: seen.append(checkpoints(tmp_path))], execution=EAGER)
    assert seen[-1] == ["epoch_0000002_step_0000000"]
    assert checkpoints(tmp_path) == []  # it is finished


class Noting:
    """A callback that notes which checkpoint a run goes on from, and what lies there after the first epoch."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path: Path | None = None
        self.there: list[str] = []

    def resuming(self, found: checkpoint.Checkpoint | None) -> None:
        self.path = None if found is None else found.path

    def __call__(self, event: Event) -> None:
        if isinstance(event, Evaluated) and event.epoch == 2:
            self.there = checkpoints(self._folder)


def test_a_run_that_starts_anew_loses_nothing_of_an_earlier_one(tmp_path: Path) -> None:
    """`--resume` then takes the last start that left one; a path goes on from any, and removes that one alone."""
    made = config(epochs=4, checkpoint_every=1, output_dir=str(tmp_path / "out"))
    left = []
    for epoch in (3, 1):
        with pytest.raises(RunInterrupted) as caught:
            run(made, small_problem(), callbacks=[interrupted_at(epoch)], execution=EAGER)
        assert caught.value.checkpoint is not None
        left.append(caught.value.checkpoint)
    first, second = left
    assert checkpoints(tmp_path) == ["epoch_0000001_step_0000000", "epoch_0000003_step_0000000"]
    assert second.parent == first.parent.with_name(f"{first.parent.name}__2")
    noting = Noting(tmp_path)
    with pytest.raises(RunInterrupted) as caught:
        run(made, small_problem(), callbacks=[noting, interrupted_at(2)], resume=True)
    assert noting.path == second
    assert caught.value.checkpoint == second.with_name("epoch_0000002_step_0000000.safetensors")
    ended = run(made, small_problem(), resume=first).record
    assert ended.test_losses == run(config(epochs=4), small_problem(), execution=EAGER).record.test_losses
    assert checkpoints(tmp_path) == ["epoch_0000002_step_0000000", "epoch_0000004_step_0000000"]


@pytest.mark.parametrize("every", ["auto", "never", 1])
def test_kept_checkpoints_outlive_a_later_run_of_the_same(tmp_path: Path, every: str | int) -> None:
    made = config(epochs=2, checkpoint_every=1, keep=2, output_dir=str(tmp_path / "out"))
    run(made, small_problem(), execution=EAGER)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    assert len(kept) == 2
    run(replace(made, checkpoint_every=every), small_problem(), execution=EAGER)
    assert {path: path.read_bytes() for path in kept} == kept
    assert len(checkpoints(tmp_path)) == (4 if every == 1 else 2)


# Crashes


@pytest.mark.parametrize("moment", ["save_file", "_to_disk"])
def test_a_crash_while_one_is_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The process is gone without a word, between the first byte and the last."""
    training = training_of(config())
    first, second = (after(training, events) for events in (1, 3))
    path = tmp_path / "one.safetensors"
    checkpoint.save(path, training, first)
    content = path.read_bytes()

    def die(*args: Any, **kwargs: Any) -> None:
        if moment == "save_file":
            Path(args[1]).write_bytes(content[:100])
        os.kill(os.getpid(), signal.SIGKILL)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads of pytest's, which sleep
        child = os.fork()
    if child == 0:
        monkeypatch.setattr(checkpoint, moment, die)
        checkpoint.save(path, training, second)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert path.read_bytes() == content
    (draft,) = set(tmp_path.iterdir()) - {path}
    assert checkpoint.paths(tmp_path) == []  # a draft has another name
    os.utime(draft, (time.time() - 7200,) * 2)
    checkpoint.prune(tmp_path, [])
    assert not draft.exists()


@pytest.mark.large
def test_kill_9_at_random_moments_of_a_process_that_writes_checkpoints(tmp_path: Path) -> None:
    training = training_of(config(optimizer="adam"))
    states = [after(training, events) for events in (1, 3)]
    checkpoint.save(checkpoint.path_in(tmp_path, states[0]), training, states[0])  # the one before the first kill
    for trial in range(50):
        child = os.fork()
        if child == 0:
            for state in states * 1000:
                path = checkpoint.path_in(tmp_path, state)
                checkpoint.save(path, training, state)
                checkpoint.prune(tmp_path, [each for each in checkpoint.paths(tmp_path) if each != path])
        time.sleep(0.02 + 0.003 * trial)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kept = checkpoint.paths(tmp_path)
        assert kept
        for path in kept:
            checkpoint.read(path).state(training)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 300, -200, -1])
def test_a_file_that_was_cut_is_refused_by_name(tmp_path: Path, keep: int) -> None:
    training = training_of(config())
    path = tmp_path / "one.safetensors"
    checkpoint.save(path, training, training.start())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"one.safetensors is no readable checkpoint: .*one that was cut short"):
        checkpoint.read(path)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (None, "no head of format 1"),
        ([], "no head of format 1"),
        ({"format": 2}, "no head of format 1"),
        ({"format": 1}, "its head lacks configuration, identity"),
        ({"tree": {"tensor": "no"}}, "is no whole checkpoint: KeyError"),
        ({"tree": {"dict": [[1]]}}, "is no whole checkpoint: ValueError"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, head: Any, message: str) -> None:
    training = training_of(config())
    path = tmp_path / "one.safetensors"
    checkpoint.save(path, training, training.start())
    if isinstance(head, dict) and "tree" in head:
        whole = checkpoint.read(path).head
        head = whole | {"format": 1} | head
    save_file({"0": torch.zeros(2)}, path, metadata={"deepobs_func": json.dumps(head)})
    with pytest.raises(DataError, match=message):
        checkpoint.read(path)
    save_file({"0": torch.zeros(2)}, path)
    with pytest.raises(DataError, match="no head of format 1"):
        checkpoint.read(path)


def test_a_full_disk_ends_no_run_and_the_record_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    record = run(config(checkpoint_every=1, output_dir=str(tmp_path / "out")), small_problem(), execution=EAGER).record
    assert record.status == "finished"
    assert "No space left on device" in record.extra["checkpoint_failed"]
    assert list(tmp_path.rglob(".*.tmp")) == []


# What it holds


def layouts() -> st.SearchStrategy[Tensor]:
    """Tensors of any number of axes, in any order in memory."""
    shapes = st.lists(st.integers(1, 4), max_size=4)

    @st.composite
    def tensors(draw: st.DrawFn) -> Tensor:
        shape = draw(shapes)
        order = draw(st.permutations(range(len(shape))))
        dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool, torch.bfloat16]))
        count = max(1, int(torch.tensor(shape).prod())) if shape else 1
        values = torch.arange(count).reshape([shape[axis] for axis in order]).to(dtype)
        return values.permute(sorted(range(len(shape)), key=order.__getitem__))

    return tensors()


@given(layouts())
@settings(max_examples=25)
def test_a_tensor_comes_back_with_its_layout(tensor: Tensor) -> None:
    """Kernels are chosen by it, so that another one rounds otherwise."""
    tensors: dict[str, Tensor] = {}
    back = checkpoint.unpacked(json.loads(json.dumps(checkpoint.packed(tensor, tensors, "x"))), tensors)
    assert torch.equal(back, tensor)
    assert (back.dtype, back.stride()) == (tensor.dtype, tensor.stride())
    assert all(each.is_contiguous() for each in tensors.values())


def test_channels_last_comes_back_where_there_is_one_channel() -> None:
    tensor = torch.randn(8, 1, 5, 5).to(memory_format=torch.channels_last)
    tensors: dict[str, Tensor] = {}
    back = checkpoint.unpacked(checkpoint.packed(tensor, tensors, "x"), tensors)
    assert back.stride() == tensor.stride()


def test_what_is_no_data_is_refused_by_the_optimizer_s_name() -> None:
    with pytest.raises(ConfigError, match=r"The state of the optimizer mine holds a function, .*never"):
        checkpoint.packed({"a": [lambda: 0]}, {}, "mine")


def test_memory_of_a_read_tensor_is_its_own(tmp_path: Path) -> None:
    """A mapped file has tensors at odd addresses, by which products may round otherwise."""
    training = training_of(config(optimizer="adam"))
    path = tmp_path / "one.safetensors"
    checkpoint.save(path, training, training.start())
    params = checkpoint.read(path).tree["params"].values()
    assert all(leaf.data_ptr() % 64 == 0 for leaf in params)


# Of another run


def test_what_differs_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = training_of(config())
    path = tmp_path / "one.safetensors"
    checkpoint.save(path, training, training.start())
    kept = checkpoint.read(path)
    other = make_plan(config(lr=0.2, seed=1, clip_norm=2.0), small_problem())
    with pytest.raises(ConfigError, match=r"lr 0.1 there, 0.2 here; .*seed 42 there, 1 here; .*clip_norm None there"):
        checkpoint.check_same_run(kept, other)
    here = kept.head["machine"]
    kept.head["machine"] = here | {"torch": "2.9.0", "processor": "another"}
    with pytest.raises(ConfigError, match=r"was written elsewhere: torch '2.9.0' there, '2\..*processor 'another'"):
        checkpoint.check_same_run(kept, training.plan)
    kept.head["machine"] = here
    monkeypatch.setattr(deepobs_func, "__version__", "9.9")
    with pytest.raises(ConfigError, match=r"code.deepobs_func '.*' there, '9.9' here"):
        checkpoint.check_same_run(kept, make_plan(config(), small_problem()))


def left(folder: Path, **changes: object) -> tuple[RunConfig, Path]:
    """A run that was interrupted after its first epoch, and its checkpoint."""
    made = config(output_dir=str(folder / "out"), **changes)
    with pytest.raises(RunInterrupted) as caught:
        run(made, small_problem(), callbacks=[interrupted_at(1)], execution=EAGER)
    assert caught.value.checkpoint is not None
    return made, caught.value.checkpoint


def test_another_version_s_checkpoint_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same setting and seed: to start anew without a word would hide it."""
    made, _ = left(tmp_path)
    monkeypatch.setattr(deepobs_func, "__version__", "9.9")
    with pytest.raises(ConfigError, match=r"code.deepobs_func '.*' there, '9.9' here.*start anew: without resuming"):
        run(made, small_problem(), resume=True)
    assert run(made, small_problem(), execution=EAGER).record.status == "finished"


def test_a_checkpoint_by_its_path(tmp_path: Path) -> None:
    whole = run(config(), small_problem(), execution=EAGER).record
    made, path = left(tmp_path)
    again = run(made, small_problem(), resume=path).record
    assert again.test_losses == whole.test_losses
    with pytest.raises(ConfigError, match=r"lr 0\.1 there, 0\.2 here"):
        run(replace(made, lr=0.2), small_problem(), resume=_copy(path, tmp_path) if not path.exists() else path)


def _copy(path: Path, folder: Path) -> Path:
    """The run is finished and its checkpoint gone: another one of it."""
    training = training_of(config())
    checkpoint.save(folder / path.name, training, training.start())
    return folder / path.name


def test_another_execution_is_refused(tmp_path: Path) -> None:
    made, _ = left(tmp_path)
    with pytest.raises(ConfigError, match=r"executed otherwise .*than execution says"):
        run(made, small_problem(), execution=Execution(channels_last=True), resume=True)
    assert run(made, small_problem(), execution=EAGER, resume=True).record.status == "finished"


def test_finished_runs_are_not_run_again(tmp_path: Path) -> None:
    made = config(output_dir=str(tmp_path / "out"))
    first = run(made, small_problem(), execution=EAGER, resume=True)  # starts, where there is nothing
    assert len(first.params) == 2
    again = run(made, small_problem(), callbacks=[lambda event: Stop("never asked")], resume=True)
    assert again.record.path == first.record.path
    assert again.training is None
    with pytest.raises(ValueError, match=r"was finished already .*deepobs_func.load"):
        again.params  # noqa: B018
    more = run(replace(made, track=("grad_norm",)), small_problem(), resume=True)  # more is asked for
    assert more.training is not None
    assert more.record.test_losses == first.record.test_losses


# What is found in a file


def test_a_trained_net_is_loaded_in_three_lines(tmp_path: Path) -> None:
    made = RunConfig("quadratic_deep", "adam", 1e-2, epochs=2, checkpoint_every=1, output_dir=str(tmp_path / "out"))
    ended = run(made, execution=EAGER)
    (path,) = tmp_path.rglob("*.safetensors")
    problem, params, state = deepobs_func.load(path)
    assert all(torch.equal(params[name], leaf) for name, leaf in ended.params.items())
    batch = problem.fake_batch(8, 0)._replace(state=state)
    largest = probes.lanczos_eigenvalues(problem, params, batch).values[0]
    hessian = problem.init(0)[1].moments["hessian"].double()
    assert float(largest) == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-3)


def test_of_a_run_of_values_they_are_given_again(tmp_path: Path) -> None:
    _, path = left(tmp_path)
    with pytest.raises(ConfigError, match=r"whose problem was made in Python\. Go on in Python"):
        deepobs_func.load(path)
    loaded = deepobs_func.load(path, problem=small_problem())
    assert set(loaded.params) == {"weight", "bias"}
    net, criterion = nn.Linear(5, 3, bias=False), partial(F.cross_entropy, reduction="none")
    other = problems.from_module(net, criterion, small_problem().dataset, epochs=3, batch_size=32, name="small")
    with pytest.raises(ConfigError, match=r"is of another small: its parameters are .* Give the problem"):
        deepobs_func.load(path, problem=other)


def test_the_configuration_and_the_tree_of_results_of_a_file(tmp_path: Path) -> None:
    made = RunConfig("quadratic_deep", "adam", 1e-2, epochs=2, output_dir=str(tmp_path / "out"))
    with pytest.raises(RunInterrupted) as caught:
        run(made, callbacks=[interrupted_at(1)], execution=EAGER)
    record: RunRecord = caught.value.record
    assert record.path is not None
    assert caught.value.checkpoint is not None
    for path in (record.path, caught.value.checkpoint):
        found = configuration_of(path)
        assert (found.problem, found.optimizer, found.lr, found.epochs) == ("quadratic_deep", "adam", 1e-2, 2)
        assert str(output_dir_of(path, found)) == str(tmp_path / "out")
        assert output_dir_of(path, replace(found, output_dir="out")) == tmp_path / "out"
    with pytest.raises(DataError, match="is no readable record"):
        configuration_of(tmp_path / "nothing.json")
    (tmp_path / "odd.json").write_text(json.dumps(records.read(record.path).to_json() | {"deepobs_func": {}}))
    with pytest.raises(DataError, match="does not say of which configuration"):
        configuration_of(tmp_path / "odd.json")
