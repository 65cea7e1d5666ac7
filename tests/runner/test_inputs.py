"""Runs, checkpoints and populations of a net with several inputs, held in memory and streamed."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepobs_func.runner import RunConfig, checkpoint, run_population
from deepobs_func.runner.events import Evaluated
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.plan import make_plan
from deepobs_func.runner.training import Training
from tests.problems.padded import padded, product
from tests.runner.small import recorded

made = functools.cache(padded)
EAGER = Execution(compile=False)


def config(**changes: Any) -> RunConfig:
    values = {"lr": 0.1, "output_dir": None, "train_log_interval": 1, "workers": 0, "compile": "off"}
    return RunConfig("padded", "momentum", **(values | changes))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.large)])
def test_streamed_sentences_give_the_numbers_of_held_ones(workers: int) -> None:
    """The steps bit for bit, by processes that read too; evaluations but for the order of a sum."""
    held, streamed = recorded(config(), made()), recorded(config(workers=workers), made(stream=True))
    assert held.minibatch_train_losses == streamed.minibatch_train_losses
    np.testing.assert_allclose(held.test_losses, streamed.test_losses, rtol=1e-6)
    assert held.test_accuracies == streamed.test_accuracies
    assert held.minibatch_train_losses[-1] < held.minibatch_train_losses[0]


def test_a_tuple_of_inputs_trains_as_a_dict_does() -> None:
    one, other = (recorded(config(), made(keywords=keywords)) for keywords in (True, False))
    assert one.minibatch_train_losses == other.minibatch_train_losses


@pytest.mark.parametrize("stream", [False, True])
def test_a_run_goes_on_from_a_checkpoint(stream: bool, tmp_path: Path) -> None:
    training = Training(make_plan(config(), made(stream=stream)), EAGER)
    events = list(training(training.start()))
    middle = next(event for event in events if isinstance(event, Evaluated) and event.epoch == 1)
    checkpoint.save(tmp_path / "middle.safetensors", training, middle.state)
    loaded = checkpoint.read(tmp_path / "middle.safetensors").state(training)
    *_, last = training(loaded)
    for name, leaf in events[-1].state.carry.params.items():
        assert torch.equal(leaf, last.state.carry.params[name])


@pytest.mark.parametrize("way", ["vmap", "loop"])
def test_members_are_their_own_runs(way: str) -> None:
    execution = Execution(way=way, members=2 if way == "vmap" else 1, compile=False)
    population = run_population(config(), lrs=[0.1, 0.02], problem=made(), execution=execution)
    for member in population.members:
        alone = recorded(config(lr=member.config.lr), made())
        np.testing.assert_allclose(member.record.minibatch_train_losses, alone.minibatch_train_losses, rtol=1e-4)
        np.testing.assert_allclose(member.record.test_losses, alone.test_losses, rtol=1e-4)


@pytest.mark.large
def test_compiled_steps_are_the_eager_ones() -> None:
    eager, compiled = (recorded(config(compile=how), product()) for how in ("off", "on"))
    np.testing.assert_allclose(eager.minibatch_train_losses, compiled.minibatch_train_losses, rtol=1e-3)


def test_quantities_are_tracked() -> None:
    record = recorded(config(epochs=1, track=("grad_norm", "norm_test", "hess_trace"), track_every=1), made())
    found = record.extra["tracked"]["quantities"]
    assert {name: len(values) for name, values in found.items()} == {"grad_norm": 3, "norm_test": 3, "hess_trace": 3}
