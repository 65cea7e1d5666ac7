"""Loss scaling: what it changes in a step, and what it leaves as it is."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from deepobs_func import RunConfig, optimizers, problems, random, run, tree
from deepobs_func.backend.kernels import using
from deepobs_func.base import Batch, Params
from deepobs_func.errors import ConfigError
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.optimizers.scaling import INTERVAL, LEAST, MOST, START, GradientOnly, Scaled, scaled
from deepobs_func.problems.oracle import Oracle, make_plain_value_and_grad, make_value_and_grad
from deepobs_func.problems.pieces import Parts
from deepobs_func.problems.problem import Problem
from deepobs_func.runner import Execution, make_plan, make_step
from deepobs_func.runner.step import Carry
from tests.runner.small import config, small_problem
from tests.runner.small_nets import PROBLEMS

MAKERS = [make_value_and_grad, make_plain_value_and_grad]


def started(optimizer: Optimizer, problem: Problem | None = None) -> tuple[Problem, Carry, Batch]:
    problem = problem or small_problem()
    params, state = problem.init(0)
    return problem, Carry(params, optimizer.init(params, random.key(0)), state), problem.fake_batch(8)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("parts", [Parts(), Parts(2)])
def test_a_scale_that_is_a_power_of_two_changes_no_bit_of_a_float32_step(make: Any, parts: Parts) -> None:
    plain = optimizers.adam(0.1)
    found: list[Carry] = []
    for optimizer in (plain, scaled(plain)):
        problem, carry, batch = started(optimizer)
        step = make_step(problem, optimizer, value_and_grad=make(problem), parts=parts)
        for _ in range(3):
            carry, _ = step(carry, batch)
        found.append(carry)
    one, other = found
    assert isinstance(other.opt_state, Scaled)
    torch.testing.assert_close((other.params, other.opt_state.state), (one.params, one.opt_state), rtol=0, atol=0)
    assert (float(other.opt_state.scale), int(other.opt_state.steps)) == (START, 3)


@pytest.mark.parametrize("make", MAKERS)
def test_small_gradients_come_through_in_half_precision(make: Any) -> None:
    """A loss of a ten-millionth: without a scale every product of its backward pass is 0 in float16."""
    problem = problems.get("mnist_logreg")
    losses = problem.measure.losses
    measure = problem.measure._replace(losses=lambda *args: 1e-7 * losses(*args), fused=None)
    problem = replace(problem, measure=measure)
    params, batch = problem.init(0)[0], problem.fake_batch(8)
    exact = make(problem)(params, batch).grads
    with using(autocast=torch.float16):
        lost, kept = (make(problem)(params, batch, scale=scale).grads for scale in (None, torch.tensor(2.0**24)))
    name = "dense.0.weight"
    assert not lost[name].any()
    torch.testing.assert_close(kept[name], exact[name], rtol=0.1, atol=float(exact[name].abs().max()) * 0.02)


def broken(value_and_grad: Any, problem: Problem) -> Any:
    """Its gradient has an infinity."""

    def function(params: Params, batch: Batch, scale: Tensor | None = None) -> Any:
        value = value_and_grad(problem)(params, batch, scale)
        name, leaf = next(iter(value.grads.items()))
        infinite = torch.full_like(leaf, float("inf"))
        return value._replace(grads={**value.grads, name: infinite})

    return function


def test_a_step_that_overflows_is_left_out_with_all_that_it_would_change() -> None:
    """Moments of batch norm too."""
    optimizer = scaled(optimizers.momentum(0.1))
    problem, carry, batch = started(optimizer, PROBLEMS["dropout and batch norm"]())
    step = make_step(problem, optimizer, value_and_grad=broken(make_value_and_grad, problem))
    after, _ = step(carry, batch)
    torch.testing.assert_close(after.params, carry.params, rtol=0, atol=0)
    torch.testing.assert_close(tuple(after.state), tuple(carry.state), rtol=0, atol=0)
    torch.testing.assert_close(after.opt_state.state, carry.opt_state.state, rtol=0, atol=0)
    assert [each.item() for each in after.opt_state[1:]] == [START / 2, 0, False, 1]
    assert optimizer.report(after.opt_state)["loss_scale"] == START / 2
    assert optimizer.calls is not None
    assert int(optimizer.calls(after.opt_state)["gradients"]) == 1
    good, _ = make_step(problem, optimizer)(after, batch)
    assert [each.item() for each in good.opt_state[1:]] == [START / 2, 1, True, 1]
    assert any(not torch.equal(good.state.moments[name], leaf) for name, leaf in carry.state.moments.items())


class Halved:
    """The oracle of `|p|^2 / 2`, of which the gradient of `scale` times the objective is in half precision."""

    def __init__(self, params: Params, scale: torch.Tensor) -> None:
        self._params, self._scale = params, scale

    def grad(self) -> Params:
        return {name: (p * self._scale).half().float() / self._scale for name, p in self._params.items()}

    def at(self, params: Params) -> Halved:
        return Halved(params, self._scale)


def test_a_gradient_at_another_point_may_overflow_too() -> None:
    def sharpness_aware(oracle: Any, state: Any, params: Params) -> tuple[Params, Any]:
        far = tree.add(params, tree.scale(0.05, oracle.grad()))  # beyond half precision's range, which 0.97 is not
        return tree.sub(params, tree.scale(0.1, oracle.at(far).grad())), state

    optimizer = scaled(Optimizer(lambda params, key: (), sharpness_aware, True))
    params = {"w": torch.tensor([0.97])}
    state = optimizer.init(params, random.key(0))
    moved, after = optimizer.update(Halved(params, state.scale), state, params)  # type: ignore[arg-type]
    assert moved["w"].item() == params["w"].item()
    assert (after.skipped, after.scale) == (1, state.scale / 2)
    moved, after = optimizer.update(Halved(params, after.scale), after, params)  # type: ignore[arg-type]
    assert moved["w"].item() == pytest.approx(0.97 - 0.1 * 1.05 * 0.97, rel=1e-3)


def test_a_run_that_diverges_is_seen_to() -> None:
    optimizer = scaled(optimizers.momentum(0.1))
    problem, carry, batch = started(optimizer)
    carry = carry._replace(opt_state=carry.opt_state._replace(scale=torch.tensor(LEAST)))
    after, _ = make_step(problem, optimizer, value_and_grad=broken(make_value_and_grad, problem))(carry, batch)
    assert not all(leaf.isfinite().all() for leaf in after.params.values())
    assert float(after.opt_state.scale) == LEAST


@pytest.mark.parametrize(("before", "expected"), [(START, 2 * START), (MOST, MOST)])
def test_the_scale_grows_after_many_good_steps(before: float, expected: float) -> None:
    optimizer = scaled(optimizers.sgd(0.1))
    problem, carry, batch = started(optimizer)
    state = carry.opt_state._replace(scale=torch.tensor(before), steps=torch.tensor(INTERVAL - 2))
    carry, step = carry._replace(opt_state=state), make_step(problem, optimizer)
    seen = []
    for _ in range(2):
        carry, _ = step(carry, batch)
        seen.append((float(carry.opt_state.scale), int(carry.opt_state.steps)))
    assert seen == [(before, INTERVAL - 1), (expected, 0)]


def test_a_snapshot_goes_on() -> None:
    optimizer = scaled(optimizers.adam(0.1))
    problem, carry, batch = started(optimizer)
    carry, _ = make_step(problem, optimizer)(carry, batch)
    state = carry.opt_state._replace(scale=torch.tensor(4.0))
    found = optimizer.load(optimizer.save(state), carry.params, random.key(0))
    torch.testing.assert_close(tuple(found), tuple(state), rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", ["adam", "sgd_line_search", "lbfgs"])
def test_runs_are_near_those_of_float32(optimizer: str) -> None:
    made = config(optimizer=optimizer, lr=0.01, precision="fp16", train_log_interval=1)
    half = run(made, small_problem(), execution=Execution()).record
    whole = run(replace(made, precision="float32"), small_problem(), execution=Execution()).record
    assert half.test_losses == pytest.approx(whole.test_losses, rel=1e-2)
    assert half.extra["configuration"]["precision"] == "fp16"
    assert half.extra["reports"]["loss_scale"] == [START] * len(half.minibatch_train_losses)
    assert half.extra["run_id"] != whole.extra["run_id"]


def test_what_cannot_be_scaled_is_refused_before_anything_is_loaded() -> None:
    make = partial(RunConfig, "mnist_logreg", lr=0.1, precision="fp16", output_dir=None)
    params, _ = problems.get("mnist_logreg").init()
    for name in optimizers.names():
        if optimizers.FUNCTIONAL[name].gradient_only:
            assert isinstance(make_plan(make(name)).optimizer.init(params, random.key(0)), Scaled)
        else:
            with pytest.raises(ConfigError, match=f"precision fp16: {name} asks for curvature or per-example"):
                make_plan(make(name))
    with pytest.raises(ConfigError, match="SGD changes the parameters itself"):
        make_plan(make("torch.optim.SGD"))
    with pytest.raises(ConfigError, match="what track computes has no loss scale"):
        make_plan(make("sgd", track="grad_norm"))


QUESTIONS: dict[str, Any] = {
    "hvp": lambda oracle, v: oracle.hvp(v),
    "ggnvp": lambda oracle, v: oracle.ggnvp(v),
    "make_hvp": lambda oracle, v: oracle.make_hvp(),
    "make_ggnvp": lambda oracle, v: oracle.make_ggnvp(),
    "per_example_grads": lambda oracle, v: oracle.per_example_grads(),
    "statistics": lambda oracle, v: oracle.statistics(["gram"]),
    "layer_gradients": lambda oracle, v: oracle.layer_gradients("empirical"),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_optimizer_of_ones_own_is_told_what_it_may_not_ask(question: str) -> None:
    problem = small_problem()
    params, batch = problem.init(0)[0], problem.fake_batch(4)
    oracle = GradientOnly(Oracle(problem, make_value_and_grad(problem), params, batch))
    for each in (oracle, oracle.at(params), oracle.part(2)):
        with pytest.raises(ConfigError, match="the optimizer asks for curvature"):
            QUESTIONS[question](each, params)
    assert oracle.part(None) is oracle
    assert oracle.gradient_factors() is None
    assert float(oracle.loss_at(params)) == pytest.approx(float(oracle.value()))


@pytest.mark.parametrize("name", [name for name, spec in optimizers.FUNCTIONAL.items() if spec.gradient_only])
@pytest.mark.large
def test_every_optimizer_of_the_gradient_makes_steps(name: str) -> None:
    """What its spec says: none is refused in the middle."""
    made = config(optimizer=name, lr=0.01, precision="fp16", epochs=1)
    assert run(made, small_problem(), execution=Execution()).record.status == "finished"


@pytest.mark.parametrize("name", [name for name, spec in optimizers.FUNCTIONAL.items() if not spec.gradient_only])
@pytest.mark.large
def test_every_other_optimizer_asks_for_more(name: str) -> None:
    problem = problems.get("mnist_logreg")
    optimizer = scaled(make_plan(RunConfig("mnist_logreg", name, 0.1)).optimizer)
    problem, carry, batch = started(optimizer, problem)
    with pytest.raises(ConfigError, match="the optimizer asks for curvature"):
        make_step(problem, optimizer)(carry, batch)


@pytest.mark.large
def test_a_compiled_step_has_the_scale_of_an_eager_one() -> None:
    made = config(optimizer="adam", lr=0.01, precision="fp16", train_log_interval=1)
    found = [run(made, small_problem(), execution=Execution(compile=compile)).record for compile in (False, True)]
    assert found[1].test_losses == pytest.approx(found[0].test_losses, rel=1e-3)
    assert found[1].extra["reports"] == found[0].extra["reports"]
