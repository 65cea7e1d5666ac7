"""How a run is executed: the cost model, what is kept of it, and that it changes no number."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from deepobs_func import problems
from deepobs_func.backend.precision import precision
from deepobs_func.backend.threads import num_threads
from deepobs_func.errors import ConfigError
from deepobs_func.runner import measuring as rules
from deepobs_func.runner import run
from deepobs_func.runner.evaluation import Evaluator
from deepobs_func.runner.events import Evaluated, Event, Logged
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.measuring import Timing, choose
from deepobs_func.runner.plan import Plan, make_plan
from deepobs_func.runner.step import Carry, laid_out
from tests.runner.small import config, recorded, small_problem


class Clock:
    """Stands in for measuring: seconds of an eager step, of a compiled one, of channels-last ones, of one thread."""

    def __init__(
        self, eager: float, compiled: float = 0.0, channels_last: float = 9e9, one_thread: float = 9e9
    ) -> None:
        self.eager, self.compiled, self.channels_last, self.one_thread = eager, compiled, channels_last, one_thread
        self.asked: list[Execution] = []

    def __call__(self, choice: Execution) -> Timing:
        self.asked.append(choice)
        if choice.compile:
            return Timing(20.0, self.compiled)
        if choice.threads == 1:
            return Timing(0.0, self.one_thread)
        return Timing(0.0, self.channels_last if choice.channels_last else self.eager)


def decided(clock: Clock, **changes: object) -> Execution:
    plan, params = planned(**changes)
    return choose(plan, params, clock)


def planned(**changes: object) -> tuple[Plan, dict[str, torch.Tensor]]:
    plan = make_plan(config(**({"problem": "mnist_logreg"} | changes)))
    return plan, plan.problem.init(0)[0]


def test_a_timing_is_the_fastest_of_some_calls_but_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = iter([9.0, 0.04, 0.02, 0.05])
    monkeypatch.setattr(rules, "_seconds", lambda call, clock: next(durations))
    assert rules.timing(lambda: None, 2, torch.device("cpu")) == Timing(9.0, 0.01)


def test_one_thread_is_timed_while_it_has_the_core() -> None:
    with num_threads(1):
        found = rules.timing(lambda: time.sleep(5e-3), 1, torch.device("cpu"))
    assert found.first > 4e-3 > 4 * found.step
    with num_threads(2):
        assert rules.timing(lambda: time.sleep(5e-3), 1, torch.device("cpu")).step > 4e-3


def test_few_short_steps_are_not_compiled() -> None:
    clock = Clock(eager=1e-3)
    choice = decided(clock, epochs=2)
    assert not choice.compile
    assert [each.compile for each in clock.asked] == [False]
    assert choice.reason == "not compiled: 936 steps of 1 ms are too few for the 12 s that compiling costs"


def test_many_steps_are_compiled_if_the_trial_shows_that_it_pays() -> None:
    choice = decided(Clock(eager=1e-3, compiled=2e-4), epochs=50)
    assert (choice.compile, choice.steps_per_call) == (True, 6)
    assert choice.reason.startswith("compiled: 0.2 ms a step after 20 s of compiling; 23400 steps of 1 ms")
    again = decided(Clock(eager=1e-3, compiled=0.9e-3), epochs=51)
    assert not again.compile


def test_what_was_decided_is_kept_for_the_same_configuration_alone() -> None:
    first = decided(Clock(eager=1e-3, compiled=2e-4), epochs=50)
    clock = Clock(eager=1e-3, compiled=9.0)
    kept = decided(clock, epochs=50, seed=7, lr=0.5)
    assert not clock.asked
    assert kept.reason == f"{first.reason} (decided in an earlier run)"
    assert (kept.compile, kept.steps_per_call) == (True, 6)
    decided(clock, epochs=50, batch_size=64)
    assert clock.asked


def test_a_kept_choice_that_cannot_be_read_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPOBS_CACHE", str(tmp_path))
    decided(Clock(eager=1e-3), epochs=2)
    (file,) = (tmp_path / "choices").iterdir()
    file.write_text("{")
    assert not decided(Clock(eager=1e-3), epochs=2).compile


def test_nothing_is_lost_where_nothing_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("DEEPOBS_CACHE", str(tmp_path / "taken"))
    assert not decided(Clock(eager=1e-3), epochs=2).compile


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 6),  # 468 steps an epoch
        ({"problem": "quadratic_deep"}, 7),
        ({"problem": "two_d_beale"}, 6),
        ({"track": ("grad_norm",)}, 1),  # every step is looked at
        ({"optimizer": "newton_cg"}, 1),  # it reports of every step
        ({"optimizer": "torch.optim.SGD"}, 1),  # it stands outside the graph
        ({"batch_size": 140}, 4),  # 428 steps
        ({"batch_size": 139}, 1),  # 431, a prime
    ],
)
def test_steps_per_call(changes: dict[str, object], expected: int) -> None:
    choice = decided(Clock(eager=1e-3), compile="on", epochs=2, **changes)
    assert choice.compile
    assert choice.steps_per_call == expected


def test_long_steps_have_a_call_each() -> None:
    assert decided(Clock(eager=0.1), compile="on", epochs=2).steps_per_call == 1


def test_the_channels_lie_where_that_is_faster() -> None:
    slow, fast = Clock(eager=1.0, channels_last=0.99), Clock(eager=1.0, channels_last=0.5)
    assert not decided(slow, problem="mnist_2c2d", compile="off").channels_last
    assert decided(fast, problem="mnist_2c2d", compile="off", epochs=3).channels_last
    assert decided(slow, problem="mnist_2c2d", memory_format="channels_last").channels_last
    assert not decided(fast, problem="mnist_2c2d", memory_format="contiguous").channels_last


class NoLastChannels(Clock):
    """Code that cannot be compiled with the channels last, which are faster."""

    def __init__(self) -> None:
        super().__init__(eager=1.0, compiled=0.1, channels_last=0.5)

    def __call__(self, choice: Execution) -> Timing:
        if choice.compile and choice.channels_last:
            raise AssertionError("expected size 64==64, stride 16==1 at dim=1")
        assert sys.exc_info()[0] is None  # whose traceback would hold the tensors of the step before
        return super().__call__(choice)


@pytest.mark.parametrize("compile", ["auto", "on"])
def test_code_that_fails_with_the_channels_last_is_compiled_without(compile: str) -> None:
    choice = decided(NoLastChannels(), problem="mnist_vae", compile=compile)
    assert (choice.compile, choice.channels_last) == (True, False)
    with pytest.raises(ConfigError, match="cannot be compiled"):
        decided(NoLastChannels(), problem="mnist_vae", compile="on", memory_format="channels_last")


def test_short_steps_keep_to_one_thread_where_that_is_faster() -> None:
    with num_threads(2):
        assert decided(Clock(eager=1e-3, one_thread=0.5e-3)).threads == 1
        assert decided(Clock(eager=1e-3, one_thread=0.99e-3), epochs=3).threads is None
        assert decided(Clock(eager=16e-3, one_thread=0.3e-3), epochs=6).threads == 1  # others have the cores
        assert decided(Clock(eager=0.2, one_thread=0.0), epochs=4).threads is None  # not asked for long ones
        assert decided(Clock(eager=2e-3), problem="two_d_beale").threads is None
    assert decided(Clock(eager=1e-3, one_thread=0.0), epochs=5).threads is None  # there is one anyway
    assert decided(Clock(eager=1e-3), problem="quadratic_deep").threads is None


def test_a_run_goes_on_the_chosen_threads_and_leaves_torch_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watch(event: Event) -> None:
        if isinstance(event, Evaluated | Logged):
            seen.append(-torch.get_num_threads())

    evaluate = Evaluator.__call__

    def watched(self: Evaluator, epoch: int, carry: Carry) -> object:
        seen.append(torch.get_num_threads())
        return evaluate(self, epoch, carry)

    monkeypatch.setattr(Evaluator, "__call__", watched)
    with num_threads(2):
        made = config(epochs=1, train_log_interval=3)
        record = run(made, small_problem(), callbacks=[watch], execution=Execution(threads=1)).record
        assert torch.get_num_threads() == 2
    assert seen == [1, -2, -2, 1, -2]
    assert record.extra["execution"]["threads"] == 1


def test_off_compiles_nothing() -> None:
    choice = decided(Clock(eager=1.0), problem="mnist_2c2d", compile="off")
    assert not choice.compile
    assert not choice.compile_batch
    assert choice.reason == "--compile off"


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "has_compiler", lambda: False)
    choice = decided(Clock(eager=1.0), problem="mnist_2c2d")
    assert not choice.compile
    assert not choice.compile_batch
    assert choice.reason == "not compiled: no C++ compiler was found"


@pytest.mark.large
def test_several_steps_a_call_are_the_same_steps() -> None:
    """In a whole run, compiled, with a schedule: two steps an epoch, in one call."""
    scheduled = {"lr_sched_epochs": (1,), "lr_sched_factors": (0.5,), "train_log_interval": 1, "batch_size": 48}
    eager, compiled = (recorded(config(compile=compile, **scheduled), small_problem()) for compile in ("off", "on"))
    assert compiled.extra["execution"]["steps_per_call"] == 2
    np.testing.assert_allclose(compiled.minibatch_train_losses, eager.minibatch_train_losses, rtol=1e-5)
    np.testing.assert_allclose(compiled.test_losses, eager.test_losses, rtol=1e-5)


@pytest.mark.parametrize("name", ["mnist_2c2d", "svhn_wrn164"])
def test_the_order_of_the_axes_changes_rounding_alone(name: str) -> None:
    problem = problems.get(name)
    params, _ = problem.init(0)
    batch = problem.fake_batch(2)
    there = problem.loss({key: laid_out(leaf) for key, leaf in params.items()}, batch._replace(x=laid_out(batch.x)))
    torch.testing.assert_close(there, problem.loss(params, batch), rtol=1e-4, atol=1e-5)


def test_half_precision_is_near_and_another_run() -> None:
    full, half = (
        recorded(config(precision=name, epochs=1, compile="off"), small_problem()) for name in ("float32", "bf16")
    )
    assert half.test_losses != full.test_losses
    np.testing.assert_allclose(half.test_losses, full.test_losses, rtol=0.05)


def test_tf32_is_for_nvidia_s_gpus() -> None:
    with pytest.raises(ConfigError, match=r"precision tf32 .*on cpu take float32 or bf16"):
        make_plan(config(problem="mnist_logreg", precision="tf32", device="cpu"))
    before = torch.backends.cuda.matmul.allow_tf32
    with precision("tf32", torch.device("cuda")):
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32 == before
