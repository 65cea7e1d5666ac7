"""What is asked of a run beside its numbers: a checkpoint holds just that, a finished record that or more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepobs_func.errors import ConfigError
from deepobs_func.runner import Execution, RunConfig, RunInterrupted, run
from deepobs_func.runner.asking import has_all
from deepobs_func.runner.callbacks import Evaluated, Event
from deepobs_func.runner.config import as_plain_data, typed
from tests.runner.small import config, small_problem

EAGER = Execution()
TRACKED = {"track": ("grad_norm",), "track_every": 4}


def interrupt(event: Event) -> None:
    if isinstance(event, Evaluated) and event.epoch == 1:
        raise KeyboardInterrupt


def left(folder: Path, **changes: Any) -> RunConfig:
    """A run that was interrupted after its first epoch."""
    made = config(output_dir=str(folder / "out"), **changes)
    with pytest.raises(RunInterrupted):
        run(made, small_problem(), callbacks=[interrupt], execution=EAGER)
    return made


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({"train_log_interval": 1}, {"train_log_interval": 7}, "train_log_interval 1 there, 7 here"),
        ({}, TRACKED, "track nothing there, grad_norm here"),
        (TRACKED, {"track": ()}, "track grad_norm there, nothing here"),
        (TRACKED, {"track": ("grad_norm", "distance")}, "track grad_norm there, distance, grad_norm here"),
        (TRACKED, {"track_every": 2}, "track_every 4 there, 2 here"),
        (TRACKED, {"track_bn": "eval"}, "track_bn None there, eval here"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    tmp_path: Path, before: dict[str, Any], now: dict[str, Any], words: str
) -> None:
    made = left(tmp_path, **before)
    (path,) = tmp_path.rglob("*.safetensors")
    for resume in (True, path):
        with pytest.raises(ConfigError, match=f"asked for something else: .*{words}.*start anew, without resuming"):
            run(replace(made, **now), small_problem(), resume=resume)
    assert path.exists()


def test_a_run_that_goes_on_has_all_that_is_asked(tmp_path: Path) -> None:
    made = left(tmp_path, train_log_interval=2, track=("economy",), track_every=2)
    whole = run(replace(made, output_dir=None), small_problem(), execution=EAGER).record
    ended = run(replace(made, keep=2), small_problem(), resume=True).record
    assert ended.minibatch_train_losses == whole.minibatch_train_losses
    assert ended.extra["tracked"] == whole.extra["tracked"]


@pytest.mark.parametrize(
    ("there", "here", "expected"),
    [
        ({}, {}, True),
        ({"train_log_interval": 1}, {"train_log_interval": 7}, True),
        ({"train_log_interval": 7}, {"train_log_interval": 1}, False),
        ({"train_log_interval": 4}, {"train_log_interval": 6}, False),
        (TRACKED, {}, True),
        (TRACKED, {"track_every": 3}, True),  # where nothing is tracked it says nothing
        ({}, TRACKED, False),
        (TRACKED, {**TRACKED, "track_every": 8}, True),
        (TRACKED, {**TRACKED, "track_every": 2}, False),
        (TRACKED, {**TRACKED, "track_every": "log"}, False),
        ({**TRACKED, "track_every": 1}, {**TRACKED, "track_every": "log"}, True),
        ({**TRACKED, "track_every": "log"}, {**TRACKED, "track_every": 4}, False),
        ({**TRACKED, "track": "economy"}, TRACKED, True),
        (TRACKED, {**TRACKED, "track": "economy"}, False),
        (TRACKED, {**TRACKED, "track_bn": "eval"}, False),
    ],
)
def test_finished_is_finished_with_all_that_is_asked(
    there: dict[str, Any], here: dict[str, Any], expected: bool
) -> None:
    made = run(config(epochs=1, **there), small_problem(), execution=EAGER).record
    assert has_all(made, as_plain_data(typed(config(**here)))) is expected


def test_a_finished_run_with_less_is_run_again(tmp_path: Path) -> None:
    made = config(epochs=1, output_dir=str(tmp_path / "out"), **TRACKED)
    run(made, small_problem(), execution=EAGER)
    for changes in ({"train_log_interval": 1}, {"track_every": 1}):
        assert run(replace(made, **changes), small_problem(), execution=EAGER, resume=True).training is not None
    assert run(made, small_problem(), resume=True).training is None
