"""The oracle of a batch in pieces gives the answers of the whole batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepobs_func import RunConfig, optimizers, problems, random
from deepobs_func.backend.allocations import allocations
from deepobs_func.base import Batch, Params
from deepobs_func.errors import ConfigError
from deepobs_func.optimizers.counting import calls_so_far
from deepobs_func.problems.oracle import Oracle, make_plain_value_and_grad, make_value_and_grad
from deepobs_func.problems.pieces import Parts, PiecewiseOracle, check_pieces, in_parts, slices
from deepobs_func.problems.problem import Problem
from deepobs_func.runner import Execution, make_plan, make_step, run
from deepobs_func.runner.step import Carry
from tests.problems.small_nets import short_text
from tests.runner.small import config, small_problem

NAMES = ("mnist_logreg", "mnist_vae", "tolstoi_char_rnn", "quadratic_deep")
BATCH = 8


def point(problem: Problem) -> tuple[Params, Batch]:
    params, state = problem.init(0, dtype=torch.float64)
    state = state._replace(carry=problem.zero_carry(BATCH, dtype=torch.float64))
    return params, problem.fake_batch(BATCH, 1, dtype=torch.float64)._replace(state=state)


def oracles(problem: Problem, size: int) -> tuple[Oracle, Oracle]:
    """Of the whole batch, and of pieces of so many examples."""
    params, batch = point(problem)
    whole, parts = make_value_and_grad(problem), Parts(size)
    pieces = PiecewiseOracle(problem, in_parts(problem, whole, parts), params, batch, parts)
    return Oracle(problem, whole, params, batch), pieces


QUESTIONS: dict[str, Callable[[Oracle, Params], Any]] = {
    "all": lambda oracle, v: tuple(oracle.all()),
    "loss_at": lambda oracle, v: oracle.loss_at(v),
    "at": lambda oracle, v: oracle.at(v).grad(),
    "hvp": lambda oracle, v: oracle.hvp(v),
    "make_hvp": lambda oracle, v: oracle.make_hvp()({name: torch.stack([leaf, 2 * leaf]) for name, leaf in v.items()}),
    "ggnvp": lambda oracle, v: oracle.ggnvp(v),
    "make_ggnvp": lambda oracle, v: oracle.make_ggnvp()(v),
    "per_example_grads": lambda oracle, v: oracle.per_example_grads(),
    "statistics": lambda oracle, v: tuple(oracle.statistics(["grad", "sum_of_squares", "scatter", "sq_norms", "gram"])),
    "one statistic": lambda oracle, v: tuple(oracle.statistics("scatter")),
}


@pytest.mark.parametrize("size", [2, 3, BATCH])
@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("name", ["mnist_logreg", "quadratic_deep"])
def test_answers_are_those_of_the_whole_batch(name: str, question: str, size: int) -> None:
    problem = problems.get(name)
    whole, pieces = oracles(problem, size)
    v = point(problem)[0]
    found, expected = QUESTIONS[question](pieces, v), QUESTIONS[question](whole, v)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", [pytest.param("mnist_vae", marks=pytest.mark.large), "tolstoi_char_rnn"])
def test_gradients_of_pieces_have_their_own_noise_and_recurrent_state(name: str) -> None:
    whole, pieces = oracles(short_text() if name == "tolstoi_char_rnn" else problems.get(name), BATCH // 4)
    torch.testing.assert_close(tuple(pieces.all()), tuple(whole.all()), rtol=1e-10, atol=1e-12)


def test_a_part_of_the_batch_is_in_pieces_too() -> None:
    problem = problems.get("mnist_logreg")
    v = point(problem)[0]
    for size in (2, 5, BATCH):
        whole, pieces = (oracle.part(size) for oracle in oracles(problem, 2))
        assert isinstance(pieces, PiecewiseOracle) == (size > 2)
        torch.testing.assert_close(pieces.hvp(v), whole.hvp(v), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(pieces.grad(), whole.grad(), rtol=1e-10, atol=1e-12)
    _, pieces = oracles(problem, 2)
    assert pieces.part(None) is pieces
    with pytest.raises(ConfigError, match="curvature_batch=9 is more than the batch has, 8 examples"):
        pieces.part(9)


def test_gradients_by_layers_are_of_one_piece() -> None:
    """The oracle refuses what a plan could not see."""
    _, pieces = oracles(problems.get("mnist_logreg"), 2)
    assert pieces.gradient_factors() is None
    with pytest.raises(ConfigError, match=r"Gradients by layers .* this batch is in pieces"):
        pieces.layer_gradients("empirical")
    assert pieces.part(2).layer_gradients("empirical").examples == 2


def test_factors_of_a_batch_in_pieces_are_refused_and_those_of_one_piece_are_not() -> None:
    words = "optimizer kfac: its factors are computed from all examples at once, 128, and micro_batch 8 allows fewer"
    made = RunConfig("mnist_mlp", "kfac", 0.1, micro_batch=8, output_dir=None)
    with pytest.raises(ConfigError, match=words):
        make_plan(made)
    with pytest.raises(ConfigError, match="from all examples at once, 16, and micro_batch 8"):
        make_plan(replace(made, hyperparams={"curvature_batch": 16}))
    assert make_plan(replace(made, hyperparams={"curvature_batch": 8})).micro_batch == 8
    assert make_plan(replace(made, micro_batch=128)).micro_batch == 0
    assert make_plan(replace(made, optimizer="adahessian", hyperparams={"curvature_batch": 16})).micro_batch == 8


@pytest.mark.parametrize("hyperparams", [{}, {"fisher": "exact", "curvature_batch": 16}])
def test_a_plan_counts_by_problem_and_batch(hyperparams: dict[str, Any]) -> None:
    plan = make_plan(RunConfig("mnist_mlp", "kfac", 0.1, hyperparams=hyperparams, output_dir=None))
    state = plan.optimizer.init(plan.problem.init()[0], random.key(0))._replace(step=torch.tensor(31))
    renewals, backward, share = (4, 10, 1 / 8) if hyperparams else (4, 1, 1)
    expected = 31 + math.ceil(renewals * (1 + 2 * backward) / 3 * share)
    assert calls_so_far(plan.optimizer, state)["gradients"] == expected


@given(st.integers(1, 50), st.integers(0, 60))
def test_slices_cover_a_batch_once(examples: int, size: int) -> None:
    rows = [row for piece in slices(examples, size) for row in range(examples)[piece]]
    assert rows == list(range(examples))
    assert all(0 < piece.stop - piece.start <= (size or examples) for piece in slices(examples, size))


@pytest.mark.parametrize("name", ["svhn_wrn164", "cifar10_resnet18"])
def test_coupled_examples_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ConfigError, match=r"--micro-batch 4: .* batch norm takes mean and variance of the whole batch"):
        check_pieces(problems.get(name), "--micro-batch 4")
    with pytest.raises(ConfigError, match="micro_batch 4: "):
        make_plan(RunConfig(name, "sgd", 0.1, micro_batch=4, output_dir=None))
    assert make_plan(RunConfig(name, "sgd", 0.1, micro_batch=128, output_dir=None)).micro_batch == 0  # the whole


def test_a_coupled_criterion_is_refused() -> None:
    coupled = replace(problems.get("mnist_logreg"), separable=False)
    with pytest.raises(ConfigError, match="the loss of an example depends on the other examples"):
        check_pieces(coupled, "micro_batch=2")


def test_a_run_of_kfac_in_pieces_with_factors_of_one_is_that_of_whole_batches() -> None:
    hyper = {"curvature_batch": 8, "update_every": 2, "fisher": "empirical"}
    made = config(optimizer="kfac", lr=0.01, hyperparams=hyper, compile="off")
    whole, pieces = (run(replace(made, micro_batch=size), small_problem()) for size in (None, 8))
    assert pieces.test_losses == pytest.approx(whole.test_losses, rel=1e-4)


@pytest.mark.parametrize("optimizer", ["adam", "adahessian", "sophia_h", "torch.optim.Adam", "sgd_cabs"])
def test_runs_in_pieces_are_those_of_whole_batches(optimizer: str) -> None:
    whole, pieces = (
        run(
            config(optimizer=optimizer, lr=0.01, micro_batch=size),
            small_problem(),
            execution=Execution(micro_batch=size or 0),
        )
        for size in (None, 8)
    )
    assert pieces.record.extra["execution"]["micro_batch"] == 8
    assert pieces.record.extra["run_id"] == whole.record.extra["run_id"]
    assert pieces.test_losses == pytest.approx(whole.test_losses, rel=1e-4)


def test_a_run_resolves_its_pieces() -> None:
    record = run(config(micro_batch=8, compile="off", epochs=1), small_problem()).record
    assert record.extra["execution"]["micro_batch"] == 8


@pytest.mark.parametrize("size", [0, -1])
def test_no_piece_is_empty(size: int) -> None:
    with pytest.raises(ConfigError, match=f"micro_batch {size}: it must be a whole number from 1"):
        make_plan(config(micro_batch=size), small_problem())


def peak(problem: Problem, batch_size: int, size: int) -> int:
    """Of a step, beyond what is held before."""
    optimizer, parts = optimizers.momentum(0.1), Parts(size)
    step = make_step(problem, optimizer, plain=True, parts=parts)
    params, state = problem.init(0)
    carry, batch = Carry(params, optimizer.init(params, random.key(0)), state), problem.fake_batch(batch_size)
    step(carry, batch)
    return allocations(lambda: step(carry, batch), torch.device("cpu")).peak


@pytest.mark.large
def test_a_quarter_needs_the_memory_of_a_quarter() -> None:
    """Besides what is as large as the parameters: the gradient so far, that of a piece, and the ones after the step."""
    problem = problems.get("cifar100_allcnnc")
    whole, pieces = peak(problem, 64, 0), peak(problem, 64, 16)
    assert pieces <= whole / 4 + 3 * sum(4 * shape.numel() for shape in problem.shapes.values())


@pytest.mark.large
def test_a_quarter_of_the_published_batch_needs_the_memory_of_a_quarter() -> None:
    problem = problems.get("cifar100_allcnnc")
    whole, pieces = peak(problem, 256, 0), peak(problem, 256, 64)
    print(f"{pieces / whole:.3f}")
    assert pieces <= 0.35 * whole


def test_the_plain_gradient_in_pieces() -> None:
    """Through fused kernels, as runs in eager code have it."""
    problem = problems.get("cifar10_3c3d")
    params, batch = point(problem)
    plain = make_plain_value_and_grad(problem)
    found = in_parts(problem, plain, Parts(2))(params, batch)
    torch.testing.assert_close(found.grads, plain(params, batch).grads, rtol=1e-10, atol=1e-12)
