"""Training as an iterator over a state that is a value: left anywhere and entered again, it gives the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func import tree
from deepobs_func.errors import ConfigError, DataError
from deepobs_func.problems.problem import Problem
from deepobs_func.records import RunRecord
from deepobs_func.runner import RunConfig, Training, TrainState, checkpoint, make_plan, run
from deepobs_func.runner.callbacks import Stop, answered, max_seconds, stop_at
from deepobs_func.runner.events import Evaluated, Event, Finished, Logged, Stepped
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.tracking import Tracker
from tests.runner import moments
from tests.runner import test_data_kinds as kinds
from tests.runner.small import config, small_problem
from tests.runner.streamed import as_stream

TIMES = ("timings", "environment")
EAGER = Execution()


def content(record: RunRecord) -> dict[str, Any]:
    """All of a record but what time and machine put there, as text: NaN is NaN."""
    extra = {name: value for name, value in record.extra.items() if name not in TIMES}
    return {name: repr(value) for name, value in (record.to_json() | {"deepobs_func": extra}).items()}


def training_of(made: RunConfig, problem: Problem | None, execution: Execution | None = EAGER) -> Training:
    return Training(make_plan(made, problem), execution)


def states(training: Training) -> tuple[list[TrainState], RunRecord]:
    """The state at every event of a run, and its record."""
    found = []
    for event in training(training.start()):
        found.append(event.state)
    return found, training.record(found[-1])


def finished_from(training: Training, state: TrainState) -> RunRecord:
    for event in training(state):
        last = event
    assert isinstance(last, Finished)
    return last.record


def test_the_events_of_a_run() -> None:
    training = training_of(config(epochs=2, train_log_interval=2), small_problem())  # three steps an epoch
    seen = [(type(event), event.epoch, event.step) for event in training(training.start())]
    epoch = lambda n: [(Logged, n, 1), (Logged, n, 3), (Evaluated, n + 1, 0)]
    assert seen == [(Evaluated, 0, 0), *epoch(0), *epoch(1), (Finished, 2, 0)]


FAMILIES = {
    "functional": lambda: (config(optimizer="adam", train_log_interval=2), small_problem()),
    "torch": lambda: (config(optimizer="torch.optim.Adam", train_log_interval=2), small_problem()),
    "recurrent": lambda: (kinds.config("tolstoi_char_rnn", epochs=1), kinds.small("tolstoi_char_rnn", **kinds.TEXT)),
    "streamed": lambda: (config(optimizer="momentum"), as_stream(small_problem())),
    "reports": lambda: (config(optimizer="sgd_cabs", train_log_interval=1, epochs=2), small_problem()),
    "diverging": lambda: (config(lr=1e30, train_log_interval=1), small_problem()),
    "diverging, going on": lambda: (config(lr=1e30, on_divergence="continue"), small_problem()),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_entered_at_any_event_gives_the_record_of_the_undisturbed_run(family: str, tmp_path: Path) -> None:
    """Bit for bit, from a state in memory and from one that was saved."""
    made, problem = FAMILIES[family]()
    training = training_of(made, problem)
    found, whole = states(training)
    for number, state in enumerate(found):
        assert content(finished_from(training, state)) == content(whole)
        path = tmp_path / f"{number}.safetensors"
        checkpoint.save(path, training, state)
        again = training_of(made, problem)
        assert content(finished_from(again, checkpoint.read(path).state(again))) == content(whole)


@pytest.mark.parametrize("name", ["adam", "tracked, torch", "diverging", "diverging, DeepOBS"])
def test_a_run_left_at_every_moment_where_a_signal_may_end_it(name: str) -> None:
    """Before each step, before and between evaluations, the last one too."""
    training, trackers = moments.training_of(moments.CASES[name]())
    whole, found = moments.whole(training, trackers)
    for moment in found:
        for event in training(moments.left(training, trackers, moment)):
            answered(event, trackers)
        assert content(event.record) == content(whole), moment


def test_a_state_does_not_change_when_the_run_goes_on() -> None:
    for optimizer in ("adam", "torch.optim.Adam"):
        training = training_of(config(optimizer=optimizer), small_problem())
        start = training.start()
        before = tree.map(torch.clone, start.carry.params)
        first = next(event.state for event in training(start) if isinstance(event, Logged))
        kept = tree.map(torch.clone, first.carry.params)
        assert content(finished_from(training, first)) == content(finished_from(training, start))
        assert all(torch.equal(kept[name], first.carry.params[name]) for name in kept)
        assert all(torch.equal(before[name], start.carry.params[name]) for name in before)
        assert start.log.evaluations == 0


def test_tracking_is_the_same_in_a_run_that_was_left() -> None:
    made = config(track=("grad_norm", "alpha", "norm_test", "hess_trace"), track_every=2, epochs=2)
    plan = make_plan(made, small_problem())

    def tracked(leave: int) -> Any:
        """The quantities of a run that is left after so many events and entered again."""
        training = Training(plan, EAGER, watch=Tracker(plan).watches)
        state, tracker = training.start(), Tracker(plan)
        for index, event in enumerate(training(state)):
            tracker(event)
            if index == leave:
                state = event.state
                break
        for event in training(state):
            tracker(event)
        return repr(event.log.tracked)

    whole = tracked(10**6)
    assert all(tracked(leave) == whole for leave in range(9))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=5)
def test_a_checkpoint_holds_every_number_as_it_is(seed: int) -> None:
    made = config(seed=seed, epochs=1, train_log_interval=1)
    training = training_of(made, small_problem())
    found, _ = states(training)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "one.safetensors")
        checkpoint.save(path, training, found[-1])
        back = checkpoint.read(path).state(training)
    assert repr(back.log) == repr(found[-1].log)
    assert all(torch.equal(back.carry.params[name], leaf) for name, leaf in found[-1].carry.params.items())


def test_a_checkpoint_of_another_run_is_told_apart(tmp_path: Path) -> None:
    training = training_of(config(), small_problem())
    checkpoint.save(tmp_path / "one.safetensors", training, training.start())
    other = training_of(config(lr=0.2), small_problem())
    with pytest.raises(ConfigError, match=r"is of another run: lr 0\.1 there, 0\.2 here"):
        checkpoint.read(tmp_path / "one.safetensors").state(other)


@pytest.mark.parametrize("cut", [0, 5, 200])
def test_a_file_that_is_cut_is_no_checkpoint(tmp_path: Path, cut: int) -> None:
    training = training_of(config(), small_problem())
    path = tmp_path / "one.safetensors"
    checkpoint.save(path, training, training.start())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match="no readable checkpoint"):
        checkpoint.read(path)


# Callbacks


def test_a_callback_s_numbers_are_in_the_record() -> None:
    def top2(event: Event) -> dict[str, float] | None:
        if not isinstance(event, Evaluated):
            return None
        right = lambda logits, batch: (logits.topk(2).indices == batch.y[:, None]).any(1).double()
        return {
            "top2": event.mean(right),
            "top1": event.mean(lambda logits, batch: (logits.argmax(1) == batch.y).double()),
        }

    record = run(config(epochs=2), small_problem(), callbacks=[top2]).record
    assert [(epoch, step) for epoch, step, _ in record.extra["metrics"]["top2"]] == [(0, 0), (1, 0), (2, 0)]
    assert [value for _, _, value in record.extra["metrics"]["top1"]] == record.test_accuracies
    assert all(a[2] >= b[2] for a, b in zip(*(record.extra["metrics"][name] for name in ("top2", "top1")), strict=True))


def test_a_target_ends_a_run() -> None:
    whole = run(config(), small_problem()).record
    target = whole.test_losses[1]
    record = run(config(), small_problem(), callbacks=[stop_at("test_loss", target)]).record
    assert (record.status, record.test_losses) == ("stopped", whole.test_losses[:2])
    assert record.extra["stopped"] == f"test_loss {target:g} reached {target:g}"


def test_a_budget_of_seconds_ends_a_run() -> None:
    record = run(config(train_log_interval=1, epochs=500), small_problem(), callbacks=[max_seconds(1e-9)]).record
    assert record.status == "stopped"
    assert len(record.minibatch_train_losses) == 1


def test_callbacks_are_checked() -> None:
    with pytest.raises(
        ConfigError, match=r"Unknown quantity to stop at: 'test_acuracy'\. Did you mean 'test_accuracy'"
    ):
        stop_at("test_acuracy", 0.5)
    with pytest.raises(ConfigError, match=r"A callback returned 3\. It may return None"):
        run(config(), small_problem(), callbacks=[lambda event: 3])  # type: ignore[list-item, return-value]
    with pytest.raises(ConfigError, match="positive number of seconds"):
        max_seconds(0)


@pytest.mark.parametrize("execution", [None, Execution(steps_per_call=3)])
def test_what_a_callback_watches_is_shown_step_by_step(execution: Execution | None) -> None:
    class Watching:
        def __init__(self) -> None:
            self.seen: list[int] = []

        def watches(self, step: int) -> bool:
            return step % 2 == 1

        def __call__(self, event: Event) -> Stop | None:
            if isinstance(event, Stepped):
                self.seen.append(event.index)
                batch = event.make_batch()
                loss = event.plan.problem.loss(event.before.params, batch).mean()
                assert float(loss) == pytest.approx(float(event.iteration.columns[-1].loss), rel=1e-6)
            return None

    watching = Watching()
    run(config(epochs=2), small_problem(), callbacks=[watching], execution=execution)
    assert watching.seen == [1, 3, 5]


def test_a_call_of_several_steps_hides_none_from_tracking() -> None:
    tracked = config(epochs=2, track="update_ratio", track_every=1)
    expected, found = (
        run(tracked, small_problem(), execution=execution).record.extra["tracked"]
        for execution in (EAGER, Execution(steps_per_call=3))
    )
    assert found == expected
    assert len(found["steps"]) > 3
