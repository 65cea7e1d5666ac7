"""Measures at shapes and targets that a user's data have."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from deepobs_func import probes, random
from deepobs_func.base import Batch
from deepobs_func.errors import ConfigError
from deepobs_func.problems import measures
from tests.problems.user_functions import LABELS, X, data, problem_of

F64 = torch.float64


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3), (4, 2, 3)])
def test_square_sums_over_all_but_the_examples(shape: tuple[int, ...]) -> None:
    outputs, y = torch.randn(2, *shape, dtype=F64)
    losses = measures.square.losses(outputs, Batch.of(outputs, y))
    expected = torch.stack([((o - t) ** 2).sum() for o, t in zip(outputs, y, strict=True)])
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize(("outputs", "y"), [((4, 1), (4,)), ((4,), (4, 1)), ((4, 3), (4, 1)), ((4, 3), (3,))])
def test_square_broadcasts_nothing(outputs: tuple[int, ...], y: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"measures.square compares tensors of one shape.*nn.Flatten\(0\)"):
        measures.square.losses(torch.zeros(outputs), Batch.of(torch.zeros(4, 2), torch.zeros(y)))


def test_labels_as_probabilities_are_evaluated_by_the_most_probable() -> None:
    onehot = F.one_hot(LABELS, 3).double().numpy()
    torch.manual_seed(0)
    net = torch.nn.Linear(6, 3)
    ids, soft = (problem_of(net, measures.cross_entropy, data(y=y)) for y in (LABELS, onehot))
    params = ids.init(dtype=F64)[0]
    x = X.double()
    by_ids = ids.evaluate(params, Batch.of(x, LABELS))
    by_rows = soft.evaluate(params, Batch.of(x, torch.from_numpy(onehot)))
    torch.testing.assert_close(by_rows.losses, by_ids.losses)
    assert torch.equal(by_rows.correct, by_ids.correct)
    assert by_ids.correct.any()


def test_samples_for_probabilities_have_the_covariance_of_the_hessian() -> None:
    """Also where the targets do not sum to one."""
    logits, y = torch.randn(1, 3, dtype=F64), torch.tensor([[0.5, 1.0, 0.25]], dtype=F64)
    hessian = torch.func.hessian(lambda z: F.cross_entropy(z[None], y[0][None]))(logits[0])
    many = Batch.of(torch.zeros(40_000, 1), y.expand(40_000, 3))
    drawn = measures.cross_entropy.sample(logits.expand(40_000, 3), many, random.key(0))
    torch.testing.assert_close(drawn.T @ drawn / len(drawn), hessian, atol=0.01, rtol=0)


def test_the_ggn_of_probabilities_is_that_of_the_loss() -> None:
    y = torch.rand(20, 3)
    problem = problem_of(torch.nn.Linear(6, 3), measures.cross_entropy, data(y=y))
    params, batch = problem.init(dtype=F64)[0], Batch.of(X.double(), y.double())
    v = {name: torch.randn_like(leaf) for name, leaf in params.items()}
    product, expected = probes.ggnvp(problem, params, batch, v), probes.hvp(problem, params, batch, v)
    for name in params:  # of a linear model they are the same
        torch.testing.assert_close(product[name], expected[name])
