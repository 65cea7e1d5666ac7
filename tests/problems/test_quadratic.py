"""The closed forms of the problems without data, against figures of the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from deepobs_func import datasets, problems
from deepobs_func.base import Batch
from deepobs_func.datasets.loading import load
from deepobs_func.nets.quadratic import hessian
from deepobs_func.problems import measures


def test_hessian_is_the_reference_s() -> None:
    """Checksums of the Hessian of a first instance, as the reference computes it."""
    matrix = hessian()
    assert np.trace(matrix) == pytest.approx(477.612279595014, rel=1e-10)
    assert np.linalg.norm(matrix) == pytest.approx(139.94660201800587, rel=1e-10)
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert eigenvalues[0] == pytest.approx(0.005522117123602865, rel=1e-8)
    assert eigenvalues[-1] == pytest.approx(53.12901539863683, rel=1e-10)
    assert np.diag(matrix)[-3:] == pytest.approx([2.2727982071084516, 2.5442692511817793, 6.30566377335507], rel=1e-9)


def test_hessian_is_the_same_at_every_call() -> None:
    assert np.array_equal(hessian(), hessian())


def test_mean_test_loss_before_training() -> None:
    problem = problems.get("quadratic_deep")
    params, state = problem.init(0)
    test = load(datasets.spec("quadratic"), "unused").test
    losses = problem.evaluate(params, Batch(test.x[:896], test.y[:896], {}, state)).losses
    assert float(losses.mean()) == pytest.approx(353.4467, abs=1e-3)


def test_quadratic_gradient_is_the_hessian_times_the_offset() -> None:
    problem = problems.get("quadratic_deep")
    params, _ = problem.init(0, dtype=torch.float64)
    batch = problem.fake_batch(5, dtype=torch.float64)
    gradient = torch.func.grad(lambda p: problem.loss(p, batch).mean())(params)["theta"]
    expected = hessian() @ (np.ones(100) - batch.x.mean(0).numpy())
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("function", "minimum", "value"),
    [
        (measures.rosenbrock_function, (1.0, 1.0), 0.0),
        (measures.beale_function, (3.0, 0.5), 0.0),
        (measures.branin_function, (math.pi, 2.275), 0.39788735772973816),
        (measures.branin_function, (-math.pi, 12.275), 0.39788735772973816),
    ],
)
def test_two_d_functions_have_their_known_minima(function, minimum, value) -> None:
    point = torch.tensor(minimum, dtype=torch.float64, requires_grad=True)
    result = function(*point)
    (slope,) = torch.autograd.grad(result, point)
    assert float(result.detach()) == pytest.approx(value, abs=1e-10)
    assert slope.abs().max() < 1e-6


@pytest.mark.parametrize(
    ("name", "start", "value"),
    [
        ("two_d_rosenbrock", (-0.5, 1.5), 1.5**2 + 100 * 1.25**2),
        ("two_d_beale", (-4.5, 4.5), None),
        ("two_d_branin", (2.5, 12.5), None),
    ],
)
def test_two_d_problems_start_where_the_reference_does(name, start, value) -> None:
    problem = problems.get(name)
    params, state = problem.init(0)
    assert (float(params["u"]), float(params["v"])) == start
    quiet = Batch(torch.zeros(4), torch.zeros(4), {}, state)
    losses = problem.loss(params, quiet)
    noisy = problem.loss(params, quiet._replace(x=torch.ones(4), y=torch.full((4,), 2.0)))
    torch.testing.assert_close(noisy - losses, torch.full((4,), start[0] + 2 * start[1]))
    if value is not None:
        torch.testing.assert_close(losses, torch.full((4,), value))
