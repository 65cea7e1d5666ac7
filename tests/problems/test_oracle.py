"""The oracle: one computation, asked in several ways."""

from __future__ import annotations

import torch

from deepobs_func import problems, tree
from deepobs_func.problems.oracle import Oracle, make_value_and_grad


def test_value_and_gradient_share_one_computation() -> None:
    problem = problems.get("quadratic_deep")
    params, _ = problem.init()
    batch = problem.fake_batch(4)
    calls = []
    value_and_grad = make_value_and_grad(problem)

    def counted(*args):
        calls.append(args)
        return value_and_grad(*args)

    oracle = Oracle(problem, counted, params, batch)
    torch.testing.assert_close(oracle.value(), problem.objective(params, batch))
    expected = torch.func.grad(lambda p: problem.objective(p, batch))(params)
    torch.testing.assert_close(oracle.grad(), expected)
    assert len(calls) == 1


def test_other_points_see_the_same_batch() -> None:
    problem = problems.get("two_d_beale")
    params, _ = problem.init()
    batch = problem.fake_batch(4)
    oracle = Oracle(problem, make_value_and_grad(problem), params, batch)
    elsewhere = tree.scale(0.5, params)
    torch.testing.assert_close(oracle.loss_at(elsewhere), problem.objective(elsewhere, batch))
    torch.testing.assert_close(oracle.at(elsewhere).value(), oracle.loss_at(elsewhere))
